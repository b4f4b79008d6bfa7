"""What was measured on one device, arranged so that its configs are quickly ranked for a problem.

Reads no database, and asks no family whether a config is legal.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cached_property
from itertools import chain

from gemmtune.forest import Forest
from gemmtune.kernels import FAMILIES
from gemmtune.lookup.catalogue import Catalogue
from gemmtune.lookup.leader import Leader
from gemmtune.lookup.learned import Learned
from gemmtune.lookup.predict import Speed, aparts, doublings, rounded
from gemmtune.lookup.ranking import Measured, Predicted, Table
from gemmtune.problem import Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


MOST_ALONE = 8
"""So many problems of a database are asked about alone before all of its results are read."""


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
        self._measured: dict[str, dict[int, Measured]] = {}
        """The same of families that were wanted already."""
        self._tables: dict[tuple[str, ...], Table] = {}
        """Those of several families, in their order."""

    def table(self, gemm: Gemm) -> Table:
        """The configs of families that may be for ``gemm``: the others would cost imports."""
        families = tuple(each for each in self._by_family if FAMILIES.may(each, gemm))
        if families not in self._tables:
            configs = self.configs(families)
            self._tables[families] = Table(configs, self._speed, self._kinds)
        return self._tables[families]

    def configs(self, families: Iterable[str] | None = None) -> list[Measured]:
        """Those of some families, or of all, in their order."""
        found: dict[int, Measured] = {}
        for family in self._by_family if families is None else families:
            if family not in self._measured:
                self._measured[family] = dict(self._read(family))
            found |= self._measured[family]
        return [found[place] for place in sorted(found)]

    def _read(self, family: str) -> Iterator[tuple[int, Measured]]:
        for place, rows in self._by_family[family].items():
            try:
                yield place, Measured(rows, self._problems, self._speed)
            except (TypeError, ValueError, ArithmeticError):
                continue  # values no tuner writes, or fields of another version

    def ranked(
        self,
        gemm: Gemm,
        edges: Callable[[Leader], bool],
        first: Iterable[tuple[str, str]] = (),
    ) -> Iterator[Predicted]:
        """See `Portfolio.ranked`."""
        return self.table(gemm).ranked(gemm, edges, first)


UNSEEN_REACH = 1.0
"""Where results that are newer than a forest are nearer than so many doublings, it says nothing."""


class Advice:
    """A forest, and the problems of results that it does not know of."""

    def __init__(self, forest: Forest, unseen: Iterable[tuple[int, int, int, int]]) -> None:
        self._forest = forest
        self._unseen = [tuple([math.log2(max(size, 1)) for size in sizes]) for sizes in unseen]

    def on(self, gemm: Gemm) -> list[tuple[str, str]]:
        """The configs to take first, by family and JSON; none for a batch."""
        if gemm.batch != 1:
            return []
        fars = aparts(doublings(gemm), self._unseen)
        if fars and rounded(min(fars)) < UNSEEN_REACH:
            return []
        try:
            return self._forest.first(gemm.m, gemm.n, gemm.k)
        except (TypeError, ValueError, LookupError):
            return []  # damaged: no reason to answer nothing


class Portfolio:
    """The results of one device with operands of the same dtypes, for lookups of such problems.
    Each part is read when it is first wanted: what a problem that was tuned does without, for one.
    """

    def __init__(
        self,
        leaders: Callable[[], Sequence[Leader]],
        speed: Callable[[], Speed],
        learned: Learned | None = None,
        advice: Callable[[str], Advice | None] = lambda _: None,
    ) -> None:
        """With what was learned of the same results, and by `Gemm.kind` of what to take first, if
        that is known.
        """
        self._leaders, self._speed, self._learned = leaders, speed, learned
        self._ask = advice
        self._advice: dict[str, Advice | None] = {}

    @cached_property
    def _alike(self) -> _Alike:
        return _Alike(list(self._leaders()), self._speed())

    @cached_property
    def _by_problem(self) -> dict[str, list[Leader]]:
        found: defaultdict[str, list[Leader]] = defaultdict(list)
        for leader in self._leaders():
            found[leader.key].append(leader)
        return dict(found)

    def asks_alone(self, key: str) -> bool:
        """Whether there may be results of a problem, and not all have been read."""
        learned = self._learned
        return learned is not None and key in learned.problems and "_by_problem" not in vars(self)

    def of_problem(self, key: str) -> list[Leader]:
        """The measurements of a problem, by `Gemm.key`, in their order."""
        if self._learned is not None and key not in self._learned.problems:
            return []
        return self._by_problem.get(key, [])

    def ranked(self, gemm: Gemm, edges: Callable[[Leader], bool]) -> Iterator[Predicted]:
        """Every config that was measured, each once: of today's templates and the usual policy
        first, then by the time predicted, with the doubts that distances are worth. Before all of
        them those that are advised.

        Args:
            gemm: the problem.
            edges: whether a config is without the bounds checks that the problem needs.
        """
        if gemm.kind not in self._advice:
            self._advice[gemm.kind] = self._ask(gemm.kind)
        advice = self._advice[gemm.kind]
        return (self._learned or self._alike).ranked(gemm, edges, advice.on(gemm) if advice else ())


_kept: dict[tuple[str, str], tuple[tuple[Catalogue, ...], Portfolio]] = {}
"""By device and dtypes, with the catalogues that it comes from."""


def asks_alone(catalogues: tuple[Catalogue, ...], device_key: str, gemm: Gemm) -> bool:
    """Whether the results of one problem are to be asked for alone: it may have some, not all have
    been read, and reading these takes longer than what was asked for so far.
    """
    if any(each.asked >= MOST_ALONE for each in catalogues):
        return False
    kept = _kept.get((device_key, gemm.kind.partition(":")[0]))
    return kept is None or kept[0] != catalogues or kept[1].asks_alone(gemm.key)


def portfolio_of(catalogues: tuple[Catalogue, ...], device_key: str, gemm: Gemm) -> Portfolio:
    """What they know of a device and problems with the dtypes of ``gemm``.

    The device is what the first that knows it says, apart from results.
    """
    dtypes = gemm.kind.partition(":")[0]
    kept = _kept.get((device_key, dtypes))
    if kept is None or kept[0] != catalogues:
        knowing = tuple(each for each in catalogues if device_key in each.devices)
        kept = _kept[device_key, dtypes] = (catalogues, _portfolio(knowing, device_key, dtypes))
    return kept[1]


def _portfolio(knowing: tuple[Catalogue, ...], device_key: str, dtypes: str) -> Portfolio:
    def leaders() -> list[Leader]:
        return [leader for each in knowing for leader in each.leaders(device_key, dtypes)]

    def speed() -> Speed:
        return knowing[0].speed(device_key) if knowing else Speed.of("", ())

    learned = None
    if len(knowing) == 1:  # of the results of several together nobody has learned yet
        rows, problems = knowing[0].learned(device_key, dtypes)
        if rows:
            learned = Learned(rows, problems, knowing[0].devices[device_key])

    def advice(kind: str) -> Advice | None:
        found = [each.forest(device_key, kind) for each in knowing]
        forests = [one[0] for one in found if one]
        if not forests:
            return None
        best = max(forests, key=lambda one: one.newest)
        # What a database has that is known to its own trees is known to newer ones.
        unseen = (
            each.unseen(device_key, kind, best.newest, one[1] if one else 0)
            for each, one in zip(knowing, found, strict=True)
        )
        return Advice(best, chain.from_iterable(unseen))

    return Portfolio(leaders, speed, learned, advice)
