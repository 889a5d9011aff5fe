"""Files that others read while we write them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def replace(path: Path, content: str, *, mode: int) -> None:
    """Put a whole file in place of what was there: nobody ever reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(content)
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
