"""What tuning chose, for people: the rows of its table, and one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

from esembed.evaluate.evaluation import share_shown
from esembed.evaluate.significance import Interval
from esembed.evaluate.tuning import NEXT_VERSION, QUERY_IN_USE, Tuned
from esembed.query import Query
from esembed.report_page import Bar, Html, Section, bar_chart, html, items, page, table, write_page

__all__ = ["COLUMNS", "html_page", "notes", "rows", "write_html"]

COLUMNS = ("setting", "in use", "chosen", "cross-validated gain (95 %)", "tried")


def rows(tuned: Tuned) -> list[tuple[str, str, str, str, str]]:
    """The table's cells: the fusion, how much of its first hits is judged, and each setting that had
    more than one choice."""
    changed = tuned.config != tuned.default
    found = [
        (
            "fusion",
            # A query in use that is no plain fusion has a row of its own, as a whole.
            "no plain fusion of the legs" if _own(tuned) else tuned.default.label(tuned.legs),
            tuned.config.label(tuned.legs) if changed else "kept",
            interval_text(tuned.gain),
            str(tuned.tried),
        )
    ]
    if tuned.judged:
        found.append(
            (
                "judged@10",
                share_shown(tuned.judged.get("in use")),
                share_shown(tuned.judged.get("chosen")) if changed else "",
                "",
                "",
            )
        )
    for one in tuned.parameters:
        if one.tried < 2:
            continue
        stopped = f", {one.stopped} stopped early" if one.stopped else ""
        kept = "kept" if one.chosen == one.default else one.chosen
        found.append((one.parameter, one.default, kept, interval_text(one.gain), f"{one.tried}{stopped}"))
    return found


def _own(tuned: Tuned) -> bool:
    """Whether the query in use is none that tuning could start from."""
    return any(one.parameter == QUERY_IN_USE for one in tuned.parameters)


def notes(tuned: Tuned) -> list[str]:
    """What stands below the table, one sentence each."""
    lines = [tuned.reason]
    if tuned.config != tuned.default:
        lines.append(
            f"nDCG@10 {tuned.baseline.mean:.4f} → {tuned.score.mean:.4f} on the {tuned.queries} queries that "
            "it was fitted to (on others expect the cross-validated gain)"
        )
    if tuned.dropped:
        lines.append(f"dropped, since their help can't be shown: {', '.join(tuned.dropped)}")
    if tuned.names:
        lines.append(
            f"of {tuned.names['asked']} exact names of documents the query in use finds "
            f"{tuned.names['in use']} first, what was fitted {tuned.names['chosen']}"
        )
    for field, changes in tuned.similarity.items():
        values = ", ".join(f"{key} = {value:g}" for key, value in changes.items())
        lines.append(f"[text.{field}] {values} did better; an index fixes them, so they are for the next one")
    return lines


def html_page(tuned: Tuned, *, index: str = "", query: Query | None = None) -> Html:
    """The choice and its evidence as one page.

    Args:
        index: the index's name, for the title.
        query: the query that follows; None is the report's own.
    """
    query = tuned.query if query is None else query
    scores = [("in use", tuned.baseline)]
    if tuned.config != tuned.default:
        scores.append(("chosen", tuned.score))
    in_memory = any(one.parameter == NEXT_VERSION for one in tuned.parameters)
    bars = [
        Bar(label=name, value=v.mean, shown=f"{v.mean:.3f}", interval=(v.low, v.high), bold=name == "chosen")
        for name, v in scores
    ]
    return page(
        f"Tuning{f' of {index}' if index else ''}",
        intro=f"{tuned.queries} judged queries · legs {', '.join(tuned.legs)} · {tuned.tried} fusions tried",
        conclusion=tuned.conclusion,
        more=tuned.warning or "",
        sections=[
            Section(
                heading="How good is the fusion?",
                hint="On the queries that it was fitted to; the thin line is the 95 % interval over queries.",
                body=bar_chart(bars, axis="nDCG@10, mean over the queries", label="nDCG@10 of the fusions"),
            ),
            Section(
                heading="What was tried",
                hint="The gain is that on queries which took no part in choosing. judged@10 is the share "
                "of the first ten hits that somebody judged; what nobody judged counts as not relevant."
                + (f" {NEXT_VERSION} were measured in memory." if in_memory else ""),
                body=table(COLUMNS, rows(tuned), text_columns=3),
            ),
            Section(heading="Notes", body=items(notes(tuned))),
            Section(
                heading="The query",
                body=Html("") if query is None else Html(f"<pre>{html(repr(query))}</pre>"),
            ),
        ],
    )


def write_html(path: str | Path, tuned: Tuned, *, index: str = "", query: Query | None = None) -> None:
    """Write :func:`html_page` to a file.

    Raises:
        OptionsError: the file can't be written, or holds something else than a report.
    """
    write_page(path, html_page(tuned, index=index, query=query))


def interval_text(interval: Interval) -> str:
    """``+0.0210 (+0.0050 … +0.0370)``."""
    return f"{interval.mean:+.4f} ({interval.low:+.4f} … {interval.high:+.4f})"
