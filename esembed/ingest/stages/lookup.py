"""Before encoding: what the index has already leaves, updates are merged into the stored document.

Where records bring versions (the plan's ``version_field``), what comes without one is written under the
version that its document has: both engines raise the version of what they update or delete, and the
feed's own record would be older than that. They take no version for an update, so it is written as a whole
document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import orjson

from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for
from esembed.dialect.documents import dumps
from esembed.dialect.meta import HASH_FIELD
from esembed.dialect.source_rules import missing_source
from esembed.errors import RecordError
from esembed.ingest.options import IngestOptions, IngestReport
from esembed.ingest.outcomes import Outcomes
from esembed.ingest.record import PreparedRecord, hash_parts
from esembed.ingest.stages.prepare import Preparer
from esembed.ingest.target import WHOLE_DOCUMENTS, SeenDocument, TargetIndex
from esembed.ingest.vector_check import VectorCheck
from esembed.lazy import np
from esembed.plan import IndexPlan, paths

__all__ = ["LookupStage"]


class LookupStage:
    """Sorts a batch: unchanged records leave, updates are merged, the others go on.

    Args:
        plan, capabilities, options: of the run.
        target: the index.
        preparer: of the stage before, for texts and hashes of merged updates.
        outcomes: knows which ids are on their way, and counts what leaves here.
    """

    name = "lookup"

    def __init__(
        self,
        plan: IndexPlan,
        capabilities: Capabilities,
        options: IngestOptions,
        *,
        target: TargetIndex,
        preparer: Preparer,
        outcomes: Outcomes,
    ) -> None:
        self._plan = plan
        self._target, self._preparer, self._outcomes = target, preparer, outcomes
        self._compare, self._vectors_only = options.skip_unchanged, options.vectors_only
        self._separate_chunks = plan.chunk is not None and plan.chunk.store == "documents"
        self._versioned = plan.version_field is not None
        self._dotted = [n for n, field in plan.vector_fields() if "." in n and plan.field_path(n) == n]
        self._same_text = [] if self._separate_chunks else _carried_groups(plan)
        self._check = VectorCheck(plan, dialect_for(capabilities).documents) if options.verify else None
        self._ask = True
        self._flush: Callable[[bool], None] | None = None

    def start(self, *, ask: bool = True, flush: Callable[[bool], None] | None = None) -> None:
        """What is known when the run begins.

        Args:
            ask: whether to ask the index at all (False: it is empty).
            flush: asks the sender not to wait for fuller requests, or to do so again. Needed where the same
                process sends: an update waits here until what it builds on is confirmed.
        """
        self._ask, self._flush = ask, flush

    def report(self) -> IngestReport:
        """Nothing of its own: its outcomes have the counts."""
        return IngestReport()

    @property
    def asks(self) -> bool:
        """Whether the index is asked about whole records."""
        return self._vectors_only or (self._ask and self._compare)

    def __call__(
        self, records: Sequence[PreparedRecord], forward: Callable[[list[PreparedRecord]], None]
    ) -> None:
        """Hand on what is to be encoded, in order.

        Raises:
            EngineUnavailableError: the engine stayed away for too long.
            RecordError, PermanentError: see :meth:`Outcomes.dead_letter`.
        """
        in_flight = self._outcomes.in_flight
        # Taken before the look-up: what is confirmed while it runs makes its answer old.
        moving = {record.id for record in records if record.id in in_flight}
        routing = _routing(records)
        stored = self._stored(records)
        hidden = self._target.hidden([r.id for r in records], routing)
        seen = self._see(records, routing)
        # A backfill writes vectors into documents that it has not read whole: where they stand must be seen.
        placed = self._vectors_only and bool(self._dotted)
        unseen = [r.id for r in records if (r.op == "update" or placed) and not self._versioned]
        current = self._target.sources(unseen, routing)
        if self._same_text and self.asks and not self._vectors_only:
            self._carry_vectors(records, stored, moving, routing)
        out: list[PreparedRecord] = []
        for record in records:
            if record.id in hidden:
                self._outcomes.dead_letter(record, _hidden(record))
                continue
            needs_state = record.op == "update" or self._separate_chunks or self._takes_version(record)
            if needs_state and record.id in moving:
                # It builds on what is on its way: send that first, then look again.
                if out:
                    forward(out)
                    out = []
                self._wait_for(record.id)
                stored.pop(record.id, None)
                stored.update(self._target.hashes([record.id], routing))
                seen.pop(record.id, None)
                seen.update(self._see([record], routing))
                if not self._versioned:
                    current.update(self._target.sources([record.id], routing))
                moving.discard(record.id)
            if (found := seen.get(record.id)) is not None and found.source is not None:
                current[record.id] = dict(found.source)
            try:
                keep = self._one(record, stored, current, seen, moving=record.id in moving)
            except BaseException as raised:  # noqa: BLE001 - Outcomes.failed decides whose error it is
                self._outcomes.failed(record, raised, "comparing it with the index")
                continue
            if keep:
                in_flight.add(record.id)
                record.in_flight = True
                moving.add(record.id)
                out.append(record)
        if out:
            forward(out)

    def _carry_vectors(
        self,
        records: Sequence[PreparedRecord],
        stored: Mapping[str, str | None],
        moving: Set[str],
        routing: Mapping[str, str],
    ) -> None:
        """Spare the encoders the texts that changed records share with their documents."""
        times = Counter(record.id for record in records)
        changed = []
        for record in records:
            old = stored.get(record.id)
            # Under another contract a text has another vector.
            same = old is not None and old.startswith(f"{self._preparer.contract}.")
            if record.op != "index" or not same or record.id in moving or times[record.id] > 1:
                continue
            if hash_parts(old or "")[0] != record.hash:
                changed.append(record)
        for start in range(0, len(changed), WHOLE_DOCUMENTS):
            page = changed[start : start + WHOLE_DOCUMENTS]
            seen = self._target.seen([record.id for record in page], routing, source=True)
            for record in page:
                found = seen.get(record.id)
                if found is not None and found.source is not None:
                    self._carry(record, found.source, str(stored[record.id]))

    def _carry(self, record: PreparedRecord, stored: Mapping[str, Any], old: str) -> None:
        before = self._preparer.without_vectors(stored)
        was = PreparedRecord(document=record.document, id=record.id, op="index", source=before)
        try:
            canonical = orjson.dumps(before, option=orjson.OPT_SORT_KEYS)
            self._preparer.fill_texts(was, before, {name for names in self._same_text for name in names})
        except (RecordError, orjson.JSONEncodeError):
            return
        if hash_parts(old)[0] != self._preparer.content_hash(canonical, {}, old):
            return  # somebody else changed it since, so its vectors may be another text's
        chunk = self._plan.chunk
        for names in self._same_text:
            first = names[0]
            in_chunks = chunk is not None and self._preparer.encoded[first].chunked
            mine, theirs = record.texts.get(first), was.texts.get(first)
            if in_chunks:
                mine, theirs = record.chunk_text, was.chunk_text
            places = [chunk.path] if chunk is not None and in_chunks else names
            values = {place: paths.get(stored, place) for place in places}
            if mine is None or mine != theirs or not all(values.values()):
                continue
            record.carried |= {place: _compact(value) for place, value in values.items()}
            record.kept.update(names)
            record.size += len(dumps(values))
            if in_chunks:
                record.chunk_text = None
            for name in names:
                record.texts.pop(name, None)

    def _wait_for(self, doc_id: str) -> None:
        if self._flush is not None:
            self._flush(True)
        try:
            self._outcomes.in_flight.wait_for(doc_id)
        finally:
            if self._flush is not None:
                self._flush(False)

    def _changes(self, record: PreparedRecord) -> bool:
        """Whether it is written into the document that is there."""
        return record.op == "update" or (self._vectors_only and record.op == "index")

    def _takes_version(self, record: PreparedRecord) -> bool:
        """Whether it is written under the version of the document that is there."""
        return self._versioned and (
            self._changes(record) or (record.op == "delete" and record.version is None)
        )

    def _see(self, records: Sequence[PreparedRecord], routing: Mapping[str, str]) -> dict[str, SeenDocument]:
        """The documents whose versions are taken. Nothing where records have no versions."""
        wanted = [record for record in records if self._takes_version(record)]
        whole = list(dict.fromkeys(r.id for r in wanted if self._changes(r)))
        rest = dict.fromkeys(r.id for r in wanted)
        seen = self._target.seen(whole, routing, source=True)
        return seen | self._target.seen([i for i in rest if i not in seen], routing, source=False)

    def _stored(self, records: Sequence[PreparedRecord]) -> dict[str, str | None]:
        stored: dict[str, str | None] = {}
        ask = []
        for record in records:
            if record.op == "delete" and not self._separate_chunks:
                continue
            whole = record.op == "index" and not self._separate_chunks and not self._vectors_only
            if whole and not (self._compare and self._ask):
                continue
            ask.append(record.id)
        if ask and (self._ask or self._vectors_only or any(r.op == "update" for r in records)):
            stored.update(self._target.hashes(list(dict.fromkeys(ask)), _routing(records)))
        return stored

    def _one(
        self,
        record: PreparedRecord,
        stored: dict[str, str | None],
        current: dict[str, dict[str, Any]],
        seen: Mapping[str, SeenDocument],
        *,
        moving: bool,
    ) -> bool:
        """Whether the record goes on; else it is counted here."""
        old = stored.get(record.id)
        head, record.old_chunks = hash_parts(old) if old else ("", 0)
        record.encoded_before = old is not None or record.op == "update"
        if record.op == "update" or self._vectors_only:
            record.lost = self._target.lost
        if record.op == "delete":
            return not self._takes_version(record) or self._delete_as_seen(record, seen.get(record.id))
        if record.op == "update":
            if record.id not in stored or record.id not in current:
                raise RecordError(f"there is no document {record.id!r} to update; index it first")
            if not self._merge(record, current[record.id], old):
                self._unchanged(record)
                return False
        elif self._compare and head == record.hash and not moving:
            self._unchanged(record)
            return False
        elif self._vectors_only and (record.id not in stored or (self._versioned and record.id not in seen)):
            raise RecordError(f"there is no document {record.id!r} in the index any more")
        if self._vectors_only and record.id in current:
            record.places = self._places(current[record.id])
        if self._takes_version(record):
            found = seen[record.id]
            record.version, record.stored = found.version, found.source
            # As Python keeps the numbers of vectors.
            record.size += 3 * len(orjson.dumps(found.source))
        return True

    def _delete_as_seen(self, record: PreparedRecord, found: SeenDocument | None) -> bool:
        """A delete that brings no version gets its document's; whether there is something to delete."""
        if found is None:
            # Not sent: it would raise the version that the engine remembers of the deleted document.
            self._outcomes.absent(record)
            return False
        if record.unless_changed not in (None, found.sequence):
            self._outcomes.outdated(record)
            return False
        # Engines take a version or a sequence number, not both.
        record.version, record.unless_changed = found.version, None
        return True

    def _unchanged(self, record: PreparedRecord) -> None:
        if self._check is not None:
            record.expected = self._check.expect(record, encoded=False)
        self._outcomes.unchanged(record)

    def _merge(self, record: PreparedRecord, stored: dict[str, Any], old: str | None) -> bool:
        """Merge an update into the stored document: texts and hash are the merged one's, what is sent
        stays the change. Returns whether anything changes."""
        current = self._preparer.without_vectors(stored)
        record.source = paths.align(current, record.source)
        record.places = self._places(stored)
        record.merged = merged = paths.merge(current, record.source)
        changed = {name for name in self._preparer.encoded if self._preparer.touches(name, record.source)}
        if self._target.lost:
            changed |= self._keep_what_is_lost(record, changed)
        filters = any(paths.places(record.source, name) for name in self._plan.filter)
        if filters and self._versioned and self._separate_chunks and record.old_chunks:
            # Chunks hold their document's filter fields, and have its version: they are written whole, too.
            changed |= {name for name, spec in self._preparer.encoded.items() if spec.chunked}
        stale = changed & self._preparer.inside
        if stale:
            raise RecordError(
                f"the update changes what {', '.join(map(repr, sorted(stale)))} is made from, and the engine "
                "encodes whole documents only (its ingest pipelines don't see partial ones): send the whole "
                "record",
                field=min(stale),
            )
        self._preparer.fill_texts(record, merged, changed)
        canonical = orjson.dumps(merged, option=orjson.OPT_SORT_KEYS)
        removed = record.wanted - record.vectors.keys()
        record.hash = self._preparer.content_hash(canonical, record.vectors, old, removed=removed)
        return not (self._compare and old is not None and hash_parts(old)[0] == record.hash)

    def _places(self, stored: Mapping[str, Any]) -> dict[str, paths.Keys]:
        """Where the vectors of dotted names stand in a stored document, or would be put."""
        return {name: paths.place(stored, name) for name in self._dotted}

    def _keep_what_is_lost(self, record: PreparedRecord, changed: Set[str]) -> set[str]:
        """The encoded fields that are made again because the engine loses them in a partial update.

        Raises:
            RecordError: the update would lose a field that can't be made again.
        """
        plan, lost, encoded = self._plan, self._target.lost, self._preparer.encoded
        chunk = plan.chunk
        again = {name for name in encoded if plan.field_path(name) in lost}
        made = [plan.field_path(name) for name in again | changed]
        if chunk is not None and any(encoded[name].chunked for name in again | changed):
            made.append(chunk.path)
        # What the vectors are made from is needed, too, unless the update brings it.
        sources: set[str] = set()
        for name in again:
            sources.update(plan.vector_source(name))
        brought = [*record.source, *record.vectors]
        gone = missing_source(lost, [*brought, *made, HASH_FIELD])
        gone += missing_source(sources & lost, brought)
        if gone:
            raise RecordError(
                f"a partial update would lose {', '.join(map(repr, dict.fromkeys(gone)))}: "
                f"{self._target.source_rules.reason(gone)}, and the engine builds the new document from "
                "_source; send the whole record",
                field=gone[0],
            )
        return again


def _carried_groups(plan: IndexPlan) -> list[list[str]]:
    """The fields whose vectors a changed record may take over, those of one text together: one pass of a
    model may make both. Without those that are encoded faster than a vector is read."""
    slow = {
        name
        for name, field in plan.vector_fields()
        if field.encoded_here and field.family not in ("lexical", "static")
    }
    groups: dict[Any, list[str]] = {}
    for name, field in plan.vector_fields():
        chunked = field.chunked and plan.chunk is not None
        # Chunks are one list of objects, with all of their vectors.
        if not field.precomputed and (chunked or name in slow):
            groups.setdefault(None if chunked else (field.source, field.separator), []).append(name)
    return [names for names in groups.values() if slow.issuperset(names)]


def _compact(value: Any) -> Any:
    """A stored value with its vectors as float32, which is what engines keep: a fraction of the memory."""
    if isinstance(value, Mapping):
        return {name: _compact(item) for name, item in value.items()}
    if not isinstance(value, list):
        return value
    if value and all(type(item) is float for item in value):
        return np.asarray(value, np.float32)
    return [_compact(item) for item in value]


def _routing(records: Sequence[PreparedRecord]) -> Mapping[str, str]:
    """Id → routing, of records that have one."""
    return {r.id: r.document.routing for r in records if r.document.routing is not None}


def _hidden(record: PreparedRecord) -> RecordError:
    verb = {"index": "replace", "update": "update", "delete": "delete"}[record.op]
    return RecordError(
        f"the index has a document {record.id!r} that the alias does not show, so it can't {verb} it; name "
        "the index itself, or give the record another id",
        record_id=record.id,
        position=record.document.position,
    )
