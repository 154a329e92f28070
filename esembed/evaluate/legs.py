"""Leg lists as arrays, and every fusion of them, fast enough to try hundreds on every query.

:mod:`esembed.fusion` says what a fusion is, one query at a time; this is the same arithmetic over
arrays (a test holds them equal), with nDCG computed beside it (held equal to ir-measures).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from esembed.errors import EsembedError
from esembed.evaluate.dataset import Qrels, Run

__all__ = ["FusionConfig", "LegTable", "untuned"]

Floats = npt.NDArray[np.float64]
FusionKind = Literal["rrf", "minmax", "zscore", "l2", "bound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionConfig:
    """One way to fuse the legs of a table.

    Attributes:
        kind: ``rrf``, a normaliser over the list at hand, or ``bound``: weights times raw scores.
        weights: one for each leg, ≥ 0; a leg with 0 is left out, and what is left may be a single leg.
        rank_constant: of rrf.
        window: how many of each leg's hits take part.
    """

    kind: FusionKind
    weights: tuple[float, ...]
    rank_constant: int = 60
    window: int = 100

    @property
    def used(self) -> tuple[int, ...]:
        """The positions of the legs that count."""
        return tuple(i for i, weight in enumerate(self.weights) if weight > 0)

    def label(self, legs: Sequence[str]) -> str:
        """For reports: ``rrf(bm25 1, dense 0.5; k=60)``."""
        used = self.used
        if len(used) == 1:
            return legs[used[0]]
        inner = ", ".join(f"{legs[i]} {self.weights[i]:.3g}" for i in used)
        return f"{self.kind}({inner}{f'; k={self.rank_constant}' if self.kind == 'rrf' else ''})"


@dataclass(frozen=True, slots=True, eq=False)
class _Query:
    ids: tuple[str, ...]
    scores: Floats  # (candidates, legs), not a number where a leg did not return it
    known: Floats  # the same, completed where a leg's score is known outside of its list
    ranks: Floats  # (candidates, legs), from 1, infinite where not returned
    gains: Floats  # (candidates,)
    ideal: Floats  # sorted gains of the judgements


class LegTable:
    """What every leg returned for every judged query.

    Args:
        runs: leg → run.
        qrels: judgements; queries without a relevant document are left out.
        completed: leg → query → document → score, for documents outside of the leg's list (a ``bool``
            request scores those too); used by ``bound`` only.

    Raises:
        EsembedError: no legs, or no judged queries.
    """

    def __init__(
        self,
        runs: Mapping[str, Run],
        qrels: Qrels,
        *,
        completed: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
    ) -> None:
        self.legs = tuple(runs)
        self.queries = tuple(q for q, g in qrels.items() if any(v > 0 for v in g.values()))
        if not self.legs or not self.queries:
            raise EsembedError("a leg table needs at least one leg and one query with a relevant document")
        self._rows = [self._row(q, runs, qrels[q], completed or {}) for q in self.queries]
        self._cache: dict[FusionConfig, Floats] = {}

    def _row(
        self,
        query: str,
        runs: Mapping[str, Run],
        grades: Mapping[str, int],
        completed: Mapping[str, Mapping[str, Mapping[str, float]]],
    ) -> _Query:
        # Sorted, so that a stable sort by score leaves equal scores in the order of their ids.
        seen = sorted({document for leg in self.legs for document, _ in runs[leg].get(query, ())})
        at = {document: i for i, document in enumerate(seen)}
        shape = (len(at), len(self.legs))
        scores, ranks = np.full(shape, np.nan), np.full(shape, np.inf)
        for column, leg in enumerate(self.legs):
            for rank, (document, score) in enumerate(runs[leg].get(query, ()), 1):
                scores[at[document], column] = score
                ranks[at[document], column] = rank
        known = scores.copy()
        for column, leg in enumerate(self.legs):
            for document, score in completed.get(leg, {}).get(query, {}).items():
                if document in at and np.isnan(known[at[document], column]):
                    known[at[document], column] = score
        gains = np.array([max(0, grades.get(document, 0)) for document in at], dtype=np.float64)
        ideal = np.sort(np.array([max(0, g) for g in grades.values()], dtype=np.float64))[::-1]
        return _Query(tuple(at), scores, known, ranks, gains, ideal)

    def fused(self, config: FusionConfig, position: int) -> list[tuple[str, float]]:
        """The fused list of the query at *position*, best first, equal scores ordered by id."""
        row = self._rows[position]
        values = self._values(config, row)
        keep = [i for i in range(len(row.ids)) if np.isfinite(values[i])]
        order = sorted(keep, key=lambda i: (-values[i], row.ids[i]))
        return [(row.ids[i], float(values[i])) for i in order]

    def run(self, config: FusionConfig) -> dict[str, list[tuple[str, float]]]:
        """The fused run of all queries."""
        return {query: self.fused(config, i) for i, query in enumerate(self.queries)}

    def ndcg(self, config: FusionConfig, depth: int = 10) -> Floats:
        """nDCG at *depth* for each query, shape (queries,), in the order of ``queries``."""
        if depth == 10 and config in self._cache:
            return self._cache[config]
        result = np.zeros(len(self._rows))
        discounts = 1 / np.log2(np.arange(2, depth + 2))
        for i, row in enumerate(self._rows):
            if not len(row.ids):
                continue
            values = self._values(config, row)
            order = np.argsort(-values, kind="stable")[:depth]
            gains = row.gains[order] * np.isfinite(values[order])
            best = row.ideal[:depth] @ discounts[: len(row.ideal[:depth])]
            result[i] = (gains @ discounts[: len(gains)]) / best
        if depth == 10:
            self._cache[config] = result
        return result

    def _values(self, config: FusionConfig, row: _Query) -> Floats:
        """The fused score of each candidate; −∞ for those that no used leg returned in its window."""
        if len(config.weights) != len(self.legs):
            raise EsembedError(f"{len(self.legs)} legs need as many weights, not {len(config.weights)}")
        total = np.zeros(len(row.ids))
        seen = np.zeros(len(row.ids), dtype=bool)
        for column in config.used:
            inside = row.ranks[:, column] <= config.window
            seen |= inside
            weight = config.weights[column]
            if config.kind == "rrf":
                total += np.where(inside, weight / (config.rank_constant + row.ranks[:, column]), 0.0)
                continue
            if config.kind == "bound":
                total += weight * np.nan_to_num(row.known[:, column], nan=0.0)
                continue
            if not inside.any():
                continue
            scores = row.scores[:, column]
            total += np.where(inside, weight * _normalised(config.kind, scores, inside), 0.0)
        return np.where(seen, total, -np.inf)


def _normalised(kind: FusionKind, scores: Floats, inside: npt.NDArray[np.bool_]) -> Floats:
    listed = scores[inside]
    if kind == "minmax":
        low, high = listed.min(), listed.max()
        scaled: Floats = np.ones_like(scores) if high == low else (scores - low) / (high - low)
        return scaled
    if kind == "l2":
        length = float(np.sqrt(np.sum(listed**2)))
        return np.zeros_like(scores) if length == 0 else scores / length
    deviation = float(listed.std())
    return np.zeros_like(scores) if deviation == 0 else (scores - listed.mean()) / deviation


def untuned(legs: Sequence[str]) -> dict[str, FusionConfig]:
    """What one gets without tuning: each leg alone, RRF and min-max with equal weights."""
    count = len(legs)
    found = {
        leg: FusionConfig(kind="bound", weights=tuple(float(i == j) for j in range(count)))
        for i, leg in enumerate(legs)
    }
    if count > 1:
        ones = FusionConfig(kind="rrf", weights=(1.0,) * count)
        found["rrf"] = ones
        found["minmax"] = replace(ones, kind="minmax")
    return found
