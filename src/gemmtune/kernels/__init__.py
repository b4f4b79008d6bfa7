"""The kernel families. A new one is one module here, one template, one line below."""

from __future__ import annotations

from gemmtune.kernels import coopmat, naive, subgroup, tiled
from gemmtune.kernels.base import Family

FAMILIES: dict[str, Family] = {
    family.name: family for family in (naive.FAMILY, tiled.FAMILY, subgroup.FAMILY, coopmat.FAMILY)
}
