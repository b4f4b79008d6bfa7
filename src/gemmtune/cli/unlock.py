"""``gemmtune unlock``: has wgpu-native grant the matrix units, in gemmtune's own processes."""

from __future__ import annotations

import argparse
import shlex

from gemmtune.cli.options import Commands, add_command, add_json
from gemmtune.cli.output import print_json
from gemmtune.unlock import VARIABLE, Status, remove, status, unlock

_RISK = """\
wgpu calls native matrices experimental: a driver may crash on them, or give wrong numbers.
gemmtune runs them in worker processes, which may die, and verifies every kernel's numbers."""


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "unlock",
        _run,
        "let wgpu-native use native matrices, through a patched copy of its library",
        examples=("gemmtune unlock", "gemmtune unlock --status", "gemmtune unlock --remove"),
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="say how things stand, change nothing")
    what.add_argument("--remove", action="store_true", help="delete the copy")
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    if args.remove:
        return _remove(args)
    if args.status:
        _print(args, status())
        return 0
    from gemmtune.executors import require_wgpu
    from gemmtune.executors.probe import check_library

    require_wgpu()
    _print(args, unlock(check=check_library))
    return 0


def _remove(args: argparse.Namespace) -> int:
    removed = [str(path) for path in remove()]
    if args.json:
        print_json({"removed": removed})
    else:
        print("\n".join(f"deleted {path}" for path in removed) or "there is no copy to delete")
    return 0


def _print(args: argparse.Namespace, found: Status) -> None:
    if args.json:
        print_json(found.to_json())
        return
    if not found.needed:
        print("not needed: this wgpu-native grants cooperative-matrix by itself")
        return
    print(f"library   {found.original or 'none: wgpu is not installed from a wheel'}")
    print(f"copy      {found.copy or 'none: `gemmtune unlock` makes it'}")
    if found.override:
        print(f"in use    {found.override}, because {VARIABLE} names it")
    if found.copy:
        print(f"\n{_RISK}")
        print("Processes of your own use the copy if they start with this in their environment:")
        print(f"{VARIABLE}={shlex.quote(str(found.copy))}")
