"""Hypothesis strategies: problems of every kind, devices of every size, legal configs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from hypothesis import strategies as st

from gemmtune.device import Device, Fragment, Limits
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.literals import Dtype, Math
from gemmtune.problem import ACTIVATIONS, DTYPES, MATHS, Gemm

LEAST = Device(features=("shader-f16",))
"""The least limits of WebGPU, plus f16."""
LAVAPIPE = Device(
    name="llvmpipe",
    adapter_type="cpu",
    features=("shader-f16", "subgroup"),
    limits=Limits(
        workgroup_storage_bytes=32768, invocations_per_workgroup=1024, workgroup_size_x=1024
    ),
    subgroup_size=8,
)
"""Mesa's software adapter."""
H100 = Device(
    name="NVIDIA H100 80GB HBM3",
    vendor_id=0x10DE,
    adapter_type="discrete",
    backend="vulkan",
    features=("shader-f16", "subgroup", "timestamp-query"),
    limits=Limits(
        workgroup_storage_bytes=49152,
        invocations_per_workgroup=1024,
        workgroup_size_x=1024,
        storage_binding_bytes=2147483644,
        buffer_bytes=4292870144,
    ),
    subgroup_size=32,
)
"""A large device, without its matrix units."""
MATRICES = replace(
    H100,
    features=(*H100.features, "cooperative-matrix"),
    fragments=(
        Fragment(size=16, ab="f16", acc="f16", storage=(1, 2, 4)),
        Fragment(size=16, ab="f16", acc="f32", storage=(1, 2, 4)),
    ),
)
"""The same with them."""
DEVICES = (LEAST, LAVAPIPE, H100, MATRICES)
PLAIN_FAMILIES = ("naive", "tiled", "subgroup", "gemv")
"""Families that every lavapipe runs; those of native matrices have their own folder of tests."""


def device_of(family: str) -> Device:
    """A device that has what the family needs."""
    return MATRICES if family.startswith("coopmat") else LAVAPIPE


SIZES = (1, 2, 3, 7, 16, 17, 31, 33, 64, 65, 100)


@st.composite
def gemms(
    draw: st.DrawFn,
    sizes: tuple[int, ...] = SIZES,
    inputs: tuple[Dtype, ...] = DTYPES,
    maths: tuple[Math, ...] = MATHS,
) -> Gemm:
    """Any legal problem with sides from ``sizes``, operands of ``inputs`` and one of ``maths``."""
    a, b = draw(st.sampled_from(inputs)), draw(st.sampled_from(inputs))
    m, n = draw(st.sampled_from(sizes)), draw(st.sampled_from(sizes))
    k = draw(st.sampled_from((0, *sizes)))
    gap = draw(st.sampled_from((None, 0, 1, 4)))
    return Gemm(
        m=m,
        n=n,
        k=k,
        a=a,
        b=b,
        c=draw(st.sampled_from(DTYPES)),
        acc=draw(st.sampled_from(DTYPES)) if a == b == "f16" else "f32",
        trans_a=draw(st.booleans()),
        trans_b=draw(st.booleans()),
        batch=draw(st.sampled_from((1, 1, 1, 2, 3))),
        stride_a=draw(st.sampled_from((None, 0, m * k + 4))),
        stride_b=draw(st.sampled_from((None, 0, k * n + 3))),
        stride_c=None if gap is None else m * n + gap,
        alpha=draw(st.sampled_from((1.0, -0.5, 2.0))),
        beta=draw(st.sampled_from((0.0, 1.0, 0.25))),
        bias=draw(st.booleans()),
        activation=draw(st.sampled_from(ACTIVATIONS)),
        math=draw(st.sampled_from(maths)) if a == b == "f32" else "ieee",
    )


def gemms_for(family: str) -> st.SearchStrategy[Gemm]:
    """Any problem that the family can do."""
    if family == "coopmat":
        return gemms(inputs=("f16",))
    if family == "coopmat_f16x3":
        return gemms(inputs=("f32",), maths=("f16x3",))
    return gemms().map(lambda gemm: fitted(family, gemm))


def fitted(family: str, gemm: Gemm) -> Gemm:
    """The problem itself, or one like it with the dtypes, math and size that the family takes."""
    if family == "gemv" and min(gemm.m, gemm.n) > 16:
        odd = (gemm.m + gemm.n) % 2
        return replace(gemm, **({"m": gemm.m % 7 + 1} if odd else {"n": gemm.n % 7 + 1}))
    if family == "coopmat":
        return replace(gemm, a="f16", b="f16", math="ieee")
    if family == "coopmat_f16x3":
        return replace(gemm, a="f32", b="f32", acc="f32", math="f16x3")
    return gemm


_DECISIVE = {
    "naive": (),
    "tiled": ("a", "b", "acc", "trans_a", "trans_b"),
    "subgroup": ("trans_a", "trans_b"),
    "coopmat": ("a", "b", "c", "acc", "trans_a", "trans_b"),
    "coopmat_f16x3": ("a", "b", "math", "trans_a", "trans_b"),
}
"""Fields that decide which configs of a family there are, beside the sizes; see `model_of`."""


@cache
def legal_configs(family: str, gemm: Gemm, device: Device) -> tuple[Config, ...]:
    """The whole space, kept because enumerating it takes a while."""
    return tuple(FAMILIES[family].space(gemm, device))


def model_of(family: str, gemm: Gemm) -> Gemm:
    """A problem of one size, without what makes no difference to the space: that is kept once."""
    if family == "gemv":
        short, wide = min(gemm.m, gemm.n, 16), gemm.m <= gemm.n
        shape, decisive = (
            (f"{short}x64x512", ("b", "trans_b")) if wide else (f"64x{short}x512", ("a", "trans_a"))
        )
    else:
        shape, decisive = "64x64x16", _DECISIVE[family]
    kind = {name: getattr(gemm, name) for name in decisive}
    if family == "tiled" and (gemm.a, gemm.b) != ("f16", "f16"):
        kind |= {"a": "f32", "b": "f32"}
    return Gemm.parse(shape, **kind)
