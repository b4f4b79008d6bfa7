"""House rules that a machine can check: layers, homes of libraries, sizes, values, templates."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
import types
from functools import cache
from pathlib import Path

import jinja2
import jinja2.meta
import jinja2.nodes
import pytest

import gemmtune
from gemmtune import Device, Gemm
from gemmtune._data import data_path
from gemmtune.kernels import FAMILIES

SOURCE = Path(gemmtune.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted(Path(__file__).parent.rglob("*.py"))
TEMPLATES = sorted(data_path("templates").rglob("*.j2"))

LAYERS = [
    {"errors", "_data", "light", "literals"},
    {"problem", "device", "dialect"},
    {"kernels"},
    {"generators"},
    {"forest", "job", "render", "reference", "shapes", "ties", "validity"},
    {"probes", "schema", "unlock", "landscape"},
    {"lookup", "store", "executors", "kerneltuner"},
    {"search", "progress", "export", "gpu"},
    {"tune"},
    {"cli"},
    {"__init__", "__main__"},
]
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}

# Where each heavy library may be imported; a folder or a module, without ".py".
HOMES = {
    "wgpu": ("executors", "gpu"),
    "optuna": ("search",),
    "sqlalchemy": ("store",),
    "jinja2": ("render",),
    "lief": ("unlock",),
    "rich": ("progress", "cli"),
    "shtab": ("cli",),
    "numpy": ("reference", "search", "executors", "gpu"),
}
STANDARD = {"gemmtune", *sys.stdlib_module_names}


def short(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix().removesuffix(".py")


def part(path: Path) -> str:
    """The first name below the package: what a layer is made of."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[tuple[str, int]]:
    """Every module imported anywhere in ``tree``, with its line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            module = node.module or ""
            # `from gemmtune import executors` imports gemmtune.executors.
            root = module == "gemmtune"
            found += [
                (f"gemmtune.{alias.name}" if root and alias.name in LEVEL else module, node.lineno)
                for alias in node.names
            ]
    return found


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_imports_point_down_the_layers(path: Path) -> None:
    here = part(path)
    for name, line in imports(parse(path)):
        root, _, rest = name.partition(".")
        if root != "gemmtune":
            continue
        target = rest.split(".")[0]
        if not target:
            # The package itself is the top: only its version may be asked for, and only late.
            names = {
                alias.name
                for node in ast.walk(parse(path))
                if isinstance(node, ast.ImportFrom) and node.module == "gemmtune"
                for alias in node.names
            }
            assert names <= {"__version__", *LEVEL}, f"line {line} imports the package's root"
            continue
        assert target == here or LEVEL[target] < LEVEL[here], f"line {line} imports {name} upwards"


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_heavy_libraries_are_imported_only_at_home(path: Path) -> None:
    for name, line in imports(parse(path)):
        root = name.split(".")[0]
        if root not in STANDARD:
            assert root in HOMES, f"line {line} imports {root}, which has no home"
            assert part(path) in HOMES[root], f"line {line} imports {root} outside {HOMES[root]}"


def modules_of(statement: str) -> set[str]:
    """What a fresh interpreter loads for ``statement``."""
    code = f"import sys\nbefore = set(sys.modules)\n{statement}\n"
    code += "print(*sorted(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def loaded_by(statement: str) -> set[str]:
    """Roots of what a fresh interpreter has loaded after ``statement``, gemmtune's own left out."""
    return {name.partition(".")[0] for name in modules_of(statement)} - STANDARD


@pytest.mark.parametrize(
    "statement",
    [
        "import gemmtune",
        "import gemmtune.lookup",
        "from gemmtune import Gemm, lookup; lookup(Gemm(m=64, n=64, k=64))",
        "import gemmtune.cli",
        "import gemmtune.gpu",
    ],
)
def test_the_light_half_loads_the_standard_library_only(statement: str) -> None:
    assert loaded_by(statement) == set()


def test_a_lookup_loads_only_what_it_needs() -> None:
    gemm = "Gemm(m=1000, n=1000, k=1000)"
    key = "vulkan/10de-2330/nvidia-h100-80gb-hbm3/580.159.04"
    database = str(data_path("tuning.db"))
    loaded = modules_of(
        f"from gemmtune import Gemm, lookup\nassert lookup({gemm}, {key!r}, path={database!r})"
    )

    assert {"gemmtune.lookup.candidates", "gemmtune.kernels.tiled"} <= loaded
    unneeded = {"dialect", "render", "lookup.recording", "kernels.coopmat", "kernels.coopmat_f16x3"}
    slow = {"dataclasses", "hashlib", "json", "pathlib", "re", "threading", "typing"}
    assert not loaded & {*slow, *(f"gemmtune.{name}" for name in unneeded)}


def test_all_lists_exactly_what_is_public() -> None:
    visible = {
        name
        for name, value in vars(gemmtune).items()
        if not name.startswith("_")
        and name != "annotations"
        and not isinstance(value, types.ModuleType)
    }

    assert set(gemmtune.__all__) - {"__version__"} == visible
    assert list(gemmtune.__all__) == sorted(gemmtune.__all__)


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_modules_and_functions_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{lines} lines; split the module"
    if path.name == "__init__.py":
        assert lines <= 120, f"{lines} lines; an __init__ re-exports"
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1
            assert length <= 40, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(parse(path)), "no module docstring"


@pytest.mark.parametrize("path", [*MODULES, *TESTS, *TEMPLATES], ids=lambda path: path.name)
def test_nothing_is_left_for_later(path: Path) -> None:
    words = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error"))
    found = re.search(rf"\b({words})\b", path.read_text(encoding="utf-8"))
    assert found is None, f"{found} in {path.name}"


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_dataclasses_are_frozen_slotted_and_keyword_only(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if not isinstance(node, ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            if "dataclass" not in ast.unparse(decorator):
                continue
            flags = (
                {word.arg for word in decorator.keywords if ast.unparse(word.value) == "True"}
                if isinstance(decorator, ast.Call)
                else set()
            )
            assert {"frozen", "slots", "kw_only"} <= flags, f"{node.name} in line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_exceptions_are_caught_by_name(path: Path) -> None:
    if short(path) in ("cli/app", "executors/worker"):
        return  # the two places where anything at all may arrive
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in ("Exception", "BaseException", "everything"), (
                f"line {node.lineno} catches {caught}"
            )


def inputs_of(template: str) -> set[str]:
    """The variables that ``template`` and what it imports or includes expect."""
    environment = jinja2.Environment(extensions=["jinja2.ext.do"])
    source = (data_path("templates") / template).read_text(encoding="utf-8")
    tree = environment.parse(source)
    # A name that a macro sets for itself is reported as undeclared too.
    set_within = {n.name for n in tree.find_all(jinja2.nodes.Name) if n.ctx != "load"}
    found = set(jinja2.meta.find_undeclared_variables(tree)) - set_within
    for other in jinja2.meta.find_referenced_templates(tree):
        assert other is not None, "templates are named by constants"
        found |= inputs_of(other)
    return found


def text_of(template: str) -> str:
    """The template with all that it imports or includes."""
    source = (data_path("templates") / template).read_text(encoding="utf-8")
    tree = jinja2.Environment(extensions=["jinja2.ext.do"]).parse(source)
    others = sorted(filter(None, jinja2.meta.find_referenced_templates(tree)))
    return "\n".join([source, *map(text_of, others)])


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_templates_use_only_what_their_family_gives(name: str) -> None:
    family = FAMILIES[name]
    gemm = Gemm(m=128, n=128, k=128)
    device = Device(features=("subgroup",), subgroup_size=32)
    fields = {field.name for field in dataclasses.fields(family.config)}
    config = family.default(gemm, device)
    given = (
        {"family", "gemm", "config", "directives", "mma"}
        | fields
        | set(family.variables(config, gemm, device))
    )

    assert inputs_of(family.template) <= given


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_field_of_a_config_changes_something(name: str) -> None:
    family = FAMILIES[name]
    template = text_of(family.template)
    homes = {cls.__module__ for cls in family.config.__mro__ if dataclasses.is_dataclass(cls)}
    module = "".join(inspect.getsource(sys.modules[home]) for home in sorted(homes))
    for field in dataclasses.fields(family.config):
        in_template = re.search(rf"\b{field.name}\b", template)
        in_module = re.search(rf"\b(config|self|c)\.{field.name}\b", module)
        assert in_template or in_module, f"{field.name} is never read"


def test_every_template_is_used() -> None:
    used = {family.template for family in FAMILIES.values()}
    files = {path.name for path in data_path("templates").glob("*.j2")}

    assert files == used


def test_units_are_in_the_names_of_times() -> None:
    bare = {"time", "timeout", "duration", "elapsed", "seconds"}
    for path in MODULES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef):
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        assert field.target.id not in bare, f"{short(path)}: {field.target.id}"
