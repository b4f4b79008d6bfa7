"""Which native matrix multiply-adds an adapter gets right: tried in processes that may die of it.

What was found is kept in the cache folder under everything it depends on. Knows nothing of how a
fragment is tried.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import queue
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from gemmtune._data import data_path
from gemmtune.device import Device, Fragment
from gemmtune.executors.process import Event, WorkerProcess
from gemmtune.unlock import VARIABLE, cache_folder, file_hash, library_environment, shipped_library

FEATURE = "cooperative-matrix"
CANDIDATES = tuple(
    Fragment(size=size, ab=ab, acc=acc)
    for size, (ab, acc) in product((8, 16), (("f16", "f16"), ("f16", "f32"), ("f32", "f32")))
)
"""All that WGSL can name, in the order in which they are tried."""
WORKER = (sys.executable, "-m", "gemmtune.executors.worker")
LIMIT_S = 60.0
"""For each."""
_GENERATION = 1
"""Raised when the same fragment is judged in another way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What came of trying all fragments."""

    device: Device
    """With `Device.fragments`."""
    fresh: bool
    """The driver was put to the test just now; what else was open on it may have suffered."""


def probe_fragments(
    device: Device,
    selector: str,
    cache: Path | None = None,
    worker: Sequence[str] = WORKER,
) -> Probe:
    """Finds the fragments of an adapter, or remembers them.

    Args:
        device: as a worker described it.
        selector: names the adapter to the workers.
        cache: the cache folder; None: the user's.
        worker: starts a process that tries fragments.
    """
    if not device.has(FEATURE):
        return Probe(device=device, fresh=False)
    key = _key(device)
    file = _folder(cache) / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    known = _read(file, key)
    if known is not None:
        return Probe(device=replace(device, fragments=known), fresh=False)
    right, sure = _try_all(device, [*worker, "--selector", selector])
    if sure:
        _write(file, key, right)
    return Probe(device=replace(device, fragments=right), fresh=True)


def forget_fragments(cache: Path | None = None) -> None:
    """Has every adapter probed again when it is next used."""
    shutil.rmtree(_folder(cache), ignore_errors=True)


def _folder(cache: Path | None) -> Path:
    return (cache_folder() if cache is None else cache) / "fragments"


def _key(device: Device) -> str:
    """Everything that the answer depends on."""
    named = library_environment(os.environ).get(VARIABLE)
    library = Path(named) if named else shipped_library()
    template = data_path("templates") / "verify" / "fragment.wgsl"
    return json.dumps(
        {
            "device": device.key,
            "subgroup_size": device.subgroup_size,
            "wgpu": importlib.metadata.version("wgpu"),
            "library": file_hash(library) if library is not None and library.is_file() else "",
            "template": file_hash(template),
            "generation": _GENERATION,
        },
        sort_keys=True,
    )


def _read(file: Path, key: str) -> tuple[Fragment, ...] | None:
    """What was kept; None if there is nothing, or nothing that can be used."""
    try:
        data = json.loads(file.read_text("utf-8"))
        if data["key"] != key:
            return None
        found = {Fragment(**one) for one in data["fragments"]}
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return tuple(sorted(found)) if found <= set(CANDIDATES) else None


def _write(file: Path, key: str, fragments: tuple[Fragment, ...]) -> None:
    """Keeps an answer; where it cannot be kept it is found again next time."""
    data = {"key": key, "fragments": [asdict(one) for one in fragments]}
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        number, draft = tempfile.mkstemp(dir=file.parent, prefix="draft-")
        try:
            with os.fdopen(number, "w", encoding="utf-8") as stream:
                json.dump(data, stream, sort_keys=True)
            os.replace(draft, file)
        finally:
            Path(draft).unlink(missing_ok=True)


def _try_all(device: Device, worker: Sequence[str]) -> tuple[tuple[Fragment, ...], bool]:
    """The fragments that are right, and whether that was a clear answer for each.

    A process that dies, loses its device or hangs costs the fragment it was at; the next process
    goes on with the rest.
    """
    waiting = [one for one in CANDIDATES if _expressible(one, device)]
    right: list[Fragment] = []
    sure = True
    while waiting:
        opened, answers, hung = _try(waiting, worker)
        if not opened:
            return tuple(sorted(right)), False
        for fragment, answer in zip(waiting, answers, strict=False):
            if not answer["wrong"]:
                right.append(fragment)
        # One that ended without an answer, or with the loss of the device, is done with too.
        lost = bool(answers) and bool(answers[-1]["lost"])
        del waiting[: len(answers) + (0 if lost else 1)]
        sure = sure and not hung
    return tuple(sorted(right)), sure


def _expressible(fragment: Fragment, device: Device) -> bool:
    return "f16" not in (fragment.ab, fragment.acc) or device.has("shader-f16")


def _try(
    fragments: Sequence[Fragment], worker: Sequence[str]
) -> tuple[bool, list[dict[str, Any]], bool]:
    """One process: whether it opened the device, its answers in order, and whether it hung."""
    todo = json.dumps([asdict(one) for one in fragments])
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    process = WorkerProcess([*worker, "--fragments", todo], events)
    answers: list[dict[str, Any]] = []
    opened = False
    try:
        while len(answers) < len(fragments):
            message = events.get(timeout=LIMIT_S)[1]
            if message is None:
                break
            opened = opened or message.get("op") == "opened"
            if message.get("op") == "fragment":
                answers.append(message)
    except queue.Empty:
        return opened, answers, True
    finally:
        process.close()
    return opened, answers, False
