"""Which fragments of native matrices a problem can use on a device, and how they are loaded."""

from __future__ import annotations

from gemmtune.device import Device
from gemmtune.kernels.tile import access_width
from gemmtune.problem import Gemm


def fragment_sizes(gemm: Gemm, device: Device) -> tuple[int, ...]:
    """Sizes of fragments of f16 that work with the problem's sums, the largest first."""
    loadable = [one for one in device.fragments if one.workgroup]
    fits = {one.size for one in loadable if (one.ab, one.acc) == ("f16", gemm.acc)}
    return tuple(sorted(fits, reverse=True))


def widest_load(frag: int, gemm: Gemm, device: Device) -> int:
    """The most elements that rows are aligned to and fragments can be loaded by."""
    rows = ((gemm.m if gemm.trans_a else gemm.k, "a"), (gemm.k if gemm.trans_b else gemm.n, "b"))
    fragment = device.fragment(frag, "f16", gemm.acc)
    widths = (1, 2, 4) if fragment is None else fragment.workgroup
    aligned = [w for w in widths if all(access_width(w, row, gemm, x) == w for row, x in rows)]
    # Fragments are loaded by vectors also where rows of A or B have to be read by the element.
    return max(aligned if max(aligned, default=1) > 1 else [w for w in widths if w <= 2] or widths)
