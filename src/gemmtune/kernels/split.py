"""Sums along k split among workgroups, added up by a second pass; the Python half of lib/split."""

from __future__ import annotations

from gemmtune.kernels.base import Launch, ceil_div
from gemmtune.kernels.tile import access_width
from gemmtune.problem import SIZEOF, Gemm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

REDUCERS = 256
"""Invocations per workgroup of the second pass."""
_SHARERS = 8
FEW = 128
"""Workgroups up to which a large GPU has room for more."""
# A space splits into so many at most, and into parts that are worth a workgroup.
_MANY = 1024
_LEAST_DEPTH = 128


def sharers(split_k: int) -> int:
    """Invocations of the second pass that share the parts of an element of C: 1, 2, 4 or 8."""
    return min(_SHARERS, 1 << (split_k.bit_length() - 1))


def check_split(split_k: int, tile_k: int, gemm: Gemm) -> Iterator[str]:
    """Why k cannot be split so: some parts would have no step."""
    steps = ceil_div(gemm.k, tile_k)
    if split_k > max(steps, 1):
        yield f"split_k {split_k} leaves some parts nothing of {steps} steps of {tile_k}"


def passes(main: Launch, split_k: int, gemm: Gemm) -> tuple[Launch, ...]:
    """``main`` for every part, then the pass that adds them up; without a split ``main`` alone."""
    if split_k == 1:
        return (main,)
    shared = sharers(split_k)
    reduce = Launch(
        entry_point="reduce",
        workgroups=ceil_div(gemm.m * gemm.n, REDUCERS // shared) * gemm.batch,
        workgroup_size=(REDUCERS, 1, 1),
        workgroup_storage_bytes=REDUCERS * SIZEOF["f32"] if shared > 1 else 0,
    )
    return (
        Launch(
            workgroups=main.workgroups * split_k,
            workgroup_size=main.workgroup_size,
            workgroup_storage_bytes=main.workgroup_storage_bytes,
        ),
        reduce,
    )


def widths(split_k: int, vec: int, gemm: Gemm) -> dict[str, int]:
    """Elements of one access to C and to the workspace, where the config moves ``vec``.

    With a split the second pass alone touches C.
    """
    return {
        "c_vec": access_width(vec, gemm.n, gemm, "c") if split_k == 1 else 1,
        "part_vec": vec if gemm.n % vec == 0 else 1,
    }


def workspace_bytes(split_k: int, gemm: Gemm) -> int:
    """Every part's C in f32."""
    return 0 if split_k == 1 else gemm.m * gemm.n * gemm.batch * split_k * SIZEOF["f32"]


def worthwhile(
    workgroups: int, gemm: Gemm, *, few: int = FEW, many: int = _MANY
) -> tuple[int, ...]:
    """The splits, 1 aside, that may pay where there are ``workgroups`` without one.

    None where these are more than ``few``; none that makes them more than ``many``.
    """
    if workgroups > few:
        return ()
    return tuple(
        split_k
        for split_k in (2, 4, 8, 16, 32, 64, 128, 256)
        if split_k * workgroups <= many and gemm.k >= split_k * _LEAST_DEPTH
    )
