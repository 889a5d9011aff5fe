"""Exit codes of every command, and the code of an error."""

from __future__ import annotations

from sources.core.errors import Locked, NightloadError, Recovery

OK, FAILED, USAGE, LOCKED, MISMATCH = range(5)


def code_of(error: NightloadError) -> int:
    """The exit code of a command that ends with this error."""
    if isinstance(error, Locked):
        return LOCKED
    return USAGE if error.recovery == Recovery.CONFIGURE else FAILED
