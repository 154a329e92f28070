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
from esembed.evaluate.datasets import Qrels, Run
from esembed.fusion import above_floor

__all__ = ["FusionConfig", "LegTable", "untuned"]

Floats = npt.NDArray[np.float64]
FusionKind = Literal["rrf", "floor", "minmax", "zscore", "l2", "bound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionConfig:
    """One way to fuse the legs of a table.

    Attributes:
        kind: ``rrf``, a normalizer over the list at hand, or ``bound``: weights times raw scores.
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


class LegTable:
    """What every leg returned for every judged query, as arrays of shape (queries, candidates).

    Args:
        runs: leg → run.
        qrels: judgments; queries without a relevant document are left out.
        completed: leg → query → document → score, for documents outside of the leg's list (a ``bool``
            request scores those too); used by ``bound`` only.
        limits: leg → the most that its scores can be (1 for vectors); used by ``floor`` only.

    Raises:
        EsembedError: no legs, or no judged queries.
    """

    def __init__(
        self,
        runs: Mapping[str, Run],
        qrels: Qrels,
        *,
        completed: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        self.legs = tuple(runs)
        self._limits = dict(limits or {})
        self.queries = tuple(q for q, g in qrels.items() if any(v > 0 for v in g.values()))
        if not self.legs or not self.queries:
            raise EsembedError("a leg table needs at least one leg and one query with a relevant document")
        # Sorted, so that equal scores stay in the order of their ids.
        self._ids = [
            sorted({document for leg in self.legs for document, _ in runs[leg].get(query, ())})
            for query in self.queries
        ]
        shape = (len(self.legs), len(self.queries), max(1, *(len(ids) for ids in self._ids)))
        self._scores, self._ranks = np.full(shape, np.nan), np.full(shape, np.inf)
        self._known = np.zeros(shape)
        relevant: list[tuple[int, int, float]] = []
        ideals: list[Floats] = []
        for row, query in enumerate(self.queries):
            at = {document: i for i, document in enumerate(self._ids[row])}
            for column, leg in enumerate(self.legs):
                for document, score in (completed or {}).get(leg, {}).get(query, {}).items():
                    if document in at:
                        self._known[column, row, at[document]] = score
                for rank, (document, score) in enumerate(runs[leg].get(query, ()), 1):
                    place = (column, row, at[document])
                    self._scores[place] = self._known[place] = score
                    self._ranks[place] = rank
            grades = qrels[query]
            relevant += [(row, at[d], float(g)) for d, g in grades.items() if g > 0 and d in at]
            ideals.append(np.sort(np.array([g for g in grades.values() if g > 0], dtype=np.float64))[::-1])
        self._ideals = ideals
        self._complete = tuple(leg in (completed or {}) for leg in self.legs)
        self._rows = np.array([row for row, _, _ in relevant], dtype=np.int64)
        self._places = np.array([place for _, place, _ in relevant], dtype=np.int64)
        self._gains = np.array([gain for _, _, gain in relevant], dtype=np.float64)
        self._cache: dict[tuple[FusionConfig, int], Floats] = {}
        self._parts: dict[tuple[str, int, int, int], Floats] = {}

    def fused(self, config: FusionConfig, position: int) -> list[tuple[str, float]]:
        """The fused list of the query at *position*, best first, equal scores ordered by id."""
        values = self._values(config)[position]
        order = [int(i) for i in np.argsort(-values, kind="stable") if np.isfinite(values[i])]
        return [(self._ids[position][i], float(values[i])) for i in order]

    def run(self, config: FusionConfig) -> dict[str, list[tuple[str, float]]]:
        """The fused run of all queries."""
        return {query: self.fused(config, i) for i, query in enumerate(self.queries)}

    def ndcg(self, config: FusionConfig, depth: int = 10) -> Floats:
        """nDCG at *depth* for each query, shape (queries,), in the order of ``queries``."""
        if (config, depth) in self._cache:
            return self._cache[config, depth]
        discounts = 1 / np.log2(np.arange(2, depth + 2))
        best = np.array([ideal[:depth] @ discounts[: len(ideal[:depth])] for ideal in self._ideals])
        result = np.zeros(len(self.queries))
        if len(self._rows):
            # Only the ranks of relevant documents are needed: how many stand before each.
            values = self._values(config)
            own = values[self._rows, self._places]
            lists = values[self._rows]
            before = np.sum(lists > own[:, None], axis=1)
            same = lists == own[:, None]
            before += np.sum(same & (np.arange(lists.shape[1]) < self._places[:, None]), axis=1)
            counts = np.isfinite(own) & (before < depth)
            np.add.at(result, self._rows[counts], self._gains[counts] * discounts[before[counts]])
        result /= best
        self._cache[config, depth] = result
        return result

    def spreads(self) -> list[float]:
        """Each leg's median difference between its best and its tenth score, never 0."""
        found: list[float] = []
        for column in range(len(self.legs)):
            gaps: list[float] = []
            for row in self._scores[column]:
                listed = np.sort(row[~np.isnan(row)])[::-1]
                if len(listed) > 1:
                    gaps.append(float(listed[0] - listed[min(9, len(listed) - 1)]))
            found.append(max(float(np.median(gaps)) if gaps else 1.0, 1e-6))
        return found

    def _values(self, config: FusionConfig) -> Floats:
        """The fused score of each candidate, shape (queries, candidates); −∞ for those that no used leg
        returned in its window."""
        if len(config.weights) != len(self.legs):
            raise EsembedError(f"{len(self.legs)} legs need as many weights, not {len(config.weights)}")
        total = np.zeros(self._ranks.shape[1:])
        seen = np.zeros(self._ranks.shape[1:], dtype=bool)
        for column in config.used:
            seen |= self._ranks[column] <= config.window
            total += config.weights[column] * self._part(config, column)
        return np.where(seen, total, -np.inf)

    def _part(self, config: FusionConfig, column: int) -> Floats:
        """What one leg adds at weight 1, kept, since tuning asks for the same ones again."""
        key = (config.kind, config.rank_constant if config.kind == "rrf" else 0, config.window, column)
        if key not in self._parts:
            ranks, scores = self._ranks[column], self._scores[column]
            inside = ranks <= config.window
            if config.kind == "bound":
                # A knn clause gives nothing beyond its k; a text clause scores whatever is listed.
                known = self._known[column]
                part = known if self._complete[column] else np.where(inside, known, 0.0)
            elif config.kind == "rrf":
                part = np.where(inside, 1.0 / (config.rank_constant + ranks), 0.0)
            else:
                listed = np.where(inside, scores, np.nan)
                limit = self._limits.get(self.legs[column])
                part = np.where(inside, _normalized(config.kind, listed, limit, config.window), 0.0)
            self._parts[key] = part
        return self._parts[key]


def _normalized(kind: FusionKind, scores: Floats, limit: float | None, window: int) -> Floats:
    """Each row over its own list; not a number where a document isn't in it."""
    scaled = np.full(scores.shape, np.nan)
    for row, listed in enumerate(scores):
        inside = ~np.isnan(listed)
        if not inside.any():
            continue
        values = listed[inside]
        if kind == "floor":
            scaled[row, inside] = above_floor(values.tolist(), limit, window)
        elif kind == "minmax":
            low, high = values.min(), values.max()
            scaled[row] = 1.0 if high == low else (listed - low) / (high - low)
        elif kind == "l2":
            length = float(np.sqrt(np.sum(values**2)))
            scaled[row] = 0.0 if length == 0 else listed / length
        else:
            deviation = float(values.std())
            scaled[row] = 0.0 if deviation == 0 else (listed - values.mean()) / deviation
    return scaled


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
