"""How engines spell what WGSL has no standard for: native matrices, and what modules must declare.

A dialect is a property of who runs a kernel, never of a config: one config renders in each.
Families without native matrices have one text but for the lines that declare features.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemmtune.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """What one engine calls a feature of `Device.features`."""

    feature: str
    """Its name in gemmtune, e.g. cooperative-matrix."""
    requested: str
    """Its name in the list of features that a device is requested with."""
    directives: tuple[str, ...] = ()
    """Lines at the top of a module that uses it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The WGSL of one engine."""

    name: str
    """What users call it."""
    engine: str
    """Who runs it."""
    macros: str
    """The template that spells native matrices."""
    spellings: tuple[Spelling, ...]
    """Of all features that kernels need."""
    adds_matrices: bool
    """Its `add` exists: two matrices of a subgroup can be added."""

    def spelling(self, feature: str) -> Spelling:
        """How this engine spells ``feature``."""
        return next(each for each in self.spellings if each.feature == feature)

    def directives(self, features: tuple[str, ...]) -> tuple[str, ...]:
        """Lines at the top of a module that uses ``features``, in their order."""
        return tuple(line for name in features for line in self.spelling(name).directives)

    def requested(self, features: tuple[str, ...]) -> tuple[str, ...]:
        """The same features by the names that this engine knows."""
        return tuple(self.spelling(name).requested for name in features)


_F16 = Spelling(feature="shader-f16", requested="shader-f16", directives=("enable f16;",))

NAGA = Dialect(
    name="naga",
    engine="wgpu",
    macros="dialects/naga.wgsl.j2",
    spellings=(
        _F16,
        # naga 29 refuses the line that the standard asks for
        Spelling(feature="subgroup", requested="subgroup"),
        Spelling(
            feature="cooperative-matrix",
            requested="cooperative-matrix",
            directives=("enable wgpu_cooperative_matrix;",),
        ),
    ),
    adds_matrices=True,
)
TINT = Dialect(
    name="tint",
    engine="Dawn, so Chromium",
    macros="dialects/tint.wgsl.j2",
    spellings=(
        _F16,
        Spelling(feature="subgroup", requested="subgroups", directives=("enable subgroups;",)),
        Spelling(
            feature="cooperative-matrix",
            requested="chromium-experimental-subgroup-matrix",
            # Tint asks whether a workgroup is uniform, where subgroups are: their tiles differ.
            directives=(
                "enable chromium_experimental_subgroup_matrix;",
                "diagnostic(off, chromium.subgroup_matrix_uniformity);",
            ),
        ),
    ),
    adds_matrices=False,
)
DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (NAGA, TINT)}


def dialect_of(name: str) -> Dialect:
    """The dialect of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in DIALECTS:
        raise ConfigError(f"dialect is {name!r}; supported: {', '.join(DIALECTS)}")
    return DIALECTS[name]
