"""Architecture rules: imports run downwards without circles."""
import ast
import sys
from graphlib import TopologicalSorter

import pytest

from tests.toy import ROOT

# Packages that each package may import. Those in MIDDLE may import each other, without circles.
# Nothing imports a script.
MIDDLE = {"options", "training", "evaluation", "storage", "data", "visualization"}
BELOW = {"models", "motion", "utils"}
ALLOWED = {"motion": {"motion"}, "utils": {"utils"}, "models": BELOW, **dict.fromkeys(MIDDLE, MIDDLE | BELOW),
           **{top: MIDDLE | BELOW | {top} for top in ("serving", "prepare", "benchmarks")}}
# The only exception: ``load``, the short cut for users, imports the packages that build a pipeline when it is called.
EXCEPTION = ("models.text_to_motion", {"storage.generation", "data.dataset"})
LIBRARIES = {"motion": {"numpy", "scipy", "torch"}}  # permitted libraries


def imported(tree: ast.Module, modules: dict[str, ast.Module]) -> set[str]:
    """Return the dotted names of the modules that a module imports, anywhere in its code."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, ast.unparse(node)
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in names}
    return found


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Imported modules of every module of all packages and scripts."""
    paths = [*ROOT.glob("*.py"), *(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"):
               ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    found = {name: imported(tree, modules) for name, tree in modules.items()}
    assert EXCEPTION[1] <= found[EXCEPTION[0]]
    return found | {EXCEPTION[0]: found[EXCEPTION[0]] - EXCEPTION[1]}


def test_imports_run_downwards_and_nothing_imports_a_script(graph: dict[str, set[str]]) -> None:
    scripts = {name for name in graph if name not in ALLOWED and "." not in name}
    assert len(scripts) > 10
    for module, targets in graph.items():
        package = module.split(".")[0]
        tops = {target.split(".")[0] for target in targets}
        assert not tops & scripts, module
        if package in ALLOWED:
            assert tops & ALLOWED.keys() <= ALLOWED[package], module
        if package in LIBRARIES:
            assert tops <= ALLOWED.keys() | LIBRARIES[package] | sys.stdlib_module_names, module


def test_modules_and_packages_have_no_circles(graph: dict[str, set[str]]) -> None:
    packages: dict[str, set[str]] = {}
    for module, targets in graph.items():
        package = module.split(".")[0]
        packages.setdefault(package, set()).update({target.split(".")[0] for target in targets} - {package})
    TopologicalSorter({module: targets - {module} for module, targets in graph.items()}).prepare()
    TopologicalSorter(packages).prepare()
