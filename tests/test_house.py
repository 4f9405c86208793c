"""The structure of the package: which part may import which, and what no part does.

The imports are read from the source, so that those inside functions count too.
"""

import ast
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import sklearn_ccx

ROOT = Path(__file__).parents[1]
PACKAGE = Path(sklearn_ccx.__file__).parent

# From the roof to the ground. A part imports from lower floors and from itself, never
# from its neighbours or from above. The engine is on the ground: it knows neither the
# checks nor scikit-learn.
FLOORS = [
    {"__init__"},
    {"plotting"},
    {"inspection", "model_selection", "datasets", "persistence"},
    {"clustering", "sleepers", "proofs"},
    {"interactions"},
    {"pretrained"},
    {"coders"},
    {"lm"},
    {"activations", "callbacks", "networks"},
    {"_storage"},
    {"_engine", "_validation", "_sklearn_compat", "_version"},
]
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}


class Import(NamedTuple):
    """One name that a module imports, with the module it comes from."""

    where: str  # file and line
    importer: str
    module: str
    name: str | None

    def __str__(self):
        name = "" if self.name is None else f"{self.name} from "
        return f"{self.where}: imports {name}{self.module}"


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def read_imports(importer, path, source=None):
    """Every import of a module, relative ones made absolute."""
    source = path.read_text(encoding="utf-8") if source is None else source
    folder = importer.split(".")
    if path.name != "__init__.py":
        folder = folder[:-1]
    for node in ast.walk(ast.parse(source)):
        where = f"{path.relative_to(PACKAGE.parent)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(where, importer, alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                if f"{module}.{alias.name}" in SOURCES:
                    yield Import(where, importer, f"{module}.{alias.name}", None)
                else:
                    yield Import(where, importer, module, alias.name)


def part_of(module):
    return module.split(".")[1] if "." in module else "__init__"


def goes_upward(found):
    importer, imported = part_of(found.importer), part_of(found.module)
    return importer != imported and FLOOR_OF[importer] >= FLOOR_OF[imported]


def is_private_scikit_learn(found):
    names = [*found.module.split("."), found.name or ""]
    return names[0] == "sklearn" and any(name.startswith("_") for name in names)


IMPORTS = [
    found for name, path in SOURCES.items() for found in read_imports(name, path)
]
INTERNAL = [found for found in IMPORTS if found.module in SOURCES]
FOREIGN = [found for found in IMPORTS if found.module not in SOURCES]


def as_lines(found):
    return "\n".join(map(str, found))


def test_every_part_has_a_floor():
    assert {part_of(module) for module in SOURCES} == set(FLOOR_OF)


def test_imports_go_downward_only():
    upward = [found for found in INTERNAL if goes_upward(found)]
    assert not upward, as_lines(upward)


def test_modules_import_each_other_in_no_circle():
    graph = {module: set() for module in SOURCES}
    for found in INTERNAL:
        graph[found.importer].add(found.module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_engine_does_not_know_scikit_learn():
    used = [
        found
        for found in FOREIGN
        if part_of(found.importer) == "_engine"
        and found.module.split(".")[0] == "sklearn"
    ]
    assert not used, as_lines(used)


def test_private_api_of_scikit_learn_is_used_in_one_module():
    used = [
        found
        for found in FOREIGN
        if is_private_scikit_learn(found)
        and part_of(found.importer) != "_sklearn_compat"
    ]
    assert not used, as_lines(used)


def test_one_module_knows_of_other_processes():
    """All others are given a ``Processes`` and need not ask."""
    users = {
        found.importer
        for found in FOREIGN
        if "distributed" in [*found.module.split("."), found.name]
    }
    assert users == {"sklearn_ccx._engine._processes"}


def test_no_import_is_for_the_type_checker_only():
    hidden = [
        str(path.relative_to(PACKAGE.parent))
        for path in SOURCES.values()
        if "TYPE_CHECKING" in path.read_text(encoding="utf-8")
    ]
    assert not hidden


def test_modules_are_named_after_their_subject():
    shapeless = {"utils", "util", "helpers", "misc", "common"}
    found = [name for name in SOURCES if name.split(".")[-1].strip("_") in shapeless]
    assert not found


def test_oldest_versions_tested_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {}
    for line in project["dependencies"] + project["optional-dependencies"]["test-core"]:
        requirement = Requirement(line)
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        bounds[requirement.name] = Version(bound.version)
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    tested = {name: Version(pins[name]) for name in bounds}
    assert tested == bounds


@pytest.mark.parametrize(
    ("source", "module", "name"),
    [
        ("from .._validation import as_array", "sklearn_ccx._validation", "as_array"),
        ("from .. import _validation", "sklearn_ccx._validation", None),
        ("from .. import certify", "sklearn_ccx", "certify"),
        ("from . import certify", "sklearn_ccx.proofs", "certify"),
        ("import sklearn_ccx.coders", "sklearn_ccx.coders", None),
        ("def f():\n    import sklearn.base", "sklearn.base", None),
    ],
)
def test_imports_are_read_as_python_does(source, module, name):
    path = PACKAGE / "proofs" / "_any.py"
    (found,) = read_imports("sklearn_ccx.proofs._any", path, source)
    assert (found.module, found.name) == (module, name)


@pytest.mark.parametrize(
    ("importer", "module", "upward"),
    [
        ("sklearn_ccx.coders._base", "sklearn_ccx._engine", False),
        ("sklearn_ccx.coders._base", "sklearn_ccx.coders._inside", False),
        ("sklearn_ccx.coders._base", "sklearn_ccx.interactions", True),
        ("sklearn_ccx.sleepers._score", "sklearn_ccx.clustering", True),
        ("sklearn_ccx.coders._base", "sklearn_ccx", True),
        ("sklearn_ccx._engine._fit", "sklearn_ccx._validation", True),
    ],
)
def test_upward_imports_are_seen(importer, module, upward):
    assert goes_upward(Import("", importer, module, None)) == upward
