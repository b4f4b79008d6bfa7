"""What adapters there are, asked in processes of their own: a driver may crash when asked."""

from __future__ import annotations

import queue
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from gemmtune.device import Device
from gemmtune.errors import ExecutorError
from gemmtune.executors.probing import FEATURE, probe
from gemmtune.executors.process import Event, WorkerProcess
from gemmtune.probes import Memory
from gemmtune.unlock import Check

LIMIT_S = 60.0
"""For each question."""


def list_devices(memory: Memory | None = None) -> list[Device]:
    """Every adapter, with what only a kernel can tell; without where its driver dies of that.

    Args:
        memory: remembers what was probed.

    Raises:
        ExecutorError: the list itself could not be had.
    """
    found = _ask("--list")
    if isinstance(found, str):
        raise ExecutorError(
            f"listing the adapters failed: a driver crashed or did not answer ({found})"
        )
    return [_probed(index, device, memory) for index, device in enumerate(found)]


def check_library(library: Path) -> Check:
    """Whether some adapter gives a device with native matrices through this wgpu-native."""
    found = _ask("--list", library=library)
    if isinstance(found, str):
        return Check(verdict="failed", message=found)
    having = [index for index, device in enumerate(found) if FEATURE in device.refused]
    if not having:
        return Check(verdict="absent", message="; ".join(f"{d.name}, {d.driver}" for d in found))
    answers = [_ask("--probe", str(index), library=library) for index in having]
    opened = [answer[0] for answer in answers if not isinstance(answer, str)]
    if any(device.has(FEATURE) for device in opened):
        return Check(verdict="granted")
    if opened:
        return Check(verdict="refused", message="wgpu-native calls it experimental")
    return Check(verdict="failed", message="; ".join(map(str, answers)))


def _probed(index: int, device: Device, memory: Memory | None) -> Device:
    answer = _ask("--probe", str(index))
    if isinstance(answer, str):
        return replace(device, refused=())
    return probe(answer[0], str(index), memory).device


def _ask(*arguments: str, library: Path | None = None) -> list[Device] | str:
    """The devices that a worker tells of; if it dies, refuses or takes too long, what it said."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    command = [sys.executable, "-m", "gemmtune.executors.worker", *arguments]
    process = WorkerProcess(command, events, library)
    try:
        message: dict[str, Any] | None = events.get(timeout=LIMIT_S)[1]
        if message is None:
            process.end(1.0)
            return process.last_words()
    except queue.Empty:
        return f"no answer within {LIMIT_S:g} s"
    finally:
        process.close()
    if message.get("op") != "devices":
        return str(message.get("message", "no answer"))
    return [Device.from_json(device) for device in message["devices"]]
