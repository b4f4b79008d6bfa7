"""The search itself: what callers ask and tell, whichever sampler is behind it.

Every row of the space is legal, so no sampler ever sees the raw grid. Does not render, run or
store anything, and knows nothing of problems or devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np

from gemmtune.errors import UsageError
from gemmtune.kernels.base import Config
from gemmtune.search.guided import Guided, Traits
from gemmtune.search.rows import Candidate, Origin, Row

if TYPE_CHECKING:
    from gemmtune.search.study import Study

SamplerName = Literal["guided", "tpe", "random", "exhaustive"]
"""guided: a Gaussian process. tpe: Optuna's Parzen estimators. random: a seeded permutation.
exhaustive: every row in the space's order."""

SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
DEFAULT_SAMPLER: SamplerName = "guided"


class Chooser(Protocol):
    """A model that chooses rows; each is chosen once at most."""

    def ask(self, forced: Row | None) -> Candidate:
        """The ``forced`` row, or one that the model chooses; only while a row is left."""

    def occupy(self, family: str, config: Config) -> None:
        """Never choose this row."""

    def release(self, family: str, config: Config) -> None:
        """This row may be chosen again: it was asked or occupied, and nothing came of it."""

    def finish(self, family: str, config: Config, value_ns: float | None) -> None:
        """Learn a result, whether the row was asked here or not; None: it failed."""

    def expected_gain(self) -> float | None:
        """See `Search.expected_gain`."""


def _parzen(rows: Sequence[Row], seed: int) -> Chooser:
    from gemmtune.search.tpe import Parzen  # late: Optuna takes half a second to import

    return Parzen(rows, seed)


class Search:
    """Ask and tell over the rows of one or several families, each asked once at most.

    The same space, seed and order of calls gives the same rows. Used from one thread.
    """

    def __init__(
        self,
        space: Iterable[Row],
        *,
        first: Iterable[Row] = (),
        sampler: SamplerName = DEFAULT_SAMPLER,
        seed: int = 0,
        traits: Traits | None = None,
        study: Study | None = None,
    ) -> None:
        """Enumerate ``space`` once.

        Args:
            space: (family, config) of every legal row; a row met again is left out.
            first: rows asked before all others, in this order, whether in ``space`` or not.
            sampler: one of `SAMPLERS`.
            seed: of everything random.
            traits: numbers about a row that explain its time, the predicted log2 time first; only
                ``guided`` asks for them, and only of rows it looks at.
            study: shared with other tuners: rows are claimed there, results exchanged.

        Raises:
            UsageError: ``sampler`` is not one of `SAMPLERS`.
        """
        if sampler not in SAMPLERS:
            raise UsageError(f"sampler {sampler!r} is not one of: {', '.join(SAMPLERS)}")
        head = list(dict.fromkeys(first))
        # Hashing hundred thousands of rows takes a while: copies of dicts do not do it again.
        self._free = dict.fromkeys(chain(head, space))
        rows = list(self._free)
        self.size = len(rows)
        self._order: Iterator[Row] = iter(rows)
        self._model: Chooser | None = None
        self._first = head
        if sampler == "random":
            tail = rows[len(head) :]
            permuted = np.random.default_rng(seed).permutation(len(tail))
            self._order = chain(head, (tail[i] for i in permuted))
        elif sampler == "guided" and rows:
            self._model = Guided(rows, seed, traits)
        elif sampler == "tpe" and rows:
            self._model = _parzen(rows, seed)
        self._study = study
        if study is not None:
            self._all = frozenset(self._free)
            study.expect({family: type(config) for family, config in rows})
            self.exchange()

    @property
    def left(self) -> int:
        """Rows that may still be asked."""
        return len(self._free)

    def ask(self) -> Candidate | None:
        """The next row to measure; None when every row was asked, told or excluded."""
        while (candidate := self._choose()) is not None:
            if self._study is None or self._study.claim((candidate.family, candidate.config)):
                break
            self.exchange()  # another tuner was faster, and has told more since
        return candidate

    def _choose(self) -> Candidate | None:
        forced = next((row for row in self._first if row in self._free), None)
        if not self._free:
            return None
        if self._model is not None:
            candidate = self._model.ask(forced)
        else:
            family, config = next(row for row in self._order if row in self._free)
            origin: Origin = "order" if forced is None else "default"
            candidate = Candidate(family=family, config=config, origin=origin)
        del self._free[candidate.family, candidate.config]
        return candidate

    def expected_gain(self) -> float | None:
        """By what share the best time may be expected to fall with the next row; 0.02 is 2 %.

        For the budget "until the expected gain is below x %". It is the model's view at the last
        row that it proposed, and falls, with noise, as the search goes on: stop when several
        proposals in a row are below the threshold. None: the model has not been asked yet, or the
        sampler has none that could tell; then never stop by it.
        """
        return None if self._model is None else self._model.expected_gain()

    def tell(self, candidate: Candidate, value_ns: float | None) -> None:
        """The time of an asked row, or None: it failed, and counts as worse than any time."""
        self.load([(candidate.family, candidate.config, value_ns)])

    def load(self, results: Iterable[tuple[str, Config, float | None]]) -> None:
        """Results from an earlier run or another process: family, config, and time or None.

        They are never asked again. Rows that are not in the space are ignored; a row told twice
        keeps its first result.
        """
        for family, config, value_ns in results:
            self._learn(family, config, value_ns)
            if self._study is not None and (family, config) in self._all:
                self._study.finish((family, config), value_ns)

    def _learn(self, family: str, config: Config, value_ns: float | None) -> None:
        self._free.pop((family, config), None)
        if self._model is not None:
            self._model.finish(family, config, value_ns)

    def exclude(self, family: str, config: Config) -> None:
        """Never ask this row: it is in flight elsewhere. `load` may bring its result later."""
        if self._study is not None:
            self._study.drop((family, config))
        self._withhold(family, config)

    def _withhold(self, family: str, config: Config) -> None:
        self._free.pop((family, config), None)
        if self._model is not None:
            self._model.occupy(family, config)

    def begin(self, family: str, config: Config) -> None:
        """Never ask this row: it is in flight here, without having been asked."""
        self._withhold(family, config)
        if self._study is not None and (family, config) in self._all:
            self._study.claim((family, config))

    def give_up(self) -> None:
        """What is in flight here will not be told; other tuners may have it."""
        if self._study is not None:
            self._study.drop_all()

    def exchange(self) -> None:
        """Take in what other tuners have begun, told and given up, and show that this one lives.

        To be called every few seconds while anything is in flight; nothing without a study.
        """
        if self._study is None:
            return
        changes = self._study.changes()
        for (family, config), value_ns in changes.results:
            self._learn(family, config, value_ns)
        for family, config in changes.taken:
            self._withhold(family, config)
        for row in changes.freed:
            if row in self._all:
                self._release(row)

    def _release(self, row: Row) -> None:
        self._free[row] = None
        self._order = chain([row], self._order)
        if self._model is not None:
            self._model.release(*row)
