"""The command ``gemmtune``: a thin shell over the library. One module per command, none of logic.

Every module of a command has ``add(commands)``, which declares its options, and a function that
runs it and returns the exit code. Heavy packages are imported when a command runs, not before.
"""

from __future__ import annotations

from gemmtune.cli.app import main

__all__ = ["main"]
