"""f32 on matrix units that take f16: each operand as two f16, three multiply-adds a product.

A first pass finds the largest finite magnitude of every row of op(A) and column of op(B). Elements
are multiplied by the power of two that brings it into [2^14, 2^15), which is exact, and sums are
multiplied back in the end. A scaled x is split into high, its 11 leading bits, and low = x - high,
which is exact too; f16 holds low to 2^-23 |x|. Of (high_a + low_a)(high_b + low_b) the product
low_a low_b is left out. Matrix units multiply f16 exactly but cut their sums instead of rounding
them, so they sum only D = chain * frag products from zero, and these parts are added outside.

What is guaranteed, with u = 2^-24, R_i the largest magnitude in row i of op(A), C_j that in column
j of op(B), both taken to be at least 2^-98, and sums over l:

    |error_ij| <= u (2 D + k / D + k / 256 + 13) sum |a_il| |b_lj|
                  + 2^-28 (R_i sum |b_lj| + C_j sum |a_il|)

First line: each operand is off by 2u and low_a low_b is at most 4u of the product; every one of D
additions in the unit cuts off at most 2u, every one of k / D outside rounds by u; corrections are
2^-10 of the whole and, summed apart, cut 2 k times; scaling back and so on is 5u. f32 itself
promises k u. Second line: below 2^-14 in f16, that is
2^-28 of the largest of the row, units may flush to zero; where they do not, it is 2^-38. So
elements of a row far smaller than its largest lose accuracy against themselves, never against the
largest: that is what an application accepts with ``math="f16x3"``.

- Overflow: only where C itself overflows f32. Subnormal inputs count, or are flushed, within the
  bound; subnormal results are within 2^-126. Zero rows give zeros.
- An infinity or NaN in row i of op(A) or column j of op(B) makes c_ij NaN, where f32 gives an
  infinity or NaN; other elements are as if it were not there. alpha, beta, bias and activation come
  after, as in every kernel; relu may turn NaN into 0.

Source: H. Ootomo and R. Yokota, Recovering single precision accuracy from Tensor Cores while
surpassing the FP32 theoretical peak performance, 2022, https://arxiv.org/abs/2203.03341
"""

from __future__ import annotations

from itertools import islice, product

from gemmtune.device import Device
from gemmtune.kernels import coopmat
from gemmtune.kernels.base import (
    TOO_SMALL,
    Family,
    Launch,
    added,
    ceil_div,
    check_launch,
    check_problem,
)
from gemmtune.kernels.coopmat import MAX_SUM_REGISTERS
from gemmtune.kernels.coopmat_config import VECTOR, CoopmatConfig, padded
from gemmtune.kernels.fragments import fragment_sizes, widest_load
from gemmtune.kernels.tile import TileOperand
from gemmtune.light import dataclass, replace
from gemmtune.problem import SIZEOF, Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from gemmtune.literals import Corrections

_CORRECTIONS: tuple[Corrections, ...] = ("within", "apart")
_SPLITTERS = 256
_BLOCK = 64
"""Rows, and elements of each, that a workgroup splits and packs; templates/lib/presplit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoopmatF16x3Config(CoopmatConfig):
    """One point of the family's space: what `CoopmatConfig` has, and how products are summed."""

    chain: int
    """Fragments of depth that one part of a sum spans before it is added outside."""
    corrections: Corrections
    """Where high times low goes. within: into each part, before high times high. apart: into sums
    of their own over all of k, added at the end, with low parts scaled up by 2^11."""
    presplit: bool = added(False)
    """Operands are split once, by a pass of their own, into the workspace, instead of by every
    workgroup; they come from there 8 elements (16 bytes) at a time. templates/lib/presplit."""

    def operands(self, gemm: Gemm) -> tuple[TileOperand, TileOperand]:
        """How the parts of A and B come; those of the workspace are padded, so without edges."""
        a, b = CoopmatConfig.operands(self, gemm)
        if not self.presplit:
            return a, b
        return padded(a), padded(b)

    @property
    def tiles(self) -> int:
        """High and low parts."""
        return 2

    @property
    def sum_registers(self) -> int:
        """32-bit registers of sums per invocation."""
        sums = 2 if self.corrections == "apart" else 1
        return self.frags_m * self.frags_n * sums * self.frag**2 // self.sg_size


def supported(gemm: Gemm, device: Device) -> tuple[str, ...]:
    """See `Family.supported`."""
    reasons = list(check_problem(gemm, device))
    if gemm.math != "f16x3":
        reasons.append("f32 is multiplied as sums of f16 only on request: math=f16x3")
    elif not device.has("shader-f16") or not device.has("cooperative-matrix"):
        reasons.append("the device lacks the feature shader-f16 or cooperative-matrix")
    elif not fragment_sizes(gemm, device):
        reasons.append("no fragment of f16 with sums in f32 gave right numbers here")
    return tuple(reasons)


def check(config: CoopmatF16x3Config, gemm: Gemm, device: Device) -> tuple[str, ...]:
    """See `Family.check`."""
    unsupported = supported(gemm, device)
    if unsupported:
        return unsupported
    reasons = tuple(_check_shape(config, gemm, device))
    if TOO_SMALL in reasons:
        return reasons
    return reasons + check_launch(launch(config, gemm), device, workspace(config, gemm))


def launch(config: CoopmatF16x3Config, gemm: Gemm) -> tuple[Launch, ...]:
    """See `Family.launch`: the pass that finds the scales, perhaps one that splits, the product."""
    m, n, k = config.padded(gemm)
    extents = (m, n) if config.presplit else (gemm.m, gemm.n)
    rows, columns = map(ceil_div, extents, _looked_through(gemm))
    scales = Launch(
        entry_point="scales",
        workgroups=(rows + columns) * gemm.batch,
        workgroup_size=(256, 1, 1),
        workgroup_storage_bytes=1024 * SIZEOF["f32"],
    )
    if not config.presplit:
        return scales, coopmat.product_pass(config, gemm)
    workgroups = 0
    for o, side in zip(config.operands(gemm), (m, n), strict=True):
        blocks = ceil_div(side, _BLOCK) * ceil_div(k, _BLOCK)
        workgroups += blocks if o.packed else ceil_div(side * k, VECTOR * _SPLITTERS)
    split = Launch(
        entry_point="split",
        workgroups=workgroups * gemm.batch,
        workgroup_size=(_SPLITTERS, 1, 1),
        workgroup_storage_bytes=2 * _BLOCK**2 * SIZEOF["f16"] if config.pack else 0,
    )
    return scales, split, coopmat.product_pass(config, gemm)


def workspace(config: CoopmatF16x3Config, gemm: Gemm) -> int:
    """See `Family.workspace`: a word for each row of op(A) and each column of op(B), and one for
    the parts of each element where they are kept.
    """
    m, n, k = config.padded(gemm)
    words = (m + n) * (1 + k) if config.presplit else gemm.m + gemm.n
    return max(words * gemm.batch, 1) * SIZEOF["f32"]


def _looked_through(gemm: Gemm) -> tuple[int, int]:
    """Rows of op(A) and columns of op(B) that are one workgroup's in the first pass: fewer where
    they are contiguous (lib/scales).
    """
    along_a, along_b = not gemm.trans_a, gemm.trans_b
    return (8 if along_a else 32, 8 if along_b else 32)


def _check_shape(c: CoopmatF16x3Config, gemm: Gemm, device: Device) -> Iterator[str]:
    if c.chain < 1:
        yield TOO_SMALL
        return
    yield from coopmat.check_shape(c, gemm, device)
    if c.frag > 0 and c.tile_k // c.frag % c.chain:
        yield f"chain {c.chain} does not divide the {c.tile_k // c.frag} fragments of tile_k"
    if (c.split_k, c.subgroups_k, c.pieces) != (1, 1, 1):
        yield "split_k, subgroups_k and pieces must be 1 in this family"
    if c.load or (c.a_from, c.b_from) != ("workgroup", "workgroup"):
        yield "operands are split on their way to workgroup memory, vec elements at a time"
    if c.pack and not c.presplit:
        yield "pack says nothing without presplit"
    if c.presplit and c.vec != 4:
        yield f"with presplit, parts come 8 elements at a time: vec {c.vec} must be 4"
    if c.corrections == "apart" and c.sum_registers > MAX_SUM_REGISTERS:
        yield f"{c.sum_registers} registers of sums and corrections per invocation; they spill"
    if c.corrections not in _CORRECTIONS:
        yield f"corrections {c.corrections!r} is not one of {', '.join(_CORRECTIONS)}"


def default(gemm: Gemm, device: Device) -> CoopmatF16x3Config:
    """`coopmat`'s with half as many sums; see `Family.default`."""
    base = coopmat.default(gemm, device)
    values = base.to_json() | {"frags_n": max(base.frags_n // 2, 1), "tile_k": base.frag}
    return CoopmatF16x3Config(**values, chain=1, corrections="within")


_GRIDS = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (2, 4), (4, 2), (4, 4))
_FRAGS = (
    *((1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (2, 3), (3, 2), (2, 4), (4, 2), (3, 3)),
    *((3, 4), (4, 3), (2, 6), (6, 2), (2, 8), (8, 2), (4, 4), (4, 5), (5, 4)),
)
# tile_k, and of it the depth of a chain
_DEPTHS = ((16, 16), (32, 16), (32, 32))
# turns and out_frags, with presplit
_STORES = ((1, 1), (2, 1), (2, 2), (4, 1))


def space(gemm: Gemm, device: Device, every: int = 1) -> Iterator[CoopmatF16x3Config]:
    """See `Family.space`.

    Left out is what can hardly win: a second stage without `hold`, `hold` where every workgroup
    splits (slower on an H100), few sums per invocation or small workgroups where the problem has
    many, and pairs of knobs that add up to nothing.
    """
    if supported(gemm, device):
        return
    frags = fragment_sizes(gemm, device)
    combinations = islice(product(frags, _GRIDS, _FRAGS, _DEPTHS), 0, None, every)
    for frag, (subgroups_m, subgroups_n), (frags_m, frags_n), (tile_k, depth) in combinations:
        tile_m, tile_n = subgroups_m * frags_m * frag, subgroups_n * frags_n * frag
        if tile_m >= 2 * max(gemm.m, frag) or tile_n >= 2 * max(gemm.n, frag):
            continue
        if min(gemm.m, gemm.n) >= 1024 and frags_m * frags_n < 4:
            continue
        sizes = {
            "frag": frag,
            "vec": widest_load(frag, gemm, device),
            "sg_size": device.subgroup_size,
            "subgroups_m": subgroups_m,
            "subgroups_n": subgroups_n,
            "frags_m": frags_m,
            "frags_n": frags_n,
            "tile_k": tile_k,
            "chain": depth // frag,
            "group_m": 1 if tile_m >= gemm.m or tile_n >= gemm.n else 8,
        }
        for config in (*_schedules(sizes), *_presplit_schedules(sizes, gemm, device)):
            if _fits(config, gemm, device):
                yield config


def _schedules(sizes: dict[str, Any]) -> Iterator[CoopmatF16x3Config]:
    """Every way to move tiles of these sizes and to sum their products."""
    for (dims, checked), corrections in product(coopmat.COMPILED, _CORRECTIONS):
        plain = CoopmatF16x3Config(
            **sizes,
            pad=8,
            stages=1,
            prefetch=True,
            order="stream_a",
            dims=dims,
            checked=checked,
            corrections=corrections,
        )
        yield plain
        yield replace(plain, prefetch=False)
        yield replace(plain, order="all_first")
        yield replace(plain, pad=0)
        for turns in (2, 4):
            yield replace(plain, turns=turns)


def _presplit_schedules(
    sizes: dict[str, Any], gemm: Gemm, device: Device
) -> Iterator[CoopmatF16x3Config]:
    """The better ways to move tiles of these sizes that come split; packed where they can be, which
    costs the pass nothing.
    """
    pack = not gemm.trans_a or gemm.trans_b
    fragment = device.fragment(sizes["frag"], "f16", gemm.acc)
    if fragment is None or 4 not in fragment.workgroup:
        return
    if min(gemm.m, gemm.n) >= 1024 and sizes["subgroups_m"] * sizes["subgroups_n"] < 4:
        return
    for checked, corrections, (turns, out_frags) in product((True, False), _CORRECTIONS, _STORES):
        plain = CoopmatF16x3Config(
            **(sizes | {"vec": 4}),
            pad=8,
            stages=1,
            prefetch=True,
            order="stream_a",
            dims="static",
            checked=checked,
            corrections=corrections,
            turns=turns,
            out_frags=out_frags,
            presplit=True,
            pack=pack,
        )
        yield plain
        if plain.tile_k == plain.frag:
            held = replace(plain, stages=2, order="all_first", hold="first")
            yield held
            yield replace(held, hold="last", flight=2)


def _fits(config: CoopmatF16x3Config, gemm: Gemm, device: Device) -> bool:
    fits = next(_check_shape(config, gemm, device), None) is None
    return fits and not check_launch(launch(config, gemm), device, workspace(config, gemm))


def variables(config: CoopmatF16x3Config, gemm: Gemm, device: Device) -> dict[str, Any]:
    """See `Family.variables`."""
    low_scale = 2**11 if config.corrections == "apart" else 1
    return {**coopmat.variables(config, gemm, device), "low_scale": low_scale}


FAMILY = Family(
    name="coopmat_f16x3",
    template="coopmat_f16x3.wgsl.j2",
    config=CoopmatF16x3Config,
    space=space,
    check=check,
    launch=launch,
    default=default,
    variables=variables,
    supported=supported,
    workspace=workspace,
    features=("shader-f16", "cooperative-matrix"),
    adds_matrices=True,
)
