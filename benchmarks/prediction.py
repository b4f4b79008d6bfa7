"""How far predicted times are off: every config that was measured on several tuned shapes. No GPU.

Each such config is predicted on each of its shapes from each other one, as a lookup would, and as
operations alone would have it.

    python benchmarks/prediction.py [--tuned FILE.db] [--times FILE.db ...] [--busy N]
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from itertools import permutations
from pathlib import Path
from statistics import median

from choices import Name, Times, device_in, devices, measured, tuned_gemms

from gemmtune import Gemm
from gemmtune._data import data_path
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Launch
from gemmtune.lookup import Dispatch, Speed


def shapes_of(gemms: dict[str, Gemm], times: Times) -> dict[tuple[str, Name], list[Gemm]]:
    """Those that each config was measured on, by their kind and the config."""
    shapes: dict[tuple[str, Name], list[Gemm]] = defaultdict(list)
    for key, gemm in gemms.items():
        for name in times[key]:
            shapes[gemm.kind, name].append(gemm)
    return shapes


class Known:
    """A config with the times that it took on some shapes."""

    def __init__(self, speed: Speed, name: Name, times: dict[Gemm, float]) -> None:
        self._speed, self._name = speed, name
        one = self._launches(next(iter(times)))
        self._parts = {
            gemm: speed.parts(t, gemm.traffic_bytes, len(one)) for gemm, t in times.items()
        }
        known = [(parts, self._dispatch(gemm)) for gemm, parts in self._parts.items()]
        self._pace = speed.pace(math.prod(_main(one).workgroup_size), known)

    def predicted(self, before: Gemm, after: Gemm) -> float:
        """What `gemmtune.lookup` takes its time on one shape to say of another."""
        parts = self._parts[before]
        work = self._speed.work(*self._dispatch(after), self._pace)
        work /= self._speed.work(*self._dispatch(before), self._pace)
        traffic = after.traffic_bytes / before.traffic_bytes
        return parts.launches + parts.traffic * traffic + parts.work * work

    def _launches(self, gemm: Gemm) -> tuple[Launch, ...]:
        return FAMILIES[self._name[0]].launch(self._name[1], gemm)

    def _dispatch(self, gemm: Gemm) -> Dispatch:
        split = getattr(self._name[1], "split_k", 1)
        return Dispatch(_main(self._launches(gemm)).workgroups, max(gemm.k, 1) / split)


def _main(launches: tuple[Launch, ...]) -> Launch:
    return next(launch for launch in launches if launch.entry_point == "main")


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
    fastest = [(gemm.traffic_bytes, min(times[name].values())) for name, gemm in gemms.items()]
    speed = Speed.of(devices(args.tuned)[key].adapter_type, fastest)
    speed = speed._replace(busy=args.busy or speed.busy)
    rule, operations = [], []
    for (_, name), each in shapes_of(gemms, times).items():
        took = {gemm: times[gemm.key][name] for gemm in each}
        known = Known(speed, name, took)
        for before, after in permutations(each, 2):
            rule.append(known.predicted(before, after) / took[after])
            operations.append(took[before] * after.flops / before.flops / took[after])
    if not rule:
        raise SystemExit(f"{args.tuned} has no config that was measured on two shapes")
    print(f"{len(rule)} ordered pairs of shapes that one config was measured on, {key}")
    print(f"the rule:      {summary(rule)}")
    print(f"by operations: {summary(operations)}")


if __name__ == "__main__":
    main()
