"""Who has the device: one worker at a time, handed on by the thread that hears of it.

So the device never waits for a parent that is choosing or writing down what comes next. Workers
that only open it, or fill buffers, do so together, but never while one measures: a process that
joins a device slows the kernels of all others down. Passes on every event as it is; what becomes
of jobs and workers is the pool's.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gemmtune.errors import GemmtuneError
from gemmtune.executors.process import Event, WorkerProcess
from gemmtune.executors.steady import Usual

_LONGEST_IDLE_S = 1e6


class Turnstile:
    """The queue that workers put their events into, and the order in which they get the device.

    A worker asks for the device by ``ready`` and gives it back by ``outcome``, or by its end: one
    that dies cannot keep it. One that starts, or makes buffers, asks by ``opening``, and has done
    with ``hello``, ``opened`` or ``error``. To the events that workers send it adds {"op":
    "granted", "at_s": ...} on the clock of `time.monotonic`, and {"op": "unannounced", "error":
    ...}.

    Args:
        announce: called before a worker is granted the device for a job, which waits for it; an
            error of its becomes an event, and the device stays free.
    """

    def __init__(self, announce: Callable[[WorkerProcess], None]) -> None:
        self._announce = announce
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._held = False
        self._ready: deque[WorkerProcess] = deque()
        self._starting: deque[WorkerProcess] = deque()
        self._openers: set[WorkerProcess] = set()
        self._usual = Usual()
        self._dropped: set[tuple[WorkerProcess, int]] = set()
        self._holder: WorkerProcess | None = None
        self._released_s = float("-inf")

    def put(self, event: Event) -> None:
        """Take in an event; called in the worker's own thread."""
        process, message = event
        op = None if message is None else message.get("op")
        if message is not None and op == "outcome":
            self._usual.add(message["outcome"].get("reference_ns"))
        # All at once: who hears of it may send the worker another job, or drop the one it has.
        with self._lock:
            unwanted = op == "ready" and self._unwanted(process, message)
            self._events.put(event)
            if op in ("ready", "opening") and not unwanted:
                (self._ready if op == "ready" else self._starting).append(process)
                self._grant()
            elif op in ("outcome", "hello", "opened", "error", None):
                self._leave(process)

    def _unwanted(self, process: WorkerProcess, message: dict[str, Any] | None) -> bool:
        known = (process, -1 if message is None else int(message.get("job", -1)))
        if known not in self._dropped:
            return False
        self._dropped.remove(known)
        process.send("drop")
        return True

    def drop(self, process: WorkerProcess, job: int) -> bool:
        """The worker shall leave this job when it asks for the device; False: it has the device."""
        with self._lock:
            if process is self._holder:
                return False
            if process in self._ready:
                self._ready.remove(process)
                process.send("drop")
            else:
                self._dropped.add((process, job))
            return True

    def get(self, timeout_s: float | None) -> Event | None:
        """The next event; None: none came within the time."""
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def leave(self, process: WorkerProcess) -> None:
        """The worker does not want the device any more, or has no use for it."""
        with self._lock:
            self._leave(process)

    def _leave(self, process: WorkerProcess) -> None:
        if process is self._holder:
            self._holder = None
            self._released_s = time.monotonic()
        for queue_ in (self._ready, self._starting):
            if process in queue_:
                queue_.remove(process)
        self._openers.discard(process)
        self._dropped = {known for known in self._dropped if known[0] is not process}
        self._grant()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody is granted the device meanwhile."""
        with self._lock:
            self._held = True
        try:
            yield
        finally:
            with self._lock:
                self._held = False
                self._grant()

    def _grant(self) -> None:
        if self._holder is None:
            # First, and all at once: the sooner they are there, the sooner the device is busy.
            while self._starting:
                process = self._starting.popleft()
                self._openers.add(process)
                self._events.put((process, {"op": "granted", "at_s": time.monotonic()}))
                process.send("grant")
        if self._held or self._holder is not None or self._openers or not self._ready:
            return
        process = self._ready.popleft()
        try:
            self._announce(process)
        except GemmtuneError as error:
            self._events.put((process, {"op": "unannounced", "error": error}))
            return
        self._holder = process
        now_s = time.monotonic()
        self._events.put((process, {"op": "granted", "at_s": now_s}))
        idle_s = min(now_s - self._released_s, _LONGEST_IDLE_S)
        process.send("grant", idle_s=idle_s, usual_ns=self._usual.band_ns)
