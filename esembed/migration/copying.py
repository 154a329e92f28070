"""Vectors that a migration takes over from the old index instead of encoding their texts again.

A migration re-encodes only what changed. The vectors of other fields are read along with each document
(``read_documents`` of :mod:`esembed.ingest.sources.index`) and handed back when the ingest asks for that
text; a text that isn't known any more is encoded.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from esembed.capabilities import Capabilities
from esembed.dialect.meta import NO_CHUNKS, PARENT_FIELD
from esembed.encode.base import DenseEncoder, EncoderInfo, EncodeStats
from esembed.errors import PlanError
from esembed.ingest.id_table import IdTable
from esembed.ingest.sources.index import scan_target
from esembed.lazy import np
from esembed.plan import DenseField, IndexPlan, SparseField
from esembed.transport import Transport
from esembed.types import DenseMatrix, FloatArray

__all__ = ["CopyingEncoder", "OldIds", "VectorCache", "brought", "copyable", "searched_alike"]

STRETCHES = 2_000
"""Into so many stretches of sequence numbers an index is divided to find what was deleted: of a million
documents 500 ids are read for each one. Engines give up to 65,535 buckets in an answer."""

MOST_STRETCHES = 200
"""Deletes in more stretches than this are found by reading all ids: these are a tenth of all, each stretch a
clause of the query (engines take 1,024), and a page of 5,000 ids takes some 20 ms."""

IDS_PAGE = 5_000
"""Ids of one page: some 300 KB of JSON. Engines give up to 10,000 hits."""


class VectorCache:
    """Text → vector of one field, the oldest forgotten first. Safe to use from several threads.

    Args:
        max_bytes: what texts and vectors may take.
    """

    def __init__(self, max_bytes: int = 128 * 1024 * 1024) -> None:
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._bytes = 0
        self._known: OrderedDict[str, FloatArray] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, text: str, vector: FloatArray) -> None:
        """Remember the vector of a text."""
        with self._lock:
            if text in self._known:
                return
            self._known[text] = vector
            self._bytes += len(text) * 2 + vector.nbytes
            # The ingest asks for a text soon after its document was read, so the oldest has been asked for
            # already.
            while self._bytes > self.max_bytes and self._known:
                old, gone = self._known.popitem(last=False)
                self._bytes -= len(old) * 2 + gone.nbytes

    def get(self, text: str) -> FloatArray | None:
        """The vector, or None."""
        with self._lock:
            found = self._known.get(text)
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
            return found


class CopyingEncoder:
    """An encoder that looks into a :class:`VectorCache` first; what it declares is the encoder's own."""

    def __init__(self, inner: DenseEncoder, memory: VectorCache) -> None:
        self._inner = inner
        self._memory = memory

    @property
    def info(self) -> EncoderInfo:
        """The inner encoder's."""
        return self._inner.info

    @property
    def stats(self) -> EncodeStats:
        """The inner encoder's: copied texts are not in it."""
        return self._inner.stats

    def encode_document(self, texts: Sequence[str]) -> DenseMatrix:
        """Float32, shape (len(texts), dims)."""
        found = [self._memory.get(text) for text in texts]
        missing = [i for i, vector in enumerate(found) if vector is None]
        if len(missing) == len(texts):
            return self._inner.encode_document(texts)
        rows: list[Any] = list(found)
        if missing:
            for i, vector in zip(
                missing, self._inner.encode_document([texts[i] for i in missing]), strict=True
            ):
                rows[i] = vector
        return np.stack(rows).astype(np.float32, copy=False)

    def encode_query(self, texts: Sequence[str]) -> DenseMatrix:
        """Float32, shape (len(texts), dims)."""
        return self._inner.encode_query(texts)

    def close(self) -> None:
        """Nothing: the inner encoder is closed by whoever made it."""


class OldIds:
    """What a copy knows of the old index: the ids that it read, with the sequence numbers they had.

    Each write gives its document a new sequence number, and what was written is read again by the next pass
    of the copy. So once nobody writes, the ids here are those of the old index but for the ones that were
    deleted, and these are found by counting sequence numbers: a question or two instead of a look at every
    document.

    Args:
        transport: what carries the requests.
        capabilities: of the engine.
        old, new: the two indices.
        separate_chunks: whether the new index has chunks that are documents of their own.
    """

    def __init__(
        self, transport: Transport, capabilities: Capabilities, old: str, new: str, *, separate_chunks: bool
    ) -> None:
        self._table = IdTable()
        self._old = scan_target(transport, old, capabilities)
        self._new = scan_target(transport, new, capabilities)
        self._separate_chunks = separate_chunks

    def read(self, doc_id: str, seq_no: int) -> None:
        """The copy has read this document."""
        self._table.put(doc_id, seq_no)

    def deleted(self) -> dict[str, str | None]:
        """Forget the ids that the old index, which has to be refreshed, doesn't have any more.

        While nobody writes, and all that was written has been read, this is exact.

        Returns:
            Of these the ones that the new index has, each with its routing. While others write, documents are
            among them that were written again since the last pass; the next pass brings those back.
        """
        if self.count_old() == len(self._table):
            # The ids here are all those of the old index and those that are gone. While others write, a new
            # document may make up for a deleted one; the pass that reads the new one finds the other.
            return {}
        width = self._table.highest() // STRETCHES + 1
        expected, found = self._table.counts(width), self._old.sequence_counts(width)
        stretches = sorted(n for n, count in expected.items() if found.get(n, 0) != count)
        if not stretches:
            return {}  # somebody wrote between the two questions
        bounds = [(stretch * width, (stretch + 1) * width) for stretch in stretches]
        query: Mapping[str, Any] = NO_CHUNKS
        if len(stretches) > MOST_STRETCHES:
            bounds = [(0, 2**63 - 1)]
        else:
            ranges = [{"range": {"_seq_no": {"gte": low, "lt": high}}} for low, high in bounds]
            query = {"bool": {"filter": [{"bool": {"should": ranges}}, NO_CHUNKS]}}
        here = {hit["_id"] for hit in self._old.scan(False, query=query, size=IDS_PAGE)}
        gone = [
            doc_id for low, high in bounds for doc_id in self._table.between(low, high) if doc_id not in here
        ]
        for doc_id in gone:
            self._table.remove(doc_id)
        left: dict[str, str | None] = {}
        for at in range(0, len(gone), IDS_PAGE):
            query = {"ids": {"values": gone[at : at + IDS_PAGE]}}
            left |= {h["_id"]: h.get("_routing") for h in self._new.scan(False, query=query, size=IDS_PAGE)}
        return left

    def compare(self, advance: Callable[[int], None]) -> tuple[list[str], dict[str, str | None], int]:
        """Look at every id of the new index.

        Args:
            advance: told of each thousand ids.

        Returns:
            Ids that only the old index has (the first 100), ids that only the new one has, each with its
            routing (chunks whose parent is gone among them), documents in both.
        """
        extra: dict[str, str | None] = {}
        both = 0
        batch: list[str] = []
        # Only chunks name a parent; without them nothing of a document has to be read but its id.
        hits = self._new.scan_hidden() if self._separate_chunks else self._new.scan(False, size=IDS_PAGE)
        for hit in hits:
            parent = (hit.get("_source") or {}).get(PARENT_FIELD)
            if (parent or hit["_id"]) not in self._table:
                extra[hit["_id"]] = hit.get("_routing")
            elif not parent:
                both += 1
                batch.append(hit["_id"])
            if len(batch) >= 1000:
                self._table.mark(batch)
                advance(len(batch))
                batch = []
        self._table.mark(batch)
        return list(itertools.islice(self._table.unmarked(), 100)), extra, both

    def count_old(self) -> int:
        """How many documents the old index has, chunks not counted."""
        return self._old.count(NO_CHUNKS)

    def counts(self) -> tuple[int, int]:
        """The same of the old and the new index."""
        return self.count_old(), self._new.count(NO_CHUNKS)

    def close(self) -> None:
        """Give the disk back."""
        self._table.close()


def brought(old: IndexPlan, new: IndexPlan) -> list[str]:
    """The fields whose stored vectors go into the new index as they are, whoever made them: those that the
    new plan says are precomputed. Those of the old plan that the new one doesn't know stay in ``_source``.

    Raises:
        PlanError: the stored vectors don't fit the new field.
    """
    path = old.chunk.path if old.chunk is not None else ""
    if old.object_vectors and new.makes_chunks and new.chunk is not None and new.chunk.path == path:
        raise PlanError(
            f"the index has objects under {path!r} with vectors that came with the records, and the plan "
            "puts the chunks that it cuts there; write another path = …. Nothing was changed",
            path="chunk.path",
        )
    names = [name for name, field in old.vector_fields() if field.precomputed and not field.chunked]
    names = [name for name in names if new.vector_field(name) is None]
    for name, field in new.vector_fields():
        was = old.vector_field(name)
        if was is None or not field.precomputed:
            continue
        problem = _misfit(was, field)
        if problem is not None:
            section = "dense" if isinstance(field, DenseField) else "sparse"
            raise PlanError(
                f"the plan says precomputed, so the vectors that the index has are taken over, but {problem}"
                "; give the field another name, or name an encoder that makes its vectors (roll back without "
                "replay_writes). Nothing was changed",
                path=f"{section}.{name}",
            )
        if not field.chunked or name in new.object_vectors:
            names.append(name)
    return names


def _misfit(was: DenseField | SparseField, field: DenseField | SparseField) -> str | None:
    """Why vectors of one field can't be those of another, or None."""
    if isinstance(was, DenseField) and isinstance(field, DenseField):
        if was.dims not in (None, field.dims):
            return f"they have {was.dims} dims instead of {field.dims}"
        if "bit" in (was.element_type, field.element_type) and was.element_type != field.element_type:
            return f"they are of element_type {was.element_type}, not {field.element_type}"
        if was.element_type == "byte" and was.scale is None and field.scale is not None:
            return f"they are whole numbers up to 127, and a scale of {field.scale:g} would cut them off"
    elif isinstance(was, SparseField) and isinstance(field, SparseField):
        if field.storage not in ("auto", was.storage):
            return f"they are stored as {was.storage}, not as {field.storage}"
    else:
        return "these are " + ("dense" if isinstance(was, DenseField) else "sparse")
    if was.chunked != field.chunked:
        return "the one is of chunks, the other of whole documents"
    return None


def _same_text(was: DenseField | SparseField, field: DenseField | SparseField) -> bool:
    return (was.source, was.separator, was.chunked) == (field.source, field.separator, field.chunked)


def searched_alike(old: IndexPlan, new: IndexPlan, unchanged: Collection[str]) -> bool:
    """Whether each leg of the old plan's searches has a leg of the new one's that scores the same texts and
    vectors: by the same encoder (*unchanged*), and from the same fields. How vectors are compressed, and what
    is filtered by, doesn't count."""
    if old.text != new.text or old.chunk != new.chunk:
        return False
    before = dict(old.vector_fields())
    if before.keys() != dict(new.vector_fields()).keys():
        return False
    for name, field in new.vector_fields():
        was = before[name]
        # A lexical field has no model: its contract differs by the average length that the index settled.
        same = was.params == field.params if field.family == "lexical" else name in unchanged
        if not same or not _same_text(was, field):
            return False
    return True


def copyable(old: IndexPlan, new: IndexPlan, unchanged: Collection[str]) -> list[str]:
    """The dense fields whose stored vectors serve the new plan: the same encoder contract
    (*unchanged*), made from the same text, kept as floats."""
    names = []
    for name, field in new.dense.items():
        was = old.dense.get(name)
        if was is None or name not in unchanged or field.precomputed:
            continue
        if field.endpoint is not None:  # its pipeline computes them again
            continue
        same_chunks = not field.chunked or (
            old.chunk == new.chunk and new.chunk is not None and new.chunk.store == "nested"
        )
        if (
            _same_text(was, field)
            and same_chunks
            and was.element_type == "float"
            and field.element_type == "float"
        ):
            names.append(name)
    return names
