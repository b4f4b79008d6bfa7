"""What a kernel of native matrices spends its time on: variants that leave parts of it out.

    python benchmarks/limits/coopmat_variants.py all > table.md

One kernel, f16 x f16 -> f32, C stored directly, sizes that tiles divide, compiled without checks,
inputs in cache. A variant with a cut is wrong on purpose and only timed; every other is compared
with float64 at 48 x 48 elements. Needs `gemmtune unlock`. The plain variant is timed after each
other one: what it took then over what it took at first is the column `sentinel`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

from gemmtune.unlock import library_environment

# Before anything imports wgpu.
os.environ.update(library_environment(os.environ))

import numpy as np

from gemmtune.executors.local.gpu import Dispatch, Gpu, JobError

FRAG = 16
WARM_S = 0.2
BINDINGS = ("read-only-storage", "read-only-storage", "storage")
CUTS = {
    "loads": "no loads of A and B in the loop",
    "stores": "no stores to workgroup memory, so no loads either",
    "kept loads": "loads whose values are used by nothing that happens",
    "products": "no multiply-adds",
    "same k": "k stays below two tiles, so that loads come from the first-level cache",
    "loads of a": "no loads of A in the loop",
    "loads of b": "no loads of B in the loop",
    "second barrier": "no barrier after the multiply-adds",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One kernel; sizes in elements."""

    m: int = 4096
    n: int = 4096
    k: int = 4096
    subgroups_m: int = 2
    subgroups_n: int = 2
    frags_m: int = 4
    frags_n: int = 4
    tile_k: int = 32
    pad: int = 8
    load: int = 8
    """Elements of one access to A and B: 4 or 8."""
    ahead: int = 1
    """Tiles on their way in registers; 0: loaded when needed."""
    early: bool = False
    """Loads are issued before the barrier instead of after it."""
    trans_b: bool = False
    a_from: str = "workgroup"
    group_m: int = 4
    grid: int = 0
    """Workgroups that walk over all tiles; 0: one workgroup per tile."""
    pair: int = 0
    """Workgroups this far apart take tiles that share B; 0: no such pairs."""
    cuts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What differs from the plain variant."""
        plain = Variant()
        changed = [f.name for f in fields(self) if getattr(self, f.name) != getattr(plain, f.name)]
        text = ", ".join(f"{name}={getattr(self, name)}" for name in changed if name != "cuts")
        return "; ".join(filter(None, [text, *(f"cut: {cut}" for cut in self.cuts)])) or "plain"

    @property
    def tile_m(self) -> int:
        """Rows of C per workgroup."""
        return self.subgroups_m * self.frags_m * FRAG

    @property
    def tile_n(self) -> int:
        """Columns of C per workgroup."""
        return self.subgroups_n * self.frags_n * FRAG

    @property
    def threads(self) -> int:
        """Invocations per workgroup."""
        return 32 * self.subgroups_m * self.subgroups_n

    @property
    def tiles(self) -> int:
        """Tiles of C."""
        return self.m // self.tile_m * (self.n // self.tile_n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A or B of a variant."""

    name: str
    along_k: bool
    tile: int
    ld: int
    staged: bool

    def row(self, v: Variant) -> int:
        """Vectors of 4 in a row in workgroup memory."""
        return ((v.tile_k if self.along_k else self.tile) + v.pad) // 4

    def rows(self, v: Variant) -> int:
        """Rows in workgroup memory."""
        return self.tile if self.along_k else v.tile_k

    def loads(self, v: Variant) -> int:
        """Loads of one invocation per tile; in the last, some may repeat another's."""
        return -(-self.tile * v.tile_k // v.load // v.threads)


def sides(v: Variant) -> tuple[Side, Side]:
    a = Side(name="a", along_k=True, tile=v.tile_m, ld=v.k, staged=v.a_from == "workgroup")
    ld = v.k if v.trans_b else v.n
    return a, Side(name="b", along_k=v.trans_b, tile=v.tile_n, ld=ld, staged=True)


def load_fragment(v: Variant, side: Side, i: int, kk: int, k0: str) -> str:
    """WGSL of fragment number ``i`` at depth ``kk`` of the tile, or of A itself at ``k0``."""
    first = "sg_row" if side.name == "a" else "sg_col"
    if not side.staged:
        at = f"((m0 + {first} + {i * FRAG}u) * {side.ld}u + {k0} + {kk}u) / 4u"
        return f"coopLoadT<coop_mat16x16<f16, A>>(&a[{at}], {side.ld // 4}u)"
    row = side.row(v)
    if side.along_k:
        at = f"({first} + {i * FRAG}u) * {row}u + {kk // 4}u"
    else:
        at = f"{kk * row}u + ({first} + {i * FRAG}u) / 4u"
    call = "coopLoadT" if side.along_k == (side.name == "a") else "coopLoad"
    role = side.name.upper()
    return f"{call}<coop_mat16x16<f16, {role}>>(&tile_{side.name}[{at}], {row}u)"


def addresses(v: Variant, side: Side) -> list[str]:
    line = (v.tile_k if side.along_k else side.tile) // v.load
    origin = "m0" if side.name == "a" else "n0"
    text = []
    for i in range(side.loads(v)):
        number, total = f"(tid + {i * v.threads}u)", side.tile * v.tile_k // v.load
        if (i + 1) * v.threads > total:
            number = f"min({number}, {total - 1}u)"
        q, r = f"{number} % {line}u", f"{number} / {line}u"
        if side.along_k:
            base = f"(({origin} + {r}) * {side.ld}u) / {v.load}u + {q}"
        else:
            base = f"({r} * {side.ld}u + {origin}) / {v.load}u + {q}"
        text.append(f"let {side.name}_from{i} = {base};")
        text.append(f"let {side.name}_to{i} = {r} * {side.row(v)}u + {q} * {v.load // 4}u;")
    return text


def fetch(v: Variant, side: Side, k0: str, slot: int) -> list[str]:
    """Loads of one tile into registers."""
    if "same k" in v.cuts:
        k0 = f"(({k0}) & {v.tile_k}u)"
    step = f"({k0}) / {v.load}u" if side.along_k else f"({k0}) * {side.ld // v.load}u"
    return [
        f"{side.name}{i}_{slot} = {side.name}[{side.name}_from{i} + {step}];"
        for i in range(side.loads(v))
    ]


def keep(v: Variant, side: Side, slot: int) -> list[str]:
    """Stores of one tile to workgroup memory, or a use of it that never happens."""
    text = []
    for i in range(side.loads(v)):
        value, at = f"{side.name}{i}_{slot}", f"tile_{side.name}[{side.name}_to{i}"
        if "kept loads" in v.cuts:
            one = "vec4<u32>(1u)" if v.load == 8 else "vec4<f16>(0.5h)"
            text.append(f"if (all({value} == {one})) {{ {at}] = vec4<f16>(1.0h); }}")
        elif v.load == 4:
            text.append(f"{at}] = {value};")
        else:
            for half, (x, y) in enumerate(("xy", "zw")):
                pair = f"unpack2x16float({value}.{x}), unpack2x16float({value}.{y})"
                text.append(f"{at} + {half}u] = vec4<f16>(vec4<f32>({pair}));")
    return text


def products(v: Variant, a: Side, b: Side) -> list[str]:
    text = []
    for kk in range(0, v.tile_k if "products" not in v.cuts else 0, FRAG):
        text.append("{")
        text += [f"let b{j} = {load_fragment(v, b, j, kk, 'k0')};" for j in range(v.frags_n)]
        for i in range(v.frags_m):
            held = f"a{kk}_{i}"
            if a.staged or v.ahead == 0:
                held = f"a{i}"
                text.append(f"let a{i} = {load_fragment(v, a, i, kk, 'k0')};")
            text += [
                f"s{i}_{j} = coopMultiplyAdd({held}, b{j}, s{i}_{j});" for j in range(v.frags_n)
            ]
        text.append("}")
    return text


def held_fragments(v: Variant, a: Side) -> list[tuple[str, str]]:
    """Names of A's fragments that are fetched a tile ahead, and how."""
    if a.staged or v.ahead == 0:
        return []
    return [
        (f"a{kk}_{i}", load_fragment(v, a, i, kk, "K0"))
        for kk in range(0, v.tile_k, FRAG)
        for i in range(v.frags_m)
    ]


def step(v: Variant, a: Side, b: Side, slot: int) -> list[str]:
    """One tile_k of the loop, ``slot`` of those that it is unrolled by."""
    staged = [side for side in (a, b) if side.staged]
    last = v.k - v.tile_k
    following = f"min(k0 + {max(v.ahead, 1) * v.tile_k}u, {last}u)"
    fetched = [
        line
        for side in staged
        if "loads" not in v.cuts and f"loads of {side.name}" not in v.cuts
        for line in fetch(v, side, following if v.ahead else "k0", slot)
    ]
    held = held_fragments(v, a)
    text = [] if v.ahead else fetched
    if "stores" not in v.cuts:
        text += [line for side in staged for line in keep(v, side, slot)]
    text += fetched if v.ahead and v.early else []
    text.append("workgroupBarrier();")
    text += fetched if v.ahead and not v.early else []
    text += [f"let next_{name} = {how.replace('K0', following)};" for name, how in held]
    text += products(v, a, b)
    text += [f"{name} = next_{name};" for name, _ in held]
    text += [] if "second barrier" in v.cuts else ["workgroupBarrier();"]
    return [*text, f"k0 += {v.tile_k}u;"]


def locate(v: Variant) -> list[str]:
    """Which tile a workgroup, or a round of it, has."""
    across = v.n // v.tile_n
    text = []
    if v.pair:
        text.append(f"let block = id / {2 * v.pair}u; let in_block = id % {2 * v.pair}u;")
        text.append(f"let half_size = min({v.pair}u, ({v.tiles}u - block * {2 * v.pair}u) / 2u);")
        text.append(f"let two = block * {v.pair}u + in_block % half_size;")
        text.append(
            f"let band = two / {v.group_m * across}u; let rest = two % {v.group_m * across}u;"
        )
        row = f"(band * {v.group_m}u + rest % {v.group_m}u) * 2u + in_block / half_size"
    else:
        text.append(
            f"let band = id / {v.group_m * across}u; let rest = id % {v.group_m * across}u;"
        )
        row = f"band * {v.group_m}u + rest % {v.group_m}u"
    text.append(f"let m0 = ({row}) * {v.tile_m}u; let n0 = rest / {v.group_m}u * {v.tile_n}u;")
    return text


def wgsl(v: Variant) -> str:
    a, b = sides(v)
    staged = [side for side in (a, b) if side.staged]
    word = {4: "vec4<f16>", 8: "vec4<u32>"}[v.load]
    slots = range(max(v.ahead, 1))
    text = ["enable f16;", "enable wgpu_cooperative_matrix;"]
    for number, side in enumerate((a, b)):
        kind = word if side.staged else "vec4<f16>"
        head = f"@group(0) @binding({number}) var<storage, read>"
        text.append(f"{head} {side.name}: array<{kind}>;")
    text.append("@group(0) @binding(2) var<storage, read_write> c: array<f32>;")
    for side in staged:
        size = side.rows(v) * side.row(v)
        text.append(f"var<workgroup> tile_{side.name}: array<vec4<f16>, {size}>;")
    text.append(f"@compute @workgroup_size({v.threads})")
    text.append("fn main(@builtin(workgroup_id) wid: vec3<u32>,")
    text.append("        @builtin(local_invocation_index) tid: u32) {")
    stride = v.grid or v.tiles
    text.append(f"for (var id = wid.x; id < {v.tiles}u; id += {stride}u) {{")
    text += locate(v)
    text.append(f"let sg_row = tid / {32 * v.subgroups_n}u * {v.frags_m * FRAG}u;")
    text.append(f"let sg_col = tid / 32u % {v.subgroups_n}u * {v.frags_n * FRAG}u;")
    every = [(i, j) for i in range(v.frags_m) for j in range(v.frags_n)]
    text += [f"var s{i}_{j} = coop_mat16x16<f32, C>();" for i, j in every]
    for side in staged:
        text += addresses(v, side)
        text += [f"var {side.name}{i}_{s}: {word};" for s in slots for i in range(side.loads(v))]
    text += [f"var {name} = {how.replace('K0', '0u')};" for name, how in held_fragments(v, a)]
    for slot in range(v.ahead):
        text += [x for side in staged for x in fetch(v, side, f"{slot * v.tile_k}u", slot)]
    text.append(f"for (var k0 = 0u; k0 < {v.k}u;) {{")
    text += [line for slot in slots for line in step(v, a, b, slot)]
    text.append("}")
    text.append(f"let first = (m0 + sg_row) * {v.n}u + n0 + sg_col;")
    for i, j in every:
        at = f"first + {i * FRAG * v.n + j * FRAG}u"
        text.append(f"coopStoreT(s{i}_{j}, &c[{at}], {v.n}u);")
    return "\n".join([*text, "}", "}"])


PLAIN = Variant()


def cut(*names: str, **changes: Any) -> Variant:
    return Variant(cuts=names, **changes)


def at(**changes: Any) -> Variant:
    """With m and n that the tiles divide: 4096, or as near as may be above it."""
    v = replace(PLAIN, **changes)
    sizes = {"m": v.tile_m, "n": v.tile_n}
    rounded = {name: -(-4096 // (tile * 4)) * tile * 4 for name, tile in sizes.items()}
    return replace(v, **(rounded | changes))


SETS: dict[str, list[Variant]] = {
    "cuts": [
        *(Variant(load=load) for load in (8, 4)),
        *(
            cut(*names, load=load, ahead=ahead)
            for load, ahead in ((8, 1), (8, 0), (4, 1))
            for names in (
                *(("loads",), ("stores", "loads"), ("loads of a",), ("loads of b",), ("same k",)),
                *(("kept loads",), ("kept loads", "products"), ("second barrier",)),
                ("kept loads", "products", "same k"),
            )
        ),
        cut("kept loads", "products", ahead=2),
    ],
    "distance": [
        *(Variant(ahead=ahead, early=early) for ahead in (1, 2) for early in (False, True)),
        Variant(ahead=0),
        *(Variant(tile_k=16, ahead=ahead) for ahead in (0, 1, 2)),
        *(at(frags_m=3, ahead=ahead) for ahead in (1, 2)),
    ],
    "tiles": [
        *(at(frags_m=5, ahead=ahead) for ahead in (0, 1)),
        *(at(frags_n=5, ahead=ahead) for ahead in (0, 1)),
        at(frags_m=6, ahead=0),
        at(frags_m=5, frags_n=5),
        at(frags_m=5, frags_n=6),
        at(frags_m=5, ahead=0, m=4160, group_m=13),
        at(subgroups_m=4),
        at(subgroups_n=4),
        at(subgroups_m=4, subgroups_n=4, frags_n=2),
        at(m=8192, n=8192, k=8192, group_m=8),
    ],
    "sources": [
        *(
            at(
                a_from="storage",
                load=4,
                subgroups_m=4,
                subgroups_n=1,
                frags_m=2,
                frags_n=8,
                ahead=x,
            )
            for x in (0, 1)
        ),
        *(at(a_from="storage", load=4, ahead=x) for x in (0, 1)),
        *(Variant(trans_b=True, load=load) for load in (4, 8)),
        at(trans_b=True, frags_m=5, ahead=0),
    ],
    "pairs": [
        Variant(group_m=8, grid=grid, pair=pair, cuts=cuts)
        for cuts in ((), ("kept loads", "products"))
        for grid, pair in ((0, 0), (264, 0), (264, 124), (264, 132), (264, 1))
    ],
    "parts": [
        at(subgroups_m=sm, subgroups_n=sn, frags_m=fm, frags_n=fn, ahead=ahead)
        for (sm, sn, fm, fn) in (
            *((2, 2, 4, 4), (2, 2, 5, 4), (2, 2, 4, 5), (2, 2, 5, 5), (2, 2, 6, 4), (2, 2, 3, 6)),
            *((2, 3, 5, 3), (3, 2, 3, 5), (2, 3, 4, 3), (3, 2, 3, 4), (2, 3, 6, 3), (3, 2, 4, 4)),
            *((2, 4, 5, 2), (4, 2, 2, 5), (2, 4, 6, 2), (4, 2, 2, 6), (4, 2, 3, 4), (2, 4, 4, 3)),
            *((2, 5, 5, 2), (5, 2, 2, 5), (4, 2, 3, 5), (2, 4, 5, 3), (1, 4, 10, 2), (1, 3, 8, 4)),
            *((4, 2, 4, 4), (2, 4, 4, 4), (4, 3, 4, 4), (4, 4, 4, 3), (3, 3, 4, 4), (4, 4, 3, 3)),
        )
        for ahead in (0, 1)
    ],
    "shared": [
        Variant(group_m=8, ahead=0, grid=grid, pair=pair, cuts=cuts)
        for cuts in ((), ("kept loads", "products"))
        for grid, pair in ((0, 0), (264, 0), (264, 124), (264, 132), (264, 1), (264, 66), (264, 2))
    ],
    "rounds": [
        Variant(
            m=m,
            n=n,
            subgroups_m=sm,
            subgroups_n=sn,
            frags_m=fm,
            frags_n=fn,
            ahead=0,
            group_m=group_m,
        )
        for (sm, sn, fm, fn, m, n, group_m) in (
            *((2, 2, 5, 4, 4160, 4096, 13), (2, 2, 4, 5, 4096, 4160, 8)),
            *((2, 3, 5, 3, 4160, 4176, 13), (3, 2, 3, 5, 4176, 4160, 29)),
            *((2, 4, 6, 2, 4224, 4096, 11), (2, 2, 5, 5, 4160, 4160, 13)),
        )
    ],
}


class Bench:
    """Compiles, checks and times variants on one adapter."""

    def __init__(self, selector: str) -> None:
        self.gpu = Gpu(selector)
        self._queries = self.gpu.query_set(128)
        self._operands: dict[tuple[int, int, int, bool], tuple[Any, ...]] = {}

    def compile(self, v: Variant) -> Any:
        """The pipeline."""
        return self.gpu.pipelines(wgsl(v), BINDINGS, ("main",), unchecked=True)[0]

    def operands(self, v: Variant) -> tuple[Any, ...]:
        """Bind group, C, the elements looked at and what they should be."""
        key = (v.m, v.n, v.k, v.trans_b)
        if key not in self._operands:
            self._operands.clear()
            rng = np.random.default_rng(1)
            a = rng.standard_normal((v.m, v.k), dtype=np.float32).astype(np.float16)
            b = rng.standard_normal((v.k, v.n), dtype=np.float32).astype(np.float16)
            buffers = [self.gpu.buffer(2 * v.m * v.k), self.gpu.buffer(2 * v.k * v.n)]
            self.gpu.write(buffers[0], a)
            self.gpu.write(buffers[1], np.ascontiguousarray(b.T) if v.trans_b else b)
            c = self.gpu.buffer(4 * v.m * v.n)
            rows, columns = rng.integers(0, v.m, 48), rng.integers(0, v.n, 48)
            right = a[rows].astype(np.float64) @ b[:, columns].astype(np.float64)
            group = self.gpu.bind_group(BINDINGS, (*buffers, c))
            self._operands[key] = (group, c, np.ix_(rows, columns), right)
        return self._operands[key]

    def passes_ns(self, v: Variant, pipeline: Any, count: int, repeats: int) -> list[float]:
        """Times of one run, each the mean of ``repeats``."""
        groups = (v.grid or v.tiles, 1, 1)
        one = Dispatch(pipeline=pipeline, bind_group=self.operands(v)[0], groups=groups)
        self.gpu.submit([[one] * repeats] * count, self._queries)
        ticks = self.gpu.ticks(self._queries, 2 * count)
        period = self.gpu.timestamp_period_ns / repeats
        return [(ticks[2 * i + 1] - ticks[2 * i]) * period for i in range(count)]

    def error(self, v: Variant, pipeline: Any) -> float:
        """Largest error over largest magnitude, of the elements looked at."""
        _, c, where, right = self.operands(v)
        self.gpu.write(c, b"\xff" * (4 * v.m * v.n))
        self.passes_ns(v, pipeline, 1, 1)
        got = np.frombuffer(self.gpu.read(c), np.float32).reshape(v.m, v.n)
        return float(np.abs(got[where] - right).max() / np.abs(right).max())

    def time_ns(self, v: Variant, pipeline: Any) -> float:
        """Median time of a run, warm."""
        began = time.perf_counter()
        (span,) = self.passes_ns(v, pipeline, 1, 1)
        while time.perf_counter() - began < WARM_S:
            (span,) = self.passes_ns(v, pipeline, 1, max(1, min(200, int(15e6 / span))))
        repeats = max(1, min(100, int(4e6 / span)))
        return statistics.median(self.passes_ns(v, pipeline, 9, repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", choices=(*SETS, "all"))
    parser.add_argument("--adapter", default="")
    parser.add_argument("--limit-s", type=float, default=240.0, help="no variant begins after it")
    args = parser.parse_args()
    began = time.monotonic()
    chosen = SETS if "all" in args.sets else args.sets
    variants = list(dict.fromkeys([PLAIN, *(v for name in chosen for v in SETS[name])]))
    bench = Bench(args.adapter)
    print(f"{bench.gpu.device.name}, driver {bench.gpu.device.driver}\n")
    print("\n".join(f"cut {name}: {meaning}" for name, meaning in CUTS.items()), end="\n\n")
    print("| variant | m x n x k | TFLOP/s | sentinel | error |\n|---|---|---:|---:|---:|")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [(v, pool.submit(bench.compile, v)) for v in variants]
        sentinel, first_ns = jobs[0][1].result(), 0.0
        for v, job in jobs:
            if time.monotonic() - began > args.limit_s:
                break
            try:
                pipeline = job.result()
            except JobError as failure:
                print(f"| {v.name} | | failed: {str(failure)[:80]} | | |")
                continue
            error = "" if v.cuts else f"{bench.error(v, pipeline):.1e}"
            spent_ns = bench.time_ns(v, pipeline)
            again_ns = bench.time_ns(PLAIN, sentinel)
            first_ns = first_ns or again_ns
            speed = 2 * v.m * v.n * v.k / spent_ns / 1e3
            shape = f"{v.m}x{v.n}x{v.k}"
            drift = f"{again_ns / first_ns:.3f}"
            print(f"| {v.name} | {shape} | {speed:.1f} | {drift} | {error} |", flush=True)


if __name__ == "__main__":
    main()
