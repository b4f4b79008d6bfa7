"""Which databases a lookup reads, and where a user's own one is. Opens none of them.

Lookups take paths as text, for pathlib would be a tenth of all that they import.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache

from gemmtune._data import data_file
from gemmtune.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def user_database(environ: Mapping[str, str] | None = None, platform: str = sys.platform) -> Path:
    """Where a user's own results are kept unless told otherwise; it need not exist."""
    from pathlib import Path

    return Path(_users_own(os.environ if environ is None else environ, platform))


def _users_own(environ: Mapping[str, str], platform: str) -> str:
    home = environ.get("HOME") or environ.get("USERPROFILE") or os.path.expanduser("~")
    if platform == "darwin":
        folder = os.path.join(home, "Library", "Application Support")
    elif platform == "win32":
        folder = environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    else:
        # Relative paths are to be ignored: https://specifications.freedesktop.org/basedir-spec
        given = environ.get("XDG_DATA_HOME", "")
        folder = given if given.startswith("/") else os.path.join(home, ".local", "share")
    return os.path.join(folder, "gemmtune", "tuning.db")


def default_paths(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Databases to read in order: GEMMTUNE_DB or else the user's own, then the shipped one.

    The first is also where a tuner writes.

    Raises:
        StoreError: GEMMTUNE_DB is a URL.
    """
    from pathlib import Path

    return tuple(map(Path, _defaults(environ)))


def _defaults(environ: Mapping[str, str]) -> tuple[str, ...]:
    named = environ.get("GEMMTUNE_DB")
    own = _file(named) if named else _users_own(environ, sys.platform)
    return (own, data_file("tuning.db"))


def search_path(
    explicit: str | Path | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Path, ...]:
    """The databases a lookup reads: ``explicit`` and nothing else, or `default_paths`.

    Raises:
        StoreError: a URL; only files can be looked up in.
    """
    from pathlib import Path

    return tuple(map(Path, search_files(explicit, environ)))


def search_files(
    explicit: str | Path | None = None, environ: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """`search_path` as text."""
    if explicit is not None:
        return (_file(explicit),)
    environ = os.environ if environ is None else environ
    return _remembered(tuple(environ.get(name, "") for name in _VARIABLES))


_VARIABLES = ("GEMMTUNE_DB", "HOME", "LOCALAPPDATA", "USERPROFILE", "XDG_DATA_HOME")


@lru_cache(maxsize=16)
def _remembered(values: tuple[str, ...]) -> tuple[str, ...]:
    return _defaults(dict(zip(_VARIABLES, values, strict=True)))


def _file(path: str | Path) -> str:
    if "://" in str(path):
        scheme = str(path).partition("://")[0]
        raise StoreError(
            f"lookup reads files, not {scheme}:// URLs; `gemmtune db merge` copies it into a file"
        )
    return os.path.expanduser(path) or os.curdir
