# Generated from tests/_async/test_analysis.py by scripts/run_unasync.py; change that file and run the script.
"""Analyzers of a plan's own, normalizers, patterns, and objects whose values belong together."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import Index, IndexPlan
from esembed import query as q
from esembed.errors import PlanError, QueryError
from esembed.search.compile import to_body

SHOP = IndexPlan.from_toml(
    """
id_field = "id"

[text.title]
analyzer = "words"
search_analyzer = "words_and_synonyms"

[filter.brand]
normalizer = "folded"
[filter.sku]
type = "KIND"
[filter.variants]
type = "nested"
[filter.variants.fields.color]
normalizer = "lowercase"
[filter.variants.fields.size]
[filter.variants.fields.stock]
type = "integer"

[analysis.analyzer.words]
type = "custom"
tokenizer = "standard"
char_filter = ["html_strip"]
filter = ["lowercase"]
[analysis.analyzer.words_and_synonyms]
type = "custom"
tokenizer = "standard"
filter = ["lowercase", "synonyms"]
[analysis.filter.synonyms]
type = "synonym_graph"
synonyms = ["tv, television"]
[analysis.normalizer.folded]
type = "custom"
filter = ["lowercase", "asciifolding"]
""".replace("KIND", "keyword")
)

RECORDS = [
    {
        "id": "a",
        "title": "<b>Television</b> stand",
        "brand": "Böse",
        "sku": "TV-100-X",
        "variants": [
            {"color": "Red", "size": "S", "stock": 3},
            {"color": "blue", "size": "M", "stock": 0},
        ],
    },
    {
        "id": "b",
        "title": "shirt",
        "brand": "bose",
        "sku": "SH-200*",
        "variants": [{"color": "red", "size": "M", "stock": 5}],
    },
    {"id": "c", "title": "mug", "brand": "other", "sku": "MU-300"},
]


@pytest.fixture
def shop(client: Any, esembed_engine: Any, esembed_index_name: str) -> Index:
    """The shop, on an engine that has these filters."""
    if esembed_engine.engine == "elasticsearch":
        pytest.skip("the local Elasticsearch has no module analysis-common; see test_what_an_engine_lacks")
    index = Index.create(client, esembed_index_name, SHOP)
    report = index.ingest(RECORDS)
    assert report.indexed == 3, report.errors
    return index


def test_words_are_read_as_the_plan_says(shop: Index) -> None:
    assert (shop.search("tv")).ids == ["a"]
    assert not shop.search("b")  # the tag is no word
    assert set((shop.search(q.match_all(), filter=q.term("brand", "BOSE"))).ids) == {"a", "b"}
    facets = {"brands": {"terms": {"field": "brand"}}}
    hits = shop.search(q.match_all(), aggregations=facets)
    assert {b["key"] for b in hits.aggregations["brands"]["buckets"]} == {"bose", "other"}
    # The plan that the index holds is the same, and opens it.
    assert shop.plan.analysis == SHOP.analysis
    assert (Index.open(shop.client.official, shop.name)).plan == shop.plan


def test_a_migration_takes_the_analysis_along(client: Any, shop: Index) -> None:
    alias = f"{shop.name}-alias"
    shop.client.request(
        "POST", "/_aliases", body={"actions": [{"add": {"index": shop.concrete_index, "alias": alias}}]}
    )
    opened = Index.open(client, alias)
    changed = IndexPlan.from_json(SHOP.to_json().replace("tv, television", "tv, television, telly"))
    opened.migrate(changed)
    moved = Index.open(client, alias)
    assert (moved.search("telly")).ids == ["a"]
    assert not shop.search("telly")
    moved.delete_index()


# -- what both engines have -----------------------------------------------------------------------------

PLAIN = IndexPlan.from_toml("""
id_field = "id"
[text.title]
[filter.sku]
[filter.brand]
normalizer = "lowercase"
[filter.variants]
type = "nested"
[filter.variants.fields.color]
normalizer = "lowercase"
[filter.variants.fields.size]
[filter.variants.fields.stock]
type = "integer"
""")


def _filled(client: Any, name: str) -> Index:
    index = Index.create(client, name, PLAIN)
    assert (index.ingest(RECORDS)).indexed == 3
    return index


def _ids(index: Index, *filters: Any) -> set[str]:
    return set((index.search(q.match_all(), filter=list(filters))).ids)


def test_values_of_one_object(client: Any, esembed_index_name: str) -> None:
    index = _filled(client, esembed_index_name)
    red, medium = q.term("variants.color", "RED"), q.term("variants.size", "M")
    assert _ids(index, q.nested("variants", q.bool_(filter=[red, medium]))) == {"b"}
    assert _ids(index, q.nested("variants", red), q.nested("variants", medium)) == {"a", "b"}
    stocked = q.nested("variants", q.bool_(filter=[medium, q.range("variants.stock", gt=0)]))
    assert _ids(index, stocked) == {"b"}
    with pytest.raises(QueryError, match=r"put the clause into q\.nested\('variants'"):
        index.search(q.match_all(), filter=red)
    with pytest.raises(QueryError, match="stock"):
        index.search(q.match_all(), filter=q.nested("variants", q.range("variants.stock", gt="x")))
    with pytest.raises(QueryError, match="colour"):
        index.search(q.match_all(), filter=q.nested("variants", q.term("variants.colour", "red")))
    counts = {
        "all": {"nested": {"path": "variants"}, "aggs": {"sizes": {"terms": {"field": "variants.size"}}}}
    }
    hits = index.search(q.match_all(), aggregations=counts)
    sizes = {b["key"]: b["doc_count"] for b in hits.aggregations["all"]["sizes"]["buckets"]}
    assert sizes == {"S": 1, "M": 2}
    # A partial update replaces the list; a delete by what is inside an object.
    index.update("b", {"variants": [{"color": "green", "size": "L"}]}, refresh=True)
    assert _ids(index, q.nested("variants", q.term("variants.color", "green"))) == {"b"}
    report = index.delete_by_query(q.nested("variants", q.term("variants.size", "L")), max_delete=1)
    assert report.deleted == 1


def test_patterns(client: Any, esembed_index_name: str) -> None:
    index = _filled(client, esembed_index_name)
    assert _ids(index, q.wildcard("sku", "*-?00*")) == {"a", "b", "c"}
    assert _ids(index, q.wildcard("sku", "TV*X")) == {"a"}
    assert _ids(index, q.wildcard("sku", "tv*")) == set()
    assert _ids(index, q.wildcard("sku", "tv*", case_insensitive=True)) == {"a"}
    assert _ids(index, q.wildcard("sku", r"SH-200\*")) == {"b"}
    for field, message in (
        ("title", "analyzed words"),
        ("variants.stock", "nested"),
        ("nothing", "no field"),
    ):
        with pytest.raises(QueryError, match=message):
            index.search(q.match_all(), filter=q.wildcard(field, "x*"))


def test_a_field_made_for_patterns(client: Any, esembed_engine: Any, esembed_index_name: str) -> None:
    plan = IndexPlan.from_toml('[text.title]\n[filter.sku]\ntype = "wildcard"\n')
    if esembed_engine.engine == "elasticsearch":
        # Not in the local distribution: said of the field, before anything is made.
        with pytest.raises(PlanError, match=r"filter\.sku.*wildcard.*reduced distribution"):
            Index.create(client, esembed_index_name, plan)
        return
    index = Index.create(client, esembed_index_name, plan)
    index.ingest([{"id": "a", "title": "x", "sku": "TV-100-X"}])
    assert _ids(index, q.wildcard("sku", "*100*")) == {"a"}
    assert _ids(index, q.prefix("sku", "TV")) == {"a"}
    assert (index.search(q.match_all(), sort="sku")).ids == ["a"]


def test_what_an_engine_lacks(client: Any, esembed_engine: Any, esembed_index_name: str) -> None:
    wrong = {
        "analysis.filter.mine": {"filter": {"mine": {"type": "no_such_filter"}}},
        "analysis.tokenizer.cut": {"tokenizer": {"cut": {"type": "no_such_tokenizer"}}},
        "analysis.analyzer.a": {
            "analyzer": {"a": {"type": "custom", "tokenizer": "standard", "filter": ["absent"]}}
        },
    }
    for where, analysis in wrong.items():
        plan = IndexPlan.from_dict({"text": {"title": {}}, "analysis": analysis})
        with pytest.raises(PlanError, match=rf"{where}: the engine refuses it"):
            Index.create(client, esembed_index_name, plan)
    unknown = IndexPlan.from_toml('[text.title]\n[filter.brand]\nnormalizer = "absent"\n')
    with pytest.raises(PlanError, match=r"filter\.brand: the engine refuses it.*absent"):
        Index.create(client, esembed_index_name, unknown)
    if esembed_engine.engine == "elasticsearch":
        with pytest.raises(PlanError, match="reduced distribution"):
            Index.create(client, esembed_index_name, SHOP)


def test_analyzers_are_not_added_to_an_index(client: Any, esembed_index_name: str) -> None:
    made = Index.create(client, esembed_index_name, IndexPlan.from_toml("[text.title]"))
    made.client.request("PUT", f"/{esembed_index_name}/_mapping", body={"_meta": {"esembed": None}})
    plan = IndexPlan.from_dict(
        {"text": {"title": {"analyzer": "a"}}, "analysis": {"analyzer": {"a": {"type": "standard"}}}}
    )
    with pytest.raises(PlanError):
        Index.attach(client, esembed_index_name, plan)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"analysis": {"analyser": {}}}, "analysis: there are"),
        ({"analysis": {"filter": ["x"]}}, r"analysis\.filter: takes names"),
        ({"analysis": {"filter": {"x": "lowercase"}}}, r"analysis\.filter\.x: takes the engine"),
        ({"filter": {"a": {"type": "integer", "normalizer": "lowercase"}}}, "has no normalizer"),
        ({"filter": {"a": {"type": "nested"}}}, "nested has fields"),
        ({"filter": {"a": {"fields": {"b": {}}}}}, "nested has fields"),
        (
            {"filter": {"a": {"type": "nested", "fields": {"b": {"type": "nested", "fields": {"c": {}}}}}}},
            "can't",
        ),
        ({"filter": {"a": {"type": "nested", "fields": {"b.c": {}}}}}, "have a dot"),
        ({"filter": {"a": {"type": "nested", "fields": {"b": {"type": "rank_feature"}}}}}, "can't lie"),
    ],
    ids=str,
)
def test_plans_that_cant_be(plan: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        IndexPlan.from_dict({"text": {"title": {}}, **plan})


def test_a_plan_alone_knows_its_objects() -> None:
    """Without an index at hand, too."""
    red = q.nested("variants", q.term("variants.color", "red"))
    body = to_body(q.bool_(filter=red), "elasticsearch-basic", plan=PLAIN)
    assert isinstance(body, dict)
    assert body["query"]["bool"]["filter"][0]["nested"]["path"] == "variants"
    with pytest.raises(QueryError, match=r"q\.nested"):
        to_body(q.bool_(filter=q.term("variants.color", "red")), "opensearch", plan=PLAIN)
    again = IndexPlan.from_json(PLAIN.to_json())
    assert again == PLAIN
    assert hash(again) == hash(PLAIN)
    assert IndexPlan.from_json(SHOP.to_json()) == SHOP
