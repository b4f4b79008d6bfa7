"""Times many configs on many problems in a few milliseconds each, for teachers to learn from.

Kernels are neither verified nor timed as the usual policy asks, so these times are not results:
nothing chooses among them. What they are for is number. Processes compile side by side, and one at
a time has the device for one submission: a warm-up and samples on cold inputs, as many as the
time that is expected suggests. Of some pairs that were measured before the times tell how far both
agree (see `NOTES.md`).

    python benchmarks/quick_times.py pairs.json --output times.tsv.xz [--adapter 0] [--workers 14]
        [--limit-s 500]

The file has {"configs": [[family, config], ...], "problems": [[shape, dtype, [[number of a config,
expected nanoseconds], ...]], ...]}; problems are taken in order. Times are written as `times.py`
writes them, all there are when the limit is reached.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import queue
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing.synchronize import Lock
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from times import pack

from gemmtune import Gemm
from gemmtune._data import data_path
from gemmtune.device import Device
from gemmtune.errors import GemmtuneError
from gemmtune.executors import open_executor
from gemmtune.executors.local.gpu import Dispatch, Gpu, JobError
from gemmtune.executors.local.operands import Helpers, Operands, kernel_bindings
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.render import render
from gemmtune.schema import parse_config
from gemmtune.shapes import parse_dtype
from gemmtune.store import Store
from gemmtune.unlock import library_environment

WARM_UP_NS, SPAN_NS, SAMPLES = 4e6, 2e5, 15
"""Of a submission: what comes before, the length of a sample, and how many."""
LONG_NS, LEAST_SAMPLES = 20e6, 4
"""Of long kernels only as many samples as take so long, but so many."""
MOST_DISPATCHES = 4096

Found = tuple[str, str, int, float]
"""Shape, dtype, number of a config, nanoseconds; NaN where it failed."""


def fitting(family: str, config: Config, gemm: Gemm, device: Device) -> Config | None:
    """The config as it runs on a problem; None: it does not."""
    check = FAMILIES[family].check
    if not check(config, gemm, device):
        return config
    if not config.unchecked:
        return None
    checked = replace(config, **{"checked": True})
    return None if check(checked, gemm, device) else checked


class Bench:
    """One device of this process, and the lock that says whose turn it is."""

    def __init__(self, selector: str, device: Device, turn: Lock) -> None:
        self._turn, self._device = turn, device
        with turn:
            self._gpu = Gpu(selector)
            self._helpers = Helpers(self._gpu)
            self._queries = self._gpu.query_set(2 * (SAMPLES + 1))
            self._period_ns = self._gpu.timestamp_period_ns

    def times(
        self, gemm: Gemm, configs: list[tuple[str, Config, float]]
    ) -> Iterator[tuple[int, float]]:
        """Of those that are legal, the place and nanoseconds; NaN where one fails."""
        with self._turn:
            operands = Operands(self._gpu, self._helpers, gemm, 0)
            pairs = list(operands.cold_inputs())
            self._gpu.wait()
        try:
            for place, (family, config, guess_ns) in enumerate(configs):
                legal = fitting(family, config, gemm, self._device)
                if legal is not None:
                    try:
                        yield place, self._time(gemm, family, legal, guess_ns, operands, pairs)
                    except JobError as error:
                        print(f"{gemm.key} {family}: {error}", file=sys.stderr)
                        if error.kind == "device_lost":
                            raise
                        yield place, math.nan
        finally:
            operands.free()

    def _time(
        self,
        gemm: Gemm,
        family: str,
        config: Config,
        guess_ns: float,
        operands: Operands,
        pairs: list[tuple[Any, Any]],
    ) -> float:
        gpu, kernel = self._gpu, render(family, config, gemm, self._device)
        bindings = [
            kernel_bindings(gemm, workspace=kernel.workspace_bytes > 0, only_reads=one.only_reads)
            for one in kernel.launches
        ]
        entry_points = [one.entry_point for one in kernel.launches]
        pipelines = gpu.pipelines(kernel.wgsl, bindings, entry_points, unchecked=kernel.unchecked)
        with gpu.failing_as("validation"):
            operands.set_workspace(kernel.workspace_bytes)
            launches = list(zip(pipelines, kernel.launches, strict=True))
            whole = [
                [
                    operands.dispatch(
                        pipeline, 0, one.workgroups, inputs=pair, only_reads=one.only_reads
                    )
                    for pipeline, one in launches
                ]
                for pair in pairs
            ]
            warm, repeats, samples = plan(guess_ns)
            turns = (whole[turn % len(whole)] for turn in range(sys.maxsize))
            passes: list[list[Dispatch]] = [
                [dispatch for _ in range(count) for dispatch in next(turns)]
                for count in (warm, *[repeats] * samples)
            ]
            commands = gpu.encode(passes, self._queries)
            with self._turn:
                gpu.run(commands)
                ticks = gpu.ticks(self._queries, 2 * len(passes))
        spans = [ticks[2 * one + 1] - ticks[2 * one] for one in range(1, len(passes))]
        return statistics.median(spans) * self._period_ns / repeats


def plan(guess_ns: float) -> tuple[int, int, int]:
    """How often a kernel runs before samples, for each of them, and how many there are."""
    guess_ns = max(guess_ns, 1e3)
    warm = min(max(round(WARM_UP_NS / guess_ns), 1), MOST_DISPATCHES)
    repeats = min(max(round(SPAN_NS / guess_ns), 1), MOST_DISPATCHES)
    most = round(LONG_NS / guess_ns / repeats)
    return warm, repeats, min(max(most, LEAST_SAMPLES), SAMPLES)


def work(
    selector: str,
    device: Device,
    file: Path,
    turn: Lock,
    following: Any,
    until: float,
    found: Any,
) -> None:
    """Takes one problem after the other until there are none or it is late."""
    data = json.loads(file.read_text())
    configs = [(family, parse_config(family, text)) for family, text in data["configs"]]
    bench = Bench(selector, device, turn)
    while time.time() < until:
        with following.get_lock():
            number = following.value
            following.value += 1
        if number >= len(data["problems"]):
            break
        shape, dtype, wanted = data["problems"][number]
        gemm = Gemm.parse(
            shape, **dict(zip(("a", "b", "c", "acc"), parse_dtype(dtype), strict=True))
        )
        some = [(*configs[one], guess_ns) for one, guess_ns in wanted]
        try:
            for place, time_ns in bench.times(gemm, some):
                found.put((shape, dtype, wanted[place][0], time_ns))
                if time.time() > until:
                    break
        except (JobError, GemmtuneError) as error:
            print(f"{gemm.key}: {error}", file=sys.stderr)
            if getattr(error, "kind", "") == "device_lost":
                raise


def lost(exit_codes: Iterable[int | None]) -> str:
    """What to say of processes that did not end well; empty: all did."""
    codes = list(exit_codes)
    failed = sum(code != 0 for code in codes)
    return f"{failed} of {len(codes)} processes ended early, see above" if failed else ""


def opened(selector: str) -> Device:
    """The adapter with what its driver can do, which for many is known."""
    with TemporaryDirectory() as folder:
        known = Path(shutil.copy(data_path("tuning.db"), folder))
        with Store.open(known) as memory:
            executor = open_executor(f"local:{selector}", memory=memory, workers=1)
            device = executor.device
            executor.close()
    return device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("pairs", type=Path, help="what to time, as JSON")
    add("--output", type=Path, required=True, help="file to write, as times.tsv.xz")
    add("--adapter", default="", help="as `gemmtune tune --adapter`")
    add("--workers", type=int, default=4, help="processes that compile (default: 4)")
    add("--limit-s", type=float, default=500.0, help="end after so long (default: 500)")
    args = parser.parse_args()
    started, spawn = time.time(), multiprocessing.get_context("spawn")
    turn, following, found = spawn.Lock(), spawn.Value("l", 0), spawn.Queue()
    until = started + args.limit_s
    device = opened(args.adapter)
    print(f"{device.name}, {len(device.fragments)} fragments", file=sys.stderr, flush=True)
    os.environ.update(library_environment())  # which wgpu-native the processes load
    workers = [
        spawn.Process(
            target=work, args=(args.adapter, device, args.pairs, turn, following, until, found)
        )
        for _ in range(args.workers)
    ]
    for one in workers:
        one.start()
    times: list[Found] = []
    while any(one.is_alive() for one in workers) or not found.empty():
        try:
            times.append(found.get(timeout=0.2))
        except queue.Empty:
            continue
        if len(times) % 1000 == 0:
            print(f"{len(times)} done, {time.time() - started:.0f} s", file=sys.stderr, flush=True)
    names = json.loads(args.pairs.read_text())["configs"]
    best: dict[tuple[str, str, str], float] = {}
    for shape, dtype, number, time_ns in times:
        if time_ns > 0:
            dtypes = ",".join(parse_dtype(dtype))
            best[names[number][0], names[number][1], f"{shape}:{dtypes}:nn"] = time_ns
    args.output.write_bytes(pack(best))
    failed = Counter(not time_ns > 0 for *_, time_ns in times)[True]
    print(f"{args.output}: {len(best)} times, {failed} failed, {time.time() - started:.0f} s")
    if missing := lost(one.exitcode for one in workers):
        raise SystemExit(missing)


if __name__ == "__main__":
    main()
