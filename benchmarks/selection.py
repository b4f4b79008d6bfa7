"""What selecting for untuned shapes is worth: leave-one-out over the tuned shapes that ship.

Each tuned shape in turn is taken out of the database, a config is selected for it from what the
other shapes left, and its measured time there is compared with the fastest that was measured.
Beside the rule that lookups follow stand the nearest tuned shape and one config for all. No GPU.
A choice that was never measured on the shape counts for nothing and is shown as such;
`benchmarks/portfolio.py` measures them on the device.

    python benchmarks/selection.py [--times FILE.db ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gemmtune import Gemm
from gemmtune._data import data_path
from gemmtune.lookup import distance
from gemmtune.lookup.candidates import Search
from gemmtune.lookup.catalogue import Catalogue, Leader, signature_of

KEY = "vulkan/10de-2330/nvidia-h100-80gb-hbm3/580.159.04"
SHIPPED = data_path("tuning.db")
MEASURED = Path(__file__).parent / "results" / "portfolio-h100.db"
QUERY = """
SELECT p.key, m.family, m.config, m.time_ns FROM measurements m
JOIN devices d ON d.id = m.device_id JOIN problems p ON p.id = m.problem_id
WHERE m.status = 'ok' AND d.key = ? AND m.policy = '1/cold/0.05s/7'
"""

Times = dict[str, dict[tuple[str, str], float]]
"""By problem and config: nanoseconds."""


def canonical(text: str) -> str:
    """A config as text that is equal for equal configs; 1 for a split that older rows lack."""
    return json.dumps({"split_k": 1} | json.loads(text), sort_keys=True)


def measured(paths: Iterable[Path]) -> Times:
    """Every time that was measured; the fastest where several were."""
    times: Times = defaultdict(dict)
    for path in paths:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        for problem, family, config, time_ns in connection.execute(QUERY, (KEY,)):
            name = (family, canonical(config))
            times[problem][name] = min(time_ns, times[problem].get(name, math.inf))
        connection.close()
    return times


class Shapes:
    """The tuned shapes of one kind, and the rules that choose for them."""

    def __init__(self, catalogue: Catalogue, kind: str, times: Times) -> None:
        self.all = [leader for leader in catalogue.leaders(KEY) if leader.kind == kind]
        self.gemms = {leader.key: leader.gemm for leader in self.all}
        self.catalogue = catalogue
        self.times = times

    def without(self, key: str) -> list[Leader]:
        """What is left of the database when ``key`` is taken out."""
        return [leader for leader in self.all if leader.key != key]

    def predicted(self, gemm: Gemm, rest: list[Leader]) -> tuple[str, str]:
        """What a lookup takes."""
        self.catalogue._leaders[KEY] = tuple(rest)
        self.catalogue._speeds.clear()
        found = Search((self.catalogue,), gemm, KEY, None, None).answer()
        return found.family, canonical(json.dumps(found.config.to_json()))

    def nearest(self, gemm: Gemm, rest: list[Leader]) -> tuple[str, str]:
        """The fastest config of the nearest shape."""
        one = min(rest, key=lambda leader: (distance(leader.gemm, gemm), leader.time_ns))
        return one.family, canonical(one.text)

    def best_for_all(self, _: Gemm, rest: list[Leader]) -> tuple[str, str]:
        """The winner that does best on the other shapes; unmeasured counts as half as fast."""
        others = {leader.key for leader in rest}
        best = {key: min(self.times[key].values()) for key in others}

        def score(name: tuple[str, str]) -> float:
            shares = [best[key] / self.times[key].get(name, 2 * best[key]) for key in others]
            return sum(map(math.log, shares))

        return max({(leader.family, canonical(leader.text)) for leader in rest}, key=score)


def leave_one_out(shapes: Shapes, rule: str) -> dict[str, float | None]:
    """Share of the optimum by shape; None where the choice was never measured there."""
    found: dict[str, float | None] = {}
    for key, gemm in shapes.gemms.items():
        name = getattr(shapes, rule)(gemm, shapes.without(key))
        time_ns = shapes.times[key].get(name)
        found[key] = None if time_ns is None else min(shapes.times[key].values()) / time_ns
    return found


def summary(shares: dict[str, float | None]) -> dict[str, Any]:
    known = [share for share in shares.values() if share is not None]
    mean = math.exp(sum(map(math.log, known)) / len(known)) if known else None
    return {
        "shapes": len(shares),
        "measured": len(known),
        "geometric_mean": mean,
        "worst": min(known, default=None),
    }


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", nargs="*", type=Path, help="databases with more measured times")
    parser.add_argument("--json", help="file to write the shares to")
    args = parser.parse_args()
    more = args.times if args.times is not None else [MEASURED] if MEASURED.exists() else []
    times = measured([SHIPPED, *more])
    rules = {
        "lookup": "predicted",
        "nearest neighbour": "nearest",
        "one best config": "best_for_all",
    }
    everything: dict[str, Any] = {}
    for kind in sorted({key.partition(":")[2] for key in times}):
        signature = signature_of(SHIPPED)
        assert signature is not None
        shapes = Shapes(Catalogue(SHIPPED, signature), kind, times)
        if not shapes.all:
            continue
        found = {name: leave_one_out(shapes, rule) for name, rule in rules.items()}
        everything[kind] = found
        print(f"\n{kind}, {len(shapes.gemms)} shapes left out one at a time")
        print(f"{'shape':20}" + "".join(f"{name:>20}" for name in rules))
        for key, gemm in shapes.gemms.items():
            print(
                f"{gemm.shape:20}" + "".join(f"{percent(found[name][key]):>20}" for name in rules)
            )
        for label, field in (("geometric mean", "geometric_mean"), ("worst", "worst")):
            row = [percent(summary(found[name])[field]) for name in rules]
            print(f"{label:20}" + "".join(f"{text:>20}" for text in row))
        counts = [f"{summary(found[n])['measured']} of {len(shapes.gemms)}" for n in rules]
        print(f"{'measured':20}" + "".join(f"{text:>20}" for text in counts))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(everything, file, indent=1)


if __name__ == "__main__":
    main()
