"""Times the shipped winners of every shape on every other shape, for `benchmarks/selection.py`.

    python benchmarks/portfolio.py --db portfolio-h100.db [--dtype f16] [--shapes-file FILE]

Results are kept the moment they are there; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gemmtune import Gemm
from gemmtune._data import data_path
from gemmtune.executors import Executor, open_executor
from gemmtune.job import Job, Policy
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config
from gemmtune.lookup.catalogue import Catalogue, Leader, signature_of
from gemmtune.render import generator_hash, render
from gemmtune.shapes import parse_dtype, read_shapes
from gemmtune.store import Owner, Store

LIMIT_S = 120.0


def winners(device_key: str) -> list[Leader]:
    """The fastest of each problem, with matrices and without, out of what ships."""
    shipped = data_path("tuning.db")
    signature = signature_of(shipped)
    assert signature is not None
    best: dict[tuple[str, bool], Leader] = {}
    for leader in Catalogue(shipped, signature).leaders(device_key):
        matrices = "cooperative-matrix" in FAMILIES[leader.family].features
        best.setdefault((leader.key, matrices), leader)
    return list(best.values())


def pairs(
    leaders: list[Leader], gemms: list[Gemm], executor: Executor
) -> Iterator[tuple[Gemm, str, Config]]:
    """Every winner on every shape of its kind that it is legal for."""
    for gemm in gemms:
        seen = set()
        for leader in leaders:
            config = leader.config
            if FAMILIES[leader.family].check(config, gemm, executor.device):
                # As a lookup does where a shape has edges.
                config = replace(config, **({"checked": True} if config.unchecked else {}))
            if leader.kind != gemm.kind or (leader.family, config) in seen:
                continue
            seen.add((leader.family, config))
            if not FAMILIES[leader.family].check(config, gemm, executor.device):
                yield gemm, leader.family, config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--db", required=True, type=Path, help="database to keep the times in")
    parser.add_argument("--adapter", default="", help="as `gemmtune tune --adapter`")
    parser.add_argument("--dtype", default="f16", help="as `gemmtune tune --dtype`")
    parser.add_argument("--shapes-file", help="instead of the shapes that ship")
    parser.add_argument("--limit-s", type=float, default=540.0, help="stop after so long")
    args = parser.parse_args()
    started, owner = time.monotonic(), Owner.current("portfolio")
    policy = Policy()
    with Store.open(args.db) as store:
        executor = open_executor(f"local:{args.adapter}", policy=policy, memory=store)
        executor.on_grant = store.grant
        leaders = winners(executor.device.key)
        gemms = list({leader.key: leader.gemm for leader in leaders}.values())
        if args.shapes_file:
            gemms = list(read_shapes(args.shapes_file, args.dtype))
        dtypes = parse_dtype(args.dtype)
        gemms = [g for g in gemms if (g.a, g.b, g.c, g.acc) == tuple(dtypes)]
        todo = list(pairs(leaders, gemms, executor))
        print(f"{len(todo)} pairs of config and shape on {executor.device.key}", file=sys.stderr)
        waiting, done, in_flight = iter(todo), 0, 0
        while True:
            late = time.monotonic() - started > args.limit_s
            while not late and in_flight < executor.capacity:
                pair = next(waiting, None)
                if pair is None:
                    break
                gemm, family, config = pair
                kernel = render(family, config, gemm, executor.device)
                row = store.begin(
                    executor.device,
                    gemm,
                    family,
                    config,
                    generator_hash=generator_hash(family),
                    policy=policy,
                    versions=executor.versions,
                    seed=0,
                    owner=owner,
                    deadline_s=2 * LIMIT_S * (executor.capacity + 1),
                    needs=kernel.needs,
                )
                if row is not None:
                    executor.submit(Job(id=row, gemm=gemm, kernel=kernel))
                    in_flight += 1
            if not in_flight:
                break
            outcome = executor.next()
            if outcome is None:
                break
            store.finish(outcome.job_id, outcome)
            in_flight, done = in_flight - 1, done + 1
            if done % 25 == 0:
                print(f"{done} done, {time.monotonic() - started:.0f} s", file=sys.stderr)
        executor.close()
    print(f"{done} measured, {'stopped by the limit' if late else 'all there is'}")


if __name__ == "__main__":
    main()
