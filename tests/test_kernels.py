"""What holds for every kernel family: legality, spaces, launches. No adapter is needed."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gemmtune import light
from gemmtune.device import Device, Fragment, Limits
from gemmtune.errors import ConfigError
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import (
    Config,
    Launch,
    added,
    ceil_div,
    check_launch,
    grid,
    pack_params,
    residents,
)
from gemmtune.kernels.predict import traits
from gemmtune.kernels.subgroup import SubgroupConfig
from gemmtune.kernels.tiled import TiledConfig
from gemmtune.problem import Gemm
from gemmtune.render import render
from gemmtune.tune.listing import SKETCHED
from strategies import (
    DEVICES,
    H100,
    LAVAPIPE,
    LEAST,
    MATRICES,
    device_of,
    fitted,
    gemms,
    gemms_for,
    legal_configs,
    model_of,
)

SQUARE = Gemm.parse("128x128x64")
HALF = Gemm.parse("64x64x32", a="f16", b="f16", c="f16")


def tiled(**changes: object) -> TiledConfig:
    return dataclasses.replace(FAMILIES["tiled"].default(SQUARE, LEAST), **changes)


def subgroup(**changes: object) -> SubgroupConfig:
    return dataclasses.replace(FAMILIES["subgroup"].default(SQUARE, LAVAPIPE), **changes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@pytest.mark.parametrize(
    "gemm",
    [
        SQUARE,
        Gemm.parse("1x1x1"),
        Gemm.parse("257x129x65", trans_a=True, trans_b=True),
        Gemm.parse("4096x4096x4096"),
        Gemm.parse("1024x2x2048", a="f16", b="f16"),
        Gemm.parse("3x5000x700x2", trans_a=True),
        Gemm.parse("64x64x0x3", a="f16", b="f16", c="f16", acc="f16"),
        Gemm.parse("64x64x64", a="f16", b="f16", c="f16"),
    ],
    ids=lambda gemm: gemm.key,
)
def test_default_is_legal_wherever_the_family_is_supported(family, device, gemm):
    record = FAMILIES[family]
    if record.supported(gemm, device):
        assert record.check(record.default(gemm, device), gemm, device)
    else:
        assert record.check(record.default(gemm, device), gemm, device) == ()


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=50, deadline=None)
@given(gemm=gemms(), device=st.sampled_from(DEVICES))
def test_a_family_supports_no_problem_that_it_is_not_for(family, gemm, device):
    assert FAMILIES.may(family, gemm) or FAMILIES[family].supported(gemm, device)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, deadline=None)
@given(gemm=gemms(sizes=(1, 3, 16, 17, 33)), device=st.sampled_from(DEVICES))
def test_space_holds_each_legal_config_once(family, gemm, device):
    configs = legal_configs(family, gemm, device)

    assert len(set(configs)) == len(configs)
    assert all(not FAMILIES[family].check(config, gemm, device) for config in configs[::97])
    assert bool(configs) == (not FAMILIES[family].supported(gemm, device))


@pytest.mark.parametrize("family", FAMILIES)
def test_space_comes_in_the_same_order_every_time(family):
    space, device, gemm = FAMILIES[family].space, device_of(family), fitted(family, HALF)

    assert list(space(gemm, device)) == list(space(gemm, device)) != []


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "naive"])
def test_a_part_of_a_space_has_of_everything(family):
    device, gemm = device_of(family), fitted(family, HALF)
    whole = legal_configs(family, gemm, device)

    part = list(FAMILIES[family].space(gemm, device, SKETCHED))

    assert set(part) < set(whole)
    assert len(part) < len(whole) / 4
    for field in dataclasses.fields(whole[0]):
        every, some = ({getattr(c, field.name) for c in configs} for configs in (whole, part))
        assert len(some) >= len(every) / 2, field.name


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_configs_survive_json(family, data):
    configs = legal_configs(family, fitted(family, HALF), device_of(family))
    config = data.draw(st.sampled_from(configs))

    assert config == type(config).from_json(config.to_json())


@light.dataclass(frozen=True, slots=True, kw_only=True)
class Grown(Config):
    """A config of a family that got a second knob later."""

    size: int
    depth: int = added(1)


def test_a_knob_that_is_added_leaves_the_configs_of_before_as_they_were():
    old, new = Grown(size=8), Grown(size=8, depth=4)

    assert (old.to_json(), old.key) == ({"size": 8}, "size=8")
    assert Grown.from_json({"size": 8}) == old
    assert (new.to_json(), new.key) == ({"depth": 4, "size": 8}, "depth=4,size=8")
    assert Grown.from_json(new.to_json()) == new
    with pytest.raises(ConfigError, match="depth"):
        Grown.from_json({"depth": 4})


def test_a_workspace_larger_than_a_binding_is_refused_with_its_size():
    launches = (Launch(workgroups=1, workgroup_size=(64, 1, 1)),)

    assert check_launch(launches, LEAST, 134217728) == ()
    assert "workspace of 134217729 bytes" in check_launch(launches, LEAST, 134217729)[0]


def test_every_pass_must_fit_the_device():
    fits = Launch(workgroups=1, workgroup_size=(64, 1, 1))
    large = Launch(workgroups=1, workgroup_size=(512, 1, 1), entry_point="reduce")

    assert check_launch((fits, fits), LEAST) == ()
    assert "512 invocations" in check_launch((fits, large), LEAST)[0]


def test_config_with_an_unknown_field_is_refused():
    with pytest.raises(ConfigError, match="tile_q"):
        TiledConfig.from_json(tiled().to_json() | {"tile_q": 1})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vec": 3}, "vec 3 is not 1, 2 or 4"),
        ({"reg_n": 6}, "vectors of 4 do not divide"),
        ({"reg_m": 16, "reg_n": 16}, "256 sums per invocation"),
        ({"pad_a": 2}, "pads 2 and 0 are not multiples"),
        ({"unroll_k": 5}, "unroll_k 5 does not divide tile_k"),
        ({"lanes_n": 3}, "3 of 32 lanes"),
        ({"tile_dtype": "f16"}, "would round operands in f32"),
        ({"stages": 2, "prefetch": False}, "with prefetch"),
        ({"tile_k": 4, "unroll_k": 4, "reg_m": 4, "reg_n": 4}, "do not divide A's tile"),
        ({"tile_k": 64, "unroll_k": 64, "reg_m": 8, "reg_n": 8}, "bytes of workgroup memory"),
        ({"wg_m": 32, "wg_n": 32}, "1024 invocations per workgroup"),
        ({"group_m": 0}, "at least 1"),
        ({"split_k": 0}, "at least 1"),
        ({"split_k": 9}, "split_k 9 leaves some parts nothing of 4 steps of 16"),
    ],
)
def test_check_says_in_words_why_a_tiled_config_is_illegal(changes, words):
    reasons = FAMILIES["tiled"].check(tiled(**changes), SQUARE, LEAST)

    assert words in "; ".join(reasons)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lanes_m": 4, "lanes_n": 8}, "made for subgroups of 32, the device has 8"),
        ({"vec": 8}, "must each be 1, 2 or 4"),
        ({"reg_n": 2}, "reg_n 2 is not a multiple of vec 4"),
        ({"reg_m": 16, "reg_n": 16}, "256 sums per lane"),
        ({"lanes_m": 8, "lanes_n": 1, "reg_m": 16, "reg_n": 4}, "do not fit the registers"),
        ({"subgroups_m": 0}, "at least 1"),
    ],
)
def test_check_says_in_words_why_a_subgroup_config_is_illegal(changes, words):
    reasons = FAMILIES["subgroup"].check(subgroup(**changes), SQUARE, LAVAPIPE)

    assert words in "; ".join(reasons)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frag": 8}, "fragments of 8 x 8 with sums in f32 do not work here"),
        ({"sg_size": 64}, "made for subgroups of 64, the device has 32"),
        ({"frags_m": 8}, "256 registers of sums"),
        ({"tile_k": 24}, "tile_k 24 is not a multiple of the fragment's 16"),
        ({"pad": 4}, "pad 4 a multiple of 8"),
        ({"stages": 2, "prefetch": False}, "with prefetch"),
        ({"checked": False}, "unchecked kernels need static dims"),
        ({"frags_m": 1, "frags_n": 1, "tile_k": 16, "subgroups_m": 4}, "do not divide"),
        ({"tile_k": 128}, "bytes of workgroup memory"),
        ({"out_frags": 3}, "out_frags 3 does not divide frags_n 4"),
        ({"flight": 2}, "flight 2, wide False, pieces 1 say nothing without hold"),
        ({"hold": "last", "flight": 4, "wide": True}, "with flight 4, wide must be false"),
        ({"hold": "last", "pieces": 2, "wide": True}, "it must be 1, or 2 without wide"),
        ({"pack": True}, "with pack, load must be 8"),
        ({"pack": True, "load": 8, "split_k": 2}, "with pack, split_k and pieces must be 1"),
        ({"hold": "early"}, "hold 'early' must be none, first or last"),
        ({"hold": "first"}, "with hold, stages must be 2, tile_k the fragment's 16"),
        ({"hold": "first", "tile_k": 16, "stages": 2}, "order must be all_first"),
    ],
)
def test_check_says_in_words_why_a_coopmat_config_is_illegal(changes, words):
    gemm = Gemm.parse("1000x1000x1000", a="f16", b="f16")
    config = FAMILIES["coopmat"].default(gemm, MATRICES)
    assert config.frags_m == config.frags_n == 4

    reasons = FAMILIES["coopmat"].check(dataclasses.replace(config, **changes), gemm, MATRICES)

    assert words in "; ".join(reasons)


@pytest.mark.parametrize("changes", [{"wide": True}, {"pieces": 2}, {"pack": True}])
def test_coopmat_moves_operands_otherwise_only_where_they_lie_along_k(changes):
    family = FAMILIES["coopmat"]
    held = {"stages": 2, "tile_k": 16, "order": "all_first", "hold": "last", "load": 8}
    for trans_a in (False, True):
        gemm = Gemm.parse("512x512x512", a="f16", b="f16", trans_a=trans_a)
        config = dataclasses.replace(family.default(gemm, MATRICES), frags_n=2, **held, **changes)

        reasons = " ".join(family.check(config, gemm, MATRICES))

        assert ("say nothing" in reasons or "says nothing" in reasons) == trans_a


def test_coopmat_family_needs_f16_the_feature_and_a_fragment_that_works():
    supported = FAMILIES["coopmat"].supported
    unproven = dataclasses.replace(MATRICES, fragments=())

    assert "operands in f16, not f32 and f32" in supported(SQUARE, MATRICES)[0]
    assert "lacks the feature cooperative-matrix" in supported(HALF, H100)[0]
    assert "no fragment of f16 with sums in f32 gave right numbers" in supported(HALF, unproven)[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chain": 2}, "chain 2 does not divide the 1 fragments of tile_k"),
        ({"chain": 0}, "at least 1"),
        ({"corrections": "none"}, "corrections 'none' is not one of within, apart"),
        ({"corrections": "apart", "frags_n": 4}, "256 registers of sums and corrections"),
        ({"tile_k": 64}, "bytes of workgroup memory"),
        ({"checked": False}, "unchecked kernels need static dims"),
        ({"load": 8}, "operands are split on their way to workgroup memory"),
        ({"presplit": True, "vec": 2}, "8 elements at a time: vec 2 must be 4"),
        ({"presplit": True, "subgroups_n": 8}, "512 invocations do not divide a's tile into loads"),
        ({"presplit": True, "checked": False}, "unchecked kernels need static dims"),
        ({"presplit": True, "split_k": 2}, "split_k, subgroups_k and pieces must be 1"),
        ({"presplit": True, "pieces": 2}, "split_k, subgroups_k and pieces must be 1"),
        ({"pack": True}, "pack says nothing without presplit"),
        ({"presplit": True, "pack": True, "wide": True}, "with pack, split_k and pieces must be 1"),
    ],
)
def test_check_says_in_words_why_a_coopmat_f16x3_config_is_illegal(changes, words):
    gemm = Gemm.parse("1000x1000x1000", math="f16x3")
    family = FAMILIES["coopmat_f16x3"]
    config = family.default(gemm, MATRICES)

    reasons = family.check(dataclasses.replace(config, **changes), gemm, MATRICES)

    assert words in "; ".join(reasons)


def test_operands_that_are_split_first_need_a_pass_and_room_for_whole_tiles():
    family = FAMILIES["coopmat_f16x3"]
    gemm = Gemm.parse("1000x70x33x2", math="f16x3", trans_b=True)
    sizes = {"frags_m": 2, "frags_n": 2, "subgroups_m": 2, "subgroups_n": 2, "tile_k": 16}
    config = dataclasses.replace(family.default(gemm, MATRICES), vec=4, presplit=True, **sizes)
    m, n, k = 1024, 128, 48

    assert family.check(config, gemm, MATRICES) == ()
    assert config.padded(gemm) == (m, n, k)
    scales, split, main = family.launch(config, gemm)
    assert scales.workgroups == (m // 8 + n // 8) * 2
    assert split.workgroups == (m * k // 2048 + n * k // 2048) * 2
    assert main.workgroups == (m // 64) * (n // 64) * 2
    assert family.workspace(config, gemm) == ((m + n) * 4 + (m + n) * k * 4) * 2


def test_operands_that_are_split_first_need_a_binding_for_both():
    family = FAMILIES["coopmat_f16x3"]
    gemm = Gemm.parse("4096x4096x4096", math="f16x3")
    limits = dataclasses.replace(MATRICES.limits, storage_binding_bytes=2**27)
    device = dataclasses.replace(MATRICES, limits=limits)
    config = family.default(gemm, device)

    assert family.check(config, gemm, device) == ()
    (reason,) = family.check(dataclasses.replace(config, presplit=True), gemm, device)
    assert "a workspace of 134250496 bytes, one binding of the device holds 134217728" in reason
    assert not any(config.presplit for config in family.space(gemm, device))


def test_operands_that_are_split_first_are_read_by_words_whatever_their_alignment():
    family = FAMILIES["coopmat_f16x3"]
    for shape in ("1000x1000x1000", "1001x999x1003"):
        gemm = Gemm.parse(shape, math="f16x3")
        config = dataclasses.replace(family.default(gemm, MATRICES), vec=4, presplit=True)

        assert {(o.width, o.edge, o.edge_k) for o in config.operands(gemm)} == {(8, False, False)}
        assert {o.width for o in config.sources(gemm)} == {4 if shape == "1000x1000x1000" else 1}


def test_the_model_of_time_looks_at_the_pass_that_multiplies():
    family = FAMILIES["coopmat_f16x3"]
    gemm = Gemm.parse("4096x4096x4096", math="f16x3")
    plain = family.default(gemm, MATRICES)
    seen = []
    for config in (plain, dataclasses.replace(plain, presplit=True)):
        launches = family.launch(config, gemm)
        most, main = max(one.workgroups for one in launches), launches[-1].workgroups
        assert (most > main) == config.presplit
        seen.append(traits(launches, gemm, MATRICES))

    assert seen[0] == seen[1]


def test_coopmat_f16x3_is_never_chosen_unasked():
    supported = FAMILIES["coopmat_f16x3"].supported
    asked = dataclasses.replace(SQUARE, math="f16x3")
    unproven = dataclasses.replace(MATRICES, fragments=())

    assert "only on request: math=f16x3" in supported(SQUARE, MATRICES)[0]
    assert supported(asked, MATRICES) == ()
    assert "lacks the feature shader-f16 or cooperative-matrix" in supported(asked, H100)[0]
    assert "no fragment of f16 with sums in f32 gave right numbers" in supported(asked, unproven)[0]


def test_space_of_coopmat_f16x3_is_small_enough_to_list():
    gemm = Gemm.parse("4096x4096x4096", math="f16x3")

    assert 1000 < len(list(FAMILIES["coopmat_f16x3"].space(gemm, MATRICES))) < 10_000


def test_subgroup_family_needs_the_feature_and_a_measured_size():
    unknown = dataclasses.replace(LAVAPIPE, subgroup_size=0)

    assert "lacks the feature subgroup" in FAMILIES["subgroup"].supported(SQUARE, LEAST)[0]
    assert "has not been measured" in FAMILIES["subgroup"].supported(SQUARE, unknown)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_f16_needs_the_feature(family):
    gemm = Gemm.parse("64x64x64", a="f16", b="f16", c="f16")

    assert "shader-f16" in FAMILIES[family].supported(gemm, Device())[0]
    assert list(FAMILIES[family].space(gemm, Device())) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_an_operand_larger_than_a_binding_is_refused_with_its_size(family):
    gemm = Gemm.parse("1x151936x896")

    reason = FAMILIES[family].supported(gemm, LEAST)[0]

    assert f"b takes {151936 * 896 * 4} bytes" in reason
    assert "134217728" in reason


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_tiles_of_a_launch_cover_c_once(family, data):
    gemm = data.draw(gemms_for(family))
    config = data.draw(st.sampled_from(legal_configs(family, model_of(family, gemm), MATRICES)))
    assume(not FAMILIES[family].check(config, gemm, MATRICES))

    tiles = ceil_div(gemm.m, config.tile_m) * ceil_div(gemm.n, config.tile_n)

    parts = getattr(config, "split_k", 1)
    launches = FAMILIES[family].launch(config, gemm)
    (main,) = (one for one in launches if one.entry_point == "main")
    assert tiles * gemm.batch * parts == main.workgroups


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"side": "n"}, "side is 'n'; of C's 4 x 64 that must be at most 16"),
        ({"vec": 8}, "vec 8 is not 1, 2, 4 or, in f16, 8"),
        ({"lanes_k": 24}, "must be powers of two"),
        ({"lanes_k": 4, "sg_lanes": 8}, "more than lanes_k 4 or the subgroup's 8"),
        ({"reg_s": 16, "reg_l": 8}, "128 sums per invocation"),
        ({"unroll_k": 32, "reg_l": 8}, "loads 4096 bytes of W"),
        ({"split_k": 40}, "leaves some parts nothing"),
        ({"reg_l": 0}, "at least 1"),
    ],
)
def test_check_says_in_words_why_a_gemv_config_is_illegal(changes, words):
    gemm = Gemm.parse("4x64x256", trans_b=True)
    config = dataclasses.replace(FAMILIES["gemv"].default(gemm, LAVAPIPE), **changes)

    assert words in "; ".join(FAMILIES["gemv"].check(config, gemm, LAVAPIPE))


def test_gemv_is_for_few_rows_or_columns_only():
    supported = FAMILIES["gemv"].supported

    assert supported(Gemm.parse("16x4096x64"), LEAST) == ()
    assert supported(Gemm.parse("4096x1x64"), LEAST) == ()
    assert "C is 17 x 18; m or n must be at most 16" in supported(Gemm.parse("17x18x4"), LEAST)


def test_a_gemv_config_that_shuffles_needs_subgroups():
    gemm = Gemm.parse("4x64x256", trans_b=True)
    config = FAMILIES["gemv"].default(gemm, LEAST)

    assert config.features == ()
    shuffles = dataclasses.replace(config, sg_lanes=8)
    assert shuffles.features == ("subgroup",)
    assert "without the feature subgroup" in FAMILIES["gemv"].check(shuffles, gemm, LEAST)[0]


def test_split_k_is_in_the_space_where_tiles_are_few_and_k_is_deep():
    def splits(shape):
        configs = legal_configs("tiled", Gemm.parse(shape), H100)
        return {config.split_k for config in configs}

    assert splits("64x64x65536") == {1, 2, 4, 8, 16, 32, 64, 128, 256}
    assert splits("64x64x100") == {1}
    assert splits("4096x4096x4096") == {1}


def of_f16(shape: str) -> Gemm:
    return Gemm.parse(shape, a="f16", b="f16", c="f16")


@pytest.mark.parametrize(
    ("shape", "deepest", "fastest"),
    [
        # The fastest that an H100 was seen to run.
        ("16x4096x4096", 256, {"subgroups_n": 2, "subgroups_k": 8, "tile_k": 256, "load": 8}),
        ("32x5632x1152", 256, {"subgroups_n": 2, "subgroups_k": 4, "frags_m": 2, "frags_n": 2}),
        ("512x512x512", 128, {"subgroups_m": 4, "subgroups_k": 2, "frags_n": 2, "load": 8}),
    ],
)
def test_coopmat_takes_deep_steps_of_k_where_tiles_are_few(shape, deepest, fastest):
    gemm = of_f16(shape)
    configs = list(FAMILIES["coopmat"].space(gemm, MATRICES))
    usual = {"stages": 1, "prefetch": True, "order": "stream_a", "pad": 8, "group_m": 1}
    least = dict.fromkeys(("subgroups_m", "subgroups_n", "frags_m", "frags_n"), 1)
    known = usual | least | {"tile_k": 128, "dims": "static", "checked": False} | fastest

    assert max(config.tile_k for config in configs) == deepest
    assert dataclasses.replace(FAMILIES["coopmat"].default(gemm, MATRICES), **known) in configs
    for config in configs:
        if config.tile_k > 64:
            assert {name: getattr(config, name) for name in usual} == usual
            assert (config.dims, config.a_from, config.b_from) == (
                "static",
                "workgroup",
                "workgroup",
            )
            assert (config.turns, config.out_frags, config.hold) == (1, 1, "none")


@pytest.mark.parametrize("shape", ["4096x4096x4096", "1024x16384x4096", "64x64x128"])
def test_coopmat_takes_no_deep_steps_where_tiles_are_many_or_k_is_short(shape):
    configs = list(FAMILIES["coopmat"].space(of_f16(shape), MATRICES, SKETCHED))

    assert {config.tile_k for config in configs} == {16, 32, 64}
    assert all(config.subgroups_k < 8 for config in configs)


@pytest.mark.parametrize(("rows", "most"), [(32, 512), (33, 128)])
def test_coopmat_takes_deep_steps_of_more_tiles_where_rows_are_few(rows, most):
    gemm = of_f16(f"{rows}x8192x4096")
    configs = FAMILIES["coopmat"].space(gemm, MATRICES)
    deep = [config for config in configs if config.tile_k > 64 and config.split_k == 1]
    tiles = {FAMILIES["coopmat"].launch(config, gemm)[0].workgroups for config in deep}

    assert max(tiles) == most


def test_a_split_has_a_workspace_for_every_part_of_c():
    gemm = Gemm.parse("100x60x4096x3")
    config = tiled(split_k=8, tile_k=16, unroll_k=16, reg_m=4, reg_n=4)
    main, reduce = FAMILIES["tiled"].launch(config, gemm)

    assert FAMILIES["tiled"].check(config, gemm, LEAST) == ()
    assert FAMILIES["tiled"].workspace(config, gemm) == 100 * 60 * 3 * 8 * 4
    assert main.workgroups == 2 * 3 * 8
    assert (reduce.entry_point, reduce.workgroups) == ("reduce", ceil_div(100 * 60, 32) * 3)


@given(workgroups=st.integers(0, 2**31), limit=st.integers(1, 65535))
def test_grid_holds_all_workgroups_within_the_limit(workgroups, limit):
    assume(workgroups <= limit * limit)
    x, y, z = grid(workgroups, limit)

    assert z == 1
    assert x <= limit
    assert y <= limit
    assert workgroups <= x * y < max(1, workgroups) + max(x, y)


def test_params_have_the_layout_of_the_uniform_struct():
    gemm = Gemm(m=2, n=3, k=4, batch=5, stride_b=0, alpha=1.5, beta=-1.0)

    import struct

    assert struct.unpack("<9I2f4x", pack_params(gemm, 7, 2)) == (
        2,
        3,
        4,
        5,
        8,
        0,
        6,
        7,
        9,
        1.5,
        -1.0,
    )


def test_limits_of_an_unknown_device_are_those_of_the_specification():
    assert Limits() == LEAST.limits


def test_residents_is_how_many_fit_the_memory_of_a_multiprocessor() -> None:
    def launch(size_bytes: int) -> Launch:
        return Launch(workgroups=1, workgroup_size=(32, 1, 1), workgroup_storage_bytes=size_bytes)

    probed = dataclasses.replace(MATRICES, resident_workgroup_bytes=48 * 1024)

    found = [residents(launch(kib * 1024), probed) for kib in (12, 16, 17, 24, 25, 48)]
    assert found == [4, 3, 2, 2, 1, 1]
    assert residents(launch(0), probed) is None
    assert residents(launch(1024), MATRICES) is None


def test_coopmat_loads_only_as_was_probed_to_be_right() -> None:
    narrow = Fragment(size=16, ab="f16", acc="f32", workgroup=(1, 2), storage=(1,))
    device = dataclasses.replace(MATRICES, fragments=(narrow,))
    gemm = Gemm(m=128, n=128, k=128, a="f16", b="f16")
    family = FAMILIES["coopmat"]

    default = family.default(gemm, device)

    assert family.check(default, gemm, device) == ()
    assert default.vec == 2
    wide = dataclasses.replace(default, vec=4)
    assert any("4 elements at a time" in reason for reason in family.check(wide, gemm, device))
    assert {config.vec for config in family.space(gemm, device)} == {2}


def test_a_kernel_says_what_it_needs() -> None:
    gemm = Gemm(m=128, n=128, k=128, a="f16", b="f16")
    kernel = render("coopmat", FAMILIES["coopmat"].default(gemm, MATRICES), gemm, MATRICES)

    needs = kernel.needs

    assert set(needs.features) == {"cooperative-matrix", "shader-f16"}
    assert needs.subgroup_size == 32
    assert needs.invocations_per_workgroup == 128
    assert needs.workgroup_storage_bytes == kernel.launches[0].workgroup_storage_bytes > 0
