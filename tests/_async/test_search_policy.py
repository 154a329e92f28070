"""What a search does when something is slow, large, missing or on several shards; rerankers on an index."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from esembed import AsyncIndex
from esembed import query as q
from esembed._async.search import AsyncSearcher
from esembed.errors import EncoderError, EsembedError, QueryError
from esembed.plan import IndexOptions
from esembed.query import Query

from ._shim import together
from .search_world import BM25, DENSE, DOCS, SPARSE, World, data

KINDS = ("elasticsearch", "opensearch")
THREE_SHARDS = data.plan(index=IndexOptions(shards=3))


def raw(clause: dict[str, Any], **options: Any) -> Query:
    """The same engine clause on both engines."""
    return q.raw(dict.fromkeys(KINDS, clause), **options)


# -- several shards ------------------------------------------------------------------------------------


async def test_our_fusion_has_a_global_window_on_several_shards(
    world: World, searcher: AsyncSearcher
) -> None:
    split = await world.fill(THREE_SHARDS, DOCS)
    # Legs whose scores don't hang on a shard's term statistics; a window that is smaller than a shard.
    for query in (
        q.rrf(DENSE, SPARSE, rank_window_size=7),
        q.linear(DENSE, SPARSE, normalizer="minmax", rank_window_size=7),
    ):
        one = await searcher.search(query, size=7, fusion="client", explain=True)
        many = await split.search(query, size=7, fusion="client", explain=True)
        assert (one.approximate, many.approximate) == (False, False)
        assert many.ids == one.ids
        assert [h.score for h in many] == pytest.approx([h.score for h in one], abs=1e-6)
        ranks = sorted(
            s.rank for h in many for s in h.contributions if s.leg == "dense" and s.rank is not None
        )
        assert ranks == sorted(s.rank for h in one for s in h.contributions if s.leg == "dense" and s.rank)


async def test_the_engines_fusion_on_several_shards_says_that_it_is_approximate(world: World) -> None:
    split = await world.fill(THREE_SHARDS, DOCS)
    query = q.rrf(DENSE, SPARSE, rank_window_size=20)
    auto = await split.search(query, size=10)
    if not world.capabilities.rrf:
        assert (auto.path, auto.approximate) == ("client", False)
        return
    assert (auto.path, auto.approximate) == ("server", True)
    assert len(set(auto.ids)) == 10
    ours = await split.search(query, size=10, fusion="client")
    # Not the same list by promise; but the best by both legs' ranks must be near the top of both.
    assert ours.ids[0] in auto.ids


# -- failures and time-outs ------------------------------------------------------------------------------


async def test_an_answer_without_all_shards_is_an_error_or_said_to_be_incomplete(world: World) -> None:
    docs = {doc_id: dict(doc) for doc_id, doc in DOCS.items()}
    del docs["d007"]["price"]
    split = await world.fill(THREE_SHARDS, docs)
    # A function over a field that one document lacks fails on that document's shard alone.
    lacking = raw(
        {"function_score": {"query": {"match_all": {}}, "field_value_factor": {"field": "price"}}},
        name="priced",
    )
    for query in (lacking, q.rrf(lacking, DENSE)):
        with pytest.raises(EsembedError, match=r"1 of 3 shards failed.*[Mm]issing value"):
            await split.search(query, fusion="client" if query is not lacking else "auto")
    alone = await split.search(lacking, size=60, partial_results=True)
    assert 0 < len(alone) < 60
    assert "1 of 3 shards failed" in alone.legs_missing["priced"]
    fused = await split.search(q.rrf(lacking, DENSE), size=60, partial_results=True, fusion="client")
    assert list(fused.legs_missing) == ["priced"]
    assert len(fused) == 60
    if world.capabilities.rrf:
        with pytest.raises(EsembedError, match="shards failed"):
            await split.search(q.rrf(lacking, DENSE), fusion="server")
        served = await split.search(q.rrf(lacking, DENSE), fusion="server", partial_results=True)
        assert set(served.legs_missing) == {"priced", "dense"}
    with pytest.raises(EsembedError, match="shards failed"):
        await split.search_many([BM25, lacking])


async def test_a_leg_that_is_too_slow_is_said_to_be_cut_short(world: World) -> None:
    if world.kind != "opensearch":
        pytest.skip("slow on purpose takes a script, and the local Elasticsearch has none")
    plan = data.plan()
    searcher = await world.fill(plan, {k: DOCS[k] for k in list(DOCS)[:30]})
    # A second segment: the engine looks at its clock between segments, and the clock ticks at 200 ms.
    rest = data.bulk_bytes(plan, world.capabilities, {k: DOCS[k] for k in list(DOCS)[30:]})
    path = f"/{searcher.index_name}/_bulk"
    await world.client.request("POST", path, params={"refresh": "true"}, body=rest)
    burn = "double x = 0; for (int i = 0; i < 400000; ++i) { x += Math.sin(i); } return x;"
    script = f"double burn() {{ {burn} }} return 1 + 0 * burn();"
    slow = raw(
        {"script_score": {"query": {"match_all": {}}, "script": {"source": script}}},
        name="slow",
    )
    hits = await searcher.search(q.rrf(slow, DENSE), leg_timeouts_seconds={"slow": 0.001})
    assert hits.path == "client"
    assert hits.timed_out
    assert "time was up" in hits.legs_missing["slow"]
    assert len(hits) == 10
    alone = await searcher.search(slow, timeout_seconds=0.001)
    assert alone.timed_out


async def test_time_outs_are_checked(searcher: AsyncSearcher) -> None:
    with pytest.raises(QueryError, match=r"no leg 'bm52'.*bm25, dense"):
        await searcher.search(q.rrf(BM25, DENSE), leg_timeouts_seconds={"bm52": 1.0})
    with pytest.raises(QueryError, match="use timeout_seconds"):
        await searcher.search(BM25, leg_timeouts_seconds={"bm25": 1.0})
    with pytest.raises(QueryError, match="> 0 seconds"):
        await searcher.search(BM25, timeout_seconds=0)
    kept = await searcher.search(
        q.rrf(BM25, q.knn("embedding", text="broken", name="dense")),
        leg_timeouts_seconds={"dense": 1.0, "bm25": 5.0},
        partial_results=True,
    )
    assert list(kept.legs_missing) == ["dense"]


# -- rerankers -------------------------------------------------------------------------------------------


def by_last_word(text: str, texts: Any) -> list[float]:
    """Scores that no engine would give: texts by their last word, Z first."""
    assert text == "red dog"
    return [float(ord(t.split()[-1][0])) for t in texts]


RERANKERS = {
    "last": by_last_word,
    "short": lambda text, texts: [1.0],
    "nan": lambda text, texts: [float("nan")] * len(texts),
    "raises": lambda text, texts: [1 / 0 for _ in texts],
}


async def test_a_reranker_of_an_index_orders_the_head(client: Any, esembed_index_name: str) -> None:
    plan = data.plan(sparse={})
    made = await AsyncIndex.create(client, esembed_index_name, plan)
    records = [{"_id": k, **{f: v for f, v in d.items() if f != "terms"}} for k, d in DOCS.items()]
    assert (await made.ingest(records)).indexed == 60
    index = await AsyncIndex.open(client, esembed_index_name, rerankers=RERANKERS)
    fused = q.rrf(BM25, DENSE)
    plain = await index.search(fused, size=30)
    query = q.rescore(fused, reranker="last", fields="body", text="red dog", window_size=20)
    hits = await index.search(query, size=20, explain=True)
    assert set(hits.ids) == set(plain.ids[:20])
    wanted = sorted(plain.ids[:20], key=lambda i: -ord(DOCS[i]["body"].split()[-1][0]))
    assert hits.ids == wanted  # equal scores stay in the fused order
    for hit in hits:
        assert hit.rescored == ord(DOCS[hit.id]["body"].split()[-1][0])
        assert [s.leg for s in hit.contributions] == ["bm25", "dense", "rescore"]
        assert sum(s.contribution for s in hit.contributions) == pytest.approx(hit.score, rel=1e-6)
    mixed = q.rescore(fused, reranker="last", fields="body", text="red dog", query_weight=1e6, window_size=20)
    assert (await index.search(mixed, size=20)).ids[0] == plain.ids[0]
    failures = {"short": "failed on 50 texts", "nan": "nan for document", "raises": "ZeroDivision"}
    for name, message in failures.items():
        broken = q.rescore(fused, reranker=name, fields="body", text="red dog")
        with pytest.raises(EncoderError, match=message):
            await index.search(broken)
        hits = await index.search(broken, partial_results=True)
        assert hits.ids == plain.ids[:10]
        assert message in hits.legs_missing["rescore"]
    with pytest.raises(QueryError, match=r"no reranker 'nobody' .there are: last, nan"):
        await index.search(q.rescore(fused, reranker="nobody", fields="body", text="red dog"))
    with pytest.raises(TypeError, match=r"rerankers\['last'\] is a str"):
        await AsyncIndex.open(client, esembed_index_name, rerankers={"last": "model"})  # type: ignore[dict-item]


# -- round trips, pages, concurrency ---------------------------------------------------------------------


async def test_large_documents_are_fetched_for_the_page_alone(world: World) -> None:
    docs = {k: {**d, "title": "long " * 1800} for k, d in DOCS.items()}
    searcher = await world.fill(data.plan(), docs)
    query = q.rrf(DENSE, SPARSE)
    counts, found = [], []
    for _ in range(3):
        before = world.client.requests_sent
        found.append(await searcher.search(query, fusion="client"))
        counts.append(world.client.requests_sent - before)
    assert counts == [1, 2, 2]
    before = world.client.requests_sent
    assert set((await searcher.search(query, fusion="client", source=["lang"]))[0].source) == {"lang"}
    assert world.client.requests_sent == before + 1
    for hits in found[1:]:
        assert [(h.id, h.score, h.source) for h in hits] == [(h.id, h.score, h.source) for h in found[0]]


async def test_documents_added_between_pages_hide_none(world: World) -> None:
    plan = data.plan()
    searcher = await world.fill(plan, DOCS)
    whole = (await searcher.search(q.rrf(BM25, DENSE), size=30)).ids
    seen: list[str] = []
    cursor = None
    for number in range(3):
        page = await searcher.search(q.rrf(BM25, DENSE), size=10, cursor=cursor)
        seen += page.ids
        cursor = page.next_cursor
        extra = {f"new{number}": {**DOCS[whole[0]], "price": 1}}
        lines = data.bulk_bytes(plan, world.capabilities, extra)
        path = f"/{searcher.index_name}/_bulk"
        await world.client.request("POST", path, params={"refresh": "true"}, body=lines)
    # Each new document moves the rest one place down: a hit may come again, and none is skipped.
    assert set(whole[:28]) <= set(seen)
    assert len(seen) - len(set(seen)) <= 2


async def test_many_texts_are_encoded_together(world: World, searcher: AsyncSearcher) -> None:
    searcher.cache.clear()
    world.encoder.calls.clear()
    texts = [f"{a} {b}" for a in data.WORDS[:5] for b in data.WORDS[5:9]]
    found = await searcher.search_many([q.knn("embedding", text=text) for text in [*texts, *texts]], size=3)
    assert world.encoder.calls == [20]
    assert [h.ids for h in found[:20]] == [h.ids for h in found[20:]]


async def test_concurrent_requests_leave_the_warning_filters_alone(searcher: AsyncSearcher) -> None:
    await searcher.search(BM25)
    before = list(warnings.filters)
    await together(*(searcher.search(q.match(word)) for word in data.WORDS))
    assert warnings.filters == before
