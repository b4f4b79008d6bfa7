"""Tuned and default kernels beside cuBLAS and onnxruntime-webgpu, shape by shape, in one run.

    python benchmarks/peers.py --preset core --dtype f32 --dtype f16 --db h100.db --limit-s 540

Several sets and dtypes go into one file, which is written anew after every problem; the same
command goes on where it was stopped. plot_peers.py makes the table, printed here too, and a plot.

In each of ``--rounds`` rounds all contestants run a problem in turn, prepared and compiled once.
Ours are verified in every round. cuBLAS comes through PyTorch, replayed from CUDA graphs; it and
onnxruntime-webgpu are left out where they are not installed, or cannot do a problem, and the file
says why. Inputs rotate past the last-level cache, but for onnxruntime-webgpu, whose stay there
where they fit (onnxruntime_webgpu.py).
A time is the median over the rounds of times by the GPU's clock; that of onnxruntime-webgpu is of
each kernel apart. The spread is the largest interquartile range over median of a round, the drift
the range of the rounds' medians over their median.

A dtype of ``--dtype`` is f32, f16 (sums and C as there), f16-f32, f16acc or f16x3, which is f32 on
matrix units. ``--peak-tflops DTYPE=X`` is the best that is known of the device, e.g. from its data
sheet: with the bandwidth of a copy, measured here through WGSL, it makes the roofline.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from contestants import ContestantError, OnnxRuntime, Sample, Timer, cublas, ours
from copy_bandwidth import copy_gbps
from peer_results import CONTESTANTS, CUBLAS, DEFAULT, ORT, OURS, Entry, Results, Row
from plot_peers import table

from gemmtune.errors import GemmtuneError
from gemmtune.executors import Executor, open_executor
from gemmtune.executors.local.gpu import Gpu
from gemmtune.job import Policy
from gemmtune.kernels import FAMILIES
from gemmtune.lookup import lookup
from gemmtune.problem import Gemm
from gemmtune.render import render
from gemmtune.shapes import PRESETS, parse_dtype, preset, read_shapes

COPIED_BYTES = 2**29
SOFTWARE_BYTES = 2**22
"""Read and written by a copy; a processor that plays GPU takes long enough for this."""
PACKAGES = ("torch", "onnxruntime-webgpu", "onnx")
CHECKED = {OURS: "all", DEFAULT: "all", CUBLAS: "8 rows", ORT: "4 rows"}
INPUTS = {OURS: "cold", DEFAULT: "cold", CUBLAS: "cold", ORT: "hot"}

Asked = tuple[str, Gemm]
"""Set and problem."""


def asked(args: argparse.Namespace) -> Iterator[Asked]:
    """What the options name, set by set within a dtype."""
    for dtype in args.dtype or ["f32"]:
        name = "f32" if dtype == "f16x3" else dtype
        rest = {"trans_b": args.trans_b, "math": "f16x3" if dtype == "f16x3" else "ieee"}
        for group in args.preset:
            yield from ((group, gemm) for gemm in preset(group, name, **rest))
        for path in args.shapes_file:
            yield from ((Path(path).stem, gemm) for gemm in read_shapes(path, name, **rest))
        for shape in args.shape:
            fields = dict(zip("abc", parse_dtype(name), strict=False), acc=parse_dtype(name)[3])
            yield "shapes", Gemm.parse(shape, **fields, **rest)


def prepare(
    executor: Executor, gemm: Gemm, db: str | None, peers: dict[str, Callable[[Gemm], Timer]]
) -> tuple[dict[str, Timer], dict[str, str], dict[str, dict[str, object]]]:
    """Everyone's timer, why some have none, and what is to be said of our kernels."""
    found = lookup(gemm, device=executor.device, path=db, versions=executor.versions)
    default = FAMILIES["tiled"].default(gemm, executor.device)
    timers = {
        OURS: ours(executor, gemm, found.kernel),
        DEFAULT: ours(executor, gemm, render("tiled", default, gemm, executor.device)),
    }
    said: dict[str, dict[str, object]] = {
        OURS: {"kernel": f"{found.family} ({found.source})", "config": found.config.to_json()},
        DEFAULT: {"kernel": "tiled (default)", "config": default.to_json()},
    }
    failures = {}
    for name, peer in peers.items():
        try:
            timers[name] = peer(gemm)
        except ContestantError as error:
            failures[name] = str(error)
    return timers, failures, said


def compare(
    executor: Executor,
    asked: Asked,
    db: str | None,
    rounds: int,
    peers: dict[str, Callable[[Gemm], Timer]],
    session: int,
) -> Row:
    """All rounds of one problem."""
    group, gemm = asked
    timers, failures, said = prepare(executor, gemm, db, peers)
    taken: dict[str, list[Sample]] = {}
    for _ in range(rounds):
        for name, timer in timers.items():
            if name not in failures:
                try:
                    taken.setdefault(name, []).append(timer())
                except ContestantError as error:
                    failures[name] = str(error)
    entries = {
        name: Entry(
            rounds_ns=[one.time_ns for one in samples],
            spread=max(one.spread for one in samples),
            repetitions=sum(one.repetitions for one in samples),
            error=max(one.error for one in samples),
            checked=CHECKED[name],
            inputs=INPUTS[name],
            **said.get(name, {}),  # type: ignore[arg-type]
        )
        for name, samples in taken.items()
        if name not in failures
    }
    return Row(group=group, gemm=gemm, session=session, entries=entries, failures=failures)


def installed() -> dict[str, str]:
    """Versions of the packages of the peers that are here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def begin(executor: Executor, args: argparse.Namespace) -> Results:
    """The file to go on with, if it fits, or what a new one begins with.

    Raises:
        SystemExit: the file is of something else.
    """
    device = executor.device
    about = {"name": device.name, "backend": device.backend, "driver": device.driver}
    about["key"] = device.key
    versions = asdict(executor.versions) | installed()
    new = Results(
        device=about,
        versions=versions,
        rounds=args.rounds,
        copy_gbps=args.copy_gbps or 0.0,
        peak_tflops=dict(args.peak_tflops),
    )
    if args.output.exists():
        old = Results.read(args.output)
        for name in ("device", "versions", "rounds"):
            was, is_now = getattr(old, name), getattr(new, name)
            if was != is_now:
                sys.exit(
                    f"{args.output} has {name} {was}, here it is {is_now}; give a new --output"
                )
        old.peak_tflops |= new.peak_tflops
        old.copy_gbps = new.copy_gbps or old.copy_gbps
        new = old
    if not new.copy_gbps:
        size = SOFTWARE_BYTES if device.software else COPIED_BYTES
        new.copy_gbps, _ = copy_gbps(Gpu(args.adapter), size, 2 * size)
    new.sessions.append(
        {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["python", "benchmarks/peers.py", *sys.argv[1:]]),
        }
    )
    return new


def measure(
    executor: Executor, args: argparse.Namespace, wanted: dict[Gemm, Asked], began_s: float
) -> Results:
    """Adds what is missing to the file until all is there or time is up."""
    results = begin(executor, args)
    done = {row.gemm for row in results.rows}
    left = [one for gemm, one in wanted.items() if gemm not in done]
    ort = OnnxRuntime()
    peers = {CUBLAS: cublas, ORT: ort.prepare}
    peers = {name: peer for name, peer in peers.items() if name not in args.without}
    longest_s = 0.0
    try:
        for index, one in enumerate(left):
            now_s = time.monotonic()
            if now_s - began_s + longest_s > args.limit_s:
                print(
                    f"stopped after {now_s - began_s:.0f} s with {len(left) - index} of "
                    f"{len(wanted)} problems left; the same command goes on",
                    file=sys.stderr,
                )
                break
            session = len(results.sessions) - 1
            row = compare(executor, one, args.db, args.rounds, peers, session)
            results.rows.append(row)
            results.write(args.output)
            longest_s = max(longest_s, time.monotonic() - now_s)
            show(row, time.monotonic() - now_s, f"{index + 1}/{len(left)}")
    finally:
        ort.close()
    return results


def show(row: Row, took_s: float, where: str) -> None:
    """A line of progress."""
    speeds = ", ".join(
        f"{name} {row.gemm.flops / entry.time_ns / 1e3:.3g}" for name, entry in row.entries.items()
    )
    failed = "".join(f"; no {name}: {why}" for name, why in row.failures.items())
    print(
        f"{where} {row.group} {row.dtype} {row.gemm.shape}, {took_s:.1f} s: "
        f"{speeds} TFLOP/s{failed}",
        file=sys.stderr,
        flush=True,
    )


def peak(text: str) -> tuple[str, float]:
    """``f32=66.9``."""
    dtype, _, value = text.partition("=")
    return dtype, float(value)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--preset", action="append", default=[], choices=PRESETS, help="a set; may be repeated")
    add("--shapes-file", action="append", default=[], metavar="FILE", help="a set; as for tune")
    add("--shape", action="append", default=[], metavar="MxNxK")
    add("--dtype", action="append", default=[], help="f32 (default), f16, f16x3, ...; repeatable")
    add("--trans-b", action="store_true", help="B is stored as n x k")
    add("--db", help="database with the tuned configs; default: as lookup finds it")
    add("--adapter", default="")
    add("--rounds", type=int, default=3)
    add("--output", type=Path, default=Path("peers.json"), help="results (default: peers.json)")
    add("--limit-s", type=float, default=float("inf"), help="begin no problem that ends later")
    add("--peak-tflops", type=peak, action="append", default=[], metavar="DTYPE=X")
    add("--copy-gbps", type=float, help="bandwidth of a copy; default: it is measured")
    add("--without", action="append", default=[], choices=CONTESTANTS[2:], help="leave one out")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if not (args.preset or args.shapes_file or args.shape):
        args.preset = ["core"]
    return args


def main() -> None:
    began_s = time.monotonic()
    args = options()
    # A problem that is in several sets belongs to the first of them.
    wanted: dict[Gemm, Asked] = {}
    for one in asked(args):
        wanted.setdefault(one[1], one)
    executor = open_executor(f"local:{args.adapter}", workers=1, policy=Policy())
    try:
        results = measure(executor, args, wanted, began_s)
    finally:
        executor.close()
    print(table(results))


if __name__ == "__main__":
    try:
        main()
    except GemmtuneError as error:
        sys.exit(str(error))
