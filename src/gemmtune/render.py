"""Configs to WGSL. The only home of jinja2."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from gemmtune._data import data_path
from gemmtune.device import Device
from gemmtune.dialect import NAGA, Dialect
from gemmtune.errors import ConfigError
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import GENERATION, Config, Kernel
from gemmtune.problem import Gemm

if TYPE_CHECKING:
    import jinja2


@cache
def _environment() -> jinja2.Environment:
    import jinja2  # late, so that asking for a hash costs no more than reading files

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_path("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        extensions=["jinja2.ext.do"],
    )


@cache
def _macros(dialect: Dialect) -> jinja2.environment.TemplateModule:
    return _environment().get_template(dialect.macros).module


def render(
    family: str, config: Config, gemm: Gemm, device: Device, dialect: Dialect = NAGA
) -> Kernel:
    """The kernel that ``config`` of ``family`` stands for, in the WGSL of one engine.

    Raises:
        ConfigError: the family's ``check`` refuses the config, the message has its reasons; or the
            dialect cannot spell what the family does.
    """
    record = FAMILIES[family]
    reasons = record.check(config, gemm, device)
    if reasons:
        raise ConfigError(f"{family} ({config.key}) cannot do {gemm.key}: {'; '.join(reasons)}")
    if record.adds_matrices and not dialect.adds_matrices:
        raise ConfigError(
            f"{family} adds matrices, which {dialect.engine}, cannot; use another family there"
        )
    f16 = ("shader-f16",) if "f16" in {gemm.a, gemm.b, gemm.c, gemm.acc} else ()
    features = tuple(dict.fromkeys(f16 + record.features + config.features))
    values: dict[str, Any] = {"family": family, "gemm": gemm, "config": config}
    values |= {"directives": dialect.directives(features), "mma": _macros(dialect)}
    values |= asdict(config)
    values |= record.variables(config, gemm, device)
    wgsl = _environment().get_template(record.template).render(values)
    return Kernel(
        family=family,
        config=config,
        wgsl=wgsl,
        launches=record.launch(config, gemm),
        workspace_bytes=record.workspace(config, gemm),
        features=dialect.requested(features),
        unchecked=config.unchecked,
    )


@cache
def generator_hash(family: str) -> str:
    """Twelve hex digits that change whenever the WGSL of ``family`` might.

    It is `source_hash`, unless templates/generators.json knows those very sources for ones that
    render what earlier ones did: then it is the earlier ones' hash. A test keeps that file true.
    """
    known = json.loads((data_path("templates") / "generators.json").read_text(encoding="utf-8"))
    source = source_hash(family)
    entry = known.get(family, {})
    return str(entry["generator"]) if entry.get("source") == source else source


def source_hash(family: str) -> str:
    """Twelve hex digits of the sources of ``family``.

    Covers its template with all that it imports, and `GENERATION`, which stands for the Python
    beside it and which a test makes us raise when the same template begins to render differently.
    """
    digest = hashlib.sha256(str(GENERATION).encode())
    record = FAMILIES[family]
    waiting, seen = [record.template], set()
    if "cooperative-matrix" in record.features:
        waiting.append(NAGA.macros)  # the dialect of everything that is measured
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            text = (data_path("templates") / name).read_text(encoding="utf-8")
            digest.update(text.encode())
            waiting += re.findall(r'import "([^"]+)"', text)
    return digest.hexdigest()[:12]
