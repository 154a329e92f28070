# Generated from tests/_async/test_live_fields.py by scripts/run_unasync.py; change that file and run the script.
"""Fields that the live index has: facets and filters by any of them, and clear errors for others."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import FilterField, Index, IndexPlan, TextField
from esembed import query as q
from esembed._sync.client import EngineClient
from esembed.dialect.values import date_problem
from esembed.errors import QueryError

PLAN = IndexPlan(
    text={"title": TextField()},
    filter={
        "lang": FilterField(),
        "day": FilterField(type="date"),
        "german": FilterField(type="date", format="dd.MM.yyyy||epoch_second"),
    },
    id_field="id",
)
RECORDS: list[dict[str, Any]] = [
    {
        "id": f"r{number}",
        "title": "red fox",
        "lang": "en" if number % 2 else "de",
        "day": f"2024-01-{number + 1:02}",
        "german": f"{number + 1:02}.01.2024",
        "color": ["red", "blue"][number % 2],
        "labels": {"shelf": f"s{number % 3}"},
        "notes": [{"by": "ann", "stars": number}],
        "made": f"2024/01/{number + 1:02} 10:00:00",
    }
    for number in range(6)
]
EXTRA = {
    "color": {"type": "keyword"},
    "notes": {"type": "nested", "properties": {"by": {"type": "keyword"}, "stars": {"type": "integer"}}},
    "made": {"type": "date", "format": "yyyy/MM/dd HH:mm:ss||yyyy/MM/dd||epoch_millis"},
    "shades": {"type": "alias", "path": "color"},
}


def live(client: Any, name: str) -> Index:
    """An index whose mapping has more than its plan."""
    index = Index.create(client, name, PLAN)
    labels = {"type": "flattened" if index.client.engine == "elasticsearch" else "flat_object"}
    body = {"properties": {**EXTRA, "labels": labels}}
    index.client.request("PUT", f"/{name}/_mapping", body=body)
    report = index.ingest(RECORDS)
    assert (report.indexed, report.dead_lettered) == (6, 0)
    return Index.open(client, name)


def test_facets_and_filters_know_the_mapping_and_refuse_other_fields(
    client: Any, esembed_index_name: str
) -> None:
    index = live(client, esembed_index_name)
    assert index.fields["notes.stars"] == "integer"
    facets = {
        "langs": {"terms": {"field": "lang"}, "aggs": {"days": {"stats": {"field": "day"}}}},
        "colors": {"terms": {"field": "color"}},
        "shades": {"terms": {"field": "shades"}},
        "both": {"composite": {"sources": [{"a": {"terms": {"field": "lang"}}}]}},
        "red": {"filter": {"bool": {"must": [{"term": {"color": "red"}}]}}},
        "notes": {
            "nested": {"path": "notes"},
            "aggs": {
                "who": {
                    "terms": {"field": "notes.by"},
                    "aggs": {"up": {"reverse_nested": {}, "aggs": {"l": {"terms": {"field": "lang"}}}}},
                }
            },
        },
        "ids": {"cardinality": {"field": "_id"}} if index.client.engine == "opensearch" else {"global": {}},
    }
    for query in (q.match_all(), q.rrf(q.match("red", name="a"), q.match("fox", name="b"))):
        found = (index.search(query, aggregations=facets)).aggregations
        assert {b["key"]: b["doc_count"] for b in found["colors"]["buckets"]} == {"red": 3, "blue": 3}
        assert found["shades"]["buckets"] == found["colors"]["buckets"]
        assert found["red"]["doc_count"] == 3
        assert found["notes"]["who"]["buckets"][0]["up"]["l"]["buckets"][0]["doc_count"] == 3
        for wrong in (
            {"langs": {"terms": {"field": "lagn"}}},
            {"a": {"terms": {"field": "lang"}, "aggs": {"langs": {"max": {"field": "lagn"}}}}},
            {"langs": {"multi_terms": {"terms": [{"field": "lang"}, {"field": "lagn"}]}}},
            {"langs": {"filters": {"filters": {"one": {"term": {"lagn": "en"}}}}}},
        ):
            with pytest.raises(
                QueryError, match=r"langs'.*'lagn' \(there are: title.*did you mean 'lang'"
            ) as e:
                index.search(query, aggregations=wrong)
            assert e.value.field == "lagn"
        with pytest.raises(QueryError, match=r"nested objects 'notes'.*nested"):
            index.search(query, aggregations={"who": {"terms": {"field": "notes.by"}}})

    assert (index.search("red", filter=q.term("labels.shelf", "s1"))).ids == ["r1", "r4"]
    assert (index.search("red", filter=q.nested("notes", q.term("notes.stars", 3)))).ids == ["r3"]
    with pytest.raises(QueryError, match=r"q.nested\('notes'"):
        index.search("red", filter=q.term("notes.stars", 3))
    # A field that was mapped after the index was opened is no error.
    seam = EngineClient(client)
    seam.request("PUT", f"/{esembed_index_name}/_mapping", body={"properties": {"late": {"type": "keyword"}}})
    late = index.search("red", aggregations={"late": {"terms": {"field": "late"}}})
    assert late.aggregations["late"]["buckets"] == []


# fmt: off
DATES = [
    "2024", "2024-01", "2024-01-31", "2024-02-29", "2023-02-29", "2024-02-30", "2024-13-45",
    "2024-00-10", "2024-01-00", "2024-1-31", "2024-01-31T", "2024-01-31T10", "2024-01-31T10:00",
    "2024-01-31T10:00:00", "2024-01-31T10:00:00Z", "2024-01-31T10:00:00.123456789",
    "2024-01-31T10:00:00+01:00", "2024-01-31T10:00:00+0100", "2024-01-31T10:00:00Europe/Berlin",
    "2024-01-31T24:00", "2024-01-31T10:60", "2024-01-31T10:00:60", "2024-12-31T23:59:60Z",
    "2024-01-31T1:00", "2024-01-31T10:00:00.", "20240131", "99", "-1", "1706659200000",
    "1706659200000.5", "1e12", "2024/01/31", "31.01.2024", "30.02.2024", "2024-W05", "-2024-01-01",
    "12024-01-01", "0000-01-01", "now", "now-1d/d", "now-d", "now/d", "now-1d-2h", "now-7days", "now+",
    "nowish", "today", "2024-01-01||/M", "2024-01-01||+1M/d", "2024-13-01||/M", "2024-01-01||x",
    "2024-01-01||", "31.01.2024||/M", "24-01-31", "2024/02/29", "2024/02/30",
    "2024-01-31 10:00", "2024/01/31 10:00:00", "2024/01/31 24:00:00", " 2024-01-01", "", "now - 1d",
]
# fmt: on
FORMATS = {"day": None, "german": PLAN.filter["german"].format, "made": str(EXTRA["made"]["format"])}


def test_a_date_is_refused_here_only_if_the_engine_refuses_it(client: Any, esembed_index_name: str) -> None:
    index = live(client, esembed_index_name)
    path = f"/{index.concrete_index}/_search"
    missed = []
    for field, form in FORMATS.items():
        for text in DATES:
            body = {"query": {"bool": {"should": [{"range": {field: {op: text}}} for op in ("gte", "lte")]}}}
            answer = index.client.request("POST", path, body=body, ignore=(400, 500))
            taken = answer.status == 200
            problem = date_problem(text, form)
            assert not (taken and problem), (field, text, problem)
            if not taken and not problem:
                missed.append((field, text))
    assert missed == [], "texts that only the engine refuses"


def test_a_nonsense_date_is_an_error_that_names_the_field(client: Any, esembed_index_name: str) -> None:
    index = live(client, esembed_index_name)
    for clause, field, part in (
        (q.range("day", gte="2024-13-45"), "day", "'2024-13-45' is not a date: there is no month 13"),
        (q.term("day", "2024-02-30"), "day", "no day 30"),
        (q.terms("day", ["2024-01-01", "31.01.2024"]), "day", "strict_date_optional_time"),
        (q.range("day", lt="now-7days"), "day", "date mathematics"),
        (q.range("german", gte="2024-01-31"), "german", "dd.MM.yyyy"),
        (q.range("made", gte="2024/13/01"), "made", "no month 13"),
        (q.range("day", gte="31.13.2024", format="dd.MM.yyyy"), "day", "no month 13"),
        # A format that only the engine knows: its refusal is told with the field all the same.
        (q.range("day", gte="2024-01-31", format="strict_weekyear_week"), "day", "the engine can't read"),
    ):
        before = index.client.requests_sent
        with pytest.raises(QueryError, match="of type date") as caught:
            index.search("red", filter=clause)
        assert part in str(caught.value)
        assert caught.value.field == field
        assert index.client.requests_sent == before + ("the engine" in part)
    for clause in (
        q.range("day", gte="now-100y/d", lt="2024-01-04||/d"),
        q.range("day", lt=1704326400000),
        q.range("german", lt="04.01.2024"),
        q.range("german", lt="1704326400"),
        q.range("made", lt="2024/01/04 00:00:00"),
        q.range("day", lt="04.01.2024", format="dd.MM.yyyy"),
    ):
        assert (index.search("red", filter=clause)).ids == ["r0", "r1", "r2"], clause


def test_a_record_with_a_nonsense_date_is_a_dead_letter_that_names_the_field(
    client: Any, esembed_index_name: str
) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    good = {"id": "a", "title": "red", "day": "2024-01-31T10:00:00Z"}
    report = index.ingest([good, {"id": "b", "title": "red", "day": "2024-13-45"}])
    assert (report.indexed, report.dead_lettered, report.adds_up) == (1, 1, True)
    (error,) = report.errors
    assert error.id == "b"
    assert "day" in error.reason
    assert "2024-13-45" in error.reason
    assert (index.get("a"))["day"] == good["day"]
