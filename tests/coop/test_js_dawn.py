"""gemmtune.js launches what was exported, on Dawn with native matrices, and its numbers are right.

Chromium's software adapter, which test_js.py runs on, has neither f16 nor matrices.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from databases import add
from dawn_node import TOGGLES, DawnError, Run, adapter, device_of, fault
from gemmtune import reference
from gemmtune._data import data_path
from gemmtune.device import Device
from gemmtune.export import Able, Document, Selection, candidates, export
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.problem import Gemm
from gemmtune.store import Store

RUNNER = Path(__file__).parents[1] / "browser" / "dawn.mjs"
DTYPES: dict[str, Any] = {"f32": np.float32, "f16": np.float16}
F16 = {"a": "f16", "b": "f16"}
HALF = {**F16, "c": "f16"}
EPILOGUE = {"trans_b": True, "alpha": -0.75, "beta": 0.5, "bias": True, "activation": "gelu"}

STATIC = Gemm.parse("64x64x64")
DYNAMIC = Gemm.parse("48x40x33")
SPLIT = Gemm.parse("32x32x2048")
VECTOR = Gemm.parse("1x200x300")
BATCH = Gemm.parse("20x24x16x3", stride_b=0, stride_c=20 * 24 + 5)
STEPS = Gemm.parse("37x44x20", **EPILOGUE)
HALVES = Gemm.parse("64x32x40", **HALF)
PACKED = Gemm.parse("32x16x64", **F16)
WHOLE_TILES = Gemm.parse("32x48x32", **F16)
ANY_TILES = Gemm.parse("33x41x19", trans_b=True, **F16)
ALIGNED = Gemm.parse("64x64x32", trans_a=True, activation="relu")

EXPECTED: dict[Gemm, tuple[str, str]] = {
    STATIC: ("tiled", "exact"),
    DYNAMIC: ("tiled", "exact"),
    SPLIT: ("tiled", "exact"),
    VECTOR: ("gemv", "exact"),
    BATCH: ("naive", "exact"),
    STEPS: ("tiled", "exact"),
    HALVES: ("tiled", "exact"),
    PACKED: ("coopmat", "exact"),
    WHOLE_TILES: ("coopmat", "exact"),
    ANY_TILES: ("coopmat", "exact"),
    replace(STEPS, m=7, n=12, k=8, batch=2, stride_c=96): ("tiled", "near"),
    replace(ANY_TILES, m=17, n=35, k=50): ("coopmat", "near"),
    replace(STEPS, k=0): ("tiled", "near"),
    replace(STEPS, m=0): ("tiled", "near"),
    replace(ALIGNED, m=33, n=65, k=17): ("tiled", "default"),
    replace(HALVES, m=9, n=7, k=11): ("tiled", "default"),
    replace(STEPS, m=7, n=13, k=5, batch=2, stride_c=97): ("tiled", "default"),
}
"""Every problem that is run, and what has to run for it: family and source of the choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What gemmtune.js gave for all problems, in their order."""

    document: Document
    able: Able
    results: list[dict[str, Any]]


def winners(device: Device) -> Iterator[tuple[Gemm, str, Config]]:
    """What the database holds, by decree: no kernel is tuned."""

    def default(family: str, gemm: Gemm) -> Config:
        return FAMILIES[family].default(gemm, device)

    def matrices(gemm: Gemm, dims: str) -> Config:
        small = {"frags_m": 1, "frags_n": 1, "tile_k": 8, "dims": dims}
        return replace(default("coopmat", gemm), **small)  # type: ignore[arg-type]

    for gemm in (STATIC, ALIGNED, HALVES):
        yield gemm, "tiled", replace(default("tiled", gemm), dims="static")  # type: ignore[call-arg]
    for gemm in (DYNAMIC, STEPS):
        yield gemm, "tiled", replace(default("tiled", gemm), dims="dynamic")  # type: ignore[call-arg]
    space = FAMILIES["tiled"].space(SPLIT, device)
    yield SPLIT, "tiled", next(one for one in space if FAMILIES["tiled"].workspace(one, SPLIT))
    yield VECTOR, "gemv", default("gemv", VECTOR)
    yield BATCH, "naive", default("naive", BATCH)
    packed = {"load": 8, "pack": True, "tile_k": 16}
    yield PACKED, "coopmat", replace(matrices(PACKED, "static"), **packed)  # type: ignore[arg-type]
    yield WHOLE_TILES, "coopmat", matrices(WHOLE_TILES, "static")
    yield ANY_TILES, "coopmat", matrices(ANY_TILES, "dynamic")


def encoded(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def case_of(gemm: Gemm) -> dict[str, Any]:
    """A problem with its operands; C only where it is read, or has gaps that must stay."""
    arrays = reference.inputs(gemm, 0)
    old = arrays.c if gemm.beta != 0.0 else np.full_like(arrays.c, np.nan)
    needed = gemm.beta != 0.0 or old.size > gemm.batch * gemm.m * gemm.n
    return {
        "problem": gemm.to_json(),
        "a": encoded(arrays.a),
        "b": encoded(arrays.b),
        "c": encoded(old) if needed else None,
        "bias": encoded(arrays.bias) if gemm.bias else None,
        "swap": gemm in (STATIC, SPLIT),
    }


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """All problems in one process of Node, as a page would run them on one device."""
    try:
        device = device_of(adapter())
    except DawnError as error:
        pytest.fail(f"no Dawn to run gemmtune.js on: {error}", pytrace=False)
    folder = tmp_path_factory.mktemp("js")
    with Store.open(folder / "tuned.db") as store:
        for gemm, family, config in winners(device):
            add(store, 1e5, config, device=device, gemm=gemm, family=family)
        document = export([store], Selection(dialect="tint", top=3), "gemmtune test")
    job = {"toggles": TOGGLES, "document": document.to_json()}
    job["cases"] = [case_of(gemm) for gemm in EXPECTED]
    (folder / "job.json").write_text(json.dumps(job))
    module = shutil.copy(data_path("js") / "gemmtune.js", folder / "gemmtune.mjs")
    command = ["node", str(RUNNER), str(module), str(folder / "job.json")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr or run.stdout
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["errors"] == []
    failed = {
        g.key: one["error"]
        for g, one in zip(EXPECTED, found["results"], strict=True)
        if "error" in one
    }
    assert failed == {}
    return Answer(document=document, able=Able(**found["able"]), results=found["results"])


def test_the_device_is_seen_as_it_is(answer: Answer) -> None:
    assert answer.able.dialect == "tint"
    assert answer.able.subgroup_size == 8
    assert {"shader-f16", "subgroups"} <= set(answer.able.features)
    assert "chromium-experimental-subgroup-matrix" in answer.able.features


def test_what_ran_is_what_was_meant_to(answer: Answer) -> None:
    kernels = {one.id: one for one in answer.document.kernels}
    ran = {}
    for gemm, result in zip(EXPECTED, answer.results, strict=True):
        kernel, source = kernels[result["choice"]["id"]], result["choice"]["source"]
        ran[gemm] = (kernel.family, source)
        # Had the driver refused it, the next one would have run.
        assert kernel.id == candidates(answer.document, gemm, answer.able)[0].id
        if gemm in (STATIC, HALVES, WHOLE_TILES):
            assert kernel.config["dims"] == "static"
        if gemm == SPLIT:
            assert kernel.workspace_bytes is not None
            assert len(kernel.passes) == 2
        if gemm == PACKED:
            assert [one.workspace for one in kernel.passes] == [None, "read-only-storage"]
        if gemm in (STEPS, DYNAMIC, ANY_TILES):
            assert kernel.config["dims"] == "dynamic"
    assert ran == EXPECTED


@pytest.mark.parametrize("gemm", EXPECTED, ids=lambda gemm: gemm.key)
def test_numbers_are_right(answer: Answer, gemm: Gemm) -> None:
    result = answer.results[list(EXPECTED).index(gemm)]
    got = np.frombuffer(base64.b64decode(result["c"]), DTYPES[gemm.c])

    assert result["type"] == ("Float32Array" if gemm.c == "f32" else "Uint16Array")
    assert got.size == gemm.elements("c")
    assert fault(Run(c=got, times_ns=(), log=""), gemm) is None


@pytest.mark.parametrize("gemm", [STATIC, SPLIT], ids=lambda gemm: gemm.key)
def test_a_plan_serves_more_than_one_set_of_buffers(answer: Answer, gemm: Gemm) -> None:
    result = answer.results[list(EXPECTED).index(gemm)]
    arrays = reference.inputs(gemm, 0)
    both = np.frombuffer(base64.b64decode(result["both"]), np.float32).reshape(2, -1)
    swapped = replace(arrays, a=arrays.b, b=arrays.a)

    for got, operands in zip(both, (arrays, swapped), strict=True):
        off = np.abs(reference.matrices(gemm, "c", got) - reference.product(gemm, operands))
        assert np.max(off) <= reference.tolerance(gemm)
