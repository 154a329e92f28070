"""Query nodes to query clauses: everything that both engines spell alike.

The two dialects subclass :class:`QueryCompiler` and add vectors and features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for
from esembed.dialect.mapping import KEYWORD_LIMIT
from esembed.dialect.meta import PARENT_FIELD
from esembed.dialect.quantize_vectors import quantize
from esembed.dialect.scope import CLAUSE_HEADROOM, DEFAULT_K1, KEYWORD_LIKE, FieldInfo, Scope
from esembed.dialect.tokens import encode_vector
from esembed.dialect.values import DATES, check_value, check_zone, count_words, fit_text, writing_of
from esembed.errors import QueryError
from esembed.fusion import FusionNode, LegRef
from esembed.lazy import np
from esembed.plan import DenseField
from esembed.plan.fields import MAX_CANDIDATES, CandidateRule
from esembed.query.nodes import (
    Bool,
    BoostBy,
    Diversify,
    Exists,
    Filter,
    GeoDistance,
    Ids,
    Knn,
    Match,
    MatchAll,
    MatchPhrase,
    MultiMatch,
    Nested,
    Prefix,
    Query,
    Range,
    RankFeature,
    Raw,
    Rescore,
    Sparse,
    StoredRaw,
    Term,
    Terms,
    Wildcard,
    thaw,
)
from esembed.query.tree import finds_nearest
from esembed.scalars import identifier
from esembed.types import SparseVector

__all__ = ["Json", "QueryCompiler", "bool_clause", "completes", "finds_nothing", "mentions", "on_objects"]

Json = dict[str, Any]
"""A JSON object."""
MAX_TERMS = 65_536  # index.max_terms_count, both engines' default
MAX_EXPANSIONS = 50
"""What a fuzzy word may become, both engines' default. Each is a clause: 20 words fill OpenSearch's 1,024."""
MAX_FUZZY_WORDS = 250
"""Fuzzy words of a request, times fields. Each holds an automaton of about 0.3 MB while the query is made:
Elasticsearch 9.5.3 with 1 GB of heap refused 2,400 of them (429, its request breaker)."""
RARE_WORD = 10.0
"""What a word of one document in some 30,000 scores, on the common scale. OpenSearch scores a keyword by a
constant and Elasticsearch by its rarity; without regard to case both take the boost (3.6, 9.5)."""
LOGARITHMS_OF_ONE = ("log1p", "ln1p")
"""Modifiers that are 0 for a value of 0; ``boost_by`` multiplies by 1 more."""
ZERO_AT_ZERO = ("none", "square", "sqrt")
"""Modifiers that are 0 for a value of 0, too; a 1 added would change what every other value gives."""
ELASTIC = frozenset({"match", "multi_match", "sparse"})
"""Nodes that count their words or terms themselves."""


def finds_nothing(node: Query) -> bool:
    """Whether this is a knn whose text has no vector; see :meth:`DenseVector.nothing`."""
    return isinstance(node, Knn) and node.vector is not None and not node.vector


def _above_zero(path: str, clauses: Iterable[Json]) -> bool:
    """Whether one of these clauses, which all hold, finds only what has a value above 0 in the field."""
    for clause in clauses:
        ((kind, inside),) = clause.items()
        if kind == "range":
            found = inside.get(path, {})
            low, above = found.get("gte"), found.get("gt")
            holds = (isinstance(low, (int, float)) and low > 0) or (
                isinstance(above, (int, float)) and above >= 0
            )
        elif kind == "bool":
            holds = _above_zero(path, (*inside.get("must", ()), *inside.get("filter", ())))
        else:
            holds = kind == "function_score" and _above_zero(path, (inside["query"],))
        if holds:
            return True
    return False


def bool_clause(scoring: Json, filters: list[Json]) -> Json:
    """A scoring clause with filters inside the same bool."""
    if not filters:
        return scoring
    if set(scoring) == {"bool"}:
        inner = scoring["bool"]
        free = not inner.get("must") and not inner.get("filter") and bool(inner.get("should"))
        merged = {**inner, "filter": [*inner.get("filter", ()), *filters]}
        if free:
            # With a filter beside them, should clauses would become optional.
            merged.setdefault("minimum_should_match", 1)
        return {"bool": merged}
    return {"bool": {"must": [scoring], "filter": filters}}


def completes(fusion: FusionNode) -> bool:
    """Whether some leg of the fusion is to score every candidate."""
    return any(isinstance(child, LegRef) and child.whole for child in fusion.children)


def mentions(clause: Any, kind: str) -> bool:
    """Whether a clause of this kind (``nested``) stands anywhere in a clause."""
    if isinstance(clause, Mapping):
        return kind in clause or any(mentions(value, kind) for value in clause.values())
    return isinstance(clause, list) and any(mentions(value, kind) for value in clause)


def on_objects(clause: Any, path: str) -> bool:
    """Whether a clause asks for a field of the nested objects under *path* from among them, that is, outside
    of a ``nested`` clause of its own."""
    if isinstance(clause, Mapping):
        for key, value in clause.items():
            if key == "nested":
                continue
            if key.startswith(f"{path}.") or (key == "field" and str(value).startswith(f"{path}.")):
                return True
            if on_objects(value, path):
                return True
    return isinstance(clause, list) and any(on_objects(value, path) for value in clause)


class QueryCompiler:
    """Compiles nodes to clauses. Stateless but for what the scope collects."""

    engine: ClassVar[str] = ""
    collapses_fused: ClassVar[bool] = False
    """Whether the engine collapses the fused list, not each leg's."""

    # -- what each engine does its own way -------------------------------------------------------------

    def leg_body(self, node: Query, scope: Scope) -> Json:
        """A leg as the part of a search body that finds its hits."""
        return {"query": self.clause(node, scope)}

    def finds_more_than_k(self, node: Query, scope: Scope) -> bool:
        """Whether the engine takes every candidate of this kNN for a hit, not its k nearest alone."""
        return False

    def union_body(self, nodes: list[Query], scope: Scope) -> Json:
        """Everything that some leg finds, unranked: for counts and aggregations."""
        plain = scope.with_(inner_hits=False)
        clauses = [self.clause(node, plain) for node in nodes]
        return {"query": {"bool": {"should": clauses, "minimum_should_match": 1}}}

    def fusion_gaps(self, fusion: FusionNode, scope: Scope) -> list[str]:
        """Why the engine can't fuse this itself with the same result; empty when it can."""
        raise NotImplementedError

    def fusion_differs(self, fusion: FusionNode) -> str | None:
        """Why ``auto`` doesn't leave this fusion to the engine although it could, or None."""
        return None

    def fusion_body(self, fusion: FusionNode, legs: Sequence[Query], scope: Scope) -> Json:
        """The part of a search body that finds and fuses; *legs* by their positions in the fusion."""
        raise NotImplementedError

    def score_factor(self, fusion: FusionNode) -> float:
        """What a server-fused score is multiplied by to be Σ weight · value."""
        raise NotImplementedError

    def rerank(
        self, stage: Rescore, fusion: FusionNode | None, legs: Sequence[Query], scope: Scope
    ) -> Json | None:
        """The query inside the engine's own reranker; None after a gap was noted."""
        scope.gap(
            "rescore by inference_id is Elasticsearch's text_similarity_reranker and needs an Enterprise or "
            "trial license; use reranker=, which runs in your process"
        )
        return None

    def diversify(
        self, stage: Diversify, fusion: FusionNode | None, legs: Sequence[Query], size: int, scope: Scope
    ) -> Json | None:
        """The part of a search body that finds the hits and makes them differ; None after a gap was noted.

        Args:
            size: hits on the page.
        """
        raise NotImplementedError

    combines_synonyms: ClassVar[bool] = True
    """Whether ``combined_fields`` takes a word and its synonyms for one word, any of which will do."""

    max_levels: ClassVar[int | None] = None
    """How deep the engine takes queries inside queries; None where it has no such limit."""

    def max_ids(self, capabilities: Capabilities) -> int:
        """The most values of an ``ids`` query."""
        return MAX_TERMS

    def scores_vectors_exactly(self, capabilities: Capabilities) -> bool:
        """Whether a query can compare vectors one by one (``q.knn(…, exact=True)``)."""
        return True

    # -- clauses -----------------------------------------------------------------------------------------

    def clause(self, node: Query, scope: Scope) -> Json:
        """The clause of any node that is one.

        Raises:
            QueryError: a fusion or stage where a clause must stand, or a field used wrongly.
        """
        tag = node.__struct_config__.tag
        method: Callable[[Any, Scope], Json] | None = getattr(self, f"visit_{tag}", None)
        if method is None:
            raise QueryError(
                f"{tag} stands at the top of a query (or as a leg of a fusion), not inside another clause"
            )
        if scope.clauses is not None and tag not in ELASTIC:
            scope.clauses.fixed += 1
        return method(node, scope)

    def filters(self, node: Filter | None, scope: Scope) -> list[Json]:
        """A leg's filter as clauses."""
        if node is None:
            return []
        if isinstance(node, Bool) and not (node.must or node.should or node.must_not):
            return [clause for part in node.filter for clause in self.filters(part, scope)]
        return [self.clause(node, scope.filtering())]

    def candidates(self, node: Knn | Sparse, scope: Scope) -> list[Json]:
        """What a search for the k nearest is to look among: its own filter and all those around it.

        A filter beside the search would only thin out the k nearest of everybody: with one tenant of many
        as the filter that is often nobody. So every filter of a search, a fusion, a bool, a nested query or
        a boost reaches the searches below it, through the scope, and this is the one place they are read.
        """
        return [*self.filters(node.filter, scope), *scope.within]

    # -- text ------------------------------------------------------------------------------------

    def visit_match(self, node: Match, scope: Scope) -> Json:
        if node.damp_words is not None and node.text:
            words = len(node.text.split())
            if words > node.damp_words:
                node = node.replace(boost=node.boost * node.damp_words / words, damp_words=None)
        fields = self._text_fields(node, scope)
        options = self._fitted(_need_text(node.text, "match"), fields, scope, fuzzy=_edits(node))
        _put_words(options, node)
        _put(options, node, "analyzer")
        if len(fields) == 1:
            name, boost = fields[0]
            boost *= node.boost * scope.bm25_factor(name)
            if boost != 1.0:
                options["boost"] = boost
            clause: Json = {"match": {name: options}}
        elif any(_is_pattern(name) for name, _ in fields):
            clause = self._best_of(fields, options, node, scope)
        else:
            clause = {"multi_match": {**options, "type": "best_fields", **self._boosts(fields, node, scope)}}
        clause = self._in_nested([name for name, _ in fields], clause, scope)
        return bool_clause(clause, self.filters(node.filter, scope))

    def visit_multi_match(self, node: MultiMatch, scope: Scope) -> Json:
        fields = self._text_fields(node, scope)
        if node.kind == "auto":
            clause = self._as_one_text(node, fields, scope)
        else:
            clause = self._of_kind(node.kind, node, fields, scope)
        return bool_clause(clause, self.filters(node.filter, scope))

    def _of_kind(self, kind: str, node: MultiMatch, fields: list[tuple[str, float]], scope: Scope) -> Json:
        """The clause of a kind, which is the node's own or what ``auto`` stands for here; without filters."""
        odd = next((name for name, _ in fields if _is_pattern(name)), None)
        if odd is not None:
            raise QueryError(
                f"multi_match can't search {odd!r}: the engines read ^ and * in its field names as a boost "
                f"and a pattern. Search it by q.match(…, fields=[{odd!r}])",
                field=odd,
            )
        # A phrase can't be cut without becoming another one, and is a clause for each field.
        text = _need_text(node.text, "multi_match")
        phrase = kind in ("phrase", "phrase_prefix")
        twice = kind == "combined_fields" and not self.combines_synonyms and _requires(node)
        options = (
            {"query": text}
            if phrase
            else self._fitted(text, fields, scope, fuzzy=_edits(node), times=2 if twice else 1)
        )
        if kind == "combined_fields":
            if node.kind == kind:
                self._require_combinable(fields, scope)
            if not twice:
                _put_words(options, node)
            clause: Json = {"combined_fields": {**options, **self._boosts(_from_one(fields), node, scope)}}
            if twice:
                # These words rank, and a clause that takes a word and its synonyms for one says which must be
                # there. It finds what combined_fields finds where there are no synonyms.
                same = {**options, "type": "cross_fields", "fields": [name for name, _ in fields]}
                _put_words(same, node)
                clause = {"bool": {"must": [clause], "filter": [{"multi_match": same}]}}
        else:
            options["type"] = kind
            _put_words(options, node)
            _put(options, node, "tie_breaker", "analyzer")
            clause = {"multi_match": {**options, **self._boosts(fields, node, scope)}}
        return self._in_nested([name for name, _ in fields], clause, scope)

    def _as_one_text(self, node: MultiMatch, fields: list[tuple[str, float]], scope: Scope) -> Json:
        """The clause of ``kind="auto"``, without filters: words count wherever they stand."""
        if len(fields) == 1 or any(_is_pattern(name) for name, _ in fields):
            clause = self.visit_match(_as_match(node), scope)
        elif _edits(node) is not None:
            # Neither of the two that read words as one text allows typing errors.
            if scope.one_text_kind(fields, node.analyzer) == "combined_fields":
                fields = _as_frequencies(fields)
            clause = self._of_kind("best_fields", node, fields, scope)
        else:
            kind = scope.one_text_kind(fields, node.analyzer)
            if kind == "cross_fields" and node.analyzer is None and (why := scope.not_combinable(fields)):
                scope.note(f"{why}, so they are searched by cross_fields, not as one text")
            clause = self._of_kind(kind, node, fields, scope)
        # A name that is the whole text is one more rare word found: enough to come first, and on the scale of
        # the other words' scores, so that it doesn't flatten them in a fusion.
        whole = str(node.text).strip()
        exact: list[Json] = []
        for name, _ in fields if len(whole) <= KEYWORD_LIMIT else ():
            spec = scope.plan.text.get(name) if scope.plan is not None else None
            if spec is not None and spec.keyword:
                scale = dialect_for(scope.capabilities).scores.bm25_factor(scope.k1(name))
                boost = node.boost * RARE_WORD * scope.bm25_factor(name) / scale
                options: Json = {"value": whole, "case_insensitive": True, "boost": boost}
                exact.append({"term": {f"{name}.keyword": options}})
        if exact:
            if scope.clauses is not None:
                scope.clauses.fixed += len(exact)
            clause = {"bool": {"should": [clause, *exact], "minimum_should_match": 1}}
        return clause

    def _require_combinable(self, fields: list[tuple[str, float]], scope: Scope) -> None:
        """Refuses ``combined_fields`` that was asked for by name where these fields or this engine can't."""
        why = scope.not_combinable(fields)
        if why is not None:
            raise QueryError(
                f'combined_fields: {why}; use kind="auto" or kind="cross_fields"', field=fields[0][0]
            )
        if not scope.capabilities.combined_fields:
            scope.gap('combined_fields needs OpenSearch 3.2; use kind="auto" or kind="cross_fields"')

    def visit_match_phrase(self, node: MatchPhrase, scope: Scope) -> Json:
        info = scope.text(node.field)
        options: Json = {"query": _need_text(node.text, "match_phrase")}
        if node.slop:
            options["slop"] = node.slop
        _put(options, node, "analyzer")
        boost = node.boost * scope.bm25_factor(node.field)
        if boost != 1.0:
            options["boost"] = boost
        clause = self._in_nested([node.field], {"match_phrase": {info.path: options}}, scope)
        return bool_clause(clause, self.filters(node.filter, scope))

    def _in_nested(self, fields: list[str], clause: Json, scope: Scope) -> Json:
        """A text clause on chunks stands in a nested query, with the best chunk coming along."""
        paths = {scope.text(name).nested for name in fields}
        if len(paths) > 1:
            raise QueryError(
                f"{', '.join(fields)}: fields of the document and of its chunks can't be searched by one "
                "match; "
                "make a leg of each",
                field="fields",
            )
        (path,) = paths
        return clause if path is None or path == scope.nested_path else scope.nested_query(path, clause, 1)

    def _text_fields(self, node: Match | MultiMatch, scope: Scope) -> list[tuple[str, float]]:
        searched = scope.searched_fields(node)
        if not node.named_fields:
            return searched
        return [(scope.text(name).path, boost) for name, boost in searched]

    def _fitted(
        self,
        text: str,
        fields: list[tuple[str, float]],
        scope: Scope,
        *,
        fuzzy: str | int | None,
        times: int = 1,
    ) -> Json:
        """The text as a match's options, cut where its words would be more clauses than there are for it in
        the request (a pasted page).

        Args:
            times: how often the clause has the text.
        """
        words = count_words(text)
        if fuzzy and words * len(fields) > MAX_FUZZY_WORDS:
            text, cut = fit_text(text, max(1, MAX_FUZZY_WORDS // len(fields)))
            words = cut or words
            scope.note(
                f"{', '.join(name for name, _ in fields)}: only the text's first {words} words are searched; "
                "more fuzzy words would take more memory than an engine gives to a request"
            )
        each = len(fields) * (MAX_EXPANSIONS if fuzzy else times)
        granted = scope.grant(words * each)
        options: Json = {"query": text}
        if granted >= words * each:
            return options
        limit = scope.capabilities.max_clauses
        names = ", ".join(name for name, _ in fields)
        if fuzzy:
            # Fewer spellings of each word first: every word counts more than its fiftieth neighbor.
            spellings = max(1, granted // (words * len(fields)))
            options["max_expansions"] = spellings
            scope.note(f"{names}: {spellings} spellings of each word; this engine takes {limit} clauses")
        options["query"], kept = fit_text(text, max(1, granted // (len(fields) * times)))
        if kept is not None:
            scope.note(
                f"{names}: only the text's first {kept} words are searched; this engine takes {limit} "
                "clauses in a request"
            )
        return options

    def _best_of(self, fields: list[tuple[str, float]], options: Json, node: Match, scope: Scope) -> Json:
        """What the engines make of a ``multi_match`` of ``best_fields``, for names that it would read as
        something else."""
        clauses = []
        for name, boost in fields:
            boost *= node.boost * scope.bm25_factor(name)
            clauses.append({"match": {name: options if boost == 1.0 else {**options, "boost": boost}}})
        return {"dis_max": {"queries": clauses}}

    def _boosts(self, fields: list[tuple[str, float]], node: Match | MultiMatch, scope: Scope) -> Json:
        factors = {scope.bm25_factor(name) for name, _ in fields}
        if len(factors) == 1:
            boost = node.boost * factors.pop()
            names = [name if b == 1.0 else f"{name}^{b:g}" for name, b in fields]
        else:
            boost = node.boost
            names = [f"{name}^{b * scope.bm25_factor(name):g}" for name, b in fields]
        return {"fields": names, **({} if boost == 1.0 else {"boost": boost})}

    # -- filters ---------------------------------------------------------------------------------

    def visit_term(self, node: Term, scope: Scope) -> Json:
        if scope.is_id(node.field):
            return self._of_ids(node.field, [node.value], scope)
        info = scope.exact(node.field, "term")
        return self._equal("term", node.field, info, node.value)

    def visit_terms(self, node: Terms, scope: Scope) -> Json:
        if scope.is_id(node.field):
            return self._of_ids(node.field, node.values, scope)
        if len(node.values) > MAX_TERMS:
            raise QueryError(
                f"terms on {node.field!r} has {len(node.values)} values; engines take {MAX_TERMS}. Split the "
                "query, or mark the documents with a value of their own",
                field=node.field,
            )
        info = scope.exact(node.field, "terms")
        if info.kind in DATES and any(writing_of([value], info.format) for value in node.values):
            clauses = [self._equal("terms", node.field, info, value) for value in node.values]
            return {"bool": {"should": clauses, "minimum_should_match": 1}}
        # What can't be wrong isn't looked at: up to 65,536 values.
        values = node.values
        if info.kind not in KEYWORD_LIKE or info.kind == "ip":
            values = tuple(check_value("terms", node.field, info.kind, v, format=info.format) for v in values)
        return {"terms": {info.path: list(values)}}

    def _equal(self, clause: str, field: str, info: FieldInfo, value: Any) -> Json:
        """The clause for one exact value."""
        own = writing_of([value], info.format) if info.kind in DATES else None
        value = check_value(clause, field, info.kind, value, format=own or info.format)
        if own is not None:  # term takes no format, range does; engines make a range of a date's term, too
            return {"range": {info.path: {"gte": value, "lte": value, "format": own}}}
        return {"term": {info.path: {"value": value}}}

    def visit_range(self, node: Range, scope: Scope) -> Json:
        info = scope.exact(node.field, "range")
        check_zone(node.field, node.time_zone)
        bounds = {name: getattr(node, name) for name in ("gte", "gt", "lte", "lt")}
        written = node.format
        if written is None and info.kind in DATES:
            written = writing_of(tuple(bounds.values()), info.format)
        options: Json = {}
        for name, bound in bounds.items():
            checked = check_value("range", node.field, info.kind, bound, format=written or info.format)
            if checked is not None:
                options[name] = checked
        if written is not None:
            options["format"] = written
        _put(options, node, "time_zone")
        return {"range": {info.path: options}}

    def visit_exists(self, node: Exists, scope: Scope) -> Json:
        info = scope.existing(node.field)
        clause: Json = {"exists": {"field": info.path}}
        return {"nested": {"path": info.nested, "query": clause}} if info.nested else clause

    def visit_prefix(self, node: Prefix, scope: Scope) -> Json:
        return {"prefix": {scope.exact(node.field, "prefix").path: {"value": node.value}}}

    def visit_wildcard(self, node: Wildcard, scope: Scope) -> Json:
        options: Json = {"value": node.value}
        if node.case_insensitive:
            options["case_insensitive"] = True
        return {"wildcard": {scope.exact(node.field, "wildcard").path: options}}

    def visit_ids(self, node: Ids, scope: Scope) -> Json:
        most = self.max_ids(scope.capabilities)
        if len(node.values) > most:
            raise QueryError(
                f"ids has {len(node.values)} values, and this engine takes {most}; split the query, or mark "
                "the documents with a value of their own",
                field="values",
            )
        if scope.nested_path is not None:  # engines find nothing there
            raise QueryError(
                f"an id is that of a whole document: put the clause beside the one on {scope.nested_path!r}, "
                "not into it",
                field="values",
            )
        clause: Json = {"ids": {"values": list(node.values)}}
        chunk = scope.plan.chunk if scope.plan is not None else None
        if chunk is None or chunk.store != "documents":
            return clause
        # A filter must reach the chunks, too, which have ids of their own.
        of_these: Json = {"terms": {PARENT_FIELD: list(node.values)}}
        return {"bool": {"should": [clause, of_these], "minimum_should_match": 1}}

    def _of_ids(self, field: str, values: Sequence[Any], scope: Scope) -> Json:
        """A clause on the field of the record that is the document's id."""
        try:
            ids = tuple(identifier(value) for value in values)  # as an ingest does
        except ValueError as error:
            raise QueryError(f"{field!r}: {error}", field=field) from None
        return self.visit_ids(Ids(values=ids), scope)

    def visit_geo_distance(self, node: GeoDistance, scope: Scope) -> Json:
        path = scope.exact(node.field, "geo_distance").path
        return {"geo_distance": {"distance": node.distance, path: {"lat": node.lat, "lon": node.lon}}}

    def visit_nested(self, node: Nested, scope: Scope) -> Json:
        # The filter stands outside, on the document, and that is how it reaches vectors in the objects.
        filters = self.filters(node.filter, scope)
        inner = scope.inside(filters).with_(inner_hits=False, nested_path=node.path)
        options: Json = {
            "path": node.path,
            "query": self.clause(node.query, inner),
            "score_mode": node.score_mode if scope.scoring else "none",
        }
        if node.chunks and scope.inner_hits:
            options["inner_hits"] = {"name": scope.inner_name(node.path), "size": node.chunks}
        return bool_clause({"nested": options}, filters)

    def visit_bool(self, node: Bool, scope: Scope) -> Json:
        conditions, inner = self.conditions(node, scope)
        options: Json = {}
        for name in ("must", "should"):
            if nodes := getattr(node, name):
                options[name] = [self.clause(part, inner) for part in nodes]
        options |= conditions
        _put(options, node, "minimum_should_match")
        if node.boost != 1.0:
            options["boost"] = node.boost
        return {"bool": options}

    def conditions(self, node: Bool, scope: Scope) -> tuple[Json, Scope]:
        """A bool's ``filter`` and ``must_not`` as clauses, and the scope of its scoring clauses."""
        filters = [None if finds_nearest(part) else self.filters(part, scope) for part in node.filter]
        filtering = scope.filtering()
        excluded = [None if finds_nearest(part) else self.clause(part, filtering) for part in node.must_not]
        applied = [clause for clauses in filters if clauses for clause in clauses]
        if banned := [clause for clause in excluded if clause is not None]:
            applied.append({"bool": {"must_not": banned}})
        scoring = len(node.must) + len(node.should)
        inner = scope.inside(applied).with_(
            align_scores=scope.align_scores or (scope.scoring and scoring > 1)
        )
        # Searches for the k nearest that stand among the conditions are under the plain ones, too.
        options: Json = {}
        if filters:
            options["filter"] = [
                clause
                for part, clauses in zip(node.filter, filters, strict=True)
                for clause in (self.filters(part, inner) if clauses is None else clauses)
            ]
        if excluded:
            options["must_not"] = [
                self.clause(part, inner.filtering()) if clause is None else clause
                for part, clause in zip(node.must_not, excluded, strict=True)
            ]
        return options, inner

    def visit_match_all(self, node: MatchAll, scope: Scope) -> Json:
        clause: Json = {"match_all": {} if node.boost == 1.0 else {"boost": node.boost}}
        return bool_clause(clause, self.filters(node.filter, scope))

    def visit_raw(self, node: Raw, scope: Scope) -> Json:
        if isinstance(node, StoredRaw):
            raise QueryError(
                "the index's default query holds raw, the engine's own JSON, which anybody who may write the "
                "index's _meta can put there: open the index with allow_raw=True (--allow-raw) to run it, or "
                "pass a query of your own",
                field="raw",
            )
        body = node.bodies.get(self.engine)
        if body is None:
            scope.gap(
                f"raw has no clause for {self.engine}; add the key {self.engine!r} (it has "
                f"{', '.join(sorted(node.bodies))})"
            )
            return {"match_none": {}}
        clause: Json = thaw(body)
        return bool_clause(clause, self.filters(node.filter, scope))

    # -- features and boosts -----------------------------------------------------------------------

    def visit_rank_feature(self, node: RankFeature, scope: Scope) -> Json:
        if not scope.capabilities.rank_feature:
            scope.gap(
                "rank_feature is not in this build (mapper-extras is missing); use a full distribution, "
                "or index "
                "the number as a filter field and use q.boost_by"
            )
        if node.feature is None:
            path = scope.rank_feature(node.field).path
        else:
            info = scope.sparse(node.field)
            target, storage = scope.target(info)
            if storage != "rank_features":
                scope.gap(
                    f"one feature of {node.field!r} can be scored only where it is stored as "
                    "rank_features (it is "
                    f"{storage}); use q.sparse with a vector of that one feature"
                )
            (name,) = encode_vector(SparseVector.from_dict({node.feature: 1.0}), target, None)
            path = f"{info.path}.{name}"
        options: Json = {}
        _put(options, node, "pivot", "scaling_factor", "exponent")
        clause: Json = {"rank_feature": {"field": path, node.function: options}}
        if node.boost != 1.0:
            clause["rank_feature"]["boost"] = node.boost
        return bool_clause(clause, self.filters(node.filter, scope))

    def visit_boost_by(self, node: BoostBy, scope: Scope) -> Json:
        path = scope.usable(node.field, "boost_by").path
        filters = self.filters(node.filter, scope)
        inner = scope.inside(filters).with_(align_scores=scope.align_scores or node.mode == "sum")
        function: Json = {"field": path, "factor": node.factor, "missing": node.missing}
        if node.modifier != "none":
            function["modifier"] = node.modifier
        functions: list[Json] = [{"field_value_factor": function}]
        options: Json = {
            "query": self.clause(node.query, inner),
            "functions": functions,
            "boost_mode": node.mode,
        }
        if node.mode == "multiply" and node.modifier in LOGARITHMS_OF_ONE:
            # The logarithm of 1 + 0 is 0: multiplied by that, what nobody clicked yet would come last of all.
            functions.append({"weight": 1})
            options["score_mode"] = "sum"
        loses = node.mode == "multiply" and node.modifier in ZERO_AT_ZERO and scope.zero_counts
        if loses and not _above_zero(path, (*inner.within, options["query"])):
            # Said at every search: whoever looks at the first hits never sees what came last for it. Of 800
            # packages that "web server" found, 182 had a count of 0.
            scope.note(
                f"boost_by on {node.field!r} multiplies by 0 where the value is 0: such documents score 0 "
                "and come last. modifier='log1p' leaves their score as it is, 'log2p' multiplies it by 0.3; "
                f"filter=q.range({node.field!r}, gt=0) leaves them out"
            )
        if node.max_boost is not None:
            options["max_boost"] = node.max_boost
        return bool_clause({"function_score": options}, filters)

    # -- vectors ---------------------------------------------------------------------------------------

    def visit_knn(self, node: Knn, scope: Scope) -> Json:
        if finds_nothing(node):
            scope.dense(node.field)
            return self.nothing(node, scope)
        return self.knn(node, scope)

    def visit_sparse(self, node: Sparse, scope: Scope) -> Json:
        raise NotImplementedError

    def nothing(self, node: Knn | Sparse, scope: Scope) -> Json:
        """The clause of a leg that has nothing to compare, and the note that says so."""
        why = (
            "none of the query's terms is in the field's vocabulary and heavy enough"
            if node.vector
            else "the query has no vector, since its encoder knows nothing in the text"
        )
        scope.note(f"{node.field}: {why}; this leg finds nothing")
        return {"match_none": {}}

    # the dialects' part

    def knn(self, node: Knn, scope: Scope) -> Json:
        """The clause of a knn that has a vector, or a text that the engine encodes."""
        raise NotImplementedError

    def sparse_weights(
        self, node: Sparse, info: FieldInfo, scope: Scope, *, clauses: bool
    ) -> dict[str, float]:
        """The query's feature names and weights, light terms cut off.

        Args:
            clauses: each term is one of the request's clauses.

        Raises:
            QueryError: no vector, ``max_terms`` above the limit.
        """
        if node.vector is None:
            raise QueryError(
                f"sparse on {node.field!r} has a text and no vector: an index encodes it; without one give "
                "vector={token: weight}",
                field=node.field,
            )
        weights = dict(node.vector)
        before = len(weights)
        if node.min_weight is not None:
            weights = {token: w for token, w in weights.items() if w >= node.min_weight}
        keep = len(weights) if node.max_terms is None else min(len(weights), node.max_terms)
        limit = scope.capabilities.max_clauses
        why = ""
        if clauses:
            if node.max_terms is not None and node.max_terms > limit - CLAUSE_HEADROOM:
                raise QueryError(
                    f"sparse on {node.field!r}: max_terms={node.max_terms} is above this engine's clause "
                    f"limit of {limit} (some are its own); lower it, or raise "
                    "indices.query.bool.max_clause_count",
                    field="max_terms",
                )
            granted = scope.grant(keep)
            if granted < keep:
                keep, why = granted, f"; this engine takes {limit} clauses in a request"
        if len(weights) > keep:
            # Equal weights by name, so that one text asks the same each time, and on both engines.
            heaviest = sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:keep]
            weights = dict(heaviest)
        if len(weights) < before:
            scope.note(f"{node.field}: {len(weights)} of {before} query terms kept, the heaviest{why}")
        target, storage = scope.target(info)
        if storage == "seismic" and node.field not in scope.token_ids:
            vector: Any = SparseVector.from_dict(
                {_as_id(token, node.field): w for token, w in weights.items()}
            )
        else:
            vector = SparseVector.from_dict(weights)
        return encode_vector(vector, target, scope.token_ids.get(node.field), unknown="drop")

    def inference_target(self, node: Knn | Sparse, info: FieldInfo, scope: Scope) -> tuple[str, str] | None:
        """The endpoint and the text, where the engine itself is to encode this leg's text; else None.

        Raises:
            QueryError: an option that needs the vector on this side.
        """
        if node.vector is not None or node.text is None or info.spec is None:
            return None
        endpoint = info.spec.endpoint
        if endpoint is None:
            return None
        gap = dialect_for(scope.capabilities).mapping.inference_gap()
        if gap is not None:
            scope.gap(f"{node.field!r} is encoded by the engine: {gap[0]}; {gap[1]}")
        for option in ("exact", "max_terms", "min_weight"):
            if getattr(node, option, None):
                raise QueryError(
                    f"{type(node).__name__.lower()} on {node.field!r}: {option} needs the query's vector, "
                    "which the engine computes here; leave it out, or pass vector=",
                    field=option,
                )
        return endpoint, node.text

    def num_candidates(
        self, node: Knn, info: FieldInfo, k: int, rule: CandidateRule | None, *, filtered: bool
    ) -> int | None:
        """How many candidates a search looks at on each shard: the query's own number, else by the field's
        rule, else by *rule*; None says nothing.

        Raises:
            QueryError: fewer than k, more than engines take.
        """
        if node.num_candidates is None:
            own = info.spec.candidates if isinstance(info.spec, DenseField) else None
            rule = own or rule
            return None if rule is None else rule.of(k, filtered=filtered)
        if node.num_candidates > MAX_CANDIDATES:
            raise QueryError(
                f"knn on {node.field!r}: num_candidates={node.num_candidates}, and {self.engine} takes at "
                f"most {MAX_CANDIDATES}",
                field="num_candidates",
            )
        # As Elasticsearch has it: "[num_candidates] cannot be less than [k]" (9.5.3).
        if node.num_candidates < k:
            raise QueryError(
                f"knn on {node.field!r}: num_candidates={node.num_candidates} is below k={k} (k is the "
                "window unless it is given); raise it",
                field="num_candidates",
            )
        return node.num_candidates

    def oversample(self, node: Knn, info: FieldInfo, scope: Scope) -> float | None:
        """How many times k candidates are compared by their full vectors, 0 for not at all, or None, which
        says nothing: the query's own number, else the field's where the mapping can't hold it (OpenSearch;
        Elasticsearch 8.18 to 9.0)."""
        field, asked = info.spec, node.oversample
        if asked is None and isinstance(field, DenseField):
            return field.oversample if scope.capabilities.query_rescore else None
        if asked == 0 and not self._rescores_by_itself(field, scope):
            return None
        return asked

    def _rescores_by_itself(self, field: Any, scope: Scope) -> bool:
        """Whether a search that says nothing of it may be rescored."""
        # Byte and bit fields keep no other vectors to rescore by, and the engines refuse to be told about it.
        element = getattr(field, "element_type", "float")
        return scope.capabilities.rescore_vector and element not in ("byte", "bit")

    def vector(self, node: Knn, info: FieldInfo) -> list[float] | list[int]:
        """The query vector, checked against the field. Raises QueryError."""
        if node.vector is None:
            raise QueryError(
                f"knn on {node.field!r} has a text and no vector: an index encodes it; without one give "
                "vector=[…]",
                field=node.field,
            )
        spec = info.spec
        if spec is not None and getattr(spec, "dims", None) is not None:
            wanted = spec.dims // 8 if spec.element_type == "bit" else spec.dims
            signs = spec.element_type == "bit" and len(node.vector) == spec.dims
            if len(node.vector) != wanted and not signs:
                raise QueryError(
                    f"knn on {node.field!r}: the query vector has {len(node.vector)} dimensions, the "
                    f"field {wanted}; "
                    "encode the query with the encoder that filled the field",
                    field=node.field,
                )
        if not isinstance(spec, DenseField):
            return list(node.vector)
        values: Any = node.vector
        if spec.element_type in ("byte", "bit"):
            try:
                values = quantize(spec, np.asarray(values, dtype=np.float32))
            except ValueError as error:
                raise QueryError(f"knn on {node.field!r}: {error}", field=node.field) from None
        if spec.element_type != "bit" and spec.has_no_direction(values):
            shown = "so short that the engine takes it for" if any(node.vector) else "all zeros,"
            raise QueryError(
                f"knn on {node.field!r}: the query vector is {shown} one of length 0, which has no "
                "direction; cosine can't compare it",
                field=node.field,
            )
        return list(node.vector) if values is node.vector else values.tolist()


def _is_pattern(name: str) -> bool:
    """Whether ``multi_match`` would read a field's name as another field with a boost, or as a pattern."""
    return "^" in name or "*" in name


def _from_one(fields: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """The fields with boosts of 1 or more: both engines refuse a weight below 1 in ``combined_fields``, and
    only what the weights are to each other is meant."""
    least = min(1.0, *(boost for _, boost in fields))
    return [(name, boost / least) for name, boost in fields]


def _as_frequencies(fields: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """The fields with boosts that scores can be multiplied by, in place of those that say how many times a
    word in a field counts: what BM25 makes of that many, beside one. It ends at k1 + 1, so that a word that
    is misspelled is worth no more beside the others than if it were spelled right."""
    k1 = DEFAULT_K1  # fields with one of their own aren't read as one text
    return [(name, boost * (k1 + 1) / (boost + k1)) for name, boost in _from_one(fields)]


def _as_match(node: MultiMatch) -> Match:
    """The same search as ``match``, which takes one field, and fields with any names."""
    return Match(
        text=node.text,
        fields=node.fields,
        operator=node.operator,
        fuzziness=node.fuzziness,
        minimum_should_match=node.minimum_should_match,
        analyzer=node.analyzer,
        boost=node.boost,
    )


def _edits(node: Match | MultiMatch) -> str | int | None:
    """The typing errors that are allowed in every word. Which words are missing the index says, and a search
    asks it first (``search/words.py``): a body that is compiled without one allows none."""
    return None if node.fuzziness == "missing" else node.fuzziness


def _requires(node: MultiMatch) -> bool:
    """Whether a document must have more than one of the words."""
    return node.operator != "or" or node.minimum_should_match is not None


def _put_words(options: Json, node: Match | MultiMatch) -> None:
    """Which words must be there, and how exactly. Without an index ``relax`` is its first step."""
    if node.operator != "or":
        options["operator"] = "and"
    if (edits := _edits(node)) is not None:
        options["fuzziness"] = edits
    if node.operator != "relax":
        _put(options, node, "minimum_should_match")


def _need_text(text: str | None, what: str) -> str:
    if text is None:
        raise QueryError(f"{what} has no text; write it in the query or give the search one (q.resolve_text)")
    return text


def _as_id(token: str, field: str) -> int:
    try:
        return int(token)
    except ValueError:
        raise QueryError(
            f"sparse on {field!r}: SEISMIC wants integer token ids and there is no id table for {token!r}",
            field=field,
        ) from None


def _put(options: Json, node: Any, *names: str) -> None:
    for name in names:
        value = getattr(node, name)
        if value is not None:
            options[name] = value
