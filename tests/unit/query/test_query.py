"""The query algebra as values: made, printed, read back, bound, refused."""

from __future__ import annotations

import math
import pickle
import sys
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import esembed
from esembed import query as q
from esembed.capabilities import profile
from esembed.errors import QueryError, UnsupportedFeatureError
from esembed.plan import DenseField, FilterField, IndexPlan, SparseField, TextField
from esembed.plan.default_query import default_query
from esembed.plan.legs import leg_names, select_legs
from esembed.query.tree import add_filter, walk
from esembed.search.page import Cursor
from esembed.search.request import query_digest
from esembed.types import SparseVector

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "contract"))
from query_cases import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_query_is_a_value(case: Any) -> None:
    query = case.query
    assert eval(repr(query), {"q": q}) == query
    assert hash(eval(repr(query), {"q": q})) == hash(query)
    assert q.from_dict(query.to_dict(), allow_raw=True) == query
    assert q.from_dict(msgspec.json.decode(msgspec.json.encode(query.to_dict())), allow_raw=True) == query
    assert pickle.loads(pickle.dumps(query)) == query
    assert query_digest(q.from_dict(query.to_dict(), allow_raw=True)) == query_digest(query)
    with pytest.raises(AttributeError):
        query.name = "other"


def test_a_plan_keeps_its_query() -> None:
    query = q.rrf(q.match(), q.knn("e", filter=q.term("lang", "en")), weights=[1, 2])
    plan = IndexPlan(text={"t": TextField()}, dense={"e": DenseField(dims=3)}, query=query)
    assert IndexPlan.from_toml(plan.to_toml()).query == query
    assert IndexPlan.from_json(plan.to_json()).query == query


def test_nothing_in_a_query_can_be_changed() -> None:
    weights = {"a": 1.0}
    node = q.sparse("s", vector=weights)
    weights["b"] = 2.0
    assert node.vector == {"a": 1.0}
    with pytest.raises(TypeError, match="immutable"):
        node.vector["c"] = 1.0  # type: ignore[index]
    body: dict[str, Any] = {"match": {"t": ["x"]}}
    raw = q.raw({"opensearch": body})
    body["match"]["t"].append("y")
    assert raw.bodies["opensearch"]["match"]["t"] == ("x",)


def test_text_goes_where_none_is() -> None:
    query = q.rrf(q.match(), q.match("own", fields="t"), q.knn("e"), q.sparse("s", vector={"a": 1}))
    bound = q.resolve_text(query, "words")
    assert repr(bound.legs[0]) == "q.match('words')"
    assert bound.legs[1:2] == query.legs[1:2]
    assert bound.legs[2].text == "words"
    assert bound.legs[3] == query.legs[3]
    assert [leg.text for leg in q.legs_to_encode(bound)] == ["words"]
    assert (q.bind, q.text_legs) == (q.resolve_text, q.legs_to_encode)  # the names of before
    assert q.vector_fields(bound) == {"e", "s"}
    with pytest.raises(QueryError, match="has no text"):
        q.resolve_text(query, None)
    assert q.rescore(q.match("a"), reranker="r", fields="t").has_placeholder_text
    assert not q.rescore(q.match("a"), by=q.match("b")).has_placeholder_text


def test_legs_have_names_and_can_be_chosen() -> None:
    query = q.rrf(
        q.match("a"),
        q.knn("e", vector=[1]),
        q.match("b"),
        q.sparse("s", vector={"a": 1}, name="spl"),
        weights=[1, 2, 3, 4],
    )
    assert leg_names(query.legs) == ["bm25", "e", "bm25_2", "spl"]
    two = select_legs(query, ["spl", "bm25"])
    assert two.weights == (1.0, 4.0)
    assert leg_names(two.legs) == ["bm25", "spl"]
    one = select_legs(query.replace(filter=q.term("l", "en")), ["dense"])
    assert type(one).__name__ == "Knn"
    assert one.filter == q.term("l", "en")
    with pytest.raises(QueryError, match="no leg 'x'"):
        select_legs(query, ["x"])
    with pytest.raises(QueryError, match="names must differ"):
        leg_names((q.match("a", name="n"), q.match("b", name="n")))


def test_filters_join_and_never_make_should_optional() -> None:
    f, g = q.term("a", 1), q.term("b", 2)
    assert add_filter(q.match("x", filter=f), g).filter == q.bool_(filter=[f, g])
    should = add_filter(q.bool_(should=q.match("x")), f)
    assert should.minimum_should_match == 1
    assert add_filter(q.term("c", 3), f) == q.bool_(must=q.term("c", 3), filter=f)
    assert add_filter(q.collapse(q.match("x"), "c"), f).query.filter == f


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: q.knn("e", text="a", vector=[1]), "not both"),
        (lambda: q.knn("e", vector=[1, math.nan]), "nan at position 1"),
        (lambda: q.knn("e", vector=[[1, 2]]), "flat list"),
        (lambda: q.knn("e", vector=[]), "empty"),
        (lambda: q.knn("e", vector=[1], k=0), "k must be"),
        (lambda: q.knn("e", vector=[1], k=10, num_candidates=5), "≥ k"),
        (lambda: q.knn("e", vector=[1], oversample=20), "between 1 and 10"),
        (lambda: q.knn("e", vector=[1], exact=True, oversample=2), "exact"),
        (lambda: q.sparse("s", vector={"a": 0}), "'a' is 0"),
        (lambda: q.sparse("s", vector={"a": -1}), "> 0"),
        (lambda: q.match("x", boost=-1), "boost must be ≥ 0"),
        (lambda: q.match("x", boost=math.inf), "finite"),
        (lambda: q.rrf(), "at least one leg"),
        (lambda: q.rrf("words"), "not str"),  # type: ignore[arg-type]
        (lambda: q.rrf(q.match("x"), weights=[1, 2]), "need 1 weights"),
        (lambda: q.rrf(q.match("x"), weights=[-1]), "≥ 0"),
        (lambda: q.rrf(q.match("x"), weights=[0]), "all weights are 0"),
        (lambda: q.rrf(q.match("x"), rank_constant=0), "rank_constant"),
        (lambda: q.rrf(q.match("x"), rank_window_size=20_000), "rank_window_size"),
        (lambda: q.rrf(q.collapse(q.match("x"), "f")), "stands around rrf"),
        (lambda: q.range("p"), "needs gte"),
        (lambda: q.range("p", gt=1, gte=2), "two bounds"),
        (lambda: q.terms("p", "abc"), "takes a list"),
        (lambda: q.term("p", None), "None is no value"),  # type: ignore[arg-type]
        (lambda: q.term("p", ["a", "b"]), "several are for q.terms"),  # type: ignore[arg-type]
        (lambda: q.geo_distance("p", lat=100, lon=0, distance="1km"), "no such place"),
        (lambda: q.geo_distance("p", lat=1, lon=0, distance="12"), "with a unit"),
        (lambda: q.bool_(), "needs must"),
        (lambda: q.raw({"solr": {}}), "raw takes"),
        (lambda: q.rescore(q.match("x")), "one of by"),
        (lambda: q.rescore(q.match("x"), reranker="r"), "needs fields"),
        (lambda: q.rank_feature("p", function="log"), "needs scaling_factor"),
        (lambda: q.rank_feature("p", pivot=1, function="linear"), "takes no pivot"),
        (lambda: q.boost_by(q.rrf(q.match("x")), "p"), "around a leg"),
        (lambda: q.multi_match("x", kind="phrase", fuzziness="AUTO"), "no fuzziness"),
        (lambda: q.from_dict({"type": "knn"}), "not a query"),
        (lambda: q.from_dict({"type": "knn", "field": "e", "kk": 1}), "unknown field"),
        (lambda: q.from_dict({"type": "rrf", "legs": []}), "at least one leg"),
    ],
)
def test_what_is_wrong_is_named(make: Any, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        make()


def test_vectors_come_as_arrays_and_sparse_vectors() -> None:
    assert q.knn("e", vector=np.array([1, 2], np.float32)).vector == (1.0, 2.0)
    vector = SparseVector(("a", "b"), np.array([1, 0.5], np.float32))
    assert q.sparse("s", vector=vector).vector == {"a": 1.0, "b": 0.5}
    assert q.sparse("s", vector={7: 1.0}).vector == {"7": 1.0}


def test_of_a_list_of_filters_all_must_hold() -> None:
    first, second = q.term("a", 1), q.term("b", 2)
    for make in (
        lambda filter: q.match("x", filter=filter),
        lambda filter: q.knn("e", vector=[1], filter=filter),
        lambda filter: q.sparse("s", vector={"a": 1}, filter=filter),
        lambda filter: q.rrf(q.match("x"), filter=filter),
        lambda filter: q.raw({"opensearch": {"match_all": {}}}, filter=filter),
    ):
        assert make([first, second]) == make(q.bool_(filter=[first, second]))
        assert make([first]) == make(first)
        assert make([]) == make(None)
        with pytest.raises(QueryError, match=r"filter must be a query .* not str"):
            make("a:1")


def test_numbers_out_of_numpy_are_numbers() -> None:
    assert q.term("n", np.int64(3)) == q.term("n", 3)
    assert q.range("n", gte=np.float32(0.5)) == q.range("n", gte=0.5)


def test_dates_are_pythons_or_text() -> None:
    plan = IndexPlan(
        text={"body": TextField()},
        filter={"day": FilterField(type="date"), "named": FilterField(type="date", format="d MMM yyyy")},
    )
    day, moment = date(2024, 1, 31), datetime(2024, 1, 31, 12, 30, tzinfo=timezone.utc)
    assert q.range("day", gte=day, lt=moment) == q.range(
        "day", gte="2024-01-31", lt="2024-01-31T12:30:00+00:00"
    )
    assert q.terms("day", [day]) == q.terms("day", ["2024-01-31"])
    for good in (day, moment, "now-7d/d", "2024", 1706659200000):
        q.bool_(filter=q.term("day", good)).to_body("opensearch", plan=plan)
    q.bool_(filter=q.term("named", "31 Jan 2024")).to_body("opensearch", plan=plan)
    with pytest.raises(QueryError, match="'31 Jan 2024' is not a date: it isn't written as strict_date"):
        q.bool_(filter=q.term("day", "31 Jan 2024")).to_body("opensearch", plan=plan)
    with pytest.raises(QueryError, match="of type date: 'yesterday' is not a date"):
        q.bool_(filter=q.range("day", gte="yesterday")).to_body("opensearch", plan=plan)


def test_the_default_query_follows_the_plan() -> None:
    minilm = DenseField(encoder="minilm", source=("t",))
    lexical, splade = SparseField(source=("t",)), SparseField(encoder="splade:x", source=("t",))
    given = DenseField(dims=3)
    dense = {"e": minilm}
    cases = [
        ({"text": {"t": TextField()}}, ["match"]),
        ({"text": {"t": TextField()}, "dense": dense}, ["match", "knn"]),
        ({"text": {"t": TextField()}, "dense": dense, "sparse": {"l": lexical}}, ["match", "knn"]),
        (
            {"text": {"t": TextField()}, "dense": dense, "sparse": {"s": splade}},
            ["match", "knn", "sparse"],
        ),
        ({"dense": dense, "sparse": {"l": lexical}}, ["knn", "sparse"]),
        ({"text": {"t": TextField()}, "dense": {"g": given}}, ["match"]),
    ]
    for parts, kinds in cases:
        query = default_query(IndexPlan(**parts))
        legs = [query] if len(kinds) == 1 else query.legs
        assert [leg.to_dict()["type"] for leg in legs] == kinds
    with pytest.raises(QueryError, match="precomputed vectors have no encoder"):
        default_query(IndexPlan(dense={"g": given}))


def test_a_body_needs_no_connection() -> None:
    body = q.match("red fox", fields=["title^2", "body"]).to_body("opensearch")
    assert body["query"] == {
        "multi_match": {"query": "red fox", "type": "best_fields", "fields": ["title^2", "body"]}
    }
    fused = q.rrf(q.match("a", fields="t"), q.knn("e", vector=[1.0]))
    assert "hybrid" in fused.to_body(profile("opensearch"))["query"]
    assert len(fused.to_body("elasticsearch-basic")) == 4
    assert "rrf" in fused.to_body("elasticsearch-enterprise")["retriever"]
    with pytest.raises(QueryError, match="has a text and no vector"):
        q.knn("e", text="words").to_body()
    with pytest.raises(QueryError, match="to_body"):
        fused.to_body(sise=3)
    # The method is the function's old name.
    for query in (q.match("a", fields="t"), fused):
        assert query.to_body("opensearch", size=3) == esembed.to_body(query, "opensearch", size=3)


def test_all_gaps_are_listed_at_once() -> None:
    query = q.bool_(
        must=[q.raw({"opensearch": {}}), q.knn("e", vector=[1], exact=True)], should=q.rank_feature("p")
    )
    with pytest.raises(UnsupportedFeatureError) as caught:
        query.to_body("elasticsearch-reduced")
    assert len(caught.value.gaps) == 3
    with pytest.raises(UnsupportedFeatureError, match="hybrid takes at most 5"):
        q.rrf(*[q.match("x", fields="t")] * 6).to_body("opensearch", fusion="server")


def test_opensearch_weights_are_floats_that_sum_to_one() -> None:
    query = q.rrf(q.match("a", fields="t"), q.knn("e", vector=[1]), weights=[1, 3])
    (processor,) = query.to_body("opensearch")["search_pipeline"]["phase_results_processors"]
    weights = processor["score-ranker-processor"]["combination"]["parameters"]["weights"]
    assert weights == [0.25, 0.75]
    assert all(isinstance(weight, float) for weight in weights)


def test_light_query_terms_go_and_it_is_said() -> None:
    from esembed.search.compile import compile_query

    vector = {f"t{i}": 1.0 + i for i in range(2000)}
    compiled = compile_query(q.sparse("s", vector=vector), profile("opensearch"))
    assert compiled.body is not None
    kept = compiled.body["query"]["bool"]["should"]
    assert len(kept) == 1000
    assert {"t1999"} <= {c["rank_feature"]["field"].removeprefix("s.") for c in kept}
    assert "1000 of 2000 query terms kept" in compiled.notes[0]


def test_a_cursor_is_opaque_and_bounded() -> None:
    cursor = Cursor(version=1, offset=10, window=100, digest="abc")
    assert Cursor.decode(cursor.encode(), "abc") == cursor
    for broken in (
        "",
        "x",
        cursor.encode() + "AAAA",
        Cursor(version=2, offset=0, window=1, digest="abc").encode(),
    ):
        with pytest.raises(QueryError, match="cursor is broken"):
            Cursor.decode(broken, "abc")
    with pytest.raises(QueryError, match="another query"):
        Cursor.decode(cursor.encode(), "abd")
    huge = Cursor(version=1, offset=99_999, window=100, digest="abc").encode()
    with pytest.raises(QueryError, match="broken"):
        Cursor.decode(huge, "abc")


def test_walking_reaches_filters() -> None:
    query = q.rrf(q.match("x", filter=q.bool_(filter=q.term("a", 1))), filter=q.exists("b"))
    assert {type(node).__name__ for node in walk(query)} == {"Rrf", "Match", "Bool", "Term", "Exists"}
