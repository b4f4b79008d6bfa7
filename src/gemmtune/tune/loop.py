"""Tuning one problem: asks the search, runs on the executor, keeps in the store.

Every config is written down before it is dispatched, so what kills the process is known next time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from gemmtune.executors import Executor, unheeded
from gemmtune.generators import generator_hash
from gemmtune.job import Failure, Job, Measurement, Outcome, Times
from gemmtune.kernels.base import Config
from gemmtune.problem import Gemm
from gemmtune.progress import (
    Drifted,
    ProblemFinished,
    ProblemStarted,
    Report,
    SpaceListed,
    StopReason,
    Tick,
    TrialFinished,
)
from gemmtune.render import render
from gemmtune.search import Search
from gemmtune.store import Owner, Row, Store
from gemmtune.tune.drift import Drift, Reading
from gemmtune.tune.finals import ROUNDS, leaders
from gemmtune.tune.gain import Gain
from gemmtune.tune.known import Known
from gemmtune.tune.listing import Beside, Lister, beside, searched_families
from gemmtune.tune.options import TuneOptions, TuneResult
from gemmtune.tune.settle import TICK_S, Settled, Settler

if TYPE_CHECKING:
    from gemmtune.search.study import Storage

T = TypeVar("T")

GRACE = 0.05
"""Share of the budget that jobs in flight have to finish when it is used up."""
RESERVE = 0.2
"""Largest share of the budget that is kept for measuring the leaders again."""


class Tuning:
    """Tuning of one problem."""

    def __init__(
        self,
        gemm: Gemm,
        executor: Executor,
        store: Store,
        options: TuneOptions,
        now: Callable[[], float],
        report: Report,
        interrupted: threading.Event,
        storage: Storage | None = None,
    ) -> None:
        self._gemm = gemm
        self._executor = executor
        self._store = store
        self._options = options
        self._now = now
        self._report = report
        self._interrupted = interrupted
        self._began_s = now()
        self._families = searched_families(gemm, executor.device, options)
        self._known = Known(gemm, executor, store, self._families, options.policy)
        self._owner = Owner.current(f"tune {gemm.key}")
        self._in_flight: dict[int, tuple[str, Config]] = {}
        self._outcomes: list[Outcome] = []
        self._search_s = 0.0
        self._drift = Drift()
        self._drifts = ""
        self._reserve_s = 0.0
        self._gain = Gain(options.until_gain)
        self._storage = storage
        self._search: Search | None = None
        self._lister = Lister(
            gemm, executor, self._families, options, storage, lambda: self._stop() is not None
        )

    def run(self, number: int, count: int) -> TuneResult:
        """Tune until there is a reason to stop."""
        self._store.reap()
        self._known.update()
        self._report(
            ProblemStarted(
                gemm=self._gemm,
                number=number,
                count=count,
                budget_s=self._options.budget_s,
                trials=self._options.trials,
                standing=self._known.standing(),
            )
        )
        self._executor.on_grant = self._store.grant
        try:
            stop = self._stop() or self._measure()
        finally:
            self._executor.on_grant = unheeded
            self._executor.soon = 0
            self._give_up()
        return self._finish(stop, self._settle())

    def _settle(self) -> Settled:
        """Nothing to settle where nothing new is known."""
        # What a tuner that has died had under way is accounted for now, not by the next run.
        self._store.reap()
        self._known.reload()
        if not self._outcomes or self._interrupted.is_set():
            return Settled()
        settler = Settler(
            self._gemm,
            self._executor,
            self._store,
            self._known,
            self._options.seed,
            lambda: self._interrupted.is_set() or self._left_s() <= 0.0,
            self._report,
        )
        return settler.run(self._drift)

    def _left_s(self) -> float:
        if self._options.budget_s is None:
            return math.inf
        return self._options.budget_s - (self._now() - self._began_s)

    def _finish(self, stop: StopReason, settled: Settled) -> TuneResult:
        if self._interrupted.is_set():
            stop = "interrupted"
        standing = self._known.standing()
        seconds_s = self._now() - self._began_s
        measured = len(self._outcomes)
        outcomes = [*self._outcomes, *settled.outcomes]
        spent = Times.of(outcomes, self._search_s, seconds_s)
        self._report(
            ProblemFinished(
                gemm=self._gemm,
                stop=stop,
                seconds_s=seconds_s,
                measured=measured,
                standing=standing,
                times=spent,
            )
        )
        return TuneResult(
            gemm=self._gemm,
            best=self._known.best,
            tied=tuple(self._known.tied),
            finalists=settled.finalists,
            repaired=settled.repaired,
            doubtful=settled.doubtful,
            drifts=tuple(episode.words() for episode in self._drift.episodes()),
            default_ns=standing.default_ns,
            trials=standing.trials,
            measured=measured,
            failures=standing.failures,
            seconds_s=seconds_s,
            stop=stop,
            times=spent,
        )

    def _measure(self) -> StopReason:
        # The baseline runs, and workers start, while the space is listed, which can take seconds.
        self._executor.soon = self._most_in_flight
        if self._known.default is None:
            self._submit(*self._known.baseline)
        first = self._timed(lambda: self._lister.first(self._store))
        if self._storage is None and self._now is time.monotonic:
            search = Search(first, first=first, sampler="exhaustive")
            for make in self._lister.stages(first):
                with beside(make) as listing:
                    stop = self._until_stop(self._joined(search), listing)
                if stop is not None:
                    return stop
                search = listing.result()
        else:
            search = self._timed(lambda: self._lister.search(first))
        self._search = search
        self._report(SpaceListed(configs=search.size))
        self._timed(lambda: self._joined(search))
        return self._until_stop(search) or "exhausted"

    def _joined(self, search: Search) -> Search:
        """The search, told of all that is known and under way."""
        for family, config in self._in_flight.values():
            search.begin(family, config)
        self._tell(search, self._known.rows)
        return search

    def _until_stop(self, search: Search, listing: Beside | None = None) -> StopReason | None:
        """Measures what the search asks for; None: the space is listed."""
        stop: StopReason | None = None
        while True:
            stop = stop or self._stop()
            if stop is None and listing is not None and listing.done:
                return None
            stop = stop or self._fill(search)
            if stop == "exhausted" and listing is not None:
                stop = None
                if not self._in_flight:
                    listing.wait(TICK_S)
                    continue
            if stop is not None and (not self._in_flight or self._overdue()):
                return stop
            self._wait(search)

    @property
    def _most_in_flight(self) -> int:
        trials = self._options.trials
        capacity = self._executor.capacity
        return capacity if trials is None else min(capacity, trials - self._known.trials)

    def _stop(self) -> StopReason | None:
        options = self._options
        if self._interrupted.is_set():
            return "interrupted"
        if options.trials is not None and self._known.trials >= options.trials:
            return "trials"
        if self._left_s() <= self._reserve_s:
            return "budget"
        if self._gain.too_small and self._search is not None:  # all is listed
            return "gain"
        return None

    def _overdue(self) -> bool:
        """What is in flight has to be given up."""
        if self._interrupted.is_set():
            return True
        # A run that ended before its first config did would leave nothing at all.
        if self._options.budget_s is None or self._known.baseline in self._in_flight.values():
            return False
        return self._left_s() <= self._reserve_s - self._options.budget_s * GRACE

    def _fill(self, search: Search) -> StopReason | None:
        """Have as many jobs in flight as the executor can use; says when no config is left."""
        while len(self._in_flight) < self._executor.capacity:
            if self._known.baseline in self._in_flight.values():
                return None  # the limits of all others follow from it
            if self._claimed_all(search):
                return None if self._in_flight else "trials"
            candidate = self._timed(search.ask)
            if search is self._search:
                self._gain.expect(search.expected_gain())
            if candidate is None:
                return "exhausted"
            if not self._submit(candidate.family, candidate.config):
                search.exclude(candidate.family, candidate.config)
        return None

    def _claimed_all(self, search: Search) -> bool:
        """No trial is left to begin: all are done or under way, here or elsewhere."""
        if self._options.trials is None:
            return False
        self._tell(search, self._known.update())
        if self._claimed < self._options.trials or self._in_flight:
            return self._claimed >= self._options.trials
        # Before it is left to others: do they live?
        self._store.reap()
        self._tell(search, self._known.update())
        return self._claimed >= self._options.trials

    @property
    def _claimed(self) -> int:
        return self._known.trials + len(self._known.running | self._in_flight.keys())

    def _submit(self, family: str, config: Config) -> bool:
        """Send a config on its way; False when another process has it."""
        executor, options = self._executor, self._options
        kernel = self._timed(lambda: render(family, config, self._gemm, executor.device))
        compile_limit_s, run_limit_s = self._known.limits_s()
        row_id = self._store.begin(
            executor.device,
            self._gemm,
            family,
            config,
            generator_hash=generator_hash(family),
            policy=options.policy,
            versions=executor.versions,
            seed=options.seed,
            owner=self._owner,
            # It may have to wait for all others in flight.
            deadline_s=(compile_limit_s + run_limit_s) * (executor.capacity + 1),
            needs=kernel.needs,
        )
        if row_id is None:
            return False
        self._in_flight[row_id] = (family, config)
        # The baseline is never given up: limits follow from its time.
        baseline = (family, config) == self._known.baseline
        executor.submit(
            Job(
                id=row_id,
                gemm=self._gemm,
                kernel=kernel,
                seed=options.seed,
                best_ns=None if baseline else self._known.standing().best_ns,
                compile_limit_s=compile_limit_s,
                run_limit_s=run_limit_s,
            )
        )
        return True

    def _wait(self, search: Search) -> None:
        """Take in one outcome, or notice that there is none yet."""
        outcome = self._executor.next(TICK_S)
        self._timed(search.exchange)
        if outcome is None or outcome.job_id not in self._in_flight:
            self._report(Tick(in_flight=len(self._in_flight)))
            return
        family, config = self._keep(outcome)
        fresh = self._known.update()
        self._timed(lambda: self._tell(search, fresh))
        self._reserve_s = self._reserve()
        self._gain.measured(self._known.standing().best_ns)
        result = outcome.result
        failure = result if isinstance(result, Failure) else None
        self._report(
            TrialFinished(
                family=family,
                config=config.key,
                time_ns=result.time_ns if isinstance(result, Measurement) else None,
                failure=failure.kind if failure else None,
                message=failure.message if failure else "",
                standing=self._known.standing(),
            )
        )

    def _keep(self, outcome: Outcome) -> tuple[str, Config]:
        """Write down what came of a job in flight; returns which it was."""
        self._store.finish(outcome.job_id, outcome)
        self._outcomes.append(outcome)
        self._watch_drift(outcome)
        return self._in_flight.pop(outcome.job_id)

    def _watch_drift(self, outcome: Outcome) -> None:
        """Take in how fast the device was, and say so where that is new."""
        if outcome.reference_ns is not None:
            self._drift.add(
                Reading(
                    row_id=outcome.job_id,
                    time_ns=outcome.reference_ns,
                    spread=outcome.reference_spread,
                )
            )
            current = self._drift.current
            if (current is None) != (self._drifts == ""):
                self._drifts = "" if current is None else current.words()
                self._report(Drifted(words=self._drifts))

    def _reserve(self) -> float:
        """Time that measuring the leaders again is expected to take."""
        if self._options.budget_s is None:
            return 0.0
        ran = [outcome for outcome in self._outcomes if outcome.ok]
        device_s = sum(outcome.device_s for outcome in ran)
        compile_s = sum(outcome.compile_s for outcome in ran)
        again = ROUNDS * len(leaders(self._known.rows))
        # Each leader has a worker that compiles it once, all of them at the same time.
        each_s = (again * device_s + compile_s) / max(len(ran), 1)
        return min(RESERVE * self._options.budget_s, each_s)

    def _tell(self, search: Search, rows: Sequence[Row]) -> None:
        search.exchange()  # whoever has measured a row is the one to tell it
        for row in rows:
            if row.status != "running":
                search.load([(row.family, row.config, row.time_ns)])
            elif row.id not in self._in_flight:
                search.exclude(row.family, row.config)

    def _give_up(self) -> None:
        """Cancel what is in flight, as if it had never been tried; what ended by then is kept."""
        try:
            if self._in_flight:
                self._executor.cancel()
            while self._in_flight and (outcome := self._executor.next(0.0)) is not None:
                if outcome.job_id in self._in_flight:
                    self._keep(outcome)
        finally:
            if self._in_flight:
                self._store.abandon(list(self._in_flight))
                self._in_flight.clear()
            if self._search is not None:
                self._search.give_up()

    def _timed(self, function: Callable[[], T]) -> T:
        began_s = self._now()
        result = function()
        self._search_s += self._now() - began_s
        return result
