"""What a score is worth by itself: how seldom a random document reaches it. Pure.

Fused scores only order hits. To say that nothing relevant was found, each leg's score is compared with those
that documents drawn at random got for other texts of the same index. Legs are joined as Fisher joins tests
(Statistical Methods for Research Workers, 1925): the sum of the logarithms, whose own distribution was
counted on the same pairs of texts and documents, since legs are not independent (on SciFact 3.6 times as many
random documents passed at .001 as independence says).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import msgspec

from esembed.plan.legs import BM25
from esembed.query.nodes import Query, TextNode, VectorNode

__all__ = ["TAILS", "Calibration", "calibrated_leg", "count_scores", "read_calibration"]

TAILS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002)
"""The shares of random documents whose scores are kept; beyond the last the curve goes on as straight as its
last part, in the logarithm of the share."""

LEAST = 1e-12
"""No share is said to be smaller."""

MAX_LEGS_TOGETHER = 4
"""Legs of which every combination is counted: fifteen curves, of the 16 KiB that an index has for itself."""

Curve = tuple[float, ...]
"""The score that each share of TAILS reaches or passes, rising."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """How random documents of one index score.

    Attributes:
        documents: how many random documents were scored, for each of
        texts: so many texts.
        legs: leg → the scores, as ``normalizer="bound"`` makes them, that TAILS of them reach.
        together: legs joined by ``+``, sorted → the same for the sum of −ln of their shares.
    """

    documents: int
    texts: int
    legs: dict[str, Curve]
    together: dict[str, Curve] = {}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; :func:`read_calibration` reads them."""
        # Through JSON: lists and not tuples, as they are read back.
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return found

    def share(self, scores: Mapping[str, float | None]) -> float:
        """The share of random documents that are at least as good, between 0 and 1.

        Args:
            scores: calibrated leg → a document's score; None where the leg doesn't find it.
        """
        shares = [
            (leg, 1.0 if score is None else _share(self.legs[leg], score)) for leg, score in scores.items()
        ]
        if len(shares) == 1:
            return shares[0][1]
        total = sum(-math.log(share) for _, share in shares)
        curve = self.together.get("+".join(sorted(leg for leg, _ in shares)))
        return _share(curve, total) if curve is not None else _fisher(total, len(shares))


def calibrated_leg(leg: Query) -> str | None:
    """Whose curve a leg's scores are read by: words' or a vector field's; None where there can be none."""
    if isinstance(leg, TextNode):
        return BM25
    return leg.field if isinstance(leg, VectorNode) else None


def count_scores(pairs: Iterable[Mapping[str, float | None]], *, documents: int, texts: int) -> Calibration:
    """The curves of what random documents scored.

    Args:
        pairs: for each text and document, leg → score as ``normalizer="bound"`` makes it, None where the leg
            didn't find it.
        documents, texts: how many.
    """
    seen = list(pairs)
    names = sorted({name for pair in seen for name in pair})
    legs = {name: curve for name in names if (curve := _curve([pair.get(name) for pair in seen])) is not None}
    together: dict[str, Curve] = {}
    if 1 < len(legs) <= MAX_LEGS_TOGETHER:
        logs = {
            name: [0.0 if (s := pair.get(name)) is None else -math.log(_share(curve, s)) for pair in seen]
            for name, curve in legs.items()
        }
        for size in range(2, len(legs) + 1):
            for chosen in combinations(sorted(legs), size):
                sums = [sum(values) for values in zip(*(logs[name] for name in chosen), strict=True)]
                curve = _curve(sums)
                if curve is not None:
                    together["+".join(chosen)] = curve
    return Calibration(documents=documents, texts=texts, legs=legs, together=together)


def read_calibration(value: Any) -> Calibration | None:
    """The calibration that an index holds, which anybody who may write there can put there; None where it is
    none: curves of another length, that fall, or of no finite numbers."""
    try:
        found = msgspec.convert(value, Calibration)
    except (msgspec.ValidationError, RecursionError, OverflowError):
        return None
    for curve in (*found.legs.values(), *found.together.values()):
        if len(curve) != len(TAILS) or not all(map(math.isfinite, curve)) or list(curve) != sorted(curve):
            return None
    return found if found.legs else None


def _curve(scores: Sequence[float | None]) -> Curve | None:
    """The score that each share of TAILS reaches; None where no document got one."""
    known = sorted((score for score in scores if score is not None), reverse=True)
    if not known:
        return None
    least = known[-1]
    # What a leg didn't find scores less than anything it found.
    return tuple(
        round(known[place], 6) if (place := max(0, math.ceil(tail * len(scores)) - 1)) < len(known) else least
        for tail in TAILS
    )


def _share(curve: Curve, score: float) -> float:
    """The share of random documents that reach a score, on a line through the logarithms of the kept ones."""
    if score < curve[0]:
        return 1.0
    place = bisect.bisect_right(curve, score)  # how many of the kept scores it reaches
    if place == len(curve):
        before = _before_the_last(curve)
        if before is None:
            return TAILS[-1]
        slope = math.log(TAILS[-1] / TAILS[before]) / (curve[-1] - curve[before])
        return max(LEAST, TAILS[-1] * math.exp(slope * (score - curve[-1])))
    low, high = curve[place - 1], curve[place]
    part = (score - low) / (high - low)
    return math.exp((1 - part) * math.log(TAILS[place - 1]) + part * math.log(TAILS[place]))


def _before_the_last(curve: Curve) -> int | None:
    """Where the line through the last kept score begins: two places before, or where scores are smaller."""
    return next((place for place in range(len(curve) - 3, -1, -1) if curve[place] < curve[-1]), None)


def _fisher(total: float, legs: int) -> float:
    """The chance of a sum of −ln as large, of so many independent shares."""
    part, chance = 1.0, 0.0
    for number in range(legs):
        chance += part
        part *= total / (number + 1)
    return max(LEAST, min(1.0, math.exp(-total) * chance))
