"""What the syntax trees say about the structure: imports of any kind, floors, circles, private access.

Used by ``test_architecture.py``; ``python tests/unit/structure.py`` prints the figures of the whole tree.
Nothing of esembed is imported here.
"""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "esembed"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "types", "scalars", "credentials", "foreign", "json_input", "deprecation", "lazy", "_version"),
    (
        "plan",
        "query",
        "fusion",
        "capabilities",
        "transport",
        "answers",
        "bounded",
        "deadline",
        "option_checks",
        "report_page",
    ),
    ("dialect", "encode"),
    ("search", "ingest", "weights"),
    ("evaluate", "migration"),
    ("_async", "_sync"),
    (
        "advise",
        "demo",
        "local",
        "presets",
        "pytest_plugin",
        "terminal",
        "train",
        "serve",
        "explore",
        "distributed",
        "adapters",
    ),
    ("cli", "bench"),
)
"""Packages and modules by floor, lowest first. Imports go to lower floors, or stay in the package."""

BESIDE = {
    # Two packages of one floor never import each other, but for these.
    ("errors", "types"), ("types", "errors"), ("types", "deprecation"), ("types", "lazy"),
    ("credentials", "errors"), ("errors", "foreign"),
    ("plan", "query"), ("plan", "capabilities"), ("transport", "capabilities"), ("transport", "deadline"),
    ("pytest_plugin", "local"), ("demo", "local"),
    ("cli", "bench"),
}  # fmt: skip

DEPRECATED = {
    "esembed.evaluate.rerank",
    "esembed.evaluate.dataset",
    "esembed.encode.combined",
    "esembed.encode.inference",
    "esembed.ingest.deadletters",
    "esembed.ingest.read",
}
"""Old paths that only re-export."""


@dataclass(frozen=True)
class Import:
    """One import of ours: who, what, where; *when* is ``module``, ``function`` or ``types``."""

    importer: str
    imported: str
    line: int
    when: str
    names: tuple[str, ...] = ()


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the package by name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def top(module: str) -> str:
    """``esembed.dialect.query`` → ``dialect``; the package itself is the empty string."""
    return module.split(".")[1] if "." in module else ""


def floor(module: str) -> int:
    """The floor, or -1. The package itself only names what is public: it stands above ``_sync``."""
    name = top(module)
    if not name:
        return 5
    return next((number for number, names in enumerate(FLOORS) if name in names), -1)


@functools.cache
def imports(module: str) -> tuple[Import, ...]:
    """Every import of ours in a module: at its top, in functions, under TYPE_CHECKING."""
    path = modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[Import] = []

    def visit(node: ast.AST, when: str) -> None:
        if isinstance(node, ast.Import):
            found.extend(
                Import(module, alias.name, node.lineno, when)
                for alias in node.names
                if alias.name.split(".")[0] == "esembed"
            )
            return
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, *([base] if base else [])])
            if base.split(".")[0] == "esembed":
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    target = inner if inner in modules() else base
                    found.append(Import(module, target, node.lineno, when, (alias.name,)))
            return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and when == "module":
            when = "function"
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, "types")
            for child in node.orelse:
                visit(child, when)
            return
        for child in ast.iter_child_nodes(node):
            visit(child, when)

    visit(tree(module), "module")
    return tuple(found)


def written() -> list[str]:
    """The modules that people write: ``_sync`` is generated, old paths only re-export."""
    return [m for m in modules() if (top(m) != "_sync" or m.endswith("_shim")) and m not in DEPRECATED]


def upward(module: str) -> Iterator[str]:
    """Imports that the floors forbid."""
    if not top(module):
        return  # the package's lazy names
    for one in imports(module):
        here, there = top(module), top(one.imported)
        if here == there:
            continue
        if not there and one.names == ("__version__",):
            continue
        allowed = floor(one.imported) < floor(module) or (here, there) in BESIDE
        # The one lasting exception: async code hands its work in threads to the sync counterpart.
        if not allowed and (module, there) != ("esembed._async._shim", "_sync"):
            yield f"{module} -> {one.imported}"


def circles() -> list[list[str]]:
    """Groups of modules that import each other, by imports of any kind (Tarjan)."""
    graph = {
        name: sorted({i.imported for i in imports(name) if i.imported in modules()}) for name in modules()
    }
    # A package's own file names its modules' contents; going through it is no circle of theirs.
    graph = {
        name: [t for t in targets if t != name and not name.startswith(t + ".") and t != "esembed"]
        for name, targets in graph.items()
        if name != "esembed"
    }
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def walk(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in graph.get(name, ()):
            if target not in index:
                walk(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group: list[str] = []
            while True:
                group.append(stack.pop())
                if group[-1] == name:
                    break
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            walk(name)
    return sorted(found)


def private(module: str) -> Iterator[str]:
    """Underscore names of other modules: imported, or read from an object that isn't this module's."""
    body = tree(module)
    for one in imports(module):
        for name in one.names:
            hidden = name.startswith("_") and not name.startswith("__") and f"{one.imported}" not in modules()
            taken = (
                name.startswith("_") and not name.startswith("__") and not one.imported.endswith(f".{name}")
            )
            if (hidden or taken) and one.imported != module:
                yield f"{module} imports {one.imported}.{name}"
    own = {
        node.name
        for node in ast.walk(body)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }
    for node in ast.walk(body):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
        if isinstance(node, ast.Assign):
            own.update(target.id for target in node.targets if isinstance(target, ast.Name))
    for node in ast.walk(body):
        if (
            isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and node.attr not in own
            and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
            and not (isinstance(node.value, ast.Name) and node.value.id in ("os", "asyncio"))
            and not (isinstance(node.value, ast.Call) and ast.unparse(node.value) == "super()")
        ):
            yield f"{module} reads {ast.unparse(node)}"


def mixins(module: str) -> Iterator[str]:
    """Classes that are a part of another one."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Mixin", "Base")) and node.name != "Base":
            yield f"{module}.{node.name}"


LAZY = {
    # They name modules by variables: public names, verbs, encoder families, hooks, other packages.
    "esembed",
    "esembed.cli._lazy",
    "esembed.cli.ingest",
    "esembed.demo.corpus",
    "esembed.encode.cross_encoder",
    "esembed.encode.registry",
    "esembed.evaluate.reference",
    "esembed.train.extra",
}


FACADES = {
    # Methods that are a public function's old name, for one release: they load it by the package's names.
    ("esembed.query.nodes", "esembed"),  # Node.to_body, of esembed.to_body
}


def own_import_module(module: str) -> Iterator[str]:
    """``import_module`` of a module of ours, which no checker sees."""
    if module in LAZY:
        return
    for node in ast.walk(tree(module)):
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__")
            and node.args
        ):
            first = node.args[0]
            literal = first.value if isinstance(first, ast.Constant) else ast.unparse(first)
            if (module, str(literal)) in FACADES:
                continue
            if not isinstance(first, ast.Constant) or str(literal).startswith("esembed"):
                yield f"{module} loads {literal}"


ENGINE_NAMES = {"elasticsearch", "opensearch"}


def engine_comparisons(module: str) -> Iterator[str]:
    """Where code asks which engine it is: a comparison with an engine's name, a table of engine names, or a
    flag that is one."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Compare):
            values = [node.left, *node.comparators]
            asks = any(isinstance(v, ast.Constant) and v.value in ENGINE_NAMES for v in values)
        elif isinstance(node, ast.Dict):
            asks = any(isinstance(k, ast.Constant) and k.value in ENGINE_NAMES for k in node.keys)
        elif isinstance(node, ast.Call) and len(node.args) == 2:
            classes = {"ElasticsearchQuery", "OpenSearchQuery"}
            asks = ast.unparse(node.func) == "isinstance" and ast.unparse(node.args[1]) in classes
        else:
            asks = isinstance(node, ast.Attribute) and node.attr in ("is_opensearch", "is_elasticsearch")
        if asks:
            yield f"{module}:{getattr(node, 'lineno', 0)} {ast.unparse(node)}"


ENGINE_HOMES = ("capabilities", "local", "cli", "pytest_plugin", "bench")
"""Where an engine's name is a value of its own: options, servers, profiles, and the official clients that the
test plugin makes and the benchmarks measure against."""


def in_engine_home(module: str) -> bool:
    # esembed.dialect itself picks the dialect; the client and the probe find out which engine it is.
    named = ("esembed.dialect", "esembed._async.client", "esembed._async.probe")
    return top(module) in ENGINE_HOMES or module in named


def engines_asked(module: str) -> Iterator[str]:
    """:func:`engine_comparisons` outside of their homes, without the line numbers."""
    if not in_engine_home(module):
        for line in engine_comparisons(module):
            place, _, expression = line.partition(" ")
            yield f"{place.partition(':')[0]} asks {expression}"


def code_and_comments() -> tuple[int, int, int]:
    """Lines, lines of code, and comment lines, of what people write."""
    lines = code = comments = 0
    for name in written():
        text = modules()[name].read_text(encoding="utf-8")
        lines += len(text.splitlines())
        docs = {
            number
            for node in ast.walk(tree(name))
            if isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
            for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        seen_code: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                comments += not token.string.startswith(("# noqa", "# type:", "# fmt:", "# pragma"))
            elif token.type not in (
                tokenize.NL,
                tokenize.NEWLINE,
                tokenize.INDENT,
                tokenize.DEDENT,
                tokenize.ENDMARKER,
            ):
                seen_code.update(range(token.start[0], token.end[0] + 1))
        code += len(seen_code - docs)
    return lines, code, comments


def main() -> None:
    lines, code, comments = code_and_comments()
    names = written()
    print(f"files written by hand          {len(names)}")
    print(f"lines written by hand          {lines}")
    print(f"comments for 100 lines of code {100 * comments / code:.2f}")
    print(f"circles of imports of any kind {len(circles())}")
    print(f"imports that go up             {len({u for n in names for u in upward(n)})}")
    print(f"private names of others        {len({u for n in names for u in private(n)})}")
    print(f"mixins                         {len([m for n in names for m in mixins(n)])}")
    outside = [c for n in names if not in_engine_home(n) for c in engine_comparisons(n)]
    print(f"engine names compared outside  {len(outside)}")


if __name__ == "__main__":
    main()
