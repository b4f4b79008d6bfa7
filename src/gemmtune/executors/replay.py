"""An executor with no GPU that answers from a recorded landscape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gemmtune.executors.imagined import ImaginedExecutor
from gemmtune.job import Failure, Job, Outcome
from gemmtune.landscape import Landscape

BACKEND = "replay"
"""What the device's backend is called, so that nothing replayed is kept under the key of the real
device."""


class ReplayExecutor(ImaginedExecutor):
    """An `Executor` that gives what was recorded; what was not recorded fails as ``validation``.

    Its clock is imagined, and goes by the recorded times of compiling, verifying and timing.

    Args:
        landscape: what it answers from.
    """

    def __init__(self, landscape: Landscape) -> None:
        super().__init__(
            replace(landscape.device, backend=BACKEND),
            replace(landscape.versions, backend=BACKEND),
        )
        self.landscape = landscape
        """What it answers from."""
        self._rows = {row.config.key: row for row in landscape.rows}

    @classmethod
    def open(cls, path: Path) -> ReplayExecutor:
        """One that answers from the file at ``path``.

        Raises:
            LandscapeError: it cannot be read.
        """
        return cls(Landscape.read(path))

    def _outcome(self, job: Job) -> Outcome:
        known, kernel = self.landscape, job.kernel
        row = None
        if (job.gemm.key, kernel.family) == (known.gemm.key, known.family):
            row = self._rows.get(kernel.config.key)
        if row is None:
            message = f"not in this recording of {known.family} for {known.gemm.key}"
            return Outcome(job_id=job.id, result=Failure(kind="validation", message=message))
        return Outcome(
            job_id=job.id,
            result=row.result,
            compile_s=row.compile_s,
            verify_s=row.verify_s,
            measure_s=row.measure_s,
        )
