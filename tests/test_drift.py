"""Drift of the device is told from noise, named, and what it touched is measured again."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from gemmtune import Gemm
from gemmtune.device import Device
from gemmtune.executors import open_executor
from gemmtune.job import Failure, Measurement, Outcome, Policy
from gemmtune.progress import Drifted, Event, TrialFinished
from gemmtune.store import Store
from gemmtune.tune import TuneOptions, tune
from gemmtune.tune.drift import Drift, Episode, Reading
from gemmtune.tune.finals import combined


def drift(times: Sequence[float], spread: float = 0.01) -> Drift:
    found = Drift()
    for row_id, time_ns in enumerate(times, start=1):
        found.add(Reading(row_id=row_id, time_ns=time_ns, spread=spread))
    return found


def noisy(count: int, sigma: float, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [100.0 * (1.0 + rng.gauss(0.0, sigma)) for _ in range(count)]


@pytest.mark.parametrize("sigma", [0.0, 0.005, 0.05, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_drift_however_large_it_is(sigma: float, seed: int) -> None:
    times = noisy(200, sigma, seed)

    touched = drift(times).touched()

    assert len(touched) <= 4


@pytest.mark.parametrize(("sigma", "factor"), [(0.0, 1.06), (0.01, 1.3), (0.1, 3.0)])
def test_a_slower_stretch_is_one_episode_with_the_rows_it_touched(
    sigma: float, factor: float
) -> None:
    times = noisy(100, sigma)
    times[60:70] = [time_ns * factor for time_ns in times[60:70]]

    (episode,) = drift(times).episodes()

    assert episode.row_ids == tuple(range(61, 71))
    assert episode.ratio == pytest.approx(factor, rel=0.15)


def test_the_cause_is_told_from_how_steady_the_device_is() -> None:
    slow = [100.0] * 20 + [200.0] * 5

    assert drift(slow, spread=0.01).episodes()[0].cause == "throttling"
    assert drift(slow, spread=0.5).episodes()[0].cause == "another load"
    assert drift([100.0] * 20 + [50.0] * 5).episodes()[0].cause == "a higher clock"


def test_drifts_are_said_in_words() -> None:
    words = [
        Episode(row_ids=(1,), ratio=2.1, cause="another load").words(),
        Episode(row_ids=(1,), ratio=1.2, cause="throttling").words(),
        Episode(row_ids=(1,), ratio=0.5, cause="a higher clock").words(),
    ]

    assert words == [
        "2.10x slower (another load on it)",
        "1.20x slower (throttling)",
        "2.00x faster (a higher clock)",
    ]


def test_a_drift_is_current_while_it_lasts_and_one_reading_is_not_yet_one() -> None:
    times = [100.0] * 20

    assert drift([*times, 200.0]).current is None
    current = drift([*times, 200.0, 200.0]).current
    assert current is not None
    assert current.ratio == 2.0
    assert drift([*times, 200.0, 200.0, 100.0]).current is None
    assert drift([100.0, 200.0, 200.0]).current is None


def outcome(time_ns: float, reference_ns: float | None = 100.0, spread: float = 0.01) -> Outcome:
    result = Measurement(
        time_ns=time_ns,
        spread=spread,
        min_ns=time_ns * 0.9,
        repetitions=10,
        clock="gpu",
        max_abs_error=time_ns / 1e6,
        max_rel_error=0.0,
        tolerance=1.0,
    )
    return Outcome(job_id=1, result=result, reference_ns=reference_ns)


def test_rounds_come_to_their_median_and_the_widest_spread() -> None:
    result = combined([outcome(100.0), outcome(104.0), outcome(102.0)]).result

    assert isinstance(result, Measurement)
    assert (result.time_ns, result.repetitions, result.min_ns) == (102.0, 30, 90.0)
    assert result.spread == pytest.approx(2.0 / 102.0)
    assert result.max_abs_error == pytest.approx(104.0 / 1e6)
    wide = combined([outcome(100.0, spread=0.3), outcome(101.0)]).result
    assert isinstance(wide, Measurement)
    assert wide.spread == 0.3


def test_a_round_on_a_slower_device_does_not_count() -> None:
    rounds = [outcome(100.0), outcome(101.0), outcome(250.0, reference_ns=240.0), outcome(102.0)]

    result = combined(rounds).result

    assert isinstance(result, Measurement)
    assert (result.time_ns, result.repetitions) == (101.0, 30)


def test_what_fails_once_has_failed() -> None:
    flaky = Outcome(job_id=1, result=Failure(kind="wrong_result", message="differs"))

    assert combined([outcome(100.0), flaky, outcome(100.0)]).result == flaky.result


# On the adapter, with another load on it

LOAD = """
import hashlib, sys, threading

def burn():
    while True:
        hashlib.sha256(bytes(1 << 22))  # without the interpreter's lock

for _ in range(64):  # so many that it is felt on a machine that is busy already
    threading.Thread(target=burn, daemon=True).start()

from gemmtune.executors.local.runner import Compiled, Runner
from gemmtune.job import Job, Policy
from gemmtune.kernels.naive import NaiveConfig
from gemmtune.problem import Gemm
from gemmtune.render import render

runner = Runner(sys.argv[1], Policy(min_time_s=1.0))
gemm = Gemm(m=256, n=256, k=256)
compiled = runner.compile(
    Job(id=1, gemm=gemm, kernel=render("naive", NaiveConfig(), gemm, runner.device))
)
assert isinstance(compiled, Compiled)
while True:
    runner.run(compiled)
"""


@pytest.fixture
def load(device: Device) -> Iterator[Callable[[], None]]:
    """Called, it begins to keep the adapter busy; once."""
    running: list[subprocess.Popen[bytes]] = []

    def begin() -> None:
        if not running:
            running.append(subprocess.Popen([sys.executable, "-c", LOAD, device.key]))

    yield begin
    for process in running:
        process.kill()
        process.wait()


class SeenError(Exception):
    """The drift has been reported."""


@pytest.mark.alone
def test_another_load_on_the_adapter_is_seen_and_named(
    tmp_path: Path, device: Device, load: Callable[[], None]
) -> None:
    trials = 0

    def hear(event: Event) -> None:
        nonlocal trials
        trials += isinstance(event, TrialFinished)
        if trials >= 12:
            load()
            if isinstance(event, Drifted) and "slower" in event.words:
                raise SeenError

    policy = Policy(warmup_s=0.01, min_time_s=0.005, min_repetitions=3, max_repetitions=20)
    options = TuneOptions(budget_s=240.0, policy=policy, families=("tiled",), sampler="random")
    executor = open_executor(f"local:{device.key}", workers=1, policy=policy)
    try:
        with Store.open(tmp_path / "tuning.db") as store, pytest.raises(SeenError):
            tune([Gemm(m=64, n=64, k=64)], executor, store, options, report=hear)
    finally:
        executor.close()
