# Generated from tests/_async/test_field_uses.py by scripts/run_unasync.py; change that file and run the script.
"""What can be sorted, collapsed, counted and boosted by: refused before it is sent, alike on both engines."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import Index, IndexPlan, IngestOptions
from esembed import query as q
from esembed.errors import QueryError

PLAN = IndexPlan.from_toml("""
[text.body]
[text.title]
keyword = true
[filter.lang]
[filter."meta.price"]
type = "float"
[filter.day]
type = "date"
[filter.ok]
type = "boolean"
[filter.place]
type = "geo_point"
[dense.v]
dims = 2
""")
OTHERS = {
    "plain": {"type": "keyword", "doc_values": False},
    "words": {"type": "text", "fielddata": True},
    "same": {"type": "alias", "path": "lang"},
    "kids": {"type": "nested", "properties": {"age": {"type": "integer"}}},
}
ALL = q.match_all()


@pytest.fixture
def index(client: Any, esembed_index_name: str) -> Index:
    made = Index.create(client, esembed_index_name, PLAN)
    client.indices.put_mapping(index=esembed_index_name, body={"properties": OTHERS})
    records = [
        {"_id": str(i), "body": "fox", "title": f"t{i}", "lang": "en", "meta": {"price": 3 - i}, "v": [1, i],
         "day": "2024-01-01", "ok": True, "place": {"lat": 1, "lon": i}, "words": f"w{i}",
         "plain": "x", "kids": [{"age": i}]}
        for i in range(3)
    ]  # fmt: skip
    report = made.ingest(records, IngestOptions(learn_weights=False, refresh=True))
    assert report.indexed == 3, report.errors
    return made


WRONG = ["body", "title", "nope", "meta", "v", "plain", "kids", "meta.price:asc"]


@pytest.mark.parametrize("field", [*WRONG, "place"])
def test_what_is_not_sorted_collapsed_or_counted_by(index: Index, field: str) -> None:
    for sort in (field, {field: "desc"}, [{field: {"order": "asc"}}]):
        with pytest.raises(QueryError, match=r"sort|no field"):
            index.search(ALL, sort=sort)
    with pytest.raises(QueryError):
        index.search(q.collapse(ALL, field))
    for kind in ("terms", "avg", "date_histogram", *(() if field == "place" else ("missing", "cardinality"))):
        with pytest.raises(QueryError, match="aggregation 'x'"):
            index.search(ALL, aggregations={"x": {kind: {"field": field}}})
    with pytest.raises(QueryError):
        index.search(q.boost_by(ALL, field))


def test_the_remedy_is_named(index: Index) -> None:
    with pytest.raises(QueryError, match=r"name 'title\.keyword'"):
        index.search(ALL, sort="title")
    with pytest.raises(QueryError, match="keyword = true"):
        index.search(ALL, aggregations={"x": {"terms": {"field": "body"}}})


@pytest.mark.parametrize(
    "sort",
    [
        "meta.price", "lang", "title.keyword", "day", "ok", "same", "words", "_score", "_doc",
        {"lang": "DESC"}, {"meta.price": {"order": "asc", "missing": "_last"}},
        {"gone": {"order": "asc", "unmapped_type": "long"}},
        {"kids.age": {"order": "asc", "nested": {"path": "kids"}}},
        {"_geo_distance": {"place": {"lat": 1, "lon": 2}, "order": "asc"}},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_sorted_by(index: Index, sort: Any) -> None:
    assert len(index.search(ALL, sort=sort)) == 3


@pytest.mark.parametrize(
    "sort", ["kids.age", {"lang": "up"}, 7, [], {}, [["lang"]], {"lang": {"order": 1}}], ids=str
)
def test_sorts_that_mean_nothing(index: Index, sort: Any) -> None:
    if sort == []:
        assert len(index.search(ALL, sort=sort)) == 3
        return
    with pytest.raises(QueryError):
        index.search(ALL, sort=sort)


def test_search_after(index: Index) -> None:
    two = [{"meta.price": "asc"}, {"lang": "asc"}]
    assert (index.search(ALL, sort=two, search_after=[2.0, "en"])).ids == ["0"]
    for after in ([], [1.0], [1.0, "en", 3], "en", [1.0, ["en"]], [float("nan"), "en"], [2**70, "en"]):
        with pytest.raises(QueryError, match="search_after"):
            index.search(ALL, sort=two, search_after=after)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "facet",
    [
        {"terms": {"field": "lang"}}, {"terms": {"field": "words"}}, {"terms": {"field": "same"}},
        {"avg": {"field": "meta.price"}}, {"max": {"field": "day"}}, {"terms": {"field": "ok"}},
        {"missing": {"field": "place"}}, {"geo_bounds": {"field": "place"}}, {"terms": {"field": "_index"}},
        {"filter": {"match": {"body": "fox"}}},
        {"nested": {"path": "kids"}, "aggs": {"y": {"max": {"field": "kids.age"}}}},
        {"composite": {"size": 2, "sources": [{"a": {"terms": {"field": "lang"}}}]}},
        {"date_histogram": {"field": "day", "calendar_interval": "month"}},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_counted(index: Index, facet: dict[str, Any]) -> None:
    assert (index.search(ALL, aggregations={"x": facet})).aggregations["x"]


@pytest.mark.parametrize(
    "facet",
    [
        {"terms": {"field": "lang", "size": 10**9}}, {"terms": {"field": "lang", "shard_size": 70_000}},
        {"percentiles": {"field": "meta.price", "tdigest": {"compression": 1e12}}},
        {"auto_date_histogram": {"field": "day", "buckets": 10**6}}, {"avg": {"field": "lang"}},
        {"nested": {"path": "meta"}}, {"composite": {"sources": [{"a": {"terms": {"field": "body"}}}]}},
        {"terms": {"field": "lang"}, "aggs": {"y": {"terms": {"field": "meta"}}}},
        {"max": {"field": "kids.age"}},
    ],
    ids=str,
)  # fmt: skip
def test_facets_that_ask_for_too_much_or_nothing(index: Index, facet: dict[str, Any]) -> None:
    with pytest.raises(QueryError, match="aggregation"):
        index.search(ALL, aggregations={"x": facet})


def test_fields_that_came_later_are_looked_up(index: Index, client: Any) -> None:
    client.indices.put_mapping(index=index.name, body={"properties": {"late": {"type": "long"}}})
    assert len(index.search(ALL, sort="late")) == 3


@pytest.mark.parametrize("levels", [20, 29, 30, 45])
def test_depth_is_refused_before_the_engine_does(index: Index, levels: int) -> None:
    deep: Any = q.term("lang", "en")
    for _ in range(levels):
        deep = q.bool_(must=[deep])  # filters of filters are flattened
    if index.capabilities.engine == "elasticsearch" and levels >= 30:
        with pytest.raises(QueryError, match="nested deeper than the 30 levels"):
            index.search(deep)
    else:
        assert len(index.search(deep)) == 3


def test_too_many_ids(index: Index) -> None:
    many = [str(i) for i in range(10_001)]
    if index.capabilities.engine == "elasticsearch":
        with pytest.raises(QueryError, match="ids has 10001 values, and this engine takes 10000"):
            index.search(q.ids(*many))
    else:
        assert len(index.search(q.ids(*many))) == 3
    with pytest.raises(QueryError, match="ids has"):
        index.search(q.ids(*map(str, range(65_537))))
