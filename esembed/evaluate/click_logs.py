"""Logs of what people were shown and clicked: User Behavior Insights 1.3, and plain tables.

Rows come as mappings, from anywhere: a file's lines, an index's documents, a data frame's
``to_dict("records")``. What a row lacks is counted, and the row left out.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from esembed.evaluate.clicks import Impression
from esembed.plan import paths

__all__ = ["CLICKS", "read_click_log", "read_ubi"]

CLICKS = frozenset({"click", "click_through", "item_click", "add_to_cart", "purchase"})
"""``action_name`` of UBI events that count as a click."""

MOST_PLACES = 10_000
"""A list's length that is believed."""


def read_ubi(
    queries: Iterable[Mapping[str, Any]],
    events: Iterable[Mapping[str, Any]],
    *,
    clicks: Collection[str] = CLICKS,
    problems: Counter[str] | None = None,
) -> Iterator[Impression]:
    """The lists of ``ubi_queries``, in their order, with the clicks of ``ubi_events``.

    Args:
        queries: ``query_id``, ``user_query``, ``query_response_hit_ids`` (ids of the index's documents),
            ``client_id``, ``timestamp``.
        events: ``action_name``, ``query_id`` and ``event_attributes.object.object_id``. Read first, whole.
        clicks: the actions that count.
        problems: what was left out is counted there, by reason.
    """
    counted = problems if problems is not None else Counter()
    clicked: dict[str, Counter[str]] = defaultdict(Counter)
    for row in events:
        if row.get("action_name") not in clicks:
            continue
        query, document = row.get("query_id"), paths.get(row, "event_attributes.object.object_id")
        if not _name(query) or not _name(document):
            counted["clicks without a query_id or an object_id"] += 1
            continue
        clicked[str(query)][str(document)] += 1
    for row in queries:
        query, text, shown = (row.get(key) for key in ("query_id", "user_query", "query_response_hit_ids"))
        if not _name(query) or not isinstance(text, str) or not isinstance(shown, (list, tuple)):
            counted["queries without a query_id, a user_query or query_response_hit_ids"] += 1
            continue
        yield Impression(
            query=text,
            shown=[str(one) if _name(one) else "" for one in shown[:MOST_PLACES]],
            clicked=clicked.pop(str(query), {}),
            session=str(row.get("client_id") or ""),
            time=_seconds(row.get("timestamp")),
        )
    if clicked:
        counted["clicks of queries that are not in the log"] += sum(map(len, clicked.values()))


def read_click_log(
    rows: Iterable[Mapping[str, Any]], *, problems: Counter[str] | None = None
) -> Iterator[Impression]:
    """The lists of a table with a row for each document shown: ``query``, ``id``, ``position`` from 1,
    ``clicked`` (0, 1, true …), and where it has them ``session`` and ``time``.

    Rows of one list share query, session and time, and stand together; a position that doesn't rise begins
    the next list.

    Args:
        rows: in the order of the log.
        problems: what was left out is counted there, by reason.
    """
    counted = problems if problems is not None else Counter()
    key: tuple[str, str, Any] | None = None
    shown: dict[int, str] = {}
    clicked: Counter[str] = Counter()

    def made() -> Impression:
        places = [shown.get(place, "") for place in range(1, max(shown) + 1)]
        query, session, time = key or ("", "", None)
        return Impression(
            query=query, shown=places, clicked=dict(clicked), session=session, time=_seconds(time)
        )

    for row in rows:
        query, document, place = row.get("query"), row.get("id"), _whole(row.get("position"))
        if not isinstance(query, str) or not _name(document) or not 1 <= place <= MOST_PLACES:
            counted["rows without a query, an id or a position from 1"] += 1
            continue
        mine = (query, str(row.get("session") or ""), row.get("time"))
        if shown and (mine != key or place <= max(shown)):
            yield made()
            shown, clicked = {}, Counter()
        key = mine
        shown[place] = str(document)
        if _true(row.get("clicked")):
            clicked[str(document)] += 1
    if shown:
        yield made()


def _name(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return 0


def _true(value: Any) -> bool:
    return str(value).strip().lower() in ("1", "true", "yes", "t", "y", "1.0")


def _seconds(value: Any) -> float | None:
    """Seconds since 1970, of a number (milliseconds from 1e11 on) or ISO 8601."""
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            return None
        return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value / 1000 if abs(value) >= 1e11 else float(value)
