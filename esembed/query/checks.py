"""What the builders check of their arguments. All raise QueryError naming the option."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from esembed.errors import QueryError
from esembed.query.nodes import Bool, Collapse, Filter, Node, Query, Rescore

__all__ = [
    "Fields",
    "Vector",
    "count_of",
    "fields_of",
    "filter_of",
    "finite_of",
    "legs_of",
    "positive_of",
    "scale_of",
    "tuple_of",
    "vector_of",
    "weights_of",
    "window_of",
]

Fields = str | Sequence[str] | None
"""One field, several, or the default."""

Vector = Sequence[float] | Any
"""Numbers; arrays are taken as well."""


def fields_of(fields: Fields) -> tuple[str, ...]:
    if fields is None:
        return ()
    return (fields,) if isinstance(fields, str) else tuple(fields)


def filter_of(value: Filter | Sequence[Filter] | None) -> Filter | None:
    """One filter: of several all must hold, an empty list is none."""
    parts = value if isinstance(value, (list, tuple)) else () if value is None else (value,)
    for part in parts:
        if not isinstance(part, Node):
            raise QueryError(
                "filter must be a query of esembed.query (q.term(…), q.range(…), q.bool_(…), or a list of "
                f"them), not {type(part).__name__}; the engine's own JSON goes through q.raw",
                field="filter",
            )
    if len(parts) == 1:
        return cast("Filter", parts[0])
    return Bool(filter=tuple(parts)) if parts else None


def tuple_of(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, Node) else tuple(value)


def finite_of(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise QueryError(f"{name} must be a finite number, not {value!r}", field=name)
    return float(value)


def positive_of(value: float, name: str) -> float:
    if finite_of(value, name) < 0:
        raise QueryError(f"{name} must be ≥ 0, not {value}", field=name)
    return float(value)


def scale_of(value: float | None) -> float | None:
    if value is not None and not finite_of(value, "scale") > 0:
        raise QueryError(f"scale must be > 0, not {value}", field="scale")
    return value


def count_of(value: int, name: str) -> int:
    if not 0 <= value <= 100:
        raise QueryError(f"{name} must lie between 0 and 100, not {value}", field=name)
    return value


def window_of(value: int | None) -> int | None:
    if value is not None and not 1 <= value <= 10_000:
        raise QueryError(
            f"rank_window_size must lie between 1 and 10000, not {value}", field="rank_window_size"
        )
    return value


def legs_of(legs: tuple[Query, ...], what: str) -> tuple[Query, ...]:
    if not legs:
        raise QueryError(f"{what} needs at least one leg")
    for leg in legs:
        if not isinstance(leg, Node):
            raise QueryError(f"a leg of {what} is a query (q.match(…), q.knn(…) …), not {type(leg).__name__}")
        if isinstance(leg, (Rescore, Collapse)):
            raise QueryError(f"{type(leg).__name__.lower()} stands around {what}, not inside it")
    return legs


def weights_of(weights: Sequence[float] | None, count: int) -> tuple[float, ...] | None:
    if weights is None:
        return None
    values = tuple(finite_of(weight, "weights") for weight in weights)
    if len(values) != count:
        raise QueryError(f"{count} legs need {count} weights, not {len(values)}", field="weights")
    if any(value < 0 for value in values):
        raise QueryError(f"weights must be ≥ 0, not {list(values)}", field="weights")
    if not any(values):
        raise QueryError("all weights are 0; leave the legs out that shouldn't count", field="weights")
    return values


def vector_of(field: str, vector: Any) -> tuple[float, ...]:
    try:
        values = tuple(float(x) for x in (vector.tolist() if hasattr(vector, "tolist") else vector))
    except (TypeError, ValueError):
        raise QueryError(f"knn on {field!r}: vector must be a flat list of numbers", field=field) from None
    if not values:
        raise QueryError(f"knn on {field!r}: the vector is empty", field=field)
    for position, value in enumerate(values):
        if not math.isfinite(value):
            raise QueryError(f"knn on {field!r}: the vector has {value} at position {position}", field=field)
    return values
