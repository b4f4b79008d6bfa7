"""From a problem and a device to the config to use, out of databases; standard library only.

Measures nothing, writes nothing, and renders WGSL only when an answer is asked for it.
"""

from __future__ import annotations

from gemmtune.lookup.answer import Lookup, Source
from gemmtune.lookup.find import answer, lookup, record, recorded, recorders, refresh
from gemmtune.lookup.paths import default_paths, search_path, user_database
from gemmtune.lookup.predict import (
    CHECKS_COST,
    Dispatch,
    Pace,
    Parts,
    Speed,
    distance,
    doubt,
    weights,
)
from gemmtune.lookup.record import Record, Wanted, read_record

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
