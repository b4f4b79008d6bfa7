"""``gemmtune devices``: the adapters of this machine and what each can really do."""

from __future__ import annotations

import argparse
from typing import Any

from gemmtune.cli.memory import memory
from gemmtune.cli.options import Commands, add_command, add_database, add_json
from gemmtune.cli.output import print_json, refused_matrices
from gemmtune.device import Device


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "devices",
        _run,
        "list the adapters of this machine and what each can do",
        examples=("gemmtune devices", "gemmtune devices --json", "gemmtune devices --probe"),
    )
    parser.add_argument(
        "--probe", action="store_true", help="probe anew what is remembered, e.g. after a failure"
    )
    add_database(parser, "database that remembers what was probed")
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    from gemmtune.executors import list_devices
    from gemmtune.executors.local.adapters import choose

    with memory(args.db, again=args.probe) as store:
        devices = list_devices(store)
    default = choose(devices)
    if args.json:
        print_json([_as_json(i, device, i == default) for i, device in enumerate(devices)])
        return 0
    for index, device in enumerate(devices):
        print("\n".join(_lines(index, device, index == default)))
    return 0


def _as_json(index: int, device: Device, default: bool) -> dict[str, Any]:
    facts = {"index": index, "key": device.key, "default": default}
    return device.to_json() | facts | {"software": device.software}


def _lines(index: int, device: Device, default: bool) -> list[str]:
    limits = device.limits
    kind = "software: right numbers, meaningless speed" if device.software else "hardware"
    subgroups = f"size {device.subgroup_size}" if device.subgroup_size else "no"
    facts = {
        "key": device.key,
        "kind": f"{device.adapter_type}, {kind}",
        "backend": f"{device.backend}, driver {device.driver}",
        "f16": _yes(device.has("shader-f16")),
        "subgroups": subgroups,
        "matrices": _matrices(device),
        **({"loads": _loads(device)} if device.fragments else {}),
        "timestamps": _yes(device.has("timestamp-query")),
        "workgroup": f"{limits.workgroup_storage_bytes} bytes of memory, "
        f"{limits.invocations_per_workgroup} invocations",
        "resident": _resident(device),
        "buffer": f"{limits.storage_binding_bytes} bytes in one binding",
    }
    mark = " (default)" if default else ""
    return [f"{index}: {device.name}{mark}", *(f"   {k:<11}{v}" for k, v in facts.items())]


def _matrices(device: Device) -> str:
    """The fragments, largest first, or why there are none."""
    if device.fragments:
        return ", ".join(
            f"{'x'.join([str(one.size)] * 3)} {one.ab} -> {one.acc}"
            for one in sorted(device.fragments, key=lambda one: (-one.size, one))
        )
    return f"none: {refused_matrices(device) or _no_matrices(device)}"


def _loads(device: Device) -> str:
    """How the fragments may be loaded: in one phrase where it is the same for all."""
    phrases: dict[str, list[str]] = {}
    for one in device.fragments:
        ways = ((one.workgroup, "workgroup"), (one.storage, "storage"))
        words = [f"{memory} memory by {_listed(widths)}" for widths, memory in ways if widths]
        name = f"{one.size} {one.ab} -> {one.acc}"
        phrases.setdefault(" and from ".join(words), []).append(name)
    if len(phrases) == 1:
        return f"from {next(iter(phrases))} elements"
    return "; ".join(
        f"{', '.join(names)}: from {words} elements" for words, names in phrases.items()
    )


def _listed(widths: tuple[int, ...]) -> str:
    *first, last = map(str, widths)
    return f"{', '.join(first)} or {last}" if first else last


def _resident(device: Device) -> str:
    """What the workgroups on a multiprocessor have together, or why it is not known."""
    if device.resident_workgroup_bytes:
        return f"{device.resident_workgroup_bytes} bytes of workgroup memory on a multiprocessor"
    if device.software:
        return "not asked: the speed of software says nothing of a multiprocessor"
    return "unknown: more workgroup memory made the probe's kernel no slower"


def _no_matrices(device: Device) -> str:
    if device.has("cooperative-matrix"):
        return "the driver offers them, and none that was probed gave right numbers"
    return "the driver does not offer cooperative-matrix"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
