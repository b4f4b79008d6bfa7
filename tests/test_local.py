"""Real kernels on the adapter: right ones pass, and every way to be wrong is caught and named."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import QUICK
from gemmtune import reference
from gemmtune.device import Device
from gemmtune.errors import DeviceError
from gemmtune.executors import list_devices
from gemmtune.executors.local import adapters
from gemmtune.executors.local.gpu import Dispatch, Gpu, JobError, one_line
from gemmtune.executors.local.operands import POISON, Helpers, Operands, kernel_bindings
from gemmtune.executors.local.runner import KEPT_KERNELS, MOST_AGAIN, Compiled, Runner
from gemmtune.executors.local.stock import KEPT_BYTES, Company, kept_bytes
from gemmtune.executors.local.timing import Plan, Stopwatch, plan
from gemmtune.executors.local.verify import HOST_PRODUCTS, Expected, Verifier
from gemmtune.executors.pool import Pool, worker_command
from gemmtune.job import Failure, Job, Measurement, Outcome
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Kernel, Launch, ceil_div
from gemmtune.kernels.naive import NaiveConfig
from gemmtune.problem import Gemm
from gemmtune.render import render

RunKernel = Callable[[Gemm, Kernel], Outcome]

HEADER = """
struct Params {
  m: u32, n: u32, k: u32, batch: u32, stride_a: u32, stride_b: u32, stride_c: u32,
  first_workgroup: u32, last_workgroup: u32, alpha: f32, beta: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;

fn value(row: u32, col: u32, matrix: u32) -> f32 {
  var sum = 0.0;
  for (var k = 0u; k < params.k; k++) {
    sum += a[matrix * params.stride_a + row * params.k + k]
      * b[matrix * params.stride_b + k * params.n + col];
  }
  return sum;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
  let id = params.first_workgroup + wid.y * groups.x + wid.x;
  if (id >= params.last_workgroup) { return; }
  let one = params.m * params.n;
  let element = id * 64u + tid;
  let matrix = element / max(one, 1u);
  let inside = element % max(one, 1u);
  let row = inside / max(params.n, 1u);
  let col = inside % max(params.n, 1u);
  let at = matrix * params.stride_c + inside;
  let exists = matrix < params.batch && one > 0u;
"""
PASS = HEADER[HEADER.index("@compute") :].replace("fn main", "fn last")
RIGHT = "if (exists) { c[at] = value(row, col, matrix); }"
GEMM = Gemm(m=20, n=30, k=10)


def written(body: str, gemm: Gemm = GEMM) -> Kernel:
    """A kernel by hand: the end of ``main``, after HEADER."""
    workgroups = ceil_div(gemm.m * gemm.n * gemm.batch, 64)
    return Kernel(
        family="naive",
        config=NaiveConfig(),
        wgsl=f"{HEADER}{body}\n}}\n",
        launches=(Launch(workgroups=workgroups, workgroup_size=(64, 1, 1)),),
    )


def in_two_passes(first: str = "{ workspace[at] = value(row, col, matrix); }") -> Kernel:
    """One pass leaves C in the workspace, the next copies it; elements are those of GEMM."""
    kernel = written(f"if (exists) {first}")
    binding = "@group(0) @binding(5) var<storage, read_write> workspace: array<f32>;\n"
    last = written("if (exists) { c[at] = workspace[at]; }").wgsl.replace(HEADER, PASS)
    (launch,) = kernel.launches
    return replace(
        kernel,
        wgsl=kernel.wgsl.replace("\nfn value", f"{binding}\nfn value") + last,
        launches=(launch, replace(launch, entry_point="last")),
        workspace_bytes=4 * GEMM.elements("c"),
    )


def message(outcome: Outcome, kind: str) -> str:
    assert isinstance(outcome.result, Failure), outcome
    assert outcome.result.kind == kind, outcome
    return outcome.result.message


def assert_right(outcome: Outcome) -> Measurement:
    assert isinstance(outcome.result, Measurement), outcome
    assert 0.0 <= outcome.result.max_abs_error <= outcome.result.tolerance
    assert outcome.result.time_ns > 0.0
    return outcome.result


# Whole jobs, in a worker


PROBLEMS = [
    Gemm(m=33, n=65, k=17),
    Gemm(m=1, n=1, k=1),
    Gemm(m=1, n=300, k=7, trans_b=True),
    Gemm(m=5, n=3, k=0),
    Gemm(m=5, n=3, k=0, beta=2.0, bias=True, activation="relu"),
    Gemm(m=0, n=4, k=4),
    Gemm(m=4, n=4, k=4, batch=0),
    Gemm(m=17, n=19, k=23, batch=3, stride_a=0, stride_b=500, stride_c=331, trans_a=True),
    Gemm(m=30, n=31, k=64, alpha=0.3, beta=-0.7, bias=True, activation="gelu"),
    Gemm(m=31, n=33, k=65, a="f16", b="f16", c="f16", beta=1.0, bias=True, activation="silu"),
    Gemm(m=31, n=33, k=65, a="f16", b="f16", c="f16", acc="f16", batch=2, stride_c=1025),
    Gemm(m=9, n=9, k=9, a="f16", b="f16", c="f16", alpha=1e6),
]


@pytest.mark.parametrize("gemm", PROBLEMS, ids=lambda gemm: gemm.key)
def test_the_naive_kernel_is_right_against_float64(
    gemm: Gemm, run_kernel: RunKernel, device: Device
) -> None:
    assert_right(run_kernel(gemm, render("naive", NaiveConfig(), gemm, device)))


@pytest.mark.parametrize(
    "gemm",
    [
        Gemm(m=200, n=210, k=110),
        Gemm(m=130, n=130, k=130, batch=2, stride_c=17001, beta=0.5, bias=True, activation="gelu"),
        Gemm(m=200, n=210, k=110, a="f16", b="f16", c="f16", beta=0.5, bias=True),
        Gemm(m=200, n=210, k=110, a="f16", b="f16", c="f16", acc="f16", trans_a=True),
    ],
    ids=lambda gemm: gemm.key,
)
def test_tiled_is_right_against_the_naive_kernel_on_the_device(
    gemm: Gemm, run_kernel: RunKernel, device: Device
) -> None:
    assert gemm.m * gemm.n * gemm.k * gemm.batch > HOST_PRODUCTS
    config = FAMILIES["tiled"].default(gemm, device)

    assert_right(run_kernel(gemm, render("tiled", config, gemm, device)))


def test_a_kernel_by_hand_is_right(run_kernel: RunKernel) -> None:
    assert_right(run_kernel(GEMM, written(RIGHT)))


def test_wgsl_that_does_not_compile_is_a_compile_failure(run_kernel: RunKernel) -> None:
    said = message(run_kernel(GEMM, written("let x: f32 = 1u;")), "compile")

    assert "x" in said
    assert "\n" not in said


def test_an_unchecked_kernel_is_right(run_kernel: RunKernel) -> None:
    assert_right(run_kernel(GEMM, replace(written(RIGHT), unchecked=True)))


def test_wgsl_that_does_not_compile_unchecked_is_a_compile_failure(run_kernel: RunKernel) -> None:
    kernel = replace(written("let x: f32 = 1u;"), unchecked=True)

    said = message(run_kernel(GEMM, kernel), "compile")

    assert "x" in said
    assert "\n" not in said


def test_a_kernel_with_other_bindings_is_a_validation_failure(run_kernel: RunKernel) -> None:
    kernel = written(RIGHT)
    other = replace(kernel, wgsl=kernel.wgsl.replace("@binding(3)", "@binding(7)"))

    assert message(run_kernel(GEMM, other), "validation")


def test_a_problem_that_no_binding_holds_is_a_validation_failure(
    run_kernel: RunKernel, device: Device
) -> None:
    rows = device.limits.storage_binding_bytes // 4 + 1

    said = message(run_kernel(Gemm(m=rows, n=1, k=1), written(RIGHT)), "validation")

    assert "one binding of this device holds" in said


def test_one_wrong_element_is_caught_and_named(run_kernel: RunKernel) -> None:
    off = RIGHT.replace("matrix);", "matrix) + select(0.0, 0.5, row == 19u && col == 29u);")

    said = message(run_kernel(GEMM, written(off)), "wrong_result")

    assert "1 of 600 elements wrong, the first at (batch 0, row 19, column 29): " in said
    assert "largest error 0.5, allowed " in said


def test_an_element_that_was_never_written_is_caught(run_kernel: RunKernel) -> None:
    hole = RIGHT.replace("exists", "exists && element != 599u")

    said = message(run_kernel(GEMM, written(hole)), "wrong_result")

    assert "nan instead of" in said
    assert "largest error not a number" in said


def test_not_a_number_is_not_equal_to_anything(run_kernel: RunKernel) -> None:
    bad = "if (exists) { c[at] = bitcast<f32>(0x7fc00000u + min(params.k, 1u)); }"

    assert "600 of 600" in message(run_kernel(GEMM, written(bad)), "wrong_result")


def test_writing_past_the_end_of_c_is_caught(run_kernel: RunKernel) -> None:
    beyond = RIGHT + " if (element == 0u) { c[605] = 0.0; }"

    said = message(run_kernel(GEMM, written(beyond)), "wrong_result")

    assert said == "writes past the end of C: 1 elements, the first 5 after its last"


def test_writing_between_the_matrices_of_c_is_caught(run_kernel: RunKernel) -> None:
    gemm = replace(GEMM, batch=3, stride_c=611)
    beyond = RIGHT + " if (element == 0u) { c[611 + 602] = 0.0; }"

    assert_right(run_kernel(gemm, written(RIGHT, gemm)))
    said = message(run_kernel(gemm, written(beyond, gemm)), "wrong_result")

    assert said == "writes between the matrices of C: 1 elements, the first at 1213"


def test_using_what_lies_beyond_an_input_is_caught(run_kernel: RunKernel) -> None:
    beyond = RIGHT.replace("matrix);", "matrix) + b[300u + min(params.k, 1u)];")

    assert "600 of 600" in message(run_kernel(GEMM, written(beyond)), "wrong_result")


def test_adding_to_old_c_is_caught_when_beta_is_zero(run_kernel: RunKernel) -> None:
    adds = RIGHT.replace("c[at] = ", "c[at] += ")

    assert "600 of 600" in message(run_kernel(GEMM, written(adds)), "wrong_result")


def test_passes_run_in_order_over_one_workspace(run_kernel: RunKernel) -> None:
    kernel = in_two_passes()

    assert_right(run_kernel(GEMM, kernel))
    assert_right(run_kernel(replace(GEMM, beta=0.0), kernel))
    backwards = replace(kernel, launches=kernel.launches[::-1])
    assert "600 of 600" in message(run_kernel(GEMM, backwards), "wrong_result")


def test_using_what_no_pass_wrote_to_the_workspace_is_caught(run_kernel: RunKernel) -> None:
    assert_right(run_kernel(GEMM, in_two_passes()))  # and leaves nothing for the next one
    but_one = in_two_passes("{ if (at != 599u) { workspace[at] = value(row, col, matrix); } }")

    said = message(run_kernel(GEMM, but_one), "wrong_result")

    assert said.startswith("1 of 600 elements wrong, the first at (batch 0, row 19, column 29)")


def test_writing_past_the_workspace_is_caught(run_kernel: RunKernel) -> None:
    beyond = in_two_passes("{ workspace[at] = value(row, col, matrix); workspace[601] = 0.0; }")

    said = message(run_kernel(GEMM, beyond), "wrong_result")

    assert said == "writes past the end of its workspace"


def test_an_entry_point_that_is_not_there_is_a_failure(run_kernel: RunKernel) -> None:
    kernel = written(RIGHT)
    other = replace(kernel, launches=(replace(kernel.launches[0], entry_point="other"),))

    assert "other" in message(run_kernel(GEMM, other), "validation")


def test_a_kernel_that_runs_for_ever_is_killed_and_the_next_one_runs(executor: Pool) -> None:
    # Some software drivers leave any loop after 65535 rounds: many workgroups make up for that.
    endless = written("""
      var x = f32(tid);
      for (var i = 0u; i < 4000000000u; i++) {
        for (var j = 0u; j < 4000000000u; j++) { x = sin(x) + cos(x * f32(i)) + exp2(x - f32(j)); }
      }
      if (exists) { c[at] = x; }""")
    many = replace(endless.launches[0], workgroups=1_000_000)
    endless = replace(endless, launches=(many,))
    executor.submit(Job(id=1, gemm=GEMM, kernel=endless, run_limit_s=1.0))
    executor.submit(Job(id=2, gemm=GEMM, kernel=written(RIGHT)))

    first, second = executor.next(), executor.next()

    assert first is not None
    assert "the worker was killed" in message(first, "timeout")
    assert second is not None
    assert_right(second)


# Parts of it, in this process


@pytest.fixture(scope="module")
def gpu(device: Device) -> Gpu:
    """The same adapter, opened here."""
    return Gpu(device.key)


@pytest.fixture(scope="module")
def helpers(gpu: Gpu) -> Helpers:
    return Helpers(gpu)


@pytest.fixture(scope="module")
def watch(gpu: Gpu, helpers: Helpers) -> Stopwatch:
    return Stopwatch(gpu, helpers.load(gpu.buffer(4096), gpu.buffer(4096)))


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("stride", [None, 37])
def test_inputs_on_the_device_are_those_of_numpy_and_poison_surrounds_them(
    gpu: Gpu, helpers: Helpers, dtype: Any, stride: int | None
) -> None:
    gemm = Gemm(m=5, n=3, k=7, batch=3, a=dtype, b=dtype, c=dtype, stride_a=stride, beta=1.0)
    operands = Operands(gpu, helpers, gemm, seed=11)
    arrays = reference.inputs(gemm, 11)

    a = np.frombuffer(gpu.read(operands.a), arrays.a.dtype)
    inside = np.arange(len(a)) < arrays.a.size
    inside &= np.arange(len(a)) % (stride or 35) < 35

    assert np.array_equal(a[inside], arrays.a[inside[: arrays.a.size]])
    assert np.isnan(a[~inside]).all()
    assert np.array_equal(np.frombuffer(gpu.read(operands.c), arrays.c.dtype)[:45], arrays.c)


def test_old_c_kept_in_f32_has_the_values_of_f16(gpu: Gpu, helpers: Helpers) -> None:
    gemm = Gemm(m=5, n=3, k=7, a="f16", b="f16", c="f16", beta=1.0)
    operands = Operands(gpu, helpers, gemm, seed=11, c_dtype="f32")

    c = np.frombuffer(gpu.read(operands.c), np.float32)[:15]

    assert np.array_equal(c, reference.inputs(gemm, 11).c.astype(np.float32))


def test_a_kernel_that_differs_between_runs_is_caught(
    gpu: Gpu, helpers: Helpers, watch: Stopwatch
) -> None:
    expected = Expected(gpu, helpers, lambda: watch, GEMM, 0, 0.2)
    operands = Operands(gpu, helpers, GEMM, 0)
    nudged = RIGHT.replace("matrix);", "matrix) + select(0.0, 1e-6, element == 37u);")
    pipelines = [
        gpu.pipeline(written(body).wgsl, kernel_bindings(GEMM)) for body in (RIGHT, nudged)
    ]
    turns = iter(pipelines)

    def run() -> None:
        gpu.submit([[operands.dispatch(next(turns), 0, 10)]])

    with pytest.raises(JobError, match=r"differs between two runs.* 1 words.*row 1, column 7"):
        Verifier(gpu, helpers, operands, expected).check(run)


def test_a_broken_reference_kernel_condemns_no_config_silently(
    gpu: Gpu, helpers: Helpers, watch: Stopwatch
) -> None:
    expected = Expected(gpu, helpers, lambda: watch, GEMM, 0, 0.2)
    gpu.write(expected.buffer, np.zeros(600, np.float32))

    with pytest.raises(JobError, match="naive kernel, against which this one is checked"):
        expected._check_spots(GEMM, 0)


class Ticker:
    """A stopwatch whose dispatches take a given time per workgroup."""

    def __init__(self, per_group_ns: float) -> None:
        self.per_group_ns = per_group_ns
        self.longest_ns = 0.0

    def launch(self, _first: int, count: int) -> Dispatch:
        return Dispatch(pipeline=None, bind_group=None, groups=(count, 1, 1))

    def passes_ns(self, passes: list[list[Dispatch]], *, apart: bool) -> list[float]:
        assert apart
        spans = [sum(d.groups[0] for d in one) * self.per_group_ns for one in passes]
        self.longest_ns = max(self.longest_ns, *spans)
        return spans


@pytest.mark.parametrize("per_group_ns", [1e2, 1e4, 1e6, 5e7])
@pytest.mark.parametrize("workgroups", [1, 7, 5000, 300_000])
def test_no_dispatch_is_planned_over_the_limit(per_group_ns: float, workgroups: int) -> None:
    ticker = Ticker(per_group_ns)

    found: Plan = plan(ticker, ticker.launch, workgroups, 0.2)  # type: ignore[arg-type]

    assert ticker.longest_ns <= 0.2e9
    assert max(count for _, count in found.parts) * per_group_ns <= 0.2e9
    assert found.parts[0][0] == 0
    ends = [first + count for first, count in found.parts]
    assert ends[:-1] == [first for first, _ in found.parts[1:]]
    assert ends[-1] == workgroups


class Waves(Ticker):
    """A device that runs 132 workgroups side by side, after so many calls at another speed."""

    def __init__(self, per_wave_ns: float, then_ns: float | None = None, after: int = 0) -> None:
        super().__init__(0.0)
        self.speeds = [per_wave_ns] * after + [per_wave_ns if then_ns is None else then_ns]
        self.counts: list[int] = []

    def passes_ns(self, passes: list[list[Dispatch]], *, apart: bool) -> list[float]:
        assert apart
        ((dispatch,),) = passes
        self.counts.append(count := dispatch.groups[0])
        speed = self.speeds.pop(0) if len(self.speeds) > 1 else self.speeds[0]
        return [ceil_div(count, 132) * speed + 5e3]


def planned(ticker: Ticker, workgroups: int, best_ns: float = math.inf) -> Plan:
    return plan(ticker, ticker.launch, workgroups, 0.2, best_ns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("per_wave_ns", "best_ns", "most"),
    [
        (600e6, 3.5e6, 1),  # 19 s in all
        (20e6, 3.5e6, 640),  # 640 ms
        (3e6, 0.45e6, 1600),  # 96 ms
        (30e6, 1e6, 260),  # 960 ms
    ],
)
def test_a_pass_far_slower_than_the_best_is_given_up_by_a_part_of_it(
    per_wave_ns: float, best_ns: float, most: int
) -> None:
    ticker = Waves(per_wave_ns)

    with pytest.raises(JobError, match=r"of 4096 workgroups took .* times the fastest") as caught:
        planned(ticker, 4096, best_ns)

    assert caught.value.kind == "too_slow"
    assert max(ticker.counts) <= most
    assert ticker.counts[-1] == ticker.counts[-2]  # it was looked at twice


def test_what_gave_a_pass_up_is_said_in_numbers() -> None:
    with pytest.raises(JobError) as caught:
        planned(Ticker(75e6), 1000, 2.5e6)

    assert str(caught.value) == (
        "1 of 1000 workgroups took 75 ms: about 75,000 ms in all, 30,000 times the fastest, 2.5 ms"
    )


@pytest.mark.parametrize(
    ("ticker", "best_ns"),
    [
        (Waves(600e6), math.inf),  # nothing to compare with
        (Waves(110e3), 110e3 * 32),  # the best itself: one workgroup of 4096 takes 1/32 of it
        (Waves(5 * 110e3, 110e3, after=3), 110e3 * 32),  # a clock that comes up only later
        (Waves(5 * 2e6), 2e6 * 32),  # one that never does
        (Waves(1.5e6), 1.0),  # 48 ms cost nothing
        (Waves(900e6, 110e3, after=1), 110e3 * 32),  # held up once
        (Waves(55e6), 100e6),  # one workgroup of 4096 takes more than half of it
    ],
)
def test_no_pass_is_given_up_for_other_reasons(ticker: Waves, best_ns: float) -> None:
    assert sum(count for _, count in planned(ticker, 4096, best_ns).parts) == 4096


def test_parts_grow_while_the_device_has_room_for_more_workgroups() -> None:
    found = planned(Waves(20e6), 4096)

    assert found.parts[0][1] > 132
    assert found.time_ns < 1e9


def test_a_problem_in_parts_is_as_right_as_in_one(gpu: Gpu) -> None:
    gemm = Gemm(m=64, n=64, k=32)
    runner = Runner(gpu.device.key, replace(QUICK, dispatch_limit_s=1e-6))
    job = Job(id=1, gemm=gemm, kernel=render("naive", NaiveConfig(), gemm, gpu.device))
    compiled = runner.compile(job)
    assert isinstance(compiled, Compiled)

    assert_right(runner.run(compiled))


def test_passes_in_parts_are_as_right_as_whole(gpu: Gpu) -> None:
    runner = Runner(gpu.device.key, replace(QUICK, dispatch_limit_s=1e-6, cache="cold"))
    compiled = runner.compile(Job(id=1, gemm=GEMM, kernel=in_two_passes()))
    assert isinstance(compiled, Compiled)

    assert_right(runner.run(compiled))


@pytest.mark.parametrize(("best_ns", "samples"), [(None, 9), (1e12, 9), (1.0, 3)])
def test_a_config_out_of_the_best_ones_reach_gets_few_samples(
    gpu: Gpu, best_ns: float | None, samples: int
) -> None:
    runner = Runner(gpu.device.key, replace(QUICK, min_repetitions=9, max_repetitions=9))
    compiled = runner.compile(Job(id=1, gemm=GEMM, kernel=written(RIGHT), best_ns=best_ns))
    assert isinstance(compiled, Compiled)

    assert assert_right(runner.run(compiled)).repetitions == samples


@pytest.mark.parametrize("kernel", [written("if (exists) { c[at] = 1.0; }"), in_two_passes()])
def test_a_kernel_out_of_reach_by_far_is_never_verified(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, kernel: Kernel
) -> None:
    monkeypatch.setattr("gemmtune.executors.local.timing.HOPELESS_NS", 0.0)
    runner = Runner(gpu.device.key, QUICK)

    def outcome(best_ns: float | None) -> Outcome:
        compiled = runner.compile(Job(id=1, gemm=GEMM, kernel=kernel, best_ns=best_ns))
        assert isinstance(compiled, Compiled)
        return runner.run(compiled)

    with monkeypatch.context() as patch:
        patch.delattr(Verifier, "check")
        said = message(outcome(1.0), "too_slow")
    assert "of 10 workgroups took" in said
    assert said.endswith("times the fastest, 1e-06 ms")

    for best_ns in (None, 1e15):
        if len(kernel.launches) > 1:
            assert_right(outcome(best_ns))
        else:
            message(outcome(best_ns), "wrong_result")


def test_cold_inputs_are_measured_too(gpu: Gpu) -> None:
    runner = Runner(gpu.device.key, replace(QUICK, cache="cold"))
    compiled = runner.compile(Job(id=1, gemm=GEMM, kernel=written(RIGHT)))
    assert isinstance(compiled, Compiled)

    assert_right(runner.run(compiled))


def test_workers_hand_over_the_right_answer_of_a_large_problem(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gemm = Gemm(m=256, n=256, k=128)
    job = Job(id=1, gemm=gemm, kernel=render("naive", NaiveConfig(), gemm, gpu.device))
    company = Company(workers=2, folder=tmp_path)

    def outcome() -> Outcome:
        runner = Runner(gpu.device.key, QUICK)
        compiled = runner.compile(job)
        assert isinstance(compiled, Compiled)
        return runner.run(compiled, 0.0, company)

    (tmp_path / "of the problem before").touch()
    assert_right(outcome())
    (path,) = tmp_path.iterdir()

    with monkeypatch.context() as patch:
        patch.delattr(Expected, "_compute")
        assert_right(outcome())
        path.write_bytes(bytes(path.stat().st_size))
        assert "elements wrong" in message(outcome(), "wrong_result")

    path.write_bytes(b"half")  # of another size: not what is meant
    assert_right(outcome())
    assert path.stat().st_size > gemm.m * gemm.n * 4


def test_buffers_are_made_ahead_where_the_right_answer_takes_no_kernel(
    device: Device, tmp_path: Path
) -> None:
    gemm = Gemm(m=256, n=256, k=128)
    job = Job(id=1, gemm=gemm, kernel=render("naive", NaiveConfig(), gemm, device))
    small = replace(job, gemm=GEMM, kernel=render("naive", NaiveConfig(), GEMM, device))
    company = Company(workers=2, folder=tmp_path)

    def run(runner: Runner) -> Outcome:
        compiled = runner.compile(job)
        assert isinstance(compiled, Compiled)
        outcome = runner.run(compiled, company=company)
        assert_right(outcome)
        return outcome

    first, second = Runner(device.key, QUICK), Runner(device.key, QUICK)
    assert first.stock.lacks(small, company)
    assert not first.stock.lacks(job, company)
    assert run(first).ahead_s == 0.0
    assert second.stock.lacks(job, company)
    assert not second.stock.lacks(job, Company(workers=2))
    second.stock.make(job, company)

    assert not second.stock.lacks(job, company)
    assert run(second).ahead_s > 0.0
    assert run(second).ahead_s == 0.0


@pytest.fixture(scope="module")
def timed(device: Device) -> Runner:
    """One that times its reference kernel too."""
    return Runner(device.key, replace(QUICK, warmup_s=0.01, min_time_s=0.001))


@pytest.mark.parametrize(
    ("usual_ns", "best_ns", "again"),
    [
        (None, None, 0),
        ((0.0, 1e12), None, 0),
        ((1.0, 2.0), None, MOST_AGAIN),
        ((1e12, 2e12), None, MOST_AGAIN),
        ((1e12, 2e12), 1e-3, 0),
    ],
)
def test_a_kernel_is_timed_again_where_the_device_is_not_as_usual(
    device: Device,
    timed: Runner,
    usual_ns: tuple[float, float] | None,
    best_ns: float | None,
    again: int,
) -> None:
    kernel = render("naive", NaiveConfig(), GEMM, device)
    compiled = timed.compile(Job(id=1, gemm=GEMM, kernel=kernel, best_ns=best_ns))
    assert isinstance(compiled, Compiled)

    outcome = timed.run(compiled, usual_ns=usual_ns)

    assert outcome.again == again
    assert outcome.reference_ns is not None
    assert_right(outcome)


def test_workers_of_a_parent_that_was_killed_leave_no_folder(device: Device) -> None:
    gemm = Gemm(m=256, n=256, k=128)
    pool = Pool(worker_command(device.key, QUICK), workers=1)
    pool.submit(Job(id=1, gemm=gemm, kernel=render("naive", NaiveConfig(), gemm, device)))
    outcome = pool.next()
    assert outcome is not None
    assert_right(outcome)
    folder = Path(pool._folder.name)
    assert list(folder.iterdir())

    for process in pool._workers:
        process.hang_up()  # what the end of this process would do, too

    until_s = time.monotonic() + 60.0
    while folder.exists() and time.monotonic() < until_s:
        time.sleep(0.01)
    assert not folder.exists()
    pool.close()


@pytest.mark.parametrize(
    ("adapter_type", "workers", "kept"),
    [
        ("discrete", 15, 24 * 1024**3 // 15),
        ("discrete", 100, KEPT_BYTES),
        ("integrated", 2, KEPT_BYTES),
        ("cpu", 1, KEPT_BYTES),
    ],
)
def test_what_all_workers_keep_fits_the_device(
    device: Device, adapter_type: str, workers: int, kept: int
) -> None:
    limits = replace(device.limits, buffer_bytes=4 * 1024**3)
    large = replace(device, adapter_type=adapter_type, limits=limits)

    assert kept_bytes(large, workers) == kept


def test_a_large_problem_is_made_again_and_a_small_one_is_not(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    init = Expected.__init__

    def counted(self: Expected, *args: object) -> None:
        made.append(1)
        init(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Expected, "__init__", counted)
    runner = Runner(gpu.device.key, QUICK)
    compiled = runner.compile(Job(id=1, gemm=GEMM, kernel=written(RIGHT)))
    assert isinstance(compiled, Compiled)
    for _ in range(2):
        assert_right(runner.run(compiled))
    assert len(made) == 1

    monkeypatch.setattr("gemmtune.executors.local.stock.KEPT_BYTES", 1)
    for _ in range(2):
        assert_right(runner.run(compiled))
    assert len(made) == 2


def test_the_host_clock_stands_in_where_there_are_no_timestamps(
    gpu: Gpu, helpers: Helpers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "device", replace(gpu.device, features=()))
    load = helpers.load(gpu.buffer(4096), gpu.buffer(4096))

    watch = Stopwatch(gpu, load)

    assert watch.clock == "host"
    assert all(span > 0.0 for span in watch.passes_ns([[load], [load]], apart=False))


class FastGpu:
    """A device that is done with a dispatch in less time than it takes to encode one."""

    timestamp_period_ns = 1.0

    def __init__(self) -> None:
        self.device = Device(features=("timestamp-query",))
        self.now_s = 0.0
        self.ran = 0

    def query_set(self, count: int) -> object:
        return count

    def encode(self, passes: Sequence[Sequence[object]], _queries: object = None) -> int:
        count = sum(map(len, passes))
        self.now_s += 5e-6 * count
        return count

    def run(self, commands: int) -> None:
        self.ran = commands

    def submit(self, passes: Sequence[Sequence[object]], queries: object = None) -> None:
        self.run(self.encode(passes, queries))

    def wait(self) -> None:
        self.now_s += 2e-6 * self.ran + 2e-5

    def ticks(self, _queries: object, count: int) -> list[int]:
        return [2000 * self.ran * number for number in range(count)]


def test_clocks_agree_where_encoding_takes_longer_than_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast: Any = FastGpu()
    monkeypatch.setattr("gemmtune.executors.local.timing.time.perf_counter", lambda: fast.now_s)

    watch = Stopwatch(fast, "load")  # type: ignore[arg-type]

    assert watch.clock == "gpu"


def test_helper_kernels_write_nothing_but_what_they_say(gpu: Gpu, helpers: Helpers) -> None:
    buffer = gpu.buffer(1024)

    helpers.fill(buffer, GEMM, "a", None, "f32")

    assert set(struct.unpack("<256I", gpu.read(buffer))) == {POISON}


# Adapters


def test_list_devices_has_the_adapter_with_its_subgroup_size(device: Device) -> None:
    found = {each.key: each for each in list_devices()}

    assert found[device.key] == device
    assert device.subgroup_size > 0 or not device.has("subgroup")


@pytest.fixture
def machine() -> list[Device]:
    """A laptop: software, integrated and discrete adapters through several backends."""
    return [
        Device(name="llvmpipe", backend="vulkan", adapter_type="cpu"),
        Device(name="Big GPU", backend="opengl", adapter_type="discrete"),
        Device(name="Small GPU", backend="vulkan", adapter_type="integrated"),
        Device(name="Big GPU 4090", backend="vulkan", adapter_type="discrete"),
    ]


@pytest.mark.parametrize(
    ("selector", "index"),
    [
        ("", 3),
        ("0", 0),
        ("LLVM", 0),
        ("small", 2),
        ("opengl", 1),
        ("big", 3),
        (" 2 ", 2),
        ("4090", 3),
    ],
)
def test_choose_takes_the_best_that_matches(
    machine: list[Device], selector: str, index: int
) -> None:
    assert adapters.choose(machine, selector) == index


@pytest.mark.parametrize("selector", ["77", "amd"])
def test_choose_names_what_there_is(machine: list[Device], selector: str) -> None:
    with pytest.raises(DeviceError, match=rf"{selector}.*3: Big GPU 4090 \(vulkan\)"):
        adapters.choose(machine, selector)


def test_choose_says_what_to_install_where_there_is_nothing() -> None:
    with pytest.raises(DeviceError, match="apt install mesa-vulkan-drivers"):
        adapters.choose([])


def test_messages_become_one_line() -> None:
    assert one_line("error: bad\n  ┌─ wgsl:3:1\n  │\n3 │ x\n") == "error: bad | wgsl:3:1 | 3 │ x"
    assert len(one_line("x" * 5000)) == 600


def test_kernels_in_turn_are_compiled_once_and_the_oldest_is_forgotten(gpu: Gpu) -> None:
    runner = Runner(gpu.device.key, QUICK)

    def pipelines(number: int) -> tuple[Any, ...]:
        # Comments make them others to the compiler.
        kernel = written(f"{{ c[at] = value(row, col, matrix); }} // {number}")
        compiled = runner.compile(Job(id=number, gemm=GEMM, kernel=kernel))
        assert isinstance(compiled, Compiled)
        return compiled.pipelines

    first = pipelines(0)
    other = pipelines(1)
    assert pipelines(0) is first
    assert pipelines(1) is other
    for number in range(2, KEPT_KERNELS + 1):
        pipelines(number)
    assert pipelines(1) is other
    assert pipelines(0) is not first
