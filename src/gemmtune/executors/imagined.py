"""Executors with no GPU: their outcomes are known beforehand, and their clock never waits."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable

from gemmtune.device import Device
from gemmtune.executors import unheeded
from gemmtune.job import Job, Outcome, Versions

CAPACITY = 4
"""Imagined workers."""


class ImaginedExecutor(ABC):
    """An `Executor` whose workers and time are imagined; subclasses know the outcomes.

    Args:
        device: what it claims to run on.
        versions: the software that it claims to have below it.
    """

    def __init__(self, device: Device, versions: Versions) -> None:
        self.device = device
        self.versions = versions
        self.capacity = CAPACITY
        self.soon = 0
        self.on_grant: Callable[[int], None] = unheeded
        self.now_s = 0.0
        """Imagined time since the start."""
        self._free_s = [0.0] * self.capacity
        self._flying: list[tuple[float, int, Outcome]] = []
        self._count = 0
        self._granted: set[int] = set()

    @abstractmethod
    def _outcome(self, job: Job) -> Outcome:
        """What comes of a job; its times decide when it is finished."""

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        outcome = self._outcome(job)
        began_s = max(heapq.heappop(self._free_s), self.now_s)
        done_s = began_s + outcome.compile_s + outcome.device_s
        heapq.heappush(self._free_s, done_s)
        self._count += 1
        heapq.heappush(self._flying, (done_s, self._count, outcome))
        self._grant()

    def next(self, timeout_s: float | None = None) -> Outcome | None:
        """See `Executor.next`; imagined time passes, real time does not."""
        if not self._flying:
            return None
        if timeout_s is not None and self._flying[0][0] > self.now_s + timeout_s:
            self.now_s += timeout_s
            return None
        done_s, _, outcome = heapq.heappop(self._flying)
        self.now_s = max(self.now_s, done_s)
        self._granted.discard(outcome.job_id)
        self._grant()
        return outcome

    def _grant(self) -> None:
        """The device is that job's which will be done first."""
        if self._flying and self._flying[0][2].job_id not in self._granted:
            job_id = self._flying[0][2].job_id
            self._granted.add(job_id)
            self.on_grant(job_id)

    def cancel(self) -> tuple[int, ...]:
        """See `Executor.cancel`."""
        given_up = tuple(outcome.job_id for _, _, outcome in sorted(self._flying, key=_order))
        self._flying.clear()
        self._granted.clear()
        self._free_s = [self.now_s] * self.capacity
        return given_up

    def close(self) -> None:
        """See `Executor.close`."""
        self.cancel()


def _order(flight: tuple[float, int, Outcome]) -> tuple[float, int]:
    return flight[0], flight[1]
