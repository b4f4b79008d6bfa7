"""Prints the shapes that selection is judged on.

    python benchmarks/untuned.py > benchmarks/shapes/untuned.txt
    python benchmarks/untuned.py --held-out > benchmarks/shapes/heldout.txt

The rule of the first: of the presets of each group, every shape up to MOST_FLOPS and MOST_BYTES in
f16 that is neither of the preset core nor square, by k, n and m; of these as many as the group has,
evenly spaced from the first to the last. By now they ship, as all presets do.

Those held out have no part in what ships. They are spaced alike over the layers of models that no
preset has, as far as no preset has a layer of that n and k, with numbers of rows in turn; then come
the shapes without a model below. Another set was held out before; it is tuned and ships by now.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import cycle

from gemmtune import Gemm
from gemmtune.shapes import PRESETS, preset

MOST_FLOPS, MOST_BYTES = 2e11, 2**28
"""So that one measurement takes a fraction of a second with its verification."""
ENCODERS = ("bert", "minilm", "vit", "whisper", "sd")
PLAIN = ("core", "square", "skinny", "odd", "batched")
PROMPT, DECODING = (32, 100, 384, 1000), (1, 3, 6, 12)
"""Rows of the layers held out, in turn; those of encoders follow from their inputs."""

# As in gemmtune.shapes: width; columns of the fused q, k and v, of all heads, of the first part of
# the feed-forward layer; rows of the second. Source: config.json of each on https://huggingface.co
OTHER_LLMS = {
    "qwen3-4b": (2560, 6144, 4096, 19456, 9728),
    "qwen2.5-14b": (5120, 7168, 5120, 27648, 13824),
    "mistral-nemo": (5120, 6144, 4096, 28672, 14336),
    "llama3-70b": (8192, 10240, 8192, 57344, 28672),
    "gemma2-27b": (4608, 8192, 4096, 73728, 36864),
    "falcon-7b": (4544, 4672, 4544, 18176, 18176),
    "yi-6b": (4096, 5120, 4096, 22016, 11008),
    "phi2": (2560, 7680, 2560, 10240, 10240),
    "stablelm-3b": (2560, 7680, 2560, 13824, 6912),
    "smollm2-135m": (576, 960, 576, 3072, 1536),
    "smollm2-1.7b": (2048, 6144, 2048, 16384, 8192),
    "gpt2-xl": (1600, 4800, 1600, 6400, 6400),
}
# Rows; width; columns of the first part of the feed-forward layer.
OTHER_ENCODERS = {
    "clip-text": (77, 768, 3072),
    "dinov2-g": (1370, 1536, 8192),
    "vit-h14": (257, 1280, 5120),
    "dit-xl": (256, 1152, 4608),
    "wav2vec2": (499, 768, 3072),
    "t5-large": (512, 1024, 2816),
    "siglip-so": (729, 1152, 4304),
    "flux": (4608, 3072, 12288),
}
OTHERS = {
    "skinny": "2000x24x1500 100x5000x16 20000x96x64 48x12000x48 7000x2x3000",
    "odd": "77x333x1111 1500x1500x50 210x3001x99 511x255x1025 11x2047x500",
    "deep": "16x128x40000 48x48x30000 128x200x12000 24x768x10000",
}


def of_models(*, encoders: bool) -> list[Gemm]:
    """Shapes of the presets that are named after models."""
    names = [name for name in PRESETS if name not in PLAIN]
    return [
        gemm
        for name in names
        if name.startswith(ENCODERS) == encoders
        for gemm in preset(name, "f16")
    ]


def spaced(gemms: Iterable[Gemm], count: int, taken: set[str]) -> list[Gemm]:
    """``count`` of those that are small enough and not ``taken``, evenly spaced; taken then."""
    small = {
        (gemm.k, gemm.n, gemm.m): gemm
        for gemm in gemms
        if gemm.flops <= MOST_FLOPS
        and gemm.traffic_bytes <= MOST_BYTES
        and gemm.shape not in taken
        and not gemm.m == gemm.n == gemm.k
    }
    ordered = [small[sides] for sides in sorted(small)]
    step = (len(ordered) - 1) / (count - 1)
    chosen = [ordered[round(index * step)] for index in range(count)]
    taken |= {gemm.shape for gemm in chosen}
    return chosen


def never_tuned() -> Iterator[tuple[str, list[Gemm]]]:
    """The first set, group by group."""
    taken = {gemm.shape for gemm in preset("core")}
    llm = of_models(encoders=False)
    groups = {
        "LLMs, prompts": ([gemm for gemm in llm if gemm.m > 8], 12),
        "LLMs, decoding": ([gemm for gemm in llm if gemm.m <= 8], 10),
        "encoders and UNets": (of_models(encoders=True), 10),
        "skinny": (preset("skinny", "f16"), 6),
        "odd": (preset("odd", "f16"), 6),
    }
    for name, (gemms, count) in groups.items():
        yield name, spaced(gemms, count, taken)


def of_others() -> tuple[list[Gemm], list[Gemm]]:
    """Shapes of the models above: LLMs, with one row, and encoders, with theirs."""
    known = {(one.n, one.k) for encoders in (True, False) for one in of_models(encoders=encoders)}
    llms = [
        (1, n, k)
        for width, qkv, heads, up, down in OTHER_LLMS.values()
        for n, k in ((qkv, width), (width, heads), (up, width), (width, down))
    ]
    encoders = [
        (m, n, k)
        for m, width, up in OTHER_ENCODERS.values()
        for n, k in ((3 * width, width), (width, width), (up, width), (width, up))
    ]
    return others(llms, known), others(encoders, known)


def others(sizes: list[tuple[int, int, int]], known: set[tuple[int, int]]) -> list[Gemm]:
    """Problems in f16 of these m, n and k, but for those whose n and k are known."""
    every = [Gemm(m=m, n=n, k=k, a="f16", b="f16", c="f16") for m, n, k in sizes]
    return [one for one in every if (one.n, one.k) not in known]


def held_out() -> Iterator[tuple[str, list[Gemm]]]:
    """The second set, group by group."""
    taken = {gemm.shape for name in PRESETS for gemm in preset(name)}
    layers: set[tuple[int, int]] = set()
    llms, encoders = of_others()
    groups = {
        "LLMs, prompts": (llms, PROMPT, 12),
        "LLMs, decoding": (llms, DECODING, 10),
        "encoders": (encoders, (), 8),
    }
    for name, (gemms, rows, count) in groups.items():
        left = [replace(one, m=max(rows, default=one.m)) for one in gemms]
        chosen = spaced((one for one in left if (one.n, one.k) not in layers), count, taken)
        layers |= {(one.n, one.k) for one in chosen}
        yield (
            name,
            [
                replace(one, m=m or one.m)
                for one, m in zip(chosen, cycle(rows or (0,)), strict=False)
            ],
        )
    for name, text in OTHERS.items():
        yield name, [Gemm.parse(shape) for shape in text.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--held-out", action="store_true", help="the second set, in no other")
    args = parser.parse_args()
    print("# To judge selection by; made by benchmarks/untuned.py, which has the rule.")
    for name, gemms in held_out() if args.held_out else never_tuned():
        print(f"# {name}")
        for gemm in gemms:
            print(gemm.shape)


if __name__ == "__main__":
    main()
