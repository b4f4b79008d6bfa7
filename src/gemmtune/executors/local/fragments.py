"""Tries one native matrix multiply-add on an open device and compares it with float64.

Drivers compile sizes and types that they do not have, and return wrong numbers. Judges numbers, not
speed; survives neither a crash nor a lost device, which is for the parent process to do.
"""

from __future__ import annotations

from string import Template

import numpy as np
from numpy.typing import NDArray

from gemmtune._data import data_path
from gemmtune.device import Fragment
from gemmtune.executors.local.gpu import Dispatch, Gpu
from gemmtune.probes import Source

SUBGROUPS = 2
"""Of the one workgroup."""
ROUNDS = 4
"""Different inputs of each; wrong drivers have been right by chance."""
RESULTS = 3
"""Matrices of each subgroup: the product from rows, from columns, and the sum of both, stored by
way of workgroup memory."""

_BINDINGS = ("read-only-storage", "read-only-storage", "storage")
_DTYPES = {"f16": np.float16, "f32": np.float32}
# One access of a native matrix is aligned to 16 bytes.
_PAD_BYTES = 16


def wrongness(gpu: Gpu, fragment: Fragment, memory: Source, width: int) -> str:
    """What is wrong with a fragment on this device; empty if every number is right.

    Args:
        gpu: the device.
        fragment: the multiply-add.
        memory: where A and B come from; both their rows and their columns are tried.
        width: elements of one pointee: a scalar, vec2, vec4.

    Raises:
        JobError: it does not compile or run.
    """
    if not gpu.device.subgroup_size:
        return "the size of a subgroup is not known"
    random = np.random.default_rng(fragment.size)
    wgsl = source(fragment, memory, width, gpu.device.subgroup_size)
    with gpu.failing_as("compile"):
        pipeline = gpu.pipeline(wgsl, _BINDINGS)
    for _ in range(ROUNDS):
        with gpu.failing_as("validation"):
            worst = _worst(gpu, pipeline, fragment, random)
        if not worst <= 1.0:
            return f"wrong numbers with loads of {width} elements from {memory} memory"
    return ""


def source(fragment: Fragment, memory: Source, width: int, lanes: int) -> str:
    """The WGSL that tries ``fragment`` with loads of ``width`` elements from ``memory``."""
    text = (data_path("templates") / "verify" / "fragment.wgsl").read_text("utf-8")
    uses_f16 = "f16" in (fragment.ab, fragment.acc)
    return Template(text).substitute(
        f16="enable f16;" if uses_f16 else "",
        matrix=f"coop_mat{fragment.size}x{fragment.size}",
        ab=fragment.ab,
        acc=fragment.acc,
        size=fragment.size,
        width=width,
        pad=_PAD_BYTES // np.dtype(_DTYPES[fragment.ab]).itemsize,
        lanes=lanes,
        subgroups=SUBGROUPS,
        from_a="a" if memory == "storage" else "tile_a",
        from_b="b" if memory == "storage" else "tile_b",
        pointee=fragment.ab if width == 1 else f"vec{width}<{fragment.ab}>",
    )


def _inputs(
    fragment: Fragment, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A of each subgroup, SUBGROUPS x size x 2 size, and B, 2 size x size; asymmetric.

    Where sums are f16 the values are such that every sum, in any order, is exact.
    """
    size = fragment.size
    shapes = ((SUBGROUPS, size, 2 * size), (2 * size, size))
    if fragment.acc == "f16":
        a, b = (random.integers(-4, 5, shape) / 4 for shape in shapes)
    else:
        dtype = _DTYPES[fragment.ab]
        a, b = (random.standard_normal(shape).astype(dtype) for shape in shapes)
    return a.astype(np.float64), b.astype(np.float64)


def _packed(matrix: NDArray[np.float64], dtype: str) -> NDArray[np.generic]:
    """A matrix as rows, then as columns, each followed by its pad."""
    pad = _PAD_BYTES // np.dtype(_DTYPES[dtype]).itemsize
    parts = [np.pad(each, ((0, 0), (0, pad)), constant_values=9) for each in (matrix, matrix.T)]
    return np.concatenate([part.ravel() for part in parts]).astype(_DTYPES[dtype])


def _worst(gpu: Gpu, pipeline: object, fragment: Fragment, random: np.random.Generator) -> float:
    """The largest error over what rounding explains; 0 if all is exact, NaN if it is not a number.

    The bound is 2 k ulp of the sum of magnitudes: any order, and a unit that truncates.
    """
    a, b = _inputs(fragment, random)
    size = fragment.size
    packed = (
        np.concatenate([_packed(each, fragment.ab) for each in a]),
        _packed(b, fragment.ab),
    )
    dtype = _DTYPES[fragment.acc]
    c_bytes = SUBGROUPS * RESULTS * size * size * np.dtype(dtype).itemsize
    buffers = [gpu.buffer(each.nbytes) for each in packed] + [gpu.buffer(c_bytes)]
    for buffer, data in zip(buffers, packed, strict=False):
        gpu.write(buffer, data.tobytes())
    gpu.write(buffers[2], b"\xff" * c_bytes)
    bound = gpu.bind_group(_BINDINGS, buffers)
    gpu.submit([[Dispatch(pipeline=pipeline, bind_group=bound, groups=(1, 1, 1))]])
    shape = (SUBGROUPS, RESULTS, size, size)
    found = np.frombuffer(gpu.read(buffers[2]), dtype).reshape(shape).astype(np.float64)
    times = np.array([1, 1, 2]).reshape(1, RESULTS, 1, 1)
    error = np.abs(found - (a @ b)[:, None] * times)
    if fragment.acc == "f16":
        return 0.0 if not np.any(error != 0.0) else float("inf")
    allowed = 4 * size * np.finfo(np.float32).eps * (np.abs(a) @ np.abs(b))[:, None] * times
    return float(np.max(error / allowed))
