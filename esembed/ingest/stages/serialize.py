"""Encoded records to bulk units: the document, or the document and its chunks, as bytes."""

from __future__ import annotations

from typing import Any

from esembed.dialect.documents import BulkFormat, chunk_id
from esembed.dialect.meta import HASH_FIELD, TEXT_PREFIX
from esembed.ingest.bulk import BulkUnit
from esembed.ingest.stages.prepare import Work

__all__ = ["UnitBuilder"]


class UnitBuilder:
    """Makes the lines of one record.

    Args:
        form: how the engine takes documents.
        vectors_only: write vectors and hash as a partial update.
    """

    def __init__(self, form: BulkFormat, *, vectors_only: bool) -> None:
        self._form = form
        self._vectors_only = vectors_only
        self._inside = {n for n, p in form.plan.vector_fields() if p.endpoint is not None}
        chunk = form.plan.chunk
        self._nested = chunk is not None and chunk.store == "nested"

    def __call__(self, work: Work) -> BulkUnit:
        """The unit of a work. Raises RecordError for what can't be written."""
        form = self._form
        if work.op == "delete":
            chunks = [form.delete_line(chunk_id(work.id, n)) for n in range(work.old_chunks)]
            return BulkUnit(work.id, "delete", [*chunks, form.delete_line(work.id)], tag=work)
        apart = work.chunks is not None and not self._nested
        count = len(work.chunks or ()) if apart else 0
        if work.op == "update" and work.chunks is None:
            count = work.old_chunks
        stored = f"{work.hash}.{count}"
        nested: list[tuple[str, Any]] | None = None
        if work.chunks is not None and self._nested:
            nested = list(zip(work.chunks, work.chunk_vectors, strict=True))
        partial = work.op == "update" or self._vectors_only
        source = {} if self._vectors_only else work.source
        body = form.body(source, work.vectors, content_hash=stored, chunks=nested)
        if self._inside and not partial:
            # For the index's ingest pipeline, which puts the vectors in their place and takes these out.
            body |= {f"{TEXT_PREFIX}{n}": text for n, text in work.texts.items() if n in self._inside}
        lines: list[bytes] = []
        then: list[bytes] = []
        if apart:
            for number, (text, vectors) in enumerate(zip(work.chunks or (), work.chunk_vectors, strict=True)):
                chunk = form.chunk_body(work.id, work.source, text, vectors, stored)
                lines.append(form.index_lines(chunk_id(work.id, number), chunk))
            for number in range(count, work.old_chunks):
                lines.append(form.delete_line(chunk_id(work.id, number)))
        elif work.op == "update" and count:
            filters = {k: v for k, v in work.source.items() if k in form.plan.filter}
            if filters:
                lines += [form.update_lines(chunk_id(work.id, n), filters) for n in range(count)]
        # The document itself goes last, once its chunks are in: as long as its hash is the old one, the
        # work is not done.
        sparse = {name: body[name] for name in work.vectors if name in form.plan.sparse}
        if partial and work.encoded_before and sparse:
            # A partial update merges objects, and a sparse vector is one: tokens of the old text would
            # stay. A list is replaced, not merged, so an empty one clears the field first; but not before
            # the engine took the rest of the update. Until then the hash is nobody's.
            unfinished = {**body, HASH_FIELD: "0" * 16 + stored[16:]}
            for name in sparse:
                del unfinished[name]
            lines.append(form.update_lines(work.id, unfinished))
            then.append(form.update_lines(work.id, {name: [] for name in sparse}))
            then.append(form.update_lines(work.id, {**sparse, HASH_FIELD: stored}))
        else:
            line = form.update_lines(work.id, body) if partial else form.index_lines(work.id, body)
            (then if lines else lines).append(line)
        return BulkUnit(work.id, work.op, lines, tag=_slim(work), then=then)


def _slim(work: Work) -> Work:
    """What is needed once the lines are made: vectors and texts may go."""
    work.vectors = {}
    work.chunk_vectors = []
    work.texts = {}
    return work
