"""How to tune, and what came of it: the values that go into the loop and come out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gemmtune.errors import UsageError
from gemmtune.job import FailureKind, Policy, Times
from gemmtune.kernels import FAMILIES
from gemmtune.problem import Gemm
from gemmtune.progress import StopReason
from gemmtune.search import DEFAULT_SAMPLER, SAMPLERS, SamplerName
from gemmtune.store import Row

SEEDS = 2**32
"""How many there are: the samplers take no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """How to tune.

    Raises:
        UsageError: a value makes no sense.
    """

    budget_s: float | None = 60.0
    """Wall time per problem; None: no limit. The first config may finish however long it takes."""
    trials: int | None = None
    """Configs per problem, those of earlier runs included; None: no limit."""
    until_gain: float | None = None
    """Stop when trials are expected to gain less than this share of the best time; None: never."""
    sampler: SamplerName = DEFAULT_SAMPLER
    """Of the search."""
    seed: int = 0
    """Of search and inputs."""
    families: tuple[str, ...] = ()
    """Families to search; empty: all but naive."""
    policy: Policy = field(default_factory=Policy)
    """How time is measured."""

    def __post_init__(self) -> None:
        if self.budget_s is not None and self.budget_s <= 0:
            raise UsageError(f"budget is {self.budget_s} s; it must be more than 0")
        if self.trials is not None and self.trials < 1:
            raise UsageError(f"trials is {self.trials}; it must be at least 1")
        if self.until_gain is not None and not 0.0 < self.until_gain < 1.0:
            raise UsageError(
                f"until_gain is {self.until_gain:.0%}; it must be over 0 % and under 100 %"
            )
        if not 0 <= self.seed < SEEDS:
            raise UsageError(f"seed is {self.seed}; it must be from 0 to {SEEDS - 1}")
        if self.sampler not in SAMPLERS:
            raise UsageError(f"sampler {self.sampler!r} is not one of: {', '.join(SAMPLERS)}")
        for name in self.families:
            if name not in FAMILIES:
                raise UsageError(f"there is no family {name!r}; there are {', '.join(FAMILIES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneResult:
    """What tuning one problem came to."""

    gemm: Gemm
    """The problem."""
    best: Row | None
    """The winner among the rows that count, from whichever run; None when nothing worked."""
    tied: tuple[Row, ...]
    """The rows as fast as it, itself first."""
    finalists: int
    """How many leaders this run measured in turn at its end."""
    repaired: int
    """How many configs this run measured again because a drift of the device had touched them."""
    doubtful: bool
    """Configs measured once still seem faster than the winner of the finals."""
    drifts: tuple[str, ...]
    """How the device deviated from its usual speed during this run, in words."""
    default_ns: float | None
    """Median time of the default config; None when it failed."""
    trials: int
    """Configs measured or failed, earlier runs and other processes included."""
    measured: int
    """Configs that this run measured or failed."""
    failures: Mapping[FailureKind, int]
    """How many of `trials` failed, by kind."""
    seconds_s: float
    """Wall time."""
    stop: StopReason
    """Why it ended."""
    times: Times
    """Where the time went."""
