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
    shared: bool = False
    """Loads and stores of an invocation are a constant apart, and written so."""
    walk: bool = False
    """Indices of A and B are carried from step to step instead of made from k0."""
    mask: bool = False
    """Indices are cut to 27 bits, which they have, so that adding a constant cannot wrap."""
    buffers: int = 1
    """Tiles of each operand in workgroup memory; 2 saves one of two barriers a step."""
    hold: str = ""
    """With two buffers: fragments are loaded one depth before they are multiplied, "first" in a
    step or after the stores ("last")."""
    wide_a: bool = False
    """With `hold`: A comes two tiles at a time, in accesses to twice as long pieces of its rows."""
    a_ahead: int = 1
    """With `wide_a`: pairs of tiles of A on their way in registers."""
    opaque: bool = False
    """The compiler does not know how long the loop is."""
    clamp: bool = True
    """The tile after the last is not asked for beyond the end of A and B."""
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

    def apart(self, v: Variant) -> bool:
        """The loads of an invocation are a constant apart, and written so."""
        line = (v.tile_k if self.along_k else self.tile) // v.load
        even = self.tile * v.tile_k % (v.load * v.threads) == 0
        return v.shared and even and v.threads % line == 0

    def size(self, v: Variant) -> int:
        """Vectors of 4 of one tile."""
        return self.rows(v) * self.row(v)

    def loads(self, v: Variant) -> int:
        """Loads of one invocation per tile; in the last, some may repeat another's."""
        return -(-self.tile * v.tile_k // v.load // v.threads)


def sides(v: Variant) -> tuple[Side, Side]:
    a = Side(name="a", along_k=True, tile=v.tile_m, ld=v.k, staged=v.a_from == "workgroup")
    ld = v.k if v.trans_b else v.n
    return a, Side(name="b", along_k=v.trans_b, tile=v.tile_n, ld=ld, staged=True)


def load_fragment(v: Variant, side: Side, i: int, kk: int, k0: str, stage: int = 0) -> str:
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
    at += f" + {stage * side.size(v)}u" if stage else ""
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
        if i and side.apart(v):
            rows = i * v.threads // line
            text.append(f"let {side.name}_from{i} = {rows * side.ld // v.load}u;")
            text.append(f"let {side.name}_to{i} = {side.name}_to0 + {rows * side.row(v)}u;")
            continue
        if side.along_k:
            base = f"(({origin} + {r}) * {side.ld}u) / {v.load}u + {q}"
        else:
            base = f"({r} * {side.ld}u + {origin}) / {v.load}u + {q}"
        text.append(f"let {side.name}_from{i} = {base};")
        text.append(f"let {side.name}_to{i} = {r} * {side.row(v)}u + {q} * {v.load // 4}u;")
    if v.walk:
        text.append(f"var {side.name}_at = 0u;")
    return text


def fetch(v: Variant, side: Side, k0: str, slot: int) -> list[str]:
    """Loads of one tile into registers."""
    if "same k" in v.cuts:
        k0 = f"(({k0}) & {v.tile_k}u)"
    step = f"({k0}) / {v.load}u" if side.along_k else f"({k0}) * {side.ld // v.load}u"
    if v.walk:
        step = f"{side.name}_at"
    cut_to = " & 0x7ffffffu" if v.mask else ""
    text = [f"let {side.name}_first_{slot} = ({side.name}_from0 + {step}){cut_to};"]
    for i in range(side.loads(v)):
        at = f"({side.name}_from{i} + {step}){cut_to}"
        if side.apart(v):
            at = f"{side.name}_first_{slot}" + (f" + {side.name}_from{i}" if i else "")
        text.append(f"{side.name}{i}_{slot} = {side.name}[{at}];")
    if v.walk:
        apart = v.tile_k // v.load if side.along_k else v.tile_k * side.ld // v.load
        text.append(f"{step} = {step} + {apart}u;")
        if v.clamp:
            last = (v.k - v.tile_k) * (1 if side.along_k else side.ld) // v.load
            text[-1] = f"{step} = min({step} + {apart}u, {last}u);"
    return text


def keep(v: Variant, side: Side, slot: int, stage: int = 0) -> list[str]:
    """Stores of one tile to workgroup memory, or a use of it that never happens."""
    text = []
    for i in range(side.loads(v)):
        value, at = f"{side.name}{i}_{slot}", f"tile_{side.name}[{side.name}_to{i}"
        at += f" + {stage * side.size(v)}u" if stage else ""
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


def products(v: Variant, a: Side, b: Side, stage: int = 0) -> list[str]:
    text = []
    for kk in range(0, v.tile_k if "products" not in v.cuts else 0, FRAG):
        text.append("{")
        text += [f"let b{j} = {load_fragment(v, b, j, kk, 'k0', stage)};" for j in range(v.frags_n)]
        for i in range(v.frags_m):
            held = f"a{kk}_{i}"
            if a.staged or v.ahead == 0:
                held = f"a{i}"
                text.append(f"let a{i} = {load_fragment(v, a, i, kk, 'k0', stage)};")
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
    following = f"k0 + {max(v.ahead, 1) * v.tile_k}u"
    following = f"min({following}, {last}u)" if v.clamp else following
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


def doubled(v: Variant, a: Side, b: Side) -> list[str]:
    """The loop over k with two buffers: while one is multiplied, the other is filled."""
    both, last = (a, b), v.k - v.tile_k

    def ask(after: int) -> list[str]:
        k0 = f"min(k0 + {after * v.tile_k}u, {last}u)" if after else "k0"
        return ["{", *(line for side in both for line in fetch(v, side, k0, 0)), "}"]

    def store(stage: int) -> list[str]:
        return [line for side in both for line in keep(v, side, 0, stage)]

    text = ["var k0 = 0u;", *ask(0), *store(0), *ask(1), "workgroupBarrier();"]
    text.append(f"for (; k0 < {v.k}u;) {{")
    for stage in (0, 1):
        text += [*store(1 - stage), *ask(2), *products(v, a, b, stage)]
        text += ["workgroupBarrier();", f"k0 += {v.tile_k}u;"]
    return [*text, "}"]


def held(v: Variant, a: Side, b: Side) -> list[str]:
    """As `doubled`, but fragments come one step ahead, so that no multiply-add waits for them.

    tile_k is FRAG. In step s, tile s + 2 goes into the buffer that tile s was taken out of in step
    s - 1, and tile s + 2 + ahead is asked for. With `wide_a` it is pairs of tiles of A, every other
    step.
    """
    slots, wide = max(v.ahead, 1), replace(v, tile_k=2 * v.tile_k)
    counts = {"a": v.frags_m, "b": v.frags_n}

    def ask(side: Side, tile: int, now: int) -> list[str]:
        """Of tile number ``tile``, in step ``now`` of those the loop is unrolled by."""
        cut_out = {"loads", f"loads of {side.name}"} & set(v.cuts)
        if now >= 0 and cut_out:
            return []
        now = max(now, 0)
        if side.name == "a" and v.wide_a:
            if tile % 2:
                return []
            k0 = f"min(k0 + {(tile - now) * v.tile_k}u, {v.k - wide.tile_k}u)"
            return fetch(wide, side, k0, tile // 2 % v.a_ahead)
        k0 = f"min(k0 + {(tile - now) * v.tile_k}u, {v.k - v.tile_k}u)"
        return fetch(v, side, k0, tile % slots)

    def store(side: Side, tile: int) -> list[str]:
        if "stores" in v.cuts:
            return []
        if side.name == "a" and v.wide_a:
            if tile % 2:
                return []
            return keep(wide, side, tile // 2 % v.a_ahead, tile // 2 % 2)
        return keep(v, side, tile % slots, tile % 2)

    def fragments(tile: int) -> list[tuple[str, str]]:
        found = []
        for side in (a, b):
            which, kk, stage = v, 0, tile % 2
            if side.name == "a" and v.wide_a:
                which, kk, stage = wide, tile % 2 * FRAG, tile // 2 % 2
            for i in range(counts[side.name]):
                how = load_fragment(which, side, i, kk, "k0", stage)
                found.append((f"{side.name}_{i}", how))
        return found

    def moved(tile: int, now: int) -> list[str]:
        text = [*store(a, tile), *store(b, tile)]
        after = tile + 2 * v.a_ahead if v.wide_a else tile + slots
        return ["{", *text, *ask(a, after, now), *ask(b, tile + slots, now), "}"]

    text = ["var k0 = 0u;", "{", *ask(a, 0, -1), *ask(b, 0, -1), "}", *store(a, 0), *store(b, 0)]
    for tile in range(1, 1 + slots):
        text += ["{", *([] if v.wide_a else ask(a, tile, -1)), *ask(b, tile, -1), "}"]
    for pair in range(1, 1 + v.a_ahead if v.wide_a else 0):
        text += ["{", *ask(a, 2 * pair, -1), "}"]
    text += ["workgroupBarrier();", *(f"var {name} = {how};" for name, how in fragments(0))]
    text += [*store(b, 1), *([] if v.wide_a else store(a, 1)), "{"]
    text += [*ask(b, 1 + slots, -1), *([] if v.wide_a else ask(a, 1 + slots, -1)), "}"]
    text += ["workgroupBarrier();", f"for (; k0 < {v.k}u;) {{"]
    for number in range(4 if v.wide_a else 2):
        text += moved(number + 2, number) if v.hold == "last" else []
        text += ["{", *(f"let n{name} = {how};" for name, how in fragments(number + 1))]
        text += moved(number + 2, number) if v.hold == "first" else []
        text += [
            f"s{i}_{j} = coopMultiplyAdd(a_{i}, b_{j}, s{i}_{j});"
            for i in range(v.frags_m if "products" not in v.cuts else 0)
            for j in range(v.frags_n)
        ]
        text += [f"{name} = n{name};" for name, _ in fragments(0)]
        text += ["}", "workgroupBarrier();", f"k0 += {v.tile_k}u;"]
    return [*text, "}"]


def deep(v: Variant, side: Side) -> Variant:
    """The variant with the tile_k by which ``side`` comes."""
    return replace(v, tile_k=2 * v.tile_k) if v.wide_a and side.name == "a" else v


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
        size = side.size(deep(v, side)) * v.buffers
        text.append(f"var<workgroup> tile_{side.name}: array<vec4<f16>, {size}>;")
    text.append(f"@compute @workgroup_size({v.threads})")
    text.append("fn main(@builtin(workgroup_id) wid: vec3<u32>,")
    text.append("        @builtin(num_workgroups) groups: vec3<u32>,")
    text.append("        @builtin(local_invocation_index) tid: u32) {")
    stride = v.grid or v.tiles
    loop = f"for (var id = wid.x; id < {v.tiles}u; id += {stride}u) {{"
    text.append(loop if v.grid else "let id = wid.x; {")
    text += locate(v)
    text.append(f"let sg_row = tid / {32 * v.subgroups_n}u * {v.frags_m * FRAG}u;")
    text.append(f"let sg_col = tid / 32u % {v.subgroups_n}u * {v.frags_n * FRAG}u;")
    every = [(i, j) for i in range(v.frags_m) for j in range(v.frags_n)]
    text += [f"var s{i}_{j} = coop_mat16x16<f32, C>();" for i, j in every]
    for side in staged:
        text += addresses(deep(v, side), side)
        held_slots = range(v.a_ahead) if v.wide_a and side.name == "a" else slots
        count = side.loads(deep(v, side))
        text += [f"var {side.name}{i}_{s}: {word};" for s in held_slots for i in range(count)]
    text += [f"var {name} = {how.replace('K0', '0u')};" for name, how in held_fragments(v, a)]
    if v.buffers == 2:
        text += (held if v.hold else doubled)(v, a, b)
    else:
        for slot in range(v.ahead):
            text += [x for side in staged for x in fetch(v, side, f"{slot * v.tile_k}u", slot)]
        text.append(f"let K = {v.k}u{' + (groups.y - 1u)' if v.opaque else ''};")
        text.append("for (var k0 = 0u; k0 < K;) {")
        text += [line for slot in slots for line in step(v, a, b, slot)]
        text.append("}")
    text.append(f"let first = (m0 + sg_row) * {v.n}u + n0 + sg_col;")
    for i, j in every:
        at = f"first + {i * FRAG * v.n + j * FRAG}u"
        text.append(f"coopStoreT(s{i}_{j}, &c[{at}], {v.n}u);")
    return "\n".join([*text, "}", "}"])


PLAIN = Variant()
HELD = Variant(subgroups_n=4, tile_k=16, buffers=2, hold="first", shared=True, walk=True)


def cut(*names: str, **changes: Any) -> Variant:
    return Variant(cuts=names, **changes)


def at(**changes: Any) -> Variant:
    """With m and n that the tiles divide: 4096, or as near as may be above it."""
    v = replace(PLAIN, **changes)
    sizes = {"m": v.tile_m, "n": v.tile_n}
    rounded = {name: -(-4096 // (tile * 4)) * tile * 4 for name, tile in sizes.items()}
    return replace(v, **(rounded | changes))


SETS: dict[str, list[Variant]] = {
    "registers": [
        replace(v, shared=shared, walk=walk, mask=mask, load=load)
        for v in (
            *(Variant(ahead=ahead) for ahead in (0, 1)),
            *(Variant(tile_k=16, buffers=buffers) for buffers in (1, 2)),
        )
        for shared, walk, mask in (
            *((False, False, False), (True, False, False), (True, False, True)),
            *((True, True, False), (True, True, True)),
        )
        for load in (4, 8)
    ],
    "held": [
        replace(HELD, **changes)
        for changes in (
            *({}, {"wide_a": True}, {"wide_a": True, "a_ahead": 2}, {"wide_a": True, "ahead": 2}),
            *({"mask": True}, {"mask": True, "wide_a": True}),
            *({"walk": False}, {"walk": False, "wide_a": True}, {"walk": False, "mask": True}),
            {"walk": False, "mask": True, "wide_a": True},
            *({"group_m": group_m, "wide_a": True} for group_m in (2, 8, 16)),
            *({"hold": "last", "ahead": ahead, "wide_a": True} for ahead in (1, 2)),
            *({"hold": "last", "ahead": ahead, "walk": False} for ahead in (1, 2)),
            *({"subgroups_n": 2, "wide_a": True}, {"subgroups_n": 2, "walk": False}),
            *(
                {"m": size, "n": size, "k": size, "group_m": 8, "wide_a": wide, "walk": walk}
                for size in (2048, 8192)
                for wide in (False, True)
                for walk in (False, True)
            ),
            *(
                {"cuts": cuts, "wide_a": wide}
                for wide in (False, True)
                for cuts in (
                    *(("loads",), ("loads of a",), ("loads of b",)),
                    *(("kept loads",), ("kept loads", "products")),
                )
            ),
            *({"cuts": ("same k",), "walk": False, "wide_a": wide} for wide in (False, True)),
        )
    ],
    "larger parts": [
        at(shared=True, walk=True, mask=mask, load=load, ahead=ahead, **parts)
        for parts in ({"frags_m": 5}, {"frags_n": 5}, {"frags_m": 6, "n": 4224})
        for load, ahead in ((4, 0), (8, 0), (8, 1))
        for mask in (False, True)
    ],
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
        return self.gpu.pipelines(wgsl(v), (BINDINGS,), ("main",), unchecked=True)[0]

    def operands(self, v: Variant) -> tuple[Any, ...]:
        """Bind group, C, the elements looked at and what they should be."""
        key = (v.m, v.n, v.k, v.trans_b)
        if key not in self._operands:
            if len(self._operands) > 8:
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

    def settle(self, pipeline: Any, first_ns: float) -> None:
        """Run the plain variant until it takes what it took at first, for at most 3 s."""
        began = time.perf_counter()
        while first_ns and time.perf_counter() - began < 3.0:
            if statistics.median(self.passes_ns(PLAIN, pipeline, 9, 10)) < 1.01 * first_ns:
                break


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
            bench.settle(sentinel, first_ns)
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
