"""What tuning says in one sentence, in its table and as a page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from esembed import query as q
from esembed.evaluate.leg_parameters import ParameterChoice
from esembed.evaluate.leg_table import FusionConfig
from esembed.evaluate.significance import Interval
from esembed.evaluate.tune_report import COLUMNS, html_page, notes, rows
from esembed.evaluate.tuning import NEXT_VERSION, QUERY_IN_USE, RERANKER, Tuned

DEFAULT = FusionConfig(kind="floor", weights=(0.4, 0.6))
CHOSEN = FusionConfig(kind="rrf", weights=(1.0, 0.5))
GAIN = Interval(0.021, 0.005, 0.037)


def tuned(config: FusionConfig = DEFAULT, *parameters: ParameterChoice, **more: Any) -> Tuned:
    return Tuned(
        legs=("bm25", "embedding"),
        config=config,
        default=DEFAULT,
        queries=300,
        score=Interval(0.52, 0.49, 0.55),
        baseline=Interval(0.5, 0.47, 0.53),
        gain=GAIN,
        dropped=(),
        tried=98,
        reason="because",
        parameters=parameters,
        query=q.match(),
        **more,
    )


def choice(parameter: str, chosen: str, default: str = "as planned", tried: int = 5) -> ParameterChoice:
    return ParameterChoice(
        parameter=parameter,
        chosen=chosen,
        default=default,
        gain=Interval(0.01, 0.0, 0.02),
        closest=chosen,
        difference=GAIN,
        queries=300,
        tried=tried,
        stopped=0,
    )


BOOSTS = choice("bm25: field boosts", "title^4 body^1")
LATER = {"title": {"k1": 1.6, "b": 0.5}}


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (tuned(), "Keep the default query: nothing beat it by enough on 300 queries"),
        (
            tuned(CHOSEN),
            "Choose rrf(bm25 1, embedding 0.5; k=60): nDCG@10 +0.021 (95 % +0.005 … +0.037), cross-validated "
            "over 300 queries",
        ),
        (
            tuned(DEFAULT, BOOSTS),
            "Choose bm25: field boosts: title^4 body^1: nDCG@10 +0.010 (95 % +0.000 … +0.020), "
            "cross-validated over 300 queries",
        ),
        (
            tuned(CHOSEN, BOOSTS, choice("terms: pruning", "as planned")),
            "Choose rrf(bm25 1, embedding 0.5; k=60) +0.021; bm25: field boosts: title^4 body^1 +0.010: "
            "gains in nDCG@10, cross-validated over 300 queries",
        ),
        # The query in use is no fusion of the legs, and stays: what was found besides is not chosen, but for
        # a last stage.
        (
            tuned(CHOSEN, BOOSTS, choice(QUERY_IN_USE, "as it is", "as it is")),
            "Keep the default query: nothing beat it by enough on 300 queries",
        ),
        (
            tuned(
                CHOSEN, choice(QUERY_IN_USE, "as it is", "as it is"), choice(RERANKER, "cross, 10", "none")
            ),
            "Choose reranker: cross, 10: nDCG@10 +0.010 (95 % +0.000 … +0.020), cross-validated over "
            "300 queries",
        ),
        (
            tuned(DEFAULT, choice(QUERY_IN_USE, "fitted", "as it is")),
            "Choose floor(bm25 0.4, embedding 0.6): nDCG@10 +0.010 (95 % +0.000 … +0.020), cross-validated "
            "over 300 queries",
        ),
        (
            tuned(DEFAULT, choice(NEXT_VERSION, "k1 1.6, b 0.5", "k1 1.2, b 0.75"), similarity=LATER),
            "Keep the default query: nothing beat it by enough on 300 queries; k1 1.6, b 0.5 of title did "
            "better and are for its next version",
        ),
    ],
)
def test_the_conclusion(found: Tuned, sentence: str) -> None:
    assert found.conclusion == sentence
    assert found.to_dict()["conclusion"] == sentence
    assert f"<p class=lead><b>{sentence}" in html_page(found)


def test_what_has_no_choice_has_no_row_and_the_judged_share_stands_beside_both() -> None:
    found = tuned(CHOSEN, BOOSTS, choice("bm25: damping", "as planned", tried=1), judged={"in use": 0.92})
    names = [row[0] for row in rows(found)]
    assert names == ["fusion", "judged@10", "bm25: field boosts"]
    assert rows(found)[1][1:3] == ("92%", "–")
    assert all(len(row) == len(COLUMNS) for row in rows(found))
    assert [row[0] for row in rows(tuned())] == ["fusion"]
    warned = replace(found, warning="Only 5% are judged.")
    assert "Only 5% are judged." in html_page(warned)
    assert warned.to_dict()["warning"] == "Only 5% are judged."
    assert notes(tuned(CHOSEN, similarity=LATER))[-1].startswith("[text.title] k1 = 1.6, b = 0.5 did better")


def test_foreign_names_are_text() -> None:
    page = html_page(replace(tuned(), legs=("<b>x\x1b", "e")), index="<i>")
    assert "<b>x" not in page
    assert "\x1b" not in page
    assert "<i>" not in page


def test_a_query_of_its_own_is_what_is_in_use() -> None:
    own = tuned(DEFAULT, choice(QUERY_IN_USE, "as it is", "as it is"))
    assert rows(own)[0][1:3] == ("no plain fusion of the legs", "kept")
    assert rows(tuned(CHOSEN, BOOSTS))[0][1] == own.default.label(own.legs)
    assert "<title>in use</title>" in html_page(own)


def test_k1_and_b_are_named_where_they_were_measured() -> None:
    assert "in memory" not in html_page(tuned(CHOSEN))
    assert "in memory" in html_page(tuned(CHOSEN, choice(NEXT_VERSION, "k1 1.6, b 0.5", "k1 1.2, b 0.75")))


def test_lost_names_are_why_the_query_stays() -> None:
    lost = tuned(names={"asked": 200, "in use": 200, "chosen": 98})
    sentence = "Keep the default query: it finds 200 of 200 exact names first, what was fitted 98"
    assert lost.conclusion == sentence
    assert lost.to_dict()["exact_names"]["chosen"] == 98
    assert "200 exact names of documents" in notes(lost)[-1]
    assert tuned(CHOSEN, names={"asked": 200, "in use": 198, "chosen": 199}).conclusion.startswith("Choose")
