"""The docstrings of the Python standard library, as records: a corpus that every machine has.

Source files are read by ``ast``; nothing of them is imported or run, so the result is the same under
``-OO``. Modules written in C have no source file here: those of a fixed allowlist are imported, which
has no side effects for them.

Each record is ``{id, name, object, title, kind, module, signature, doc, file, line}``: *id* and *name* are
the dotted name (``os.path.split``), *object* is the class of a method and else the name again, *title* its
words (``os path split``), *kind* is ``module``, ``class``, ``function`` or ``method``, *file* is relative to
the standard library's folder and None for C modules.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import os
import re
import sys
import sysconfig
import types
import warnings
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from esembed.errors import PermanentError

__all__ = ["COMMON", "MIN_DOC_CHARS", "fingerprint", "records"]

MIN_DOC_CHARS = 20
"""Shorter docstrings say nothing that a search could find."""

_COMMON_NAMES = (
    "abc argparse array base64 bisect builtins calendar collections concurrent configparser contextlib copy "
    "csv dataclasses datetime difflib email enum fileinput fnmatch fractions functools getpass glob gzip "
    "hashlib heapq hmac html io ipaddress itertools json logging mailbox math mimetypes operator os pathlib "
    "pickle platform pprint queue random re secrets shelve shlex shutil signal socket sqlite3 statistics "
    "string struct subprocess sys tarfile tempfile textwrap threading time timeit types typing urllib uuid "
    "warnings weakref zipfile zlib"
)
COMMON = frozenset(_COMMON_NAMES.split())
"""The modules that most programs import: some 2,500 docstrings. Encoding all 6,500 is over half of the time
of a first demo, and the others (tkinter, turtle, asyncio, decimal …) are large and for special needs."""

_SKIPPED = {
    "antigravity",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
    "this",
    "turtledemo",
}

_COMPILED = {
    # The C module → the public module that documents it.
    "_asyncio": "asyncio",
    "_bisect": "bisect",
    "_bz2": "bz2",
    "_codecs": "codecs",
    "_collections": "collections",
    "_contextvars": "contextvars",
    "_csv": "csv",
    "_datetime": "datetime",
    "_decimal": "decimal",
    "_elementtree": "xml.etree.ElementTree",
    "_functools": "functools",
    "_hashlib": "hashlib",
    "_heapq": "heapq",
    "_io": "io",
    "_json": "json",
    "_lzma": "lzma",
    "_operator": "operator",
    "_pickle": "pickle",
    "_queue": "queue",
    "_random": "random",
    "_signal": "signal",
    "_socket": "socket",
    "_sqlite3": "sqlite3",
    "_ssl": "ssl",
    "_statistics": "statistics",
    "_struct": "struct",
    "_thread": "threading",
    "_weakref": "weakref",
    "array": "array",
    "atexit": "atexit",
    "binascii": "binascii",
    "builtins": "builtins",
    "cmath": "cmath",
    "errno": "errno",
    "faulthandler": "faulthandler",
    "fcntl": "fcntl",
    "gc": "gc",
    "grp": "grp",
    "itertools": "itertools",
    "marshal": "marshal",
    "math": "math",
    "mmap": "mmap",
    "msvcrt": "msvcrt",
    "nt": "os",
    "posix": "os",
    "pwd": "pwd",
    "pyexpat": "xml.parsers.expat",
    "readline": "readline",
    "resource": "resource",
    "select": "select",
    "sys": "sys",
    "syslog": "syslog",
    "termios": "termios",
    "time": "time",
    "unicodedata": "unicodedata",
    "winreg": "winreg",
    "winsound": "winsound",
    "zlib": "zlib",
}

_PATH_MODULE = "ntpath" if os.name == "nt" else "posixpath"
# People know these under their public names.
_RENAMED = {_PATH_MODULE: "os.path", "_pydatetime": "datetime", "_pydecimal": "decimal", "_pyio": "io"}


def records(
    *, min_doc_chars: int = MIN_DOC_CHARS, modules: Container[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Every public module, class, function and method with a docstring, each once, in a fixed order.

    Args:
        min_doc_chars: leave out docstrings shorter than this.
        modules: top-level modules (:data:`COMMON`); the others are not parsed, and a docstring that stands
            in several places comes once. None: all, as they stand.

    Raises:
        PermanentError: this Python has no source files of its standard library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    ids: set[str] = set()
    docs: set[str] = set()

    def is_new(record: dict[str, Any]) -> bool:
        if len(record["doc"]) < min_doc_chars or record["id"] in ids:
            return False
        ids.add(record["id"])
        repeated = record["doc"] in docs  # mailbox.MH's words are mailbox.Maildir's
        docs.add(record["doc"])
        return modules is None or not repeated

    found = False
    for path, module in _sources(root):
        found = True
        if modules is None or module.split(".")[0] in modules:
            yield from filter(is_new, _from_source(path, module, path.relative_to(root).as_posix()))
    if not found:
        raise PermanentError(
            f"the folder {root} holds no Python source files, so there is no corpus for the demo; "
            "use a Python that comes with its standard library's sources"
        )
    for compiled, public in _COMPILED.items():
        if modules is None or public.split(".")[0] in modules:
            yield from filter(is_new, _from_compiled(compiled, public))


def fingerprint() -> str:
    """A hash that changes when the corpus may: the Python version, and name, size and time of every
    source file. Nothing is parsed for it, so that a second demo knows at once that its index is current."""
    root = Path(sysconfig.get_path("stdlib"))
    digest = hashlib.sha256(f"{sys.implementation.cache_tag} {sys.version} {MIN_DOC_CHARS}".encode())
    for path, module in _sources(root):
        stat = path.stat()
        digest.update(f"{module} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


# -- modules with source ---------------------------------------------------------------------------


def _sources(root: Path) -> Iterator[tuple[Path, str]]:
    """Source files of public modules with their public dotted names, sorted."""
    for top in sorted(sys.stdlib_module_names):
        if top in _SKIPPED or (top.startswith("_") and top not in _RENAMED):
            continue
        if (file := root / f"{top}.py").is_file():
            yield file, _RENAMED.get(top, top)
        elif (folder := root / top).is_dir():
            for file in sorted(folder.rglob("*.py")):
                parts = list(file.relative_to(root).with_suffix("").parts)
                if parts[-1] == "__init__":
                    parts.pop()
                if any(part.startswith("_") or part in _SKIPPED for part in parts):
                    continue
                yield file, ".".join(parts)


def _from_source(path: Path, module: str, file: str) -> Iterator[dict[str, Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules are not our concern
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # templates and deliberately broken files
    if doc := ast.get_docstring(tree):
        yield _record(module, "module", module, "", doc, file, 1)
    yield from _definitions(tree.body, module, module, file, in_class=False)


def _definitions(
    body: Iterable[ast.stmt], prefix: str, module: str, file: str, *, in_class: bool
) -> Iterator[dict[str, Any]]:
    for node in body:
        if isinstance(node, (ast.If, ast.Try)):
            # Platform switches: whatever branch comes first wins, the others are repetitions.
            branches: list[ast.stmt] = [*node.body, *node.orelse]
            if isinstance(node, ast.Try):
                branches += [statement for handler in node.handlers for statement in handler.body]
            yield from _definitions(branches, prefix, module, file, in_class=in_class)
            continue
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if node.name.startswith("_"):
            continue
        name = f"{prefix}.{node.name}"
        doc = ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            signature = f"class {node.name}({bases})" if bases else f"class {node.name}"
            yield _record(name, "class", module, signature, doc, file, node.lineno)
            yield from _definitions(node.body, name, module, file, in_class=True)
        else:
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            keyword = "async def " if isinstance(node, ast.AsyncFunctionDef) else ""
            signature = f"{keyword}{node.name}({ast.unparse(node.args)}){returns}"
            kind = "method" if in_class else "function"
            yield _record(name, kind, module, signature, doc, file, node.lineno)


# -- modules in C ----------------------------------------------------------------------------------


def _from_compiled(compiled: str, public: str) -> Iterator[dict[str, Any]]:
    try:
        module = importlib.import_module(compiled)
    except ImportError:  # another platform's, or left out of this build
        return
    if getattr(module, "__file__", "") and str(module.__file__).endswith(".py"):
        return  # another implementation wrote it in Python, and then it is read above
    if compiled == public and (doc := inspect.cleandoc(module.__doc__ or "")):
        yield _record(public, "module", public, "", doc, None, None)
    for attribute in sorted(vars(module)):
        if attribute.startswith("_"):
            continue
        # ``sys.breakpointhook`` and its like may be replaced at run time; the original stays beside it.
        value = getattr(module, f"__{attribute}__", getattr(module, attribute))
        name = f"{public}.{attribute}"
        if isinstance(value, type):
            if value.__name__ != attribute or value.__doc__ is None:
                continue  # an alias (builtins.IOError) or an exception without words
            yield _record(name, "class", public, _signature(value, attribute), value.__doc__, None, None)
            for member in sorted(vars(value)):
                method = vars(value)[member]
                if not member.startswith("_") and isinstance(
                    method, (types.MethodDescriptorType, types.ClassMethodDescriptorType, staticmethod)
                ):
                    doc = getattr(method, "__doc__", None) or ""
                    yield _record(
                        f"{name}.{member}", "method", public, _signature(method, member), doc, None, None
                    )
        elif isinstance(value, (types.BuiltinFunctionType, types.FunctionType)):
            doc = value.__doc__ or ""
            yield _record(name, "function", public, _signature(value, attribute), doc, None, None)


def _signature(value: Any, name: str) -> str:
    try:
        # As text, so that defaults without a stable repr don't make the corpus differ between runs.
        return re.sub(r" at 0x[0-9a-fA-F]+", "", f"{name}{inspect.signature(value)}")
    except (ValueError, TypeError):
        return f"{name}(…)"


# -- both ------------------------------------------------------------------------------------------


def _record(
    name: str, kind: str, module: str, signature: str, doc: str, file: str | None, line: int | None
) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "object": name.rpartition(".")[0] if kind == "method" else name,
        "title": _words(name),
        "kind": kind,
        "module": module,
        "signature": signature,
        # Lone surrogates stand in a few docstrings about encodings; JSON can't hold them.
        "doc": inspect.cleandoc(doc).encode("utf-8", "replace").decode("utf-8"),
        "file": file,
        "line": line,
    }


def _words(name: str) -> str:
    """``xml.dom.getElementsByTagName`` → ``xml dom get elements by tag name``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", re.sub(r"[._]+", " ", name))
    return spaced.lower().strip()
