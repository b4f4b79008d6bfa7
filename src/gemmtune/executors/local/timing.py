"""Device time: clocks that were checked, dispatches kept short, warm-up, samples.

Knows how long things take, not whether they are right.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gemmtune.executors.local.gpu import Dispatch, Gpu, JobError
from gemmtune.job import Policy

NS = 1e9
MS = 1e6
HOPELESS_FACTOR = 20.0
"""A kernel that is so much slower than the best so far is given up before it is verified. A clock
that is still low makes it look up to 5 times slower than it is."""
HOPELESS_NS = 50e6
"""Unless the whole takes less: to verify and time it costs next to nothing then."""
_MAX_PASSES = 64
_MAX_DISPATCHES = 4096
# One submission: long enough to hide the host's part, short for every driver's watchdog.
_SUBMIT_NS = 50e6
_WINDOW_NS = 10e6
# A device that has just worked is warm; every moment of idling before costs twice its length.
_WARM_LEAST_S = 0.008
_WARM_PER_IDLE = 2.0
_STEADY = 0.01
# Halves of a measurement that differ by more were taken on different clocks.
_TREND = 0.02
# Samples of a config that is out of the best one's reach.
_FEW = 3
# The two clocks are compared over this long.
_CALIBRATION_NS = 20e6
# Of so many dispatches one is nothing.
_MANY = 30
_QUANTA = 50
# A pass costs a few microseconds beside its dispatches.
_SPAN_NS = 200e3
_HOST_SPAN_NS = 10e6
# A dispatch is planned well under the limit, for the clock may be rising while we look.
_PLANNED_SHARE = 0.6
_LEAST_GROWTH = 8
_MOST_GROWTH = 64
# While a larger part takes hardly longer, even twice as many workgroups are worth a look.
_LEAST_GROWTH_IDLE = 2
# A part by which a kernel is given up runs again: something else may have held it up.
_LOOKS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What was measured."""

    time_ns: float
    """Median of one whole GEMM."""
    spread: float
    """Interquartile range over the median."""
    min_ns: float
    """Fastest sample."""
    repetitions: int
    """Samples."""
    clock: Literal["gpu", "host"]
    """Which clock."""


class Stopwatch:
    """Times passes by the GPU's clock where it keeps time with the host's, else by the host's.

    Args:
        gpu: whose time.
        load: something to dispatch while the two clocks are compared.
    """

    def __init__(self, gpu: Gpu, load: Dispatch) -> None:
        self._gpu = gpu
        self.clock: Literal["gpu", "host"] = "host"
        self.quantum_ns = 1e3
        if gpu.device.has("timestamp-query"):
            self._queries = gpu.query_set(2 * _MAX_PASSES)
            self._period_ns = gpu.timestamp_period_ns
            self._calibrate(load)

    def _calibrate(self, load: Dispatch) -> None:
        """Uses the GPU's clock only if a batch takes as long by it as by the host's."""
        count = 1
        self._host_ns([[load]])
        while self._host_ns([[load] * count]) < _CALIBRATION_NS and count < _MAX_DISPATCHES:
            count *= 2
        for _ in range(3):
            # What it costs to submit anything at all, and to hear that it is done.
            around_ns = self._host_ns([[load]]) if count > _MANY else 0.0
            host_ns = self._host_ns([[load] * count], self._queries) - around_ns
            ticks = self._gpu.ticks(self._queries, 2)
            if abs((ticks[1] - ticks[0]) * self._period_ns - host_ns) <= 0.1 * host_ns:
                self.clock = "gpu"
                self.quantum_ns = self._quantum(load)
                return

    def _quantum(self, load: Dispatch) -> float:
        self._gpu.submit([[load]] * _MAX_PASSES, self._queries)
        ticks = self._gpu.ticks(self._queries, 2 * _MAX_PASSES)
        step = math.gcd(*(tick - ticks[0] for tick in ticks))
        return max(step, 1) * self._period_ns

    @property
    def span_ns(self) -> float:
        """The shortest span worth timing."""
        return _HOST_SPAN_NS if self.clock == "host" else max(_SPAN_NS, _QUANTA * self.quantum_ns)

    def passes_ns(self, passes: Sequence[Sequence[Dispatch]], *, apart: bool) -> list[float]:
        """How long each pass took.

        Args:
            passes: at most 64.
            apart: each is a submission of its own, so that others get the device in between.
        """
        if self.clock == "host":
            return [self._host_ns([dispatches]) for dispatches in passes]
        if apart:
            return [span for one in passes for span in self.passes_ns([one], apart=False)]
        self._gpu.submit(passes, self._queries)
        ticks = self._gpu.ticks(self._queries, 2 * len(passes))
        spans = [ticks[2 * i + 1] - ticks[2 * i] for i in range(len(passes))]
        if any(span < 0 or span * self._period_ns > 3600 * NS for span in spans):
            # The clock was reset below us, as some drivers do when a chip changes its power state.
            self.clock = "host"
            return self.passes_ns(passes, apart=apart)
        return [span * self._period_ns for span in spans]

    def _host_ns(self, passes: Sequence[Sequence[Dispatch]], queries: Any = None) -> float:
        # Encoding a dispatch takes a few microseconds, as long as some kernels.
        commands = self._gpu.encode(passes, queries)
        started = time.perf_counter()
        self._gpu.run(commands)
        self._gpu.wait()
        return (time.perf_counter() - started) * NS


Slice = Callable[[int, int], Dispatch]
"""A launch of (first workgroup, count of them)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole pass in parts, none expected to take longer than the limit."""

    parts: tuple[tuple[int, int], ...]
    """First workgroup and count of each part."""
    time_ns: float
    """What the whole is expected to take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    """The last part of a pass that has run, and the one before."""

    workgroups: int
    """Of the pass."""
    count: int
    span_ns: float
    before: _Probe | None

    @property
    def added_ns(self) -> float:
        """Per workgroup, by how much the part took longer than the one before; 0 for the first."""
        if self.before is None:
            return 0.0
        longer_ns = self.span_ns - self.before.span_ns
        return max(0.0, longer_ns) / (self.count - self.before.count)

    def growth(self, limit_ns: float) -> int:
        """How many times larger the next part may be; 0: this one is the last."""
        room = min(_MOST_GROWTH, int(limit_ns / max(self.span_ns, 1.0)))
        full = 2.0 * self.added_ns * self.count >= self.span_ns
        least = _LEAST_GROWTH if full else _LEAST_GROWTH_IDLE
        return room if self.count < self.workgroups and room >= least else 0

    def whole_ns(self, *, last: bool) -> float:
        """What the pass takes; at least, where the part is not the last.

        Workgroups of one wave run side by side, so the time of a few says nothing of many, until
        more of them take longer. The last part is what the pass will be made of.
        """
        if last:
            return max(self.span_ns, 100.0) / self.count * self.workgroups
        return self.span_ns + self.added_ns * (self.workgroups - self.count)


def plan(
    watch: Stopwatch, launch: Slice, workgroups: int, limit_s: float, best_ns: float = math.inf
) -> Plan:
    """Finds by ever larger small runs how many workgroups fit one dispatch.

    The first run is of one workgroup, each next one up to 64 times larger, as long as the time so
    far says that it stays under the limit: nobody knows beforehand how slow a kernel or a device
    is.

    Args:
        watch: the clock.
        launch: of the pass.
        workgroups: of the pass.
        limit_s: longest dispatch.
        best_ns: a whole GEMM of the best config so far, if any.

    Raises:
        JobError: the pass is out of its reach by far (too_slow).
    """
    limit_ns = limit_s * NS * _PLANNED_SHARE
    hopeless_ns = max(HOPELESS_FACTOR * best_ns, HOPELESS_NS)
    whole = max(workgroups, 1)
    probe, growth = None, 1
    while growth > 0:
        before, count = probe, 1 if probe is None else min(probe.count * growth, whole)
        for _ in range(_LOOKS):
            (span,) = watch.passes_ns([[launch(0, count)]], apart=True)
            probe = _Probe(workgroups=whole, count=count, span_ns=span, before=before)
            growth = probe.growth(limit_ns)
            expected = probe.whole_ns(last=growth == 0)
            if expected <= hopeless_ns:
                break
        else:
            raise JobError("too_slow", _too_slow(count, whole, span, expected, best_ns))
    if expected <= limit_ns:
        return Plan(parts=((0, workgroups),), time_ns=expected)
    each = min(workgroups, max(1, int(limit_ns * whole / expected)))
    starts = range(0, workgroups, each)
    parts = tuple((first, min(each, workgroups - first)) for first in starts)
    return Plan(parts=parts, time_ns=expected)


def _too_slow(count: int, whole: int, span_ns: float, expected_ns: float, best_ns: float) -> str:
    span, expected, best = (f"{_digits(ns / MS)} ms" for ns in (span_ns, expected_ns, best_ns))
    times = _digits(expected_ns / best_ns)
    return (
        f"{count} of {whole} workgroups took {span}: about {expected} in all, "
        f"{times} times the fastest, {best}"
    )


def _digits(value: float) -> str:
    """Three of them, large numbers in full."""
    return f"{float(f'{value:.3g}'):,.15g}"


class Run:
    """One planned GEMM, again and again.

    Args:
        watch: the clock.
        variants: the whole GEMM's dispatches, in order; several that differ in their inputs are
            used in turn.
        apart: each dispatch is submitted alone, because all together would take too long.
    """

    def __init__(
        self, watch: Stopwatch, variants: Sequence[Sequence[Dispatch]], *, apart: bool
    ) -> None:
        self._watch = watch
        self._variants = variants
        self._apart = apart
        self._turn = 0

    def _next(self) -> Sequence[Dispatch]:
        self._turn += 1
        return self._variants[self._turn % len(self._variants)]

    def samples(self, count: int, repeats: int) -> list[float]:
        """Times in ns of one GEMM: ``count`` of them, each the mean of ``repeats`` in a row.

        A GEMM in parts is never repeated within a sample: it is long enough.
        """
        if self._apart:
            return [
                sum(self._watch.passes_ns([[part] for part in self._next()], apart=True))
                for _ in range(count)
            ]
        passes = [
            [dispatch for _ in range(repeats) for dispatch in self._next()] for _ in range(count)
        ]
        return [span / repeats for span in self._watch.passes_ns(passes, apart=False)]

    def warm_up(self, guess_ns: float, policy: Policy, idle_s: float) -> float:
        """Works until the clock is up; returns the time per GEMM of the last 10 ms.

        The longer the device was idle the longer it takes, up to ``warmup_s``: a GPU that slept
        keeps its lowest clock for tens of milliseconds before the clock begins to rise, and looks
        steady all the while. Unless it has just worked, two windows must also agree.

        Args:
            guess_ns: expected time of one GEMM.
            policy: its ``warmup_s`` is the most.
            idle_s: how long the device has had nothing to do before.
        """
        least = min(policy.warmup_s, _WARM_LEAST_S + _WARM_PER_IDLE * idle_s)
        was_busy = least < policy.warmup_s / 10
        started = time.perf_counter()
        before = math.inf
        while True:
            repeats = max(1, min(_MAX_DISPATCHES, int(_WINDOW_NS / max(guess_ns, 100.0))))
            (window,) = self.samples(1, repeats)
            elapsed = time.perf_counter() - started
            steady = was_busy or abs(window - before) <= _STEADY * before
            if elapsed >= policy.warmup_s or (steady and elapsed >= least):
                return max(window, 1.0)
            guess_ns = before = max(window, 1.0)

    def measure(self, guess_ns: float, policy: Policy, best_ns: float | None) -> Timing:
        """Samples as the policy asks; only a few where the best so far is out of reach.

        Samples whose halves differ are dropped from the front and more are taken, at most for
        another ``warmup_s``: the clock has moved meanwhile.

        Args:
            guess_ns: time of one GEMM on a warm device.
            policy: how many.
            best_ns: of the best config so far.
        """
        hopeless = best_ns is not None and guess_ns > policy.give_up_factor * best_ns
        most = min(_FEW, policy.max_repetitions) if hopeless else policy.max_repetitions
        repeats = max(1, min(_MAX_DISPATCHES, math.ceil(self._watch.span_ns / guess_ns)))
        room = min(int(_SUBMIT_NS / (guess_ns * repeats)), _MAX_DISPATCHES // repeats)
        wanted = _Wanted(
            least=min(policy.min_repetitions, most),
            most=most,
            time_ns=0.0 if hopeless else policy.min_time_s * NS / repeats,
            chunk=max(1, min(_MAX_PASSES, room)),
        )
        taken = self._take([], wanted, repeats)
        extra_ns = 0.0 if hopeless else policy.warmup_s * NS
        while extra_ns > 0.0 and _moves(taken):
            kept = taken[len(taken) // 2 :]
            taken = self._take(kept, wanted, repeats)
            extra_ns -= sum(taken[len(kept) :]) * repeats
        return _summary(taken, self._watch.clock)

    def _take(self, kept: Sequence[float], wanted: _Wanted, repeats: int) -> list[float]:
        """The samples kept and as many new ones as are wanted."""
        taken = list(kept)
        while (count := wanted.more(taken)) > 0:
            taken += self.samples(count, repeats)
        return taken


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """How many samples are enough."""

    least: int
    most: int
    time_ns: float
    """What they add up to, at least, unless there are ``most``."""
    chunk: int
    """How many at once, at most."""

    def more(self, taken: Sequence[float]) -> int:
        """How many to take next; 0: these are enough."""
        left_ns = self.time_ns - sum(taken)
        if len(taken) >= self.most or (len(taken) >= self.least and left_ns <= 0.0):
            return 0
        # No more than seem to be missing: what is not needed is time of the device.
        each_ns = statistics.fmean(taken) if taken else math.inf
        missing = max(self.least - len(taken), math.ceil(left_ns / each_ns), 1)
        return min(self.chunk, self.most - len(taken), missing)


def _moves(samples: Sequence[float]) -> bool:
    """Whether the halves of a measurement differ by more than their noise."""
    half = len(samples) // 2
    if half < 3:
        return False
    first, second = statistics.median(samples[:half]), statistics.median(samples[half:])
    quarters = statistics.quantiles(samples[half:], n=4, method="inclusive")
    noise = (quarters[2] - quarters[0]) / 2
    return abs(first - second) > max(_TREND * second, noise)


def _summary(samples: Sequence[float], clock: Literal["gpu", "host"]) -> Timing:
    median = max(statistics.median(samples), 1.0)
    spread = 0.0
    if len(samples) > 1:
        first, _, third = statistics.quantiles(samples, n=4, method="inclusive")
        spread = (third - first) / median
    return Timing(
        time_ns=median,
        spread=spread,
        min_ns=min(samples),
        repetitions=len(samples),
        clock=clock,
    )
