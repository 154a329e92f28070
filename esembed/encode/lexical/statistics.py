"""Term statistics: what BM25's query side needs to know of a collection.

How many documents there are, how many tokens, and in how many documents each token stands. Counts add
up, so batches are counted apart and merged; a text that is replaced or deleted is subtracted when its
old tokens are at hand, and counted as *unsettled* when they are not, so that one can see when
counting again is due. They are bulky, so an index keeps them in a companion index, named by hash.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeVar

import msgspec

from esembed.errors import EncoderError

__all__ = ["LexicalStatistics"]

_VERSION = 1
"""Of the documents that :meth:`LexicalStatistics.to_documents` makes; part of the hash, so that counts of
another form never pass for these."""


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Head(msgspec.Struct):
    """As an index holds it that anybody may write to."""

    hash: str
    analyzer: str
    documents: _Count
    total_terms: _Count
    unsettled: _Count
    parts: _Count


class _Part(msgspec.Struct):
    part: _Count
    tokens: list[str]
    df: list[_Count]


_Stored = TypeVar("_Stored", _Head, _Part)


def _read(document: Mapping[str, Any], kind: type[_Stored]) -> _Stored:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise EncoderError(f"the term statistics are damaged ({error}); write them again") from None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LexicalStatistics:
    """Counts over the documents of a collection. A value: every change makes a new one.

    Attributes:
        analyzer: the hash of what decided the tokens (``LexicalEncoder.analyzer``).
        documents: N, the number of texts counted, ≥ 0. A chunk counts as a text of its own.
        total_terms: tokens in all of them, with repeats.
        df: token → number of texts that have it, each ≥ 1.
        unsettled: texts that were replaced or deleted without their old tokens being known; their
            old counts are still in. An idf is off by about unsettled / documents at most.
    """

    analyzer: str
    documents: int = 0
    total_terms: int = 0
    df: Mapping[str, int] = field(default_factory=dict)
    unsettled: int = 0
    _hash: list[str] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def empty(cls, analyzer: str) -> LexicalStatistics:
        """No documents; every word then has the same idf, ln 2."""
        return cls(analyzer=analyzer)

    @classmethod
    def count(cls, tokens_of_texts: Iterable[Sequence[str]], *, analyzer: str) -> LexicalStatistics:
        """Counts of texts that are split into tokens already."""
        df: Counter[str] = Counter()
        documents = total = 0
        for tokens in tokens_of_texts:
            documents += 1
            total += len(tokens)
            df.update(set(tokens))
        return cls(analyzer=analyzer, documents=documents, total_terms=total, df=dict(df))

    @property
    def average_length(self) -> float:
        """Tokens a document; 0.0 when there is none."""
        return self.total_terms / self.documents if self.documents else 0.0

    def idf(self, token: str) -> float:
        """Lucene's ``ln(1 + (N − df + 0.5) / (df + 0.5))``, > 0."""
        df = self.df.get(token, 0)
        # After unsettled deletions df can exceed N for a moment; the logarithm must stay positive.
        return math.log1p((max(self.documents, df) - df + 0.5) / (df + 0.5))

    def merge(self, *others: LexicalStatistics) -> LexicalStatistics:
        """The counts of all of them together.

        Raises:
            EncoderError: they were counted over other tokens.
        """
        df = Counter(self.df)
        for other in others:
            self._same_analyzer(other)
            df.update(other.df)
        return LexicalStatistics(
            analyzer=self.analyzer,
            documents=self.documents + sum(o.documents for o in others),
            total_terms=self.total_terms + sum(o.total_terms for o in others),
            df=dict(df),
            unsettled=self.unsettled + sum(o.unsettled for o in others),
        )

    def subtract(self, removed: LexicalStatistics) -> LexicalStatistics:
        """Without *removed*, the counts of texts that were deleted or replaced.

        Raises:
            EncoderError: *removed* was never in: it has more documents, tokens, or of a token.
        """
        self._same_analyzer(removed)
        df = dict(self.df)
        for token, n in removed.df.items():
            left = df.get(token, 0) - n
            if left < 0:
                raise EncoderError(
                    f"can't subtract these statistics: {token!r} was counted in {df.get(token, 0)} documents "
                    f"and {n} are to go; they were not part of this count. Count the collection again."
                )
            if left:
                df[token] = left
            else:
                del df[token]
        documents, terms = self.documents - removed.documents, self.total_terms - removed.total_terms
        if documents < 0 or terms < 0:
            raise EncoderError("can't subtract more documents than were counted; count the collection again")
        return replace(self, documents=documents, total_terms=terms, df=df)

    def _same_analyzer(self, other: LexicalStatistics) -> None:
        if other.analyzer != self.analyzer:
            raise EncoderError(
                "term statistics of different analyzers (language, stop words) can't be combined; count both "
                "with the same lexical encoder"
            )

    @property
    def hash(self) -> str:
        """sha256 over all counts, whatever order they were made in."""
        if not self._hash:
            head = (_VERSION, self.analyzer, self.documents, self.total_terms, self.unsettled)
            digest = hashlib.sha256(msgspec.json.encode(head))
            for token in sorted(self.df):
                digest.update(msgspec.json.encode((token, self.df[token])))
            self._hash.append(digest.hexdigest())
        return self._hash[0]

    def to_documents(self, *, terms_per_document: int = 10_000) -> Iterator[dict[str, Any]]:
        """JSON objects for a companion index: one of kind ``head``, then ``terms`` in parts.

        Give each the id ``f"{hash}-{part}"``; only ``hash``, ``kind`` and ``part`` need an index.
        Tokens and counts are parallel lists, since tokens make poor field names.

        Raises:
            EncoderError: *terms_per_document* is below 1.
        """
        if terms_per_document < 1:
            raise EncoderError(f"terms_per_document must be at least 1, not {terms_per_document}")
        tokens = sorted(self.df)
        parts = range(0, len(tokens), terms_per_document)
        yield {
            "kind": "head",
            "part": 0,
            "version": _VERSION,
            "hash": self.hash,
            "analyzer": self.analyzer,
            "documents": self.documents,
            "total_terms": self.total_terms,
            "distinct_terms": len(tokens),
            "unsettled": self.unsettled,
            "parts": len(parts),
        }
        for number, start in enumerate(parts, 1):
            chunk = tokens[start : start + terms_per_document]
            yield {
                "kind": "terms",
                "part": number,
                "hash": self.hash,
                "tokens": chunk,
                "df": [self.df[token] for token in chunk],
            }

    @classmethod
    def from_documents(cls, documents: Iterable[Mapping[str, Any]]) -> LexicalStatistics:
        """The statistics that :meth:`to_documents` wrote, its documents in any order.

        Raises:
            EncoderError: another version, a part missing or twice, or counts that don't match the hash.
        """
        # From an index that others may write to: each part has to be there once, and the whole has to have
        # the hash that the reader asked for.
        head: _Head | None = None
        df: dict[str, int] = {}
        parts: set[int] = set()
        for document in documents:
            if document.get("kind") == "head":
                if head is not None:
                    raise EncoderError("two sets of term statistics are mixed: read those of one hash only")
                if document.get("version") != _VERSION:
                    raise EncoderError(
                        f"term statistics of version {document.get('version')!r:.80}; this esembed reads "
                        f"{_VERSION}: write them again"
                    )
                head = _read(document, _Head)
                continue
            part = _read(document, _Part)
            if part.part in parts:
                raise EncoderError(f"part {part.part} of the term statistics came twice")
            if len(part.tokens) != len(part.df):
                raise EncoderError(f"part {part.part} of the term statistics has terms without counts")
            parts.add(part.part)
            df.update(zip(part.tokens, part.df, strict=True))
        if head is None:
            raise EncoderError("these term statistics have no head document; write them again")
        if len(parts) != head.parts:
            raise EncoderError(
                f"{len(parts)} of {head.parts} parts of the term statistics were found; write them again"
            )
        result = cls(
            analyzer=head.analyzer,
            documents=head.documents,
            total_terms=head.total_terms,
            df=df,
            unsettled=head.unsettled,
        )
        if result.hash != head.hash:
            raise EncoderError("the term statistics don't match their hash; write them again")
        return result

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LexicalStatistics) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)
