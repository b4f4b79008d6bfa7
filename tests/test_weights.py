"""Tuning what is asked for: more time for what takes more, and what is covered then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemmtune.cli import main
from gemmtune.lookup import Wanted, record
from gemmtune.lookup import lookup as look_up
from gemmtune.problem import Gemm
from gemmtune.tune import budgets, coverage

LARGE = Wanted(gemm=Gemm(m=512, n=512, k=512), count=3)
SMALL = Wanted(gemm=Gemm(m=64, n=64, k=64), count=512)


def test_time_goes_where_the_operations_are_and_none_is_left_out() -> None:
    shared = budgets([LARGE, SMALL], 10.0)
    assert sum(shared.values()) == pytest.approx(20.0)
    # 3 x 512^3 operations to 512 x 64^3: 3 to 1.
    assert shared[LARGE.gemm.key] == pytest.approx(2.0 + 16.0 * 0.75)
    assert shared[SMALL.gemm.key] == pytest.approx(2.0 + 16.0 * 0.25)
    assert budgets([LARGE, SMALL], None) == {}
    assert budgets([], 10.0) == {}


def test_coverage_is_by_operations() -> None:
    assert coverage([LARGE, SMALL], {LARGE.gemm.key}) == pytest.approx(0.75)
    assert coverage([LARGE, SMALL], set()) == 0.0
    assert coverage([], set()) == 0.0


def test_a_record_is_tuned_by_weight_and_its_coverage_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, db = tmp_path / "shapes.jsonl", tmp_path / "results.db"
    with record(file):
        for _ in range(3):
            look_up(Gemm(m=32, n=32, k=32))
        look_up(Gemm(m=64, n=64, k=64, trans_b=True))
    command = ["tune", "--from-record", str(file), "--executor", "fake:1", "--db", str(db)]
    assert main([*command, "--trials", "3", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "record: 2 problems, asked for 4 times; tuned now: 100.0 % of their operations" in out
    assert out.index("64x64x64") < out.index("32x32x32")
    assert json.loads(file.read_text().splitlines()[0])["count"] == 3


def test_a_record_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--from-record", "no-such-file.jsonl"]) == 2
    assert "no-such-file.jsonl cannot be read" in capsys.readouterr().err
