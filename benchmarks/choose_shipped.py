"""Chooses which of all measurements of a device ship in tuning.db. No GPU.

Of each pair of dtypes that has a `Plan`: a few configs that together serve all problems best, of
each problem that was searched or is a preset's the best row that one of them has, and of presets'
the very best where that is faster by more than 3 %. Then rows of the configs that decision trees
speak of, which ship too, see `grow_forest.py`. Then rounds of counterexamples: what lookups would
choose first by predicted time for a problem, if it were left out, and is known to be slow there, is
added, so that they know better. Then the best rows of problems with operands stored otherwise that
are predicted badly. Of all other problems their best.

Held-out shapes have no part in this, nor has any config that a search came upon there before it was
timed elsewhere. Those that are a preset's too ship their best row of the configs that ship anyway.

    python benchmarks/choose_shipped.py POOL [POOL ...] [--output tuning.db] [--json FILE]
        [--keep benchmarks/results/selection-h100/pool.db.xz] [--held-out FILE ...]
        [--forests tuning.db] [--configs f16=200] [--top f16=3] [--tolerance f16=0.25] [--rounds 8]

`--keep` writes all rows that choosing and `selection.py` can use, held-out shapes included, in
little space. Choosing from that file gives the same rows as from all that it was made from.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from choices import device_in
from leave_out import Rule
from pool import Pool, Text, keep, leading, ship, whole

from gemmtune import Gemm
from gemmtune._data import data_path
from gemmtune.device import Device
from gemmtune.forest import Forest
from gemmtune.kernels import FAMILIES
from gemmtune.shapes import PRESETS, parse_dtype, preset, read_shapes
from gemmtune.store import Store
from gemmtune.ties import TIE

HERE = Path(__file__).parent
HELD_OUT = HERE / "shapes" / "heldout.txt"

UNKNOWN = 2.0
"""A problem that none of the chosen configs was measured on counts as so many times slower."""
OWN_BEST = 1.03
"""A problem's very best row ships where it is faster than the chosen configs by so much."""
DEEP = 12
"""A problem is known well, so that choices for it can be judged, where so many configs were timed;
only those that lead somewhere count."""
PLAIN_DEEP = 8
"""The same for configs that do not multiply matrices."""
OTHERWISE = 0.84
"""With operands stored otherwise, choices that reach so much of the best need no row."""
ADVISED = 1
"""Of a config that trees speak of, so many rows ship, of problems where it leads."""
NAMED = 5
"""So many problems are named where something is wrong with several."""

Chosen = dict[tuple[str, Text], str]
"""Why each row ships, by problem and config."""
Times = Mapping[str, Mapping[Text, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the rows of some dtypes are chosen."""

    dtype: str
    """As `gemmtune tune --dtype`."""
    configs: int
    """At most so many serve all problems together."""
    top: int
    """Of the choices for a problem that is left out, so many are looked at."""
    tolerance: float
    """Those that lose more than this are counterexamples."""
    plain: int = 0
    """So many configs beside them do not multiply matrices, for devices that cannot."""

    @property
    def kind(self) -> str:
        """`Gemm.kind` of the problems that presets have."""
        a, b, c, acc = parse_dtype(self.dtype)
        return Gemm(m=1, n=1, k=1, a=a, b=b, c=c, acc=acc).kind


PLANS = (
    Plan(dtype="f16", configs=200, top=3, tolerance=0.25, plain=12),
    Plan(dtype="f32", configs=200, top=3, tolerance=0.15),
)


def portfolio(times: Times, candidates: Iterable[Text], number: int) -> list[Text]:
    """The configs that together serve all problems best: one more at a time, by what it gains over
    those before in logarithms of time.
    """
    left = set(candidates)
    fastest = {key: min(here.values()) for key, here in times.items()}
    losses: dict[Text, dict[str, float]] = defaultdict(dict)
    for key, here in times.items():
        for text in left & here.keys():
            losses[text][key] = here[text] / fastest[key]
    best = dict.fromkeys(times, UNKNOWN)
    found: list[Text] = []

    def gain(text: Text) -> float:
        return sum(math.log(max(best[key] / loss, 1.0)) for key, loss in losses[text].items())

    while left and len(found) < number:
        text = max(sorted(left), key=gain)
        if gain(text) < 1e-9:
            break
        found.append(text)
        left.remove(text)
        for key, loss in losses[text].items():
            best[key] = min(best[key], loss)
    return found


def winners(times: Times) -> set[Text]:
    """The configs that are the fastest of a problem, or as fast."""
    found: set[Text] = set()
    for here in times.values():
        limit = (1 + TIE) * min(here.values())
        found |= {text for text, time_ns in here.items() if time_ns <= limit}
    return found


def exact(times: Times, configs: Iterable[Text]) -> Chosen:
    """Of each problem the best row that one of the configs has, and its very best if need be."""
    chosen: Chosen = {}
    names = set(configs)
    for key, here in times.items():
        own = fastest_of(here, here)
        one = fastest_of(here, names)
        if one is not None:
            chosen[key, one] = "best of the portfolio"
        if one is None or here[one] > OWN_BEST * here[own or one]:
            assert own is not None  # every problem has a row
            chosen[key, own] = "own best"
    return chosen


def fastest_of(here: Mapping[Text, float], names: Iterable[Text]) -> Text | None:
    """Of these configs, the one that is the fastest of those measured; None: none was."""
    return min(sorted(set(names) & here.keys()), key=lambda text: here[text], default=None)


class Choice:
    """The rows of one plan that ship, found step by step."""

    def __init__(
        self, pool: Pool, plan: Plan, deep: int, rounds: int, advised: Iterable[Text] = ()
    ) -> None:
        self.pool, self.plan, self.rounds = pool, plan, rounds
        self.times = pool.times(pool.of_kind(plan.kind))
        self.deep = [key for key, here in self.times.items() if len(here) >= deep]
        self.gemms = {
            key: next(iter(rows.values())).leader.gemm for key, rows in pool.usable.items()
        }
        self.configs = portfolio(self.times, winners(self.times), plan.configs)
        self.chosen = self.advised(advised) | self.plain() | self.known()
        self.left: int = self.add_counterexamples()
        """Counterexamples that there still are."""
        self.add_stored_otherwise()
        self.add_presets()

    def rule(self) -> Rule:
        """Lookups that know what was chosen so far."""
        rows = self.pool.rows
        return Rule(self.pool.device, (rows[key][text].leader for key, text in self.chosen))

    def known(self) -> Chosen:
        """Of presets' problems the best rows, and of those that were searched too, not only timed,
        the best of the portfolio.
        """
        presets = {gemm.key for gemm in preset_gemms(self.plan.dtype)}
        chosen = exact({key: self.times[key] for key in self.times if key in presets}, self.configs)
        for key, here in self.times.items():
            if any(row.searched for row in self.pool.usable[key].values()):
                one = fastest_of(here, self.configs)
                if one is not None:
                    chosen.setdefault((key, one), "best of the portfolio")
        return chosen

    def advised(self, names: Iterable[Text]) -> Chosen:
        """Of each config that trees speak of, rows of problems where it is the fastest of its
        family, or as fast: those first where the others are slower.
        """
        leaders = (row.leader for key in self.times for row in self.pool.usable[key].values())
        leads, found = leading(leaders), Chosen()
        for text in names:
            keys = leads.get(text, set())

            def lead(key: str, text: Text = text) -> float:
                here = self.times[key]
                others = [ns for one, ns in here.items() if one[0] == text[0] and one != text]
                return min(others, default=math.inf) / here[text]

            for key in sorted(keys, key=lambda one: (-lead(one), one))[:ADVISED]:
                found[key, text] = "advised"
        return found

    def plain(self) -> Chosen:
        """Of problems that are known well and those of the core set, the best row of some configs
        that do not multiply matrices.
        """
        plain: dict[str, dict[Text, float]] = {}
        for key, here in self.times.items():
            slow = {
                text: time_ns
                for text, time_ns in here.items()
                if not FAMILIES[text[0]].multiplies_matrices
            }
            if len(slow) >= PLAIN_DEEP:
                plain[key] = slow
        names = portfolio(plain, winners(plain), self.plan.plain)
        core = {gemm.key for gemm in preset("core", self.plan.dtype)}
        wanted = core | set(self.deep)
        found = {key: fastest_of(here, names) for key, here in plain.items() if key in wanted}
        return {(key, text): "without matrices" for key, text in found.items() if text}

    def counterexamples(self) -> Chosen:
        """Rows that show that what is chosen first for a problem, left out, is slow there."""
        rule, found = self.rule(), Chosen()
        for key in self.deep:
            here = self.times[key]
            limit = min(here.values()) / (1.0 - self.plan.tolerance)
            for text in islice(rule.left_out(self.gemms[key]), self.plan.top):
                # A config that was taken with bounds checks may lead nowhere with them.
                if here.get(text, 0.0) > limit and text in rule.configs:
                    found[key, text] = "counterexample"
        return {row: why for row, why in found.items() if row not in self.chosen}

    def add_counterexamples(self) -> int:
        """Until there is none, or often enough; how many there still are."""
        for _ in range(self.rounds):
            more = self.counterexamples()
            if not more:
                return 0
            self.chosen |= more
        return len(self.counterexamples())

    def add_stored_otherwise(self) -> None:
        """The best rows of problems whose operands are stored otherwise and for which lookups
        choose badly by what else was chosen.
        """
        dtypes = self.plan.kind.partition(":")[0]
        kinds = {
            kind
            for key in self.pool.usable
            if (kind := key.partition(":")[2]) != self.plan.kind
            and kind.partition(":")[0] == dtypes
            and kind.count(":") == 1
        }
        times = self.pool.times(key for kind in sorted(kinds) for key in self.pool.of_kind(kind))
        for _ in range(self.rounds):
            rule, known, more = self.rule(), {key for key, _ in self.chosen}, Chosen()
            for key in times.keys() - known:
                here, own = times[key], fastest_of(times[key], times[key])
                text = next((one for one in rule.choices(self.gemms[key]) if one in here), None)
                if own and (text is None or here[own] < OTHERWISE * here[text]):
                    more[key, own] = "stored otherwise"
            if not more:
                break
            self.chosen |= more

    def add_presets(self) -> None:
        """Of presets' problems that are held out, the best row of the configs that ship anyway."""
        names = {text for _, text in self.chosen}
        for gemm in preset_gemms(self.plan.dtype):
            rows = self.pool.rows.get(gemm.key, {})
            here = {text: row.leader.time_ns for text, row in rows.items()}
            text = fastest_of(here, names)
            if gemm.shape in self.pool.held_out and text is not None:
                self.chosen[gemm.key, text] = "preset, held out"

    def shares(self) -> dict[str, float]:
        """Of the fastest that was measured, what the first measured choice reaches for each problem
        that is known well, left out.
        """
        base = [row for row in self.chosen if row[0].partition(":")[0] not in self.pool.held_out]
        rule = Rule(self.pool.device, (self.pool.rows[key][text].leader for key, text in base))
        found = {}
        for key in self.deep:
            here = {text: row.leader.time_ns for text, row in self.pool.rows[key].items()}
            text = next((one for one in rule.left_out(self.gemms[key]) if one in here), None)
            if text is not None:
                found[self.gemms[key].shape] = min(here.values()) / here[text]
        return found

    def to_json(self) -> dict[str, Any]:
        """What was chosen, in numbers, and each row."""
        shares = self.shares()
        known = list(shares.values())
        whys = list(self.chosen.values())
        return {
            "configs": len(self.configs),
            "configs_in_all": len({text for _, text in self.chosen}),
            "rows": len(self.chosen),
            "reasons": {why: whys.count(why) for why in sorted(set(whys))},
            "counterexamples_left": self.left,
            "without_row": self.without_row(),
            "deep": len(self.deep),
            "geometric_mean": math.exp(sum(map(math.log, known)) / len(known)) if known else None,
            "worst": min(known, default=None),
            "under_80": sum(share < 0.8 for share in known),
            "shares": shares,
            "chosen": [[key, *text, why] for (key, text), why in sorted(self.chosen.items())],
        }

    def without_row(self) -> list[str]:
        """Presets' problems with no row that ships."""
        there = {key for key, _ in self.chosen}
        return [gemm.shape for gemm in preset_gemms(self.plan.dtype) if gemm.key not in there]


def preset_gemms(dtype: str) -> list[Gemm]:
    """The problems of all presets, each once."""
    every = (gemm for name in PRESETS for gemm in preset(name, dtype))
    return list(dict.fromkeys(every))


def forests_of(path: Path, device: Device) -> dict[str, Forest]:
    """The trees that a database has of a device, by kind."""
    with Store.open(path, create=False, read_only=True) as store:
        return store.forests(device.key)


def others(pool: Pool, plans: Iterable[Plan]) -> Chosen:
    """The best row of each problem that no plan is about."""
    planned = {plan.kind.partition(":")[0] for plan in plans}
    found: Chosen = {}
    for key in sorted(pool.usable):
        dtypes, *rest = key.partition(":")[2].split(":")
        if dtypes not in planned or len(rest) > 1:
            here = pool.times([key])[key]
            best = fastest_of(here, here)
            assert best is not None
            found[key, best] = "other kind"
    return found


def summary(dtype: str, found: dict[str, Any]) -> str:
    """A paragraph about what was chosen for some dtypes."""
    reasons = ", ".join(f"{number} {why}" for why, number in found["reasons"].items())
    lines = [
        f"{dtype}: {found['rows']} rows of {found['configs_in_all']} configs, "
        f"{found['configs']} of them in the portfolio",
        f"  {reasons}; {found['counterexamples_left']} counterexamples left",
        f"  {found['deep']} problems that are known well, each left out: ",
    ]
    if found["geometric_mean"] is not None:
        lines[-1] += (
            f"geometric mean {100 * found['geometric_mean']:.1f} %, worst "
            f"{100 * found['worst']:.0f} %, {found['under_80']} under 80 %"
        )
    if found["without_row"]:
        number, some = len(found["without_row"]), " ".join(found["without_row"][:NAMED])
        lines.append(f"  {number} of presets have no row, as {some}")
    return "\n".join(lines)


def planned(args: argparse.Namespace) -> list[Plan]:
    """The plans with what the command line says otherwise."""
    plans = {plan.dtype: plan for plan in PLANS}
    for field in fields(Plan):
        for text in getattr(args, field.name, None) or []:
            dtype, _, value = text.partition("=")
            if dtype not in plans:
                raise SystemExit(f"{text}: give one of {', '.join(plans)} and a number, as f16=5")
            number: Any = float(value) if field.name == "tolerance" else int(value)
            plans[dtype] = replace(plans[dtype], **{field.name: number})
    return list(plans.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("pool", type=Path, nargs="+", metavar="POOL", help="databases, may be packed as .db.xz")
    add("--output", type=Path, help="database to write what was chosen to")
    add("--keep", type=Path, help="database to write all rows that count to, packed if .xz")
    add("--json", type=Path, help="file to write every row, share and reason to")
    add("--device", help="key of the device (default: the H100, or the only one there is)")
    add(
        "--held-out",
        type=Path,
        nargs="*",
        default=[HELD_OUT],
        help="files of shapes with no part in it",
    )
    shipped = data_path("tuning.db")
    add("--forests", type=Path, default=shipped, help="database of the trees that ship")
    add("--configs", nargs="*", help="of the portfolio, as f16=50")
    add("--plain", nargs="*", help="configs beside it that multiply no matrices, as f16=12")
    add("--top", nargs="*", help="choices that may be counterexamples, as f16=5")
    add("--tolerance", nargs="*", help="what they may lose, as f16=0.25")
    add("--rounds", type=int, default=8, help="of counterexamples at most (default: 8)")
    add("--deep", type=int, default=DEEP, help=f"configs of a problem known well (default: {DEEP})")
    args = parser.parse_args()
    plans = planned(args)
    held_out = {gemm.shape for path in args.held_out for gemm in read_shapes(path)}
    with TemporaryDirectory() as folder:
        database = whole(args.pool, Path(folder))
        pool = Pool(database, args.device or device_in(database), held_out)
        if args.keep:
            keep(database, {row.number for row in pool.every}, args.keep)
            print(f"{args.keep}: {len(pool.every)} rows, {args.keep.stat().st_size} bytes")
        if args.keep and not (args.output or args.json):
            return
        forests = forests_of(args.forests, pool.device)
        chosen, everything = others(pool, plans), {}
        for plan in plans:
            if not pool.of_kind(plan.kind):
                continue
            known = forests.get(plan.kind)
            advised = known.configs if known else []
            choice = Choice(pool, plan, args.deep, args.rounds, advised)
            chosen |= choice.chosen
            everything[plan.dtype] = choice.to_json()
            print(summary(plan.dtype, everything[plan.dtype]), flush=True)
        if not chosen:
            raise SystemExit(f"nothing that {pool.device.name} measured may ship")
        if args.json:
            args.json.write_text(json.dumps(everything, indent=1) + "\n", "utf-8")
        if args.output:
            numbers = {pool.rows[key][text].number for key, text in chosen}
            ship(database, numbers, args.output, pool.device, forests)
            print(f"{args.output}: {len(numbers)} rows, {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
