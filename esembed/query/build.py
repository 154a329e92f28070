"""The functions people write. Each checks what can be checked without a plan, and names what is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from esembed.errors import QueryError
from esembed.query.nodes import (
    Bool,
    BoostBy,
    Collapse,
    Exists,
    Filter,
    GeoDistance,
    Ids,
    Knn,
    Linear,
    Match,
    MatchAll,
    MatchPhrase,
    MultiMatch,
    Nested,
    Node,
    Normalizer,
    Prefix,
    PruneOptions,
    Query,
    Range,
    RankFeature,
    Raw,
    Rescore,
    Rrf,
    Scalar,
    Sparse,
    Term,
    Terms,
)
from esembed.types import SparseVector

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

Fields = str | Sequence[str] | None
Vector = Sequence[float] | Any


def match(
    text: str | None = None,
    *,
    fields: Fields = None,
    operator: Literal["or", "and"] = "or",
    fuzziness: str | int | None = None,
    minimum_should_match: str | int | None = None,
    analyzer: str | None = None,
    boost: float = 1.0,
    filter: Filter | None = None,
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
        fields=_fields(fields),
        operator=operator,
        fuzziness=fuzziness,
        minimum_should_match=minimum_should_match,
        analyzer=analyzer,
        boost=_positive(boost, "boost"),
        filter=filter,
        scale=_scale(scale),
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
    filter: Filter | None = None,
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
        fields=_fields(fields),
        kind=kind,
        operator=operator,
        tie_breaker=tie_breaker,
        fuzziness=fuzziness,
        minimum_should_match=minimum_should_match,
        analyzer=analyzer,
        boost=_positive(boost, "boost"),
        filter=filter,
        scale=_scale(scale),
        name=name,
    )


def match_phrase(
    field: str,
    text: str | None = None,
    *,
    slop: int = 0,
    analyzer: str | None = None,
    boost: float = 1.0,
    filter: Filter | None = None,
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
        boost=_positive(boost, "boost"),
        filter=filter,
        scale=_scale(scale),
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
    filter: Filter | None = None,
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
    values = None if vector is None else _vector(field, vector)
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
        similarity=None if similarity is None else _finite(similarity, "similarity"),
        filter=filter,
        oversample=oversample,
        exact=exact,
        chunks=_count(chunks, "chunks"),
        boost=_positive(boost, "boost"),
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
    filter: Filter | None = None,
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
        min_weight=None if min_weight is None else _finite(min_weight, "min_weight"),
        prune=prune,
        k=k,
        heap_factor=heap_factor,
        filter=filter,
        chunks=_count(chunks, "chunks"),
        boost=_positive(boost, "boost"),
        scale=_scale(scale),
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
    filter: Filter | None = None,
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
        boost=_positive(boost, "boost"),
        filter=filter,
        name=name,
    )


def term(field: str, value: Scalar) -> Term:
    """The field holds exactly this value."""
    return Term(field=field, value=value)


def terms(field: str, values: Iterable[Scalar]) -> Terms:
    """The field holds one of these values. Raises QueryError for a string in place of a list."""
    if isinstance(values, (str, bytes)):
        raise QueryError(f"terms on {field!r} takes a list of values; use q.term for one", field=field)
    return Terms(field=field, values=tuple(values))


def range(
    field: str,
    *,
    gte: float | str | None = None,
    gt: float | str | None = None,
    lte: float | str | None = None,
    lt: float | str | None = None,
    format: str | None = None,
    time_zone: str | None = None,
) -> Range:
    """Values between bounds; dates as strings (``"2024-01-31"``, ``"now-7d"``).

    Raises:
        QueryError: no bound, or two on one side.
    """
    if all(bound is None for bound in (gte, gt, lte, lt)):
        raise QueryError(f"range on {field!r} needs gte, gt, lte or lt", field=field)
    if (gte is not None and gt is not None) or (lte is not None and lt is not None):
        raise QueryError(f"range on {field!r}: two bounds on one side; keep one", field=field)
    return Range(field=field, gte=gte, gt=gt, lte=lte, lt=lt, format=format, time_zone=time_zone)


def exists(field: str) -> Exists:
    """The document has a value in the field."""
    return Exists(field=field)


def prefix(field: str, value: str) -> Prefix:
    """The keyword field's value begins with this."""
    return Prefix(field=field, value=value)


def ids(*values: str) -> Ids:
    """Documents by id."""
    return Ids(values=tuple(str(value) for value in values))


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
    filter: Filter | None = None,
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
        chunks=_count(chunks, "chunks"),
        filter=filter,
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
        must=_tuple(must),
        should=_tuple(should),
        filter=_tuple(filter),
        must_not=_tuple(must_not),
        minimum_should_match=minimum_should_match,
        boost=_positive(boost, "boost"),
        name=name,
    )


def match_all(*, boost: float = 1.0, filter: Filter | None = None, name: str | None = None) -> MatchAll:
    """Every document, all with the score *boost*."""
    return MatchAll(boost=_positive(boost, "boost"), filter=filter, name=name)


def raw(bodies: Mapping[str, Any], *, filter: Filter | None = None, name: str | None = None) -> Raw:
    """The escape hatch: ``{"elasticsearch": {…}, "opensearch": {…}}``, each a query clause as the engine
    takes it. Raises QueryError for other keys."""
    if not bodies or set(bodies) - {"elasticsearch", "opensearch"}:
        raise QueryError(
            "raw takes {'elasticsearch': clause, 'opensearch': clause} (one may be missing), not "
            f"{sorted(map(str, bodies))}"
        )
    return Raw(bodies=bodies, filter=filter, name=name)


def rrf(
    *legs: Query,
    weights: Sequence[float] | None = None,
    rank_constant: int = 60,
    rank_window_size: int | None = None,
    filter: Filter | None = None,
    name: str | None = None,
) -> Rrf:
    """Legs fused by reciprocal rank: the sum of weight / (rank_constant + rank) over the legs.

    Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank
    learning methods", 2009.

    Args:
        legs: at least one query; a leg may be a fusion itself.
        weights: one for each leg, ≥ 0, not all 0; None is 1 each.
        rank_constant: ≥ 1; larger flattens the difference between first and later ranks.
        rank_window_size: how many hits of each leg take part, and how deep paging can go; None is 100,
            or the page's size where that is larger.
        filter: put inside every leg.

    Raises:
        QueryError: no leg, weights that don't fit, numbers out of range.
    """
    if rank_constant < 1:
        raise QueryError(f"rank_constant must be ≥ 1, not {rank_constant}", field="rank_constant")
    return Rrf(
        legs=_legs(legs, "rrf"),
        weights=_weights(weights, len(legs)),
        rank_constant=rank_constant,
        rank_window_size=_window(rank_window_size),
        filter=filter,
        name=name,
    )


def linear(
    *legs: Query,
    weights: Sequence[float] | None = None,
    normalizer: Normalizer = "minmax",
    complete: bool | None = None,
    rank_window_size: int | None = None,
    filter: Filter | None = None,
    name: str | None = None,
) -> Linear:
    """Legs fused by the weighted sum of their scores. See Bruch, Gai and Ingber, "An analysis of fusion
    functions for hybrid retrieval", 2023.

    Args:
        legs: at least one query; a leg may be a fusion itself.
        weights: one for each leg, ≥ 0, not all 0; None is 1 each.
        normalizer: ``minmax`` and ``zscore`` by the leg's list at hand, ``l2`` by its length as a
            vector, ``none``, or ``bound``: by a theoretical bound instead of the list – BM25 divided by
            the query's idf mass (or the leg's ``scale``), sparse by the sum of the query's weights,
            cosine as it is.
        complete: score every candidate by every leg, in a second round trip, so that a document outside
            of a leg's window isn't taken for one without a score; None does so for ``bound``.
        rank_window_size: as for :func:`rrf`.
        filter: put inside every leg.

    Raises:
        QueryError: no leg, weights that don't fit, numbers out of range.
    """
    return Linear(
        legs=_legs(legs, "linear"),
        weights=_weights(weights, len(legs)),
        normalizer=normalizer,
        complete=complete,
        rank_window_size=_window(rank_window_size),
        filter=filter,
        name=name,
    )


def rescore(
    query: Query,
    *,
    by: Query | None = None,
    reranker: str | None = None,
    inference_id: str | None = None,
    fields: Fields = None,
    text: str | None = None,
    window_size: int = 50,
    query_weight: float = 0.0,
    rescore_weight: float = 1.0,
    name: str | None = None,
) -> Rescore:
    """Score the first *window_size* hits again: query_weight · old + rescore_weight · new.

    Args:
        query: what finds the hits.
        by: a query that scores them, such as ``q.knn(…, exact=True)``; or
        reranker: the name of a cross-encoder given to the index (``rerankers={name: function}``); or
        inference_id: a rerank endpoint inside Elasticsearch (the ``text_similarity_reranker`` retriever).
        fields: the stored fields whose text a cross-encoder reads.
        text: what it compares them with; None takes the search's text.
        window_size: how many hits; paging can't go beyond them.
        query_weight, rescore_weight: ≥ 0.

    Raises:
        QueryError: none or several of by, reranker and inference_id; fields missing; bad numbers.
    """
    if sum(x is not None for x in (by, reranker, inference_id)) != 1:
        raise QueryError("rescore needs one of by=, reranker= and inference_id=")
    names = _fields(fields)
    if by is None and not names:
        raise QueryError("a cross-encoder needs fields=, the stored fields it reads", field="fields")
    if inference_id is not None and (len(names) != 1 or query_weight):
        raise QueryError(
            "a rerank endpoint reads one field and its score stands alone: one of fields, query_weight 0",
            field="fields",
        )
    if window_size < 1:
        raise QueryError(f"window_size must be ≥ 1, not {window_size}", field="window_size")
    return Rescore(
        query=query,
        by=by,
        reranker=reranker,
        inference_id=inference_id,
        fields=names,
        text=text,
        window_size=window_size,
        query_weight=_positive(query_weight, "query_weight"),
        rescore_weight=_positive(rescore_weight, "rescore_weight"),
        name=name,
    )


def collapse(query: Query, field: str, *, name: str | None = None) -> Collapse:
    """The best hit of each value of a keyword or numeric field. Under fusion the window is collapsed after
    it was fused, so it may hold fewer groups than the page asks for: raise ``rank_window_size``."""
    return Collapse(query=query, field=field, name=name)


def boost_by(
    query: Query,
    field: str,
    *,
    factor: float = 1.0,
    modifier: Literal["none", "log1p", "log2p", "ln1p", "ln2p", "square", "sqrt", "reciprocal"] = "none",
    missing: float = 1.0,
    mode: Literal["multiply", "sum"] = "multiply",
    max_boost: float | None = None,
    filter: Filter | None = None,
    name: str | None = None,
) -> BoostBy:
    """Scores changed by modifier(factor · value) of a numeric field (``function_score`` with
    ``field_value_factor``). Raises QueryError under a fusion's place: put it around a leg."""
    if isinstance(query, (Rrf, Linear, Rescore, Collapse)):
        raise QueryError(
            f"boost_by can't stand around {type(query).__name__.lower()}; put it around a leg", field=field
        )
    return BoostBy(
        query=query,
        field=field,
        factor=_positive(factor, "factor"),
        modifier=modifier,
        missing=_finite(missing, "missing"),
        mode=mode,
        max_boost=max_boost,
        filter=filter,
        name=name,
    )


# -- checks ----------------------------------------------------------------------------------------


def _fields(fields: Fields) -> tuple[str, ...]:
    if fields is None:
        return ()
    return (fields,) if isinstance(fields, str) else tuple(fields)


def _tuple(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, Node) else tuple(value)


def _finite(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise QueryError(f"{name} must be a finite number, not {value!r}", field=name)
    return float(value)


def _positive(value: float, name: str) -> float:
    if _finite(value, name) < 0:
        raise QueryError(f"{name} must be ≥ 0, not {value}", field=name)
    return float(value)


def _scale(value: float | None) -> float | None:
    if value is not None and not _finite(value, "scale") > 0:
        raise QueryError(f"scale must be > 0, not {value}", field="scale")
    return value


def _count(value: int, name: str) -> int:
    if not 0 <= value <= 100:
        raise QueryError(f"{name} must lie between 0 and 100, not {value}", field=name)
    return value


def _window(value: int | None) -> int | None:
    if value is not None and not 1 <= value <= 10_000:
        raise QueryError(
            f"rank_window_size must lie between 1 and 10000, not {value}", field="rank_window_size"
        )
    return value


def _legs(legs: tuple[Query, ...], what: str) -> tuple[Query, ...]:
    if not legs:
        raise QueryError(f"{what} needs at least one leg")
    for leg in legs:
        if not isinstance(leg, Node):
            raise QueryError(f"a leg of {what} is a query (q.match(…), q.knn(…) …), not {type(leg).__name__}")
        if isinstance(leg, (Rescore, Collapse)):
            raise QueryError(f"{type(leg).__name__.lower()} stands around {what}, not inside it")
    return legs


def _weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...] | None:
    if weights is None:
        return None
    values = tuple(_finite(weight, "weights") for weight in weights)
    if len(values) != count:
        raise QueryError(f"{count} legs need {count} weights, not {len(values)}", field="weights")
    if any(value < 0 for value in values):
        raise QueryError(f"weights must be ≥ 0, not {list(values)}", field="weights")
    if not any(values):
        raise QueryError("all weights are 0; leave the legs out that shouldn't count", field="weights")
    return values


def _vector(field: str, vector: Any) -> tuple[float, ...]:
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
