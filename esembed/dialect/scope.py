"""What a query is compiled against: the plan, the engine's capabilities, and what was noted on the way."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for
from esembed.dialect.field_types import use_problem
from esembed.dialect.live import nested_path, searched_fields, type_of
from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD
from esembed.dialect.tokens import TokenTarget
from esembed.dialect.values import UNKNOWN_FORMAT
from esembed.errors import QueryError
from esembed.plan import DenseField, IndexPlan, SparseField
from esembed.query.nodes import TextNode

__all__ = ["CLAUSE_HEADROOM", "DEFAULT_K1", "KEYWORD_LIKE", "ClauseBudget", "FieldInfo", "Scope"]

DEFAULT_K1 = 1.2  # Lucene's
KEYWORD_LIKE = frozenset({"keyword", "constant_keyword", "wildcard", "ip"})


class FieldInfo(msgspec.Struct, frozen=True):
    """What a query needs to know about a field.

    Attributes:
        path: its name in the mapping (``chunks.embedding`` for a chunked field).
        kind: ``text``, ``dense``, ``sparse``, a filter field's type, or ``any`` without a plan.
        spec: the plan's field, where it has one.
        nested: the nested object's path that it lies in, or None.
        is_chunk_document: its documents are chunks of their own that name their parent.
        format: of a date field; None is the engine's default.
    """

    path: str
    kind: str
    spec: Any = None
    nested: str | None = None
    is_chunk_document: bool = False
    format: str | None = None


CLAUSE_HEADROOM = 24
"""Clauses left for what the engines add by themselves: filters of nested documents, of an alias, a match_all
beside a negation. 30 negated filters cost Elasticsearch 9.5.3 two clauses each, OpenSearch 3.6.0 one."""


class ClauseBudget:
    """The clauses of one request, which its texts and sparse vectors share.

    Lucene counts the leaves of a request's whole query and refuses it above a limit (1,024 on OpenSearch, by
    heap on Elasticsearch), with a status of 500 where the sum is above it and 400 where one leg is. So a
    first compilation grants everything and adds up; where that is too much, a second one grants shares.

    Args:
        limit: the engine's.
        granted: what each that asks may have, in the order of asking; None grants all.

    Attributes:
        fixed: clauses that can't be cut.
        asked: what texts and vectors asked for, in order.
    """

    __slots__ = ("_granted", "asked", "fixed", "limit")

    def __init__(self, limit: int, granted: Sequence[int] | None = None) -> None:
        self.limit = limit
        self.fixed = 0
        self.asked: list[int] = []
        self._granted = granted

    def grant(self, wanted: int) -> int:
        """How many of the clauses *wanted* may be used, at least one."""
        position = len(self.asked)
        self.asked.append(wanted)
        return wanted if self._granted is None else min(wanted, self._granted[position])

    @property
    def exceeded(self) -> bool:
        """Whether more was asked for than there is."""
        return self.fixed + sum(self.asked) > self.limit - CLAUSE_HEADROOM

    def shares(self) -> ClauseBudget:
        """The budget of the second compilation: who asks for little gets it, the others the same each.

        Raises:
            QueryError: what can't be cut is too much by itself.
        """
        free = self.limit - CLAUSE_HEADROOM - self.fixed
        if free < len(self.asked) or not self.asked:
            raise QueryError(
                f"the query has {self.fixed + len(self.asked)} clauses and this engine takes {self.limit} in "
                "a request (indices.query.bool.max_clause_count; some are its own): use q.terms for many "
                "values of one field, or raise the limit on the engine",
                field="bool_",
            )
        granted = [0] * len(self.asked)
        order = sorted(range(len(self.asked)), key=self.asked.__getitem__)
        for done, position in enumerate(order):
            granted[position] = min(self.asked[position], free // (len(order) - done))
            free -= granted[position]
        return ClauseBudget(self.limit, granted)


class Scope(msgspec.Struct, kw_only=True, eq=False):
    """One compilation.

    Attributes:
        capabilities: the engine.
        plan: the index's plan, or None: then names and types are taken as the query implies them.
        mapping: field → type of the live mapping, for fields that the plan doesn't know.
        formats: date field → its format in the live mapping, where it has one; None where the mapping is not
            known.
        columns: field → whether it can be sorted and counted by, where its type doesn't say it.
        analyzers: text field → the analyzer of what is searched in it, or None where its words can't be
            counted together with another field's; None where the live mapping is not known: then the plan
            says it.
        token_ids: sparse field → token → id (SEISMIC).
        window: how many hits a leg returns.
        align_scores: BM25 scores are brought to the common scale, since they are added to others.
        scoring: False inside filters.
        adds: what is found has a score already, which this one is added to.
        inner_hits: whether chunks are asked for.
        is_leg: this is a leg by itself, whose hits the request's size cuts.
        nested_path: the path of the nested clause that this stands in.
        within: the clauses of the filters around this: all that is found here passes them. A search for the k
            nearest applies them first; for any other clause it is enough that they stand beside it.
        clauses: the budget of the request that this becomes a part of; None grants everything.
        notes: what was resolved or cut, for people.
        gaps: what the engine lacks, each with its remedy.
        names: the inner hits' names handed out so far, so that they stay distinct in one request.
    """

    capabilities: Capabilities
    plan: IndexPlan | None = None
    mapping: Mapping[str, str] = {}
    formats: Mapping[str, str] | None = None
    columns: Mapping[str, bool] = {}
    analyzers: Mapping[str, str | None] | None = None
    token_ids: Mapping[str, Mapping[str, int]] = {}
    window: int = 100
    align_scores: bool = False
    scoring: bool = True
    adds: bool = False
    inner_hits: bool = True
    is_leg: bool = False
    nested_path: str | None = None
    within: tuple[dict[str, Any], ...] = ()
    clauses: ClauseBudget | None = None
    notes: list[str] = msgspec.field(default_factory=list)
    gaps: list[str] = msgspec.field(default_factory=list)
    names: list[str] = msgspec.field(default_factory=list)

    @property
    def zero_counts(self) -> bool:
        """Whether what scores 0 comes last for it."""
        return self.scoring and not self.adds

    def filtering(self) -> Scope:
        """The same for clauses whose score doesn't count."""
        return self.with_(scoring=False, align_scores=False, inner_hits=False)

    def grant(self, wanted: int) -> int:
        """How many of the clauses that a text or a sparse vector wants it may have in this request."""
        return wanted if self.clauses is None else self.clauses.grant(wanted)

    def inside(self, filters: Sequence[dict[str, Any]]) -> Scope:
        """The same for what these filters, compiled, stand around."""
        return self.with_(within=(*self.within, *filters)) if filters else self

    def nested_query(self, path: str, clause: dict[str, Any], chunks: int) -> dict[str, Any]:
        """A clause on the objects under *path*; the best one's score counts, and *chunks* come along."""
        options: dict[str, Any] = {
            "path": path,
            "query": clause,
            "score_mode": "max" if self.scoring else "none",
        }
        if chunks and self.inner_hits:
            options["inner_hits"] = self.chunk_hits(path, chunks)
        return {"nested": options}

    def chunk_hits(self, path: str, chunks: int) -> dict[str, Any]:
        """The inner hits that bring the best chunks' text."""
        options: dict[str, Any] = {"name": self.inner_name(path), "size": chunks}
        plan = self.plan
        objects = plan.object_vectors if plan is not None else {}
        if plan is None or not objects:
            return {**options, "_source": False, "fields": [f"{path}.text"]}
        # Objects that the records brought may hold anything, so all but the vectors come along.
        return {**options, "_source": {"excludes": [plan.field_path(name) for name in objects]}}

    def with_(self, **changes: Any) -> Scope:
        """The same with some attributes changed; notes and gaps stay shared."""
        # A copy of a struct is one call into C; this happens twice for every leg.
        new = copy.copy(self)
        for name, value in changes.items():
            setattr(new, name, value)
        return new

    def note(self, text: str) -> None:
        """Remember something for people, once."""
        if text not in self.notes:
            self.notes.append(text)

    def gap(self, text: str) -> None:
        """Remember something that the engine lacks, once."""
        if text not in self.gaps:
            self.gaps.append(text)

    def inner_name(self, path: str) -> str:
        """A name for inner hits of *path* that this request doesn't have yet."""
        name = path if path not in self.names else f"{path}_{len(self.names)}"
        self.names.append(name)
        return name

    # -- fields --------------------------------------------------------------------------------

    def text(self, name: str) -> FieldInfo:
        """A field that full text is searched in. Raises QueryError."""
        info = self._find(name)
        chunk = self.plan.chunk if self.plan is not None else None
        if chunk is not None and name == f"{chunk.path}.text":
            raise QueryError(
                f"{name!r} is kept to be shown, not searched: search the document's text fields, or the "
                "chunks' vectors with q.knn and q.sparse",
                field=name,
            )
        if info.kind in ("text", "any", "match_only_text", "search_as_you_type", "semantic_text"):
            return info
        if info.kind in KEYWORD_LIKE:
            return info  # one exact word; the engines allow it, and it is how ids are searched
        raise QueryError(f"{name!r} is a {_what(info.kind)}: full text can't be searched in it", field=name)

    def searched_fields(self, node: TextNode) -> list[tuple[str, float]]:
        """The fields that a text node searches, with their boosts. Raises QueryError."""
        return searched_fields(node, self.plan, self.mapping)

    def not_combinable(self, fields: Sequence[tuple[str, float]]) -> str | None:
        """Why the words of these fields, with their boosts, can't be counted as those of one text
        (``combined_fields``), or None."""
        analyzers: dict[str, str] = {}
        for name, boost in fields:
            analyzer = self._analyzer(name)
            if analyzer is None:
                return f"{name!r} has BM25 parameters of its own, no norms, or isn't known as a text field"
            if not boost:
                return f"{name!r} has a boost of 0"
            analyzers.setdefault(analyzer, name)
        if len(analyzers) > 1:
            (one, first), (other, second) = list(analyzers.items())[:2]
            return f"{first!r} and {second!r} have different analyzers ({one}, {other})"
        return None

    def one_text_kind(
        self, fields: Sequence[tuple[str, float]], analyzer: str | None
    ) -> Literal["combined_fields", "cross_fields"]:
        """How ``multi_match`` reads these fields as one text here; *analyzer* is the query's own."""
        together = len(fields) > 1 and analyzer is None and self.capabilities.combined_fields
        return "combined_fields" if together and self.not_combinable(fields) is None else "cross_fields"

    def _analyzer(self, name: str) -> str | None:
        """The analyzer of what is searched in a text field; None where its words can't be counted together
        with another field's."""
        if self.analyzers is not None:
            return self.analyzers.get(name)
        spec = self.plan.text.get(name) if self.plan is not None else None
        if spec is None:
            return "default" if self.plan is None else None
        plain = spec.k1 is None and spec.b is None
        return (spec.search_analyzer or spec.analyzer) if plain else None

    def is_id(self, name: str) -> bool:
        """Whether it is the record's field that is the document's id, and no field of the index."""
        plan = self.plan
        if plan is None or name != plan.id_field or name in plan.filter or name in plan.text:
            return False
        return type_of(name, self.mapping) is None

    def exact(self, name: str, clause: str) -> FieldInfo:
        """A field for term, terms and prefix. Raises QueryError."""
        info = self._find(name)
        if info.kind == "text":
            way = (
                f"filter on {name + '.keyword'!r}"
                if getattr(info.spec, "keyword", False)
                else f"give the plan's text field keyword = true and filter on {name + '.keyword'!r}, or "
                "put the "
                "value into a [filter] field of its own"
            )
            raise QueryError(
                f"{clause} on the text field {name!r} would compare with analyzed words: {way}; to search "
                "words use q.match",
                field=name,
            )
        if info.kind in ("dense", "sparse"):
            raise QueryError(
                f"{clause} can't filter on {name!r}, a {info.kind} vector field; name a field of the plan's "
                f"[filter] section{self._filters()}",
                field=name,
            )
        if info.kind == "rank_feature":
            raise QueryError(
                f"{clause} can't filter on {name!r}: a rank_feature field can only raise scores "
                "(q.rank_feature). Index the number in a filter field as well",
                field=name,
            )
        if clause in ("prefix", "wildcard") and info.kind not in {
            "any",
            "keyword",
            "constant_keyword",
            "wildcard",
        }:
            raise QueryError(f"{clause} needs a keyword field; {name!r} is {_what(info.kind)}", field=name)
        if clause != "geo_distance" and info.kind == "geo_point":
            raise QueryError(f"{clause} on the geo_point {name!r}: use q.geo_distance", field=name)
        if clause == "geo_distance" and info.kind not in ("geo_point", "any"):
            raise QueryError(
                f"geo_distance needs a geo_point field; {name!r} is {_what(info.kind)}", field=name
            )
        if clause == "range" and info.kind == "boolean":
            raise QueryError(f"range on the boolean {name!r}: use q.term", field=name)
        return info

    def existing(self, name: str) -> FieldInfo:
        """A field for exists. Raises QueryError."""
        info = self._find(name)
        # rank_features "fields do not support [exists] queries" (OpenSearch 3.6.0). A query that only one
        # engine takes is refused on both.
        if info.kind == "sparse":
            raise QueryError(f"exists doesn't work on the sparse field {name!r}", field=name)
        return info

    def dense(self, name: str, builder: str = "knn") -> FieldInfo:
        """A dense vector field, of use to a *builder*. Raises QueryError."""
        info = self._find(name, "dense")
        if info.kind not in ("dense", "any"):
            raise QueryError(f"{builder} needs a dense field; {name!r} is {_what(info.kind)}", field=name)
        return info

    def sparse(self, name: str) -> FieldInfo:
        """A sparse vector field. Raises QueryError."""
        info = self._find(name, "sparse")
        if info.kind not in ("sparse", "any"):
            raise QueryError(f"sparse needs a sparse field; {name!r} is {_what(info.kind)}", field=name)
        return info

    def rank_feature(self, name: str) -> FieldInfo:
        """A field of type rank_feature. Raises QueryError."""
        info = self._find(name)
        if info.kind not in ("rank_feature", "any"):
            raise QueryError(
                f"rank_feature needs a field of type rank_feature; {name!r} is {_what(info.kind)}"
                + (
                    ". Name one of its features: q.rank_feature(field, feature)"
                    if info.kind == "sparse"
                    else ""
                ),
                field=name,
            )
        return info

    def usable(self, name: str, use: str, *, anywhere: bool = False) -> FieldInfo:
        """A field whose values are read by document: to sort, collapse, count or boost by.

        Args:
            use: ``sort``, ``collapse``, ``boost_by``, or an aggregation's own name.
            anywhere: also in nested objects, whose path stands elsewhere.

        Raises:
            QueryError: there is no such field, or its type can't be used so.
        """
        scope = self.with_(nested_path=nested_path(name, self.mapping)) if anywhere else self
        info = scope._find(name)
        problem = use_problem(use, info.kind, self.columns.get(info.path))
        if problem is not None:
            way = f"; {self._exact_form(name, info)}" if info.kind == "text" else ""
            raise QueryError(f"{use} {problem}: {name!r}{way}", field=name)
        return info

    def _exact_form(self, name: str, info: FieldInfo) -> str:
        """The remedy where a text field stands and exact values are wanted."""
        exact = f"{name}.keyword"
        if getattr(info.spec, "keyword", False) or type_of(exact, self.mapping) == "keyword":
            return f"name {exact!r}"
        return f"give the plan's text field keyword = true and name {exact!r}, or add a [filter] field"

    def target(self, info: FieldInfo) -> tuple[TokenTarget, str]:
        """What the sparse field's feature names are for, and its storage."""
        field = info.spec if isinstance(info.spec, SparseField) else None
        documents = dialect_for(self.capabilities).documents
        return documents.token_target(field), documents.sparse_storage(field)

    def k1(self, name: str) -> float:
        """BM25's k1 of a text field."""
        spec = self.plan.text.get(name) if self.plan is not None else None
        return DEFAULT_K1 if spec is None or spec.k1 is None else spec.k1

    def bm25_factor(self, name: str) -> float:
        """What this engine's BM25 score is multiplied by to be on the common scale: that with the factor
        (k1 + 1), as Elasticsearch scores. OpenSearch left it out from 3.0 on."""
        if not self.align_scores:
            return 1.0
        return dialect_for(self.capabilities).scores.bm25_factor(self.k1(name))

    def _find(self, name: str, vector: str | None = None) -> FieldInfo:
        if self.plan is None:
            return FieldInfo(name, vector or "any", nested=None)
        plan, chunk = self.plan, self.plan.chunk
        # The plan first: most names are its own, and a search then needs no look at the live mapping.
        if name in plan.text:
            return FieldInfo(name, "text", plan.text[name])
        spec = plan.dense.get(name) or plan.sparse.get(name)
        if spec is not None:
            path = plan.field_path(name)
            inside = chunk.path if path != name and chunk is not None else None
            own = spec.chunked and chunk is not None and chunk.store == "documents"
            return FieldInfo(path, "dense" if isinstance(spec, DenseField) else "sparse", spec, inside, own)
        if name in plan.filter:
            date = plan.filter[name]
            form = date.format if self.formats is None else self.formats.get(name)
            return FieldInfo(name, date.type, date, format=form)
        base, _, last = name.rpartition(".")
        if last == "keyword" and base in plan.text and plan.text[base].keyword:
            return FieldInfo(name, "keyword")
        if chunk is not None and base == chunk.path and last == "text":
            own = chunk.store == "documents"
            return FieldInfo(name, "text", nested=None if own else chunk.path, is_chunk_document=own)
        if name in (HASH_FIELD, PARENT_FIELD):
            return FieldInfo(name, "keyword")
        if chunk is not None and base == chunk.path and (last in plan.dense or last in plan.sparse):
            return self._find(last, vector)
        found = type_of(name, self.mapping)
        if found is not None:
            self._check_nested(name)
            kind = {"dense_vector": "dense", "knn_vector": "dense"}.get(found, found)
            form = UNKNOWN_FORMAT if self.formats is None else self.formats.get(name)
            sparse = kind in ("sparse_vector", "rank_features")
            return FieldInfo(name, "sparse" if sparse else kind, format=form)
        if name == "_id":
            raise QueryError("to select documents by id use q.ids", field=name)
        if name == plan.id_field:
            raise QueryError(
                f"{name!r} is the document's id, which term and terms (= and !=) find; for anything else "
                f"declare it, [filter.{name}] in the plan (a migration), so that it is a field of the index",
                field=name,
            )
        raise self._unknown(name)

    def _check_nested(self, name: str) -> None:
        """Engines answer a clause on a field of nested objects with no hits where it stands outside."""
        path = nested_path(name, self.mapping)
        plan = self.plan
        # In chunks that esembed cuts there is nothing but their text and vectors.
        own = plan.chunk.path if plan is not None and plan.chunk is not None and plan.makes_chunks else None
        if path in (None, own) or (
            self.nested_path is not None and f"{self.nested_path}.".startswith(f"{path}.")
        ):
            return
        raise QueryError(
            f"{name!r} lies in the nested objects {path!r}: put the clause into q.nested({path!r}, …)",
            field=name,
        )

    def known(self, name: str) -> None:
        """Raises QueryError for a field that the index doesn't have."""
        own = self.plan.chunk.path if self.plan is not None and self.plan.chunk is not None else None
        if name != own and not name.startswith("_") and type_of(name, self.mapping) is None:
            self._find(name)

    def _unknown(self, name: str) -> QueryError:
        known = self.known_fields()
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return QueryError(
            f"the index has no field {name!r} (there are: {', '.join(known) or 'none'}){hint}", field=name
        )

    def known_fields(self) -> list[str]:
        """The names a query may use."""
        if self.plan is None:
            return sorted(self.mapping)
        plan = self.plan
        return list(
            dict.fromkeys([*plan.text, *plan.dense, *plan.sparse, *plan.filter, *sorted(self.mapping)])
        )

    def _filters(self) -> str:
        names = ", ".join(self.plan.filter) if self.plan is not None else ""
        return f" ({names})" if names else ""


def _what(kind: str) -> str:
    return f"a {kind} vector field" if kind in ("dense", "sparse") else f"of type {kind}"
