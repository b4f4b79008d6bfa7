"""The loop that tunes: asks the search, runs on an executor, keeps in the store."""

from __future__ import annotations

from gemmtune.tune.options import TuneOptions, TuneResult
from gemmtune.tune.problems import tune
from gemmtune.tune.weights import budgets, coverage

__all__ = ["TuneOptions", "TuneResult", "budgets", "coverage", "tune"]
