"""``lexical``: BM25 as a sparse vector, with no model at all.

BM25 is a sum over the words that query and document share, of a part that only the document decides
and a part that only the collection decides. So the first is the document's sparse vector, the second
the query's, and their dot product is BM25::

    document   tf · (k1 + 1) / (tf + k1 · (1 − b + b · dl / avgdl))
    query      qtf · ln(1 + (N − df + 0.5) / (df + 0.5))

This is the form with the factor (k1 + 1), as Elasticsearch scores (``LegacyBM25Similarity``); plain
``BM25Similarity`` of Lucene 8 and later, hence OpenSearch 3, leaves that constant out, so scores are
k1 + 1 times its scores and the order is the same. The idf is Lucene's, never negative. Unlike Lucene,
the length dl is exact, not rounded to one byte. See Robertson and Zaragoza, "The Probabilistic
Relevance Framework: BM25 and Beyond", 2009, and Kamphuis et al., "Which BM25 Do You Mean?", 2020.

What is fixed when documents are written: tokens, k1, b, avgdl. What may change at any time without
touching a document: N and df, in :class:`~esembed.encode.lexical.statistics.LexicalStatistics`.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from esembed.encode.base import EncoderInfo, EncodeStats, RuntimeOptions
from esembed.encode.counting import EncodeCounter
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.encode.lexical.words import WordSplitter
from esembed.errors import EncoderError
from esembed.lazy import np
from esembed.plan.params import EncoderParams
from esembed.types import SparseVector

__all__ = ["DEFAULT_AVGDL", "LexicalEncoder", "LexicalStatistics", "load"]

# Lucene's own, as the engines score text fields.
DEFAULT_K1 = 1.2
DEFAULT_B = 0.75
DEFAULT_AVGDL = 100.0
"""Tokens a document, where the plan fixes none. Set the collection's own: see ``average_length``.

Three times too large or too small cost up to .07 nDCG@10 on the collections tried (npl), mostly less
than .02.
"""

_UNUSED = ("dims", "max_seq_length", "query_prompt", "document_prompt", "normalize", "pooling", "revision")


class LexicalEncoder:
    """BM25's two halves as sparse vectors over word tokens. Safe to call from several threads.

    Args:
        k1: how fast repeats of a word saturate, ≥ 0.
        b: how much long documents are held back, 0…1.
        avgdl: the average length of a document in tokens, fixed for the life of the index.
        language: a Snowball stemmer's name, or ``none``.
        stop_words: words left out of documents and queries.
        top_k, query_top_k: keep the heaviest terms only.
        threshold: drop document terms at or under this weight.
        statistics: the collection's counts; without them queries can't be weighted.
        statistics_hash: take only counts of this hash (a plan that pins them).

    Raises:
        EncoderError: a parameter out of range, an unknown language.
    """

    def __init__(
        self,
        *,
        k1: float = DEFAULT_K1,
        b: float = DEFAULT_B,
        avgdl: float = DEFAULT_AVGDL,
        language: str = "none",
        stop_words: Iterable[str] = (),
        top_k: int | None = None,
        query_top_k: int | None = None,
        threshold: float = 0.0,
        statistics: LexicalStatistics | None = None,
        statistics_hash: str | None = None,
    ) -> None:
        for name, value, good in (
            ("k1", k1, k1 >= 0 and math.isfinite(k1)),
            ("b", b, 0 <= b <= 1),
            ("avgdl", avgdl, avgdl > 0 and math.isfinite(avgdl)),
            ("top_k", top_k, top_k is None or top_k > 0),
            ("query_top_k", query_top_k, query_top_k is None or query_top_k > 0),
            ("threshold", threshold, threshold >= 0),
        ):
            if not good:
                raise EncoderError(
                    f"lexical: {name} = {value} is out of range (k1 ≥ 0, 0 ≤ b ≤ 1, avgdl > 0 tokens, "
                    "top_k > 0, threshold ≥ 0)",
                    spec="lexical",
                )
        self._k1, self._b, self._avgdl = float(k1), float(b), float(avgdl)
        self._top_k, self._query_top_k, self._threshold = top_k, query_top_k, float(threshold)
        self._splitter = WordSplitter(language, stop_words)
        self._pinned = statistics_hash
        self._statistics = self._checked(statistics) if statistics is not None else None
        self._stats = EncodeCounter()

    @property
    def info(self) -> EncoderInfo:
        """The statistics' hash is under ``runtime``: they change without touching a document."""
        extra: dict[str, Any] = {
            "k1": self._k1,
            "b": self._b,
            "avgdl": self._avgdl,
            "language": self._splitter.language,
            "stop_words": len(self._splitter.stop_words),
        }
        if self._top_k is not None:
            extra["top_k"] = self._top_k
        if self._threshold:
            extra["threshold"] = self._threshold
        if self._query_top_k is not None:
            extra["query_top_k"] = self._query_top_k
        runtime: dict[str, Any] = {
            "backend": "python",
            "statistics": self._statistics.hash if self._statistics is not None else None,
        }
        if self._splitter.stemmer_version:
            runtime["stemmer"] = self._splitter.stemmer_version
        return EncoderInfo(
            spec="lexical",
            type="sparse",
            model="bm25",
            tokenizer_hash=self._splitter.hash,
            extra=extra,
            runtime=runtime,
        )

    @property
    def stats(self) -> EncodeStats:
        return self._stats

    @property
    def statistics(self) -> LexicalStatistics | None:
        """The counts that queries are weighted by, or None."""
        return self._statistics

    def tokens(self, text: str) -> list[str]:
        """The tokens of *text*, in order, with repeats."""
        return self._splitter.split(text)

    def with_statistics(self, statistics: LexicalStatistics) -> LexicalEncoder:
        """The same encoder, with these counts for its queries; documents come out the same.

        ``LexicalStatistics.empty(encoder.analyzer)`` weights every word alike (ln 2): for a search on
        an index that holds no document yet.

        Raises:
            EncoderError: the counts are over other tokens (another language or stop words).
        """
        other = LexicalEncoder.__new__(LexicalEncoder)
        other.__dict__.update(self.__dict__)
        other._statistics = self._checked(statistics)
        other._stats = EncodeCounter(self._stats)
        return other

    @property
    def analyzer(self) -> str:
        """The hash of what decides the tokens; counts carry it, so that unlike ones don't mix."""
        return self._splitter.hash

    def _checked(self, statistics: LexicalStatistics) -> LexicalStatistics:
        if statistics.analyzer != self._splitter.hash:
            raise EncoderError(
                "these term statistics were counted over other tokens (another language or stop-word list "
                f"than {self._splitter.language!r}); count them again with this encoder's statistics_of",
                spec="lexical",
            )
        if self._pinned is not None and statistics.hash != self._pinned:
            raise EncoderError(
                f"the plan pins the term statistics {self._pinned[:12]}… and these are "
                f"{statistics.hash[:12]}…; take the pinned ones, or remove "
                "`statistics` from the plan's encoder params",
                spec="lexical",
            )
        return statistics

    def statistics_of(self, texts: Iterable[str]) -> LexicalStatistics:
        """The counts of *texts*, each one document. ``merge`` adds them to earlier ones."""
        return LexicalStatistics.count((self._splitter.split(t) for t in texts), analyzer=self.analyzer)

    def average_length(self, texts: Iterable[str]) -> float:
        """The mean number of tokens of a sample, for the plan's ``avgdl`` (1.0 for an empty one)."""
        statistics = self.statistics_of(texts)
        return max(1.0, statistics.average_length)

    def encode_document(self, texts: Sequence[str]) -> list[SparseVector]:
        """BM25's document side: one vector for each text, tokens in order of first appearance.

        Weights are float32, > 0 and < k1 + 1. A text without words gives an empty vector.
        """
        return self.encode_and_count(texts)[0]

    def encode_and_count(self, texts: Sequence[str]) -> tuple[list[SparseVector], LexicalStatistics]:
        """``encode_document(texts)`` and ``statistics_of(texts)``, tokenizing once."""
        started = time.perf_counter()
        split = [self._splitter.split(text) for text in texts]
        vectors = [self._document(tokens) for tokens in split]
        counted = LexicalStatistics.count(split, analyzer=self.analyzer)
        self._count(split, started)
        return vectors, counted

    def _document(self, tokens: list[str]) -> SparseVector:
        counts = Counter(tokens)
        tf = np.fromiter(counts.values(), np.float64, len(counts))
        norm = self._k1 * (1.0 - self._b + self._b * len(tokens) / self._avgdl)
        vector = SparseVector(tuple(counts), (tf * (self._k1 + 1.0) / (tf + norm)).astype(np.float32))
        if self._threshold and len(vector) and bool((vector.values <= self._threshold).any()):
            keep = np.flatnonzero(vector.values > self._threshold)
            vector = SparseVector(tuple(str(vector.indices[i]) for i in keep), vector.values[keep])
        if self._top_k is not None and len(vector) > self._top_k:
            vector = vector.top(self._top_k)
        return vector

    def encode_query(self, texts: Sequence[str]) -> list[SparseVector]:
        """BM25's query side: idf times how often the word stands in the query; float32, > 0.

        A word that no document has keeps its (largest) idf: it matches nothing, and the sum of the
        values is the query's IDF sum, a bound to normalize scores by.

        Raises:
            EncoderError: the encoder has no term statistics.
        """
        statistics = self._statistics
        if statistics is None:
            raise EncoderError(
                "lexical queries are weighted by the collection's term statistics and this encoder has none. "
                "An Index keeps them in its companion index; elsewhere use "
                "encoder.with_statistics(encoder.statistics_of(texts))",
                spec="lexical",
            )
        started = time.perf_counter()
        split = [self._splitter.split(text) for text in texts]
        vectors = []
        for tokens in split:
            counts = Counter(tokens)
            weights = np.array([n * statistics.idf(token) for token, n in counts.items()], np.float32)
            vector = SparseVector(tuple(counts), weights)
            if self._query_top_k is not None and len(vector) > self._query_top_k:
                vector = vector.top(self._query_top_k)
            vectors.append(vector)
        self._count(split, started)
        return vectors

    def _count(self, split: list[list[str]], started: float) -> None:
        tokens = sum(map(len, split))
        self._stats.add(EncodeStats(len(split), tokens, seconds=time.perf_counter() - started))

    def close(self) -> None:
        """Nothing to release."""


def load(rest: str, params: EncoderParams, runtime: RuntimeOptions) -> LexicalEncoder:
    """The ``lexical`` encoder of *params*; for :func:`esembed.encode.registry.load`.

    Raises:
        EncoderError: something after ``lexical``, or a param that only models take.
    """
    del runtime
    if rest:
        raise EncoderError(f"lexical takes nothing after its name, not {rest!r}", spec=f"lexical:{rest}")
    for name in _UNUSED:
        if getattr(params, name) is not None:
            raise EncoderError(
                f"lexical has no model, so {name} means nothing to it; remove it", spec="lexical"
            )
    return LexicalEncoder(
        k1=DEFAULT_K1 if params.k1 is None else params.k1,
        b=DEFAULT_B if params.b is None else params.b,
        avgdl=DEFAULT_AVGDL if params.avgdl is None else params.avgdl,
        language=params.language or "none",
        stop_words=params.stop_words or (),
        top_k=params.top_k,
        query_top_k=params.query_top_k,
        threshold=params.threshold or 0.0,
        statistics_hash=params.statistics,
    )
