"""What was measured on one device, arranged so that its configs are quickly ranked for a problem.

Reads no database, and asks no family whether a config is legal.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import repeat
from operator import add, mul

from gemmtune.kernels import FAMILIES
from gemmtune.light import NamedTuple
from gemmtune.lookup.catalogue import Catalogue, Leader
from gemmtune.lookup.predict import (
    CHECKS_COST,
    EVEN_FROM,
    PER_DOUBLING,
    ROUNDED,
    Speed,
    aparts,
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
    from collections.abc import Callable, Iterable, Iterator


class Predicted(NamedTuple):
    """A config for a problem, and what its measurements say of it."""

    leader: Leader
    """The measurement that is trusted most, with bounds checks where the problem needs them."""
    time_ns: float
    """What all of them predict, see `weight`."""
    far: float
    """Doublings between the leader's problem and the one asked about."""


_Name = tuple[bool, int, str, str]
"""Whether the template is an older one and the policy an unusual, family, config as JSON."""
_Place = tuple[float, float, float, float]
"""A problem's `doublings`."""
_Dispatches = tuple[int, int, float]
"""Rows and columns of a tile, and workgroups for each."""
_Scored = tuple[float, float, int, float, Leader]
"""By what it is ranked, least first: score, distance, number; then the time and the measurement."""
_Waiting = tuple[float, list[int], tuple[list[float], ...]]
"""Configs that may still be the best: the least that their scores may be, their numbers, and how
far what each was measured on is, where that has been asked for already."""
_BARELY = 1.0 - 1e-9
"""So much less is a bound than what it bounds, for they are rounded differently."""


class _Measured:
    """One config, template and policy, with the costs that each of its times stands for."""

    __slots__ = (
        *("costs", "dispatch", "first", "kinds", "leaders", "least", "longest_ns", "names"),
        *("pace", "places", "unchecked"),
    )

    def __init__(
        self, leaders: list[Leader], problems: dict[str, tuple[_Place, int]], speed: Speed
    ) -> None:
        self.first, self.leaders = leaders[0], leaders
        self.unchecked = self.first.unchecked
        rank = (self.first.stale, self.first.unusual, self.first.family)
        checked = self.first.with_checks(True).text
        self.names: tuple[_Name, _Name] = ((*rank, self.first.text), (*rank, checked))
        """What it is called as it is, and with bounds checks."""
        there = [problems[leader.key] for leader in leaders]
        self.places = [place for place, _ in there]
        self.kinds = [leader.kind for leader in leaders]
        times = [leader.time_ns for leader in leaders]
        self.longest_ns = max(times)
        if not all(0.0 < time_ns < math.inf for time_ns in times):
            raise ValueError(f"times of {times} ns")
        passes, invocations, each, tile = self.first.shape
        self.dispatch: _Dispatches | None = None if tile is None else (*tile, each)
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

    def work(self, gemm: Gemm, speed: Speed) -> float:
        """`Speed.work` of a config whose family alone knows its dispatches."""
        return speed.work(self.first.workgroups(gemm), max(gemm.k, 1), self.pace)


def _dispatched(of: _Dispatches, there: Gemm | Leader) -> tuple[float, float]:
    """As families' own arithmetic does."""
    tile_m, tile_n, each = of
    return each * tiles(there, tile_m, tile_n), (there.k or 1) / each


class _Question(NamedTuple):
    """What predictions for a problem depend on."""

    place: _Place
    """See `_Place`."""
    traffic_bytes: int
    """`Gemm.traffic_bytes`."""
    like: dict[str, float]
    """The `likeness` of each `Gemm.kind`."""


class _Total:
    """What the measurements of one config predict, added up."""

    __slots__ = ("far", "leader", "like", "logs", "longest_ns", "number", "trusted", "weights")

    def __init__(
        self,
        number: int,
        one: _Measured,
        fars: list[float],
        asked: _Question,
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
        likes = list(map(asked.like.__getitem__, one.kinds))
        counts = weights(fars, likes)
        traffic = asked.traffic_bytes
        times = [fixed + byte * traffic + unit * work for fixed, byte, unit in one.costs]
        self.weights = total = sum(counts)
        self.logs = sum(map(mul, counts, map(math.log, times)))
        if needed:
            self.logs += math.log(CHECKS_COST) * total
        self.number, self.longest_ns = number, one.longest_ns
        self.trusted = max(counts)
        nearest = counts.index(self.trusted)
        self.far, self.like = rounded(fars[nearest]), likes[nearest]
        self.leader = one.leaders[nearest].with_checks(needed)

    def add(self, other: _Total) -> None:
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


class _Table:
    """Configs, to be ranked for one problem after the other."""

    def __init__(self, configs: list[_Measured], speed: Speed) -> None:
        self._configs, self._speed = configs, speed
        self._fixed, self._bytes, self._units = (
            [one.least[part] for one in configs] for part in range(3)
        )
        dispatches: dict[_Dispatches | None, int] = {}
        self._works = [
            (dispatches.setdefault(one.dispatch, len(dispatches)), *one.pace) for one in configs
        ]
        self._dispatches = [(1, 1, 1.0) if one is None else one for one in dispatches]
        """Those that configs have, many in common."""
        self._alone = [number for number, one in enumerate(configs) if one.dispatch is None]
        """Configs whose families have to be asked."""
        clusters: defaultdict[_Name, list[int]] = defaultdict(list)
        for number, one in enumerate(configs):
            clusters[one.names[True]].append(number)
        self._ranks: defaultdict[tuple[bool, int], list[list[int]]] = defaultdict(list)
        """Configs that are the same where bounds checks are needed, by template and policy."""
        for (stale, unusual, *_), numbers in clusters.items():
            self._ranks[stale, unusual].append(numbers)

    def ranked(
        self, gemm: Gemm, asked: _Question, edges: Callable[[Leader], bool]
    ) -> Iterator[Predicted]:
        """See `Portfolio.ranked`.

        No score is under what the least costs of a config add up to, and few of these have to be
        looked behind before the best of all is known: a quarter of them, mostly.
        """
        works = self._works_for(gemm)
        moved = map(add, self._fixed, map(mul, self._bytes, repeat(asked.traffic_bytes * _BARELY)))
        least = list(map(add, moved, map(mul, self._units, map(mul, works, repeat(_BARELY)))))
        seen: set[tuple[str, str]] = set()
        for _, clusters in sorted(self._ranks.items()):
            waiting: list[_Waiting] = [
                (least[each[0]] if len(each) == 1 else min([least[one] for one in each]), each, ())
                for each in clusters
            ]
            heapify(waiting)
            scored: list[_Scored] = []
            while waiting or scored:
                if not scored or (waiting and waiting[0][0] <= scored[0][0]):
                    bound, each, fars = heappop(waiting)
                    if not fars:
                        fars = tuple(
                            [aparts(asked.place, self._configs[one].places) for one in each]
                        )
                        bound *= PER_DOUBLING ** rounded(min(map(min, fars)))
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

    def _works_for(self, gemm: Gemm) -> list[float]:
        """`Speed.work` of each, written out."""
        m, n, k, batch, at_once = gemm.m, gemm.n, gemm.k or 1, gemm.batch, self._speed.at_once
        ceil, rest = math.ceil, 1 - ROUNDED
        there = [
            (
                waves
                if (waves := each * (-(-m // tile_m) * -(-n // tile_n) * batch) / at_once)
                > EVEN_FROM
                else ROUNDED * ceil(waves) + rest * waves,
                k / each,
            )
            for tile_m, tile_n, each in self._dispatches
        ]
        each = [(*there[number], held, more) for number, held, more in self._works]
        found = [
            (waves / held if waves > held else 1.0) * (depth + more)
            for waves, depth, held, more in each
        ]
        for number in self._alone:
            found[number] = self._configs[number].work(gemm, self._speed)
        return found

    def _totals(
        self,
        cluster: list[int],
        fars: Iterable[list[float]],
        asked: _Question,
        works: list[float],
        edges: Callable[[Leader], bool],
    ) -> Iterable[_Total]:
        """What the configs of a cluster predict, those together that are the same here."""
        found: dict[_Name, _Total] = {}
        for number, apart in zip(cluster, fars, strict=True):
            one = self._configs[number]
            needed = one.unchecked and edges(one.first)
            total = _Total(number, one, apart, asked, works[number], needed)
            if len(cluster) == 1:
                return (total,)
            known = found.setdefault(one.names[needed], total)
            if known is not total:
                known.add(total)
        return found.values()


class _Alike:
    """The results with operands of the same dtypes."""

    def __init__(self, leaders: list[Leader], speed: Speed) -> None:
        self._speed = speed
        firsts = {leader.key: leader for leader in leaders}
        self._problems = {key: (doublings(one), one.traffic_bytes) for key, one in firsts.items()}
        self._kinds = {one.kind for one in firsts.values()}
        by_config: defaultdict[tuple[str | None, ...], list[Leader]] = defaultdict(list)
        for one in leaders:
            by_config[one.family, one.text, one.generator_hash, one.policy].append(one)
        self._by_family: defaultdict[str, dict[int, list[Leader]]] = defaultdict(dict)
        """The measurements of each config, by its place among all."""
        for place, rows in enumerate(by_config.values()):
            self._by_family[rows[0].family][place] = rows
        self._measured: dict[str, dict[int, _Measured]] = {}
        """The same of families that were wanted already."""
        self._tables: dict[tuple[str, ...], _Table] = {}
        """Those of several families, in their order."""

    def _table_for(self, gemm: Gemm) -> _Table:
        """The configs of families that may be for ``gemm``: the others would cost imports."""
        families = tuple(each for each in self._by_family if FAMILIES.may(each, gemm))
        if families not in self._tables:
            found: dict[int, _Measured] = {}
            for family in families:
                if family not in self._measured:
                    self._measured[family] = dict(self._read(family))
                found |= self._measured[family]
            self._tables[families] = _Table([found[place] for place in sorted(found)], self._speed)
        return self._tables[families]

    def _read(self, family: str) -> Iterator[tuple[int, _Measured]]:
        for place, rows in self._by_family[family].items():
            try:
                yield place, _Measured(rows, self._problems, self._speed)
            except (TypeError, ValueError, ArithmeticError):
                continue  # values no tuner writes, or fields of another version

    def ranked(self, gemm: Gemm, edges: Callable[[Leader], bool]) -> Iterator[Predicted]:
        """See `Portfolio.ranked`."""
        kind = gemm.kind
        like = {other: likeness(other, kind) or 1.0 for other in self._kinds}
        asked = _Question(doublings(gemm), gemm.traffic_bytes, like)
        return self._table_for(gemm).ranked(gemm, asked, edges)


class Portfolio:
    """The results of one device with operands of the same dtypes, for lookups of such problems."""

    def __init__(self, leaders: Iterable[Leader], speed: Callable[[], Speed]) -> None:
        self.leaders = tuple(leaders)
        self._speed = speed  # read when something is ranked, for a problem that was tuned never is

    @cached_property
    def _alike(self) -> _Alike:
        return _Alike(list(self.leaders), self._speed())

    @cached_property
    def by_problem(self) -> dict[str, list[Leader]]:
        """The measurements of each problem, by `Gemm.key`, in their order."""
        found: defaultdict[str, list[Leader]] = defaultdict(list)
        for leader in self.leaders:
            found[leader.key].append(leader)
        return dict(found)

    def ranked(self, gemm: Gemm, edges: Callable[[Leader], bool]) -> Iterator[Predicted]:
        """Every config that was measured, each once: of today's templates and the usual policy
        first, then by the time predicted, with the doubts that distances are worth.

        Args:
            gemm: the problem.
            edges: whether a config is without the bounds checks that the problem needs.
        """
        return self._alike.ranked(gemm, edges)


_kept: dict[tuple[str, str], tuple[tuple[Catalogue, ...], Portfolio]] = {}
"""By device and dtypes, with the catalogues that it comes from."""


def is_kept(catalogues: tuple[Catalogue, ...], device_key: str, gemm: Gemm) -> bool:
    """Whether `portfolio_of` has read all that it needs."""
    kept = _kept.get((device_key, gemm.kind.partition(":")[0]))
    return kept is not None and kept[0] == catalogues


def portfolio_of(catalogues: tuple[Catalogue, ...], device_key: str, gemm: Gemm) -> Portfolio:
    """What they know of a device and problems with the dtypes of ``gemm``.

    The device is what the first that knows it says, apart from results.
    """
    dtypes = gemm.kind.partition(":")[0]
    kept = _kept.get((device_key, dtypes))
    if kept is None or kept[0] != catalogues:
        knowing = [each for each in catalogues if device_key in each.devices]
        leaders = [leader for each in knowing for leader in each.leaders(device_key, dtypes)]

        def speed() -> Speed:
            return knowing[0].speed(device_key) if knowing else Speed.of("", ())

        kept = _kept[device_key, dtypes] = (catalogues, Portfolio(leaders, speed))
    return kept[1]
