"""What is known of a problem: its rows that count, from whichever run or process they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gemmtune.executors import Executor
from gemmtune.generators import generator_hash
from gemmtune.job import Failure, Policy
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.problem import Gemm
from gemmtune.progress import Standing
from gemmtune.store import Row, Store
from gemmtune.ties import tied

BASELINE_LIMIT_S = 300.0
"""For compiling, and again for running, as long as nothing has been measured."""
LIMIT_FACTOR = 20.0
"""Limits are this many times the baseline's wall time."""
LIMIT_FLOOR_S = 30.0
"""Limits are never lower: workers compete for the cores, and drivers have slow moments."""
LOOK_BACK = 100
"""Rows before the newest one among which there may be some that were not there yet."""


class Known:
    """Every row of the problem that counts here: earlier runs, other processes, this run."""

    def __init__(
        self, gemm: Gemm, executor: Executor, store: Store, names: Sequence[str], policy: Policy
    ) -> None:
        self._store = store
        self._gemm = gemm
        self._keys = (executor.device.key, gemm.key)
        self._versions = executor.versions
        self._policy = policy.key
        self._names = names
        self._last_id = 0
        self._ended: set[int] = set()
        self._under_way: set[int] = set()
        self.running: set[int] = set()
        """Rows that are under way, whoever has them."""
        self._rows: dict[tuple[str, str], Row] = {}
        family = names[0]
        self.baseline: tuple[str, Config] = (
            family,
            FAMILIES[family].default(gemm, executor.device),
        )
        """Family and config that the limits follow from."""

    def update(self) -> list[Row]:
        """Rows that have appeared or finished since the last call."""
        # Numbers may come to light out of order: other processes commit when they commit.
        since_id = min([self._last_id - LOOK_BACK, *(row_id - 1 for row_id in self._under_way)])
        # Left out by the database: to read a row costs much more than to find it.
        fresh = self._store.measurements(
            *self._keys,
            since_id=max(since_id, 0),
            but=[row_id for row_id in self._ended if row_id > since_id],
        )
        self._under_way = {row.id for row in fresh if row.status == "running"}
        self._ended |= {row.id for row in fresh if row.status != "running"}
        self._last_id = max([self._last_id, *(row.id for row in fresh)])
        fresh = [row for row in fresh if self._counts(row)]
        self.running = {row.id for row in fresh if row.status == "running"}
        for row in fresh:
            if row.status != "running":
                self._rows[row.family, row.config_key] = row
        return fresh

    def reload(self) -> None:
        """Read all of it again: rows that had finished have been measured anew."""
        self._last_id = 0
        self._ended.clear()
        self._under_way.clear()
        self._rows.clear()
        self.update()

    def _counts(self, row: Row) -> bool:
        return row.family in self._names and not row.demotions(
            self._versions, generator_hash(row.family), self._policy
        )

    @property
    def trials(self) -> int:
        """Configs measured or failed."""
        return len(self._rows)

    @property
    def default(self) -> Row | None:
        """The row of the baseline."""
        return self._rows.get((self.baseline[0], self.baseline[1].key))

    @property
    def best(self) -> Row | None:
        """The winner; None when nothing worked."""
        return next(iter(self.tied), None)

    @property
    def tied(self) -> list[Row]:
        """The winner, then those as fast as it."""
        return tied(self._rows.values(), self._gemm)

    @property
    def rows(self) -> list[Row]:
        """All finished ones, oldest first."""
        return sorted(self._rows.values(), key=lambda row: row.id)

    def standing(self) -> Standing:
        """Counts and the best so far."""
        best = self.best
        results = [row.result for row in self._rows.values()]
        return Standing(
            trials=self.trials,
            failures=dict(Counter(r.kind for r in results if isinstance(r, Failure))),
            best_ns=best.time_ns if best else None,
            best_family=best.family if best else "",
            best_config=best.config_key if best else "",
            default_ns=self.default.time_ns if self.default else None,
        )

    def limits_s(self) -> tuple[float, float]:
        """For compiling and running: from the baseline, or else the first config that worked."""
        rows = [self.default, *self._rows.values()]
        row = next((row for row in rows if row is not None and row.time_ns is not None), None)
        if row is None:
            return BASELINE_LIMIT_S, BASELINE_LIMIT_S
        return (
            max(LIMIT_FLOOR_S, LIMIT_FACTOR * row.compile_s),
            max(LIMIT_FLOOR_S, LIMIT_FACTOR * (row.verify_s + row.measure_s)),
        )
