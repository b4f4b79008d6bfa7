"""Presets are the shapes they are named after; files of shapes are read, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmtune import Gemm
from gemmtune.errors import ProblemError, UsageError
from gemmtune.shapes import PRESETS, parse_dtype, preset, read_shapes


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_made_of_different_problems_that_are_not_empty(name: str) -> None:
    problems = preset(name)

    assert problems
    assert len({gemm.key for gemm in problems}) == len(problems)
    assert not any(gemm.empty or gemm.k == 0 for gemm in problems)


def test_the_core_preset_has_its_eighteen_shapes() -> None:
    shapes = [gemm.shape for gemm in preset("core")]

    assert len(shapes) == 18
    assert {"4096x4096x4096", "1x151936x896", "64x64x16384", "512x1152x896"} <= set(shapes)


def test_a_language_model_has_its_four_projections_and_its_head() -> None:
    shapes = {gemm.shape for gemm in preset("llama3-8b")}

    prefill = {"512x6144x4096", "512x4096x4096", "512x28672x4096", "512x4096x14336"}
    assert prefill <= shapes
    assert "1x128256x4096" in shapes


def test_heads_narrower_than_the_model_are_kept_apart() -> None:
    shapes = {gemm.shape for gemm in preset("qwen3-0.6b")}

    assert "1x1024x2048" in shapes
    assert "1x4096x1024" in shapes


def test_a_preset_takes_dtype_and_layout() -> None:
    (first, *_) = preset("square", "f16-f32", trans_b=True)

    assert first == Gemm(m=64, n=64, k=64, a="f16", b="f16", c="f32", trans_b=True)


def test_an_unknown_preset_is_refused_with_the_names() -> None:
    with pytest.raises(UsageError, match=r"'llama9'.*core.*llama3-8b"):
        preset("llama9")


@pytest.mark.parametrize(
    ("text", "dtypes"),
    [
        ("f32", ("f32", "f32", "f32", "f32")),
        (" F16 ", ("f16", "f16", "f16", "f32")),
        ("f16-f32", ("f16", "f16", "f32", "f32")),
        ("f16acc", ("f16", "f16", "f16", "f16")),
        ("f16,f32,f16,f32", ("f16", "f32", "f16", "f32")),
    ],
)
def test_dtypes_are_read(text: str, dtypes: tuple[str, ...]) -> None:
    assert parse_dtype(text) == dtypes


@pytest.mark.parametrize(
    "text", ["f8", "", "f16,f16", "f16,f16,f16,f8", "f16,f16,f16,f16,f8", ",,,"]
)
def test_other_dtypes_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ProblemError, match="f16acc") as caught:
        parse_dtype(text)

    assert "\n" not in str(caught.value)


def test_a_file_has_one_problem_a_line_with_words_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "shapes.txt"
    path.write_text(
        "# mine\n\n512x256x128  # plain\n8x8x8x4 dtype=f16 trans_b\n"
        "3x4x5 beta=0.5 alpha=2 bias trans_a activation=gelu\n512x256x128\n4x5x6 math=f16x3\n"
    )

    assert read_shapes(path) == (
        Gemm(m=512, n=256, k=128),
        Gemm(m=8, n=8, k=8, batch=4, a="f16", b="f16", c="f16", trans_b=True),
        Gemm(m=3, n=4, k=5, beta=0.5, alpha=2, bias=True, trans_a=True, activation="gelu"),
        Gemm(m=4, n=5, k=6, math="f16x3"),
    )


def test_lines_that_do_not_say_take_the_given_dtype_and_layout(tmp_path: Path) -> None:
    path = tmp_path / "shapes.txt"
    path.write_text("4x4x4\n4x4x8 dtype=f32\n")

    first, second = read_shapes(path, "f16", trans_a=True)

    assert (first.a, first.trans_a) == ("f16", True)
    assert (second.a, second.trans_a) == ("f32", True)


@given(
    st.lists(
        st.builds(
            Gemm,
            m=st.integers(1, 5000),
            n=st.integers(1, 5000),
            k=st.integers(0, 5000),
            batch=st.integers(1, 9),
            trans_b=st.booleans(),
            bias=st.booleans(),
        ),
        min_size=1,
        unique=True,
    )
)
def test_json_gives_back_what_to_json_wrote(
    tmp_path_factory: pytest.TempPathFactory, problems: list[Gemm]
) -> None:
    path = tmp_path_factory.mktemp("shapes") / "shapes.json"
    path.write_text(json.dumps([gemm.to_json() for gemm in problems]))

    assert read_shapes(path) == tuple(problems)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4x4x4\n12\n", "line 2: shape '12'"),
        ("4x4x4 dtype=f8", "line 1: dtype 'f8'"),
        ("\n4x4x4 transb", "line 2: 'transb'"),
        ("4x4x4 beta=x", "line 1: beta=x"),
        ("4x4x4 activation=tan", "line 1: activation"),
        ("4x4x4 math=tf32", "line 1: math is 'tf32'"),
        ('["4x4x4", 7]', "item 2: 7"),
        ('[{"m": 4}]', "item 1: not a problem"),
        ('["4x4x4"', "not JSON"),
        ('{"m": 4}', "not a JSON list"),
    ],
)
def test_what_is_not_a_problem_is_refused_with_its_place(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "shapes"
    path.write_text(text)

    with pytest.raises(ProblemError, match=message) as caught:
        read_shapes(path)

    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nothing\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(UsageError, match="No such file"):
        read_shapes(tmp_path / "absent")
    with pytest.raises(UsageError, match="directory"):
        read_shapes(tmp_path)
    with pytest.raises(UsageError, match="has no shapes"):
        read_shapes(tmp_path / "empty")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_shapes(tmp_path / "binary")
