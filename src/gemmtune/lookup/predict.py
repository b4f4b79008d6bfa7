"""How long a config will take on a problem it was not measured on. Looks nothing up.

A config's time has three parts: what its launches cost, what its memory traffic takes at the best
speed that was seen, and the rest, which is that of its waves: so many workgroups run at once, more
of small ones, and each takes time in proportion to k. `gemmtune.js` computes the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gemmtune.kernels.base import ceil_div
from gemmtune.problem import Gemm

AT_ONCE = {"discrete": 128, "integrated": 32, "cpu": 8}
"""Large workgroups that run at once, by type of adapter: nothing in WebGPU tells how many
multiprocessors there are. An H100 has 132; with 100 or 160 it is predicted half as well."""
AT_ONCE_OTHERWISE = 64
BUSY = {"cpu": 1}
"""Invocations that keep a multiprocessor busy: smaller workgroups share one and take no longer for
it, larger ones have it to themselves. A core is busy with one. By type of adapter."""
BUSY_OTHERWISE = 256
EVEN_FROM_WAVES = 4
"""From so many waves on the last, partly filled one does not matter any more."""
LAUNCH_NS = 3_000.0
"""What a pass costs before it works, by the GPU's clock. On an H100 the fastest kernel of one pass
took 2.9 us, of two 8.7."""
LAUNCH_SHARE = 0.9
"""Of a measured time, not more than that is taken to be launches."""
MOVING_SHARE = 0.6
"""Of what memory traffic takes at the best speed, that much is taken to grow with it. With all of
it, a config as fast as memory on one problem would be predicted to be so on every other."""
CHECKS_COST = 1.3
"""Times as long as without bounds checks; 257 against 192 TFLOP/s were measured on an H100."""
PER_DOUBLING = 0.1
"""A prediction is trusted less, by this share, with each doubling of a size."""
OTHER_EPILOGUE, OTHER_LAYOUT = 1.02, 1.3
"""The same for what was measured with another epilogue, or with operands stored otherwise."""
SURE = 1e9
"""Weight of what was measured on the very problem, beside which nothing else counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a measured time says of a config: the parts of its time on any problem."""

    fixed_ns: float
    """For its launches."""
    per_byte: float
    """Nanoseconds for a byte of memory traffic."""
    per_work: float
    """Nanoseconds for a unit of `Speed.work`."""

    def time_ns(self, traffic_bytes: float, work: float) -> float:
        """Nanoseconds for so much traffic and work."""
        return self.fixed_ns + self.per_byte * traffic_bytes + self.per_work * work


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What is known of a device apart from its single results."""

    at_once: int
    """Workgroups that run at once, if they are large."""
    busy: int
    """Invocations from which on a workgroup is large; of smaller ones more run at once."""
    launch_ns: float
    """Part of each time that does not depend on the problem, for each pass."""
    bytes_per_ns: float
    """The most memory traffic that any result reached."""

    @classmethod
    def of(cls, adapter_type: str, results: Iterable[tuple[Gemm, float]]) -> Speed:
        """From problems and their times in nanoseconds."""
        return cls(
            at_once=AT_ONCE.get(adapter_type, AT_ONCE_OTHERWISE),
            busy=BUSY.get(adapter_type, BUSY_OTHERWISE),
            launch_ns=LAUNCH_NS,
            bytes_per_ns=max((gemm.traffic_bytes / t for gemm, t in results), default=0.0),
        )

    def work(self, workgroups: float, invocations: int, k: int) -> float:
        """Waves of workgroups of so many invocations, each as long as its sums.

        A wave is all that runs at once.
        """
        full = workgroups / (self.at_once * max(self.busy / invocations, 1.0))
        waves = full if full > EVEN_FROM_WAVES else max(math.ceil(full), 1)
        return waves * max(k, 1)

    def cost(self, time_ns: float, traffic_bytes: int, work: float, passes: int) -> Cost:
        """The parts of a time.

        Args:
            time_ns: what a config took.
            traffic_bytes: `Gemm.traffic_bytes` of the problem.
            work: see `work`.
            passes: how many it took.
        """
        fixed_ns = min(passes * self.launch_ns, LAUNCH_SHARE * time_ns)
        least_ns = traffic_bytes / self.bytes_per_ns if self.bytes_per_ns else 0.0
        moving_ns = min(MOVING_SHARE * least_ns, time_ns - fixed_ns)
        return Cost(
            fixed_ns=fixed_ns,
            per_byte=moving_ns / traffic_bytes if traffic_bytes else 0.0,
            per_work=(time_ns - fixed_ns - moving_ns) / work,
        )


def doublings(gemm: Gemm) -> tuple[float, float, float, float]:
    """m, n, k and batch as powers of 2; 0 is like 1."""
    m, n, k, batch = (math.log2(max(size, 1)) for size in (gemm.m, gemm.n, gemm.k, gemm.batch))
    return m, n, k, batch


def distance(one: Gemm, other: Gemm) -> float:
    """How far apart two problems are, in doublings of m, n, k and batch."""
    return apart(doublings(one), doublings(other))


def apart(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The distance between two problems of which the `doublings` are known."""
    # Rounded, so that equal distances are equal however their terms are added.
    return round(math.dist(one, other), 6)


def likeness(one: str, other: str) -> float | None:
    """A factor on the time for what was measured on another `Gemm.kind`; None: of no use."""
    if one == other:
        return 1.0
    dtypes, layout, *_ = one.split(":")
    other_dtypes, other_layout, *_ = other.split(":")
    if dtypes != other_dtypes:
        return None
    return OTHER_EPILOGUE if layout == other_layout else OTHER_LAYOUT


def doubt(far: float) -> float:
    """The factor on a predicted time that a distance in doublings is worth."""
    return 1.0 + PER_DOUBLING * far


def weight(far: float, like: float = 1.0) -> float:
    """How much what was measured that far away counts in the mean of a config's predictions.

    Args:
        far: the `distance`.
        like: the `likeness`.
    """
    apart = like * (1.0 + far)
    return SURE if apart == 1.0 else 1.0 / apart**2


def tiles(gemm: Gemm, tile_m: int, tile_n: int) -> int:
    """Tiles of C in all."""
    return ceil_div(gemm.m, tile_m) * ceil_div(gemm.n, tile_n) * gemm.batch
