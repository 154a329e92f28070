"""Aggregations, the engine's own object: which fields they read.

An engine answers an aggregation on a field that isn't mapped with empty buckets and no error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esembed.dialect.live import nested_path, type_of
from esembed.dialect.scope import Scope
from esembed.errors import QueryError
from esembed.json_input import JsonInputError, JsonLimits, check_json

__all__ = ["check_aggregations", "facet_fields"]

_INSIDE = ("aggs", "aggregations")


def facet_fields(aggregations: Mapping[str, Any]) -> Iterator[tuple[str, str, str | None, str | None]]:
    """The fields that aggregations read, those inside others included.

    Yields:
        the aggregation's name (``langs``, ``langs.years`` …), the field, the path of the nested objects that
        the aggregation stands in, or None, and what counts there (``terms`` …), or None in a filter.
    """
    yield from _fields(aggregations, "", None)


def _fields(
    aggregations: Mapping[str, Any], prefix: str, nested: str | None
) -> Iterator[tuple[str, str, str | None, str | None]]:
    for name, body in aggregations.items():
        if not isinstance(body, Mapping):
            continue
        where, path = f"{prefix}{name}", nested
        for kind, options in body.items():
            if kind in (*_INSIDE, "meta") or not isinstance(options, Mapping):
                continue
            if kind == "nested":
                path = str(options.get("path"))
                yield where, path, path, kind
            elif kind == "reverse_nested":
                path = options.get("path")
            elif kind in ("filter", "filters", "adjacency_matrix"):
                for field in _filtered(options):
                    yield where, field, nested, None
            elif kind in ("top_hits", "scripted_metric"):
                continue  # sorts and scripts of the engine's own
            else:
                for field in _named(options):
                    yield where, field, nested, kind
        for key in _INSIDE:
            if isinstance(body.get(key), Mapping):
                yield from _fields(body[key], f"{where}.", path)


def _named(value: Any) -> Iterator[str]:
    """Every ``field`` (and ``fields``) of one aggregation's options."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "field" and isinstance(inner, str):
                yield inner
            elif key == "fields" and isinstance(inner, Sequence) and not isinstance(inner, str):
                yield from (name for name in inner if isinstance(name, str))
            else:
                yield from _named(inner)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for inner in value:
            yield from _named(inner)


def _filtered(value: Any) -> Iterator[str]:
    """The fields of the plain clauses in a filter; other clauses are their author's business."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("term", "terms", "range", "prefix", "wildcard", "match") and isinstance(
                inner, Mapping
            ):
                yield from (name for name in inner if name not in ("boost", "_name"))
            elif key == "exists" and isinstance(inner, Mapping):
                yield str(inner.get("field"))
            elif key in ("bool", "filter", "filters", "must", "should", "must_not"):
                yield from _filtered(inner)
            elif isinstance(inner, Mapping) and key not in ("nested", "has_child", "has_parent"):
                yield from _filtered(inner)  # a filter by its name
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for inner in value:
            yield from _filtered(inner)


LIMITS = JsonLimits(characters=1_000_000, depth=50, values=20_000, objects=2_000)
MAX_BUCKETS = 65_535
"""The most buckets and values of a facet: search.max_buckets of both engines, who check it when the memory is
taken already."""
_SIZES = frozenset(
    {"size", "shard_size", "buckets", "compression", "precision_threshold", "initial_buffer"}
    | {"max_docs_per_value"}
)


def check_aggregations(aggregations: Mapping[str, Any], scope: Scope) -> dict[str, Any]:
    """The aggregations as they are sent.

    Raises:
        QueryError: more than an engine is asked for, a field that the index doesn't have or that can't be
            counted so, or one in nested objects outside of them.
    """
    try:
        check_json(aggregations, LIMITS)
    except JsonInputError as error:
        raise QueryError(f"aggregations: {error}", field="aggregations") from None
    _check_sizes(aggregations)
    for where, field, nested, kind in facet_fields(aggregations) if scope.plan is not None else ():
        try:
            if kind is None or kind in _READ_OTHERWISE or field.startswith("_"):
                scope.known(field)
            else:
                scope.usable(field, kind, anywhere=True)
        except QueryError as error:
            raise QueryError(f"aggregation {where!r}: {error}", field=field) from None
        if kind == "nested" and type_of(field, scope.mapping) not in ("nested", None):
            raise QueryError(f"aggregation {where!r}: {field!r} holds no nested objects", field=field)
        path = nested_path(field, scope.mapping)
        if path is not None and not f"{nested}.".startswith(f"{path}.") and nested != field:
            raise QueryError(
                f"aggregation {where!r}: {field!r} lies in the nested objects {path!r}: put it into "
                f'{{"nested": {{"path": "{path}"}}, "aggs": …}}',
                field=field,
            )
    return dict(aggregations)


_READ_OTHERWISE = frozenset({"nested", "significant_text", "categorize_text", "children", "parent"})
"""Aggregations that need no column: of objects, or of the text itself."""


def _check_sizes(aggregations: Mapping[str, Any]) -> None:
    waiting: list[Any] = [aggregations]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            for name, inner in value.items():
                if name in _SIZES and isinstance(inner, (int, float)) and not inner <= MAX_BUCKETS:
                    raise QueryError(
                        f"aggregations: {name} = {inner} is more than the {MAX_BUCKETS} buckets that an "
                        "engine gives; lower it, or page through a composite aggregation",
                        field="aggregations",
                    )
                waiting.append(inner)
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
