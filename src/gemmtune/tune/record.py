"""Recording a landscape: measures a whole (sub)space of one problem into one file.

Asks no search: configs come in a random order, so that whatever is there when time is up is a fair
sample. Configs that the best one so far beats by far fail as ``too_slow``, as they do in tuning.
The file is replaced as a whole every few seconds, and the same call goes on from it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from gemmtune.device import Device
from gemmtune.errors import DeviceError, UsageError
from gemmtune.executors import Executor
from gemmtune.generators import generator_hash
from gemmtune.job import Job, Policy
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.landscape import Landscape, Recorded
from gemmtune.problem import Gemm
from gemmtune.render import render
from gemmtune.tune.interrupt import interruptible

RECORD_POLICY = Policy(warmup_s=0.1, min_time_s=0.01, min_repetitions=5)
"""Looser than for tuning, as thousands of configs are wanted: a tenth of a second of device time
for each. The spread of each row says what that cost in precision."""
SAVE_S = 10.0
"""The most that a power cut loses."""
LIMIT_S = 60.0
"""For compiling and again for running one config, before it counts as hung."""
TICK_S = 0.25
"""Longest wait before the clock and the signals are looked at again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions:
    """What to record, and how.

    Raises:
        UsageError: a value makes no sense.
    """

    family: str
    """Name of the kernel family."""
    where: str = ""
    """See `select`."""
    sample: int | None = None
    """Configs to record, a random choice; None: all that are selected."""
    seed: int = 0
    """Of inputs and order."""
    budget_s: float | None = None
    """Wall time of this call; None: no limit."""
    policy: Policy = RECORD_POLICY
    """How time is measured."""
    limit_s: float = LIMIT_S
    """For compiling and again for running one config."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise UsageError(f"there is no family {self.family!r}; there are {', '.join(FAMILIES)}")
        if self.sample is not None and self.sample < 1:
            raise UsageError(f"sample is {self.sample}; it must be at least 1")
        if self.budget_s is not None and self.budget_s <= 0:
            raise UsageError(f"budget is {self.budget_s} s; it must be more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordProgress:
    """How far a recording is."""

    wanted: int
    """Configs that will be in the file."""
    done: int
    """Configs that are known."""
    new: int
    """Of these, measured by this call."""
    failed: int
    """Of `done`, without a time."""
    best_ns: float | None
    """The fastest time so far."""
    seconds_s: float
    """Since the call began."""


def select(family: str, gemm: Gemm, device: Device, where: str = "") -> list[Config]:
    """The legal configs of a problem that pass a filter, in the space's order.

    Args:
        family: its name.
        gemm: the problem.
        device: for which they are legal.
        where: ``FIELD=VALUE,...``; a field named twice may have either value. Empty: all.

    Raises:
        UsageError: the filter names a field that the family lacks, or nothing passes.
        DeviceError: the family cannot do the problem on this device.
    """
    record = FAMILIES[family]
    if reasons := record.supported(gemm, device):
        raise DeviceError(f"{family} cannot do {gemm.key} on {device.name}: {'; '.join(reasons)}")
    wanted = _parse_where(where, [field.name for field in fields(record.config)], family)
    space = list(record.space(gemm, device))
    passing = [
        config
        for config in space
        if all(_text(getattr(config, name)) in values for name, values in wanted.items())
    ]
    if not passing:
        there = {name: sorted({_text(getattr(c, name)) for c in space}) for name in wanted}
        listed = "; ".join(f"{name} is one of {', '.join(v)}" for name, v in there.items())
        raise UsageError(f"no config of {family} for {gemm.key} passes {where!r}: {listed}")
    return passing


def _parse_where(where: str, names: Sequence[str], family: str) -> dict[str, set[str]]:
    wanted: dict[str, set[str]] = {}
    for part in filter(None, (part.strip() for part in where.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value or name not in names:
            raise UsageError(
                f"filter {part!r} is not FIELD=VALUE; the fields of {family} are {', '.join(names)}"
            )
        wanted.setdefault(name, set()).add(value.lower())
    return wanted


def _text(value: object) -> str:
    return str(value).lower()


def record(
    gemm: Gemm,
    executor: Executor,
    path: Path,
    options: RecordOptions,
    *,
    now: Callable[[], float] = time.monotonic,
    report: Callable[[RecordProgress], None] | None = None,
) -> Landscape:
    """Measure what ``options`` select into the file at ``path``, or go on where it stopped.

    SIGINT and SIGTERM, where this is the main thread, end it after saving what there is.

    Args:
        gemm: the problem.
        executor: runs the jobs.
        path: of the landscape.
        options: what, and how.
        now: a clock in seconds.
        report: called after every config.

    Returns:
        What is in the file now.

    Raises:
        UsageError: nothing is selected, or the file was recorded in another way.
        DeviceError: the family cannot do the problem on this device.
        LandscapeError: the file cannot be read or written.
        ExecutorError: workers cannot be kept running.
    """
    recording = _Recording(gemm, executor, path, options, now, report or (lambda _: None))
    with interruptible() as interrupted:
        recording.run(interrupted.is_set)
    return recording.landscape


class _Recording:
    """One call of `record`."""

    def __init__(
        self,
        gemm: Gemm,
        executor: Executor,
        path: Path,
        options: RecordOptions,
        now: Callable[[], float],
        report: Callable[[RecordProgress], None],
    ) -> None:
        self._executor, self._path, self._options = executor, path, options
        self._now, self._report = now, report
        self._began_s = self._saved_s = now()
        configs = select(options.family, gemm, executor.device, options.where)
        self.landscape = _resumed(gemm, executor, path, options, configs)
        self._rows = {row.config: row for row in self.landscape.rows}
        self._earlier = len(self._rows)
        order = _order(configs, FAMILIES[options.family].default(gemm, executor.device), options)
        self._wanted = len(order)
        self._todo = iter([config for config in order if config not in self._rows])
        self._flying: dict[int, Config] = {}
        self._best_ns = best.time_ns if (best := self.landscape.best) else None
        self._submitted = 0

    def run(self, interrupted: Callable[[], bool]) -> None:
        """Measure until there is a reason to stop, and save whatever happens."""
        self._executor.soon = min(self._executor.capacity, self._wanted)
        try:
            while not interrupted() and not self._late():
                self._fill()
                if not self._flying:
                    break
                self._take()
                if self._now() - self._saved_s >= SAVE_S:
                    self._save()
        finally:
            self._executor.soon = 0
            self._executor.cancel()
            self._save()

    def _late(self) -> bool:
        budget_s = self._options.budget_s
        return budget_s is not None and self._now() - self._began_s >= budget_s

    def _fill(self) -> None:
        while len(self._flying) < self._executor.capacity:
            config = next(self._todo, None)
            if config is None:
                return
            self._submit(config)

    def _submit(self, config: Config) -> None:
        options, gemm = self._options, self.landscape.gemm
        kernel = render(options.family, config, gemm, self._executor.device)
        self._submitted += 1
        self._flying[self._submitted] = config
        self._executor.submit(
            Job(
                id=self._submitted,
                gemm=gemm,
                kernel=kernel,
                seed=options.seed,
                best_ns=self._best_ns,
                compile_limit_s=options.limit_s,
                run_limit_s=options.limit_s,
            )
        )

    def _take(self) -> None:
        outcome = self._executor.next(TICK_S)
        if outcome is None or outcome.job_id not in self._flying:
            return
        config = self._flying.pop(outcome.job_id)
        launches = FAMILIES[self._options.family].launch(config, self.landscape.gemm)
        row = self._rows[config] = Recorded.of(config, launches, outcome)
        if row.time_ns is not None:
            self._best_ns = min(row.time_ns, self._best_ns or row.time_ns)
        self._report(
            RecordProgress(
                wanted=self._wanted,
                done=len(self._rows),
                new=len(self._rows) - self._earlier,
                failed=sum(known.time_ns is None for known in self._rows.values()),
                best_ns=self._best_ns,
                seconds_s=self._now() - self._began_s,
            )
        )

    def _save(self) -> None:
        self._saved_s = self._now()
        if len(self._rows) != len(self.landscape.rows):
            self.landscape = replace(self.landscape, rows=tuple(self._rows.values()))
            self.landscape.write(self._path)


def _order(configs: list[Config], default: Config, options: RecordOptions) -> list[Config]:
    """The default first, as a search would begin with it; the rest by chance."""
    order = list(configs)
    random.Random(options.seed).shuffle(order)
    order.sort(key=lambda config: config != default)
    return order[: options.sample]


def _resumed(
    gemm: Gemm, executor: Executor, path: Path, options: RecordOptions, configs: Sequence[Config]
) -> Landscape:
    """What is in the file, or a landscape without rows."""
    empty = Landscape(
        device=executor.device,
        gemm=gemm,
        family=options.family,
        where=options.where,
        selected=len(configs),
        seed=options.seed,
        policy=options.policy,
        versions=executor.versions,
        generator_hash=generator_hash(options.family),
        rows=(),
    )
    if not path.exists():
        return empty
    found = Landscape.read(path)
    # Another selection goes on as well, as long as it has all that was recorded.
    free = ("rows", "device", "where", "selected")
    names = [f.name for f in fields(Landscape) if f.name not in free]
    differing = [name for name in names if getattr(found, name) != getattr(empty, name)]
    if found.device.key != empty.device.key:
        differing.append("device")
    if differing:
        raise UsageError(
            f"{path} was recorded with another {', '.join(differing)}; give another file"
        )
    outside = len({row.config for row in found.rows}.difference(configs))
    if outside:
        raise UsageError(
            f"{path} holds {outside} configs that are not among the {len(configs)} selected now; "
            "select them too, or give another file"
        )
    return replace(empty, rows=found.rows)
