"""Every function of the algebra in one place; :mod:`esembed.query` hands them out."""

from esembed.query.compose import boost_by, collapse, linear, rescore, rrf
from esembed.query.filters import (
    bool_,
    exists,
    geo_distance,
    ids,
    match_all,
    nested,
    prefix,
    range,
    raw,
    term,
    terms,
)
from esembed.query.leaves import knn, match, match_phrase, multi_match, rank_feature, sparse

__all__ = [
    "bool_",
    "boost_by",
    "collapse",
    "exists",
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
]
