"""What a vendor was asked, so that a test can say which requests were made and that none of them was out of place."""

from __future__ import annotations

from collections import Counter


class Journal:
    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._by_path: Counter[str] = Counter()
        self._unexpected: list[dict[str, str]] = []
        self._running = 0
        self._max_concurrent = 0

    def enter(self, method: str, path: str) -> None:
        self._by_path[f"{method} {path}"] += 1
        self._running += 1
        self._max_concurrent = max(self._max_concurrent, self._running)

    def leave(self) -> None:
        # A reset between enter and leave starts from zero again.
        self._running = max(0, self._running - 1)

    def unexpected(self, method: str, target: str, why: str) -> None:
        self._unexpected.append({"method": method, "path": target, "why": why})

    def stats(self) -> dict[str, object]:
        return {
            "requests": self._by_path.total(),
            "by_path": dict(self._by_path),
            "unexpected": list(self._unexpected),
            "max_concurrent": self._max_concurrent,
        }
