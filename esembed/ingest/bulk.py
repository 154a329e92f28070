"""Bulk requests without I/O: what to send together, what an answer means, how much to send next.

:class:`BulkQueue` decides which actions form the next request (bytes, count, never two operations of
one id in flight); :func:`judge` sorts an answer into done, try again, split and dead; :class:`Pacer`
adapts size and concurrency to 429, 413 and latency. Who sends is another module's business.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["BulkAction", "BulkQueue", "Pacer", "Verdict", "judge"]

_RETRY_STATUS = frozenset({408, 429, 502, 503, 504})
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
_FATAL_TYPES = frozenset(
    {"index_closed_exception", "index_not_found_exception", "security_exception", "alias_not_found_exception"}
)


@dataclass(slots=True, eq=False)
class BulkAction:
    """One record's operations, in order: the document, or the document and its chunks.

    Attributes:
        id: the record's id; no two actions of one id are in flight together.
        op: what the record asked for.
        lines: an action line with its document, as bytes, for each operation.
        then: lines for a request of their own, sent only when the engine took all of *lines*: it carries
            out every line of one request, also what follows a refused one.
        tag: whatever the sender wants to get back.
        created: set when the engine said that the (last) document is new.
        attempts: how often any of it was sent.
        server_errors: how often the engine answered 500 to it.
    """

    id: str
    op: Literal["index", "update", "delete"]
    lines: list[bytes]
    tag: Any = None
    created: bool = False
    attempts: int = 0
    server_errors: int = 0
    then: list[bytes] = field(default_factory=list)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = sum(map(len, self.lines)) + sum(map(len, self.then))


class BulkQueue:
    """Actions that wait, in order, and the ids that are in flight. Not thread-safe by itself.

    A action whose id is in flight waits behind it, and everything else goes past: so the order within
    an id is the order of the source, which is what decides who wins.
    """

    def __init__(self) -> None:
        self._ready: deque[BulkAction] = deque()
        self._behind: dict[str, deque[BulkAction]] = {}
        self._ready_bytes = 0
        self._behind_bytes = 0
        self._known: set[str] = set()  # ids that are ready or in flight: at most one action of each

    def add(self, action: BulkAction) -> None:
        """Put an action at the end, or behind the one of its id that isn't settled yet."""
        if action.id in self._known:
            self._behind.setdefault(action.id, deque()).append(action)
            self._behind_bytes += action.size
        else:
            self._known.add(action.id)
            self._ready.append(action)
            self._ready_bytes += action.size

    def take(self, max_bytes: int, max_lines: int) -> list[BulkAction]:
        """The next request's actions: at least one if any is ready, else up to the limits."""
        batch: list[BulkAction] = []
        size = lines = 0
        while self._ready:
            action = self._ready[0]
            if batch and (size + action.size > max_bytes or lines + len(action.lines) > max_lines):
                break
            self._ready.popleft()
            self._ready_bytes -= action.size
            batch.append(action)
            size += action.size
            lines += len(action.lines)
        return batch

    def release(self, action: BulkAction) -> None:
        """The action is settled; the next one of its id may go, ahead of the others."""
        waiting = self._behind.get(action.id)
        if not waiting:
            self._known.discard(action.id)
            return
        following = waiting.popleft()
        if not waiting:
            del self._behind[action.id]
        self._behind_bytes -= following.size
        self._ready.appendleft(following)
        self._ready_bytes += following.size

    @property
    def ready_bytes(self) -> int:
        """Bytes that could be sent now."""
        return self._ready_bytes

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait, ready or behind another; what is in flight is not counted."""
        return self._ready_bytes + self._behind_bytes

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in flight."""
        return not self._known

    @property
    def has_ready(self) -> bool:
        """Whether take() would return something."""
        return bool(self._ready)


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
    cause = error.get("caused_by")
    depth = 0
    while isinstance(cause, Mapping) and depth < 4:
        if cause.get("reason") and str(cause["reason"]) not in text:
            text += f": {cause['reason']}"
        cause, depth = cause.get("caused_by"), depth + 1
    kind = error.get("type")
    return text[:2_000] or str(kind), None if kind is None else str(kind)


def judge(actions: Sequence[BulkAction], status: int | None, body: Any) -> Verdict:
    """Sort an answer.

    Args:
        actions: what was sent, in order.
        status: the HTTP status; None when no (whole) answer came back.
        body: the parsed answer.

    Returns:
        A verdict in which every action stands once: in done, retry or dead; or all of them in retry
        with ``split`` set; or ``fatal`` is set.
    """
    verdict = Verdict()
    for action in actions:
        action.attempts += 1
    lines = sum(len(action.lines) for action in actions)
    items = body.get("items") if isinstance(body, Mapping) else None
    if status is None or (status == 200 and (not isinstance(items, list) or len(items) != lines)):
        verdict.retry, verdict.retried_lines = list(actions), lines
        return verdict
    if status != 200:
        return _judge_request(verdict, actions, lines, status, body)
    position = 0
    for action in actions:
        answers = items[position : position + len(action.lines)]  # type: ignore[index]
        position += len(action.lines)
        _judge_action(verdict, action, answers, alone=lines == 1)
    return verdict


def _judge_request(
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


def _judge_action(verdict: Verdict, action: BulkAction, answers: Sequence[Any], *, alone: bool) -> None:
    again: list[bytes] = []
    for number, answer in enumerate(answers):
        operation, item = next(iter(answer.items()))
        status = int(item.get("status", 0))
        if 200 <= status < 300:
            action.created = item.get("result") == "created"
            continue
        if operation == "delete" and status == 404 and "error" not in item:
            continue
        reason, kind = _reason(item.get("error", item.get("result", "no reason given")))
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


@dataclass(slots=True)
class Pacer:
    """How many bytes a request and how many requests at a time: additive increase, multiplicative
    decrease, as TCP does it (Chiu and Jain 1989), with latency as the early sign.

    Attributes:
        max_bytes, max_in_flight: what the options allow.
        target_seconds: a request should take about this long: long enough to be worth it, short
            enough that a retry is cheap.
    """

    max_bytes: int
    max_in_flight: int
    target_seconds: float = 1.5
    bytes: float = 0.0
    in_flight: int = 0
    _ceiling: float = math.inf
    _accepted: int = 0
    _good: int = 0

    def __post_init__(self) -> None:
        self.bytes = float(min(self.max_bytes, 1024 * 1024))
        self.in_flight = min(4, self.max_in_flight)

    @property
    def limit_bytes(self) -> int:
        """The most bytes in the next request."""
        return max(1, int(min(self.bytes, self._ceiling, self.max_bytes)))

    def answered(self, size: int, seconds: float) -> None:
        """A request of *size* bytes was answered well after *seconds*."""
        self._accepted = max(self._accepted, size)
        if seconds > 2 * self.target_seconds:
            self.bytes = max(self.bytes * 0.7, 64 * 1024)
            self._good = 0
            return
        self._good += 1
        if seconds < self.target_seconds and size >= 0.7 * self.limit_bytes:
            self.bytes = min(self.bytes * 1.3, self.max_bytes, self._ceiling)
        if self._good >= 2 * self.in_flight and self.in_flight < self.max_in_flight:
            self.in_flight += 1
            self._good = 0

    def pushed_back(self) -> None:
        """429 or a rejected execution."""
        self.in_flight = max(1, self.in_flight // 2)
        self.bytes = max(self.bytes * 0.8, 64 * 1024)
        self._good = 0

    def too_large(self, size: int) -> None:
        """413 for a request of *size* bytes: that much is never tried again, unless as much was
        accepted before (then it was not the size)."""
        if size <= self._accepted:
            return
        self._ceiling = max(1.0, float(self._accepted), min(self._ceiling, size * 0.6))
        self.bytes = min(self.bytes, self._ceiling)
