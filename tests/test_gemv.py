"""The knobs of gemv: right at every edge, and no index past an end where nothing checks them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest

from gemmtune.device import Device
from gemmtune.job import Failure, Measurement, Outcome
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Kernel
from gemmtune.kernels.gemv_config import GemvConfig
from gemmtune.problem import Gemm
from gemmtune.render import render
from gemmtune.validity import generalised
from strategies import H100, LAVAPIPE, LEAST, legal_configs

RunKernel = Callable[[Gemm, Kernel], Outcome]

ELEMENTS = {"f16": 1, "f32": 1, "vec2<f16>": 2, "vec2<f32>": 2, "vec4<u32>": 8}
"""Of a problem's in one access; 4 in all other vectors."""


def config_of(gemm: Gemm, **changes: object) -> GemvConfig:
    """Small, so that small problems have whole steps, a last one that is cut off, and edges."""
    side = "m" if gemm.m <= gemm.n else "n"
    plain = GemvConfig(
        **{"side": side, "reg_s": 1, "reg_l": 2, "lanes_l": 2, "lanes_k": 8, "vec": 1},
        **{"unroll_k": 2, "sg_lanes": 1, "split_k": 1, "dims": "static", "checked": False},
    )
    return dataclasses.replace(plain, **changes)


def inside(wgsl: str, gemm: Gemm) -> str:
    """The same kernel, but that every index of A and B past the end has a byte behind C changed,
    which verification notices.
    """
    for name in ("a", "b"):
        (kind,) = re.findall(rf"var<storage, read> {name}: array<(.+)>;", wgsl)
        count = gemm.elements(name) // ELEMENTS.get(kind, 4)
        head, _, body = wgsl.partition("@compute")
        body = re.sub(rf"(?<!\w){name}\[", f"{name}[0u + at_{name}(", body)
        body = closed(body, f"at_{name}(")
        behind = gemm.elements("c") + 8
        told = f"if (at >= {count}u) {{ c[{behind}u] = c[0]; }} return at;"
        wgsl = f"{head}fn at_{name}(at: u32) -> u32 {{ {told} }}\n@compute{body}"
    return wgsl


def closed(text: str, call: str) -> str:
    """With the call's parenthesis closed before the bracket that ends the index it stands in."""
    pieces = text.split(call)
    for number, piece in enumerate(pieces[1:], 1):
        depth = 0
        for place, letter in enumerate(piece):
            depth += (letter == "[") - (letter == "]")
            if depth < 0:
                pieces[number] = f"{piece[:place]}){piece[place:]}"
                break
    return call.join(pieces)


def run(run_kernel: RunKernel, config: GemvConfig, gemm: Gemm, device: Device) -> Outcome:
    kernel = render("gemv", config, gemm, device)
    watched = dataclasses.replace(kernel, wgsl=inside(kernel.wgsl, gemm))
    assert "at_a(" in watched.wgsl.partition("fn main")[2]
    return run_kernel(gemm, watched)


LAYOUTS = {
    "across k": {"trans_b": False},
    "along k": {"trans_b": True},
}
KINDS = {
    "f32, few rows": ("3x37x203", {}),
    "f16, few rows": ("2x40x328", {"a": "f16", "b": "f16", "c": "f16", "bias": True}),
    "f16, few columns, batch": ("37x2x203x2", {"a": "f16", "b": "f16", "c": "f16", "beta": 0.5}),
    "shorter than a step": ("1x3x5", {}),
}
KNOBS = {
    "plain": {},
    "wide": {"reg_l": 8, "vec": 8, "unroll_k": 1},
    "ahead": {"prefetch": True, "unroll_k": 2},
    "wide, ahead": {"prefetch": True, "reg_l": 4, "vec": 4, "lanes_k": 4},
    "ahead, split": {"prefetch": True, "split_k": 3, "reg_s": 2},
    "dynamic": {"dims": "dynamic", "prefetch": True, "vec": 2, "reg_l": 4},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_unchecked_kernels_are_right_and_touch_nothing_past_an_end(
    run_kernel: RunKernel, device: Device, kind: str, layout: str
) -> None:
    shape, extra = KINDS[kind]
    few_rows = not shape.startswith("37")
    along_k = LAYOUTS[layout]["trans_b"]
    gemm = Gemm.parse(shape, **extra, **({"trans_b": along_k} if few_rows else {}))
    if not few_rows:
        gemm = dataclasses.replace(gemm, trans_a=not along_k)
    tried = 0
    for changes in KNOBS.values():
        config = config_of(gemm, **changes)
        if FAMILIES["gemv"].check(config, gemm, device):
            continue
        assert render("gemv", config, gemm, device).unchecked
        outcome = run(run_kernel, config, gemm, device)
        assert isinstance(outcome.result, Measurement), f"{outcome.result}\n{config.key}"
        tried += 1
    assert tried >= 3


def test_an_index_past_an_end_would_have_been_noticed(
    run_kernel: RunKernel, device: Device
) -> None:
    gemm = Gemm.parse("1x37x203", trans_b=True)
    config = config_of(gemm, checked=True)

    outcome = run(run_kernel, config, gemm, device)

    assert isinstance(outcome.result, Failure)
    assert outcome.result.kind == "wrong_result"
    assert run_kernel(gemm, render("gemv", config, gemm, device)).ok


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("shape", ["3x40x520", "2x44x512x2"])
def test_sums_added_up_by_shuffles_are_right_in_both_layouts(
    run_kernel: RunKernel, device: Device, shape: str, trans_b: bool
) -> None:
    if not device.has("subgroup"):
        pytest.skip("needs subgroups")
    gemm = Gemm.parse(shape, a="f16", b="f16", c="f16", trans_b=trans_b)
    lanes = device.subgroup_size
    for lanes_l in (1, 2, 4):
        vec = 8 if shape == "3x40x520" else 4
        sizes = {"lanes_l": lanes_l, "vec": vec, "reg_l": 2 if trans_b else vec}
        sizes |= {"lanes_k": lanes * (1 if lanes_l == 2 else 4), "sg_lanes": lanes}
        config = config_of(gemm, **sizes, reg_s=2, unroll_k=1)
        kernel = render("gemv", config, gemm, device)
        assert kernel.wgsl.count("subgroupShuffleXor")
        outcome = run_kernel(gemm, kernel)
        assert isinstance(outcome.result, Measurement), f"{outcome.result}\n{config.key}"


def test_shuffles_across_k_take_less_workgroup_memory() -> None:
    gemm = Gemm.parse("1x4096x4096", a="f16", b="f16", c="f16")
    config = config_of(gemm, lanes_l=4, lanes_k=256, vec=8, reg_l=8)
    plain = render("gemv", config, gemm, H100)
    shuffled = render("gemv", dataclasses.replace(config, sg_lanes=32), gemm, H100)

    assert plain.needs.workgroup_storage_bytes == 1024 * 8 * 4
    assert shuffled.needs.workgroup_storage_bytes == 128 * 8 * 4
    assert shuffled.needs.subgroup_size == 32


@pytest.mark.parametrize(
    ("changes", "device", "words"),
    [
        ({"sg_lanes": 8}, LEAST, "without the feature subgroup"),
        ({"sg_lanes": 8, "lanes_l": 16}, LAVAPIPE, "not a multiple of lanes_l 16"),
        ({"sg_lanes": 8, "lanes_l": 8}, LAVAPIPE, "not a multiple of lanes_l 8"),
        ({"sg_lanes": 8, "lanes_l": 2, "lanes_k": 2}, LAVAPIPE, "more than lanes_k 2"),
        ({"sg_lanes": 16, "lanes_l": 2}, LAVAPIPE, "the subgroup's 8"),
    ],
)
def test_check_says_why_sums_cannot_be_shuffled_across_k(
    changes: dict[str, object], device: Device, words: str
) -> None:
    gemm = Gemm.parse("1x64x512")

    assert words in "; ".join(FAMILIES["gemv"].check(config_of(gemm, **changes), gemm, device))


def test_a_config_from_before_these_knobs_keeps_its_key_and_its_text() -> None:
    gemm = Gemm.parse("1x64x512")
    config = FAMILIES["gemv"].default(gemm, LAVAPIPE)
    data = config.to_json()

    assert set(data) & {"checked", "prefetch"} == set()
    assert GemvConfig.from_json(data) == config
    assert GemvConfig.from_json(data | {"checked": True}).key == config.key
    assert "checked=false" in dataclasses.replace(config, checked=False).key


def test_the_space_has_every_knob_and_loads_ahead_without_checks_only() -> None:
    gemm = Gemm.parse("1x4096x14336", a="f16", b="f16", c="f16")
    configs = legal_configs("gemv", gemm, H100)

    assert {(c.checked, c.prefetch) for c in configs} == {
        (True, False),
        (False, False),
        (False, True),
    }
    assert {c.dims for c in configs if not c.checked} == {"static"}
    assert any(c.sg_lanes > 1 for c in configs)
    assert len(configs) < 12_000


def test_what_is_kept_for_other_sizes_needs_no_checks_either() -> None:
    gemm = Gemm.parse("1x4096x512", a="f16", b="f16", c="f16")

    general = generalised("gemv", config_of(gemm), gemm, H100)

    assert general == config_of(gemm, dims="dynamic")
