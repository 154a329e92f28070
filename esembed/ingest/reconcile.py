"""After a load: compare the index with the source (verify), delete what the source lost (sync)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from esembed.answers import HitVersion, part
from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for
from esembed.dialect.documents import action_line, as_of, chunk_id
from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD
from esembed.encode.base import Encoder
from esembed.errors import DeleteLimitError, PermanentError
from esembed.ingest.backoff import RetryableError
from esembed.ingest.bulk import BulkAction
from esembed.ingest.bulk_answer import classify
from esembed.ingest.id_table import IdTable
from esembed.ingest.options import IngestOptions, IngestReport, VerifyResult
from esembed.ingest.outcomes import DEAD_LETTERED, NEWER
from esembed.ingest.progress import StepProgress
from esembed.ingest.record import hash_parts
from esembed.ingest.target import TargetIndex
from esembed.ingest.vector_check import VectorCheck
from esembed.plan import IndexPlan

__all__ = ["reconcile"]

KEEP = 100
"""How many ids a report names of each problem; all of them are counted."""

LACKING = 500
"""Documents without a vector whose texts are fetched and encoded together."""

REENCODED = 50
"""Documents whose texts are encoded again to verify the vectors of what didn't change: a second or two of a
CPU, while the whole is read anyway."""


def reconcile(
    target: TargetIndex,
    plan: IndexPlan,
    source_ids: IdTable,
    options: IngestOptions,
    report: IngestReport,
    *,
    phase: Callable[[str], StepProgress],
    warn: Callable[[str], None],
    capabilities: Capabilities,
    encoders: Mapping[str, Encoder],
) -> None:
    """Read every document's id, hash and (for *verify*) vectors once, compare with what the source had, and
    act.

    Args:
        phase: takes the name of what begins (``verify``, ``sync``) and gives what is told how far it is.
        warn: told why *sync* deleted nothing after a pass that wasn't complete and clean: the run did all
            the rest of what it was asked, so it ends with its report.

    Raises:
        DeleteLimitError: *sync* would delete more than ``sync_max_delete``. Nothing was deleted then; the
            report says how many it would have been.
    """
    verifying = phase("verify")
    check = _Vectors(target, plan, capabilities, encoders) if options.verify else None
    same = different = extra = orphans = total = 0
    differing: list[str] = []
    uncompared: Counter[bytes] = Counter()
    extras = IdTable()
    apart = plan.chunk is not None and plan.chunk.store == "documents"
    batch: list[str] = []
    try:
        for hit in target.scan_hidden(() if check is None else check.paths):
            source = hit.get("_source") or {}
            parent = source.get(PARENT_FIELD)
            if parent is not None:
                if apart and parent not in source_ids:
                    orphans += 1
                    extras.put(hit["_id"], _noted("chunk", hit))
                continue
            total += 1
            doc_id, stored = hit["_id"], source.get(HASH_FIELD)
            if doc_id not in source_ids:
                extra += 1
                extras.put(doc_id, _noted(stored or "none", hit))
                continue
            noted = source_ids.get(doc_id)
            if isinstance(noted, bytes):
                uncompared[noted] += 1
                continue
            batch.append(doc_id)
            expected, _, vectors = noted.partition(" ")
            as_hashed = stored is not None and hash_parts(stored)[0] == expected
            as_encoded = check is None or not vectors or check.agrees(hit, vectors)
            if as_hashed and as_encoded:
                same += 1  # some of them may turn out not to be: see unexplained()
            else:
                different += 1
                if len(differing) < KEEP:
                    differing.append(doc_id)
            if len(batch) >= 1000:  # one write to the id table for many ids
                source_ids.mark(batch)
                verifying.advance(len(batch))
                batch = []
        source_ids.mark(batch)
        for doc_id in [] if check is None else check.unexplained():
            same, different = same - 1, different + 1
            if len(differing) < KEEP:
                differing.append(doc_id)
        missing_count = 0
        missing: list[str] = []
        for doc_id in source_ids.unmarked():
            missing_count += 1
            if len(missing) < KEEP:
                missing.append(doc_id)
        extra_ids: list[str] = []
        for doc_id in extras.unmarked():
            if len(extra_ids) < KEEP:
                extra_ids.append(doc_id)
        if options.verify and check is not None:
            report.warnings += check.finish()
            report.verified = VerifyResult(
                same=same,
                different=tuple(differing),
                different_count=different,
                missing=tuple(missing),
                missing_count=missing_count,
                extra=tuple(extra_ids),
                extra_count=extra + orphans,
                vectors=check.wrong,
                newer=uncompared[NEWER],
                dead_lettered=uncompared[DEAD_LETTERED],
            )
        if options.sync and (extra or orphans) and (report.read_errors or not report.complete):
            # Any of them may be the record that could not be read.
            report.sync_withheld = extra
            warn(
                f"sync deleted nothing: {report.read_errors} records of the source could not be read, so "
                f"nobody knows which of the {extra + orphans} documents that only the index has are gone "
                "from it. Repair them (the dead letters say where) and run it again"
            )
        elif options.sync and (extra or orphans):
            _sync(
                target,
                extras,
                options,
                report,
                extra,
                total,
                phase,
                versioned=plan.version_field is not None,
            )
            if report.verified is not None:  # what was only in the index is gone now
                report.verified = replace(report.verified, extra=(), extra_count=0)
    finally:
        extras.close()


class _Vectors:
    """The comparison of vectors while an index is scanned."""

    def __init__(
        self,
        target: TargetIndex,
        plan: IndexPlan,
        capabilities: Capabilities,
        encoders: Mapping[str, Encoder],
    ) -> None:
        self._target, self._encoders = target, encoders
        self._check = VectorCheck(plan, dialect_for(capabilities).documents)
        names = self._check.names
        self._readable = {name: path for name, path in names.items() if target.readable(path)}
        self.paths = list(self._readable.values())
        self.wrong: dict[str, int] = {}
        # Where a vector can't be read back, the index still knows which documents have one. Sparse fields
        # can't be asked that (rank_features has no exists query).
        self._unread = [name for name in names if name not in self._readable]
        self._without = {name: IdTable() for name in self._unread if name in plan.dense}
        for name, table in self._without.items():
            for doc_id in target.ids_without(names[name]):
                table.put(doc_id, "")
        self._sample: list[tuple[str, str | None, dict[str, Any]]] = []
        self._lacking: list[tuple[str, str | None, list[str]]] = []
        self._unexplained: list[str] = []

    def agrees(self, hit: Mapping[str, Any], expected: str) -> bool:
        """Whether a document's vectors are those that the run made or expects; counts what isn't."""
        found = self._check.stored(hit.get("_source") or {})
        for name in self._unread:
            if name in self._without and hit["_id"] in self._without[name]:
                found.pop(name, None)
            else:
                found[name] = True
        wrong = self._check.differing(expected, found)
        if wrong and all(self._check.may_lack(name, expected, found) for name in wrong):
            # Nobody encoded their texts in this run. Whether there is a vector to be missed is asked of the
            # encoder, for many documents at a time.
            self._lacking.append((hit["_id"], hit.get("_routing"), wrong))
            if len(self._lacking) >= LACKING:
                self._explain()
            return True
        for name in wrong:
            self.wrong[name] = self.wrong.get(name, 0) + 1
        if not wrong and len(self._sample) < REENCODED:
            self._sample.append((hit["_id"], hit.get("_routing"), found))
        return not wrong

    def unexplained(self) -> list[str]:
        """Ids of documents that :meth:`agrees` let pass and that lack a vector which their text has."""
        self._explain()
        return self._unexplained

    def _explain(self) -> None:
        lacking, self._lacking = self._lacking, []
        if not lacking:
            return
        routing = {doc_id: route for doc_id, route, _ in lacking if route is not None}
        sources = self._target.sources([doc_id for doc_id, _, _ in lacking], routing)
        kept = [(doc_id, sources[doc_id], names) for doc_id, _, names in lacking if doc_id in sources]
        lost = self._check.lost(self._encoders, [(source, names) for _, source, names in kept])
        for (doc_id, _, _), names in zip(kept, lost, strict=True):
            for name in names:
                self.wrong[name] = self.wrong.get(name, 0) + 1
            if names:
                self._unexplained.append(doc_id)

    def finish(self) -> list[str]:
        """Encode the texts of some documents again, and say what can't be compared."""
        for table in self._without.values():
            table.close()
        lines = []
        if self._unread:
            lines.append(
                f"verify can't read the vectors of {', '.join(map(repr, self._unread))} back "
                f"({self._target.source_rules.reason(self._unread)}); it only asked where there is one"
            )
        routing = {doc_id: route for doc_id, route, _ in self._sample if route is not None}
        sources = self._target.sources([doc_id for doc_id, _, _ in self._sample], routing)
        kept = [(sources[doc_id], found) for doc_id, _, found in self._sample if doc_id in sources]
        readable = {name: one for name, one in self._encoders.items() if name in self._readable}
        again = self._check.encoded_again(readable, [one for one, _ in kept], [found for _, found in kept])
        for name, count in again.items():
            self.wrong[name] = self.wrong.get(name, 0) + count
            lines.append(
                f"{count} of {len(kept)} stored texts that were encoded again make another vector than "
                f"{name!r} holds: a pipeline, another program or another model changed one of the two"
            )
        return lines


def _noted(stored: str, hit: Mapping[str, Any]) -> str:
    """What is kept of a document that may be deleted: its hash, its version, and its routing, without which a
    delete goes to another shard, finds nothing there and is answered as if all were well."""
    version = part(HitVersion, hit, "a scan").version
    return f"{version} {stored} {hit.get('_routing') or ''}"


def _sync(
    target: TargetIndex,
    extras: IdTable,
    options: IngestOptions,
    report: IngestReport,
    extra: int,
    total: int,
    phase: Callable[[str], StepProgress],
    *,
    versioned: bool,
) -> None:
    if total and extra > options.sync_max_delete * total:
        report.sync_withheld = extra
        raise DeleteLimitError(
            f"the records of the source are in, and sync deleted nothing: {extra} of {total} documents "
            f"({extra / total:.0%}) are not in the source, more than sync_max_delete = "
            f"{options.sync_max_delete:.0%}. Is it the whole source? Raise sync_max_delete "
            "(--sync-max-delete) if so, and run it again",
            option="sync_max_delete",
            found=extra,
            total=total,
        )
    deleting = phase("sync")
    actions: list[BulkAction] = []
    # A list: the table is locked while it is walked, and get() below would wait for that lock for ever.
    for doc_id in list(extras.unmarked()):
        version, stored, found = extras.get(doc_id).split(" ", 2)
        routing = found or None
        # Where records have versions, the one that was seen: a newer document stays, and the same record may
        # come again (by itself an engine counts a delete as a newer version).
        condition = as_of(int(version)) if versioned else {}
        # Chunks first: how many there are stands in the document, and a run that ends in between finds them
        # again by it.
        gone = [*(chunk_id(doc_id, n) for n in range(hash_parts(stored)[1])), doc_id]
        lines = [action_line("delete", one, routing=routing, **condition) for one in gone]
        actions.append(BulkAction(doc_id, "delete", lines, tag=stored, conditional=versioned))
        if len(actions) >= 500:  # a bulk request of deletes, some tens of KB
            report.sync_deleted += _delete(target, actions)
            deleting.advance(len(actions))
            actions = []
    report.sync_deleted += _delete(target, actions)
    target.refresh()


def _delete(target: TargetIndex, actions: list[BulkAction]) -> int:
    left = list(actions)

    def attempt() -> None:
        nonlocal left
        if not left:
            return
        status, body, after = target.bulk(b"".join(line for action in left for line in action.lines))
        verdict = classify(left, status, body)
        if verdict.fatal or verdict.dead:
            reason = verdict.fatal[0] if verdict.fatal else verdict.dead[0][1]
            raise PermanentError(f"sync could not delete: {reason}")
        left = verdict.retry
        if left:
            raise RetryableError(f"status {status}", retry_after_seconds=after)
        target.retry.progress()

    try:
        target.retry.retrying()(attempt)
    except RetryableError as error:
        raise target.retry.exhausted(error) from error
    return sum(1 for action in actions if action.tag != "chunk" and not action.outdated)
