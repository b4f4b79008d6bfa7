"""Showing events to people: lines in a log, or a display on a terminal. The home of rich."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TextIO

from gemmtune.problem import Gemm
from gemmtune.progress.events import (
    Drifted,
    Event,
    ProblemFinished,
    ProblemSkipped,
    ProblemStarted,
    Settling,
    SpaceListed,
    Standing,
    StopReason,
    Tick,
    TrialFinished,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

Mode = Literal["live", "plain", "quiet"]
"""live: a display that is redrawn. plain: lines. quiet: nothing."""

_STOP_WORDS: dict[StopReason, str] = {
    "budget": "time is up",
    "trials": "all trials done",
    "gain": "little more to gain",
    "exhausted": "every config measured",
    "interrupted": "interrupted; all results are kept, the same command continues",
}


class Progress:
    """Shows events; a context manager, called with each event.

    Whatever is shown goes to ``stream``, so that standard output stays for results.
    """

    def __init__(
        self,
        mode: Mode,
        *,
        stream: TextIO | None = None,
        interval_s: float = 5.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show in ``mode`` on ``stream`` (None: stderr); plain lines every ``interval_s``."""
        self._mode = mode
        self._stream = sys.stderr if stream is None else stream
        self._interval_s = interval_s
        self._now = now
        self._state = _State(now)
        self._shown_at = -float("inf")
        self._console: Console | None = None
        self._live: Live | None = None

    @classmethod
    def open(cls, *, plain: bool = False, quiet: bool = False) -> Progress:
        """On stderr: live on a terminal, else plain; ``plain`` and ``quiet`` say otherwise."""
        if quiet:
            return cls("quiet")
        return cls("plain" if plain or not sys.stderr.isatty() else "live")

    def __enter__(self) -> Self:
        if self._mode == "live":
            from rich.console import Console
            from rich.live import Live

            self._console = Console(file=self._stream)
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: Event) -> None:
        """Take in an event and show what there is to show."""
        self._state.take(event)
        if self._mode == "quiet":
            return
        match event:
            case ProblemStarted():
                self._line(self._state.started_line())
                self._shown_at = self._now()
            case ProblemSkipped():
                self._line(f"{event.gemm.key}: skipped: {event.reason}")
            case ProblemFinished():
                self._line(finished_line(event))
                if event.measured:
                    self._line(times_line(event))
            case Drifted() | Settling():
                self._line(_note(event))
            case SpaceListed() | TrialFinished() | Tick():
                if self._mode == "plain" and self._now() - self._shown_at >= self._interval_s:
                    self._line(self._state.line())
                    self._shown_at = self._now()

    def _line(self, text: str) -> None:
        if self._console is not None:
            # Printed above the display, which stays at the bottom.
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        if self._state.started is None:
            return Text("")
        bar = ProgressBar(total=1.0, completed=self._state.share(), width=40)
        line = Text(self._state.line(), no_wrap=True, overflow="ellipsis")
        return Group(line, bar)


class _State:
    """The events so far, folded."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._began_s = now()
        self.started: ProblemStarted | None = None
        self.standing = Standing()
        self.measured = 0
        self.size: int | None = None

    def take(self, event: Event) -> None:
        """Fold in one more."""
        match event:
            case ProblemStarted():
                self._began_s = self._now()
                self.started, self.standing = event, event.standing
                self.measured, self.size = 0, None
            case SpaceListed():
                self.size = event.configs
            case TrialFinished():
                self.standing = event.standing
                self.measured += 1
            case ProblemFinished():
                self.started = None
            case ProblemSkipped() | Tick() | Drifted() | Settling():
                pass

    def started_line(self) -> str:
        """What is tuned now, and what is known of it."""
        assert self.started is not None
        known = self.standing.trials
        rest = f"; {_count(known, 'config')} measured before" if known else ""
        return f"{self._place()}{self.started.gemm.key}{rest}"

    def line(self) -> str:
        """Best, trials, pace, failures and time left."""
        if self.started is None:
            return ""
        gemm, standing = self.started.gemm, self.standing
        done = f"{standing.trials}"
        goal = self.started.trials or self.size
        parts = [
            f"{self._place()}{gemm.shape}",
            f"best {_speed(gemm, standing)}",
            f"{done}/{goal} trials" if goal else f"{done} trials",
            f"{self._pace():.0f}/min",
            *([f"failed {failure_words(standing)}"] if standing.failures else []),
        ]
        left_s = self.left_s()
        return "  ".join([*parts, *([f"{_clock(left_s)} left"] if left_s is not None else [])])

    def left_s(self) -> float | None:
        """Until the time is up or, at this pace, the trials are done; None: cannot be said."""
        if self.started is None:
            return None
        ends = []
        if self.started.budget_s is not None:
            ends.append(self.started.budget_s - self._elapsed_s())
        goals = [goal for goal in (self.started.trials, self.size) if goal is not None]
        if goals and self.measured:
            ends.append((min(goals) - self.standing.trials) * 60.0 / self._pace())
        return max(0.0, min(ends)) if ends else None

    def share(self) -> float:
        """How much of the time or the trials is used, 0 to 1."""
        left_s, elapsed_s = self.left_s(), self._elapsed_s()
        return elapsed_s / (elapsed_s + left_s) if left_s is not None and elapsed_s > 0 else 0.0

    def _pace(self) -> float:
        return 60.0 * self.measured / max(self._elapsed_s(), 1e-3)

    def _elapsed_s(self) -> float:
        return self._now() - self._began_s

    def _place(self) -> str:
        assert self.started is not None
        many = self.started.count > 1
        return f"[{self.started.number}/{self.started.count}] " if many else ""


def finished_line(event: ProblemFinished) -> str:
    """How the tuning of a problem ended, in one line."""
    standing = event.standing
    parts = [f"{event.gemm.key}: {_speed(event.gemm, standing)}"]
    if standing.best_ns is not None and standing.default_ns is not None:
        parts.append(f"{standing.default_ns / standing.best_ns:.2f}x the default")
    parts.append(f"{_count(event.measured, 'config')} in {event.seconds_s:.0f} s")
    if standing.trials > event.measured:
        parts.append(f"{standing.trials} in all")
    if standing.failures:
        parts.append(f"failed {failure_words(standing)}")
    return ", ".join(parts) + f" ({_STOP_WORDS[event.stop]})"


def _note(event: Drifted | Settling) -> str:
    """What happens beside the search, in one line."""
    if isinstance(event, Settling):
        if event.repairs:
            return f"  {_count(event.repairs, 'config')} touched by a drift: measured again"
        return f"  the fastest {_count(event.leaders, 'config')}: {event.rounds} rounds in turn"
    if not event.words:
        return "  drift: the device is as fast as usual again"
    return f"  drift: the device is {event.words}; what it touches is measured again at the end"


def times_line(event: ProblemFinished) -> str:
    """How many configs a minute, and what the device did meanwhile, in one line."""
    total_s = max(event.seconds_s, 1e-9)
    shares = (
        f"{name} {seconds_s / total_s:.0%}" for name, seconds_s in event.times.device_s.items()
    )
    return (
        f"  {60 * event.measured / total_s:.0f} configs a minute; the device: {', '.join(shares)}"
    )


def failure_words(standing: Standing) -> str:
    """``3 (compile 2, timeout 1)``."""
    kinds = sorted(standing.failures.items(), key=lambda item: (-item[1], item[0]))
    words = ", ".join(f"{kind} {count}" for kind, count in kinds)
    return f"{sum(standing.failures.values())} ({words})"


def _speed(gemm: Gemm, standing: Standing) -> str:
    if standing.best_ns is None:
        return "none yet"
    gflops = gemm.flops / standing.best_ns
    return f"{gflops:{'.1f' if gflops >= 10 else '.3g'}} GFLOP/s {standing.best_family}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _clock(seconds_s: float) -> str:
    minutes, rest = divmod(round(seconds_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
