"""One job on a device of this process: compile, verify, time. Survives nothing; workers do that."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gemmtune.device import Device
from gemmtune.errors import DeviceError
from gemmtune.executors.crew import KEPT_KERNELS
from gemmtune.executors.local import timing
from gemmtune.executors.local.gpu import Dispatch, Gpu, JobError
from gemmtune.executors.local.operands import SLACK_BYTES, Helpers, Operands, kernel_bindings
from gemmtune.executors.local.sentinel import Sentinel
from gemmtune.executors.local.stock import ALONE, Company, Problem, Stock
from gemmtune.executors.local.verify import Verdict
from gemmtune.executors.steady import Band
from gemmtune.job import Failure, Job, Measurement, Outcome, Policy, Versions
from gemmtune.kernels.base import Launch, check_problem
from gemmtune.problem import Gemm

_Part = tuple[int, int, int]
"""Of a kernel: number of the pass, first workgroup, count of them."""

MOST_AGAIN = 2
"""Times that a kernel is timed again at once because the device was not as usual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A job whose kernel is ready to run."""

    job: Job
    """The job."""
    pipelines: tuple[Any, ...]
    """The wgpu pipeline of each of its passes."""
    compile_s: float
    """Wall time of compiling."""


class Runner:
    """Runs jobs one after the other.

    Args:
        selector: the adapter, as `adapters.choose` takes it.
        policy: how time is measured.

    Raises:
        DeviceError: there is no such adapter.
    """

    def __init__(self, selector: str = "", policy: Policy | None = None) -> None:
        self._gpu = Gpu(selector)
        self._policy = policy or Policy()
        self._helpers = Helpers(self._gpu)
        self._watch: timing.Stopwatch | None = None
        # Not when it is first wanted: the device would wait for its compilation.
        self._sentinel = self._made_sentinel()
        self.stock = Stock(self._gpu, self._helpers, self._policy, self._stopwatch)
        """The buffers of a problem."""
        self._compiled: dict[Any, tuple[Any, ...]] = {}

    def _made_sentinel(self) -> Sentinel | None:
        """None where the policy spends no time on times."""
        if self._policy.min_time_s <= 0.0:
            return None
        try:
            return Sentinel(self._gpu, self._helpers)
        except JobError as error:
            raise DeviceError(f"{self._gpu.device.name} runs no kernel: {error}") from error

    @property
    def device(self) -> Device:
        """What it runs on."""
        return self._gpu.device

    @property
    def versions(self) -> Versions:
        """The software below."""
        return self._gpu.versions

    def compile(self, job: Job) -> Compiled | Outcome:
        """The kernel's pipeline, or the outcome that says why there is none."""
        started = time.perf_counter()
        try:
            reasons = check_problem(job.gemm, self.device)
            if reasons:
                raise JobError("validation", f"{job.gemm.key}: {'; '.join(reasons)}")
            pipelines = self._pipelines(job)
        except JobError as error:
            return _failed(job, error, compile_s=time.perf_counter() - started)
        return Compiled(job=job, pipelines=pipelines, compile_s=time.perf_counter() - started)

    def _pipelines(self, job: Job) -> tuple[Any, ...]:
        """Those of the kernel; kept from one of the last jobs where it was the same."""
        kernel = job.kernel
        has_workspace = kernel.workspace_bytes > 0
        bindings = tuple(
            kernel_bindings(job.gemm, workspace=has_workspace, only_reads=launch.only_reads)
            for launch in kernel.launches
        )
        entry_points = tuple(launch.entry_point for launch in kernel.launches)
        key = (kernel.wgsl, bindings, entry_points, kernel.unchecked)
        pipelines = self._compiled.pop(key, None)
        if pipelines is None:
            pipelines = self._gpu.pipelines(
                kernel.wgsl, bindings, entry_points, unchecked=kernel.unchecked
            )
            if self.device.software:
                # Software drivers compile at the first dispatch; one without work brings it on.
                self._first_dispatch(job, pipelines)
        self._compiled[key] = pipelines
        if len(self._compiled) > KEPT_KERNELS:
            del self._compiled[next(iter(self._compiled))]
        return pipelines

    def _first_dispatch(self, job: Job, pipelines: tuple[Any, ...]) -> None:
        nothing = Gemm(m=0, n=0, k=0, bias=job.gemm.bias)
        with self._gpu.failing_as("validation"):
            operands = Operands(self._gpu, self._helpers, nothing, 0)
            operands.set_workspace(min(job.kernel.workspace_bytes, SLACK_BYTES))
            passes = zip(pipelines, job.kernel.launches, strict=True)
            self._gpu.submit(
                [[operands.dispatch(each, 0, 0, only_reads=one.only_reads) for each, one in passes]]
            )
            self._gpu.wait()
            operands.free()

    def run(
        self,
        compiled: Compiled,
        idle_s: float = 0.0,
        company: Company = ALONE,
        usual_ns: Band | None = None,
    ) -> Outcome:
        """Verifies and times. The device must be this job's alone meanwhile.

        Args:
            compiled: what `compile` gave.
            idle_s: how long the device has had nothing to do.
            company: who shares the device, if not at this moment.
            usual_ns: between which times the reference usually is; where it is not right after the
                kernel was timed, that is done again.
        """
        job, laps = compiled.job, _Laps()
        laps.seconds["ahead_s"] = self.stock.taken_s()
        try:
            with laps.lap("prepare_s"), self._gpu.failing_as("validation"):
                problem = self.stock.get(job, company)
            with laps.lap("verify_s"):
                plans, verdict = self._verify(compiled, problem)
            with self._gpu.failing_as("validation"):
                for again in range(MOST_AGAIN + 1):
                    idle_s = idle_s if not again else math.inf
                    result = self._time(compiled, problem, plans, verdict, idle_s, laps)
                    reference_ns, reference_spread = self._reference(laps)
                    if not self._off(result, reference_ns, job, usual_ns):
                        break
        except JobError as error:
            return _failed(job, error, compile_s=compiled.compile_s, **laps.seconds)
        finally:
            self.stock.drop_if_large(company.workers)
        return Outcome(
            job_id=job.id,
            result=result,
            compile_s=compiled.compile_s,
            reference_ns=reference_ns,
            reference_spread=reference_spread,
            again=again,
            **laps.seconds,
        )

    def _stopwatch(self) -> timing.Stopwatch:
        if self._watch is None:
            buffers = (self._gpu.buffer(1 << 20), self._gpu.buffer(1 << 20))
            with self._gpu.failing_as("validation"):
                self._watch = timing.Stopwatch(self._gpu, self._helpers.load(*buffers))
        return self._watch

    def _reference(self, laps: _Laps) -> tuple[float | None, float]:
        """How fast the device is now; not where the policy spends no time on times."""
        if self._sentinel is None:
            return None, 0.0
        with laps.lap("measure_s"):
            return self._sentinel.measure(self._stopwatch())

    def _off(
        self, timed: Measurement, reference_ns: float | None, job: Job, usual_ns: Band | None
    ) -> bool:
        """Whether the device was not as usual, and what was timed meanwhile could matter."""
        if usual_ns is None or reference_ns is None:
            return False
        low_ns, high_ns = usual_ns
        slower = reference_ns / statistics.fmean(usual_ns)
        matters = (
            job.best_ns is None
            or timed.time_ns / slower <= self._policy.give_up_factor * job.best_ns
        )
        return matters and not low_ns <= reference_ns <= high_ns

    def _verify(
        self, compiled: Compiled, problem: Problem
    ) -> tuple[tuple[timing.Plan, ...], Verdict]:
        best_ns = compiled.job.best_ns or math.inf
        with self._gpu.failing_as("validation"):
            problem.operands.set_workspace(compiled.job.kernel.workspace_bytes)
            plans = tuple(
                self._plan(problem.operands, pipeline, launch, best_ns)
                for pipeline, launch in zip(
                    compiled.pipelines, compiled.job.kernel.launches, strict=True
                )
            )
            dispatches = _dispatches(compiled, problem.operands, _parts(plans))

            def whole() -> None:
                for dispatch in dispatches:
                    self._gpu.submit([[dispatch]])

            return plans, problem.verifier.check(whole)

    def _plan(
        self, operands: Operands, pipeline: Any, launch: Launch, best_ns: float
    ) -> timing.Plan:
        watch = self._stopwatch()

        def part(first: int, count: int) -> Dispatch:
            return operands.dispatch(pipeline, first, count, only_reads=launch.only_reads)

        # Some drivers finish compiling at the first dispatch; that is not the kernel's time.
        watch.passes_ns([[part(0, 0)]], apart=True)
        limit_s = self._policy.dispatch_limit_s
        return timing.plan(watch, part, launch.workgroups, limit_s, best_ns)

    def _time(
        self,
        compiled: Compiled,
        problem: Problem,
        plans: tuple[timing.Plan, ...],
        verdict: Verdict,
        idle_s: float,
        laps: _Laps,
    ) -> Measurement:
        operands, policy = problem.operands, self._policy
        inputs = [(operands.a, operands.b)]
        if policy.cache == "cold":
            inputs = operands.cold_inputs()

        def run_in(parts: Sequence[_Part], *, apart: bool) -> timing.Run:
            variants = [_dispatches(compiled, operands, parts, pair) for pair in inputs]
            return timing.Run(self._stopwatch(), variants, apart=apart)

        with laps.lap("warm_s"):
            parts = _parts(plans)
            apart = len(parts) > len(plans)
            run = run_in(parts, apart=apart)
            warm_ns = run.warm_up(sum(plan.time_ns for plan in plans), policy, idle_s)
            if apart and warm_ns <= policy.dispatch_limit_s * timing.NS / 2:
                # The plan was made on a clock that was still low.
                launches = compiled.job.kernel.launches
                whole = [(index, 0, launch.workgroups) for index, launch in enumerate(launches)]
                run = run_in(whole, apart=False)
                warm_ns = run.warm_up(warm_ns, policy, 0.0)
        with laps.lap("measure_s"):
            timed = run.measure(warm_ns, policy, compiled.job.best_ns)
        largest = verdict.max_reference
        return Measurement(
            time_ns=timed.time_ns,
            spread=timed.spread,
            min_ns=timed.min_ns,
            repetitions=timed.repetitions,
            clock=timed.clock,
            max_abs_error=verdict.max_abs_error,
            max_rel_error=verdict.max_abs_error / largest if largest else 0.0,
            tolerance=verdict.tolerance,
        )


def _parts(plans: Sequence[timing.Plan]) -> list[_Part]:
    return [(index, *part) for index, plan in enumerate(plans) for part in plan.parts]


def _dispatches(
    compiled: Compiled,
    operands: Operands,
    parts: Sequence[_Part],
    inputs: tuple[Any, Any] | None = None,
) -> list[Dispatch]:
    launches = compiled.job.kernel.launches
    return [
        operands.dispatch(
            compiled.pipelines[index],
            first,
            count,
            inputs=inputs,
            only_reads=launches[index].only_reads,
        )
        for index, first, count in parts
    ]


class _Laps:
    """Wall time of a job's steps, by the names that `Outcome` has for them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def lap(self, name: str) -> Iterator[None]:
        """Times what is within, also where it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            lasted_s = time.perf_counter() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + lasted_s


def _failed(job: Job, error: JobError, **seconds: float) -> Outcome:
    failure = Failure(kind=error.kind, message=str(error))
    return Outcome(job_id=job.id, result=failure, again=0, **seconds)
