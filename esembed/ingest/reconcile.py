"""After a load: compare the index with the source (verify), delete what the source lost (sync)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from esembed.dialect.documents import action_line, chunk_id
from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD
from esembed.errors import OptionsError, PermanentError
from esembed.ingest.backoff import RetryableError
from esembed.ingest.bulk import BulkAction
from esembed.ingest.bulk_answer import classify
from esembed.ingest.id_table import IdTable
from esembed.ingest.options import IngestOptions, IngestReport, VerifyResult
from esembed.ingest.record import hash_parts
from esembed.ingest.target import TargetIndex
from esembed.plan import IndexPlan

__all__ = ["reconcile"]

KEEP = 100
"""How many ids a report names of each problem; all of them are counted."""


def reconcile(
    target: TargetIndex,
    plan: IndexPlan,
    source_ids: IdTable,
    options: IngestOptions,
    report: IngestReport,
    *,
    phase: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Read every document's id and hash once, compare with what the source had, and act.

    Args:
        phase: told what is going on.
        warn: told why *sync* deleted nothing after a pass that wasn't complete and clean: the run did all
            the rest of what it was asked, so it ends with its report.

    Raises:
        OptionsError: *sync* would delete more than ``sync_max_delete``. Nothing was deleted then.
    """
    phase("verify")
    same = different = extra = orphans = total = 0
    differing: list[str] = []
    extras = IdTable()
    apart = plan.chunk is not None and plan.chunk.store == "documents"
    batch: list[str] = []
    try:
        for hit in target.scan_hidden():
            source = hit.get("_source") or {}
            parent = source.get(PARENT_FIELD)
            if parent is not None:
                if apart and parent not in source_ids:
                    orphans += 1
                    extras.put(hit["_id"], _with_routing("chunk", hit))
                continue
            total += 1
            doc_id, stored = hit["_id"], source.get(HASH_FIELD)
            if doc_id not in source_ids:
                extra += 1
                extras.put(doc_id, _with_routing(stored or "none", hit))
                continue
            batch.append(doc_id)
            expected = source_ids.get(doc_id)
            if expected is None or (stored is not None and hash_parts(stored)[0] == expected):
                same += 1
            else:
                different += 1
                if len(differing) < KEEP:
                    differing.append(doc_id)
            if len(batch) >= 1000:
                source_ids.mark(batch)
                batch = []
        source_ids.mark(batch)
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
        if options.verify:
            report.verified = VerifyResult(
                same=same,
                different=tuple(differing),
                different_count=different,
                missing=tuple(missing),
                missing_count=missing_count,
                extra=tuple(extra_ids),
                extra_count=extra + orphans,
            )
        if options.sync and (extra or orphans) and (report.read_errors or not report.complete):
            # Any of them may be the record that could not be read.
            warn(
                f"sync deleted nothing: {report.read_errors} records of the source could not be read, so "
                f"nobody knows which of the {extra + orphans} documents that only the index has are gone "
                "from it. Repair them (the dead letters say where) and run it again"
            )
        elif options.sync and (extra or orphans):
            _sync(target, extras, options, report, extra, total, phase)
            if report.verified is not None:  # what was only in the index is gone now
                report.verified = replace(report.verified, extra=(), extra_count=0)
    finally:
        extras.close()


def _with_routing(stored: str, hit: Mapping[str, Any]) -> str:
    """What is kept of a document that may be deleted: a delete without its routing goes to another shard,
    finds nothing there and is answered as if all were well."""
    routing = hit.get("_routing")
    return stored if routing is None else f"{stored} {routing}"


def _sync(
    target: TargetIndex,
    extras: IdTable,
    options: IngestOptions,
    report: IngestReport,
    extra: int,
    total: int,
    phase: Callable[[str], None],
) -> None:
    if total and extra > options.sync_max_delete * total:
        raise OptionsError(
            f"sync would delete {extra} of {total} documents ({extra / total:.0%}), more than "
            f"sync_max_delete = {options.sync_max_delete:.0%}. Is it the right source? Raise sync_max_delete "
            "if so. Nothing was deleted",
            option="sync_max_delete",
        )
    phase("sync")
    actions: list[BulkAction] = []
    for doc_id in list(extras.unmarked()):
        stored, _, found = (extras.get(doc_id) or "").partition(" ")
        routing = found or None
        gone = [*(chunk_id(doc_id, n) for n in range(hash_parts(stored)[1])), doc_id]
        lines = [action_line("delete", one, routing=routing) for one in gone]
        actions.append(BulkAction(doc_id, "delete", lines, tag=stored))
        if len(actions) >= 500:
            report.sync_deleted += _delete(target, actions)
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

    documents = sum(1 for action in actions if action.tag != "chunk")
    try:
        target.retry.retrying()(attempt)
    except RetryableError as error:
        raise target.retry.exhausted(error) from error
    return documents
