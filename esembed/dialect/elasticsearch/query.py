"""Queries for Elasticsearch: knn, sparse_vector, and the rrf and linear retrievers.

https://www.elastic.co/docs/reference/query-languages/query-dsl/query-dsl-knn-query,
https://www.elastic.co/docs/reference/elasticsearch/rest-apis/retrievers
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeGuard

import msgspec

from esembed.capabilities import Capabilities
from esembed.dialect.elasticsearch import inference
from esembed.dialect.elasticsearch.scores import ElasticsearchScores, exact_script
from esembed.dialect.query import (
    Json,
    QueryCompiler,
    bool_clause,
    completes,
    finds_nothing,
    mentions,
)
from esembed.dialect.scope import FieldInfo, Scope
from esembed.errors import QueryError
from esembed.fusion import FusionNode, LegRef
from esembed.query.nodes import Bool, Diversify, Knn, PruneOptions, Query, Rescore, Sparse
from esembed.query.tree import finds_nearest, walk

__all__ = ["MAX_CANDIDATES", "ElasticsearchQuery"]

MAX_CANDIDATES = 10_000  # "[num_candidates] cannot exceed [10000]" (8.x, 9.x)
"""The most candidates of a kNN search on a shard."""
_NORMALIZERS = {"minmax": "minmax", "l2": "l2_norm", "none": "none"}


class ElasticsearchQuery(QueryCompiler):
    """The Elasticsearch half of the compilers."""

    engine: ClassVar[str] = "elasticsearch"
    collapses_fused: ClassVar[bool] = True

    max_levels: ClassVar[int | None] = 30  # indices.query.bool.max_nested_depth, which counts all queries

    def max_ids(self, capabilities: Capabilities) -> int:
        """As many as there may be hits."""
        # "Too many ids specified, allowed max result window is [10000]" (9.5.3)
        return capabilities.max_result_window

    def scores_vectors_exactly(self, capabilities: Capabilities) -> bool:
        """Only by a painless script: reduced builds have none."""
        return capabilities.scripts

    def leg_body(self, node: Query, scope: Scope) -> Json:
        """A leg as the part of a search body that finds its hits: ``knn`` where k then counts over all
        shards, else ``query``."""
        sections, query = self._sections(node, scope)
        body: Json = {}
        if query is not None:
            body["query"] = query
        if sections:
            body["knn"] = sections[0] if len(sections) == 1 else sections
        return body

    def union_body(self, nodes: list[Query], scope: Scope) -> Json:
        """Everything that some leg finds, unranked: for counts and aggregations."""
        plain = scope.with_(inner_hits=False)
        parts = [self._sections(node, plain) for node in nodes]
        body: Json = {}
        if queries := [query for _, query in parts if query is not None]:
            body["query"] = {"bool": {"should": queries, "minimum_should_match": 1}}
        if sections := [section for some, _ in parts for section in some]:
            body["knn"] = sections
        return body

    def _sections(self, node: Query, scope: Scope) -> tuple[list[Json], Json | None]:
        """A leg as ``knn`` sections and a ``query``: a search finds what either finds, and adds scores up.

        That is what a bool of should clauses (or of one must clause) means, too. In a section k counts over
        all shards, as a clause over each, and filters on nested objects work beside vectors in others, which
        as a clause find nothing (9.5.3).
        """
        if _is_section(node):
            return [self._knn_section(node, scope, top=True)], None
        if not isinstance(node, Bool):
            return [], self.clause(node, scope)
        parts = _union(node)
        nearest = [part for part in parts if _is_section(part)]
        if not nearest:
            return [], self.clause(node, scope)
        conditions, inner = self.conditions(node, scope)
        sections = [
            self._knn_section(part.replace(boost=part.boost * node.boost), inner, top=True)
            for part in nearest
        ]
        others = [self.clause(part, inner) for part in parts if part not in nearest]
        if not others:
            return sections, None
        options: Json = {"should": others, **conditions, "minimum_should_match": 1}
        if node.boost != 1.0:
            options["boost"] = node.boost
        return sections, {"bool": options}

    # -- vectors -----------------------------------------------------------------------------------

    def _rescores_by_itself(self, field: Any, scope: Scope) -> bool:
        # bbq fields are rescored by default from 9.1 on, where mappings may say so, too; an oversample of 0
        # switches that off. Before, nothing is rescored unasked, and 0 is refused.
        return scope.capabilities.mapping_rescore and super()._rescores_by_itself(field, scope)

    def knn(self, node: Knn, scope: Scope) -> Json:
        """The clause of a knn that has a vector, or a text that the engine encodes."""
        info = scope.dense(node.field)
        if node.exact:
            return self._exact(node, info, scope)
        clause: Json = {"knn": self._knn_section(node, scope, top=False)}
        if info.nested is not None and scope.nested_path != info.nested:
            return scope.nested_query(info.nested, clause, node.chunks)
        return clause

    def _knn_section(self, node: Knn, scope: Scope, *, top: bool) -> Json:
        info = scope.dense(node.field)
        k = node.k or scope.window
        if info.is_chunk_document:
            # Several chunks of one document are one hit in the end.
            k = min(MAX_CANDIDATES, k * 4)
        if k > MAX_CANDIDATES:
            raise QueryError(
                f"knn on {node.field!r}: k={k}, and Elasticsearch takes at most {MAX_CANDIDATES}; lower k or "
                "rank_window_size",
                field="k",
            )
        # 1.5 times k is Elasticsearch's own default. Never below 100: even there a graph misses .016 to .026
        # of the true neighbors (docs/quantization.md).
        candidates = node.num_candidates or min(MAX_CANDIDATES, max(100, math.ceil(1.5 * k)))
        if candidates > MAX_CANDIDATES:
            raise QueryError(
                f"knn on {node.field!r}: num_candidates={candidates}, and Elasticsearch takes at most "
                f"{MAX_CANDIDATES}",
                field="num_candidates",
            )
        # As Elasticsearch has it: "[num_candidates] cannot be less than [k]" (9.5.3).
        if candidates < k:
            raise QueryError(
                f"knn on {node.field!r}: num_candidates={candidates} is below k={k} (k is the window "
                "unless it "
                "is given); raise it",
                field="num_candidates",
            )
        target = self.inference_target(node, info, scope)
        section: Json
        if target is not None:
            section = inference.knn(info.path, target[1], target[0], k=k, num_candidates=candidates)
        else:
            section = {
                "field": info.path,
                "query_vector": self.vector(node, info),
                "k": k,
                "num_candidates": candidates,
            }
        if node.similarity is not None:
            section["similarity"] = node.similarity
        filters = self.candidates(node, scope)
        if filters:
            # A list, not a bool: each is looked at by itself, and one on the nested objects that hold the
            # vectors must not share a bool with one on the document (found nothing on 9.5.3).
            section["filter"] = filters[0] if len(filters) == 1 else filters
            path = info.nested or scope.nested_path
            if not top and path is not None and any(mentions(clause, "nested") for clause in filters):
                scope.gap(
                    f"knn on {info.path!r} can't be filtered by nested objects where it stands inside "
                    "another clause: Elasticsearch would find nothing; make it a leg of its own (q.rrf, "
                    "q.linear) or a should clause of the outermost bool_"
                )
        oversample = self.oversample(node, info, scope)
        if oversample is not None:
            if scope.capabilities.rescore_vector:
                section["rescore_vector"] = {"oversample": oversample}
            else:
                scope.gap("knn oversample (rescore_vector) needs Elasticsearch 8.18 or 9.0; leave it out")
        if node.boost != 1.0:
            section["boost"] = node.boost
        if top and info.nested is not None and node.chunks and scope.inner_hits:
            section["inner_hits"] = scope.chunk_hits(info.nested, node.chunks)
            if any(_on_path(clause, info.nested) for clause in filters):
                # 9.5.3 asks the filter of each object again for the inner hits, and there it finds nothing.
                scope.note(
                    f"{info.path}: beside a filter on the objects under {info.nested!r} Elasticsearch finds "
                    "the right documents and shows none of their objects"
                )
        return section

    def _exact(self, node: Knn, info: FieldInfo, scope: Scope) -> Json:
        self.inference_target(node, info, scope)
        if not scope.capabilities.scripts:
            scope.gap(
                "knn exact=True runs a painless script and this build has none; use a full distribution, or "
                f"num_candidates={MAX_CANDIDATES} (exact up to that many documents a shard), or quantization "
                '"flat", which is always exact'
            )
        similarity = info.spec.similarity if info.spec is not None else "cosine"
        query: Json = {"bool": {"filter": [{"exists": {"field": info.path}}]}}
        outside = self.filters(node.filter, scope)
        if info.nested is None:
            query["bool"]["filter"] += outside
            outside = []
        options: Json = {
            "query": query,
            "script": {
                "source": exact_script(similarity, info.path),
                "params": {"query_vector": self.vector(node, info)},
            },
        }
        if node.similarity is not None:
            options["min_score"] = ElasticsearchScores(scope.capabilities).of_similarity(
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
        clause: Json
        if storage not in scope.capabilities.sparse_storages:
            scope.gap(
                f"{node.field!r} is stored as {storage}, which this engine lacks; it has "
                f"{', '.join(sorted(scope.capabilities.sparse_storages)) or 'no sparse storage'}"
            )
        target = self.inference_target(node, info, scope)
        if target is not None:
            clause = inference.sparse_vector(info.path, target[1], target[0], boost=node.boost)
            clause["sparse_vector"] |= self._pruning(node, info)
            return bool_clause(clause, self.filters(node.filter, scope))
        weights = self.sparse_weights(node, info, scope, clauses=True)
        if not weights:
            return self.nothing(node, scope)
        if storage == "rank_features":
            clause = rank_features_clause(info.path, weights, node.boost)
        else:
            options: Json = {"field": info.path, "query_vector": weights, **self._pruning(node, info)}
            if node.boost != 1.0:
                options["boost"] = node.boost
            clause = {"sparse_vector": options}
        if info.nested is not None and scope.nested_path != info.nested:
            clause = scope.nested_query(info.nested, clause, node.chunks)
        return bool_clause(clause, self.filters(node.filter, scope))

    def _pruning(self, node: Sparse, info: FieldInfo) -> Json:
        prune = node.prune if node.prune is not None else getattr(info.spec, "prune", False)
        if isinstance(prune, PruneOptions):
            return {"prune": True, "pruning_config": msgspec.structs.asdict(prune)}
        # Always said: an index made from 9.1 on prunes unless told otherwise, by thresholds made for ELSER.
        return {"prune": bool(prune)}

    # -- fusion --------------------------------------------------------------------------------------

    def fusion_body(self, fusion: FusionNode, legs: Sequence[Query], scope: Scope) -> Json:
        """The fusion as a retriever; the legs by their positions."""
        return {"retriever": self._fusion_retriever(fusion, legs, scope)}

    def _fusion_retriever(self, fusion: FusionNode, legs: Sequence[Query], scope: Scope) -> Json:
        if fusion.kind == "linear":
            scope = scope.with_(align_scores=fusion.normalizer == "none")
        parts: list[Json] = []
        for child, weight in zip(fusion.children, fusion.weights, strict=True):
            part = (
                self._leg_retriever(legs[child.position], scope)
                if isinstance(child, LegRef)
                else self._fusion_retriever(child, legs, scope)
            )
            if fusion.kind == "linear":
                parts.append(
                    {"retriever": part, "weight": weight, "normalizer": _NORMALIZERS[fusion.normalizer]}
                )
            # Equal weights are left out, since only 9.2 and later know the word; score_factor makes up for
            # them.
            elif len(set(fusion.weights)) > 1:
                parts.append({"retriever": part, "weight": weight})
            else:
                parts.append(part)
        options: Json = {"retrievers": parts}
        if fusion.kind == "rrf":
            options["rank_constant"] = fusion.rank_constant
        options["rank_window_size"] = scope.window
        return {fusion.kind: options}

    def _leg_retriever(self, node: Query, scope: Scope) -> Json:
        # A knn retriever has neither boost nor inner_hits ("unknown field", 9.5.3); a knn query in a standard
        # retriever has both.
        if _is_section(node) and node.boost == 1.0:
            info = scope.dense(node.field)
            if info.nested is None:
                return {"knn": self._knn_section(node, scope, top=False)}
        return {"standard": {"query": self.clause(node, scope)}}

    def rerank(
        self, stage: Rescore, fusion: FusionNode | None, legs: Sequence[Query], scope: Scope
    ) -> Json | None:
        """``text_similarity_reranker`` around the query."""
        if not scope.capabilities.rrf:
            # The same license has both; no probe tells the reranker's own.
            return super().rerank(stage, fusion, legs, scope)
        inner = (
            self._leg_retriever(legs[0], scope)
            if fusion is None
            else self._fusion_retriever(fusion, legs, scope)
        )
        return {
            "retriever": {
                "text_similarity_reranker": {
                    "retriever": inner,
                    "field": stage.fields[0],
                    "inference_id": stage.inference_id,
                    "inference_text": stage.text,
                    "rank_window_size": stage.window_size,
                }
            }
        }

    def diversify(
        self, stage: Diversify, fusion: FusionNode | None, legs: Sequence[Query], size: int, scope: Scope
    ) -> Json | None:
        """The ``diversify`` retriever around the query."""
        if not scope.capabilities.diversify:
            scope.gap('diversify in the engine needs Elasticsearch 9.3; fusion="auto" does it in the client')
            return None
        field = scope.dense(stage.field)
        asked = next(
            (
                node
                for leg in legs
                for node in walk(leg)
                if isinstance(node, Knn) and node.vector and scope.dense(node.field).path == field.path
            ),
            None,
        )
        if asked is None:
            scope.gap(
                f"Elasticsearch diversifies by the query's own vector, and the query has no knn on "
                f'{stage.field!r} with one; fusion="auto"'
            )
            return None
        # The hits that were chosen stay in the order they had. Vectors of a cosine field are compared by
        # their products, so that those whose length isn't 1 are chosen by their lengths, too (9.5.3).
        scope.note(
            f"diversify on {stage.field} by Elasticsearch: it chose these hits, and left them in the query's "
            "order"
        )
        inner = (
            self._leg_retriever(legs[0], scope)
            if fusion is None
            else self._fusion_retriever(fusion, legs, scope)
        )
        return {
            "retriever": {
                "diversify": {
                    "type": "mmr",
                    "field": field.path,
                    "lambda": stage.relevance,
                    "query_vector": self.vector(asked, field),
                    "rank_window_size": stage.window_size,
                    "size": size,
                    "retriever": inner,
                }
            }
        }

    def score_factor(self, fusion: FusionNode) -> float:
        """What a server-fused score is multiplied by to be Σ weight · value."""
        return fusion.weights[0] if fusion.kind == "rrf" and len(set(fusion.weights)) == 1 else 1.0

    def fusion_gaps(self, fusion: FusionNode, scope: Scope) -> list[str]:
        """Why the engine can't fuse this itself; empty when it can."""
        caps = scope.capabilities
        gaps = []
        if fusion.kind == "rrf":
            if not caps.rrf:
                gaps.append(
                    "the rrf retriever is not there (it needs an Enterprise or trial license and a full "
                    'distribution); fusion="auto" fuses in the client'
                )
            elif len(set(fusion.weights)) > 1 and not caps.rrf_weights:
                gaps.append('rrf weights need Elasticsearch 9.2; fusion="auto" fuses in the client')
        else:
            if not caps.linear:
                gaps.append(
                    "the linear retriever is not there (it needs an Enterprise or trial license and a full "
                    'distribution); fusion="auto" fuses in the client'
                )
            if fusion.normalizer not in _NORMALIZERS or (
                caps.linear and fusion.normalizer not in caps.linear_normalizers
            ):
                gaps.append(f'the linear retriever has no normalizer {fusion.normalizer!r}; fusion="auto"')
            if completes(fusion):
                gaps.append('complete=True scores candidates in a second trip; fusion="auto"')
        for child in fusion.children:
            if isinstance(child, FusionNode):
                if child.window < fusion.window:
                    # Elasticsearch takes no inner window below the outer one, and would widen it.
                    gaps.append(
                        f"{child.name}: rank_window_size = {child.window} inside a fusion of "
                        f'{fusion.window} is widened by Elasticsearch; fusion="auto" fuses in the client'
                    )
                short = child.name.rpartition("/")[2]
                gaps.extend(f"{short}: {gap}" for gap in self.fusion_gaps(child, scope))
        return gaps


def _is_section(node: Query) -> TypeGuard[Knn]:
    """Whether a search can have it as a ``knn`` section: it is a kNN, approximate, and has a vector (a
    section can't find nothing)."""
    return isinstance(node, Knn) and not node.exact and not finds_nothing(node)


def _on_path(clause: Any, path: str) -> bool:
    """Whether a clause holds a ``nested`` clause on the objects under *path*."""
    if isinstance(clause, Mapping):
        nested = clause.get("nested")
        if isinstance(nested, Mapping) and nested.get("path") == path:
            return True
        return any(_on_path(value, path) for value in clause.values())
    return isinstance(clause, list) and any(_on_path(value, path) for value in clause)


def _union(node: Bool) -> tuple[Query, ...]:
    """The clauses of a bool that finds what one of them finds, or () for one that means something else."""
    if any(map(finds_nearest, (*node.filter, *node.must_not))):
        return ()  # no condition that a section's filter can hold
    at_least = node.minimum_should_match
    if len(node.must) == 1 and not node.should and at_least is None:
        return node.must
    # Beside a filter should clauses are optional unless it says otherwise.
    if not node.must and (at_least == 1 or (at_least is None and not node.filter)):
        return node.should
    return ()


def rank_features_clause(path: str, weights: dict[str, float], boost: float) -> Json:
    """A dot product over a rank_features field: linear rank_feature clauses, weights as boosts."""
    options: Json = {
        "should": [
            {"rank_feature": {"field": f"{path}.{name}", "linear": {}, "boost": weight}}
            for name, weight in weights.items()
        ],
        "minimum_should_match": 1,
    }
    if boost != 1.0:
        options["boost"] = boost
    return {"bool": options}
