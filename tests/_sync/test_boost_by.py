# Generated from tests/_async/test_boost_by.py by scripts/run_unasync.py; change that file and run the script.
"""``q.boost_by`` over the values that break it: 0, negative ones, none."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import Index, IndexPlan, IngestOptions
from esembed import query as q
from esembed.errors import QueryError

PLAN = IndexPlan.from_toml('[text.body]\n[filter.clicks]\ntype = "integer"\n')
DOCUMENTS: list[dict[str, Any]] = [
    {"_id": "best", "body": "web server", "clicks": 0},
    {"_id": "poor", "body": "a manual that mentions one web page among very many other words", "clicks": 1},
    {"_id": "none", "body": "web server", "clicks": None},
]
MATCH = q.match("web server")


@pytest.fixture
def index(client: Any, esembed_index_name: str) -> Index:
    made = Index.create(client, esembed_index_name, PLAN)
    made.ingest(DOCUMENTS, IngestOptions(learn_weights=False, refresh=True))
    return made


@pytest.mark.parametrize("modifier", ["log1p", "ln1p", "log2p", "ln2p"])
def test_no_clicks_leave_a_score_above_0(index: Index, modifier: Any) -> None:
    plain = {hit.id: hit.score for hit in index.search(MATCH)}
    hits = index.search(q.boost_by(MATCH, "clicks", modifier=modifier, factor=0.1, missing=0))
    assert hits.ids[-1] == "poor"
    assert all(hit.score > 0 for hit in hits)
    if modifier.endswith("1p"):
        assert {hit.id: hit.score for hit in hits}["best"] == pytest.approx(plain["best"], rel=1e-5)


@pytest.mark.parametrize("modifier", ["none", "sqrt", "square"])
def test_a_boost_that_makes_scores_0_says_so(index: Index, modifier: Any) -> None:
    boosted = q.boost_by(MATCH, "clicks", modifier=modifier, missing=0)
    for query in (boosted, q.rrf(boosted, q.match("page")), q.bool_(should=boosted)):
        notes = [note for note in (index.search(query)).notes if "boost_by on 'clicks'" in note]
        assert len(notes) == 1
        assert "log1p" in notes[0]
        assert "log2p" in notes[0]
    assert {hit.id for hit in index.search(boosted) if hit.score == 0} == {"best", "none"}

    # Nothing to say: no document of 0 is found, it is added, or the field isn't 0 there.
    positive = q.range("clicks", gt=0)
    assert (index.search(boosted.replace(filter=positive))).notes == ()
    assert (index.search(boosted, filter=q.range("clicks", gte=1))).notes == ()
    assert (index.search(boosted.replace(mode="sum"))).notes == ()
    assert (index.search(boosted, filter=q.range("clicks", gte=0))).notes != ()


@pytest.mark.parametrize("modifier", ["none", "log1p", "sqrt", "ln2p", "reciprocal"])
@pytest.mark.parametrize("around", ["alone", "fused"])
def test_negative_values_are_the_querys_error(index: Index, modifier: Any, around: str) -> None:
    index.update("poor", {"clicks": -3}, refresh=True)
    boosted = q.boost_by(MATCH, "clicks", modifier=modifier)
    query = boosted if around == "alone" else q.rrf(boosted, q.match("page"))
    with pytest.raises(QueryError, match=r"boost_by on 'clicks'.*leave such documents out"):
        index.search(query)
    kept = q.boost_by(MATCH, "clicks", modifier=modifier, filter=q.range("clicks", gte=1))
    assert (index.search(kept)).ids == []


@pytest.mark.parametrize(
    "wrong", [{"missing": -1}, {"factor": -1}, {"factor": 1e39}, {"missing": 0, "modifier": "reciprocal"}]
)
def test_numbers_are_checked_before(wrong: dict[str, Any]) -> None:
    with pytest.raises(QueryError):
        q.boost_by(MATCH, "clicks", **wrong)
