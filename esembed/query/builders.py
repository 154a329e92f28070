"""The functions that make nodes, by the engines' names; :mod:`esembed.query` hands them out.

A builder only takes what is convenient to write (one field for a list of one, a list of filters, arrays);
the node that it makes checks the values. ``__all__`` names every builder: :mod:`esembed.query` exports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Literal

from esembed.errors import QueryError
from esembed.query.nodes import (
    Bool,
    BoostBy,
    Collapse,
    Diversify,
    Exists,
    Filter,
    Floor,
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
    Operator,
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
    Wildcard,
    filter_of,
)
from esembed.scalars import identifier
from esembed.types import SparseVector

__all__ = [
    "bool_",
    "boost_by",
    "collapse",
    "diversify",
    "exists",
    "floor",
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
    "wildcard",
]

Fields = str | Sequence[str] | None
"""One field, several, or the default."""

Vector = Sequence[float] | Any
"""Numbers; arrays are taken as well."""


def _fields(fields: Fields) -> tuple[str, ...]:
    if fields is None:
        return ()
    return (fields,) if isinstance(fields, str) else tuple(fields)


def _several(value: Any) -> Any:
    """One query or value as a tuple of one; what is no list is left for the node to refuse."""
    if value is None:
        return ()
    if isinstance(value, Node):
        return (value,)
    try:
        return value if isinstance(value, (str, bytes)) else tuple(value)
    except TypeError:
        return value


def _as_is(value: Any) -> Any:
    """What the node itself makes plain: dates, arrays, NumPy's numbers."""
    return value


def match(
    text: str | None = None,
    *,
    fields: Fields = (),
    operator: Operator = "or",
    fuzziness: str | int | None = None,
    minimum_should_match: str | int | None = None,
    analyzer: str | None = None,
    boost: float = 1.0,
    filter: Filter | Sequence[Filter] | None = None,
    scale: float | None = None,
    damp_words: int | None = None,
    name: str | None = None,
) -> Match:
    """Full text, scored by BM25. The text is analyzed, never parsed: a search box can't inject syntax.

    Args:
        text: what to look for; None is a placeholder for the search's text.
        fields: one or several, each with a boost if wanted (``"title^2"``), ``*`` for all text fields of such
            a name (``"title.*"``); none takes the plan's text
            fields with their boosts. Of several fields the best one's score counts.
        operator: whether one word suffices (``or``) or all must be there (``and``). ``relax`` is ``and``
            where some document has all words, else most of them (*minimum_should_match*, or 75 %), else
            ``or``.
        fuzziness: ``"AUTO"`` or the number of edits allowed in a word; ``"missing"`` is AUTO for the words
            that no document has, and none for the others.
        minimum_should_match: how many words must be there (``2``, ``"75%"``).
        analyzer: another analyzer for the text than the field's own.
        boost: factor of the score.
        filter: only documents that match it.
        scale: under ``linear(normalizer="bound")``, what to divide the score by instead of the IDF sum.
        damp_words: query-length damping: the score of a text with more words than this is multiplied by
            damp_words / words. BM25 sums over the query's words, so the score of a long query would
            otherwise outweigh those of the vector legs that it is added to.
        name: the leg's name in ``explain`` and ``legs=``.

    Raises:
        QueryError: a boost or scale that is negative or not finite, damp_words below 1.
    """
    return Match(
        text=text,
        fields=_fields(fields),
        operator=operator,
        fuzziness=fuzziness,
        minimum_should_match=minimum_should_match,
        analyzer=analyzer,
        boost=boost,
        filter=filter_of(filter),
        scale=scale,
        damp_words=damp_words,
        name=name,
    )


def multi_match(
    text: str | None = None,
    *,
    fields: Fields = (),
    kind: Literal[
        "auto",
        "best_fields",
        "most_fields",
        "cross_fields",
        "combined_fields",
        "phrase",
        "phrase_prefix",
        "bool_prefix",
    ] = "best_fields",
    operator: Operator = "or",
    tie_breaker: float | None = None,
    fuzziness: str | int | None = None,
    minimum_should_match: str | int | None = None,
    analyzer: str | None = None,
    boost: float = 1.0,
    filter: Filter | Sequence[Filter] | None = None,
    scale: float | None = None,
    name: str | None = None,
) -> MultiMatch:
    """Full text over several fields; *kind* says how they combine.

    Args:
        text, fields, operator, fuzziness, minimum_should_match, analyzer, boost, filter, scale, name: as in
            :func:`match`.
        kind: ``auto`` reads the words as one text, wherever they stand: ``combined_fields`` where the fields
            allow it (one analyzer, the engine's own BM25 parameters), else ``cross_fields``; a document one
            of whose fields with ``keyword = true`` is the whole text gains one rare word more. The other
            kinds are the engines': ``combined_fields`` is a clause of its own (BM25F; a field's boost
            multiplies how often a word counts), the rest are types of multi_match.
        tie_breaker: what the other fields than the best count, between 0 and 1.

    Raises:
        QueryError: an option with a kind that has none, or a bad number.
    """
    return MultiMatch(
        text=text,
        fields=_fields(fields),
        kind=kind,
        operator=operator,
        tie_breaker=tie_breaker,
        fuzziness=fuzziness,
        minimum_should_match=minimum_should_match,
        analyzer=analyzer,
        boost=boost,
        filter=filter_of(filter),
        scale=scale,
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
    return MatchPhrase(
        field=field,
        text=text,
        slop=slop,
        analyzer=analyzer,
        boost=boost,
        filter=filter_of(filter),
        scale=scale,
        name=name,
    )


def knn(
    field: str,
    *,
    text: str | None = None,
    vector: Vector | None = None,
    k: int | None = None,
    num_candidates: int | None = None,
    visit_percentage: float | None = None,
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
        text: encoded by the field's encoder; None (without *vector*) is a placeholder for the search's.
        vector: shape (dims,), finite numbers, instead of text.
        k: how many; None takes the fusion's window, or enough for the page.
        num_candidates: how many the graph looks at in each shard (``ef_search`` on OpenSearch), ≥ k; None
            takes the field's rule (``candidates`` in the plan).
        visit_percentage: Elasticsearch's ``bbq_disk``: the share of the vectors that is looked at, 0 to 100.
        similarity: only vectors at least this similar, in the field's own measure (the cosine, the dot
            product; for ``l2_norm`` the largest distance).
        filter: applied inside the search, so that k documents remain.
        oversample: rescore this many times k candidates with the full vectors, 1…10; 0: order them by the
            quantized ones alone, also where the field or the engine rescores by itself.
        exact: compare with every vector that the filter leaves, by a script.
        chunks: how many of the best chunks come with each hit of a chunked field.
        boost: factor of the score.
        name: the leg's name.

    Raises:
        QueryError: text and vector both, a vector that isn't finite, numbers out of range.
    """
    return Knn(
        field=field,
        text=text,
        vector=_as_is(vector),
        k=k,
        num_candidates=num_candidates,
        visit_percentage=visit_percentage,
        similarity=similarity,
        filter=filter_of(filter),
        oversample=oversample,
        exact=exact,
        chunks=chunks,
        boost=boost,
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
        text: encoded by the field's encoder; None (without *vector*) is a placeholder for the search's.
        vector: feature → weight > 0, instead of text; features as the encoder names them.
        max_terms: keep this many of the heaviest terms.
        min_weight: drop terms below this weight.
        prune: Elasticsearch's own pruning of frequent tokens of low weight (``True`` for its defaults, tuned
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
    return Sparse(
        field=field,
        text=text,
        vector=_as_is(vector),
        max_terms=max_terms,
        min_weight=min_weight,
        prune=prune,
        k=k,
        heap_factor=heap_factor,
        filter=filter_of(filter),
        chunks=chunks,
        boost=boost,
        scale=scale,
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
    return RankFeature(
        field=field,
        feature=feature,
        function=function,
        pivot=pivot,
        scaling_factor=scaling_factor,
        exponent=exponent,
        boost=boost,
        filter=filter_of(filter),
        name=name,
    )


def term(field: str, value: Scalar | date) -> Term:
    """The field holds exactly this value. Raises QueryError for none, and for several."""
    return Term(
        field=field,
        value=_as_is(value),
    )


def terms(field: str, values: Iterable[Scalar | date]) -> Terms:
    """The field holds one of these values. Raises QueryError for a string in place of a list."""
    return Terms(
        field=field,
        values=_several(values),
    )


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
    return Range(
        field=field,
        gte=_as_is(gte),
        gt=_as_is(gt),
        lte=_as_is(lte),
        lt=_as_is(lt),
        format=format,
        time_zone=time_zone,
    )


def exists(field: str) -> Exists:
    """The document has a value in the field."""
    return Exists(
        field=field,
    )


def prefix(field: str, value: str) -> Prefix:
    """The keyword field's value begins with this."""
    return Prefix(
        field=field,
        value=value,
    )


def wildcard(field: str, value: str, *, case_insensitive: bool = False) -> Wildcard:
    """The keyword or wildcard field's value fits this pattern: ``*`` any text, ``?`` one character.

    A pattern of your own: text of a search box goes into a ``q.match`` or a ``q.term``. A pattern that begins
    with ``*`` reads every value of the field; a field of type ``wildcard`` is made for that.
    """
    return Wildcard(field=field, value=value, case_insensitive=case_insensitive)


def ids(*values: str | Iterable[str]) -> Ids:
    """Documents by id: ``q.ids("a", "b")`` or ``q.ids(["a", "b"])``; ids as an ingest takes them.

    Raises:
        QueryError: what is no id, such as a float.
    """
    flat: list[Any] = []
    for value in values:
        flat.extend([value] if isinstance(value, str) or not isinstance(value, Iterable) else value)
    try:
        return Ids(values=tuple(identifier(value) for value in flat))
    except ValueError as error:
        raise QueryError(f"ids: {error}", field="values") from None


def geo_distance(field: str, *, lat: float, lon: float, distance: str) -> GeoDistance:
    """Points within *distance* (a number and a unit: ``"800m"``, ``"12km"``). Raises QueryError."""
    return GeoDistance(
        field=field,
        lat=lat,
        lon=lon,
        distance=distance,
    )


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
        chunks=chunks,
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
    """Clauses combined.

    Args:
        must, should: they score, and their scores add up. A ``must`` clause beside a kNN thins out its k
            nearest.
        filter, must_not: they select. Searches for nearest vectors in the other clauses apply them first.

    Raises:
        QueryError: there is no clause.
    """
    return Bool(
        must=_several(must),
        should=_several(should),
        filter=_several(filter),
        must_not=_several(must_not),
        minimum_should_match=minimum_should_match,
        boost=boost,
        name=name,
    )


def match_all(
    *, boost: float = 1.0, filter: Filter | Sequence[Filter] | None = None, name: str | None = None
) -> MatchAll:
    """Every document, all with the score *boost*."""
    return MatchAll(
        boost=boost,
        filter=filter_of(filter),
        name=name,
    )


def raw(
    bodies: Mapping[str, Any], *, filter: Filter | Sequence[Filter] | None = None, name: str | None = None
) -> Raw:
    """The escape hatch: ``{"elasticsearch": {…}, "opensearch": {…}}``, each a query clause as the engine
    takes it. Raises QueryError for other keys."""
    return Raw(
        bodies=bodies,
        filter=filter_of(filter),
        name=name,
    )


def rrf(
    *legs: Query,
    weights: Sequence[float] | None = None,
    rank_constant: int = 60,
    rank_window_size: int | None = None,
    filter: Filter | Sequence[Filter] | None = None,
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
    return Rrf(
        legs=legs,
        weights=None if weights is None else _several(weights),
        rank_constant=rank_constant,
        rank_window_size=rank_window_size,
        filter=filter_of(filter),
        name=name,
    )


def linear(
    *legs: Query,
    weights: Sequence[float] | None = None,
    normalizer: Normalizer = "minmax",
    complete: bool | None = None,
    rank_window_size: int | None = None,
    filter: Filter | Sequence[Filter] | None = None,
    name: str | None = None,
) -> Linear:
    """Legs fused by the weighted sum of their scores.

    Bruch, Gai and Ingber, "An analysis of fusion functions for hybrid retrieval", 2023.

    Args:
        legs: at least one query; a leg may be a fusion itself.
        weights: one for each leg, ≥ 0, not all 0; None is 1 each.
        normalizer: ``minmax`` and ``zscore`` by the scores that the leg listed, ``l2`` by their Euclidean
            norm, ``none``, or ``bound``: theoretical min-max, by the highest score that is possible
            instead of the list – BM25 divided by the query's IDF sum (or the leg's ``scale``), sparse by
            the sum of the query's weights, cosine as it is. ``floor`` is how far a score lies
            above what a document is worth that the leg didn't list, of the way to the highest possible score
            (vectors) or to the list's best (words); see :func:`esembed.fusion.above_floor`. Of a single leg
            the best hit is 1.
        complete: score all candidates: each leg scores the documents that only other legs listed, in a
            second request, where it otherwise counts as 0 for them. None does so for ``bound``.
        rank_window_size: as for :func:`rrf`.
        filter: put inside every leg.

    Raises:
        QueryError: no leg, weights that don't fit, numbers out of range.
    """
    return Linear(
        legs=legs,
        weights=None if weights is None else _several(weights),
        normalizer=normalizer,
        complete=complete,
        rank_window_size=rank_window_size,
        filter=filter_of(filter),
        name=name,
    )


def rescore(
    query: Query,
    *,
    by: Query | None = None,
    reranker: str | None = None,
    inference_id: str | None = None,
    fields: Fields = (),
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
        text: what it compares them with; None is a placeholder for the search's text.
        window_size: how many hits; paging can't go beyond them.
        query_weight, rescore_weight: ≥ 0.

    Raises:
        QueryError: none or several of by, reranker and inference_id; fields missing; bad numbers.
    """
    return Rescore(
        query=query,
        by=by,
        reranker=reranker,
        inference_id=inference_id,
        fields=_fields(fields),
        text=text,
        window_size=window_size,
        query_weight=query_weight,
        rescore_weight=rescore_weight,
        name=name,
    )


def collapse(query: Query, field: str, *, name: str | None = None) -> Collapse:
    """The best hit of each value of a keyword or numeric field. Under fusion the window is collapsed after
    it was fused, so it may hold fewer groups than the page asks for: raise ``rank_window_size``."""
    return Collapse(
        query=query,
        field=field,
        name=name,
    )


def diversify(
    query: Query,
    field: str,
    *,
    relevance: float = 0.7,
    window_size: int = 50,
    name: str | None = None,
) -> Diversify:
    """The first *window_size* hits in an order in which each differs from those before it (maximal marginal
    relevance: Carbonell and Goldstein, SIGIR 1998).

    The next hit is the one with the largest relevance · r - (1 - relevance) · s. r is what the query says
    of it: for a kNN its score, which is (1 + cosine) / 2; for other queries its score between the window's
    lowest, 0, and highest, 1. s is how similar its vector is to that of the most similar hit before it,
    (1 + cosine) / 2 for fields that are compared by cosine; without a vector it is 1/2. Hits keep their
    scores, which therefore don't fall from hit to hit.

    Both engines can do something like it (``fusion="server"``): OpenSearch the same around a kNN alone, from
    3.3 on and where its cluster setting ``cluster.search.enabled_system_generated_factories`` allows it;
    Elasticsearch from 9.3 on chooses by the query's vector and leaves what it chose in the order it had.

    Args:
        query: what finds the hits; it asks for ``window_size`` of them at least.
        field: a dense field, one vector a document.
        relevance: between 1, the query's own order, and 0, as different as can be.
        window_size: how many hits are compared, at most 1,000; paging can't go beyond them.

    Raises:
        QueryError: a number out of range.
    """
    return Diversify(query=query, field=field, relevance=relevance, window_size=window_size, name=name)


def floor(query: Query, *, p: float = 0.003, name: str | None = None) -> Floor:
    """The hits that are better than chance; none where the index has nothing that fits.

    A hit stays if no more than the share *p* of the index's documents, drawn at random, would do as well for
    a text that they have nothing to do with. How random documents score is counted on the index
    (``index.learn_floor()``; ``learn_weights`` and an ingest that learns weights do it, too) and stored in
    it, for words and for each vector field that a text can be searched in. Legs are joined, so that a hit
    may pass by one of them or by all together; a document that a leg didn't list counts as that leg's last.

    The smaller p, the fewer hits of queries that the index can't answer, and the more queries that it could
    answer find nothing; docs/quality.md has both for one collection.

    Args:
        query: words, vectors, or a fusion of them.
        p: above 0, at most .5.

    Raises:
        QueryError: p out of range. The search raises it where the index's scores were not counted, and for
            legs that are neither words nor vectors.
    """
    return Floor(query=query, p=p, name=name)


def boost_by(
    query: Query,
    field: str,
    *,
    factor: float = 1.0,
    modifier: Literal["none", "log1p", "log2p", "ln1p", "ln2p", "square", "sqrt", "reciprocal"] = "none",
    missing: float = 1.0,
    mode: Literal["multiply", "sum"] = "multiply",
    max_boost: float | None = None,
    filter: Filter | Sequence[Filter] | None = None,
    name: str | None = None,
) -> BoostBy:
    """Scores changed by modifier(factor · value) of a numeric field (``function_score`` with
    ``field_value_factor``): score · modifier(factor · value), or their sum by *mode*.

    ``log1p`` and ``ln1p`` multiply by 1 + the logarithm, so that a value of 0 leaves a score as it is. With
    ``none``, ``sqrt`` and ``square`` a value of 0 makes it 0, which the hits' notes say. Both engines refuse
    negative results; a document that has one fails the search.

    Args:
        query: not a fusion: put it around a leg. To raise what a whole fusion found, let it score as a stage:
            ``q.rescore(fusion, by=q.boost_by(q.match_all(), field, modifier="log1p"), query_weight=1, …)``.
        missing: the value of documents without the field, ≥ 0; 0 for a count that nobody wrote down yet.
        max_boost: the function's largest result.

    Raises:
        QueryError: around a fusion, or a number out of range.
    """
    return BoostBy(
        query=query,
        field=field,
        factor=factor,
        modifier=modifier,
        missing=missing,
        mode=mode,
        max_boost=max_boost,
        filter=filter_of(filter),
        name=name,
    )
