"""``gemmtune completion``: a script that completes the command's words in a shell."""

from __future__ import annotations

import argparse

from gemmtune.cli.options import Commands, add_command

SHELLS = ("bash", "zsh", "tcsh")


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "completion",
        _run,
        "print a shell completion script",
        examples=(
            'eval "$(gemmtune completion bash)"',
            "gemmtune completion zsh > ~/.zfunc/_gemmtune",
        ),
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def _run(args: argparse.Namespace) -> int:
    import shtab

    from gemmtune.cli.app import build_parser

    print(shtab.complete(build_parser(), args.shell))
    return 0
