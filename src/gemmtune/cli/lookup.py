"""``gemmtune lookup``: the config for a problem, its speed, and where it came from."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from gemmtune.cli.memory import memory
from gemmtune.cli.options import (
    Commands,
    add_command,
    add_database,
    add_json,
    add_problem,
    problem,
)
from gemmtune.cli.output import duration, gflops, percent, print_json
from gemmtune.device import Device
from gemmtune.dialect import DIALECTS, NAGA
from gemmtune.errors import DeviceError, ExecutorError, MissingExtraError
from gemmtune.lookup import Lookup, lookup


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "lookup",
        _run,
        "print the config for a problem and where it came from",
        examples=(
            "gemmtune lookup 4096x4096x4096 --dtype f16",
            "gemmtune lookup 512x512x512 --wgsl > gemm.wgsl",
            "gemmtune lookup 512x512x512 --dtype f16 --wgsl --dialect tint > chromium.wgsl",
            "gemmtune lookup 512x512x512 --device vulkan/10de-2330/nvidia-h100/580 --json",
        ),
    )
    parser.add_argument("shape", metavar="MxNxK[xBATCH]", help="sizes of the problem")
    parser.add_argument(
        "--device",
        metavar="KEY",
        help="key of the device, see `gemmtune devices` (default: this machine's default adapter)",
    )
    parser.add_argument("--wgsl", action="store_true", help="print the kernel and nothing else")
    parser.add_argument(
        "--dialect",
        choices=tuple(DIALECTS),
        default=NAGA.name,
        help=f"whose WGSL: {' or '.join(f'{d.name} ({d.engine})' for d in DIALECTS.values())};"
        " default: %(default)s",
    )
    add_problem(parser)
    add_database(parser, "only database to read")
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    gemm = problem(args, args.shape)
    if args.device is not None:
        found = lookup(gemm, args.device, path=args.db)
    else:
        found = lookup(gemm, device=_default_device(), path=args.db)
    if args.json:
        print_json(_as_json(found, args.device) | (_kernel(found, args) if args.wgsl else {}))
    elif args.wgsl:
        print(found.kernel_in(args.dialect).wgsl, end="")
    else:
        print("\n".join(_lines(found, args.device)))
    return 0


def _default_device() -> Device | None:
    """The adapter that tuning would use; None, saying so, where there is none to ask."""
    try:
        from gemmtune.executors import list_devices
        from gemmtune.executors.local.adapters import choose

        with memory() as store:
            devices = list_devices(store)
        return devices[choose(devices)]
    except (DeviceError, ExecutorError, MissingExtraError) as error:
        print(
            f"gemmtune: no adapter could be asked here, so this is for any WebGPU device ({error})",
            file=sys.stderr,
        )
        return None


def _kernel(found: Lookup, args: argparse.Namespace) -> dict[str, Any]:
    kernel = found.kernel_in(args.dialect)
    return {"dialect": args.dialect, "features": list(kernel.features), "wgsl": kernel.wgsl}


def _as_json(found: Lookup, device_key: str | None) -> dict[str, Any]:
    return {
        "problem": found.gemm.to_json(),
        "problem_key": found.gemm.key,
        "device": device_key or found.device.key,
        "family": found.family,
        "config": found.config.to_json(),
        "source": found.source,
        "why": found.why,
        "time_ns": found.time_ns,
        "gflops": found.gflops,
        "measured_problem_key": found.problem_key,
        "demotions": list(found.demotions),
        "expected_share": found.expected_share,
        "alternatives": [
            {"family": one.family, "config": one.config.to_json(), "source": one.source}
            for one in found.alternatives
        ],
        "passes": [
            {
                "entry_point": launch.entry_point,
                "workgroups": launch.workgroups,
                "workgroup_size": list(launch.workgroup_size),
            }
            for launch in found.launches
        ],
        "workspace_bytes": found.workspace_bytes,
    }


def _lines(found: Lookup, device_key: str | None) -> list[str]:
    passes = [
        f"{launch.workgroups} workgroups of {launch.workgroup_size[0]} invocations"
        for launch in found.launches
    ]
    speed = f"{duration(found.time_ns)}, {gflops(found.gflops)} GFLOP/s"
    expected = "" if found.source == "exact" else " expected"
    facts = {
        "problem": found.gemm.key,
        "device": device_key or found.device.key,
        "source": f"{found.source}: {found.why}",
        "family": found.family,
        "config": found.config.key,
        "speed": f"{speed}{expected}" if found.time_ns else "not known",
        "launch": ", then ".join(passes),
    }
    if found.workspace_bytes:
        facts["memory"] = f"a workspace of {found.workspace_bytes} bytes"
    if found.expected_share is not None and found.source != "exact":
        facts["expect"] = f"{percent(found.expected_share)} of what tuning this problem would reach"
    if found.demotions:
        facts["hint"] = f"measure again, for {'; '.join(found.demotions)}"
    return [f"{name:<9}{text}" for name, text in facts.items()]
