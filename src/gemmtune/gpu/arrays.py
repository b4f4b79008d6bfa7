"""Products of NumPy arrays, and of arrays with a matrix that stays on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import wgpu

from gemmtune.errors import OperandError
from gemmtune.gpu.context import context_of
from gemmtune.gpu.devices import request_device, translated
from gemmtune.gpu.plans import LEAST_BYTES, Plan, plan
from gemmtune.literals import Activation, Dtype
from gemmtune.problem import Gemm

Array = npt.NDArray[Any]

_DTYPES: dict[Any, Dtype] = {np.dtype("float32"): "f32", np.dtype("float16"): "f16"}
_NUMPY = {"f32": np.float32, "f16": np.float16}
_STORAGE = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_SRC | wgpu.BufferUsage.COPY_DST


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """An array as a kernel reads it: packed, or packed as its transpose."""

    array: Array
    """C-contiguous, two dimensions or three."""
    transposed: bool
    """The array is the transpose of the operand."""
    rows: int
    """Of the operand."""
    columns: int
    """Of the operand."""
    batch: tuple[int, ...]
    """Dimensions before the last two."""

    @classmethod
    def of(cls, name: str, value: Any) -> Operand:
        """``value`` as an operand; copied only where its rows and columns both have gaps.

        Raises:
            OperandError: not an array of f32 or f16 of two dimensions or more.
        """
        array = np.asarray(value)
        if array.dtype not in _DTYPES:
            raise OperandError(
                f"{name} is of dtype {array.dtype}; float32 and float16 are supported: "
                f"{name}.astype(numpy.float32)"
            )
        if array.ndim < 2:
            raise OperandError(
                f"{name} has shape {array.shape}; it must be a matrix or a batch of them"
            )
        flipped = array.swapaxes(-1, -2)
        transposed = not array.flags.c_contiguous and flipped.flags.c_contiguous
        return cls(
            array=np.ascontiguousarray(flipped if transposed else array),
            transposed=transposed,
            rows=array.shape[-2],
            columns=array.shape[-1],
            batch=array.shape[:-2],
        )

    @property
    def dtype(self) -> Dtype:
        """Of its elements."""
        return _DTYPES[self.array.dtype]

    def stride(self, batch: tuple[int, ...]) -> int | None:
        """`Gemm.stride_a` of a product with ``batch``: 0 where one matrix serves all."""
        return None if self.batch == batch or math.prod(batch) == 1 else 0


def matmul(
    a: Any,
    b: Any,
    *,
    bias: Any = None,
    c: Any = None,
    alpha: float = 1.0,
    beta: float = 0.0,
    activation: Activation = "none",
    acc: Dtype = "f32",
    dtype: Any = None,
    device: Any = None,
) -> Array:
    """``activation(alpha * a @ b + beta * c + bias)`` of NumPy arrays, on a GPU.

    Args:
        a: (..., m, k), float32 or float16; views such as ``x.T`` are taken without a copy.
        b: (..., k, n). Dimensions before the last two must be those of ``a``, or one of the two has
            none: then its matrix serves all products of the other.
        bias: n values that are added to every row; None: none.
        c: what ``beta`` multiplies, of the result's shape; None with beta 0.
        alpha: factor of the product.
        beta: factor of ``c``.
        activation: none, relu, gelu or silu.
        acc: dtype of the sums.
        dtype: of the result; None: float16 if ``a`` and ``b`` both are, else float32.
        device: a wgpu GPUDevice; None: the best there is, requested once.

    Returns:
        A new array (..., m, n).

    Raises:
        OperandError: shapes or dtypes do not go together.
        DeviceError: there is no device, or no kernel can do it there.
        DeviceLostError: the device is lost.
    """
    left, right = Operand.of("a", a), Operand.of("b", b)
    if (c is None) != (beta == 0.0):
        raise OperandError("beta and c go together: give both, or neither")
    usual = np.float16 if (left.dtype, right.dtype) == ("f16", "f16") else np.float32
    result = np.dtype(usual if dtype is None else dtype)
    if result not in _DTYPES:
        raise OperandError(f"the result cannot be of dtype {result}; take float32 or float16")
    device = _default_device() if device is None else device
    gemm = _problem(
        left, right, c=_DTYPES[result], acc=acc, alpha=alpha, beta=beta, activation=activation
    )
    gemm = replace(gemm, bias=bias is not None)
    shape = (*(left.batch or right.batch), gemm.m, gemm.n)
    extra = _extra(gemm, shape, bias, c)
    if "f16" in (gemm.a, gemm.b, gemm.c) and not context_of(device).device.has("shader-f16"):
        return _in_f32(gemm, shape, left, right, extra, device).astype(result)
    return _product(gemm, shape, left.array, right.array, extra, device)


def _problem(left: Operand, right: Operand, **rest: Any) -> Gemm:
    """The problem of two operands.

    Raises:
        OperandError: their shapes do not go together.
    """
    if left.columns != right.rows:
        raise OperandError(
            f"a is {left.rows} x {left.columns} and b is {right.rows} x {right.columns}: "
            f"a's columns ({left.columns}) must be as many as b's rows ({right.rows})"
        )
    if left.batch and right.batch and left.batch != right.batch:
        raise OperandError(
            f"a is a batch of {left.batch} and b of {right.batch}; they must be equal, "
            "or one of them no batch"
        )
    batch = left.batch or right.batch
    return Gemm(
        m=left.rows,
        n=right.columns,
        k=left.columns,
        a=left.dtype,
        b=right.dtype,
        trans_a=left.transposed,
        trans_b=right.transposed,
        batch=math.prod(batch),
        stride_a=left.stride(batch),
        stride_b=right.stride(batch),
        **rest,
    )


def _extra(gemm: Gemm, shape: tuple[int, ...], bias: Any, c: Any) -> dict[str, Array]:
    """Bias and old C as arrays of the result's dtype."""
    found: dict[str, Array] = {}
    if bias is not None:
        found["bias"] = np.ascontiguousarray(bias, _NUMPY[gemm.c])
        if found["bias"].shape != (gemm.n,):
            raise OperandError(f"bias has shape {found['bias'].shape}; it must be ({gemm.n},)")
    if c is not None:
        found["c"] = np.ascontiguousarray(c, _NUMPY[gemm.c])
        if found["c"].shape != shape:
            raise OperandError(f"c has shape {found['c'].shape}; the result's is {shape}")
    return found


def _in_f32(
    gemm: Gemm,
    shape: tuple[int, ...],
    left: Operand,
    right: Operand,
    extra: dict[str, Array],
    device: Any,
) -> Array:
    """The same product for a device without f16: what is given is widened first."""
    wide = replace(gemm, a="f32", b="f32", c="f32", acc="f32")
    one, other = left.array.astype(np.float32), right.array.astype(np.float32)
    widened = {name: value.astype(np.float32) for name, value in extra.items()}
    return _product(wide, shape, one, other, widened, device)


def _product(
    gemm: Gemm,
    shape: tuple[int, ...],
    left: Array,
    right: Array,
    extra: dict[str, Array],
    device: Any,
) -> Array:
    result = np.empty(shape, _NUMPY[gemm.c])
    if result.size == 0:
        return result
    ready = plan(device, gemm)
    with translated(context_of(device).device.name):
        first, second = upload(device, left), upload(device, right)
        out = upload(device, extra["c"]) if "c" in extra else _buffer(device, result.nbytes)
        bias = upload(device, extra["bias"]) if "bias" in extra else None
        ready.run(first, second, out, bias)
        data = device.queue.read_buffer(out)
        ready.forget(first, second, out, bias)
        for buffer in (first, second, out, bias):
            if buffer is not None:
                buffer.destroy()
    result.ravel()[:] = np.frombuffer(data, result.dtype, result.size)
    return result


def _buffer(device: Any, size_bytes: int) -> Any:
    """A storage buffer of at least this size, and large enough for a kernel to be bound to it."""
    return device.create_buffer(size=max(-(-size_bytes // 4) * 4, LEAST_BYTES), usage=_STORAGE)


def upload(device: Any, array: Array) -> Any:
    """A new storage buffer with the bytes of ``array``, in C order."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    buffer = _buffer(device, data.size)
    if data.size:
        padded = np.concatenate([data, np.zeros(-data.size % 4, np.uint8)])
        device.queue.write_buffer(buffer, 0, padded if data.size % 4 else data)
    return buffer


@lru_cache(maxsize=1)
def _default_device() -> Any:
    return request_device()


class Matmul:
    """``activation(alpha * x @ b + bias)`` for a matrix ``b`` that stays on the device.

    For a layer of a model: the weights are uploaded once. A new number of rows costs a compilation
    only where another kernel is faster for it, and no buffers up to the largest so far. Used from
    one thread.

    Args:
        b: (k, n), float32 or float16; ``weights.T`` of an (n, k) array is taken without a copy.
        bias: n values that are added to every row; None: none.
        alpha: factor of the product.
        activation: none, relu, gelu or silu.
        dtype: of the result; None: that of ``b``.
        device: a wgpu GPUDevice; None: the best there is.

    Raises:
        OperandError: ``b`` or ``bias`` is not of that form.
    """

    def __init__(
        self,
        b: Any,
        *,
        bias: Any = None,
        alpha: float = 1.0,
        activation: Activation = "none",
        dtype: Any = None,
        device: Any = None,
    ) -> None:
        right = Operand.of("b", b)
        if right.batch:
            raise OperandError(f"b has shape {np.shape(b)}; it must be one matrix")
        self.device = _default_device() if device is None else device
        result = right.array.dtype if dtype is None else np.dtype(dtype)
        self._gemm = Gemm(
            m=1,
            n=right.columns,
            k=right.rows,
            a=right.dtype,
            b=right.dtype,
            c=_DTYPES[result],
            trans_b=right.transposed,
            alpha=alpha,
            bias=bias is not None,
            activation=activation,
        )
        extra = _extra(self._gemm, (), bias, None)
        self.b = upload(self.device, right.array)
        self.bias = upload(self.device, extra["bias"]) if "bias" in extra else None
        self._x: Any = None
        self._y: Any = None

    def plan(self, m: int) -> Plan:
        """The plan for ``m`` rows, for callers who have x and the result on the device too:
        ``layer.plan(m).encode(compute_pass, x, layer.b, y, layer.bias)``.
        """
        return plan(self.device, replace(self._gemm, m=m))

    def __call__(self, x: Any) -> Array:
        """The product with ``x`` (m, k), as a new NumPy array (m, n)."""
        left = np.ascontiguousarray(x, _NUMPY[self._gemm.a])
        if left.ndim != 2 or left.shape[1] != self._gemm.k:
            raise OperandError(f"x has shape {left.shape}; it must be (m, {self._gemm.k})")
        ready = self.plan(left.shape[0])
        result = np.empty((left.shape[0], self._gemm.n), _NUMPY[self._gemm.c])
        if result.size == 0:
            return result
        self._x = self._kept(self._x, left.nbytes)
        self._y = self._kept(self._y, result.nbytes)
        data = left.reshape(-1).view(np.uint8)
        with translated(context_of(self.device).device.name):
            if data.size:
                pad = np.zeros(-data.size % 4, np.uint8)
                self.device.queue.write_buffer(self._x, 0, np.concatenate([data, pad]))
            ready.run(self._x, self.b, self._y, self.bias)
            out = self.device.queue.read_buffer(self._y, 0, -(-result.nbytes // 4) * 4)
        result.ravel()[:] = np.frombuffer(out, result.dtype, result.size)
        return result

    def _kept(self, buffer: Any, size_bytes: int) -> Any:
        """``buffer`` if it is large enough, else a new one."""
        if buffer is None or buffer.size < size_bytes:
            return _buffer(self.device, size_bytes)
        return buffer
