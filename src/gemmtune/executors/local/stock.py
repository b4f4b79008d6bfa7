"""The buffers of the problem at hand, kept on the device from job to job while they are small.

Runs no kernel but those that make operands and the right answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gemmtune.device import Device
from gemmtune.executors.local import timing
from gemmtune.executors.local.gpu import Gpu, JobError
from gemmtune.executors.local.handover import Handover
from gemmtune.executors.local.operands import COLD_BYTES, Helpers, Operands
from gemmtune.executors.local.verify import Expected, Verifier, at_hand
from gemmtune.job import Job, Policy
from gemmtune.kernels.base import check_problem
from gemmtune.problem import SIZEOF, Gemm

KEPT_BYTES = 1024**3
"""A problem's buffers stay on the device between jobs up to this size at least."""
SHARED_BYTES = 24 * 1024**3
"""Of a discrete GPU, for what all of its workers keep: one with less memory fails first, and then
has fewer workers."""
SHARED_BUFFERS = 6
"""And no more than so many of the largest buffers that it allows."""


def kept_bytes(device: Device, workers: int) -> int:
    """Up to which size one of so many workers keeps a problem's buffers on the device."""
    if device.adapter_type != "discrete":
        return KEPT_BYTES
    shared = min(SHARED_BYTES, SHARED_BUFFERS * device.limits.buffer_bytes)
    return max(KEPT_BYTES, shared // max(workers, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """The processes that share the device with this one."""

    workers: int = 1
    """How many there are, this one included."""
    folder: Path | None = None
    """Where they leave what all of them need; None: nowhere."""


ALONE = Company()


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What stays on the device for one problem and seed."""

    gemm: Gemm
    seed: int
    operands: Operands
    verifier: Verifier


class Stock:
    """What is kept.

    Args:
        gpu: where.
        helpers: its helper kernels.
        policy: how time is measured.
        watch: gives its clock.
    """

    def __init__(
        self,
        gpu: Gpu,
        helpers: Helpers,
        policy: Policy,
        watch: Callable[[], timing.Stopwatch],
    ) -> None:
        self._gpu = gpu
        self._helpers = helpers
        self._policy = policy
        self._watch = watch
        self._problem: Problem | None = None
        self._made_s = 0.0

    def lacks(self, job: Job, company: Company) -> bool:
        """Whether `make` is of use: the buffers are not there, and small enough to be kept.

        Not as long as the right answer takes kernels, whose times others would spoil.
        """
        gemm, device = job.gemm, self._gpu.device
        if self._kept(job) is not None or check_problem(gemm, device):
            return False
        if not at_hand(gemm, job.seed, Handover(company.folder)):
            return False
        a, b, c = (gemm.elements(name) * SIZEOF[getattr(gemm, name)] for name in "abc")
        # C once more, to compare two runs, and the right one in f32.
        needed = max(a + b, COLD_BYTES) + 2 * c + gemm.elements("c") * SIZEOF["f32"]
        return needed <= kept_bytes(device, company.workers)

    def make(self, job: Job, company: Company) -> None:
        """Have them there beforehand, while others do the same, but nobody measures.

        What fails here fails in `get` again, where it costs the job.
        """
        started = time.perf_counter()
        with suppress(JobError), self._gpu.failing_as("validation"):
            problem = self.get(job, company)
            if self._policy.cache == "cold":
                problem.operands.cold_inputs()
        self._made_s = time.perf_counter() - started

    def taken_s(self) -> float:
        """Wall time that `make` has taken since this was asked last."""
        taken_s, self._made_s = self._made_s, 0.0
        return taken_s

    def get(self, job: Job, company: Company) -> Problem:
        """The job's buffers and its right answer; kept from the job before where it is the same.

        Raises:
            JobError: no room, or the device cannot be trusted with this problem.
        """
        if (kept := self._kept(job)) is not None:
            return kept
        self.drop()
        expected = Expected(
            self._gpu,
            self._helpers,
            self._watch,
            job.gemm,
            job.seed,
            self._policy.dispatch_limit_s,
            Handover(company.folder),
        )
        operands = Operands(self._gpu, self._helpers, job.gemm, job.seed)
        verifier = Verifier(self._gpu, self._helpers, operands, expected)
        self._problem = Problem(gemm=job.gemm, seed=job.seed, operands=operands, verifier=verifier)
        return self._problem

    def _kept(self, job: Job) -> Problem | None:
        kept = self._problem
        same = kept is not None and (kept.gemm, kept.seed) == (job.gemm, job.seed)
        return kept if same else None

    def drop(self) -> None:
        """Keep nothing."""
        if self._problem is not None:
            self._problem.verifier.free()
            self._problem = None

    def drop_if_large(self, workers: int) -> None:
        """Keep nothing that takes more than a share of the device's memory.

        Args:
            workers: that share it.
        """
        kept = self._problem
        if kept is not None:
            kept.operands.set_workspace(0)
            if kept.verifier.size_bytes > kept_bytes(self._gpu.device, workers):
                self.drop()
