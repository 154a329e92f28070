"""What a field can be used for, by its type: one table for sorts, collapse, facets, boosts and filters.

Sorting and counting read a field's values by document, from columns beside the index (``doc_values``). Some
types never have them, others may be mapped without (:func:`mapped_columns`). The engines answer a sort by
such a field with an error that names no remedy, and a facet on an object's name with empty buckets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from esembed.dialect.values import DATES, NUMERIC

__all__ = [
    "TEXTS",
    "WITHOUT_VALUES",
    "mapped_analyzers",
    "mapped_columns",
    "mapped_parts",
    "use_problem",
]

TEXTS = frozenset({"text", "match_only_text", "annotated_text", "search_as_you_type", "semantic_text"})
OBJECTS = frozenset({"object", "nested"})
VECTORS = frozenset(
    {"dense", "sparse", "dense_vector", "knn_vector", "sparse_vector", "rank_vectors", "rank_feature"}
    | {"rank_features"}
)
WITHOUT_VALUES = TEXTS | OBJECTS | VECTORS | {"binary", "percolator", "completion"}
"""Types that are neither sorted, counted, collapsed nor filtered by."""
_PLACES = frozenset({"geo_point", "geo_shape", "point", "shape", "xy_point", "xy_shape"})
_RANGES = frozenset({"integer_range", "float_range", "long_range", "double_range", "date_range", "ip_range"})

_NUMBERS = NUMERIC | DATES | {"boolean", "histogram", "aggregate_metric_double"}
_NEEDS: dict[str, tuple[str, frozenset[str]]] = {
    **dict.fromkeys(
        (
            *("avg", "sum", "stats", "extended_stats", "percentiles", "percentile_ranks", "boxplot"),
            *("median_absolute_deviation", "matrix_stats", "min", "max", "variable_width_histogram"),
        ),
        ("a numeric or date", _NUMBERS),
    ),
    "histogram": ("a numeric", _NUMBERS | _RANGES),
    **dict.fromkeys(
        ("date_histogram", "auto_date_histogram", "date_range"), ("a date", DATES | {"date_range"})
    ),
    **dict.fromkeys(("ip_range", "ip_prefix"), ("an ip", frozenset({"ip"}))),
    **dict.fromkeys(
        ("geo_bounds", "geo_centroid", "geo_distance", "geohash_grid", "geotile_grid", "geohex_grid"),
        ("a geo_point", _PLACES),
    ),
    "boost_by": ("a numeric", NUMERIC),
}
"""A use → the types that it takes, in words and as they are; other uses take whatever has values."""
_TAKE_PLACES = frozenset({"missing", "value_count", "cardinality", "geo_line"})


def mapped_columns(mapping: Mapping[str, Any]) -> dict[str, bool]:
    """Field → whether its values can be sorted and counted by, of a live mapping (``{"properties": …}``), for
    fields that are mapped otherwise than their type implies: ``doc_values: false``, ``fielddata: true``."""
    found: dict[str, bool] = {}
    for name, part in mapped_parts(mapping):
        if part.get("doc_values") is False:
            found[name] = False
        elif part.get("fielddata") is True:
            found[name] = True
    return found


def mapped_analyzers(mapping: Mapping[str, Any]) -> dict[str, str | None]:
    """Text field → the analyzer of what is searched in it, of a live mapping; None where its words can't be
    counted together with another field's.

    ``combined_fields`` scores with the engine's own BM25 whatever similarity the fields name, and is refused
    where some have norms and others don't (both engines; Elasticsearch 9.5, OpenSearch 3.6).
    """
    found: dict[str, str | None] = {}
    for name, part in mapped_parts(mapping):
        if part.get("type") == "text":
            plain = part.get("norms") is not False and part.get("similarity") in (None, "BM25")
            analyzer = part.get("search_analyzer") or part.get("analyzer") or "default"
            found[name] = str(analyzer) if plain else None
    return found


def mapped_parts(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each field, object and sub-field of a live mapping by its dotted name, with what is mapped there."""
    for name, part in (mapping.get("properties") or {}).items():
        path = f"{prefix}{name}"
        if "type" in part or "properties" in part:
            yield path, part
        yield from mapped_parts(part, f"{path}.")
        yield from mapped_parts({"properties": part.get("fields")}, f"{path}.")


def use_problem(use: str, kind: str, column: bool | None = None) -> str | None:
    """Why a field of this type can't be used so, or None.

    Args:
        use: ``sort``, ``collapse``, ``boost_by``, or an aggregation's own name (``terms``, ``avg`` …).
        kind: the field's type; ``any`` where it isn't known.
        column: what :func:`mapped_columns` says of it.
    """
    if kind == "any":
        return None
    what = f"a {kind} vector field" if kind in ("dense", "sparse") else f"of type {kind}"
    wanted = _NEEDS.get(use)
    if wanted is not None and kind not in wanted[1]:
        return f"needs {wanted[0]} field, and it is {what}"
    if kind in OBJECTS:
        return "needs a field with values, and it is an object that holds other fields"
    if column is False:
        return "needs a field with doc_values, and it is mapped with doc_values: false"
    if kind in WITHOUT_VALUES and not column:
        return f"needs a keyword, numeric or date field, and it is {what}"
    if kind in _PLACES and wanted is None and use not in _TAKE_PLACES:
        return f"can't use a {kind}" + ("; sort by _geo_distance" if use == "sort" else "")
    if kind in _RANGES and use in ("sort", "collapse"):
        return f"can't use a {kind}"
    return None
