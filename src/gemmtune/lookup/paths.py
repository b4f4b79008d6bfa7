"""Which databases a lookup reads, and where a user's own one is. Opens none of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from gemmtune._data import data_path
from gemmtune.errors import StoreError


def user_database(environ: Mapping[str, str] | None = None, platform: str = sys.platform) -> Path:
    """Where a user's own results are kept unless told otherwise; it need not exist."""
    environ = os.environ if environ is None else environ
    home = Path(environ.get("HOME") or environ.get("USERPROFILE") or os.path.expanduser("~"))
    if platform == "darwin":
        folder = home / "Library" / "Application Support"
    elif platform == "win32":
        folder = Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        # Relative paths are to be ignored: https://specifications.freedesktop.org/basedir-spec
        given = environ.get("XDG_DATA_HOME", "")
        folder = Path(given) if given.startswith("/") else home / ".local" / "share"
    return folder / "gemmtune" / "tuning.db"


def default_paths(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Databases to read in order: GEMMTUNE_DB or else the user's own, then the shipped one.

    The first is also where a tuner writes.

    Raises:
        StoreError: GEMMTUNE_DB is a URL.
    """
    named = environ.get("GEMMTUNE_DB")
    own = _file(named) if named else user_database(environ)
    return (own, data_path("tuning.db"))


def search_path(
    explicit: str | Path | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Path, ...]:
    """The databases a lookup reads: ``explicit`` and nothing else, or `default_paths`.

    Raises:
        StoreError: a URL; only files can be looked up in.
    """
    if explicit is not None:
        return (_file(explicit),)
    environ = os.environ if environ is None else environ
    return _default_paths(tuple(environ.get(name, "") for name in _VARIABLES))


_VARIABLES = ("GEMMTUNE_DB", "HOME", "LOCALAPPDATA", "USERPROFILE", "XDG_DATA_HOME")


@lru_cache(maxsize=16)
def _default_paths(values: tuple[str, ...]) -> tuple[Path, ...]:
    return default_paths(dict(zip(_VARIABLES, values, strict=True)))


def _file(path: str | Path) -> Path:
    if "://" in str(path):
        scheme = str(path).partition("://")[0]
        raise StoreError(
            f"lookup reads files, not {scheme}:// URLs; `gemmtune db merge` copies it into a file"
        )
    return Path(path).expanduser()
