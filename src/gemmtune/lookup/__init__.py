"""From a problem and a device to the config to use, out of databases; standard library only.

Measures nothing, writes nothing, and renders WGSL only when an answer is asked for it.
"""

from __future__ import annotations

from gemmtune.lookup.answer import Lookup, Source
from gemmtune.lookup.find import lookup
from gemmtune.lookup.paths import default_paths, search_path, user_database

__all__ = ["Lookup", "Source", "default_paths", "lookup", "search_path", "user_database"]
