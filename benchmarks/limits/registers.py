"""Registers and memory that a driver gives each variant of coopmat_variants.py.

    python benchmarks/limits/registers.py registers held > registers.md

Asks by a Vulkan layer, pipeline_statistics.c, which is built first: takes a C compiler and Vulkan's
headers, e.g. Debian's gcc and libvulkan-dev. Drivers decide what they tell and how they call it;
NVIDIA's tell registers and workgroup memory, with the registers that were spilled to it. Needs
`gemmtune unlock`, as the variants do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
LAYER = "VK_LAYER_GEMMTUNE_pipeline_statistics"
FILE = "PIPELINE_STATISTICS"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="+", help="as for coopmat_variants.py")
    parser.add_argument("--adapter", default="")
    args = parser.parse_args()
    if FILE in os.environ:
        ask(args.sets, args.adapter)
        return
    # The loader reads its settings when wgpu is imported, so the asking is another process's.
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        environment = {
            "VK_LAYER_PATH": folder,
            "VK_INSTANCE_LAYERS": LAYER,
            FILE: str(Path(folder) / "said.txt"),
        }
        raise SystemExit(subprocess.call([sys.executable, *sys.argv], env=os.environ | environment))


def build(folder: Path) -> None:
    """The layer and its manifest."""
    library = folder / "libpipeline_statistics.so"
    source = HERE / "pipeline_statistics.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    layer = {
        "name": LAYER,
        "type": "GLOBAL",
        "library_path": str(library),
        "api_version": "1.3.0",
        "implementation_version": "1",
        "description": "what drivers say of compute pipelines",
    }
    manifest = {"file_format_version": "1.2.0", "layer": layer}
    (folder / "layer.json").write_text(json.dumps(manifest))


def ask(sets: list[str], adapter: str) -> None:
    """Compiles the variants one after the other, and prints what was said of each."""
    from coopmat_variants import PLAIN, SETS, Bench, JobError

    said = Path(os.environ[FILE])
    variants = list(dict.fromkeys([PLAIN, *(v for name in sets for v in SETS[name])]))
    bench = Bench(adapter)
    print(f"{bench.gpu.device.name}, driver {bench.gpu.device.driver}\n")
    print("| variant | invocations | said |\n|---|---:|---|")
    for variant in variants:
        said.write_text("")
        try:
            bench.compile(variant)
        except JobError as failure:
            said.write_text(f"failed: {str(failure)[:80]}")
        lines = said.read_text().strip().splitlines() or ["nothing"]
        print(f"| {variant.name} | {variant.threads} | {lines[-1]} |", flush=True)


if __name__ == "__main__":
    main()
