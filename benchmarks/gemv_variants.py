"""Where the time of thin products goes: many configs beside a copy, a read and an empty kernel.

    python benchmarks/gemv_variants.py > table.md

For each problem: hand-picked configs of `gemv`, and of `coopmat` where C has 16 rows, with and
without checks and prefetching, each verified, then timed with cold inputs in passes of one product
(alone, as tuning times what takes over 50 us) and of nine (in a row). The best are timed again, and
those times are shown. Of a split each pass is timed by itself, too. Copy, read and empty kernel are
timed in both ways, so that what a pass costs can be told from what a kernel costs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

# First, for it points wgpu at the library that grants native matrices.
from copy_bandwidth import copy_gbps

from gemmtune.device import Device, Fragment
from gemmtune.executors.local.gpu import Dispatch, Gpu, JobError
from gemmtune.executors.local.operands import Helpers, Operands, kernel_bindings
from gemmtune.executors.local.timing import Run, Stopwatch
from gemmtune.executors.local.verify import Expected, Verifier
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, Kernel
from gemmtune.kernels.coopmat_config import CoopmatConfig
from gemmtune.kernels.gemv_config import GemvConfig
from gemmtune.problem import Gemm
from gemmtune.render import render

F16 = {"a": "f16", "b": "f16", "c": "f16"}
PROBLEMS = [
    *(Gemm.parse("1x4096x14336", **F16, trans_b=trans_b) for trans_b in (False, True)),
    *(Gemm.parse("1x14336x4096", **F16, trans_b=trans_b) for trans_b in (False, True)),
    Gemm.parse("4096x1x14336", **F16),
    *(Gemm.parse("16x4096x4096", **F16, trans_b=trans_b) for trans_b in (False, True)),
]
IN_A_ROW = 9
ROTATED_BYTES = 2**29
WARM_S = 0.01
AGAIN = 10
"""Of the best, timed again."""
FRAGMENTS = (Fragment(size=16, ab="f16", acc="f32", storage=(1, 2, 4)),)
"""What an H100 can; a result that is wrong elsewhere is found out."""
READ = """
@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> target_: array<vec4<u32>>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let last = arrayLength(&source) - 1u;
  let stride = groups.x * 256u;
  var all = vec4<u32>();
  for (var i = id.x; i <= last; i += 4u * stride) {
    let v0 = source[i];
    let v1 = source[min(i + stride, last)];
    let v2 = source[min(i + 2u * stride, last)];
    let v3 = source[min(i + 3u * stride, last)];
    all ^= v0 ^ v1 ^ v2 ^ v3;
  }
  if (all.x == 0x9e3779b9u && all.y == 0x7f4a7c15u) { target_[id.x] = all; }
}
"""
READ_BINDINGS = ("read-only-storage", "storage")
READ_GRIDS = (528, 1056, 2112, 4224)

COMPILED = ((True, False), (False, False), (False, True))
"""checked, prefetch"""
ALONG_K = (
    # lanes_l, lanes_k, reg_l, vec, unroll_k, sg_lanes
    *((2, 64, 2, 4, 4, 1), (1, 256, 1, 4, 4, 1), (2, 64, 2, 8, 2, 1), (2, 64, 2, 8, 4, 1)),
    *((1, 32, 2, 8, 4, 32), (2, 32, 2, 8, 4, 32), (4, 32, 2, 8, 4, 32), (8, 32, 2, 8, 4, 32)),
    *((4, 32, 1, 8, 4, 32), (4, 32, 1, 8, 8, 32), (8, 32, 1, 8, 8, 32), (4, 32, 4, 8, 2, 32)),
    *((4, 32, 4, 8, 4, 32), (1, 128, 2, 8, 4, 1), (1, 128, 2, 8, 2, 1), (1, 256, 1, 8, 2, 1)),
    *((1, 256, 2, 8, 1, 1), (2, 128, 2, 8, 2, 1), (4, 64, 2, 8, 2, 1), (4, 64, 2, 4, 4, 1)),
)
ACROSS_K = (
    # lanes_l, lanes_k, reg_l, vec, unroll_k, split_k, sg_lanes
    *((16, 16, 4, 4, 4, 8, 1), (16, 16, 4, 4, 8, 8, 1), (16, 16, 4, 4, 16, 8, 1)),
    *((16, 16, 8, 8, 4, 16, 1), (16, 16, 8, 8, 8, 16, 1), (16, 16, 8, 8, 16, 16, 1)),
    *((32, 8, 8, 8, 4, 16, 1), (32, 8, 8, 8, 8, 16, 1), (32, 8, 8, 8, 8, 32, 1)),
    *((32, 16, 8, 8, 8, 16, 1), (64, 4, 8, 8, 8, 32, 1), (64, 8, 8, 8, 8, 32, 1)),
    *((128, 2, 8, 8, 8, 64, 1), (128, 4, 8, 8, 8, 64, 1), (256, 1, 8, 8, 8, 128, 1)),
    *((256, 1, 16, 8, 8, 128, 1), (8, 32, 8, 8, 8, 8, 32), (8, 64, 8, 8, 8, 4, 32)),
    *((8, 128, 8, 8, 8, 4, 32), (8, 128, 8, 8, 8, 2, 32), (8, 128, 8, 8, 4, 2, 32)),
    *((8, 64, 8, 8, 8, 1, 32), (8, 128, 8, 8, 4, 1, 32), (8, 128, 8, 8, 8, 1, 32)),
    *((4, 64, 8, 8, 8, 1, 32), (4, 256, 8, 8, 4, 1, 32), (4, 256, 8, 8, 8, 1, 32)),
    *((4, 64, 8, 8, 4, 2, 32), (4, 256, 4, 4, 8, 1, 32), (16, 32, 8, 8, 8, 4, 1)),
)
MATRICES = (
    # subgroups_n, subgroups_k, frags_n, tile_k, split_k, a_from, b_from
    *((1, 4, 1, 64, 1, "workgroup", "workgroup"), (1, 4, 2, 64, 1, "workgroup", "workgroup")),
    *((1, 4, 2, 64, 4, "workgroup", "workgroup"), (2, 1, 2, 64, 8, "workgroup", "workgroup")),
    *((4, 1, 1, 64, 8, "workgroup", "workgroup"), (4, 1, 1, 32, 16, "workgroup", "workgroup")),
    *((4, 1, 2, 64, 8, "workgroup", "workgroup"), (4, 1, 2, 64, 16, "workgroup", "workgroup")),
    *((2, 1, 2, 32, 8, "workgroup", "storage"), (1, 4, 1, 64, 2, "storage", "storage")),
    *((1, 4, 2, 64, 2, "storage", "storage"), (4, 1, 2, 64, 16, "storage", "storage")),
)


def variants(gemm: Gemm) -> Iterator[tuple[str, Config]]:
    """The most promising first."""
    side = "m" if gemm.m <= gemm.n else "n"
    along_k = gemm.trans_b if side == "m" else not gemm.trans_a
    short = min(gemm.m, gemm.n)
    names = ("lanes_l", "lanes_k", "reg_l", "vec", "unroll_k", "split_k")
    for (*sizes, sg_lanes), reg_s, (checked, prefetch) in product(
        ALONG_K if along_k else ACROSS_K,
        (1,) if short == 1 else (8, 16) if along_k else (8, 4),
        COMPILED,
    ):
        config: dict[str, Any] = {"split_k": 1} | dict(zip(names, sizes, strict=False))
        config |= {"side": side, "reg_s": reg_s, "sg_lanes": sg_lanes, "dims": "static"}
        yield "gemv", GemvConfig(**config, checked=checked, prefetch=prefetch)
    if short == 16:
        for (sn, sk, fn, tile_k, split_k, a_from, b_from), checked, load in product(
            MATRICES, (False, True), (8, 0)
        ):
            config = {"subgroups_n": sn, "subgroups_k": sk, "frags_n": fn, "tile_k": tile_k}
            config |= {"split_k": split_k, "a_from": a_from, "b_from": b_from, "checked": checked}
            config |= {
                "load": load,
                "frag": 16,
                "sg_size": 32,
                "subgroups_m": 1,
                "frags_m": 1,
                "vec": 4,
            }
            config |= {"pad": 8, "stages": 1, "prefetch": True, "order": "stream_a", "group_m": 1}
            yield "coopmat", CoopmatConfig(**config, dims="static")


def legal(gemm: Gemm, device: Device) -> list[Kernel]:
    """Kernels of the variants that can be."""
    chosen = [
        (family, config)
        for family, config in dict.fromkeys(variants(gemm))
        if not FAMILIES[family].check(config, gemm, device)
    ]
    return [render(family, config, gemm, device) for family, config in chosen]


@dataclass(slots=True, kw_only=True)
class Timed:
    """A kernel that is right, and the samples of it, in ns."""

    kernel: Kernel
    pipelines: tuple[Any, ...]
    alone: list[float] = field(default_factory=list)
    in_a_row: list[float] = field(default_factory=list)
    passes: list[list[float]] = field(default_factory=list)

    @property
    def time_ns(self) -> float:
        """Of a product alone, the median."""
        return statistics.median(self.alone)


class Bench:
    """One problem's operands, cold copies of its inputs, and what is timed over them."""

    def __init__(self, gpu: Gpu, helpers: Helpers, watch: Stopwatch, gemm: Gemm) -> None:
        self.gpu, self.watch, self.gemm = gpu, watch, gemm
        expected = Expected(gpu, helpers, lambda: watch, gemm, 0, 0.2)
        self.operands = Operands(gpu, helpers, gemm, 0)
        self.verifier = Verifier(gpu, helpers, self.operands, expected)
        self.inputs = self.operands.cold_inputs()

    def samples(
        self, variants: Sequence[Sequence[Dispatch]], count: int, each: int, warm_s: float = WARM_S
    ) -> list[float]:
        """Times of one product, ``each`` in a pass, after a warm-up."""
        run = Run(self.watch, variants, apart=False)
        began = time.perf_counter()
        while time.perf_counter() - began < warm_s:
            run.samples(1, 20)
        return run.samples(count, each)

    def dispatches(self, one: Timed, numbers: Sequence[int]) -> list[list[Dispatch]]:
        """These passes of a kernel, for each pair of inputs."""
        launches = one.kernel.launches
        return [
            [
                self.operands.dispatch(one.pipelines[i], 0, launches[i].workgroups, inputs=pair)
                for i in numbers
            ]
            for pair in self.inputs
        ]

    def verify(self, one: Timed) -> None:
        """Raises `JobError` where it is wrong."""
        self.operands.set_workspace(one.kernel.workspace_bytes)
        whole = self.dispatches(one, range(len(one.pipelines)))[0]
        self.verifier.check(lambda: self.gpu.submit([whole]))

    def time(self, one: Timed, count: int) -> None:
        """Adds samples, most of them of products alone."""
        self.operands.set_workspace(one.kernel.workspace_bytes)
        numbers = range(len(one.pipelines))
        whole = self.dispatches(one, numbers)
        one.alone = self.samples(whole, count, 1)
        one.in_a_row = self.samples(whole, max(3, count // 5), IN_A_ROW, 0.0)
        one.passes = [
            self.samples(self.dispatches(one, [i]), count // 2, 1, 0.0)
            for i in numbers
            if len(numbers) > 1
        ]

    def read(self) -> list[list[float]]:
        """The same for reading the large operand, by its fastest grid."""
        (pipeline,) = self.gpu.pipelines(READ, (READ_BINDINGS,), ("main",))
        large = max((0, 1), key=lambda i: self.inputs[0][i].size)
        target = self.gpu.buffer(1 << 26)
        groups = [self.gpu.bind_group(READ_BINDINGS, (pair[large], target)) for pair in self.inputs]
        found = []
        for grid in READ_GRIDS:
            whole = [
                [Dispatch(pipeline=pipeline, bind_group=group, groups=(grid, 1, 1))]
                for group in groups
            ]
            found.append([self.samples(whole, 20, 1), self.samples(whole, 7, IN_A_ROW, 0.0)])
        target.destroy()
        return [min((each[i] for each in found), key=statistics.median) for i in (0, 1)]

    def nothing(self, one: Timed) -> list[list[float]]:
        """The same for a kernel none of whose workgroups has anything to do."""
        empty = [[self.operands.dispatch(one.pipelines[0], 0, 0)]]
        return [self.samples(empty, 20, 1), self.samples(empty, 7, IN_A_ROW, 0.0)]

    def close(self) -> None:
        """Gives the memory back now."""
        self.verifier.free()


def us(samples: Sequence[float]) -> str:
    return f"{statistics.median(samples) / 1e3:.1f}"


def spread(samples: Sequence[float]) -> str:
    first, _, third = statistics.quantiles(samples, n=4, method="inclusive")
    return f"{(third - first) / statistics.median(samples):.1%}"


def show(timed: list[Timed], again: int, copies: Sequence[float]) -> None:
    """The table of one problem, the fastest first; ``copies`` alone and in a row, in ns.

    The goal is stated against copies in a row; alike: the kernel alone against a copy alone.
    """
    print("| us | spread | in a row | 1st pass | 2nd pass | of a copy | alike | config |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for place, one in enumerate(timed):
        parts = [us(samples) for samples in one.passes] or ["", ""]
        cells = [us(one.alone), spread(one.alone), us(one.in_a_row), *parts]
        cells += [f"{copies[1] / one.time_ns:.0%}", f"{copies[0] / one.time_ns:.0%}"]
        name = "" if one.kernel.family == "gemv" else f"{one.kernel.family} "
        mark = "" if place < again else " (once)"
        print(f"| {' | '.join(cells)} | {name}`{one.kernel.config.key}`{mark} |")
    print(flush=True)


def compiled(gemm: Gemm, jobs: list[tuple[Kernel, Future[tuple[Any, ...]]]]) -> Iterator[Timed]:
    """Those that the driver takes, as they are wanted."""
    for kernel, job in jobs:
        try:
            yield Timed(kernel=kernel, pipelines=job.result())
        except JobError as failure:
            print(f"{gemm.key} `{kernel.config.key}` failed: {str(failure)[:80]}\n")


def measure(bench: Bench, ready: Iterator[Timed], until_s: float) -> list[Timed]:
    """Every one that is right and that there is time for, the fastest first."""
    timed: list[Timed] = []
    for one in ready:
        try:
            bench.verify(one)
            bench.time(one, 15)
        except JobError as failure:
            print(f"{bench.gemm.key} `{one.kernel.config.key}` failed: {str(failure)[:80]}\n")
            continue
        timed.append(one)
        if time.monotonic() > until_s:
            break
    timed.sort(key=lambda one: one.time_ns)
    for one in timed[:AGAIN]:
        bench.time(one, 50)
    timed[:AGAIN] = sorted(timed[:AGAIN], key=lambda one: one.time_ns)
    return timed


def report(bench: Bench, timed: list[Timed], count: int) -> None:
    """What the problem's kernels are held against, and their table; ``count`` were to be timed."""
    gemm = bench.gemm
    size = gemm.traffic_bytes
    print(f"## {gemm.key}\n\n{size / 1e6:.1f} MB; {len(timed)} of {count} variants\n")
    copies = [size / copy_gbps(bench.gpu, size, ROTATED_BYTES, alone=x)[0] for x in (True, False)]
    print(f"copy: {copies[0] / 1e3:.1f} us alone, {copies[1] / 1e3:.1f} in a row")
    for name, both in (("read", bench.read()), ("empty", bench.nothing(timed[0]))):
        print(f"{name}: {us(both[0])} us alone, {us(both[1])} in a row")
    print()
    show(timed, AGAIN, copies)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--adapter", default="", help="as for gemmtune")
    parser.add_argument("--limit-s", type=float, default=105.0, help="shared by the problems")
    parser.add_argument("--only", default="", help="problems whose key contains this")
    parser.add_argument("--most", type=int, default=200, help="variants of a problem, at most")
    args = parser.parse_args()
    began = time.monotonic()
    gpu = Gpu(args.adapter)
    helpers = Helpers(gpu)
    watch = Stopwatch(gpu, helpers.load(gpu.buffer(1 << 20), gpu.buffer(1 << 20)))
    able = gpu.device
    if able.has("cooperative-matrix"):
        able = replace(able, fragments=FRAGMENTS)
    problems = [gemm for gemm in PROBLEMS if args.only in gemm.key]
    print(f"{gpu.device.name}, driver {gpu.device.driver}; clock: {watch.clock}\n", flush=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def begin(gemm: Gemm, kernel: Kernel) -> Future[tuple[Any, ...]]:
            bindings = kernel_bindings(gemm, workspace=kernel.workspace_bytes > 0)
            names = [launch.entry_point for launch in kernel.launches]
            return pool.submit(
                gpu.pipelines, kernel.wgsl, bindings, names, unchecked=kernel.unchecked
            )

        jobs = {
            gemm: [(kernel, begin(gemm, kernel)) for kernel in legal(gemm, able)[: args.most]]
            for gemm in problems
        }
        # Creating pipelines can hold up whoever submits.
        wait([job for each in jobs.values() for _, job in each], 0.5 * args.limit_s)
        print(f"compiled after {time.monotonic() - began:.0f} s\n", flush=True)
        for number, gemm in enumerate(problems):
            left_s = args.limit_s - (time.monotonic() - began)
            until_s = time.monotonic() + left_s / (len(problems) - number) - 2.0
            bench = Bench(gpu, helpers, watch, gemm)
            timed = measure(bench, compiled(gemm, jobs[gemm]), until_s)
            if timed:
                report(bench, timed, len(jobs[gemm]))
            bench.close()
        pool.shutdown(wait=False, cancel_futures=True)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
