"""Tuning several problems in turn. Knows neither adapters nor databases; those it is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gemmtune.device import Device
from gemmtune.errors import DeviceError, ProblemError
from gemmtune.executors import Executor
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import check_problem
from gemmtune.problem import Gemm
from gemmtune.progress import Event, ProblemSkipped, Report
from gemmtune.store import Store
from gemmtune.tune.interrupt import interruptible
from gemmtune.tune.listing import searched_families
from gemmtune.tune.loop import Tuning
from gemmtune.tune.options import TuneOptions, TuneResult

if TYPE_CHECKING:
    from gemmtune.search.study import Storage


def tune(
    problems: Sequence[Gemm],
    executor: Executor,
    store: Store,
    options: TuneOptions | None = None,
    *,
    now: Callable[[], float] = time.monotonic,
    report: Report | None = None,
    budgets: Mapping[str, float] | None = None,
    storage: Storage | None = None,
) -> list[TuneResult]:
    """Tune each problem in turn on the executor's device; same results, same seed, same course.

    Continues where earlier runs with the same templates, versions and policy stopped. SIGINT and
    SIGTERM, where this is the main thread, end it after giving up what is in flight; a second one
    raises KeyboardInterrupt. Several processes may tune into one store: no config runs twice.

    Args:
        problems: what to tune; each once.
        executor: runs the jobs.
        store: keeps every result the moment it is there.
        options: how; None: all defaults.
        now: a clock in seconds.
        report: called with every event.
        budgets: seconds for some problems by key, instead of the options' budget.
        storage: where the search is shared with tuners elsewhere; None: it is not.

    Returns:
        One result per problem begun, in order. The last has ``stop="interrupted"`` if it was.

    Raises:
        UsageError: a problem is empty.
        DeviceError: the device can do none of the problems.
        ExecutorError: workers cannot be kept running.
        StoreError: the store cannot be used.
    """
    options = TuneOptions() if options is None else options
    report = _silent if report is None else report
    unique = {gemm.key: gemm for gemm in problems}
    todo = _accept(list(unique.values()), executor.device, options, report)
    results = []
    with interruptible() as interrupted:
        for number, gemm in enumerate(todo, start=1):
            own_s = (budgets or {}).get(gemm.key, options.budget_s)
            own = replace(options, budget_s=own_s)
            tuning = Tuning(gemm, executor, store, own, now, report, interrupted, storage)
            results.append(tuning.run(number, len(todo)))
            if results[-1].stop == "interrupted":
                break
    return results


def _silent(event: Event) -> None:
    """Report nothing."""


def _accept(
    problems: Sequence[Gemm], device: Device, options: TuneOptions, report: Report
) -> list[Gemm]:
    """The problems that the device can do; the others are reported, or all refused."""
    for gemm in problems:
        if gemm.empty or gemm.k == 0:
            raise ProblemError(f"nothing to tune: {gemm.shape} has a size of 0")
    accepted = []
    refused = []
    for gemm in problems:
        reasons = check_problem(gemm, device)
        if not reasons and not searched_families(gemm, device, options):
            reasons = tuple(
                f"{name}: {reason}"
                for name in options.families
                for reason in FAMILIES[name].supported(gemm, device)
            )
        if reasons:
            refused.append((gemm, "; ".join(reasons)))
        else:
            accepted.append(gemm)
    if refused and not accepted:
        gemm, reason = refused[0]
        raise DeviceError(f"cannot tune {gemm.key} on {device.name}: {reason}")
    for gemm, reason in refused:
        report(ProblemSkipped(gemm=gemm, reason=reason))
    return accepted
