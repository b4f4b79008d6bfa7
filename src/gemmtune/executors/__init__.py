"""Things that run jobs. A new one is one module here and one line in `open_executor`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gemmtune.device import Device
from gemmtune.errors import MissingExtraError, UsageError
from gemmtune.job import Job, Outcome, Policy, Versions
from gemmtune.probes import Memory


class Executor(Protocol):
    """Runs jobs on one device, several at a time.

    Used from one thread. Whatever a kernel does, an outcome comes back for every job submitted:
    a config that hangs, crashes the driver or loses the device is a `Failure`, never an exception.
    Only one job's kernel runs on the device at any moment; what overlaps is compilation.

    Raises (any method):
        ExecutorError: workers cannot be started or keep dying without a job.
    """

    device: Device
    """What it runs on."""
    versions: Versions
    """The software below it."""
    capacity: int
    """Jobs worth having in flight at once; submitting more waits in the queue."""
    soon: int
    """Jobs that will be submitted soon: what workers for them need to start is done already."""
    on_grant: Callable[[int], None]
    """Called with a job's id before the job is given the device, in any thread, one at a time.
    `cancel` calls it for none. A `GemmtuneError` of it leaves another method."""

    def submit(self, job: Job) -> None:
        """Take a job; returns at once."""

    def next(self, timeout_s: float | None = None) -> Outcome | None:
        """The next outcome in the order they finish; None: none came in time, or will come."""

    def cancel(self) -> tuple[int, ...]:
        """Give up all in flight but what is about to finish, killing if need be; returns ids."""

    def close(self) -> None:
        """Cancel, end every worker, free the device. May be called twice."""


def open_executor(
    url: str = "local",
    *,
    workers: int | None = None,
    policy: Policy | None = None,
    memory: Memory | None = None,
) -> Executor:
    """The executor that ``url`` names.

    Args:
        url: ``local`` or ``local:SELECTOR``: worker processes on an adapter here, by index or
            part of its name, backend or key. ``fake`` or ``fake:SEED``: made-up times, for tests.
            ``replay:FILE``: what was recorded in a landscape.
        workers: processes; None: as many as suit the adapter.
        policy: how time is measured; None: the usual.
        memory: what was probed of the adapter, e.g. a `Store`; None: it is probed again.

    Raises:
        UsageError: there is no such executor.
        DeviceError: no adapter, or none that matches.
        ExecutorError: workers cannot be started.
        MissingExtraError: a package is not installed.
        LandscapeError: the landscape cannot be read.
    """
    kind, _, rest = url.partition(":")
    if kind == "local":
        require_wgpu()
        from gemmtune.executors.pool import Pool, worker_command
        from gemmtune.executors.probing import probe

        command = worker_command(rest, policy or Policy())
        return Pool(command, workers, probe=lambda device: probe(device, rest, memory))
    if kind == "fake" and (not rest or rest.isdecimal()):
        from gemmtune.executors.fake import FakeExecutor

        return FakeExecutor(seed=int(rest) if rest else None)
    if kind == "replay" and rest:
        from gemmtune.executors.replay import ReplayExecutor

        return ReplayExecutor.open(Path(rest))
    raise UsageError(
        f"executor {url!r} is unknown; use local, local:ADAPTER, fake, fake:SEED or replay:FILE"
    )


def unheeded(job_id: int) -> None:
    """The `Executor.on_grant` of those that nobody has set."""


def list_devices(memory: Memory | None = None) -> list[Device]:
    """Every adapter here, in the order of the indices that ``local:`` takes; see `open_executor`.

    Raises:
        MissingExtraError: wgpu is not installed.
        ExecutorError: not even the list could be had.
    """
    require_wgpu()
    from gemmtune.executors.probe import list_devices as probe

    return probe(memory)


def require_wgpu() -> None:
    """Raises MissingExtraError where a worker could not import what it needs."""
    for package in ("numpy", "wgpu"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError.of(package, "tune")
