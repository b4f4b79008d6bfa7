"""Prints the shapes that selection is judged on: none was tuned for what ships.

    python benchmarks/untuned.py > benchmarks/shapes/untuned.txt

The rule: of the presets of each group, every shape up to MOST_FLOPS and MOST_BYTES in f16 that is
neither of the preset core nor square, by k, n and m; of these as many as the group has, evenly
spaced from the first to the last.
"""

from __future__ import annotations

from collections.abc import Iterable

from gemmtune import Gemm
from gemmtune.shapes import PRESETS, preset

MOST_FLOPS, MOST_BYTES = 2e11, 2**28
"""So that one measurement takes a fraction of a second with its verification."""
ENCODERS = ("bert", "minilm", "vit", "whisper", "sd")
PLAIN = ("core", "square", "skinny", "odd", "batched")


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


def main() -> None:
    taken = {gemm.shape for gemm in preset("core")}
    llm = of_models(encoders=False)
    groups = {
        "LLMs, prompts": ([gemm for gemm in llm if gemm.m > 8], 12),
        "LLMs, decoding": ([gemm for gemm in llm if gemm.m <= 8], 10),
        "encoders and UNets": (of_models(encoders=True), 10),
        "skinny": (preset("skinny", "f16"), 6),
        "odd": (preset("odd", "f16"), 6),
    }
    print("# Never tuned for what ships; made by benchmarks/untuned.py, which has the rule.")
    for name, (gemms, count) in groups.items():
        print(f"# {name}")
        for gemm in spaced(gemms, count, taken):
            print(gemm.shape)


if __name__ == "__main__":
    main()
