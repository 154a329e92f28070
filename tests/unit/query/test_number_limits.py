"""Every number that sizes memory on an engine, or that an engine would refuse, is refused by the node."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import query as q
from esembed.errors import QueryError
from esembed.query.nodes import MAX_LEGS, MAX_WINDOW

GIANT = (MAX_WINDOW + 1, 10**9, 2**31, 2**63 - 1)
M = q.match("x", fields=["t"])
SIZES = {
    "k": lambda n: q.knn("v", k=n),
    "num_candidates": lambda n: q.knn("v", num_candidates=n),
    "sparse k": lambda n: q.sparse("s", k=n),
    "rank_window_size": lambda n: q.rrf(M, rank_window_size=n),
    "linear window": lambda n: q.linear(M, rank_window_size=n),
    "rank_constant": lambda n: q.rrf(M, rank_constant=n),
    "window_size": lambda n: q.rescore(M, by=M, window_size=n),
    "chunks": lambda n: q.knn("v", chunks=n),
    "nested chunks": lambda n: q.nested("p", M, chunks=n),
    "oversample": lambda n: q.knn("v", oversample=n),
}


@pytest.mark.parametrize("size", GIANT)
@pytest.mark.parametrize("what", SIZES)
def test_sizes_are_capped(what: str, size: int) -> None:
    with pytest.raises(QueryError):
        SIZES[what](size)


@pytest.mark.parametrize("size", [MAX_WINDOW])
@pytest.mark.parametrize("what", ["k", "num_candidates", "rank_window_size", "window_size"])
def test_the_engines_own_limits_are_taken(what: str, size: int) -> None:
    SIZES[what](size)


def test_legs_are_bounded() -> None:
    q.rrf(*[M] * MAX_LEGS)
    with pytest.raises(QueryError, match="at most 100 legs, not 2000"):
        q.from_dict({"type": "rrf", "legs": [M.to_dict()] * 2_000})
    with pytest.raises(QueryError, match="more than 4,096 objects"):
        q.from_dict({"type": "rrf", "legs": [M.to_dict()] * 10_000})


@pytest.mark.parametrize(
    "distance", ["12km", "12 km", "1.5mi", "1NM", "1nauticalmiles", "1e3m", ".5km", "3inch"]
)
def test_distances(distance: str) -> None:
    q.geo_distance("g", lat=1, lon=2, distance=distance)


@pytest.mark.parametrize(
    "distance",
    [
        "12KM",
        "1Km",
        "1xx",
        "0km",
        "-1km",
        "12",
        "",
        "km",
        "1e400km",
        "1e-400km",
        "1,5km",
        "12km ",
        "١km",
        "1km\n",
    ],
)
def test_distances_that_no_engine_reads(distance: str) -> None:
    with pytest.raises(QueryError, match="distance"):
        q.geo_distance("g", lat=1, lon=2, distance=distance)


WRONG: dict[str, Any] = {
    "fuzziness 3": lambda: q.match("x", fuzziness=3),
    "fuzziness -1": lambda: q.match("x", fuzziness=-1),
    "fuzziness words": lambda: q.match("x", fuzziness="much"),
    "fuzziness order": lambda: q.match("x", fuzziness="AUTO:6,3"),
    "minimum words": lambda: q.match("x", minimum_should_match="most"),
    "minimum big": lambda: q.match("x", minimum_should_match=2**40),
    "minimum of bool": lambda: q.bool_(should=[M], minimum_should_match="%"),
    "tie breaker": lambda: q.multi_match("x", tie_breaker=2),
    "boost": lambda: q.match("x", boost=1e39),
    "weight": lambda: q.rrf(M, M, weights=[1e39, 1]),
    "slop": lambda: q.match_phrase("t", "x", slop=2**31),
    "prune ratio": lambda: q.PruneOptions(tokens_freq_ratio_threshold=0.5),
    "prune weight": lambda: q.PruneOptions(tokens_weight_threshold=1.5),
    "rescore weight": lambda: q.rescore(M, by=M, rescore_weight=1e39),
}


@pytest.mark.parametrize("what", WRONG)
def test_numbers_out_of_range(what: str) -> None:
    with pytest.raises(QueryError):
        WRONG[what]()


@pytest.mark.parametrize("value", [1, -1, "75%", "-25%", "2<75%", "2<-25% 9<-3", "3"])
def test_minimum_should_match_as_the_engines_read_it(value: Any) -> None:
    assert q.match("x", minimum_should_match=value).minimum_should_match == value
