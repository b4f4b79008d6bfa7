"""The wheel, built from this tree and installed far from it with nothing but what it requires."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from gemmtune._data import data_path

ROOT = Path(__file__).parents[1]
REQUIRED = ("jinja2", "markupsafe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """An environment of its own with the wheel in it."""

    bin: Path
    home: Path

    def run(self, command: str, *args: str) -> subprocess.CompletedProcess[str]:
        """``command`` of the environment, in a folder outside the checkout and without it."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        env |= {"HOME": str(self.home), "XDG_DATA_HOME": str(self.home / "data")}
        env.pop("GEMMTUNE_DB", None)
        return subprocess.run(
            [self.bin / command, *args], capture_output=True, text=True, cwd=self.home, env=env
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("gemmtune-*.whl")
    return file


@pytest.fixture(scope="module")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """The wheel and, linked in so that no network is needed, what it requires."""
    home = tmp_path_factory.mktemp("elsewhere")
    venv.create(home / "venv", with_pip=False, symlinks=os.name != "nt")
    folder = home / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "python"), "install"]
    pip += ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    (site,) = (home / "venv").rglob("site-packages")
    for name in REQUIRED:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        (site / name).symlink_to(Path(spec.origin).parent, target_is_directory=True)
    return Install(bin=folder, home=home)


def test_the_wheel_has_every_template_the_database_and_the_marker_of_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    templates = data_path("templates")
    wanted = {f"gemmtune/templates/{p.relative_to(templates)}" for p in templates.rglob("*.*")}

    wanted |= {f"gemmtune/js/gemmtune.{ending}" for ending in ("js", "d.ts")}
    wanted |= {"gemmtune/export/document.schema.json"}

    assert wanted | {"gemmtune/tuning.db", "gemmtune/py.typed"} <= names


def test_the_wheel_has_nothing_of_the_checkout_besides(wheel: Path) -> None:
    roots = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert {root.split("-")[0] for root in roots} == {"gemmtune"}


def test_an_installed_gemmtune_uses_its_own_files(install: Install) -> None:
    code = "from gemmtune._data import data_path as p; print(p('templates')); print(p('tuning.db'))"
    run = install.run("python", "-c", code)

    assert run.stderr == ""
    for line in run.stdout.splitlines():
        assert Path(line).exists()
        assert install.home in Path(line).parents
        assert ROOT not in Path(line).parents


def test_an_installed_gemmtune_shows_its_help(install: Install) -> None:
    run = install.run("gemmtune", "--help")

    assert run.returncode == 0
    assert "lookup" in run.stdout


def test_an_installed_gemmtune_looks_up_and_renders_without_the_tuning_extra(
    install: Install,
) -> None:
    run = install.run("gemmtune", "lookup", "512x512x512", "--dtype", "f32", "--wgsl")

    assert run.returncode == 0, run.stderr
    assert "@compute @workgroup_size(" in run.stdout


def test_tuning_without_the_extra_says_how_to_get_it(install: Install) -> None:
    run = install.run("gemmtune", "tune", "--shape", "64x64x64")

    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert "pip install 'gemmtune[tune]'" in run.stderr


def test_completion_without_the_extra_says_how_to_get_it(install: Install) -> None:
    run = install.run("gemmtune", "completion", "bash")

    assert run.returncode == 1
    assert "pip install 'gemmtune[tune]'" in run.stderr
