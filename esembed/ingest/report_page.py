"""An ingest's report as a page: what became of the records, why some could not get in, where the time went.

It is made of what :meth:`~esembed.ingest.options.IngestReport.to_dict` has, so that a report that was kept as
JSON can be shown, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esembed.report_page import Bar, Html, Part, Section, bar_chart, page, stacked_bar, table, weights_bar

__all__ = ["OUTCOMES", "html_page"]

OUTCOMES = {
    "indexed": "#2e7d4f",
    "updated": "#2563a8",
    "unchanged": "#9aa4b2",
    "deleted": "#4a5568",
    "skipped": "#7a6a1d",
    "dropped": "#8b3a8f",
    "rerouted": "#1c7c8c",
    "outdated": "#c2571a",
    "dead_lettered": "#b02a45",
}
"""What can become of a record, each with its color: the counts that sum to ``read``."""

SHOWN_LETTERS = 30
"""Single dead letters that a page shows; the dead-letter file has them all."""

SHOWN_IDS = 20
"""Ids that a page shows of documents that are missing or differ."""

FIGURES = {
    "documents_per_second": "records a second",
    "tokens": "tokens encoded",
    "truncated": "texts cut to what their encoder takes",
    "chunks": "chunks made",
    "precomputed_vectors": "vectors that came with their records",
    "reused_vectors": "vectors kept, since their texts are the same",
    "bytes_read": "bytes read",
    "bytes_sent": "bytes sent",
    "requests": "bulk requests",
    "retried_requests": "of these, sent again",
    "retried_items": "lines sent again",
    "waited_seconds": "seconds waited for the engine",
    "cost_usd": "US dollars for remote encoders",
}
"""Further figures, and how a page names them; those of 0 are left out."""


def html_page(report: Mapping[str, Any]) -> Html:
    """One self-contained page.

    Args:
        report: as :meth:`~esembed.ingest.options.IngestReport.to_dict` returns it.
    """
    name = str(report.get("index") or "")
    return page(
        f"Ingest into {name}" if name else "Ingest",
        intro=f"{report['read']:,} records read in {report['seconds']:.1f} s",
        conclusion=str(report["conclusion"]),
        sections=[
            Section(heading="What became of the records", body=_outcomes(report)),
            Section(heading="What that makes of the index", body=_documents(report)),
            Section(
                heading="Why some could not get in",
                hint="Records by kind of reason; the first one's reason stands for the others.",
                body=_reasons(report),
            ),
            Section(
                heading="Single records that could not get in",
                hint=f"The first {SHOWN_LETTERS}; the dead-letter file has all of them.",
                body=_letters(report),
            ),
            Section(
                heading="Without a vector",
                hint="Documents that are in the index and that a search by this field can't find.",
                body=_without_vector(report),
            ),
            Section(
                heading="Ids that came more than once",
                hint="Whole records with the id of an earlier one of this run. The last one is in the index; "
                "where the plan has a version_field, the newest.",
                body=_duplicates(report),
            ),
            Section(heading="Compared with the source", body=_verified(report)),
            Section(
                heading="Warnings",
                body=table(["", ""], enumerate(report.get("warnings") or (), 1), text_columns=2),
            ),
            Section(
                heading="What each leg of the default query counts",
                hint="Shares of a hit's score, learned from the documents.",
                body=weights_bar(report.get("leg_weights") or {}),
            ),
            Section(
                heading="Where the time went",
                hint="Seconds that each stage was at work; stages overlap, so that they may sum to more "
                "than the run took, of which the percentages are shares.",
                body=_stages(report),
            ),
            Section(
                heading="Figures",
                body=table(
                    ["", ""],
                    [(label, _number(report[key])) for key, label in FIGURES.items() if report.get(key)],
                ),
            ),
        ],
    )


def _outcomes(report: Mapping[str, Any]) -> Html:
    parts = [
        Part(label=name.replace("_", "-"), value=report.get(name) or 0, color=color)
        for name, color in OUTCOMES.items()
    ]
    return stacked_bar(parts, axis="records", label="what became of the records")


def _documents(report: Mapping[str, Any]) -> Html:
    """Documents rather than records; a report of before that lacks a count has no row for it."""
    created = report.get("created") or 0
    counts = {
        "new": created,
        "replaced by a record": (report.get("indexed") or 0) - created,
        "changed by a partial update": report.get("updated"),
        "unchanged": report.get("unchanged"),
        "deleted by a record": report.get("deleted"),
        "deleted by sync, since the source no longer has them": report.get("sync_deleted"),
        "not deleted by sync, though the source no longer has them": report.get("sync_withheld"),
        "newer than their record, and left as they are": report.get("outdated"),
    }
    rows = [(label, _number(count)) for label, count in counts.items() if count]
    if report.get("documents") is not None:
        rows.append(("documents in the index now", _number(report["documents"])))
    return table(["", "documents"], rows)


def _reasons(report: Mapping[str, Any]) -> Html:
    rows = [(one["count"], one["reason"], one["position"] or "–") for one in report.get("reasons") or ()]
    return table(["records", "reason", "the first one"], rows, text_columns=3)


def _letters(report: Mapping[str, Any]) -> Html:
    rows = [
        ("–" if one["id"] is None else one["id"], one["reason"], one["position"] or "–")
        for one in (report.get("errors") or ())[:SHOWN_LETTERS]
    ]
    return table(["id", "reason", "where it stands"], rows, text_columns=3)


def _without_vector(report: Mapping[str, Any]) -> Html:
    rows = [
        (field, ", ".join(map(str, one["ids"])), one["documents"], one["chunks"], one["unknown"])
        for field, one in (report.get("without_vector") or {}).items()
    ]
    head = [
        "field",
        "the first of them",
        "documents",
        "chunks",
        "with a text that says nothing to the encoder",
    ]
    return table(head, rows, text_columns=2)


def _duplicates(report: Mapping[str, Any]) -> Html:
    count, ids = report.get("duplicates"), list(report.get("duplicate_ids") or ())
    rows = [(", ".join(map(str, ids)) + (", …" if count > len(ids) else ""), count)] if count else []
    return table(["the first of them", "records"], rows)


def _verified(report: Mapping[str, Any]) -> Html:
    found = report.get("verified")
    if not found:
        return Html("")
    rows: list[tuple[object, ...]] = [("as in the source", "", found["same"])]
    for name in ("different", "missing", "extra"):
        label = "only in the index" if name == "extra" else name
        ids = list(found.get(name) or ())
        more = ", …" if len(ids) > SHOWN_IDS else ""
        rows.append((label, ", ".join(map(str, ids[:SHOWN_IDS])) + more, found[f"{name}_count"]))
    for name, label in (
        ("newer", "not compared: newer in the index than their record"),
        ("dead_lettered", "not compared: their record is a dead letter"),
    ):
        if found.get(name):
            rows.append((label, "", found[name]))
    rows += [(f"another vector, or none, in {field}", "", count) for field, count in found["vectors"].items()]
    return table(["", "ids", "documents"], rows, text_columns=2)


def _stages(report: Mapping[str, Any]) -> Html:
    stages = sorted((report.get("stage_seconds") or {}).items(), key=lambda item: -item[1])
    shares = report.get("stage_shares") or {}
    bars = [
        Bar(label=name, value=seconds, shown=f"{seconds:.1f} s ({shares.get(name, 0):.0%})")
        for name, seconds in stages
        if seconds >= 0.001
    ]
    return bar_chart(bars, axis="seconds at work", label="seconds of each stage")


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
