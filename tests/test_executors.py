"""What every executor promises, and what a pool of processes survives. No kernel is run here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from conftest import QUICK
from gemmtune.errors import DeviceError, ExecutorError, UsageError
from gemmtune.executors import Executor, open_executor, unheeded
from gemmtune.executors.fake import DEVICE, FakeExecutor, model_ns
from gemmtune.executors.pool import MOST_WORKERS, Pool, default_workers, worker_command
from gemmtune.executors.replay import ReplayExecutor
from gemmtune.executors.steady import Usual
from gemmtune.executors.turnstile import Turnstile
from gemmtune.job import FAILURE_KINDS, Failure, Job, Measurement, Outcome
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Kernel, Launch
from gemmtune.kernels.naive import NaiveConfig
from gemmtune.problem import Gemm
from gemmtune.render import render
from landscapes import landscape_of

GEMM = Gemm(m=20, n=30, k=10)
WORKER = [sys.executable, str(Path(__file__).parent / "misbehaving_worker.py")]


def naive_job(job_id: int, executor: Executor, gemm: Gemm = GEMM) -> Job:
    return Job(id=job_id, gemm=gemm, kernel=render("naive", NaiveConfig(), gemm, executor.device))


def told(job_id: int, words: str, **limits: float) -> Job:
    """A job that tells tests/misbehaving_worker.py what to do."""
    launch = Launch(workgroups=1, workgroup_size=(1, 1, 1))
    kernel = Kernel(family="naive", config=NaiveConfig(), wgsl=words, launches=(launch,))
    return Job(id=job_id, gemm=GEMM, kernel=kernel, **limits)  # type: ignore[arg-type]


def everything(executor: Executor) -> list[Outcome]:
    found = []
    while (outcome := executor.next()) is not None:
        found.append(outcome)
    return found


def all_started(workers: Pool) -> None:
    """Wait until there are as many workers as there may be: none opens the device amid a job."""
    workers.soon = workers.capacity
    while sum(worker.state == "idle" for worker in workers._workers.values()) < workers.capacity:
        assert workers.next(0.01) is None
        time.sleep(0.01)


def states(workers: Pool) -> list[str]:
    return sorted(worker.state for worker in workers._workers.values())


def failure(outcome: Outcome | None) -> Failure:
    assert outcome is not None
    assert isinstance(outcome.result, Failure)
    return outcome.result


def alive(pid: int) -> bool:
    """Whether the process runs; one that is only waiting to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def pool() -> Iterator[Callable[..., Pool]]:
    """Opens pools of misbehaving workers, and closes them."""
    opened: list[Pool] = []

    def start(workers: int = 1, mode: str = "fine", log: str = os.devnull) -> Pool:
        opened.append(Pool([*WORKER, mode, log], workers))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture(params=["fake", "misbehaving", "replay", "local"])
def any_executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Each executor there is; a new one adds its name here."""
    if request.param == "local":
        yield request.getfixturevalue("executor")
        return
    opened: Executor = FakeExecutor()
    if request.param == "misbehaving":
        opened = Pool([*WORKER, "fine"], 2)
    elif request.param == "replay":
        opened = ReplayExecutor(landscape_of(opened, GEMM, "naive"))
    yield opened
    opened.close()


@pytest.fixture
def make_job(any_executor: Executor) -> Callable[[int], Job]:
    """Jobs that the executor at hand can do."""
    if any_executor.versions.compiler == "none":
        return lambda job_id: told(job_id, "fine fine")
    return lambda job_id: naive_job(job_id, any_executor)


# Every executor


def test_every_job_has_one_outcome(any_executor: Executor, make_job: Callable[[int], Job]) -> None:
    for job_id in range(5):
        any_executor.submit(make_job(job_id))

    outcomes = everything(any_executor)

    assert sorted(outcome.job_id for outcome in outcomes) == [0, 1, 2, 3, 4]
    assert all(isinstance(outcome.result, Measurement) for outcome in outcomes)


def test_every_job_is_announced_before_it_has_the_device(
    any_executor: Executor, make_job: Callable[[int], Job]
) -> None:
    announced: list[int] = []
    any_executor.on_grant = announced.append
    for job_id in range(3):
        any_executor.submit(make_job(job_id))

    while (outcome := any_executor.next()) is not None:
        assert outcome.job_id in announced

    any_executor.on_grant = unheeded
    assert sorted(announced) == [0, 1, 2]


def test_next_is_none_at_once_with_nothing_in_flight(any_executor: Executor) -> None:
    assert any_executor.next() is None
    assert any_executor.next(timeout_s=100.0) is None


def test_cancel_gives_back_what_is_in_flight(
    any_executor: Executor, make_job: Callable[[int], Job]
) -> None:
    for job_id in range(3):
        any_executor.submit(make_job(job_id))

    given_up = set(any_executor.cancel())

    assert given_up | {outcome.job_id for outcome in everything(any_executor)} == {0, 1, 2}
    any_executor.submit(make_job(9))
    assert [outcome.job_id for outcome in everything(any_executor)] == [9]


def test_an_executor_says_what_it_is(any_executor: Executor) -> None:
    assert any_executor.capacity >= 1
    assert any_executor.device.name
    assert any_executor.versions.compiler


@pytest.mark.parametrize("url", ["local", "fake:3"])
def test_close_may_be_called_twice(url: str, executor: Pool) -> None:
    opened = open_executor(url, workers=1, policy=QUICK)
    opened.submit(naive_job(0, opened))

    opened.close()
    opened.close()

    assert opened.next() is None


# Pools of processes


def test_a_hang_is_killed_at_its_limit_and_the_next_job_runs(pool: Callable[..., Pool]) -> None:
    workers = pool()
    workers.submit(told(1, "fine hang", run_limit_s=0.3))
    workers.submit(told(2, "hang fine", compile_limit_s=0.3))
    workers.submit(told(3, "fine fine"))

    running, compiling, fine = (workers.next() for _ in range(3))

    assert failure(running).kind == failure(compiling).kind == "timeout"
    assert "verification and timing took longer than 0.3 s" in failure(running).message
    assert "compilation took longer than 0.3 s" in failure(compiling).message
    assert fine is not None
    assert fine.ok


def test_a_dead_worker_costs_one_job_and_its_last_words_are_kept(
    pool: Callable[..., Pool],
) -> None:
    workers = pool()
    for job in (told(1, "die fine"), told(2, "fine die"), told(3, "fine fine")):
        workers.submit(job)

    compiling, running, fine = (workers.next() for _ in range(3))

    assert failure(compiling).kind == failure(running).kind == "crash"
    assert "the driver fell over (exit code 101)" in failure(running).message
    assert "died compiling" in failure(compiling).message
    assert "\n" not in failure(running).message
    assert fine is not None
    assert fine.ok


def test_a_job_that_only_compiles_is_never_announced(pool: Callable[..., Pool]) -> None:
    workers = pool()
    announced: list[int] = []
    workers.on_grant = announced.append
    workers.submit(told(1, "die fine"))
    workers.submit(told(2, "fine die"))
    workers.submit(told(3, "hang fine", compile_limit_s=0.3))

    assert len(everything(workers)) == 3

    assert announced == [2]


def test_jobs_that_are_cancelled_while_they_wait_are_not_announced(
    pool: Callable[..., Pool],
) -> None:
    workers = pool(workers=2)
    all_started(workers)
    announced: list[int] = []
    workers.on_grant = announced.append
    workers.submit(told(1, "fine hang"))
    workers.submit(told(2, "fine hang"))
    while not announced:
        workers.next(0.05)
    workers.next(0.3)

    assert sorted(workers.cancel()) == [1, 2]

    assert len(announced) == 1


def test_a_lost_device_costs_one_job(pool: Callable[..., Pool]) -> None:
    workers = pool()
    workers.submit(told(1, "fine lost"))
    workers.submit(told(2, "fine fine"))

    lost, fine = workers.next(), workers.next()

    assert failure(lost).kind == "device_lost"
    assert fine is not None
    assert fine.ok


def test_a_job_that_lost_its_device_to_another_ones_fault_runs_again(
    pool: Callable[..., Pool], tmp_path: Path
) -> None:
    workers = pool(workers=2)
    all_started(workers)
    announced: list[int] = []
    workers.on_grant = announced.append
    workers.submit(told(1, f"fine die-after:{tmp_path / 'other'}"))
    while not announced:
        workers.next(0.01)
    workers.submit(told(2, f"touch:{tmp_path / 'other'} lost-once:{tmp_path / 'flag'}"))

    outcomes = {outcome.job_id: outcome for outcome in everything(workers)}

    assert failure(outcomes[1]).kind == "crash"
    assert (tmp_path / "flag").exists()
    assert outcomes[2].ok


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_where_memory_is_short_fewer_workers_do_all_jobs(
    pool: Callable[..., Pool], tmp_path: Path
) -> None:
    workers = pool(workers=4)
    for job_id in range(12):
        workers.submit(told(job_id, f"meet:{tmp_path} crowded:{tmp_path}"))

    outcomes = everything(workers)

    assert len(outcomes) == 12
    assert all(outcome.ok for outcome in outcomes)
    assert workers.capacity == 2


def test_a_job_that_never_fits_into_memory_fails(pool: Callable[..., Pool]) -> None:
    workers = pool(workers=4)
    for job_id in range(8):
        workers.submit(told(job_id, "fine full" if job_id < 4 else "fine fine"))

    outcomes = {outcome.job_id: outcome for outcome in everything(workers)}

    assert [failure(outcomes[job_id]).kind for job_id in range(4)] == ["out_of_memory"] * 4
    assert all(outcomes[job_id].ok for job_id in range(4, 8))
    assert workers.capacity == 2


def test_only_one_job_has_the_device_at_a_time(pool: Callable[..., Pool]) -> None:
    workers = pool(workers=3)
    for job_id in range(9):
        workers.submit(told(job_id, "slow slow"))

    turns = sorted((outcome.verify_s, outcome.measure_s) for outcome in everything(workers))

    assert len(turns) == 9
    assert all(ended <= begun for (_, ended), (begun, _) in pairwise(turns))


def test_workers_that_start_open_the_device_while_nobody_has_it(
    pool: Callable[..., Pool], tmp_path: Path
) -> None:
    log = tmp_path / "openings"
    workers = pool(workers=4, mode="slow", log=str(log))
    workers.soon = 4
    turns: list[tuple[float, float]] = []
    while len(log.read_text().splitlines()) < 4:
        workers.submit(told(len(turns), "fine slow"))
        turns += [(outcome.verify_s, outcome.measure_s) for outcome in everything(workers)]

    openings = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
    assert len(turns) >= 2
    for begun, ended in openings:
        assert all(ended <= first or last <= begun for first, last in turns)


def test_workers_start_before_their_jobs_are_there(pool: Callable[..., Pool]) -> None:
    workers = pool(workers=3)
    workers.soon = 2
    workers.submit(told(1, "fine fine"))
    assert workers.next() is not None
    assert len(workers._workers) == 2

    workers.soon = 5
    workers.submit(told(2, "fine fine"))
    assert workers.next() is not None
    assert len(workers._workers) == 3  # no more than it may have


def on_the_device(workers: Pool, job: Job) -> None:
    """Has a job running."""
    workers.submit(job)
    while all(worker.state != "running" for worker in workers._workers.values()):
        assert workers.next(timeout_s=0.001) is None


def test_cancel_keeps_workers_that_do_not_have_the_device(pool: Callable[..., Pool]) -> None:
    workers = pool(workers=3)
    all_started(workers)
    before = set(workers._workers)
    on_the_device(workers, told(1, "fine hang"))
    for job in (2, 3):
        workers.submit(told(job, "slow fine"))

    assert sorted(workers.cancel()) == [1, 2, 3]

    assert len(before & set(workers._workers)) == 2
    for job in (4, 5, 6):
        workers.submit(told(job, "fine fine"))
    done = everything(workers)
    assert sorted(outcome.job_id for outcome in done) == [4, 5, 6]
    assert all(outcome.ok for outcome in done)
    assert len(before & set(workers._workers)) == 2


def test_what_is_on_the_device_may_end_when_all_is_given_up(
    pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("gemmtune.executors.pool._RUN_PATIENCE_S", 60.0)
    workers = pool(workers=3)
    all_started(workers)
    before = set(workers._workers)
    on_the_device(workers, told(1, f"fine wait:{tmp_path / 'given-up'}"))
    for job in (2, 3, 4):
        workers.submit(told(job, "slow fine"))

    drop = workers._events.drop

    def dropped(process: Any, job: int) -> bool:
        (tmp_path / "given-up").touch()
        return drop(process, job)

    monkeypatch.setattr(workers._events, "drop", dropped)
    assert sorted(workers.cancel()) == [2, 3, 4]

    # The successor of a killed worker would keep all others from the device while it opens it.
    assert set(workers._workers) == before
    workers.submit(told(5, "fine fine"))
    assert [outcome.job_id for outcome in everything(workers)] == [1, 5]


def test_closing_waits_for_nothing_on_the_device(
    pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemmtune.executors.pool._RUN_PATIENCE_S", 3600.0)
    workers = pool(workers=1)
    on_the_device(workers, told(1, "fine hang"))

    workers.close()

    assert not workers._workers


def test_a_worker_is_told_to_leave_its_job_before_anyone_hears_that_it_has_compiled() -> None:
    sent: list[str] = []
    heard: list[tuple[str, list[str]]] = []

    class Process:
        def send(self, op: str) -> None:
            sent.append(op)

    class Events:
        def put(self, event: tuple[Any, dict[str, Any]]) -> None:
            heard.append((event[1]["op"], list(sent)))

    turnstile, process = Turnstile(lambda _: None), Process()
    turnstile._events = Events()  # type: ignore[assignment]
    assert turnstile.drop(process, 1)  # type: ignore[arg-type]
    turnstile.put((process, {"op": "ready", "job": 1}))  # type: ignore[arg-type]

    assert heard == [("ready", ["drop"])]


def test_what_ends_while_it_is_given_up_is_not_taken_for_the_next_job(
    pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workers = pool(workers=2)
    all_started(workers)
    for job, runs in ((1, f"meet:{tmp_path}"), (2, "fine")):
        workers.submit(told(job, f"fine {runs}"))
        while states(workers) != {1: ["idle", "running"], 2: ["ready", "running"]}[job]:
            assert workers.next(timeout_s=0.01) is None
    drain = workers._drain

    def late() -> None:
        drain()
        for name in "ab":
            (tmp_path / name).touch()
        time.sleep(0.5)  # Both end meanwhile.

    monkeypatch.setattr(workers, "_drain", late)
    given_up = workers.cancel()
    monkeypatch.undo()
    workers.submit(told(3, "fine fine"))

    done = [outcome.job_id for outcome in everything(workers)]
    assert sorted([*given_up, *done]) == [1, 2, 3]


def test_a_compiler_that_hangs_on_a_job_that_was_given_up_is_killed(
    pool: Callable[..., Pool],
) -> None:
    workers = pool(workers=1)
    workers.submit(told(1, "hang fine", compile_limit_s=0.5))
    assert workers.next(timeout_s=0.2) is None
    assert workers.cancel() == (1,)

    workers.submit(told(2, "fine fine"))

    assert [outcome.job_id for outcome in everything(workers)] == [2]


@pytest.mark.parametrize("how", ["die", "lost"])
def test_a_job_that_was_given_up_takes_none_of_the_next_with_it(
    pool: Callable[..., Pool], how: str
) -> None:
    workers = pool(workers=1)
    workers.submit(told(1, f"{how} fine"))
    assert workers.cancel() == (1,)

    for job in (2, 3):
        workers.submit(told(job, "fine fine"))

    done = everything(workers)
    assert [outcome.job_id for outcome in done] == [2, 3]
    assert all(outcome.ok for outcome in done)


def test_cancel_keeps_workers_that_have_only_begun_to_start(pool: Callable[..., Pool]) -> None:
    workers = pool(workers=3)
    workers.soon = 3
    workers.submit(told(1, "hang fine"))
    before = set(workers._workers)

    assert workers.cancel() == (1,)

    assert set(workers._workers) == before
    workers.soon = 0
    workers.submit(told(2, "fine fine"))
    outcome = workers.next()
    assert outcome is not None
    assert outcome.ok


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_kernel_goes_to_the_worker_that_has_compiled_it(
    pool: Callable[..., Pool], tmp_path: Path
) -> None:
    workers = pool(workers=2)
    folders = [tmp_path / name for name in "ab"]
    together = tmp_path / "together"
    for folder in (*folders, together):
        folder.mkdir()
    workers.submit(told(0, f"been:{folders[0]}+{together} fine"))
    workers.submit(told(1, f"been:{folders[1]}+{together} fine"))
    assert len(everything(workers)) == 2

    for number in (1, 0, 1, 0, 0, 1, 1):
        workers.submit(told(number, f"been:{folders[number]}+{together} fine"))
        assert workers.next() is not None

    assert [len(list(folder.iterdir())) for folder in folders] == [1, 1]


class Ear:
    """As much of a worker as a turnstile sees."""

    def __init__(self) -> None:
        self.granted: list[float] = []
        self.usual_ns: object = None

    def send(self, op: str, *, idle_s: float = -1.0, usual_ns: object = None) -> None:
        assert op == "grant"
        self.granted.append(idle_s)
        self.usual_ns = usual_ns


def test_a_job_waits_for_those_who_open_the_device_and_they_for_a_job() -> None:
    turnstile = Turnstile(lambda _: None)
    worker, other, first, second = (Ear() for _ in range(4))

    def say(ear: Ear, op: str | None) -> None:
        turnstile.put((ear, None if op is None else {"op": op, "outcome": {}}))  # type: ignore[arg-type]

    say(worker, "ready")
    say(first, "opening")
    say(other, "ready")
    say(second, "opening")
    assert [len(ear.granted) for ear in (worker, first, second, other)] == [1, 0, 0, 0]

    say(worker, "outcome")
    assert [len(ear.granted) for ear in (worker, first, second, other)] == [1, 1, 1, 0]

    say(first, "hello")
    assert not other.granted
    say(second, None)  # one that dies has done with it, too
    assert len(other.granted) == 1


def test_workers_are_told_what_reference_is_usual() -> None:
    turnstile = Turnstile(lambda _: None)
    worker = Ear()
    for time_ns in (100.0, 101.0, 99.0, 100.0, 250.0):
        turnstile.put((worker, {"op": "ready"}))  # type: ignore[arg-type]
        assert worker.usual_ns is None
        turnstile.put((worker, {"op": "outcome", "outcome": {"reference_ns": time_ns}}))  # type: ignore[arg-type]

    turnstile.put((worker, {"op": "ready"}))  # type: ignore[arg-type]

    assert worker.usual_ns == pytest.approx((95.0, 105.0))


def test_what_is_usual_follows_a_device_that_stays_slower() -> None:
    usual = Usual()
    for time_ns in [100.0] * 20 + [200.0] * 11:
        usual.add(time_ns)
    usual.add(None)

    low_ns, high_ns = usual.band_ns or (0.0, 0.0)

    assert low_ns <= 200.0 <= high_ns


def test_the_device_is_handed_on_before_anybody_reads_the_outcome() -> None:
    announced: list[Ear] = []
    turnstile = Turnstile(announced.append)  # type: ignore[arg-type]
    first, second, third = ears = [Ear() for _ in range(3)]
    for ear in ears:
        turnstile.put((ear, {"op": "ready"}))  # type: ignore[arg-type]
    assert [len(ear.granted) for ear in ears] == [1, 0, 0]

    turnstile.put((first, {"op": "outcome", "outcome": {}}))  # type: ignore[arg-type]
    assert [len(ear.granted) for ear in ears] == [1, 1, 0]

    # One that dies gives the device back too, and gives up its place where it had not got it.
    turnstile.put((second, None))  # type: ignore[arg-type]
    turnstile.leave(third)  # type: ignore[arg-type]
    assert [len(ear.granted) for ear in ears] == [1, 1, 1]
    turnstile.put((first, {"op": "ready"}))  # type: ignore[arg-type]
    assert len(first.granted) == 2
    assert first.granted[0] == 1e6
    assert first.granted[1] < 60.0
    assert announced == [*ears, first]


def test_a_killed_jobs_time_on_the_device_is_kept(pool: Callable[..., Pool]) -> None:
    workers = pool()
    workers.submit(told(1, "fine hang", run_limit_s=0.3))

    outcome = workers.next()

    assert outcome is not None
    assert outcome.device_s >= 0.3


def test_an_outcome_that_came_in_time_counts_however_late_it_is_read(
    pool: Callable[..., Pool],
) -> None:
    workers = pool()
    workers.submit(told(1, "fine fine", compile_limit_s=0.5))
    time.sleep(1.0)

    outcome = workers.next()

    assert outcome is not None
    assert outcome.ok


def test_next_returns_none_when_its_time_is_up(pool: Callable[..., Pool]) -> None:
    workers = pool()
    workers.submit(told(1, "fine hang"))

    assert workers.next(timeout_s=0.2) is None
    assert workers.cancel() == (1,)


def test_cancel_and_close_leave_no_process(pool: Callable[..., Pool]) -> None:
    workers = pool(workers=2)
    all_started(workers)
    workers.submit(told(1, "fine hang"))
    workers.submit(told(2, "hang fine"))
    while any(worker.task is None for worker in workers._workers.values()):
        assert workers.next(timeout_s=0.1) is None
    pids = [process.pid for process in workers._workers]

    assert sorted(workers.cancel()) == [1, 2]
    workers.close()
    assert not any(alive(pid) for pid in pids)
    with pytest.raises(ExecutorError, match="closed"):
        workers.submit(told(3, "fine fine"))


def test_workers_that_never_start_are_an_error_and_not_a_loop() -> None:
    with pytest.raises(ExecutorError, match=r"3 worker processes in a row died.*fell over"):
        Pool([*WORKER, "die"], 1)


def test_a_worker_that_finds_no_adapter_says_so() -> None:
    with pytest.raises(DeviceError, match="there is no such adapter"):
        Pool([*WORKER, "refuse"], 1)


def test_a_command_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ExecutorError, match="no worker process can be started"):
        Pool(["/nonexistent/worker"], 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path, executor: Pool) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import time\n"
        "from gemmtune.executors.pool import Pool\n"
        f"pool = Pool({worker_command(executor.device.key, QUICK)!r}, 1)\n"
        "print(next(iter(pool._workers)).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert alive(worker)
        os.kill(parent.pid, signal.SIGKILL)
    until_s = time.monotonic() + 20.0
    while alive(worker) and time.monotonic() < until_s:
        time.sleep(0.05)

    assert not alive(worker)


def test_a_real_worker_that_is_stopped_from_outside_is_replaced(executor: Pool) -> None:
    executor.submit(naive_job(1, executor))
    for process in executor._workers:
        os.kill(process.pid, signal.SIGKILL)

    assert failure(executor.next()).kind == "crash"
    executor.submit(naive_job(2, executor))
    outcome = executor.next()
    assert outcome is not None
    assert outcome.ok


def test_software_adapters_get_fewer_workers_than_hardware() -> None:
    software = replace(DEVICE, adapter_type="cpu")

    assert 1 <= default_workers(software) <= 2
    assert 1 <= default_workers(DEVICE) <= MOST_WORKERS


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (4, 3), (8, 7), (16, 18), (128, 24)])
def test_many_cores_get_more_workers_than_there_are(
    cores: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)

    assert default_workers(DEVICE) == workers


def test_worker_command_carries_the_policy() -> None:
    command = worker_command("llvmpipe", QUICK)

    assert command[1:3] == ["-m", "gemmtune.executors.worker"]
    assert '"min_repetitions": 3' in command[-1]


# Choosing


@pytest.mark.parametrize("url", ["remote", "fake:x", ""])
def test_an_unknown_executor_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match=r"use local, .* fake:SEED or replay:FILE"):
        open_executor(url)


def test_an_adapter_that_does_not_exist_is_named_with_those_that_do(executor: Pool) -> None:
    with pytest.raises(DeviceError, match="no adapter matches 'no such thing'; there is 0: "):
        open_executor("local:no such thing")


# The fake


def test_the_fake_is_deterministic_and_takes_the_models_time() -> None:
    executor = FakeExecutor()
    kernel = render("tiled", FAMILIES["tiled"].default(GEMM, DEVICE), GEMM, DEVICE)
    executor.submit(Job(id=1, gemm=GEMM, kernel=kernel))

    outcome = executor.next()

    assert outcome is not None
    assert isinstance(outcome.result, Measurement)
    assert outcome.result.time_ns == model_ns(GEMM, kernel)
    assert executor.now_s > 0.0


def test_the_fakes_noise_depends_on_its_seed_only() -> None:
    def times(seed: int) -> list[float]:
        executor = FakeExecutor(seed=seed)
        executor.submit(naive_job(1, executor))
        return [o.result.time_ns for o in everything(executor) if isinstance(o.result, Measurement)]

    assert times(1) == times(1) != times(2)


@pytest.mark.parametrize("kind", FAILURE_KINDS)
def test_the_fake_fails_by_rule(kind: str) -> None:
    executor = FakeExecutor(fails=lambda job: kind if job.id % 2 else None)  # type: ignore[arg-type, return-value]
    for job_id in range(4):
        executor.submit(naive_job(job_id, executor))

    outcomes = {outcome.job_id: outcome for outcome in everything(executor)}

    assert [outcomes[job_id].ok for job_id in range(4)] == [True, False, True, False]
    assert failure(outcomes[1]).kind == kind


def test_the_fakes_time_passes_when_nobody_waits() -> None:
    executor = FakeExecutor(fails=lambda _: "timeout")
    executor.submit(naive_job(1, executor))

    assert executor.next(timeout_s=5.0) is None
    assert executor.now_s == 5.0
    assert failure(executor.next()).kind == "timeout"
    assert executor.now_s > 100.0
