"""gemmtune.js: chooses as Python does, and its numbers in a real browser are right."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chromium import required, run_page
from databases import add
from gemmtune._data import data_path
from gemmtune.device import Device, Limits
from gemmtune.export import Able, Document, Selection, candidates, export, to_text
from gemmtune.forest import Forest, features
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.lookup import lookup
from gemmtune.problem import Gemm
from gemmtune.store import Store
from strategies import MATRICES

MODULE = data_path("js") / "gemmtune.js"
PAGES = Path(__file__).parent / "browser"
BROWSER = Device(
    name="SwiftShader",
    adapter_type="cpu",
    features=("subgroup",),
    limits=Limits(),
    subgroup_size=4,
)
"""What Chromium's software adapter is known to have."""
LIMITS = {
    "maxComputeInvocationsPerWorkgroup": 256,
    "maxComputeWorkgroupSizeX": 256,
    "maxComputeWorkgroupStorageSize": 16384,
}
MORE_KINDS: dict[str, dict[str, Any]] = {
    "beta": {"beta": 2.0, "activation": "silu"},
    "nt plain": {"trans_b": True},
}
"""Only for choices, because a browser's software adapter takes seconds to compile a kernel."""
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "nt": {"trans_b": True, "bias": True, "activation": "gelu", "alpha": 0.5},
    "tn": {"trans_a": True, "beta": -1.5, "activation": "relu"},
}


def split(gemm: Gemm) -> Config:
    """A config whose sums are split along k, so with two passes and a workspace."""
    space = FAMILIES["tiled"].space(gemm, BROWSER)
    return next(config for config in space if FAMILIES["tiled"].workspace(config, gemm))


def forest(store: Store, kind: str) -> Forest:
    """Trees that ask for every feature, and send each problem to one of many leaves."""
    gemms = [gemm for gemm in store.problems(BROWSER.key) if gemm.kind == kind]
    rows = [row for gemm in gemms for row in store.measurements(BROWSER.key, gemm.key)]
    names = sorted({(row.family, row.config_json) for row in rows})
    configs, trees = [*names, ("naive", "{}")], []
    for feature, threshold in enumerate(features(80, 72, 40)):
        numbers = [range(m, len(configs)) for m in (0, 1)]
        votes = [[v for n in few for v in (n, 1 + (feature + n) % 5)] for few in numbers]
        trees.append([feature, threshold, votes[feature % 2], [2, 100, votes[0], votes[1]]])
    return Forest(configs, trees, "9999")


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Document:
    """Results by decree: each kind with a static and a dynamic winner, splits and subgroups."""
    with Store.open(tmp_path_factory.mktemp("js") / "tuned.db") as store:
        for options in (KINDS | MORE_KINDS).values():
            wide = Gemm(m=256, n=128, k=16, **options)
            slow = replace(FAMILIES["tiled"].default(wide, BROWSER), group_m=8)
            for time_ns, m, n, k in ((4e5, 64, 64, 64), (2e5, 80, 80, 80), (7e5, 256, 128, 16)):
                # Leads nowhere but in the middle: the other times count where it is predicted.
                gemm = Gemm(m=m, n=n, k=k, **options)
                add(store, time_ns, slow, device=BROWSER, gemm=gemm, family="tiled")
            for number, side in enumerate((16, 320, 400, 512, 640, 720, 960, 1024)):
                # By so many times its pace is learned: four held, where one would be usual.
                gemm = Gemm(m=side, n=side, k=32 + 128 * (number % 3), **options)
                waves = max(1, (side / 64) ** 2 / 4 / 8)
                add(store, waves * gemm.k * 1e4, slow, device=BROWSER, gemm=gemm, family="tiled")
            for number, size in enumerate(((64, 64, 64), (96, 40, 33), (256, 128, 16))):
                gemm = Gemm(m=size[0], n=size[1], k=size[2], **options)
                config = FAMILIES["tiled"].default(gemm, BROWSER)
                config = replace(config, dims="static" if number == 0 else "dynamic")
                add(store, 1e5 * (number + 1), config, device=BROWSER, gemm=gemm, family="tiled")
        for gemm, family, config in (
            (Gemm(m=32, n=32, k=2048), "tiled", split(Gemm(m=32, n=32, k=2048))),
            (Gemm(m=48, n=80, k=24), "subgroup", None),
            (Gemm(m=100, n=50, k=7, batch=3, stride_b=0), "naive", None),
        ):
            config = config or FAMILIES[family].default(gemm, BROWSER)
            add(store, 2e5, config, device=BROWSER, gemm=gemm, family=family)
        for options in (KINDS["plain"], MORE_KINDS["nt plain"]):
            kind = Gemm(m=1, n=1, k=1, **options).kind
            store.take_in(BROWSER, [], "trees", {kind: forest(store, kind)})
        return export([store], Selection(dialect="tint"), "gemmtune test")


def problems(kinds: dict[str, dict[str, Any]]) -> Iterator[Gemm]:
    """Tuned sizes and others, of these kinds."""
    sizes = ((64, 64, 64), (96, 40, 33), (256, 128, 16), (7, 13, 5), (128, 64, 40), (1, 200, 300))
    for (m, n, k), options in product(sizes, kinds.values()):
        yield Gemm(m=m, n=n, k=k, **options)
    yield Gemm(m=32, n=32, k=2048)
    yield Gemm(m=36, n=20, k=4100)
    yield Gemm(m=48, n=80, k=24)
    yield Gemm(m=100, n=50, k=7, batch=3, stride_b=0)
    yield Gemm(m=64, n=64, k=64, batch=2, stride_c=64 * 64 + 4)
    yield Gemm(m=64, n=64, k=64, batch=2, stride_a=64 * 64 + 3)
    yield Gemm(m=20, n=20, k=0)


def test_the_module_is_small_and_needs_nothing() -> None:
    text = MODULE.read_text()
    assert len(text.encode()) < 8 * 1024
    assert "import" not in text
    assert "console" not in text


def chosen(document: Document, cases: list[tuple[Gemm, Able]], folder: Path) -> list[Any]:
    """What gemmtune.js chooses for each of the cases."""
    node = required("node")
    vectors = folder / "vectors.json"
    found = [{"problem": gemm.to_json(), "able": able.to_json()} for gemm, able in cases]
    vectors.write_text(json.dumps({"document": document.to_json(), "cases": found}))
    # Older Nodes take a file for an ES module by its name only.
    module = shutil.copy(MODULE, folder / "gemmtune.mjs")
    command = [node, str(PAGES / "vectors.mjs"), str(module), str(vectors)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    answers: list[Any] = json.loads(run.stdout)
    return answers


def test_what_won_without_checks_is_predicted_alike_everywhere(tmp_path: Path) -> None:
    device = replace(MATRICES, device_id=0x2330, driver="580.1")
    whole = Gemm(m=1024, n=1024, k=1024, a="f16", b="f16", c="f16")
    config = replace(
        FAMILIES["coopmat"].default(whole, device),
        dims="static",  # type: ignore[call-arg]
        checked=False,
    )
    path = tmp_path / "tuned.db"
    with Store.open(path) as store:
        add(store, 1e5, config, device=device, gemm=whole, family="coopmat")
        document = export([store], Selection(dialect="tint"), "gemmtune test")
    able = Able(
        dialect="tint",
        limits=dict.fromkeys(LIMITS, 1024 * 1024),
        features=tuple({name for one in document.kernels for name in one.needs.features}),
        subgroup_size=device.subgroup_size,
    )
    edges = replace(whole, m=1000, n=1000)
    ((answer,), here) = (
        chosen(document, [(edges, able)], tmp_path),
        lookup(edges, device=device, path=path),
    )
    (near, *_), (there, *_) = candidates(document, edges, able), answer["chosen"]
    assert (near.source, here.source, there["source"]) == ("near", "near", "near")
    assert near.id == there["id"]
    # As many whole tiles, the same sums, a little less traffic: what is left is what checks cost.
    assert here.time_ns == pytest.approx(1.3e5, rel=0.04)
    assert near.time_ns == pytest.approx(here.time_ns)
    assert there["time_ns"] == pytest.approx(here.time_ns)


def test_the_document_has_what_was_learned_from_times(document: Document) -> None:
    paces = document.to_json()["model"]["paces"]
    assert {one.kernel for tuned in document.problems for one in tuned.timed} <= paces.keys()
    assert any(held > 1 and more != 64 for held, more in paces.values())


def test_the_document_has_times_of_configs_that_won_elsewhere(document: Document) -> None:
    others = [len(tuned.others) for tuned in document.problems]
    assert sum(others) >= len(KINDS | MORE_KINDS)


def test_choices_are_those_of_python(document: Document, tmp_path: Path) -> None:
    small = list(problems(KINDS | MORE_KINDS))
    large = [replace(gemm, m=gemm.m * 16, n=gemm.n * 24, stride_c=None) for gemm in small]
    ables = [
        Able(dialect="tint", limits=LIMITS),
        Able(dialect="tint", limits=LIMITS, features=("subgroups",), subgroup_size=4),
        Able(dialect="naga", limits=LIMITS, features=("subgroups",), subgroup_size=4),
        Able(dialect="tint", limits=LIMITS | {"maxComputeInvocationsPerWorkgroup": 64}),
    ]
    cases = list(product([*small, *large, Gemm(m=8, n=8, k=8, activation="silu")], ables))
    sources = set()
    for (gemm, able), found in zip(cases, chosen(document, cases, tmp_path), strict=True):
        wanted = candidates(document, gemm, able)
        assert found["kind"] == gemm.kind
        assert [(one["id"], one["source"]) for one in found["chosen"]] == [
            (one.id, one.source) for one in wanted
        ]
        assert [one["time_ns"] or 0 for one in found["chosen"]] == pytest.approx(
            [one.time_ns or 0 for one in wanted], rel=1e-9
        )
        sources.add(wanted[0].source if wanted else "none")
    assert sources == {"exact", "near", "default", "none"}


def test_trees_matter_for_these_choices(document: Document) -> None:
    able = Able(dialect="tint", limits=LIMITS, features=("subgroups",), subgroup_size=4)
    without = replace(document, forests={})
    others = [
        gemm
        for gemm in problems({"plain": {}})
        if candidates(document, gemm, able)[0] != candidates(without, gemm, able)[0]
    ]
    assert len(others) >= 2


def encoded(array: np.ndarray[Any, Any] | None) -> str | None:
    return None if array is None else base64.b64encode(array.tobytes()).decode()


def test_numbers_are_right_in_chromium(document: Document, tmp_path: Path) -> None:
    gemms = [gemm for gemm in problems(KINDS) if gemm.k]
    cases, wanted = [], []
    for seed, gemm in enumerate(gemms):
        rng = np.random.default_rng(seed)
        arrays = {
            name: rng.uniform(-1, 1, gemm.elements(name)).astype("f4")
            for name in ("a", "b", "c", "bias")
        }
        if gemm.beta == 0.0:
            arrays["c"] = np.zeros(0, "f4")
        given = {name: encoded(array) if array.size else None for name, array in arrays.items()}
        cases.append({"problem": gemm.to_json(), **given})
        wanted.append(product_of(gemm, arrays))
    files = {
        "/page.html": (PAGES / "page.html").read_bytes(),
        "/gemmtune.js": MODULE.read_bytes(),
        "/document.json": to_text(document).encode(),
        "/cases.json": json.dumps(cases).encode(),
    }
    found = run_page(files, "/page.html", tmp_path / "profile")
    assert "failed" not in found, found
    assert found["errors"] == []
    assert "no kernel for" in found["refused"]
    assert found["wrong"] == [
        "RangeError: m is -4, not 0, 1, ...",
        "RangeError: k is 2.5, not 0, 1, ...",
        "RangeError: m is undefined, not 0, 1, ...",
        "RangeError: a has 60 of 64 bytes",
        "RangeError: b has 0 of 64 bytes",
        "RangeError: c has 0 of 64 bytes",
        "RangeError: c has 32 of 64 bytes",
        "RangeError: bias has 0 of 16 bytes",
    ]
    families = set()
    for gemm, result, expected in zip(gemms, found["results"], wanted, strict=True):
        assert "error" not in result, (gemm.key, result)
        array = np.frombuffer(base64.b64decode(result["c"]), "f4")
        families.add((result["choice"]["id"].split("-")[0], result["choice"]["source"]))
        for index, matrix in enumerate(expected):
            first = index * gemm.stride("c")
            here = array[first : first + gemm.m * gemm.n].reshape(gemm.m, gemm.n)
            scale = max(1.0, float(np.abs(matrix).max()))
            assert np.abs(here - matrix).max() <= 2e-5 * scale, (gemm.key, result["choice"])
    assert {("tiled", "exact"), ("tiled", "near"), ("naive", "exact")} <= families
    if found["able"]["subgroup_size"] == 4:
        assert ("subgroup", "exact") in families


def product_of(gemm: Gemm, arrays: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """In float64, a matrix for each of the batch."""
    found = []
    for index in range(gemm.batch):

        def matrix(name: str, rows: int, columns: int, at: int = index) -> Any:
            first = at * gemm.stride(name)
            part = arrays[name][first : first + rows * columns]
            return part.reshape(rows, columns).astype("f8")

        a = matrix("a", gemm.k, gemm.m).T if gemm.trans_a else matrix("a", gemm.m, gemm.k)
        b = matrix("b", gemm.n, gemm.k).T if gemm.trans_b else matrix("b", gemm.k, gemm.n)
        x = gemm.alpha * (a @ b)
        if gemm.beta != 0.0:
            x = x + gemm.beta * matrix("c", gemm.m, gemm.n)
        if gemm.bias:
            x = x + arrays["bias"].astype("f8")
        if gemm.activation == "relu":
            x = np.maximum(x, 0.0)
        if gemm.activation == "gelu":
            x = 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))
        found.append(x)
    return found
