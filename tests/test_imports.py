"""Which package may import which: filtering <- inference <- train <- memsieve. No circles, no training in filtering."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ["filtering", "inference", "train", "memsieve"]
"""Each package may import itself and those before it."""
BANNED = {"filtering": {"accelerate", "deepspeed", "wandb"}}
"""The signal and the decision must be usable without the training stack."""


def imported_names(source: str, package: str) -> list[tuple[int, str]]:
    """Line and dotted name of everything that ``source``, a module inside ``package``, imports, at any depth of it."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            found.append((node.lineno, base))
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if called in {"import_module", "__import__"} and isinstance(first, ast.Constant):
                found.append((node.lineno, str(first.value)))
    return found


def violations(source: str, package: str) -> list[str]:
    """What is wrong with the imports of ``source``, a module inside the dotted ``package``."""
    top = package_of(package)
    later = set(ORDER[ORDER.index(top) + 1 :])
    banned = BANNED.get(top, set())
    wrong = []
    for line, name in imported_names(source, package):
        root = name.split(".")[0]
        if root in ORDER[:-1]:
            wrong.append(f"line {line}: {name} is somebody else's name; ours is memsieve.{name}")
        elif root == "memsieve" and package_of(name) in later:
            wrong.append(f"line {line}: {top} must not import {name}; the order is {' <- '.join(ORDER)}")
        elif root in banned:
            wrong.append(f"line {line}: {top} must not import {name}")
        elif root in {"tests", "scripts", "benchmarks"}:
            wrong.append(f"line {line}: {top} must not import {name}; it is no part of the package")
    return wrong


def package_of(name: str) -> str:
    """Which of ``ORDER`` a dotted name below memsieve belongs to."""
    second = name.split(".")[1] if "." in name else ""
    return second if second in ORDER else "memsieve"


@pytest.mark.parametrize("package", ORDER)
def test_package_imports_only_what_it_may(package: str) -> None:
    files = sorted(file for file in (ROOT / package).rglob("*.py") if file.resolve() == file)
    assert len(files) > 0, f"no module found in {package}/"
    wrong = []
    for file in files:
        inside = ".".join(file.parent.relative_to(ROOT).parts)
        inside = inside if package == "memsieve" else f"memsieve.{inside}"
        wrong += [f"{file.relative_to(ROOT)} {w}" for w in violations(file.read_text(encoding="utf-8"), inside)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("memsieve.filtering", "import train"),
        ("memsieve.filtering", "from filtering.settings import Settings"),
        ("memsieve.filtering", "import torch, memsieve.cli as cli"),
        ("memsieve.filtering", "from memsieve import MemorizationFilter"),
        ("memsieve.filtering", "from memsieve.inference.report import thing"),
        ("memsieve.filtering.data", "def later():\n    from wandb import log"),
        ("memsieve.filtering.data", "if True:\n    import accelerate.utils"),
        ("memsieve.filtering", "try:\n    import deepspeed\nexcept ImportError:\n    pass"),
        ("memsieve.filtering", "import importlib\nimportlib.import_module('memsieve.train.fit')"),
        ("memsieve.inference", "from memsieve.train.fit import fit"),
        ("memsieve.train", "import memsieve"),
        ("memsieve", "from tests import helpers"),
        ("memsieve.train", "from benchmarks.common import ROOT"),
    ],
)
def test_forbidden_imports_are_seen(package: str, source: str) -> None:
    assert len(violations(source, package)) == 1


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("memsieve.filtering", "import torch\nimport memsieve.filtering.settings"),
        ("memsieve.filtering.data", "from . import rows\nfrom ..settings import Settings\nfrom .. import train"),
        ("memsieve.filtering", "import trainer, training.loop, memsieves"),
        (
            "memsieve.train",
            "import accelerate, wandb\nfrom memsieve.filtering import data\nimport memsieve.inference.x",
        ),
        ("memsieve", "from memsieve.train import fit\nimport memsieve.filtering\nfrom memsieve import __version__"),
        ("memsieve.filtering", "text = 'import train'"),
    ],
)
def test_allowed_imports_pass(package: str, source: str) -> None:
    assert violations(source, package) == []


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """What runs, or is read by a type checker, when a module is imported: all of it but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from executed(child)


def needed(source: str, package: str, known: Mapping[str, str]) -> set[str]:
    """The modules of ``known`` that ``source``, a module inside the dotted ``package``, imports at module level."""
    found: set[str] = set()
    for node in executed(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            ((_, base),) = imported_names(ast.unparse(node), package)
            named = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in known else base for name in named}
    return found & set(known)


def circle(sources: Mapping[str, str], packages: set[str]) -> list[str]:
    """A circle among modules, each importing the one before it; empty where there is none.

    ``sources`` are the modules by their dotted names, ``packages`` those of them that are an ``__init__.py``.
    """
    graph = {
        name: set(needed(source, name if name in packages else name.rpartition(".")[0], sources))
        for name, source in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other() -> None:
    sources, packages = {}, set()
    for package in ORDER:
        for file in sorted(file for file in (ROOT / package).rglob("*.py") if file.resolve() == file):
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts if package == "memsieve" else ("memsieve", *parts))
            if file.name == "__init__.py":
                name = name.removesuffix(".__init__")
                packages.add(name)
            sources[name] = file.read_text(encoding="utf-8")
    assert len(sources) > 100 and {f"memsieve.{package}" for package in ORDER[:-1]} <= packages
    found = circle(sources, packages)
    assert not found, f"a circle: {' <- '.join(found)}"


CIRCLES = {
    "two": {"m.a": "from m.b import x", "m.b": "import m.a"},
    "for types": {"m.a": "if TYPE_CHECKING:\n    from m.b import X", "m.b": "from m.a import Y"},
    "relative": {"m.a": "from . import b", "m.b": "from .a import x"},
    "through a package": {"m": "from m.a import x", "m.a": "from m import y"},
    "three": {
        "m.a": "from m.b import x",
        "m.b": "try:\n    import m.c\nexcept ImportError:\n    pass",
        "m.c": "import m.a",
    },
    "in a class": {"m.a": "class A:\n    from m.b import x", "m.b": "import m.a"},
}


@pytest.mark.parametrize("name", CIRCLES)
def test_circles_are_seen(name: str) -> None:
    assert len(circle({"m.z": "import m.a", **CIRCLES[name]}, {"m"})) > 2


def test_what_is_no_circle() -> None:
    later = {"m.a": "from m.b import x", "m.b": "def late():\n    from m.a import y", "m.c": "from m import a, b"}
    assert circle({"m": "import os", **later}, {"m"}) == []


FOLDERS = {
    "": {"evidence", "rules"},
    "evidence": set(),
    "rules": {"evidence"},
    "denoisers": set(),
    "identity": {"data"},
    "data": set(),
    "audit": {"evidence", "data", "denoisers", "identity"},
    "in_loop": {"evidence", "data", "denoisers"},
}
"""Which folders of filtering/ each of them may import, besides itself; "" stands for the files at its top. What decides
knows neither data nor models, data and models know nothing of each other, and audits, and the filter in another loop,
are known to none of them."""


def strays(source: str, folder: str) -> list[str]:
    """What ``source``, a module in ``folder`` of filtering/, imports from folders that it must not know."""
    package = ".".join(["memsieve", "filtering", *([folder] if folder else [])])
    inside = "memsieve.filtering."
    names = [(line, name.removeprefix(inside)) for line, name in imported_names(source, package) if inside in name]
    taken = [(line, name, name.split(".")[0]) for line, name in names]
    known = FOLDERS[folder] | {folder}
    return [f"line {line}: {name}" for line, name, first in taken if first in FOLDERS and first not in known]


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_of_filtering_import_only_what_they_may(folder: str) -> None:
    place = ROOT / "filtering" / folder
    files = sorted(place.rglob("*.py") if folder else place.glob("*.py"))
    assert len(files) > 0, f"no module found in {place}"
    wrong = [f"{file.relative_to(ROOT)} {stray}" for file in files for stray in strays(file.read_text("utf-8"), folder)]
    assert not wrong, "\n".join(wrong)


def test_every_folder_of_filtering_has_its_place_in_the_order() -> None:
    assert {file.parent.name for file in (ROOT / "filtering").glob("*/__init__.py")} == FOLDERS.keys() - {""}


def test_a_stray_import_inside_filtering_is_seen() -> None:
    assert strays("from memsieve.filtering.audit.table import Scores", "data") == ["line 1: audit.table"]
    assert strays("def later():\n    from ..data import rows", "denoisers") == ["line 2: data"]
    assert strays("import memsieve.filtering.data.rows", "") == ["line 1: data.rows"]
    assert strays("from memsieve.filtering.data.rows import Row\nfrom memsieve.filtering.files import x", "data") == []
