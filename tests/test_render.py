"""Rendered WGSL: golden texts, headers, hashes. No adapter is needed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gemmtune import render as render_module
from gemmtune.errors import ConfigError
from gemmtune.kernels import FAMILIES
from gemmtune.problem import DTYPES, Gemm
from gemmtune.render import generator_hash, render
from strategies import LAVAPIPE, LEAST, device_of, gemms, legal_configs, model_of

GOLDEN = Path(__file__).parent / "golden"
SMALL = Gemm.parse("16x16x8", a="f16", b="f16", c="f32", bias=True, activation="relu")


def small_config(family: str):
    """A config whose kernel is short enough to read."""
    config = FAMILIES[family].default(SMALL, device_of(family))
    if family == "tiled":
        sizes = {"wg_m": 8, "wg_n": 8, "reg_m": 2, "reg_n": 2, "vec": 2, "tile_k": 8}
        return dataclasses.replace(config, **sizes, unroll_k=2, dims="static")
    if family == "subgroup":
        return dataclasses.replace(config, reg_m=2, reg_n=2, vec=2, dims="static")
    if family == "coopmat":
        return dataclasses.replace(config, frags_m=1, frags_n=1, dims="static", tile_k=16)
    return config


@pytest.mark.parametrize("family", FAMILIES)
def test_wgsl_is_what_was_read_and_approved(family):
    """Set UPDATE_GOLDEN=1 to write the files anew, then read the difference."""
    wgsl = render(family, small_config(family), SMALL, device_of(family)).wgsl
    path = GOLDEN / f"{family}.wgsl"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(wgsl)

    assert path.read_text() == wgsl


def rendered_hash(family: str) -> str:
    """Of many kernels of several problems."""
    digest = hashlib.sha256()
    for gemm in (SMALL, Gemm.parse("33x40x17x2", trans_a=True, trans_b=True, beta=0.5)):
        device = device_of(family)
        if family == "coopmat":
            gemm = dataclasses.replace(gemm, a="f16", b="f16")
        configs = legal_configs(family, model_of(gemm), device)
        for config in configs[:: max(1, len(configs) // 60)]:
            if not FAMILIES[family].check(config, gemm, device):
                kernel = render(family, config, gemm, device)
                digest.update(f"{kernel.launch}{kernel.wgsl}".encode())
    return digest.hexdigest()[:12]


def test_generation_is_raised_when_python_changes_what_is_rendered():
    """Rows of the past must be demoted then, and nothing but their hash can say so."""
    path = GOLDEN / "hashes.json"
    known = json.loads(path.read_text())
    found = {
        family: {"generator": generator_hash(family), "rendered": rendered_hash(family)}
        for family in FAMILIES
    }
    for family, hashes in found.items():
        same_hash = hashes["generator"] == known.get(family, {}).get("generator")
        same_text = hashes["rendered"] == known.get(family, {}).get("rendered")
        assert same_text or not same_hash, f"{family} renders differently: raise GENERATION"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(json.dumps(found, indent=2) + "\n")

    assert known == found


@pytest.mark.parametrize("family", FAMILIES)
def test_header_names_problem_and_config(family):
    kernel = render(family, small_config(family), SMALL, device_of(family))

    first, second, *_ = kernel.wgsl.splitlines()

    assert first == f"// gemmtune {family} kernel for {SMALL.key}"
    assert second == f"// config: {kernel.config.key}"


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_legal_config_renders_with_nothing_left_open(family, data):
    device = device_of(family)
    gemm = data.draw(gemms(inputs=("f16",) if family == "coopmat" else DTYPES))
    config = data.draw(st.sampled_from(legal_configs(family, model_of(gemm), device)))
    assume(not FAMILIES[family].check(config, gemm, device))
    wgsl = render(family, config, gemm, device).wgsl

    assert wgsl.count("{") == wgsl.count("}")
    assert wgsl.count("(") == wgsl.count(")")
    assert ("enable f16;" in wgsl) == ("f16" in {gemm.a, gemm.b, gemm.c, gemm.acc})
    assert "None" not in wgsl


def test_illegal_config_is_refused_with_its_reasons():
    config = dataclasses.replace(FAMILIES["tiled"].default(SMALL, LEAST), unroll_k=5)

    with pytest.raises(ConfigError, match="unroll_k 5 does not divide tile_k"):
        render("tiled", config, SMALL, LEAST)


def test_kernel_names_the_features_it_needs():
    assert render("subgroup", small_config("subgroup"), SMALL, LAVAPIPE).features == (
        "shader-f16",
        "subgroup",
    )


def test_generator_hash_changes_with_the_template(tmp_path, monkeypatch):
    before = generator_hash("tiled")
    templates = tmp_path / "templates"
    (templates / "lib").mkdir(parents=True)
    for file in render_module.data_path("templates").rglob("*.j2"):
        target = templates / file.relative_to(render_module.data_path("templates"))
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
    monkeypatch.setattr(render_module, "data_path", lambda name: tmp_path / name)

    generator_hash.cache_clear()
    same = generator_hash("tiled")
    (templates / "tiled.wgsl.j2").write_text("changed")
    generator_hash.cache_clear()
    changed = generator_hash("tiled")
    generator_hash.cache_clear()

    assert before == same
    assert before != changed
