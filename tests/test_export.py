"""Documents: true to the database, valid by their schema, and what bad ones are answered with."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from databases import DEVICE, add, begin, config_of, measurement, outcome
from gemmtune._data import data_path
from gemmtune.cli import main
from gemmtune.errors import DocumentError
from gemmtune.export import (
    FORMAT,
    LANGUAGES,
    Document,
    Selection,
    arrivals,
    export,
    loads,
    schema,
    source,
    to_text,
)
from gemmtune.export.languages import quoted
from gemmtune.export.values import PARAMS_FIELDS, params_layout
from gemmtune.kernels.base import pack_params
from gemmtune.lookup import predict
from gemmtune.problem import Gemm
from gemmtune.store import Store
from gemmtune.validity import Range

SHIPPED = data_path("tuning.db")
SOME = Selection(shapes=("512x512x512", "8x4096x4096"))
KIND = "f16,f16,f16,f32:nn"


@pytest.fixture(scope="module")
def document() -> Document:
    """Some of the shipped results of the H100."""
    with Store.open(SHIPPED, read_only=True) as store:
        return export([store], SOME, "gemmtune test")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


def test_the_schema_is_one_and_the_document_keeps_it(document: Document) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    for inline in (True, False):
        jsonschema.validate(document.to_json(inline=inline), schema())


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.update(format=2),
        lambda d: d.pop("device"),
        lambda d: d.update(surprise=1),
        lambda d: d["problems"][0]["results"][0].update(time_ns=0),
        lambda d: d["problems"][0]["results"][0].update(kernel="../etc"),
        lambda d: next(iter(d["kernels"].values())).pop("wgsl"),
        lambda d: next(iter(d["kernels"].values()))["passes"].clear(),
    ],
)
def test_the_schema_refuses_what_is_not_a_document(document: Document, damage: Any) -> None:
    data = json.loads(to_text(document))
    damage(data)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema())


def test_the_schema_tells_other_engines_the_rule_that_we_follow() -> None:
    told = schema()["properties"]["model"]["description"]
    share, beyond = predict.MOVING_SHARE, predict.PER_DOUBLING**predict.BEYOND
    assert f"then {share} of the memory traffic" in told
    assert f"at most {predict.LAUNCH_SHARE} of the time" in told
    assert f"up to {predict.EVEN_FROM}, three quarters" in told
    assert predict.ROUNDED == 0.75
    assert f"(1 + d)^-{predict.POWER}," in told
    assert f"times {predict.PER_DOUBLING}^d of the nearest" in told
    assert predict.doubt(1.0, 2.0, 1.0) == pytest.approx(beyond)
    assert f"{predict.PER_DOUBLING}^{predict.BEYOND:g}d where" in told


def test_export_import_export_gives_the_same_text(document: Document, store: Store) -> None:
    text = to_text(document)
    read = loads(text)
    assert read == document
    report = store.take_in(read.device, arrivals(read), "a document")
    results = sum(len(tuned.timed) for tuned in document.problems)
    assert (report.measurements, report.present, report.devices) == (results, 0, 1)
    assert report.problems == len(document.problems)
    assert to_text(export([store], SOME, "gemmtune test")) == text
    assert store.check() == []
    again = store.take_in(read.device, arrivals(read), "a document")
    assert (again.measurements, again.present) == (0, results)


def test_times_of_what_won_elsewhere_come_along_and_back(store: Store, tmp_path: Path) -> None:
    small, large = Gemm(m=64, n=64, k=64), Gemm(m=512, n=512, k=64)
    for gemm, times in ((small, (100.0, 200.0, 300.0)), (large, (900.0, 800.0, 850.0))):
        for number, time_ns in enumerate(times):
            add(store, time_ns, config_of(number), gemm=gemm)
    add(store, 1.0, config_of(1), gemm=small, template="older")
    document = export([store], Selection(), "gemmtune test")
    found = {
        tuned.gemm: [[one.time_ns for one in rows] for rows in (tuned.results, tuned.others)]
        for tuned in document.problems
    }
    # The third config wins nowhere, and older templates tell nothing of today's.
    assert found == {small: [[100.0], [200.0]], large: [[800.0], [900.0]]}
    (other,) = document.problems[0].others
    kernel = next(one for one in document.kernels if one.id == other.kernel)
    assert (other.config, other.family) == (kernel.config, kernel.family)
    text = to_text(document)
    jsonschema.validate(json.loads(text), schema())
    with Store.open(tmp_path / "other.db") as again:
        read = loads(text)
        assert read == document
        assert again.take_in(read.device, arrivals(read), "a document").measurements == 4
        assert to_text(export([again], Selection(), "gemmtune test")) == text


def test_documents_without_such_times_are_read(document: Document) -> None:
    data = json.loads(to_text(document))
    for tuned in data["problems"]:
        del tuned["others"]
        for one in tuned["results"]:
            one["general"] = next(iter(one["general"]), None)
    jsonschema.validate(data, schema())
    problems = tuple(replace(tuned, others=()) for tuned in document.problems)
    assert loads(json.dumps(data)) == replace(document, problems=problems)


def test_an_imported_row_is_the_row_that_was_exported(document: Document, store: Store) -> None:
    store.take_in(document.device, arrivals(document), "a document")
    with Store.open(SHIPPED, read_only=True) as shipped:
        for tuned in document.problems:
            there = {
                row.uuid: row for row in shipped.measurements(document.device.key, tuned.gemm.key)
            }
            for row in store.measurements(document.device.key, tuned.gemm.key):
                old = there[row.uuid]
                # Of the run alone.
                kept = ("owner", "deadline", "granted_at", "id")
                assert replace(row, **{name: getattr(old, name) for name in kept}) == old


def test_imported_results_join_those_that_are_there(document: Document, store: Store) -> None:
    add(store, 100.0, gemm=Gemm(m=512, n=512, k=512), device=document.device)
    store.take_in(document.device, arrivals(document), "a document")
    merged = export([store], SOME, "gemmtune test")
    before, tuned = (
        next(t for t in one.problems if t.gemm.key == "512x512x512:f32,f32,f32,f32:nn")
        for one in (document, merged)
    )
    assert (tuned.results[0].family, tuned.results[0].time_ns) == ("naive", 100.0)
    assert len(tuned.results) == len(before.results) + 1 > 1


def test_errors_that_could_not_be_told_survive(store: Store, tmp_path: Path) -> None:
    add(store, 100.0)
    nan = replace(measurement(50.0), max_rel_error=float("nan"))
    row = begin(store, config_of(1))
    assert row is not None
    store.finish(row, outcome(nan))
    text = to_text(export([store], Selection(top=5), "gemmtune test"))
    assert '"max_rel_error": null' in text
    with Store.open(tmp_path / "other.db") as other:
        read = loads(text)
        other.take_in(read.device, arrivals(read), "a document")
        assert to_text(export([other], Selection(top=5), "gemmtune test")) == text


def test_the_fastest_come_first_and_only_so_many(store: Store) -> None:
    for number, time_ns in enumerate((300.0, 100.0, 200.0)):
        add(store, time_ns, config_of(number))
    add(store, 10.0, config_of(7), template="older")
    two = export([store], Selection(top=2), "gemmtune test").problems[0].results
    assert [one.time_ns for one in two] == [100.0, 200.0]
    all_of_them = export([store], Selection(top=9), "gemmtune test").problems[0].results
    assert [one.time_ns for one in all_of_them] == [100.0, 200.0, 300.0, 10.0]


def test_kernels_say_what_they_need(document: Document) -> None:
    kernels = {one.id: one for one in document.kernels}
    for tuned in document.problems:
        for result in tuned.results:
            kernel = kernels[result.kernel]
            assert kernel.serves(tuned.gemm)
            assert ("shader-f16" in kernel.needs.features) == (tuned.gemm.a == "f16")
            if result.family == "coopmat":
                assert kernel.dialect == "naga"
                assert "cooperative-matrix" in kernel.needs.features
            if result.family == "subgroup":
                assert kernel.needs.subgroup_size == 32
                assert kernel.dialect == "naga"
            for general in (kernels[name] for name in result.general or (kernel.id,)):
                larger = "k" if general.family == "gemv" else "m"
                size = getattr(tuned.gemm, larger) + 16
                assert general.serves(replace(tuned.gemm, **{larger: size}))


def test_fallbacks_serve_everything_everywhere(document: Document) -> None:
    kernels = {one.id: one for one in document.kernels}
    kinds = {tuned.gemm.kind for tuned in document.problems}
    assert set(document.fallbacks) == kinds
    for kind, ids in document.fallbacks.items():
        for kernel in (kernels[name] for name in ids):
            assert (kernel.kind, kernel.valid, kernel.dialect) == (kind, {}, None)
            assert set(kernel.needs.features) <= {"shader-f16"}
            assert kernel.needs.limits["maxComputeInvocationsPerWorkgroup"] <= 256
            assert kernel.needs.limits["maxComputeWorkgroupStorageSize"] <= 16384
            assert kernel.needs.subgroup_size is None


def test_the_layout_of_params_is_what_is_packed() -> None:
    gemm = Gemm(m=1, n=2, k=3, batch=4, alpha=0.5, beta=-2.0)
    packed = pack_params(gemm, 5, 6)
    layout = params_layout()
    values = {
        one["name"]: struct.unpack_from(
            "<f" if one["type"] == "f32" else "<I", packed, one["offset"]
        )
        for one in layout["fields"]
    }
    assert len(packed) == layout["size"]
    assert {name: value for name, (value,) in values.items()} == {
        **{"m": 1, "n": 2, "k": 3, "batch": 4, "stride_a": 3, "stride_b": 6, "stride_c": 2},
        **{"first_workgroup": 5, "last_workgroup": 11, "alpha": 0.5, "beta": -2.0},
    }


def test_selections_narrow_the_document() -> None:
    with Store.open(SHIPPED, read_only=True) as shipped:
        half = export([shipped], replace(SOME, dtypes=("f16", "f16", "f16", "f32")), "test")
        tint = export([shipped], replace(SOME, dialect="tint"), "test")
    dtypes = {tuned.gemm.kind.partition(":")[0] for tuned in half.problems}
    assert dtypes == {KIND.partition(":")[0]}
    assert {one.dialect for one in half.kernels} == {None, "naga"}
    assert {one.dialect for one in tint.kernels} == {None, "tint"}
    for one in tint.kernels:
        if one.family == "subgroup":
            assert "enable subgroups;" in one.wgsl
            assert "subgroups" in one.needs.features


def test_what_cannot_be_exported_is_told(store: Store) -> None:
    with pytest.raises(DocumentError, match="0 devices"):
        export([store], Selection(), "test")
    add(store, 100.0)
    add(store, 100.0, device=replace(DEVICE, driver="581"))
    with pytest.raises(DocumentError, match=r"2 devices in .*--device one of: vulkan"):
        export([store], Selection(), "test")
    with pytest.raises(DocumentError, match="match 'metal'"):
        export([store], Selection(device="metal"), "test")
    with pytest.raises(DocumentError, match="no verified result"):
        export([store], Selection(device=DEVICE.key, shapes=("1x1x1",)), "test")
    assert export([store], Selection(device="581"), "test").device.driver == "581"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a document"),
        ('{"format": "1"}', "not a document"),
        (f'{{"format": {FORMAT + 1}}}', "upgrade gemmtune"),
        (f'{{"format": {FORMAT}}}', "damaged"),
    ],
)
def test_bad_documents_are_answered_in_a_line(text: str, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        loads(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [("time_ns", -1), ("time_ns", "fast"), ("repetitions", True), ("clock", 7), ("spread", [])],
)
def test_values_that_are_none_of_a_measurement_are_refused(
    document: Document, name: str, value: Any
) -> None:
    data = json.loads(to_text(document))
    data["problems"][0]["results"][0][name] = value
    with pytest.raises(DocumentError, match="cannot be read"):
        arrivals(loads(json.dumps(data)))


# Languages


def test_quoting_is_understood_by_all() -> None:
    text = 'a "quoted" \\ line\n\tand another\n'
    assert json.loads(quoted(text)) == text
    with pytest.raises(ValueError, match="ASCII"):
        quoted("\0")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_every_kernel_and_result(document: Document, language: Any) -> None:
    text = source(document, language)
    literals = [json.loads(one) for one in re.findall(r'"(?:[^"\\\n]|\\.)*"', text)]
    whole = "".join(literals)
    for kernel in document.kernels:
        assert kernel.id in literals
        assert kernel.wgsl in (whole if language == "c-header" else literals)
    for tuned in document.problems:
        for one in tuned.results:
            assert repr(one.time_ns) in text


def test_rust_and_c_say_where_a_kernel_is_valid(document: Document) -> None:
    kernel = next(one for one in document.kernels if one.valid.get("m") == Range(min=8, max=8))
    c = next(
        line for line in source(document, "c-header").splitlines() if f'{{"{kernel.id}"' in line
    )
    assert c.count("{8u, 8u, 1u}") == 1
    assert c.count("{4096u, 4096u, 1u}") == 2
    rust = next(
        line for line in source(document, "rust").splitlines() if f'id: "{kernel.id}"' in line
    )
    assert "[Range { min: 8, max: 8, multiple: 1 }, Range { min: 4096, max: 4096" in rust


def test_the_fields_of_params_have_offsets_in_c_and_rust(document: Document) -> None:
    for number, name in enumerate(PARAMS_FIELDS):
        assert f"GEMMTUNE_PARAM_{name.upper()} {4 * number}" in source(document, "c-header")
        assert f"PARAM_{name.upper()}: usize = {4 * number};" in source(document, "rust")


# Commands


def test_export_and_import_as_commands(
    tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMMTUNE_DB", str(path))  # not there yet: only the shipped one is read
    out = tmp_path / "h100.json"
    shapes = ["--shapes", "512x512x512", "--dtype", "f32"]
    assert main(["export", "--device", "h100", *shapes, "-o", str(out)]) == 0
    found = re.search(r"\d problems, ([1-9]\d*) results", capsys.readouterr().out)
    assert found
    assert main(["import", "--check", str(out)]) == 0
    assert not path.exists()
    assert main(["import", str(out)]) == 0
    assert f"{found[1]} new results, 0 known" in capsys.readouterr().out
    again = tmp_path / "again.json"
    assert main(["export", "--db", str(path), *shapes, "-o", str(again)]) == 0
    assert again.read_text() == out.read_text()


def test_wgsl_in_files_of_its_own(tmp_path: Path, path: Path) -> None:
    out, folder = tmp_path / "h100.json", tmp_path / "wgsl"
    args = ["--db", str(SHIPPED), "--shapes", "512x512x512", "--dtype", "f32", "-o", str(out)]
    assert main(["export", *args, "--wgsl-dir", str(folder)]) == 0
    data = json.loads(out.read_text())
    jsonschema.validate(data, schema())
    for name, kernel in data["kernels"].items():
        assert "wgsl" not in kernel
        assert kernel["wgsl_file"] == f"{name}.wgsl"
        assert "@compute" in (folder / kernel["wgsl_file"]).read_text()
    assert main(["import", str(out), "--db", str(path)]) == 0


def test_the_module_for_web_pages_comes_along(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    args = ["--db", str(SHIPPED), "--shapes", "512x512x512", "--dtype", "f32", "--dialect", "tint"]
    assert main(["export", *args, "--js", "-o", str(out)]) == 0
    for name in ("gemmtune.js", "gemmtune.d.ts"):
        assert (tmp_path / name).read_bytes() == (data_path("js") / name).read_bytes()
    assert main(["export", *args, "--js"]) == 2


def test_commands_say_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(tmp_path / "none.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert main(["export", "--db", str(SHIPPED), "--format", "rust", "--wgsl-dir", "x"]) == 2
    assert "--format json" in capsys.readouterr().err
    one = ["--db", str(SHIPPED), "--shapes", "512x512x512", "--dtype", "f32"]
    assert main(["export", *one, "-o", str(tmp_path / "no" / "x.json")]) == 1
    assert "cannot be written" in capsys.readouterr().err
