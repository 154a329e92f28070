"""A default query that knows its index: how far each leg can be trusted, without judgements.

The default is a sum of scores, each divided by a bound that doesn't depend on the list at hand, and
multiplied by the leg's trust::

    Σ trust(leg) · score(leg) / scale(leg)

* BM25's scale is 6 · ln(1 + N): about six words as rare as a word can be. It is a constant of the
  index, not of the query, so it needs no look-up: a query with more words earns BM25 more weight, up
  to 32 words.
* A cosine's scale is 1 − background, background being the mean cosine of unrelated texts: 0.1 for
  MiniLM, 0.7 and more for some models. The shift by it is the same for every document and left out.
* A sparse leg's scale makes its typical best score that of the other legs.
* The trust is (how well the leg finds known items)³·⁵, known items of five kinds: three that were cut out
  of their document, so that words don't match by themselves, and two that still stand in it. People ask
  both ways, and the second way shows what the first can't: BM25 always finds what stands there, and an
  encoder finds it if it reads the language. One that doesn't still guesses the topic of a piece.
  The exponent and the factor were chosen on the sets and with the weakened encoders of
  docs/quality.md, and change little when a set is left out.
* Legs that say the same share a vote: trust is multiplied by 1 / Σ ρ⁴ over the legs kept, ρ being the
  correlation of the scores that two legs give one query's texts. Two vector fields of one text count
  about half each; two legs alone (ρ about 0.3 for BM25 and cosines) lose alike, so nothing changes.

All of it is a ``bool`` of boosted clauses: one plain request on every engine and licence.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from esembed.encode.base import DenseEncoder, SparseEncoder
from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.errors import EsembedError
from esembed.query import Query
from esembed.weights.known_items import HELD_OUT, Kind, KnownItem, known_items, sample

__all__ = [
    "DenseScorer",
    "LegTrust",
    "LexicalScorer",
    "Scorer",
    "SparseScorer",
    "TrustOptions",
    "TrustReport",
    "estimate_trust",
]

Matrix = npt.NDArray[np.float32]
LegKind = Literal["text", "dense", "sparse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustOptions:
    """How much is measured.

    Attributes:
        documents: how many documents are drawn from the index, as the haystack.
        queries: how many of them give known items, one of each kind.
        kinds: of known items; quality is the geometric mean over them.
        exponent: how strongly a leg that finds more is preferred.
        drop_below: a leg that finds less than this share of the best leg is left out.
        seed: of drawing.
    """

    documents: int = 1000
    queries: int = 250
    kinds: tuple[Kind, ...] = (*HELD_OUT, "words", "window")
    exponent: float = 3.5
    drop_below: float = 0.1
    seed: int = 0


class Scorer(Protocol):
    """One leg, scored exactly and in memory."""

    @property
    def kind(self) -> LegKind: ...

    def fit(self, texts: Sequence[str]) -> None:
        """Take in the haystack."""
        ...

    def score(self, queries: Sequence[str], rests: Sequence[str | None], targets: Sequence[int]) -> Matrix:
        """Float32, shape (len(queries), number of texts). The score of text ``targets[i]`` for query i is
        that of ``rests[i]`` in its place, where there is one."""
        ...


_WORD = re.compile(r"\w+(?:['’.]\w+)*")


class LexicalScorer:
    """BM25 (Lucene's idf, without the factor k1 + 1) over words as Lucene's ``standard`` cuts them.

    The lexical encoder splits ``os.path`` and ``get_url``; Lucene keeps them whole, and on program code
    that decides which leg is the better one.

    Args:
        language: the stemmer, as the field's analyzer has it; ``none`` for ``standard``.
        k1, b: BM25's parameters.
        stop_words: words left out.
    """

    kind: LegKind = "text"

    def __init__(
        self, *, language: str = "none", k1: float = 1.2, b: float = 0.75, stop_words: Iterable[str] = ()
    ) -> None:
        self._encoder = LexicalEncoder(language=language, k1=k1, b=b, stop_words=stop_words)
        self._k1, self._b = k1, b
        self._words: dict[str, int] = {}
        self._postings: list[tuple[npt.NDArray[np.int64], Matrix]] = []
        self._idf: list[float] = []
        self._lengths: Matrix = np.zeros(0, np.float32)
        self._average, self._size = 1.0, 0

    def fit(self, texts: Sequence[str]) -> None:
        tokens = [self._tokens(text) for text in texts]
        statistics = LexicalStatistics.count(tokens, analyzer=self._encoder.analyzer)
        self._size, self._average = len(texts), max(1.0, statistics.average_length)
        self._lengths = np.array([len(words) for words in tokens], np.float32)
        listed: list[tuple[list[int], list[int]]] = []
        for position, words in enumerate(tokens):
            for word, count in Counter(words).items():
                number = self._words.setdefault(word, len(listed))
                if number == len(listed):
                    listed.append(([], []))
                listed[number][0].append(position)
                listed[number][1].append(count)
        self._postings = [(np.array(at, np.int64), np.array(n, np.float32)) for at, n in listed]
        self._idf = [math.log(1 + (self._size - len(at) + 0.5) / (len(at) + 0.5)) for at, _ in self._postings]

    def _tokens(self, text: str) -> list[str]:
        words: list[str] = []
        for word in _WORD.findall(text):
            if "_" in word or "." in word:
                words.append(word.lower())
            else:
                words.extend(self._encoder.tokens(word))
        return words

    def scores(self, queries: Sequence[str], *, k1: float | None = None, b: float | None = None) -> Matrix:
        """Float32, shape (len(queries), number of texts), of the texts as they are; with other parameters
        than the scorer's where they are given."""
        k1, b = self._k1 if k1 is None else k1, self._b if b is None else b
        norms = k1 * (1 - b + b * self._lengths / self._average)
        scores = np.zeros((len(queries), self._size), np.float32)
        for row, query in enumerate(queries):
            for word in self._tokens(query):
                number = self._words.get(word)
                if number is not None:
                    at, counts = self._postings[number]
                    scores[row, at] += counts / (counts + norms[at]) * self._idf[number]
        return scores

    def score(self, queries: Sequence[str], rests: Sequence[str | None], targets: Sequence[int]) -> Matrix:
        scores = self.scores(queries)
        for row, (query, rest, target) in enumerate(zip(queries, rests, targets, strict=True)):
            if rest is None:
                continue
            counts = Counter(words := self._tokens(rest))
            norm = self._k1 * (1 - self._b + self._b * len(words) / self._average)
            scores[row, target] = sum(
                counts[word] / (counts[word] + norm) * self._idf[self._words[word]]
                for word in self._tokens(query)
                if word in counts and word in self._words
            )
        return scores


class DenseScorer:
    """Cosine over a dense encoder's vectors."""

    kind: LegKind = "dense"

    def __init__(self, encoder: DenseEncoder) -> None:
        self._encoder = encoder
        self._vectors: Matrix = np.zeros((0, 0), np.float32)

    def fit(self, texts: Sequence[str]) -> None:
        self._vectors = _unit(self._encoder.encode_document(texts))

    def score(self, queries: Sequence[str], rests: Sequence[str | None], targets: Sequence[int]) -> Matrix:
        asked = _unit(self._encoder.encode_query(queries))
        scores: Matrix = asked @ self._vectors.T
        cut = [(row, rest) for row, rest in enumerate(rests) if rest is not None]
        if cut:
            rows = [row for row, _ in cut]
            remaining = _unit(self._encoder.encode_document([rest for _, rest in cut]))
            scores[rows, [targets[row] for row in rows]] = np.sum(asked[rows] * remaining, axis=1)
        return scores


class SparseScorer:
    """Inner products of a sparse encoder's vectors."""

    kind: LegKind = "sparse"

    def __init__(self, encoder: SparseEncoder) -> None:
        self._encoder = encoder
        self._postings: dict[str, tuple[list[int], list[float]]] = {}
        self._size = 0

    def fit(self, texts: Sequence[str]) -> None:
        self._size = len(texts)
        for position, vector in enumerate(self._encoder.encode_document(texts)):
            for feature, value in vector.to_dict().items():
                at, values = self._postings.setdefault(feature, ([], []))
                at.append(position)
                values.append(value)

    def score(self, queries: Sequence[str], rests: Sequence[str | None], targets: Sequence[int]) -> Matrix:
        scores = np.zeros((len(queries), self._size), np.float32)
        asked = self._encoder.encode_query(queries)
        remaining = iter(self._encoder.encode_document([rest for rest in rests if rest is not None]))
        for row, (query, rest, target) in enumerate(zip(asked, rests, targets, strict=True)):
            for feature, weight in query.to_dict().items():
                if feature in self._postings:
                    at, values = self._postings[feature]
                    scores[row, at] += np.asarray(values, np.float32) * weight
            if rest is not None:
                scores[row, target] = query.dot(next(remaining))
        return scores


def _unit(vectors: npt.ArrayLike) -> Matrix:
    array = np.asarray(vectors, dtype=np.float32)
    unit: Matrix = array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-9)
    return unit


# -- the estimate ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LegTrust:
    """What was found out about one leg.

    Attributes:
        name: the leg.
        kind: what it is.
        quality: kind of known item → nDCG@10 of this leg alone.
        background: the mean score of unrelated texts (dense), else 0.
        best_score: the median best score of a known item's list.
        scale: what its raw score is divided by.
        trust: its weight relative to the best leg, between 0 and 1; 0 when it is dropped.
        vote: what it has of its own, relative to the leg that has most, between 0 and 1; two legs that
            score alike have half a vote each.
        weight: trust · vote / scale: the factor of its raw score.
    """

    name: str
    kind: LegKind
    quality: Mapping[str, float]
    background: float
    best_score: float
    scale: float
    trust: float
    vote: float
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustReport:
    """The estimate and what it rests on.

    Attributes:
        legs: each leg.
        documents: how many documents the index holds.
        sampled: how many of them were drawn.
        queries: how many known items were asked.
        options: how much was asked for.
        notes: what could not be done, one line each.
        query: the default query that follows, or None when there is nothing to weigh.
    """

    legs: tuple[LegTrust, ...]
    documents: int
    sampled: int
    queries: int
    options: TrustOptions = field(default_factory=TrustOptions)
    notes: tuple[str, ...] = ()
    query: Query | None = None

    def __iter__(self) -> Iterator[Any]:
        """The report and the query, as a pair was returned before; deprecated."""
        warnings.warn("learn_weights returns one report; use its .query", DeprecationWarning, stacklevel=2)
        yield self
        yield self.query

    def leg(self, name: str) -> LegTrust:
        """The leg of that name. Raises EsembedError."""
        for leg in self.legs:
            if leg.name == name:
                return leg
        raise EsembedError(f"no leg {name!r}; there are {', '.join(leg.name for leg in self.legs)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, rounded to four digits."""
        return {
            "documents": self.documents,
            "sampled": self.sampled,
            "queries": self.queries,
            "legs": {
                leg.name: {
                    "quality": {kind: round(value, 4) for kind, value in leg.quality.items()},
                    "scale": round(leg.scale, 4),
                    "trust": round(leg.trust, 4),
                    "vote": round(leg.vote, 4),
                }
                for leg in self.legs
            },
            "notes": list(self.notes),
        }


MINIMUM_QUERIES = 100
"""Known items, of all kinds together, below which nothing is concluded."""

SAME = 4
"""The power of a correlation that counts as saying the same: high, since good legs agree, too."""


def estimate_trust(
    documents: Iterable[tuple[str, str]],
    scorers: Mapping[str, Scorer],
    *,
    total: int | None = None,
    options: TrustOptions | None = None,
) -> TrustReport:
    """Ask every leg for known items and weigh it by how well it does.

    Args:
        documents: (id, text) of the whole index or of an even sample of it, read once.
        scorers: leg name → how it scores.
        total: how many documents the index holds, for BM25's scale; None: as many as *documents* gave.
        options: see :class:`TrustOptions`.

    Returns:
        the report; with fewer than 100 known items every trust is 1 and a note says so.
    """
    options = options or TrustOptions()
    seen = 0

    def counted() -> Iterable[tuple[str, str]]:
        nonlocal seen
        for document in documents:
            seen += 1
            yield document

    drawn = sample(counted(), options.documents, seed=options.seed)
    total = max(seen, total or 0)
    items = known_items(drawn, count=options.queries, kinds=options.kinds, seed=options.seed)
    if len(items) < MINIMUM_QUERIES or not scorers:
        note = f"only {len(items)} known items ({MINIMUM_QUERIES} are needed), so every leg is trusted alike"
        legs = tuple(
            _finish(name, scorer.kind, {}, 0.0, 0.0, total, 1.0, 1.0) for name, scorer in scorers.items()
        )
        return TrustReport(
            legs=legs, documents=total, sampled=len(drawn), queries=len(items), options=options, notes=(note,)
        )
    position = {document_id: i for i, (document_id, _) in enumerate(drawn)}
    texts = [text for _, text in drawn]
    raw = {name: _measure(scorer, texts, items, position) for name, scorer in scorers.items()}
    # The geometric mean over kinds, so that an easy kind doesn't drown a hard one.
    level = {
        name: math.exp(float(np.mean([math.log(value + 0.01) for value in one.quality.values()])))
        for name, one in raw.items()
    }
    best = max(level.values())
    kept = [name for name in scorers if level[name] >= options.drop_below * best]
    votes = dict(zip(kept, _votes([raw[name].shape for name in kept]), strict=True))
    found: list[LegTrust] = []
    for name, scorer in scorers.items():
        one = raw[name]
        trust = (level[name] / best) ** options.exponent if name in votes else 0.0
        found.append(
            _finish(
                name, scorer.kind, one.quality, one.background, one.top, total, trust, votes.get(name, 1.0)
            )
        )
    return TrustReport(
        legs=tuple(_scale_sparse(found)),
        documents=total,
        sampled=len(drawn),
        queries=len(items),
        options=options,
    )


class _Measured(NamedTuple):
    """nDCG@10 for each kind, the background, the median best score; each query's scores, their mean taken
    off and of length 1."""

    quality: dict[str, float]
    background: float
    top: float
    shape: Matrix


def _measure(
    scorer: Scorer, texts: Sequence[str], items: Sequence[KnownItem], position: Mapping[str, int]
) -> _Measured:
    scorer.fit(texts)
    targets = [position[item.document_id] for item in items]
    scores = scorer.score([item.query for item in items], [item.rest for item in items], targets)
    own = scores[np.arange(len(items)), targets]
    # Ties count half: a leg that scores everything alike must not look good.
    above = np.sum(scores > own[:, None], axis=1) + 0.5 * (np.sum(scores == own[:, None], axis=1) - 1)
    gain = np.where(above < 10, 1 / np.log2(above + 2), 0.0)
    kinds = np.array([item.kind for item in items])
    quality = {kind: float(gain[kinds == kind].mean()) for kind in dict.fromkeys(kinds.tolist())}
    shape = _unit(scores - scores.mean(axis=1, keepdims=True))
    return _Measured(quality, float(scores.mean()), float(np.median(scores.max(axis=1))), shape)


def _votes(shapes: Sequence[Matrix]) -> list[float]:
    """What each leg has of its own, the most being 1."""
    correlation = np.array([[float(np.sum(one * two)) / len(one) for two in shapes] for one in shapes])
    votes = 1 / np.sum(np.maximum(correlation, 0) ** SAME, axis=1)
    relative: list[float] = (votes / votes.max()).tolist()
    return relative


def _finish(
    name: str,
    kind: LegKind,
    quality: Mapping[str, float],
    background: float,
    top: float,
    total: int,
    trust: float,
    vote: float,
) -> LegTrust:
    if kind == "text":
        scale = 6 * math.log(1 + max(total, 1))
    elif kind == "dense":
        scale = max(0.05, 1 - background)
    else:
        scale = max(top, 1e-6)
    return LegTrust(
        name=name,
        kind=kind,
        quality=dict(quality),
        background=background if kind == "dense" else 0.0,
        best_score=top,
        scale=scale,
        trust=trust,
        vote=vote,
        weight=trust * vote / scale,
    )


def _scale_sparse(legs: Sequence[LegTrust]) -> list[LegTrust]:
    """A sparse leg has no bound: its typical best score is set to that of the others."""
    levels = [(leg.best_score - leg.background) / leg.scale for leg in legs if leg.kind != "sparse"]
    level = float(np.mean(levels)) if levels and min(levels) > 0 else 1.0
    return [
        replace(leg, scale=leg.scale / level, weight=leg.weight * level) if leg.kind == "sparse" else leg
        for leg in legs
    ]
