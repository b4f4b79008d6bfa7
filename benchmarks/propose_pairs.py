"""Says which pairs of problem and config `quick_times.py` is to time. No GPU.

Of made-up sizes that `grow_forest.py` has judged, some by chance, the sorts more often that lookups
chose worst for: the two configs that are taken for the fastest, what lookups take first now, and of
the next, the rather the faster they are taken for, as many as make eight. So what is measured tells
a teacher where it, and the trees that it taught, are wrong.

    python benchmarks/propose_pairs.py pairs.json --judged FOLDER [--db tuning.db] [--sizes 7000]
        [--dtype f16 f32] [--known times.tsv.xz ...] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from choices import catalogue_of, device_in
from pool import Text
from times import read

from gemmtune import Gemm
from gemmtune._data import data_path
from gemmtune.forest import Forest

FASTEST, EACH, NEXT = 2, 8, 25
"""Of a size, so many of the fastest, so many in all, the others from so many."""
FALL = 0.08
"""A config that takes so much longer, in logarithms, is taken 1/e as often."""
LONG = {"f16": 3e10, "f32": 6e9}
"""Of problems with more operations half as many are taken, with ten times as many none."""
LARGE_BYTES = 2**28

Floats = npt.NDArray[np.floating[Any]]


def weight(gemm: Gemm, dtype: str) -> float:
    """How much rather this problem is taken."""
    if gemm.flops > 10 * LONG[dtype] or gemm.traffic_bytes >= LARGE_BYTES:
        return 0.0
    narrow = min(gemm.m, gemm.n) <= 256 and gemm.m * gemm.n < 3e5
    return math.prod(
        factor
        for factor, holds in (
            (0.5, gemm.flops > LONG[dtype]),
            (0.5, gemm.m == 1),
            (2.0, gemm.k >= 4000 and narrow),
            (1.6, gemm.k <= 128),
            (1.4, 25 <= gemm.m <= 260),
            (1.2, gemm.m % 16 != 0 or gemm.n % 16 != 0),
        )
        if holds
    )


def some(times: Floats, first: int | None, chance: np.random.Generator) -> list[int]:
    """Numbers of configs to time on a problem.

    Args:
        times: of each config in logarithms of nanoseconds; not finite: not judged, or not legal.
        first: what lookups take, if that was judged.
        chance: decides.
    """
    finite = np.flatnonzero(np.isfinite(times))
    order = [int(one) for one in finite[np.argsort(times[finite], kind="stable")]]
    found = order[:FASTEST]
    if first in order and first not in found:
        found.append(first)
    rest = [one for one in order if one not in found][:NEXT]
    if rest:
        shares = np.exp(-(times[rest] - times[order[0]]).astype(float) / FALL) + 1e-9
        number = min(EACH - len(found), len(rest))
        picked = chance.choice(rest, number, replace=False, p=shares / shares.sum())
        found += [int(one) for one in picked]
    return found


def proposed(
    gemms: list[Gemm],
    names: list[Text],
    times: Floats,
    forest: Forest | None,
    dtype: str,
    number: int,
    seed: int,
) -> list[tuple[int, list[int]]]:
    """Numbers of problems, with those of the configs to time there.

    Args:
        gemms: problems that were judged.
        names: the configs.
        times: of each problem and config, as `some` takes a row of them.
        forest: what lookups choose by.
        dtype: of the problems.
        number: of problems.
        seed: of chance.
    """
    chance = np.random.default_rng(seed)
    weights = np.array([weight(one, dtype) for one in gemms])
    number = min(number, np.count_nonzero(weights))
    places = {name: place for place, name in enumerate(names)}
    found = []
    for one in chance.choice(len(gemms), number, replace=False, p=weights / weights.sum()):
        gemm = gemms[one]
        voted = forest.first(gemm.m, gemm.n, gemm.k) if forest else []
        first = places.get(voted[0]) if voted else None
        found.append((int(one), some(times[one], first, chance)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("output", type=Path, help="file to write, as JSON")
    add("--judged", type=Path, required=True, help="folder of grow_forest.py")
    add("--db", type=Path, default=data_path("tuning.db"), help="whose trees choose now")
    add("--dtype", nargs="*", default=["f16", "f32"], help="as `gemmtune tune --dtype`")
    add("--sizes", type=int, default=7000, help="of each dtype (default: 7000)")
    add("--known", type=Path, nargs="*", default=[], help="not again what these times have")
    add("--seed", type=int, default=1, help="of chance (default: 1)")
    args = parser.parse_args()
    device, catalogue = device_in(args.db), catalogue_of(args.db)
    configs: list[Text] = []
    problems: list[tuple[str, str, list[tuple[int, float]]]] = []
    for dtype in args.dtype:
        gemms, names, times = pickle.loads((args.judged / f"{dtype}.pkl").read_bytes())
        known = {(g.key, name) for path in args.known for g, name, _ in read(path, dtype)}
        grown = catalogue.forest(device, gemms[0].kind)
        forest = grown[0] if grown else None
        for place, numbers in proposed(gemms, names, times, forest, dtype, args.sizes, args.seed):
            gemm, row = gemms[place], times[place]
            wanted = [
                (len(configs) + one, math.exp(row[one]))
                for one in numbers
                if (gemm.key, names[one]) not in known
            ]
            if wanted:
                problems.append((gemm.shape, dtype, wanted))
        configs += names
    random.Random(args.seed).shuffle(problems)
    args.output.write_text(json.dumps({"configs": configs, "problems": problems}))
    pairs = sum(len(wanted) for *_, wanted in problems)
    print(f"{args.output}: {len(problems)} problems, {pairs} pairs")


if __name__ == "__main__":
    main()
