"""What a rendered kernel is said to be good for, against what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st

from gemmtune.job import Outcome
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, Kernel
from gemmtune.problem import Gemm
from gemmtune.render import render
from gemmtune.validity import (
    SIDES,
    Count,
    Range,
    generalised,
    identity,
    rule_of,
    validity,
)
from strategies import PLAIN_FAMILIES, device_of, gemms_for, legal_configs, model_of

ALL = sorted(FAMILIES)


@st.composite
def cases(draw: st.DrawFn, family: str) -> tuple[Gemm, Config]:
    """A problem and a config of the family that is legal for it."""
    gemm = draw(gemms_for(family))
    configs = legal_configs(family, model_of(family, gemm), device_of(family))
    config = draw(st.sampled_from(configs))
    assume(not FAMILIES[family].check(config, gemm, device_of(family)))
    return gemm, config


def text_of(family: str, config: Config, gemm: Gemm) -> str:
    """The WGSL without the comment that names the problem."""
    return render(family, config, gemm, device_of(family)).wgsl.partition("\n")[2]


@pytest.mark.parametrize("family", ALL)
def test_identities_are_equal_where_the_text_is(family: str) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        gemm, config = data.draw(cases(family))
        sizes = {side: data.draw(st.sampled_from((1, 16, 17, 64, 100))) for side in SIDES}
        other = replace(gemm, stride_c=None, **sizes)
        device = device_of(family)
        assume(not FAMILIES[family].check(config, other, device))
        same = identity(family, config, gemm, device) == identity(family, config, other, device)
        if same:
            assert text_of(family, config, gemm) == text_of(family, config, other)
        elif getattr(config, "dims", "") != "static":
            assert text_of(family, config, gemm) != text_of(family, config, other)

    check()


@st.composite
def served(draw: st.DrawFn, gemm: Gemm, valid: dict[str, Range]) -> Gemm:
    """Another problem of the same kind that the kernel says it is valid for."""
    sizes = {}
    for side in SIDES:
        one = valid.get(side, Range())
        if one.max is not None and one.max == one.min:
            sizes[side] = one.max
            continue
        near = draw(st.sampled_from((1, 5, 16, 33, 64, 72)))
        sizes[side] = max(one.min, -(-near // one.multiple) * one.multiple)
        if one.max is not None:
            sizes[side] = min(sizes[side], one.max)
    batch = draw(st.sampled_from((1, 2)))
    m, n, k = (sizes[side] for side in SIDES)
    strides = {}
    for name, packed in (("stride_a", m * k), ("stride_b", k * n), ("stride_c", m * n)):
        step = valid.get(name, Range()).multiple
        strides[name] = -(-packed // step) * step + draw(st.sampled_from((0, 1, 2))) * step
    return replace(gemm, **sizes, batch=batch, **strides)


@pytest.mark.parametrize("family", PLAIN_FAMILIES)
def test_kernels_give_right_numbers_wherever_they_say_they_are_valid(
    family: str, run_kernel: Callable[[Gemm, Kernel], Outcome]
) -> None:
    device = device_of(family)

    @seed(1)
    @settings(
        max_examples=6,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        gemm, config = data.draw(cases(family))
        kernel = render(family, config, gemm, device)
        other = data.draw(served(gemm, validity(family, config, gemm, device)))
        assert not FAMILIES[family].check(config, other, device)
        moved = replace(
            kernel,
            launches=FAMILIES[family].launch(config, other),
            workspace_bytes=FAMILIES[family].workspace(config, other),
        )
        outcome = run_kernel(other, moved)
        assert outcome.ok, (gemm.key, other.key, config.key, outcome.result)

    check()


def _with_checks(config: Config) -> dict[str, bool]:
    return {"checked": True} if hasattr(config, "checked") else {}


@pytest.mark.parametrize("family", ALL)
def test_static_kernels_serve_their_own_sizes_only_and_have_a_general_twin(family: str) -> None:
    device = device_of(family)
    gemm = Gemm(m=64, n=64, k=64, a="f16", b="f16", c="f16")
    for config in legal_configs(family, gemm, device)[:200:10]:
        valid = validity(family, config, gemm, device)
        twin = generalised(family, config, gemm, device)
        if getattr(config, "dims", "dynamic") == "static":
            assert all(valid[side] == Range(min=64, max=64) for side in SIDES)
            if twin is None:  # e.g. fragments straight from storage, which know no edges
                general: Any = replace(config, dims="dynamic", **_with_checks(config))
                assert FAMILIES[family].check(general, gemm, device)
                continue
            assert 4096 in validity(family, twin, gemm, device).get("m", Range())
        else:
            assert twin is None


@pytest.mark.parametrize("family", ALL)
def test_rules_count_the_workgroups_of_every_size(family: str) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        gemm, config = data.draw(cases(family))
        launches = FAMILIES[family].launch(config, gemm)
        for number, launch in enumerate(launches):
            rule = rule_of(
                lambda each, i=number: FAMILIES[family].launch(config, each)[i].workgroups, gemm
            )
            if rule is not None:
                assert rule.of(gemm) == launch.workgroups

    check()


def test_rules_that_cannot_be_told_are_not_told() -> None:
    gemm = Gemm(m=64, n=64, k=64)
    assert rule_of(lambda each: each.m * each.m + 1, gemm) is None
    assert rule_of(lambda each: -(-each.m * each.n // 256) * each.batch, gemm) == Count(
        elements=256
    )
    assert rule_of(lambda each: 12 * each.m * each.n * each.batch, gemm) == Count(
        times=12, tile_m=1, tile_n=1
    )


def test_a_range_has_bounds_and_a_multiple() -> None:
    one = Range(min=8, max=64, multiple=4)
    assert [size for size in (0, 4, 8, 10, 12, 64, 68) if size in one] == [8, 12, 64]
    assert 0 in Range()
    assert one.to_json() == {"min": 8, "max": 64, "multiple": 4}
    assert Range().to_json() == {}
