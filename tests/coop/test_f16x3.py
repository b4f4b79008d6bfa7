"""The contract of the coopmat_f16x3 family: right for any problem, and as exact as f32.

Kernels are small: software drivers take many seconds to compile large unrolled ones.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable

import pytest

from gemmtune.device import Device
from gemmtune.job import Measurement, Outcome
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Kernel
from gemmtune.kernels.coopmat_f16x3 import CoopmatF16x3Config
from gemmtune.problem import Gemm
from gemmtune.render import render

RunKernel = Callable[[Gemm, Kernel], Outcome]

FAMILY = FAMILIES["coopmat_f16x3"]
LAYOUTS = list(itertools.product((False, True), (False, True)))


def f16x3(shape: str, **rest: object) -> Gemm:
    return Gemm.parse(shape, math="f16x3", **rest)


def config_of(gemm: Gemm, device: Device, **changes: object) -> CoopmatF16x3Config:
    small = {"frag": 8, "frags_m": 1, "frags_n": 2, "tile_k": 16}
    return dataclasses.replace(FAMILY.default(gemm, device), **(small | changes))


def right(
    run_kernel: RunKernel, config: CoopmatF16x3Config, gemm: Gemm, device: Device
) -> Measurement:
    outcome = run_kernel(gemm, render("coopmat_f16x3", config, gemm, device))

    assert isinstance(outcome.result, Measurement), f"{outcome.result}\n{gemm.key}\n{config.key}"
    return outcome.result


@pytest.mark.parametrize(("trans_a", "trans_b"), LAYOUTS)
@pytest.mark.parametrize("c", ["f32", "f16"])
def test_every_layout_and_dtype_is_right(run_kernel, device, trans_a, trans_b, c):
    for shape, dims in (("32x32x32", "static"), ("33x41x19", "dynamic")):
        gemm = f16x3(shape, c=c, trans_a=trans_a, trans_b=trans_b)
        right(run_kernel, config_of(gemm, device, dims=dims), gemm, device)


@pytest.mark.parametrize("shape", ["1x1x1", "3x5x0", "1x129x7", "17x33x70x2"])
def test_any_size_is_right(run_kernel, device, shape):
    gemm = f16x3(shape, beta=0.5, bias=True, activation="relu")

    right(run_kernel, config_of(gemm, device), gemm, device)


@pytest.mark.parametrize(
    "changes",
    [
        {"chain": 2},
        {"corrections": "apart"},
        {"corrections": "apart", "chain": 2, "order": "all_first"},
        {"stages": 2},
        {"prefetch": False},
        {"order": "all_first"},
        {"pad": 0},
        {"vec": 2},
        {"group_m": 8, "turns": 4},
        {"subgroups_m": 1, "frags_m": 2},
        {"dims": "static", "checked": False},
        {"frag": 16, "frags_n": 1},
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_every_knob_is_right(run_kernel, device, changes):
    gemm = f16x3("64x64x64", trans_b=True, alpha=0.5)

    right(run_kernel, config_of(gemm, device, **changes), gemm, device)


def test_configs_of_the_space_are_right(run_kernel, device):
    gemm = f16x3("48x40x32")
    configs = list(FAMILY.space(gemm, device))
    small = [c for c in configs if c.frag == 8 and c.frags_m * c.frags_n * c.step_k <= 32]
    assert len(small) > 100

    for config in random.Random(0).sample(small, 3):
        right(run_kernel, config, gemm, device)


PRESPLIT = {"presplit": True, "vec": 4, "tile_k": 8}
FOUR = {"subgroups_m": 2, "subgroups_n": 2, "frags_m": 2, "frags_n": 2}
ONE = dict.fromkeys(FOUR, 1)
HELD = {"stages": 2, "order": "all_first", "hold": "last", "flight": 2}


@pytest.mark.parametrize(("trans_a", "trans_b"), LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ("64x64x32", {"dims": "static", "checked": False}),
        ("33x41x19x2", {}),
    ],
    ids=["whole", "edges"],
)
def test_every_layout_is_right_presplit(run_kernel, device, shape, changes, trans_a, trans_b):
    gemm = f16x3(shape, trans_a=trans_a, trans_b=trans_b)

    right(run_kernel, config_of(gemm, device, **PRESPLIT, **ONE, **changes), gemm, device)


@pytest.mark.parametrize(
    ("shape", "changes"),
    [("1x1x1", {}), ("3x5x0", HELD), ("1x129x7", HELD), ("33x41x19x2", HELD)],
)
def test_any_size_is_right_presplit(run_kernel, device, shape, changes):
    gemm = f16x3(shape, beta=0.5, bias=True, activation="relu")

    right(run_kernel, config_of(gemm, device, **PRESPLIT, **ONE, **changes), gemm, device)


@pytest.mark.parametrize(
    "changes",
    [
        {"tile_k": 16, "chain": 2, "corrections": "apart"},
        {"prefetch": False, "pad": 0, "turns": 2},
        {"stages": 2, "group_m": 8},
        HELD | {"hold": "first", "flight": 1, "out_frags": 2},
        HELD | {"dims": "static", "checked": False, "turns": 4},
        HELD | ONE | {"wide": True, "subgroups_n": 2, "frags_m": 2, "frags_n": 1},
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_every_knob_is_right_presplit(run_kernel, device, changes):
    gemm = f16x3("64x64x64", trans_b=True, alpha=0.5)

    right(run_kernel, config_of(gemm, device, **(PRESPLIT | FOUR | changes)), gemm, device)


@pytest.mark.parametrize(
    ("shape", "kind", "changes"),
    [
        # More than one block, less than one, and operands that stay as they are.
        ("80x8x72", {}, HELD | {"dims": "static"}),
        ("19x70x5x2", {"trans_b": True}, {"corrections": "apart"}),
        ("9x7x33", {"trans_a": True, "trans_b": True, "beta": 0.5}, HELD),
    ],
)
def test_packed_parts_are_right(run_kernel, device, shape, kind, changes):
    gemm = f16x3(shape, **kind)

    right(
        run_kernel, config_of(gemm, device, **PRESPLIT, **ONE, pack=True, **changes), gemm, device
    )


@pytest.mark.parametrize("pack", [False, True])
def test_presplit_gives_the_same_numbers(run_kernel, device, pack):
    """It moves the work of splitting, and changes none of it."""
    gemm = f16x3("32x32x64")
    configs = [
        config_of(
            gemm, device, **(PRESPLIT | FOUR | {"presplit": presplit, "pack": presplit and pack})
        )
        for presplit in (False, True)
    ]
    found = [right(run_kernel, config, gemm, device) for config in configs]

    assert found[0].max_rel_error == found[1].max_rel_error < 1e-6


@pytest.mark.parametrize("corrections", ["within", "apart"])
def test_low_parts_are_not_lost(run_kernel, device, corrections):
    """f16 alone is off by 3e-4; compilers that take f32(f16(x)) to be x bring that about."""
    gemm = f16x3("64x64x256")
    found = right(run_kernel, config_of(gemm, device, corrections=corrections), gemm, device)

    assert found.max_rel_error < 1e-6
