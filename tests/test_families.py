"""The contract of a kernel family, on a real adapter: any legal config, any problem, right numbers.

Every kernel is compared element by element with float64 NumPy (the executor's verification), with
guards around C, NaN behind A and B, and two runs that must agree bit by bit.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gemmtune.device import Device
from gemmtune.job import Measurement, Outcome
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, Kernel
from gemmtune.problem import Gemm
from gemmtune.render import render
from strategies import PLAIN_FAMILIES, fitted, gemms, legal_configs, model_of

RunKernel = Callable[[Gemm, Kernel], Outcome]

LAYOUTS = list(itertools.product((False, True), (False, True)))
DTYPES = [
    # a, b, c, acc
    ("f32", "f32", "f32", "f32"),
    ("f16", "f16", "f16", "f32"),
    ("f16", "f16", "f32", "f32"),
    ("f16", "f16", "f16", "f16"),
    ("f32", "f16", "f32", "f32"),
]


def right(run_kernel: RunKernel, family: str, config: Config, gemm: Gemm, device: Device) -> None:
    outcome = run_kernel(gemm, render(family, config, gemm, device))

    assert isinstance(outcome.result, Measurement), f"{outcome.result}\n{gemm.key}\n{config.key}"


def some_configs(family: str, gemm: Gemm, device: Device, count: int) -> list[Config]:
    """The default and a few others, the same every time."""
    configs = legal_configs(family, model_of(family, gemm), device)
    chosen = random.Random(f"{family}{gemm.key}").sample(configs, min(10 * count, len(configs)))
    legal = [config for config in chosen if not FAMILIES[family].check(config, gemm, device)]
    return [FAMILIES[family].default(gemm, device), *legal[:count]]


@pytest.mark.parametrize("family", PLAIN_FAMILIES)
@pytest.mark.parametrize(("trans_a", "trans_b"), LAYOUTS)
@pytest.mark.parametrize(("a", "b", "c", "acc"), DTYPES)
def test_every_layout_and_dtype_is_right(
    run_kernel, device, family, trans_a, trans_b, a, b, c, acc
):
    for shape in ("64x64x32", "33x65x17"):
        gemm = Gemm.parse(shape, a=a, b=b, c=c, acc=acc, trans_a=trans_a, trans_b=trans_b)
        gemm = fitted(family, gemm)
        for config in some_configs(family, gemm, device, 1):
            right(run_kernel, family, config, gemm, device)


@pytest.mark.parametrize("family", PLAIN_FAMILIES)
@pytest.mark.parametrize(
    "shape",
    [
        "1x1x1",
        "1x1x0",
        "3x5x0",
        "1x129x7",
        "129x1x31",
        "1x1x257",
        "17x33x1",
        "2x3x4x7",
        "131x67x33",
    ],
)
def test_any_size_is_right(run_kernel, device, family, shape):
    gemm = fitted(family, Gemm.parse(shape, beta=0.5, bias=True))
    for config in some_configs(family, gemm, device, 1):
        right(run_kernel, family, config, gemm, device)


@pytest.mark.parametrize("family", PLAIN_FAMILIES)
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("c", ["f32", "f16"])
def test_epilogue_is_right(run_kernel, device, family, activation, c):
    gemm = Gemm(
        **{"m": 37, "n": 44, "k": 20, "c": c, "alpha": -0.75, "beta": 0.5},
        bias=True,
        activation=activation,
    )
    gemm = fitted(family, gemm)
    for config in some_configs(family, gemm, device, 1):
        right(run_kernel, family, config, gemm, device)


@pytest.mark.parametrize("family", PLAIN_FAMILIES)
def test_strides_between_matrices_of_a_batch_are_kept(run_kernel, device, family):
    for strides in ({"stride_a": 0}, {"stride_b": 32 * 36 + 3}, {"stride_c": 40 * 36 + 1}):
        gemm = fitted(family, Gemm(m=40, n=36, k=32, batch=3, **strides))
        for config in some_configs(family, gemm, device, 1):
            right(run_kernel, family, config, gemm, device)


SPLITS = {
    "tiled": {"wg_m": 8, "wg_n": 8, "lanes_n": 8, "tile_k": 8, "unroll_k": 8},
    "gemv": {"lanes_l": 16, "lanes_k": 4, "unroll_k": 1, "vec": 1, "reg_l": 2},
}
"""Families that split k among workgroups, with changes to the default that make small tiles."""


@pytest.mark.parametrize("family", SPLITS)
@pytest.mark.parametrize(
    ("shape", "split_k", "kind"),
    [
        ("32x32x64", 2, {}),
        ("33x20x1000", 7, {"beta": 0.5, "bias": True, "activation": "gelu"}),
        ("1x1x257", 32, {"trans_b": True}),
        ("3x44x203x2", 13, {"trans_a": True, "stride_c": 3 * 44 + 1}),
        ("40x44x512x3", 16, {"a": "f16", "b": "f16", "c": "f16", "alpha": -0.5, "stride_b": 0}),
        ("40x36x96", 3, {"a": "f16", "b": "f16", "c": "f16", "acc": "f16", "trans_b": True}),
        ("70x68x72", 9, {"a": "f16", "c": "f16", "bias": True, "beta": 2.0}),
    ],
)
@pytest.mark.parametrize("dims", ["static", "dynamic"])
def test_sums_split_among_workgroups_are_right(
    run_kernel, device, family, shape, split_k, kind, dims
):
    gemm = fitted(family, Gemm.parse(shape, **kind))
    config = FAMILIES[family].default(gemm, device)
    config = dataclasses.replace(config, **SPLITS[family], split_k=split_k, dims=dims)

    assert len(render(family, config, gemm, device).launches) == 2
    right(run_kernel, family, config, gemm, device)


@pytest.mark.parametrize("family", PLAIN_FAMILIES)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(gemm=gemms(sizes=(1, 3, 16, 33, 64, 100)), data=st.data())
def test_any_legal_config_is_right_for_any_problem(run_kernel, device, family, gemm, data):
    gemm = fitted(family, gemm)
    config = data.draw(st.sampled_from(legal_configs(family, model_of(family, gemm), device)))
    assume(not FAMILIES[family].check(config, gemm, device))

    right(run_kernel, family, config, gemm, device)


@pytest.mark.parametrize("family", ["tiled", "subgroup"])
def test_a_dynamic_kernel_is_one_text_for_all_sizes_of_an_alignment(device, family):
    texts = set()
    for shape in ("64x64x64", "128x256x32"):
        gemm = Gemm.parse(shape)
        config = dataclasses.replace(FAMILIES[family].default(gemm, device), dims="dynamic")
        texts.add(render(family, config, gemm, device).wgsl.split("\n", 1)[1])

    assert len(texts) == 1
