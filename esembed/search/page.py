"""What a page shows: stored fields, highlights, the request that fetches them, the cursor to it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD
from esembed.dialect.query import Json
from esembed.dialect.scope import Scope
from esembed.errors import QueryError
from esembed.plan import IndexPlan
from esembed.query.nodes import Match, MatchPhrase, MultiMatch, Query, TextNode
from esembed.query.tree import walk
from esembed.search.options import SourceFilter

__all__ = [
    "Cursor",
    "PointInTime",
    "SettledWords",
    "broken_cursor",
    "hidden_fields",
    "highlight_spec",
    "milliseconds",
    "page_body",
    "source_spec",
    "text_query",
]

MAX_CURSOR_CHARACTERS = 64 * 1024
"""Sort values are part of a cursor, and a keyword is up to 32 KB long."""


def hidden_fields(plan: IndexPlan | None) -> list[str]:
    """What never comes back unasked: vectors, chunks (they come with the hit) and our own fields."""
    if plan is None:
        return []
    names = [HASH_FIELD, PARENT_FIELD]
    if plan.chunk is not None:
        names.append(plan.chunk.path)
    names.extend(
        name
        for name, field_spec in plan.vector_fields()
        if not (field_spec.chunked and plan.field_path(name) != name)
    )
    return names


def source_spec(source: SourceFilter, hidden: list[str], *, exclude_vectors: bool = False) -> Any:
    """The engine's ``_source`` for what was asked.

    Args:
        source: names (which bring hidden fields along, too), or ``includes`` and ``excludes``; excludes that
            are written count alone, so ``{"excludes": []}`` asks for everything.
        hidden: what doesn't come unasked (:func:`hidden_fields`).
        exclude_vectors: the engine leaves vectors out by itself unless told otherwise
            (``Capabilities.exclude_vectors``).
    """
    if source is False:
        return False
    if source is None or source is True:
        return {"excludes": hidden} if hidden else True
    if isinstance(source, str):
        source = [source]
    if not isinstance(source, Mapping):
        source = {"includes": list(source)}
    unknown = set(source) - {"includes", "excludes"}
    if unknown:
        raise QueryError(f"source takes includes and excludes, not {sorted(unknown)}", field="source")
    includes, excludes = (_names(source.get(key)) for key in ("includes", "excludes"))
    if excludes is None:
        named = includes or ()
        excludes = [
            name for name in hidden if name not in named and not any(n.startswith(f"{name}.") for n in named)
        ]
        return {
            **({} if includes is None else {"includes": includes}),
            **({"excludes": excludes} if excludes else {}),
        }
    found: dict[str, Any] = {"excludes": excludes}
    if includes is not None:
        found["includes"] = includes
    if exclude_vectors:
        found["exclude_vectors"] = False
    return found


def _names(value: Any) -> list[str] | None:
    if value is None or isinstance(value, str):
        return None if value is None else [value]
    return list(value)


def text_query(query: Query) -> list[Match | MultiMatch | MatchPhrase]:
    """The full-text parts of a query: what its highlights show."""
    return [node for node in walk(query) if isinstance(node, TextNode)]


def highlight_spec(
    highlight: bool | Sequence[str] | Mapping[str, Any], scope: Scope, query: Json | None
) -> Json:
    """The engine's ``highlight`` object.

    Args:
        highlight: True for every text field of the plan, names, or the engine's own object.
        query: what to highlight where the request's own query isn't it.
    """
    if isinstance(highlight, Mapping):
        spec: Json = dict(highlight)
    elif highlight is True:
        names = list(scope.plan.text) if scope.plan is not None else []
        if not names:
            raise QueryError(
                "highlight=True needs a plan with text fields; name the fields", field="highlight"
            )
        spec = {"fields": {name: {} for name in names}}
    elif isinstance(highlight, str):
        spec = {"fields": {scope.text(highlight).path: {}}}
    else:
        spec = {"fields": {scope.text(name).path: {} for name in highlight or ()}}
    if query is not None:
        spec.setdefault("highlight_query", query)
    return spec


def page_body(ids: Sequence[str], source: Any, highlight: Json | None) -> Json:
    """The request that fetches a page's stored fields and highlights."""
    body: Json = {
        "query": {"ids": {"values": list(ids)}},
        "size": len(ids),
        "_source": source,
        "track_total_hits": False,
    }
    if highlight is not None:
        body["highlight"] = highlight
    return body


def broken_cursor() -> QueryError:
    """The error for a cursor that can't be read, or that this search didn't make."""
    return QueryError("the cursor is broken; start at the first page", field="cursor")


class SettledWords(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, array_like=True):
    """What a search found out about its words (:mod:`esembed.search.words`), which holds for all its pages.

    Attributes:
        steps: leg → the step at which it finds anything.
        missing: for each text the positions of the words that no document has.
    """

    steps: dict[str, int]
    missing: list[list[int]]


class PointInTime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, array_like=True):
    """The index as it was when the first page was searched, which the engine keeps.

    Attributes:
        id: the engine's name for it.
        keep_alive_seconds: how long it is kept after each page.
    """

    id: str
    keep_alive_seconds: float

    def body(self, body: Mapping[str, Any]) -> Json:
        """A body of ``_search`` that reads it."""
        return {**body, "pit": {"id": self.id, "keep_alive": milliseconds(self.keep_alive_seconds)}}


def milliseconds(seconds: float) -> str:
    """A time as the engines take it."""
    return f"{max(1, round(seconds * 1000))}ms"


class Cursor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, array_like=True):
    """Where the next page begins, and of what. Opaque to its bearer, and checked when it comes back.

    Attributes:
        version: of this form.
        offset: hits before the page.
        window: the window that all pages share.
        digest: of the query, and of the sort.
        after: of a sorted search the sort values of the hit before the page, else None.
        shown: the documents before the page that have exactly these values.
        settled: what the first page found out about the words, else None.
        point_in_time: the engine's name for what all pages see, or None where each sees the index as it is by
            then. How long it is kept is no business of the cursor's bearer.
        word_sums: leg → the sum of its words' rarity, as the first page found it (``normalizer="bound"``).
    """

    version: int
    offset: int
    window: int
    digest: str
    after: list[Any] | None = None
    shown: list[str] = []
    settled: SettledWords | None = None
    point_in_time: str | None = None
    word_sums: dict[str, float] = {}

    def encode(self) -> str:
        """URL-safe text."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).rstrip(b"=").decode("ascii")

    @classmethod
    def decode(cls, text: str, digest: str) -> Cursor:
        """Raises QueryError for a cursor that is broken or belongs to another query."""
        try:
            if len(text) > MAX_CURSOR_CHARACTERS:
                raise ValueError("too long")
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            cursor = msgspec.json.decode(raw, type=cls)
        except (binascii.Error, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise broken_cursor() from error
        # A sorted search is paged through by values, however deep.
        deepest = 10_000 if cursor.after is None else 2**53
        if cursor.version != 1 or not 0 <= cursor.offset <= deepest or not 1 <= cursor.window <= 10_000:
            raise broken_cursor()
        if cursor.digest != digest:
            raise QueryError(
                "the cursor belongs to another query (or filter, sort or routing), or learn_floor has run "
                "since; pass it with the same one, or start at the first page",
                field="cursor",
            )
        return cursor
