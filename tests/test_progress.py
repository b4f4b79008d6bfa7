"""Progress says how far tuning is: lines in a log, a display on a terminal, nothing when quiet."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from gemmtune import Gemm
from gemmtune.job import Times
from gemmtune.progress import (
    Event,
    Mode,
    ProblemFinished,
    ProblemSkipped,
    ProblemStarted,
    Progress,
    SpaceListed,
    Standing,
    StopReason,
    Tick,
    TrialFinished,
)

GEMM = Gemm(m=1000, n=1000, k=500)
BEST = Standing(
    trials=12,
    failures={"compile": 2, "timeout": 1},
    best_ns=1e6,
    best_family="tiled",
    best_config="vec=4",
    default_ns=2.5e6,
)

TIMES = Times(measure_s=30.6, warm_s=12.24, verify_s=6.12, compile_s=500.0, total_s=61.2)


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def started(
    *, count: int = 1, trials: int | None = None, budget_s: float | None = 60.0, known: int = 0
) -> ProblemStarted:
    return ProblemStarted(
        gemm=GEMM,
        number=1,
        count=count,
        budget_s=budget_s,
        trials=trials,
        standing=Standing(trials=known),
    )


def trial(standing: Standing = BEST) -> TrialFinished:
    return TrialFinished(
        family="tiled", config="vec=4", time_ns=1e6, failure=None, message="", standing=standing
    )


def finished(stop: StopReason = "budget", measured: int = 12) -> ProblemFinished:
    return ProblemFinished(
        gemm=GEMM, stop=stop, seconds_s=61.2, measured=measured, standing=BEST, times=TIMES
    )


def play(events: list[tuple[float, Event]], mode: Mode = "plain") -> list[str]:
    """What is written when the events come so many seconds after the start."""
    clock, stream = Clock(), io.StringIO()
    with Progress(mode, stream=stream, now=clock) as progress:
        for second, event in events:
            clock.now_s = 100.0 + second
            progress(event)
    return stream.getvalue().splitlines()


def test_a_plain_line_has_best_trials_pace_failures_and_time_left() -> None:
    _, line = play([(0, started(count=3)), (0, SpaceListed(configs=500)), (20, trial())])

    assert line == (
        "[1/3] 1000x1000x500  best 1000.0 GFLOP/s tiled  12/500 trials  3/min  "
        "failed 3 (compile 2, timeout 1)  0:40 left"
    )


def test_plain_lines_come_once_an_interval_also_while_nothing_finishes() -> None:
    events: list[tuple[float, Event]] = [(0, started())]
    events += [(second / 4, Tick(in_flight=2)) for second in range(64)]

    lines = play(events)

    assert len(lines) == 1 + 3
    assert lines[1].endswith("none yet  0 trials  0/min  0:55 left")


def test_a_single_problem_is_not_numbered_and_trials_are_the_goal_when_given() -> None:
    _, line = play([(0, started(trials=40, budget_s=None)), (6, trial())])

    assert line.startswith("1000x1000x500  best")
    assert "12/40 trials" in line
    # One config in six seconds, 28 to go.
    assert line.endswith("2:48 left")


def test_without_any_goal_no_time_left_is_claimed() -> None:
    _, line = play([(0, started(budget_s=None)), (6, trial())])

    assert "left" not in line


def test_resuming_is_said() -> None:
    assert play([(0, started(known=7))]) == [f"{GEMM.key}; 7 configs measured before"]


def test_the_end_says_what_came_of_it_and_why_it_ended() -> None:
    _, line, _ = play([(0, started()), (61, finished(measured=5))])

    assert line == (
        f"{GEMM.key}: 1000.0 GFLOP/s tiled, 2.50x the default, 5 configs in 61 s, 12 in all, "
        "failed 3 (compile 2, timeout 1) (time is up)"
    )


def test_the_end_says_what_the_device_did_meanwhile() -> None:
    *_, line = play([(0, started()), (61, finished(measured=51))])

    assert line == (
        "  50 configs a minute; the device: "
        "measure 50%, warm up 20%, verify 10%, prepare 0%, idle 20%"
    )


def test_a_run_with_nothing_left_to_measure_says_nothing_of_the_device() -> None:
    assert len(play([(0, started()), (1, finished("trials", measured=0))])) == 2


def test_an_interruption_says_that_the_same_command_continues() -> None:
    _, line, _ = play([(0, started()), (3, finished("interrupted"))])

    assert "all results are kept, the same command continues" in line


def test_a_skipped_problem_says_why() -> None:
    (line,) = play([(0, ProblemSkipped(gemm=GEMM, reason="too big"))])

    assert line == f"{GEMM.key}: skipped: too big"


def test_a_slow_best_keeps_three_digits() -> None:
    slow = replace(BEST, best_ns=1e6 * 1e6)

    _, line = play([(0, started()), (6, trial(slow))])

    assert "best 0.001 GFLOP/s" in line


def test_quiet_writes_nothing() -> None:
    assert play([(0, started()), (20, trial()), (61, finished())], "quiet") == []


def test_the_live_display_keeps_the_lines_of_what_is_done() -> None:
    text = "\n".join(play([(0, started()), (20, trial()), (61, finished())], "live"))

    assert "1000.0 GFLOP/s" in text
    assert "time is up" in text


def test_plain_is_taken_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress.open() as progress:
        progress(started())
    with Progress.open(quiet=True) as progress:
        progress(started())

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"{GEMM.key}\n"
