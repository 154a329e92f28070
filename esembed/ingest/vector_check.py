"""Whether a document's stored vectors are those made for it: what ``verify`` compares beside hashes.

The hash in a document says what its vectors were made from. It does not say that they are there: a pipeline
may have removed them, a partial update by another program may have lost or replaced them. So a run that
verifies notes a fingerprint of what it sent, and compares it with what the index gives back.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from esembed.dialect.documents import DocumentFormat
from esembed.dialect.quantize_vectors import is_no_vector, quantize
from esembed.encode.base import Encoder
from esembed.errors import RecordError
from esembed.ingest.record import PreparedRecord
from esembed.plan import ChunkOptions, DenseField, IndexPlan, SparseField, paths
from esembed.types import SparseVector

__all__ = ["VectorCheck"]

PROJECTIONS = 4
"""Numbers of a dense fingerprint. Two unrelated directions agree in all of them about once in 10^7 times."""

TOLERANCE = 0.03
"""How far they may differ: an engine that keeps unit vectors gives back other last digits than it got."""

REENCODED_TOLERANCE = 0.15
"""… when a text is encoded again: another dtype or batch moves a unit vector by up to a few per cent, another
model by about 1.4."""

RELATIVE = 0.02
"""How far lengths and sums of weights may differ: rank_features keeps 9 significant bits."""

Fingerprint = list[float]


class VectorCheck:
    """Fingerprints of vectors, sent and stored.

    Args:
        plan: of the index.
        format: the engine's documents.
    """

    def __init__(self, plan: IndexPlan, format: DocumentFormat) -> None:
        self._plan, self._format = plan, format
        chunk = plan.chunk
        self._chunks = chunk.path if chunk is not None and chunk.store == "nested" else None
        # Chunks that are documents of their own are counted with their parent's hash alone.
        self._fields = {
            name: field
            for name, field in plan.vector_fields()
            if not (field.chunked and self._chunks is None and chunk is not None)
        }

    @property
    def names(self) -> dict[str, str]:
        """Field → its path in a stored document."""
        return {name: self._plan.field_path(name) for name in self._fields}

    # -- what was sent -----------------------------------------------------------------------------

    def expect(self, record: PreparedRecord, *, encoded: bool) -> str:
        """What the document should have, as JSON text.

        Args:
            encoded: whether the record has its vectors. Where it hasn't (it is unchanged), a vector is
                expected for each text, whatever it is; vectors that were brought are known.
        """
        found: dict[str, Any] = {}
        for name, field in self._fields.items():
            if name in record.kept:
                found[name] = True
            elif name in record.vectors:
                found[name] = self._fingerprint(name, record.vectors[name])
            elif field.chunked and self._chunks is not None:
                made = [vectors[name] for vectors in record.chunk_vectors if name in vectors]
                made = made or self._brought(record, name, field)
                if made:
                    found[name] = [len(made), self._fingerprint(name, made[0])]
                elif not encoded and record.chunk_text is not None:
                    found[name] = True
            elif name in record.texts and (not encoded or field.endpoint is not None):
                found[name] = True
        return orjson.dumps(found).decode()

    def _brought(
        self, record: PreparedRecord, name: str, field: DenseField | SparseField
    ) -> list[npt.NDArray[Any] | SparseVector]:
        """The vectors of a field in the nested objects that the record brought."""
        if name not in self._plan.object_vectors or self._chunks is None:
            return []
        objects = paths.get(record.source, self._chunks)
        values = [item.get(name) for item in objects if isinstance(item, Mapping)] if objects else []
        return [
            SparseVector.from_dict(value) if isinstance(field, SparseField) else np.asarray(value)
            for value in values
            if value is not None
        ]

    def _fingerprint(self, name: str, vector: npt.NDArray[Any] | SparseVector) -> Fingerprint:
        field = self._fields[name]
        if isinstance(vector, SparseVector):
            return [float(len(vector)), float(np.sum(vector.values, dtype=np.float64))]
        if isinstance(field, DenseField) and field.element_type in ("byte", "bit"):
            vector = quantize(field, vector)
        return _project(np.asarray(vector, np.float64))

    # -- what is stored ----------------------------------------------------------------------------

    def stored(self, source: Mapping[str, Any]) -> dict[str, Any]:
        """Field → fingerprint of the vectors in a stored document, in the form of :meth:`expect`."""
        found: dict[str, Any] = {}
        for name, field in self._fields.items():
            if field.chunked and self._chunks is not None:
                chunks = paths.get(source, self._chunks)
                chunks = chunks if isinstance(chunks, list) else [chunks]
                values = [c.get(name) for c in chunks if isinstance(c, Mapping) and c.get(name) is not None]
                first = self._read(field, values[0]) if values else None
                if first is not None:
                    found[name] = [len(values), first]
                continue
            value = source.get(name)
            read = self._read(field, paths.get(source, name) if value is None else value)
            if read is not None:
                found[name] = read
        return found

    def _read(self, field: DenseField | SparseField, value: Any) -> Fingerprint | None:
        try:
            if isinstance(field, SparseField):
                weights = list(value.values()) if isinstance(value, Mapping) else []
                return [float(len(weights)), float(sum(map(float, weights)))] if weights else None
            vector = self._format.read_dense(value)
            return None if vector is None else _project(np.asarray(vector, np.float64))
        except (ArithmeticError, TypeError, ValueError):  # somebody put something else there
            return []

    def differing(self, expected: str, found: Mapping[str, Any]) -> list[str]:
        """The fields whose stored vector is missing or another one."""
        return [
            name
            for name, value in orjson.loads(expected).items()
            if not self._same(name, value, found.get(name), TOLERANCE)
        ]

    def _same(self, name: str, sent: Any, has: Any, tolerance: float) -> bool:
        if not has:
            return False
        if sent is True or has is True:
            return True
        if isinstance(sent[1], list):  # chunks: how many, and the first one's
            return bool(sent[0] == has[0]) and self._same(name, sent[1], has[1], tolerance)
        field = self._fields[name]
        if isinstance(field, SparseField):
            return bool(sent[0] == has[0] and abs(sent[1] - has[1]) <= RELATIVE * max(abs(sent[1]), 1e-9))
        if len(sent) != len(has):
            return False
        *direction, length = sent
        close = all(abs(a - b) <= tolerance for a, b in zip(direction, has, strict=False))
        # Engines may keep unit vectors for cosine, so the length says something for the others alone.
        same_length = abs(length - has[-1]) <= RELATIVE * max(abs(length), 1e-9)
        return bool(close and (field.similarity == "cosine" or same_length))

    def may_lack(self, name: str, expected: str, found: Mapping[str, Any]) -> bool:
        """Whether a document without this vector may be right: its text was not encoded in this run, and the
        encoder may know no word of it."""
        field = self._fields[name]
        return found.get(name) is None and orjson.loads(expected)[name] is True and field.encoded_here

    # -- made again --------------------------------------------------------------------------------

    def encoded_again(
        self, encoders: Mapping[str, Encoder], sources: Sequence[Mapping[str, Any]], found: Sequence[Any]
    ) -> dict[str, int]:
        """Field → how many of some documents have another vector than their text makes now.

        Args:
            encoders: of the fields that are encoded here.
            sources: the documents' fields.
            found: what :meth:`stored` found in each.
        """
        wrong: dict[str, int] = {}
        for name, field in self._fields.items():
            encoder: Any = encoders.get(name)
            if encoder is None or not field.encoded_here or field.chunked:
                continue
            texts = [_text(field, source) for source in sources]
            # Another program wrote what no encoder takes into a document whose hash it left alone.
            unreadable = sum(text is None for text in texts)
            if unreadable:
                wrong[name] = unreadable
            known = [at for at, text in enumerate(texts) if text is not None and text.strip()]
            if not known:
                continue
            for at, vector in zip(known, encoder.encode_document([texts[at] for at in known]), strict=True):
                if is_no_vector(field, vector):
                    continue
                made = self._fingerprint(name, vector)
                if not self._same(name, made, found[at].get(name), REENCODED_TOLERANCE):
                    wrong[name] = wrong.get(name, 0) + 1
        return wrong

    def lost(
        self, encoders: Mapping[str, Encoder], documents: Sequence[tuple[Mapping[str, Any], Sequence[str]]]
    ) -> list[list[str]]:
        """For each document, a record's fields and the vector fields that it lacks, those of the latter whose
        text does make a vector.

        The text that is cut into chunks is encoded as a whole: where an encoder knows none of its words, it
        knows none of a chunk's.
        """
        out: list[list[str]] = [[] for _ in documents]
        for name, field in self._fields.items():
            texts: dict[int, str] = {}
            for at, (source, lacking) in enumerate(documents):
                if name in lacking:
                    chunk = self._plan.chunk if field.chunked else None
                    text = _text(field if chunk is None else chunk, source)
                    if text is not None:
                        texts[at] = text
            encoder: Any = encoders.get(name)
            if encoder is None or not texts:
                continue
            for at, vector in zip(texts, encoder.encode_document(list(texts.values())), strict=True):
                if not is_no_vector(field, vector):
                    out[at].append(name)
        return out


def _text(of: DenseField | SparseField | ChunkOptions, source: Mapping[str, Any]) -> str | None:
    """The text that a stored document's vector is made from, empty where there is none; None for what is no
    text."""
    try:
        return of.source_text(source) or ""
    except RecordError:
        return None


@functools.lru_cache(maxsize=8)
def _projection(dims: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng(dims).standard_normal((dims, PROJECTIONS))


def _project(vector: npt.NDArray[np.float64]) -> Fingerprint:
    """The direction in a few numbers, each about normal, and the length."""
    length = float(np.linalg.norm(vector))
    direction = (vector @ _projection(vector.size)) / length if length else np.zeros(PROJECTIONS)
    return [*(round(float(value), 4) for value in direction), round(length, 6)]
