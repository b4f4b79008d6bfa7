"""A Gaussian process that guides the search: asks where the best is expected to improve most.

Every family has a process of its own, over the codes of its fields and, where they are given, the
traits of each row; what they expect compares, so families compete. A share of rows stays random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np

from gemmtune.kernels.base import Config
from gemmtune.search.gaussian import Array, GaussianProcess, expected_improvement
from gemmtune.search.outlook import Outlook
from gemmtune.search.rows import Block, Candidate, Origin, Row

Traits = Callable[[str, Config], Sequence[float]]
"""Numbers about a row that explain its time, the predicted log2 time first."""

START = 5
"""Results of a family before its process is asked."""
RANDOM_SHARE = 0.05
"""Of the rows asked after the start, against a process that is sure of what is wrong."""
FIRST_STEPS = 30
"""Of learning, when a process is first asked."""
STEPS = 4
"""Of learning, whenever so much is new:"""
RELEARN_SHARE = 0.02
"""Of the results so far."""
LEARNT = 256
"""Results that a process learns from, the best and the latest: more cost more than they tell."""
LOOKED_AT = 2000
"""Random rows that are looked at for the next one."""
NEAR = 500
"""And so many that are nearest to the best so far."""
PROPOSALS = 4
"""Rows proposed, at least, from one look; half of those in flight, if that is more."""
FAR_OCTAVES = 1.0
"""Times so many octaves over the best hardly differ: nothing can be learnt there of the best."""
LEAST_HOPE = 0.01
"""That a row works, where all near it failed: a driver may be fixed, a limit may be odd."""
CHOICE = 3
"""Of so many random rows, the one that should be fastest by its traits is taken."""


class _Look:
    """Rows that were looked at, and what they promise since."""

    def __init__(self, rows: Sequence[int], outlook: Outlook, best: float, worst: float) -> None:
        self.rows = np.array(rows)
        self._column = {row: column for column, row in enumerate(rows)}
        self._outlook = outlook
        self.best = best
        """When the look was taken."""
        self._worst = worst
        self.proposed = 0
        """Rows proposed from it."""

    def ask(self, row: int) -> None:
        """The row is in flight."""
        if row in self._column:
            self._outlook.ask(self._column[row])

    def tell(self, row: int, value: float | None) -> None:
        """What came of a row in flight."""
        if row in self._column:
            compressed = self._worst if value is None else float(_compressed([value], self.best)[0])
            self._outlook.tell(self._column[row], compressed, float(value is not None))

    def best_gain(self, best: float, free: Array) -> tuple[float, int]:
        """The most that a free row promises, and which."""
        open_ = np.flatnonzero(free[self.rows])
        mean, deviation = self._outlook.mean[open_], self._outlook.deviation[open_]
        works = np.clip(self._outlook.others[open_], LEAST_HOPE, 1.0)
        gains = expected_improvement(mean, deviation, best) * works
        # Where all gains vanish, the most hopeful row is still the best to ask.
        at = int(np.argmax(gains) if gains.max() > 0.0 else np.argmin(mean - deviation))
        return float(gains[at]), int(self.rows[open_[at]])


class _Process:
    """What is known of one family."""

    def __init__(self, block: Block, traits: Traits | None) -> None:
        self.block = block
        self._traits = traits
        scale = np.array([max(size - 1, 1) for size in block.sizes], dtype=np.float64)
        self._codes: Array = np.stack(block.codes, axis=1) / scale if block.codes else _none(block)
        self._known: Array = np.zeros((0, 0))
        self._is_known: Array = np.zeros(len(block.configs), dtype=bool)
        self._gaussian: GaussianProcess | None = None
        self._fitted = 0
        self._low: Array | None = None
        self._span: Array | None = None
        self._look: _Look | None = None
        self.values: dict[int, float | None] = {}
        """log2 of the time of every row that was told; None: it failed."""
        self.pending: set[int] = set()
        """Rows that were asked and not yet told."""

    def ask(self, row: int) -> None:
        """The row is in flight from now on."""
        self.block.occupy(row)
        self.pending.add(row)
        if self._look is not None:
            self._look.ask(row)

    def give_back(self, row: int) -> None:
        """Nothing came of the row; it is free again."""
        self.pending.discard(row)
        self.block.release(row)
        self._look = None

    def tell(self, row: int, value: float | None) -> None:
        """What came of a row."""
        self.block.occupy(row)
        self.values[row] = value
        if self._look is not None and row in self.pending:
            self._look.tell(row, value)
        self.pending.discard(row)

    def predicted(self, row: int) -> float:
        """The model's log2 time; equal for all where there are no traits."""
        return float(self._of([row])[0, 0]) if self._traits is not None else 0.0

    def _of(self, rows: Sequence[int]) -> Array:
        """Traits of rows, asked once of each."""
        at = np.array(rows)
        for row in at[~self._is_known[at]]:
            assert self._traits is not None
            traits = self._traits(self.block.family, self.block.configs[row])
            if not len(self._known):
                self._known = np.zeros((len(self.block.configs), len(traits)))
            self._known[row] = traits
            self._is_known[row] = True
        found: Array = self._known[at]
        return found

    def features(self, rows: Sequence[int]) -> Array:
        """Codes from 0 to 1, and traits scaled by those of the rows learnt from first."""
        codes: Array = self._codes[list(rows)]
        if self._traits is None:
            return codes
        traits = self._of(rows)
        if self._low is None or self._span is None:
            self._low = traits.min(axis=0)
            self._span = np.maximum(traits.max(axis=0) - self._low, 1e-9)
            self._span[traits.max(axis=0) - self._low < 1e-9] = np.inf
        return np.hstack([codes, (traits - self._low) / self._span])

    def best_gain(self, best: float, rng: np.random.Generator) -> tuple[float, int]:
        """The free row that is expected to improve most on ``best``, and by how many octaves."""
        look = self._look
        if (
            look is None
            or look.proposed >= max(PROPOSALS, len(self.pending) // 2)
            or best < look.best  # what is near the new best has to be looked at
            or not self.block.free[look.rows].any()
        ):
            look = self._look = self._take_look(best, rng)
        look.proposed += 1
        return look.best_gain(best, self.block.free)

    def _candidates(self, rng: np.random.Generator) -> list[int]:
        free = np.flatnonzero(self.block.free)
        if len(free) <= LOOKED_AT + NEAR:
            return [int(row) for row in free]
        some = rng.choice(free, LOOKED_AT, replace=False)
        timed = {row: value for row, value in self.values.items() if value is not None}
        near = [
            self.block.near_free(row, NEAR // 2)
            for row in sorted(timed, key=lambda row: timed[row])[:2]
        ]
        return list(dict.fromkeys(int(row) for row in chain(some, *near)))

    def _take_look(self, best: float, rng: np.random.Generator) -> _Look:
        candidates = self._candidates(rng)
        learnt = self._learnt()
        values = _compressed([self.values[row] for row in learnt], best)
        gaussian = self._learn(self.features(learnt), values)
        worked = np.array([float(self.values[row] is not None) for row in learnt])
        pending = sorted(self.pending)
        rows = pending + candidates
        outlook = Outlook(gaussian, self.features(rows), worked)
        look = _Look(rows, outlook, best, float(values.max()))
        for row in pending:
            look.ask(row)
        return look

    def _learn(self, x: Array, values: Array) -> GaussianProcess:
        # The more there is, the less a result changes.
        due = len(self.values) > self._fitted * (1.0 + RELEARN_SHARE)
        steps = STEPS if due else 0
        if self._gaussian is None:
            self._gaussian = GaussianProcess(x.shape[1], x.shape[1] - self._codes.shape[1])
            steps = FIRST_STEPS
        self._fitted = len(self.values) if steps else self._fitted
        self._gaussian.fit(x, values, steps)
        return self._gaussian

    def _learnt(self) -> list[int]:
        rows = list(self.values)
        if len(rows) <= LEARNT:
            return rows
        late = rows[-LEARNT // 4 :]
        early = rows[: -LEARNT // 4]
        early.sort(key=lambda row: math.inf if (v := self.values[row]) is None else v)
        return early[: LEARNT - len(late)] + late


def _none(block: Block) -> Array:
    return np.zeros((len(block.configs), 0))


def _compressed(values: Sequence[float | None], best: float) -> Array:
    """Values with those far over the best drawn together; what failed is like the worst."""
    times = np.array([math.nan if value is None else value for value in values])
    over = times - best
    beyond = np.maximum(over - FAR_OCTAVES, 0.0)
    over = np.minimum(over, FAR_OCTAVES) + np.log1p(beyond)
    worst = float(np.nanmax(over, initial=FAR_OCTAVES))
    compressed: Array = best + np.where(np.isnan(over), worst, over)
    return compressed


class Guided:
    """Chooses rows by the processes of all families."""

    def __init__(self, rows: Sequence[Row], seed: int, traits: Traits | None) -> None:
        self._rng = np.random.default_rng(seed)
        families: dict[str, list[Config]] = {}
        for family, config in rows:
            families.setdefault(family, []).append(config)
        self._processes = {
            name: _Process(Block(name, configs, self._rng), traits)
            for name, configs in families.items()
        }
        self._gain: float | None = None

    def expected_gain(self) -> float | None:
        """See `Search.expected_gain`."""
        return self._gain

    def ask(self, forced: Row | None) -> Candidate:
        """The ``forced`` row, or the one that promises most."""
        family, row, origin = self._forced(forced) if forced else self._choose()
        process = self._processes[family]
        process.ask(row)
        return Candidate(family=family, config=process.block.configs[row], origin=origin)

    def _forced(self, forced: Row) -> tuple[str, int, Origin]:
        family, config = forced
        return family, self._processes[family].block.index[config], "default"

    def _choose(self) -> tuple[str, int, Origin]:
        free = [process for process in self._processes.values() if process.block.free_count]
        fresh = [p for p in free if len(p.block.asked) < START]
        best = self._best()
        if fresh:
            # Families take turns: a small one would hardly be seen beside a large one.
            process = min(fresh, key=lambda process: len(process.block.asked))
            return process.block.family, process.block.spread_free(process.predicted), "spread"
        if best is None or self._rng.random() < RANDOM_SHARE:
            return self._random(free)
        gains = [(*p.best_gain(best, self._rng), p) for p in free if p.values]
        if not gains:
            return self._random(free)
        gain, row, process = max(gains, key=lambda entry: entry[0])
        self._gain = 1.0 - 2.0**-gain
        return process.block.family, row, "model"

    def _random(self, free: Sequence[_Process]) -> tuple[str, int, Origin]:
        counts = np.array([process.block.free_count for process in free])
        process = free[int(self._rng.choice(len(free), p=counts / counts.sum()))]
        rows = process.block.some_free(CHOICE)
        return process.block.family, min(rows, key=process.predicted), "random"

    def _best(self) -> float | None:
        told = [v for p in self._processes.values() for v in p.values.values() if v is not None]
        return min(told, default=None)

    def occupy(self, family: str, config: Config) -> None:
        """Never choose this row."""
        process = self._processes.get(family)
        if process is not None and config in process.block.index:
            process.block.occupy(process.block.index[config])

    def release(self, family: str, config: Config) -> None:
        """This row may be chosen again."""
        process = self._processes.get(family)
        if process is not None and config in process.block.index:
            process.give_back(process.block.index[config])

    def finish(self, family: str, config: Config, value_ns: float | None) -> None:
        """Add a result, whether the row was asked here or not."""
        process = self._processes.get(family)
        row = None if process is None else process.block.index.get(config)
        if process is None or row is None or row in process.values:
            return
        process.tell(row, None if value_ns is None else math.log2(value_ns))
