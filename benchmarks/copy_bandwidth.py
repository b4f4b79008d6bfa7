"""What a copy reaches through WGSL, by size: the bandwidth that thin problems are held against.

    python benchmarks/copy_bandwidth.py [--adapter SEL] [--mib 64 112 512] > table.md

Every invocation copies vec4<f32> with a stride of the whole grid; bytes are those read and those
written. Copies rotate over buffers of ``ROTATED_BYTES`` together, so none is in a cache. Several
grids are tried; the table has the fastest of them: the median of 9 samples, each of some dispatches
in one pass, as kernels are timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

from gemmtune.unlock import library_environment

# Before anything imports wgpu.
os.environ.update(library_environment(os.environ))

from gemmtune.executors.local.gpu import Dispatch, Gpu

ROTATED_BYTES = 2**30
GRIDS = (528, 1056, 2112, 4224, 16384)
WARM_S = 0.3
BINDINGS = ("read-only-storage", "storage")
WGSL = """
@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> target_: array<vec4<f32>>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let count = arrayLength(&source);
  let stride = groups.x * 256u;
  for (var i = id.x; i < count; i += 4u * stride) {
    let v0 = source[i];
    let v1 = source[min(i + stride, count - 1u)];
    let v2 = source[min(i + 2u * stride, count - 1u)];
    let v3 = source[min(i + 3u * stride, count - 1u)];
    target_[i] = v0;
    if (i + stride < count) { target_[i + stride] = v1; }
    if (i + 2u * stride < count) { target_[i + 2u * stride] = v2; }
    if (i + 3u * stride < count) { target_[i + 3u * stride] = v3; }
  }
}
"""


def copy_gbps(
    gpu: Gpu, moved_bytes: int, rotated_bytes: int = ROTATED_BYTES, *, alone: bool = False
) -> tuple[float, int]:
    """Bytes read and written per nanosecond, and the grid that reached it.

    ``alone``: each copy in a pass of its own, whose begin and end count too.
    """
    half = moved_bytes // 2 // 16 * 16
    pairs = max(2, rotated_bytes // moved_bytes)
    buffers = [(gpu.buffer(half), gpu.buffer(half)) for _ in range(pairs)]
    (pipeline,) = gpu.pipelines(WGSL, (BINDINGS,), ("main",))
    groups = [gpu.bind_group(BINDINGS, pair) for pair in buffers]
    queries = gpu.query_set(18)

    def sample(grid: int, count: int) -> list[float]:
        run = [
            Dispatch(pipeline=pipeline, bind_group=groups[i % pairs], groups=(grid, 1, 1))
            for i in range(pairs)
        ]
        passes = [[run[i % pairs]] for i in range(count)] if alone else [run] * count
        gpu.submit(passes, queries)
        ticks = gpu.ticks(queries, 2 * count)
        period = gpu.timestamp_period_ns / (1 if alone else pairs)
        return [(ticks[2 * i + 1] - ticks[2 * i]) * period for i in range(count)]

    began = time.perf_counter()
    while time.perf_counter() - began < WARM_S:
        sample(GRIDS[0], 1)
    times = {grid: statistics.median(sample(grid, 9)) for grid in GRIDS}
    for pair in buffers:
        for buffer in pair:
            buffer.destroy()
    best = min(times, key=times.__getitem__)
    return 2 * half / times[best], best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--adapter", default="", help="as for gemmtune")
    parser.add_argument("--mib", type=int, nargs="+", default=[16, 32, 64, 112, 256, 512, 2048])
    args = parser.parse_args()
    gpu = Gpu(args.adapter)
    print(f"{gpu.device.name}, driver {gpu.device.driver}\n")
    print("| MiB read and written | GB/s | us | workgroups |\n| ---: | ---: | ---: | ---: |")
    for mib in args.mib:
        gbps, grid = copy_gbps(gpu, mib * 2**20)
        print(f"| {mib} | {gbps:.0f} | {mib * 2**20 / gbps / 1e3:.1f} | {grid} |", flush=True)


if __name__ == "__main__":
    main()
