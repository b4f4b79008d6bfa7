"""A worker process as its parent sees it: lines in, lines out, what it said on stderr, its death.

Knows nothing of jobs; `pool` does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from gemmtune.unlock import VARIABLE, library_environment

_TAIL_BYTES = 16 * 1024
_MESSAGE_LIMIT = 500
# What drivers and interpreters print that explains nothing.
_NOISE = re.compile(
    r"XDG_RUNTIME_DIR|RUST_BACKTRACE|^stack backtrace|^\s*\d+: |^\s+at |^Traceback|^\s+File |\^\^"
)

Event = tuple["WorkerProcess", dict[str, Any] | None]
"""A message of a worker; None: its output has ended."""


class Sink(Protocol):
    """Where events go; a queue is one."""

    def put(self, event: Event, /) -> None:
        """Take an event; called from the thread of its worker."""


class WorkerProcess:
    """One child process.

    Args:
        command: what to run.
        events: its messages go here, from a thread; the last is None.
        library: the wgpu-native it loads; None: what the environment names, else the unlocked copy,
            else what wgpu ships.
    """

    def __init__(
        self,
        command: Sequence[str],
        events: Sink,
        library: Path | None = None,
    ) -> None:
        # A file, not a pipe: nobody has to drain it while a driver fills it.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._read_from = 0
        chosen = {} if library is None else {VARIABLE: str(library)}
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                start_new_session=True,
                env=library_environment(os.environ | chosen),
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError:
            self._stderr.close()
            raise
        self._reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._reader.start()

    def _read(self, events: Sink) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                message = json.loads(line)
                if isinstance(message, dict):
                    events.put((self, message))
        events.put((self, None))

    def send(self, op: str, **content: Any) -> None:
        """Sends a message. To a dead worker it is lost; its death is an event of its own."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(json.dumps({"op": op} | content) + "\n")
            self._process.stdin.flush()

    def forget_stderr(self) -> None:
        """What was said so far explains nothing that happens from now on."""
        self._read_from = os.fstat(self._stderr.fileno()).st_size

    def last_words(self) -> str:
        """What it said on stderr before it ended, on one line, and how it ended."""
        end = os.fstat(self._stderr.fileno()).st_size
        start = max(self._read_from, end - _TAIL_BYTES)
        # The child shares the file's position, but it has nothing left to say.
        self._stderr.seek(start)
        lines = self._stderr.read(end - start).decode("utf-8", "replace").splitlines()
        useful = [line.strip() for line in lines if line.strip() and not _NOISE.search(line)]
        text = " | ".join(useful)
        ended = self._ending()
        return f"{text[-_MESSAGE_LIMIT:]} ({ended})" if text else ended

    def _ending(self) -> str:
        code = self._process.poll()
        if code is None:
            return "its output ended"
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def hang_up(self) -> None:
        """Closes its input, which asks it to end."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def end(self, patience_s: float = 0.0) -> None:
        """Waits that long for it to end, then kills it; frees what it held. May be repeated."""
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self.hang_up()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def close(self) -> None:
        """`end`, and forget its last words."""
        self.end()
        self._stderr.close()
