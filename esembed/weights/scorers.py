"""Each leg scored exactly and in memory, over a sample of the index's documents.

Words are counted again; vectors are those that lie in the index, so only the known items themselves are
encoded, which are short. What a document is like without a known item that was cut out of it is computed:
for words exactly, for vectors by taking the item's part of the vector away.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from esembed.dialect.quantize_vectors import from_bits
from esembed.encode.base import DenseEncoder, SparseEncoder
from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.types import SparseVector
from esembed.weights.known_items import KnownItem

__all__ = ["DenseScorer", "LexicalScorer", "Matrix", "SampledDocument", "Scorer", "SparseScorer"]

Matrix = npt.NDArray[np.float32]
"""A float32 array, shape (queries, documents)."""


@dataclass(frozen=True, slots=True)
class SampledDocument:
    """A document of the sample.

    Attributes:
        id: its id.
        text: what BM25 searches.
        vectors: vector field → the stored vector: float32 of shape (dims,), or token → weight.
    """

    id: str
    text: str
    vectors: Mapping[str, Any] = field(default_factory=dict)


class Scorer(Protocol):
    """One leg."""

    @property
    def limit(self) -> float | None:
        """The most that a score can be; None where there is no such number."""
        ...

    def fit(self, documents: Sequence[SampledDocument]) -> None:
        """Take in the haystack."""
        ...

    def score(self, items: Sequence[KnownItem], targets: Sequence[int]) -> Matrix:
        """Float32, shape (len(items), number of documents). The score of document ``targets[i]`` for item i
        is that of what is left of it without the item, where the item was cut out."""
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

    limit: float | None = None

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

    def fit(self, documents: Sequence[SampledDocument]) -> None:
        self.fit_texts([document.text for document in documents])

    def fit_texts(self, texts: Sequence[str]) -> None:
        """Take in the haystack as texts."""
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

    def score(self, items: Sequence[KnownItem], targets: Sequence[int]) -> Matrix:
        scores = self.scores([item.query for item in items])
        for row, (item, target) in enumerate(zip(items, targets, strict=True)):
            if item.rest is None:
                continue
            counts = Counter(words := self._tokens(item.rest))
            norm = self._k1 * (1 - self._b + self._b * len(words) / self._average)
            scores[row, target] = sum(
                counts[word] / (counts[word] + norm) * self._idf[self._words[word]]
                for word in self._tokens(item.query)
                if word in counts and word in self._words
            )
        return scores


class DenseScorer:
    """Cosine over stored vectors.

    Args:
        field: the vectors' field.
        encoder: encodes the known items, and documents whose stored vector can't be read back as floats.
    """

    limit: float | None = 1.0

    def __init__(self, field: str, encoder: DenseEncoder) -> None:
        self._field, self._encoder = field, encoder
        self._vectors: Matrix = np.zeros((0, 0), np.float32)
        self._lengths: list[int] = []
        self._bits = False

    def fit(self, documents: Sequence[SampledDocument]) -> None:
        found = [document.vectors.get(self._field) for document in documents]
        size = max((len(vector) for vector in found if vector is not None), default=0)
        dims = self._encoder.info.dims or size
        self._bits = size * 8 == dims
        if self._bits:
            # Packed bits: the engine compares signs, so signs are compared here, of the query too.
            found = [None if vector is None else from_bits(vector) for vector in found]
        absent = [row for row, vector in enumerate(found) if vector is None or len(vector) != dims]
        if absent:
            texts = [documents[row].text for row in absent]
            for row, vector in zip(absent, self._encoder.encode_document(texts), strict=True):
                found[row] = np.where(np.asarray(vector) > 0, 1, -1) if self._bits else vector
        self._vectors = _unit(found)
        self._lengths = [max(1, len(document.text.split())) for document in documents]

    def score(self, items: Sequence[KnownItem], targets: Sequence[int]) -> Matrix:
        asked = _unit(self._encoder.encode_query([item.query for item in items]))
        if self._bits:
            asked = _unit(np.where(asked > 0, 1, -1))
        scores: Matrix = asked @ self._vectors.T
        cut = [row for row, item in enumerate(items) if item.rest is not None]
        if cut:
            at = [targets[row] for row in cut]
            # A document's vector is about the mean of its parts', weighted by their lengths: measured beside
            # encoding what is left (three collections, MiniLM), it ranks a little higher, never by much.
            shares = [
                min(0.9, len(items[row].query.split()) / self._lengths[target])
                for row, target in zip(cut, at, strict=True)
            ]
            left = _unit(self._vectors[at] - np.array(shares, np.float32)[:, None] * asked[cut])
            scores[cut, at] = np.sum(asked[cut] * left, axis=1)
        return scores


class SparseScorer:
    """Inner products of stored sparse vectors.

    Args:
        field: the vectors' field.
        encoder: encodes the known items.
    """

    limit: float | None = None

    def __init__(self, field: str, encoder: SparseEncoder) -> None:
        self._field, self._encoder = field, encoder
        self._documents: list[Mapping[str, float]] = []
        self._postings: dict[str, tuple[list[int], list[float]]] = {}

    def fit(self, documents: Sequence[SampledDocument]) -> None:
        self._documents = [document.vectors.get(self._field) or {} for document in documents]
        for position, vector in enumerate(self._documents):
            for feature, value in vector.items():
                at, values = self._postings.setdefault(feature, ([], []))
                at.append(position)
                values.append(value)

    def score(self, items: Sequence[KnownItem], targets: Sequence[int]) -> Matrix:
        scores = np.zeros((len(items), len(self._documents)), np.float32)
        asked = self._encoder.encode_query([item.query for item in items])
        cut = [row for row, item in enumerate(items) if item.rest is not None]
        pieces: dict[int, SparseVector] = dict(
            zip(cut, self._encoder.encode_document([items[row].query for row in cut]), strict=True)
        )
        for row, (query, target) in enumerate(zip(asked, targets, strict=True)):
            weights = query.to_dict()
            for feature, weight in weights.items():
                if feature in self._postings:
                    at, values = self._postings[feature]
                    scores[row, at] += np.asarray(values, np.float32) * weight
            if row in pieces:
                piece, document = pieces[row].to_dict(), self._documents[target]
                # A feature's weight is the largest among the words: what the piece has as large is its own.
                scores[row, target] = sum(
                    weight * document[feature]
                    for feature, weight in weights.items()
                    if document.get(feature, 0.0) > 1.02 * piece.get(feature, 0.0)
                )
        return scores


def _unit(vectors: Any) -> Matrix:
    array = np.asarray(vectors, dtype=np.float32)
    unit: Matrix = array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-9)
    return unit
