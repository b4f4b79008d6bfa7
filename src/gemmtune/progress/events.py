"""What tuning tells while it works: plain values, in the order in which things happen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from gemmtune.job import FailureKind, Times
from gemmtune.problem import Gemm

StopReason = Literal["budget", "trials", "gain", "exhausted", "interrupted"]
"""budget: time is up. trials: enough configs. gain: more of them are not expected to gain enough.
exhausted: every config has been measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far tuning of a problem is, results of earlier runs and other processes included."""

    trials: int = 0
    """Configs measured or failed."""
    failures: Mapping[FailureKind, int] = field(default_factory=dict)
    """Of these, how many failed, by kind."""
    best_ns: float | None = None
    """Fastest median time."""
    best_family: str = ""
    """Its family."""
    best_config: str = ""
    """Its `Config.key`."""
    default_ns: float | None = None
    """Median time of the default config, where it was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemStarted:
    """Tuning of a problem begins."""

    gemm: Gemm
    """The problem."""
    number: int
    """Its place among those to tune, from 1."""
    count: int
    """How many there are."""
    budget_s: float | None
    """Time it has."""
    trials: int | None
    """Configs at which it ends."""
    standing: Standing
    """What earlier runs left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSkipped:
    """A problem that this device cannot do."""

    gemm: Gemm
    """The problem."""
    reason: str
    """Why, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceListed:
    """The legal space has been enumerated."""

    configs: int
    """How many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFinished:
    """A config was measured, or failed."""

    family: str
    """Its family."""
    config: str
    """Its `Config.key`."""
    time_ns: float | None
    """Median time; None when it failed."""
    failure: FailureKind | None
    """Why it has no time."""
    message: str
    """What was said about that."""
    standing: Standing
    """With this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Nothing has finished for a moment."""

    in_flight: int
    """Jobs under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drifted:
    """The device is not as fast as it was, or is so again."""

    words: str
    """How it is now; empty: as usual again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settling:
    """Known configs are measured again."""

    repairs: int = 0
    """So many because a drift had touched them."""
    leaders: int = 0
    """So many because each of them might be the fastest."""
    rounds: int = 1
    """How often each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemFinished:
    """Tuning of a problem has ended."""

    gemm: Gemm
    """The problem."""
    stop: StopReason
    """Why it ended."""
    seconds_s: float
    """Wall time of this run's part."""
    measured: int
    """Configs that this run measured."""
    standing: Standing
    """The end."""
    times: Times
    """Where the time went."""


Event: TypeAlias = (
    ProblemStarted
    | ProblemSkipped
    | SpaceListed
    | TrialFinished
    | Tick
    | Drifted
    | Settling
    | ProblemFinished
)
Report: TypeAlias = Callable[[Event], None]
