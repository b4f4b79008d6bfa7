"""The hash of each family's template and generator, by which its measurements age. Renders nothing.

Lookups ask for it in a process that has just begun, so this imports as little as can be.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module

from gemmtune._data import data_file
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import GENERATION
from gemmtune.light import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@cache
def generator_hash(family: str) -> str:
    """Twelve hex digits that change whenever the WGSL of ``family`` might.

    It is `source_hash`, unless templates/generators.json knows those very sources for ones that
    render what earlier ones did: then it is the earlier ones' hash. A test keeps that file true.
    """
    known = loads(_text("generators.json"))
    source = source_hash(family)
    entry = known.get(family, {})
    return str(entry["generator"]) if entry.get("source") == source else source


def source_hash(family: str) -> str:
    """Twelve hex digits of the sources of ``family``.

    Covers its template with all that it imports, and `GENERATION`, which stands for the Python
    beside it and which a test makes us raise when the same template begins to render differently.
    """
    digest = _sha256()(str(GENERATION).encode())
    record = FAMILIES[family]
    waiting, seen = [record.template], set()
    if "cooperative-matrix" in record.features:
        from gemmtune.dialect import NAGA

        waiting.append(NAGA.macros)  # the dialect of everything that is measured
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            text = _text(name)
            digest.update(text.encode())
            # Each `import "lib/gemm.wgsl.j2"` of it.
            waiting += [rest.partition('"')[0] for rest in text.split('import "')[1:]]
    return str(digest.hexdigest()[:12])


def _text(name: str) -> str:
    with open(os.path.join(data_file("templates"), name), encoding="utf-8") as file:
        return file.read()


@cache
def _sha256() -> Any:
    """The function of hashlib, without hashlib where that can be: it loads all of OpenSSL."""
    for module in ("_sha2", "_sha256"):  # from Python 3.12 on, and before
        try:
            return import_module(module).sha256
        except ImportError:
            continue
    return import_module("hashlib").sha256
