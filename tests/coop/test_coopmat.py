"""The contract of the coopmat family on an adapter that has matrices: right for any problem.

Kernels are small: software drivers take many seconds to compile large unrolled ones.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable

import pytest

from gemmtune.device import Device
from gemmtune.job import Failure, Measurement, Outcome
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Kernel
from gemmtune.kernels.coopmat_config import CoopmatConfig
from gemmtune.problem import Gemm
from gemmtune.render import render

RunKernel = Callable[[Gemm, Kernel], Outcome]

F16 = {"a": "f16", "b": "f16"}
LAYOUTS = list(itertools.product((False, True), (False, True)))


def config_of(gemm: Gemm, device: Device, **changes: object) -> CoopmatConfig:
    small = {"frag": 8, "frags_m": 1, "frags_n": 2, "tile_k": 16}
    return dataclasses.replace(FAMILIES["coopmat"].default(gemm, device), **(small | changes))


def right(run_kernel: RunKernel, config: CoopmatConfig, gemm: Gemm, device: Device) -> None:
    outcome = run_kernel(gemm, render("coopmat", config, gemm, device))

    assert isinstance(outcome.result, Measurement), f"{outcome.result}\n{gemm.key}\n{config.key}"


@pytest.mark.parametrize(("trans_a", "trans_b"), LAYOUTS)
@pytest.mark.parametrize(("c", "acc"), [("f32", "f32"), ("f16", "f32"), ("f16", "f16")])
def test_every_layout_and_dtype_is_right(run_kernel, device, trans_a, trans_b, c, acc):
    frag = 16 if trans_a == trans_b else 8  # between them each operand by rows and by columns
    for shape, dims in (("32x32x32", "static"), ("33x41x19", "dynamic")):
        gemm = Gemm.parse(shape, c=c, acc=acc, trans_a=trans_a, trans_b=trans_b, **F16)
        right(run_kernel, config_of(gemm, device, dims=dims, frag=frag), gemm, device)


@pytest.mark.parametrize(
    "shape", ["1x1x1", "3x5x0", "1x129x7", "129x1x31", "17x33x1", "16x32x48x3"]
)
def test_any_size_is_right(run_kernel, device, shape):
    gemm = Gemm.parse(shape, beta=0.5, bias=True, **F16)

    right(run_kernel, config_of(gemm, device), gemm, device)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_epilogue_is_right(run_kernel, device, activation):
    sizes = {"m": 37, "n": 44, "k": 20}
    gemm = Gemm(**sizes, **F16, c="f16", alpha=-0.75, beta=0.5, bias=True, activation=activation)

    right(run_kernel, config_of(gemm, device), gemm, device)


@pytest.mark.parametrize(
    "changes",
    [
        {"frag": 16},
        {"frag": 16, "load": 8, "turns": 2},
        {"stages": 2},
        {"prefetch": False},
        {"order": "all_first"},
        {"pad": 0},
        {"vec": 2},
        {"group_m": 8},
        {"subgroups_m": 1, "frags_m": 2},
        {"dims": "static", "checked": False},
        {"load": 8},
        {"load": 8, "frags_m": 3, "subgroups_n": 1, "stages": 2},
        {"a_from": "storage", "dims": "static"},
        {"b_from": "storage", "dims": "static", "prefetch": False, "load": 8},
        {"a_from": "storage", "b_from": "storage", "dims": "static", "checked": False, "vec": 2},
        {"b_from": "storage", "dims": "static", "stages": 2},
        {"turns": 2, "dims": "dynamic"},
        {"turns": 4, "order": "all_first"},
        {"out_frags": 2, "dims": "dynamic"},
        {"out_frags": 2, "turns": 2, "subgroups_k": 1, "dims": "dynamic"},
        {"out_frags": 2, "subgroups_k": 2, "subgroups_n": 1, "tile_k": 32, "dims": "dynamic"},
        {"subgroups_k": 2, "subgroups_n": 1, "tile_k": 32},
        {"subgroups_k": 2, "subgroups_m": 1, "tile_k": 32, "stages": 2, "dims": "dynamic"},
        {
            "subgroups_k": 4,
            "subgroups_m": 1,
            "subgroups_n": 1,
            "tile_k": 32,
            "split_k": 2,
            "frag": 8,
        },
        {"subgroups_k": 2, "subgroups_n": 1, "tile_k": 32, "a_from": "storage", "dims": "static"},
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
@pytest.mark.parametrize("trans_b", [False, True])
def test_every_knob_is_right(run_kernel, device, changes, trans_b):
    gemm = Gemm.parse("64x64x64", trans_b=trans_b, alpha=0.5, **F16)

    right(run_kernel, config_of(gemm, device, **changes), gemm, device)


@pytest.mark.parametrize(
    ("shape", "kind", "changes"),
    [
        # Fragments go to the workspace as they are.
        ("32x64x256", {"c": "f16"}, {"split_k": 4, "dims": "static"}),
        ("32x64x256x2", {"bias": True, "beta": 0.5}, {"split_k": 8, "checked": False}),
        # They stop in workgroup memory: edges, sums in f16.
        ("33x41x500", {"c": "f16", "activation": "gelu"}, {"split_k": 7, "turns": 2}),
        ("32x32x96", {"c": "f16", "acc": "f16"}, {"split_k": 3, "dims": "static"}),
        ("40x44x200x3", {"trans_a": True, "stride_c": 40 * 44 + 3}, {"split_k": 5, "stages": 2}),
        ("32x64x128", {"trans_b": True}, {"split_k": 2, "b_from": "storage", "dims": "static"}),
    ],
)
def test_sums_split_among_workgroups_are_right(run_kernel, device, shape, kind, changes):
    gemm = Gemm.parse(shape, **F16, **kind)
    if changes.get("checked") is False:
        changes = changes | {"dims": "static"}
    config = config_of(gemm, device, **changes)

    assert len(render("coopmat", config, gemm, device).launches) == 2
    right(run_kernel, config, gemm, device)


# The loop is unrolled, so only the smallest kernels compile in time.
HELD = {"frag": 8, "tile_k": 8, "frags_n": 1, "stages": 2, "order": "all_first", "hold": "first"}


ONE = {"subgroups_m": 1, "subgroups_n": 1, "frags_m": 2, "frags_n": 2, "load": 8}


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ("32x32x48", ONE),
        ("32x32x64", {"hold": "last", "flight": 2}),
        ("32x32x32", {"wide": True}),
        ("32x32x64", ONE | {"pieces": 2}),
        ("32x32x96", ONE | {"pieces": 2, "hold": "last"}),
        ("32x32x64", ONE | {"pack": True}),
    ],
)
@pytest.mark.parametrize(("trans_a", "trans_b"), LAYOUTS)
def test_fragments_held_for_a_step_are_right(run_kernel, device, shape, changes, trans_a, trans_b):
    if trans_a and not trans_b:
        changes = changes | {"wide": False, "pieces": 1, "pack": False}
    gemm = Gemm.parse(shape, trans_a=trans_a, trans_b=trans_b, **F16)
    config = config_of(gemm, device, **HELD, dims="static", checked=False)

    right(run_kernel, dataclasses.replace(config, **changes), gemm, device)


@pytest.mark.parametrize(
    ("shape", "kind", "changes"),
    [
        ("16x48x96", {"c": "f16"}, {"dims": "static", "hold": "last", "flight": 2, "wide": True}),
        # A loop whose last turn reaches past the end, or is the only one.
        ("32x32x40", {"trans_b": True}, {"dims": "static", "wide": True}),
        ("17x21x8", {"bias": True, "beta": 0.5, "trans_a": True}, {"hold": "last", "flight": 2}),
        ("17x21x1", {"c": "f16", "trans_b": True}, {"dims": "static"}),
        ("17x33x0", {"beta": 0.5}, {}),
        ("20x24x50x2", {"trans_a": True, "trans_b": True}, {"wide": True, "flight": 2}),
        ("32x32x128", {"c": "f16"}, {"dims": "static", "split_k": 4, "checked": False}),
        ("17x21x250", {"bias": True}, {"split_k": 3, "wide": True, "hold": "last"}),
        ("17x32x72", {"c": "f16"}, ONE | {"pieces": 2, "hold": "last", "flight": 2}),
        ("17x21x50", {"c": "f16", "trans_b": True}, {"hold": "last", "flight": 4}),
        ("32x21x104", {"trans_b": True}, ONE | {"pieces": 2, "split_k": 2, "hold": "last"}),
    ],
)
def test_held_fragments_are_right_at_edges_and_where_k_is_split(
    run_kernel, device, shape, kind, changes
):
    gemm = Gemm.parse(shape, **F16, **kind)

    right(run_kernel, config_of(gemm, device, **(HELD | changes)), gemm, device)


WHOLE = {"dims": "static", "checked": False}
PACKED = ONE | {"hold": "none", "order": "stream_a", "stages": 1, "pack": True}


@pytest.mark.parametrize(
    ("shape", "kind", "changes"),
    [
        # More than one block of what a workgroup packs, and less than one.
        ("144x8x72", {}, {}),
        ("8x24x136x2", {"trans_b": True, "c": "f16"}, {"dims": "static"}),
        ("19x32x24", {"trans_b": True, "bias": True}, {"stages": 2}),
        ("24x13x40x3", {"trans_a": True, "trans_b": True, "beta": 0.5}, {"subgroups_m": 2}),
        ("17x24x72", {}, HELD | ONE | {"pack": True, "hold": "last", "flight": 2}),
        ("128x16x64", {}, HELD | ONE | {"pack": True, "hold": "last", "flight": 4} | WHOLE),
    ],
)
def test_packed_operands_are_right(run_kernel, device, shape, kind, changes):
    gemm = Gemm.parse(shape, **F16, **kind)
    config = config_of(gemm, device, **(HELD | PACKED | changes))

    assert [one.entry_point for one in render("coopmat", config, gemm, device).launches] == [
        "pack",
        "main",
    ]
    right(run_kernel, config, gemm, device)


def test_configs_of_the_space_are_right(run_kernel, device):
    gemm = Gemm.parse("48x40x32", **F16)
    configs = list(FAMILIES["coopmat"].space(gemm, device))
    small = [c for c in configs if c.frags_m * c.frags_n * c.step_k <= 64]
    assert len(small) > 100

    for config in random.Random(0).sample(small, 5):
        right(run_kernel, config, gemm, device)


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("shape", ["16x40x512", "19x32x600"])
def test_deep_steps_of_k_in_the_space_are_right(run_kernel, device, shape, trans_b):
    gemm = Gemm.parse(shape, trans_b=trans_b, c="f16", **F16)
    configs = FAMILIES["coopmat"].space(gemm, device)
    # Of those whose unrolled loads are few enough to compile in time.
    small = [c for c in configs if (c.tile_m + c.tile_n) * c.tile_k <= 1024 * c.subgroups]
    deep = [c for c in small if c.tile_k >= 8 * c.frag and c.frags_m * c.frags_n == 1]
    assert {c.tile_k // c.frag for c in deep} == {8, 16}
    assert {c.subgroups_k for c in deep} == {1, 2, 4, 8}

    shared = [config for config in deep if config.subgroups_k == 8]
    picked = random.Random(0)
    for config in (*picked.sample(deep, 3), *picked.sample(shared, 2)):
        right(run_kernel, config, gemm, device)


def test_a_kernel_for_another_subgroup_size_is_found_wrong(run_kernel, device):
    """What `check` never lets through: drivers compile and run it without complaint."""
    gemm = Gemm.parse("32x32x32", **F16)
    forged = dataclasses.replace(device, subgroup_size=device.subgroup_size // 2)
    config = config_of(gemm, forged, subgroups_m=1, subgroups_n=1, vec=2)

    outcome = run_kernel(gemm, render("coopmat", config, gemm, forged))

    assert isinstance(outcome.result, Failure)
    assert outcome.result.kind == "wrong_result"
