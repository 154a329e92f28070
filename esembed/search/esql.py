"""Queries as ES|QL, for the operators that have an equal there. Pure.

https://www.elastic.co/docs/reference/query-languages/esql. What a query looks for travels as named parameters
(``?p1``) and never as text; names of fields and indices are quoted. So no text of a query can become syntax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from esembed.capabilities import Capabilities, Version, profile
from esembed.dialect.names import check_name
from esembed.dialect.scope import Scope
from esembed.errors import QueryError, UnsupportedFeatureError
from esembed.fusion import FusionNode, LegRef
from esembed.plan import DenseField, IndexPlan
from esembed.plan.fields import CandidateRule
from esembed.query.nodes import (
    Bool,
    Exists,
    Ids,
    Knn,
    Match,
    MatchAll,
    MatchPhrase,
    Prefix,
    Query,
    Range,
    Rescore,
    Stage,
    Term,
    Terms,
    Wildcard,
)
from esembed.search.compile import compile_query
from esembed.search.options import SearchOptions
from esembed.search.request import make_request

__all__ = ["EsqlQuery", "to_esql"]

MAX_BRANCHES = 8
"""Of FORK."""
COMPARED = frozenset(
    {"keyword", "boolean", "byte", "short", "integer", "long", "float", "double", "date", "ip", "wildcard"}
)
"""Types whose values ES|QL compares as they are indexed; a text field's would be its whole text."""


SCORING = (Match, MatchPhrase, Knn, Bool, MatchAll)
"""Nodes whose scores ES|QL has, too."""
UNSAID = (
    "highlight",
    "aggregations",
    "explain",
    "post_filter",
    "min_score",
    "sort",
    "search_after",
    "count",
)
"""Options of a search that are refused."""


class EsqlQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A query for ``POST /_query``.

    Attributes:
        query: the text.
        params: name → value, one object each, as the request takes them.
        notes: where it may differ from the search, for people.
    """

    query: str
    params: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def body(self) -> dict[str, Any]:
        """The request's body."""
        return {"query": self.query, "params": list(self.params)}


def to_esql(
    query: Query,
    engine: str | Capabilities,
    *,
    index: str,
    plan: IndexPlan | None = None,
    **options: Any,
) -> EsqlQuery:
    """A query as ES|QL.

    Args:
        query: texts are resolved, vectors are filled in.
        engine: a capability profile's name (``elasticsearch-enterprise`` …), or capabilities.
        index: the index, or an alias.
        options: of :class:`~esembed.search.options.SearchOptions` ``size``, and ``source`` as names.

    Raises:
        QueryError: a field that isn't there or is used wrongly, an index's name that can't be.
        UnsupportedFeatureError: all that ES|QL, or this version of it, has no equal for.
    """
    capabilities = profile(engine) if isinstance(engine, str) else engine
    check_name(index)
    try:
        asked = SearchOptions(**options)
    except TypeError as error:
        raise QueryError(f"to_esql: {error}") from error
    writer = _Writer(capabilities, plan)
    text = writer.write(query, index, asked)
    if writer.gaps:
        raise UnsupportedFeatureError(
            list(dict.fromkeys(writer.gaps)), profile=capabilities.label, unknown=capabilities.unknown
        )
    # Its checks of fields and values are those of a search. Last: what it refuses may have no equal anyway.
    compile_query(query, capabilities, asked, plan=plan)
    return EsqlQuery(
        query=text,
        params=tuple({name: value} for name, value in writer.params.items()),
        notes=tuple(dict.fromkeys(writer.notes)),
    )


def _quoted(name: str) -> str:
    """A field's name as an identifier."""
    return "`" + name.replace("`", "``") + "`"


def _number(value: float) -> str:
    """A number that we made, as a literal without an exponent."""
    text = format(value, ".12f").rstrip("0")
    return text + "0" if text.endswith(".") else text


class _Writer:
    """One query on its way to text."""

    def __init__(self, capabilities: Capabilities, plan: IndexPlan | None) -> None:
        self.capabilities = capabilities
        self.plan = plan
        self.scope = Scope(capabilities=capabilities, plan=plan)
        self.params: dict[str, Any] = {}
        self.notes: list[str] = []
        self.gaps: list[str] = []

    def gap(self, text: str) -> str:
        """Remember what can't be said; something to go on with."""
        self.gaps.append(text)
        return "TRUE"

    def param(self, value: Any) -> str:
        """The parameter that carries a value."""
        name = f"p{len(self.params) + 1}"
        self.params[name] = value
        return f"?{name}"

    def needs(self, what: str, since: Version) -> None:
        """A function or command that came with a version."""
        if self.capabilities.version < since:
            self.gap(f"{what} came with Elasticsearch {since}")

    # -- the whole -----------------------------------------------------------------------------------

    def write(self, query: Query, index: str, options: SearchOptions) -> str:
        """The pipe of commands; gaps are collected."""
        if not self.capabilities.esql:
            self.gap("ES|QL needs Elasticsearch 9.2 or later, with the module x-pack-esql; use to_body")
        for option in UNSAID:
            if getattr(options, option):
                self.gap(f"{option} has no equal here; leave it out")
        if options.offset:
            self.gap("offset has no equal (ES|QL has no OFFSET); raise size and drop the first rows")
        request = make_request(query, options, max_window=self.capabilities.max_result_window)
        lines = [f'FROM "{index}" METADATA _id, _index, _score']
        if request.fusion is None:
            limit = max(options.size, self.window_of(request.stages))
            lines += self.leg(request.inner, limit, request.window)
        else:
            lines += self.fused(request.fusion, [leg.query for leg in request.legs])
        for stage in request.stages:
            lines += self.stage(stage)
        size = options.size
        if lines[-1].startswith("LIMIT "):  # sorted and cut already
            size = min(size, int(lines[-1].removeprefix("LIMIT ")))
            del lines[-2:]
        lines += ["SORT _score DESC", f"LIMIT {size}"]
        lines.append(f"KEEP {', '.join(['_id', '_index', '_score', *map(_quoted, self.columns(options))])}")
        return "\n| ".join(lines)

    def window_of(self, stages: Sequence[Stage]) -> int:
        return max((stage.head or 0 for stage in stages), default=0)

    def columns(self, options: SearchOptions) -> list[str]:
        """The fields to show: those asked for by name, else the plan's text and filter fields."""
        source = options.source
        if source is False:
            return []
        if isinstance(source, Sequence) and not isinstance(source, str):
            for name in source:
                if "*" in name:
                    self.gap(f"source: {name!r}, a pattern; name the fields")
            return list(source)
        if isinstance(source, (str, Mapping)):
            self.gap("source takes a list of names here")
            return []
        if self.plan is None:
            return []
        return [*self.plan.text, *(n for n, f in self.plan.filter.items() if f.type in COMPARED)]

    def leg(self, query: Query, limit: int, window: int) -> list[str]:
        """The commands that find a query's first *limit*, best first; a kNN without k finds *window*."""
        limit = min(limit, query.k) if isinstance(query, Knn) and query.k is not None else limit
        self.scope = self.scope.with_(window=window)
        return [f"WHERE {self.condition(query, scoring=True)}", "SORT _score DESC", f"LIMIT {limit}"]

    def fused(self, fusion: FusionNode, legs: Sequence[Query]) -> list[str]:
        """FORK and FUSE."""
        if not 2 <= len(fusion.children) <= MAX_BRANCHES:
            self.gap(f"FORK takes 2 to {MAX_BRANCHES} branches, not {len(fusion.children)}")
        if fusion.kind == "linear" and fusion.normalizer not in ("none", "minmax"):
            self.gap(f"FUSE LINEAR has no normalizer {fusion.normalizer!r}; it has none and minmax")
        branches = []
        for child in fusion.children:
            if not isinstance(child, LegRef):
                self.gap("a fusion inside a fusion has no equal; fuse all legs at once")
                continue
            branches.append(
                "(" + " | ".join(self.leg(legs[child.position], fusion.window, fusion.window)) + ")"
            )
        weights = ", ".join(
            f'"fork{place}": {_number(weight)}' for place, weight in enumerate(fusion.weights, 1)
        )
        options = f'"weights": {{{weights}}}'
        if fusion.kind == "rrf":
            options = f'"rank_constant": {fusion.rank_constant}, {options}'
        else:
            options = f'"normalizer": "{fusion.normalizer}", {options}'
        method = "RRF" if fusion.kind == "rrf" else "LINEAR"
        fork = "FORK " + "\n       ".join(branches)
        return [fork, f"FUSE {method} WITH {{{options}}}", "SORT _score DESC", f"LIMIT {fusion.window}"]

    def stage(self, stage: Stage) -> list[str]:
        """RERANK, and what has no equal."""
        if not isinstance(stage, Rescore):
            self.gap(f"{stage.builder()} has no equal; leave it out")
            return []
        if stage.inference_id is None:
            self.gap(
                "rescore by a query, or by a reranker of your process, has no equal; name an inference_id"
            )
            return []
        fields = ", ".join(_quoted(self.scope.text(name).path) for name in stage.fields)
        asked, endpoint = self.param(stage.text), self.param(stage.inference_id)
        return [
            "SORT _score DESC",
            f"LIMIT {stage.window_size}",
            f'RERANK {asked} ON {fields} WITH {{"inference_id": {endpoint}}}',
        ]

    # -- conditions ----------------------------------------------------------------------------------

    def condition(self, node: Query, *, scoring: bool) -> str:
        """A node as a boolean expression, its own filter beside it."""
        write = getattr(self, f"_{type(node).__name__.lower()}", None)
        if write is None:
            return self.gap(f"{node.builder()} has no equal")
        if scoring and not isinstance(node, SCORING):
            self.gap(f"{node.builder()} scores nothing here; put it under q.bool_(filter=…)")
        own: str = write(node, scoring)
        condition = getattr(node, "filter", None)
        if condition is None or isinstance(node, Bool):
            return own
        return f"({own} AND {self.condition(condition, scoring=False)})"

    def call(self, function: str, field: str, value: Any, options: Mapping[str, Any]) -> str:
        """``MATCH(`title`, ?p1, {"boost": 2.0})``"""

        def shown(one: Any) -> str:
            if isinstance(one, str):
                return self.param(one)
            return _number(one) if isinstance(one, float) else str(one)

        kept = {name: one for name, one in options.items() if one is not None}
        text = ", ".join(f'"{name}": {shown(one)}' for name, one in kept.items())
        arguments = [_quoted(field), self.param(value), *([f"{{{text}}}"] if text else [])]
        return f"{function}({', '.join(arguments)})"

    def _words(self, node: Match | MatchPhrase, scoring: bool) -> None:
        if not scoring:
            self.gap(f"{node.builder()} inside a filter would score; put it under must")

    def _match(self, node: Match, scoring: bool) -> str:
        self._words(node, scoring)
        fields = self.scope.searched_fields(node)
        if len(fields) != 1:
            return self.gap(
                f"match reads {len(fields)} fields as one text, which has no equal; name one, or use q.bool_"
            )
        name, boost = fields[0]
        if isinstance(node.minimum_should_match, str):
            self.gap("match: minimum_should_match is a whole number here")
        fuzziness = None if node.fuzziness is None else str(node.fuzziness)
        options = {
            "operator": node.operator.upper() if node.operator != "or" else None,
            "fuzziness": fuzziness,
            "minimum_should_match": node.minimum_should_match,
            "analyzer": node.analyzer,
            "boost": self._boost(node.boost * boost),
        }
        return self.call("MATCH", self.scope.text(name).path, node.text, options)

    def _matchphrase(self, node: MatchPhrase, scoring: bool) -> str:
        self._words(node, scoring)
        options = {
            "slop": node.slop or None,
            "analyzer": node.analyzer,
            "boost": self._boost(node.boost),
        }
        return self.call("MATCH_PHRASE", self.scope.text(node.field).path, node.text, options)

    def _knn(self, node: Knn, scoring: bool) -> str:
        self.needs("KNN with k", Version(9, 3))
        if not scoring:
            self.gap("knn inside a filter has no equal")
        info = self.scope.dense(node.field)
        for what, used in (
            ("exact", node.exact),
            ("chunks, or a field of nested objects,", info.nested is not None or info.is_chunk_document),
            ("oversample=0", node.oversample == 0),
        ):
            if used:
                self.gap(f"knn: {what} has no equal")
        if node.vector is None:
            return self.gap(f"knn on {node.field!r} has a text; give vector=")
        k = node.k or self.scope.window
        spec = info.spec if isinstance(info.spec, DenseField) else None
        rule = (spec.candidates if spec is not None else None) or CandidateRule()
        options = {
            "k": k,
            "min_candidates": node.num_candidates or rule.of(k, filtered=node.filter is not None),
            "visit_percentage": None if node.visit_percentage is None else float(node.visit_percentage),
            "similarity": None if node.similarity is None else float(node.similarity),
            "rescore_oversample": None if not node.oversample else float(node.oversample),
            "boost": self._boost(node.boost),
        }
        return self.call("KNN", info.path, list(node.vector), options)

    def _boost(self, boost: float) -> float | None:
        return None if boost == 1.0 else float(boost)

    def _bool(self, node: Bool, scoring: bool) -> str:
        if node.boost != 1.0:
            self.gap("bool_: boost has no equal; boost what is in it")
        if node.should and node.minimum_should_match not in (None, 1):
            self.gap("bool_: minimum_should_match above 1 has no equal")
        if node.should and (node.must or node.filter) and node.minimum_should_match is None:
            self.gap("bool_: should clauses that need not match have no equal; write minimum_should_match=1")
        parts = [self.condition(one, scoring=scoring) for one in node.must]
        parts += [self.condition(one, scoring=False) for one in node.filter]
        if node.should:
            parts.append(f"({' OR '.join(self.condition(one, scoring=scoring) for one in node.should)})")
        parts += [self.negated(one) for one in node.must_not]
        return f"({' AND '.join(parts)})" if parts else "TRUE"

    def negated(self, node: Query) -> str:
        """What *node* doesn't find, documents without the field among them: a comparison with nothing is
        neither true nor false in ES|QL, and neither is its negation."""
        found = self.condition(node, scoring=False)
        if isinstance(node, (Exists, Ids, MatchAll)):
            return f"NOT ({found})"
        if isinstance(node, (Term, Terms, Range, Prefix, Wildcard)):
            field = _quoted(self.scope.exact(node.field, node.builder()).path)
            return f"({field} IS NULL OR NOT ({found}))"
        return self.gap(f"must_not of {node.builder()} has no equal; negate its conditions one by one")

    def _matchall(self, node: MatchAll, scoring: bool) -> str:
        return "TRUE"

    def compared(self, name: str, clause: str) -> str:
        """A field whose values are compared, as an identifier."""
        info = self.scope.exact(name, clause)
        if info.nested is not None or info.kind not in COMPARED:
            self.gap(f"{clause} on {name!r}: ES|QL compares no {info.kind} field as a search does")
        planned = self.plan.filter.get(name) if self.plan is not None else None
        if planned is not None and planned.normalizer is not None:
            self.gap(f"{clause} on {name!r}: values aren't normalized here as a search does it")
        self.notes.append(f"{name}: a document with several values in it passes no comparison in ES|QL")
        return _quoted(info.path)

    def value(self, name: str, value: Any) -> str:
        """A value to compare with, cast where the field's type is no JSON type."""
        kind = self.scope.exact(name, "term").kind
        if kind == "date" and isinstance(value, str) and ("now" in value or "||" in value):
            return self.gap(f"{name}: {value!r} is date math; give the date")
        if kind in ("keyword", "wildcard") and not isinstance(value, str):
            value = str(value).lower() if isinstance(value, bool) else str(value)
        elif kind not in ("keyword", "wildcard", "date", "ip", "boolean") and isinstance(value, str):
            return self.gap(f"{name}: {value!r} is text and the field {kind}; give the number")
        cast = {"date": "::datetime", "ip": "::ip"}.get(kind, "")
        return self.param(value) + cast

    def _term(self, node: Term, scoring: bool) -> str:
        return f"{self.compared(node.field, 'term')} == {self.value(node.field, node.value)}"

    def _terms(self, node: Terms, scoring: bool) -> str:
        field = self.compared(node.field, "terms")
        return f"{field} IN ({', '.join(self.value(node.field, one) for one in node.values)})"

    def _range(self, node: Range, scoring: bool) -> str:
        if node.format is not None or node.time_zone is not None:
            self.gap("range: format and time_zone have no equal; write dates in ISO 8601, UTC")
        field = self.compared(node.field, "range")
        bounds = (("gte", ">="), ("gt", ">"), ("lte", "<="), ("lt", "<"))
        parts = [
            f"{field} {sign} {self.value(node.field, getattr(node, name))}"
            for name, sign in bounds
            if getattr(node, name) is not None
        ]
        return f"({' AND '.join(parts)})"

    def _exists(self, node: Exists, scoring: bool) -> str:
        return f"{_quoted(self.scope.existing(node.field).path)} IS NOT NULL"

    def _prefix(self, node: Prefix, scoring: bool) -> str:
        return f"STARTS_WITH({self.compared(node.field, 'prefix')}, {self.param(node.value)})"

    def _wildcard(self, node: Wildcard, scoring: bool) -> str:
        if node.case_insensitive:
            self.gap("wildcard: case_insensitive has no equal")
        return f"{self.compared(node.field, 'wildcard')} LIKE {self.param(node.value)}"

    def _ids(self, node: Ids, scoring: bool) -> str:
        return f"_id IN ({', '.join(map(self.param, node.values))})"
