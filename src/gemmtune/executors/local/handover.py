"""What one worker has computed and the others on its device need too, as a file in a folder.

A file has its name only once it is complete: a worker may be killed at any time. Knows nothing of
what is in it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path


class Handover:
    """A place for one thing at a time: workers go from problem to problem together.

    Args:
        folder: of one device and run; None: nothing is handed over.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def _path(self, folder: Path, key: str) -> Path:
        return folder / sha256(key.encode()).hexdigest()

    def has(self, key: str) -> bool:
        """Whether something was saved under ``key``."""
        return self._folder is not None and self._path(self._folder, key).exists()

    def load(self, key: str, size_bytes: int) -> bytes | None:
        """What was saved under ``key``; None: nothing, or nothing of that size."""
        if self._folder is None:
            return None
        try:
            data = self._path(self._folder, key).read_bytes()
        except OSError:
            return None
        return data if len(data) == size_bytes else None

    def save(self, key: str, data: bytes) -> None:
        """Keep ``data`` in place of what was there; where there is no room, nothing is kept."""
        if self._folder is None:
            return
        path = self._path(self._folder, key)
        begun = path.with_suffix(f".{os.getpid()}")
        with suppress(OSError):
            for old in self._folder.iterdir():
                old.unlink()
        try:
            begun.write_bytes(data)
            begun.replace(path)
        except OSError:
            with suppress(OSError):
                begun.unlink()
