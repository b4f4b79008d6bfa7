"""Runs kernels on Dawn, the WebGPU of Chromium, in a process of Node for each: see run.mjs.

Needs `node` in PATH and GEMMTUNE_DAWN_MODULES, the folder node_modules with the package webgpu.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemmtune import reference
from gemmtune.device import Device, Fragment, Limits
from gemmtune.dialect import TINT
from gemmtune.kernels.base import Kernel, grid, pack_params
from gemmtune.problem import SIZEOF, Gemm

TOGGLES = ("allow_unsafe_apis", "vulkan_enable_f16_on_nvidia")
"""The first for native matrices, the second for f16 where Dawn leaves it off."""

_RUNNER = Path(__file__).with_name("run.mjs")
_DTYPES: dict[str, Any] = {"f32": np.float32, "f16": np.float16}
_GUARD = 64
"""Elements behind C that no kernel may touch."""


class DawnError(RuntimeError):
    """Dawn or Node is not there, or a kernel does not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How a kernel is timed: on the host's clock, in submissions of many runs."""

    warmup_s: float = 0.5
    samples: int = 15
    dispatches: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a kernel did."""

    c: NDArray[Any]
    """C as it lies in memory."""
    times_ns: tuple[float, ...]
    """Of one run, by sample; none where it was not timed."""
    log: str
    """What Dawn printed: with the toggle dump_shaders, what the driver is given."""


def _node(argument: Sequence[str], limit_s: float) -> tuple[Any, str]:
    node = shutil.which("node")
    if node is None:
        raise DawnError("node is not in PATH: kernels for Chromium run in Node")
    try:
        run = subprocess.run(
            [node, str(_RUNNER), *argument],
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DawnError(f"Node was killed after {limit_s:g} s") from None
    try:
        *log, last = run.stdout.splitlines()
        return json.loads(last), "\n".join(log)
    except ValueError:
        tail = "; ".join((run.stderr or run.stdout).strip().splitlines()[-5:])
        raise DawnError(f"Node ended with {run.returncode}: {tail}") from None


def adapter(toggles: Sequence[str] = TOGGLES) -> dict[str, Any]:
    """What Dawn says of the adapter: names, features, limits, sizes of subgroups, matrices.

    Raises:
        DawnError: there is none, or no Dawn.
    """
    found: dict[str, Any] = _node(["info", ",".join(toggles)], 60.0)[0]
    return found


def device_of(info: dict[str, Any]) -> Device:
    """The same in gemmtune's words. Fragments are what Dawn lists, not probed:
    Tint loads them from arrays of any type.
    """
    limits = info["limits"]
    names = {TINT.spelling(name).requested: name for name in ("subgroup", "cooperative-matrix")}
    return Device(
        name=info["description"] or info["device"],
        backend="dawn",
        adapter_type="cpu" if info["architecture"] == "software" else "unknown",
        features=tuple(sorted(names.get(name, name) for name in info["features"])),
        limits=Limits(
            workgroup_storage_bytes=limits["maxComputeWorkgroupStorageSize"],
            invocations_per_workgroup=limits["maxComputeInvocationsPerWorkgroup"],
            workgroup_size_x=limits["maxComputeWorkgroupSizeX"],
            workgroups_per_dimension=limits["maxComputeWorkgroupsPerDimension"],
            storage_binding_bytes=limits["maxStorageBufferBindingSize"],
            buffer_bytes=limits["maxBufferSize"],
        ),
        subgroup_size=info["subgroupMaxSize"],
        fragments=tuple(
            sorted(
                Fragment(
                    size=one["M"],
                    ab=one["componentType"],
                    acc=one["resultComponentType"],
                    storage=(1, 2, 4),
                )
                for one in info["matrices"]
                if one["M"] == one["N"] == one["K"] and one["componentType"] == "f16"
            )
        ),
    )


@lru_cache(maxsize=1)
def _right(gemm: Gemm, seed: int) -> tuple[reference.Arrays, NDArray[np.float64]]:
    """Operands and C: kept, for many kernels of one problem run one after the other."""
    arrays = reference.inputs(gemm, seed)
    return arrays, np.empty(0) if gemm.empty else reference.product(gemm, arrays)


def run_kernel(
    kernel: Kernel,
    gemm: Gemm,
    device: Device,
    *,
    seed: int = 0,
    toggles: Sequence[str] = TOGGLES,
    timing: Timing | None = None,
    limit_s: float = 120.0,
) -> Run:
    """The kernel with seeded inputs; what is not read or written is NaN.

    Raises:
        DawnError: it does not compile, does not run, or takes longer than ``limit_s``.
    """
    arrays, _ = _right(gemm, seed)
    old = arrays.c if gemm.beta != 0.0 else np.full_like(arrays.c, np.nan)
    data = [pack_params(gemm), arrays.a.tobytes(), arrays.b.tobytes()]
    data += [old.tobytes() + b"\xff" * (_GUARD * SIZEOF[gemm.c]), arrays.bias.tobytes()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kernel.wgsl").write_text(kernel.wgsl, encoding="utf-8")
        buffers = [
            _buffer(folder, binding, content)
            for binding, content in enumerate(data)
            if binding != 4 or gemm.bias
        ]
        if kernel.workspace_bytes:
            buffers.append({"binding": 5, "bytes": -(-kernel.workspace_bytes // 16) * 16})
        per_dimension = device.limits.workgroups_per_dimension
        job = {
            "toggles": list(toggles),
            "features": list(kernel.features),
            "wgsl": "kernel.wgsl",
            "buffers": buffers,
            "passes": [
                {
                    "entry_point": one.entry_point,
                    "grid": grid(one.workgroups, per_dimension),
                    "only_reads": [5] if one.only_reads else [],
                }
                for one in kernel.launches
            ],
            "output": {"binding": 3, "file": "output"},
        }
        if timing is not None:
            job["time"] = {each: getattr(timing, each) for each in Timing.__slots__}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        result, log = _node([str(folder / "job.json")], limit_s)
        if not result["ok"]:
            raise DawnError(result["error"])
        c = np.frombuffer((folder / "output").read_bytes(), _DTYPES[gemm.c])
    return Run(c=c, times_ns=tuple(result["times_ns"]), log=log)


def _buffer(folder: Path, binding: int, content: bytes) -> dict[str, Any]:
    # NaN in every dtype up to a whole number of vectors
    content += b"\xff" * (-len(content) % 16 or (16 if not content else 0))
    file = folder / f"binding{binding}"
    file.write_bytes(content)
    return {
        "binding": binding,
        "uniform": binding == 0,
        "read_only": binding in (1, 2, 4),
        "bytes": len(content),
        "file": file.name,
    }


def fault(run: Run, gemm: Gemm, seed: int = 0) -> str | None:
    """What is wrong with C, in words: an element, or one beside it that was written."""
    arrays, product = _right(gemm, seed)
    old = arrays.c if gemm.beta != 0.0 else np.full_like(arrays.c, np.nan)
    got = run.c[: old.size]
    outside = np.ones(old.shape, dtype=bool)
    reference.matrices(gemm, "c", outside)[...] = False
    bits = f"u{SIZEOF[gemm.c]}"
    if np.any(got.view(bits)[outside] != old.view(bits)[outside]):
        return "elements between the matrices of C were written"
    guard = run.c[old.size : old.size + _GUARD]
    if np.any(guard.view(np.uint8) != 0xFF):
        return "elements behind C were written"
    if gemm.empty:
        return None
    off = np.abs(reference.matrices(gemm, "c", got) - product)
    allowed = reference.tolerance(gemm)
    if np.all(off <= allowed):
        return None
    place = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), off.shape)
    count = int(np.sum(~(off <= allowed)))
    return f"{count} elements of C are wrong, that at {place} by {off[place]:.3g} ({allowed:.3g})"
