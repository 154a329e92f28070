"""``q.boost_by`` over the values that break it: 0, negative ones, none."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import AsyncIndex, IndexPlan, IngestOptions
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
async def index(client: Any, esembed_index_name: str) -> AsyncIndex:
    made = await AsyncIndex.create(client, esembed_index_name, PLAN)
    await made.ingest(DOCUMENTS, IngestOptions(learn_weights=False, refresh=True))
    return made


@pytest.mark.parametrize("modifier", ["log1p", "ln1p", "log2p", "ln2p"])
async def test_no_clicks_leave_a_score_above_0(index: AsyncIndex, modifier: Any) -> None:
    plain = {hit.id: hit.score for hit in await index.search(MATCH)}
    hits = await index.search(q.boost_by(MATCH, "clicks", modifier=modifier, factor=0.1, missing=0))
    assert hits.ids[-1] == "poor"
    assert all(hit.score > 0 for hit in hits)
    if modifier.endswith("1p"):
        assert {hit.id: hit.score for hit in hits}["best"] == pytest.approx(plain["best"], rel=1e-5)


@pytest.mark.parametrize("modifier", ["none", "sqrt", "square"])
async def test_a_boost_that_makes_scores_0_says_so(index: AsyncIndex, modifier: Any) -> None:
    boosted = q.boost_by(MATCH, "clicks", modifier=modifier, missing=0)
    for query in (boosted, q.rrf(boosted, q.match("page")), q.bool_(should=boosted)):
        notes = [note for note in (await index.search(query)).notes if "boost_by on 'clicks'" in note]
        assert len(notes) == 1
        assert "log1p" in notes[0]
        assert "log2p" in notes[0]
    assert {hit.id for hit in await index.search(boosted) if hit.score == 0} == {"best", "none"}

    # Nothing to say: no document of 0 is found, it is added, or the field isn't 0 there.
    positive = q.range("clicks", gt=0)
    assert (await index.search(boosted.replace(filter=positive))).notes == ()
    assert (await index.search(boosted, filter=q.range("clicks", gte=1))).notes == ()
    assert (await index.search(boosted.replace(mode="sum"))).notes == ()
    assert (await index.search(boosted, filter=q.range("clicks", gte=0))).notes != ()
    inside = MATCH.replace(filter=positive)
    for found in (inside, q.bool_(must=[MATCH, positive]), q.boost_by(inside, "clicks", modifier="log1p")):
        assert (await index.search(boosted.replace(query=found))).notes == ()
    for found in (q.bool_(should=[MATCH, positive]), q.bool_(must=[MATCH], must_not=[positive])):
        assert (await index.search(boosted.replace(query=found))).notes != ()
    # Nor where the 0 is added to the score that a hit has, or no score is asked for.
    for around in (MATCH, q.rrf(MATCH, q.match("page"))):
        stage = q.rescore(around, by=q.boost_by(q.match_all(), "clicks", modifier=modifier, missing=0))
        assert (await index.search(stage.replace(query_weight=1.0))).notes == ()
        assert (await index.search(stage)).notes != ()
    assert (await index.search(MATCH.replace(filter=q.bool_(must=[boosted])))).notes == ()


@pytest.mark.parametrize("modifier", ["none", "log1p", "sqrt", "ln2p", "reciprocal"])
@pytest.mark.parametrize("around", ["alone", "fused"])
async def test_negative_values_are_the_querys_error(index: AsyncIndex, modifier: Any, around: str) -> None:
    await index.update("poor", {"clicks": -3}, refresh=True)
    boosted = q.boost_by(MATCH, "clicks", modifier=modifier)
    query = boosted if around == "alone" else q.rrf(boosted, q.match("page"))
    with pytest.raises(QueryError, match=r"boost_by on 'clicks'.*leave such documents out"):
        await index.search(query)
    kept = q.boost_by(MATCH, "clicks", modifier=modifier, filter=q.range("clicks", gte=1))
    assert (await index.search(kept)).ids == []


@pytest.mark.parametrize(
    "wrong", [{"missing": -1}, {"factor": -1}, {"factor": 1e39}, {"missing": 0, "modifier": "reciprocal"}]
)
def test_numbers_are_checked_before(wrong: dict[str, Any]) -> None:
    with pytest.raises(QueryError):
        q.boost_by(MATCH, "clicks", **wrong)


TEXTS = IndexPlan.from_toml("""
[text.title]
[text.body]
[filter.clicks]
type = "integer"
""")
BOTH = IndexPlan.from_toml("""
[text.title]
[text.body]
[sparse.words]
encoder = "lexical"
source = ["title", "body"]
[filter.clicks]
type = "integer"
[query]
type = "linear"
normalizer = "floor"
legs = [{type = "multi_match", kind = "auto", name = "bm25"}, {type = "sparse", field = "words"}]
""")


def popular(query: Any) -> Any:
    """The recipe of docs/backend.md: a tenfold number of clicks adds a twentieth of the best hit's score."""
    by = q.boost_by(q.match_all(), "clicks", modifier="log1p", missing=0)
    return q.rescore(q.linear(query, normalizer="floor"), by=by, query_weight=1, rescore_weight=0.05)


@pytest.mark.parametrize("plan", [TEXTS, BOTH], ids=["texts", "fusion"])
async def test_the_weight_of_clicks_is_one_of_the_best_hits_score(
    client: Any, esembed_index_name: str, plan: IndexPlan
) -> None:
    index = await AsyncIndex.create(client, esembed_index_name, plan)
    rows = [
        {"_id": f"a{clicks}", "title": "web server", "body": "a server", "clicks": clicks}
        for clicks in (0, 9, 99)
    ]
    other = {"_id": "other", "title": "web page", "body": "of a very long text about many things"}
    await index.ingest([*rows, other], IngestOptions(learn_weights=False, refresh=True))
    hits = await index.search(popular(index.default_query), text="web server")
    scores = {hit.id: hit.score for hit in hits}
    # The same numbers on both engines, whose BM25 scores differ, for a single leg and for a fusion.
    assert scores["a0"] == pytest.approx(1.05, abs=1e-5)
    assert scores["a9"] == pytest.approx(1.10, abs=1e-5)
    assert scores["a99"] == pytest.approx(1.15, abs=1e-5)
    assert hits.ids[-1] == "other"
    assert scores["other"] < 1.05

    # With typing errors, by the search's own options …
    misspelled = "web sevrer"
    both = {"fuzziness": "missing", "operator": "relax"}
    hits = await index.search(popular(index.default_query), text=misspelled, legs=["bm25"], **both)
    assert hits.ids[0] == "a99"
    assert any("'sevrer'" in note for note in hits.notes)
    # … and with the recipe as the plan's default query, where a string and the command line find it.
    stored = plan.replace(query=popular(index.default_query))
    name = f"{esembed_index_name}-stored"
    index = await AsyncIndex.create(client, name, stored)
    try:
        await index.ingest([*rows, other], IngestOptions(learn_weights=False, refresh=True))
        assert (await index.search("web server")).ids[0] == "a99"
        hits = await index.search(misspelled, **both)
        assert hits.ids[0] == "a99"
        assert any("'sevrer'" in note for note in hits.notes)
    finally:
        await index.delete_index()


@pytest.mark.parametrize("plan", [TEXTS, BOTH], ids=["texts", "fusion"])
async def test_the_best_hit_counts_1_however_many_there_are(
    client: Any, esembed_index_name: str, plan: IndexPlan
) -> None:
    index = await AsyncIndex.create(client, esembed_index_name, plan)
    rows = [
        {
            "_id": f"d{number:03}",
            "title": "a web page",
            "body": f"server {'of things ' * number}",
            "clicks": 0,
        }
        for number in range(150)
    ]
    await index.ingest(rows, IngestOptions(learn_weights=False, refresh=True))
    scaled = q.linear(index.default_query, normalizer="floor")
    for text in ("web server", "server", "web"):
        found = await index.search(scaled, text=text, size=100)
        assert found[0].score == 1.0 or len({hit.score for hit in found}) == 1
        popular_ones = await index.search(popular(index.default_query), text=text)
        assert popular_ones[0].score == pytest.approx(found[0].score + 0.05, abs=1e-5)
