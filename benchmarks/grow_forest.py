"""Grows the decision trees that say which configs lookups take first, out of measurements. No GPU.

A teacher, boosted trees that need LightGBM and Numba, learns from all times of a device how long a
config takes on a problem. It then judges every config that leads somewhere on some made-up sizes, a
few of which together serve these best, and these few on thousands more; then, on tens of thousands,
those which are fast on the nearest of these. A few decision trees over sizes alone are grown such
that the votes of their leaves name what is fast; they are kept in a database, by kind, and the
configs that vote are what `choose_shipped.py` then ships rows of. Held-out shapes have no part in
it.

    uv pip install --group forest    # or pip install lightgbm numba
    python benchmarks/grow_forest.py POOL [POOL ...] --times times.tsv.xz --into tuning.db
        [--dtype f16 f32] [--configs 260] [--sizes 4000] [--more-sizes 44000]
        [--other-sizes 84000] [--trees 6] [--judged FOLDER]

It takes an hour a dtype on one core, mostly for judging, which `--judged` keeps in files.
"""

from __future__ import annotations

import argparse
import math
import pickle
from collections.abc import Iterable
from itertools import compress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from choices import device_in
from choose_shipped import HELD_OUT
from pool import Pool, Text, leading, whole
from teacher import Floats, Sizes, Teacher, parsed
from times import read

from gemmtune import Gemm
from gemmtune.forest import LARGEST_ALIGNMENT, Forest, features, is_question
from gemmtune.shapes import parse_dtype, read_shapes
from gemmtune.store import Store

RESULTS = Path(__file__).parent / "results" / "selection-h100"
ALIKE = ("times-h200.tsv.xz", "quick-h200.tsv.xz")
"""Times of a device that is much like it, an H200; quick ones are many, and not verified."""
PORTFOLIO_SIZES = 700
"""So many sizes decide which configs are judged on all others."""
OTHERS = ((1003, "any", 12), (1004, "decimal", 3), (1005, "rows", 4), (1006, "deep", 2))
"""Seeds and styles of the sizes that are not of known models, and their shares."""
NEAR, FAST = 12, 0.2
"""Of the nearest sizes so many, a config is within so much of the best there, in logarithms, if it
is to be judged. Of 400 sizes none lost its best config by that, and a seventh are left to judge."""
ALIGNED = 0.25
"""Of a doubling of m, n or k, what a doubling of the power of two that divides it counts."""
NEVER = 1.0
"""Where a config is not legal it counts as so much slower than the best, in logarithms."""
MOST = 0.7
"""A config counts as so much slower at most."""
LEAF = 6
"""A leaf has so many sizes at least."""
KEEP = 4
"""So many configs of a leaf have votes."""
CUTS = 64
"""So many thresholds of a feature are tried at most."""
VOTES = 25
"""Of a config for each unit that it has over those without votes, in logarithms of time."""
FEW = 16
"""Of a node's sizes, so many configs are looked at that are best for all of them together."""
LIKE = 0.5
"""What it counts that losses are more alike on each side of a question, in their sum of squares. By
what the best config of each side saves alone most nodes would ask nothing: of two questions that
save something together the first saves nothing."""
SETTLED = 0.01
"""A node whose best config loses no more in the mean asks nothing."""

Integers = npt.NDArray[np.integer[Any]]


def portfolio(losses: Floats, number: int) -> list[int]:
    """The columns that together serve all rows best, one more at a time."""
    best, left, found = np.full(len(losses), NEVER), np.ones(losses.shape[1], bool), list[int]()
    while len(found) < number:
        gain = np.maximum(best[:, None] - losses, 0).sum(0)
        gain[~left] = -1
        one = int(np.argmax(gain))
        if gain[one] < 1e-9:
            break
        found.append(one)
        left[one] = False
        best = np.minimum(best, losses[:, one])
    return found


def losses_of(times: Floats) -> Floats:
    """How much slower each config is than the best of its row, in logarithms. A row whose configs
    are all illegal, or not judged, says nothing.
    """
    best = np.nanmin(times, 1, keepdims=True)
    lost = times - np.where(np.isinf(best), np.nan, best)
    limited: Floats = np.where(np.isnan(lost), NEVER, np.minimum(lost, MOST))
    return limited


def judged(
    args: argparse.Namespace, pool: Pool, dtype: str, held_out: Iterable[Gemm]
) -> tuple[list[Gemm], list[Text], Floats]:
    """Made-up sizes, configs, and logarithms of nanoseconds, NaN where one is not legal, infinite
    where it is slow.
    """
    kept = args.judged and args.judged / f"{dtype}.pkl"
    if kept and kept.exists():
        found: tuple[list[Gemm], list[Text], Floats] = pickle.loads(kept.read_bytes())
        return found
    dtypes = ",".join(parse_dtype(dtype))
    teacher = Teacher(
        pool.device,
        dtype,
        *(
            [
                one
                for path in paths
                for one in read(path, dtype)
                if one[0].shape not in pool.held_out
            ]
            for paths in (args.times, args.alike)
        ),
    )
    leaders = [
        row.leader for each in pool.usable.values() for row in each.values() if row.dtypes == dtypes
    ]
    candidates = sorted(leading(leaders))
    sizes = Sizes(dtype, 1002, held_out)
    few = np.array([teacher.times(one, parsed(candidates)) for one in sizes.take(PORTFOLIO_SIZES)])
    names = [candidates[one] for one in portfolio(losses_of(few), args.configs)]
    print(f"{dtype}: {len(names)} of {len(candidates)} configs are judged", flush=True)
    configs = parsed(names)

    def judge(gemm: Gemm, which: Integers) -> Floats:
        found = np.full(len(names), math.inf, np.float32)
        found[which] = teacher.times(gemm, [configs[one] for one in which])
        return found

    fresh, every = Sizes(dtype, 1001, held_out), np.arange(len(names))
    gemms = fresh.take(args.sizes)
    times = [judge(gemm, every) for gemm in gemms]
    print(f"{dtype}: {len(gemms)} sizes judged", flush=True)
    near = Near(gemms, losses_of(np.array(times)) <= FAST)
    rest = fresh.take(args.more_sizes)
    for seed, style, number in OTHERS:
        sizes = Sizes(dtype, seed, held_out, style=style)
        rest += sizes.take(args.other_sizes * number // sum(each for *_, each in OTHERS))
    for number, gemm in enumerate(rest, start=1):
        gemms.append(gemm)
        times.append(judge(gemm, near.fast(gemm)))
        if number % 4000 == 0:
            print(f"{dtype}: {number} of {len(rest)} more sizes judged", flush=True)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(pickle.dumps((gemms, names, np.array(times))))
    return gemms, names, np.array(times)


class Near:
    """What is fast on sizes near others."""

    def __init__(self, gemms: list[Gemm], fast: npt.NDArray[np.bool_]) -> None:
        self._places, self._fast = np.array([_place(one) for one in gemms]), fast

    def fast(self, gemm: Gemm) -> Integers:
        """The configs that are fast on one of the nearest sizes."""
        apart = ((self._places - _place(gemm)) ** 2).sum(1)
        return np.flatnonzero(self._fast[np.argpartition(apart, NEAR)[:NEAR]].any(0))


def _place(gemm: Gemm) -> Floats:
    sides = np.array([gemm.m, gemm.n, gemm.k])
    powers = np.minimum(sides & -sides, LARGEST_ALIGNMENT)
    return np.concatenate([np.log2(sides), ALIGNED * np.log2(powers)])


class Grower:
    """Grows trees over the features of sizes such that the best config of a leaf loses little, by
    what configs lose on sizes of one leaf being alike.
    """

    def __init__(self, inputs: Integers, losses: Floats, seed: int = 1) -> None:
        self._inputs, self._losses = inputs, losses.astype(np.float32)
        self._random = np.random.default_rng(seed)

    def tree(self) -> list[Any]:
        """As `gemmtune.forest.Forest` has it."""
        return self._node(np.arange(len(self._inputs)))

    def _node(self, rows: Integers) -> list[Any]:
        there = self._losses[rows]
        total = there.sum(0, dtype=np.float64)
        gain, feature, threshold = 0.0, -1, 0
        if len(rows) >= 2 * LEAF and total.min() > SETTLED * len(rows):
            number = self._inputs.shape[1]
            few = np.argpartition(total, FEW)[:FEW] if len(total) > FEW else np.arange(len(total))
            here, sums = there[:, few], total[few]
            for one in self._random.choice(number, (number + 1) // 2, replace=False):
                more, at = self._cut(self._inputs[rows, one], here, sums)
                if more > gain:
                    gain, feature, threshold = more, int(one), at
        if feature < 0:
            return votes(total / len(rows))
        less = self._inputs[rows, feature] < threshold
        return [feature, threshold, self._node(rows[less]), self._node(rows[~less])]

    def _cut(self, values: Integers, losses: Floats, total: Floats) -> tuple[float, int]:
        """What the best threshold is worth, and where it is."""
        order = np.argsort(values, kind="stable")
        sorted_ = values[order]
        cuts = np.flatnonzero(sorted_[1:] != sorted_[:-1])
        cuts = cuts[(cuts + 1 >= LEAF) & (len(values) - cuts - 1 >= LEAF)]
        if not len(cuts):
            return 0.0, 0
        if len(cuts) > CUTS:
            cuts = np.unique(cuts[np.linspace(0, len(cuts) - 1, CUTS).astype(int)])
        starts = np.concatenate([[0], cuts + 1])
        before = np.add.reduceat(losses[order], starts, 0).cumsum(0)[: len(cuts)]
        after, less = total - before, (cuts + 1)[:, None]
        saved = total.min() - (before.min(1) + after.min(1))
        more = len(values) - less
        alike = (before**2 / less + after**2 / more - total**2 / len(values)).sum(1)
        worth = saved + LIKE * alike
        best = int(np.argmax(worth))
        low, high = map(int, sorted_[cuts[best] : cuts[best] + 2])
        return float(worth[best]), rounded_between(low, high)


def rounded_between(low: int, high: int) -> int:
    """Over the one and not over the other: what the middle of both, in logarithms, is as a decimal
    number with as many zeros as can be. Rounder numbers take less room.
    """
    middle = min(max(round(math.sqrt(max(low, 1) * high)), low + 1), high)
    for digits in range(len(str(high)) - 1, 0, -1):
        near = round(middle / 10**digits) * 10**digits
        if low < near <= high:
            return near
    return middle


def votes(means: Floats) -> list[int]:
    """Of the best few configs of a leaf, over the next best: numbers, each before its votes. The
    best has one, however little it has over the others.
    """
    few = np.argpartition(means, KEEP)[: KEEP + 1] if len(means) > KEEP else np.arange(len(means))
    rest = means[few].max() if len(means) > KEEP else NEVER
    best = int(np.argmin(means))
    had = [
        (one, max(round(VOTES * float(rest - means[one])), int(one == best)))
        for one in sorted(map(int, few))
    ]
    return [value for pair in had if pair[1] > 0 for value in pair]


def used(trees: Iterable[Any]) -> set[int]:
    """The numbers that have votes."""
    found: set[int] = set()
    for node in trees:
        found |= used(node[2:]) if is_question(node) else set(node[::2])
    return found


def renumbered(node: list[Any], numbers: dict[int, int]) -> list[Any]:
    """A tree with other numbers of configs."""
    if is_question(node):
        return [*node[:2], *(renumbered(each, numbers) for each in node[2:])]
    return [value if place % 2 else numbers[value] for place, value in enumerate(node)]


def forest(gemms: list[Gemm], names: list[Text], times: Floats, number: int, newest: str) -> Forest:
    """Trees that were grown from such times, with the configs that vote."""
    inputs = np.array([features(one.m, one.n, one.k) for one in gemms], dtype=np.int64)
    grower = Grower(inputs, losses_of(times))
    trees = [grower.tree() for _ in range(number)]
    numbers = {one: place for place, one in enumerate(sorted(used(trees)))}
    return Forest(
        configs=[names[one] for one in numbers],
        trees=[renumbered(tree, numbers) for tree in trees],
        newest=newest,
    )


def reached(one: Forest, names: list[Text], gemms: list[Gemm], times: Floats) -> tuple[float, ...]:
    """Of the best judged config's speed, what the first legal one with votes has on these sizes:
    geometric mean and worst.
    """
    places = {name: place for place, name in enumerate(names)}
    lost = []
    for gemm, here in zip(gemms, times, strict=True):
        ranked = [here[places[name]] for name in one.first(gemm.m, gemm.n, gemm.k)]
        first = next((time for time in ranked if not math.isnan(time)), np.nanmax(here))
        if not math.isinf(best := float(np.nanmin(here))):
            lost.append(min(float(first) - best, NEVER))
    return math.exp(-sum(lost) / len(lost)), math.exp(-max(lost))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("pool", type=Path, nargs="+", help="databases, may be packed as .db.xz")
    add("--times", type=Path, nargs="+", default=[RESULTS / "times.tsv.xz"], help="see times.py")
    alike = [RESULTS / one for one in ALIKE]
    add("--alike", type=Path, nargs="*", default=alike, help="of a device that is much like it")
    add("--into", type=Path, required=True, help="database that keeps the trees")
    add("--device", help="key (default: the H100, or the only one there is)")
    add("--dtype", nargs="*", default=["f16", "f32"], help="as `gemmtune tune --dtype`")
    add("--configs", type=int, default=260, help="that are judged (default: 260)")
    add("--sizes", type=int, default=4000, help="made-up, judged on all (default: 4000)")
    add("--more-sizes", type=int, default=44000, help="judged on few (default: 44000)")
    add("--other-sizes", type=int, default=84000, help="of other styles (default: 84000)")
    add("--trees", type=int, default=6, help="of each dtype (default: 6)")
    add("--judged", type=Path, metavar="FOLDER", help="where judgements are kept, and looked for")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        database = whole(args.pool, Path(folder))
        key = args.device or device_in(database)
        pool = Pool(database, key, {one.shape for one in read_shapes(HELD_OUT)})
        newest = max(row.finished_at for row in pool.every)
        for dtype in args.dtype:
            kind = Gemm.parse("1x1x1", **dict(zip("abc", parse_dtype(dtype), strict=False))).kind
            gemms, names, times = judged(args, pool, dtype, read_shapes(HELD_OUT, dtype))
            out = np.arange(len(gemms)) % 10 == 0
            fewer = forest(list(compress(gemms, ~out)), names, times[~out], args.trees, newest)
            mean, worst = reached(fewer, names, list(compress(gemms, out)), times[out])
            print(
                f"{dtype}: a tenth of the sizes left out: {100 * mean:.1f} % of the best that was "
                f"judged, worst {100 * worst:.0f} %"
            )
            whole_ = forest(gemms, names, times, args.trees, newest)
            row = whole_.to_row()
            print(
                f"{dtype}: {len(whole_.configs)} configs vote, {len(row['trees'])} bytes of trees"
            )
            with Store.open(args.into) as store:
                store.take_in(pool.device, [], "grow_forest.py", {kind: whole_})


if __name__ == "__main__":
    main()
