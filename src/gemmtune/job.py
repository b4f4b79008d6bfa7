"""What crosses to an executor and back: a job, and its measurement or failure, all as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Kernel, Launch
from gemmtune.problem import Gemm

FailureKind = Literal[
    "compile",
    "validation",
    "timeout",
    "device_lost",
    "crash",
    "wrong_result",
    "out_of_memory",
    "too_slow",
]
"""compile: the shader compiler refused it. validation: WebGPU refused it. timeout: the worker was
killed at its time limit. device_lost: the driver gave the device up. crash: the worker, or the
whole tuning process, died. wrong_result: numbers off, written out of bounds, or never the same.
out_of_memory: no room on the device. too_slow: given up by its first workgroups, unverified, as the
best so far was faster by far."""

FAILURE_KINDS: tuple[FailureKind, ...] = get_args(FailureKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How time is measured. Part of every row: times under different policies do not compare."""

    warmup_s: float = 0.25
    """Longest warm-up; it ends earlier once the clock is steady."""
    min_time_s: float = 0.05
    """Device time spent on repetitions, at least."""
    min_repetitions: int = 7
    """Samples, at least."""
    max_repetitions: int = 200
    """Samples, at most."""
    dispatch_limit_s: float = 0.2
    """No single dispatch may be expected to take longer; longer problems run in parts."""
    give_up_factor: float = 1.2
    """A config this many times slower than the best so far, after warm-up, gets three samples."""
    cache: Literal["hot", "cold"] = "cold"
    """hot: every repetition reads the same inputs. cold: they rotate past the last-level cache."""

    @property
    def key(self) -> str:
        """Short text for the rows."""
        return f"2/{self.cache}/{self.min_time_s:g}s/{self.min_repetitions}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One kernel to verify and time."""

    id: int
    """Chosen by the sender, returned with the outcome."""
    gemm: Gemm
    """The problem."""
    kernel: Kernel
    """What to run."""
    seed: int = 0
    """Of the inputs."""
    best_ns: float | None = None
    """Median of the best config so far, if any: lets hopeless ones stop early."""
    compile_limit_s: float = 120.0
    """The worker is killed when a compilation takes longer."""
    run_limit_s: float = 120.0
    """The worker is killed when verification and timing together take longer."""

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        kernel = asdict(self.kernel) | {"config": self.kernel.config.to_json()}
        data = {name: getattr(self, name) for name in self.__slots__}
        return data | {"gemm": self.gemm.to_json(), "kernel": kernel}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Job:
        """The inverse of `to_json`."""
        kernel = dict(data["kernel"])
        kernel["config"] = FAMILIES[kernel["family"]].config.from_json(kernel["config"])
        kernel["launches"] = tuple(
            Launch(**launch | {"workgroup_size": tuple(launch["workgroup_size"])})
            for launch in kernel["launches"]
        )
        kernel["features"] = tuple(kernel["features"])
        values = data | {"gemm": Gemm.from_json(data["gemm"]), "kernel": Kernel(**kernel)}
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A verified kernel's time."""

    time_ns: float
    """Median time of one whole GEMM."""
    spread: float
    """Interquartile range over the median."""
    min_ns: float
    """Fastest sample."""
    repetitions: int
    """Samples taken."""
    clock: Literal["gpu", "host", "model"]
    """gpu: timestamp queries. host: batches on the host's clock. model: made up, for tests."""
    max_abs_error: float
    """Largest absolute difference from the reference."""
    max_rel_error: float
    """`max_abs_error` over the largest magnitude in the reference."""
    tolerance: float
    """The largest `max_abs_error` that was allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a config has no time."""

    kind: FailureKind
    """One of `FAILURE_KINDS`."""
    message: str
    """What the compiler, WebGPU, the driver or the verification said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a job, and where its wall time went."""

    job_id: int
    """Of the job."""
    result: Measurement | Failure
    """Its time, or why it has none."""
    compile_s: float = 0.0
    """Wall time of shader module and pipeline creation."""
    wait_s: float = 0.0
    """Wall time of waiting for the device."""
    ahead_s: float = 0.0
    """Wall time of making inputs beforehand, at the same time as other workers."""
    prepare_s: float = 0.0
    """Wall time of making inputs and reference, where they were neither kept nor made ahead."""
    verify_s: float = 0.0
    """Wall time of planning dispatches, running twice and comparing."""
    warm_s: float = 0.0
    """Wall time of warm-up."""
    measure_s: float = 0.0
    """Wall time of repetitions."""
    reference_ns: float | None = None
    """Time of a kernel that never changes, right afterwards: how fast the device was just then."""
    reference_spread: float = 0.0
    """Range of the samples of that over their mean."""
    again: int = 0
    """How often it was timed again at once, because the device was not as fast as usual."""

    @property
    def device_s(self) -> float:
        """How long the job had the device."""
        return self.prepare_s + self.verify_s + self.warm_s + self.measure_s

    @property
    def kept_s(self) -> dict[str, float]:
        """The wall times that are kept: compiling, all of verifying, all of timing."""
        return {
            "compile_s": self.compile_s,
            "verify_s": self.prepare_s + self.verify_s,
            "measure_s": self.warm_s + self.measure_s,
        }

    @property
    def ok(self) -> bool:
        """It was verified and timed."""
        return isinstance(self.result, Measurement)

    def to_json(self) -> dict[str, Any]:
        """All fields; the result as either ``measurement`` or ``failure``."""
        data = asdict(self)
        data["measurement" if self.ok else "failure"] = data.pop("result")
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Outcome:
        """The inverse of `to_json`."""
        rest = {k: v for k, v in data.items() if k not in ("measurement", "failure")}
        if "measurement" in data:
            return cls(**rest, result=Measurement(**data["measurement"]))
        return cls(**rest, result=Failure(**data["failure"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Where the wall time of many jobs went; workers compile and wait at the same time."""

    compile_s: float = 0.0
    """Shader compilation."""
    wait_s: float = 0.0
    """Waiting for the device."""
    ahead_s: float = 0.0
    """Making inputs beforehand."""
    prepare_s: float = 0.0
    """The device makes inputs and references."""
    verify_s: float = 0.0
    """It runs kernels to compare what they give."""
    warm_s: float = 0.0
    """It warms up."""
    measure_s: float = 0.0
    """It repeats kernels for their times."""
    search_s: float = 0.0
    """Listing the space, choosing and rendering configs."""
    total_s: float = 0.0
    """All of it, from begin to end."""

    again: int = 0
    """Timings thrown away because the device was not as fast as usual."""

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], search_s: float, total_s: float) -> Times:
        """What the outcomes add up to."""
        steps = ("compile_s", "wait_s", "ahead_s", "prepare_s", "verify_s", "warm_s", "measure_s")
        sums = {
            name: sum(getattr(outcome, name) for outcome in outcomes) for name in (*steps, "again")
        }
        return cls(**sums, search_s=search_s, total_s=total_s)

    @property
    def device_s(self) -> dict[str, float]:
        """What the device did for how long; in the end, how long it did nothing."""
        busy = {
            "measure": self.measure_s,
            "warm up": self.warm_s,
            "verify": self.verify_s,
            "prepare": self.prepare_s,
        }
        return busy | {"idle": max(0.0, self.total_s - sum(busy.values()))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """The software that stood between WGSL and the measured time; part of every row."""

    driver: str
    """Driver name and version, as `Device.driver`."""
    backend: str
    """vulkan, metal, d3d12, ..."""
    wgpu: str
    """wgpu-py's version."""
    compiler: str
    """Shader compiler and version, e.g. ``naga/wgpu-native 29.0.1.1``."""
    gemmtune: str = field(default="")
    """gemmtune's version."""
