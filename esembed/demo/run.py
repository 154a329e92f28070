"""The demo's steps, without anything of the terminal: plan, index, questions."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esembed import query as q
from esembed.demo import corpus
from esembed.errors import IndexNotFoundError
from esembed.ingest.options import IngestOptions
from esembed.plan import DenseField, FilterField, IndexPlan, SparseField, TextField
from esembed.plan.params import EncoderParams
from esembed.query import Query

if TYPE_CHECKING:
    from esembed import Index
    from esembed.capabilities import Capabilities
    from esembed.ingest.options import IngestReport, Progress

__all__ = [
    "INDEX",
    "LEGS",
    "QUESTIONS",
    "Answer",
    "ask",
    "demo_plan",
    "existing",
    "fetch_model",
    "fill",
    "is_complete",
    "load_corpus",
]

INDEX = "esembed-demo"
"""The demo's index."""

QUESTIONS = (
    "split a path into folder and file name",
    "make a temporary folder that goes away by itself",
    "turn a date string into a datetime",
    "copy an object with everything inside it",
    "most common elements of a list",
)
"""Asked as people ask, not in the words of the docstrings."""

_STOP = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these "
    "they this to was will with"
)
STOP_WORDS = tuple(_STOP.split())
"""Lucene's English stop words, so that the lexical vectors leave out what the analyzer leaves out."""

_WAYS: Mapping[str, Query] = {
    "BM25": q.match(name="bm25"),
    "dense (MiniLM)": q.knn("embedding", name="dense"),
    "sparse (lexical)": q.sparse("terms", name="sparse"),
    "hybrid (BM25 + dense)": q.rrf(q.match(name="bm25"), q.knn("embedding", name="dense")),
}
# One hit of a class: the methods of a class share its name and its rarest words, so that five methods of one
# class were the whole answer of a leg that goes by words ("folder" stands in mailbox's alone).
LEGS: Mapping[str, Query] = {leg: q.collapse(query, "object") for leg, query in _WAYS.items()}
"""The columns that are shown side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question, asked in one way.

    Attributes:
        leg: which of :data:`LEGS`.
        names: the documents found, best first.
        sources: their fields.
        seconds: the whole call, encoding the question included.
    """

    leg: str
    names: tuple[str, ...]
    sources: tuple[Mapping[str, Any], ...]
    seconds: float


def load_corpus(limit: int | None = None, *, every: bool = False) -> list[dict[str, Any]]:
    """The records (a few MB) of the modules that most programs import or of *every* one, or *limit* of them
    spread over these modules."""
    records = list(corpus.records(modules=None if every else corpus.COMMON))
    if limit is not None and limit < len(records):
        records = [records[i * len(records) // limit] for i in range(limit)]
    return records


def fetch_model() -> Future[None]:
    """Fetch the model into a cache, in a thread; nothing is encoded.

    The future raises DownloadError where the model is nowhere to be had.
    """
    fetched: Future[None] = Future()

    def work() -> None:
        try:
            from esembed.encode.transformer.minilm import find_minilm  # brings NumPy

            find_minilm()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            fetched.set_exception(error)
        else:
            fetched.set_result(None)

    # A daemon and no pool of concurrent.futures, whose threads the interpreter waits for when it ends: where
    # the engine can't be started, nobody wants to wait for the model.
    threading.Thread(target=work, name="esembed-demo-model", daemon=True).start()
    return fetched


def demo_plan(
    capabilities: Capabilities, fingerprint: str, limit: int | None = None, *, every: bool = False
) -> IndexPlan:
    """The demo's plan. Its description holds a hash of corpus and plan, by which a later run knows
    that the index is current."""
    analyzer = "english" if "english" in capabilities.analyzers else "standard"
    english = EncoderParams(language="english", stop_words=STOP_WORDS)
    source = ("title", "doc")
    plan = IndexPlan(
        id_field="id",
        text={"title": TextField(analyzer=analyzer, boost=1.5), "doc": TextField(analyzer=analyzer)},
        # The model learned on 128 tokens, and a docstring says what it is about at its beginning.
        dense={
            "embedding": DenseField(encoder="minilm", source=source, params=EncoderParams(max_seq_length=128))
        },
        sparse={"terms": SparseField(encoder="lexical", source=source, params=english)},
        filter={"kind": FilterField(), "module": FilterField(), "object": FilterField()},
    )
    state = hashlib.sha256(f"{fingerprint} {limit} {every} {plan.to_json()}".encode()).hexdigest()[:16]
    what = f"The docstrings of Python {platform.python_version()}'s standard library (demo {state})"
    return plan.replace(description=what)


def existing(client: Any, plan: IndexPlan) -> Index | None:
    """The demo's index, if it is there and has this plan and corpus; else None."""
    from esembed import Index

    try:
        index = Index.open(client, INDEX)
    except IndexNotFoundError:
        return None
    return index if index.plan.description == plan.description else None


def is_complete(index: Index) -> bool:
    """Whether it was filled to the end: term statistics are written last."""
    return bool(index.stored.statistics)


def fill(
    client: Any,
    plan: IndexPlan,
    records: list[dict[str, Any]],
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> tuple[Index, IngestReport]:
    """The index with all records in it, and the ingest's report.

    An interrupted run is resumed; an index of another plan or corpus is replaced, and any with *fresh*.
    """
    from esembed import Index

    index = None if fresh else existing(client, plan)
    if index is None:
        with contextlib.suppress(IndexNotFoundError):
            Index.open(client, INDEX).delete_index()
        index = Index.create(client, INDEX, plan)
    # The demo asks every leg by itself, so nothing has to be weighed.
    options = IngestOptions(learn_weights=False)
    report = index.ingest(records, options, progress=progress, total=len(records))
    return index, report


def ask(index: Index, question: str, *, size: int = 5) -> list[Answer]:
    """One question in every way of :data:`LEGS`."""
    answers = []
    for leg, query in LEGS.items():
        start = time.perf_counter()
        hits = index.search(query, text=question, size=size)
        answers.append(
            Answer(
                leg=leg,
                names=tuple(hits.ids),
                sources=tuple(hit.source for hit in hits),
                seconds=time.perf_counter() - start,
            )
        )
    return answers
