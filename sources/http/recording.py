"""Answers that are recorded as they pass, or played instead of asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import httpx

from sources.core.redaction import redact
from sources.http.cassette import HEADERS as KEPT_HEADERS
from sources.http.cassette import Masked, Player, Recorder, may_be_kept, table_of_now
from sources.http.request import Call


def played(call: Call, player: Player) -> httpx.Response:
    assert call.asked is not None  # noqa: S101 - made where there is a player
    kept = player.answer(call.asked)
    return httpx.Response(kept.status, headers=dict(kept.headers), content=kept.content())


def recorded(
    call: Call, response: httpx.Response, chunks: Iterable[bytes], recorder: Recorder, *, streams: bool
) -> Iterator[bytes]:
    """The same pieces, written to a tape as they pass. What does not come to its end is no recording."""
    if call.asked is None:
        yield from chunks
        return
    headers = {name: redact(response.headers[name]) for name in KEPT_HEADERS if name in response.headers}
    tape = recorder.begin(call.asked, table=table_of_now(), status=response.status_code, headers=headers)
    if tape is None:
        yield from chunks
        return
    masked, held, whole = tape if call.masks else Masked(tape), [], False
    try:
        for chunk in chunks:
            if streams:
                masked.write(chunk)
            else:
                held.append(chunk)
            yield chunk
        whole = True
    finally:
        if not whole:
            tape.drop()
    if held:
        tape.write(may_be_kept(b"".join(held), private=(*call.private, *recorder.private)))
    masked.end()
