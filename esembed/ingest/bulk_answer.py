"""What an answer to a bulk request means: done, retry (429 and others), split, dead-lettered or fatal."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from esembed.ingest.bulk import BulkAction

__all__ = ["Verdict", "classify"]

# 408 and 502 to 504 come from proxies, too: the request may or may not have arrived, and writing it again
# by id changes nothing.
_RETRY_STATUS = frozenset({408, 429, 502, 503, 504})
# By type, since engines hide passing states behind other statuses: a closed node answers 500, a write block
# 403, an exhausted circuit breaker 429 or 503.
_RETRY_TYPES = frozenset(
    {
        "circuit_breaking_exception",
        "cluster_block_exception",
        "es_rejected_execution_exception",
        "illegal_index_shard_state_exception",
        "no_shard_available_action_exception",
        "node_closed_exception",
        "node_disconnected_exception",
        "node_not_connected_exception",
        "process_cluster_event_timeout_exception",
        "rejected_execution_exception",
        "shard_not_in_primary_mode_exception",
        "already_closed_exception",
        "alreadyclosed_exception",
        "opensearch_rejected_execution_exception",
        "unavailable_shards_exception",
        "timeout_exception",
        "retry_on_primary_exception",
        "retry_on_replica_exception",
    }
)
# These come for every record of every request: to go on would dead-letter the whole source.
_FATAL_TYPES = frozenset(
    {"index_closed_exception", "index_not_found_exception", "security_exception", "alias_not_found_exception"}
)


@dataclass(slots=True)
class Verdict:
    """What one answer means for the actions of its request.

    Attributes:
        done: settled well.
        retry: actions with (only) the lines that are to be sent again.
        dead: actions that can never get in, with reason, status and error type.
        split: the request is too large or one of its lines spoils it: send the halves.
        pushed_back: the engine asked for less (429, rejected execution).
        blocked: why the engine takes nothing at the moment (read-only block, no primary …), or None.
        oversized: some lines take more memory than the engine gives one operation, whatever it does
            otherwise: its 429 is not a matter of waiting. Send the actions of *retry* one by one.
        fatal: why going on makes no sense (index gone, no permission), with the status, or None.
        retried_lines: how many lines are to be sent again.
    """

    done: list[BulkAction] = field(default_factory=list)
    retry: list[BulkAction] = field(default_factory=list)
    dead: list[tuple[BulkAction, str, int | None, str | None]] = field(default_factory=list)
    split: bool = False
    pushed_back: bool = False
    blocked: str | None = None
    oversized: bool = False
    fatal: tuple[str, int] | None = None
    retried_lines: int = 0


def _reason(error: Any) -> tuple[str, str | None]:
    if not isinstance(error, Mapping):
        return str(error), None
    text = str(error.get("reason") or "")
    # The reason on top is often "failed to parse" alone; what was wrong stands in the causes below it.
    cause = error.get("caused_by")
    depth = 0
    while isinstance(cause, Mapping) and depth < 4:
        if cause.get("reason") and str(cause["reason"]) not in text:
            text += f": {cause['reason']}"
        cause, depth = cause.get("caused_by"), depth + 1
    kind = error.get("type")
    return text[:2_000] or str(kind), None if kind is None else str(kind)


def classify(
    actions: Sequence[BulkAction], status: int | None, body: Any, *, index: str | None = None
) -> Verdict:
    """Sort an answer.

    Args:
        actions: what was sent, in order.
        status: the HTTP status; None when no (whole) answer came back.
        body: the parsed answer.
        index: the concrete index that was written to, where it is known; what went elsewhere is noted.

    Returns:
        A verdict in which every action stands once: in done, retry or dead; or all of them in retry
        with ``split`` set; or ``fatal`` is set.
    """
    verdict = Verdict()
    for action in actions:
        action.attempts += 1
    lines = sum(len(action.lines) for action in actions)
    items = body.get("items") if isinstance(body, Mapping) else None
    if status is None or (status == 200 and not _answers(actions, lines, items)):
        verdict.retry, verdict.retried_lines = list(actions), lines
        return verdict
    if status != 200:
        return _classify_request(verdict, actions, lines, status, body)
    position = 0
    for action in actions:
        answers = items[position : position + len(action.lines)]  # type: ignore[index]
        position += len(action.lines)
        _classify_action(verdict, action, answers, alone=lines == 1, index=index)
    return verdict


def _answers(actions: Sequence[BulkAction], lines: int, items: Any) -> bool:
    """Whether *items* answer what was sent: as many, each of the action of its line, with a status.

    Anything else confirms nothing (a proxy's answer, or another request's), so all of it is sent again.
    """
    if not isinstance(items, list) or len(items) != lines:
        return False
    sent = ((action, line) for action in actions for line in action.lines)
    ids = {action.id for action in actions}
    return all(
        _answers_line(item, action, line, ids) for item, (action, line) in zip(items, sent, strict=True)
    )


def _answers_line(item: Any, action: BulkAction, line: bytes, ids: Collection[str]) -> bool:
    if not isinstance(item, dict) or len(item) != 1:
        return False
    [(operation, told)] = item.items()
    # The line begins {"index":{ …: reading its first key is cheaper than parsing the line.
    sent = line.split(b'"', 2)[1].decode("ascii", "replace") if line.startswith(b'{"') else action.op
    if sent != operation or not isinstance(told, dict):
        return False
    if type(told.get("status")) is not int or not 100 <= told["status"] <= 599:
        return False
    who = told.get("_id", action.id)
    if not isinstance(who, str):
        return False
    if who == action.id or who.startswith(f"{action.id}#"):
        return True
    # No pipeline runs for a delete, so nothing changed its id. For what was written _note_result reports it.
    # A refusal of another record of the request would put the wrong one among the dead letters.
    return operation != "delete" and (told["status"] < 300 or who not in ids)


def _classify_request(
    verdict: Verdict, actions: Sequence[BulkAction], lines: int, status: int, body: Any
) -> Verdict:
    error = body.get("error") if isinstance(body, Mapping) else body
    reason, kind = _reason(error)
    blocked = kind == "cluster_block_exception"
    if status in _RETRY_STATUS or kind in _RETRY_TYPES:
        verdict.retry, verdict.retried_lines = list(actions), lines
        verdict.pushed_back = status == 429 and not blocked
        if blocked or status == 503:
            verdict.blocked = reason
        return verdict
    # A write block comes with 403 as well, and went back to be sent again above: what is left is refused for
    # good.
    if status in (401, 403, 404, 405, 406) or kind in _FATAL_TYPES:
        verdict.fatal = (f"{kind}: {reason}" if kind else reason, status)
        return verdict
    # 413, or a 400 or 500 that one line may have caused: halve until that line is alone.
    if lines > 1:
        verdict.split, verdict.retry = True, list(actions)
        return verdict
    if status >= 500 or status == 413:
        # Something between us and the engine may have said so; a refusal that stays is the line's own.
        actions[0].server_errors += 1
        if actions[0].server_errors <= 3:
            verdict.retry, verdict.retried_lines = list(actions), lines
            return verdict
    if status == 413:
        reason = (
            f"the document makes a bulk line of {actions[0].size} bytes, more than the engine takes in one "
            "request (http.max_content_length); shorten it or raise that limit"
        )
    verdict.dead.append((actions[0], reason, status, kind))
    return verdict


_PRESSURE = re.compile(r"(?:primary|coordinating)_operation_bytes=(\d+).*?max_\w+_bytes=(\d+)")


def _too_large_for(reason: str) -> str | None:
    """Indexing pressure rejects an operation larger than its whole limit each time it comes."""
    found = _PRESSURE.search(reason)
    if found is None or int(found[1]) <= int(found[2]):
        return None
    return (
        f"indexing it takes {int(found[1])} bytes of memory and the engine gives at most {found[2]} to all "
        "operations together (indexing_pressure.memory.limit, a tenth of its heap by default); shorten the "
        f"document or give the engine more heap ({reason[:200]})"
    )


def _note_result(action: BulkAction, operation: str, item: Mapping[str, Any], index: str | None) -> None:
    """What the engine did, as it says: a status of 200 alone doesn't mean that the document is there.

    An ingest pipeline of the index may drop a document (``index`` answers ``noop`` then, which it never does
    by itself), or set its ``_index`` or ``_id``. (Seen on OpenSearch 3.6.0, each with status 200 or 201.)
    """
    result = item.get("result")
    if item.get("_id", action.id) == action.id:
        # Of the document, not of its chunks; one that is written in two steps is new at the first.
        action.created |= result == "created"
    if result == "noop":
        action.dropped |= operation in ("index", "create")
        return
    action.changed = True
    where, who = item.get("_index"), item.get("_id")
    if index is not None and isinstance(where, str) and where != index:
        action.went_to = where
    elif isinstance(who, str) and who != action.id and not who.startswith(f"{action.id}#"):
        action.went_to = f"the id {who!r}"


def _classify_action(
    verdict: Verdict, action: BulkAction, answers: Sequence[Any], *, alone: bool, index: str | None
) -> None:
    again: list[bytes] = []
    for number, answer in enumerate(answers):
        operation, item = next(iter(answer.items()))
        status = item["status"]
        if 200 <= status < 300:
            _note_result(action, operation, item, index)
            continue
        # Deleting what isn't there is done. With an error it is the index that is missing.
        if operation == "delete" and status == 404 and "error" not in item:
            continue
        if status == 409 and action.conditional:
            action.outdated = True
            continue
        reason, kind = _reason(item.get("error", item.get("result", "no reason given")))
        # Not 403: within a request that was let in, it is a block or one record's refusal.
        if kind in _FATAL_TYPES or status == 401:
            verdict.fatal = (f"{kind}: {reason}" if kind else reason, status)
            return
        if status == 429 and (needed := _too_large_for(reason)) is not None:
            if alone:
                verdict.dead.append((action, needed, 413, kind))
                return
            verdict.oversized = True
        if status in _RETRY_STATUS or kind in _RETRY_TYPES:
            again = again or action.lines[number:]
            if kind == "cluster_block_exception" or status == 503:
                verdict.blocked = reason
            elif status == 429:
                verdict.pushed_back = True
            continue
        if status >= 500 and action.server_errors < 3:
            action.server_errors += 1
            again = again or action.lines[number:]
            continue
        verdict.dead.append((action, reason, status or None, kind))
        return
    if again:
        # What failed goes again, and what follows it within the record, since the order decides; the
        # id stays in flight until all of it is settled.
        action.lines = again
        verdict.retry.append(action)
        verdict.retried_lines += len(again)
    else:
        verdict.done.append(action)
