"""Queries for OpenSearch: knn, rank_features and SEISMIC, and ``hybrid`` with an inline search pipeline.

https://docs.opensearch.org/latest/query-dsl/compound/hybrid/,
https://docs.opensearch.org/latest/search-plugins/search-pipelines/score-ranker-processor/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from esembed.dialect.elasticsearch.query import rank_features_clause
from esembed.dialect.opensearch import inference
from esembed.dialect.opensearch.mapping import is_faiss
from esembed.dialect.opensearch.scores import SPACE_TYPES, OpenSearchScores
from esembed.dialect.query import (
    Json,
    QueryCompiler,
    bool_clause,
    completes,
    on_objects,
)
from esembed.dialect.scope import FieldInfo, Scope
from esembed.errors import QueryError
from esembed.fusion import FusionNode
from esembed.query.nodes import Diversify, Knn, Query, Sparse

__all__ = ["MAX_HYBRID_LEGS", "OpenSearchQuery"]

MAX_K = 10_000  # what k-NN accepts as k
MAX_HYBRID_LEGS = 5  # "Number of sub-queries exceeds maximum supported by [hybrid] query [5]" (3.6)
"""The most legs of a hybrid query."""
_NORMALIZATION = {"minmax": "min_max", "l2": "l2", "zscore": "z_score"}


class OpenSearchQuery(QueryCompiler):
    """The OpenSearch half of the compilers."""

    engine: ClassVar[str] = "opensearch"
    # With operator "and" OpenSearch 3.6.0 asks for a word and all its synonyms; minimum_should_match counts
    # each of them where they are the whole text. Elasticsearch 9.5.3 makes one term of them.
    combines_synonyms: ClassVar[bool] = False

    # -- vectors -----------------------------------------------------------------------------------

    def leg_body(self, node: Query, scope: Scope) -> Json:
        """A leg as the part of a search body that finds its hits."""
        return super().leg_body(node, scope.with_(is_leg=isinstance(node, Knn)))

    def finds_more_than_k(self, node: Query, scope: Scope) -> bool:
        """Whether the engine takes every candidate of this kNN for a hit, not its k nearest alone."""
        if scope.capabilities.knn_ends_at_k or not isinstance(node, Knn) or node.exact:
            return False
        info, k = scope.dense(node.field), node.k or scope.window
        looked_at = self.num_candidates(node, info, k, None, filtered=bool(self.candidates(node, scope)))
        if looked_at is None or looked_at <= k:
            return False
        return info.spec is None or not is_faiss(info.spec)

    def knn(self, node: Knn, scope: Scope) -> Json:
        """The clause of a knn that has a vector, or a text that the engine encodes."""
        info = scope.dense(node.field)
        if node.exact:
            return self._exact(node, info, scope)
        k = node.k or scope.window
        if info.is_chunk_document:
            k = min(MAX_K, k * 4)
        if k > MAX_K:
            raise QueryError(
                f"knn on {node.field!r}: k={k}, and OpenSearch takes at most {MAX_K}; lower k or "
                "rank_window_size",
                field="k",
            )
        if node.visit_percentage is not None:
            scope.gap("knn visit_percentage is of Elasticsearch's bbq_disk; use num_candidates")
        filters = self.candidates(node, scope)
        # Without a rule of the field's own nothing is said: OpenSearch looks at 100 by itself, k at least.
        candidates = self.num_candidates(node, info, k, None, filtered=bool(filters))
        target = self.inference_target(node, info, scope)
        options: Json
        if target is not None:
            options = inference.neural(info.path, target[1], target[0], k=k)["neural"][info.path]
        else:
            options = {"vector": self.vector(node, info), "k": k}
        if filters:
            options["filter"] = self._filter(filters, info, scope)
        if not scope.is_leg and self.finds_more_than_k(node, scope):
            if node.num_candidates is not None:
                scope.gap(
                    f"knn on {node.field!r}: with num_candidates above k, OpenSearch before 3.5 finds "
                    "num_candidates documents, not k; leave num_candidates out, or give a larger k"
                )
            candidates = None
        if candidates is not None:
            options["method_parameters"] = {"ef_search": candidates}
        oversample = self.oversample(node, info, scope)
        if oversample is not None:
            if scope.capabilities.rescore_vector:
                # The on-disk modes rescore by default, 100 candidates at least.
                options["rescore"] = {"oversample_factor": oversample} if oversample else False
            else:
                scope.gap("knn oversample (rescore) needs OpenSearch 2.17; leave it out")
        if node.boost != 1.0:
            options["boost"] = node.boost
        nested = info.nested is not None and scope.nested_path != info.nested
        if nested and node.chunks > 1 and scope.inner_hits:
            # Without it a knn on nested objects finds one object of each document, and inner hits have no
            # more to show.
            options["expand_nested_docs"] = True
        clause: Json = {"knn" if target is None else "neural": {info.path: options}}
        if nested and info.nested is not None:
            clause = scope.nested_query(info.nested, clause, node.chunks)
        if node.similarity is not None:
            similarity = info.spec.similarity if info.spec is not None else "cosine"
            minimum = (
                OpenSearchScores(scope.capabilities).of_similarity(similarity, node.similarity) * node.boost
            )
            # Around the knn: inside it the engine takes one of k, min_score and max_distance ("exactly one",
            # 3.6.0).
            clause = {"function_score": {"query": clause, "min_score": minimum}}
        return clause

    def _filter(self, filters: list[Json], info: FieldInfo, scope: Scope) -> Json:
        """The filters of a kNN search as its ``filter``."""
        path = info.nested or scope.nested_path
        if path is not None:
            # Tried on 3.6.0: the filter is taken for one on the document, and joined to its objects, unless
            # it may match nested objects. A lone ``nested`` clause passes for that and finds nothing; beside
            # match_all it is joined. Terms on the objects themselves are joined, too, and find nothing.
            if any(on_objects(clause, path) for clause in filters):
                scope.gap(
                    f"knn on {info.path!r} can't be filtered by fields of the objects under {path!r}: "
                    "OpenSearch applies a kNN's filter to whole documents; use exact=True, or a filter "
                    "field of the document"
                )
            if len(filters) == 1 and "nested" in filters[0]:
                filters = [*filters, {"match_all": {}}]
        return filters[0] if len(filters) == 1 else {"bool": {"filter": filters}}

    def _exact(self, node: Knn, info: FieldInfo, scope: Scope) -> Json:
        self.inference_target(node, info, scope)
        similarity = info.spec.similarity if info.spec is not None else "cosine"
        query: Json = {"bool": {"filter": [{"exists": {"field": info.path}}]}}
        outside = self.filters(node.filter, scope)
        if info.nested is None:
            query["bool"]["filter"] += outside
            outside = []
        options: Json = {
            "query": query,
            "script": {
                "lang": "knn",
                "source": "knn_score",
                "params": {
                    "field": info.path,
                    "query_value": self.vector(node, info),
                    "space_type": SPACE_TYPES[similarity],
                },
            },
        }
        if node.similarity is not None:
            options["min_score"] = OpenSearchScores(scope.capabilities).of_similarity(
                similarity, node.similarity
            )
        if node.boost != 1.0:
            options["boost"] = node.boost
        clause: Json = {"script_score": options}
        if info.nested is not None and scope.nested_path != info.nested:
            clause = scope.nested_query(info.nested, clause, node.chunks)
        return bool_clause(clause, outside)

    def visit_sparse(self, node: Sparse, scope: Scope) -> Json:
        info = scope.sparse(node.field)
        _, storage = scope.target(info)
        caps = scope.capabilities
        if storage not in caps.sparse_storages:
            scope.gap(
                f"{node.field!r} is stored as {storage}, which this engine lacks; it has "
                f"{', '.join(sorted(caps.sparse_storages)) or 'no sparse storage'}"
            )
        if node.prune is not None and node.prune is not False:
            scope.gap("sparse prune= is Elasticsearch's; use max_terms or min_weight")
        target = self.inference_target(node, info, scope)
        if target is not None:
            by_text = inference.neural_sparse(info.path, target[1], model_id=target[0])
            if node.boost != 1.0:
                by_text["neural_sparse"][info.path]["boost"] = node.boost
            return bool_clause(by_text, self.filters(node.filter, scope))
        weights = self.sparse_weights(node, info, scope, clauses=storage != "seismic")
        if not weights:
            return self.nothing(node, scope)
        filters = self.candidates(node, scope) if storage == "seismic" else self.filters(node.filter, scope)
        if storage == "seismic":
            parameters: Json = {"k": node.k or scope.window, "top_n": len(weights)}
            if node.heap_factor is not None:
                parameters["heap_factor"] = node.heap_factor
            if filters:
                parameters["filter"] = filters[0] if len(filters) == 1 else {"bool": {"filter": filters}}
            options: Json = {"query_tokens": weights, "method_parameters": parameters}
            if node.boost != 1.0:
                options["boost"] = node.boost
            return {"neural_sparse": {info.path: options}}
        clause = rank_features_clause(info.path, weights, node.boost)
        if info.nested is not None and scope.nested_path != info.nested:
            clause = scope.nested_query(info.nested, clause, node.chunks)
        return bool_clause(clause, filters)

    # -- fusion --------------------------------------------------------------------------------------

    def fusion_body(self, fusion: FusionNode, legs: Sequence[Query], scope: Scope) -> Json:
        """The fusion as ``hybrid`` with the pipeline that makes its scores mean something."""
        body: Json = {
            "query": {
                "hybrid": {
                    # Counted by shard (3.6.0): with several of them the fused window is not the global one,
                    # and hits are marked as approximate.
                    "pagination_depth": scope.window,
                    "queries": [self.clause(leg, scope) for leg in legs],
                }
            }
        }
        weights = self._weights(fusion)
        combination: Json
        if fusion.kind == "rrf":
            combination = {"technique": "rrf", "rank_constant": fusion.rank_constant}
            if weights is not None:
                combination["parameters"] = {"weights": weights}
            processor: Json = {"score-ranker-processor": {"combination": combination}}
        else:
            combination = {"technique": "arithmetic_mean"}
            if weights is not None:
                combination["parameters"] = {"weights": weights}
            processor = {
                "normalization-processor": {
                    "normalization": {"technique": _NORMALIZATION[fusion.normalizer]},
                    "combination": combination,
                }
            }
        body["search_pipeline"] = {"phase_results_processors": [processor]}
        return body

    def _weights(self, fusion: FusionNode) -> list[float] | None:
        """Weights in [0, 1] that sum to 1, as JSON floats; None when all are the same (the default)."""
        if len(set(fusion.weights)) == 1:
            # Without weights the mean leaves out nothing either: a leg without the document counts as 0.
            return None
        # The engine wants weights of [0, 1] that sum to 1, as JSON floats: a 1 answers 500,
        # class_cast_exception (3.6.0).
        total = sum(fusion.weights)
        return [weight / total for weight in fusion.weights]

    def diversify(
        self, stage: Diversify, fusion: FusionNode | None, legs: Sequence[Query], size: int, scope: Scope
    ) -> Json | None:
        """``ext.mmr`` beside a kNN, which two processors of the cluster's settings read."""
        gaps = []
        if not scope.capabilities.diversify:
            gaps.append('diversify in the engine needs OpenSearch 3.3; fusion="auto" does it in the client')
        asked = legs[0]
        if fusion is not None or not isinstance(asked, Knn) or asked.exact or asked.similarity is not None:
            gaps.append('OpenSearch diversifies a knn that stands alone; fusion="auto" does it in the client')
        elif scope.dense(asked.field).path != scope.dense(stage.field).path:
            gaps.append('OpenSearch diversifies by the field that the knn searches; fusion="auto"')
        if gaps:
            for gap in gaps:
                scope.gap(gap)
            return None
        body = self.leg_body(asked, scope)
        # Its own number runs the other way round: 1 is as different as can be.
        mmr = {"candidates": stage.window_size, "diversity": round(1.0 - stage.relevance, 9)}
        return {**body, "ext": {"mmr": mmr}}

    def score_factor(self, fusion: FusionNode) -> float:
        """What a server-fused score is multiplied by to be Σ weight · value."""
        if fusion.kind == "rrf" and len(set(fusion.weights)) == 1:
            return fusion.weights[0]
        return float(sum(fusion.weights))

    def fusion_gaps(self, fusion: FusionNode, scope: Scope) -> list[str]:
        """Why the engine can't fuse this itself (with the same result); empty when it can."""
        caps = scope.capabilities
        ours = 'fusion="auto" fuses in the client'
        gaps = []
        if len(fusion.children) > MAX_HYBRID_LEGS:
            gaps.append(f"hybrid takes at most {MAX_HYBRID_LEGS} legs, not {len(fusion.children)}; {ours}")
        if any(isinstance(child, FusionNode) for child in fusion.children):
            gaps.append(f"hybrid can't be nested; {ours}")
        if fusion.kind == "rrf":
            if not caps.rrf:
                gaps.append(f"RRF with global ranks is not there (OpenSearch 3.6.0 has it); {ours}")
            elif len(set(fusion.weights)) > 1 and not caps.rrf_weights:
                gaps.append(f"RRF weights need OpenSearch 3.1; {ours}")
        else:
            if not caps.linear or caps.version.major < 3:
                gaps.append(f"score normalization with global lists is not there (OpenSearch 3); {ours}")
            if fusion.normalizer not in _NORMALIZATION:
                gaps.append(f"the normalization processor has no {fusion.normalizer!r}; {ours}")
            elif caps.linear and fusion.normalizer not in caps.linear_normalizers:
                gaps.append(f"this version's normalization processor has no {fusion.normalizer!r}; {ours}")
            if completes(fusion):
                gaps.append(f"complete=True scores candidates in a second trip; {ours}")
        return gaps

    def fusion_differs(self, fusion: FusionNode) -> str | None:
        """Why ``auto`` doesn't leave this fusion to the engine although it could."""
        if fusion.kind == "linear" and fusion.normalizer in ("minmax", "zscore"):
            return (
                f"OpenSearch lifts {fusion.normalizer} scores at or under 0 to 0.001, Elasticsearch and our "
                "own fusion don't"
            )
        return None
