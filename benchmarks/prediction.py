"""How far predicted times are off: every config that was measured on several tuned shapes. No GPU.

Each such config is predicted on each of its shapes from each other one, as a lookup would, and as
operations alone would have it.

    python benchmarks/prediction.py [--tuned FILE.db] [--times FILE.db ...] [--busy N]
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from statistics import median

from choices import Name, Times, device_in, devices, measured, tuned_gemms

from gemmtune import Gemm
from gemmtune._data import data_path
from gemmtune.kernels import FAMILIES
from gemmtune.lookup import Speed


def pairs(gemms: dict[str, Gemm], times: Times) -> Iterator[tuple[Name, Gemm, Gemm]]:
    """A config, a shape that it was measured on, and another one."""
    shapes: dict[tuple[str, Name], list[Gemm]] = defaultdict(list)
    for key, gemm in gemms.items():
        for name in times[key]:
            shapes[gemm.kind, name].append(gemm)
    for (_, name), each in shapes.items():
        for measured_on, gemm in permutations(each, 2):
            yield name, measured_on, gemm


def predicted(speed: Speed, name: Name, time_ns: float, before: Gemm, after: Gemm) -> float:
    """What `gemmtune.lookup` takes a time on one problem to say of another."""

    def work(gemm: Gemm) -> tuple[float, int]:
        launches = FAMILIES[name[0]].launch(name[1], gemm)
        main = next(launch for launch in launches if launch.entry_point == "main")
        each = math.prod(main.workgroup_size)
        return speed.work(main.workgroups, each, gemm.k), len(launches)

    here, passes = work(before)
    cost = speed.cost(time_ns, before.traffic_bytes, here, passes)
    return cost.time_ns(after.traffic_bytes, work(after)[0])


def summary(ratios: list[float]) -> str:
    """Median and worst tenth of what predictions are off by, up or down."""
    off = sorted(max(ratio, 1 / ratio) for ratio in ratios)
    tenth = off[math.floor(0.9 * len(off))]
    return f"median {100 * (median(off) - 1):.0f} %, worst tenth a factor of {tenth:.2f} or more"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--tuned", type=Path, default=data_path("tuning.db"), help="database of tuned shapes")
    add("--times", nargs="*", type=Path, default=[], help="databases with more measured times")
    add("--busy", type=int, help="invocations of a busy multiprocessor, instead of the usual")
    args = parser.parse_args()
    key = device_in(args.tuned)
    times, gemms = measured([args.tuned, *args.times], key), tuned_gemms(args.tuned, key)
    fastest = [(gemm, min(times[name].values())) for name, gemm in gemms.items()]
    speed = Speed.of(devices(args.tuned)[key].adapter_type, fastest)
    speed = replace(speed, busy=args.busy or speed.busy)
    rule, operations = [], []
    for name, before, after in pairs(gemms, times):
        time_ns, actual = times[before.key][name], times[after.key][name]
        rule.append(predicted(speed, name, time_ns, before, after) / actual)
        operations.append(time_ns * after.flops / before.flops / actual)
    if not rule:
        raise SystemExit(f"{args.tuned} has no config that was measured on two shapes")
    print(f"{len(rule)} ordered pairs of shapes that one config was measured on, {key}")
    print(f"the rule:      {summary(rule)}")
    print(f"by operations: {summary(operations)}")


if __name__ == "__main__":
    main()
