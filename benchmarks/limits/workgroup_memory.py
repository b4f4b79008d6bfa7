"""Prints how a kernel that only waits slows down with the workgroup memory that it takes.

    python benchmarks/limits/workgroup_memory.py [--adapter SEL] [--runs N]

Each step down is one workgroup less on a multiprocessor. What `gemmtune devices` concludes from it
stands in the last line of each run. Nothing is remembered.
"""

from __future__ import annotations

import argparse
import json
import time

from gemmtune.executors.local.gpu import Gpu
from gemmtune.executors.local.residency import resident_bytes

WIDTH = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", default="", help="as `gemmtune tune --adapter`")
    parser.add_argument("--runs", type=int, default=2, help="how often to do it all")
    args = parser.parse_args()
    gpu = Gpu(args.adapter)
    print(f"{gpu.device.name}, driver {gpu.device.driver}, {gpu.versions.compiler}")
    for _ in range(args.runs):
        began_s = time.perf_counter()
        answer = resident_bytes(gpu)
        seconds_s = time.perf_counter() - began_s
        points = json.loads(answer.detail)
        fastest = min(time_ns for _, time_ns in points)
        print(f"\n{'bytes':>8}  {'ms':>8}  {'speed':>5}")
        for size, time_ns in points:
            speed = fastest / time_ns
            print(f"{size:8}  {time_ns / 1e6:8.3f}  {speed:5.2f}  {'#' * round(WIDTH * speed)}")
        found = f"{answer.number} bytes" if answer.number else "unknown: there are no steps"
        print(f"resident workgroup memory of a multiprocessor: {found} ({seconds_s:.1f} s)")


if __name__ == "__main__":
    main()
