# Generated from tests/_async/test_min_score.py by scripts/run_unasync.py; change that file and run the script.
"""Hits that score less than asked for are left out, whoever ranks."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import query as q
from esembed._sync.search import Searcher
from esembed.errors import QueryError

from .search_world import BM25, DENSE, SPARSE

QUERIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "words": (BM25, {}),
    "sorted": (BM25, {"sort": "price"}),
    "vectors": (DENSE, {}),
    "sparse": (SPARSE, {}),
    "bool of both": (q.bool_(should=[BM25, DENSE]), {}),
    "fused": (q.linear(BM25, DENSE, normalizer="minmax"), {}),
    "fused by lengths": (q.linear(BM25, DENSE, normalizer="l2"), {}),
    "below a stage": (q.rescore(DENSE, by=SPARSE, query_weight=1.0, rescore_weight=0.0), {}),
    "in groups": (q.collapse(BM25, "lang"), {}),
}


@pytest.mark.parametrize("name", QUERIES)
def test_hits_below_are_left_out_and_no_others(searcher: Searcher, name: str) -> None:
    query, options = QUERIES[name]
    whole = searcher.search(query, size=40, **options)
    scores = sorted(hit.score for hit in searcher.search(query, size=40))
    # Between two hits, so that the last bit of a score decides nothing.
    middle = len(scores) // 2
    floor = (scores[middle - 1] + scores[middle]) / 2 if len(scores) > 1 else scores[0] / 2
    kept = searcher.search(query, size=40, min_score=floor, **options)
    if name == "sorted":
        assert 0 < len(kept) < len(whole)
    else:
        assert [hit.id for hit in kept] == [hit.id for hit in whole if hit.score >= floor]
    assert list(searcher.search(query, min_score=1e9, **options)) == []
    if name == "words":
        assert kept.total == len(kept)


def test_pages_end_where_the_scores_do(searcher: Searcher) -> None:
    query = q.linear(BM25, DENSE)
    whole = searcher.search(query, size=40)
    floor = (whole[4].score + whole[5].score) / 2
    first = searcher.search(query, size=3, min_score=floor)
    second = searcher.search(query, size=3, min_score=floor, cursor=first.next_cursor)
    assert [hit.id for hit in [*first, *second]] == [hit.id for hit in whole][:5]
    assert second.next_cursor is None


def test_ranks_are_no_scores(searcher: Searcher) -> None:
    with pytest.raises(QueryError, match=r"q\.floor"):
        searcher.search(q.rrf(BM25, DENSE), min_score=0.01)
    for value in ("1", True, float("nan")):
        with pytest.raises(QueryError, match="min_score must be a"):
            searcher.search(BM25, min_score=value)  # type: ignore[arg-type]
