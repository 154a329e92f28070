"""Vectors that a migration takes over from the old index instead of encoding their texts again.

A migration re-encodes only what changed. The vectors of other fields are read along with each document
(``read_documents`` of :mod:`esembed.ingest.sources.index`) and handed back when the ingest asks for that
text; a text that isn't known any more is encoded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from esembed.capabilities import Capabilities
from esembed.dialect.meta import PARENT_FIELD
from esembed.encode.base import DenseEncoder, EncoderInfo, EncodeStats
from esembed.ingest.id_table import IdTable
from esembed.ingest.sources.index import scan_target
from esembed.plan import IndexPlan
from esembed.transport import Transport
from esembed.types import DenseMatrix, FloatArray

__all__ = ["CopyingEncoder", "VectorCache", "compare_ids", "copyable"]


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


def compare_ids(
    transport: Transport, capabilities: Capabilities, old: str, new: str
) -> tuple[list[str], dict[str, str | None], int]:
    """Ids that only the old index has (the first 100), ids that only the new one has, each with its routing,
    documents in both.

    The ids lie on disk meanwhile. Chunks that are documents of their own are not counted; those of
    a parent that is gone stand among the new index's own.
    """
    missing: list[str] = []
    extra: dict[str, str | None] = {}
    seen = IdTable()
    both = 0
    try:
        for hit in scan_target(transport, old, capabilities).scan_hidden():
            if not (hit.get("_source") or {}).get(PARENT_FIELD):
                seen.put(hit["_id"], None)
        batch: list[str] = []
        for hit in scan_target(transport, new, capabilities).scan_hidden():
            parent = (hit.get("_source") or {}).get(PARENT_FIELD)
            if (parent or hit["_id"]) not in seen:
                extra[hit["_id"]] = hit.get("_routing")
            elif not parent:
                both += 1
                batch.append(hit["_id"])
            if len(batch) >= 1000:
                seen.mark(batch)
                batch = []
        seen.mark(batch)
        for doc_id in seen.unmarked():
            missing.append(doc_id)
            if len(missing) >= 100:
                break
    finally:
        seen.close()
    return missing, extra, both


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
        same_text = (was.source, was.separator, was.chunked) == (field.source, field.separator, field.chunked)
        same_chunks = not field.chunked or (
            old.chunk == new.chunk and new.chunk is not None and new.chunk.store == "nested"
        )
        if same_text and same_chunks and was.element_type == "float" and field.element_type == "float":
            names.append(name)
    return names
