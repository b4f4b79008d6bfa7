"""Has a driver lose its device amid tuning and amid probing, and shows what that costs.

    python benchmarks/limits/lose_device.py [--adapter SEL] [--trials N] [--workers N]

One config's kernel, and one probe, load a native matrix through a pointer to u32. Drivers of NVIDIA
cannot compile that and lose the device. Exit code 0: that one config and that one probe failed by
it, and all others were measured or answered. Other drivers give wrong numbers instead: exit code 1.
Needs `gemmtune unlock` first. Nothing is kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from gemmtune.executors import open_executor
from gemmtune.executors.probing import FEATURE, basis_of, probe
from gemmtune.job import Failure, Job
from gemmtune.problem import Gemm
from gemmtune.store import Store
from gemmtune.tune import TuneOptions, tune

GEMM = Gemm(m=256, n=256, k=256, a="f16", b="f16")
FATAL = ("device_lost", "crash")
KERNEL = """
enable f16;
enable wgpu_cooperative_matrix;
@group(0) @binding(1) var<storage, read> a: array<u32>;
@group(0) @binding(2) var<storage, read> b: array<u32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
@compute @workgroup_size(LANES)
fn main() {
  let product = coopMultiplyAdd(
    coopLoadT<coop_matSIZE<f16, A>>(&a[0], HALFu), coopLoadT<coop_matSIZE<f16, B>>(&b[0], HALFu),
    coop_matSIZE<f32, C>());
  coopStoreT(product, &c[0], 256u);
}
"""
# Starts a worker that tries the one fragment with u32 in place of its pointee.
PROBE = """
import sys
from gemmtune.executors import worker
from gemmtune.executors.local import fragments

honest = fragments.source

def source(fragment, memory, width, lanes):
    wgsl = honest(fragment, memory, width, lanes)
    if (fragment.size, fragment.ab, fragment.acc, memory, width) == {which!r}:
        wgsl = wgsl.replace("vec2<f16>", "u32")
    return wgsl

fragments.source = source
sys.argv[0] = "worker"
worker.main()
"""


class Sabotaged:
    """An executor that runs the deadly kernel in place of one job's own."""

    def __init__(self, executor: Any, number: int, wgsl: str) -> None:
        object.__setattr__(self, "own", {"number": number, "wgsl": wgsl, "count": 0, "key": ""})
        object.__setattr__(self, "executor", executor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.executor, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.executor, name, value)  # e.g. on_grant

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        if self.own["count"] == self.own["number"]:
            self.own["key"] = job.kernel.config.key
            job = replace(job, kernel=replace(job.kernel, wgsl=self.own["wgsl"]))
        self.own["count"] += 1
        self.executor.submit(job)


def amid_tuning(executor: Any, store: Store, trials: int) -> bool:
    device = executor.device
    working = [one for one in device.fragments if (one.ab, one.acc) == ("f16", "f32")]
    size = max(one.size for one in working)
    wgsl = KERNEL.replace("LANES", str(device.subgroup_size)).replace("HALF", str(GEMM.k // 2))
    wgsl = wgsl.replace("SIZE", f"{size}x{size}")
    sabotaged = Sabotaged(executor, trials // 2, wgsl)
    options = TuneOptions(budget_s=None, trials=trials, families=("tiled", "coopmat"))
    (result,) = tune([GEMM], sabotaged, store, options)
    rows = store.measurements(device.key, GEMM.key)
    guilty = [row for row in rows if row.config_key == sabotaged.own["key"]]
    others = [row for row in rows if row.config_key != sabotaged.own["key"]]
    lost = bool(guilty) and all(
        isinstance(row.result, Failure) and row.result.kind in FATAL for row in guilty
    )
    print(f"tuning: {result.trials} trials, failures {dict(result.failures)}")
    for row in guilty:
        print(f"  the sabotaged config: {row.result}")
    for row in others:
        if row.status != "ok":
            print(f"  another one failed too: {row.family} {row.config_key}: {row.result}")
    return lost and result.best is not None and all(row.status == "ok" for row in others)


def amid_probing(device: Any, selector: str, store: Store, folder: Path) -> bool:
    bare = replace(device, fragments=(), resident_workgroup_bytes=0)
    right = next(one for one in device.fragments if (one.ab, one.acc) == ("f16", "f32"))
    which = (right.size, right.ab, right.acc, "storage", 2)
    script = folder / "worker.py"
    script.write_text(PROBE.format(which=which), encoding="utf-8")
    probe(bare, selector, store, (sys.executable, str(script)))
    findings = store.findings(bare, basis_of(bare))
    expected = replace(right, storage=tuple(width for width in right.storage if width != 2))
    found = probe(bare, selector, store, ("/nonexistent/worker",)).device  # as is remembered
    answer = findings["fragment {} {} {} {} {}".format(*which)]
    print(f"probing: the sabotaged probe: {answer}")
    wanted = tuple(sorted(expected if one == right else one for one in device.fragments))
    if found.fragments != wanted:
        print(f"  found {found.fragments}\n  and not {wanted}")
    lost = isinstance(answer, Failure) and answer.kind in FATAL
    memory = (found.resident_workgroup_bytes > 0) == (device.resident_workgroup_bytes > 0)
    return lost and found.fragments == wanted and memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", default="", help="as `gemmtune tune --adapter`")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--workers", type=int, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Store.open(folder / "tuning.db") as store:
            executor = open_executor(f"local:{args.adapter}", workers=args.workers, memory=store)
            try:
                device = executor.device
                print(f"{device.name}, driver {device.driver}")
                if not device.has(FEATURE) or not device.fragments:
                    print("it has no native matrices to lose it by; see `gemmtune devices`")
                    return 1
                tuned = amid_tuning(executor, store, args.trials)
            finally:
                executor.close()
        with Store.open(folder / "probed.db") as store:
            probed = amid_probing(device, args.adapter, store, folder)
    for what, done in (("tuning", tuned), ("probing", probed)):
        print(f"{what}: {'went on as if nothing had happened' if done else 'NOT as it should be'}")
    return 0 if tuned and probed else 1


if __name__ == "__main__":
    raise SystemExit(main())
