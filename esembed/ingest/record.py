"""One record on its way through the stages, and the hash that says whether the index has it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal

from esembed.errors import EsembedError, RecordError, message_of
from esembed.ingest.options import MissingVectors
from esembed.lazy import npt
from esembed.types import Document, SparseVector

__all__ = ["UNFINISHED", "PreparedRecord", "as_record_error", "ends_the_run", "hash_parts", "vector_size"]

UNFINISHED = "0" * 16
"""In a stored hash in place of the contract's digits: no record has it, so the next run writes the document
again. It stands while a document is written or deleted in several steps."""


@dataclass(slots=True, eq=False)
class PreparedRecord:
    """One record on its way. The stages fill it in, in their order; it belongs to one of them at a time.

    Attributes:
        document: the record as it was read, before the hook and the field mapping; what a dead letter holds.
        id: the document id.
        op: ``index``, ``update`` or ``delete``.
        source: the fields to store, vectors taken out.
        texts: field → text to encode as a whole.
        chunk_text: the text that is cut into chunks, where the plan has chunked fields.
        chunks: the texts of the chunks, once they are cut.
        vectors: field → vector of the whole document.
        chunk_vectors: for each chunk, field → vector.
        hash: the content and contract hash.
        size: about how many bytes all this takes.
        old_chunks: how many chunk documents the index has of it.
        encoded_before: whether the document in the index may hold vectors already.
        in_flight: whether its id is held until the record is resolved.
        statistics: field → term statistics of this one document.
        places: field → the keys of its vector in the stored document, where that is known.
        expected: the vectors that the document should have, where the run verifies them.
        lost: the fields that the engine loses in each partial update that doesn't bring them.
        wanted: the vector fields that this write is to fill.
        zeros: field → how many of its vectors say nothing (the encoder knows no word of the text).
        in_objects: field → in how many of the nested objects it has a vector, and in how many none; of those
            that the record brought.
        number: its place in the source, from 1, where that is followed.
        version, unless_changed: as :class:`~esembed.types.Document` has them; a partial update and a delete
            without a version get that of the document which they are of, where records have versions.
        merged: of an update, the fields of the document that it makes, vectors left out.
        carried: path → what the stored document has there, written again as it is: vectors of texts that the
            record does not change.
        kept: the vector fields in *carried*.
        stored: of a change that is written as a whole document, the document that it is of, vectors included.
        missing: field → what it goes in without, of *wanted*; known once its lines are made.
    """

    document: Document
    id: str
    op: Literal["index", "update", "delete"]
    source: dict[str, Any]
    texts: dict[str, str] = field(default_factory=dict)
    chunk_text: str | None = None
    chunks: list[str] | None = None
    vectors: dict[str, npt.NDArray[Any] | SparseVector] = field(default_factory=dict)
    chunk_vectors: list[dict[str, npt.NDArray[Any] | SparseVector]] = field(default_factory=list)
    hash: str = ""
    size: int = 0
    old_chunks: int = 0
    encoded_before: bool = False
    in_flight: bool = False
    statistics: dict[str, Any] = field(default_factory=dict)
    places: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lost: Set[str] = frozenset()
    expected: str | None = None
    wanted: set[str] = field(default_factory=set)
    zeros: dict[str, int] = field(default_factory=dict)
    in_objects: dict[str, tuple[int, int]] = field(default_factory=dict)
    number: int = 0
    version: int | None = None
    unless_changed: tuple[int, int] | None = None
    merged: Mapping[str, Any] | None = None
    stored: Mapping[str, Any] | None = None
    carried: dict[str, Any] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    missing: dict[str, MissingVectors] = field(default_factory=dict)

    @property
    def noted(self) -> str:
        """What is compared with the index afterward: the hash, and the vectors where they are verified."""
        return self.hash if self.expected is None else f"{self.hash} {self.expected}"

    @property
    def encoded_size(self) -> int:
        """About how many bytes it takes once it has its vectors."""
        vectors = sum(vector_size(v) for v in self.vectors.values())
        return self.size + vectors + sum(vector_size(v) for c in self.chunk_vectors for v in c.values())


def as_record_error(error: BaseException, what: str) -> RecordError:
    """Whatever one record raised, as that record's error: the others go on.

    Sources, hooks and records come from outside, and what odd values make of them (a key that is None, an
    object whose comparison raises) can't be foreseen one by one. What is known to happen has an error with a
    remedy where it happens; this is for the rest.

    Args:
        error: what was raised.
        what: what failed, as the message begins (``the transform hook``).
    """
    if isinstance(error, RecordError):
        return error
    name = type(error).__name__
    made = RecordError(f"{what} failed: {f'{name}: {message_of(error)}'.removesuffix(': ')}")
    made.__cause__ = error
    return made


def ends_the_run(error: BaseException) -> bool:
    """Whether something that was raised while one record was at hand says nothing about that record.

    So do an engine or an encoder that is away, a fault of ours (InvariantError), a run that was stopped, and
    memory that ran out: the next record would meet the same. All else is the record's, whatever its type.
    """
    if isinstance(error, Exception):
        return isinstance(error, MemoryError) or (
            isinstance(error, EsembedError) and not isinstance(error, RecordError)
        )
    # A panic in Rust code (a tokenizer, a splitter) is no Exception to Python, and is about the text at hand.
    return type(error).__module__ != "pyo3_runtime"


def vector_size(vector: npt.NDArray[Any] | SparseVector) -> int:
    """About how many bytes it takes on its way."""
    return 40 * len(vector) if isinstance(vector, SparseVector) else 4 * vector.size


def hash_parts(value: str) -> tuple[str, int]:
    """A stored hash → what is compared, and the number of chunk documents."""
    head, _, chunks = value.rpartition(".")
    return (head, int(chunks)) if head and chunks.isdigit() else (value, 0)
