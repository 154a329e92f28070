"""A measurement of recall as rows of a table and as a page, beside those before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from esembed.evaluate.recall import RecallReport, RecallRow
from esembed.evaluate.recall_history import PastRecall, RecallHistory
from esembed.report_page import Bar, Html, Section, bar_chart, color_of, items, page, table, write_page

__all__ = ["COLUMNS", "html_page", "notes", "rows", "write_html"]

COLUMNS = (
    "field",
    ">documents",
    ">queries",
    ">recall",
    "95 % interval",
    ">lost by the graph",
    ">by quantization",
    ">codes alone",
    ">before",
)

SHOWN = 20
"""Measurements of a page's table, the newest ones."""


def rows(report: RecallReport, before: PastRecall | None = None) -> list[tuple[str, ...]]:
    """The cells of :data:`COLUMNS` for each field and filter."""
    return [_cells(row, before) for row in report.rows]


def _cells(row: RecallRow, before: PastRecall | None) -> tuple[str, ...]:
    past = None if before is None else before.recall_of(row.field, row.filter)
    return (
        row.name,
        f"{row.matching:,}",
        f"{row.queries:,}",
        f"{row.recall.mean:.3f}",
        f"{row.recall.low:.3f}–{row.recall.high:.3f}",
        f"{row.graph_loss:.3f}",
        f"{row.quantization_loss:.3f}",
        "–" if row.codes is None else f"{row.codes.mean:.3f}",
        "–" if past is None else f"{past:.3f}",
    )


def notes(report: RecallReport, before: PastRecall | None = None) -> list[str]:
    """What stands below the table, one line each."""
    lines = [f"asked: {report.asked}; exact neighbors by {report.exact}"]
    if report.segments is not None and report.deleted is not None:
        lines.append(f"{_state(report)}{_change(report, before)}")
    return [*lines, *report.notes]


def _state(one: RecallReport | PastRecall) -> str:
    return (
        f"{one.documents:,} documents, {one.deleted:,} deleted and not merged away, {one.segments} segments"
    )


def _change(report: RecallReport, before: PastRecall | None) -> str:
    if before is None or before.segments is None or before.deleted is None:
        return ""
    made = "" if before.uuid == report.uuid else "; the index was made again since"
    return f" (before, {before.at}: {_state(before)}{made})"


def html_page(report: RecallReport, history: RecallHistory | None = None) -> Html:
    """The measurement, and how it came about over time.

    Args:
        history: with the report appended to it or not.
    """
    before = None if history is None else history.before(report)
    bars = [
        Bar(
            label=row.name,
            value=row.recall.mean,
            shown=f"{row.recall.mean:.3f}",
            color=color_of(number),
            interval=(row.recall.low, row.recall.high),
        )
        for number, row in enumerate(report.rows)
    ]
    past = [] if history is None else [p for p in history.past if (p.index, p.k) == (report.index, report.k)]
    return page(
        f"Recall of {report.index}",
        intro=f"{report.engine}, {report.at}, {report.asked}",
        conclusion=report.conclusion,
        sections=[
            Section(
                heading="How many true neighbors are found?",
                hint=f"The share of the {report.k} exact neighbors that a search finds, with its 95 % "
                "interval.",
                body=bar_chart(bars, axis=f"recall@{report.k}", label="recall of each field", top=1.0),
            ),
            Section(
                heading="What is lost where?",
                hint="The graph loses what a search that looks at all candidates finds and this one doesn't; "
                "quantization loses what even that one doesn't find. Codes alone: that search without "
                "rescoring.",
                body=table([one.removeprefix(">") for one in COLUMNS], rows(report, before)),
            ),
            Section(
                heading="Before",
                hint="Recall decays as documents are deleted and segments merged.",
                body=_past(report, past[-SHOWN:]),
            ),
            Section(heading="Notes", body=items(notes(report, before))),
        ],
    )


def _past(report: RecallReport, past: Sequence[PastRecall]) -> Html:
    if len(past) < 2:
        return Html("")
    head = ["", *(row.name for row in report.rows), "documents", "deleted", "segments"]
    lines = []
    for one in past:
        found = [one.recall_of(row.field, row.filter) for row in report.rows]
        lines.append(
            [
                one.at,
                *("–" if value is None else f"{value:.3f}" for value in found),
                f"{one.documents:,}",
                "–" if one.deleted is None else f"{one.deleted:,}",
                "–" if one.segments is None else one.segments,
            ]
        )
    return table(head, lines)


def write_html(path: str | Path, report: RecallReport, history: RecallHistory | None = None) -> None:
    """Write :func:`html_page` to a file.

    Raises:
        OptionsError: the file can't be written, or holds something else than a report.
    """
    write_page(path, html_page(report, history))
