"""How long a config will take on a problem it was not measured on. Looks nothing up.

A config's time has three parts: what its launches cost, what its memory traffic takes at the best
speed that was seen, and the rest, which is that of its workgroups: each multiprocessor gets as many
as the others, and each takes time in proportion to its share of k and some more. How many of them
keep a multiprocessor busy, so that fewer take as long, and how much more, is learned from the
config's own times. `gemmtune.js` computes the same.
"""

from __future__ import annotations

import math
from itertools import repeat
from operator import mul, sub

from gemmtune.light import NamedTuple
from gemmtune.problem import Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol
else:
    Protocol = object

MULTIPROCESSORS = {"discrete": 132, "integrated": 32, "cpu": 8}
"""Multiprocessors, by type of adapter: nothing in WebGPU tells how many. An H100 has 132."""
MULTIPROCESSORS_OTHERWISE = 64
BUSY = {"cpu": 1}
"""Invocations that keep a multiprocessor busy: smaller workgroups share one and take no longer for
it, larger ones have it to themselves. A core is busy with one. By type of adapter."""
BUSY_OTHERWISE = 256
EVEN_FROM = 16
"""With so many workgroups for each multiprocessor it does not matter that some get one more."""
ROUNDED = 0.75
"""So much of a workgroup that only some multiprocessors get takes as long as if all did."""
FILLED_BY = (1, 1.5, 2, 3, 4, 6, 8, 12, 16)
"""Workgroups of a config that may keep a multiprocessor busy: fewer take as long together."""
MORE = (64, 0, 512)
"""Elements of k that take as long as all of a workgroup but its sums, e.g. writing its tile; the
usual number first."""
LEARNED_FROM = 4
"""Times of a config from which these two are learned."""
LEARNED_BY = 0.999
"""They are others than is usual where times scatter so much less."""
LAUNCH_NS = 3_000.0
"""What a pass costs before it works, by the GPU's clock. On an H100 the fastest kernel of one pass
took 2.9 us, of two 8.7."""
LAUNCH_SHARE = 0.9
"""Of a measured time, not more than that is taken to be launches."""
MOVING_SHARE = 0.45
"""Of what memory traffic takes at the best speed, that much is taken to grow with it. With all of
it, a config as fast as memory on one problem would be predicted to be so on every other."""
CHECKS_COST = 1.3
"""Times as long as without bounds checks; 257 against 192 TFLOP/s were measured on an H100."""
PER_DOUBLING = 1.15
"""A prediction is trusted less, by this factor, with each doubling of a size."""
BEYOND = 2.0
"""A distance counts so often where a prediction is longer than all of the config's times: as far
away, such predictions scatter twice as much. Times of microseconds tell little but of launches."""
POWER = 4
"""How soon what was measured farther away counts less."""
OTHER_EPILOGUE, OTHER_LAYOUT = 1.02, 1.3
"""The same for what was measured with another epilogue, or with operands stored otherwise."""
SURE = 1e9
"""Weight of what was measured on the very problem, beside which nothing else counts."""


class Sizes(Protocol):
    """Those of a problem."""

    @property
    def m(self) -> int:
        """As `Gemm.m`."""

    @property
    def n(self) -> int:
        """As `Gemm.n`."""

    @property
    def k(self) -> int:
        """As `Gemm.k`."""

    @property
    def batch(self) -> int:
        """As `Gemm.batch`."""


class Pace(NamedTuple):
    """How a config's workgroups share the device."""

    held: float
    """So many of them keep a multiprocessor busy."""
    more: float
    """Elements of k that take as long as all of a workgroup but its sums."""


class Dispatch(NamedTuple):
    """What runs of a config for a problem."""

    workgroups: float
    """Of the pass that multiplies."""
    depth: float
    """Elements of k that one of them adds up, see `depth`."""


class Parts(NamedTuple):
    """What a measured time is made of, in nanoseconds."""

    launches: float
    """What does not depend on the problem."""
    traffic: float
    """What grows with the bytes."""
    work: float
    """What grows with `Speed.work`."""


class Speed(NamedTuple):
    """What is known of a device apart from its single results."""

    at_once: int
    """Multiprocessors."""
    busy: int
    """Invocations that keep one busy, where nothing is learned."""
    launch_ns: float
    """Part of each time that does not depend on the problem, for each pass."""
    bytes_per_ns: float
    """The most memory traffic that any result reached."""

    @classmethod
    def of(cls, adapter_type: str, results: Iterable[tuple[int, float]]) -> Speed:
        """From the traffic of problems in bytes and their times in nanoseconds."""
        return cls(
            at_once=MULTIPROCESSORS.get(adapter_type, MULTIPROCESSORS_OTHERWISE),
            busy=BUSY.get(adapter_type, BUSY_OTHERWISE),
            launch_ns=LAUNCH_NS,
            bytes_per_ns=max((traffic / t for traffic, t in results), default=0.0),
        )

    def waves(self, workgroups: float, held: float) -> float:
        """How long so many workgroups take, of which ``held`` on a multiprocessor take 1."""
        waves = _rounded(workgroups / self.at_once) / held
        return waves if waves > 1.0 else 1.0

    def work(self, workgroups: float, depth: float, pace: Pace) -> float:
        """Waves of workgroups, as long as their sums and what else they do; see `Dispatch`."""
        return self.waves(workgroups, pace.held) * (depth + pace.more)

    def parts(self, time_ns: float, traffic_bytes: int, passes: int) -> Parts:
        """The parts of a time.

        Args:
            time_ns: what a config took.
            traffic_bytes: `Gemm.traffic_bytes` of the problem.
            passes: how many it took.
        """
        launches = min(passes * self.launch_ns, LAUNCH_SHARE * time_ns)
        least_ns = traffic_bytes / self.bytes_per_ns if self.bytes_per_ns else 0.0
        traffic = min(MOVING_SHARE * least_ns, time_ns - launches)
        return Parts(launches, traffic, time_ns - launches - traffic)

    def pace(
        self, invocations: int, times: Iterable[tuple[Parts, Dispatch | tuple[float, float]]] = ()
    ) -> Pace:
        """The pace of a config with workgroups of so many invocations: that by which a unit of work
        took most nearly as long wherever it was timed, if that was often enough.
        """
        usual = Pace(max(self.busy / invocations, 1.0), MORE[0])
        known = [(sum(parts), parts[2], *there) for parts, there in times if parts[2] > 0.0]
        if len(known) < LEARNED_FROM:
            return usual
        # What work has little part in says little of it.
        weights = [work / time_ns for time_ns, work, _, _ in known]
        total: float = sum(weights)
        log = math.log
        logs = [log(work) for _, work, _, _ in known]

        def offsets(logs: list[float]) -> list[float]:
            """How far each is from the mean of all, as far as it counts."""
            mean = sum(map(mul, weights, logs)) / total
            return list(map(mul, weights, map(sub, logs, repeat(mean))))

        each = [_rounded(workgroups / self.at_once) for _, _, workgroups, _ in known]
        over = [log(one) if one > 1.0 else 0.0 for one in each]
        by_more = {
            more: offsets(list(map(sub, logs, [log(depth + more) for *_, depth in known])))
            for more in MORE
        }
        best, least, at_once = usual, math.inf, False
        for held in dict.fromkeys((usual.held, *FILLED_BY)):
            full = log(held)
            waves = [one - full if one > full else 0.0 for one in over]
            if not any(waves):  # all of them run at once
                if at_once:
                    continue  # as they did with fewer held
                at_once = True
            by_held = offsets(waves)
            for more, units in by_more.items():
                scatter: float = sum(map(abs, map(sub, units, by_held)))
                if scatter < LEARNED_BY * least:
                    best, least = Pace(held, more), scatter
        return best


def _rounded(each: float) -> float:
    """Workgroups that a multiprocessor gets, some of them one more than others."""
    return each if each > EVEN_FROM else ROUNDED * math.ceil(each) + (1 - ROUNDED) * each


def depth(share: float, step: int) -> float:
    """Elements of k that a workgroup with such a share of them adds up: it takes whole steps."""
    return math.ceil(share / step) * step


def doublings(gemm: Sizes) -> tuple[float, float, float, float]:
    """m, n, k and batch as powers of 2; 0 is like 1."""
    log2 = math.log2
    m, n, k = log2(max(gemm.m, 1)), log2(max(gemm.n, 1)), log2(max(gemm.k, 1))
    return m, n, k, log2(max(gemm.batch, 1))


def distance(one: Gemm, other: Gemm) -> float:
    """How far apart two problems are, in doublings of m, n, k and batch."""
    return rounded(math.dist(doublings(one), doublings(other)))


def aparts(one: tuple[float, ...], others: Iterable[tuple[float, ...]]) -> list[float]:
    """The distances from a problem to others, of which the `doublings` are known; not `rounded`."""
    return list(map(math.dist, others, repeat(one)))


def rounded(far: float) -> float:
    """A distance such that equal ones are equal however their terms were added."""
    return round(far, 6)


def likeness(one: str, other: str) -> float | None:
    """A factor on the time for what was measured on another `Gemm.kind`; None: of no use."""
    if one == other:
        return 1.0
    dtypes, layout, *_ = one.split(":")
    other_dtypes, other_layout, *_ = other.split(":")
    if dtypes != other_dtypes:
        return None
    return OTHER_EPILOGUE if layout == other_layout else OTHER_LAYOUT


def doubt(far: float, time_ns: float, longest_ns: float) -> float:
    """The factor on a predicted time that a distance is worth.

    Args:
        far: in doublings, to the nearest measurement of the config.
        time_ns: what is predicted.
        longest_ns: of the config's measurements.
    """
    return math.pow(PER_DOUBLING, far if time_ns <= longest_ns else BEYOND * far)


def weights(fars: Iterable[float], likes: Iterable[float] | None = None) -> list[float]:
    """How much what was measured so far away counts in the mean of a config's predictions.

    Args:
        fars: each `distance`.
        likes: each `likeness`; None: they are 1.
    """
    if likes is None:
        apart = [1.0 + far for far in fars]
    else:
        apart = [like * (1.0 + far) for far, like in zip(fars, likes, strict=True)]
    if 1.0 in apart:
        return [SURE if far == 1.0 else 1.0 / far**POWER for far in apart]
    return [1.0 / far**POWER for far in apart]


def tiles(gemm: Sizes, tile_m: int, tile_n: int) -> int:
    """Tiles of C in all."""
    return -(-gemm.m // tile_m) * -(-gemm.n // tile_n) * gemm.batch
