# Generated from tests/_async/test_ties_and_groups.py by scripts/run_unasync.py; change that file and run the script.
"""Equal scores in the order of ids, and collapsed queries page by page, on every path."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from esembed import query as q
from esembed._sync.search import Searcher
from esembed.errors import QueryError
from esembed.plan import FilterField
from esembed.query import Query
from esembed.types import Hits

from .search_world import World, data, world  # noqa: F401 - a fixture

PLAN = data.plan(filter={"lang": FilterField(), "price": FilterField(type="integer")})
NAMES = [f"{letter}{number:02}" for number in range(60) for letter in "zyxwv"]
"""300 documents, written in an order that is not that of their ids."""
GROUPS = 60


def documents() -> dict[str, dict[str, Any]]:
    """Documents whose texts, vectors and weights are alike by fives; ``price`` is the group."""
    return {
        name: {
            "title": "red",
            "body": "red fox" + " stone" * int(name[1:]),
            "lang": "en",
            "price": int(name[1:]),
            "embedding": data.embed(f"fox {name[1:]}"),
            "terms": {"red": 1.0},
        }
        for name in NAMES
    }


@pytest.fixture(scope="module")
def alike(world: World) -> Searcher:  # noqa: F811
    """A searcher over them."""
    return world.fill(PLAN, documents())


KNN = q.knn("embedding", vector=data.embed("fox 07").tolist(), k=100)
TEXT = q.match("fox", fields="body")
SAME = q.match("red", fields="title")
TIED: dict[str, tuple[Query, dict[str, Any]]] = {
    "text": (TEXT, {}),
    "all the same": (SAME, {"filter": q.range("price", lt=4)}),
    "sparse": (q.sparse("terms", vector={"red": 1.0}), {"filter": q.range("price", lt=4)}),
    "vectors": (KNN, {}),
    "bool": (q.bool_(should=[SAME, KNN.replace(k=20)]), {}),
    "boosted": (q.boost_by(SAME, "price"), {}),
    "all": (q.match_all(), {"filter": q.range("price", lt=4)}),
    "fused": (q.rrf(TEXT, KNN), {}),
    "fused here": (q.rrf(TEXT, KNN), {"fusion": "client"}),
    "summed": (q.linear(SAME, KNN, normalizer="l2"), {}),
    "summed here": (q.linear(SAME, KNN, normalizer="minmax"), {"fusion": "client"}),
    "rescored by the engine": (q.rescore(SAME, by=TEXT, window_size=40), {}),
    "in groups": (q.collapse(q.boost_by(SAME, "price", modifier="square", factor=0), "price"), {}),
}


@pytest.mark.parametrize("name", TIED)
def test_equal_scores_come_in_order_of_id(alike: Searcher, name: str) -> None:
    query, options = TIED[name]
    hits = alike.search(query, size=20, **options)
    assert len(hits) == 20
    tied = 0
    for one, other in itertools.pairwise(hits):
        assert one.score >= other.score
        if one.score == other.score:
            tied += 1
            assert one.id < other.id, (one, other)
    assert tied or name.startswith("fused")  # ranks tell documents apart whose scores are the same


def test_what_a_sort_orders_stays(alike: Searcher) -> None:
    hits = alike.search(TEXT, size=20, sort=[{"price": "desc"}])
    assert [int(hit.id[1:]) for hit in hits] == sorted((int(hit.id[1:]) for hit in hits), reverse=True)


def pages(searcher: Searcher, query: Query, **options: Any) -> list[Hits]:
    """Every page, cursor by cursor."""
    found = [searcher.search(query, **options)]
    while found[-1].next_cursor is not None:
        assert len(found) < 100
        found.append(searcher.search(query, cursor=found[-1].next_cursor, **options))
    return found


@pytest.mark.parametrize("size", [1, 7, 30, 60, 61])
@pytest.mark.parametrize(
    "query", [TEXT, SAME, q.boost_by(TEXT, "price", modifier="ln2p"), q.match_all()], ids=str
)
def test_a_collapsed_query_pages_through_every_group(alike: Searcher, query: Query, size: int) -> None:
    if size == 1:
        query = query.replace(filter=q.range("price", lt=9))
    found = pages(alike, q.collapse(query, "price"), size=size)
    groups = [hit.id[1:] for page in found for hit in page]
    assert len(groups) == len(set(groups)) == (9 if size == 1 else GROUPS)
    assert not any(page.notes for page in found)


def test_more_groups_than_a_window_has_hits(world: World) -> None:  # noqa: F811
    docs = {f"d{n:03}": {**doc, "price": n} for n, doc in enumerate(documents().values())}
    searcher = world.fill(PLAN, docs)
    found = pages(searcher, q.collapse(TEXT, "price"), size=70)
    assert [len(page) for page in found] == [70, 70, 70, 70, 20]
    assert len({hit.id for page in found for hit in page}) == 300
    assert len(searcher.search(q.collapse(TEXT, "price"), offset=290)) == 10


@pytest.mark.parametrize(
    ("query", "remedy"),
    [
        (q.rrf(TEXT, KNN), "a larger rank_window_size"),
        (q.linear(TEXT, SAME), "a larger rank_window_size"),
        (KNN, "a larger k"),
        (q.knn("embedding", vector=data.embed("fox 07").tolist()), "a larger k"),
    ],
    ids=str,
)
def test_groups_that_end_with_the_window_say_so(alike: Searcher, query: Query, remedy: str) -> None:
    found = pages(alike, q.collapse(query, "price"), size=8)
    groups = [hit.id[1:] for page in found for hit in page]
    assert len(groups) == len(set(groups)) < GROUPS
    assert not any(page.notes for page in found[:-1])
    assert remedy in found[-1].notes[-1]
    wider: Query = query.replace(**{"k" if "k" in remedy.split() else "rank_window_size": 300})
    found = pages(alike, q.collapse(wider, "price"), size=8)
    assert len({hit.id[1:] for page in found for hit in page}) == GROUPS


def test_a_bool_with_a_knn_pages_to_its_last_match(alike: Searcher) -> None:
    query = q.bool_(should=[TEXT, KNN.replace(k=None)])
    found = pages(alike, query, size=90)
    ids = [hit.id for page in found for hit in page]
    assert len(ids) == len(set(ids)) == len(NAMES)


def test_single_queries_that_we_page_through_go_on(world: World) -> None:  # noqa: F811
    docs = {f"d{n:03}": {"title": "red", "lang": "en", "chunks": ["fox"]} for n in range(130)}
    searcher = world.fill(data.chunk_plan("documents"), docs)
    found = pages(searcher, SAME, size=50)
    assert [len(page) for page in found] == [50, 50, 30]
    assert len({hit.id for page in found for hit in page}) == 130
    near = q.knn("embedding", vector=data.embed("fox").tolist())
    with pytest.raises(QueryError, match="beyond k = 100"):
        searcher.search(near, offset=100)
