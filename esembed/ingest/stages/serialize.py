"""Encoded records to bulk actions: the document, or the document and its chunks, as bytes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for
from esembed.dialect.documents import action_line, as_of, chunk_id, dumps
from esembed.dialect.meta import HASH_FIELD, TEXT_PREFIX
from esembed.dialect.source_rules import within
from esembed.ingest.bulk import BulkAction
from esembed.ingest.options import IngestOptions, IngestReport, MissingVectors
from esembed.ingest.outcomes import Outcomes
from esembed.ingest.record import UNFINISHED, PreparedRecord
from esembed.ingest.vector_check import VectorCheck
from esembed.plan import IndexPlan, paths

__all__ = ["SerializeStage"]


class SerializeStage:
    """Makes the bulk lines of each record.

    Args:
        plan, capabilities, options: of the run.
        token_ids: sparse field → id table, for SEISMIC.
        outcomes: takes the records that can't be written.
    """

    name = "serialize"

    def __init__(
        self,
        plan: IndexPlan,
        capabilities: Capabilities,
        options: IngestOptions,
        *,
        token_ids: Mapping[str, Mapping[str, int]] | None = None,
        outcomes: Outcomes,
    ) -> None:
        self._form = dialect_for(capabilities).documents.bulk(plan, token_ids)
        self._vectors_only = options.vectors_only
        self._outcomes = outcomes
        self._precomputed = {name for name, field in plan.vector_fields() if field.precomputed}
        self._precomputed_sent = self._reused = 0
        self._check = VectorCheck(plan, self._form.format) if options.verify else None
        self._inside = {name for name, field in plan.vector_fields() if field.endpoint is not None}
        self._chunked = {n for n, f in plan.vector_fields() if f.chunked and plan.chunk is not None}
        self._in_objects = plan.object_vectors
        self._nested = plan.chunk is not None and plan.chunk.store == "nested"

    def start(self) -> None:
        """Nothing is needed."""

    def report(self) -> IngestReport:
        """How many vectors were sent that this run did not make; all else is counted by its outcomes."""
        return IngestReport(precomputed_vectors=self._precomputed_sent, reused_vectors=self._reused)

    def __call__(self, record: PreparedRecord) -> BulkAction | None:
        """The bulk action of a record; None where it left the pipeline here.

        Raises:
            RecordError, PermanentError: see :meth:`Outcomes.dead_letter`.
        """
        try:
            if self._check is not None and record.op != "delete":
                record.expected = self._check.expect(record, encoded=True)
            return self.action(record)
        except BaseException as raised:  # noqa: BLE001 - Outcomes.failed decides whose error it is
            self._outcomes.failed(record, raised, "writing it as JSON")
            return None

    def action(self, record: PreparedRecord) -> BulkAction:
        """The bulk action of a record. Raises RecordError for what can't be written."""
        form = self._form
        # Counted here, since the vectors don't travel on with the record.
        self._precomputed_sent += sum(name in self._precomputed for name in record.vectors)
        self._precomputed_sent += sum(have for have, _ in record.in_objects.values())
        # Chunks go to their document's shard: deleting or replacing them needs no routing of their own then.
        routing = record.document.routing
        if record.op == "delete":
            return self._delete(record)
        separate = record.chunks is not None and not self._nested
        count = len(record.chunks or ()) if separate else 0
        if record.op == "update" and record.chunks is None:
            count = record.old_chunks
        stored = f"{record.hash}.{count}"
        change = record.op == "update" or self._vectors_only
        partial = change and record.stored is None
        nested: list[tuple[str, Any]] | None = None
        if record.chunks is not None and self._nested and (record.chunks or change):
            nested = list(zip(record.chunks, record.chunk_vectors, strict=True))
        source = {} if self._vectors_only else record.source
        record.missing = self._missing(record)
        # A whole document replaces the old one; a partial one must take away what it no longer has.
        removed = (
            [n for n in record.missing if n not in self._chunked] if change and record.encoded_before else []
        )
        body = form.body(
            source,
            record.vectors,
            content_hash=stored,
            chunks=nested,
            places=record.places,
            removed=removed,
        )
        for path, value in record.carried.items():
            paths.put(body, paths.place(source, path), value)
        self._reused += len(record.kept)
        if record.stored is not None:
            body = self._whole(record, body, removed)
        elif self._inside and not partial:
            # For the index's ingest pipeline, which puts the vectors in their place and takes these out.
            body |= {f"{TEXT_PREFIX}{n}": text for n, text in record.texts.items() if n in self._inside}
        lines: list[bytes] = []
        then: list[bytes] = []
        condition = {} if partial else _condition(record)
        # As for a partial update: the document went through the index's pipeline when it came.
        said = {**condition, "pipeline": "_none"} if record.stored is not None else condition
        if separate and condition:
            # The document first, marked as unfinished: an older record must not put its chunks there.
            unfinished = {**body, HASH_FIELD: UNFINISHED + stored[16:]}
            first = [form.index_lines(record.id, unfinished, routing, **said)]
        if separate:
            made = zip(record.chunks or (), record.chunk_vectors, strict=True)
            for number, (text, vectors) in enumerate(made):
                fields = record.source if record.merged is None else record.merged
                chunk = form.chunk_body(record.id, fields, text, vectors, stored)
                lines.append(form.index_lines(chunk_id(record.id, number), chunk, routing, **condition))
            for number in range(count, record.old_chunks):
                lines.append(form.delete_line(chunk_id(record.id, number), routing, **condition))
        elif partial and record.op == "update" and count:
            named = [name for name in form.plan.filter if paths.places(record.source, name)]
            filters = {name: paths.get(record.source, name) for name in named}
            if filters:
                lines += [form.update_lines(chunk_id(record.id, n), filters, routing) for n in range(count)]
        # The document itself goes last, once its chunks are in: as long as its hash is the old one, the
        # record is not done.
        sparse = [name for name in record.vectors if name in form.plan.sparse]
        if partial and record.encoded_before and sparse:
            # A partial update merges objects, and a sparse vector is one: tokens of the old text would
            # stay. A list is replaced, not merged, so an empty one clears the field first; but not before
            # the engine took the rest of the update. Until then the hash is nobody's.
            unfinished = {**body, HASH_FIELD: UNFINISHED + stored[16:]}
            cleared: dict[str, Any] = {}
            filled: dict[str, Any] = {}
            for name in sparse:
                keys = paths.place(body, name)
                paths.put(cleared, keys, [])
                paths.put(filled, keys, paths.pop(unfinished, name))
            lines.append(form.update_lines(record.id, unfinished, routing))
            # Each of these is a partial update of its own, which loses what isn't in _source once more.
            kept = {k: v for k, v in unfinished.items() if any(within(path, (k,)) for path in record.lost)}
            then.append(form.update_lines(record.id, paths.merge(kept, cleared), routing))
            filled = {**paths.merge(kept, filled), HASH_FIELD: stored}
            then.append(form.update_lines(record.id, filled, routing))
        elif partial:
            (then if lines else lines).append(form.update_lines(record.id, body, routing))
        else:
            line = form.index_lines(record.id, body, routing, **said)
            (then if lines else lines).append(line)
            if separate and condition:
                lines, then = first, [*lines, *then]
        conditional = bool(condition)
        return BulkAction(record.id, record.op, lines, tag=_slim(record), then=then, conditional=conditional)

    def _whole(
        self, record: PreparedRecord, change: Mapping[str, Any], removed: Collection[str]
    ) -> dict[str, Any]:
        """The document that a change makes of the stored one."""
        stored = dict(record.stored or {})
        for name in (*record.vectors, *removed):
            # A sparse vector is an object, and objects are merged.
            paths.pop(stored, name)
        kept = dict(change)
        for name in removed:
            paths.pop(kept, name)
        return paths.merge(stored, kept)

    def _delete(self, record: PreparedRecord) -> BulkAction:
        form, routing, condition = self._form, record.document.routing, _condition(record)
        gone = [chunk_id(record.id, n) for n in range(record.old_chunks)] + [record.id]
        if record.unless_changed is not None and len(gone) > 1:
            # A mark on the document tells whether it is the one that was seen, before its chunks go. With it
            # the document is no record's any more, so that a run that ends here is made good by the next.
            mark = action_line("update", record.id, routing=routing, **condition)
            lines = [mark + dumps({"doc": {HASH_FIELD: f"{UNFINISHED}.{record.old_chunks}"}}) + b"\n"]
            then = [form.delete_line(one, routing) for one in gone]
        else:
            lines, then = [form.delete_line(one, routing, **condition) for one in gone], []
        return BulkAction(record.id, "delete", lines, tag=record, then=then, conditional=bool(condition))

    def _missing(self, record: PreparedRecord) -> dict[str, MissingVectors]:
        """Field → what the record goes in without, of the vectors that it was to have. Counted here alone."""
        found: dict[str, MissingVectors] = {}
        for name in record.wanted - record.kept:
            chunks = 0
            if name in self._chunked:
                have = sum(name in vectors for vectors in record.chunk_vectors)
                chunks = len(record.chunks or ()) - have
                if name in self._in_objects:
                    have, chunks = record.in_objects.get(name, (0, 0))
                if have and not chunks:
                    continue
                documents = 0 if have else 1
            elif name in (record.texts if name in self._inside else record.vectors):
                continue
            else:
                documents = 1
            unknown = record.zeros.get(name, 0)
            found[name] = MissingVectors(documents=documents, chunks=chunks, unknown=unknown, ids=[record.id])
        return found


def _condition(record: PreparedRecord) -> dict[str, Any]:
    """What an action says of the document that it may replace or delete."""
    if record.version is not None:
        return as_of(record.version)
    if record.unless_changed is not None:
        number, term = record.unless_changed
        return {"if_seq_no": number, "if_primary_term": term}
    return {}


def _slim(record: PreparedRecord) -> PreparedRecord:
    """What is needed once the lines are made: vectors and texts may go."""
    record.vectors = {}
    record.chunk_vectors = []
    record.texts = {}
    record.merged = record.stored = None
    record.carried = {}
    return record
