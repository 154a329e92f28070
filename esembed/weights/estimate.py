"""How much each leg of the default query should weigh, without judgments.

Known items are pieces of the index's own documents, each to find its document: one that was cut out of it (a
title or first sentence), so that words don't match by themselves, and one that still stands in it (scattered
words), which shows what the other can't: an encoder that doesn't know the language guesses the topic of a
piece, but can't find its words.

What a leg finds of the pieces that were cut out says how much it weighs: as the cube of it
(:data:`QUALITY_POWER`), so that an encoder that finds clearly less than words do hardly counts. Few items
stay near the prior. Then words are protected: their weight is raised until the fusion that is stored in the
end, ``q.linear(…, normalizer="floor")``, finds scattered words as words alone do. docs/quality.md has the
measurements.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from esembed.errors import EsembedError
from esembed.fusion import CLEAR_HITS
from esembed.option_checks import SEED, check_numbers
from esembed.plan.default_query import TEXT_LEAST, prior_weights
from esembed.query import Query
from esembed.query.nodes import MAX_WINDOW
from esembed.weights.known_items import HELD_OUT, Kind, known_items
from esembed.weights.scorers import Matrix, SampledDocument, Scorer

__all__ = ["LegWeight", "WeightsOptions", "WeightsReport", "estimate_weights", "share_text"]

Floats = npt.NDArray[np.float64]

MINIMUM_ITEMS = 100
"""Known items below which nothing is concluded."""

PRIOR_ITEMS = 40
"""How many known items the prior is worth. Between 0 and 60 the worst collection differs by .006, and only
with GloVe, which is best without a prior (docs/quality.md)."""

QUALITY_POWER = 3.0
"""Legs weigh as this power of what they find of the pieces that were cut out. Taking the weights whose fusion
finds most of the known items, as before, weighs a weak encoder too high: pieces share words with their
document, questions share fewer. On the worst collection GloVe was .029 below BM25 that way and a static model
.069, now .003 and .040. A power of 2 costs MiniLM .008 on CoSQA, where vectors are far better than words
(docs/quality.md)."""

WORDS_LOSS = 0.025
"""How much less of the scattered words, in nDCG@10, the fusion may find than words alone. Without it MiniLM
of 64 dims falls .044 below BM25 on NPL and codes are lost; with .02 MiniLM loses .005 on CoSQA, with .03 .003
on NPL (docs/quality.md)."""

TEXT_STEP = 0.025
"""The steps in which words gain weight until they are found."""

BETTER, FAR_BETTER = 0.05, 0.15
"""How much more nDCG@10 of the pieces that were cut out is called better, and far better. Between samples of
one index a leg's differs by about .03."""

TIE = 1e-6
"""Scores that differ by less are equal."""

BATCH_ITEMS = 32
"""Known items encoded together: what an estimate runs over its seconds by, at most."""

WINDOW = 100
"""How many hits of each leg are fused, as the stored query does it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsOptions:
    """How much is measured.

    Attributes:
        documents: how many documents are drawn from the index, as the haystack.
        queries: how many of them give known items, one of each kind; None: as many as encode in a small
            part of what loading the index took, between 84 and 250.
        kinds: of known items.
        max_seconds: after these no further known items are asked.
        seed: of drawing.
    """

    documents: int = 1000
    queries: int | None = None
    kinds: tuple[Kind, ...] = ("first", "words")
    max_seconds: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(
            self,
            whole={"documents": (1, MAX_WINDOW), "queries": (1, MAX_WINDOW), "seed": SEED},
            real={"max_seconds": (0, None)},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LegWeight:
    """What was found out about one leg.

    Attributes:
        name: the leg.
        quality: kind of known item → nDCG@10 of this leg alone.
        weight: its weight in the default query; the weights sum to 1, and 0 leaves the leg out.
    """

    name: str
    quality: Mapping[str, float]
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsReport:
    """The estimate and what it rests on.

    Attributes:
        legs: each leg.
        documents: how many documents the index holds.
        sampled: how many of them were drawn.
        queries: how many known items were asked.
        gain: mean nDCG@10 of these weights over that of the prior's, on the known items.
        options: how much was asked for.
        notes: what could not be done, one line each.
        query: the default query that follows, or None when nothing was learned.
    """

    legs: tuple[LegWeight, ...]
    documents: int
    sampled: int
    queries: int
    gain: float = 0.0
    options: WeightsOptions = field(default_factory=WeightsOptions)
    notes: tuple[str, ...] = ()
    query: Query | None = None

    @property
    def learned(self) -> bool:
        """Whether there was enough to learn from."""
        return any(leg.quality for leg in self.legs)

    def __iter__(self) -> Iterator[Any]:
        """The report and the query, as a pair was returned before; deprecated."""
        warnings.warn("learn_weights returns one report; use its .query", DeprecationWarning, stacklevel=2)
        yield self
        yield self.query

    @property
    def conclusion(self) -> str:
        """What follows, in one sentence: which leg finds the documents better, and what each counts."""
        if not self.learned or (self.query is None and self.notes):
            why = self.notes[0] if self.notes else "there was not enough to learn from"
            return f"The default query stays as it is: {why}"
        ranked = sorted(self.legs, key=lambda leg: -_finds(leg))
        best, rest = ranked[0], ranked[1:]
        if _finds(best) == 0:
            return (
                "No leg finds the pieces of your documents, so the weights are those that a plan begins with"
            )
        figures = " against ".join(f"{_finds(leg):.2f}" for leg in ranked[:2])
        lead = _finds(best) - _finds(rest[0])
        if lead < BETTER:
            found = (
                f"{best.name} and {rest[0].name} find your documents about equally well (nDCG@10 {figures})"
            )
        else:
            how = "far better" if lead >= FAR_BETTER else "better"
            found = f"{best.name} finds your documents {how} than {rest[0].name} (nDCG@10 {figures})"
        if len(self.legs) > 2:
            return f"{found}; {', '.join(f'{leg.name} counts {share_text(leg.weight)}' for leg in ranked)}"
        least = min(self.legs, key=lambda leg: leg.weight)
        # The better leg may count less: words are raised until what they find alone is found.
        yet = "; yet " if least is best and lead >= BETTER else "; "
        why = ", so that words which stand in a document are found" if yet == "; yet " else ""
        return f"{found}{yet}{least.name} counts {share_text(least.weight)}{why}"

    @property
    def remarks(self) -> list[str]:
        """The notes that the conclusion doesn't say already."""
        said = self.conclusion
        return [note for note in self.notes if note not in said]

    def leg(self, name: str) -> LegWeight:
        """The leg of that name. Raises EsembedError."""
        for leg in self.legs:
            if leg.name == name:
                return leg
        raise EsembedError(f"no leg {name!r}; there are {', '.join(leg.name for leg in self.legs)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, rounded to four digits."""
        return {
            "conclusion": self.conclusion,
            "documents": self.documents,
            "sampled": self.sampled,
            "queries": self.queries,
            "gain": round(self.gain, 4),
            "legs": {
                leg.name: {
                    "quality": {kind: round(value, 4) for kind, value in leg.quality.items()},
                    "weight": round(leg.weight, 4),
                }
                for leg in self.legs
            },
            "notes": list(self.notes),
        }


_SHARES = (
    (0.0, "nothing"),
    (0.1, "a tenth"),
    (0.2, "a fifth"),
    (0.25, "a quarter"),
    (1 / 3, "a third"),
    (0.4, "two fifths"),
    (0.5, "half"),
    (0.6, "three fifths"),
    (2 / 3, "two thirds"),
    (0.75, "three quarters"),
    (0.8, "four fifths"),
    (0.9, "nine tenths"),
    (1.0, "all"),
)


def share_text(weight: float) -> str:
    """A share in words, with its figure: ``a third (0.34)``."""
    words = min(_SHARES, key=lambda known: abs(known[0] - weight))[1]
    return f"{words} ({weight:.2f})"


def _finds(leg: LegWeight) -> float:
    """nDCG@10 of the pieces that were cut out of their documents; of all pieces where none was."""
    values = [value for kind, value in leg.quality.items() if kind in HELD_OUT] or list(leg.quality.values())
    return sum(values) / len(values) if values else 0.0


def estimate_weights(
    documents: Sequence[SampledDocument],
    scorers: Mapping[str, Scorer],
    *,
    text: str | None = "bm25",
    total: int | None = None,
    options: WeightsOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> WeightsReport:
    """Ask every leg for known items, and weigh each by what it finds.

    Args:
        documents: an even sample of the index, shuffled.
        scorers: leg name → how it scores.
        text: the leg that finds words, which keeps finding them; None where there is none.
        total: how many documents the index holds; None: as many as were drawn.
        options: see :class:`WeightsOptions`.
        progress: called with how many known items were asked, and of how many.

    Returns:
        the report; with fewer than 100 known items the weights are the prior's and a note says so.
    """
    started = time.monotonic()
    options = options or WeightsOptions()
    total = max(len(documents), total or 0)
    names = list(scorers)
    prior = np.array(prior_weights(names, text))
    count = options.queries or min(250, max(84, total // 30))
    items = known_items(
        ((one.id, one.text) for one in documents), count=count, kinds=options.kinds, seed=options.seed
    )
    if len(items) < MINIMUM_ITEMS or len(scorers) < 2:
        note = f"only {len(items)} known items ({MINIMUM_ITEMS} are needed): nothing was learned"
        if len(scorers) < 2:
            note = "a single leg has nothing to be weighed against"
        return WeightsReport(
            legs=tuple(
                LegWeight(name=n, quality={}, weight=float(w)) for n, w in zip(names, prior, strict=True)
            ),
            documents=total,
            sampled=len(documents),
            queries=len(items),
            options=options,
            notes=(note,),
        )
    position = {document.id: row for row, document in enumerate(documents)}
    targets = [position[item.document_id] for item in items]
    for scorer in scorers.values():
        scorer.fit(documents)
    answers: dict[str, list[Matrix]] = {name: [] for name in names}
    for start in range(0, len(items), BATCH_ITEMS):
        if start and time.monotonic() - started > options.max_seconds:
            items, targets = items[:start], targets[:start]
            break
        end = min(start + BATCH_ITEMS, len(items))
        for name, scorer in scorers.items():
            answers[name].append(scorer.score(items[start:end], targets[start:end]))
        if progress is not None:
            progress(end, len(items))
    raw = {name: np.concatenate(rows) for name, rows in answers.items()}
    parts = [above_floor(raw[name], scorers[name].limit) for name in names]
    kinds = np.array([item.kind for item in items])
    cut_out = np.isin(kinds, HELD_OUT)
    gains = [_gains(raw[name], targets) for name in names]
    asked = cut_out if cut_out.any() else ~cut_out
    evidence = _evidence(np.array([one[asked].mean() for one in gains]), names, text, prior)
    chosen = (len(items) * evidence + PRIOR_ITEMS * prior) / (len(items) + PRIOR_ITEMS)
    if text in names:
        chosen = _protect_words(chosen, names.index(text), parts, targets, np.flatnonzero(~cut_out))
    before = float(_gains(_fused(parts, prior), targets).mean())
    legs = []
    for name, found, weight in zip(names, gains, chosen, strict=True):
        quality = {kind: float(found[kinds == kind].mean()) for kind in dict.fromkeys(kinds.tolist())}
        legs.append(LegWeight(name=name, quality=quality, weight=float(weight)))
    return WeightsReport(
        legs=tuple(legs),
        documents=total,
        sampled=len(documents),
        queries=len(items),
        gain=float(_gains(_fused(parts, chosen), targets).mean()) - before,
        options=options,
    )


def above_floor(scores: Matrix, limit: float | None) -> Matrix:
    """Each row's best :data:`WINDOW` as :func:`esembed.fusion.above_floor` counts them, 0 for the rest."""
    depth = min(WINDOW, scores.shape[1])
    ordered = -np.sort(-scores, axis=1)
    best, last = ordered[:, :1], ordered[:, depth - 1 : depth]
    if limit is not None:
        width = np.maximum(np.maximum(best, limit) - last, 1e-9)
        near: Matrix = np.where(scores >= last, (scores - last) / width, 0).astype(np.float32)
        return near
    full = (last > 0) & (depth == WINDOW)
    tenth = ordered[:, min(CLEAR_HITS, depth) - 1][:, None]
    width = np.where(best > last, best - last, 1)
    clear = (scores - last) * (best - tenth) / width**2
    value = np.where(full, clear, scores / np.where(best > 0, best, 1))
    part: Matrix = np.where((scores > 0) & (scores >= last), value, 0).astype(np.float32)
    return part


def _evidence(found: Floats, names: Sequence[str], text: str | None, prior: Floats) -> Floats:
    """What the legs' nDCG alone says of their weights, which sum to 1.

    Words share with the best of the other legs, and the others divide among them what it gets: two encoders
    that say the same don't outvote the words.
    """
    strength = found**QUALITY_POWER
    if not strength.any():
        return prior
    if text not in names:
        evenly: Floats = strength / strength.sum()
        return evenly
    at = names.index(text)
    others = np.where(np.arange(len(names)) == at, 0.0, strength)
    weights: Floats = others / max(float(others.sum()), 1e-12)
    share = strength[at] / (strength[at] + others.max())
    weights *= 1 - share
    weights[at] = share
    return weights


def _protect_words(
    weights: Floats, at: int, parts: Sequence[Matrix], targets: Sequence[int], rows: npt.NDArray[np.int64]
) -> Floats:
    """The weights with that of the words, at position *at*, raised until words are found.

    Args:
        weights: of the legs; they sum to 1.
        at: the position of the leg that finds words.
        parts: each leg's scores above its floor, shape (items, documents).
        targets: each item's document.
        rows: the items whose words stand in their document; none: only the least weight is kept.
    """
    inside, wanted = [part[rows] for part in parts], [targets[row] for row in rows]
    alone = float(_gains(inside[at], wanted).mean()) if len(rows) else 0.0
    share = max(float(weights[at]), TEXT_LEAST)
    while True:
        raised: Floats = weights * (1 - share) / max(1 - float(weights[at]), 1e-12)
        raised[at] = share
        if share >= 1 or not len(rows):
            return raised
        if float(_gains(_fused(inside, raised), wanted).mean()) >= alone - WORDS_LOSS:
            return raised
        share = min(1.0, share + TEXT_STEP)


def _fused(parts: Sequence[Matrix], weights: Floats) -> Matrix:
    total = np.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        if weight:
            total += np.float32(weight) * part
    return total


def _gains(scores: Matrix, targets: Sequence[int]) -> Floats:
    """nDCG@10 of each item, shape (items,)."""
    own = scores[np.arange(len(targets)), targets][:, None]
    # Ties count half: a leg that scores everything alike must not look good. The score of a document without
    # the item is computed in another way than those of the others, so equal ones differ in the last bits: an
    # encoder that returns the same vector for every text would find everything.
    above = np.sum(scores > own + TIE, axis=1) + 0.5 * (np.sum(np.abs(scores - own) <= TIE, axis=1) - 1)
    gains: Floats = np.where(above < 10, 1 / np.log2(above + 2), 0.0)
    return gains
