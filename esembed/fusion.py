"""Rank and score fusion, pure: what our own path computes, and the oracle for the engines' own.

Reciprocal rank fusion is Cormack, Clarke and Büttcher (SIGIR 2009); the score fusions are compared in
Bruch, Gai and Ingber, "An analysis of fusion functions for hybrid retrieval" (2023). Sums are exact
(``math.fsum``), so that the order of the legs can't break a tie; equal scores are ordered by id.

Normalizers, over one leg's list as the engine returned it (at most its window):

=========  ==================================================================================
minmax     (s − min) / (max − min); 1 for every hit when all scores are equal
l2         s / √Σs²
zscore     (s − mean) / standard deviation (of the population); 0 when all are equal
none       s
floor      how far above the list's floor, see :func:`above_floor`
bound      s / bound for text and sparse legs; the cosine itself for dense ones
=========  ==================================================================================

A document that a leg didn't return gets nothing from that leg.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import msgspec

from esembed.types import LegContribution

Normalizer: TypeAlias = Literal["minmax", "l2", "zscore", "none", "bound", "floor"]

__all__ = [
    "Bound",
    "Fused",
    "FusionNode",
    "LegList",
    "LegRef",
    "above_floor",
    "collapse",
    "fuse",
    "normalize",
]


class LegList(msgspec.Struct, frozen=True):
    """What one leg returned, best first.

    Attributes:
        ids: document ids, distinct.
        scores: raw scores, as many.
    """

    ids: Sequence[str]
    scores: Sequence[float]


@dataclass(frozen=True, slots=True)
class Bound:
    """How a leg's score becomes one that needs no list to be normalized: (factor · s + shift) / divisor."""

    divisor: float = 1.0
    factor: float = 1.0
    shift: float = 0.0

    def __call__(self, score: float) -> float:
        return (self.factor * score + self.shift) / self.divisor


class LegRef(msgspec.Struct, frozen=True):
    """A leaf of a fusion: the list at *position* among the lists handed to :func:`fuse`.

    Attributes:
        name: the leg's name.
        position: where its list is.
        whole: all of the list takes part, not only the window (it holds every candidate's score).
        limit: the most that the leg's scores can reach, for ``normalizer="floor"``; None where there is no
            such number.
    """

    name: str
    position: int
    whole: bool = False
    limit: float | None = None


class FusionNode(msgspec.Struct, frozen=True, kw_only=True):
    """A fusion as data: how to combine which legs.

    Attributes:
        name: its own name, when it is a leg of another fusion.
        kind: ``rrf`` or ``linear``.
        children: leaves and fusions.
        weights: one for each child.
        rank_constant: of rrf.
        normalizer: of linear.
        window: how many of each child's hits take part, and of the fused list are kept.
    """

    name: str = ""
    kind: Literal["rrf", "linear"]
    children: tuple[Child, ...]
    weights: tuple[float, ...]
    rank_constant: int = 60
    normalizer: Normalizer = "none"
    window: int = 100

    def leaves(self) -> list[LegRef]:
        """All leaves below, in order."""
        found: list[LegRef] = []
        for child in self.children:
            found.extend([child] if isinstance(child, LegRef) else child.leaves())
        return found


Child: TypeAlias = "LegRef | FusionNode"


class Fused(msgspec.Struct, frozen=True):
    """One fused hit: its id, its score, and each leg's contribution to that."""

    id: str
    score: float
    contributions: tuple[LegContribution, ...] = ()


def normalize(
    scores: Sequence[float], normalizer: Normalizer, limit: float | None = None, window: int | None = None
) -> list[float]:
    """One leg's scores on the normalizer's scale (``bound`` is the leg's own business: unchanged).

    Args:
        limit, window: for ``floor``, see :func:`above_floor`.
    """
    if not scores or normalizer in ("none", "bound"):
        return list(scores)
    if normalizer == "floor":
        return above_floor(scores, limit, window)
    if normalizer == "minmax":
        low, high = min(scores), max(scores)
        return [1.0 if high == low else (s - low) / (high - low) for s in scores]
    if normalizer == "l2":
        length = math.sqrt(math.fsum(s * s for s in scores))
        return [0.0 if length == 0 else s / length for s in scores]
    if min(scores) == max(scores):
        return [0.0] * len(scores)  # the mean of equal numbers need not be that number, to the last bit
    mean = math.fsum(scores) / len(scores)
    deviation = math.sqrt(math.fsum((s - mean) ** 2 for s in scores) / len(scores))
    return [0.0 if deviation == 0 else (s - mean) / deviation for s in scores]


CLEAR_HITS = 10
"""Words that tell documents apart put fewer than this many clearly above the rest of a full list."""


def above_floor(
    scores: Sequence[float], limit: float | None = None, window: int | None = None
) -> list[float]:
    """One leg's scores above what the documents are worth that its list doesn't hold, between 0 and 1.

    Where the scores have a *limit* (vectors): (s − least) / (limit − least).

    Where they have none (words), a list shorter than the *window* holds all that the leg finds. What it
    doesn't hold scores 0, so that is the floor: s / best. A full list goes on below its end, so its last
    score is the floor: (s − last) / (best − last), times (best − tenth) / (best − last). The second factor is
    small where the words of a query stand in many documents alike. Without it the best of any list is worth
    1, and questions whose words mislead cost .065 nDCG@10 on CoSQA at equal weights; with it, applied to
    full lists only, .018, and codes that a document or a dozen hold are found as before (docs/quality.md).

    Args:
        scores: of at least one hit, in any order.
        limit: the most that a score can be; None where there is no such number.
        window: how long a full list is; None: the list is not full.
    """
    low, high = min(scores), max(scores)
    if limit is not None:
        if len(scores) > 1:
            high = max(high, limit)
        return [1.0 if high == low else (s - low) / (high - low) for s in scores]
    if window is None or len(scores) < window or len(scores) == 1:
        low = min(low, 0.0)
        return [1.0 if high == low else (s - low) / (high - low) for s in scores]
    if high == low:
        return [0.0] * len(scores)
    tenth = sorted(scores, reverse=True)[CLEAR_HITS - 1] if len(scores) >= CLEAR_HITS else low
    factor = (high - tenth) / (high - low) ** 2
    return [(s - low) * factor for s in scores]


def fuse(
    node: FusionNode,
    lists: Sequence[LegList | None],
    *,
    bounds: Mapping[str, Bound] | None = None,
    explain: bool = True,
    whole: bool = False,
) -> list[Fused]:
    """The fused list, best first, at most ``node.window`` long; equal scores are ordered by id.

    Args:
        node: what to do.
        lists: the legs' lists by position; None for a leg that did not answer: it adds nothing.
        bounds: leg name → its bound, for ``normalizer="bound"``.
        explain: fill in the contributions; those of a nested fusion name the inner one as one leg.
        whole: keep all that the legs found, which may be as many windows as there are legs.
    """
    bounds = bounds or {}
    parts: dict[str, list[float]] = {}
    taking: list[tuple[Child, LegList, Sequence[float]]] = []
    for child, weight in zip(node.children, node.weights, strict=True):
        ranked = _ranked(child, lists, bounds, node.window)
        if ranked is None:
            continue
        values = _values(node, child, ranked, bounds)
        if weight != 1.0:
            values = [weight * value for value in values]
        taking.append((child, ranked, values))
        for doc, part in zip(ranked.ids, values, strict=True):
            known = parts.get(doc)
            if known is None:
                parts[doc] = [part]
            else:
                known.append(part)
    # Plain tuples are sorted, and objects made of what is kept alone: this runs in every hybrid search.
    order = [(-math.fsum(part) if len(part) > 1 else -part[0], doc) for doc, part in parts.items()]
    order.sort()
    if not whole:
        del order[node.window :]
    if not explain:
        return [Fused(doc, -score) for score, doc in order]
    names = [child.name for child in node.children]
    contributions: dict[str, dict[str, LegContribution]] = {doc: {} for _, doc in order}
    for child, ranked, values in taking:
        for rank, (doc, score, part) in enumerate(zip(ranked.ids, ranked.scores, values, strict=True), 1):
            if doc in contributions:
                contributions[doc][child.name] = LegContribution(child.name, rank, score, part)
    return [
        Fused(
            doc,
            -score,
            tuple(contributions[doc].get(name) or LegContribution(name, None, None, 0.0) for name in names),
        )
        for score, doc in order
    ]


def _values(node: FusionNode, child: Child, ranked: LegList, bounds: Mapping[str, Bound]) -> Sequence[float]:
    """What each place of a leg's list is worth, before its weight."""
    if node.kind == "rrf":
        return _reciprocals(node.rank_constant, len(ranked.ids))
    if node.normalizer == "bound":
        bound = bounds.get(child.name, Bound())
        return [bound(score) for score in ranked.scores]
    limit = child.limit if isinstance(child, LegRef) else None
    values = normalize(ranked.scores, node.normalizer, limit, node.window)
    if node.normalizer == "floor" and len(node.children) == 1 and (best := max(values, default=0.0)) > 0:
        # How far a leg's best can be believed weighs it against other legs. There are none here: what is
        # added to a fusion of one leg counts as shares of its best hit.
        return [value / best for value in values]
    return values


@lru_cache(maxsize=64)
def _reciprocals(constant: int, count: int) -> tuple[float, ...]:
    return tuple(1.0 / (constant + rank) for rank in range(1, count + 1))


def _ranked(
    child: Child, lists: Sequence[LegList | None], bounds: Mapping[str, Bound], window: int
) -> LegList | None:
    if isinstance(child, LegRef):
        found = lists[child.position]
        if found is None or child.whole:
            return found
        return found if len(found.ids) <= window else LegList(found.ids[:window], found.scores[:window])
    if all(lists[leaf.position] is None for leaf in child.leaves()):
        return None
    inner = fuse(child, lists, bounds=bounds, explain=False)[:window]
    return LegList([hit.id for hit in inner], [hit.score for hit in inner])


def collapse(hits: Sequence[Fused], groups: Mapping[str, object]) -> list[Fused]:
    """The best hit of each group; documents without a value form one group, as in the engines.

    Args:
        hits: best first.
        groups: document id → its group's value, or None.
    """
    seen: set[object] = set()
    kept = []
    for hit in hits:
        group = groups.get(hit.id)
        if group not in seen:
            seen.add(group)
            kept.append(hit)
    return kept
