"""What it costs that WebGPU zeroes workgroup memory before a kernel may use it.

    python benchmarks/limits/zeroed_memory.py [--adapter SEL] [--lanes 128] [--workgroups 4096]

A kernel takes more and more workgroup memory and touches one word of each invocation; then the same
zeroes all of it once more by stores of its own, which is what the compiler adds to every kernel.
The difference is what zeroing costs, at the same number of workgroups on a multiprocessor. Times
the workgroups of a product, e.g. 1024 for 4096 cubed in tiles of 128 x 128, that is its cost there.
"""

from __future__ import annotations

import argparse
import statistics
import time

from gemmtune.executors.local.gpu import Dispatch, Gpu
from gemmtune.executors.local.timing import Stopwatch

SIZES_KIB = (1, 4, 8, 12, 16, 20, 24, 32, 40, 48)
BINDINGS = ("storage",)
ROUNDS = 9
WARM_S = 0.3

WGSL = """
var<workgroup> words: array<u32, {count}>;
@group(0) @binding(0) var<storage, read_write> kept: array<u32>;

@compute @workgroup_size({lanes})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {{
    {again}
    words[(lane * 37u + group.x) % {count}u] += lane;
    workgroupBarrier();
    if (lane == 0u) {{
        kept[group.x] = words[group.x % {count}u];
    }}
}}
"""
AGAIN = """for (var i = lane; i < {count}u; i += {lanes}u) {{ words[i] = 0u; }}
    workgroupBarrier();"""


def source(count: int, lanes: int, *, again: bool) -> str:
    """A kernel with ``count`` words of workgroup memory."""
    more = AGAIN.format(count=count, lanes=lanes) if again else ""
    return WGSL.format(count=count, lanes=lanes, again=more)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--adapter", default="", help="as `gemmtune tune --adapter`")
    parser.add_argument("--lanes", type=int, default=128, help="invocations of a workgroup")
    parser.add_argument("--workgroups", type=int, default=4096)
    args = parser.parse_args()
    gpu = Gpu(args.adapter)
    kept = gpu.buffer(4 * args.workgroups)
    limit = gpu.device.limits.workgroup_storage_bytes
    sizes = [1024 * size for size in SIZES_KIB if 1024 * size <= limit]

    def launch(size: int, *, again: bool) -> Dispatch:
        pipeline = gpu.pipeline(source(size // 4, args.lanes, again=again), BINDINGS)
        group = gpu.bind_group(BINDINGS, (kept,))
        return Dispatch(pipeline=pipeline, bind_group=group, groups=(args.workgroups, 1, 1))

    launches = {(s, again): launch(s, again=again) for s in sizes for again in (False, True)}
    watch = Stopwatch(gpu, launches[sizes[0], False])
    until_s = time.perf_counter() + WARM_S
    while time.perf_counter() < until_s:
        watch.passes_ns([[one] for one in launches.values()], apart=False)
    taken: dict[tuple[int, bool], list[float]] = {key: [] for key in launches}
    for _ in range(ROUNDS):
        # In turn, each four times in a row, so that what a pass costs counts little.
        spans = watch.passes_ns([[one] * 4 for one in launches.values()], apart=False)
        for key, span in zip(launches, spans, strict=True):
            taken[key].append(span / 4)
    print(
        f"{gpu.device.name}, driver {gpu.device.driver}, {gpu.versions.compiler}; "
        f"{args.workgroups} workgroups of {args.lanes}, clock {watch.clock}, {ROUNDS} samples\n\n"
        "| KiB | us | spread | zeroed twice, us | zeroing, ns a workgroup |\n"
        "| ---: | ---: | ---: | ---: | ---: |"
    )
    for size in sizes:
        once, twice = (statistics.median(taken[size, again]) for again in (False, True))
        low, _, high = statistics.quantiles(taken[size, False], n=4)
        each = (twice - once) / args.workgroups
        print(
            f"| {size // 1024} | {once / 1e3:.1f} | {(high - low) / once:.1%} | {twice / 1e3:.1f} "
            f"| {each:.2f} |"
        )


if __name__ == "__main__":
    main()
