"""Who is measuring a config, and whether that process still runs. Knows nothing of databases."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """One process of one tuning run on one host."""

    host: str
    """Host name."""
    pid: int
    """Process number."""
    start: str
    """``boot/pid namespace/start tick`` where /proc says so, else empty: a number comes back."""
    run: str
    """Name of the tuning run."""

    @classmethod
    def current(cls, run: str) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(host=socket.gethostname(), pid=pid, start=_start(pid) or "", run=run)

    def alive(self) -> bool | None:
        """Whether the process still runs; None where that cannot be seen from here."""
        if self.host != socket.gethostname():
            return None
        here = _start(os.getpid())
        if here is None or not self.start:
            return _exists(self.pid)
        (boot, namespace), (boot_here, namespace_here) = (
            text.split("/")[:2] if text.count("/") == 2 else ("", "") for text in (self.start, here)
        )
        if boot != boot_here:
            return False
        if namespace != namespace_here:
            return None
        return _start(self.pid) == self.start


def _start(pid: int) -> str | None:
    """`Owner.start` of a process; None where there is no such process, or no /proc."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        namespace = os.readlink(_PROC / "self/ns/pid").strip("pid:[]")
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the name in brackets and may hold anything; see proc_pid_stat(5).
    state, *rest = stat.rpartition(")")[2].split()
    # A zombie has died; only its parent has not asked yet.
    return None if state in "ZX" else f"{boot}/{namespace}/{rest[18]}"


def _exists(pid: int) -> bool | None:
    if os.name != "posix":
        return None  # elsewhere os.kill ends the process whatever the signal
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
