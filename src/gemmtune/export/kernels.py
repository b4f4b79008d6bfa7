"""From a config to the kernel that a document carries: rendered, named, with all its conditions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gemmtune.device import Device
from gemmtune.dialect import NAGA, Dialect
from gemmtune.export.values import Needs, Pass, Portable
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, Kernel, step_of
from gemmtune.problem import Gemm
from gemmtune.render import render
from gemmtune.validity import SIDES, Count, Range, rule_of, validity

FALLBACK_DEVICE = Device(features=("shader-f16",))
"""The least WebGPU device that can hold operands in f16: what it runs, all run."""

_PLAIN = frozenset({"shader-f16"})
"""Features that are spelled alike everywhere."""


def portable(
    family: str, config: Config, gemm: Gemm, device: Device, dialect: Dialect = NAGA
) -> Portable:
    """The kernel of a config that is legal for ``gemm`` on ``device``, in the WGSL of one engine.

    Raises:
        ConfigError: it is not legal, or the dialect cannot spell it.
    """
    kernel = render(family, config, gemm, device, dialect)
    passes, workspace, exact = _rules(kernel, gemm)
    valid = validity(family, config, gemm, device)
    if exact:
        sides = {side: getattr(gemm, side) for side in SIDES}
        valid |= {side: Range(min=size, max=size) for side, size in sides.items()}
    return Portable(
        id=_name(kernel),
        family=family,
        config=config.to_json(),
        kind=gemm.kind,
        dialect=None if _PLAIN.issuperset(kernel.features) else dialect.name,
        wgsl=kernel.wgsl,
        bindings=tuple(_bindings(gemm, workspace=workspace is not None)),
        passes=passes,
        workspace_bytes=workspace,
        step_k=step_of(config, gemm),
        needs=_needs(kernel),
        valid=valid,
    )


def fallbacks(gemm: Gemm) -> list[Portable]:
    """Kernels that serve every size of the kind of ``gemm`` on every device that has its dtypes."""
    # Sides of 7 are aligned to nothing, so nothing is asked of those to come.
    sizes = ((7, 7, 7), (2047, 2047, 7))
    odd = [
        replace(gemm, m=m, n=n, k=k, batch=1, stride_a=None, stride_b=None, stride_c=None)
        for m, n, k in sizes
    ]
    configs = [FAMILIES["tiled"].default(each, FALLBACK_DEVICE) for each in odd]
    return [
        portable("tiled", config, each, FALLBACK_DEVICE)
        for config, each in zip(configs, odd, strict=True)
    ]


def _name(kernel: Kernel) -> str:
    """Equal for equal kernels; the first comment, which names one problem of many, is left out."""
    text = kernel.wgsl.partition("\n")[2]
    digest = hashlib.sha256(f"{kernel.config.key}\n{text}".encode()).hexdigest()
    return f"{kernel.family}-{digest[:12]}"


def _rules(kernel: Kernel, gemm: Gemm) -> tuple[tuple[Pass, ...], Count | None, bool]:
    """Its passes and the size of its workspace; whether they hold for the sizes of ``gemm`` only,
    because no rule says what they are for others.
    """
    record = FAMILIES[kernel.family]
    launches = kernel.launches

    def count(number: int) -> Any:
        return lambda each: record.launch(kernel.config, each)[number].workgroups

    rules = [rule_of(count(number), gemm) for number in range(len(launches))]
    workspace = None
    if kernel.workspace_bytes:
        workspace = rule_of(lambda each: record.workspace(kernel.config, each), gemm)
    exact = None in rules or (bool(kernel.workspace_bytes) and workspace is None)
    if exact:
        batch = max(gemm.batch, 1)
        rules = [Count(times=one.workgroups // batch) for one in launches]
        workspace = Count(times=kernel.workspace_bytes // batch) if kernel.workspace_bytes else None
    passes = tuple(
        Pass(
            entry_point=one.entry_point,
            workgroup_size=one.workgroup_size,
            workgroups=rule,
            workspace="read-only-storage" if one.only_reads else None,
        )
        for one, rule in zip(launches, rules, strict=True)
        if rule is not None
    )
    return passes, workspace, exact


def _bindings(gemm: Gemm, *, workspace: bool) -> Iterator[dict[str, Any]]:
    names = ["params", "a", "b", "c", "bias", "workspace"]
    types = ["uniform", "read-only-storage", "read-only-storage", "storage", "read-only-storage"]
    for number, (name, kind) in enumerate(zip(names, [*types, "storage"], strict=True)):
        if (name != "bias" or gemm.bias) and (name != "workspace" or workspace):
            yield {"binding": number, "name": name, "type": kind}


def _needs(kernel: Kernel) -> Needs:
    launches = kernel.launches
    invocations = [x * y * z for x, y, z in (one.workgroup_size for one in launches)]
    limits = {
        "maxComputeInvocationsPerWorkgroup": max(invocations),
        "maxComputeWorkgroupSizeX": max(one.workgroup_size[0] for one in launches),
        "maxComputeWorkgroupStorageSize": max(one.workgroup_storage_bytes for one in launches),
    }
    size = getattr(kernel.config, "sg_size", 0) or None
    return Needs(
        features=tuple(sorted(kernel.features)),
        limits=limits,
        subgroup_size=size,
        unchecked=kernel.unchecked,
    )
