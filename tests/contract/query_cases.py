"""Every operator of the query algebra, once each and in the combinations that compile differently.

The bodies' test sends what these compile to; the documentation page is made from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esembed import query as q
from esembed.plan import ChunkOptions, DenseField, FilterField, IndexPlan, SparseField, TextField
from esembed.query import Query

VECTOR = [0.5, -0.25, 0.125, 1.0]
TOKENS = {"red": 1.5, "fox": 0.75}


@dataclass(frozen=True)
class Case:
    """One query with its options, and what it shows."""

    id: str
    title: str
    query: Query
    options: dict[str, Any] = field(default_factory=dict)
    plan: str = "plain"


def plans(kind: str, *, rank_feature: bool) -> dict[str, IndexPlan]:
    """The plans that the cases are compiled against.

    Args:
        kind: which engine, since SEISMIC is OpenSearch's.
        rank_feature: whether the engine has the rank_feature mapper.
    """
    filters = {
        "lang": FilterField(),
        "price": FilterField(type="float"),
        "date": FilterField(type="date"),
        "place": FilterField(type="geo_point"),
    }
    if rank_feature:
        filters["popularity"] = FilterField(type="rank_feature")
    found = {
        "plain": IndexPlan(
            text={"title": TextField(boost=2.0, keyword=True), "body": TextField()},
            dense={"embedding": DenseField(dims=4)},
            sparse={"terms": SparseField(encoder="precomputed")},
            filter=filters,
        ),
        "chunks": IndexPlan(
            text={"title": TextField()},
            # An encoder of one's own, since esembed cuts the chunks only where it encodes them.
            dense={"embedding": DenseField(encoder="custom:mine", dims=4, chunked=True)},
            sparse={"terms": SparseField(encoder="precomputed", chunked=True)},
            filter={"lang": FilterField()},
            chunk=ChunkOptions(source=("title",)),
        ),
        "chunk-documents": IndexPlan(
            text={"title": TextField()},
            dense={"embedding": DenseField(dims=4, chunked=True)},
            filter={"lang": FilterField()},
            chunk=ChunkOptions(source=("title",), store="documents"),
        ),
        "features": IndexPlan(
            text={"title": TextField()},
            sparse={"terms": SparseField(encoder="precomputed", storage="rank_features")},
        ),
    }
    found["inside"] = IndexPlan(
        text={"title": TextField()},
        dense={"embedding": DenseField(encoder="engine:my-e5", source=("title",), dims=384)},
        sparse={"terms": SparseField(encoder="engine:my-elser", source=("title",))},
        filter={"lang": FilterField()},
    )
    if kind == "opensearch":
        found["seismic"] = IndexPlan(
            text={"title": TextField()},
            sparse={"terms": SparseField(encoder="precomputed", storage="seismic")},
        )
    return found


_text = q.match("red fox", fields=["title^2", "body"], name="bm25")
_dense = q.knn("embedding", vector=VECTOR, name="dense")
_sparse = q.sparse("terms", vector=TOKENS, name="sparse")

CASES: list[Case] = [
    # -- text
    Case("match", "Full text over the plan's text fields", q.match("red fox")),
    Case("match-field", "… in one field", q.match("red fox", fields="body")),
    Case("match-boosts", "… in several, with boosts; the best field counts", _text),
    Case("match-and", "… every word", q.match("red fox", fields="body", operator="and")),
    Case("match-fuzzy", "… with typing errors", q.match("red fxo", fields="body", fuzziness="AUTO")),
    Case(
        "match-most", "… most of the words", q.match("a red fox", fields="body", minimum_should_match="70%")
    ),
    Case("match-filter", "… filtered", q.match("red fox", fields="body", filter=q.term("lang", "en"))),
    Case(
        "multi-match",
        "Across fields as if they were one",
        q.multi_match("red fox", kind="cross_fields", operator="and"),
    ),
    Case("multi-match-most", "The sum over the fields", q.multi_match("red fox", kind="most_fields")),
    Case(
        "multi-match-tie",
        "The best field and a little of the others",
        q.multi_match("red fox", tie_breaker=0.3),
    ),
    Case(
        "multi-match-auto",
        "Words wherever they stand, as in one text; a whole name first",
        q.multi_match("red fox", kind="auto"),
    ),
    Case(
        "multi-match-combined",
        "Across fields by BM25F",
        q.multi_match("red fox", kind="combined_fields", operator="and"),
    ),
    Case("multi-match-prefix", "As you type", q.multi_match("red fo", kind="bool_prefix")),
    Case("match-phrase", "Words in this order", q.match_phrase("body", "red fox", slop=1)),
    # -- vectors and features
    Case("knn", "The nearest vectors", q.knn("embedding", vector=VECTOR)),
    Case("knn-options", "… looking further", q.knn("embedding", vector=VECTOR, k=20, num_candidates=200)),
    Case(
        "knn-filter", "… among some documents", q.knn("embedding", vector=VECTOR, filter=q.term("lang", "en"))
    ),
    Case("knn-similarity", "… that are near enough", q.knn("embedding", vector=VECTOR, similarity=0.3)),
    Case("knn-oversample", "… rescored by full vectors", q.knn("embedding", vector=VECTOR, oversample=3.0)),
    Case("knn-codes", "… by the quantized vectors alone", q.knn("embedding", vector=VECTOR, oversample=0)),
    Case(
        "knn-exact",
        "… compared one by one",
        q.knn("embedding", vector=VECTOR, exact=True, filter=q.term("lang", "en")),
    ),
    Case(
        "knn-chunks",
        "… of chunks, the best two with the hit",
        q.knn("embedding", vector=VECTOR, chunks=2),
        plan="chunks",
    ),
    Case(
        "knn-chunks-filter",
        "… filtered by the document",
        q.knn("embedding", vector=VECTOR, filter=q.term("lang", "en")),
        plan="chunks",
    ),
    Case("sparse", "The inner product with a sparse vector", q.sparse("terms", vector=TOKENS)),
    Case("sparse-cut", "… of its heaviest terms", q.sparse("terms", vector=TOKENS, max_terms=1)),
    Case("sparse-filter", "… filtered", q.sparse("terms", vector=TOKENS, filter=q.term("lang", "en"))),
    Case("sparse-prune", "… pruned by the engine", q.sparse("terms", vector=TOKENS, prune=True)),
    Case(
        "sparse-prune-options",
        "… pruned by other thresholds",
        q.sparse("terms", vector=TOKENS, prune=q.PruneOptions(tokens_weight_threshold=0.2)),
    ),
    Case("sparse-chunks", "… of chunks", q.sparse("terms", vector=TOKENS), plan="chunks"),
    Case("sparse-features", "… kept as rank_features", q.sparse("terms", vector=TOKENS), plan="features"),
    Case(
        "sparse-seismic",
        "… kept for SEISMIC",
        q.sparse("terms", vector={"17": 1.5, "42": 0.75}, k=10, heap_factor=1.2, filter=q.exists("title")),
        plan="seismic",
    ),
    Case(
        "knn-inside",
        "The nearest vectors to a text that the engine encodes",
        q.knn("embedding", text="red fox", k=20, num_candidates=200, filter=q.term("lang", "en")),
        plan="inside",
    ),
    Case(
        "sparse-inside",
        "The inner product with a text that the engine expands",
        q.sparse("terms", text="red fox", boost=2.0, filter=q.term("lang", "en")),
        plan="inside",
    ),
    Case("rank-feature", "A stored signal", q.rank_feature("popularity")),
    Case(
        "rank-feature-log",
        "… by its logarithm",
        q.rank_feature("popularity", function="log", scaling_factor=2.0, boost=0.5),
    ),
    Case(
        "rank-feature-sigmoid",
        "… by a sigmoid",
        q.rank_feature("popularity", function="sigmoid", pivot=7.0, exponent=0.6),
    ),
    Case(
        "rank-feature-one",
        "One feature of a sparse field",
        q.rank_feature("terms", "red", function="linear"),
        plan="features",
    ),
    # -- filters
    Case("term", "An exact value", q.bool_(filter=q.term("lang", "en"))),
    Case("terms", "One of several", q.bool_(filter=q.terms("lang", ["en", "de"]))),
    Case(
        "range",
        "Between bounds",
        q.bool_(
            filter=[q.range("price", gte=1, lt=9.5), q.range("date", gte="2024-01-01", time_zone="+01:00")]
        ),
    ),
    Case("exists", "Has a value", q.bool_(filter=q.exists("price"))),
    Case("prefix", "Begins so", q.bool_(filter=q.prefix("lang", "e"))),
    Case("wildcard", "A pattern", q.bool_(filter=q.wildcard("lang", "e?"))),
    Case("ids", "By id", q.bool_(filter=q.ids("1", "2"))),
    Case(
        "geo-distance",
        "Near a place",
        q.bool_(filter=q.geo_distance("place", lat=52.5, lon=13.4, distance="12km")),
    ),
    Case("keyword", "A text field's exact value", q.bool_(filter=q.term("title.keyword", "Red Fox"))),
    Case(
        "bool",
        "Clauses combined",
        q.bool_(
            must=q.match("red fox", fields="body"),
            should=[q.match_phrase("title", "red fox"), q.sparse("terms", vector=TOKENS)],
            must_not=q.term("lang", "de"),
        ),
    ),
    Case(
        "bool-nearest",
        "… with nearest vectors among them: the filter and what is excluded apply before the search",
        q.bool_(
            should=[
                q.match("red fox", fields="body"),
                q.boost_by(q.knn("embedding", vector=VECTOR, k=10), "price"),
            ],
            filter=q.term("lang", "en"),
            must_not=q.term("price", 3),
            minimum_should_match=1,
        ),
    ),
    Case(
        "bool-union",
        "… of which one is enough: on Elasticsearch k counts over all shards then",
        q.bool_(
            should=[q.match("red fox", fields="body"), q.knn("embedding", vector=VECTOR, k=10)],
            must_not=q.term("lang", "de"),
        ),
    ),
    Case(
        "nested",
        "On a document's chunks",
        q.nested("chunks", q.knn("embedding", vector=VECTOR), chunks=2),
        plan="chunks",
    ),
    Case("match-all", "Everything", q.match_all(filter=q.term("lang", "en"))),
    Case(
        "raw",
        "The engine's own clause",
        q.raw(
            {e: {"match": {"body": {"query": "red", "boost": 2.0}}} for e in ("elasticsearch", "opensearch")}
        ),
    ),
    # -- fusion
    Case("rrf", "Fused by reciprocal rank", q.rrf(_text, _dense, _sparse)),
    Case(
        "rrf-weights",
        "… weighted and filtered",
        q.rrf(_text, _dense, weights=[0.7, 1.3], rank_constant=20, filter=q.term("lang", "en")),
    ),
    Case("rrf-nested", "… a fusion of fusions", q.rrf(q.linear(_text, _sparse), _dense)),
    Case(
        "rrf-six",
        "… of more than five legs",
        q.rrf(
            _text,
            _dense,
            _sparse,
            q.match("red", fields="title"),
            q.match("fox", fields="title"),
            q.match_phrase("body", "red fox"),
        ),
    ),
    Case(
        "rrf-inside",
        "… of legs that the engine encodes",
        q.rrf(q.match("red fox"), q.knn("embedding", text="red fox"), q.sparse("terms", text="red fox")),
        plan="inside",
    ),
    Case(
        "rrf-chunks",
        "… of chunks",
        q.rrf(q.match("red fox"), q.knn("embedding", vector=VECTOR), q.sparse("terms", vector=TOKENS)),
        plan="chunks",
    ),
    Case(
        "rrf-chunk-documents",
        "… of chunks that are documents",
        q.rrf(q.match("red fox"), q.knn("embedding", vector=VECTOR)),
        plan="chunk-documents",
    ),
    Case(
        "linear-minmax",
        "Fused by scores between the list's least and greatest",
        q.linear(_text, _dense, weights=[0.3, 0.7]),
    ),
    Case("linear-l2", "… by the list's length", q.linear(_text, _dense, normalizer="l2")),
    Case("linear-l2-weights", "… weighted", q.linear(_text, _dense, normalizer="l2", weights=[1, 2])),
    Case("linear-zscore", "… by the list's mean and deviation", q.linear(_text, _dense, normalizer="zscore")),
    Case("linear-none", "… as they are", q.linear(_text, _sparse, normalizer="none")),
    Case("linear-bound", "… by a theoretical bound", q.linear(_text, _dense, normalizer="bound")),
    Case("linear-floor", "… above the list's least score", q.linear(_text, _dense, normalizer="floor")),
    # -- stages
    Case(
        "rescore",
        "The head scored again by a query",
        q.rescore(q.match("red fox", fields="body"), by=q.match_phrase("body", "red fox"), query_weight=1.0),
    ),
    Case(
        "rescore-vectors",
        "… by exact vectors",
        q.rescore(q.match("red fox", fields="body"), by=q.knn("embedding", vector=VECTOR, exact=True)),
    ),
    Case(
        "rescore-inference",
        "… by a rerank endpoint in the engine",
        q.rescore(q.rrf(_text, _dense), inference_id="my-reranker", fields="body", text="red fox"),
    ),
    Case("collapse", "The best hit of each value", q.collapse(q.match("red fox", fields="body"), "lang")),
    Case(
        "diversify",
        "Each hit differs from those before it (the vectors are fetched and compared by esembed)",
        q.diversify(q.knn("embedding", vector=VECTOR), "embedding", relevance=0.7),
    ),
    Case("diversify-fused", "… of a fused list", q.diversify(q.rrf(_text, _dense), "embedding")),
    Case(
        "server-diversify",
        "… by the engine, which is not the same on both",
        q.diversify(q.knn("embedding", vector=VECTOR), "embedding", relevance=0.7),
        {"fusion": "server"},
    ),
    Case(
        "floor",
        "The hits that are better than chance (esembed knows how random documents score)",
        q.floor(q.rrf(_text, _dense), p=0.003),
    ),
    Case("collapse-fused", "… of a fused list", q.collapse(q.rrf(_text, _dense), "lang")),
    Case(
        "boost-by",
        "Raised by a number",
        q.boost_by(q.match("red fox", fields="body"), "price", modifier="log1p", factor=1.2, max_boost=3.0),
    ),
    Case(
        "boost-by-sum",
        "… added to",
        q.boost_by(q.match("red fox", fields="body"), "price", mode="sum", modifier="reciprocal"),
    ),
    # -- pages
    Case("page", "The second page of a fusion", q.rrf(_text, _dense), {"size": 5, "offset": 5}),
    Case("highlight", "With highlights", q.match("red fox"), {"highlight": True}),
    Case("highlight-fused", "… of a fusion", q.rrf(_text, _dense), {"highlight": ["body"]}),
    Case("source", "Some stored fields", q.match("red fox"), {"source": ["title"]}),
    Case(
        "aggregations",
        "Facets",
        q.match("red fox"),
        {"aggregations": {"langs": {"terms": {"field": "lang"}}}},
    ),
    Case(
        "aggregations-fused",
        "… of a fusion",
        q.rrf(_text, _dense),
        {"aggregations": {"langs": {"terms": {"field": "lang"}}}, "count": True},
    ),
    Case(
        "sort", "Sorted by a field", q.match("red fox"), {"sort": [{"price": "asc"}], "search_after": [3.0]}
    ),
    Case("explain", "Each leg's part", q.rrf(_text, _dense), {"explain": True}),
    Case("timeout", "Within a time", q.rrf(_text, _dense), {"timeout_seconds": 0.5, "size": 3}),
    Case(
        "server-minmax",
        "Fused by the engine although it differs",
        q.linear(_text, _dense),
        {"fusion": "server"},
    ),
    Case("server-zscore", "…", q.linear(_text, _dense, normalizer="zscore"), {"fusion": "server"}),
    Case("client-rrf", "Fused by us although the engine could", q.rrf(_text, _dense), {"fusion": "client"}),
]
