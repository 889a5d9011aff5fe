"""What this process writes is for its own user: no file for others, no core file.

The published DuckDB file is the one exception, since it is there to be read: a new one has the mode that the user's own
umask gives, and later ones have that of the one before.
"""

from __future__ import annotations

import logging
import os
import resource
from contextlib import suppress
from pathlib import Path

from sources.core.errors import ConfigurationError

log = logging.getLogger(__name__)

SHARED = ("dbt", "docs", "export-queries")
"""Commands whose files are their user's to hand on; they hold no rows, and what they hold is redacted."""

_users_umask: int | None = None


def keep() -> None:
    """From now on files are 0600 and folders 0700, whatever the umask was; a crash leaves no memory on the disk."""
    global _users_umask
    before = os.umask(0o077)
    _users_umask = before if _users_umask is None else _users_umask
    with suppress(OSError, ValueError):  # a container may not let us
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def state_folder(folder: Path) -> None:
    """Make the folder beside a warehouse, which is private, and those above it, which are not.

    One that is there is made private; one that belongs to somebody else, who could read and replace what we write, is
    refused. Raises OSError, `ConfigurationError`.
    """
    above = folder.parent
    missing = [each for each in (above, *above.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        each.chmod(0o777 & ~_umask())
    folder.mkdir(exist_ok=True, mode=0o700)
    found, us = folder.stat(), os.geteuid()
    if us not in (0, found.st_uid) and found.st_uid != 0:
        raise ConfigurationError(
            what=f"the folder {folder} belongs to another user ({owner_of(folder)})",
            why="the ledger and rows lie there, and its owner could read and replace them",
            todo="Run as that user, or give the folder to this one (chown -R)",
        )
    if found.st_uid == us and found.st_mode & 0o077:
        with suppress(OSError):  # not every file system knows modes
            folder.chmod(found.st_mode & 0o700)  # what its owner may do is the owner's to say
        if found.st_mode & 0o022:
            is_still = folder.stat().st_mode & 0o022
            log.warning("others %s write to the folder %s", "can" if is_still else "could, and can no more,", folder)


def owner_of(path: Path) -> str:
    """The name of the user to whom it belongs, or the number. Raises OSError."""
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)


def published_mode() -> int:
    """The mode of a warehouse that is published for the first time."""
    return 0o666 & ~_umask()


def _umask() -> int:
    umask = _users_umask
    if umask is None:  # used as a library
        umask = os.umask(0o077)
        os.umask(umask)
    return umask
