"""The functions that make filters and combine clauses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Literal

from esembed.errors import QueryError
from esembed.query.checks import count_of, filter_of, positive_of, tuple_of
from esembed.query.nodes import (
    Bool,
    Exists,
    Filter,
    GeoDistance,
    Ids,
    MatchAll,
    Nested,
    Prefix,
    Query,
    Range,
    Raw,
    Scalar,
    Term,
    Terms,
)

__all__ = [
    "bool_",
    "exists",
    "geo_distance",
    "ids",
    "match_all",
    "nested",
    "prefix",
    "range",
    "raw",
    "term",
    "terms",
]


def term(field: str, value: Scalar | date) -> Term:
    """The field holds exactly this value. Raises QueryError for none, and for several."""
    return Term(field=field, value=_scalar("term", field, value))


def terms(field: str, values: Iterable[Scalar | date]) -> Terms:
    """The field holds one of these values. Raises QueryError for a string in place of a list."""
    if isinstance(values, (str, bytes)):
        raise QueryError(f"terms on {field!r} takes a list of values; use q.term for one", field=field)
    return Terms(field=field, values=tuple(_scalar("terms", field, value) for value in values))


def _scalar(clause: str, field: str, value: Any) -> Any:
    if isinstance(value, date):  # a datetime is one, too
        return value.isoformat()
    if hasattr(value, "item") and hasattr(value, "dtype") and not getattr(value, "shape", ()):
        return value.item()  # a number out of numpy
    if value is None:
        raise QueryError(
            f"{clause} on {field!r}: None is no value; documents without one are found by "
            f"q.bool_(must_not=[q.exists({field!r})])",
            field=field,
        )
    if isinstance(value, (list, tuple, set, frozenset, Mapping)):
        raise QueryError(
            f"{clause} on {field!r} compares with one value, not a {type(value).__name__}; several are for "
            "q.terms",
            field=field,
        )
    return value


def range(
    field: str,
    *,
    gte: float | str | date | None = None,
    gt: float | str | date | None = None,
    lte: float | str | date | None = None,
    lt: float | str | date | None = None,
    format: str | None = None,
    time_zone: str | None = None,
) -> Range:
    """Values between bounds; dates as Python's own or as strings (``"2024-01-31"``, ``"now-7d"``).

    Raises:
        QueryError: no bound, or two on one side.
    """
    if all(bound is None for bound in (gte, gt, lte, lt)):
        raise QueryError(f"range on {field!r} needs gte, gt, lte or lt", field=field)
    if (gte is not None and gt is not None) or (lte is not None and lt is not None):
        raise QueryError(f"range on {field!r}: two bounds on one side; keep one", field=field)
    low, low_open, high, high_open = (
        None if bound is None else _scalar("range", field, bound) for bound in (gte, gt, lte, lt)
    )
    return Range(
        field=field, gte=low, gt=low_open, lte=high, lt=high_open, format=format, time_zone=time_zone
    )


def exists(field: str) -> Exists:
    """The document has a value in the field."""
    return Exists(field=field)


def prefix(field: str, value: str) -> Prefix:
    """The keyword field's value begins with this."""
    return Prefix(field=field, value=value)


def ids(*values: str | Iterable[str]) -> Ids:
    """Documents by id: ``q.ids("a", "b")`` or ``q.ids(["a", "b"])``."""
    flat: list[str] = []
    for value in values:
        alone = isinstance(value, str) or not isinstance(value, Iterable)
        flat.extend([str(value)] if alone else map(str, value))
    return Ids(values=tuple(flat))


def geo_distance(field: str, *, lat: float, lon: float, distance: str) -> GeoDistance:
    """Points within *distance* (a number and a unit: ``"800m"``, ``"12km"``). Raises QueryError."""
    if not (-90 <= lat <= 90 and -180 <= lon <= 180):
        raise QueryError(f"no such place: lat {lat} (−90…90), lon {lon} (−180…180)", field=field)
    if not distance[:1].isdigit() or distance[-1:].isdigit():
        raise QueryError(f"distance is a number with a unit, as '12km', not {distance!r}", field="distance")
    return GeoDistance(field=field, lat=lat, lon=lon, distance=distance)


def nested(
    path: str,
    query: Query,
    *,
    score_mode: Literal["max", "avg", "sum", "min", "none"] = "max",
    chunks: int = 0,
    filter: Filter | Sequence[Filter] | None = None,
    name: str | None = None,
) -> Nested:
    """A query on the objects under *path*; field names stay whole (``"chunks.page"``).

    Args:
        score_mode: what the objects' scores make the document's.
        chunks: how many of the matching objects come with each hit.
    """
    return Nested(
        path=path,
        query=query,
        score_mode=score_mode,
        chunks=count_of(chunks, "chunks"),
        filter=filter_of(filter),
        name=name,
    )


def bool_(
    *,
    must: Query | Sequence[Query] = (),
    should: Query | Sequence[Query] = (),
    filter: Filter | Sequence[Filter] = (),
    must_not: Filter | Sequence[Filter] = (),
    minimum_should_match: int | str | None = None,
    boost: float = 1.0,
    name: str | None = None,
) -> Bool:
    """Clauses combined. Raises QueryError when there is none."""
    if not any((must, should, filter, must_not)):
        raise QueryError("bool_ needs must, should, filter or must_not; for everything use q.match_all()")
    return Bool(
        must=tuple_of(must),
        should=tuple_of(should),
        filter=tuple_of(filter),
        must_not=tuple_of(must_not),
        minimum_should_match=minimum_should_match,
        boost=positive_of(boost, "boost"),
        name=name,
    )


def match_all(
    *, boost: float = 1.0, filter: Filter | Sequence[Filter] | None = None, name: str | None = None
) -> MatchAll:
    """Every document, all with the score *boost*."""
    return MatchAll(boost=positive_of(boost, "boost"), filter=filter_of(filter), name=name)


def raw(
    bodies: Mapping[str, Any], *, filter: Filter | Sequence[Filter] | None = None, name: str | None = None
) -> Raw:
    """The escape hatch: ``{"elasticsearch": {…}, "opensearch": {…}}``, each a query clause as the engine
    takes it. Raises QueryError for other keys."""
    if not bodies or set(bodies) - {"elasticsearch", "opensearch"}:
        raise QueryError(
            "raw takes {'elasticsearch': clause, 'opensearch': clause} (one may be missing), not "
            f"{sorted(map(str, bodies))}"
        )
    return Raw(bodies=bodies, filter=filter_of(filter), name=name)
