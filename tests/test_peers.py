"""The comparison with peers runs where there are none, goes on, and makes table and plot."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "tests" / "fixtures" / "peers.json"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", ROOT / "benchmarks" / script, *arguments]
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )


def cells(table: str, heading: str, shape: str) -> dict[str, str]:
    """One row of a table, by the names of its columns."""
    _, _, section = table.partition(f"## {heading}\n")
    lines = [line.strip("| ").split(" | ") for line in section.split("##")[0].splitlines() if line]
    (row,) = (line for line in lines if line[0] == shape)
    return {name: cell.strip() for name, cell in zip(lines[0], row, strict=False)}


def test_table_has_shares_of_cublas_and_of_the_roofline() -> None:
    done = run("plot_peers.py", RESULTS)

    assert done.returncode == 0, done.stderr
    row = cells(done.stdout, "llama, f32", "1x4096x4096")
    # The fixture has cuBLAS at 0.8 of our time, and us at 1500 of 2000 GB/s.
    assert (row["share of cuBLAS"], row["of it"], row["gain"]) == ("80%", "75%", "2.00x")
    assert "in cache for onnxruntime-webgpu" in done.stdout
    assert "Geometric mean of the speed: 2.00 times default (3 problems)" in done.stdout


def test_table_says_what_failed_and_leaves_unknown_ceilings_empty(tmp_path: Path) -> None:
    done = run("plot_peers.py", RESULTS, "--table", tmp_path / "table.md")

    assert done.returncode == 0, done.stderr
    table = (tmp_path / "table.md").read_text()
    assert cells(table, "square, f16", "512x512x512")["of it"] == ""
    assert cells(table, "square, f16", "1024x1024x1024")["kernel"] == "failed"
    assert "Left out, onnxruntime-webgpu: no answer within 60 s" in table


def test_two_files_are_compared_by_contestant(tmp_path: Path) -> None:
    again = json.loads(RESULTS.read_text("utf-8"))
    row = next(row for row in again["rows"] if "gemmtune" in row["entries"])
    entry = row["entries"]["gemmtune"]
    entry["rounds_ns"] = [1.25 * time_ns for time_ns in entry["rounds_ns"]]
    other = tmp_path / "again.json"
    other.write_text(json.dumps(again), "utf-8")
    done = run("plot_peers.py", RESULTS, "--again", other)
    assert done.returncode == 0, done.stderr
    _, _, section = done.stdout.partition("## Run again\n")
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    found = {name: rest for name, *rest in lines}
    assert found["gemmtune"][2] == "25.0%"
    assert found["gemmtune"][3].startswith(row["key"].partition(":")[0])
    assert found["default"][1:3] == ["0.0%", "0.0%"]


def test_plot_has_a_panel_for_each_measure_and_the_same_text_every_time(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.svg", "b.svg", "a.png")]
    done = run("plot_peers.py", RESULTS, *(word for file in files for word in ("--plot", file)))

    assert done.returncode == 0, done.stderr
    said = " ".join("".join(e.itertext()) for e in ElementTree.parse(files[0]).iter())
    for text in ("share of roofline", "llama", "1x4096x4096", "onnxruntime-webgpu"):
        assert text in said
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_results_of_something_else_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"format": 7}')

    done = run("plot_peers.py", tmp_path / "other.json")

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "other.json has no results of peers.py" in done.stderr


@pytest.mark.usefixtures("executor")
def test_a_run_that_was_stopped_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    output, shapes = tmp_path / "peers.json", tmp_path / "thin.txt"
    shapes.write_text("1x64x32\n8x16x24 dtype=f16\n")
    few = ("--rounds", 2, "--copy-gbps", 2, "--peak-tflops", "f32=1", "--output", output)

    nothing = run("peers.py", "--shape", "16x16x16", *few, "--limit-s", 0)
    assert nothing.returncode == 0, nothing.stderr
    assert "1 of 1 problems left" in nothing.stderr
    assert not output.exists()

    first = run("peers.py", "--shape", "16x16x16", *few)
    assert first.returncode == 0, first.stderr
    (kept,) = json.loads(output.read_text())["rows"]
    both = run("peers.py", "--shape", "16x16x16", "--shapes-file", shapes, *few)

    assert both.returncode == 0, both.stderr
    data = json.loads(output.read_text())
    assert len(data["sessions"]) == 2
    assert kept in data["rows"]
    assert {(row["group"], row["gemm"]["m"], row["session"]) for row in data["rows"]} == {
        ("shapes", 16, 0),
        ("thin", 1, 1),
        ("thin", 8, 1),
    }
    for row in data["rows"]:
        for name in ("gemmtune", "default"):
            entry = row["entries"][name]
            assert len(entry["rounds_ns"]) == 2
            assert entry["time_ns"] > 0
            assert entry["inputs"] == "cold"
        assert {*row["entries"], *row["failures"]} >= {"cuBLAS", "onnxruntime-webgpu"}
    refused = run("peers.py", "--shape", "16x16x16", *few, "--rounds", 3)
    assert refused.returncode == 1
    assert "give a new --output" in refused.stderr


@pytest.fixture
def contestants(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield import_module("contestants")
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == ROOT / "benchmarks":
            del sys.modules[name]


class FakeTorch:
    """What `contestants._recorded` uses of PyTorch: a device that takes 10 us for a product."""

    def __init__(self) -> None:
        self.launched: list[int] = []
        self.graphs: list[list[int]] = []
        torch = self

        class Event:
            def __init__(self, *, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = len(torch.launched)

            def synchronize(self) -> None: ...

            def elapsed_time(self, other: Event) -> float:
                return 0.01 * (other.at - self.at)  # milliseconds

        class Graph:
            def replay(self) -> None:
                torch.launched += torch.graphs[-1]

        @contextmanager
        def graph(_: Graph) -> Iterator[None]:
            before = list(torch.launched)
            yield
            torch.graphs.append(torch.launched[len(before) :])
            torch.launched = before  # recorded, not run

        stream = SimpleNamespace(wait_stream=lambda _: None)
        self.cuda = SimpleNamespace(
            Event=Event,
            CUDAGraph=Graph,
            graph=graph,
            Stream=lambda: stream,
            current_stream=lambda: stream,
            stream=lambda _: nullcontext(),
        )

    def matmul(self, a: int, _: int, *, out: object) -> None:
        assert out == "out"
        self.launched.append(a)


@pytest.mark.parametrize(("pairs", "count"), [(1, 100), (3, 102), (200, 200)])
def test_a_graph_goes_through_all_pairs_and_takes_a_millisecond(
    contestants: ModuleType, pairs: int, count: int
) -> None:
    torch = FakeTorch()
    replay, products = contestants._recorded([(i, i) for i in range(pairs)], "out", torch)
    assert products == count
    (graph,) = torch.graphs
    assert graph == [i % pairs for i in range(count)]
    before = len(torch.launched)
    replay()
    assert torch.launched[before:] == graph
