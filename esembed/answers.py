"""What engines answer, checked before it is read: one table of the requests whose answers we read into.

An engine, a proxy before it or a login page may answer anything with status 200. :func:`check_answer`
compares an answer with the type that its request's answers have, so that whoever reads it further finds what
the type says, and everything else is one :class:`~esembed.errors.AnswerError`. Only what is read is typed;
what engines add is ignored. ``_bulk`` is left out: :mod:`esembed.ingest.bulk_answer` compares each item with
what was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from esembed.errors import AnswerError

__all__ = ["check_answer"]

_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Total(msgspec.Struct):
    value: _Count


class _Nested(msgspec.Struct, gc=False):
    """A hit of an inner list; nested ones have no id of their own on OpenSearch."""

    score: float | None = msgspec.field(name="_score", default=None)
    source: Any = msgspec.field(name="_source", default_factory=dict)
    fields: dict[str, list[Any]] | None = None


class _InnerHits(msgspec.Struct, gc=False):
    hits: list[_Nested]


class _Inner(msgspec.Struct, gc=False):
    hits: _InnerHits


class _Hit(msgspec.Struct, gc=False):
    # A document of its own type would be copied, which costs four times as much as all the rest of an answer
    # of ten hits (4.1 µs instead of 1.2): _sources looks at it.
    id: str = msgspec.field(name="_id")
    score: float | None = msgspec.field(name="_score", default=None)
    source: Any = msgspec.field(name="_source", default_factory=dict)
    fields: dict[str, list[Any]] | None = None
    highlight: dict[str, list[str]] | None = None
    inner_hits: dict[str, _Inner] | None = None
    sort: list[Any] | None = None


class _Hits(msgspec.Struct, gc=False):
    hits: list[_Hit]
    total: _Total | None = None


class _Search(msgspec.Struct, gc=False):
    hits: _Hits
    took: float = 0.0
    aggregations: dict[str, dict[str, Any]] | None = None
    timed_out: bool = False


class _Searches(msgspec.Struct):
    """Each is a search's answer, or an error of its own."""

    responses: list[dict[str, Any]]


class _Failed(msgspec.Struct):
    status: int = 500


class _Counted(msgspec.Struct):
    count: _Count


class _Document(msgspec.Struct):
    id: str | None = msgspec.field(name="_id", default=None)
    found: bool = False
    source: dict[str, Any] = msgspec.field(name="_source", default_factory=dict)


class _Documents(msgspec.Struct):
    docs: list[_Document]


class _Settings(msgspec.Struct):
    index: dict[str, Any] = msgspec.field(default_factory=dict)


class _Index(msgspec.Struct):
    aliases: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    mappings: dict[str, Any] = msgspec.field(default_factory=dict)
    settings: _Settings = msgspec.field(default_factory=_Settings)


class _Opened(msgspec.Struct):
    """A point in time, by Elasticsearch's name and by OpenSearch's."""

    id: str | None = None
    pit_id: str | None = None


_Indices = dict[str, _Index]

_READ: dict[tuple[str, ...], Any] = {
    ("_search",): _Search,
    ("_search", "scroll"): _Search,
    ("_search", "point_in_time"): _Opened,
    ("_pit",): _Opened,
    ("_msearch",): _Searches,
    ("_count",): _Counted,
    ("_mget",): _Documents,
}
"""By what comes after the index in the path of a GET or POST."""

_READ_BY_GET: dict[str, Any] = {
    "_doc": _Document,
    "_mapping": _Indices,
    "_settings": _Indices,
    "_alias": _Indices,
}
"""By the API's name; the same paths are written to with PUT and POST, which answer something else."""

_UNTYPED = frozenset({"_bulk", "_cat"})
"""A bulk answer that is odd confirms nothing, and its records are sent again; ``_cat`` answers lists."""


def check_answer(method: str, path: str, status: int, body: Any) -> None:
    """Refuse an answer that isn't what the request's answers are.

    Args:
        method: of the request.
        path: of the request, from the root.
        status: of the answer; below 400, others are errors by themselves.
        body: the parsed answer, or text where it is no JSON.

    Raises:
        AnswerError: names the request, and the place in the answer.
    """
    if method == "HEAD":
        return
    parts = path.strip("/").split("/")
    if not parts[0].startswith("_"):
        index, parts = parts[0], parts[1:]
        kind = _READ_BY_GET.get(parts[0]) if parts else _Indices if index else None
    else:
        kind = _READ_BY_GET.get(parts[0])
    if method != "GET":
        kind = None
    if kind is None and method in ("GET", "POST"):
        kind = _READ.get(tuple(parts))
    if kind is not None:
        _check(method, path, status, body, kind)
    elif not isinstance(body, Mapping) and not (parts and parts[0] in _UNTYPED):
        raise AnswerError(
            f"{method} {path}: the answer ({status}) is no JSON object, but {_named(body)}", status=status
        )


def _check(method: str, path: str, status: int, body: Any, kind: Any) -> None:
    try:
        answer = msgspec.convert(body, kind)
        if kind is _Search:
            _sources(answer)
        elif kind is _Searches:
            for item in answer.responses:
                if "error" in item:
                    msgspec.convert(item, _Failed)
                else:
                    _sources(msgspec.convert(item, _Search))
    except msgspec.ValidationError as error:
        raise AnswerError(
            f"{method} {path}: the answer ({status}) is not one of an engine's: {error}", status=status
        ) from None


def _sources(answer: _Search) -> None:
    for place, hit in enumerate(answer.hits.hits):
        if type(hit.source) is not dict:
            raise msgspec.ValidationError(
                f"Expected `object`, got `{type(hit.source).__name__}` - at `$.hits.hits[{place}]._source`"
            )
        for name, inner in (hit.inner_hits or {}).items():
            if any(type(nested.source) is not dict for nested in inner.hits.hits):
                at = f"$.hits.hits[{place}].inner_hits[{name!r}]"
                raise msgspec.ValidationError(f"Expected `object` as each `_source` - at `{at}`")


def _named(body: Any) -> str:
    if body is None or body == "":
        return "empty"
    return "text" if isinstance(body, str) else f"a {type(body).__name__}"
