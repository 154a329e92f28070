"""Hits that differ from each other: the order against a plain loop, on both engines and beside their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from esembed import query as q
from esembed._async.search import AsyncSearcher
from esembed.errors import QueryError, UnsupportedFeatureError
from esembed.types import Hit

from .search_world import DENSE, DOCS, VECTOR, World, data, world  # noqa: F401 - a fixture

KNN = q.knn("embedding", vector=VECTOR, k=40)
TEXT = q.match("red dog", fields=["title^2", "body"])
RESCORED = q.rescore(TEXT, by=q.knn("embedding", vector=VECTOR[::-1]), window_size=40)
SETTING = "cluster.search.enabled_system_generated_factories"


def unit(vector: Any) -> Any:
    """Length 1, so that Elasticsearch's own form compares the same."""
    return np.asarray(vector, np.float32) / np.linalg.norm(vector)


UNITS = {name: {**doc, "embedding": unit(doc["embedding"])} for name, doc in DOCS.items()}


@pytest.fixture(scope="module")
async def units(world: World) -> AsyncSearcher:  # noqa: F811
    """A searcher over documents whose vectors have length 1."""
    return await world.fill(data.plan(), UNITS)


@pytest.fixture
async def processors(world: World) -> None:  # noqa: F811
    """OpenSearch may diversify by itself, and goes on to: other tests on the same engine may run beside."""
    if world.kind == "opensearch" and world.capabilities.diversify:
        names = ["mmr_over_sample_factory", "mmr_rerank_factory"]
        body = {"transient": {SETTING: names}}
        await world.client.request("PUT", "/_cluster/settings", body=body)


def chosen(hits: Sequence[Hit], relevance: dict[str, float], weight: float) -> list[str]:
    """The definition, step by step."""
    left, order = [hit.id for hit in hits], []
    while left:

        def worth(name: str) -> float:
            vector = UNITS[name]["embedding"]
            near = [(1 + float(vector @ UNITS[other]["embedding"])) / 2 for other in order]
            return weight * relevance[name] - (1 - weight) * max(near, default=0.0)

        best = max(left, key=worth)
        order.append(best)
        left.remove(best)
    return order


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.7, 1.0])
async def test_hits_of_a_knn_come_in_the_order_of_the_definition(units: AsyncSearcher, weight: float) -> None:
    plain = await units.search(KNN, size=40)
    hits = await units.search(q.diversify(KNN, "embedding", relevance=weight, window_size=40), size=40)
    assert [hit.id for hit in hits] == chosen(plain, {hit.id: hit.score for hit in plain}, weight)
    assert {hit.id: hit.score for hit in hits} == {hit.id: hit.score for hit in plain}
    assert (weight == 1.0) == ([hit.id for hit in hits] == [hit.id for hit in plain])
    assert hits[0].source["title"] == UNITS[hits[0].id]["title"]
    assert "embedding" not in hits[0].source


async def test_a_boost_of_the_knn_changes_nothing(units: AsyncSearcher) -> None:
    one, other = (q.diversify(k, "embedding", relevance=0.6) for k in (KNN, KNN.replace(boost=7.0)))
    expected = [hit.id for hit in await units.search(one, size=20)]
    assert [hit.id for hit in await units.search(other, size=20)] == expected


@pytest.mark.parametrize("query", [TEXT, q.rrf(TEXT, DENSE), RESCORED])
async def test_other_scores_are_scaled_over_the_window(units: AsyncSearcher, query: Any) -> None:
    plain = await units.search(query, size=20)
    low, high = min(hit.score for hit in plain), max(hit.score for hit in plain)
    scaled = {hit.id: (hit.score - low) / (high - low) for hit in plain}
    hits = await units.search(q.diversify(query, "embedding", relevance=0.5, window_size=20), size=20)
    assert [hit.id for hit in hits] == chosen(plain, scaled, 0.5)
    assert [hit.id for hit in hits] != [hit.id for hit in plain]


async def test_copies_of_one_document_make_room(world: World) -> None:  # noqa: F811
    near = unit(VECTOR)
    docs = {f"copy{i}": {**DOCS["d000"], "embedding": near} for i in range(8)}
    docs |= {
        f"other{i}": {**DOCS["d001"], "embedding": unit(near + step)} for i, step in enumerate(np.eye(8))
    }
    searcher = await world.fill(data.plan(), docs)
    plain = [hit.id for hit in await searcher.search(DENSE, size=5)]
    hits = [hit.id for hit in await searcher.search(q.diversify(DENSE, "embedding", relevance=0.4), size=5)]
    assert sum(name.startswith("copy") for name in plain) == 5
    assert sum(name.startswith("copy") for name in hits) == 1


async def test_pages_join_and_end_with_the_window(units: AsyncSearcher) -> None:
    query = q.diversify(q.rrf(TEXT, DENSE), "embedding", window_size=25)
    whole = [hit.id for hit in await units.search(query, size=25)]
    first = await units.search(query, size=10)
    second = await units.search(query, size=10, cursor=first.next_cursor)
    assert [hit.id for hit in [*first, *second]] == whole[:20]
    with pytest.raises(QueryError, match="beyond diversify's window_size of 25"):
        await units.search(query, size=10, offset=20)
    last = await units.search(query, size=10, cursor=second.next_cursor)
    assert [hit.id for hit in last] == whole[20:]
    assert last.next_cursor is None


async def test_documents_without_a_vector_are_like_no_other(world: World) -> None:  # noqa: F811
    lines = {name: doc for name, doc in UNITS.items() if name < "d020"}
    searcher = await world.fill(data.plan(), lines)
    client, index = world.client, searcher.index_name
    for name in ("d001", "d002"):
        source = {"title": "red", "body": "red dog", "lang": "en"}
        await client.request("PUT", f"/{index}/_doc/{name}", params={"refresh": "true"}, body=source)
    query = q.diversify(q.match_all(), "embedding", relevance=0.0, window_size=20)
    names = [hit.id for hit in await searcher.search(query, size=20)]
    assert sorted(names) == sorted(lines)
    only = await searcher.search(query, filter=q.ids("d001", "d002"))
    assert [hit.id for hit in only] == ["d001", "d002"]
    assert "none of the 2 hits has a vector in embedding" in only.notes[-1]


async def test_many_queries_at_once(units: AsyncSearcher) -> None:
    query = q.diversify(KNN, "embedding", relevance=0.4)
    alone = [hit.id for hit in await units.search(query)]
    assert [[hit.id for hit in hits] for hits in await units.search_many([query, query])] == [alone, alone]


async def test_the_engines_own_form(world: World, units: AsyncSearcher, processors: None) -> None:  # noqa: F811
    query = q.diversify(KNN, "embedding", relevance=0.6, window_size=40)
    if not world.capabilities.diversify:
        with pytest.raises(UnsupportedFeatureError, match=r"needs (Elasticsearch 9\.3|OpenSearch 3\.3)"):
            await units.search(query, size=8, fusion="server")
        return
    ours = [hit.id for hit in await units.search(query, size=8)]
    hits = await units.search(query, size=8, fusion="server", source=["title"])
    assert hits.path == "single"
    theirs = [hit.id for hit in hits]
    if world.kind == "opensearch":
        assert theirs == ours
    else:
        # It chooses the same ones and leaves them in the order they had.
        assert set(theirs) == set(ours)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert "left them in the query's order" in hits.notes[-1]


async def test_what_the_engines_own_form_lacks(world: World, units: AsyncSearcher) -> None:  # noqa: F811
    text = q.diversify(TEXT, "embedding")
    with pytest.raises(UnsupportedFeatureError, match='fusion="auto"'):
        await units.search(text, fusion="server")
    with pytest.raises(UnsupportedFeatureError, match="a first page"):
        await units.search(q.diversify(KNN, "embedding"), fusion="server", offset=10)
    with pytest.raises(UnsupportedFeatureError, match="no other stage"):
        await units.search(q.diversify(q.collapse(KNN, "lang"), "embedding"), fusion="server")


async def test_a_field_that_documents_can_t_be_compared_by(world: World, units: AsyncSearcher) -> None:  # noqa: F811
    with pytest.raises(QueryError, match="diversify needs a dense field; 'title'"):
        await units.search(q.diversify(KNN, "title"))
    with pytest.raises(QueryError, match="sort and search_after don't go with"):
        await units.search(q.diversify(KNN, "embedding"), sort="price")
    for store in ("nested", "documents"):
        docs = {"a": {"title": "red fox", "lang": "en", "chunks": ["red fox"]}}
        searcher = await world.fill(data.chunk_plan(store), docs)
        with pytest.raises(QueryError, match="one for each chunk"):
            await searcher.search(q.diversify(q.match("fox"), "embedding"))
