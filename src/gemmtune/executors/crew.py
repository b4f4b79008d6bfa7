"""A worker and its job as the pool sees them: what it does since when, and until when it may.

Values that the pool changes; they start, grant and end nothing.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Literal

from gemmtune.executors.process import WorkerProcess
from gemmtune.job import Failure, FailureKind, Job, Outcome
from gemmtune.kernels.base import Kernel

START_LIMIT_S = 120.0
"""A worker that has not said hello by then is killed."""
KEPT_KERNELS = 8
"""So many of the last ones a worker need not compile again, e.g. those measured in turn."""

State = Literal["starting", "queueing", "idle", "compiling", "ready", "running"]
"""A worker that is queueing may not open the device yet, nor make buffers: somebody measures."""


class Task:
    """A job on its way."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.retried = False


class Worker:
    """A process and what it is doing since when."""

    def __init__(self, process: WorkerProcess, now_s: float) -> None:
        self.process = process
        self.state: State = "starting"
        self.since_s = now_s
        self.task: Task | None = None
        self.dropped: Job | None = None
        """A job that was given up while it compiled; the worker says once more that it is done."""
        self.kernels: deque[Kernel] = deque(maxlen=KEPT_KERNELS)
        """Those it has compiled last."""
        self.disasters = 0
        """How many there had been when it last worked for sure."""

    @property
    def starting(self) -> bool:
        """It has not said hello."""
        return self._job is None and self.state in ("starting", "queueing")

    @property
    def _job(self) -> Job | None:
        return self.dropped if self.task is None else self.task.job

    def drop(self) -> None:
        """Its job is nobody's any more; it goes on until it would need the device for it."""
        if self.task is None:
            return
        self.dropped, self.task = self.task.job, None
        if self.state == "ready":
            self.rest()

    def rest(self) -> None:
        """Has nothing to do from now on."""
        self.task = self.dropped = None
        self.turn("idle")

    def take(self, task: Task) -> None:
        """Has a job from now on."""
        self.task = task
        self.kernels.append(task.job.kernel)
        self.turn("compiling")

    def granted(self, at_s: float) -> None:
        """Has the device since then, alone or with others that only open it or make buffers."""
        if self.state == "queueing":
            self.turn("starting" if self._job is None else "compiling", at_s)
        else:
            self.turn("running", at_s)

    @property
    def deadline_s(self) -> float:
        """When it has to be killed if it is still doing the same."""
        if self.state == "starting":
            return self.since_s + START_LIMIT_S
        if self._job is not None and self.state == "compiling":
            return self.since_s + self._job.compile_limit_s
        if self._job is not None and self.state == "running":
            return self.since_s + self._job.run_limit_s
        return float("inf")

    def turn(self, state: State, since_s: float | None = None) -> None:
        """Has begun to do something else; now, if it is not said when."""
        self.state = state
        self.since_s = time.monotonic() if since_s is None else since_s


def failure(worker: Worker, job: Job, kind: FailureKind, message: str) -> Outcome:
    """What the worker's end means for its job; the time that it had is kept."""
    spent_s = time.monotonic() - worker.since_s
    return Outcome(
        job_id=job.id,
        result=Failure(kind=kind, message=message),
        compile_s=spent_s if worker.state == "compiling" else 0.0,
        verify_s=spent_s if worker.state == "running" else 0.0,
    )
