"""The architecture rules as functions of source text, so that they can also be tested on invented sources."""
import ast
import sys
from collections.abc import Mapping
from pathlib import Path

# Packages that each package may import. The middle layer may import each other; cycles are checked separately.
# Packages used only by scripts (the app, data preparation, benchmarks) are at the top: nothing imports them.
_MIDDLE = {"options", "training", "evaluation", "storage", "data", "visualization"}
_BELOW = {"models", "motion", "utils"}
ALLOWED = {
    "motion": {"motion"},
    "utils": {"utils"},
    "models": _BELOW,
    **dict.fromkeys(_MIDDLE, _MIDDLE | _BELOW),
    "serving": _MIDDLE | _BELOW | {"serving"},
    "prepare": _MIDDLE | _BELOW | {"prepare"},
    "benchmarks": _MIDDLE | _BELOW | {"benchmarks"},
}
LIBRARIES = {"motion": {"numpy", "scipy", "torch"}}  # the only libraries that these packages may import

Sources = Mapping[str, str]  # dotted module name -> source text; a name without a dot is a script at the root


def read_house(root: Path) -> dict[str, str]:
    """Sources of all packages and scripts of the project at ``root``; a package's name refers to its __init__."""
    sources = {}
    for path in [*root.glob("*.py"), *(path for package in ALLOWED for path in (root / package).rglob("*.py"))]:
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources[name if len(parts) > 1 else parts[0]] = path.read_text(encoding="utf-8")
    return sources


def imported_modules(module: str, sources: Sources) -> set[str]:
    """Dotted names that ``module`` imports, wherever in its text. House modules are named to the module, not the name
    that is taken from it."""
    found = set()
    for node in ast.walk(ast.parse(sources[module])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node, sources)
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in sources else base for alias in node.names}
    return found


def _absolute(module: str, node: ast.ImportFrom, sources: Sources) -> str:
    if not node.level:
        return node.module or ""
    is_package = any(name.startswith(f"{module}.") for name in sources)
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, node.module] if node.module else parts)


def broken_directions(sources: Sources) -> list[str]:
    """One sentence per import that goes upwards, imports a script, or a library that the package must not use."""
    scripts = {name for name in sources if name not in ALLOWED and "." not in name}
    broken = []
    for module in sources:
        package = module.split(".")[0]
        for target in sorted(imported_modules(module, sources)):
            top = target.split(".")[0]
            if top in scripts:
                broken.append(f"{module} imports the script {top}")
            elif top in ALLOWED and package in ALLOWED and top not in ALLOWED[package]:
                broken.append(f"{module} imports {target}")
            elif package in LIBRARIES and not _is_known(top, package):
                broken.append(f"{module} imports the library {top}")
    return broken


def _is_known(top: str, package: str) -> bool:
    return top in ALLOWED or top in sys.stdlib_module_names or top in LIBRARIES[package]


def find_circle(graph: Mapping[str, set[str]]) -> list[str] | None:
    """A cycle of a graph (node -> targets), with the first node repeated at the end; None if there is none."""
    done: set[str] = set()

    def search(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node):], node]
        if node in done:
            return None
        circles = (search(target, [*path, node]) for target in sorted(graph.get(node, ())))
        circle = next(filter(None, circles), None)
        done.add(node)
        return circle

    return next(filter(None, (search(node, []) for node in sorted(graph))), None)


def module_graph(sources: Sources) -> dict[str, set[str]]:
    """House modules that each house module imports."""
    return {module: {target for target in imported_modules(module, sources) if target in sources} - {module}
            for module in sources}


def package_graph(sources: Sources) -> dict[str, set[str]]:
    """House packages that each house package imports."""
    graph: dict[str, set[str]] = {}
    for module in sources:
        package = module.split(".")[0]
        tops = {target.split(".")[0] for target in imported_modules(module, sources)}
        graph.setdefault(package, set()).update(tops & ALLOWED.keys() - {package})
    return graph


def unsafe_loads(source: str) -> list[int]:
    """Lines that call ``torch.load`` without ``weights_only=True``."""
    return [node.lineno for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
            and not any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)]
