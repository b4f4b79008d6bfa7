"""Which config to measure next: ask and tell over the enumerated legal space. The home of optuna.

Every row of the space is legal, so no sampler ever sees the raw grid. Does not render, run or
store anything, and knows nothing of problems or devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any, Literal, get_args

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from gemmtune.errors import UsageError
from gemmtune.kernels.base import Config

SamplerName = Literal["tpe", "random", "exhaustive"]
"""tpe: model-based. random: a seeded permutation. exhaustive: every row in the space's order."""

SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)

Origin = Literal["default", "spread", "random", "model", "order"]
"""Why a row was asked: a family's default, the space-filling start, the random share, the model's
proposal, or simply the next one."""

STARTUP = 20
"""Results before the model is asked."""
RANDOM_SHARE = 0.15
"""Of the rows asked after that: a model sure too early never leaves its first good region."""
SPREAD_CANDIDATES = 24
"""Random rows of which the start takes the one farthest from all rows before it."""
FAMILY = "family"
"""The parameter that says which family's parameters a trial has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A row of the space that was asked for."""

    family: str
    """Name of its family."""
    config: Config
    """The point."""
    origin: Origin
    """Why it was chosen."""


class Search:
    """Ask and tell over the rows of one or several families, each asked once at most.

    The same space, seed and order of calls gives the same rows. Used from one thread.
    """

    def __init__(
        self,
        space: Iterable[tuple[str, Config]],
        *,
        first: Iterable[tuple[str, Config]] = (),
        sampler: SamplerName = "tpe",
        seed: int = 0,
    ) -> None:
        """Enumerate ``space`` once.

        Args:
            space: (family, config) of every legal row; a row met again is left out.
            first: rows asked before all others, in this order, whether in ``space`` or not.
            sampler: one of `SAMPLERS`.
            seed: of everything random.

        Raises:
            UsageError: ``sampler`` is not one of `SAMPLERS`.
        """
        if sampler not in SAMPLERS:
            raise UsageError(f"sampler {sampler!r} is not one of: {', '.join(SAMPLERS)}")
        head = list(dict.fromkeys(first))
        rows = list(dict.fromkeys(chain(head, space)))
        self.size = len(rows)
        self._free = dict.fromkeys(rows)
        self._order: Iterator[tuple[str, Config]] = iter(rows)
        self._model: _Model | None = None
        self._first = head
        if sampler == "random":
            tail = rows[len(head) :]
            permuted = np.random.default_rng(seed).permutation(len(tail))
            self._order = chain(head, (tail[i] for i in permuted))
        elif sampler == "tpe" and rows:
            self._model = _Model(rows, seed)

    @property
    def left(self) -> int:
        """Rows that may still be asked."""
        return len(self._free)

    def ask(self) -> Candidate | None:
        """The next row to measure; None when every row was asked, told or excluded."""
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
        """By what share the best time may fall with the next row; None: the sampler cannot tell."""
        return None  # TPE says what is likely to be good, not how good

    def tell(self, candidate: Candidate, value_ns: float | None) -> None:
        """The time of an asked row, or None: it failed, and counts as worse than any time."""
        self.load([(candidate.family, candidate.config, value_ns)])

    def load(self, results: Iterable[tuple[str, Config, float | None]]) -> None:
        """Results from an earlier run or another process: family, config, and time or None.

        They are never asked again. Rows that are not in the space are ignored; a row told twice
        keeps its first result.
        """
        for family, config, value_ns in results:
            self._free.pop((family, config), None)
            if self._model is not None:
                self._model.finish(family, config, value_ns)

    def exclude(self, family: str, config: Config) -> None:
        """Never ask this row: it is in flight elsewhere. `load` may bring its result later."""
        self._free.pop((family, config), None)
        if self._model is not None:
            self._model.occupy(family, config)


class _Block:
    """The rows of one family, each value as the number of its level in the column's sorted values.

    Rows are kept in a random order, so that the first of several equals is a fair choice.
    """

    def __init__(self, family: str, configs: Sequence[Config], rng: np.random.Generator) -> None:
        self.family = family
        self.configs = [configs[i] for i in rng.permutation(len(configs))]
        self.index = {config: i for i, config in enumerate(self.configs)}
        self.free = np.ones(len(configs), dtype=bool)
        self.free_count = len(configs)
        self._next = 0
        self.names: list[str] = []
        self.distributions: dict[str, CategoricalDistribution] = {}
        self.codes: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
        self._ordinal: list[bool] = []
        self._levels: list[dict[Any, int]] = []
        for field in fields(configs[0]):
            self._add_column(field.name)
        self.asked: list[int] = []

    def _add_column(self, name: str) -> None:
        values = [getattr(config, name) for config in self.configs]
        levels = {value: code for code, value in enumerate(sorted(set(values)))}
        if len(levels) == 1:
            return
        ordinal = not isinstance(values[0], (bool, str))
        self.names.append(f"{self.family}.{name}")
        self._ordinal.append(ordinal)
        self._levels.append(levels)
        dtype = np.uint8 if len(levels) <= 256 else np.uint32
        self.codes.append(np.fromiter((levels[v] for v in values), dtype, len(values)))
        # Categorical even for numbers: their order did not help TPE on the landscapes tried.
        self.distributions[self.names[-1]] = CategoricalDistribution(range(len(levels)))

    def params(self, row: int) -> dict[str, int]:
        """Parameter name to code."""
        return {name: int(codes[row]) for name, codes in zip(self.names, self.codes, strict=True)}

    def occupy(self, row: int) -> None:
        """The row is not free any more."""
        if self.free[row]:
            self.free[row] = False
            self.free_count -= 1
            self.asked.append(row)

    def next_free(self) -> int:
        """A random free row."""
        while not self.free[self._next]:
            self._next += 1
        return self._next

    def nearest_free(self, params: dict[str, int]) -> int:
        """The free row that differs from ``params`` in the fewest columns, then by the least."""
        distance = np.where(self.free, np.float32(0), np.float32(np.inf))
        for name, codes, table in zip(self.names, self.codes, self._tables(params), strict=True):
            if name in params:
                distance += table[codes]
        return int(np.argmin(distance))

    def _tables(self, params: dict[str, int]) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        """For each column, how far every level is from that of ``params``, 0 to 1."""
        for name, ordinal, levels in zip(self.names, self._ordinal, self._levels, strict=True):
            steps = np.abs(np.arange(len(levels)) - params.get(name, 0))
            span = len(levels) - 1
            # A near value costs little less than a far one: values that stay the same count most.
            away = 0.5 + 0.5 * steps / span if ordinal else np.ones(len(levels))
            yield np.where(steps == 0, 0.0, away).astype(np.float32)

    def spread_free(self) -> int:
        """Of some random free rows, the one that differs most from all rows asked before."""
        rows = np.flatnonzero(self.free)[:SPREAD_CANDIDATES]
        if not self.asked or not self.codes:
            return int(rows[0])
        differ = np.zeros((len(rows), len(self.asked)), dtype=np.int32)
        for codes in self.codes:
            differ += codes[rows][:, None] != codes[self.asked][None, :]
        return int(rows[np.argmax(differ.min(axis=1))])


class LegalSpaceSampler(BaseSampler):
    """Gives every new trial the parameters of one free row of the space.

    TPE proposes a family, then values of that family's parameters; the row taken is the free one
    nearest to them. So the study holds legal rows only and none of them twice, and TPE's constant
    liar sees what is in flight as it is.
    """

    def __init__(self, blocks: dict[str, _Block], seed: int) -> None:
        self._tpe = TPESampler(seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True)
        self._blocks = blocks
        self._rng = np.random.default_rng(seed)
        self.family_distribution = CategoricalDistribution(sorted(blocks))
        self.results = 0
        """Trials that have finished."""
        self.forced: tuple[str, int] | None = None
        """Family and row that the next trial must have."""
        self.chosen: tuple[str, int, Origin] = ("", 0, "default")
        """Family, row and reason of the trial created last."""

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Decide the new trial's row."""
        if self.forced is not None:
            self.chosen = (*self.forced, "default")
        elif self.results < STARTUP:
            # Families take turns: a small one would hardly be seen beside a large one.
            free = [block for block in self._blocks.values() if block.free_count]
            block = min(free, key=lambda block: len(block.asked))
            self.chosen = (block.family, block.spread_free(), "spread")
        elif self._rng.random() < RANDOM_SHARE:
            blocks = list(self._blocks.values())
            counts = np.array([block.free_count for block in blocks])
            block = blocks[self._rng.choice(len(blocks), p=counts / counts.sum())]
            self.chosen = (block.family, block.next_free(), "random")
        else:
            self.chosen = self._model_row(study, trial)

    def _model_row(self, study: optuna.Study, trial: FrozenTrial) -> tuple[str, int, Origin]:
        blocks = {name: block for name, block in self._blocks.items() if block.free_count}
        if len(blocks) > 1:
            space: dict[str, BaseDistribution] = {FAMILY: self.family_distribution}
            family = self._tpe.sample_relative(study, trial, space)[FAMILY]
            blocks = {family: blocks[family]} if family in blocks else blocks
        block = next(iter(blocks.values()))
        params = self._tpe.sample_relative(study, trial, {**block.distributions})
        return block.family, block.nearest_free(params), "model"

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters of the row's family."""
        block = self._blocks[self.chosen[0]]
        return {FAMILY: self.family_distribution, **block.distributions}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The row's values."""
        family, row, _ = self.chosen
        return {FAMILY: family, **self._blocks[family].params(row)}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Never reached: every parameter belongs to the row."""
        raise KeyError(param_name)


class _Model:
    """An Optuna study of the rows that were asked or told."""

    def __init__(self, rows: Sequence[tuple[str, Config]], seed: int) -> None:
        rng = np.random.default_rng(seed)
        families: dict[str, list[Config]] = {}
        for family, config in rows:
            families.setdefault(family, []).append(config)
        self._blocks = {name: _Block(name, configs, rng) for name, configs in families.items()}
        self._sampler = LegalSpaceSampler(self._blocks, seed)
        self._study = _create_study(self._sampler)
        self._trials: dict[tuple[str, int], Trial] = {}
        self._told: set[tuple[str, int]] = set()

    def ask(self, forced: tuple[str, Config] | None) -> Candidate:
        """Begin a trial of the ``forced`` row, or of one that the sampler chooses."""
        if forced is not None:
            self._sampler.forced = (forced[0], self._blocks[forced[0]].index[forced[1]])
        trial = self._study.ask()
        self._sampler.forced = None
        family, row, origin = self._sampler.chosen
        block = self._blocks[family]
        trial.suggest_categorical(FAMILY, self._sampler.family_distribution.choices)
        for name, distribution in block.distributions.items():
            trial.suggest_categorical(name, distribution.choices)
        block.occupy(row)
        self._trials[family, row] = trial
        return Candidate(family=family, config=block.configs[row], origin=origin)

    def occupy(self, family: str, config: Config) -> None:
        """Never choose this row."""
        block = self._blocks.get(family)
        if block is not None and config in block.index:
            block.occupy(block.index[config])

    def finish(self, family: str, config: Config, value_ns: float | None) -> None:
        """Add a result, whether the row was asked here or not."""
        block = self._blocks.get(family)
        row = None if block is None else block.index.get(config)
        if block is None or row is None or (family, row) in self._told:
            return
        block.occupy(row)
        self._told.add((family, row))
        self._sampler.results += 1
        # Pruned trials rank behind every complete one, so TPE learns to avoid them; it would
        # ignore failed ones.
        state = TrialState.PRUNED if value_ns is None else TrialState.COMPLETE
        value = None if value_ns is None else math.log2(value_ns)
        trial = self._trials.pop((family, row), None)
        if trial is not None:
            self._study.tell(trial, value, state=state)
            return
        self._study.add_trial(
            create_trial(
                state=state,
                value=value,
                params={FAMILY: family, **block.params(row)},
                distributions={FAMILY: self._sampler.family_distribution, **block.distributions},
            )
        )


def _create_study(sampler: BaseSampler) -> optuna.Study:
    # Optuna says on stderr that it made a study; nobody asked.
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(sampler=sampler, direction="minimize")
    finally:
        optuna.logging.set_verbosity(verbosity)
