"""Prints the shapes that selection is judged on.

    python benchmarks/untuned.py > benchmarks/shapes/untuned.txt
    python benchmarks/untuned.py --held-out > benchmarks/shapes/heldout.txt

Those held out had no part in what ships, but for those that are presets' too, which are hidden when
selection is judged. The others are presets' and ship by now.

The rule: of the presets of each group, every shape up to MOST_FLOPS and MOST_BYTES in f16 that is
neither of the preset core nor square, by k, n and m; of these as many as the group has, evenly
spaced from the first to the last. The shapes held out are spaced alike over what is in neither of
these sets: layers of models whose n and k are together in none of them, with numbers of rows that
no preset has, and the shapes without a model below.
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
PROMPT, DECODING, IMAGE = (64, 256, 300, 1024), (1, 2, 4, 16), (64, 192, 785, 2048)
"""Rows of the layers held out, in turn."""
OTHERS = {
    "skinny": "1024x32x2048 300x2048x8 8192x128x128 96x16384x96 14336x1x4096",
    "odd": "33x257x1000 1000x1000x33 127x4097x65 1023x129x509 7x1023x255",
    "deep": "64x64x65536 32x32x32768 96x160x20000 16x512x8192",
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


def held_out() -> Iterator[tuple[str, list[Gemm]]]:
    """The second set, group by group."""
    known = [*preset("core", "f16"), *(gemm for _, gemms in never_tuned() for gemm in gemms)]
    taken, layers = {gemm.shape for gemm in known}, {(gemm.n, gemm.k) for gemm in known}
    groups = {
        "LLMs, prompts": (of_models(encoders=False), PROMPT, 12),
        "LLMs, decoding": (of_models(encoders=False), DECODING, 10),
        "encoders and UNets": (of_models(encoders=True), IMAGE, 8),
    }
    for name, (gemms, rows, count) in groups.items():
        left = {(one.n, one.k): replace(one, m=rows[0]) for one in gemms}
        chosen = spaced((one for layer, one in left.items() if layer not in layers), count, taken)
        layers |= {(one.n, one.k) for one in chosen}
        yield name, [replace(one, m=m) for one, m in zip(chosen, cycle(rows), strict=False)]
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
