"""What one rendered kernel is good for beyond the problem it was rendered for; renders nothing.

A static kernel has its sizes baked in; a dynamic one serves every problem of its alignment class.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gemmtune.device import Device
from gemmtune.errors import ConfigError
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, ceil_div
from gemmtune.problem import Gemm

SIDES = ("m", "n", "k")
"""The sizes that kernels may bake in."""
STRIDES = ("stride_a", "stride_b", "stride_c")
"""Matter with a batch only."""
_POWERS = (1, 2, 4, 8, 16)
_FAR = 2**19  # with another side of _OTHERS still under 2^32 elements
_OTHERS = 4096
_TRIED = (
    *((1, 1, 1, 1), (129, 65, 33, 3), (4096, 1000, 777, 2), (7, 9000, 64, 1), (1, 3, 100_000, 1)),
    *((64, 64, 65536, 1), (8, 8, 1, 1)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Which values of a size a kernel is valid for."""

    min: int = 0
    """At least this."""
    max: int | None = None
    """At most this; None: no limit but the device's."""
    multiple: int = 1
    """And a multiple of this."""

    def __contains__(self, value: int) -> bool:
        return (
            value >= self.min
            and (self.max is None or value <= self.max)
            and value % self.multiple == 0
        )

    def to_json(self) -> dict[str, int]:
        """What restricts anything."""
        values = {"min": self.min, "max": self.max, "multiple": self.multiple}
        usual = {"min": 0, "max": None, "multiple": 1}
        return {k: v for k, v in values.items() if v is not None and v != usual[k]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A number that follows from the sizes: the product of all that is given, times the batch."""

    times: int = 1
    """A constant factor."""
    tile_m: int | None = None
    """Times ceil(m / tile_m)."""
    tile_n: int | None = None
    """Times ceil(n / tile_n)."""
    tile_k: int | None = None
    """Times ceil(k / tile_k)."""
    elements: int | None = None
    """Times ceil(m n / elements)."""

    def of(self, gemm: Gemm) -> int:
        """The number for ``gemm``."""
        result = self.times * gemm.batch
        for side in SIDES:
            tile = getattr(self, f"tile_{side}")
            result *= 1 if tile is None else ceil_div(getattr(gemm, side), tile)
        if self.elements is not None:
            result *= ceil_div(gemm.m * gemm.n, self.elements)
        return result

    def to_json(self) -> dict[str, int]:
        """What is given."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value is not None}


def is_static(family: str, config: Config, gemm: Gemm, device: Device) -> bool:
    """Whether the kernel has m, n and k baked in."""
    variables = FAMILIES[family].variables(config, gemm, device)
    dims = variables.get("dims", getattr(config, "dims", "static"))
    return bool(dims == "static")


def identity(family: str, config: Config, gemm: Gemm, device: Device) -> Hashable:
    """Equal where the rendered WGSL is equal but for the comment that names the problem.

    Cheap, so that a cache of pipelines can ask it before anything is rendered.
    """
    variables = FAMILIES[family].variables(config, gemm, device)
    static = variables.get("dims", getattr(config, "dims", "static")) == "static"
    sizes = (gemm.m, gemm.n, gemm.k) if static else ()
    return (family, config, gemm.kind, sizes, _frozen(variables))


def _frozen(variables: Mapping[str, Any]) -> tuple[Hashable, ...]:
    return tuple(
        (name, tuple(value) if isinstance(value, list) else value)
        for name, value in sorted(variables.items())
    )


def validity(family: str, config: Config, gemm: Gemm, device: Device) -> dict[str, Range]:
    """For which sizes and strides the kernel rendered for ``gemm`` gives right results.

    Found by asking the family, so that a new family says it nowhere twice. A size with no entry
    may be anything. Whether the device can hold the problem is another question.
    """
    static = is_static(family, config, gemm, device)
    roomy = _roomy(device)
    # Two of each: the alignment of strides shows only with a batch.
    base = replace(gemm, batch=2, stride_a=None, stride_b=None, stride_c=None)
    found: dict[str, Range] = {}
    for side in SIDES:
        if static:
            size = getattr(gemm, side)
            found[side] = Range(min=size, max=size)
            continue
        others = {o: _moderate(getattr(base, o)) for o in SIDES if o != side}
        around = _resized(base, **others)
        found[side] = _range(family, config, around, roomy, side)
    for stride in STRIDES:
        found[stride] = Range(multiple=_multiple(family, config, base, roomy, stride))
    return {name: one for name, one in found.items() if one != Range()}


def _resized(gemm: Gemm, **sizes: Any) -> Gemm:
    return replace(gemm, **sizes)


def _roomy(device: Device) -> Device:
    """The same device without its limits on sizes of buffers and grids."""
    limits = replace(
        device.limits,
        storage_binding_bytes=2**62,
        buffer_bytes=2**62,
        workgroups_per_dimension=2**31,
    )
    return replace(device, limits=limits)


def _moderate(size: int) -> int:
    """A size as aligned as ``size`` and small enough to be multiplied by large ones."""
    return size if size <= _OTHERS else size % 16 + _OTHERS


def _range(family: str, config: Config, gemm: Gemm, device: Device, side: str) -> Range:
    multiple = _multiple(family, config, gemm, device, side)
    here = getattr(gemm, side)

    def legal(size: int) -> bool:
        return not FAMILIES[family].check(config, _resized(gemm, **{side: size}), device)

    low, high = 0, _FAR // multiple
    if not legal(low):
        low = _boundary(legal, multiple, here // multiple, low)
    if not legal(high * multiple):
        high = _boundary(legal, multiple, here // multiple, high)
        return Range(min=low * multiple, max=high * multiple, multiple=multiple)
    return Range(min=low * multiple, multiple=multiple)


def _boundary(legal: Callable[[int], bool], multiple: int, good: int, bad: int) -> int:
    """The number nearest to ``bad`` whose multiple is legal, between it and ``good``."""
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        if legal(middle * multiple):
            good = middle
        else:
            bad = middle
    return good


def _multiple(family: str, config: Config, gemm: Gemm, device: Device, name: str) -> int:
    """The least power of 2 whose odd multiples render the same kernel."""
    wanted = identity(family, config, gemm, device)
    for power in _POWERS:
        value = power * (2**20 + 1 if name in STRIDES else 2**6 + 1)
        if name in STRIDES:
            value = max(value, _above(gemm, power))
        if identity(family, config, _resized(gemm, **{name: value}), device) == wanted:
            return power
    raise ConfigError(
        f"{family} ({config.key}) depends on {name} in a way that cannot be told: gemm {gemm.key}"
    )


def _above(gemm: Gemm, power: int) -> int:
    """An odd multiple of ``power`` that no matrix of C overlaps another with."""
    odd = gemm.m * gemm.n // power + 1
    return (odd + 1 - odd % 2) * power


def rule_of(count: Callable[[Gemm], int], gemm: Gemm) -> Count | None:
    """The rule behind a function of the sizes of ``gemm``; None if `Count` cannot say it."""
    one = replace(gemm, m=1, n=1, k=1, batch=1, stride_a=None, stride_b=None, stride_c=None)
    times = count(one)
    tile_m, tile_n, tile_k = (
        _tile(lambda size, side=side: count(_resized(one, **{side: size})), times)  # type: ignore[misc]
        for side in SIDES
    )
    rules = [Count(times=times, tile_m=tile_m, tile_n=tile_n, tile_k=tile_k)]
    if tile_m is not None and tile_m == tile_n:
        rules.append(Count(times=times, tile_k=tile_k, elements=tile_m))
    tried = [replace(one, m=m, n=n, k=k, batch=batch) for m, n, k, batch in _TRIED]
    found = (rule for rule in rules if all(rule.of(each) == count(each) for each in tried))
    return next(found, None)


def _tile(count: Callable[[int], int], least: int) -> int | None:
    """The largest size that counts no more than 1; None where the size does not matter."""
    if count(_FAR) == least:
        return None
    return _boundary(lambda size: count(size) == least, 1, 1, _FAR)


def generalised(family: str, config: Config, gemm: Gemm, device: Device) -> Config | None:
    """The same config as a dynamic kernel, with every check if it needs them; None if none works.

    It serves sizes that were not tuned where nothing can be rendered any more.
    """
    names = set(type(config).__dataclass_fields__)
    if "dims" not in names or not is_static(family, config, gemm, device):
        return None
    # Only tiles in workgroup memory can be cut off where a matrix ends.
    wanted = {"dims": "dynamic", "a_from": "workgroup", "b_from": "workgroup"}
    for more in ({}, {"checked": True}):
        all_of_them: dict[str, Any] = wanted | more
        changes = {name: value for name, value in all_of_them.items() if name in names}
        general = replace(config, **changes)
        if not FAMILIES[family].check(general, gemm, device):
            return general
    return None
