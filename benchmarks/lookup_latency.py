"""How long lookups take: cold process, first sight of a shape, and again; from the shipped results.

    python benchmarks/lookup_latency.py [--processes N] [--json FILE]

Goals, medians on a machine of two cores: import and first lookup <= 80 ms, first sight <= 1 ms,
again <= 10 us.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from gemmtune import Gemm, lookup
from gemmtune._data import data_path

KEY = "vulkan/10de-2330/nvidia-h100-80gb-hbm3/580.159.04"
PATH = str(data_path("tuning.db"))
COLD = """
import time
started = time.perf_counter()
import gemmtune
found = gemmtune.lookup(gemmtune.Gemm(m={m}, n=4096, k=4096), {key!r}, path={path!r})
print(time.perf_counter() - started)
"""


def cold(m: int, processes: int) -> list[float]:
    """Seconds of import and first lookup, without the start of the interpreter."""
    code = COLD.format(m=m, key=KEY, path=PATH)

    def one() -> float:
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        return float(run.stdout)

    one()  # fills the caches of files
    return [one() for _ in range(processes)]


def each(calls: list[Callable[[], object]]) -> list[float]:
    """Seconds of each call."""
    times = []
    for call in calls:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def asked(m: int, n: int) -> Callable[[], object]:
    gemm = Gemm(m=m, n=n, k=4096)
    return lambda: lookup(gemm, KEY, path=PATH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=15)
    parser.add_argument("--json", help="file to write the medians to, in microseconds")
    args = parser.parse_args()
    asked(4096, 4096)()
    again = asked(4096, 4096)
    started = time.perf_counter()
    for _ in range(20_000):
        again()
    repeated = (time.perf_counter() - started) / 20_000
    rows = {
        "import and first lookup, tuned": (cold(4096, args.processes), 80_000),
        "import and first lookup, untuned": (cold(1000, args.processes), 80_000),
        "first sight of a shape": (each([asked(m, 5000) for m in range(1, 400)]), 1000),
        "the same again": ([repeated], 10),
    }
    print(f"{'':34}{'median us':>10}{'goal us':>9}")
    for name, (times, goal) in rows.items():
        print(f"{name:34}{1e6 * statistics.median(times):10.1f}{goal:9}")
    if args.json:
        medians = {name: 1e6 * statistics.median(times) for name, (times, _) in rows.items()}
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(medians, file, indent=1)


if __name__ == "__main__":
    main()
