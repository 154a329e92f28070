"""Retrieval measures by ir-measures (trec_eval underneath), and latency.

``ndcg@10``, ``recall@100``, ``mrr`` (``rr``), ``map`` (``ap``), ``success@1``, ``precision@5`` and every
name of https://ir-measur.es itself (``nDCG@10``, ``RBP(p=0.8)``).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from esembed.errors import EsembedError
from esembed.evaluate.datasets import Qrels, Run

__all__ = ["DEFAULT_MEASURES", "Latency", "measure", "measure_name", "summary"]

DEFAULT_MEASURES = ("ndcg@10", "recall@100", "mrr@10", "map", "success@1", "success@5")
"""The measures that are computed where none are named."""

_ALIASES = {
    "ndcg": "nDCG",
    "recall": "R",
    "r": "R",
    "mrr": "RR",
    "rr": "RR",
    "map": "AP",
    "ap": "AP",
    "success": "Success",
    "precision": "P",
    "p": "P",
}


def _ir_measures() -> Any:
    try:
        return importlib.import_module("ir_measures")
    except ModuleNotFoundError as error:
        raise EsembedError("evaluation needs the extra: pip install 'esembed[eval]'") from error


def measure_name(name: str) -> str:
    """ir-measures' name of *name*: ``ndcg@10`` → ``nDCG@10``; one of its own stays as it is."""
    match = re.fullmatch(r"([A-Za-z]+)((?:\([^)]*\))?(?:@\d+)?)", name.strip())
    if match is None:
        return name
    return _ALIASES.get(match[1].lower(), match[1]) + match[2]


def _parse(names: Iterable[str]) -> dict[str, Any]:
    library = _ir_measures()
    parsed: dict[str, Any] = {}
    for name in names:
        try:
            parsed[name] = library.parse_measure(measure_name(name))
        except (ValueError, NameError, SyntaxError) as error:
            raise EsembedError(
                f"no measure {name!r}; known are {', '.join(DEFAULT_MEASURES)} and the names of ir-measures"
            ) from error
    return parsed


def measure(
    qrels: Qrels, run: Run, measures: Sequence[str] = DEFAULT_MEASURES
) -> dict[str, dict[str, float]]:
    """Every measure for every judged query.

    A judged query that the run doesn't answer scores 0; answers to unjudged queries are not looked at.
    The order of the run decides, also between equal scores.

    Returns:
        Measure (as named by the caller) → query id → value, each over the same queries, those of
        *qrels* with a relevant document, in its order.

    Raises:
        EsembedError: an unknown measure, or ir-measures is not installed.
    """
    parsed = _parse(measures)
    judged = {q: dict(g) for q, g in qrels.items() if any(grade > 0 for grade in g.values())}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(judged, 0.0) for name in parsed}
    # trec_eval orders by score and breaks ties by id: hand it ranks, so that the engine's order counts.
    ranked = {
        query: {document: float(len(hits) - rank) for rank, (document, _) in enumerate(hits)}
        for query, hits in run.items()
        if query in judged and hits
    }
    if not judged or not ranked:
        return values
    names = {parsed[name]: name for name in reversed(parsed)}
    for value in _ir_measures().iter_calc(list(names), judged, ranked):
        values[names[value.measure]][value.query_id] = float(value.value)
    for name, same in parsed.items():
        values[name] = values[names[same]]
    return values


def summary(per_query: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measure over its queries (0 queries: not a number)."""
    return {
        name: float(np.mean(list(values.values()))) if values else float("nan")
        for name, values in per_query.items()
    }


@dataclass(frozen=True, slots=True)
class Latency:
    """How long queries took, in milliseconds, seen by the caller (encoding and network included).

    Attributes:
        count: how many were measured.
        mean_ms, p50_ms, p95_ms, p99_ms, max_ms: of these.
        engine_p50_ms: the median of what the engine itself reports, or None.
    """

    count: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    engine_p50_ms: float | None = None

    @classmethod
    def of(cls, milliseconds: Sequence[float], engine: Sequence[float] = ()) -> Latency | None:
        """From single measurements, or None when there are none."""
        if not milliseconds:
            return None
        p50, p95, p99 = np.percentile(milliseconds, [50, 95, 99])
        return cls(
            count=len(milliseconds),
            mean_ms=float(np.mean(milliseconds)),
            p50_ms=float(p50),
            p95_ms=float(p95),
            p99_ms=float(p99),
            max_ms=float(np.max(milliseconds)),
            engine_p50_ms=float(np.median(engine)) if engine else None,
        )
