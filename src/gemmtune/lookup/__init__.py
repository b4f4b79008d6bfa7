"""From a problem and a device to the config to use, out of databases; standard library only.

Measures nothing, writes nothing, and renders WGSL only when an answer is asked for it.
"""

from __future__ import annotations

from gemmtune.lookup.answer import Lookup
from gemmtune.lookup.find import answer, lookup, record, recorded, recorders, refresh
from gemmtune.lookup.paths import default_paths, search_path, user_database
from gemmtune.lookup.predict import (
    CHECKS_COST,
    Dispatch,
    Pace,
    Parts,
    Speed,
    depth,
    distance,
    doubt,
    weights,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gemmtune.literals import Source
    from gemmtune.lookup.recording import Record, Wanted, read_record

__all__ = [
    "CHECKS_COST",
    "Dispatch",
    "Lookup",
    "Pace",
    "Parts",
    "Record",
    "Source",
    "Speed",
    "Wanted",
    "answer",
    "default_paths",
    "depth",
    "distance",
    "doubt",
    "lookup",
    "read_record",
    "record",
    "recorded",
    "recorders",
    "refresh",
    "search_path",
    "user_database",
    "weights",
]

_LATE = {
    "Record": "gemmtune.lookup.recording",
    "Source": "gemmtune.literals",
    "Wanted": "gemmtune.lookup.recording",
    "read_record": "gemmtune.lookup.recording",
}


def __getattr__(name: str) -> object:
    """Those of `_LATE`, which lookups do without."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATE[name]), name)
