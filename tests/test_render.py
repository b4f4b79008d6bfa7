"""Rendered WGSL: golden texts, headers, hashes. No adapter is needed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import jinja2
import jinja2.nodes
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gemmtune import generators as generators_module
from gemmtune import render as render_module
from gemmtune.dialect import DIALECTS, NAGA, TINT, Dialect, dialect_of
from gemmtune.errors import ConfigError
from gemmtune.generators import generator_hash, source_hash
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.problem import Gemm
from gemmtune.render import render
from strategies import (
    LAVAPIPE,
    LEAST,
    MATRICES,
    device_of,
    fitted,
    gemms_for,
    legal_configs,
    model_of,
)

GOLDEN = Path(__file__).parent / "golden"
SMALL = Gemm.parse("16x16x8", a="f16", b="f16", c="f32", bias=True, activation="relu")


def small_problem(family: str) -> Gemm:
    """The same for all but those that cannot do it."""
    return SMALL if family != "coopmat_f16x3" else fitted(family, SMALL)


def small_config(family: str):
    """A config whose kernel is short enough to read."""
    config = FAMILIES[family].default(small_problem(family), device_of(family))
    if family == "tiled":
        sizes = {"wg_m": 8, "wg_n": 8, "reg_m": 2, "reg_n": 2, "vec": 2, "tile_k": 8}
        return dataclasses.replace(config, **sizes, unroll_k=2, dims="static")
    if family == "subgroup":
        return dataclasses.replace(config, reg_m=2, reg_n=2, vec=2, dims="static")
    if family.startswith("coopmat"):
        return dataclasses.replace(config, frags_m=1, frags_n=1, dims="static", tile_k=16)
    if family == "gemv":
        return dataclasses.replace(config, lanes_l=8, dims="static")
    return config


@pytest.mark.parametrize("family", FAMILIES)
def test_wgsl_is_what_was_read_and_approved(family):
    """Set UPDATE_GOLDEN=1 to write the files anew, then read the difference."""
    wgsl = render(family, small_config(family), small_problem(family), device_of(family)).wgsl
    path = GOLDEN / f"{family}.wgsl"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(wgsl)

    assert path.read_text() == wgsl


@pytest.mark.parametrize("family", ["subgroup", "coopmat"])
def test_wgsl_of_another_dialect_is_what_was_read_and_approved(family):
    wgsl = render(family, small_config(family), SMALL, device_of(family), TINT).wgsl
    path = GOLDEN / f"{family}.tint.wgsl"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(wgsl)

    assert path.read_text() == wgsl


def macros_of(dialect: Dialect) -> dict[str, list[str]]:
    """Names of its macros, with those of their arguments."""
    source = (render_module.data_path("templates") / dialect.macros).read_text()
    tree = jinja2.Environment().parse(source)
    macros = tree.find_all(jinja2.nodes.Macro)
    return {macro.name: [argument.name for argument in macro.args] for macro in macros}


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_every_dialect_has_the_same_macros(dialect):
    expected = macros_of(NAGA)
    if not dialect.adds_matrices:
        del expected["add"]

    assert macros_of(dialect) == expected


def test_families_without_matrices_have_one_text_but_for_what_they_declare():
    for family in ("naive", "tiled", "subgroup"):
        config, device = small_config(family), device_of(family)
        texts = [render(family, config, SMALL, device, each).wgsl for each in (NAGA, TINT)]

        assert texts[0] == texts[1].replace("enable subgroups;\n", "")


def test_a_family_that_adds_matrices_is_refused_where_none_can_be_added():
    family = "coopmat_f16x3"
    config, gemm = small_config(family), small_problem(family)

    assert render(family, config, gemm, MATRICES, NAGA).wgsl
    with pytest.raises(ConfigError, match=f"{family} adds matrices, which Dawn, so Chromium, can"):
        render(family, config, gemm, MATRICES, TINT)


def test_a_dialect_that_is_none_is_named():
    with pytest.raises(ConfigError, match="'hlsl'; supported: naga, tint"):
        dialect_of("hlsl")


PROBLEMS = (
    SMALL,
    Gemm.parse("33x40x17x2", trans_a=True, trans_b=True, beta=0.5),
    Gemm.parse("64x96x64", a="f16", b="f16", c="f16", trans_b=True, activation="gelu"),
    Gemm.parse("8x40x4096x3", a="f16", b="f16", acc="f16", trans_a=True, activation="silu"),
)
"""Between them every dtype, layout and epilogue, aligned and not."""
HASHES = GOLDEN / "hashes.json"
GENERATORS = render_module.data_path("templates") / "generators.json"


def rendered_hash(family: str, gemm: Gemm, config: Config) -> str:
    kernel = render(family, config, gemm, device_of(family))
    # As it was written before there was this field.
    launches = str(kernel.launches).replace(", only_reads=False", "")
    text = f"{launches}{kernel.workspace_bytes}{kernel.wgsl}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def same_as_before(family: str, known: dict[str, dict[str, dict[str, str]]]) -> bool:
    """Every kernel whose hash was kept is rendered as it was."""
    for problem, kernels in known.get(family, {}).items():
        gemm = Gemm.from_json(json.loads(problem))
        for text, digest in kernels.items():
            config = FAMILIES[family].config.from_json(json.loads(text))
            if FAMILIES[family].check(config, gemm, device_of(family)):
                return False
            if rendered_hash(family, gemm, config) != digest:
                return False
    return family in known


def kept_hashes(family: str, known: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Of each problem, configs that have every value of every field between them."""
    kept: dict[str, dict[str, str]] = {}
    for gemm in (fitted(family, problem) for problem in PROBLEMS):
        problem = json.dumps(gemm.to_json())
        before = known.get(problem, {})
        configs = [FAMILIES[family].config.from_json(json.loads(text)) for text in before]
        seen = {pair for config in configs for pair in dataclasses.asdict(config).items()}
        for config in legal_configs(family, gemm, device_of(family)):
            if not seen.issuperset(dataclasses.asdict(config).items()):
                seen.update(dataclasses.asdict(config).items())
                configs.append(config)
        kept[problem] = {
            json.dumps(config.to_json()): rendered_hash(family, gemm, config) for config in configs
        }
    return kept


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hash_is_kept_while_and_only_while_kernels_are_rendered_as_before(family):
    """Rows are demoted when it changes. UPDATE_GOLDEN=1 decides it anew and writes both files."""
    known, generators = json.loads(HASHES.read_text()), json.loads(GENERATORS.read_text())
    source, same = source_hash(family), same_as_before(family, known)
    if os.environ.get("UPDATE_GOLDEN"):
        before = generators.get(family, {})
        assert same or source != before.get("source"), f"{family}: raise GENERATION"
        known[family] = kept_hashes(family, known.get(family, {}) if same else {})
        generators[family] = {
            "generator": before["generator"] if same else source,
            "source": source,
        }
        HASHES.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        GENERATORS.write_text(json.dumps(generators, indent=2, sort_keys=True) + "\n")
        generator_hash.cache_clear()

    assert same_as_before(family, known), f"{family} renders differently: raise GENERATION"
    assert generators[family]["source"] == source, "the sources changed: run with UPDATE_GOLDEN=1"
    assert generator_hash(family) == generators[family]["generator"]


@pytest.mark.parametrize("family", FAMILIES)
def test_header_names_problem_and_config(family):
    gemm = small_problem(family)
    kernel = render(family, small_config(family), gemm, device_of(family))

    first, second, *_ = kernel.wgsl.splitlines()

    assert first == f"// gemmtune {family} kernel for {gemm.key}"
    assert second == f"// config: {kernel.config.key}"


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_legal_config_renders_with_nothing_left_open(family, data):
    device = device_of(family)
    gemm = data.draw(gemms_for(family))
    config = data.draw(st.sampled_from(legal_configs(family, model_of(family, gemm), device)))
    assume(not FAMILIES[family].check(config, gemm, device))
    wgsl = render(family, config, gemm, device).wgsl

    assert wgsl.count("{") == wgsl.count("}")
    assert wgsl.count("(") == wgsl.count(")")
    f16 = "f16" in {gemm.a, gemm.b, gemm.c, gemm.acc} or family == "coopmat_f16x3"
    assert wgsl.count("enable f16;") == f16
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


def test_kernel_names_them_as_the_engine_does():
    assert render("coopmat", small_config("coopmat"), SMALL, MATRICES, TINT).features == (
        "shader-f16",
        "chromium-experimental-subgroup-matrix",
    )


def test_generator_hash_changes_with_the_template(tmp_path, monkeypatch):
    before = generator_hash("tiled")
    templates = tmp_path / "templates"
    (templates / "lib").mkdir(parents=True)
    for file in render_module.data_path("templates").rglob("*.j*"):
        target = templates / file.relative_to(render_module.data_path("templates"))
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
    monkeypatch.setattr(generators_module, "data_file", lambda name: str(tmp_path / name))

    generator_hash.cache_clear()
    same = generator_hash("tiled")
    (templates / "tiled.wgsl.j2").write_text("changed")
    generator_hash.cache_clear()
    changed = generator_hash("tiled")
    generator_hash.cache_clear()

    assert before == same
    assert before != changed
