"""The legs of a query as requests of their own, and again for documents that are known by id."""

from __future__ import annotations

from collections.abc import Mapping

from esembed.capabilities import Capabilities
from esembed.dialect.elasticsearch.query import ElasticsearchQuery
from esembed.dialect.meta import PARENT_FIELD
from esembed.dialect.opensearch.query import OpenSearchQuery
from esembed.dialect.query import Json
from esembed.dialect.scope import Scope
from esembed.dialect.scores import converter
from esembed.encode.tokens import TokenIds
from esembed.plan import IndexPlan
from esembed.query.nodes import Bool, Exists, Ids, Knn, Match, MatchPhrase, MultiMatch, Query, Sparse
from esembed.query.tree import add_filter, walk
from esembed.search.compiled import Leg, SearchOptions

__all__ = ["LegCompiler", "milliseconds"]


class LegCompiler:
    """What every later round trip is compiled with: engine, plan, options, and one leg at a time."""

    def __init__(
        self,
        capabilities: Capabilities,
        options: SearchOptions,
        *,
        plan: IndexPlan | None = None,
        mapping: Mapping[str, str] | None = None,
        formats: Mapping[str, str] | None = None,
        token_ids: Mapping[str, TokenIds] | None = None,
        inline: bool = True,
    ) -> None:
        self.inline = inline
        self.capabilities = capabilities
        self.options = options
        self.plan = plan
        self.dialect: ElasticsearchQuery | OpenSearchQuery = (
            ElasticsearchQuery() if capabilities.kind == "elasticsearch" else OpenSearchQuery()
        )
        self.scope = Scope(
            capabilities=capabilities,
            plan=plan,
            mapping=mapping or {},
            formats=formats,
            token_ids=token_ids or {},
        )
        self.legs: list[Leg] = []

    # -- legs ------------------------------------------------------------------------------------------

    def _scope(self, node: Query) -> Scope:
        return self.scope.with_(names=[])

    def _body_of(self, node: Query, scope: Scope) -> Json:
        return self.dialect.leg_body(self._only(node), scope)

    def _only(self, node: Query) -> Query:
        """Where chunks are documents of their own, other legs must not find them."""
        chunk = self.plan.chunk if self.plan is not None else None
        if chunk is None or chunk.store != "documents" or self._finds_chunk_documents(node):
            return node
        return add_filter(node, Bool(must_not=(Exists(field=PARENT_FIELD),)))

    def _finds_chunk_documents(self, node: Query) -> bool:
        if self.plan is None:
            return False
        for part in walk(node):
            if isinstance(part, Knn) and self.scope.dense(part.field).is_chunk_document:
                return True
            if isinstance(part, Sparse) and self.scope.sparse(part.field).is_chunk_document:
                return True
            if isinstance(part, (Match, MultiMatch)):
                names = [name.partition("^")[0] for name in part.fields]
            elif isinstance(part, MatchPhrase):
                names = [part.field]
            else:
                continue
            if any(self.scope.text(name).is_chunk_document for name in names):
                return True
        return False

    def _leg(self, node: Query, name: str, window: int, *, align_scores: bool = False) -> Leg:
        scope = self.scope.with_(names=[], window=window, align_scores=align_scores)
        body = self._body_of(node, scope)
        body["size"] = window
        body["_source"] = False
        body["track_total_hits"] = False
        is_chunk_document = self._finds_chunk_documents(node)
        if is_chunk_document and self.plan is not None and self.plan.chunk is not None:
            body["collapse"] = {"field": PARENT_FIELD}
            body["_source"] = [f"{self.plan.chunk.path}.text"]
        seconds = self.options.leg_timeouts_seconds.get(name, self.options.timeout_seconds)
        if seconds is not None:
            body["timeout"] = milliseconds(seconds)
        convert = None
        if isinstance(node, Knn):
            part = self.scope.dense(node.field).part
            convert = converter(part.similarity if part is not None else "cosine", self.capabilities.kind)
        return Leg(
            name=name,
            node=node,
            body=body,
            convert=convert,
            is_chunk_document=is_chunk_document,
            align_scores=align_scores,
        )

    def leg_for(self, leg: Leg, ids: list[str]) -> Json:
        """The leg on these documents alone: their scores by it, exactly (a filter this narrow is
        compared vector by vector)."""
        return self.scores_for(leg.node, ids, align_scores=leg.align_scores)

    def scores_for(self, node: Query, ids: list[str], *, align_scores: bool) -> Json:
        """A query on these documents alone."""
        if isinstance(node, Knn):
            knn: Knn = node.replace(k=len(ids), num_candidates=None)
            if knn.exact and self.capabilities.kind == "elasticsearch" and not self.capabilities.scripts:
                oversample = 1.0 if self.capabilities.rescore_vector else None
                knn = knn.replace(exact=False, oversample=oversample)
            node = knn
        narrowed = add_filter(node, Ids(values=tuple(ids)))
        scope = self.scope.with_(names=[], window=len(ids), align_scores=align_scores, inner_hits=False)
        body = self.dialect.leg_body(narrowed, scope)
        return {**body, "size": len(ids), "_source": False, "track_total_hits": False}


def milliseconds(seconds: float) -> str:
    """A time as the engines write it."""
    return f"{max(1, round(seconds * 1000))}ms"
