"""What was measured on one device, arranged so that its configs are quickly ranked for a problem.

Reads no database, and asks no family whether a config is legal.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cached_property
from operator import itemgetter, mul

from gemmtune.kernels import FAMILIES
from gemmtune.light import NamedTuple
from gemmtune.lookup.catalogue import Catalogue, Leader
from gemmtune.lookup.predict import (
    CHECKS_COST,
    Dispatch,
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
    from collections.abc import Callable, Iterable, Iterator, Sequence


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


class _Measured:
    """One config, template and policy, with the costs that each of its times stands for."""

    __slots__ = (
        *("_pace", "_shape", "checked", "costs", "first", "leaders", "longest_ns", "numbers"),
        *("unchecked", "weights_in"),
    )

    def __init__(
        self, leaders: list[Leader], problems: dict[str, tuple[int, int]], speed: Speed
    ) -> None:
        self.first = leaders[0]
        stale, unusual, family = self.first.stale, self.first.unusual, self.first.family
        self.unchecked = self.first.unchecked
        self.checked: dict[bool, _Name] = {
            needed: (stale, unusual, family, self.first.with_checks(needed).text)
            for needed in (False, True)
        }
        """What it is called with bounds checks where they are needed."""
        self.leaders = leaders
        self._shape = self.first.shape
        self.numbers = [problems[leader.key][0] for leader in leaders]
        pick, at = itemgetter(*self.numbers), self.numbers[0]
        self.weights_in: Callable[[list[float]], Sequence[float]] = (
            pick if len(leaders) > 1 else lambda weights: (weights[at],)
        )
        """Its own of all problems' weights."""
        times = []
        for leader in leaders:
            if not 0.0 < leader.time_ns < math.inf:
                raise ValueError(f"a time of {leader.time_ns} ns")
            traffic = problems[leader.key][1]
            parts = speed.parts(leader.time_ns, traffic, self._shape.passes)
            times.append((parts, Dispatch(*self._dispatch(leader)), traffic))
        pace = speed.pace(self._shape.invocations, (each[:2] for each in times))
        self._pace = pace
        self.longest_ns = max(leader.time_ns for leader in leaders)
        self.costs = [
            (parts.launches, parts.traffic / max(traffic, 1), parts.work / speed.work(*there, pace))
            for parts, there, traffic in times
        ]
        """Nanoseconds in any case, for a byte of traffic and for a unit of work, of each time."""

    def _dispatch(self, there: Gemm | Leader) -> tuple[float, float]:
        """As a `Dispatch`, which takes too long to make here."""
        _, _, each, tile = self._shape
        if tile is None:
            gemm = there.gemm if isinstance(there, Leader) else there
            return self.first.workgroups(gemm), max(gemm.k, 1)
        # As families' own arithmetic does.
        return each * tiles(there, *tile), (there.k or 1) / each

    def work(self, gemm: Gemm, speed: Speed) -> float:
        """`Speed.work` of the config for ``gemm``."""
        return speed.work(*self._dispatch(gemm), self._pace)


class _Sum:
    """What the measurements of one config predict, added up."""

    __slots__ = ("logs", "longest_ns", "nearest", "weights", "weights_in")

    def __init__(
        self, one: _Measured, weights: Sequence[float], logs: Iterable[float], cost: float
    ) -> None:
        """Of its times, as logarithms, and what they cost more, with their weights."""
        self.weights = total = sum(weights)
        self.logs = sum(map(mul, weights, logs)) + cost * total
        self.nearest, self.weights_in = one, weights
        self.longest_ns = one.longest_ns

    def add(self, other: _Sum) -> None:
        """Take in what others of its times predict."""
        self.weights += other.weights
        self.logs += other.logs
        self.longest_ns = max(self.longest_ns, other.longest_ns)
        if max(other.weights_in) > max(self.weights_in):
            self.nearest, self.weights_in = other.nearest, other.weights_in


class _Alike:
    """The results with operands of the same dtypes."""

    def __init__(self, leaders: list[Leader], speed: Speed) -> None:
        self._speed = speed
        firsts = {leader.key: leader for leader in leaders}
        self._problems = {
            key: (number, one.traffic_bytes) for number, (key, one) in enumerate(firsts.items())
        }
        self._kinds = [one.kind for one in firsts.values()]
        self._every_kind = set(self._kinds)
        self._doublings = [doublings(one) for one in firsts.values()]
        by_config: defaultdict[tuple[str | None, ...], list[Leader]] = defaultdict(list)
        for one in leaders:
            by_config[one.family, one.text, one.generator_hash, one.policy].append(one)
        self._by_family: defaultdict[str, dict[int, list[Leader]]] = defaultdict(dict)
        """The measurements of each config, by its place among all."""
        for place, rows in enumerate(by_config.values()):
            self._by_family[rows[0].family][place] = rows
        self._measured: dict[str, dict[int, _Measured]] = {}
        """The same of families that were wanted already."""
        self._configs: dict[tuple[str, ...], list[_Measured]] = {}
        """Those of several families, in their order."""

    def _configs_for(self, gemm: Gemm) -> list[_Measured]:
        """The configs of families that may be for ``gemm``: the others would cost imports."""
        families = tuple(each for each in self._by_family if FAMILIES.may(each, gemm))
        if families not in self._configs:
            found: dict[int, _Measured] = {}
            for family in families:
                if family not in self._measured:
                    self._measured[family] = dict(self._read(family))
                found |= self._measured[family]
            self._configs[families] = [found[place] for place in sorted(found)]
        return self._configs[families]

    def _read(self, family: str) -> Iterator[tuple[int, _Measured]]:
        for place, rows in self._by_family[family].items():
            try:
                yield place, _Measured(rows, self._problems, self._speed)
            except (TypeError, ValueError, ArithmeticError):
                continue  # values no tuner writes, or fields of another version

    def ranked(self, gemm: Gemm, edges: Callable[[Leader], bool]) -> Iterator[Predicted]:
        """See `Portfolio.ranked`."""
        configs = self._configs_for(gemm)
        here, kind = doublings(gemm), gemm.kind
        like = {other: likeness(other, kind) or 1.0 for other in self._every_kind}
        likes = [like[other] for other in self._kinds]
        fars = aparts(here, self._doublings)
        counts = weights(fars, likes)
        traffic, log = gemm.traffic_bytes, math.log
        sums: dict[_Name, _Sum] = {}
        for one in configs:
            needed = one.unchecked and edges(one.first)
            work = one.work(gemm, self._speed)
            times = [fixed + byte * traffic + unit * work for fixed, byte, unit in one.costs]
            cost = log(CHECKS_COST) if needed else 0.0
            found = _Sum(one, one.weights_in(counts), map(log, times), cost)
            known = sums.setdefault(one.checked[needed], found)
            if known is not found:
                known.add(found)
        yield from self._sorted(sums, fars, likes, edges)

    def _sorted(
        self,
        sums: dict[_Name, _Sum],
        fars: list[float],
        likes: list[float],
        edges: Callable[[Leader], bool],
    ) -> Iterator[Predicted]:
        ranks, exp = [], math.exp
        for place, ((stale, unusual, *_), total) in enumerate(sums.items()):
            trusted = total.weights_in.index(max(total.weights_in))
            number = total.nearest.numbers[trusted]
            far = rounded(fars[number])
            time_ns = exp(total.logs / total.weights)
            score = time_ns * likes[number] * doubt(far, time_ns, total.longest_ns)
            ranks.append((stale, unusual, score, far, place, time_ns, total.nearest, trusted))
        names = list(sums)
        seen = set()
        for *_, far, place, time_ns, nearest, trusted in sorted(ranks):
            name = names[place][2:]
            if name not in seen:
                seen.add(name)  # by its best template and policy
                leader = nearest.leaders[trusted]
                fitting = leader.with_checks(edges(leader))
                yield Predicted(leader=fitting, time_ns=time_ns, far=far)


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
