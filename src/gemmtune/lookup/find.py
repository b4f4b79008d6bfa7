"""The function ``lookup`` and what it remembers between calls."""

from __future__ import annotations

import threading
from pathlib import Path

from gemmtune.device import Device
from gemmtune.job import Versions
from gemmtune.lookup.answer import Lookup
from gemmtune.lookup.candidates import Search
from gemmtune.lookup.catalogue import Catalogue, Signature, signature_of
from gemmtune.lookup.paths import search_path
from gemmtune.problem import Gemm
from gemmtune.schema import require_file

_MEMO_SIZE = 4096

_lock = threading.Lock()
_catalogues: dict[Path, Catalogue] = {}
_memo: dict[tuple[object, ...], Lookup] = {}


def _catalogue(path: Path, signature: Signature) -> Catalogue:
    known = _catalogues.get(path)
    if known is None or known.signature != signature:
        known = _catalogues[path] = Catalogue(path, signature)
    return known


def lookup(
    gemm: Gemm,
    device_key: str | None = None,
    *,
    device: Device | None = None,
    path: str | Path | None = None,
    versions: Versions | None = None,
) -> Lookup:
    """The best config known for ``gemm``: exact, else near, else of a similar device, else default.

    Repeated calls cost microseconds; a database that changes is noticed. Thread-safe.

    Args:
        gemm: the problem.
        device_key: `Device.key`; what the device can do is then taken from the databases.
        device: the device itself; without it and the key, what every WebGPU device can do.
        path: a database; without it those of `search_path`.
        versions: today's software, if it is to be compared with that of the measurement.

    Raises:
        DeviceError: the problem needs a feature that the device lacks.
        ProblemTooLargeError: the device cannot hold the problem.
        StoreError: a database cannot be read, or there is none at ``path``.
    """
    paths = search_path(path)
    signatures = tuple(signature_of(each) for each in paths)
    memo_key = (paths, signatures, device_key, device, gemm, versions)
    answer = _memo.get(memo_key)
    if answer is None:
        with _lock:
            if path is not None:
                require_file(paths[0])
            catalogues = tuple(
                _catalogue(each, signature)
                for each, signature in zip(paths, signatures, strict=True)
                if signature is not None
            )
            answer = Search(catalogues, gemm, device_key, device, versions).answer()
            if len(_memo) >= _MEMO_SIZE:
                _memo.clear()
            _memo[memo_key] = answer
    return answer
