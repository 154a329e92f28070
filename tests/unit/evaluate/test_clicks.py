"""Judgments from clicks: what a place is worth is taken out, and what is left out is counted."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from esembed.errors import OptionsError
from esembed.evaluate.clicks import ClickOptions, Impression, judgments_from_clicks, propensities

LOOKED = [1.0, 0.6, 0.4, 0.3, 0.2, 0.15, 0.12, 0.1]


def log(
    seed: int, lists: int, queries: int = 20
) -> tuple[Iterator[Impression], dict[tuple[str, str], float]]:
    """Lists in an order that favors what is bad, and how much each pair attracts."""
    random = Random(seed)
    attracts = {
        (f"query {number}", f"d{number}-{place}"): random.choice((0.1, 0.3, 0.9))
        for number in range(queries)
        for place in range(8)
    }

    def impressions() -> Iterator[Impression]:
        for number in range(lists):
            query = f"query {number % queries}"
            documents = sorted(
                (doc for asked, doc in attracts if asked == query),
                key=lambda doc: attracts[query, doc] + random.gauss(0, 0.4),
            )
            clicked = {
                doc: 1
                for place, doc in enumerate(documents)
                if random.random() < LOOKED[place] * attracts[query, doc]
            }
            yield Impression(query=query, shown=documents, clicked=clicked, session=f"s{number}")

    return impressions(), attracts


def test_the_places_weights_are_found_again() -> None:
    impressions, _ = log(1, 40_000)
    found = propensities(impressions)
    assert found[0] == 1
    assert found == pytest.approx(LOOKED, abs=0.06)


def test_pairs_are_ordered_by_what_attracts() -> None:
    """Raw clicks put first what was shown first."""
    shares = {}
    for correction in ("ipw", "coec", "none"):
        impressions, attracts = log(2, 20_000)
        dataset, report = judgments_from_clicks(
            impressions, ClickOptions(correction=correction, grades=[i / 100 for i in range(1, 101)])
        )
        assert len(dataset.queries) == report.queries == 20
        right = wrong = 0
        for query, grades in dataset.qrels.items():
            for one in grades:
                for other in grades:
                    if attracts[dataset.queries[query], one] > attracts[dataset.queries[query], other]:
                        right += grades[one] > grades[other]
                        wrong += grades[one] < grades[other]
        shares[correction] = right / (right + wrong)
    assert shares["ipw"] > 0.97, shares
    assert shares["ipw"] >= shares["coec"] > shares["none"], shares


def one(query: str, shown: str, clicked: dict[str, int], session: str = "") -> Impression:
    return Impression(query=query, shown=shown.split(), clicked=clicked, session=session)


def test_what_is_left_out_is_counted() -> None:
    impressions = [
        *[one("Red  Fox", "a b c", {"b": 1}, f"s{n}") for n in range(4)],
        one("red fox", "a b c", {"b": 3, "z": 2}, "s0"),
        *[one("bot", "a b", {"a": 1}, "robot") for _ in range(11)],
        one("rare", "a b", {"a": 1}, "s9"),
        one(" ", "a b", {"a": 1}, "s9"),
        *[one("seldom", "a b c", {"a": 1}, f"t{n}") for n in range(4)],
        one("seldom", "x a", {}, "t9"),
    ]
    dataset, report = judgments_from_clicks(
        impressions, ClickOptions(max_session_queries=10, correction="none"), name="log"
    )
    assert list(dataset.queries.values()) == ["Red  Fox", "seldom"]
    assert dataset.qrels == {"c1": {"a": 0, "b": 3, "c": 0}, "c2": {"a": 3, "b": 0, "c": 0}}
    assert report.programs == 11
    assert report.doubles == 3  # s0 had clicked b, twice more in its second list
    assert report.not_shown == 2
    assert report.few_clicks == 1
    assert report.few_impressions == 3  # x of seldom, and both of rare
    assert report.impressions == len(impressions)
    assert "11 lists of programs" in report.text


def test_given_propensities_and_an_empty_log() -> None:
    shown = [one("q", "a b", {"a": 1} if n % 2 else {"b": 1}, f"s{n}") for n in range(20)]
    options = ClickOptions(propensities=[1.0, 0.25], min_impressions=1, grades=[0.2, 0.5, 0.9])
    dataset, report = judgments_from_clicks(shown, options)
    assert dataset.qrels["c1"] == {"a": 1, "b": 3}
    assert report.propensities == [1.0, 0.25]
    empty, counted = judgments_from_clicks([])
    assert not empty.queries
    assert counted.impressions == 0
    assert propensities([]) == [1.0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"correction": "x"}, "correction"),
        ({"propensities": []}, "propensities"),
        ({"propensities": [1.2]}, "propensities"),
        ({"propensities": [0.0]}, "propensities"),
        ({"least_propensity": 0}, "least_propensity"),
        ({"min_clicks": 0}, "min_clicks"),
        ({"min_impressions": True}, "min_impressions"),
        ({"grades": []}, "grades"),
        ({"grades": [0.5, 0.2]}, "grades"),
        ({"grades": [2]}, "grades"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionsError) as caught:
        ClickOptions(**options)
    assert caught.value.option == named
