"""The frame of every report that is a page: style, escaping, tables, charts, and writing it to a file.

A page stands alone: no script, nothing fetched, readable on paper and in the dark. It begins with its
conclusion. Whatever isn't :class:`Html` already passes :func:`esembed.foreign.html_escaped` on its way in, so
that ids, names of fields and reasons that others wrote are text and nothing else.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from esembed.errors import OptionsError
from esembed.foreign import html_escaped

__all__ = [
    "COLORS",
    "STDOUT",
    "Bar",
    "Html",
    "Part",
    "Section",
    "axis_ticks",
    "bar_chart",
    "check_output",
    "check_page_path",
    "color_of",
    "html",
    "items",
    "legend",
    "page",
    "stacked_bar",
    "svg",
    "table",
    "weights_bar",
    "write_output",
    "write_page",
]

COLORS = (
    *("#2563a8", "#c2571a", "#2e7d4f", "#8b3a8f", "#7a6a1d", "#4a5568", "#b02a45", "#1c7c8c", "#e69f00"),
    *("#56b4e9", "#cc79a7", "#66a61e", "#8c564b", "#7570b3", "#17becf", "#a6761d", "#e7298a", "#999999"),
)
"""Of bars, parts and dots, in order, enough for each quantization there is; text beside each says what
it is, for those who can't tell them apart."""

MARK = '<meta name="generator" content="esembed">'
"""Stands in every page of esembed, so that no other file is written over."""

OLD_MARK = "<style>\n:root{color-scheme:light dark;--ink:#1c2430"
"""How the pages of 0.1.0 are known, which had no mark."""

WIDTH, LABELS = 780, 170
"""Of a chart, and of the names left of its bars, in pixels."""


class Html(str):
    """Text that is HTML already: it was made here, of parts that were escaped."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a page; one without a body is left out.

    Attributes:
        heading, hint: what it shows, and how to read it.
        body: what stands below.
    """

    heading: str
    body: Html
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar of a chart.

    Attributes:
        label: left of it.
        value: its length, on the axis.
        shown: the figure right of it.
        color: of the bar.
        interval: the ends of a thin line over it, or None.
        bold: the label, for the one that matters.
    """

    label: str
    value: float
    shown: str
    color: str = COLORS[0]
    interval: tuple[float, float] | None = None
    bold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a stacked bar."""

    label: str
    value: float
    color: str


def html(value: object) -> Html:
    """The value as it can stand in a page: :class:`Html` as it is, all else escaped."""
    return value if isinstance(value, Html) else Html(html_escaped(str(value)))


def page(
    title: str, *, conclusion: str, sections: Iterable[Section], intro: str = "", more: str = ""
) -> Html:
    """A whole page.

    Args:
        title: the heading.
        conclusion: the sentence that it begins with.
        sections: what follows, in order.
        intro: a line under the title.
        more: further sentences after the conclusion, as text or :class:`Html`.
    """
    parts = []
    for one in sections:
        if one.body:
            hint = f"<p class=hint>{html(one.hint)}</p>" if one.hint else ""
            parts.append(f"<h2>{html(one.heading)}</h2>\n{hint}{one.body}")
    end = "" if conclusion.endswith((".", "?")) else "."
    made = _PAGE.substitute(
        mark=MARK,
        title=html(title),
        intro=f"<p class=hint>{html(intro)}</p>" if intro else "",
        lead=f"<b>{html(conclusion)}{end}</b>" + (f" {html(more)}" if more else ""),
        sections="\n".join(parts),
    )
    return Html(made)


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, text_columns: int = 1) -> Html:
    """A table; the first *text_columns* columns are names and sentences, the others numbers. Nothing where
    there are no rows."""
    body = []
    for row in rows:
        cells = [
            f"<th scope=row>{html(cell)}</th>"
            if column == 0
            else f"<td{' class=text' if column < text_columns else ''}>{html(cell)}</td>"
            for column, cell in enumerate(row)
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    if not body:
        return Html("")
    names = "".join(
        f"<th{' class=text' if column < text_columns else ''}>{html(cell)}</th>"
        for column, cell in enumerate(head)
    )
    return Html(f"<table><tr>{names}</tr>{''.join(body)}</table>")


def items(lines: Iterable[object]) -> Html:
    """A list of lines; nothing where there are none."""
    found = "".join(f"<li>{html(line)}</li>" for line in lines)
    return Html(f"<ul>{found}</ul>" if found else "")


def legend(entries: Iterable[tuple[str, str]]) -> Html:
    """What each color means: (color, meaning)."""
    spans = "".join(
        f"<span><i style='background:{html(color)}'></i>{html(meaning)}</span>" for color, meaning in entries
    )
    return Html(f"<p class=legend>{spans}</p>" if spans else "")


def svg(width: int, height: int, inner: Html, label: str, *, alone: bool = False) -> Html:
    """A drawing of *inner*, which is SVG already; *label* is read to those who don't see it.

    Args:
        alone: it is a file by itself, too: on white, whatever stands around it.
    """
    more = ""
    if alone:
        # White also in a page that is dark, and so is its ink.
        more = (
            " xmlns='http://www.w3.org/2000/svg' font-family='sans-serif' font-size='12' "
            "style='--ink:#1c2430'"
        )
        inner = Html(f"<rect width='{width}' height='{height}' fill='white'/>{inner}")
    return Html(
        f"<svg viewBox='0 0 {width} {height}' width='{width}' height='{height}'{more} role='img' "
        f"aria-label='{html(label)}'>{inner}</svg>"
    )


def axis_ticks(top: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Round numbers from 0 to *top*, about *count* of them; *whole* numbers for what is counted."""
    if not (top > 0 and math.isfinite(top)):
        return [0.0]
    rough = top / count
    power = 10.0 ** math.floor(math.log10(rough))
    steps = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(s * power for s in steps if s * power >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    return [number * step for number in range(int(top / step + 1e-9) + 1)]


def bar_chart(bars: Sequence[Bar], *, axis: str, label: str, top: float | None = None) -> Html:
    """Horizontal bars from 0, with a scale below.

    Args:
        bars: from top to bottom; none make no chart.
        axis: what the scale measures.
        label: what the chart shows, for those who don't see it.
        top: the end of the scale; None is the largest value or interval.
    """
    if not bars:
        return Html("")
    # Where the figure stands: behind the bar, and behind its interval.
    ends = [max(bar.value, bar.interval[1] if bar.interval else 0.0) for bar in bars]
    full = top or max([*ends, 0.0]) or 1.0
    height, wide = 30, WIDTH - LABELS - 90
    scale, bottom = wide / full, len(bars) * height + 6
    parts = [_scale(full, LABELS, bottom, wide, axis)]
    for number, (bar, end) in enumerate(zip(bars, ends, strict=True)):
        y = number * height + 6
        bold = " font-weight='600'" if bar.bold else ""
        parts.append(
            f"<text x='{LABELS - 10}' y='{y + 13}' text-anchor='end'{bold}>{html(_short(bar.label))}"
            f"<title>{html(bar.label)}</title></text>"
            f"<rect x='{LABELS}' y='{y}' width='{max(0.0, bar.value) * scale:.1f}' height='18' rx='2' "
            f"fill='{html(bar.color)}'/>"
        )
        if bar.interval is not None:
            low, high = bar.interval
            parts.append(
                f"<line x1='{LABELS + low * scale:.1f}' x2='{LABELS + high * scale:.1f}' y1='{y + 9}' "
                f"y2='{y + 9}' class='whisker'/>"
            )
        parts.append(f"<text x='{LABELS + end * scale + 8:.1f}' y='{y + 13}'>{html(bar.shown)}</text>")
    return svg(WIDTH, bottom + 44, Html("".join(parts)), label)


def color_of(number: int) -> str:
    """The color of a chart's bar or part, by its place; they begin again after the last."""
    return COLORS[number % len(COLORS)]


def weights_bar(weights: Mapping[str, float]) -> Html:
    """Weights of legs as parts of one bar; nothing where there are none."""
    parts = [
        Part(label=name, value=weight, color=color_of(number))
        for number, (name, weight) in enumerate(weights.items())
    ]
    return stacked_bar(parts, axis="share of the score", label="weights of the legs")


def stacked_bar(parts: Sequence[Part], *, axis: str, label: str) -> Html:
    """One bar of parts that sum up, with a scale below and a legend; parts of 0 are left out."""
    shown = [part for part in parts if part.value > 0]
    total = sum(part.value for part in shown)
    if not total:
        return Html("")
    whole = all(float(part.value).is_integer() for part in shown)
    x, drawn = 0.0, [_scale(total, 4, 30, WIDTH - 40, axis, whole=whole)]
    for part in shown:
        width = (WIDTH - 40) * part.value / total
        drawn.append(
            f"<rect x='{4 + x:.1f}' y='0' width='{width:.1f}' height='26' fill='{html(part.color)}'>"
            f"<title>{html(part.label)} {part.value:,g}</title></rect>"
        )
        x += width
    names = legend((part.color, f"{part.label} {part.value:,g}") for part in shown)
    return Html(svg(WIDTH, 74, Html("".join(drawn)), label) + names)


def _scale(top: float, left: int, y: int, width: int, axis: str, *, whole: bool = False) -> str:
    """A horizontal axis from 0 to *top*: its line, ticks, numbers, and what it measures."""
    parts = [f"<line x1='{left}' x2='{left + width}' y1='{y}' y2='{y}' class='axis'/>"]
    for tick in axis_ticks(top, whole=whole):
        at = left + width * tick / top
        anchor = "start" if tick == 0 else "middle"
        parts.append(
            f"<line x1='{at:.1f}' x2='{at:.1f}' y1='{y}' y2='{y + 4}' class='axis'/>"
            f"<text x='{at:.1f}' y='{y + 18}' text-anchor='{anchor}' class='tick'>{tick:,.4g}</text>"
        )
    parts.append(f"<text x='{left}' y='{y + 36}' class='tick'>{html(axis)}</text>")
    return "".join(parts)


def _short(label: str, most: int = 24) -> str:
    """A label that fits beside its bar."""
    return label if len(label) <= most else label[: most - 1] + "…"


STDOUT = "-"
"""The file name that is standard output."""


def check_output(path: str | Path, option: str) -> None:
    """Refuse a file that can't be written to, before the work whose result it is to hold.

    Args:
        option: what named it, for the message.

    Raises:
        OptionsError: the folder isn't there, it is a folder itself, or it can't be written.
    """
    file = Path(path)
    try:
        if "\0" in str(file):  # which pathlib takes for a file that isn't there
            raise OptionsError("a file's name has no NUL character", option=option)
        if file.is_dir():
            raise OptionsError(f"{file} is a folder; name a file in it", option=option)
        if not file.parent.is_dir():
            raise OptionsError(f"there is no folder {file.parent}", option=option)
        if not file.exists() and not os.access(file.parent, os.W_OK):
            raise OptionsError(f"the folder {file.parent} can't be written to", option=option)
    except (OSError, ValueError) as error:
        raise OptionsError(f"{file} can't be written: {error}", option=option) from error


def check_page_path(path: str | Path | None, option: str = "--html") -> None:
    """Refuse a file that a page can't be written to, before the work that it is to report.

    Args:
        path: None asks nothing.
        option: what named it, for the message.

    Raises:
        OptionsError: as :func:`check_output`, or it holds something that is no page of esembed.
    """
    if path is None or str(path) == STDOUT:
        return
    check_output(path, option)
    file = Path(path)
    try:
        if file.is_file():  # else it isn't there, or is a pipe: written to as it is
            with file.open("r+b") as opened:
                head = opened.read(4096)
            if head.strip() and not any(mark.encode() in head for mark in (MARK, OLD_MARK)):
                raise OptionsError(
                    f"{file} holds something else than a report of esembed and isn't written over; name "
                    "another file, or remove it",
                    option=option,
                )
    except (OSError, ValueError) as error:
        raise OptionsError(f"{file} can't be written: {error}", option=option) from error


def write_output(path: str | Path, text: str, option: str) -> None:
    """Write a text to a file in UTF-8, or for ``-`` to standard output.

    Raises:
        OptionsError: writing fails.
    """
    try:
        if str(path) == STDOUT:
            sys.stdout.flush()
            sys.stdout.buffer.write(text.encode("utf-8"))
            sys.stdout.buffer.flush()
        else:
            Path(path).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise OptionsError(f"{path} can't be written: {error}", option=option) from error


def write_page(path: str | Path, text: Html, option: str = "--html") -> None:
    """Write a page that :func:`page` made to a file, over an earlier one if it is there; ``-`` is standard
    output.

    Raises:
        OptionsError: as :func:`check_page_path`, and where writing fails.
    """
    check_page_path(path, option)
    # Half a character (of a file name that isn't UTF-8) was escaped on its way in.
    write_output(path, text, option)


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">$mark
<meta name="viewport" content="width=device-width">
<title>$title</title><style>
:root{color-scheme:light dark;--ink:#1c2430;--soft:#667085;--line:#d9dee7;--card:#f6f8fb;--back:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#98a2b3;
--line:#364152;--card:#1b2431;--back:#121821}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:1080px;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:2.2rem 0 .2rem}
h4{margin:.2rem 0;font-size:.9rem}
p.hint,small,figcaption{color:var(--soft)}p.hint{margin:.1rem 0 .7rem;font-size:.9rem}
.lead{background:var(--card);border-left:4px solid #2563a8;padding:.7rem 1rem;margin:1rem
0;font-size:1.05rem;overflow-wrap:anywhere}
svg{max-width:100%;height:auto}svg text{font:13px system-ui,sans-serif;fill:var(--ink)}
svg text.tick{font-size:11px;fill:var(--soft)}
.whisker{stroke:var(--ink);stroke-width:2}.axis{stroke:var(--soft)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
th,td{padding:.3rem .55rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,th.text,td.text{text-align:left}td.text{white-space:normal;overflow-wrap:anywhere}
td small{display:block;font-size:.72rem}td b{font-weight:700}
tr.published{color:var(--soft)}tr.published th{font-weight:400}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem .9rem;font-size:.9rem;margin:.6rem 0}
dt{font-weight:600}dd{margin:0;color:var(--soft)}
dt i{display:inline-block;width:.8em;height:.8em;margin-right:.45em;border-radius:2px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(370px,1fr));gap:1rem}figure{margin:0}
figcaption{font-size:.88rem}.legend span{margin-right:1.1rem;white-space:nowrap}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.35em;border-radius:2px}
details{border-top:1px solid var(--line);padding:.5rem 0}summary{font-weight:600;cursor:pointer}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));gap:.9rem;font-size:.82rem}
ul{padding-left:1.3rem;margin:.4rem 0;font-size:.92rem}
ol{padding-left:1.3rem;margin:.2rem 0}li{margin:.15rem 0;overflow-wrap:anywhere}
li.relevant{background:#2e7d4f33;border-left:3px solid #2e7d4f;padding-left:.3rem}
li.unjudged{color:var(--soft)}li.not{opacity:.7}code{font-size:.78rem}
pre{background:var(--card);padding:.6rem .8rem;font-size:.82rem;white-space:pre-wrap;overflow-wrap:anywhere}
</style></head><body>
<h1>$title</h1>$intro
<p class=lead>$lead</p>
$sections
</body></html>
""")
