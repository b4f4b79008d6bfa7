"""Worker processes on one adapter: all compile at once, one at a time has the device.

The parent grants the device, so a worker that dies can never keep it, and enforces the time limits
by killing. Runs no kernel itself and does not import wgpu.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from gemmtune.device import Device
from gemmtune.errors import DeviceError, ExecutorError
from gemmtune.executors import unheeded
from gemmtune.executors.crew import START_LIMIT_S, Task, Worker, failure
from gemmtune.executors.probing import Probe
from gemmtune.executors.process import WorkerProcess
from gemmtune.executors.turnstile import Turnstile
from gemmtune.job import Failure, Job, Outcome, Policy, Versions

START_ATTEMPTS = 3
"""Workers that may die in a row before they ever had a job."""
MOST_WORKERS = 24
"""Of the default; each holds its own copy of a problem's operands on the device."""
MANY_CORES = 8
"""With more of them than this, workers are more than the cores, by so many:"""
SPARE_WORKERS = 2
"""At any moment one or two of them wait for the device, or use it, and compile nothing."""
_EXIT_PATIENCE_S = 2.0
_RUN_PATIENCE_S = 1.0  # 95 of 100 take less than half of it
_RETRY_S = 0.25


def worker_command(selector: str, policy: Policy) -> list[str]:
    """How a worker of ours is started."""
    arguments = ["--selector", selector, "--policy", json.dumps(asdict(policy))]
    return [sys.executable, "-m", "gemmtune.executors.worker", *arguments]


def default_workers(device: Device) -> int:
    """Few cores: one is left to whoever asks. Kernels of software adapters need them themselves."""
    cores = os.cpu_count() or 1
    if device.software:
        return 2 if cores >= 8 else 1
    if cores > MANY_CORES:
        return min(MOST_WORKERS, cores + SPARE_WORKERS)
    return max(1, cores - 1)


class Pool:
    """An `Executor` of worker processes.

    Args:
        command: starts one worker; see `worker` for what it must speak.
        workers: how many; None: `default_workers` of the device.
        probe: finds out more of a device than a worker can say in its hello.

    Raises:
        DeviceError: the worker finds no adapter.
        ExecutorError: workers die before they say hello.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int | None = None,
        probe: Callable[[Device], Probe] | None = None,
    ) -> None:
        self._command = list(command)
        self._events = Turnstile(self._announce)
        self._workers: dict[WorkerProcess, Worker] = {}
        self._waiting: deque[Task] = deque()
        self._finished: deque[Outcome] = deque()
        self._failed_starts = 0
        self._start_after_s = 0.0
        self._hello: tuple[Device, Versions] | None = None
        # How often a job has ended in a way that other processes on the device may have felt.
        self._disasters = 0
        # When a worker last had to go because the device's memory was not enough for all.
        self._room_made_s: float | None = None
        self._closed = False
        self._folder = tempfile.TemporaryDirectory(prefix="gemmtune-", ignore_cleanup_errors=True)
        self.on_grant: Callable[[int], None] = unheeded
        self.soon = 0
        self.capacity = max(1, workers or 1)
        try:
            self.device, self.versions = self._first_hello()
            if probe is not None:
                self._learn(probe(self.device))
        except (DeviceError, ExecutorError, KeyboardInterrupt):
            self.close()
            raise
        self.capacity = workers or default_workers(self.device)
        # Fewer of them, later, must not keep more each: there was no room.
        self._sharers = self.capacity

    def _first_hello(self) -> tuple[Device, Versions]:
        while self._hello is None:
            if not self._workers:
                time.sleep(max(0.0, self._start_after_s - time.monotonic()))
                self._start()
            self._step(None)
        return self._hello

    def _learn(self, probe: Probe) -> None:
        self.device = probe.device
        if probe.fresh:
            # A driver that resets a device takes it from the worker that has it, too.
            for worker in list(self._workers.values()):
                self._remove(worker)

    # The Executor protocol

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        if self._closed:
            raise ExecutorError(f"job {job.id} was submitted to an executor that is closed")
        self._waiting.append(Task(job))
        self._assign()

    def next(self, timeout_s: float | None = None) -> Outcome | None:
        """See `Executor.next`."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        # The device must not wait while outcomes are fetched.
        self._drain()
        self._assign()
        while not self._finished:
            if not self._waiting and not any(w.task for w in self._workers.values()):
                return None
            self._step(until_s)
            if until_s is not None and time.monotonic() >= until_s and not self._finished:
                return None
        return self._finished.popleft()

    def cancel(self) -> tuple[int, ...]:
        """See `Executor.cancel`.

        The job that has the device may end by itself, and is not given up then: nearly all do
        before a killed worker's successor would have opened the device, which no other can use
        meanwhile. The other workers leave their job when they would need the device.
        """
        return self._give_up(_RUN_PATIENCE_S)

    def _give_up(self, patience_s: float) -> tuple[int, ...]:
        given_up: list[int] = []
        with self._events.held():  # so that none of them is granted what another one leaves
            self._drain()  # Now all but the one that has the device are as we know them.
            for worker in self._workers.values():
                if worker.task is None or worker.state == "running":
                    continue
                if self._events.drop(worker.process, job := worker.task.job.id):
                    given_up.append(job)
                    worker.drop()
            until_s = time.monotonic() + patience_s
            while any(worker.task for worker in self._workers.values()):
                if (event := self._events.get(max(0.0, until_s - time.monotonic()))) is None:
                    break
                self._handle(*event)
            for worker in list(self._workers.values()):
                if worker.task is not None:
                    given_up.append(worker.task.job.id)
                    self._remove(worker)
            given_up.extend(task.job.id for task in self._waiting)
            self._waiting.clear()
        return tuple(given_up)

    def close(self) -> None:
        """See `Executor.close`."""
        self._closed = True
        self._give_up(0.0)
        for worker in list(self._workers.values()):
            if worker.state != "idle":
                self._remove(worker)
        for process in self._workers:
            process.hang_up()
        for worker in list(self._workers.values()):
            worker.process.end(_EXIT_PATIENCE_S)
            self._remove(worker)
        self._folder.cleanup()

    # Turning the wheel

    def _step(self, until_s: float | None) -> None:
        """Waits for one event, a time limit or ``until_s``, whichever is first, and acts on it."""
        self._assign()
        limits = [worker.deadline_s for worker in self._workers.values()]
        if until_s is not None:
            limits.append(until_s)
        if self._waiting and self._start_after_s > time.monotonic():
            limits.append(self._start_after_s)
        wait_s = min(limits, default=float("inf")) - time.monotonic()
        event = self._events.get(None if wait_s == float("inf") else max(0.0, wait_s))
        if event is not None:
            self._handle(*event)
        # Whatever was said in time counts, however late we come to read it.
        self._drain()
        now_s = time.monotonic()
        for worker in list(self._workers.values()):
            if now_s >= worker.deadline_s:
                self._kill(worker)
        self._assign()

    def _drain(self) -> None:
        while (event := self._events.get(0.0)) is not None:
            self._handle(*event)

    def _handle(self, process: WorkerProcess, message: dict[str, Any] | None) -> None:
        worker = self._workers.get(process)
        if worker is None:
            return  # the last words of one that was killed
        op = None if message is None else message.get("op")
        if message is None:
            self._died(worker)
        elif op == "hello":
            self._hello = (
                Device.from_json(message["device"]),
                Versions(**message["versions"]),
            )
            self._failed_starts = 0
            worker.disasters = self._disasters
            worker.turn("idle")
        elif op == "error":
            self._refused(worker, str(message["message"]))
        elif op == "opening":
            worker.turn("queueing")
        elif op == "opened":
            worker.turn("compiling")
        elif op == "ready" and worker.dropped is not None:
            worker.rest()
        elif op == "ready":
            worker.turn("ready")
        elif op == "unannounced":
            raise message["error"]
        elif op == "granted":
            worker.granted(float(message["at_s"]))
        elif op == "outcome":
            self._done(worker, Outcome.from_json(message["outcome"]))

    def _assign(self) -> None:
        """Gives waiting jobs to idle workers, and starts workers for those left over."""
        for worker in list(self._workers.values()):
            if worker.state == "idle" and len(self._workers) > self.capacity:
                self._retire(worker)
        idle = [worker for worker in self._workers.values() if worker.state == "idle"]
        # First those that have compiled a kernel: it runs again at once.
        for worker in sorted(idle, key=lambda worker: self._known_to(worker) is None):
            if self._waiting:
                task = self._known_to(worker) or self._waiting[0]
                self._waiting.remove(task)
                worker.take(task)
                worker.process.forget_stderr()
                job, folder = task.job.to_json(), self._folder.name
                worker.process.send("job", job=job, workers=self._sharers, folder=folder)
        if time.monotonic() < self._start_after_s:
            return
        starting = sum(worker.starting for worker in self._workers.values())
        wanted = max(len(self._waiting) - starting, self.soon - len(self._workers))
        for _ in range(min(wanted, self.capacity - len(self._workers))):
            self._start()

    def _known_to(self, worker: Worker) -> Task | None:
        """The first waiting job whose kernel the worker has compiled."""
        return next((task for task in self._waiting if task.job.kernel in worker.kernels), None)

    def _announce(self, process: WorkerProcess) -> None:
        """Called in the thread of some worker."""
        worker = self._workers.get(process)
        task = None if worker is None else worker.task
        if task is not None:
            self.on_grant(task.job.id)

    def _start(self) -> None:
        try:
            process = WorkerProcess(self._command, self._events)
        except OSError as error:
            raise ExecutorError(f"no worker process can be started: {error}") from error
        self._workers[process] = Worker(process, time.monotonic())

    # How jobs and workers end

    def _remove(self, worker: Worker) -> None:
        """Ends a worker whatever it is doing."""
        del self._workers[worker.process]
        worker.process.close()
        self._events.leave(worker.process)
        worker.task = None

    def _done(self, worker: Worker, outcome: Outcome) -> None:
        task, began_s, result = worker.task, worker.since_s, outcome.result
        worker.rest()
        if task is None:
            if isinstance(result, Failure) and result.kind in ("device_lost", "crash"):
                # The job was given up, but the worker ends, and others may have felt it.
                self._remove(worker)
                self._disasters += 1
            return
        if isinstance(result, Failure) and result.kind in ("device_lost", "crash"):
            self._remove(worker)
            self._disaster(worker, task, outcome)
        elif (
            isinstance(result, Failure)
            and result.kind == "out_of_memory"
            and self._make_room(worker, began_s)
        ):
            self._waiting.append(task)
        else:
            worker.disasters = self._disasters
            self._finished.append(outcome)

    def _make_room(self, worker: Worker, began_s: float) -> bool:
        """Does with half the workers, once, where they may have used the memory up together.

        Returns:
            Whether a job that began then deserves another try; the worker has gone.
        """
        if self._room_made_s is None and len(self._workers) > 1:
            self.capacity = max(1, self.capacity // 2)
        elif self._room_made_s is None or (
            len(self._workers) <= self.capacity and began_s > self._room_made_s
        ):
            return False
        self._retire(worker)
        return True

    def _retire(self, worker: Worker) -> None:
        self._remove(worker)
        self._room_made_s = time.monotonic()

    def _refused(self, worker: Worker, message: str) -> None:
        """A worker could not open the device. At first that is final; later it may recover."""
        self._remove(worker)
        if self._hello is None:
            raise DeviceError(message)
        self._start_failed(message)

    def _died(self, worker: Worker) -> None:
        worker.process.end(_EXIT_PATIENCE_S)
        words = worker.process.last_words()
        state, task = worker.state, worker.task
        self._disasters += worker.dropped is not None
        self._remove(worker)
        if worker.starting:
            self._start_failed(words)
        elif task is not None:
            doing = "compiling" if state == "compiling" else "running"
            died = failure(worker, task.job, "crash", f"worker died {doing}: {words}")
            self._disaster(worker, task, died)

    def _start_failed(self, words: str) -> None:
        """Waits a little longer each time: a device that was lost may take seconds to return."""
        self._failed_starts += 1
        self._start_after_s = time.monotonic() + _RETRY_S * 2**self._failed_starts
        if self._failed_starts < START_ATTEMPTS:
            return
        working = [worker for worker in self._workers.values() if not worker.starting]
        if not working:
            raise ExecutorError(
                f"{self._failed_starts} worker processes in a row died before their first job; "
                f"the last said: {words}"
            )
        # The device may not bear more of them; those there are go on.
        self.capacity = len(working)
        self._failed_starts = 0

    def _kill(self, worker: Worker) -> None:
        state, task, dropped = worker.state, worker.task, worker.dropped
        self._remove(worker)
        if dropped is not None:
            return
        if task is None:
            self._start_failed(f"nothing within {START_LIMIT_S:g} s")
            return
        job = task.job
        limit_s = job.compile_limit_s if state == "compiling" else job.run_limit_s
        doing = "compilation" if state == "compiling" else "verification and timing"
        message = f"{doing} took longer than {limit_s:g} s; the worker was killed"
        # A compiler that is killed disturbs nobody, a kernel may take the whole device with it.
        self._disasters += state == "running"
        self._finished.append(failure(worker, job, "timeout", message))

    def _disaster(self, worker: Worker, task: Task, outcome: Outcome) -> None:
        """A job lost its device or worker.

        Its own fault, unless another had done so since this worker last worked: a driver that
        resets a device takes it from every process.
        """
        innocent = worker.disasters != self._disasters and not task.retried
        self._disasters += 1
        if innocent:
            task.retried = True
            self._waiting.appendleft(task)
        else:
            self._finished.append(outcome)
