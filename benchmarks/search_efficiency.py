"""How many configs a search measures until it is near the best: gemmtune beside Kernel Tuner.

Every strategy searches the same recorded landscapes, the same legal set, from the same number of
seeds; nothing runs on a GPU. Needs `pip install '.[tune]' kernel-tuner`. A strategy that stops by
itself keeps what it has. Usage:

    python benchmarks/search_efficiency.py --develop a.json.gz --held-out b.json.gz c.json.gz

The score is that of F.-J. Willemsen et al., "A methodology for comparing optimization algorithms
for auto-tuning", Future Generation Computer Systems 159, 2024 (doi:10.1016/j.future.2024.05.021):
how far the mean best-so-far lies between what random search is calculated to reach (0) and the
optimum (1), over the evaluations that random search needs for 95 % of the way from median to best.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

# One thread each: a process is a run.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np

from gemmtune.kernels import FAMILIES
from gemmtune.kernels.predict import traits
from gemmtune.kerneltuner import to_cache
from gemmtune.landscape import Landscape
from gemmtune.search import SAMPLERS, Search

PEERS = ("random_sample", "genetic_algorithm", "adaptive_tabu_greywolf", "hybrid_vndx")
OURS = ("guided", "tpe", "random")
NEVER = 10**6
"""Evaluations of a run that does not get there."""
RESAMPLES = 1000
"""Of the bootstrap behind every interval."""


@dataclass(frozen=True)
class Ground:
    """A landscape as numbers."""

    path: Path
    landscape: Landscape
    times: dict[Any, float]
    optimum: float

    @classmethod
    @cache
    def open(cls, path: Path) -> Ground:
        """The landscape in a file, read once per process."""
        landscape = Landscape.read(path)
        times = {row.config: row.time_ns or math.inf for row in landscape.rows}
        return cls(path, landscape, times, min(times.values()))


def ours(path: Path, sampler: str, seed: int, budget: int) -> list[float]:
    """Times in the order gemmtune's search asks for them."""
    ground = Ground.open(path)
    gemm, device, family = (getattr(ground.landscape, n) for n in ("gemm", "device", "family"))
    launches = {row.config: row.launches for row in ground.landscape.rows}
    matrices = family in FAMILIES and FAMILIES[family].multiplies_matrices
    search = Search(
        [(family, config) for config in ground.times],
        sampler=sampler,  # type: ignore[arg-type]
        seed=seed,
        traits=lambda _, config: traits(launches[config], gemm, device, matrices=matrices),
    )
    course = []
    while len(course) < budget and (candidate := search.ask()) is not None:
        time_ns = ground.times[candidate.config]
        search.tell(candidate, None if time_ns == math.inf else time_ns)
        course.append(time_ns)
        if time_ns == ground.optimum:
            break  # nothing better can come
    return course


@cache
def _simulated(path: Path) -> tuple[str, dict[str, Any], Any]:
    """Kernel Tuner's cache file of a landscape, and its search space made once per process."""
    from kernel_tuner.searchspace import Searchspace

    cache = to_cache(Ground.open(path).landscape)
    folder = tempfile.mkdtemp(prefix="search-efficiency-")
    name = str(Path(folder) / "cache.json")
    Path(name).write_text(json.dumps(cache))
    # The legal set is given, not found by trying the whole grid again for every run.
    return name, cache, Searchspace(None, None, None, from_cache=cache)


def peers(path: Path, strategy: str, seed: int, budget: int) -> list[float]:
    """Times of the distinct configs that a strategy of Kernel Tuner measures, in its order."""
    warnings.simplefilter("ignore")
    import kernel_tuner.interface as kernel_tuner

    name, cache, space = _simulated(path)
    kernel_tuner.Searchspace = lambda *_, **__: space
    random.seed(seed)
    np.random.seed(seed)
    results, _ = kernel_tuner.tune_kernel(
        kernel_name=cache["kernel_name"],
        kernel_source="",
        problem_size=tuple(cache["problem_size"]),
        arguments=[],
        tune_params=cache["tune_params"],
        cache=name,
        simulation_mode=True,
        strategy=strategy,
        strategy_options={"max_fevals": budget},
        quiet=True,
    )
    seen: dict[tuple[Any, ...], float] = {}
    for result in results:
        key = tuple(result[n] for n in cache["tune_params_keys"])
        failed = isinstance(result["time"], str)
        seen.setdefault(key, math.inf if failed else result["time"] * 1e6)
    return list(seen.values())[:budget]


def until(course: Sequence[float], limit: float) -> int:
    """Evaluations until a time of at most ``limit``."""
    return next((i for i, time_ns in enumerate(course, start=1) if time_ns <= limit), NEVER)


def score(ground: Ground, courses: Sequence[Sequence[float]]) -> float:
    """See the module's first words. Random search is calculated, without replacement."""
    # What failed counts as the worst that worked: the mean of infinity says nothing.
    timed = sorted((t for t in ground.times.values() if t < math.inf), reverse=True)
    worst = timed[0]
    ranked = [worst] * (len(ground.times) - len(timed)) + timed
    count = len(ranked)

    def baseline(draws: int) -> float:
        return ranked[min(round(draws * (count + 1) / (draws + 1)), count) - 1]

    target = ground.optimum + (ranked[count // 2] - ground.optimum) * 0.05
    last = next(m for m in range(1, count + 1) if baseline(m) <= target)
    first = next(m for m in range(1, last + 1) if baseline(m) <= ranked[count // 2])
    values = []
    for draws in range(first, math.ceil(1.1 * last) + 1):
        reached = np.mean([min([*course[:draws], worst]) for course in courses])
        gap = baseline(draws) - ground.optimum
        if gap > 0:
            values.append((baseline(draws) - reached) / gap)
    return float(np.mean(values))


def interval(values: Sequence[Any], statistic: Callable[[list[Any]], float]) -> tuple[float, float]:
    """The middle 95 % of a statistic over bootstrap samples of the runs."""
    chance = random.Random(0)
    found = sorted(statistic(chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return found[int(0.025 * RESAMPLES)], found[int(0.975 * RESAMPLES)]


def quantile(values: Sequence[float], share: float) -> float:
    """The least of the values that so large a share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median(values: Sequence[float]) -> float:
    """Of the runs; NEVER if half of them never get there."""
    return quantile(values, 0.5)


def text(count: float) -> str:
    """A number of evaluations."""
    return "never" if count >= NEVER else f"{count:.0f}"


def row(label: str, runs: Sequence[tuple[int, int]], points: str) -> str:
    """A line of the table."""
    near, nearest = [run[0] for run in runs], [run[1] for run in runs]
    low, high = interval(near, median)
    share = np.mean([n <= 200 for n in near])
    least, most = interval([n <= 200 for n in near], lambda hits: float(np.mean(hits)))
    cells = (
        label,
        f"{text(median(near))} [{text(low)}, {text(high)}]",
        text(quantile(near, 0.9)),
        f"{share:.0%} [{least:.0%}, {most:.0%}]",
        text(median(nearest)),
        text(quantile(nearest, 0.9)),
        points,
    )
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| strategy | within 5 %: median [95 %] | 90th percentile | in 200 evaluations [95 %] "
    "| within 1 %: median | 90th percentile | score [95 %] |\n|---|---|---:|---|---:|---:|---|"
)


def scored(ground: Ground, courses: Sequence[Sequence[float]]) -> tuple[float, str]:
    """The score, and with its interval as text."""
    chance = random.Random(0)
    value = score(ground, courses)
    again = sorted(score(ground, chance.choices(courses, k=len(courses))) for _ in range(40))
    return value, f"{value:.2f} [{again[1]:.2f}, {again[-2]:.2f}]"


def report(
    title: str,
    paths: Sequence[Path],
    courses: dict[tuple[Path, str], list[list[float]]],
    budget: int,
) -> Iterator[str]:
    """Markdown of one group of landscapes: each by itself, then all together."""
    labels = list(dict.fromkeys(label for _, label in courses))
    pooled: dict[str, list[tuple[int, int]]] = {label: [] for label in labels}
    points: dict[str, list[float]] = {label: [] for label in labels}
    for path in paths:
        ground = Ground.open(path)
        within = [sum(t <= ground.optimum * f for t in ground.times.values()) for f in (1.05, 1.01)]
        landscape = ground.landscape
        yield (
            f"\n### {title}: {landscape.family}, {landscape.gemm.key}\n\n"
            f"`{path.name}`, {landscape.device.name}, driver {landscape.device.driver}: "
            f"{len(ground.times)} configs, {sum(landscape.failures.values())} failed, "
            f"{within[0]} within 5 % of the best, {within[1]} within 1 %.\n\n{HEAD}"
        )
        for label in labels:
            found = courses[path, label]
            runs = [tuple(until(c, ground.optimum * f) for f in (1.05, 1.01)) for c in found]
            pooled[label] += runs
            value, words = scored(ground, found)
            points[label].append(value)
            yield row(label, runs, words)
    if len(paths) > 1:
        yield f"\n### {title}: all {len(paths)} landscapes together\n\n{HEAD}"
        for label in labels:
            yield row(label, pooled[label], f"{np.mean(points[label]):.2f}")
    yield verdict(pooled, budget)


def verdict(pooled: dict[str, list[tuple[int, int]]], budget: int) -> str:
    """Who needs how many, in a sentence, and where gemmtune's default loses."""
    medians = {label: median([run[0] for run in runs]) for label, runs in pooled.items()}
    own = medians["gemmtune guided"]
    best = min((label for label in medians if "Kernel" in label), key=lambda label: medians[label])
    name, goal = best.removeprefix("Kernel Tuner "), "the goal was at most half."
    ours = f"\ngemmtune's guided search needs {text(own)} evaluations, "
    if medians[best] == NEVER:
        return (
            f"{ours}none of Kernel Tuner's gets there in {budget} in most runs: a share under "
            f"{own / budget:.2f}; {goal}"
        )
    share = f"a share of {own / medians[best]:.2f}"
    return f"{ours}the best of Kernel Tuner ({name}) {text(medians[best])}: {share}; {goal}"


def _timed(run: Callable[[], list[float]]) -> tuple[list[float], float]:
    began_s = time.perf_counter()
    return run(), time.perf_counter() - began_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--develop", nargs="*", type=Path, default=[], help="used for tuning ours")
    parser.add_argument("--held-out", nargs="*", type=Path, default=[], help="never looked at")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--budget", type=int, default=200, help="evaluations of a run")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--samplers", nargs="*", default=OURS, choices=SAMPLERS)
    parser.add_argument("--strategies", nargs="*", default=PEERS)
    parser.add_argument("--output", type=Path, help="file for the table; else standard output")
    args = parser.parse_args()
    began_s = time.perf_counter()
    runs: list[tuple[Path, str, Callable[[], list[float]]]] = []
    for path in (*args.develop, *args.held_out):
        for kind, names, function in (
            ("gemmtune", args.samplers, ours),
            ("Kernel Tuner", args.strategies, peers),
        ):
            for name in names:
                runs += [
                    (path, f"{kind} {name}", partial(function, path, name, seed, args.budget))
                    for seed in range(args.seeds)
                ]
    courses: dict[tuple[Path, str], list[list[float]]] = {}
    spent_s: dict[str, float] = {}
    with ProcessPoolExecutor(args.processes) as pool:
        outcomes = pool.map(_timed, [run for _, _, run in runs], chunksize=5)
        for (path, label, _), (course, seconds) in zip(runs, outcomes, strict=True):
            courses.setdefault((path, label), []).append(course)
            spent_s[label] = spent_s.get(label, 0.0) + seconds
    lines = [f"{args.seeds} seeds a landscape, {args.budget} evaluations each."]
    for title, paths in (("Developed on", args.develop), ("Held out", args.held_out)):
        if paths:
            lines += report(title, paths, courses, args.budget)
    lines.append(
        "\nWall time of a run: "
        + ", ".join(
            f"{label} {s / args.seeds / len({p for p, _ in courses}):.1f} s"
            for label, s in spent_s.items()
        )
        + f"; everything {time.perf_counter() - began_s:.0f} s on {args.processes} processes."
    )
    table = "\n".join(lines) + "\n"
    if args.output is None:
        print(table)
    else:
        args.output.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
