"""What is to be multiplied: one GEMM problem. Knows nothing of devices or kernels."""

from __future__ import annotations

import math
from functools import cache

from gemmtune.errors import ProblemError
from gemmtune.light import dataclass, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gemmtune.literals import Activation, Dtype, Math

DTYPES: tuple[Dtype, ...] = ("f32", "f16")
ACTIVATIONS: tuple[Activation, ...] = ("none", "relu", "gelu", "silu")
MATHS: tuple[Math, ...] = ("ieee", "f16x3")
SIZEOF: dict[str, int] = {"f32": 4, "f16": 2}
"""Bytes of one element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """``C = activation(alpha * op(A) @ op(B) + beta * C + bias)``, all matrices row-major.

    op(A) is m x k and op(B) is k x n; C is m x n; bias has n elements of C's dtype. With
    ``trans_a`` A lies in memory as k x m, with ``trans_b`` B as n x k (BLAS transA, transB).

    Raises:
        ProblemError: a size is negative, a dtype or math unknown or unfit, alpha or beta not
            finite, or strides make matrices of C overlap.
    """

    m: int
    """Rows of C."""
    n: int
    """Columns of C."""
    k: int
    """Length of the sums. 0 is legal: C = activation(beta * C + bias)."""
    a: Dtype = "f32"
    """Dtype of A in memory."""
    b: Dtype = "f32"
    """Dtype of B in memory."""
    c: Dtype = "f32"
    """Dtype of C and bias in memory."""
    acc: Dtype = "f32"
    """Dtype of the sums; f16 only where a and b are f16 too."""
    trans_a: bool = False
    """A is stored k x m."""
    trans_b: bool = False
    """B is stored n x k."""
    batch: int = 1
    """How many independent products."""
    stride_a: int | None = None
    """Elements between two A of a batch; None: packed; 0: one A for all."""
    stride_b: int | None = None
    """Elements between two B of a batch; None: packed; 0: one B for all."""
    stride_c: int | None = None
    """Elements between two C of a batch; None: packed."""
    alpha: float = 1.0
    """Factor of the product."""
    beta: float = 0.0
    """Factor of the old C; 0 means that C is not read."""
    bias: bool = False
    """A vector of n elements is added to every row."""
    activation: Activation = "none"
    """Applied last; gelu is the tanh form."""
    math: Math = "ieee"
    """ieee: products and sums as the dtypes say. f16x3: kernels may multiply operands in f32 as
    sums of two f16, whose errors are bounded per row and column (`coopmat_f16x3`)."""

    def __post_init__(self) -> None:
        for name in ("m", "n", "k", "batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ProblemError(f"{name} must be an integer >= 0, not {value!r}")
        for name in ("a", "b", "c", "acc"):
            if getattr(self, name) not in DTYPES:
                raise ProblemError(
                    f"dtype of {name} is {getattr(self, name)!r}; supported: {', '.join(DTYPES)}"
                )
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise ProblemError(f"{name} must be a finite number, not {value!r}")
        if self.activation not in ACTIVATIONS:
            raise ProblemError(
                f"activation is {self.activation!r}; supported: {', '.join(ACTIVATIONS)}"
            )
        if self.math not in MATHS:
            raise ProblemError(f"math is {self.math!r}; supported: {', '.join(MATHS)}")
        if self.math == "f16x3" and (self.a, self.b, self.acc) != ("f32", "f32", "f32"):
            raise ProblemError(
                f"math=f16x3 splits operands in f32 and sums in f32; a is {self.a}, b {self.b} and "
                f"acc {self.acc}: leave math at ieee for them"
            )
        if self.acc == "f16" and (self.a, self.b) != ("f16", "f16"):
            raise ProblemError(
                f"acc=f16 needs a and b in f16, not {self.a} and {self.b}; use acc=f32"
            )
        for name, least in (("stride_a", 0), ("stride_b", 0), ("stride_c", self.m * self.n)):
            value = getattr(self, name)
            if value is not None and (value < least and (self.batch > 1 or value < 0)):
                raise ProblemError(f"{name} is {value}; it must be at least {least}")

    @classmethod
    def parse(cls, shape: str, **rest: Any) -> Gemm:
        """``MxNxK`` or ``MxNxKxBATCH`` as people type it; ``rest`` are further fields.

        Raises:
            ProblemError: the text is not three or four sizes.
        """
        import re

        if not re.fullmatch(r"\d+(x\d+){2,3}", shape.strip().lower()):
            raise ProblemError(f"shape {shape!r} is not MxNxK or MxNxKxBATCH, e.g. 512x4096x4096")
        m, n, k, *batch = (int(part) for part in shape.strip().lower().split("x"))
        if batch:
            rest["batch"] = batch[0]
        return cls(m=m, n=n, k=k, **rest)

    @property
    def shape(self) -> str:
        """``MxNxK``, with ``xBATCH`` where there is more than one product."""
        text = f"{self.m}x{self.n}x{self.k}"
        return text if self.batch == 1 else f"{text}x{self.batch}"

    @property
    def kind(self) -> str:
        """All but the sizes, e.g. ``f16,f16,f16,f32:nt:beta,bias,gelu``: what a kernel is made for.

        The values of alpha and beta are arguments of a kernel; only whether C is read counts.
        """
        layout = ("t" if self.trans_a else "n") + ("t" if self.trans_b else "n")
        steps = [
            *([self.math] if self.math != "ieee" else []),
            *(["beta"] if self.beta != 0.0 else []),
            *(["bias"] if self.bias else []),
            *([self.activation] if self.activation != "none" else []),
        ]
        parts = [f"{self.a},{self.b},{self.c},{self.acc}", layout, ",".join(steps)]
        return ":".join(part for part in parts if part)

    @property
    def key(self) -> str:
        """What makes two problems the same to a tuner: sizes, strides if not packed, kind."""
        strides = [
            f"{name}={value}"
            for name, value in (
                ("stride_a", self.stride_a),
                ("stride_b", self.stride_b),
                ("stride_c", self.stride_c),
            )
            if value is not None and self.batch > 1 and value != self._packed(name[-1])
        ]
        return ":".join([self.shape, self.kind, *strides])

    def _packed(self, operand: str) -> int:
        if operand == "a":
            return self.m * self.k
        return (self.k if operand == "b" else self.m) * self.n

    def stride(self, operand: str) -> int:
        """Elements from one matrix of ``operand`` ("a", "b", "c") to the next of the batch."""
        given: int | None = getattr(self, f"stride_{operand}")
        return self._packed(operand) if given is None else given

    def elements(self, operand: str) -> int:
        """Elements that ``operand`` ("a", "b", "c", "bias") spans in memory, gaps included."""
        if operand == "bias":
            return self.n if self.bias else 0
        if self.batch <= 1:
            return self._packed(operand) if self.batch else 0
        return (self.batch - 1) * self.stride(operand) + self._packed(operand)

    def size_bytes(self, operand: str) -> int:
        """Bytes that ``operand`` ("a", "b", "c", "bias") spans in memory."""
        dtype = self.c if operand == "bias" else getattr(self, operand)
        return self.elements(operand) * SIZEOF[dtype]

    @property
    def empty(self) -> bool:
        """There is no element of C, so there is nothing to do."""
        return 0 in (self.m, self.n, self.batch)

    @property
    def flops(self) -> int:
        """Floating-point operations of the products: 2 m n k batch, the field's usual count."""
        return 2 * self.m * self.n * self.k * self.batch

    @property
    def traffic_bytes(self) -> int:
        """Fewest bytes that must cross device memory: inputs read once, C written once."""
        read = self.size_bytes("a") + self.size_bytes("b") + self.size_bytes("bias")
        return read + self.size_bytes("c") * (2 if self.beta != 0.0 else 1)

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, plus the sizes; sorted."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        defaults = {f.name: f.default for f in fields(self)}
        return {
            name: value
            for name, value in sorted(values.items())
            if name in ("m", "n", "k", "a", "b", "c", "acc") or value != defaults[name]
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Gemm:
        """The inverse of `to_json`.

        Raises:
            ProblemError: a name is unknown or a value is not one of a Gemm.
        """
        if not (_FIELDS.issuperset(data) and "m" in data and "n" in data and "k" in data):
            raise ProblemError(f"not a problem: {data!r}; known fields: m, n, k, a, b, c, acc, ...")
        return cls(**data)


def traffic_of(kind: str, m: int, n: int, k: int) -> int:
    """`Gemm.traffic_bytes` of one product, by its `Gemm.kind`: for who has thousands of them."""
    of_a, of_b, of_bias, of_c = _traffic_sizes(kind)
    return m * k * of_a + k * n * of_b + n * of_bias + m * n * of_c


@cache
def _traffic_sizes(kind: str) -> tuple[int, int, int, int]:
    """Bytes that move for an element of A, B, bias and C."""
    dtypes, _, steps = kind.partition(":")
    a, b, c, _ = dtypes.split(",")
    steps = steps.partition(":")[2]
    size = SIZEOF[c]
    return SIZEOF[a], SIZEOF[b], size if "bias" in steps else 0, size * (1 + ("beta" in steps))


_FIELDS = frozenset(f.name for f in fields(Gemm))
