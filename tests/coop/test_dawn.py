"""The contract of kernels for Chromium: right numbers on Dawn, with and without native matrices.

Every run is a process of Node; what it gives is compared with float64. Kernels are small: software
drivers take many seconds to compile large unrolled ones.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import re

import pytest

from dawn_node import TOGGLES, DawnError, adapter, device_of, fault, run_kernel
from gemmtune.device import Device
from gemmtune.dialect import NAGA, TINT
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.problem import Gemm
from gemmtune.render import render

F16 = {"a": "f16", "b": "f16"}
LAYOUTS = list(itertools.product((False, True), (False, True)))


@pytest.fixture(scope="module")
def dawn() -> Device:
    """The adapter as Dawn shows it."""
    try:
        found = device_of(adapter())
    except DawnError as error:
        pytest.fail(f"no Dawn to test kernels for Chromium on: {error}", pytrace=False)
    if not found.has("cooperative-matrix"):
        name = TINT.spelling("cooperative-matrix").requested
        pytest.fail(f"{found.name} has no {name} in Dawn", pytrace=False)
    return found


def right(family: str, config: Config, gemm: Gemm, device: Device) -> None:
    kernel = render(family, config, gemm, device, TINT)

    found = fault(run_kernel(kernel, gemm, device), gemm)

    assert found is None, f"{found}\n{gemm.key}\n{config.key}"


def coopmat(gemm: Gemm, device: Device, **changes: object) -> Config:
    small = {"frags_m": 1, "frags_n": 1, "tile_k": 8}
    return dataclasses.replace(FAMILIES["coopmat"].default(gemm, device), **(small | changes))


def test_dawn_lists_the_fragments_that_kernels_use(dawn):
    assert dawn.software
    assert dawn.subgroup_size == 8
    found = {(one.size, one.ab, one.acc) for one in dawn.fragments}
    assert {(8, "f16", "f32"), (8, "f16", "f16")} <= found


@pytest.mark.parametrize(("trans_a", "trans_b"), LAYOUTS)
@pytest.mark.parametrize(("c", "acc"), [("f32", "f32"), ("f16", "f32"), ("f16", "f16")])
def test_matrices_of_every_layout_and_dtype_are_right(dawn, trans_a, trans_b, c, acc):
    gemm = Gemm.parse("33x41x19", c=c, acc=acc, trans_a=trans_a, trans_b=trans_b, **F16)

    right("coopmat", coopmat(gemm, dawn), gemm, dawn)


@pytest.mark.parametrize(("trans_a", "trans_b"), LAYOUTS)
@pytest.mark.parametrize("acc", ["f32", "f16"])
def test_whole_tiles_of_matrices_go_to_c_directly(dawn, trans_a, trans_b, acc):
    layout = {"trans_a": trans_a, "trans_b": trans_b, "alpha": -0.75}
    gemm = Gemm.parse("32x48x32", c=acc, acc=acc, **layout, **F16)
    config = coopmat(gemm, dawn, dims="static", frags_m=2)
    assert config.direct(gemm)

    right("coopmat", config, gemm, dawn)


@pytest.mark.parametrize("shape", ["1x1x1", "3x5x0", "1x129x7", "17x33x1", "16x32x48x3"])
def test_any_size_is_right(dawn, shape):
    gemm = Gemm.parse(shape, beta=0.5, bias=True, **F16)

    right("coopmat", coopmat(gemm, dawn), gemm, dawn)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_epilogue_is_right(dawn, activation):
    sizes = {"m": 37, "n": 44, "k": 20, "batch": 2, "stride_c": 37 * 44 + 4}
    gemm = Gemm(**sizes, **F16, c="f16", alpha=-0.75, beta=0.5, bias=True, activation=activation)

    right("coopmat", coopmat(gemm, dawn), gemm, dawn)


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": 2},
        {"prefetch": False, "tile_k": 16},
        {"order": "all_first", "frags_m": 2, "frags_n": 2},
        {"pad": 0},
        {"vec": 2},
        {"group_m": 8},
        {"load": 8, "tile_k": 16},
        {"a_from": "storage", "dims": "static"},
        {"b_from": "storage", "dims": "static", "prefetch": False},
        {"turns": 2},
        {"pack": True, "load": 8, "tile_k": 16},
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_every_knob_of_matrices_is_right(dawn, changes):
    gemm = Gemm.parse("64x64x64", trans_b=True, alpha=0.5, **F16)

    right("coopmat", coopmat(gemm, dawn, **changes), gemm, dawn)


@pytest.mark.parametrize("family", ["naive", "tiled", "subgroup"])
@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ("33x65x17", {}),
        ("64x64x32", {"a": "f16", "b": "f16", "c": "f16", "trans_a": True, "trans_b": True}),
        ("21x36x40x2", {"beta": 0.5, "bias": True, "activation": "gelu", "trans_b": True}),
    ],
    ids=["odd", "f16", "epilogue"],
)
def test_families_without_matrices_are_right(dawn, family, shape, problem):
    gemm = Gemm.parse(shape, **problem)

    right(family, FAMILIES[family].default(gemm, dawn), gemm, dawn)


@pytest.mark.parametrize("family", ["tiled", "subgroup", "coopmat"])
def test_configs_of_the_space_are_right(dawn, family):
    gemm = Gemm.parse("48x40x32", **F16)
    configs = [
        config
        for config in FAMILIES[family].space(gemm, dawn)
        if family != "coopmat" or config.frags_m * config.frags_n * config.tile_k <= 32
    ]
    assert len(configs) > 100

    for config in random.Random(0).sample(configs, 2):
        right(family, config, gemm, dawn)


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("stages", [1, 2])
def test_tint_adds_no_checks_to_static_loops_of_matrices(dawn, trans_b, stages):
    """Its checks make strides variable and count loops; a browser cannot switch them off."""
    gemm = Gemm.parse("32x32x32", trans_b=trans_b, **F16)
    config = coopmat(gemm, dawn, dims="static", frags_m=1, stages=stages)
    kernel = render("coopmat", config, gemm, dawn, TINT)

    log = run_kernel(kernel, gemm, dawn, toggles=(*TOGGLES, "dump_shaders")).log

    strides = re.findall(r"OpCooperativeMatrixLoadKHR %\d+ %\d+ %uint_\d+ (%\w+)", log)
    assert len(strides) == 2
    assert all(stride.startswith("%uint_") for stride in strides)
    assert "OpAll %bool" not in log, "a loop is counted"


def test_what_tint_refuses_is_said(dawn):
    gemm = Gemm.parse("16x16x16", **F16)
    kernel = render("coopmat", coopmat(gemm, dawn), gemm, dawn, NAGA)
    kernel = dataclasses.replace(kernel, features=TINT.requested(("shader-f16",)))

    with pytest.raises(DawnError, match="4:8 expected extension"):
        run_kernel(kernel, gemm, dawn)


def test_a_wrong_kernel_is_found_wrong(dawn):
    """What `fault` is for: an element that is off, and one that is written beside C."""
    gemm = Gemm.parse("8x8x8x2", stride_c=70)
    kernel = render("naive", FAMILIES["naive"].default(gemm, dawn), gemm, dawn, TINT)
    off = kernel.wgsl.replace("var sum = f32(0.0)", "var sum = f32(row == 3u)")
    beside = kernel.wgsl.replace("c[at] =", "c[at + 1u] = 0.0; c[at] =")
    assert kernel.wgsl not in (off, beside)

    for wgsl, words in ((off, "of C are wrong"), (beside, "between the matrices of C")):
        run = run_kernel(dataclasses.replace(kernel, wgsl=wgsl), gemm, dawn)

        assert words in (fault(run, gemm) or "")
