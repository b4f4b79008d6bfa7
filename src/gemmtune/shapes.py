"""Problems that people have, by name or from a file: data and parsing. Tunes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gemmtune.errors import ProblemError, UsageError
from gemmtune.literals import Dtype
from gemmtune.problem import ACTIVATIONS, DTYPES, MATHS, Gemm

Dtypes = tuple[Dtype, Dtype, Dtype, Dtype]
"""Of a, b, c and the sums."""

_DTYPES: dict[str, Dtypes] = {
    "f32": ("f32", "f32", "f32", "f32"),
    "f16": ("f16", "f16", "f16", "f32"),
    "f16-f32": ("f16", "f16", "f32", "f32"),
    "f16acc": ("f16", "f16", "f16", "f16"),
}

_CORE = """
    512x512x512 1024x1024x1024 2048x2048x2048 4096x4096x4096
    512x4096x4096 512x14336x4096 512x4096x14336 128x6144x4096 512x1152x896 2048x8192x2048
    1x4096x4096 1x14336x4096 1x4096x14336 8x4096x4096 1x151936x896
    1500x512x512 197x3072x768 64x64x16384
"""
"""Squares; then prefill, decode and encoders of the models below; last a deep one."""

_SHAPES: dict[str, str] = {
    "core": _CORE,
    "square": """
        64x64x64 128x128x128 256x256x256 512x512x512 1024x1024x1024 2048x2048x2048
        4096x4096x4096 6144x6144x6144 8192x8192x8192
    """,
    # Tall, wide, deep, low rank (as in LoRA), and few rows.
    "skinny": """
        65536x64x64 16384x32x1024 64x65536x64 64x64x65536 16x16x131072 128x128x16384
        512x16x4096 512x4096x16 512x64x4096 8x4096x4096 4096x8x4096 1x4096x4096 4096x1x4096
    """,
    # Primes, one off a power of two, sums of one product, rows that end off a word in f16.
    "odd": """
        1x1x1 3x7x17 33x65x127 127x129x255 257x129x65 131x509x131 1000x1023x257 4097x129x33
        255x257x1 255x257x2 255x257x3 65x51865x512 1x4097x1023 4097x1x1000
    """,
    # Attention of 8 and 96 heads: scores and values.
    "batched": "512x512x64x8 512x64x512x8 128x128x64x96 128x64x128x96 1x4096x128x32 1x128x4096x32",
}

_LLM_TOKENS = (1, 8, 128, 512, 2048)
"""Rows of A: decoding one sequence or eight, then prompts."""

# Width; columns of the fused q, k and v, of all heads, of the fused gate and up; vocabulary.
# Source: https://github.com/mlc-ai/mlc-llm/blob/main/python/mlc_llm/model/model_preset.py
_LLMS: dict[str, tuple[int, int, int, int, int]] = {
    "llama3-8b": (4096, 6144, 4096, 28672, 128256),
    "llama3.2-1b": (2048, 3072, 2048, 16384, 128256),
    "llama3.2-3b": (3072, 5120, 3072, 16384, 128256),
    "llama2-7b": (4096, 12288, 4096, 22016, 32000),
    "mistral-7b": (4096, 6144, 4096, 28672, 32000),
    "qwen2.5-0.5b": (896, 1152, 896, 9728, 151936),
    "qwen2.5-1.5b": (1536, 2048, 1536, 17920, 151936),
    "qwen2.5-3b": (2048, 2560, 2048, 22016, 151936),
    "qwen2.5-7b": (3584, 4608, 3584, 37888, 152064),
    "qwen3-0.6b": (1024, 4096, 2048, 6144, 151936),
    "phi3-mini": (3072, 9216, 3072, 16384, 32064),
    "phi4-mini": (3072, 5120, 3072, 16384, 200064),
    "gemma-2b": (2048, 2560, 2048, 32768, 256000),
    "gemma2-2b": (2304, 4096, 2048, 18432, 256000),
    "gemma2-9b": (3584, 8192, 4096, 28672, 256000),
    "gemma3-1b": (1152, 1536, 1024, 13824, 262144),
    "tinyllama-1.1b": (2048, 2560, 2048, 11264, 32000),
    "smollm-360m": (960, 1600, 960, 5120, 49152),
}

# Rows of A, and the width of the layers; q, k and v are fused, the feed-forward part is four times
# as wide. Sources: https://arxiv.org/abs/1810.04805, https://arxiv.org/abs/2010.11929 and
# https://github.com/openai/whisper/blob/main/whisper/model.py
_ENCODERS: dict[str, tuple[tuple[int, ...], int]] = {
    "bert-base": ((128, 384, 512, 4096), 768),
    "bert-large": ((128, 384, 512, 4096), 1024),
    "minilm-l6": ((128, 512, 4096), 384),
    "vit-b16": ((197, 577, 1576), 768),
    "vit-l14": ((257, 577, 2056), 1024),
    "whisper-tiny": ((1500, 1, 448), 384),
    "whisper-base": ((1500, 1, 448), 512),
    "whisper-small": ((1500, 1, 448), 768),
    "whisper-medium": ((1500, 1, 448), 1024),
    "whisper-large": ((1500, 1, 448), 1280),
}

# Tokens and width of each level of the UNet, then columns of the text that is attended to.
# Sources: https://arxiv.org/abs/2112.10752, https://arxiv.org/abs/2307.01952
_UNETS: dict[str, tuple[tuple[tuple[int, int], ...], int]] = {
    "sd1.5": (((4096, 320), (1024, 640), (256, 1280)), 768),
    "sdxl": (((4096, 640), (1024, 1280)), 2048),
}
_TEXT_TOKENS = 77
"""Of both models' text encoders."""

PRESETS: tuple[str, ...] = (*_SHAPES, *_LLMS, *_ENCODERS, *_UNETS)
"""Names that `preset` knows."""


def preset(name: str, dtype: str = "f32", **rest: Any) -> tuple[Gemm, ...]:
    """The problems of a preset, each once.

    A is tokens x features, B features x outputs: weights as a model multiplies by them, not
    transposed; ``trans_b=True`` makes them as checkpoints hold them.

    Args:
        name: one of `PRESETS`.
        dtype: see `parse_dtype`.
        rest: further fields of `Gemm`, the same for every problem.

    Raises:
        UsageError: there is no such preset.
        ProblemError: the dtype or a field makes no sense.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    a, b, c, acc = parse_dtype(dtype)
    values: dict[str, Any] = {"a": a, "b": b, "c": c, "acc": acc, **rest}
    return tuple(Gemm.parse(shape, **values) for shape in dict.fromkeys(_shapes(name)))


def _shapes(name: str) -> Iterator[str]:
    if name in _SHAPES:
        yield from _SHAPES[name].split()
    elif name in _LLMS:
        width, qkv, heads, gate_up, vocabulary = _LLMS[name]
        layers = ((qkv, width), (width, heads), (gate_up, width), (width, gate_up // 2))
        yield from (f"{m}x{n}x{k}" for m in _LLM_TOKENS for n, k in layers)
        yield f"1x{vocabulary}x{width}"
    elif name in _ENCODERS:
        rows, width = _ENCODERS[name]
        layers = ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width))
        yield from (f"{m}x{n}x{k}" for m in rows for n, k in layers)
        if name.startswith("whisper"):
            yield f"1x51865x{width}"
    else:
        levels, text = _UNETS[name]
        for m, width in levels:
            unet = ((width, width), (8 * width, width), (width, 4 * width))
            yield from (f"{m}x{n}x{k}" for n, k in unet)
            yield f"{_TEXT_TOKENS}x{width}x{text}"


def parse_dtype(text: str) -> Dtypes:
    """Dtypes of a, b, c and the sums: ``f32``, ``f16``, ``f16-f32``, ``f16acc`` or all four.

    Raises:
        ProblemError: it is none of these.
    """
    name = text.strip().lower()
    if name in _DTYPES:
        return _DTYPES[name]
    found = tuple(dtype for part in name.split(",") for dtype in DTYPES if dtype == part.strip())
    if len(found) != 4 or name.count(",") != 3:
        raise ProblemError(
            f"dtype {text!r} is not one of f32, f16 (f16 with f32 sums), f16-f32 (f16 in, f32 "
            "out), f16acc (f16 with f16 sums), or four of f32 and f16 for a,b,c,acc"
        )
    return found


def read_shapes(path: str | Path, dtype: str = "f32", **rest: Any) -> tuple[Gemm, ...]:
    """The problems of a file, each once.

    A text file has one problem a line, ``MxNxK`` or ``MxNxKxBATCH``, then any of ``dtype=f16``,
    ``trans_a``, ``trans_b``, ``alpha=2``, ``beta=1``, ``bias``, ``activation=relu`` and
    ``math=f16x3``; ``#`` starts a comment. A JSON file (its first character is a bracket) is a list
    of such lines or of objects as `Gemm.to_json` makes them.

    Args:
        path: the file.
        dtype: of lines that do not say, see `parse_dtype`.
        rest: further fields of `Gemm` for lines that do not say.

    Raises:
        UsageError: the file cannot be read or holds no problem.
        ProblemError: a line makes no sense; the message has file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"cannot read shapes from {path}: {reason}") from error
    problems = []
    for where, item in _items(path, text):
        try:
            problems.append(_parse_item(item, dtype, rest))
        except ProblemError as error:
            raise ProblemError(f"{where}: {error}") from error
    if not problems:
        raise UsageError(f"{path} has no shapes; write one MxNxK a line")
    return tuple(dict.fromkeys(problems))


def _items(path: Path, text: str) -> Iterable[tuple[str, object]]:
    """Where each problem stands and what is there."""
    if text.lstrip().startswith(("[", "{")):
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ProblemError(f"{path} is not JSON: {error}") from error
        if not isinstance(data, list):
            raise ProblemError(f"{path} is not a JSON list of problems")
        return [(f"{path}, item {i}", item) for i, item in enumerate(data, start=1)]
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [(f"{path}, line {i}", line) for i, line in enumerate(lines, start=1) if line]


def _parse_item(item: object, dtype: str, rest: dict[str, Any]) -> Gemm:
    if isinstance(item, dict):
        return Gemm.from_json(item)
    if not isinstance(item, str) or not item.split():
        raise ProblemError(f"{item!r} is not a shape like 512x4096x4096")
    shape, *words = item.split()
    values: dict[str, Any] = dict(rest)
    for word in words:
        name, _, value = word.partition("=")
        if name == "dtype":
            dtype = value
        elif word in ("trans_a", "trans_b", "bias"):
            values[word] = True
        elif name in ("alpha", "beta"):
            values[name] = _number(name, value)
        elif name in ("activation", "math"):
            values[name] = value
        else:
            raise ProblemError(
                f"{word!r} is not one of dtype=..., trans_a, trans_b, alpha=..., beta=..., bias, "
                f"activation={'|'.join(ACTIVATIONS)}, math={'|'.join(MATHS)}"
            )
    a, b, c, acc = parse_dtype(dtype)
    return Gemm.parse(shape, **{"a": a, "b": b, "c": c, "acc": acc, **values})


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ProblemError(f"{name}={value} is not a number") from error
