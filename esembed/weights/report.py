"""An estimate of the legs' weights as a page."""

from __future__ import annotations

from pathlib import Path

from esembed.report_page import (
    Bar,
    Html,
    Section,
    bar_chart,
    color_of,
    html,
    items,
    page,
    table,
    weights_bar,
    write_page,
)
from esembed.weights.estimate import WeightsReport

__all__ = ["KINDS", "html_page", "write_html"]

KINDS = {
    "first": "title or first sentence, cut out",
    "sentence": "another sentence, cut out",
    "half": "words of one half, cut out",
    "words": "scattered words, still there",
    "window": "a window of text, still there",
}
"""Kinds of known items as a page names them."""


def html_page(report: WeightsReport, *, index: str = "") -> Html:
    """The estimate: what each leg finds, and what it weighs.

    Args:
        index: the index's name, for the title.
    """
    kinds = list(dict.fromkeys(kind for leg in report.legs for kind in leg.quality))
    bars = [
        Bar(
            label=f"{leg.name}: {kind}",
            value=leg.quality[kind],
            shown=f"{leg.quality[kind]:.2f}",
            color=color_of(number),
        )
        for kind in kinds
        for number, leg in enumerate(report.legs)
        if kind in leg.quality
    ]
    rows = [
        [
            leg.name,
            *(f"{leg.quality[k]:.3f}" if k in leg.quality else "–" for k in kinds),
            f"{leg.weight:.3f}",
        ]
        for leg in report.legs
    ]
    query = Html("") if report.query is None else Html(f"<pre>{html(repr(report.query))}</pre>")
    return page(
        f"Weights of the legs{f' of {index}' if index else ''}",
        intro=f"{report.queries} known items, from {report.sampled} of {report.documents} documents",
        conclusion=report.conclusion,
        sections=[
            Section(
                heading="What does each leg count?",
                hint="The shares of a hit's score; they sum to 1.",
                body=weights_bar({leg.name: round(leg.weight, 3) for leg in report.legs}),
            ),
            Section(
                heading="What does each leg find?",
                hint="Pieces of the index's own documents, each to find its document; 1 is always first, 0 "
                "never among the first ten. Pieces that were cut out say which leg understands a question, "
                "those that still stand there which one finds words.",
                body=bar_chart(
                    bars, axis="nDCG@10, mean over the pieces", label="what each leg finds", top=1.0
                ),
            ),
            Section(
                heading="All figures",
                body=table(["leg", *(KINDS.get(kind, kind) for kind in kinds), "weight"], rows),
            ),
            Section(heading="Notes", body=items(report.remarks)),
            Section(heading="The default query", body=query),
        ],
    )


def write_html(path: str | Path, report: WeightsReport, *, index: str = "") -> None:
    """Write :func:`html_page` to a file.

    Raises:
        OptionsError: the file can't be written, or holds something else than a report.
    """
    write_page(path, html_page(report, index=index))
