"""What an estimate of the weights says in one sentence, and as a page."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from esembed import query as q
from esembed.weights.estimate import LegWeight, WeightsReport, share_text
from esembed.weights.report import html_page


def report(
    *legs: tuple[str, float, float], notes: tuple[str, ...] = (), learned: bool = True
) -> WeightsReport:
    """Legs by name, what they find of the pieces that were cut out, and their weight."""
    weights = tuple(
        LegWeight(name=n, quality={"first": found, "words": 0.9} if learned else {}, weight=weight)
        for n, found, weight in legs
    )
    query = q.match() if learned and not notes else None
    return WeightsReport(legs=weights, documents=80, sampled=80, queries=160, notes=notes, query=query)


class Texts(HTMLParser):
    """What stands between the tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.found.append(data)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            report(("bm25", 0.9, 0.66), ("embedding", 0.5, 0.34)),
            "bm25 finds your documents far better than embedding (nDCG@10 0.90 against 0.50); embedding "
            "counts a third (0.34)",
        ),
        (
            report(("bm25", 0.5, 0.42), ("embedding", 0.58, 0.58)),
            "embedding finds your documents better than bm25 (nDCG@10 0.58 against 0.50); bm25 counts two "
            "fifths (0.42)",
        ),
        (
            report(("bm25", 0.5, 0.5), ("embedding", 0.52, 0.5)),
            "embedding and bm25 find your documents about equally well (nDCG@10 0.52 against 0.50); bm25 "
            "counts half (0.50)",
        ),
        (
            report(("bm25", 0.3, 0.7), ("embedding", 0.6, 0.3)),
            "embedding finds your documents far better than bm25 (nDCG@10 0.60 against 0.30); yet embedding "
            "counts a third (0.30), so that words which stand in a document are found",
        ),
        (
            report(("bm25", 0.6, 0.5), ("a", 0.5, 0.26), ("b", 0.4, 0.24)),
            "bm25 finds your documents better than a (nDCG@10 0.60 against 0.50); bm25 counts half (0.50), a "
            "counts a quarter (0.26), b counts a quarter (0.24)",
        ),
        (
            report(("bm25", 0.0, 0.4), ("embedding", 0.0, 0.6)),
            "No leg finds the pieces of your documents, so the weights are those that a plan begins with",
        ),
        (
            report(("bm25", 0.0, 0.4), ("e", 0.0, 0.6), notes=("only 12 known items",), learned=False),
            "The default query stays as it is: only 12 known items",
        ),
        (
            report(("bm25", 0.9, 0.4), ("e", 0.2, 0.6), notes=("not every leg can be weighed",)),
            "The default query stays as it is: not every leg can be weighed",
        ),
    ],
)
def test_the_conclusion(found: WeightsReport, sentence: str) -> None:
    assert found.conclusion == sentence
    assert found.to_dict()["conclusion"] == sentence
    assert sentence in html_page(found)


@pytest.mark.parametrize(
    ("weight", "words"),
    [(0.0, "nothing"), (0.02, "nothing"), (0.275, "a quarter"), (0.6, "three fifths"), (1.0, "all")],
)
def test_shares_in_words(weight: float, words: str) -> None:
    assert share_text(weight) == f"{words} ({weight:.2f})"


def test_the_page_has_scales_a_legend_and_no_markup_of_names() -> None:
    text = html_page(report(("bm25", 0.9, 0.66), ("<b>x", 0.5, 0.34)), index="<i>books\x1b")
    seen = Texts(text).found
    assert {"bm25 0.66", "<b>x 0.34", "share of the score", "nDCG@10, mean over the pieces"} <= set(seen)
    assert "Weights of the legs of <i>books\\x1b" in seen
    assert "<b>x" not in text
    # Nothing learned: no charts of what wasn't measured.
    bare = html_page(report(("bm25", 0, 0.4), ("e", 0, 0.6), notes=("few",), learned=False))
    assert "What does each leg find?" not in bare
