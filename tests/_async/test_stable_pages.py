"""Pages that see the index as the first one did, and go on beyond a fusion's window, under writes."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from esembed import query as q
from esembed._async.search import AsyncSearcher
from esembed.errors import EsembedError, QueryError, UnsupportedFeatureError
from esembed.plan import FilterField, IndexOptions
from esembed.query import Query
from esembed.query.nodes import Collapse
from esembed.search.page import Cursor, PointInTime

from .search_world import VECTOR, World, data, world  # noqa: F401 - a fixture

COUNT = 230
WINDOW = 20
KEPT: dict[str, Any] = {"keep_alive_seconds": 60}
PLAN = data.plan(
    filter={"lang": FilterField(), "price": FilterField(type="integer")}, index=IndexOptions(shards=2)
)
BM25 = q.match("red stone", fields="body", name="bm25")
DENSE = q.knn("embedding", vector=VECTOR, name="dense")
SPARSE = q.sparse("terms", vector={"red": 1.7}, name="sparse")


def document(number: int) -> dict[str, Any]:
    """Every third has no word of the query."""
    words = "red fox" if number % 2 else "red stone" + " stone" * (number % 7)
    return {
        "title": f"number {number}",
        "body": "grass" if number % 3 == 0 else words,
        "lang": f"l{number % 90}",
        "price": number % 5,
        "embedding": data.embed(f"fox {number}"),
        "terms": {"red" if number % 2 else "cat": 1.0 + number % 4},
    }


DOCUMENTS = {f"{'zyx'[number % 3]}{number:03}": document(number) for number in range(COUNT)}


@dataclass
class Shop:
    """A searcher over them, with who writes meanwhile."""

    searcher: AsyncSearcher
    written: int = 0

    async def write(self) -> None:
        """Remove what is there, change and add some; the index is as before after :meth:`restore`."""
        docs = {f"new{self.written}-{number}": document(number) for number in range(30)}
        await self._bulk({**docs, **{name: document(7) for name in list(DOCUMENTS)[40:60]}})
        for name in list(DOCUMENTS)[:40]:
            await self._request("DELETE", f"/_doc/{name}", ignore=(404,))
        await self._request("POST", "/_refresh")
        self.written += 1

    async def restore(self) -> None:
        await self._bulk(DOCUMENTS)
        for added in range(self.written):
            for number in range(30):
                await self._request("DELETE", f"/_doc/new{added}-{number}", ignore=(404,))
        await self._request("POST", "/_refresh")
        self.written = 0

    async def _bulk(self, docs: dict[str, dict[str, Any]]) -> None:
        lines = data.bulk_bytes(PLAN, self.searcher.capabilities, docs)
        answer = await self._request("POST", "/_bulk", body=lines)
        assert not answer.body["errors"]

    async def _request(self, method: str, path: str, **options: Any) -> Any:
        return await self.searcher.client.request(method, f"/{self.searcher.index_name}{path}", **options)


@pytest.fixture(scope="module")
async def shop(world: World) -> Shop:  # noqa: F811
    """On two shards."""
    return Shop(await world.fill(PLAN, DOCUMENTS))


QUERIES: dict[str, Query] = {
    "rrf": q.rrf(BM25, DENSE, rank_window_size=WINDOW),
    "three legs": q.rrf(BM25, DENSE, SPARSE, rank_window_size=WINDOW, weights=[1, 2, 1]),
    "minmax": q.linear(BM25, DENSE, normalizer="minmax", rank_window_size=WINDOW),
    "bound": q.linear(BM25, DENSE, normalizer="bound", rank_window_size=WINDOW),
    "nested": q.rrf(q.rrf(BM25, SPARSE, rank_window_size=10), DENSE, rank_window_size=WINDOW),
    "collapsed": q.collapse(q.rrf(BM25, DENSE, rank_window_size=WINDOW), field="lang"),
    "few nearest": q.rrf(BM25, q.knn("embedding", vector=VECTOR, k=15), rank_window_size=WINDOW),
    "filtered": q.rrf(BM25, DENSE, rank_window_size=WINDOW, filter=q.term("price", 2)),
}


def _found(query: Query) -> set[str]:
    """The documents that any leg finds: a kNN without a k of its own all that the filter lets pass."""
    return {name for name, doc in DOCUMENTS.items() if query is not QUERIES["filtered"] or doc["price"] == 2}


@pytest.mark.parametrize("name", QUERIES)
async def test_pages_beyond_the_window_under_writes(shop: Shop, name: str) -> None:
    query, searcher = QUERIES[name], shop.searcher
    await shop.restore()
    # Shards answer in another order in a point in time, and so do documents of equal scores.
    first = await searcher.search(query, size=WINDOW, source=False, keep_alive_seconds=60)
    windows = await _windows(searcher, query)
    page = await searcher.search(query, size=7, keep_alive_seconds=60)
    seen, pages = list(page.ids), 1
    while page.next_cursor is not None:
        await shop.write() if pages < 3 else None
        page = await searcher.search(query, size=7, cursor=page.next_cursor, **KEPT)
        assert all(hit.source.get("title") == DOCUMENTS[hit.id]["title"] for hit in page)  # as it was
        seen += page.ids
        pages += 1
    assert seen[: len(first)] == first.ids[: len(seen)]
    assert len(seen) == len(set(seen))
    if name == "collapsed":
        langs = [DOCUMENTS[hit]["lang"] for hit in seen]
        assert len(langs) == len(set(langs)) == len({DOCUMENTS[hit]["lang"] for hit in _found(query)})
    elif name == "few nearest":
        matching = {found for found, doc in DOCUMENTS.items() if doc["body"] != "grass"}
        assert matching <= set(seen)
        assert len(set(seen) - matching) <= 15
    else:
        assert set(seen) == _found(query)
        assert seen[: len(windows)] == windows


async def _windows(searcher: AsyncSearcher, query: Query) -> list[str]:
    """What :meth:`Request.grown` says: of each window in turn the hits that none before had."""
    seen: list[str] = []
    window = WINDOW
    while window < 4 * WINDOW and not isinstance(query, Collapse):
        found = await searcher.search(
            _as_wide(query, window // WINDOW), size=window, source=False, keep_alive_seconds=60
        )
        if len(found) < window:
            break
        seen += [id for id in found.ids if id not in seen]
        window *= 2
    return seen


def _as_wide(query: Any, times: int) -> Any:
    legs = tuple(_as_wide(leg, times) if hasattr(leg, "legs") else leg for leg in query.legs)
    return query.replace(rank_window_size=query.rank_window_size * times, legs=legs)


async def test_the_last_page_closes_what_it_saw(shop: Shop) -> None:
    searcher = shop.searcher
    await shop.restore()
    page = await searcher.search(QUERIES["filtered"], size=20, keep_alive_seconds=60)
    assert page.next_cursor is not None
    opened = _point_in_time(page.next_cursor)
    while page.next_cursor is not None:
        cursor, page = (
            page.next_cursor,
            await searcher.search(QUERIES["filtered"], size=20, cursor=page.next_cursor, **KEPT),
        )
    with pytest.raises(QueryError, match="no longer keeps the index as this cursor's first page saw it"):
        await searcher.search(QUERIES["filtered"], size=20, cursor=cursor, **KEPT)
    answer = await searcher.client.request("POST", "/_search", body={"pit": {"id": opened}}, ignore=(404,))
    assert answer.status == 404


async def test_a_query_without_fusion_and_a_sorted_one(shop: Shop) -> None:
    searcher = shop.searcher
    await shop.restore()
    matching = {name for name, doc in DOCUMENTS.items() if doc["body"] != "grass"}
    for query, options in ((BM25, {}), (q.match("red stone", fields="body"), {"sort": ["price"]})):
        page = await searcher.search(query, size=33, keep_alive_seconds=60, **options)
        seen = list(page.ids)
        await shop.write()
        while page.next_cursor is not None:
            page = await searcher.search(query, size=33, cursor=page.next_cursor, **KEPT, **options)
            seen += page.ids
        await shop.restore()
        assert len(seen) == len(set(seen))
        assert set(seen) == matching


async def test_a_deep_page_has_all_that_a_page_has(shop: Shop) -> None:
    searcher, query = shop.searcher, QUERIES["rrf"]
    await shop.restore()
    counts = {"prices": {"terms": {"field": "price"}}}
    options: dict[str, Any] = {
        "aggregations": counts, "count": True, "explain": True, "highlight": ["body"],
        "source": ["body", "lang"],
    }  # fmt: skip
    first = await searcher.search(query, size=30, **KEPT, **options)
    second = await searcher.search(query, size=30, cursor=first.next_cursor, **options, **KEPT)
    assert first.total == second.total is not None
    assert first.aggregations == second.aggregations
    for hit in second:
        assert set(hit.source) == {"body", "lang"}
        assert [part.leg for part in hit.contributions] == ["bm25", "dense"]
    assert any("<em>red</em>" in str(hit.highlight) for hit in second)
    direct = await searcher.search(query, size=30, offset=30, keep_alive_seconds=60)
    assert direct.ids == second.ids
    cut = await searcher.search(
        q.linear(BM25, DENSE, rank_window_size=WINDOW), min_score=0.4, size=9, keep_alive_seconds=9
    )
    while cut.next_cursor is not None:
        cut = await searcher.search(
            q.linear(BM25, DENSE, rank_window_size=WINDOW),
            min_score=0.4,
            size=9,
            cursor=cut.next_cursor,
            **KEPT,
        )
        assert all(hit.score >= 0.4 for hit in cut)


async def test_a_stage_with_a_window_ends_the_pages(shop: Shop) -> None:
    query = q.rescore(QUERIES["rrf"], by=q.match("fox", fields="body"), window_size=15)
    page = await shop.searcher.search(query, size=10, keep_alive_seconds=60)
    assert page.next_cursor is not None
    last = await shop.searcher.search(query, size=10, cursor=page.next_cursor, **KEPT)
    assert len(last) == 5
    assert last.next_cursor is None


async def test_what_a_cursor_from_outside_may_read(shop: Shop, world: World) -> None:  # noqa: F811
    other = await world.fill(PLAN, dict(list(DOCUMENTS.items())[:20]))
    query = QUERIES["rrf"]
    mine = await shop.searcher.search(query, size=5, keep_alive_seconds=60)
    theirs = await other.search(query, size=5, keep_alive_seconds=60)
    assert mine.next_cursor is not None
    assert theirs.next_cursor is not None
    id = _point_in_time(mine.next_cursor)
    for forged, said in (
        (_point_in_time(theirs.next_cursor), "the cursor is broken"),
        ("x", "the cursor is broken"),
        (id[:-8] + "AAAAAAAA", "cursor"),
    ):
        with pytest.raises(QueryError, match=said):
            await shop.searcher.search(query, size=5, cursor=_with(mine.next_cursor, forged), **KEPT)
    plain = await shop.searcher.search(query, size=5)
    with pytest.raises(QueryError, match="of a search without keep_alive_seconds"):
        await shop.searcher.search(query, size=5, cursor=plain.next_cursor, keep_alive_seconds=60)
    with pytest.raises(QueryError, match="pass keep_alive_seconds with each page"):
        await shop.searcher.search(query, size=5, cursor=mine.next_cursor)
    # Nothing of another index is counted, or closed, either.
    counted = {"aggregations": {"l": {"terms": {"field": "lang"}}}, "count": True}
    alone = await shop.searcher.search(BM25, size=5, **KEPT)
    for forged in (_point_in_time(theirs.next_cursor), "a" * 30_000, "AAAA"):
        broken = msgspec.structs.replace(
            _read(alone.next_cursor), point_in_time=forged, offset=9_000
        ).encode()
        with pytest.raises(QueryError, match="the cursor is broken"):
            await shop.searcher.search(BM25, size=5, cursor=broken, **counted, **KEPT)
    assert await other.search(query, size=5, cursor=theirs.next_cursor, **KEPT)
    # What is wrong with the page's own options is said as on the first one.
    with pytest.raises(EsembedError, match="bogus"):
        await shop.searcher.search(
            BM25, size=5, cursor=alone.next_cursor, aggregations={"x": {"bogus": {}}}, **KEPT
        )


async def test_a_cursor_stays_with_its_routing(shop: Shop) -> None:
    page = await shop.searcher.search(BM25, size=5, routing="a")
    with pytest.raises(QueryError, match="belongs to another query"):
        await shop.searcher.search(BM25, size=5, routing="b", cursor=page.next_cursor)
    with pytest.raises(QueryError, match="belongs to another query"):
        await shop.searcher.search(BM25, size=5, cursor=page.next_cursor)
    assert await shop.searcher.search(BM25, size=5, routing="a", cursor=page.next_cursor)


async def test_words_weigh_what_they_did_on_the_first_page(shop: Shop) -> None:
    """Another process serves the second page, and the words' counts have changed."""
    await shop.restore()
    query = q.linear(BM25, DENSE, normalizer="bound", rank_window_size=WINDOW)
    first = await shop.searcher.search(query, size=15, explain=True, **KEPT)
    await shop.write()
    again = AsyncSearcher(
        shop.searcher.client,
        shop.searcher.index_name,
        shop.searcher.plan,
        shop.searcher.capabilities,
        shop.searcher.pool,
    )
    read = _read(first.next_cursor)
    start = msgspec.structs.replace(read, offset=0).encode()
    found = await again.search(query, size=15, cursor=start, **KEPT)
    assert [(hit.id, hit.score) for hit in found] == [(hit.id, hit.score) for hit in first]
    await shop.restore()


async def test_a_knn_with_candidates_of_its_own_grows(shop: Shop) -> None:
    await shop.restore()
    query = q.rrf(BM25, q.knn("embedding", vector=VECTOR, num_candidates=25), rank_window_size=WINDOW)
    page = await shop.searcher.search(query, size=30, **KEPT)
    seen = list(page.ids)
    while page.next_cursor is not None:
        page = await shop.searcher.search(query, size=30, cursor=page.next_cursor, **KEPT)
        seen += page.ids
    assert sorted(seen) == sorted(DOCUMENTS)


async def test_a_caller_that_hangs_up_leaves_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[PointInTime] = []
    close = shop.searcher._close

    async def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    async def watched(opened: PointInTime) -> None:
        closed.append(opened)
        await close(opened)

    monkeypatch.setattr(shop.searcher, "_hits", fail)
    monkeypatch.setattr(shop.searcher, "_close", watched)
    with pytest.raises(KeyboardInterrupt):
        await shop.searcher.search(BM25, **KEPT)
    assert len(closed) == 1


async def test_the_last_page_is_what_is_left(shop: Shop) -> None:
    """Whatever the size, a loop over cursors ends."""
    await shop.restore()
    for query, end in (
        (q.rrf(BM25, DENSE, rank_window_size=WINDOW), WINDOW),
        (q.knn("embedding", vector=VECTOR), 100),
        (q.rescore(q.rrf(BM25, DENSE), by=q.match("fox", fields="body"), window_size=50), 50),
    ):
        page = await shop.searcher.search(query, size=7)
        seen = list(page.ids)
        while page.next_cursor is not None:
            page = await shop.searcher.search(query, size=7, cursor=page.next_cursor)
            seen += page.ids
        assert len(seen) == len(set(seen)) == end


async def test_one_leg_under_a_stage_of_ours(shop: Shop) -> None:
    """Many documents score alike, and lists that grow put other ids among them. Nothing is written."""
    await shop.restore()
    anything: Any = SimpleNamespace(legs={"bm25": None}, share=lambda scores: 0.0)
    mine = shop.searcher
    searcher = AsyncSearcher(
        mine.client, mine.index_name, mine.plan, mine.capabilities, mine.pool, calibration=anything
    )
    query = q.floor(BM25, p=0.3)
    page = await searcher.search(query, size=7)
    seen = list(page.ids)
    while page.next_cursor is not None:
        page = await searcher.search(query, size=7, cursor=page.next_cursor)
        seen += page.ids
    assert len(seen) == len(set(seen))
    assert set(seen) == {name for name, doc in DOCUMENTS.items() if doc["body"] != "grass"}


async def test_what_is_refused(shop: Shop) -> None:
    for wrong in (0, -1, float("nan"), float("inf"), 86_401, "1m", True):
        with pytest.raises(QueryError, match="keep_alive_seconds must be above 0"):
            await shop.searcher.search("red", keep_alive_seconds=wrong)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedFeatureError, match="keep_alive_seconds"):
        await shop.searcher.search(QUERIES["rrf"], keep_alive_seconds=60, fusion="server")
    for options in ({"size": 0}, {"sort": ["price"], "search_after": [1]}):
        with pytest.raises(QueryError, match="size=0 and search_after have none"):
            await shop.searcher.search(BM25, **options, **KEPT)
    plain = await shop.searcher.search(QUERIES["rrf"], size=WINDOW)
    assert plain.next_cursor is None
    assert any("keep_alive_seconds" in note for note in plain.notes)


def _point_in_time(cursor: str | None) -> str:
    found = _read(cursor).point_in_time
    assert found is not None
    return found


def _read(cursor: str | None) -> Cursor:
    assert cursor is not None
    return msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=Cursor)


def _with(cursor: str, id: str) -> str:
    return msgspec.structs.replace(_read(cursor), point_in_time=id).encode()
