"""Imports go downward only, files stay small: read from the syntax trees, nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "esembed"

# The layers, lowest first. A module imports from its own layer and from those below.
# The longest matching prefix counts.
LAYERS: list[tuple[str, ...]] = [
    ("esembed._version", "esembed.errors", "esembed.types"),
    ("esembed.capabilities", "esembed.encode.base", "esembed.encode.tokens"),
    ("esembed.query", "esembed.plan", "esembed.fusion", "esembed.transport"),
    ("esembed.presets", "esembed.profiles"),
    ("esembed.dialect",),
    ("esembed.encode", "esembed.ingest"),
    ("esembed._async", "esembed._sync"),
    ("esembed",),  # the package itself: it only names what is public
    ("esembed.engine", "esembed.evaluate", "esembed.advise", "esembed.train", "esembed.serve"),
    ("esembed.demo",),
    ("esembed.bench", "esembed.cli"),  # measurements are verbs of the command line
]

# ``query.to_body`` and a few conveniences reach up on purpose, inside a function.
ALLOWED_UPWARD = {
    # (importing module, imported module)
    ("esembed.search.compile", "esembed.encode.lexical.encoder"),
}

GOOD_LINES, MAX_LINES = 500, 750
"""About 400 is good; beyond the second a file has become two."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        yield ".".join(parts), path


def layer(module: str) -> int:
    best, found = -1, ""
    for number, prefixes in enumerate(LAYERS):
        for prefix in prefixes:
            exact = module == prefix or (module.startswith(prefix + ".") and prefix != "esembed")
            if exact and len(prefix) > len(found):
                best, found = number, prefix
    return best


def top_level_imports(path: Path, module: str) -> Iterator[tuple[str, int]]:
    """Modules of ours that are imported when *path* is, with their lines; type-checking blocks don't run."""
    is_package = path.name == "__init__.py"
    package = module if is_package else module.rpartition(".")[0]
    names = {name for name, _ in modules()}

    def visit(body: list[ast.stmt]) -> Iterator[tuple[str, int]]:
        for node in body:
            if isinstance(node, ast.If):
                if "TYPE_CHECKING" not in ast.unparse(node.test):
                    yield from visit(node.body)
                yield from visit(node.orelse)
            elif isinstance(node, ast.Try):
                yield from visit([*node.body, *node.orelse, *node.finalbody])
                for handler in node.handlers:
                    yield from visit(handler.body)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] == "esembed":
                        yield alias.name, node.lineno
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    up = package.split(".")[: len(package.split(".")) - node.level + 1]
                    base = ".".join([*up, *([base] if base else [])])
                if base.split(".")[0] != "esembed":
                    continue
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    yield (full if full in names else base), node.lineno

    yield from visit(ast.parse(path.read_text(encoding="utf-8")).body)


def test_every_module_has_a_layer() -> None:
    assert [name for name, _ in modules() if layer(name) < 0] == []


@pytest.mark.parametrize(("module", "path"), [pytest.param(*m, id=m[0]) for m in modules()])
def test_imports_go_downward(module: str, path: Path) -> None:
    upward = [
        f"line {line}: {imported}"
        for imported, line in top_level_imports(path, module)
        if layer(imported) > layer(module) and (module, imported) not in ALLOWED_UPWARD
    ]
    assert upward == [], f"{module} imports from a higher layer"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: {target for target, _ in top_level_imports(path, name)} for name, path in modules()}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "a circle: " + " → ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        for target in graph.get(name, ()):
            # A package's own file names its modules' contents; going through it is no circle of theirs.
            if target != name and not name.startswith(target + "."):
                walk(target, (*trail, name))
        done.add(name)

    for name in graph:
        walk(name, ())


def test_files_stay_small() -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for _, path in modules()}
    for path, lines in sizes.items():
        if lines > GOOD_LINES:
            print(f"getting long: {path.relative_to(ROOT)} has {lines} lines")
    assert [str(path.relative_to(ROOT)) for path, lines in sizes.items() if lines > MAX_LINES] == []


def test_sync_is_not_written_by_hand() -> None:
    for path in (PACKAGE / "_sync").glob("*.py"):
        if path.name not in ("__init__.py", "_shim.py"):
            assert path.read_text(encoding="utf-8").startswith("# Generated from"), path.name
            assert (PACKAGE / "_async" / path.name).exists(), path.name
