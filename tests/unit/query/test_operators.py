"""Every operator is whole: one struct, one builder, one method of the dialects, one case that engines see."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from esembed import query as q
from esembed.dialect.elasticsearch.query import ElasticsearchQuery
from esembed.dialect.opensearch.query import OpenSearchQuery
from esembed.query import builders
from esembed.query.nodes import Node, Stage, StoredRaw
from esembed.query.tree import walk

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "contract"))
from query_cases import CASES

STANDS_AT_THE_TOP = {"rrf", "linear", *(str(cls.__struct_config__.tag) for cls in Stage.__subclasses__())}
"""Fusions and stages: they are no clause, so no dialect has a method for the node itself."""


def operators(cls: type[Node] = Node) -> Iterator[type[Node]]:
    """The classes that have no subclass; the others are what several have in common."""
    for sub in cls.__subclasses__():
        # One that was read from an index is an operator no more than its class is.
        own = [one for one in sub.__subclasses__() if one is not StoredRaw]
        yield from operators(sub) if own else (sub,)


OPERATORS = sorted(operators(), key=lambda cls: str(cls.__struct_config__.tag))


def missing(cls: type[Node]) -> Iterator[str]:
    """What this operator lacks."""
    tag = str(cls.__struct_config__.tag)
    if cls not in typing.get_args(q.Query):
        yield f"{cls.__name__} in the union nodes.Query"
    if cls.builder() not in builders.__all__ or not hasattr(builders, cls.builder()):
        yield f"a function builders.{cls.builder()}, in builders.__all__"
    if tag not in STANDS_AT_THE_TOP:
        for dialect in (ElasticsearchQuery, OpenSearchQuery):
            if not hasattr(dialect, f"visit_{tag}"):
                yield f"{dialect.__name__}.visit_{tag} (dialect/query.py)"
    if not any(type(node) is cls for case in CASES for node in walk(case.query)):
        yield f"a case with q.{cls.builder()} in tests/contract/query_cases.py"
    if not inspect.getdoc(cls) or not inspect.getdoc(getattr(builders, cls.builder(), None)):
        yield "a docstring of the struct and of the builder"


@pytest.mark.parametrize("cls", OPERATORS, ids=lambda cls: cls.__name__)
def test_nothing_of_an_operator_is_missing(cls: type[Node]) -> None:
    assert list(missing(cls)) == []


@pytest.mark.parametrize("cls", OPERATORS, ids=lambda cls: cls.__name__)
def test_a_builder_takes_what_the_struct_holds(cls: type[Node]) -> None:
    """The same names in the same order with the same defaults. By position stand ``positional`` (and one more
    where the engine's own form reads so), as ``*args`` stands ``spread``."""
    parameters = inspect.signature(getattr(builders, cls.builder())).parameters
    fields = {field.name: field for field in msgspec.structs.fields(cls)}
    assert list(parameters) == list(fields)
    spread = [p.name for p in parameters.values() if p.kind is inspect.Parameter.VAR_POSITIONAL]
    assert spread == ([cls.spread] if cls.spread else [])
    by_position = [p.name for p in parameters.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert tuple(by_position[: len(cls.positional)]) == cls.positional
    assert not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name, parameter in parameters.items():
        field = fields[name]
        if name == cls.spread:
            continue
        if field.default is msgspec.NODEFAULT:
            assert parameter.default is inspect.Parameter.empty, name
        else:
            assert parameter.default == field.default, name
            assert type(parameter.default) is type(field.default), name


def test_every_builder_makes_one_node() -> None:
    assert sorted(builders.__all__) == sorted(cls.builder() for cls in OPERATORS)
    assert list(builders.__all__) == sorted(builders.__all__)
    assert set(builders.__all__) <= set(q.__all__) <= set(dir(q))
