"""The function ``lookup`` and what it remembers between calls."""

from __future__ import annotations

import math
import time
from _thread import allocate_lock  # threading takes milliseconds more to import
from contextlib import contextmanager

from gemmtune.device import Device
from gemmtune.lookup.answer import Lookup
from gemmtune.lookup.candidates import Search
from gemmtune.lookup.catalogue import Catalogue, Signature, signature_of
from gemmtune.lookup.paths import search_files
from gemmtune.problem import Gemm
from gemmtune.schema import require_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from gemmtune.job import Versions
    from gemmtune.lookup.recording import Record

_MEMO_SIZE = 4096

TRUST_S = 1.0
"""So long nobody asks the file system whether a database has changed."""

_lock = allocate_lock()
_catalogues: dict[str, Catalogue] = {}
_answers: dict[tuple[Any, ...], Lookup] = {}
"""By question and state of the databases."""
_memo: dict[tuple[Any, ...], Lookup] = {}
"""By question only: those of `_answers` that are good until `_memo_until`."""
_memo_until = -math.inf
_recorders: list[Record] = []
"""Those that are open, see `record`."""


def _catalogue(
    path: str, signature: Signature, first: tuple[str | None, str] = (None, "")
) -> Catalogue:
    known = _catalogues.get(path)
    if known is None or known.signature != signature:
        known = _catalogues[path] = Catalogue(path, signature, first=first)
    return known


def lookup(
    gemm: Gemm,
    device_key: str | None = None,
    *,
    device: Device | None = None,
    path: str | Path | None = None,
    versions: Versions | None = None,
    deterministic: bool = False,
    max_rel_err: float | None = None,
) -> Lookup:
    """The best config known for ``gemm``: exact, else near, else of a similar device, else default.

    Repeated calls cost microseconds. A database that changes is noticed within a second, and at
    once after `refresh`. Thread-safe.

    Args:
        gemm: the problem.
        device_key: `Device.key`; what the device can do is then taken from the databases.
        device: the device itself; without it and the key, what every WebGPU device can do.
        path: a database; without it those of `search_path`.
        versions: today's software, if it is to be compared with that of the measurement.
        deterministic: only kernels that give the same bits every time.
        max_rel_err: only kernels whose largest error, over the largest magnitude in C, is expected
            to be at most this.

    Raises:
        DeviceError: the problem needs a feature that the device lacks.
        ProblemTooLargeError: the device cannot hold the problem.
        UsageError: no kernel is as accurate as ``max_rel_err`` wishes.
        StoreError: a database cannot be read, or there is none at ``path``.
    """
    key = (gemm, device_key, device, path, versions, deterministic, max_rel_err)
    found = _memo.get(key)
    if found is None or time.monotonic() >= _memo_until:
        with _lock:
            found = _looked_up(key, path)
    if _recorders:
        for recorder in tuple(_recorders):
            recorder.count(gemm, found.device.key if device_key is None else device_key)
    return found


def answer(
    gemm: Gemm,
    device_key: str | None = None,
    *,
    device: Device | None = None,
    path: str | Path | None = None,
) -> Lookup:
    """What `lookup` answers, for callers that record what is asked of them themselves."""
    key = (gemm, device_key, device, path, None, False, None)
    with _lock:
        return _looked_up(key, path)


def recorded(device_key: str, path: str | Path | None = None) -> Device | None:
    """What the databases know of a device; None where it has no results."""
    with _lock:
        for each in search_files(path):
            signature = signature_of(each)
            if signature is not None:
                known = _catalogue(each, signature).devices.get(device_key)
                if known is not None:
                    return known
    return None


def refresh() -> None:
    """Has the next lookup look at the databases again, whatever has been remembered of them."""
    global _memo_until
    _memo_until = -math.inf


def _looked_up(key: tuple[Any, ...], path: str | Path | None) -> Lookup:
    """The answer to ``key``, remembered while no database changes."""
    global _memo_until
    gemm, device_key, device, _, versions, deterministic, max_rel_err = key
    paths = search_files(path)
    now = time.monotonic()
    signatures = tuple(map(signature_of, paths))
    if path is not None and signatures[0] is None:
        require_file(paths[0])
    if now >= _memo_until:
        # Also the answers out of other databases: each is looked at again when it is asked for.
        _memo_until = now + TRUST_S
        _memo.clear()
    remembered = _answers.get((paths, signatures, key))
    if remembered is None:
        first = (device.key if device_key is None and device else device_key, gemm.key)
        catalogues = tuple(
            _catalogue(each, signature, first)
            for each, signature in zip(paths, signatures, strict=True)
            if signature is not None
        )
        search = Search(
            catalogues,
            gemm,
            device_key,
            device,
            versions,
            deterministic=deterministic,
            max_rel_err=max_rel_err,
        )
        remembered = search.answer()
        if len(_answers) >= _MEMO_SIZE:
            _answers.clear()
            _memo.clear()
        _answers[paths, signatures, key] = remembered
    _memo[key] = remembered
    return remembered


@contextmanager
def record(path: str | Path) -> Iterator[Record]:
    """Counts the problems that are looked up, or encoded by `gemmtune.gpu`, while it is open.

    At the end they are added to ``path``, a line of JSON per problem and device, which
    ``gemmtune tune --from-record`` reads. Several processes may write to one file.
    """
    from pathlib import Path

    from gemmtune.lookup.recording import Record

    recorder = Record(Path(path))
    _recorders.append(recorder)
    try:
        yield recorder
    finally:
        _recorders.remove(recorder)
        recorder.save()


def recorders() -> tuple[Record, ...]:
    """The records that are open."""
    return tuple(_recorders)
