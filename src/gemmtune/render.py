"""Configs to WGSL. The only home of jinja2."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from gemmtune._data import data_path
from gemmtune.device import Device
from gemmtune.dialect import NAGA, Dialect
from gemmtune.errors import ConfigError
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, Kernel
from gemmtune.problem import Gemm

if TYPE_CHECKING:
    import jinja2


@cache
def _environment() -> jinja2.Environment:
    import jinja2  # late: who only compares configs renders nothing

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
