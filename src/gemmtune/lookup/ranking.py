"""Configs with what was measured of them, ranked for one problem after the other by the times that
are predicted. Reads no database, and asks no family whether a config is legal.
"""

from __future__ import annotations

import math
from collections import defaultdict
from heapq import heapify, heappop, heappush
from itertools import repeat
from operator import add, mul

from gemmtune.light import NamedTuple
from gemmtune.lookup.leader import Leader, checked
from gemmtune.lookup.predict import (
    CHECKS_COST,
    EVEN_FROM,
    PER_DOUBLING,
    ROUNDED,
    Pace,
    Speed,
    aparts,
    depth,
    doublings,
    doubt,
    likeness,
    rounded,
    tiles,
    weights,
)
from gemmtune.problem import Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Protocol
else:
    Protocol = object


class Predicted(NamedTuple):
    """A config for a problem, and what its measurements say of it."""

    leader: Leader
    """The measurement that is trusted most, with bounds checks where the problem needs them."""
    time_ns: float
    """What all of them predict, see `weight`."""
    far: float
    """Doublings between the leader's problem and the one asked about."""
    advised: bool = False
    """It comes first because that was asked for."""


Name = tuple[bool, int, str, str]
"""Whether the template is an older one and the policy an unusual, family, config as JSON."""
Place = tuple[float, float, float, float]
"""A problem's `doublings`."""
Dispatches = tuple[int, int, float, int]
"""Rows and columns of a tile, workgroups for each, and elements of k that these take at a time."""
_Scored = tuple[float, float, int, float, Leader]
"""By what it is ranked, least first: score, distance, number; then the time and the measurement."""
_Waiting = tuple[float, list[int], tuple[list[float], ...]]
"""Configs that may still be the best: the least that their scores may be, their numbers, and how
far what each was measured on is, where that has been asked for already."""
_ROUNDING = 1e-6
"""A distance may be that much less when it is `rounded`."""
_BARELY = 1.0 - 1e-9
"""So much less is a bound than what it bounds, for they are rounded differently."""


class Known(Protocol):
    """A config, template and policy with its times, read or worked out when they are wanted."""

    @property
    def names(self) -> tuple[Name, Name]:
        """What it is called as it is, and with bounds checks."""

    @property
    def unchecked(self) -> bool:
        """See `Leader.unchecked`."""

    @property
    def dispatch(self) -> Dispatches | None:
        """What its dispatches follow from; None: only the family knows."""

    @property
    def pace(self) -> Pace:
        """See `Speed.pace`."""

    @property
    def least(self) -> tuple[float, ...]:
        """Of each of the three `costs` of its times the least."""

    @property
    def longest_ns(self) -> float:
        """Of its times."""

    @property
    def costs(self) -> list[tuple[float, float, float]]:
        """Nanoseconds in any case, for a byte of traffic and for a unit of work, of each time."""

    @property
    def leaders(self) -> Sequence[Leader]:
        """The measurements, in the order of the times."""

    @property
    def places(self) -> list[Place]:
        """Where their problems are."""

    @property
    def kinds(self) -> list[str]:
        """`Gemm.kind` of each."""


class Measured:
    """One config, template and policy, with the costs that each of its times stands for."""

    __slots__ = (
        *("costs", "dispatch", "first", "kinds", "leaders", "least", "longest_ns", "names"),
        *("pace", "places", "unchecked"),
    )

    def __init__(
        self, leaders: list[Leader], problems: dict[str, tuple[Place, int]], speed: Speed
    ) -> None:
        self.first, self.leaders = leaders[0], leaders
        self.unchecked = self.first.unchecked
        rank = (self.first.stale, self.first.unusual, self.first.family)
        checked = self.first.with_checks(True).text
        self.names: tuple[Name, Name] = ((*rank, self.first.text), (*rank, checked))
        """What it is called as it is, and with bounds checks."""
        there = [problems[leader.key] for leader in leaders]
        self.places = [place for place, _ in there]
        self.kinds = [leader.kind for leader in leaders]
        times = [leader.time_ns for leader in leaders]
        self.longest_ns = max(times)
        if not all(0.0 < time_ns < math.inf for time_ns in times):
            raise ValueError(f"times of {times} ns")
        passes, invocations, each, tile, step = self.first.shape
        self.dispatch: Dispatches | None = None if tile is None else (*tile, each, step)
        """What its dispatches follow from; None: only the family knows."""
        parts = [
            speed.parts(time_ns, traffic, passes)
            for time_ns, (_, traffic) in zip(times, there, strict=True)
        ]
        known = list(map(self._dispatched, leaders))
        self.pace = pace = speed.pace(invocations, zip(parts, known, strict=True))
        self.costs = [
            (launches, moving / max(traffic, 1), rest / speed.work(*one, pace))
            for (launches, moving, rest), (_, traffic), one in zip(parts, there, known, strict=True)
        ]
        """Nanoseconds in any case, for a byte of traffic and for a unit of work, of each time."""
        self.least = tuple(map(min, zip(*self.costs, strict=True)))
        """Of each of the three."""

    def _dispatched(self, there: Leader) -> tuple[float, float]:
        """As a `Dispatch`, which takes too long to make here."""
        if self.dispatch is None:
            return self.first.workgroups(there.gemm), max(there.k, 1)
        return _dispatched(self.dispatch, there)


def _dispatched(of: Dispatches, there: Gemm | Leader) -> tuple[float, float]:
    """As families' own arithmetic does."""
    tile_m, tile_n, each, step = of
    return each * tiles(there, tile_m, tile_n), depth((there.k or 1) / each, step)


class Question(NamedTuple):
    """What predictions for a problem depend on."""

    place: Place
    """See `Place`."""
    traffic_bytes: int
    """`Gemm.traffic_bytes`."""
    kind: str
    """Its `Gemm.kind`."""
    like: dict[str, float]
    """The `likeness` of each kind."""


class Total:
    """What the measurements of one config predict, added up."""

    __slots__ = (
        *("far", "leader", "like", "logs", "longest_ns", "needed", "number", "trusted", "weights"),
    )

    def __init__(
        self,
        number: int,
        one: Known,
        fars: list[float],
        asked: Question,
        work: float,
        needed: bool,
    ) -> None:
        """Of the times of the config with that number.

        Args:
            number: any, by which those that are as good are ranked.
            one: the config.
            fars: how far each of the problems is that it was measured on.
            asked: what about.
            work: `Speed.work` of the config for the problem.
            needed: whether it needs bounds checks and is without.
        """
        kinds = one.kinds
        alike = kinds.count(asked.kind) == len(kinds)  # as mostly
        likes = None if alike else list(map(asked.like.__getitem__, kinds))
        counts = weights(fars, likes)
        traffic = asked.traffic_bytes
        times = [fixed + byte * traffic + unit * work for fixed, byte, unit in one.costs]
        self.weights = total = sum(counts)
        self.logs = sum(map(mul, counts, map(math.log, times)))
        if needed:
            self.logs += math.log(CHECKS_COST) * total
        self.number, self.longest_ns, self.needed = number, one.longest_ns, needed
        self.trusted = max(counts)
        nearest = counts.index(self.trusted)
        self.far, self.like = rounded(fars[nearest]), likes[nearest] if likes else 1.0
        self.leader = one.leaders[nearest].with_checks(needed)

    def add(self, other: Total) -> None:
        """Take in what others of its times predict."""
        self.weights += other.weights
        self.logs += other.logs
        self.longest_ns = max(self.longest_ns, other.longest_ns)
        if other.trusted > self.trusted:
            self.trusted, self.far, self.like = other.trusted, other.far, other.like
            self.leader = other.leader

    def scored(self) -> _Scored:
        """With the doubts that the distance to the nearest is worth."""
        time_ns = math.exp(self.logs / self.weights)
        score = time_ns * self.like * doubt(self.far, time_ns, self.longest_ns)
        return score, self.far, self.number, time_ns, self.leader


class Table:
    """Configs, to be ranked for one problem after the other."""

    def __init__(self, configs: Sequence[Known], speed: Speed, kinds: Iterable[str]) -> None:
        self._configs, self._speed, self._kinds = configs, speed, frozenset(kinds)
        self._fixed, self._bytes, self._units = (
            [one.least[part] for one in configs] for part in range(3)
        )
        dispatches: dict[Dispatches | None, int] = {}
        self._works = [
            (dispatches.setdefault(one.dispatch, len(dispatches)), *one.pace) for one in configs
        ]
        self._dispatches = [(1, 1, 1.0, 1) if one is None else one for one in dispatches]
        """Those that configs have, many in common."""
        self._alone = [number for number, one in enumerate(configs) if one.dispatch is None]
        """Configs whose families have to be asked."""
        clusters: defaultdict[Name, list[int]] = defaultdict(list)
        self._clusters = clusters
        for number, one in enumerate(configs):
            clusters[one.names[True]].append(number)
        self._ranks: defaultdict[tuple[bool, int], list[list[int]]] = defaultdict(list)
        """Configs that are the same where bounds checks are needed, by template and policy."""
        for (stale, unusual, *_), numbers in clusters.items():
            self._ranks[stale, unusual].append(numbers)

    def ranked(
        self,
        gemm: Gemm,
        edges: Callable[[Leader], bool],
        first: Iterable[tuple[str, str]] = (),
    ) -> Iterator[Predicted]:
        """See `Portfolio.ranked`.

        No score is under what the least costs of a config add up to, and few of these have to be
        looked behind before the best of all is known: a quarter of them, mostly.
        """
        kind = gemm.kind
        like = {other: likeness(other, kind) or 1.0 for other in self._kinds}
        asked = Question(doublings(gemm), gemm.traffic_bytes, kind, like)
        works = self._works_for(gemm)
        moved = map(add, self._fixed, map(mul, self._bytes, repeat(asked.traffic_bytes * _BARELY)))
        least = list(map(add, moved, map(mul, self._units, map(mul, works, repeat(_BARELY)))))
        configs, seen = self._configs, set[tuple[str, str]]()
        for name in first:
            for total in self._named(name, asked, works, edges):
                _, far, _, time_ns, leader = total.scored()
                if (leader.family, leader.text) not in seen:  # as one is with checks and without
                    seen.add((leader.family, leader.text))
                    yield Predicted(leader=leader, time_ns=time_ns, far=far, advised=True)
        for _, clusters in sorted(self._ranks.items()):
            waiting: list[_Waiting] = [
                (min([least[one] for one in each]) if len(each) > 1 else least[each[0]], each, ())
                for each in clusters
            ]
            heapify(waiting)
            scored: list[_Scored] = []
            while waiting or scored:
                if not scored or (waiting and waiting[0][0] <= scored[0][0]):
                    bound, each, fars = heappop(waiting)
                    if not fars:
                        if len(each) == 1:  # as most
                            fars = (aparts(asked.place, configs[each[0]].places),)
                            bound *= PER_DOUBLING ** (min(fars[0]) - _ROUNDING)
                        else:
                            fars = tuple([aparts(asked.place, configs[one].places) for one in each])
                            bound *= PER_DOUBLING ** (min(map(min, fars)) - _ROUNDING)
                        if waiting and waiting[0][0] < bound:
                            heappush(waiting, (bound, each, fars))
                            continue
                    for total in self._totals(each, fars, asked, works, edges):
                        heappush(scored, total.scored())
                    continue
                _, far, _, time_ns, leader = heappop(scored)
                if (leader.family, leader.text) not in seen:
                    seen.add((leader.family, leader.text))  # by its best template and policy
                    yield Predicted(leader=leader, time_ns=time_ns, far=far)

    def _named(
        self,
        name: tuple[str, str],
        asked: Question,
        works: list[float],
        edges: Callable[[Leader], bool],
    ) -> Iterator[Total]:
        """What is predicted of one config, by family and JSON, if it was measured as usual with
        today's template. Where it needs bounds checks, it is taken with them.
        """
        family, text = name
        cluster = self._clusters.get((False, 0, family, checked(text)), [])
        fars = [aparts(asked.place, self._configs[one].places) for one in cluster]
        for total in self._totals(cluster, fars, asked, works, edges) if cluster else ():
            if total.needed or total.leader.text == text:
                yield total

    def _works_for(self, gemm: Gemm) -> list[float]:
        """`Speed.work` of each, written out."""
        m, n, k, batch, at_once = gemm.m, gemm.n, gemm.k or 1, gemm.batch, self._speed.at_once
        ceil, rest = math.ceil, 1 - ROUNDED
        waves = [
            one
            if (one := each * (-(-m // tile_m) * -(-n // tile_n) * batch) / at_once) > EVEN_FROM
            else ROUNDED * ceil(one) + rest * one
            for tile_m, tile_n, each, _ in self._dispatches
        ]
        depths = [ceil(k / each / step) * step for *_, each, step in self._dispatches]
        found = [
            (one / held if (one := waves[number]) > held else 1.0) * (depths[number] + more)
            for number, held, more in self._works
        ]
        for number in self._alone:
            config = self._configs[number]
            workgroups = config.leaders[0].workgroups(gemm)
            found[number] = self._speed.work(workgroups, max(gemm.k, 1), config.pace)
        return found

    def _total(
        self,
        number: int,
        fars: list[float],
        asked: Question,
        works: list[float],
        edges: Callable[[Leader], bool],
    ) -> Total:
        one = self._configs[number]
        needed = one.unchecked and edges(one.leaders[0])
        return Total(number, one, fars, asked, works[number], needed)

    def _totals(
        self,
        cluster: list[int],
        fars: Iterable[list[float]],
        asked: Question,
        works: list[float],
        edges: Callable[[Leader], bool],
    ) -> Iterable[Total]:
        """What the configs of a cluster predict, those together that are the same here."""
        if len(cluster) == 1:
            (number,), (apart,) = cluster, fars
            return (self._total(number, apart, asked, works, edges),)
        found: dict[Name, Total] = {}
        for number, apart in zip(cluster, fars, strict=True):
            total = self._total(number, apart, asked, works, edges)
            known = found.setdefault(self._configs[number].names[total.needed], total)
            if known is not total:
                known.add(total)
        return found.values()
