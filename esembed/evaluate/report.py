"""One evaluation as a terminal table, as JSON, and as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esembed.evaluate.evaluation import Evaluation, Measured, p_text, share_shown
from esembed.foreign import html_escaped as escape
from esembed.report_page import (
    Bar,
    Html,
    Part,
    Section,
    bar_chart,
    color_of,
    items,
    legend,
    page,
    stacked_bar,
    svg,
    table,
    write_page,
)

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["html_page", "report_dict", "terminal_table", "write_html"]

BETTER, WORSE = "#2e7d4f", "#b02a45"
"""Colors of queries on which a configuration wins or loses."""

JUDGED = "judged@10"
"""The column of :attr:`Evaluation.judged`, also in JSON."""

MEASURES_HINT = (
    "recall@100: how many of the relevant documents are among the first 100. mrr: 1 when the first hit is "
    "relevant, ½ when the second is. map: the mean precision at every relevant one. success@5: how many "
    "queries have a relevant one among five. judged@10: the share of the first ten hits that somebody "
    "judged; what nobody judged counts as not relevant. p50 / p95: half of the single searches, 95 % of "
    "them, were faster. Small figures are 95 % intervals. A star marks a difference that chance does not "
    "explain (p below 0.05 after Holm's correction for the number of comparisons)."
)


def terminal_table(evaluation: Evaluation) -> Table:
    """Configurations × measures, intervals for the first measure, and what is significant."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Names are those of files and fields, and rich reads a plain string as markup.
    table = Table(title=Text(evaluation.title), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column("")
    main, judged = evaluation.main, evaluation.judged
    timed = any(one.latency for one in evaluation.measured)
    for name in [
        *evaluation.measured[0].values,
        *([JUDGED] if judged else []),
        f"95 % of {main}",
        f"against {evaluation.baseline}",
        *(["p50 ms", "p95 ms"] if timed else []),
    ]:
        table.add_column(Text(name), justify="right")
    best = max(one.values[main].mean for one in evaluation.measured)
    for one in evaluation.measured:
        value = one.values[main]
        row = [one.name, *(f"{v.mean:.4f}" for v in one.values.values())]
        row += [share_shown(judged[one.name])] if judged else []
        row += [f"{value.low:.3f} – {value.high:.3f}", _against(evaluation, one)]
        if timed:
            row += [f"{one.latency.p50_ms:.1f}", f"{one.latency.p95_ms:.1f}"] if one.latency else ["", ""]
        table.add_row(*map(Text, row), style="bold" if value.mean == best else "")
    for name, figures in evaluation.published.items():
        cells = [_figure(figures, m) for m in evaluation.measured[0].values]
        shown = ["" if c is None else f"{c:.4f}" for c in cells]
        table.add_row(*map(Text, [f"{name} (published)", *shown]), style="dim")
    return table


def _against(evaluation: Evaluation, one: Measured) -> str:
    for comparison in evaluation.comparisons:
        if comparison.b == one.name:
            star = " *" if comparison.significant else ""
            return f"{comparison.difference.mean:+.4f} ({p_text(comparison.p_corrected)}){star}"
    return ""


def report_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Plain JSON values: everything but the runs."""
    judged = evaluation.judged
    return {
        "conclusion": evaluation.conclusion,
        "warning": evaluation.warning,
        "title": evaluation.title,
        "queries": len(evaluation.queries),
        "baseline": evaluation.baseline,
        "configurations": {
            one.name: {
                "measures": {m: asdict(v) for m, v in one.values.items()},
                "per_query": {m: dict(v) for m, v in one.per_query.items()},
                JUDGED: judged.get(one.name),
                "latency": asdict(one.latency) if one.latency else None,
            }
            for one in evaluation.measured
        },
        "comparisons": [asdict(c) | {"significant": c.significant} for c in evaluation.comparisons],
        "agreements": [asdict(a) for a in evaluation.agreements],
        "published": {name: dict(figures) for name, figures in evaluation.published.items()},
        "problems": [asdict(p) | {"text": p.text} for p in evaluation.problems],
    }


def write_html(path: str | Path, evaluation: Evaluation) -> None:
    """Write :func:`html_page` to a file.

    Raises:
        OptionsError: the file can't be written, or holds something else than a report.
    """
    write_page(path, html_page(evaluation))


def html_page(evaluation: Evaluation) -> Html:
    """The whole report as one page without scripts or outside files; readable on paper and in the dark. What
    can't be compared (one configuration alone, a single leg) has no section."""
    fallback = "Nothing: every query has judgments, every judged document is there."
    return page(
        evaluation.title,
        intro=f"{len(evaluation.queries)} judged queries · main measure {evaluation.main} · compared with "
        f"{evaluation.baseline}",
        conclusion=evaluation.conclusion,
        more=_summary(evaluation),
        sections=[
            Section(
                heading="How good is each?",
                hint="Longer is better. The thin line is the 95 % interval: where two overlap a lot, these "
                "queries can't tell them apart. nDCG@10 is 1 when the best documents stand first and 0 when "
                "none of the first ten is relevant.",
                body=Html(_bars(evaluation) + _notes(evaluation)),
            ),
            Section(
                heading="All measures",
                hint=MEASURES_HINT,
                body=Html(_table(evaluation) + _published(evaluation)),
            ),
            Section(
                heading="Query by query",
                hint="Each bar is one query, from the largest gain to the largest loss in "
                f"{evaluation.main} against {evaluation.baseline}.",
                body=_differences(evaluation),
            ),
            Section(
                heading="Where does each win alone?",
                hint="The queries on which exactly one is best.",
                body=_wins(evaluation),
            ),
            Section(
                heading="Queries worth a look",
                hint="Where the compared configuration loses most. Green lines are relevant documents; gray "
                "ones were never judged.",
                body=_worst(evaluation),
            ),
            Section(
                heading="Do they find the same?",
                hint="1 is the same list, 0 nothing in common. Fusion gains most from good legs that differ.",
                body=_agreements(evaluation),
            ),
            Section(
                heading="What was wrong in the data",
                body=items(p.text for p in evaluation.problems) or Html(f"<p>{fallback}</p>"),
            ),
        ],
    )


def _color(evaluation: Evaluation, name: str) -> str:
    names = [one.name for one in evaluation.measured]
    return color_of(names.index(name))


def _summary(evaluation: Evaluation) -> str:
    """What follows the conclusion: text, which the page escapes."""
    main, base = evaluation.main, evaluation.configuration(evaluation.baseline)
    lines = [] if evaluation.warning is None else [evaluation.warning]
    if evaluation.known_items:
        lines.append(
            "These queries stand word for word in their documents, which favors words: they show whether "
            "documents can be found, not which configuration is better."
        )
        return " ".join(lines)
    worse = [c for c in evaluation.comparisons if c.significant and c.difference.mean < 0]
    if worse:
        lines.append(f"Clearly worse than {base.name}: {', '.join(c.b for c in worse)}.")
    legs = [evaluation.configuration(name) for name in evaluation.legs]
    if len(legs) > 1 and base.name not in evaluation.legs:
        leg = max(legs, key=lambda one: one.values[main].mean)
        found = next(c for c in evaluation.comparisons if c.b == leg.name)
        gain = -found.difference.mean
        sure = "" if found.significant else "; so small a difference may be chance"
        verdict = "Fusing helps" if gain > 0 else "Fusing hurts"
        if not found.significant:
            verdict = "Fusing is not shown to help or to hurt"
        lines.append(
            f"{verdict}: {base.name} is {gain:+.3f} against its best single leg, {leg.name} "
            f"({p_text(found.p_corrected)}){sure}."
        )
    zero = sum(value == 0 for value in base.per_query[main].values())
    lines.append(
        f"For {zero} of {len(evaluation.queries)} queries {base.name} scores 0: nothing relevant "
        "where the measure looks."
    )
    return " ".join(lines)


def _bars(evaluation: Evaluation) -> Html:
    main = evaluation.main
    bars = []
    for one in evaluation.measured:
        value = one.values[main]
        bars.append(
            Bar(
                label=one.name,
                value=value.mean,
                shown=f"{value.mean:.3f}",
                color=_color(evaluation, one.name),
                interval=(value.low, value.high),
                bold=one.name == evaluation.baseline,
            )
        )
    return bar_chart(
        bars,
        axis=f"{main}, mean over the queries with its 95 % interval",
        label=f"{main} of each configuration with its 95 % interval",
    )


def _table(evaluation: Evaluation) -> Html:
    measures = list(evaluation.measured[0].values)
    best = {m: max(one.values[m].mean for one in evaluation.measured) for m in measures}
    timed = any(one.latency for one in evaluation.measured)
    judged = evaluation.judged
    head = ["", *measures, *([JUDGED] if judged else []), f"against {evaluation.baseline}"]
    rows = []
    for one in evaluation.measured:
        row: list[object] = [one.name]
        for name, v in one.values.items():
            mean = f"<b>{v.mean:.3f}</b>" if v.mean == best[name] else f"{v.mean:.3f}"
            row.append(Html(f"{mean}<small>{v.low:.3f}–{v.high:.3f}</small>"))
        row += [share_shown(judged[one.name])] if judged else []
        row.append(_against(evaluation, one) or "–")
        if timed:
            row.append(f"{one.latency.p50_ms:.1f} / {one.latency.p95_ms:.1f}" if one.latency else "–")
        rows.append(row)
    return table([*head, *(["p50 / p95 ms"] if timed else [])], rows)


def _published(evaluation: Evaluation) -> Html:
    """Outside figures, in a table of their own: they were measured on other machines and models."""
    if not evaluation.published:
        return Html("")
    measures = [m for m in evaluation.measured[0].values if any(_figure(f, m) for f in _figures(evaluation))]
    rows = []
    for name, figures in evaluation.published.items():
        values = [_figure(figures, m) for m in measures]
        rows.append([name, *("–" if v is None else f"{v:.3f}" for v in values)])
    return Html(
        "<h2>Published elsewhere</h2><p class=hint>Other people's figures for the same queries, from the "
        "file that was given; <b>flat</b> in Anserini's tables is BM25.</p>" + table(["", *measures], rows)
    )


def _figures(evaluation: Evaluation) -> list[Mapping[str, float]]:
    return list(evaluation.published.values())


def _figure(figures: Mapping[str, float], measure: str) -> float | None:
    """A published figure by our name of its measure (``recall@100`` is Anserini's ``R@100``)."""
    lower = {key.lower(): value for key, value in figures.items()}
    return lower.get(measure.lower(), lower.get(measure.lower().replace("recall", "r")))


def _notes(evaluation: Evaluation) -> str:
    if not evaluation.notes:
        return ""
    rows = "".join(
        f"<dt><i style='background:{_color(evaluation, one.name)}'></i>{escape(one.name)}</dt>"
        f"<dd>{escape(evaluation.notes.get(one.name, 'a run from a file or another tool'))}</dd>"
        for one in evaluation.measured
    )
    return f"<dl>{rows}</dl>"


def _differences(evaluation: Evaluation) -> Html:
    """For each configuration a strip of its per-query differences to the baseline, sorted."""
    main = evaluation.main
    base = evaluation.configuration(evaluation.baseline).per_query[main]
    panels = []
    for one in evaluation.measured:
        if one.name == evaluation.baseline:
            continue
        values = sorted((one.per_query[main][q] - base[q] for q in base), reverse=True)
        left, width, height, middle = 34, 330, 146, 60
        step = width / max(1, len(values))
        bars = "".join(
            f"<rect x='{left + i * step:.2f}' y='{middle - max(v, 0) * 50:.1f}' width='{max(step, 0.6):.2f}' "
            f"height='{max(abs(v) * 50, 0.01):.1f}' fill='{BETTER if v > 0 else WORSE}'/>"
            for i, v in enumerate(values)
            if abs(v) > 1e-9
        )
        marks = [(tick, middle - 50 * tick) for tick in (1, 0, -1)]
        scale = "".join(
            f"<text x='{left - 5}' y='{y + 4}' text-anchor='end' class='tick'>{tick:+d}</text>"
            f"<line x1='{left - 3}' x2='{left}' y1='{y}' y2='{y}' class='axis'/>"
            for tick, y in marks
        )
        axis = (
            f"<line x1='{left}' x2='{left}' y1='10' y2='110' class='axis'/>"
            f"<line x1='{left}' x2='{left + width}' y1='{middle}' y2='{middle}' class='axis'/>"
            f"<text x='{left}' y='130' class='tick'>{len(values)} queries; difference in {escape(main)}"
            "</text>"
        )
        better, worse = sum(v > 1e-9 for v in values), sum(v < -1e-9 for v in values)
        panels.append(
            f"<figure><figcaption><b>{escape(one.name)}</b>: better on {better}, worse on {worse}, equal on "
            f"{len(values) - better - worse}</figcaption>"
            + svg(left + width, height, Html(scale + axis + bars), f"differences of {one.name}")
            + "</figure>"
        )
    if not panels:
        return Html("")
    meaning = legend(
        [(BETTER, f"better than {evaluation.baseline}"), (WORSE, f"worse than {evaluation.baseline}")]
    )
    return Html(f"{meaning}<div class=grid>{''.join(panels)}</div>")


def _wins(evaluation: Evaluation) -> Html:
    """How often each configuration alone has the best value."""
    if len(evaluation.measured) < 2:
        return Html("")
    main = evaluation.main
    alone: dict[str, int] = {one.name: 0 for one in evaluation.measured}
    shared = 0
    for query in evaluation.queries:
        values = {one.name: one.per_query[main][query] for one in evaluation.measured}
        top = max(values.values())
        winners = [name for name, value in values.items() if value > top - 1e-9]
        if len(winners) == 1:
            alone[winners[0]] += 1
        else:
            shared += 1
    parts = [Part(label=n, value=wins, color=_color(evaluation, n)) for n, wins in alone.items()]
    parts.append(Part(label="several equal", value=shared, color="#9aa4b2"))
    return stacked_bar(parts, axis="queries", label="queries on which one is best alone")


def _worst(evaluation: Evaluation, count: int = 8, depth: int = 5) -> Html:
    """The baseline's worst queries, where another configuration does better first."""
    main = evaluation.main
    base = evaluation.configuration(evaluation.baseline)
    others = [one for one in evaluation.measured if one.name != evaluation.baseline][:3]

    def loss(query: str) -> tuple[float, float]:
        best = max([one.per_query[main][query] for one in others], default=0.0)
        return (base.per_query[main][query] - best, base.per_query[main][query])

    parts = []
    for query in sorted(evaluation.queries, key=loss)[:count]:
        columns = []
        for one in (base, *others):
            items = []
            for document, _ in list(one.run.get(query, ()))[:depth]:
                grade = evaluation.qrels[query].get(document)
                mark = "relevant" if grade and grade > 0 else "unjudged" if grade is None else "not"
                text = evaluation.titles.get(document, "")
                items.append(f"<li class={mark}><code>{escape(document)}</code> {escape(text[:110])}</li>")
            columns.append(
                f"<div><h4>{escape(one.name)} <small>{one.per_query[main][query]:.2f}</small></h4>"
                f"<ol>{''.join(items) or '<li class=not>nothing</li>'}</ol></div>"
            )
        parts.append(
            f"<details open><summary>{escape(evaluation.queries[query])} <small>{escape(query)}</small>"
            f"</summary><div class=side>{''.join(columns)}</div></details>"
        )
    return Html("".join(parts))


def _agreements(evaluation: Evaluation) -> Html:
    rows = [(f"{a.a} – {a.b}", f"{a.overlap10:.2f}", f"{a.rbo:.2f}") for a in evaluation.agreements]
    return table(["", "overlap of the first 10", "rank-biased overlap"], rows)
