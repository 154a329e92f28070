"""Filters on nested objects beside vectors that lie in others, in every place a search for them can stand.

Both engines answer some of these with no hits and no error (:meth:`ElasticsearchQuery._knn_section`,
:meth:`OpenSearchQuery._filter`): what can't be right is refused when it is compiled.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

from esembed import query as q
from esembed.dialect.live import mapped_types
from esembed.errors import UnsupportedFeatureError
from esembed.query import Filter, Query
from esembed.query.tree import add_filter
from esembed.search.compile import compile_query
from esembed.search.options import SearchOptions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import query_data as data

DOCS = {
    f"{author}-{lang}-{tag}": {"title": "red fox", "lang": lang, "authors": [{"name": author}], "tags": tag}
    for author, lang, tag in itertools.product(("ann", "bob"), ("en", "de"), ("x", "y"))
}
ann = q.nested("authors", q.term("authors.name", "ann"))
tag = q.nested("tags", q.term("tags.t", "x"))
en = q.term("lang", "en")
FILTERS: dict[str, tuple[Filter, Any]] = {
    "nested": (ann, lambda doc: "ann" in doc),
    "two": (q.bool_(filter=[ann, tag]), lambda doc: "ann" in doc and "x" in doc),
    "either": (q.bool_(should=[ann, tag]), lambda doc: "ann" in doc or "x" in doc),
    "nested or plain": (q.bool_(should=[ann, en]), lambda doc: "ann" in doc or "en" in doc),
    "nested and plain": (q.bool_(must=[ann], filter=en), lambda doc: "ann" in doc and "en" in doc),
    "not": (q.bool_(must_not=ann), lambda doc: "ann" not in doc),
    "not not": (q.bool_(must_not=q.bool_(must_not=ann)), lambda doc: "ann" in doc),
    "one and not another": (q.bool_(must=[tag], must_not=[ann]), lambda doc: "bob" in doc and "x" in doc),
    "by itself in a bool": (q.bool_(filter=[q.bool_(must=[ann])]), lambda doc: "ann" in doc),
    "its own path": (q.nested("chunks", q.exists("chunks.embedding")), lambda doc: True),
    "plain": (en, lambda doc: "en" in doc),
}
knn = q.knn("embedding", vector=data.embed("red").tolist(), k=4)
nothing = q.match("nothing", fields="title")
LEGS: dict[str, Query] = {
    "knn": knn,
    "boosted": knn.replace(boost=2.0),
    "near": knn.replace(similarity=-1.0),
    "must": q.bool_(must=knn),
    "should": q.bool_(should=[nothing, knn], boost=0.5),
    "two": q.bool_(should=[knn, knn.replace(boost=3.0)], must_not=q.term("lang", "fr")),
}
INSIDE: dict[str, Query] = {
    "must beside": q.bool_(must=[q.match("fox", fields="title"), knn]),
    "boost": q.boost_by(knn, "price"),
    "condition": q.bool_(must=q.match("fox", fields="title"), filter=knn),
    "deeper": q.bool_(should=[nothing, q.bool_(must=knn)]),
}


@pytest.fixture
def nested_index(query_world: Any) -> Any:
    """Documents in chunks, with two other nested fields."""
    plan, client = data.chunk_plan("nested"), query_world.client
    body = data.mapping_body(plan, query_world.capabilities)
    body["mappings"]["properties"] |= {
        "price": {"type": "integer"},
        "authors": {"type": "nested", "properties": {"name": {"type": "keyword"}}},
        "tags": {"type": "nested", "properties": {"t": {"type": "keyword"}}},
    }
    client.request("PUT", f"/{query_world.name}", body=body)
    docs = {
        doc_id: {**doc, "price": 2, "tags": [{"t": doc["tags"]}], "chunks": ["red fox", f"{doc_id} river"]}
        for doc_id, doc in DOCS.items()
    }
    lines = data.bulk_bytes(plan, query_world.capabilities, docs)
    answer = client.request("POST", f"/{query_world.name}/_bulk", params={"refresh": "true"}, body=lines)
    assert not answer.body["errors"], answer.body
    return query_world


def found(world: Any, query: Query, *, leg: bool) -> list[str]:
    """What is found, by a search of the query alone, or by the query as a leg of the client's fusion."""
    live = world.client.request("GET", f"/{world.name}/_mapping").body[world.name]["mappings"]
    options = SearchOptions(size=20, fusion="client" if leg else "auto")
    made = compile_query(
        q.rrf(query) if leg else query,
        world.capabilities,
        options,
        plan=data.chunk_plan("nested"),
        mapping=mapped_types(live),
    )
    body = made.legs[0].body if leg else made.bodies[0]
    answer = world.client.request("POST", f"/{world.name}/_search", body=body)
    return sorted(hit["_id"] for hit in answer.body["hits"]["hits"])


def test_a_nested_filter_beside_nested_vectors(nested_index: Any) -> None:
    for (name, (only, passes)), (form, query) in itertools.product(FILTERS.items(), LEGS.items()):
        wanted = [doc for doc in sorted(DOCS) if passes(doc)]
        for leg in (False, True):
            got = found(nested_index, add_filter(query, only), leg=leg)
            # k counts the nearest chunks' documents, four of them; "plain" and "nested" leave just four.
            assert set(got) <= set(wanted), (form, name, leg)
            assert len(got) == min(4, len(wanted)), (form, name, leg, got)


def test_inside_other_clauses_it_finds_what_it_should_or_is_refused(nested_index: Any) -> None:
    engine = nested_index.capabilities.engine
    for (name, (only, passes)), (form, query) in itertools.product(FILTERS.items(), INSIDE.items()):
        wanted = [doc for doc in sorted(DOCS) if passes(doc)]
        if engine == "elasticsearch" and name != "plain":
            with pytest.raises(UnsupportedFeatureError, match="make it a leg of its own"):
                found(nested_index, add_filter(query, only), leg=False)
            continue
        got = found(nested_index, add_filter(query, only), leg=False)
        assert set(got) <= set(wanted), (form, name)
        assert len(got) == min(4, len(wanted)), (form, name, got)


def test_filters_on_the_objects_that_hold_the_vectors(nested_index: Any) -> None:
    vectors = q.knn("chunks.embedding", vector=data.embed("fox").tolist(), k=20, num_candidates=100)
    client = nested_index.client
    properties = {"chunks": {"type": "nested", "properties": {"word": {"type": "keyword"}}}}
    client.request("PUT", f"/{nested_index.name}/_mapping", body={"properties": properties})
    chunk = {"embedding": data.embed("fox").tolist(), "word": "w"}
    for lang in ("en", "de"):
        path = f"/{nested_index.name}/_doc/extra-{lang}"
        client.request("PUT", path, params={"refresh": "true"}, body={"lang": lang, "chunks": [chunk]})
    on_object = q.term("chunks.word", "w")
    for query in (
        q.nested("chunks", vectors.replace(filter=on_object), filter=en),
        q.nested("chunks", q.bool_(must=vectors, filter=on_object), filter=en),
    ):
        if nested_index.capabilities.engine == "opensearch":
            with pytest.raises(UnsupportedFeatureError, match="exact=True"):
                found(nested_index, query, leg=False)
        else:
            assert found(nested_index, query, leg=False) == ["extra-en"]
