"""What `gemmtune.gpu` costs on the host: `plan.encode` and submit beside the same calls by hand.

The same kernel, buffers and queue; both encode into a pass of their own and submit. The problem is
so small that the device's time does not hide the host's. Rounds alternate, so that drift hits both.

    python benchmarks/dispatch_overhead.py [--adapter SEL] [--dispatches N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gemmtune import Gemm
from gemmtune.gpu import plan, request_device
from gemmtune.gpu.arrays import upload
from gemmtune.gpu.context import context_of
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import grid, pack_params
from gemmtune.render import render

GEMM = Gemm(m=16, n=16, k=16)


def by_hand(device: Any, choice: Any, buffers: list[Any]) -> Callable[[Any], None]:
    """Encodes the kernel of ``choice`` as one writes it without gemmtune."""
    import wgpu

    described = context_of(device).device
    kernel = render(choice.family, choice.config, GEMM, described)
    module = device.create_shader_module(code=kernel.wgsl)
    pipeline = device.create_compute_pipeline(
        layout="auto", compute={"module": module, "entry_point": "main"}
    )
    params = device.create_buffer_with_data(data=pack_params(GEMM), usage=wgpu.BufferUsage.UNIFORM)
    group = device.create_bind_group(
        layout=pipeline.get_bind_group_layout(0),
        entries=[
            {"binding": i, "resource": {"buffer": buffer}}
            for i, buffer in enumerate([params, *buffers])
        ],
    )
    (launch,) = FAMILIES[choice.family].launch(choice.config, GEMM)
    x, y, z = grid(launch.workgroups, described.limits.workgroups_per_dimension)

    def encode(run: Any) -> None:
        run.set_pipeline(pipeline)
        run.set_bind_group(0, group)
        run.dispatch_workgroups(x, y, z)

    return encode


def timed(device: Any, encode: Callable[[Any], None], dispatches: int) -> float:
    """Seconds per product of one submission with ``dispatches`` in a pass."""
    started = time.perf_counter()
    encoder = device.create_command_encoder()
    run = encoder.begin_compute_pass()
    for _ in range(dispatches):
        encode(run)
    run.end()
    device.queue.submit([encoder.finish()])
    return (time.perf_counter() - started) / dispatches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--adapter", default="", help="as `gemmtune tune --adapter`")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", help="file to write the numbers to")
    args = parser.parse_args()
    device = request_device(args.adapter)
    buffers = [upload(device, np.ones((16, 16), np.float32)) for _ in "abc"]
    ready = plan(device, GEMM)
    hand = by_hand(device, ready.choice, buffers)
    a, b, c = buffers

    def ours(run: Any) -> None:
        ready.encode(run, a, b, c)

    found = []
    for dispatches in (1, 32):
        times: dict[str, list[float]] = {"by hand": [], "plan.encode": []}
        for number in range(args.rounds):
            order = [("by hand", hand), ("plan.encode", ours)]
            for name, encode in order if number % 2 else order[::-1]:
                times[name].append(timed(device, encode, dispatches))
            device.queue.read_buffer(c)  # nothing piles up
        hand_s, ours_s = (statistics.median(each[10:]) for each in times.values())
        found.append(
            {
                "products_per_submit": dispatches,
                "by_hand_us": hand_s * 1e6,
                "plan_us": ours_s * 1e6,
                "overhead": ours_s / hand_s - 1.0,
            }
        )
    print(f"{context_of(device).device.key}: {GEMM.key}, {args.rounds} rounds, medians")
    print("products per submit   by hand us   plan.encode us   overhead")
    for row in found:
        print(
            f"{row['products_per_submit']:19}   {row['by_hand_us']:10.1f}"
            f"   {row['plan_us']:14.1f}   {100 * row['overhead']:6.1f} %"
        )
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
