"""How long a config will take on a problem it was not measured on. Looks nothing up.

A config's time is that of its waves: so many workgroups run at once, more of small ones, and each
takes time in proportion to k. On top of that comes what a launch costs, and no product is faster
than its memory traffic. `gemmtune.js` computes the same.
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
LAUNCH_NS = 15_000.0
"""What a launch costs at most, including the host's clock."""
LAUNCH_SHARE = 0.7
"""Of the shortest time measured on the device, that much is taken to be the launch."""
CHECKS_COST = 1.3
"""Times as long as without bounds checks; 257 against 192 TFLOP/s were measured on an H100."""
PER_DOUBLING = 0.05
"""A prediction is trusted less, by this share, with each doubling of a size."""
OTHER_EPILOGUE, OTHER_LAYOUT = 1.02, 1.3
"""The same for what was measured with another epilogue, or with operands stored otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What is known of a device apart from its single results."""

    at_once: int
    """Workgroups that run at once, if they are large."""
    busy: int
    """Invocations from which on a workgroup is large; of smaller ones more run at once."""
    launch_ns: float
    """Part of each time that does not depend on the problem."""
    bytes_per_ns: float
    """The most memory traffic that any result reached."""

    @classmethod
    def of(cls, adapter_type: str, results: Iterable[tuple[Gemm, float]]) -> Speed:
        """From problems and their times in nanoseconds."""
        known = list(results)
        shortest = min((time_ns for _, time_ns in known), default=0.0)
        return cls(
            at_once=AT_ONCE.get(adapter_type, AT_ONCE_OTHERWISE),
            busy=BUSY.get(adapter_type, BUSY_OTHERWISE),
            launch_ns=min(LAUNCH_NS, LAUNCH_SHARE * shortest),
            bytes_per_ns=max((gemm.traffic_bytes / t for gemm, t in known), default=0.0),
        )

    def waves(self, workgroups: float, invocations: int) -> float:
        """How often all that runs at once must run, of workgroups of so many invocations."""
        full = workgroups / (self.at_once * max(self.busy / invocations, 1.0))
        return full if full > EVEN_FROM_WAVES else max(math.ceil(full), 1)

    def predict(
        self,
        time_ns: float,
        before: float,
        after: float,
        k_before: int,
        k_after: int,
        invocations: int,
    ) -> float:
        """Nanoseconds that a config takes for another problem, but for its memory traffic.

        Args:
            time_ns: what it took where it was measured.
            before: workgroups that it took there.
            after: workgroups that it takes now.
            k_before: length of the sums there.
            k_after: length of the sums now.
            invocations: of one workgroup.
        """
        work = self.waves(after, invocations) * max(k_after, 1)
        work /= self.waves(before, invocations) * max(k_before, 1)
        return self.launch_ns + (time_ns - self.launch_ns) * work

    def least_ns(self, gemm: Gemm) -> float:
        """What the memory traffic of ``gemm`` takes at the best speed that was seen."""
        return gemm.traffic_bytes / self.bytes_per_ns if self.bytes_per_ns else 0.0


def distance(one: Gemm, other: Gemm) -> float:
    """How far apart two problems are, in doublings of m, n, k and batch."""
    total = 0.0
    for a, b in (
        (one.m, other.m),
        (one.n, other.n),
        (one.k, other.k),
        (one.batch, other.batch),
    ):
        if a != b:
            total += math.log2(max(a, 1) / max(b, 1)) ** 2
    # Rounded, so that equal distances are equal however their terms are added.
    return round(math.sqrt(total), 6)


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


def tiles(gemm: Gemm, tile_m: int, tile_n: int) -> int:
    """Tiles of C in all."""
    return ceil_div(gemm.m, tile_m) * ceil_div(gemm.n, tile_n) * gemm.batch
