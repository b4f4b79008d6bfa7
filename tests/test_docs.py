"""Help and README against the commands and options that there really are."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import gemmtune
from gemmtune.cli.app import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Every parser at or below ``parser``."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from commands(child)


PARSERS = list(commands(build_parser()))
GROUPS = {"gemmtune", "gemmtune db", "gemmtune landscape"}
"""Those that do nothing by themselves."""


def examples(parser: argparse.ArgumentParser) -> list[str]:
    found = re.search(r"examples:\n((?:  .*\n)+)", parser.epilog or "")
    return [line.strip() for line in found[1].splitlines()] if found else []


def parse(line: str) -> argparse.Namespace:
    """The arguments of a line as one types it in a shell; redirections and the rest are cut."""
    inside = re.search(r"\$\((.*)\)", line)
    words = shlex.split(inside[1] if inside else line)
    ends = [i for i, word in enumerate(words) if word in (">", "|", "&&")]
    words = words[: ends[0]] if ends else words
    assert words.pop(0) == "gemmtune"
    return build_parser().parse_args(words)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.prog)
def test_every_command_has_help_with_examples_that_parse(parser: argparse.ArgumentParser) -> None:
    assert parser.description
    assert examples(parser)
    for line in examples(parser):
        parse(line)
        assert parser.prog in line


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.prog)
def test_every_option_says_what_it_does(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        assert action.help or action.dest in ("command", "db", "landscape"), action


@pytest.mark.parametrize("prog", [parser.prog for parser in PARSERS if parser.prog not in GROUPS])
def test_every_command_is_in_the_readme(prog: str) -> None:
    assert f"`{prog}`" in README


def test_commands_in_the_readme_parse() -> None:
    lines = [line.strip() for line in README.splitlines() if line.startswith("gemmtune ")]

    assert lines
    for line in lines:
        parse(line)


def test_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("GEMMTUNE_DB", raising=False)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)

    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_make_targets_of_the_documents_exist_and_help_lists_all() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))
    listed = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, flags=re.MULTILINE))
    named = set(
        re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", README + CONTRIBUTING, re.MULTILINE)
    )

    assert targets == listed
    assert {first or second for first, second in named} <= targets


def test_links_between_documents_lead_somewhere() -> None:
    for text in (README, CONTRIBUTING, CHANGELOG):
        for target in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (ROOT / target).exists(), target


def test_contributing_fits_one_screen() -> None:
    assert len(CONTRIBUTING.splitlines()) <= 50


def test_the_changelog_speaks_of_this_version_or_of_what_is_unreleased() -> None:
    headings = re.findall(r"^## \[(.+?)\]", CHANGELOG, flags=re.MULTILINE)

    assert headings[0] == "Unreleased" or headings[0] == gemmtune.__version__


def test_the_names_that_applications_use_are_in_the_readme() -> None:
    for name in ("Gemm", "lookup"):
        assert f"gemmtune.{name}(" in README
