"""An executor with no GPU, for tests: times come from a known model, and its clock never waits."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from zlib import crc32

from gemmtune import __version__
from gemmtune.device import Device, Limits
from gemmtune.executors import unheeded
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


class FakeExecutor:
    """An `Executor` whose workers and time are imagined.

    Args:
        seed: of 1 % noise on every time; None: the model's times exactly.
        fails: says how a job fails, or None if it does not; ``timeout`` costs the job's run limit.
        device: what it claims to be.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        fails: Callable[[Job], FailureKind | None] | None = None,
        device: Device = DEVICE,
    ) -> None:
        self.device = device
        self.versions = Versions(
            driver=device.driver,
            backend=device.backend,
            wgpu="none",
            compiler="model 1",
            gemmtune=__version__,
        )
        self.capacity = 4
        self.on_grant: Callable[[int], None] = unheeded
        self.now_s = 0.0
        """Imagined time since the start."""
        self._seed = seed
        self._fails = fails
        self._free_s = [0.0] * self.capacity
        self._flying: list[tuple[float, int, Outcome]] = []
        self._count = 0
        self._granted: set[int] = set()

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        outcome = self._outcome(job)
        began_s = max(heapq.heappop(self._free_s), self.now_s)
        done_s = began_s + outcome.compile_s + outcome.verify_s + outcome.measure_s
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

    def _outcome(self, job: Job) -> Outcome:
        kind = self._fails(job) if self._fails is not None else None
        if kind is not None:
            spent_s = job.run_limit_s if kind == "timeout" else _MEASURE_S
            failure = Failure(kind=kind, message=f"the fake executor's rule says {kind}")
            return Outcome(job_id=job.id, result=failure, compile_s=_COMPILE_S, verify_s=spent_s)
        time_ns = model_ns(job.gemm, job.kernel)
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
        )


def _order(flight: tuple[float, int, Outcome]) -> tuple[float, int]:
    return flight[0], flight[1]
