"""What the right answer is: seeded inputs, the product in float64, and how far off is allowed.

The home of NumPy. The same inputs are made on a device by templates/verify/fill.wgsl. Runs no
kernel and knows no device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from gemmtune.problem import Gemm

OPERANDS = ("a", "b", "c", "bias")
"""Their order numbers the streams of random values."""

UNIT_ROUNDOFF: dict[str, float] = {"f32": 2.0**-24, "f16": 2.0**-11}
"""Largest relative error of rounding to nearest."""

_SMALLEST_NORMAL = {"f32": 2.0**-126, "f16": 2.0**-14}
_LARGEST = {"f32": float(np.finfo(np.float32).max), "f16": 65504.0}
_DTYPES: dict[str, Any] = {"f32": np.float32, "f16": np.float16}

# How many standard deviations no element of any C is expected to pass: 2.6e-12 for each.
_SIGMAS = 7.0
# How likely any element of a C may be to have larger errors than rounding is taken to explain.
_CHANCE = 1e-4

# WGSL promises tanh to 1e-5 and exp to (3 + 2|x|) units in the last place; the slopes of gelu and
# silu stay under 1.13. Source: https://www.w3.org/TR/WGSL/#concrete-float-accuracy
_ACTIVATION_ERROR = {"none": 0.0, "relu": 0.0, "gelu": 1e-5, "silu": 1e-5}
_ACTIVATION_SLOPE = {"none": 1.0, "relu": 1.0, "gelu": 1.13, "silu": 1.10}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """The operands as they lie in memory: flat, batch gaps included, in their own dtypes."""

    a: NDArray[Any]
    """`Gemm.elements("a")` values."""
    b: NDArray[Any]
    """`Gemm.elements("b")` values."""
    c: NDArray[Any]
    """The old C: `Gemm.elements("c")` values."""
    bias: NDArray[Any]
    """n values, or none."""


def stream(operand: str, seed: int) -> int:
    """The u32 that tells the random values of one operand and seed from all others."""
    start = np.array([(seed * len(OPERANDS) + OPERANDS.index(operand)) % 2**32], np.uint32)
    return int(_pcg(start)[0])


def _pcg(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """PCG-RXS-M-XS on 32 bits.

    Source: https://www.jcgt.org/published/0009/03/02/
    """
    state = x * np.uint32(747796405) + np.uint32(2891336453)
    word = ((state >> ((state >> np.uint32(28)) + np.uint32(4))) ^ state) * np.uint32(277803737)
    mixed: NDArray[np.uint32] = (word >> np.uint32(22)) ^ word
    return mixed


def values(index: NDArray[np.uint32], key: int, dtype: str) -> NDArray[np.float64]:
    """The random values at these element indices: uniform in [-1, 1) and exact in ``dtype``."""
    bits = _pcg(_pcg(index) ^ np.uint32(key))
    if dtype == "f16":
        return (bits >> np.uint32(21)).astype(np.float64) * 2.0**-10 - 1.0
    return (bits >> np.uint32(8)).astype(np.float64) * 2.0**-23 - 1.0


def inputs(gemm: Gemm, seed: int) -> Arrays:
    """The seeded operands of a problem, bit for bit those that a device fills in."""

    def operand(name: str) -> NDArray[Any]:
        dtype = gemm.c if name == "bias" else getattr(gemm, name)
        index = np.arange(gemm.elements(name), dtype=np.uint32)
        return values(index, stream(name, seed), dtype).astype(_DTYPES[dtype])

    return Arrays(a=operand("a"), b=operand("b"), c=operand("c"), bias=operand("bias"))


def matrices(gemm: Gemm, operand: str, data: NDArray[Any]) -> NDArray[Any]:
    """A flat operand ("a", "b", "c") as batch x rows x columns in memory order; a view."""
    rows, columns = {
        "a": (gemm.k, gemm.m) if gemm.trans_a else (gemm.m, gemm.k),
        "b": (gemm.n, gemm.k) if gemm.trans_b else (gemm.k, gemm.n),
        "c": (gemm.m, gemm.n),
    }[operand]
    size = data.itemsize
    strides = (gemm.stride(operand) * size, columns * size, size)
    return as_strided(data, (gemm.batch, rows, columns), strides)


def product(gemm: Gemm, arrays: Arrays) -> NDArray[np.float64]:
    """C in float64, batch x m x n, from operands as they lie in memory."""
    a = matrices(gemm, "a", arrays.a).astype(np.float64)
    b = matrices(gemm, "b", arrays.b).astype(np.float64)
    a = a.transpose(0, 2, 1) if gemm.trans_a else a
    b = b.transpose(0, 2, 1) if gemm.trans_b else b
    old = matrices(gemm, "c", arrays.c).astype(np.float64) if gemm.beta != 0.0 else None
    bias = arrays.bias.astype(np.float64) if gemm.bias else None
    return epilogue(gemm, a @ b, old, bias)


def epilogue(
    gemm: Gemm,
    sums: NDArray[np.float64],
    old: NDArray[np.float64] | None,
    bias: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """``activation(alpha * sums + beta * old + bias)``; what is None is left out.

    Alpha and beta reach kernels as f32, so they are rounded to it here too.
    """
    z = float(np.float32(gemm.alpha)) * sums
    if old is not None:
        z = z + float(np.float32(gemm.beta)) * old
    if bias is not None:
        z = z + bias
    if gemm.activation == "relu":
        return np.maximum(z, 0.0)
    if gemm.activation == "gelu":
        return 0.5 * z * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3)))
    if gemm.activation == "silu":
        return z / (1.0 + np.exp(np.minimum(-z, 700.0)))
    return z


def spots(gemm: Gemm, seed: int, at: NDArray[np.int64]) -> NDArray[np.float64]:
    """Single elements of the seeded product, without making the whole operands.

    Args:
        gemm: the problem.
        seed: of the inputs.
        at: positions in C's memory; none of them in a gap between matrices.
    """
    stride = max(gemm.stride("c"), 1)
    matrix, inside = at // stride, at % stride
    row, column = (inside // gemm.n)[:, None], (inside % gemm.n)[:, None]
    k = np.arange(gemm.k, dtype=np.int64)[None, :]
    a_at = k * gemm.m + row if gemm.trans_a else row * gemm.k + k
    b_at = column * gemm.k + k if gemm.trans_b else k * gemm.n + column

    def pick(operand: str, index: NDArray[np.int64], dtype: str) -> NDArray[np.float64]:
        return values(index.astype(np.uint32), stream(operand, seed), dtype)

    a = pick("a", matrix[:, None] * gemm.stride("a") + a_at, gemm.a)
    b = pick("b", matrix[:, None] * gemm.stride("b") + b_at, gemm.b)
    old = pick("c", at, gemm.c) if gemm.beta != 0.0 else None
    bias = pick("bias", column[:, 0], gemm.c) if gemm.bias else None
    return epilogue(gemm, np.sum(a * b, axis=1), old, bias)


def tolerance(gemm: Gemm) -> float:
    """The largest ``|C - reference|`` that rounding alone explains, for inputs as `inputs` makes.

    Operands are uniform in [-1, 1), so a product has variance 1/9 and a sum of j of them j/9.
    Adding the next one rounds by at most u |sum|, independently: after k of them the variance of
    the error is at most u^2 (1 + 2 + ... + k) / 9, plus u^2 k / 9 where products are rounded too.
    Seven standard deviations of that bound cover any order of summation, also hardware that cuts
    instead of rounding. That is for an element whose sums are as large as usual. Where sums grow
    evenly to x standard deviations and what rounding leaves of them adds up to y, the error is
    |x y| u k / 9, and of N elements the largest |x y| is ln(N / p), but for chance p: in a large C
    that is more. The epilogue rounds a few times in f32 and once to C's dtype, relative to
    the largest magnitude that seven standard deviations of the sum allow; a driver may flush
    numbers below the smallest normal one. Activations stretch all that by their slope and add
    what WGSL allows their functions to be off.

    Matrix units take f16 and cut their sums in f32, always towards zero, so those errors add up: in
    the mean u |sum| for each time, which is every 16 products on an H100 and taken to be every 8
    here, |sum| growing evenly to seven standard deviations.

    Under ``math="f16x3"`` an operand may be off by u, twice in a product, and the product of both
    low parts is missing, u at most: variances u^2 / 3, u^2 / 3 and u^2 / 9, independent again.

    Source: N. Higham and T. Mary, A New Approach to Probabilistic Rounding Error Analysis, 2019.
    """
    k, alpha = gemm.k, abs(gemm.alpha)
    split = 7 * k / 9 if gemm.math == "f16x3" else 0.0
    usual = _SIGMAS * math.sqrt(k * (k + 1) / 18 + k / 9 + split)
    largest_of_many = k / 9 * math.log(max(gemm.elements("c"), 1) / _CHANCE)
    sums = UNIT_ROUNDOFF[gemm.acc] * max(usual, largest_of_many)
    if (gemm.a, gemm.b, gemm.acc) == ("f16", "f16", "f32"):
        sums += UNIT_ROUNDOFF["f32"] * k / 16 * _SIGMAS * math.sqrt(k / 9)
    sums += _SMALLEST_NORMAL[gemm.acc] if k else 0.0
    largest = alpha * min(float(k), _SIGMAS * math.sqrt(k / 9))
    largest += abs(gemm.beta) + (1.0 if gemm.bias else 0.0)
    before = alpha * sums + 4 * UNIT_ROUNDOFF["f32"] * largest
    after = before * _ACTIVATION_SLOPE[gemm.activation] + _ACTIVATION_ERROR[gemm.activation] * max(
        1.0, largest
    )
    return after + 1.25 * UNIT_ROUNDOFF[gemm.c] * (largest + after) + _SMALLEST_NORMAL[gemm.c]


def overflow(dtype: str) -> float:
    """The largest finite magnitude of ``dtype``."""
    return _LARGEST[dtype]
