"""Advice for people: a plot of recall against RAM as SVG, without a plotting library."""

from __future__ import annotations

import math
from html import escape

from esembed.advise.advise import Advice

__all__ = ["human_bytes", "rows", "svg"]

COLUMNS = (
    "quantization",
    "dims",
    "oversample",
    "recall",
    "emulated",
    "held back",
    "RAM",
    "disk",
    "latency ms",
    "index s",
)
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#7b5ea7")


def human_bytes(number: float) -> str:
    """``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} TiB"


def rows(advice: Advice) -> list[tuple[str, ...]]:
    """The table's cells, in the order of :data:`COLUMNS`; the chosen one is starred."""
    out: list[tuple[str, ...]] = []
    for t in advice.trials:
        star = " *" if t is advice.chosen else ""
        out.append(
            (
                t.quantization + star,
                str(t.dims),
                "-" if t.oversample is None else f"{t.oversample:g}",
                ("-" if t.measured is None else f"{t.measured:.4f}") if t.gap is None else "can't",
                f"{t.emulated:.4f}",
                "-" if t.held_back is None else f"{t.held_back:.4f}",
                human_bytes(t.ram_bytes),
                human_bytes(t.disk_bytes),
                "-" if t.latency_ms is None else f"{t.latency_ms:.1f}",
                "-" if t.index_seconds is None else f"{t.index_seconds:.1f}",
            )
        )
    return out


def svg(advice: Advice) -> str:
    """Recall (up) against RAM (right, logarithmic), one colour for each quantization, as SVG text."""
    width, height, left, right, top, bottom = 760, 440, 70, 170, 30, 60
    trials = [t for t in advice.trials if t.gap is None]
    if not trials:
        return f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"/>'
    logs = [math.log10(max(t.ram_bytes, 1)) for t in trials]
    x0, x1 = min(logs) - 0.1, max(logs) + 0.1
    y0 = min(0.9, min(t.recall for t in trials) - 0.02)
    names = list(dict.fromkeys(t.quantization for t in trials))

    def x(value: float) -> float:
        return left + (value - x0) / (x1 - x0) * (width - left - right)

    def y(value: float) -> float:
        return height - bottom - (value - y0) / (1.0 - y0) * (height - top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    step = 0.02 if 1 - y0 < 0.2 else 0.1
    tick = math.ceil(y0 / step) * step
    while tick <= 1.0001:
        parts.append(
            f'<path d="M{left} {y(tick):.1f}H{width - right}" stroke="#ddd"/>'
            f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.2f}</text>'
        )
        tick += step
    for number in range(4):
        value = x0 + (x1 - x0) * number / 3
        parts.append(
            f'<text x="{x(value):.1f}" y="{height - bottom + 18}" text-anchor="middle">'
            f"{human_bytes(10**value)}</text>"
        )
    goal = advice.target.min_recall
    if goal >= y0:
        parts.append(
            f'<path d="M{left} {y(goal):.1f}H{width - right}" stroke="#c00" stroke-dasharray="5 4"/>'
        )
    for trial, log in zip(trials, logs, strict=True):
        colour = _COLOURS[names.index(trial.quantization) % len(_COLOURS)]
        label = escape(f"{trial.quantization} {trial.dims} ×{trial.oversample or 1:g}: {trial.recall:.4f}")
        ring = ' stroke="black" stroke-width="2"' if trial is advice.chosen else ""
        parts.append(
            f'<circle cx="{x(log):.1f}" cy="{y(trial.recall):.1f}" r="{3 + (trial.oversample or 1):.1f}" '
            f'fill="{colour}" fill-opacity="0.75"{ring}><title>{label}</title></circle>'
        )
    for number, name in enumerate(names):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(
            f'<circle cx="{width - right + 18}" cy="{top + 20 * number}" r="5" fill="{colour}"/>'
            f'<text x="{width - right + 30}" y="{top + 20 * number + 4}">{escape(name)}</text>'
        )
    documents = f"{advice.target.documents:,}"
    parts.append(
        f'<text x="{left}" y="{height - 14}">RAM for {documents} documents ({escape(advice.engine)}, recall@'
        f"{advice.target.k} on a sample of {advice.sample:,}; larger dots: more oversampling)</text></svg>"
    )
    return "\n".join(parts)
