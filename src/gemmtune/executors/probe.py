"""What adapters there are, asked in processes of their own: a driver may crash when asked."""

from __future__ import annotations

import queue
import sys
from dataclasses import replace
from typing import Any

from gemmtune.device import Device
from gemmtune.errors import ExecutorError
from gemmtune.executors.process import Event, WorkerProcess

LIMIT_S = 60.0
"""For each question."""


def list_devices() -> list[Device]:
    """Every adapter, with its subgroup size measured; 0 where its driver did not survive that.

    Raises:
        ExecutorError: the list itself could not be had.
    """
    found = _ask("--list")
    if found is None:
        raise ExecutorError("listing the adapters failed: a driver crashed or did not answer")
    return [_probed(index, device) for index, device in enumerate(found)]


def _probed(index: int, device: Device) -> Device:
    answer = _ask("--probe", str(index)) if device.has("subgroup") else None
    return replace(device, subgroup_size=answer[0].subgroup_size) if answer else device


def _ask(*arguments: str) -> list[Device] | None:
    """The devices that a worker tells of; None if it dies, refuses or takes too long."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    process = WorkerProcess([sys.executable, "-m", "gemmtune.executors.worker", *arguments], events)
    try:
        message: dict[str, Any] | None = events.get(timeout=LIMIT_S)[1]
    except queue.Empty:
        return None
    finally:
        process.close()
    if message is None or message.get("op") != "devices":
        return None
    return [Device.from_json(device) for device in message["devices"]]
