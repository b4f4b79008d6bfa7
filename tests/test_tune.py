"""Tuning measures each config once, keeps all of it, stops when told to, and continues later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gemmtune import Device, Gemm
from gemmtune.errors import DeviceError, ExecutorError, ProblemError, UsageError
from gemmtune.executors.fake import DEVICE, FakeExecutor, model_ns
from gemmtune.job import FailureKind, Job, Measurement, Outcome, Policy
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.progress import (
    Drifted,
    Event,
    ProblemFinished,
    ProblemSkipped,
    ProblemStarted,
    SpaceListed,
    TrialFinished,
)
from gemmtune.render import render
from gemmtune.search import Search
from gemmtune.store import Row, Store
from gemmtune.ties import TIE
from gemmtune.tune import TuneOptions, TuneResult, tune
from gemmtune.tune.gain import Gain
from gemmtune.tune.listing import Lister, Rows

# Its space is small, so listing it takes no time worth mentioning.
GEMM = Gemm(m=1, n=512, k=512)
OTHER = Gemm(m=1, n=256, k=512)


class Recorder(FakeExecutor):
    """A fake executor that remembers its jobs, and does something after a number of outcomes."""

    def __init__(
        self,
        *,
        fails: Callable[[Job], FailureKind | None] = lambda _: None,
        after: int = -1,
        then: Callable[[], None] = lambda: None,
        slower: Callable[[int], float] | None = None,
        device: Device = DEVICE,
    ) -> None:
        super().__init__(fails=fails, slower=slower, device=device)
        self.jobs: list[Job] = []
        self.again: list[Job] = []
        self.cancelled: tuple[int, ...] = ()
        self._left = after
        self._then = then

    def submit(self, job: Job) -> None:
        (self.jobs if job.id > 0 else self.again).append(job)
        super().submit(job)

    def next(self, timeout_s: float | None = None) -> Outcome | None:
        if self._left == 0:
            self._then()
        outcome = super().next(timeout_s)
        self._left -= outcome is not None
        return outcome

    def cancel(self) -> tuple[int, ...]:
        self.cancelled = super().cancel()
        return self.cancelled


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "tuning.db") as opened:
        yield opened


def run(
    store: Store,
    executor: FakeExecutor,
    *problems: Gemm,
    events: list[Event] | None = None,
    **options: object,
) -> list[TuneResult]:
    """Tune on the executor's imagined time, without a time limit if none is given."""
    return tune(
        problems or (GEMM,),
        executor,
        store,
        TuneOptions(**{"budget_s": None, **options}),  # type: ignore[arg-type]
        now=lambda: executor.now_s,
        report=events.append if events is not None else None,
    )


def rows(store: Store, gemm: Gemm = GEMM) -> list[Row]:
    return store.measurements(DEVICE.key, gemm.key)


def test_trials_are_measured_kept_and_the_best_is_returned(store: Store) -> None:
    executor = Recorder()

    (result,) = run(store, executor, trials=30)

    kept = rows(store)
    assert result.stop == "trials"
    assert result.trials == result.measured == len(kept) == len(executor.jobs) == 30
    assert len({(row.family, row.config_key) for row in kept}) == 30
    assert result.best is not None
    fastest = min(row.time_ns for row in kept if row.time_ns is not None)
    assert result.best in result.tied
    assert all(fastest <= (row.time_ns or 0.0) <= fastest * (1 + TIE) for row in result.tied)
    assert store.check() == []


def test_the_default_of_tiled_is_the_baseline_and_measured_alone_first(store: Store) -> None:
    executor = Recorder()
    events: list[Event] = []

    (result,) = run(store, executor, trials=12, events=events)

    default = FAMILIES["tiled"].default(GEMM, DEVICE)
    first, second, *others = executor.jobs
    assert (first.kernel.family, first.kernel.config) == ("tiled", default)
    assert second.kernel.config == FAMILIES["subgroup"].default(GEMM, DEVICE)
    assert result.default_ns == rows(store)[0].time_ns
    assert first.best_ns is None
    assert all(job.best_ns is not None for job in (second, *others))


def test_the_baseline_is_never_given_up_whatever_is_known_already(store: Store) -> None:
    run(store, Recorder(), trials=3, families=("subgroup",))
    executor = Recorder()

    run(store, executor, trials=6)

    first, *others = executor.jobs
    assert first.kernel.family == "tiled"
    assert first.best_ns is None
    assert all(job.best_ns is not None for job in others)


def test_limits_follow_from_the_baseline(store: Store) -> None:
    class Slow(Recorder):
        def _outcome(self, job: Job) -> Outcome:
            outcome = super()._outcome(job)
            return Outcome(job_id=job.id, result=outcome.result, compile_s=4.0, verify_s=10.0)

    executor = Slow()
    run(store, executor, trials=5)

    first, *others = executor.jobs
    assert (first.compile_limit_s, first.run_limit_s) == (300.0, 300.0)
    assert {(job.compile_limit_s, job.run_limit_s) for job in others} == {(80.0, 200.0)}


def test_limits_have_a_floor_and_survive_a_baseline_that_fails(store: Store) -> None:
    default = FAMILIES["tiled"].default(GEMM, DEVICE)
    executor = Recorder(fails=lambda job: "crash" if job.kernel.config == default else None)

    (result,) = run(store, executor, trials=20)

    assert result.default_ns is None
    assert executor.jobs[1].compile_limit_s == 300.0
    assert (executor.jobs[-1].compile_limit_s, executor.jobs[-1].run_limit_s) == (30.0, 30.0)


def test_the_same_command_again_with_trials_reached_does_nothing(store: Store) -> None:
    run(store, Recorder(), trials=20)
    executor = Recorder()
    events: list[Event] = []

    (result,) = run(store, executor, trials=20, events=events)

    assert executor.jobs == []
    assert (result.stop, result.trials, result.measured) == ("trials", 20, 0)
    assert [type(event) for event in events] == [ProblemStarted, ProblemFinished]


def test_more_trials_continue_where_the_last_run_stopped(store: Store) -> None:
    first = Recorder()
    run(store, first, trials=20)
    second = Recorder()

    (result,) = run(store, second, trials=50)

    configs = [job.kernel.config for job in (*first.jobs, *second.jobs)]
    assert len(configs) == len(set(configs)) == result.trials == 50
    assert result.measured == 30
    # The baseline's limits are known from the start.
    assert second.jobs[0].run_limit_s == 30.0


def test_results_under_another_policy_do_not_count(store: Store) -> None:
    run(store, Recorder(), trials=10)

    (result,) = run(store, Recorder(), trials=10, policy=Policy(cache="hot"))

    assert result.measured == 10
    assert len(rows(store)) == 20


def test_the_winner_is_the_fastest_that_counts(store: Store) -> None:
    run(store, Recorder(), trials=40, policy=Policy(cache="hot"))

    (result,) = run(store, Recorder(), trials=1)

    assert result.best is not None
    assert result.best.policy == Policy().key
    assert result.best.time_ns == result.default_ns


@pytest.mark.parametrize(("sampler", "early"), [("guided", 5), ("random", 2)])
def test_what_comes_first_is_measured_while_the_space_is_listed(
    store: Store, monkeypatch: pytest.MonkeyPatch, sampler: str, early: int
) -> None:
    began, made = {2: threading.Event(), early: threading.Event()}, threading.Event()
    listed_before, sizes = [], []
    listing, search = Lister._space, Lister.search

    def slow(lister: Lister, every: int = 1) -> Iterator[tuple[str, Config]]:
        # Of a part of the space more can be measured, before all of it is there.
        assert began[early if every == 1 else 2].wait(20.0)
        yield from listing(lister, every)

    def told(lister: Lister, first: Rows) -> Search:
        found = search(lister, first)
        made.set()
        return found

    def report(event: Event) -> None:
        if isinstance(event, SpaceListed):
            listed_before.append(len(trials))
            sizes.append(event.configs)
        if isinstance(event, TrialFinished):
            trials.append((event.family, event.config))
            if len(trials) in began:
                began[len(trials)].set()
            if len(trials) == early:
                assert made.wait(20.0)
                time.sleep(0.1)  # it returns

    trials: list[tuple[str, str]] = []
    monkeypatch.setattr(Lister, "_space", slow)
    monkeypatch.setattr(Lister, "search", told)
    options = TuneOptions(trials=8, sampler=sampler)  # type: ignore[arg-type]
    tune([GEMM], FakeExecutor(), store, options, report=report)

    assert listed_before[0] >= early
    assert len(set(trials)) == len(trials) == 8
    names = [name for name in FAMILIES if not FAMILIES[name].supported(GEMM, DEVICE)]
    defaults = {FAMILIES[name].default(GEMM, DEVICE).key for name in names}
    assert {config for _, config in trials[:2]} <= defaults
    searched = [name for name in names if name != "naive"]
    space = {(name, c) for name in searched for c in FAMILIES[name].space(GEMM, DEVICE)}
    assert sizes == [
        len(space | {(name, FAMILIES[name].default(GEMM, DEVICE)) for name in searched})
    ]


def test_failures_are_rows_with_their_kind(store: Store) -> None:
    def fails(job: Job) -> FailureKind | None:
        width = getattr(job.kernel.config, "vec", 0)
        return {1: "compile", 2: "wrong_result"}.get(width)  # type: ignore[return-value]

    (result,) = run(store, Recorder(fails=fails), trials=40)

    kept = [row for row in rows(store) if row.status == "failed"]
    assert set(result.failures) == {"compile", "wrong_result"}
    assert sum(result.failures.values()) == len(kept) > 0
    assert result.best is not None
    assert store.check() == []


def test_when_everything_fails_there_is_no_best(store: Store) -> None:
    (result,) = run(store, Recorder(fails=lambda _: "device_lost"), trials=10)

    assert result.best is None
    assert result.failures == {"device_lost": 10}


@pytest.mark.parametrize("budget_s", [5.0, 20.0])
def test_the_budget_holds_to_five_percent(store: Store, budget_s: float) -> None:
    executor = Recorder()

    (result,) = run(store, executor, budget_s=budget_s)

    assert result.stop == "budget"
    # What was kept for measuring the leaders again may turn out to be more than it takes.
    assert 0.75 * budget_s <= result.seconds_s <= 1.05 * budget_s + 0.25
    assert not [row for row in rows(store) if row.status == "running"]


def test_a_job_that_hangs_is_given_up_when_the_time_is_up(store: Store) -> None:
    default = FAMILIES["tiled"].default(GEMM, DEVICE)
    executor = Recorder(fails=lambda job: None if job.kernel.config == default else "timeout")

    (result,) = run(store, executor, budget_s=10.0)

    assert result.seconds_s <= 10.5 + 0.25
    assert len(executor.cancelled) == 4
    assert len(rows(store)) == result.trials == 1


class Ending(Recorder):
    """Lets the job that has the device end when all are given up, as the pool does."""

    def cancel(self) -> tuple[int, ...]:
        ending = min(self._flying)[2]
        given_up = super().cancel()[1:]
        self._flying.append((self.now_s, 0, ending))
        return given_up


def test_what_still_ends_when_the_time_is_up_is_kept(store: Store) -> None:
    default = FAMILIES["tiled"].default(GEMM, DEVICE)
    executor = Ending(fails=lambda job: None if job.kernel.config == default else "timeout")

    (result,) = run(store, executor, budget_s=10.0)

    assert result.stop == "budget"
    assert result.measured == len(rows(store)) == 2
    assert [row.status for row in rows(store)] == ["ok", "failed"]


def test_the_first_config_may_finish_after_the_time_is_up(store: Store) -> None:
    (result,) = run(store, Recorder(), budget_s=0.1)

    assert (result.stop, result.trials) == ("budget", 1)
    assert result.best is not None


def test_a_space_that_is_used_up_ends_the_problem(store: Store) -> None:
    (result,) = run(store, Recorder(), families=("naive",))

    assert (result.stop, result.trials) == ("exhausted", 1)


def test_several_problems_are_tuned_in_turn_and_each_once(store: Store) -> None:
    events: list[Event] = []

    results = run(store, Recorder(), GEMM, OTHER, GEMM, trials=8, events=events)

    assert [result.gemm for result in results] == [GEMM, OTHER]
    started = [event for event in events if isinstance(event, ProblemStarted)]
    assert [(event.number, event.count) for event in started] == [(1, 2), (2, 2)]
    assert len(rows(store, OTHER)) == 8


def test_time_is_split_by_what_it_went_into(store: Store) -> None:
    executor = Recorder()
    (result,) = run(store, executor, trials=10)

    jobs = len(executor.jobs) + len(executor.again)
    assert len(executor.jobs) == 10
    assert result.times.compile_s == pytest.approx(jobs * 0.2)
    assert result.times.verify_s == pytest.approx(jobs * 0.1)
    assert result.times.measure_s == pytest.approx(jobs * 0.1)
    assert result.times.search_s == 0.0
    assert result.times.total_s == result.seconds_s
    assert sum(result.times.device_s.values()) >= result.seconds_s


@pytest.mark.parametrize("sampler", ["guided", "tpe"])
def test_the_model_beats_random_with_as_many_trials(tmp_path: Path, sampler: str) -> None:
    # Few of its configs are good: random often finds none of them.
    gemm = Gemm(m=32, n=32, k=240)

    def best_ns(sampler: str, seed: int) -> float:
        with Store.open(tmp_path / f"{sampler}{seed}.db") as store:
            options = {"trials": 40, "seed": seed, "sampler": sampler, "families": ("tiled",)}
            (result,) = run(store, FakeExecutor(), gemm, **options)
        assert result.best is not None
        assert result.best.time_ns is not None
        return result.best.time_ns

    model = [best_ns(sampler, seed) for seed in range(3)]
    random = [best_ns("random", seed) for seed in range(3)]

    assert sum(model) < sum(random)
    assert max(model) < 1.1 * min(model)


def test_the_same_seed_takes_the_same_course(tmp_path: Path) -> None:
    courses = []
    for name in ("one.db", "two.db"):
        executor = Recorder()
        with Store.open(tmp_path / name) as store:
            run(store, executor, trials=40, seed=3)
        courses.append([job.kernel.config for job in executor.jobs])

    assert courses[0] == courses[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_everything_kept(store: Store, number: signal.Signals) -> None:
    executor = Recorder(after=10, then=lambda: os.kill(os.getpid(), number))
    before = signal.getsignal(number)

    results = run(store, executor, GEMM, OTHER, trials=50)

    assert [result.stop for result in results] == ["interrupted"]
    assert signal.getsignal(number) is before
    kept = rows(store)
    assert len(kept) == results[0].trials >= 10
    assert {row.status for row in kept} == {"ok"}
    (result,) = run(store, Recorder(), trials=50)
    assert result.trials == 50


def test_a_second_signal_raises_and_still_nothing_is_left_running(store: Store) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(store, Recorder(after=5, then=twice), trials=50)

    assert {row.status for row in rows(store)} == {"ok"}


def test_what_is_in_flight_is_taken_back_when_the_executor_fails(store: Store) -> None:
    def fail() -> None:
        raise ExecutorError("no worker stays alive")

    with pytest.raises(ExecutorError):
        run(store, Recorder(after=5, then=fail), trials=50)

    assert len(rows(store)) == 5
    assert store.check() == []


@pytest.mark.parametrize("shape", ["0x4x4", "4x0x4", "4x4x0", "4x4x4x0"])
def test_a_problem_without_work_is_refused(store: Store, shape: str) -> None:
    with pytest.raises(ProblemError, match=f"nothing to tune: {shape}"):
        run(store, Recorder(), GEMM, Gemm.parse(shape), trials=1)

    assert rows(store) == []


def test_a_problem_the_device_cannot_do_is_refused(store: Store) -> None:
    half = Gemm(m=4, n=4, k=4, a="f16", b="f16")

    with pytest.raises(DeviceError, match="lacks shader-f16"):
        run(store, Recorder(device=Device()), half)


def test_among_others_such_a_problem_is_skipped_with_its_reason(store: Store) -> None:
    half = Gemm(m=4, n=4, k=4, a="f16", b="f16")
    events: list[Event] = []

    results = run(store, Recorder(device=Device()), half, GEMM, trials=2, events=events)

    assert [result.gemm for result in results] == [GEMM]
    (skipped,) = [event for event in events if isinstance(event, ProblemSkipped)]
    assert "shader-f16" in skipped.reason


def test_families_the_device_lacks_are_left_out_or_refused(store: Store) -> None:
    plain = Device(name="Plain")
    executor = Recorder(device=plain)

    run(store, executor, trials=3)

    assert {job.kernel.family for job in executor.jobs} == {"tiled", "gemv"}
    with pytest.raises(DeviceError, match="subgroup"):
        run(store, Recorder(device=plain), families=("subgroup",))


@pytest.mark.parametrize(
    "options",
    [
        {"budget_s": 0},
        {"trials": 0},
        {"until_gain": 0.0},
        {"until_gain": 1.0},
        {"sampler": "magic"},
        {"families": ("magic",)},
        {"seed": -1},
        {"seed": 2**32},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        TuneOptions(**options)  # type: ignore[arg-type]


def test_two_tuners_on_one_database_never_measure_a_config_twice(tmp_path: Path) -> None:
    path = tmp_path / "tuning.db"
    Store.open(path).close()
    executors = [Recorder(), Recorder()]

    def work(executor: Recorder) -> None:
        with Store.open(path) as store:
            run(store, executor, trials=60, sampler="exhaustive")

    threads = [threading.Thread(target=work, args=(executor,)) for executor in executors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    configs = [job.kernel.config for executor in executors for job in executor.jobs]
    assert len(configs) == len(set(configs)) >= 60
    with Store.open(path) as store:
        assert len(rows(store)) == len(configs)
        assert store.check() == []


CHILD = """
import sys, time
from gemmtune import Gemm
from gemmtune.executors.fake import FakeExecutor
from gemmtune.store import Store
from gemmtune.tune import TuneOptions, tune

class Paced(FakeExecutor):
    def next(self, timeout_s=None):
        time.sleep(0.02)
        return super().next(timeout_s)

with Store.open(sys.argv[1]) as store:
    options = TuneOptions(budget_s=None, trials=int(sys.argv[2]))
    (result,) = tune([Gemm(m=1, n=512, k=512)], Paced(), store, options)
    print(result.trials)
"""


def test_killed_half_way_and_run_again_it_continues(tmp_path: Path) -> None:
    path = tmp_path / "tuning.db"
    command = [sys.executable, "-c", CHILD, str(path), "60"]
    child = subprocess.Popen(command)
    with Store.open(path) as store:
        until = time.monotonic() + 60
        while sum(row.status == "ok" for row in rows(store)) < 10 and time.monotonic() < until:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
        kept = {row.uuid: row for row in rows(store)}
        dead = [row for row in kept.values() if row.status == "running"]
        guilty = {row.uuid for row in dead if row.granted_at is not None}
        assert 1 <= len(guilty) < len(dead)

    again = subprocess.run(command, capture_output=True, text=True, check=True)

    assert again.stdout == "60\n"
    with Store.open(path) as store:
        after = {row.uuid: row for row in rows(store)}
        assert all(after[name] == row for name, row in kept.items() if row.status == "ok")
        crashed = {name for name, row in after.items() if row.status == "failed"}
        assert crashed == guilty  # what was only compiling has run again
        assert len(after) == len({(row.family, row.config_key) for row in after.values()}) == 60
        assert store.check() == []


def test_winners_of_other_problems_are_tried_first(store: Store) -> None:
    (first,) = run(store, Recorder(), OTHER, trials=40)
    assert first.best is not None
    executor = Recorder()

    run(store, executor, GEMM, trials=6)

    tried = [(job.kernel.family, job.kernel.config) for job in executor.jobs]
    families = ("tiled", "subgroup", "gemv")
    defaults = [(name, FAMILIES[name].default(GEMM, DEVICE)) for name in families]
    # The fastest is tried: of several that tie, it need not be the one that is named.
    winners = [(row.family, row.config) for row in (first.best, *first.tied)]
    assert set(winners) & set(tried[len(defaults) : len(defaults) + 1])


def of_model(row: Row) -> float:
    return model_ns(GEMM, render(row.family, row.config, GEMM, DEVICE))


def test_the_leaders_are_measured_in_turn_at_the_end(store: Store) -> None:
    executor = Recorder()

    (result,) = run(store, executor, trials=40)

    order = [(job.kernel.family, job.kernel.config.key) for job in executor.again]
    assert 2 <= result.finalists <= 8
    assert order == order[: result.finalists] * 4
    assert all(job.best_ns is None for job in executor.again)
    assert result.best is not None
    assert isinstance(result.best.result, Measurement)
    assert result.best.result.repetitions == 4 * 10
    assert not result.doubtful
    assert len(rows(store)) == 40
    assert store.check() == []


def test_no_more_leaders_are_in_flight_than_there_are(store: Store) -> None:
    class Wide(Recorder):
        """Has many workers, and remembers how many of them finals had use for."""

        def __init__(self) -> None:
            super().__init__()
            self.capacity = 40
            self.most = 0

        def submit(self, job: Job) -> None:
            super().submit(job)
            if job.id < 0:
                self.most = max(self.most, len(self._flying))

    executor = Wide()

    (result,) = run(store, executor, trials=60)

    assert 2 <= executor.most <= result.finalists < 40


@pytest.mark.parametrize(("trials", "soon"), [(3, 3), (12, 4)])
def test_workers_start_while_the_space_is_listed(store: Store, trials: int, soon: int) -> None:
    class Watched(Recorder):
        """Remembers what was to come at its first job."""

        first: int | None = None

        def submit(self, job: Job) -> None:
            self.first = self.soon if self.first is None else self.first
            super().submit(job)

    executor = Watched()

    run(store, executor, trials=trials)

    assert (executor.first, executor.soon) == (soon, 0)


def test_a_lucky_measurement_does_not_win(store: Store) -> None:
    class Lucky(Recorder):
        """The 20th config seems to take half its time, once."""

        def _outcome(self, job: Job) -> Outcome:
            outcome = super()._outcome(job)
            if job.id != 20 or not isinstance(outcome.result, Measurement):
                return outcome
            half = outcome.result.time_ns / 2
            return replace(outcome, result=replace(outcome.result, time_ns=half))

    (result,) = run(store, Lucky(), trials=40)

    assert result.best is not None
    assert result.best.time_ns == pytest.approx(of_model(result.best))
    fastest = min(of_model(row) for row in rows(store))
    assert of_model(result.best) <= fastest * (1 + TIE)


def test_a_config_that_fails_when_measured_again_has_failed(store: Store) -> None:
    def fails(job: Job) -> FailureKind | None:
        return "wrong_result" if job.id == -3 else None

    executor = Recorder(fails=fails)
    (result,) = run(store, executor, trials=40)

    flaky = executor.again[2].kernel
    (row,) = [row for row in rows(store) if row.status == "failed"]
    assert (row.family, row.config) == (flaky.family, flaky.config)
    assert result.failures == {"wrong_result": 1}
    assert result.best is not None
    assert result.best.config != flaky.config


def test_what_a_drift_touched_is_named_and_measured_again(store: Store) -> None:
    events: list[Event] = []
    executor = Recorder(slower=lambda count: 1.5 if 20 <= count < 30 else 1.0)

    (result,) = run(store, executor, trials=60, events=events)

    assert result.repaired > 0
    assert result.drifts == ("1.50x slower (throttling)",)
    said = [event.words for event in events if isinstance(event, Drifted)]
    assert said == ["1.50x slower (throttling)", ""]
    wrong = [row for row in rows(store) if (row.time_ns or 0.0) > of_model(row) * 1.01]
    assert result.best is not None
    # Those that could not have been near the winner keep what they were measured at.
    assert all(of_model(row) > 1.1 * of_model(result.best) for row in wrong)


def test_a_device_that_stays_slower_still_gives_the_fastest_config(store: Store) -> None:
    executor = Recorder(slower=lambda count: 1.2 if count >= 50 else 1.0)

    (result,) = run(store, executor, trials=60)

    assert result.best is not None
    assert result.drifts
    fastest = min(of_model(row) for row in rows(store))
    assert of_model(result.best) <= fastest * 1.03


def test_nothing_is_measured_again_after_an_interruption(store: Store) -> None:
    executor = Recorder(after=30, then=lambda: os.kill(os.getpid(), signal.SIGINT))

    (result,) = run(store, executor, trials=50)

    assert (result.stop, executor.again) == ("interrupted", [])


def test_it_ends_when_the_last_trials_have_gained_too_little(store: Store) -> None:
    (result,) = run(store, Recorder(), until_gain=0.2, trials=2000, sampler="random")

    assert result.stop == "gain"
    assert 50 < result.trials < 2000


def test_it_ends_when_the_model_expects_too_little(store: Store) -> None:
    (result,) = run(store, Recorder(), until_gain=0.2, trials=2000)

    assert result.stop == "gain"
    assert result.trials < 2000


def test_a_model_that_expects_little_ends_it_once_it_does_so_steadily() -> None:
    gain = Gain(0.01)
    for _ in range(9):
        gain.expect(0.001)
    assert not gain.too_small
    gain.expect(0.02)
    for _ in range(9):
        gain.expect(0.001)
    assert not gain.too_small
    gain.expect(0.001)
    assert gain.too_small


def test_where_no_model_expects_anything_the_record_decides() -> None:
    gain = Gain(0.05)
    gain.expect(None)
    for step in range(40):
        gain.measured(100.0 - step)
    for _ in range(46):
        gain.measured(61.0)
        assert not gain.too_small
    gain.measured(61.0)
    assert gain.too_small
    assert not Gain(None).too_small
