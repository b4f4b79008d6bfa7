"""An executor with no GPU, for tests: times come from a known model."""

from __future__ import annotations

import random
from collections.abc import Callable
from zlib import crc32

from gemmtune import __version__
from gemmtune.device import Device, Limits
from gemmtune.executors.imagined import ImaginedExecutor
from gemmtune.job import Failure, FailureKind, Job, Measurement, Outcome, Versions
from gemmtune.kernels.base import Kernel, ceil_div
from gemmtune.problem import SIZEOF, Gemm
from gemmtune.reference import tolerance

DEVICE = Device(
    name="Fake GPU",
    vendor_id=0xFA4E,
    device_id=1,
    backend="fake",
    driver="model 1",
    adapter_type="discrete",
    features=("shader-f16", "subgroup", "subgroup-barrier", "timestamp-query"),
    limits=Limits(
        workgroup_storage_bytes=49152,
        invocations_per_workgroup=1024,
        workgroup_size_x=1024,
        storage_binding_bytes=2**31,
        buffer_bytes=2**32,
    ),
    subgroup_size=32,
)
_PEAK_FLOPS = 40e12
_BANDWIDTH = 2e12
_PROCESSORS = 64
_LAUNCH_NS = 3000.0
_COMPILE_S = 0.2
_MEASURE_S = 0.1
_NOISE = 0.01
_REFERENCE_NS = 1e4


def model_ns(gemm: Gemm, kernel: Kernel) -> float:
    """The time that the model gives a kernel.

    Its passes' launches, plus the larger of arithmetic and traffic, rounded up to whole waves of
    workgroups. Large tiles reuse more; workgroups near 256 invocations and little workgroup memory
    are best; every further field of the config adds up to 10 % by its value, so that no two tie.
    """
    launch = max(kernel.launches, key=lambda launch: launch.workgroups)
    workgroups = max(launch.workgroups, 1)
    invocations = max(launch.workgroup_size[0] * launch.workgroup_size[1], 1)
    tile = (gemm.m * gemm.n * gemm.batch / workgroups) ** 0.5 or 1.0
    waves = ceil_div(workgroups, _PROCESSORS) * _PROCESSORS / workgroups
    imbalance = 1 + abs(invocations - 256) / 512 + launch.workgroup_storage_bytes / 2**17
    arithmetic = gemm.flops / _PEAK_FLOPS * imbalance * (1 + 8 / tile)
    moved = gemm.flops / tile * SIZEOF[gemm.a] + gemm.traffic_bytes
    fields = (crc32(f"{k}={v}".encode()) % 1000 for k, v in kernel.config.to_json().items())
    taste = 1 + sum(fields) / max(len(kernel.config.to_json()), 1) / 10_000
    return (
        _LAUNCH_NS * len(kernel.launches)
        + max(arithmetic, moved / _BANDWIDTH) * 1e9 * waves * taste
    )


class FakeExecutor(ImaginedExecutor):
    """An `Executor` that makes times up.

    Args:
        seed: of 1 % noise on every time; None: the model's times exactly.
        fails: says how a job fails, or None if it does not; ``timeout`` costs the job's run limit.
        slower: than usual by which factor the device is, given how many jobs were before.
        device: what it claims to be.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        fails: Callable[[Job], FailureKind | None] | None = None,
        slower: Callable[[int], float] | None = None,
        device: Device = DEVICE,
    ) -> None:
        versions = Versions(
            driver=device.driver,
            backend=device.backend,
            wgpu="none",
            compiler="model 1",
            gemmtune=__version__,
        )
        super().__init__(device, versions)
        self._seed = seed
        self._fails = fails
        self._slower = slower

    def _outcome(self, job: Job) -> Outcome:
        kind = self._fails(job) if self._fails is not None else None
        if kind is not None:
            spent_s = job.run_limit_s if kind == "timeout" else _MEASURE_S
            failure = Failure(kind=kind, message=f"the fake executor's rule says {kind}")
            return Outcome(job_id=job.id, result=failure, compile_s=_COMPILE_S, verify_s=spent_s)
        slower = self._slower(self._count) if self._slower is not None else 1.0
        time_ns = model_ns(job.gemm, job.kernel) * slower
        if self._seed is not None:
            name = f"{self._seed}:{job.gemm.key}:{job.kernel.family}:{job.kernel.config.key}"
            time_ns *= 1 + random.Random(name).uniform(-_NOISE, _NOISE)
        measurement = Measurement(
            time_ns=time_ns,
            spread=_NOISE,
            min_ns=time_ns * (1 - _NOISE),
            repetitions=10,
            clock="model",
            max_abs_error=0.0,
            max_rel_error=0.0,
            tolerance=tolerance(job.gemm),
        )
        return Outcome(
            job_id=job.id,
            result=measurement,
            compile_s=_COMPILE_S,
            verify_s=_MEASURE_S,
            measure_s=_MEASURE_S,
            reference_ns=_REFERENCE_NS * slower,
        )
