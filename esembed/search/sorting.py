"""``sort`` and ``search_after``, the engines' own, checked before they are sent."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from esembed.dialect.scope import Scope
from esembed.errors import QueryError
from esembed.json_input import JsonInputError, JsonLimits, check_json
from esembed.query.nodes import Scalar
from esembed.search.page import broken_cursor

__all__ = [
    "TIE",
    "before_ties",
    "check_search_after",
    "check_sort",
    "count_keys",
    "sorted_digest",
    "sorted_fields",
]

TIE: Mapping[str, str] = {"_seq_no": "asc"}
"""What orders documents of equal sort values, so that a page that begins behind one of them loses none of the
others. It is unique in a shard, and every index has it; Elasticsearch sorts by no ``_id`` unless a cluster
setting says so."""

LIMITS = JsonLimits(characters=100_000, depth=20, values=1000, objects=200)
_OF_THE_ENGINE = ("_geo_distance", "_script")


def check_sort(sort: Sequence[Any], scope: Scope) -> list[Any]:
    """The sort as it is sent.

    Raises:
        QueryError: no field name and no object, an unknown order, or a field that the index doesn't have or
            that can't be sorted by.
    """
    _check_form(sort)
    for key in sort:
        for name, options in _keys(key):
            _check_key(name, options, scope)
    return list(sort)


def sorted_digest(digest: str, sort: Sequence[Any] | None) -> str:
    """What a cursor is checked by: the digest of the query, and of a sort. Raises QueryError."""
    if sort is None:
        return digest
    _check_form(sort)
    data = msgspec.json.encode([digest, sort], order="deterministic")
    return hashlib.sha256(data).hexdigest()[:16]


def _check_form(sort: Any) -> None:
    try:
        check_json(sort, LIMITS)
    except JsonInputError as error:
        raise QueryError(f"sort: {error}", field="sort") from None


def sorted_fields(sort: Sequence[Any]) -> set[str]:
    """The fields that are sorted by, but for the engines' own (``_score`` …). Raises QueryError."""
    if not isinstance(sort, Sequence):
        raise QueryError(f"sort is a field's name, or a list of keys, not {sort!r:.80}", field="sort")
    return {name for key in sort for name, _ in _keys(key) if name[:1] != "_"}


def count_keys(sort: Sequence[Any]) -> int:
    """How many values each hit is sorted by."""
    return sum(len(_keys(key)) for key in sort)


def _keys(key: Any) -> list[tuple[str, Any]]:
    if isinstance(key, str):
        return [(key, None)]
    if isinstance(key, Mapping) and key:
        return list(key.items())
    raise QueryError(
        f'a key of sort is a field\'s name or {{"field": "desc"}}, not {key!r:.80}', field="sort"
    )


def _check_key(name: str, options: Any, scope: Scope) -> None:
    order = options.get("order") if isinstance(options, Mapping) else options
    if order is not None and str(order).lower() not in ("asc", "desc") and name not in _OF_THE_ENGINE:
        raise QueryError(f"sort on {name!r}: the order is asc or desc, not {order!r:.80}", field="sort")
    if name.startswith("_") or scope.plan is None:
        return  # _score, _doc, the engines' own
    nested = isinstance(options, Mapping) and "nested" in options
    if isinstance(options, Mapping) and "unmapped_type" in options:
        return  # written for a field that isn't there
    scope.usable(name, "sort", anywhere=nested)


def before_ties(after: Sequence[Any]) -> list[Any]:
    """The values of a cursor, moved before all documents that have them. Raises QueryError."""
    *values, number = after
    if not isinstance(number, int) or isinstance(number, bool):
        raise broken_cursor()
    return [*values, number - 1]


def check_search_after(search_after: Sequence[Scalar | None], sort: Sequence[Any]) -> list[Any]:
    """The values that the page before ended with, as they are sent.

    Raises:
        QueryError: not one for each key of the sort, or what is no value.
    """
    wanted = count_keys(sort)
    if isinstance(search_after, (str, bytes, Mapping)) or not isinstance(search_after, Sequence):
        raise QueryError("search_after is a list of values, those of the last hit", field="search_after")
    if len(search_after) != wanted:
        raise QueryError(
            f"search_after has {len(search_after)} values, and sort has {wanted} keys: it takes one for "
            "each, those of the last hit",
            field="search_after",
        )
    for value in search_after:
        odd = isinstance(value, float) and not math.isfinite(value)
        if odd or not (value is None or isinstance(value, (str, int, float))):
            raise QueryError(
                f"search_after holds {value!r:.80}, which no field sorts by", field="search_after"
            )
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise QueryError("search_after holds a number beyond 64 bits", field="search_after")
    return list(search_after)
