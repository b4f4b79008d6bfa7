"""Landscapes survive Kernel Tuner's formats, and its own files are read, also unfinished ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings

from gemmtune.cli import main
from gemmtune.errors import LandscapeError
from gemmtune.executors.fake import FakeExecutor
from gemmtune.job import FAILURE_KINDS, Failure, Measurement
from gemmtune.kerneltuner import read, to_cache, to_t4
from gemmtune.landscape import Landscape
from gemmtune.problem import Gemm
from landscapes import landscape_of
from test_landscape import landscapes

GEMM = Gemm(m=64, n=64, k=64)
SCHEMA = json.loads((Path(__file__).parent / "fixtures" / "t4.schema.json").read_text())
CACHE: dict[str, Any] = {
    "device_name": "NVIDIA A100",
    "kernel_name": "Xgemm",
    "problem_size": [4096, 4096],
    "tune_params_keys": ["MWG", "SA"],
    "tune_params": {"MWG": [16, 32], "SA": [0, 1]},
    "objective": "time",
    "cache": {
        "16,0": {
            **{"MWG": 16, "SA": 0, "time": 2.0, "times": [2.5, 1.75, 2.0]},
            **{"compile_time": 80.0, "verification_time": 200.0, "benchmark_time": 600.0},
        },
        "16,1": {"MWG": 16, "SA": 1, "time": "RuntimeFailedConfig"},
        "32,0": {"MWG": 32, "SA": 0, "time": 0.0, "__error__": "CompilationFailedConfig"},
    },
}
"""As Kernel Tuner writes it, with the older and the newer way to say that a config failed."""


def small() -> Landscape:
    """Every kind of failure, and times with six digits as all landscapes have."""
    landscape = landscape_of(FakeExecutor(seed=1), GEMM, "tiled")
    failures = [Failure(kind=kind, message=f"as {kind} says") for kind in FAILURE_KINDS]
    rows = [
        replace(row, result=failures.pop()) if failures and i % 3 == 0 else row
        for i, row in enumerate(landscape.rows)
    ]
    assert not failures
    return replace(landscape, rows=tuple(rows), selected=1234, where="tile_k=8")


def test_t4_holds_to_its_schema_and_comes_back_whole(tmp_path: Path) -> None:
    landscape = small()
    document = to_t4(landscape)
    path = tmp_path / "a_T4.json"
    path.write_text(json.dumps(document))

    jsonschema.validate(document, SCHEMA)
    assert read(path) == landscape


@settings(max_examples=30, deadline=None)
@given(landscape=landscapes)
def test_any_landscape_holds_to_the_schema_of_t4(landscape: Landscape) -> None:
    jsonschema.validate(to_t4(landscape), SCHEMA)


def test_the_schema_refuses_what_is_not_t4() -> None:
    document = to_t4(small())
    document["results"][0]["times"]["runtimes"] = ["fast"]

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


def test_the_cache_lists_every_value_and_every_config(tmp_path: Path) -> None:
    landscape = small()
    cache = to_cache(landscape)

    assert len(cache["cache"]) == len(landscape.rows)
    for key, row in cache["cache"].items():
        values = [row[name] for name in cache["tune_params_keys"]]
        assert key == ",".join(str(value) for value in values)
        assert all(
            value in cache["tune_params"][name]
            for name, value in zip(cache["tune_params_keys"], values, strict=True)
        )
    timed = [row["time"] for row in cache["cache"].values() if "__error__" not in row]
    assert landscape.best is not None
    assert landscape.best.time_ns == pytest.approx(min(timed) * 1e6)
    assert sum(landscape.failures.values()) == len(landscape.rows) - len(timed)


def test_a_cache_comes_back_with_the_times_it_holds(tmp_path: Path) -> None:
    landscape = small()
    path = tmp_path / "a.json"
    path.write_text(json.dumps(to_cache(landscape)))
    again = read(path, GEMM)

    assert again.family == "tiled"
    assert [row.config for row in again.rows] == [row.config for row in landscape.rows]
    assert [row.time_ns for row in again.rows] == [row.time_ns for row in landscape.rows]
    assert [row.launches for row in again.rows] == [row.launches for row in landscape.rows]
    assert [row.compile_s for row in again.rows] == [row.compile_s for row in landscape.rows]


def test_a_cache_of_another_kernel_is_read_even_if_it_was_never_closed(tmp_path: Path) -> None:
    whole, cut = tmp_path / "A100.json", tmp_path / "cut.json"
    whole.write_text(json.dumps(CACHE))
    cut.write_text(json.dumps(CACHE)[:-2] + ",")
    landscape = read(whole, Gemm(m=4096, n=4096, k=4096))

    assert read(cut, Gemm(m=4096, n=4096, k=4096)) == landscape
    assert landscape.device.name == "NVIDIA A100"
    assert landscape.family == "Xgemm"
    first, *others = landscape.rows
    assert first.config.to_json() == {"MWG": 16, "SA": 0}
    assert first.launches == ()
    assert isinstance(first.result, Measurement)
    assert (first.result.time_ns, first.result.min_ns, first.result.repetitions) == (2e6, 1.75e6, 3)
    assert (first.compile_s, first.verify_s, first.measure_s) == (0.08, 0.2, 0.6)
    assert [row.result.kind for row in others if isinstance(row.result, Failure)] == [
        "crash",
        "compile",
    ]


def test_t4_of_kernel_tuner_is_read(tmp_path: Path) -> None:
    times = {"compilation": 90.0, "benchmark": 60.0, "framework": 1.0, "search_algorithm": 2.0}
    rows = [
        {
            "timestamp": "2026-01-01 00:00:00",
            "configuration": {"MWG": 16, "VWM": "float4"},
            "times": times | {"validation": 0.0, "runtimes": [3.0, 4.0]},
            "invalidity": "correct",
            "correctness": 1,
            "measurements": [
                {"name": "time", "value": 3.5, "unit": "ms"},
                {"name": "GFLOP/s", "value": 99.0, "unit": ""},
            ],
            "objectives": ["time"],
        },
        {
            "configuration": {"MWG": 32, "VWM": "float4"},
            "times": times | {"validation": 0.0, "runtimes": []},
            "invalidity": "timeout",
            "correctness": 1,
            "measurements": [],
            "objectives": ["time"],
        },
    ]
    path = tmp_path / "b_T4.json"
    path.write_text(json.dumps({"schema_version": "1.0.0", "metadata": {}, "results": rows}))
    landscape = read(path, GEMM, family="xgemm")

    assert landscape.family == "xgemm"
    assert [row.time_ns for row in landscape.rows] == [3.5e6, None]
    assert landscape.failures == {"timeout": 1}
    assert Landscape.from_json(landscape.to_json()).failures == landscape.failures


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[]", "give its shape"),
        ("{}", "give its shape"),
        (json.dumps(CACHE), "give its shape"),
        ('{"metadata": {"gemmtune": {"kind": "gemmtune-landscape"}}}', "format"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)

    with pytest.raises(LandscapeError, match=words):
        read(path)


def test_other_json_is_neither_of_the_formats(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"results": [{"config": 1}]}')

    with pytest.raises(LandscapeError, match="neither T4 results nor a Kernel Tuner cache"):
        read(path, GEMM)


def test_the_commands_write_both_files_and_read_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    landscape = small()
    landscape.write(tmp_path / "a.json.gz")
    t4, cache = tmp_path / "a_T4.json", tmp_path / "a.json"
    again, other = tmp_path / "again.json.gz", tmp_path / "other.json.gz"

    assert main(["landscape", "export", str(tmp_path / "a.json.gz"), str(t4)]) == 0
    assert main(["landscape", "import", str(t4), str(again)]) == 0
    assert main(["landscape", "import", str(cache), str(other), "--shape", "64x64x64"]) == 0
    shown = capsys.readouterr().out
    assert main(["landscape", "export", str(again), str(tmp_path / "b.json")]) == 2
    assert main(["landscape", "import", str(cache), str(other)]) == 1
    refused = capsys.readouterr().err.splitlines()

    assert Landscape.read(again) == landscape
    assert len(Landscape.read(other).rows) == len(landscape.rows)
    assert f"{len(landscape.rows)} configs in" in shown
    assert "does not end in _T4.json" in refused[0]
    assert "give its shape" in refused[1]
