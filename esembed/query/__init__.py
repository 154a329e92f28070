"""What to search for, as values: ``from esembed import query as q``.

::

    q.rrf(
        q.match("split a path", fields=["title^2", "body"]),
        q.knn("embedding", text="split a path", filter=q.term("lang", "en")),
        rank_window_size=100,
    )

A query is immutable, equal by value, prints as the Python that makes it, and is compiled for an engine
without talking to it: ``query.to_body("opensearch")``. A leg without a text takes the text of the
search, so a query can be a template (a plan's default query is one).
"""

from esembed.query.builders import (
    bool_,
    boost_by,
    collapse,
    exists,
    geo_distance,
    ids,
    knn,
    linear,
    match,
    match_all,
    match_phrase,
    multi_match,
    nested,
    prefix,
    range,
    rank_feature,
    raw,
    rescore,
    rrf,
    sparse,
    term,
    terms,
)
from esembed.query.nodes import Filter, Node, PruneOptions, Query
from esembed.query.tree import bind, from_dict, text_legs, vector_fields

__all__ = [
    "Filter",
    "Node",
    "PruneOptions",
    "Query",
    "bind",
    "bool_",
    "boost_by",
    "collapse",
    "exists",
    "from_dict",
    "geo_distance",
    "ids",
    "knn",
    "linear",
    "match",
    "match_all",
    "match_phrase",
    "multi_match",
    "nested",
    "prefix",
    "range",
    "rank_feature",
    "raw",
    "rescore",
    "rrf",
    "sparse",
    "term",
    "terms",
    "text_legs",
    "vector_fields",
]
