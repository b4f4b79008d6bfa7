"""Configs to WGSL. The only home of jinja2."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemmtune._data import data_path
from gemmtune.device import Device
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


def render(family: str, config: Config, gemm: Gemm, device: Device) -> Kernel:
    """The kernel that ``config`` of ``family`` stands for.

    Raises:
        ConfigError: the family's ``check`` refuses the config; the message has its reasons.
    """
    record = FAMILIES[family]
    reasons = record.check(config, gemm, device)
    if reasons:
        raise ConfigError(f"{family} ({config.key}) cannot do {gemm.key}: {'; '.join(reasons)}")
    values: dict[str, Any] = {"family": family, "gemm": gemm, "config": config}
    values |= config.to_json()
    values |= record.variables(config, gemm, device)
    wgsl = _environment().get_template(record.template).render(values)
    f16 = "f16" in {gemm.a, gemm.b, gemm.c, gemm.acc}
    needs = (["shader-f16"] if f16 else []) + (["subgroup"] if family == "subgroup" else [])
    return Kernel(
        family=family,
        config=config,
        wgsl=wgsl,
        launch=record.launch(config, gemm),
        features=tuple(needs),
    )


@cache
def generator_hash(family: str) -> str:
    """Twelve hex digits that change whenever the WGSL of ``family`` might.

    Covers its template and Python module, what those import from templates/ and kernels/, and
    `GENERATION`, which stands for the modules that all families share.
    """
    digest = hashlib.sha256(str(GENERATION).encode())
    templates, kernels = data_path("templates"), Path(__file__).parent / "kernels"
    files = {templates / FAMILIES[family].template, kernels / f"{family}.py"}
    seen: set[Path] = set()
    while files - seen:
        file = min(files - seen, key=lambda path: path.name)
        text = file.read_text(encoding="utf-8")
        seen.add(file)
        files |= {templates / name for name in re.findall(r'import "([^"]+)"', text)}
        modules = re.findall(r"^from gemmtune\.kernels\.(\w+) import", text, re.MULTILINE)
        files |= {kernels / f"{name}.py" for name in modules if name != "base"}
        digest.update(text.encode())
    return digest.hexdigest()[:12]
