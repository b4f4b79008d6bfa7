"""The end of a run: what a disturbance touched is measured again, then the leaders in turn.

Rows keep their numbers; their newer measurement takes the place of the older one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from gemmtune.executors import Executor
from gemmtune.job import Job, Outcome
from gemmtune.problem import Gemm
from gemmtune.progress import Report, Settling, Tick
from gemmtune.render import render
from gemmtune.store import Row, Store
from gemmtune.tune.drift import Drift
from gemmtune.tune.finals import ROUNDS, combined, leaders, repairs, unsettled
from gemmtune.tune.known import Known

TICK_S = 0.25
"""Longest wait before the clock and the signals are looked at again."""
MOST_FINALS = 3
"""A winner that by then is still slower than what others measured once remains one in doubt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What was measured again."""

    repaired: int = 0
    """Configs measured again because a disturbance had touched them."""
    finalists: int = 0
    """Leaders measured in turn."""
    doubtful: bool = False
    """Configs that were not among them still seem faster than the winner."""
    outcomes: tuple[Outcome, ...] = ()
    """All of it."""


class Settler:
    """Measures known configs again.

    Args:
        gemm: the problem.
        executor: runs the jobs.
        store: has the rows.
        known: the same rows, for reading.
        seed: of the inputs.
        over: whether there is no more time.
        report: called with events.
    """

    def __init__(
        self,
        gemm: Gemm,
        executor: Executor,
        store: Store,
        known: Known,
        seed: int,
        over: Callable[[], bool],
        report: Report,
    ) -> None:
        self._gemm = gemm
        self._executor = executor
        self._store = store
        self._known = known
        self._seed = seed
        self._over = over
        self._report = report
        # Rows have numbers above 0.
        self._ids = count(-1, -1)
        self._outcomes: list[Outcome] = []

    def run(self, drift: Drift) -> Settled:
        """Repairs, then finals until the winner is one of those measured in turn."""
        wrong = repairs(self._known.rows, drift.touched())
        if wrong:
            self._report(Settling(repairs=len(wrong)))
            self._measure(wrong, 1)
        finalists: dict[int, Row] = {}
        for _ in range(MOST_FINALS):
            new = unsettled(self._known.rows, list(finalists.values()))
            # A leader that is far ahead may have been lucky; one with no rival need not be.
            if not new or self._over() or self._without_rival():
                break
            winners = leaders(list(finalists.values()))
            self._report(Settling(leaders=len(new), rounds=ROUNDS))
            measured = self._measure([*new, *winners], ROUNDS)
            finalists |= {row.id: row for row in self._known.rows if row.id in measured}
        doubtful = bool(finalists) and bool(unsettled(self._known.rows, list(finalists.values())))
        return Settled(
            repaired=len(wrong),
            finalists=len(finalists),
            doubtful=doubtful,
            outcomes=tuple(self._outcomes),
        )

    def _without_rival(self) -> bool:
        return sum(row.time_ns is not None for row in self._known.rows) < 2

    def _measure(self, rows: Sequence[Row], rounds: int) -> set[int]:
        """All rows in turn, so often; returns those that got at least one outcome."""
        found: dict[int, list[Outcome]] = {row.id: [] for row in rows}
        waiting = deque(row for _ in range(rounds) for row in rows)
        flying: dict[int, int] = {}
        # A worker for each row: who has compiled it need not do it again, and none has to start
        # that is of no use.
        most = min(self._executor.capacity, len(rows))
        try:
            while (waiting or flying) and not self._over():
                while waiting and len(flying) < most:
                    row = waiting.popleft()
                    flying[self._submit(row)] = row.id
                outcome = self._executor.next(TICK_S)
                if outcome is None or outcome.job_id not in flying:
                    self._report(Tick(in_flight=len(flying)))
                    continue
                self._outcomes.append(outcome)
                found[flying.pop(outcome.job_id)].append(outcome)
        finally:
            if flying:
                self._executor.cancel()
        measured = {row_id for row_id, outcomes in found.items() if outcomes}
        for row_id in measured:
            self._store.finish(row_id, combined(found[row_id]))
        self._known.reload()
        return measured

    def _submit(self, row: Row) -> int:
        kernel = render(row.family, row.config, self._gemm, self._executor.device)
        compile_limit_s, run_limit_s = self._known.limits_s()
        job = Job(
            id=next(self._ids),
            gemm=self._gemm,
            kernel=kernel,
            seed=self._seed,
            compile_limit_s=compile_limit_s,
            run_limit_s=run_limit_s,
        )
        self._executor.submit(job)
        return job.id
