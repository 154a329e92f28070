"""Sorted searches page by page, hits narrowed behind their facets, and shards chosen by routing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from esembed import AsyncIndex, IndexPlan
from esembed import query as q
from esembed._async.search import AsyncSearcher
from esembed.errors import QueryError
from esembed.plan import FilterField, IndexOptions
from esembed.query import Query
from esembed.search.page import Cursor
from esembed.types import Document, Hits

from .search_world import World, data, world  # noqa: F401 - a fixture

PLAN = data.plan(
    filter={"lang": FilterField(), "price": FilterField(type="integer"), "day": FilterField(type="date")},
    index=IndexOptions(shards=2),  # where equal sequence numbers are in both
)
COLORS = ("red", "green", "blue")


def documents() -> dict[str, dict[str, Any]]:
    """240 documents of 5 prices; every tenth has no day."""
    return {
        f"{'zyx'[number % 3]}{number:03}": {
            "title": "red" if number % 2 else "red stone",
            "body": "red fox" + " stone" * (number % 7),
            "lang": COLORS[number % 3],
            "price": number % 5,
            **({} if number % 10 == 0 else {"day": f"2026-01-{number % 28 + 1:02}"}),
            "embedding": data.embed(f"fox {number}"),
            "terms": {"red": 1.0 + number % 4},
        }
        for number in range(240)
    }


@pytest.fixture(scope="module")
async def shop(world: World) -> AsyncSearcher:  # noqa: F811
    """A searcher over them, on two shards: equal sequence numbers are in both."""
    plan = PLAN.replace(index=PLAN.index.replace(shards=2)) if hasattr(PLAN.index, "replace") else PLAN
    return await world.fill(plan, documents())


SORTS: list[Any] = [
    ["price"],
    [{"price": "desc"}, "lang"],
    [{"day": {"order": "desc", "missing": "_last"}}],
    ["_score", "price"],
    "lang",
]


@pytest.mark.parametrize("sort", SORTS, ids=str)
@pytest.mark.parametrize("size", [7, 60])
async def test_pages_of_equal_values_lose_nothing(shop: AsyncSearcher, sort: Any, size: int) -> None:
    page = await shop.search(q.match("fox", fields="body"), sort=sort, size=size)
    keys = 1 if isinstance(sort, str) else len(sort)
    assert all(len(hit.sort) == keys for hit in page)
    seen, values, pages = list(page.ids), [hit.sort for hit in page], 1
    while page.next_cursor is not None:
        page = await shop.search(q.match("fox", fields="body"), sort=sort, size=size, cursor=page.next_cursor)
        seen += page.ids
        values += [hit.sort for hit in page]
        pages += 1
    assert sorted(seen) == sorted(documents())
    assert pages == -(-240 // size)
    if sort == ["price"]:
        assert values == sorted(values)


async def test_a_cursor_of_another_sort(shop: AsyncSearcher) -> None:
    query = q.match("fox", fields="body")
    page = await shop.search(query, sort="price", size=5)
    assert page.next_cursor is not None
    for other in ({"sort": "lang"}, {"sort": [{"price": "desc"}]}, {}):
        with pytest.raises(QueryError, match="belongs to another query"):
            await shop.search(query, size=5, cursor=page.next_cursor, **other)
    with pytest.raises(QueryError, match="one of them"):
        await shop.search(query, sort="price", cursor=page.next_cursor, search_after=[1])
    mine = Cursor.decode(page.next_cursor, json.loads(_decoded(page.next_cursor))[3])
    for after in ([1], [[1], 2, "x"], [1, 2, {"a": 1}], [1, 2, 3, 4]):
        broken = Cursor(version=1, offset=5, window=mine.window, digest=mine.digest, after=after).encode()
        with pytest.raises(QueryError, match="search_after"):
            await shop.search(query, sort="price", size=5, cursor=broken)


def _decoded(cursor: str) -> bytes:
    import base64

    return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))


async def test_values_of_the_caller(shop: AsyncSearcher) -> None:
    """As the engines do it: behind all documents of these values."""
    query = q.match("fox", fields="body")
    page = await shop.search(query, sort="price", size=5)
    after = await shop.search(query, sort="price", size=5, search_after=list(page[-1].sort))
    assert {hit.sort for hit in after} == {(1,)}
    assert after.next_cursor is None


async def test_sorted_nearest_are_paged_within_k(shop: AsyncSearcher) -> None:
    knn = q.knn("embedding", vector=data.embed("fox 7").tolist(), k=20)
    whole = await shop.search(knn, sort=["price", {"day": "desc"}], size=20)
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(5):
        page = await shop.search(knn, sort=["price", {"day": "desc"}], size=5, cursor=cursor)
        seen += page.ids
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == whole.ids
    assert len(seen) == 20


# -- facets behind which the hits are narrowed ---------------------------------------------------------

KNN = q.knn("embedding", vector=data.embed("fox 7").tolist(), k=60)
TEXT = q.match("fox", fields="body")
FACETS = {"colors": {"terms": {"field": "lang"}}}
QUERIES: dict[str, tuple[Query, dict[str, Any]]] = {
    "text": (TEXT, {}),
    "sorted": (TEXT, {"sort": "price"}),
    "vectors": (KNN, {}),
    "vectors, sorted": (KNN, {"sort": ["price", {"day": "desc"}]}),
    "bool, sorted": (q.bool_(should=[TEXT, KNN]), {"sort": "price"}),
    "sparse": (q.sparse("terms", vector={"red": 1.0}), {}),
    "bool": (q.bool_(should=[TEXT, KNN]), {}),
    "fused": (q.rrf(TEXT, KNN), {}),
    "fused here": (q.rrf(TEXT, KNN), {"fusion": "client"}),
    "summed": (q.linear(TEXT, KNN, normalizer="minmax"), {}),
    "collapsed": (q.collapse(TEXT, "price"), {}),
    "rescored": (q.rescore(TEXT, by=KNN, window_size=50), {}),
}


def _counts(hits: Hits) -> dict[str, int]:
    return {bucket["key"]: bucket["doc_count"] for bucket in hits.aggregations["colors"]["buckets"]}


@pytest.mark.parametrize("name", QUERIES)
async def test_a_post_filter_is_not_counted(shop: AsyncSearcher, name: str) -> None:
    query, options = QUERIES[name]
    green = q.term("lang", "green")
    plain = await shop.search(query, aggregations=FACETS, **options)
    hits = await shop.search(query, aggregations=FACETS, post_filter=green, **options)
    assert {hit.source["lang"] for hit in hits} == {"green"}
    assert _counts(hits) == _counts(plain)
    assert set(_counts(plain)) == set(COLORS), plain
    # As a filter, which is counted, it finds the same. (An engine's own fusion of several shards is
    # approximate, and what a post_filter narrows is fused here.)
    here = {**options, "fusion": "client"}
    filtered = await shop.search(query, aggregations=FACETS, filter=green, **here)
    assert hits.ids == filtered.ids
    assert set(_counts(filtered)) == {"green"}
    # Without anything to count it is one.
    alone = await shop.search(query, post_filter=[green], **here)
    assert alone.ids == filtered.ids
    if hits.next_cursor is not None:
        second = await shop.search(
            query, aggregations=FACETS, post_filter=green, cursor=hits.next_cursor, **options
        )
        assert not set(second.ids) & set(hits.ids)
        with pytest.raises(QueryError, match="belongs to another query"):
            await shop.search(query, aggregations=FACETS, cursor=hits.next_cursor, **options)


async def test_totals_are_those_of_the_hits(shop: AsyncSearcher) -> None:
    green = q.term("lang", "green")
    one = await shop.search(TEXT, aggregations=FACETS, post_filter=green)
    fused = await shop.search(q.rrf(TEXT, KNN), aggregations=FACETS, post_filter=green, count=True)
    assert one.total == fused.total == 80


async def test_what_a_post_filter_is_refused_for(shop: AsyncSearcher) -> None:
    with pytest.raises(QueryError, match="colour"):
        await shop.search(TEXT, aggregations=FACETS, post_filter=q.term("colour", "green"))
    with pytest.raises(QueryError, match="filter must be a query"):
        await shop.search(TEXT, post_filter={"term": {"lang": "green"}})
    with pytest.raises(QueryError, match="price"):
        await shop.search(TEXT, aggregations=FACETS, post_filter=q.range("price", gte=float("nan")))


async def test_what_sorted_hits_are_refused_for(shop: AsyncSearcher) -> None:
    options: dict[str, Any] = {
        "sort": "price",
        "aggregations": FACETS,
        "post_filter": q.term("lang", "green"),
    }
    refused = {
        "go with floor": q.floor(KNN, p=0.1),
        "go with rescore": q.rescore(TEXT, by=KNN, window_size=50),
        "go with fusion": q.rrf(TEXT, KNN),
    }
    for why, query in refused.items():
        with pytest.raises(QueryError, match=why):
            await shop.search(query, **options)
    with pytest.raises(QueryError, match="give the knn a similarity"):
        await shop.search(KNN, sort="price", min_score=0.1)


# -- routing --------------------------------------------------------------------------------------------


async def test_a_search_by_routing(client: Any, esembed_index_name: str) -> None:
    plan = IndexPlan.from_toml("[text.title]\n[index]\nshards = 3\n")
    index = await AsyncIndex.create(client, esembed_index_name, plan)
    await index.ingest(
        [
            Document(f"{tenant}{number}", {"title": f"red fox {number}"}, routing=tenant)
            for tenant in ("a", "b", "c", "d")
            for number in range(10)
        ]
    )
    everything = await index.search("fox", size=50)
    assert len(everything) == 40
    for values in ("a", ["a"], ["a", "b"]):
        hits = await index.search("fox", size=50, routing=values)
        wanted = {f"{tenant}{number}" for tenant in values for number in range(10)}
        assert wanted <= set(hits.ids)
        assert len(hits) < 40 or len(values) > 1
    with pytest.raises(QueryError, match="routing"):
        await index.search("fox", routing="a,b")
    with pytest.raises(QueryError, match="routing"):
        await index.search("fox", routing=[])
