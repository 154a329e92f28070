"""How the fields of one text query combine, and what stands in the way of reading them as one text."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import DenseField, IndexPlan, TextField
from esembed import query as q
from esembed.capabilities import profile
from esembed.dialect.field_types import mapped_analyzers
from esembed.errors import QueryError, UnsupportedFeatureError
from esembed.plan.default_query import default_query
from esembed.query import resolve_text
from esembed.search.compile import CompiledSearch, SearchCompiler, compile_query
from esembed.search.options import SearchOptions
from esembed.search.request import make_request

PLAN = IndexPlan(text={"name": TextField(boost=3.0), "body": TextField()})


def compiled(query: Any, plan: IndexPlan | None = PLAN, engine: str = "opensearch") -> CompiledSearch:
    return compile_query(query, profile(engine), plan=plan)


def clause(query: Any, plan: IndexPlan | None = PLAN, engine: str = "opensearch") -> Any:
    body = compiled(query, plan, engine).body
    assert body is not None
    return body["query"]


def test_the_default_query_of_several_text_fields_reads_them_as_one() -> None:
    leg = default_query(PLAN)
    assert leg == q.multi_match(kind="auto", name="bm25")
    combined = {"combined_fields": {"query": "web server", "fields": ["name^3", "body"]}}
    for engine in ("opensearch", "elasticsearch-basic", "elasticsearch-reduced"):
        assert clause(resolve_text(leg, "web server"), engine=engine) == combined
    assert default_query(PLAN.replace(text={"body": TextField()})) == q.match(name="bm25")


def test_a_stored_match_stays_what_it_was() -> None:
    plan = PLAN.replace(query=q.match(name="bm25"))
    assert clause(resolve_text(default_query(plan), "web server"), plan) == {
        "multi_match": {"query": "web server", "type": "best_fields", "fields": ["name^3", "body"]}
    }
    assert IndexPlan.from_json(plan.to_json()).query == q.match(name="bm25")


def test_a_whole_name_is_one_rare_word_more() -> None:
    plan = PLAN.replace(text={"name": TextField(boost=3.0, keyword=True), "body": TextField()})
    found = clause(q.multi_match("git", kind="auto", filter=q.exists("body")), plan)
    (scoring,) = (found["bool"]["should"],)
    assert scoring == [
        {"combined_fields": {"query": "git", "fields": ["name^3", "body"]}},
        {
            "term": {
                "name.keyword": {
                    "value": "git",
                    "case_insensitive": True,
                    "boost": pytest.approx(10 / 2.2),
                }
            }
        },
    ]
    assert found["bool"]["minimum_should_match"] == 1
    assert found["bool"]["filter"] == [{"exists": {"field": "body"}}]
    # A pasted page is nobody's name: what is longer than the keyword field keeps can't be equal to it.
    assert "combined_fields" in clause(q.multi_match("git " * 3000, kind="auto"), plan)
    # On the common scale, as the words beside it: OpenSearch 3 scores without the factor 2.2.
    plan = plan.replace(dense={"e": DenseField(dims=2)})
    leg = q.multi_match("git", kind="auto", boost=2.0)
    search = compiled(q.linear(leg, q.knn("e", vector=[1.0, 0.0]), normalizer="floor"), plan)
    inner = search.legs[0].body["query"]["bool"]["should"]
    assert inner[0]["combined_fields"]["boost"] == pytest.approx(4.4)
    assert inner[1]["term"]["name.keyword"]["boost"] == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"name": TextField(), "body": TextField(analyzer="english")}, "different analyzers"),
        ({"name": TextField(), "body": TextField(search_analyzer="simple")}, "different analyzers"),
        ({"name": TextField(k1=0.9), "body": TextField()}, "'name' has BM25 parameters of its own"),
        ({"name": TextField(), "body": TextField(b=0.2)}, "'body' has BM25 parameters of its own"),
        ({"name": TextField(boost=0), "body": TextField()}, "'name' has a boost of 0"),
    ],
)
def test_what_stands_in_the_way(fields: dict[str, TextField], why: str) -> None:
    plan = PLAN.replace(text=fields)
    search = compiled(q.multi_match("web server", kind="auto"), plan)
    assert search.body is not None
    assert search.body["query"]["multi_match"]["type"] == "cross_fields"
    assert why in search.notes[0]
    with pytest.raises(QueryError, match=why):
        compiled(q.multi_match("web server", kind="combined_fields"), plan)
    # One analyzer for the text makes them one group again.
    if "analyzers" in why:
        search = compiled(q.multi_match("web server", kind="auto", analyzer="simple"), plan)
        assert not search.notes
        assert search.body is not None
        assert search.body["query"]["multi_match"]["analyzer"] == "simple"


def test_the_live_mapping_says_how_words_are_made() -> None:
    text = {"type": "text"}
    live = {
        "properties": {
            "name": {**text, "analyzer": "english", "norms": False},
            "body": {**text, "analyzer": "english"},
            "more": {**text, "analyzer": "x", "search_analyzer": "english", "similarity": "BM25"},
            "own": {**text, "similarity": "mine"},
            "id": {"type": "keyword", "fields": {"words": text}},
        }
    }
    analyzers = mapped_analyzers(live)
    assert analyzers == {
        "name": None,
        "body": "english",
        "more": "english",
        "own": None,
        "id.words": "default",
    }
    types = {"name": "text", "body": "text", "more": "text", "own": "text", "id": "keyword"}
    compiler = SearchCompiler(profile("opensearch"), plan=PLAN, mapping=types, analyzers=analyzers)

    def kind(*fields: str) -> Any:
        request = make_request(
            q.multi_match("web server", kind="auto", fields=fields), SearchOptions(), max_window=10_000
        )
        body = compiler.compile(request).body
        assert body is not None
        return next(iter(body["query"]))

    assert kind("body^2", "more") == "combined_fields"
    assert kind("name", "body") == kind("body", "own") == kind("body", "id") == "multi_match"
    assert kind("id") == kind("body") == "match"


def test_weights_are_what_they_are_to_each_other() -> None:
    # Both engines refuse a weight below 1.
    plan = PLAN.replace(text={"name": TextField(boost=1.0), "body": TextField(boost=0.25)})
    for kind in ("auto", "combined_fields"):
        found = clause(q.multi_match("x", kind=kind), plan)
        assert found["combined_fields"]["fields"] == ["name^4", "body"]


def test_typing_errors_and_odd_names_are_searched_otherwise() -> None:
    fuzzy = clause(q.multi_match("web", kind="auto", fuzziness="AUTO"))
    assert (fuzzy["multi_match"]["type"], fuzzy["multi_match"]["fuzziness"]) == ("best_fields", "AUTO")
    odd = PLAN.replace(text={"a^2": TextField(), "body": TextField()})
    assert "dis_max" in clause(q.multi_match("web", kind="auto", operator="and"), odd)
    for option in ({"fuzziness": 1}, {"analyzer": "simple"}, {"tie_breaker": 0.3}):
        with pytest.raises(QueryError, match=f"no {next(iter(option))}"):
            q.multi_match("web", kind="combined_fields", **option)  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="no tie_breaker"):
        q.multi_match("web", kind="auto", tie_breaker=0.3)


def test_an_engine_without_combined_fields() -> None:
    old = profile("opensearch", "2.19")
    search = compile_query(q.multi_match("web server", kind="auto"), old, plan=PLAN)
    assert search.body is not None
    assert search.body["query"]["multi_match"]["type"] == "cross_fields"
    with pytest.raises(UnsupportedFeatureError, match=r"combined_fields needs OpenSearch 3\.2"):
        compile_query(q.multi_match("web server", kind="combined_fields"), old, plan=PLAN)
