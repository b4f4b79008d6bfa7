"""Tree-structured Parzen estimators over the rows of a space. The home of optuna."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from gemmtune.kernels.base import Config
from gemmtune.search.rows import RANDOM_SHARE, STARTUP, Block, Candidate, Origin, Row

FAMILY = "family"
"""The parameter that says which family's parameters a trial has."""


class LegalSpaceSampler(BaseSampler):
    """Gives every new trial the parameters of one free row of the space.

    TPE proposes a family, then values of that family's parameters; the row taken is the free one
    nearest to them. So the study holds legal rows only and none of them twice, and TPE's constant
    liar sees what is in flight as it is.
    """

    def __init__(self, blocks: dict[str, Block], seed: int) -> None:
        self._tpe = TPESampler(seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True)
        self._blocks = blocks
        # Categorical even for numbers: their order did not help TPE on the landscapes tried.
        self.distributions: dict[str, dict[str, BaseDistribution]] = {
            family: {
                name: CategoricalDistribution(range(size))
                for name, size in zip(block.names, block.sizes, strict=True)
            }
            for family, block in blocks.items()
        }
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
        params = self._tpe.sample_relative(study, trial, self.distributions[block.family])
        return block.family, block.nearest_free(params), "model"

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters of the row's family."""
        return {FAMILY: self.family_distribution, **self.distributions[self.chosen[0]]}

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


class Parzen:
    """An Optuna study of the rows that were asked or told."""

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        rng = np.random.default_rng(seed)
        families: dict[str, list[Config]] = {}
        for family, config in rows:
            families.setdefault(family, []).append(config)
        self._blocks = {name: Block(name, configs, rng) for name, configs in families.items()}
        self._sampler = LegalSpaceSampler(self._blocks, seed)
        self._study = _create_study(self._sampler)
        self._trials: dict[tuple[str, int], Trial] = {}
        self._told: set[tuple[str, int]] = set()

    def expected_gain(self) -> float | None:
        """TPE says what is likely to be good, and not how good."""
        return None

    def ask(self, forced: Row | None) -> Candidate:
        """Begin a trial of the ``forced`` row, or of one that the sampler chooses."""
        if forced is not None:
            self._sampler.forced = (forced[0], self._blocks[forced[0]].index[forced[1]])
        trial = self._study.ask()
        self._sampler.forced = None
        family, row, origin = self._sampler.chosen
        block = self._blocks[family]
        trial.suggest_categorical(FAMILY, self._sampler.family_distribution.choices)
        for name, size in zip(block.names, block.sizes, strict=True):
            trial.suggest_categorical(name, range(size))
        block.occupy(row)
        self._trials[family, row] = trial
        return Candidate(family=family, config=block.configs[row], origin=origin)

    def occupy(self, family: str, config: Config) -> None:
        """Never choose this row."""
        block = self._blocks.get(family)
        if block is not None and config in block.index:
            block.occupy(block.index[config])

    def release(self, family: str, config: Config) -> None:
        """This row may be chosen again."""
        block = self._blocks.get(family)
        if block is not None and config in block.index:
            row = block.index[config]
            block.release(row)
            trial = self._trials.pop((family, row), None)
            if trial is not None:
                self._study.tell(trial, state=TrialState.FAIL)

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
                distributions={
                    FAMILY: self._sampler.family_distribution,
                    **self._sampler.distributions[family],
                },
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
