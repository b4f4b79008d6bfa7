"""The table and the plot of a results file of peers.py; measures nothing and needs no GPU.

    python benchmarks/plot_peers.py h100.json --table h100.md --plot h100.svg --plot h100.png
        [--again OTHER.json]

The plot has, for each dtype, the shapes set by set and every contestant's speed as a share of
cuBLAS and, below, of the roofline: the shortest time that the device's ceilings allow. What was not
measured is left out. With ``--again`` the table ends with how far apart the times of two files are,
e.g. of the same command on another device of the same kind. The plot needs `pip install
matplotlib`, the table nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peer_results import CONTESTANTS, CUBLAS, DEFAULT, ORT, OURS, Results, Row

# Okabe and Ito's colours, dark to light also in grey; marks tell them apart without colour.
MARKS = {
    OURS: ("#0072B2", "o", 30),
    DEFAULT: ("#56B4E9", "v", 18),
    ORT: ("#E69F00", "s", 16),
    CUBLAS: ("#000000", "_", 40),
}
MEASURES = ("cuBLAS", "roofline")
WIDTH_IN = 9.0
PANEL_IN = 2.5
HEAD = (
    "| MxNxK | kernel | us | TFLOP/s | GB/s | spread | drift | samples | error "
    "| default TFLOP/s | gain | cuBLAS TFLOP/s | share of cuBLAS | roofline | of it "
    "| onnxruntime-webgpu TFLOP/s |"
)
COLUMNS = HEAD.count("|") - 1


def panels(results: Results) -> dict[str, dict[str, list[Row]]]:
    """Rows by dtype, then by set, in the order they were measured."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in results.rows:
        found.setdefault(row.dtype, {}).setdefault(row.group, []).append(row)
    return found


def share(results: Results, row: Row, name: str, of: str) -> float | None:
    """Speed of a contestant over that of cuBLAS or of the roofline; None: one is missing."""
    if name not in row.entries:
        return None
    whole: float | None
    if of == "roofline":
        whole = results.bound_ns(row)
    else:
        whole = row.entries[CUBLAS].time_ns if CUBLAS in row.entries else None
    return None if whole is None else whole / row.entries[name].time_ns


def table(results: Results) -> str:
    """Everything as Markdown."""
    device, versions = results.device, results.versions
    ours = (f"wgpu {versions['wgpu']}", versions["compiler"], f"gemmtune {versions['gemmtune']}")
    rest = [f"{n} {versions[n]}" for n in ("torch", "onnxruntime-webgpu") if n in versions]
    lines = [
        f"{device['name']}, {device['backend']}, driver {device['driver']}; "
        f"{', '.join((*ours, *rest))}; {results.rounds} rounds. {inputs(results)}",
        "",
        f"Ceilings: a copy in WGSL {results.copy_gbps:.0f} GB/s"
        + "".join(f", {dtype} {peak:g} TFLOP/s" for dtype, peak in results.peak_tflops.items())
        + ". Errors: largest difference over largest magnitude.",
        "",
        *(f"- {session['date']}: `{session['command']}`" for session in results.sessions),
    ]
    for dtype, groups in panels(results).items():
        for group, rows in groups.items():
            lines += ["", f"## {group}, {dtype}", "", HEAD, "|---|---|" + "---:|" * (COLUMNS - 2)]
            lines += [line(results, row) for row in rows]
            lines += summary(rows)
    return "\n".join(lines)


def inputs(results: Results) -> str:
    """Who has its inputs in cache."""
    kinds = {name: e.inputs for row in results.rows for name, e in row.entries.items()}
    named = {kind: [n for n in CONTESTANTS if kinds.get(n) == kind] for kind in ("cold", "hot")}
    parts = {"cold": "cold (they rotate past the last-level cache)", "hot": "in cache"}
    said = [f"{parts[kind]} for {', '.join(names)}" for kind, names in named.items() if names]
    return f"Inputs are {'; '.join(said)}." if said else ""


def line(results: Results, row: Row) -> str:
    """One problem."""
    gemm, entries = row.gemm, row.entries

    def speed(name: str) -> str:
        return f"{gemm.flops / entries[name].time_ns / 1e3:.3g}" if name in entries else ""

    if OURS not in entries:
        cells = [gemm.shape, "failed", *[""] * (COLUMNS - 2)]
        return "| " + " | ".join(cells) + " |"
    best = entries[OURS]
    of_cublas, of_bound = (share(results, row, OURS, of) for of in ("cuBLAS", "roofline"))
    bound = results.bound_ns(row)
    cells = [
        gemm.shape,
        best.kernel,
        f"{best.time_ns / 1e3:.1f}",
        speed(OURS),
        f"{gemm.traffic_bytes / best.time_ns:.0f}",
        f"{best.spread:.1%}",
        f"{best.drift:.1%}",
        str(best.repetitions),
        f"{best.error:.1e}",
        speed(DEFAULT),
        f"{entries[DEFAULT].time_ns / best.time_ns:.2f}x" if DEFAULT in entries else "",
        speed(CUBLAS),
        "" if of_cublas is None else f"{of_cublas:.0%}",
        "" if bound is None else f"{gemm.flops / bound / 1e3:.3g}",
        "" if of_bound is None else f"{of_bound:.0%}",
        speed(ORT),
    ]
    return "| " + " | ".join(cells) + " |"


def summary(rows: list[Row]) -> list[str]:
    """What a set comes to: geometric means over the problems that both ran."""
    said = []
    for name in (DEFAULT, CUBLAS, ORT):
        both = [row.entries for row in rows if OURS in row.entries and name in row.entries]
        if both:
            mean = statistics.geometric_mean(e[name].time_ns / e[OURS].time_ns for e in both)
            said.append(f"{mean:.2f} times {name} ({len(both)} problems)")
    failed = sorted({f"{name}: {why}" for row in rows for name, why in row.failures.items()})
    lines = ["", f"Geometric mean of the speed: {', '.join(said)}."] if said else []
    return lines + [text for why in failed for text in ("", f"Left out, {why}")]


def apart(results: Results, again: Results) -> list[str]:
    """How far the same contestant's times on the same problems are apart, as Markdown."""
    lines = [
        "",
        "## Run again",
        "",
        f"Against {again.device['name']}, driver {again.device['driver']}, "
        f"{again.sessions[0]['date']}: the larger time of a problem over the smaller, less 1.",
        "",
        "| | problems | median | largest | where |",
        "|---|---:|---:|---:|---|",
    ]
    others = {row.gemm.key: row.entries for row in again.rows}
    for name in CONTESTANTS:
        found = []
        for row in results.rows:
            other = others.get(row.gemm.key, {})
            if name in row.entries and name in other:
                times = sorted((row.entries[name].time_ns, other[name].time_ns))
                found.append((times[1] / times[0] - 1.0, f"{row.gemm.shape} {row.dtype}"))
        if found:
            far, where = max(found)
            middle = statistics.median(share for share, _ in found)
            lines.append(f"| {name} | {len(found)} | {middle:.1%} | {far:.1%} | {where} |")
    return lines


def plot(results: Results, paths: list[Path], measures: Sequence[str]) -> None:
    """Writes the plot to each of ``paths``, in the format that its name ends in.

    Raises:
        SystemExit: matplotlib is not installed, or there is nothing to show.
    """
    try:
        import matplotlib
    except ImportError:
        sys.exit("a plot needs matplotlib: pip install matplotlib (or leave --plot out)")
    matplotlib.use("agg")
    # Text stays text, and the same data gives the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "peers", "font.size": 9})
    from matplotlib import pyplot

    shown = shown_panels(results, measures)
    figure, axes = pyplot.subplots(
        len(shown),
        1,
        figsize=(WIDTH_IN, PANEL_IN * len(shown) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for index, (axis, (dtype, of)) in enumerate(zip(axes[:, 0], shown, strict=True)):
        first = index == 0 or shown[index - 1][0] != dtype
        last = index == len(shown) - 1 or shown[index + 1][0] != dtype
        draw(axis, results, panels(results)[dtype], of, named=first, ticked=last)
        axis.set_ylabel(f"{dtype}\nshare of {of}")
    handles = {}
    for axis in figure.axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(
        [handles[name] for name in CONTESTANTS if name in handles],
        [name for name in CONTESTANTS if name in handles],
        loc="outside upper center",
        ncols=len(CONTESTANTS),
        frameon=False,
    )
    # Laid out once: every file shows the same.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for path in paths:
        # Without the date, which would make every file differ.
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def shown_panels(results: Results, measures: Sequence[str]) -> list[tuple[str, str]]:
    """Dtypes, and what is 100 % there, as far as anything is known of that."""
    found = [
        (dtype, of)
        for dtype, groups in panels(results).items()
        for of in measures
        if any(share(results, row, OURS, of) is not None for g in groups.values() for row in g)
    ]
    if not found:
        sys.exit("nothing to plot: neither cuBLAS ran nor are both ceilings known (--peak-tflops)")
    return found


def draw(
    axis: Any, results: Results, groups: dict[str, list[Row]], of: str, *, named: bool, ticked: bool
) -> None:
    """One panel: shapes side by side, a gap after each set; with names of sets and of shapes."""
    ticks: list[tuple[float, str]] = []
    points: dict[str, list[tuple[float, float]]] = {}
    x = 0.0
    for group, rows in groups.items():
        if named:
            axis.text(x - 0.5, 1.02, group, transform=axis.get_xaxis_transform(), weight="bold")
        if x:
            axis.axvline(x - 1.0, color="0.75", linewidth=0.8)
        for row in rows:
            ticks.append((x, row.gemm.shape))
            for name in CONTESTANTS:
                value = share(results, row, name, of)
                if value is not None:
                    points.setdefault(name, []).append((x, value))
            x += 1.0
        x += 1.0
    axis.axhline(1.0, color="black", linewidth=0.8)
    for name, (colour, marker, size) in MARKS.items():
        if name in points:
            places, values = zip(*points[name], strict=True)
            axis.scatter(places, values, size, colour, marker=marker, label=name, zorder=3)
    axis.set_xticks([place for place, _ in ticks], [name for _, name in ticks] if ticked else [])
    axis.tick_params(axis="x", rotation=90, labelsize=7 if len(ticks) <= 60 else 5)
    axis.set_xlim(-1.0, x - 1.0)
    highest = max(value for marks in points.values() for _, value in marks)
    axis.set_ylim(0.0, 1.06 * max(highest, 1.0))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.grid(axis="y", color="0.85", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="a file of peers.py")
    parser.add_argument("--table", type=Path, help="Markdown file; default: printed")
    parser.add_argument("--plot", type=Path, action="append", default=[], help=".svg or .png")
    parser.add_argument(
        "--again", type=Path, help="another file of peers.py, to compare times with"
    )
    parser.add_argument("--of", choices=MEASURES, help="show shares of one only; default: of both")
    args = parser.parse_args()
    results = Results.read(args.results)
    if not results.rows:
        sys.exit(f"{args.results} has no problem yet; run peers.py further")
    if args.plot:
        plot(results, args.plot, [args.of] if args.of else MEASURES)
    text = table(results)
    if args.again:
        text = "\n".join([text, *apart(results, Results.read(args.again))])
    if args.table:
        args.table.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
