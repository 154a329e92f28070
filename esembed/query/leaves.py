"""The functions that make legs: text, vectors, features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from esembed.errors import QueryError
from esembed.query.checks import (
    Fields,
    Vector,
    count_of,
    fields_of,
    filter_of,
    finite_of,
    positive_of,
    scale_of,
    vector_of,
)
from esembed.query.nodes import Filter, Knn, Match, MatchPhrase, MultiMatch, PruneOptions, RankFeature, Sparse
from esembed.types import SparseVector

__all__ = [
    "knn",
    "match",
    "match_phrase",
    "multi_match",
    "rank_feature",
    "sparse",
]


def match(
    text: str | None = None,
    *,
    fields: Fields = None,
    operator: Literal["or", "and"] = "or",
    fuzziness: str | int | None = None,
    minimum_should_match: str | int | None = None,
    analyzer: str | None = None,
    boost: float = 1.0,
    filter: Filter | Sequence[Filter] | None = None,
    scale: float | None = None,
    damp_words: int | None = None,
    name: str | None = None,
) -> Match:
    """Full text, scored by BM25. The text is analysed, never parsed: a search box can't inject syntax.

    Args:
        text: what to look for; None takes the search's text.
        fields: one or several, each with a boost if wanted (``"title^2"``); None takes the plan's text
            fields with their boosts. Of several fields the best one's score counts.
        operator: whether one word suffices (``or``) or all must be there.
        fuzziness: ``"AUTO"`` or the number of edits allowed in a word.
        minimum_should_match: how many words must be there (``2``, ``"75%"``).
        analyzer: another analyzer for the text than the field's own.
        boost: factor of the score.
        filter: only documents that match it.
        scale: under ``linear(normalizer="bound")``, what to divide the score by instead of the idf mass.
        damp_words: a text with more words than this has its score multiplied by damp_words / words, so
            that a text of a whole page doesn't drown the legs that it is added to.
        name: the leg's name in ``explain`` and ``legs=``.

    Raises:
        QueryError: a boost or scale that is negative or not finite, damp_words below 1.
    """
    if damp_words is not None and damp_words < 1:
        raise QueryError(f"damp_words must be ≥ 1, not {damp_words}", field="damp_words")
    return Match(
        text=text,
        fields=fields_of(fields),
        operator=operator,
        fuzziness=fuzziness,
        minimum_should_match=minimum_should_match,
        analyzer=analyzer,
        boost=positive_of(boost, "boost"),
        filter=filter_of(filter),
        scale=scale_of(scale),
        damp_words=damp_words,
        name=name,
    )


def multi_match(
    text: str | None = None,
    *,
    fields: Fields = None,
    kind: Literal[
        "best_fields", "most_fields", "cross_fields", "phrase", "phrase_prefix", "bool_prefix"
    ] = "best_fields",
    operator: Literal["or", "and"] = "or",
    tie_breaker: float | None = None,
    fuzziness: str | int | None = None,
    minimum_should_match: str | int | None = None,
    analyzer: str | None = None,
    boost: float = 1.0,
    filter: Filter | Sequence[Filter] | None = None,
    scale: float | None = None,
    name: str | None = None,
) -> MultiMatch:
    """Full text over several fields; *kind* is the engines' ``type`` of multi_match.

    Raises:
        QueryError: fuzziness with a kind that has none, or a bad number.
    """
    if fuzziness is not None and kind in ("cross_fields", "phrase", "phrase_prefix"):
        raise QueryError(f"multi_match {kind!r} knows no fuzziness; leave it out", field="fuzziness")
    return MultiMatch(
        text=text,
        fields=fields_of(fields),
        kind=kind,
        operator=operator,
        tie_breaker=tie_breaker,
        fuzziness=fuzziness,
        minimum_should_match=minimum_should_match,
        analyzer=analyzer,
        boost=positive_of(boost, "boost"),
        filter=filter_of(filter),
        scale=scale_of(scale),
        name=name,
    )


def match_phrase(
    field: str,
    text: str | None = None,
    *,
    slop: int = 0,
    analyzer: str | None = None,
    boost: float = 1.0,
    filter: Filter | Sequence[Filter] | None = None,
    scale: float | None = None,
    name: str | None = None,
) -> MatchPhrase:
    """Words in this order, at most *slop* places apart. Raises QueryError for a negative slop."""
    if slop < 0:
        raise QueryError(f"slop must be ≥ 0, not {slop}", field="slop")
    return MatchPhrase(
        field=field,
        text=text,
        slop=slop,
        analyzer=analyzer,
        boost=positive_of(boost, "boost"),
        filter=filter_of(filter),
        scale=scale_of(scale),
        name=name,
    )


def knn(
    field: str,
    *,
    text: str | None = None,
    vector: Vector | None = None,
    k: int | None = None,
    num_candidates: int | None = None,
    similarity: float | None = None,
    filter: Filter | Sequence[Filter] | None = None,
    oversample: float | None = None,
    exact: bool = False,
    chunks: int = 1,
    boost: float = 1.0,
    name: str | None = None,
) -> Knn:
    """The documents with the nearest vectors.

    Args:
        field: a dense field.
        text: encoded by the field's encoder; None (without *vector*) takes the search's text.
        vector: shape (dims,), finite numbers, instead of text.
        k: how many; None takes the fusion's window, or enough for the page.
        num_candidates: how many the graph looks at in each shard (``ef_search`` on OpenSearch), ≥ k.
        similarity: only vectors at least this similar, in the field's own measure (the cosine, the dot
            product; for ``l2_norm`` the largest distance).
        filter: applied inside the search, so that k documents remain.
        oversample: rescore this many times k candidates with the full vectors, 1…10.
        exact: compare with every vector that the filter leaves, by a script.
        chunks: how many of the best chunks come with each hit of a chunked field.
        boost: factor of the score.
        name: the leg's name.

    Raises:
        QueryError: text and vector both, a vector that isn't finite, numbers out of range.
    """
    if text is not None and vector is not None:
        raise QueryError(f"knn on {field!r} takes text or vector, not both", field=field)
    values = None if vector is None else vector_of(field, vector)
    if k is not None and k < 1:
        raise QueryError(f"k must be ≥ 1, not {k}", field="k")
    if num_candidates is not None and num_candidates < (k or 1):
        raise QueryError(f"num_candidates ({num_candidates}) must be ≥ k ({k or 1})", field="num_candidates")
    if oversample is not None and not 1 <= oversample <= 10:
        raise QueryError(f"oversample must lie between 1 and 10, not {oversample}", field="oversample")
    if exact and (num_candidates is not None or oversample is not None):
        raise QueryError(
            "exact compares with every vector; leave num_candidates and oversample out", field="exact"
        )
    return Knn(
        field=field,
        text=text,
        vector=values,
        k=k,
        num_candidates=num_candidates,
        similarity=None if similarity is None else finite_of(similarity, "similarity"),
        filter=filter_of(filter),
        oversample=oversample,
        exact=exact,
        chunks=count_of(chunks, "chunks"),
        boost=positive_of(boost, "boost"),
        name=name,
    )


def sparse(
    field: str,
    *,
    text: str | None = None,
    vector: SparseVector | Mapping[str, float] | Mapping[int, float] | None = None,
    max_terms: int | None = None,
    min_weight: float | None = None,
    prune: bool | PruneOptions | None = None,
    k: int | None = None,
    heap_factor: float | None = None,
    filter: Filter | Sequence[Filter] | None = None,
    chunks: int = 1,
    boost: float = 1.0,
    scale: float | None = None,
    name: str | None = None,
) -> Sparse:
    """The inner product of the field's sparse vectors with the query's.

    Args:
        field: a sparse field.
        text: encoded by the field's encoder; None (without *vector*) takes the search's text.
        vector: feature → weight > 0, instead of text; features as the encoder names them.
        max_terms: keep this many of the heaviest terms.
        min_weight: drop terms below this weight.
        prune: Elasticsearch's own pruning of frequent, light tokens (``True`` for its defaults, tuned
            for ELSER); None takes the plan's.
        k, heap_factor: SEISMIC's search parameters.
        filter: only documents that match it.
        chunks: how many of the best chunks come with each hit of a chunked field.
        boost: factor of the score.
        scale: under ``linear(normalizer="bound")``, what to divide the score by instead of the sum of
            the query's weights.
        name: the leg's name.

    Raises:
        QueryError: text and vector both, a weight that isn't positive and finite.
    """
    if text is not None and vector is not None:
        raise QueryError(f"sparse on {field!r} takes text or vector, not both", field=field)
    weights: dict[str, float] | None = None
    if vector is not None:
        items = vector.to_dict() if isinstance(vector, SparseVector) else vector
        weights = {str(token): float(weight) for token, weight in items.items()}
        for token, weight in weights.items():
            if not (math.isfinite(weight) and weight > 0):
                raise QueryError(
                    f"sparse on {field!r}: the weight of {token!r} is {weight}; weights must be > 0 (leave "
                    "tokens of weight 0 out)",
                    field=field,
                )
    if max_terms is not None and max_terms < 1:
        raise QueryError(f"max_terms must be ≥ 1, not {max_terms}", field="max_terms")
    return Sparse(
        field=field,
        text=text,
        vector=weights,
        max_terms=max_terms,
        min_weight=None if min_weight is None else finite_of(min_weight, "min_weight"),
        prune=prune,
        k=k,
        heap_factor=heap_factor,
        filter=filter_of(filter),
        chunks=count_of(chunks, "chunks"),
        boost=positive_of(boost, "boost"),
        scale=scale_of(scale),
        name=name,
    )


def rank_feature(
    field: str,
    feature: str | None = None,
    *,
    function: Literal["saturation", "log", "sigmoid", "linear"] = "saturation",
    pivot: float | None = None,
    scaling_factor: float | None = None,
    exponent: float | None = None,
    boost: float = 1.0,
    filter: Filter | Sequence[Filter] | None = None,
    name: str | None = None,
) -> RankFeature:
    """A stored signal (popularity, PageRank, a category's weight) as a score.

    Args:
        field: a ``rank_feature`` field, or a sparse field together with *feature*.
        feature: one feature of a sparse field.
        function: ``saturation`` S/(S+pivot), ``log`` ln(scaling_factor+S), ``sigmoid``
            Sᵉ/(Sᵉ+pivotᵉ), ``linear`` S.
        pivot: of saturation (None: the engine's estimate) and of sigmoid.
        scaling_factor: of log, ≥ 1.
        exponent: of sigmoid.

    Raises:
        QueryError: a parameter that the function needs is missing, or has no use.
    """
    needs = {"saturation": (), "log": ("scaling_factor",), "sigmoid": ("pivot", "exponent"), "linear": ()}
    takes = {**needs, "saturation": ("pivot",)}
    given = {"pivot": pivot, "scaling_factor": scaling_factor, "exponent": exponent}
    for option, value in given.items():
        if value is None and option in needs[function]:
            raise QueryError(f"rank_feature {function} needs {option}", field=option)
        if value is not None and option not in takes[function]:
            raise QueryError(f"rank_feature {function} takes no {option}", field=option)
        if value is not None and not value > 0:
            raise QueryError(f"{option} must be > 0, not {value}", field=option)
    return RankFeature(
        field=field,
        feature=feature,
        function=function,
        pivot=pivot,
        scaling_factor=scaling_factor,
        exponent=exponent,
        boost=positive_of(boost, "boost"),
        filter=filter_of(filter),
        name=name,
    )
