"""Advice for people: a table, a page, and a plot of recall against RAM as SVG, without a plotting library.

What can't be chosen has no row and no dot; a line says why (:attr:`Recommendation.left_out`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from esembed.advise.advise import Recommendation, Trial
from esembed.advise.cost import human_bytes, human_count
from esembed.foreign import html_escaped
from esembed.report_page import Html, Section, color_of, html, items, page, table, write_page
from esembed.report_page import svg as drawing

__all__ = ["COLUMNS", "html_page", "human_bytes", "left_out_lines", "plot", "rows", "svg", "write_html"]

COLUMNS = (
    "quantization",
    "dims",
    "oversample",
    "recall",
    "simulated",
    "held back",
    "RAM",
    "disk",
    "latency ms",
    "index s",
)


def rows(advice: Recommendation) -> list[tuple[str, ...]]:
    """The table's cells of what can be chosen, in the order of :data:`COLUMNS`; the chosen one is starred."""
    out: list[tuple[str, ...]] = []
    for t in advice.choosable:
        star = " *" if t is advice.chosen else ""
        out.append(
            (
                t.quantization + star,
                str(t.dims),
                "-" if t.oversample is None else f"{t.oversample:g}",
                "-" if t.measured is None else f"{t.measured:.4f}",
                f"{t.simulated:.4f}",
                "-" if t.held_back is None else f"{t.held_back:.4f}",
                human_bytes(t.ram_bytes),
                human_bytes(t.disk_bytes),
                "-" if t.latency_ms is None else f"{t.latency_ms:.1f}",
                "-" if t.index_seconds is None else f"{t.index_seconds:.1f}",
            )
        )
    return out


def left_out_lines(advice: Recommendation) -> list[str]:
    """A line for each reason why something can't be chosen."""
    return [f"not among the choices: {', '.join(names)}: {why}" for why, names in advice.left_out.items()]


def html_page(advice: Recommendation, *, field: str = "", costs: Sequence[Mapping[str, Any]] = ()) -> Html:
    """The recommendation as one page.

    Args:
        field: the dense field, for the title.
        costs: what encoding takes, as the command line has it: ``what``, ``hours``, ``usd``.
    """
    shown = {"documents": human_count, "ram_bytes": human_bytes, "disk_bytes": human_bytes}
    columns = ("documents", "ram_bytes", "disk_bytes", "shards", "nodes")
    scales = [[_figure(one[name], shown.get(name, str)) for name in columns] for one in advice.scales]
    usd = [[one["what"], *(_figure(one[n], "{:.2f}".format) for n in ("hours", "usd"))] for one in costs]
    plan = Html("") if advice.plan is None else Html(f"<pre>{html(advice.plan.to_toml())}</pre>")
    return page(
        f"Quantization{f' of {field}' if field else ''}",
        intro=f"{advice.sample:,} vectors, {advice.queries + advice.held_back:,} queries, {advice.engine}",
        conclusion=advice.conclusion,
        sections=[
            Section(
                heading="Recall against size",
                hint="Up is better, left is smaller. Every second query took no part in choosing.",
                body=Html(plot(advice)) if advice.choosable else Html(""),
            ),
            Section(
                heading="What can be chosen",
                hint="The chosen one is starred. held back: recall on queries that took no part in choosing.",
                body=table(COLUMNS, rows(advice)),
            ),
            Section(heading="What can't", body=items(left_out_lines(advice))),
            Section(
                heading="As it grows",
                hint="The choice at other sizes; nodes of 64 GiB.",
                body=table(["documents", "RAM", "disk", "shards", "nodes"], scales),
            ),
            Section(heading="Encoding", body=table(["", "hours", "USD"], usd)),
            Section(heading="The plan", body=plan),
        ],
    )


def write_html(
    path: str | Path, advice: Recommendation, *, field: str = "", costs: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write :func:`html_page` to a file.

    Raises:
        OptionsError: the file can't be written, or holds something else than a report.
    """
    write_page(path, html_page(advice, field=field, costs=costs))


def plot(advice: Recommendation) -> str:
    """The advice as SVG text: see :func:`svg`."""
    target = advice.target
    return svg(
        advice.choosable,
        k=target.k,
        goal=target.min_recall,
        chosen=advice.chosen,
        note=f"RAM and disk for {target.documents:,} documents ({advice.engine}), recall on a sample of "
        f"{advice.sample:,}",
    )


_PANELS: tuple[tuple[str, str], ...] = (
    ("RAM", "ram_bytes"),
    ("disk", "disk_bytes"),
    ("latency, ms", "latency_ms"),
    ("index time, s", "index_seconds"),
)
_WIDE, _HIGH, _LEFT, _TOP, _GAP = 350, 260, 60, 40, 75


def svg(
    trials: Sequence[Trial], *, k: int = 10, goal: float, chosen: Trial | None = None, note: str = ""
) -> str:
    """Recall (up) against RAM, disk, latency and index time (right, logarithmic), as SVG text.

    A color for each quantization, larger dots for more oversampling, a ring around the chosen one, a
    dashed line at the goal, all of it in the legend. What nobody measured has no panel.
    """
    panels = [(t, a) for t, a in _PANELS if trials and all(getattr(x, a) is not None for x in trials)]
    names = list(dict.fromkeys(t.quantization for t in trials))
    columns = min(2, max(len(panels), 1))
    rows_ = math.ceil(len(panels) / 2)
    width = _LEFT + columns * (_WIDE + _GAP) + 110
    height = max(_TOP + rows_ * (_HIGH + _GAP), _TOP + 20 * (len(names) + 4)) + 20
    parts: list[str] = []
    for number, (title, attribute) in enumerate(panels):
        left = _LEFT + (number % 2) * (_WIDE + _GAP)
        top = _TOP + (number // 2) * (_HIGH + _GAP)
        parts += _panel(trials, names, title, attribute, left, top, goal, chosen, k)
    right = width - 140
    marks = [
        f'<path d="M{right - 8} {{y}}h16" stroke="#c00" stroke-dasharray="5 4"/>|recall asked for',
        f'<circle cx="{right}" cy="{{y}}" r="5" fill="none" stroke="black" stroke-width="2"/>|chosen',
        f'<circle cx="{right}" cy="{{y}}" r="7" fill="#ddd"/>|more oversampling',
    ]
    for number, mark in enumerate(marks):
        y = _TOP + 20 * (len(names) + number) + 10
        shape, _, meaning = mark.partition("|")
        parts.append(shape.format(y=y) + f'<text x="{right + 12}" y="{y + 4}">{meaning}</text>')
    for number, name in enumerate(names):
        parts.append(
            f'<circle cx="{right}" cy="{_TOP + 20 * number}" r="5" fill="{_color(names, name)}"/>'
            f'<text x="{right + 12}" y="{_TOP + 20 * number + 4}">{html_escaped(name)}</text>'
        )
    parts.append(
        f'<text x="{_LEFT}" y="{height - 8}">recall@{k}; {html_escaped(note)}; larger dots: more oversampling'
        "</text>"
    )
    label = f"recall@{k} of each quantization against its size"
    return drawing(width, height, Html("\n".join(parts)), label, alone=True)


def _color(names: Sequence[str], name: str) -> str:
    return color_of(names.index(name))


def _panel(
    trials: Sequence[Trial],
    names: Sequence[str],
    title: str,
    attribute: str,
    left: int,
    top: int,
    goal: float,
    chosen: Trial | None,
    k: int,
) -> list[str]:
    logs = [math.log10(max(getattr(t, attribute), 1e-3)) for t in trials]
    x0, x1 = min(logs) - 0.05, max(logs) + 0.05
    y0 = min(0.9, min(t.recall for t in trials) - 0.02)
    bottom = top + _HIGH

    def x(value: float) -> float:
        return left + (value - x0) / (x1 - x0) * _WIDE

    def y(value: float) -> float:
        return bottom - (value - y0) / (1.005 - y0) * _HIGH

    middle = top + _HIGH // 2
    parts = [
        f'<text x="{left}" y="{top - 8}" font-weight="bold">{html_escaped(title)}</text>',
        f'<path d="M{left} {top}v{_HIGH}h{_WIDE}" fill="none" stroke="#888"/>',
        f'<text x="{left - 42}" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 {left - 42} {middle})">recall@{k}</text>',
        f'<text x="{left + _WIDE}" y="{bottom + 34}" text-anchor="end">{html_escaped(title)}, logarithmic'
        "</text>",
    ]
    step = 0.02 if 1 - y0 < 0.2 else 0.1
    tick = math.ceil(y0 / step) * step
    while tick <= 1.0001:
        parts.append(
            f'<path d="M{left} {y(tick):.1f}h{_WIDE}" stroke="#ddd"/>'
            f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.2f}</text>'
        )
        tick += step
    shown = human_bytes if attribute.endswith("bytes") else _short
    for number in range(4):
        value = x0 + (x1 - x0) * number / 3
        parts.append(
            f'<text x="{x(value):.1f}" y="{bottom + 16}" text-anchor="middle">{shown(10**value)}</text>'
        )
    if goal >= y0:
        parts.append(f'<path d="M{left} {y(goal):.1f}h{_WIDE}" stroke="#c00" stroke-dasharray="5 4"/>')
    for trial, log in zip(trials, logs, strict=True):
        label = f"{trial.quantization} {trial.dims} ×{trial.oversample or 1:g}: {trial.recall:.4f}"
        ring = ' stroke="black" stroke-width="2"' if trial is chosen else ""
        parts.append(
            f'<circle cx="{x(log):.1f}" cy="{y(trial.recall):.1f}" r="{3 + (trial.oversample or 1):.1f}" '
            f'fill="{_color(names, trial.quantization)}" fill-opacity="0.7"{ring}>'
            f"<title>{html_escaped(label)}</title></circle>"
        )
    return parts


def _figure(value: Any, shown: Callable[[Any], str]) -> object:
    """A number as it is shown; what is none (or isn't known) stays as it is."""
    return "–" if value is None else shown(value) if isinstance(value, (int, float)) else value


def _short(number: float) -> str:
    return f"{number:.3g}"
