"""A search is over by its deadline, whatever it waits for. What it waits for here never ends by itself, so
that a test which comes to its end has shown it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from esembed import AsyncIndex, IndexPlan, IngestOptions, TextField
from esembed import query as q
from esembed._async.client import AsyncEngineClient
from esembed._async.search import AsyncSearcher
from esembed.encode.pool import EncoderPool
from esembed.errors import EngineUnavailableError, QueryError

from ._shim import official
from .search_world import BM25, DENSE, World, data

from hanging_server import hanging_server  # isort: skip - search_world puts its folder on the path


@pytest.fixture
def ended() -> Iterator[threading.Event]:
    """Set when the test is over, for what would hang longer than that."""
    event = threading.Event()
    yield event
    event.set()


def of_server(searcher: AsyncSearcher, client: AsyncEngineClient, **options: Any) -> AsyncSearcher:
    """The same index, asked through another client."""
    return AsyncSearcher(
        client, searcher.index_name, searcher.plan, searcher.capabilities, searcher.pool, **options
    )


class Stuck(data.TinyDense):
    """An encoder that has no end with one text."""

    def __init__(self, ended: threading.Event) -> None:
        super().__init__()
        self.ended = ended

    def encode_query(self, texts: Any) -> Any:
        if "stuck" in texts:
            self.ended.wait()
        return super().encode_query(texts)


@pytest.mark.parametrize("how", ["silent", "dripping"])
@pytest.mark.parametrize("fusion", ["auto", "client"])
async def test_an_engine_that_never_answers(
    world: World, searcher: AsyncSearcher, how: Any, fusion: Any
) -> None:
    with hanging_server(how) as url:
        client = official(world.kind, url)
        try:
            hanging = of_server(searcher, AsyncEngineClient(client))
            for query, options in (
                (BM25, {}),
                (q.rrf(BM25, DENSE), {"partial_results": True}),
                (q.collapse(q.rrf(BM25, DENSE), "lang"), {}),
                (BM25, {"aggregations": {"langs": {"terms": {"field": "lang"}}}, "timeout_seconds": 60}),
            ):
                with pytest.raises(
                    EngineUnavailableError, match=r"deadline_seconds = 0\.2 .*POST /.*search; raise it"
                ):
                    await hanging.search(query, deadline_seconds=0.2, fusion=fusion, **options)
            facets = {"langs": {"terms": {"field": "lang"}}}
            for nothing_else in (q.match_all(), BM25):
                with pytest.raises(EngineUnavailableError, match=r"deadline_seconds = 0\.2 .*POST"):
                    await hanging.search(nothing_else, size=0, aggregations=facets, deadline_seconds=0.2)
            with pytest.raises(EngineUnavailableError, match=r"deadline_seconds = 0\.2 .*_msearch"):
                await hanging.search_many([BM25, DENSE], deadline_seconds=0.2, fusion=fusion)
        finally:
            await client.close()


async def test_a_deadline_that_is_kept_changes_nothing(searcher: AsyncSearcher) -> None:
    for query in (
        BM25,
        q.rrf(BM25, DENSE),
        q.linear(BM25, DENSE, normalizer="bound"),
        q.rescore(BM25, by=DENSE),
    ):
        plain = await searcher.search(query, explain=True)
        timed = await searcher.search(query, explain=True, deadline_seconds=60)
        assert (timed.ids, timed.path) == (plain.ids, plain.path)
        assert [h.score for h in timed] == [h.score for h in plain]
        assert not timed.legs_missing
    many = await searcher.search_many([BM25, DENSE], deadline_seconds=60)
    assert [hits.ids for hits in many] == [(await searcher.search(x)).ids for x in (BM25, DENSE)]


async def test_an_encoder_that_never_ends(
    world: World, searcher: AsyncSearcher, ended: threading.Event
) -> None:
    pool = EncoderPool(searcher.plan, encoder={"embedding": Stuck(ended)})
    slow = AsyncSearcher(world.client, searcher.index_name, searcher.plan, searcher.capabilities, pool)
    stuck = q.knn("embedding", text="stuck", name="dense")
    quick = q.knn("embedding", text="red", name="quick")
    await slow.search(quick)
    with pytest.raises(EngineUnavailableError, match="the query's vector for embedding"):
        await slow.search(q.rrf(BM25, stuck), deadline_seconds=0.2)
    hits = await slow.search(q.rrf(BM25, stuck), deadline_seconds=3, partial_results=True)
    assert list(hits.legs_missing) == ["dense"]
    assert "deadline_seconds = 3" in hits.legs_missing["dense"]
    assert hits.ids == (await slow.search(q.rrf(BM25))).ids
    with pytest.raises(EngineUnavailableError) as late:  # nothing else to answer with
        await slow.search(stuck, deadline_seconds=0.2, partial_results=True)
    assert "partial_results" not in str(late.value), "what is done already is no advice"
    # A text that was encoded before needs no encoder, and that one is still at work.
    assert len(await slow.search(q.rrf(BM25, quick), deadline_seconds=30)) == 10


async def test_a_reranker_that_never_ends(
    world: World, searcher: AsyncSearcher, ended: threading.Event
) -> None:
    def endless(text: str, texts: Any) -> list[float]:
        ended.wait()
        return [0.0] * len(texts)

    slow = of_server(searcher, world.client, rerankers={"endless": endless})
    query = q.rescore(BM25, text="red", reranker="endless", fields=["title"])
    with pytest.raises(EngineUnavailableError, match="the reranker 'endless'"):
        await slow.search(query, deadline_seconds=0.5)
    hits = await slow.search(query, deadline_seconds=0.5, partial_results=True)
    assert "the reranker 'endless'" in hits.legs_missing["rescore"]
    assert hits.ids == (await slow.search(BM25)).ids
    # Its time was up before the stored fields were fetched.
    assert "ids and scores" in hits.legs_missing.get("source", "ids and scores")


async def test_the_engine_is_told_when_to_stop(world: World) -> None:
    if world.kind != "opensearch":
        pytest.skip("slow on purpose takes a script, and the local Elasticsearch has none")
    plan = data.plan()
    docs = data.documents()
    searcher = await world.fill(plan, {k: docs[k] for k in list(docs)[:30]})
    # A second segment: the engine looks at its clock between segments.
    rest = data.bulk_bytes(plan, world.capabilities, {k: docs[k] for k in list(docs)[30:]})
    path = f"/{searcher.index_name}/_bulk"
    await world.client.request("POST", path, params={"refresh": "true"}, body=rest)
    burn = "double x = 0; for (int i = 0; i < 900000; ++i) { x += Math.sin(i); } return x;"
    script = {"source": f"double burn() {{ {burn} }} return 1 + 0 * burn();"}
    slow = q.raw(
        {"opensearch": {"script_score": {"query": {"match_all": {}}, "script": script}}}, name="slow"
    )
    for query in (slow, q.rrf(slow, DENSE)):
        with pytest.raises(EngineUnavailableError, match="deadline_seconds"):
            await searcher.search(
                query, deadline_seconds=0.4, fusion="client" if query is not slow else "auto"
            )


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, True, "1", np.int64(0)])
async def test_a_deadline_is_a_number_above_0(searcher: AsyncSearcher, seconds: Any) -> None:
    with pytest.raises(QueryError, match="deadline_seconds"):
        await searcher.search(BM25, deadline_seconds=seconds)
    with pytest.raises(QueryError, match="deadline_seconds"):
        await searcher.search_many([BM25], deadline_seconds=seconds)


@pytest.mark.parametrize("how", ["silent", "dripping"])
async def test_reads_without_a_query_end_by_it(client: Any, esembed_index_name: str, how: Any) -> None:
    index = await AsyncIndex.create(
        client, esembed_index_name, IndexPlan(text={"body": TextField()}), alias=False
    )
    await index.ingest([{"_id": "1", "body": "red"}], IngestOptions(refresh=True, dead_letters=None))
    assert await index.count(deadline_seconds=60) == 1
    assert await index.get("1", deadline_seconds=60) == {"body": "red"}
    alias = {
        "actions": [{"add": {"index": index.name, "alias": f"{index.name}-a", "filter": {"match_all": {}}}}]
    }
    await index.client.request("POST", "/_aliases", body=alias)
    for name in (index.name, f"{index.name}-a"):  # a read by id, and a search
        opened = await AsyncIndex.open(client, name)
        with hanging_server(how) as url:
            other = official(index.client.engine, url)
            try:
                opened.state.client = AsyncEngineClient(other)
                with pytest.raises(EngineUnavailableError, match=r"0\.2 passed .*takes so long$"):
                    await opened.count(deadline_seconds=0.2)
                with pytest.raises(EngineUnavailableError, match=r"0\.2 passed .*takes so long$"):
                    await opened.get("1", deadline_seconds=0.2)
                for wrong in (0, -1, True, math.inf):
                    with pytest.raises(QueryError, match="deadline_seconds must be a number"):
                        await opened.get("1", deadline_seconds=wrong)
            finally:
                await other.close()
