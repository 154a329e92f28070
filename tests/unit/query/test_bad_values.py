"""A node checks itself: by ``replace``, out of JSON and by its builder the same values are refused."""

from __future__ import annotations

import json
import math
import sys
import typing
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pytest

from esembed import IndexPlan
from esembed import query as q
from esembed.errors import PlanError, QueryError
from esembed.query.nodes import DenseVector, Node, SparseWeights
from esembed.query.tree import LIMITS, walk

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "contract"))
from query_cases import CASES

GOOD: dict[str, Any] = {}
for case in CASES:
    for one in walk(case.query):
        GOOD.setdefault(str(one.__struct_config__.tag), one)

ATTRIBUTES = [(tag, name) for tag, node in sorted(GOOD.items()) for name in node.__struct_fields__]
NUMBERS = [
    (tag, name) for tag, name in ATTRIBUTES if "float" in str(typing.get_type_hints(type(GOOD[tag]))[name])
]
MATCH, KNN = {"type": "match", "text": "a"}, {"type": "knn", "field": "e", "vector": [1.0]}


class Color(str, Enum):
    RED = "red"


def refused(node: Any, name: str, value: Any) -> QueryError:
    """The error, which ``replace`` and the constructor raise alike."""
    with pytest.raises(QueryError) as by_replace:
        node.replace(**{name: value})
    values = {field: getattr(node, field) for field in node.__struct_fields__}
    with pytest.raises(QueryError) as by_constructor:
        type(node)(**{**values, name: value})
    assert str(by_replace.value) == str(by_constructor.value)
    return by_replace.value


@pytest.mark.parametrize(("tag", "name"), ATTRIBUTES)
def test_no_attribute_takes_what_is_no_json(tag: str, name: str) -> None:
    for value in (object(), b"bytes", 1j, np.longdouble(1.5), {1, 2}, type, [object()], [[["deep"]]]):
        error = refused(GOOD[tag], name, value)
        assert error.field in (name, getattr(GOOD[tag], "field", name)), error
        assert len(str(error)) < 400


@pytest.mark.parametrize(("tag", "name"), ATTRIBUTES)
@pytest.mark.parametrize(
    "value",
    [{"a": [1]}, [[[]]], [{"type": "nope"}], {"type": "nope"}, "\ud800"],
    ids=repr,
)
def test_json_of_the_wrong_shape_is_refused(tag: str, name: str, value: Any) -> None:
    with pytest.raises(QueryError):
        q.from_dict({**GOOD[tag].to_dict(), name: value})


@pytest.mark.parametrize(("tag", "name"), NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_is_finite(tag: str, name: str, value: float) -> None:
    node = q.range("price", **{name: 1}) if tag == "range" else GOOD[tag]  # type: ignore[arg-type]
    many = name in ("values", "weights", "vector") and tag != "sparse"
    bad: Any = {"a": value} if tag == "sparse" and name == "vector" else [1.0, value] if many else value
    message = str(refused(node, name, bad))
    assert "finite" in message or "nan at" in message or "inf at" in message or "weights must be" in message
    data = {**node.to_dict(), name: bad}
    with pytest.raises(QueryError):
        q.from_dict(data)
    with pytest.raises(QueryError):  # Python's own reader takes NaN and 1e999
        q.from_dict(json.loads(json.dumps(data)))


TOO_DEEP: Any = MATCH
for _ in range(LIMITS.depth):
    TOO_DEEP = {"type": "bool", "must": [TOO_DEEP]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"type": "match", "boost": -1}, "boost must be ≥ 0"),
        ({"type": "match", "scale": 0}, "scale must be > 0"),
        ({"type": "match", "damp_words": 0}, "damp_words must be ≥ 1"),
        ({"type": "match", "operator": "xor"}, "Invalid value 'xor'|Invalid enum"),
        ({"type": "multi_match", "kind": "phrase", "fuzziness": "AUTO"}, "no fuzziness"),
        ({"type": "multi_match", "boost": -0.5}, "boost must be ≥ 0"),
        ({"type": "match_phrase", "field": "t", "slop": -1}, "slop must be ≥ 0"),
        ({"type": "match_phrase"}, "missing required field `field`"),
        ({**KNN, "vector": []}, "empty"),
        ({**KNN, "vector": [True]}, "not a query"),
        ({**KNN, "vector": ["1"]}, "not a query"),
        ({**KNN, "vector": [[1.0]]}, "not a query"),
        ({**KNN, "text": "a"}, "not both"),
        ({**KNN, "k": 0}, "k must be ≥ 1"),
        ({**KNN, "k": 1.5}, "not a query"),
        ({**KNN, "k": 10, "num_candidates": 5}, "≥ k"),
        ({**KNN, "oversample": 11}, "between 1 and 10"),
        ({**KNN, "oversample": 0.5}, "between 1 and 10"),
        ({**KNN, "oversample": -1}, "between 1 and 10"),
        ({**KNN, "exact": True, "oversample": 2}, "exact"),
        ({**KNN, "exact": 1}, "not a query"),
        ({**KNN, "chunks": 101}, "between 0 and 100"),
        ({**KNN, "boost": -1}, "boost"),
        ({**KNN, "filter": {"type": "rrf", "legs": [MATCH]}}, "not a query"),
        ({"type": "sparse", "field": "s", "vector": {"a": 0}}, "'a' is 0"),
        ({"type": "sparse", "field": "s", "vector": {"a": "1"}}, "not a query"),
        ({"type": "sparse", "field": "s", "vector": {"\ud800": 1}}, "not valid Unicode"),
        ({"type": "sparse", "field": "s", "vector": {"a": 1}, "text": "b"}, "not both"),
        ({"type": "sparse", "field": "s", "max_terms": 0}, "max_terms must be ≥ 1"),
        ({"type": "sparse", "field": "s", "k": 0}, "k must be ≥ 1"),
        ({"type": "sparse", "field": "s", "heap_factor": 0}, "heap_factor must be > 0"),
        ({"type": "sparse", "field": "s", "prune": {"tokens_weight_threshold": math.nan}}, "finite"),
        ({"type": "rank_feature", "field": "p", "function": "log"}, "needs scaling_factor"),
        ({"type": "rank_feature", "field": "p", "function": "linear", "pivot": 1}, "takes no pivot"),
        ({"type": "rank_feature", "field": "p", "pivot": 0}, "pivot must be > 0"),
        ({"type": "term", "field": "f", "value": None}, "not a query"),
        ({"type": "term", "field": "f", "value": ["a"]}, "not a query"),
        ({"type": "terms", "field": "f", "values": "abc"}, "not a query"),
        ({"type": "terms", "field": "f", "values": [None]}, "not a query"),
        ({"type": "range", "field": "p"}, "needs gte"),
        ({"type": "range", "field": "p", "gt": 1, "gte": 1}, "two bounds"),
        ({"type": "range", "field": "p", "gte": math.nan}, "range on 'p': gte must be a finite number"),
        ({"type": "exists"}, "missing required field"),
        ({"type": "prefix", "field": "f", "value": 1}, "not a query"),
        ({"type": "ids", "values": [1]}, "not a query"),
        ({"type": "geo_distance", "field": "p", "lat": 91, "lon": 0, "distance": "1km"}, "no such place"),
        ({"type": "geo_distance", "field": "p", "lat": 9, "lon": 0, "distance": ""}, "with a unit"),
        ({"type": "nested", "path": "c", "query": MATCH, "chunks": -1}, "between 0 and 100"),
        ({"type": "bool"}, "needs must"),
        ({"type": "bool", "must": [MATCH], "boost": -1}, "boost"),
        ({"type": "match_all", "boost": -1}, "boost"),
        ({"type": "raw", "bodies": {}}, "raw takes"),
        ({"type": "raw", "bodies": {"solr": {}}}, "raw takes"),
        ({"type": "raw", "bodies": {"opensearch": 1}}, "is an object, not int"),
        ({"type": "rrf", "legs": []}, "at least one leg"),
        ({"type": "rrf", "legs": [MATCH], "rank_constant": 0}, "rank_constant must be ≥ 1"),
        ({"type": "rrf", "legs": [MATCH], "rank_window_size": 10_001}, "between 1 and 10000"),
        ({"type": "rrf", "legs": [MATCH], "weights": [1, 2]}, "need 1 weights"),
        ({"type": "rrf", "legs": [MATCH], "weights": [-1]}, "≥ 0"),
        ({"type": "rrf", "legs": [{"type": "collapse", "query": MATCH, "field": "f"}]}, "stands around rrf"),
        ({"type": "linear", "legs": [MATCH], "weights": [0]}, "all weights are 0"),
        ({"type": "linear", "legs": []}, "at least one leg"),
        ({"type": "rescore", "query": MATCH}, "one of by"),
        ({"type": "rescore", "query": MATCH, "by": MATCH, "window_size": 0}, "window_size must be ≥ 1"),
        ({"type": "rescore", "query": MATCH, "by": MATCH, "query_weight": -1}, "query_weight must be ≥ 0"),
        ({"type": "rescore", "query": MATCH, "reranker": "r"}, "needs fields"),
        ({"type": "rescore", "query": MATCH, "inference_id": "r", "fields": ["a", "b"]}, "one of fields"),
        ({"type": "collapse", "query": MATCH}, "missing required field"),
        ({"type": "boost_by", "query": {"type": "rrf", "legs": [MATCH]}, "field": "p"}, "around a leg"),
        ({"type": "boost_by", "query": MATCH, "field": "p", "factor": -1}, "factor must be ≥ 0"),
        ({"type": "nope"}, "nope"),
        ({}, "not a query"),
        ([], "not a query"),
        ("match", "not a query"),
        (None, "not a query"),
        (TOO_DEEP, "nested deeper than 100 levels"),
        ({"type": "raw", "bodies": {"opensearch": {"a": TOO_DEEP}}}, "nested deeper"),
    ],
)
def test_json_is_checked_as_builders_are(data: Any, message: str) -> None:
    """Each bad query is refused on its own and in a plan, which an index may hold."""
    with pytest.raises(QueryError, match=message):
        q.from_dict(data, allow_raw=True)
    if data is not None:
        with pytest.raises(PlanError) as caught:
            IndexPlan.from_dict({"query": data}, allow_raw=True)
        assert caught.value.path.startswith("query")


def test_an_error_names_the_attribute() -> None:
    for make, field in (
        (lambda: q.knn("e", k="5"), "k"),  # type: ignore[arg-type]
        (lambda: q.match("x", fields=[1]), "fields"),  # type: ignore[list-item]
        (lambda: q.match("x", operator="xor"), "operator"),  # type: ignore[arg-type]
        (lambda: q.linear(q.match("x"), normalizer="softmax"), "normalizer"),  # type: ignore[arg-type]
        (lambda: q.bool_(must="x"), "must"),
        (lambda: q.bool_(must=5), "must"),  # type: ignore[arg-type]
        (lambda: q.rescore("x", by=q.match("x")), "query"),  # type: ignore[arg-type]
        (lambda: q.range("price", gte=math.inf), "price"),
        (lambda: q.terms("price", [1.0, math.nan]), "price"),
        (lambda: q.from_dict({"type": "rrf", "legs": [MATCH, {"type": "knn", "field": 5}]}), "legs[1].field"),
    ):
        with pytest.raises(QueryError) as caught:
            make()
        assert caught.value.field == field
    with pytest.raises(QueryError, match="operator must be 'or' or 'and' or 'relax', not 'xor'"):
        q.match("x", operator="xor")  # type: ignore[arg-type]
    with pytest.raises(QueryError, match=r"a must of bool_ is a query .*, not str"):
        q.bool_(must="x")  # type: ignore[arg-type]


def test_values_of_other_libraries_become_pythons() -> None:
    assert q.knn("e", k=np.int64(5), similarity=np.float32(0.5)) == q.knn("e", k=5, similarity=0.5)
    assert q.match("x", boost=np.float64(2)).boost.__class__ is float
    assert q.match("x", boost=2).boost.__class__ is float
    assert q.knn("e", k=10.0).k.__class__ is int  # type: ignore[arg-type]
    day, moment = date(2024, 1, 31), datetime(2024, 1, 31, 12, tzinfo=timezone.utc)
    assert q.term("d", "x").replace(value=day).value == "2024-01-31"
    assert q.range("d", gte="x").replace(gte=moment).gte == moment.isoformat()
    key = UUID(int=7)
    assert q.terms("f", [key, Decimal("1.5"), Color.RED, np.bool_(True)]).values == (
        str(key),
        1.5,
        "red",
        True,
    )
    assert type(q.term("f", Color.RED).value) is str
    assert q.rrf(q.match("x"), q.match("y"), weights=np.array([1, 2])).weights == (1.0, 2.0)
    assert q.match("x", fields=None) == q.match("x")
    filtered = q.match("x").replace(filter=[q.term("a", 1), q.term("b", 2)])
    assert filtered == q.match("x", filter=[q.term("a", 1), q.term("b", 2)])


def test_what_replace_takes_stays_immutable() -> None:
    legs = [q.match("x"), q.match("y")]
    fused = q.rrf(q.match("z")).replace(legs=legs)
    legs.clear()
    assert len(fused.legs) == 2
    assert isinstance(hash(fused), int)


def test_a_vector_is_checked_once() -> None:
    """A checked vector is kept as the same object, and is still a tuple (a mapping) like any other."""
    dense, sparse = q.knn("e", vector=[1, 2.5]), q.sparse("s", vector={"a": 1})
    assert type(dense.vector) is DenseVector
    assert dense.replace(k=5).vector is dense.vector
    assert q.knn("f", vector=dense.vector).vector is dense.vector
    assert dense.vector == (1.0, 2.5)
    assert type(sparse.vector) is SparseWeights
    assert sparse.replace(k=5).vector is sparse.vector
    assert q.sparse("t", vector=sparse.vector).vector is sparse.vector
    for node in (dense, sparse):
        again = msgspec.json.decode(msgspec.json.encode(node), type=type(node))
        assert again == node
        assert type(again.vector) is type(node.vector)
    for bad in ("12", b"12345678", {1.0: 2.0}, [1, "2"], [1j], 5, [10**400], np.zeros((2, 2)), np.array(1.0)):
        refused(dense, "vector", bad)
    for worse in ([("a", 1)], {"a": "1"}, {"a": None}, {"a": 10**400}, "a"):
        refused(sparse, "vector", worse)
    assert q.knn("e", vector=(x for x in [1e308, 1e308])).vector == (1e308, 1e308)


def test_the_deepest_query_is_read_walked_and_written() -> None:
    deep: Any = MATCH
    for _ in range((LIMITS.depth - 1) // 2):
        deep = {"type": "bool", "must": [deep]}
    query = q.from_dict(deep)
    assert q.from_dict(query.to_dict()) == query
    assert len(list(walk(q.resolve_text(query, "b")))) == (LIMITS.depth - 1) // 2 + 1
    assert isinstance(query, Node)
