"""No page that esembed writes holds what others wrote as markup: every writer is found by walking the
package, and called with hostile ids, names of fields and files, query texts and titles."""

from __future__ import annotations

import ast
import collections.abc
import dataclasses
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

import esembed
from esembed import IndexPlan, TextField
from esembed.report_page import Html, html

ROOT = Path(esembed.__file__).parent
HOSTILE = '"\'><zz onload=zz() zz="><script>zz</script>&zz;<!--zz--></title></style></svg>\x1b[2J\u202ezz'
"""Ends a quoted attribute of either kind, a title and a style, and has what a terminal would obey."""

_MARKUP = re.compile(
    r"<!doctype|</?(html|head|body|svg|table|t[rdh]|div|p|h\d|ul|ol|li|dl|dd|dt|span|text|title|b|code|a|small)\b",
    re.IGNORECASE,
)


def _writers() -> Iterator[tuple[str, str]]:
    """(module, function) of each public function that returns or writes a text, in modules with markup."""
    for path in sorted(ROOT.rglob("*.py")):
        if "_sync" in path.parts:  # generated from _async
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = list(ast.walk(tree))
        docs = {id(n.value) for n in nodes if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
        texts = [n for n in nodes if isinstance(n, ast.Constant) and id(n) not in docs]
        if not any(isinstance(n.value, str) and _MARKUP.search(n.value) for n in texts):
            continue
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
                returns = ast.unparse(node.returns) if node.returns is not None else ""
                if returns == "str" or re.search(r"html|svg|page", node.name):
                    yield module, node.name


WRITERS = list(_writers())


def test_the_walk_finds_the_pages() -> None:
    assert {
        ("esembed.advise.report", "plot"),
        ("esembed.advise.report", "svg"),
        ("esembed.evaluate.report", "html_page"),
        ("esembed.evaluate.report", "write_html"),
    } <= set(WRITERS)


class _Page(HTMLParser):
    """What stands in a page as markup."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.elements = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements += 1
        names = [name for name, _ in attrs]
        if tag in ("zz", "script", "iframe", "object") or any(re.match("on|zz", name) for name in names):
            self.wrong.append(f"<{tag} {names}>")
        for name, value in attrs:
            # A value of ours has no quotation mark or bracket: a foreign one that isn't quoted ends there.
            if name in ("href", "src") and not (value or "").startswith(("#", "https://")):
                self.wrong.append(f"{name}={value}")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("zz", "script"):
            self.wrong.append(f"</{tag}>")

    def handle_comment(self, data: str) -> None:
        self.wrong.append(f"<!--{data[:80]}-->")


def check_page(page: str) -> int:
    """How many elements a page has, none of them from what others wrote."""
    found = _Page(page)
    assert found.wrong == []
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page)
    assert HOSTILE not in page
    assert "<zz" not in page
    assert not re.search("&zz;", page)
    page.encode()
    return found.elements


@pytest.mark.parametrize("page", [HOSTILE, f'<b title="{HOSTILE}">', f"<p>{HOSTILE[3:]}", "<p>&zz;", "\x1b"])
def test_the_check_can_fail(page: str) -> None:
    with pytest.raises(AssertionError):
        check_page(page)


# -- values of any type, with hostile text in them -------------------------------------------------------


class _Figures(dict[str, Any]):
    """A row of figures by whatever name, with a text in what names it."""

    def __missing__(self, name: str) -> Any:
        return HOSTILE if name == "what" else 3


def _fill(kind: Any, some: bool) -> Any:
    """A value of a type: each text is hostile; what may be None is, unless *some*."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in (str, Any, object):
        return HOSTILE
    if kind is Html:
        return html(HOSTILE)
    if kind in (int, float, bool):
        return {int: 3, float: 0.5, bool: True}[kind]
    if kind is type(None):
        return None
    if kind is IndexPlan:
        return IndexPlan(text={"body": TextField()})
    if origin is Literal:
        return arguments[0]
    if origin in (typing.Union, types.UnionType):
        if not some and type(None) in arguments:
            return None
        return _fill(next(argument for argument in arguments if argument is not type(None)), some)
    if origin in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
        if arguments == (str, Any):
            return _Figures()
        return {_fill(arguments[0], some): _fill(arguments[1], some)}
    if origin is tuple and arguments[-1:] != (...,):
        return tuple(_fill(argument, some) for argument in arguments)
    if origin in (list, tuple, set, frozenset) or origin in (
        collections.abc.Sequence,
        collections.abc.Iterable,
        collections.abc.Collection,
    ):
        items = [_fill(arguments[0], some)] * 2
        return items if origin is list else tuple(items)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: _fill(hints[f.name], some) for f in dataclasses.fields(kind) if f.init})
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _fill(hints[name], some) for name in kind.__struct_fields__})
    raise NotImplementedError(f"say in _fill how a value of {kind} is made, with hostile text in it")


def _page(writer: Callable[..., Any], tmp_path: Path, some: bool) -> str:
    file = tmp_path / "page"
    hints = typing.get_type_hints(writer)
    given: dict[str, Any] = {}
    for name in inspect.signature(writer).parameters:
        kind = hints[name]
        is_path = kind is Path or Path in typing.get_args(kind)
        given[name] = file if is_path else _fill(kind, some)
    returned = writer(**given)
    return file.read_text(encoding="utf-8") if file.exists() else str(returned)


@pytest.mark.parametrize("some", [True, False])
@pytest.mark.parametrize(("module", "function"), WRITERS)
def test_every_writer_escapes_whatever_its_values_say(
    module: str, function: str, some: bool, tmp_path: Path
) -> None:
    check_page(_page(getattr(importlib.import_module(module), function), tmp_path, some))


def _evaluation(name: Callable[[str], str]) -> Any:
    """An evaluation of three configurations, whose every text goes through *name*."""
    pytest.importorskip("ir_measures", reason="needs the eval extra")
    from esembed.evaluate.datasets import Dataset
    from esembed.evaluate.evaluation import evaluate_runs

    queries = {name(f"q{n}"): name(f"why {n}?") for n in range(12)}
    right, wrong = name("right"), name("wrong")
    qrels = {query: {right: 1, wrong: 0, name("gone"): 1} for query in queries}
    good: Mapping[str, Sequence[tuple[str, float]]] = {q: [(right, 2.0), (wrong, 1.0)] for q in queries}
    bad = {q: [(wrong, 2.0), (right, 1.0), (right, 0.5)] for q in queries} | {name("nobody"): [(right, 1.0)]}
    found = evaluate_runs(
        Dataset(name=name("demo"), queries=queries, qrels=qrels),
        {name("default"): bad, name("bm25"): good, name("other"): bad},
        title=name("title"),
        published={name("theirs"): {"nDCG@10": 0.5, name("measure"): 0.9}},
        titles={right: name("a title"), wrong: name("another")},
    )
    return dataclasses.replace(
        found, notes={name("default"): name("note")}, legs=(name("bm25"), name("other"))
    )


def test_the_page_of_an_evaluation_has_the_same_elements_whatever_its_texts_are() -> None:
    from esembed.evaluate.report import html_page

    hostile = check_page(html_page(_evaluation(lambda text: HOSTILE + text)))
    assert hostile == check_page(html_page(_evaluation(lambda text: f"x{text}")))
    assert hostile > 100
