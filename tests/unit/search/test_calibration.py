"""How seldom a random document scores as high: the curves against what they were counted from."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from esembed import query as q
from esembed.search.calibration import TAILS, Calibration, calibrated_leg, count_scores, read_calibration

RANDOM = random.Random(3)
PAIRS: list[dict[str, float | None]] = [
    {"dense": RANDOM.gauss(0.1, 0.1), "bm25": RANDOM.random() if RANDOM.random() < 0.3 else None}
    for _ in range(20_000)
]
COUNTED = count_scores(PAIRS, documents=200, texts=100)


@pytest.mark.parametrize("share", [0.3, 0.03, 0.003, 0.0007])
def test_of_the_documents_that_were_counted_as_many_pass_as_it_says(share: float) -> None:
    for legs in (["dense"], ["dense", "bm25"]):
        passing = sum(COUNTED.share({leg: pair[leg] for leg in legs}) <= share for pair in PAIRS)
        assert passing / len(PAIRS) == pytest.approx(share, rel=0.25)


def test_better_scores_are_never_less_seldom() -> None:
    for bm25 in (None, 0.0, 0.5, 1.0, 3.0):
        shares = [COUNTED.share({"dense": step / 100, "bm25": bm25}) for step in range(-100, 200)]
        assert shares == sorted(shares, reverse=True)
        assert 0 < shares[-1] < 1e-6
        assert shares[0] <= 1


def test_a_leg_that_finds_nothing_says_nothing_for_a_document() -> None:
    assert COUNTED.share({"bm25": None}) == 1.0
    assert COUNTED.share({"dense": 0.6, "bm25": None}) >= COUNTED.share({"dense": 0.6})


def test_legs_that_were_not_counted_together_are_joined_as_if_they_were_independent() -> None:
    alone = Calibration(documents=1, texts=1, legs=COUNTED.legs)
    one, other = (alone.share({leg: score}) for leg, score in (("dense", 0.4), ("bm25", 0.9)))
    both = alone.share({"dense": 0.4, "bm25": 0.9})
    assert both == pytest.approx(one * other * (1 - math.log(one * other)))


def test_scores_that_are_all_alike_are_no_error() -> None:
    same = count_scores([{"a": 1.0}] * 100, documents=10, texts=10)
    assert same.share({"a": 1.0}) == same.share({"a": 9.0}) == TAILS[-1]
    assert same.share({"a": 0.9}) == 1.0
    assert read_calibration(count_scores([{"a": None}], documents=1, texts=1).to_dict()) is None


@pytest.mark.parametrize("change", ["short", "falling", "nan", "huge", "text", "nothing", "extra"])
def test_what_somebody_else_stored_is_none_unless_it_is_one(change: str) -> None:
    stored: Any = COUNTED.to_dict()
    assert read_calibration(stored) == COUNTED
    curve = stored["legs"]["dense"]
    if change == "short":
        curve.pop()
    elif change == "falling":
        curve.reverse()
    elif change == "nan":
        curve[-1] = math.nan
    elif change == "huge":
        curve[-1] = 10**400
    elif change == "text":
        stored["legs"] = "dense"
    elif change == "nothing":
        stored["legs"] = {}
    else:
        stored = [stored]
    assert read_calibration(stored) is None


def test_which_curve_a_leg_is_read_by() -> None:
    assert calibrated_leg(q.match("x")) == calibrated_leg(q.match_phrase("f", "x")) == "bm25"
    assert calibrated_leg(q.knn("v", text="x")) == "v"
    assert calibrated_leg(q.sparse("s", text="x")) == "s"
    assert calibrated_leg(q.bool_(must=[q.match("x")])) is None
