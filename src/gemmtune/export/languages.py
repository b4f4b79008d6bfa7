"""A document as source text of other languages: constants for C, Rust and TypeScript."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Literal, get_args

from gemmtune.export.values import PARAMS_FIELDS, Document, Portable
from gemmtune.kernels.base import PARAMS_SIZE_BYTES
from gemmtune.problem import Gemm
from gemmtune.validity import Count, Range

Language = Literal["json", "c-header", "rust", "typescript"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

_U32 = 2**32 - 1
_VALID = ("m", "n", "k", "stride_a", "stride_b", "stride_c")
_COUNT = ("times", "tile_m", "tile_n", "tile_k", "elements")


def source(document: Document, language: Language) -> str:
    """The document in ``language``."""
    writers: dict[str, Callable[[Document], str]] = {
        "json": to_text,
        "c-header": _c,
        "rust": _rust,
        "typescript": _typescript,
    }
    return writers[language](document)


def to_text(document: Document, *, inline: bool = True) -> str:
    """The document as JSON: the same text for the same values."""
    return json.dumps(document.to_json(inline=inline), indent=1, sort_keys=True) + "\n"


def _heading(document: Document) -> str:
    return f"Matrix multiplication kernels for {document.device.key}, by {document.generator}."


def _numbers(document: Document) -> dict[str, int]:
    """Place of each kernel in the tables."""
    return {kernel.id: number for number, kernel in enumerate(document.kernels)}


def _results(document: Document) -> Iterator[tuple[Gemm, str, float]]:
    """Problem, id of the kernel and time of every result."""
    for tuned in document.problems:
        for one in tuned.results:
            yield tuned.gemm, one.kernel, one.time_ns


def _count(rule: Count | None) -> list[int]:
    """times, tile_m, tile_n, tile_k, elements; 0 for what is not given."""
    return [getattr(rule, name) or 0 for name in _COUNT] if rule else [0] * len(_COUNT)


def _ranges(kernel: Portable) -> list[list[int]]:
    """min, max, multiple of each of `_VALID`."""
    found = [kernel.valid.get(name, Range()) for name in _VALID]
    return [[one.min, _U32 if one.max is None else one.max, one.multiple] for one in found]


def quoted(text: str) -> str:
    """A string literal that is right in C, Rust and TypeScript alike.

    Raises:
        ValueError: it has characters other than printable ASCII, line breaks and tabs.
    """
    if not re.fullmatch(r"[\x20-\x7e\n\t]*", text):
        raise ValueError("only printable ASCII can be quoted")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
    return '"' + escaped.replace("\n", "\\n") + '"'


def _lines(text: str) -> list[str]:
    """A C literal line by line: compilers need not take one longer than 4095 characters whole."""
    return [quoted(line) for line in text.splitlines(keepends=True)]


_C_TYPES = """\
#ifndef GEMMTUNE_KERNELS_H
#define GEMMTUNE_KERNELS_H
#include <stddef.h>
#include <stdint.h>

/* times * batch * ceil(m / tile_m) * ceil(n / tile_n) * ceil(k / tile_k) * ceil(m n / elements);
   a factor of 0 is left out. */
typedef struct { uint32_t times, tile_m, tile_n, tile_k, elements; } gemmtune_count;
typedef struct { uint32_t min, max, multiple; } gemmtune_range;
typedef struct {
  const char *entry_point;
  uint32_t workgroup_size[3];
  gemmtune_count workgroups;
  int only_reads; /* the workspace is bound as read-only storage */
} gemmtune_pass;
typedef struct {
  const char *id, *kind, *dialect; /* dialect is NULL for plain WGSL */
  const char *const *wgsl;         /* lines, to be joined; NULL after the last */
  const char *const *features;     /* NULL after the last */
  const gemmtune_pass *passes;
  size_t pass_count;
  uint32_t workgroup_storage_bytes, subgroup_size; /* subgroup_size 0: any */
  gemmtune_count workspace_bytes;                  /* times 0: none */
  gemmtune_range m, n, k, stride_a, stride_b, stride_c; /* sizes it is right for */
} gemmtune_kernel;
typedef struct { uint32_t m, n, k, batch, kernel; double time_ns; } gemmtune_result;
"""


def _c(document: Document) -> str:
    parts = [f"/* {_heading(document)} */", _C_TYPES]
    parts += [_c_layout()]
    for number, kernel in enumerate(document.kernels):
        lines = "\n".join(f"  {line}," for line in _lines(kernel.wgsl))
        features = "".join(f"{quoted(name)}, " for name in kernel.needs.features)
        passes = "\n".join(f"  {_c_pass(kernel, index)}," for index in range(len(kernel.passes)))
        parts += [
            f"static const char *const gemmtune_wgsl_{number}[] = {{\n{lines}\n  NULL}};",
            f"static const char *const gemmtune_features_{number}[] = {{{features}NULL}};",
            f"static const gemmtune_pass gemmtune_passes_{number}[] = {{\n{passes}\n}};",
        ]
    rows = "\n".join(f"  {_c_kernel(k, i)}," for i, k in enumerate(document.kernels))
    parts += [f"static const gemmtune_kernel gemmtune_kernels[] = {{\n{rows}\n}};"]
    numbers = _numbers(document)
    results = "\n".join(
        f"  {{{g.m}, {g.n}, {g.k}, {g.batch}, {numbers[name]}, {time_ns!r}}},"
        for g, name, time_ns in _results(document)
    )
    parts += [f"static const gemmtune_result gemmtune_results[] = {{\n{results}\n}};"]
    for what, length in (
        ("KERNEL", len(document.kernels)),
        ("RESULT", len(list(_results(document)))),
    ):
        parts.append(f"#define GEMMTUNE_{what}_COUNT {length}")
    return "\n".join([*parts, "#endif", ""])


def _c_layout() -> str:
    offsets = [
        f"#define GEMMTUNE_PARAM_{name.upper()} {4 * i}" for i, name in enumerate(PARAMS_FIELDS)
    ]
    return "\n".join([f"#define GEMMTUNE_PARAMS_SIZE {PARAMS_SIZE_BYTES}", *offsets, ""])


def _braces(values: list[int]) -> str:
    return "{" + ", ".join(f"{value}u" for value in values) + "}"


def _c_pass(kernel: Portable, index: int) -> str:
    one = kernel.passes[index]
    size = _braces(list(one.workgroup_size))
    reads = int(one.workspace is not None)
    return f"{{{quoted(one.entry_point)}, {size}, {_braces(_count(one.workgroups))}, {reads}}}"


def _c_kernel(kernel: Portable, number: int) -> str:
    dialect = quoted(kernel.dialect) if kernel.dialect else "NULL"
    return (
        ", ".join(
            [
                f"{{{quoted(kernel.id)}, {quoted(kernel.kind)}, {dialect}",
                f"gemmtune_wgsl_{number}, gemmtune_features_{number}, gemmtune_passes_{number}",
                f"{len(kernel.passes)}",
                f"{kernel.needs.limits['maxComputeWorkgroupStorageSize']}u",
                f"{kernel.needs.subgroup_size or 0}u",
                _braces(_count(kernel.workspace_bytes)),
                *(_braces(one) for one in _ranges(kernel)),
            ]
        )
        + "}"
    )


_RUST_TYPES = """\
/// times * batch * ceil(m / tile_m) * ceil(n / tile_n) * ceil(k / tile_k) * ceil(m n / elements);
/// a factor of 0 is left out.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    pub times: u32,
    pub tile_m: u32,
    pub tile_n: u32,
    pub tile_k: u32,
    pub elements: u32,
}
#[derive(Clone, Copy, Debug)]
pub struct Range { pub min: u32, pub max: u32, pub multiple: u32 }
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    pub entry_point: &'static str,
    pub workgroup_size: [u32; 3],
    pub workgroups: Count,
    /// The workspace is bound as read-only storage.
    pub only_reads: bool,
}
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    pub id: &'static str,
    pub kind: &'static str,
    pub dialect: Option<&'static str>,
    pub wgsl: &'static str,
    pub features: &'static [&'static str],
    pub passes: &'static [Pass],
    pub workgroup_storage_bytes: u32,
    pub subgroup_size: Option<u32>,
    pub workspace_bytes: Option<Count>,
    /// Sizes it is right for: m, n, k, stride_a, stride_b, stride_c.
    pub valid: [Range; 6],
}
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub batch: u32,
    pub kernel: usize,
    pub time_ns: f64,
}
"""


def _rust(document: Document) -> str:
    kernels = "".join(f"    {_rust_kernel(kernel)},\n" for kernel in document.kernels)
    numbers = _numbers(document)
    results = "".join(
        f"    Measured {{ m: {g.m}, n: {g.n}, k: {g.k}, batch: {g.batch}, "
        f"kernel: {numbers[name]}, time_ns: {time_ns!r} }},\n"
        for g, name, time_ns in _results(document)
    )
    layout = "".join(
        f"pub const PARAM_{name.upper()}: usize = {4 * i};\n"
        for i, name in enumerate(PARAMS_FIELDS)
    )
    return (
        f"// {_heading(document)}\n#![allow(dead_code)]\n{_RUST_TYPES}\n"
        f"pub const PARAMS_SIZE: usize = {PARAMS_SIZE_BYTES};\n{layout}\n"
        f"pub static KERNELS: &[Kernel] = &[\n{kernels}];\n\n"
        f"pub static RESULTS: &[Measured] = &[\n{results}];\n"
    )


def _rust_count(rule: Count) -> str:
    values = zip(_COUNT, _count(rule), strict=True)
    return "Count { " + ", ".join(f"{name}: {value}" for name, value in values) + " }"


def _rust_kernel(kernel: Portable) -> str:
    passes = ", ".join(
        f"Pass {{ entry_point: {quoted(one.entry_point)}, "
        f"workgroup_size: {list(one.workgroup_size)}, workgroups: {_rust_count(one.workgroups)}, "
        f"only_reads: {str(one.workspace is not None).lower()} }}"
        for one in kernel.passes
    )
    valid = ", ".join(
        f"Range {{ min: {low}, max: {high}, multiple: {multiple} }}"
        for low, high, multiple in _ranges(kernel)
    )
    workspace = kernel.workspace_bytes
    fields = {
        "id": quoted(kernel.id),
        "kind": quoted(kernel.kind),
        "dialect": f"Some({quoted(kernel.dialect)})" if kernel.dialect else "None",
        "wgsl": quoted(kernel.wgsl),
        "features": f"&[{', '.join(map(quoted, kernel.needs.features))}]",
        "passes": f"&[{passes}]",
        "workgroup_storage_bytes": kernel.needs.limits["maxComputeWorkgroupStorageSize"],
        "subgroup_size": f"Some({size})" if (size := kernel.needs.subgroup_size) else "None",
        "workspace_bytes": f"Some({_rust_count(workspace)})" if workspace else "None",
        "valid": f"[{valid}]",
    }
    return "Kernel { " + ", ".join(f"{name}: {value}" for name, value in fields.items()) + " }"


def _typescript(document: Document) -> str:
    return (
        f"// {_heading(document)}\n"
        'import type { GemmtuneDocument } from "./gemmtune.js";\n\n'
        f"const tuned: GemmtuneDocument = {to_text(document).rstrip()};\n"
        "export default tuned;\n"
    )
