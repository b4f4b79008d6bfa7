"""A kernel that never changes, timed beside every config: tells the device's drift from theirs."""

from __future__ import annotations

import math
import statistics

from gemmtune.executors.local import timing
from gemmtune.executors.local.gpu import Gpu
from gemmtune.executors.local.operands import Helpers, Operands, kernel_bindings
from gemmtune.kernels import naive
from gemmtune.problem import Gemm
from gemmtune.render import render

# The same in every process, for their times are compared.
_SIZE = 256
_SOFTWARE_SIZE = 64
_SAMPLES = 5
# Longer than what another process on the device gets at a time: else it is not noticed.
_SAMPLE_NS = 400e3
_SOFTWARE_SAMPLE_NS = 2e6


class Sentinel:
    """The naive kernel on a small problem of its own.

    It is compiled at once, and first run when it is first measured.

    Args:
        gpu: where.
        helpers: its helper kernels.

    Raises:
        JobError: the device cannot even do that.
    """

    def __init__(self, gpu: Gpu, helpers: Helpers) -> None:
        size = _SOFTWARE_SIZE if gpu.device.software else _SIZE
        gemm = Gemm(m=size, n=size, k=size)
        kernel = render("naive", naive.NaiveConfig(), gemm, gpu.device)
        pipeline = gpu.pipeline(kernel.wgsl, kernel_bindings(gemm))
        operands = Operands(gpu, helpers, gemm, 0)
        self._dispatch = operands.dispatch(pipeline, 0, kernel.launches[0].workgroups)
        self._sample_ns = _SOFTWARE_SAMPLE_NS if gpu.device.software else _SAMPLE_NS
        self._repeats = 0

    def measure(self, watch: timing.Stopwatch) -> tuple[float, float]:
        """Time in ns of one run, and its spread, on the device as it is at this moment.

        The mean and the range, not median and quartiles: what interferes now and then shall show.

        Args:
            watch: the device's clock, always the same.
        """
        run = timing.Run(watch, [[self._dispatch]], apart=False)
        if not self._repeats:
            watch.passes_ns([[self._dispatch]], apart=True)
            (once_ns,) = run.samples(1, 1)
            self._repeats = math.ceil(max(self._sample_ns, watch.span_ns) / max(once_ns, 100.0))
        samples = run.samples(_SAMPLES, self._repeats)
        mean = max(statistics.fmean(samples), 1.0)
        return mean, (max(samples) - min(samples)) / mean
