"""What only kernels can tell of an adapter: asked in processes that may die of it, and remembered.

Which native matrix multiply-adds are right, and how much workgroup memory a multiprocessor holds.
Knows nothing of how a question is answered.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import queue
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from gemmtune._data import data_path
from gemmtune.device import Device, Fragment
from gemmtune.executors.process import Event, WorkerProcess
from gemmtune.job import Failure
from gemmtune.probes import Answer, Finding, Memory, Question, Source
from gemmtune.unlock import VARIABLE, file_hash, library_environment, shipped_library

FEATURE = "cooperative-matrix"
CANDIDATES = tuple(
    Fragment(size=size, ab=ab, acc=acc, workgroup=(), storage=())
    for size, (ab, acc) in product((8, 16), (("f16", "f16"), ("f16", "f32"), ("f32", "f32")))
)
"""All that WGSL can name, in the order in which they are tried."""
LOADS: tuple[tuple[Source, int], ...] = tuple(product(("workgroup", "storage"), (1, 2, 4)))
"""Where A and B come from, and elements of one pointee. What fails at the first is not tried on."""
WORKER = (sys.executable, "-m", "gemmtune.executors.worker")
LIMIT_S = 60.0
"""For each question."""
_GENERATION = 2
"""Raised when the same question is answered in another way."""
_TEMPLATES = ("fragment.wgsl", "residency.wgsl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What came of asking."""

    device: Device
    """With all that was found out."""
    fresh: bool
    """The driver was put to the test just now; what else was open on it may have suffered."""


def probe(
    device: Device,
    selector: str,
    memory: Memory | None = None,
    worker: Sequence[str] = WORKER,
) -> Probe:
    """Finds out what there is to be found out about an adapter, or remembers it.

    Args:
        device: as a worker described it.
        selector: names the adapter to the workers.
        memory: keeps findings; None: nothing is remembered.
        worker: starts a process that answers questions.

    Raises:
        StoreError: the memory cannot be used.
    """
    asker = _Asker(device, [*worker, "--selector", selector, "--answer"], memory)
    try:
        probed = replace(
            device,
            fragments=tuple(sorted(_fragments(device, asker))),
            resident_workgroup_bytes=_resident_bytes(device, asker),
        )
    finally:
        asker.close()
    if memory is not None and asker.fresh:
        memory.describe(probed)
    return Probe(device=probed, fresh=asker.fresh)


def _fragments(device: Device, asker: _Asker) -> Iterator[Fragment]:
    for candidate in CANDIDATES if device.has(FEATURE) else ():
        if "f16" in (candidate.ab, candidate.acc) and not device.has("shader-f16"):
            continue
        right: dict[Source, list[int]] = {"workgroup": [], "storage": []}
        for source, width in LOADS:
            question = Question(subject="fragment", fragment=candidate, source=source, width=width)
            if isinstance(asker.ask(question), Answer):
                right[source].append(width)
            elif (source, width) == LOADS[0]:
                break
        else:
            yield replace(
                candidate,
                workgroup=tuple(right["workgroup"]),
                storage=tuple(right["storage"]),
            )


def _resident_bytes(device: Device, asker: _Asker) -> int:
    """On a software adapter the speed says nothing of a multiprocessor, so it is not asked."""
    if device.software:
        return 0
    finding = asker.ask(Question(subject="workgroup_memory"))
    return finding.number if isinstance(finding, Answer) else 0


def basis_of(device: Device) -> str:
    """All that findings depend on beside `Device.key`, as JSON."""
    named = library_environment(os.environ).get(VARIABLE)
    library = Path(named) if named else shipped_library()
    folder = data_path("templates") / "verify"
    return json.dumps(
        {
            "subgroup_size": device.subgroup_size,
            "wgpu": importlib.metadata.version("wgpu"),
            "library": file_hash(library) if library is not None and library.is_file() else "",
            "templates": [file_hash(folder / name) for name in _TEMPLATES],
            "generation": _GENERATION,
        },
        sort_keys=True,
    )


class _Asker:
    """Puts questions to worker processes, one after the other, and starts another when one dies.

    A process that dies, hangs or loses its device costs the question it was at. One that cannot
    even open the device proves nothing: then nothing more is asked, and nothing remembered.
    """

    def __init__(self, device: Device, command: Sequence[str], memory: Memory | None) -> None:
        self._device = device
        self._command = command
        self._memory = memory
        self._basis = basis_of(device)
        self._known = {} if memory is None else memory.findings(device, self._basis)
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._process: WorkerProcess | None = None
        self._gave_up = False
        self.fresh = False
        """A question was put to the driver."""

    def ask(self, question: Question) -> Finding | None:
        """What is known, or else what a process says; None where none can be had."""
        if question.key in self._known:
            return self._known[question.key]
        if self._gave_up or not self._open():
            self._gave_up = True
            return None
        if self._memory is not None:
            self._memory.begin_probe(self._device, self._basis, question.key)
        self.fresh = True
        finding = self._put(question)
        if self._memory is not None:
            self._memory.finish_probe(self._device, self._basis, question.key, finding)
        return finding

    def _open(self) -> bool:
        if self._process is None:
            self._process = WorkerProcess(self._command, self._events)
            message = self._next(self._process)
            if not isinstance(message, dict) or message.get("op") != "opened":
                self.close()
        return self._process is not None

    def _put(self, question: Question) -> Finding:
        assert self._process is not None
        self._process.forget_stderr()
        self._process.send("question", question=question.to_json())
        message = self._next(self._process)
        if isinstance(message, Failure):
            self.close()
            return message
        if "failure" not in message:
            return Answer(**message["answer"])
        failure = Failure(**message["failure"])
        if failure.kind == "device_lost":
            self.close()
        return failure

    def _next(self, process: WorkerProcess) -> dict[str, Any] | Failure:
        """What the process says next, or how it failed to."""
        try:
            sender, message = self._events.get(timeout=LIMIT_S)
            while sender is not process:
                sender, message = self._events.get(timeout=LIMIT_S)
        except queue.Empty:
            return Failure(kind="timeout", message=f"no answer within {LIMIT_S:g} s")
        if message is not None:
            return message
        process.end(1.0)
        return Failure(kind="crash", message=f"worker died: {process.last_words()}")

    def close(self) -> None:
        """Ends the process; the next question starts another."""
        if self._process is not None:
            self._process.close()
            self._process = None
