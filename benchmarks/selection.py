"""What selecting for untuned shapes is worth: leave-one-out, and on shapes never tuned. No GPU.

Each tuned shape in turn is taken out of the database, a config is selected for it from what the
other shapes left, and its time there is compared with the fastest that was measured; decision
trees, which learned from that shape too, then have no say. Shapes of a
file are treated alike as far as `--reference`, where they were tuned for comparison only, has them;
nothing of theirs is chosen from. Beside the rule that lookups follow stand the nearest tuned shape
and one config for all; then what lookups reach with fewer configs to choose from. A choice that was
never measured on the shape counts for nothing and is shown as such; `benchmarks/portfolio.py`
measures them on the device. Databases may be packed with xz.

    python benchmarks/selection.py [--tuned FILE.db ...] [--reference FILE.db ...]
        [--times FILE.db ...] [--shapes-file FILE] [--write docs/selection.md [--mark NAME]]
        [--json FILE] [--policy KEY] [--launch-us N]
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from choices import Name, Times, Tuned, device_in, measured, only, portfolios, text_of

from gemmtune import Gemm
from gemmtune._data import data_path
from gemmtune.lookup import predict
from gemmtune.schema import USUAL_POLICY
from gemmtune.shapes import read_shapes

HERE = Path(__file__).parent
HELD_OUT = HERE / "shapes" / "heldout.txt"
MEASURED = [HERE / "results" / "selection-h100" / "pool.db.xz"]
RULES = {
    "lookup": "lookup",
    "predicted time alone": "predicted",
    "nearest neighbour": "nearest",
    "one best config": "one_best",
    "lookup, measured only": "of_measured",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a rule reaches on some shapes."""

    shares: dict[str, float | None]
    """Of the fastest, by shape; None: the choice was never measured there."""
    choices: dict[str, str]
    """What was chosen, as text."""

    @property
    def known(self) -> list[float]:
        """The shares that were measured."""
        return [share for share in self.shares.values() if share is not None]

    @property
    def mean(self) -> float | None:
        """Geometric mean of those known."""
        known = self.known
        return math.exp(sum(map(math.log, known)) / len(known)) if known else None

    @property
    def worst(self) -> float | None:
        """Least of those known."""
        return min(self.known, default=None)

    def to_json(self) -> dict[str, Any]:
        """Everything, with the summary."""
        return {
            "shapes": len(self.shares),
            "measured": len(self.known),
            "geometric_mean": self.mean,
            "worst": self.worst,
            "shares": self.shares,
            "choices": self.choices,
        }


def judge(chosen: dict[str, tuple[Gemm, Name | None]], times: Times) -> Result:
    """How good choices are, by `Gemm.key`."""
    shares: dict[str, float | None] = {}
    for key, (gemm, name) in chosen.items():
        here = times.get(key, {})
        time_ns = None if name is None else here.get(name)
        shares[gemm.shape] = None if time_ns is None else min(here.values()) / time_ns
    choices = {gemm.shape: " ".join(text_of(name)) for gemm, name in chosen.values() if name}
    return Result(shares=shares, choices=choices)


def by_rule(tuned: Tuned, gemms: dict[str, Gemm], times: Times) -> dict[str, Result]:
    """Every rule on every shape, each without what was measured of that shape itself."""
    chosen: dict[str, dict[str, tuple[Gemm, Name | None]]] = {label: {} for label in RULES}
    for key, gemm in gemms.items():
        rest = tuned.leaders
        if key in tuned.gemms:
            rest = [leader for leader in rest if leader.key != key]
        for label, rule in RULES.items():
            name = getattr(tuned, rule)(gemm, rest, times) if rest else None
            chosen[label][key] = (gemm, name)
    return {label: judge(every, times) for label, every in chosen.items()}


def by_number(tuned: Tuned, gemms: dict[str, Gemm], times: Times) -> dict[int, dict[str, Result]]:
    """Lookups that may choose among so many configs only, and the best choice among them."""
    found = {}
    for number, names in portfolios(tuned.leaders, times).items():
        few = only(tuned.leaders, names)
        few = tuned.leaders if len(few) == len(tuned.leaders) else few
        taken = {key: (gemm, tuned.lookup(gemm, few, times)) for key, gemm in gemms.items()}
        best = {}
        for key, gemm in gemms.items():
            fitting = {name for leader in few if (name := tuned.fitting(leader, gemm))}
            there = {name: t for name, t in times.get(key, {}).items() if name in fitting}
            best[key] = (gemm, min(there, key=lambda one: there[one], default=None))
        found[number] = {"lookup": judge(taken, times), "best choice": judge(best, times)}
    return found


def percent(share: float | None) -> str:
    """For a table."""
    return "-" if share is None else f"{100 * share:.0f} %"


def table(results: dict[str, Result]) -> list[str]:
    """Rules side by side, as Markdown."""
    lines = [f"| | {' | '.join(results)} |", f"| --- |{' ---: |' * len(results)}"]
    rows = {
        "geometric mean": [percent(one.mean) for one in results.values()],
        "worst": [percent(one.worst) for one in results.values()],
        "measured": [f"{len(one.known)} of {len(one.shares)}" for one in results.values()],
    }
    return lines + [f"| {label} | {' | '.join(cells)} |" for label, cells in rows.items()]


def curve(numbers: dict[int, dict[str, Result]]) -> list[str]:
    """What a number of configs is worth, as Markdown."""
    lines = [
        "| configs | lookup | worst | measured | best choice among them | worst | measured |",
        f"| ---: |{' ---: |' * 6}",
    ]
    for number, both in numbers.items():
        cells = [
            f"{percent(one.mean)} | {percent(one.worst)} | {len(one.known)} of {len(one.shares)}"
            for one in both.values()
        ]
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return lines


def per_shape(results: dict[str, Result]) -> list[str]:
    """Every shape's share, as text in columns."""
    lines = [f"{'shape':20}" + "".join(f"{label:>22}" for label in results)]
    for shape in next(iter(results.values())).shares:
        cells = (percent(one.shares[shape]) for one in results.values())
        lines.append(f"{shape:20}" + "".join(f"{cell:>22}" for cell in cells))
    return lines


def sections(args: argparse.Namespace, everything: dict[str, Any]) -> list[str]:
    """Of each dtype that was tuned, as Markdown; ``everything`` gets the numbers."""
    tried = measured(args.reference, args.device, args.policy)
    times = measured([*args.tuned, *args.reference, *args.times], args.device, args.policy)
    lines: list[str] = []
    for dtype in args.dtype:
        untuned = {gemm.key: gemm for gemm in read_shapes(args.shapes_file, dtype)}
        kind = next(iter(untuned.values())).kind
        tuned = Tuned(args.tuned, args.device, kind, untuned, args.policy)
        if not tuned.leaders:
            continue
        alone = by_rule(tuned, tuned.gemms, times)
        lines += [f"{dtype}, {len(tuned.gemms)} tuned shapes, each left out in turn:", ""]
        lines += [*table(alone), ""]
        found: dict[str, Any] = {"leave_one_out": {k: one.to_json() for k, one in alone.items()}}
        if not args.quiet:
            print("\n".join([f"\n{kind}, left out one at a time", *per_shape(alone)]))
        there = {key: gemm for key, gemm in untuned.items() if tried.get(key)}
        if there:
            fresh, numbers = by_rule(tuned, there, times), by_number(tuned, there, times)
            tried_each = round(median(len(times[key]) for key in there))
            heading = f"{dtype}, {len(there)} shapes that were never tuned, beside the fastest of"
            lines += [f"{heading} {tried_each} configs (median):", "", *table(fresh), ""]
            lines += ["The same by the number of configs to choose from:", "", *curve(numbers), ""]
            found["never_tuned"] = {k: one.to_json() for k, one in fresh.items()}
            found["by_number"] = {
                n: {k: one.to_json() for k, one in both.items()} for n, both in numbers.items()
            }
            if not args.quiet:
                print("\n".join([f"\n{kind}, never tuned", *per_shape(fresh)]))
        else:
            lines += [f"{dtype}, shapes that were never tuned: not measured.", ""]
        everything[kind] = found
    return lines


def write(path: Path, mark: str, lines: list[str]) -> None:
    """Puts the tables between the marks of that name in a Markdown file."""
    first, last = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, begin, rest = path.read_text("utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"{path} has no lines {first} and {last}; the tables go between them")
    text = "\n".join(lines).rstrip()
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    shipped = [data_path("tuning.db")]
    add("--tuned", type=Path, nargs="+", default=shipped, help="databases to choose from, together")
    add("--device", help="key of the device (default: the H100, or the only one there is)")
    add("--reference", type=Path, nargs="+", default=MEASURED, help="where those were tuned")
    add("--times", nargs="*", default=[], type=Path, help="databases with more measured times")
    add("--shapes-file", type=Path, default=HELD_OUT, help="shapes that were never tuned")
    add("--dtype", nargs="*", default=["f16", "f32"], help="as `gemmtune tune --dtype`")
    add("--write", type=Path, help="Markdown file whose marked part is replaced by the tables")
    add("--mark", default="selection", help="name of that part (default: selection)")
    add("--json", type=Path, help="file to write every share and choice to")
    add("--quiet", action="store_true", help="tables only, no single shapes")
    add("--policy", default=USUAL_POLICY, help="how times were taken (default: as is usual today)")
    add("--launch-us", type=float, help="what a launch counts (default: as in lookups)")
    args = parser.parse_args()
    if args.launch_us is not None:
        predict.LAUNCH_NS = 1000.0 * args.launch_us
    args.device = args.device or device_in(args.tuned[0])
    everything: dict[str, Any] = {}
    lines = sections(args, everything)
    print("\n" + "\n".join(lines))
    if args.write:
        write(args.write, args.mark, lines)
    if args.json:
        args.json.write_text(json.dumps(everything, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
