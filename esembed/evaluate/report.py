"""One evaluation as a terminal table, as JSON, and as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from esembed.evaluate.evaluation import Evaluation, Measured
from esembed.foreign import html_escaped as escape

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["html_page", "report_dict", "terminal_table", "write_html"]

_COLORS = ("#2563a8", "#c2571a", "#2e7d4f", "#8b3a8f", "#7a6a1d", "#4a5568", "#b02a45", "#1c7c8c")


def terminal_table(evaluation: Evaluation) -> Table:
    """Configurations × measures, intervals for the first measure, and what is significant."""
    from rich import box
    from rich.table import Table

    table = Table(title=evaluation.title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column("")
    main = evaluation.main
    for name in evaluation.measured[0].values:
        table.add_column(name, justify="right")
    table.add_column(f"95 % of {main}", justify="right")
    table.add_column(f"against {evaluation.baseline}", justify="right")
    timed = any(one.latency for one in evaluation.measured)
    if timed:
        table.add_column("p50 ms", justify="right")
        table.add_column("p95 ms", justify="right")
    best = max(one.values[main].mean for one in evaluation.measured)
    for one in evaluation.measured:
        value = one.values[main]
        row = [one.name, *(f"{v.mean:.4f}" for v in one.values.values())]
        row += [f"{value.low:.3f} – {value.high:.3f}", _against(evaluation, one)]
        if timed:
            row += [f"{one.latency.p50_ms:.1f}", f"{one.latency.p95_ms:.1f}"] if one.latency else ["", ""]
        table.add_row(*row, style="bold" if value.mean == best else "")
    for name, figures in evaluation.published.items():
        cells = [_figure(figures, m) for m in evaluation.measured[0].values]
        table.add_row(f"{name} (published)", *("" if c is None else f"{c:.4f}" for c in cells), style="dim")
    return table


def _against(evaluation: Evaluation, one: Measured) -> str:
    for comparison in evaluation.comparisons:
        if comparison.b == one.name:
            star = " *" if comparison.significant else ""
            return f"{comparison.difference.mean:+.4f} ({_p(comparison.p_corrected)}){star}"
    return ""


def _p(value: float, space: str = " ") -> str:
    """``p = 0.012``; a p below what three digits show is said so."""
    sign, shown = ("<", "0.001") if value < 0.001 else ("=", f"{value:.3f}")
    return f"p{space}{'&lt;' if sign == '<' and space != ' ' else sign}{space}{shown}"


def report_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Plain JSON values: everything but the runs."""
    return {
        "title": evaluation.title,
        "queries": len(evaluation.queries),
        "baseline": evaluation.baseline,
        "configurations": {
            one.name: {
                "measures": {m: asdict(v) for m, v in one.values.items()},
                "per_query": {m: dict(v) for m, v in one.per_query.items()},
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
    """Write :func:`html_page` to a file."""
    Path(path).write_text(html_page(evaluation), encoding="utf-8")


def html_page(evaluation: Evaluation) -> str:
    """The whole report as one page without scripts or outside files; readable on paper and in the dark."""
    return _PAGE.substitute(
        title=escape(evaluation.title),
        summary=_summary(evaluation),
        bars=_bars(evaluation),
        notes=_notes(evaluation),
        published=_published(evaluation),
        table=_table(evaluation),
        differences=_differences(evaluation),
        wins=_wins(evaluation),
        worst=_worst(evaluation),
        agreements=_agreements(evaluation),
        problems=_problems(evaluation),
        intro=f"{len(evaluation.queries)} judged queries · main measure {escape(evaluation.main)}"
        f" · compared with <b>{escape(evaluation.baseline)}</b>",
    )


def _color(evaluation: Evaluation, name: str) -> str:
    names = [one.name for one in evaluation.measured]
    return _COLORS[names.index(name) % len(_COLORS)]


def _summary(evaluation: Evaluation) -> str:
    main = evaluation.main
    ranked = sorted(evaluation.measured, key=lambda one: -one.values[main].mean)
    best, base = ranked[0], evaluation.configuration(evaluation.baseline)
    lines = []
    if best.name == base.name:
        lines.append(
            f"<b>{escape(base.name)}</b> is the best of {len(ranked)} at "
            f"{base.values[main].mean:.3f} {escape(main)}."
        )
    else:
        found = next(c for c in evaluation.comparisons if c.b == best.name)
        sure = (
            "a difference that chance does not explain"
            if found.significant
            else ("a difference that chance may explain")
        )
        lines.append(
            f"<b>{escape(best.name)}</b> is best at {best.values[main].mean:.3f} {escape(main)}; "
            f"<b>{escape(base.name)}</b> has {base.values[main].mean:.3f}: {sure} "
            f"({_p(found.p_corrected, '&nbsp;')})."
        )
    worse = [c for c in evaluation.comparisons if c.significant and c.difference.mean < 0]
    if worse:
        names = ", ".join(escape(c.b) for c in worse)
        lines.append(f"Clearly worse than {escape(base.name)}: {names}.")
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
            f"{verdict}: {escape(base.name)} is {gain:+.3f} against its best single leg, "
            f"<b>{escape(leg.name)}</b> ({_p(found.p_corrected, '&nbsp;')}){sure}."
        )
    zero = sum(value == 0 for value in base.per_query[main].values())
    lines.append(
        f"For {zero} of {len(evaluation.queries)} queries {escape(base.name)} scores 0: nothing relevant "
        "where the measure looks."
    )
    return " ".join(lines)


def _bars(evaluation: Evaluation) -> str:
    main = evaluation.main
    top = max([one.values[main].high for one in evaluation.measured] + [0.01])
    height, left, width = 30, 170, 520
    parts = []
    for i, one in enumerate(evaluation.measured):
        value, y = one.values[main], i * height + 6
        color = _color(evaluation, one.name)
        scale = width / top
        bold = " font-weight='600'" if one.name == evaluation.baseline else ""
        parts.append(
            f"<text x='{left - 10}' y='{y + 13}' text-anchor='end'{bold}>{escape(one.name)}</text>"
            f"<rect x='{left}' y='{y}' width='{value.mean * scale:.1f}' height='18' rx='2' fill='{color}'/>"
            f"<line x1='{left + value.low * scale:.1f}' x2='{left + value.high * scale:.1f}' y1='{y + 9}' "
            f"y2='{y + 9}' class='whisker'/>"
            f"<text x='{left + value.high * scale + 8:.1f}' y='{y + 13}'>{value.mean:.3f}</text>"
        )
    full = len(evaluation.measured) * height + 8
    return _svg(780, full, "".join(parts), f"{main} of each configuration with its 95 % interval")


def _table(evaluation: Evaluation) -> str:
    measures = list(evaluation.measured[0].values)
    best = {m: max(one.values[m].mean for one in evaluation.measured) for m in measures}
    timed = any(one.latency for one in evaluation.measured)
    head = "".join(f"<th>{escape(m)}</th>" for m in measures)
    head += f"<th>against {escape(evaluation.baseline)}</th>" + ("<th>p50 / p95 ms</th>" if timed else "")
    rows = []
    for one in evaluation.measured:
        cells = "".join(
            f"<td{' class=best' if v.mean == best[m] else ''}>{v.mean:.3f}"
            f"<small>{v.low:.3f}–{v.high:.3f}</small></td>"
            for m, v in one.values.items()
        )
        cells += f"<td>{escape(_against(evaluation, one)) or '–'}</td>"
        if timed:
            shown = f"{one.latency.p50_ms:.1f} / {one.latency.p95_ms:.1f}" if one.latency else "–"
            cells += f"<td>{shown}</td>"
        rows.append(f"<tr><th>{escape(one.name)}</th>{cells}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _published(evaluation: Evaluation) -> str:
    """Outside figures, in a table of their own: they were measured on other machines and models."""
    if not evaluation.published:
        return ""
    measures = [m for m in evaluation.measured[0].values if any(_figure(f, m) for f in _figures(evaluation))]
    head = "".join(f"<th>{escape(m)}</th>" for m in measures)
    rows = []
    for name, figures in evaluation.published.items():
        values = [_figure(figures, m) for m in measures]
        cells = "".join("<td>–</td>" if v is None else f"<td>{v:.3f}</td>" for v in values)
        rows.append(f"<tr class=published><th>{escape(name)}</th>{cells}</tr>")
    return (
        "<h2>Published elsewhere</h2><p class=hint>Other people's figures for the same queries, from the "
        "file that was given; <b>flat</b> in Anserini's tables is BM25.</p>"
        f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
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


def _differences(evaluation: Evaluation) -> str:
    """For each configuration a strip of its per-query differences to the baseline, sorted."""
    main = evaluation.main
    base = evaluation.configuration(evaluation.baseline).per_query[main]
    panels = []
    for one in evaluation.measured:
        if one.name == evaluation.baseline:
            continue
        values = sorted((one.per_query[main][q] - base[q] for q in base), reverse=True)
        width, height = 330, 110
        step = width / max(1, len(values))
        bars = "".join(
            f"<rect x='{i * step:.2f}' y='{55 - max(v, 0) * 50:.1f}' width='{max(step, 0.6):.2f}' "
            f"height='{max(abs(v) * 50, 0.01):.1f}' fill='{'#2e7d4f' if v > 0 else '#b02a45'}'/>"
            for i, v in enumerate(values)
            if abs(v) > 1e-9
        )
        better, worse = sum(v > 1e-9 for v in values), sum(v < -1e-9 for v in values)
        panels.append(
            f"<figure><figcaption><b>{escape(one.name)}</b>: better on {better}, worse on {worse}, equal on "
            f"{len(values) - better - worse}</figcaption>"
            + _svg(
                width,
                height,
                f"<line x1='0' x2='{width}' y1='55' y2='55' class='axis'/>{bars}",
                f"differences of {one.name}",
            )
            + "</figure>"
        )
    return f"<div class=grid>{''.join(panels)}</div>"


def _wins(evaluation: Evaluation) -> str:
    """How often each configuration alone has the best value."""
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
    count = max(1, len(evaluation.queries))
    x, parts, legend = 0.0, [], []
    for name, wins in alone.items():
        if not wins:
            continue
        width = 780 * wins / count
        color = _color(evaluation, name)
        parts.append(f"<rect x='{x:.1f}' y='0' width='{width:.1f}' height='26' fill='{color}'/>")
        legend.append(f"<span><i style='background:{color}'></i>{escape(name)} {wins}</span>")
        x += width
    parts.append(f"<rect x='{x:.1f}' y='0' width='{780 * shared / count:.1f}' height='26' class='shared'/>")
    legend.append(f"<span><i class=shared></i>several equal {shared}</span>")
    return _svg(780, 26, "".join(parts), "queries on which one is best alone") + (
        f"<p class=legend>{''.join(legend)}</p>"
    )


def _worst(evaluation: Evaluation, count: int = 8, depth: int = 5) -> str:
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
    return "".join(parts)


def _agreements(evaluation: Evaluation) -> str:
    rows = "".join(
        f"<tr><th>{escape(a.a)} – {escape(a.b)}</th><td>{a.overlap10:.2f}</td><td>{a.rbo:.2f}</td></tr>"
        for a in evaluation.agreements
    )
    return (
        f"<table><tr><th></th><th>overlap of the first 10</th><th>rank-biased overlap</th></tr>{rows}</table>"
    )


def _problems(evaluation: Evaluation) -> str:
    if not evaluation.problems:
        return "<p>Nothing: every query has judgments, every judged document is there.</p>"
    return "<ul>" + "".join(f"<li>{escape(p.text)}</li>" for p in evaluation.problems) + "</ul>"


def _svg(width: int, height: int, inner: str, label: str) -> str:
    return (
        f"<svg viewBox='0 0 {width} {height}' width='{width}' height='{height}' role='img' "
        f"aria-label='{escape(label)}'>{inner}</svg>"
    )


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title</title><style>
:root{color-scheme:light dark;--ink:#1c2430;--soft:#667085;--line:#d9dee7;--card:#f6f8fb;--back:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#98a2b3;
--line:#364152;--card:#1b2431;--back:#121821}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:1080px;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .2rem}h4{margin:.2rem 0;font-size:.9rem}
p.hint,small,figcaption{color:var(--soft)}p.hint{margin:.1rem 0 .7rem;font-size:.9rem}
.lead{background:var(--card);border-left:4px solid #2563a8;padding:.7rem 1rem;margin:1rem
0;font-size:1.05rem}
svg{max-width:100%;height:auto}svg text{font:13px system-ui,sans-serif;fill:var(--ink)}
.whisker{stroke:var(--ink);stroke-width:2}.axis{stroke:var(--soft)}
.shared{fill:var(--line);background:var(--line)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
th,td{padding:.3rem .55rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child{text-align:left}td small{display:block;font-size:.72rem}td.best{font-weight:700}
tr.published{color:var(--soft)}tr.published th{font-weight:400}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem .9rem;font-size:.9rem;margin:.6rem 0}
dt{font-weight:600}dd{margin:0;color:var(--soft)}
dt i{display:inline-block;width:.8em;height:.8em;margin-right:.45em;border-radius:2px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(330px,1fr));gap:1rem}figure{margin:0}
figcaption{font-size:.88rem}.legend span{margin-right:1.1rem;white-space:nowrap}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.35em;border-radius:2px}
details{border-top:1px solid var(--line);padding:.5rem 0}summary{font-weight:600;cursor:pointer}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));gap:.9rem;font-size:.82rem}
ol{padding-left:1.3rem;margin:.2rem 0}li{margin:.15rem 0;overflow-wrap:anywhere}
li.relevant{background:#2e7d4f33;border-left:3px solid #2e7d4f;padding-left:.3rem}
li.unjudged{color:var(--soft)}li.not{opacity:.7}code{font-size:.78rem}
</style></head><body>
<h1>$title</h1><p class=hint>$intro</p>
<p class=lead>$summary</p>
<h2>How good is each?</h2>
<p class=hint>Longer is better. The thin line is the 95 % interval: where two overlap
a lot, these queries can't tell them apart. nDCG@10 is 1 when the best documents stand first and 0 when none
of the first ten is relevant.</p>$bars$notes
<h2>All measures</h2>
<p class=hint>recall@100: how many of the relevant documents are among the first 100.
mrr: 1 when the first hit is relevant, &frac12; when the second is. map: the mean precision at every
relevant one. success@5: how many queries have a relevant one among five. p50 / p95: half of the single
searches, 95&nbsp;% of them, were faster. Small figures are 95 % intervals. A star marks a difference
that chance does not explain (p below 0.05 after Holm's correction for the number of
comparisons).</p>$table$published
<h2>Query by query</h2>
<p class=hint>Each bar is one query: green upwards where the configuration beats the one it
is compared with, red downwards where it loses.</p>$differences
<h2>Where does each win alone?</h2><p class=hint>The share of queries on which exactly one is best.</p>$wins
<h2>Queries worth a look</h2>
<p class=hint>Where the compared configuration loses most. Green lines are relevant
documents; grey ones were never judged.</p>$worst
<h2>Do they find the same?</h2>
<p class=hint>1 is the same list, 0 nothing in common. Fusion gains most from good
legs that differ.</p>$agreements
<h2>What was wrong in the data</h2>$problems
</body></html>
""")
