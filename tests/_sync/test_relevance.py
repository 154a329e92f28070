# Generated from tests/_async/test_relevance.py by scripts/run_unasync.py; change that file and run the script.
"""A default query that knows its index, and measuring it, on each real engine."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from esembed import DenseField, FilterField, Index, IndexPlan, SparseField, TextField
from esembed import query as q
from esembed.demo import corpus
from esembed.errors import QueryError
from esembed.evaluate.datasets import Dataset
from esembed.evaluate.report import html_page
from esembed.ingest.options import IngestOptions
from esembed.plan.default_query import default_query
from esembed.query.nodes import Knn, Linear, Match
from esembed.weights.known_items import known_items

PLAN = IndexPlan(
    text={"doc": TextField()},
    dense={"embedding": DenseField(encoder="minilm", source=("doc",))},
    filter={"kind": FilterField()},
    id_field="id",
)


def records(count: int = 150) -> list[dict[str, Any]]:
    """Docstrings of the standard library with words enough to cut queries from."""
    found = []
    for record in corpus.records():
        text = " ".join(record["doc"].split()[:60])
        if len(text.split()) >= 20:
            found.append({"id": record["id"], "doc": text, "kind": record["kind"]})
        if len(found) == count:
            break
    return found


def test_an_ingest_weighs_the_legs(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    report = index.ingest(records())
    assert report.stage_seconds["weights"] > 0
    assert "default query weighted: bm25" in report.warnings[-1]
    query = index.plan.query
    assert isinstance(query, Linear)
    match, knn = query.legs
    assert isinstance(match, Match)
    assert isinstance(knn, Knn)

    again = Index.open(client, esembed_index_name)
    assert again.plan.query == query
    evidence = again.stored.rest["evidence"]["trust"]
    assert evidence["documents"] == 150
    assert set(evidence["legs"]) == {"bm25", "embedding"}

    # One request, with filters, pages and explanations.
    again.search("sort a list of numbers")
    before = again.client.requests_sent
    hits = again.search("sort a list of numbers", filter=q.term("kind", "function"), size=5)
    assert again.client.requests_sent == before + 1
    assert len(hits) == 5
    assert {hit.source["kind"] for hit in hits} == {"function"}
    second = again.search("sort a list of numbers", filter=q.term("kind", "function"), size=5, offset=5)
    assert len({*hits.ids, *second.ids}) == len(hits) + len(second)
    by_cursor = again.search(
        "sort a list of numbers", filter=q.term("kind", "function"), size=5, cursor=hits.next_cursor
    )
    assert by_cursor.ids == second.ids
    # The filter is inside the vector search, not beside it: all four modules are found, not those
    # among the nearest five.
    legs = [q.match("zzzz"), q.knn("embedding", text="sort a list of numbers", k=5)]
    modules = again.search(q.bool_(should=legs), filter=q.term("kind", "module"))
    assert len(modules) == 4
    explained = again.search("sort a list of numbers", size=3, explain=True)
    for hit in explained:
        shares = {share.leg: share for share in hit.contributions}
        assert set(shares) == {"bm25", "embedding"}
        assert sum(share.contribution for share in hit.contributions) == pytest.approx(hit.score, rel=1e-4)
    # BM25's first hit is about 30th among 100 neighbors; its next ones are near 70th, and a graph of
    # vectors may miss one there.
    first = {share.leg: share for share in explained[0].contributions}
    assert first["embedding"].rank is not None
    only = again.search("sort a list of numbers", legs=["embedding"], size=3)
    alone = again.search(q.knn("embedding"), text="sort a list of numbers", size=3)
    assert only.ids == alone.ids

    # The same records again, and a few more, ask nothing again.
    same = again.ingest(records(160))
    assert "weights" not in same.stage_seconds
    assert again.plan.query == query
    # The plan as it was written still opens the index.
    assert (Index.create(client, esembed_index_name, PLAN, exist_ok=True)).plan.query == query


def test_scores_keep_their_scale_when_weights_are_learned(client: Any, esembed_index_name: str) -> None:
    """What explain, rescore and boost_by make of the default query, before and after learning."""
    plan = PLAN.replace(filter={"kind": FilterField(), "place": FilterField(type="integer")})
    index = Index.create(client, esembed_index_name, plan)
    rows = [{**record, "place": number % 7 + 1} for number, record in enumerate(records(60))]
    index.ingest(rows, IngestOptions(learn_weights=False))
    before = default_query(index.plan)
    assert index.default_query == before
    found = index.learn_weights()
    after = index.plan.query
    assert index.default_query == after
    assert isinstance(before, Linear)
    assert isinstance(after, Linear)
    assert after == found.query != before

    text, exact = "sort a list of numbers", q.knn("embedding", exact=True)
    for query in (before, after):
        weights = dict(zip(("bm25", "embedding"), query.weights or (), strict=True))
        hits = index.search(query, text=text, size=60, explain=True)
        plain = {hit.id: {part.leg: part for part in hit.contributions} for hit in hits}
        for hit in hits:
            # Between 0 and a leg's weight each, so that a score lies between 0 and 1.
            assert set(plain[hit.id]) == set(weights)
            for leg, part in plain[hit.id].items():
                assert 0 <= part.contribution <= weights[leg] + 1e-6
                assert part.contribution == 0 or part.rank is not None
            total = sum(part.contribution for part in hit.contributions)
            assert 0 <= total == pytest.approx(hit.score, rel=1e-4, abs=1e-6)
        # The last of a full list is worth what a document is that the leg didn't list: nothing.
        assert min(parts["embedding"].contribution for parts in plain.values()) == pytest.approx(0, abs=1e-6)

        again = q.rescore(query, by=exact, query_weight=2.0, rescore_weight=0.5, window_size=10)
        rescored = index.search(again, text=text, size=10, explain=True)
        assert set(rescored.ids) == set(hits.ids[:10])
        for hit in rescored:
            parts = {part.leg: part.contribution for part in hit.contributions}
            assert sum(parts.values()) == pytest.approx(hit.score, rel=1e-4)
            for leg in weights:
                assert parts[leg] == pytest.approx(2.0 * plain[hit.id][leg].contribution, rel=1e-3, abs=1e-6)
            # The cosine as the engine scores it, (1 + cosine) / 2: of the same scale, too.
            assert 0 <= parts["rescore"] <= 0.5 + 1e-6

        # Popularity as a stage: what a count adds is the same whatever the legs weigh.
        popular = q.boost_by(q.match_all(), "place", modifier="log1p", missing=0)
        stage = q.rescore(index.default_query, by=popular, query_weight=1, rescore_weight=0.05)
        raised = index.search(stage.replace(query=query), text=text, size=50, explain=True)
        for hit in raised:
            parts = {part.leg: part.contribution for part in hit.contributions}
            added = 0.05 * (1 + math.log10(1 + hit.source["place"]))
            assert parts["rescore"] == pytest.approx(added, rel=1e-4)
            assert hit.score == pytest.approx(parts["bm25"] + parts["embedding"] + added, rel=1e-4)

        # A number of the document changes a leg's scores before its floor is taken; around the fusion it is
        # refused, on both engines, rather than done by one.
        with pytest.raises(QueryError, match="put it around a leg"):
            index.search(q.boost_by(query, "place"), text=text)
        legs = [q.boost_by(leg, "place", factor=0.1, name=leg.name) for leg in query.legs]
        boosted = index.search(query.replace(legs=tuple(legs)), text=text, size=60, explain=True)
        assert boosted.ids != hits.ids
        for hit in boosted:
            assert hit.score is not None
            assert 0 <= hit.score <= 1 + 1e-6
            for part in hit.contributions:
                assert 0 <= part.contribution <= weights[part.leg] + 1e-6


def test_an_ingest_leaves_alone_what_it_should(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    report = index.ingest(records(60), IngestOptions(learn_weights=False))
    assert index.plan.query is None
    assert "weights" not in report.stage_seconds
    found = index.learn_weights(write=False)
    assert found.documents == 60
    assert found.query is not None
    assert index.plan.query is None
    with pytest.warns(DeprecationWarning, match=r"use its \.query"):
        pair, query = found
    assert (pair, query) == (found, found.query)
    index.delete_index()

    own = PLAN.replace(query=q.match(fields=["doc"]))
    index = Index.create(client, esembed_index_name, own)
    report = index.ingest(records(60))
    assert index.plan.query == own.query
    assert "weights" not in report.stage_seconds
    kept = index.learn_weights()
    assert index.plan.query == own.query
    assert kept.query is None
    assert "one of your own" in kept.conclusion
    assert any("not of your query" in note for note in kept.notes)
    index.delete_index()

    (vectors,) = PLAN.dense
    own = PLAN.replace(query=q.rrf(q.match(fields=["doc"], operator="and"), q.knn(vectors), weights=[1, 1]))
    index = Index.create(client, esembed_index_name, own)
    rows = records(60)
    index.ingest(rows)
    kept = index.learn_weights()
    assert [leg.weight for leg in kept.legs] == [0.5, 0.5]
    assert any("estimated for the plan's legs" in note for note in kept.notes) == kept.learned
    # Its own legs are searched and measured, not the plan's.
    text = f"{rows[0]['doc']} nowhere"
    assert not index.search(text, legs=["bm25"])
    dataset = Dataset(name="own", queries={"q": text}, qrels={"q": {str(rows[0]["id"]): 1}})
    found = index.evaluate(dataset, measures=["success@1"], latency_queries=0)
    assert found.configuration("bm25").values["success@1"].mean == 0
    assert found.configuration("default").values["success@1"].mean == 1
    index.delete_index()

    # A leg that only the plan has is searched, and said.
    own = PLAN.replace(query=q.bool_(should=[q.match(), q.knn(vectors)]))
    index = Index.create(client, esembed_index_name, own)
    index.ingest(rows)
    hits = index.search(str(rows[0]["doc"]), legs=["bm25"])
    assert hits.notes == ("bm25: not in the default query, so the plan's own leg is searched",)


def test_measuring_and_tuning(client: Any, esembed_index_name: str) -> None:
    pytest.importorskip("ir_measures", reason="needs the eval extra")
    index = Index.create(client, esembed_index_name, PLAN)
    rows = records()
    index.ingest(rows)
    items = known_items([(r["id"], r["doc"]) for r in rows], count=8, kinds=("words",))
    dataset = Dataset(
        name="known",
        queries={f"q{i}": item.query for i, item in enumerate(items)},
        qrels={f"q{i}": {item.document_id: 1} for i, item in enumerate(items)},
    )
    evaluation = index.evaluate(dataset, latency_queries=2, runs={"other": {"q0": [("x", 1.0)]}})
    names = [one.name for one in evaluation.measured]
    assert names == ["default", "bm25", "embedding", "rrf", "minmax", "other"]
    assert evaluation.configuration("bm25").values["ndcg@10"].mean > 0.6
    assert evaluation.configuration("other").values["ndcg@10"].mean == 0.0
    timed = evaluation.configuration("default").latency
    assert timed is not None
    assert timed.count == 2
    before = index.plan.query
    tuned = index.tune(dataset)
    assert tuned.queries == 8
    assert {one.chosen for one in tuned.parameters} == {"as planned"}
    assert tuned.query == before == index.plan.query, "eight queries change nothing"


def test_a_report_shows_documents_as_people_know_them(client: Any, esembed_index_name: str) -> None:
    plan = IndexPlan(text={"body": TextField(), "title": TextField(boost=3.0)}, id_field="id")
    index = Index.create(client, esembed_index_name, plan)
    rows = [
        {"id": f"d{number}", "body": f"fox number {number}", "title": f"The\n title {number}"}
        for number in range(4)
    ]
    index.ingest([*rows, {"id": "bare", "body": "a fox", "title": ""}])
    dataset = Dataset(name="titles", queries={"q": "fox"}, qrels={"q": {"d1": 1}})
    found = index.evaluate(dataset, measures=["success@1"], latency_queries=0)
    assert found.titles["d1"] == "The title 1"
    assert found.titles["bare"] == "a fox"
    page = html_page(found)
    assert "The title 1" in page


def test_a_migration_keeps_the_weights_of_legs_that_stay_what_they_are(
    client: Any, esembed_index_name: str
) -> None:
    words = SparseField(encoder="lexical", source=("doc",))
    exact = msgspec.structs.replace(PLAN.dense["embedding"], quantization="hnsw")
    plan = PLAN.replace(dense={"embedding": exact}, sparse={"words": words})
    index = Index.create(client, esembed_index_name, plan)
    index.ingest(records(60))
    query, evidence = index.plan.query, index.stored.rest["evidence"]
    assert isinstance(query, Linear)

    coarser = plan.replace(dense={"embedding": msgspec.structs.replace(exact, quantization="int8_hnsw")})
    report = index.migrate(coarser)
    # The index settled the lexical field's average length, which the plan as it was written doesn't say.
    assert report.in_place == (index.capabilities.engine == "elasticsearch")
    moved = Index.open(client, esembed_index_name)
    assert (moved.plan.query, moved.stored.rest["evidence"]) == (query, evidence)
    assert moved.plan.dense["embedding"].quantization == "int8_hnsw"

    filtered = coarser.replace(filter={**coarser.filter, "place": FilterField(type="integer")})
    report = moved.migrate(filtered)
    assert not report.in_place
    moved = Index.open(client, esembed_index_name)
    assert (moved.plan.query, moved.stored.rest["evidence"]) == (query, evidence)
    assert moved.stored.rest["migration"]["state"] == "done"
    assert len(moved.search("sort a list of numbers")) == 10
