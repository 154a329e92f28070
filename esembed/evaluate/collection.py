"""What a test collection is: queries with their judgments, and what was wrong in them, counted by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from esembed.errors import PermanentError
from esembed.types import Document

__all__ = ["Dataset", "DatasetError", "Problem", "ProblemLog", "Qrels", "Run", "make_dataset"]

Qrels: TypeAlias = Mapping[str, Mapping[str, int]]
"""Query id → document id → grade; a grade > 0 is relevant."""

Run: TypeAlias = Mapping[str, Sequence[tuple[str, float]]]
"""Query id → (document id, score), best first."""

ProblemKind = Literal[
    "bad-grade",
    "bad-line",
    "bad-score",
    "conflicting-judgment",
    "duplicate-document",
    "duplicate-id",
    "duplicate-query",
    "no-relevant-document",
    "not-in-index",
    "query-without-judgments",
    "unknown-document",
    "unknown-query",
]

_EXPLAIN: dict[str, str] = {
    "bad-grade": "judgments whose grade is not a whole number; not used",
    "bad-line": "lines that can't be read; not used",
    "bad-score": "run lines whose score is not a number; not used",
    "conflicting-judgment": "a query and document judged twice with different grades; the first counts",
    "duplicate-document": "document ids that stand in the corpus twice; the last replaces the first",
    "duplicate-id": "documents listed twice for one query of a run; the best rank counts",
    "duplicate-query": "query ids that stand in the topics twice; the first counts",
    "no-relevant-document": "judged queries without any relevant document; left out of every average",
    "not-in-index": "relevant documents that the index does not hold; they count as never found",
    "query-without-judgments": "queries without judgments; left out of every average",
    "unknown-document": "relevant judgments of documents that are not there; they count as never found",
    "unknown-query": "judged or answered query ids that are not among the queries; not used",
}


class DatasetError(PermanentError):
    """A test collection that can't be read at all: no such folder, file, split or id.

    Attributes:
        source: what was asked for.
    """

    def __init__(self, message: str, *, source: str) -> None:
        super().__init__(message)
        self.source = source


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of flaw in a collection or run.

    Attributes:
        kind: its short name.
        count: how often.
        examples: the first few, each with its place or ids.
    """

    kind: ProblemKind
    count: int
    examples: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line for a person."""
        shown = "; ".join(self.examples)
        return f"{self.count} {_EXPLAIN[self.kind]}" + (f" (such as {shown})" if shown else "")


class ProblemLog:
    """Counts problems by kind and keeps the first few of each as examples."""

    def __init__(self, keep: int = 3) -> None:
        self._keep = keep
        self._counts: Counter[ProblemKind] = Counter()
        self._examples: dict[ProblemKind, list[str]] = {}

    def add(self, kind: ProblemKind, example: str) -> None:
        """Count one, and keep *example* if it is among the first."""
        self._counts[kind] += 1
        kept = self._examples.setdefault(kind, [])
        if len(kept) < self._keep:
            kept.append(example)

    def problems(self) -> tuple[Problem, ...]:
        """What was counted, most frequent first."""
        return tuple(Problem(k, n, tuple(self._examples[k])) for k, n in self._counts.most_common())


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Queries with judgments.

    Attributes:
        name: for reports.
        queries: query id → text; only those with at least one relevant judged document, in order.
        qrels: the judgments of these queries.
        unjudged: the other queries (no judgment, or none relevant): for latency and the bootstrap,
            never for averages.
        problems: what was wrong, counted.
        corpus: opens a fresh stream of the documents, or None when the source has none.
    """

    name: str
    queries: Mapping[str, str]
    qrels: Qrels
    unjudged: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    corpus: Callable[[], Iterator[Document]] | None = None

    def documents(self) -> Iterator[Document]:
        """A fresh stream of the corpus.

        Raises:
            DatasetError: the source has no corpus (TREC topics, CSV).
        """
        if self.corpus is None:
            raise DatasetError(f"{self.name} has judgments but no documents", source=self.name)
        return self.corpus()

    def subset(self, query_ids: Iterable[str]) -> Dataset:
        """The same collection with these queries only (unknown ids are ignored)."""
        wanted = [q for q in query_ids if q in self.queries]
        return Dataset(
            name=self.name,
            queries={q: self.queries[q] for q in wanted},
            qrels={q: self.qrels[q] for q in wanted},
            problems=self.problems,
            corpus=self.corpus,
        )


def make_dataset(
    name: str,
    queries: Mapping[str, str],
    qrels: Qrels,
    *,
    log: ProblemLog | None = None,
    known_ids: Iterable[str] | None = None,
    corpus: Callable[[], Iterator[Document]] | None = None,
) -> Dataset:
    """Join queries and judgments, counting what doesn't fit together.

    A relevant document that isn't in *known_ids* stays in the judgments: it lowers recall, as it
    should, and is counted as ``unknown-document``.
    """
    log = log or ProblemLog()
    known = None if known_ids is None else set(known_ids)
    for query_id in qrels:
        if query_id not in queries:
            log.add("unknown-query", query_id)
    judged: dict[str, str] = {}
    unjudged: dict[str, str] = {}
    for query_id, text in queries.items():
        grades = qrels.get(query_id)
        if not grades:
            log.add("query-without-judgments", query_id)
            unjudged[query_id] = text
            continue
        if known is not None:
            for document_id, grade in grades.items():
                if grade > 0 and document_id not in known:
                    log.add("unknown-document", f"{document_id} (query {query_id})")
        if any(grade > 0 for grade in grades.values()):
            judged[query_id] = text
        else:
            log.add("no-relevant-document", query_id)
            unjudged[query_id] = text
    return Dataset(
        name=name,
        queries=judged,
        qrels={q: dict(qrels[q]) for q in judged},
        unjudged=unjudged,
        problems=log.problems(),
        corpus=corpus,
    )
