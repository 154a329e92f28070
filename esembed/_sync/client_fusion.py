# Generated from esembed/_async/client_fusion.py by scripts/run_unasync.py; change that file and run the script.
"""Our own fusion of legs that a live engine answered: scores completed, fused, rescored, paged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from esembed.errors import EncoderError, EngineRequestError, EsembedError, QueryError, TransientError
from esembed.fusion import Bound, Fused, FusionNode, LegList, collapse, fuse
from esembed.plan import paths
from esembed.query.nodes import Collapse, Match, MatchPhrase, MultiMatch, Query, Rescore
from esembed.search.answer import LegAnswer, best_chunk, hit_of, merge_hits, shard_failure
from esembed.search.bounds import bound_of, idf_mass, mass_fields
from esembed.search.compile import Compiler
from esembed.search.compiled import CompiledSearch, Leg
from esembed.search.page import highlight_spec, next_cursor, page_body, source_spec, text_query
from esembed.transport import Response, error_from_response
from esembed.types import Hit, Hits, LegShare

from ._shim import in_thread

if TYPE_CHECKING:
    from .search import Searcher

__all__ = ["Fusing"]

MAX_MASSES = 4096
MAX_INLINE_CHARACTERS = 512 * 1024  # some 5 ms of parsing, where a round trip takes 1 to 2


class Fusing:
    """The client's path of one searcher.

    Attributes:
        inline: legs bring stored fields along, as long as documents are small.
    """

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self.inline = True
        self._masses: dict[tuple[str, str | None, str], float] = {}

    def hits(
        self,
        compiler: Compiler,
        compiled: CompiledSearch,
        answers: list[Any],
        query: Query,
        digest: str,
        missing: Mapping[str, str],
        partial: bool,
        params: Mapping[str, Any],
    ) -> Hits:
        """The page, from the legs' answers."""
        node = compiled.fusion
        if node is None:
            raise QueryError("nothing to fuse")
        legs_missing = dict(missing)
        plan = self.searcher.plan
        chunk_path = plan.chunk.path if plan.chunk is not None else None
        lists: list[LegAnswer | None] = []
        failures: list[EsembedError] = []
        for leg, answer in zip(compiled.legs, answers, strict=False):
            if "error" in answer:
                status = int(answer.get("status", 500))
                error = error_from_response("POST", f"leg {leg.name}", Response(status, answer))
                if not partial:
                    raise error
                failures.append(error)
                legs_missing[leg.name] = str(error)
                lists.append(None)
            else:
                lost = shard_failure(answer)
                if lost is not None and not partial:
                    raise lost
                lists.append(LegAnswer(answer, leg, chunk_path))
                if lost is not None:
                    legs_missing[leg.name] = f"{lost}: what the others found was used"
                elif answer.get("timed_out"):
                    legs_missing[leg.name] = "the engine's time was up: what it had by then was used"
        if failures and all(answer is None for answer in lists):
            raise failures[0]
        notes = list(compiled.notes)
        bounds = self._bounds(compiled, notes) if _uses_bounds(node) else {}
        lists = self._complete(compiler, compiled, lists, params)
        fused = fuse(
            node,
            [None if a is None else a.ranked for a in lists],
            bounds=bounds,
            explain=compiled.options.explain,
        )
        scored: dict[str, float] = {}
        for stage in compiled.stages:
            if isinstance(stage, Collapse):
                path = compiler.scope.sortable(stage.field, "collapse").path
                groups = {
                    doc: answer.value(doc, path) for answer in lists if answer for doc in answer.ranked.ids
                }
                fused = collapse(fused, groups)
            else:
                try:
                    fused, scored = self._rescore(compiler, stage, fused, lists, params, compiled)
                except (EncoderError, EngineRequestError, TransientError) as error:
                    if not partial:
                        raise
                    legs_missing["rescore"] = str(error)
        window = len(fused)
        shown = fused[compiled.options.offset : compiled.options.offset + compiled.options.size]
        hits = merge_hits(shown, lists, compiled.options.explain)
        if scored:
            hits = [replace(hit, rescored=scored.get(hit.id)) for hit in hits]
        if (
            not compiled.inline
            and hits
            and (compiled.options.source is not False or compiled.options.highlight)
        ):
            hits = self._page(compiler, compiled, hits, params)
        if hits and compiled.options.source in (None, True):
            self._weigh(hits, sum(len(a.ranked.ids) for a in lists if a is not None))
        union = answers[len(compiled.legs)] if compiled.union is not None else None
        total: int | None = None
        aggregations: Mapping[str, Any] = {}
        if union is not None:
            body = self.searcher._good(union)
            aggregations = body.get("aggregations") or {}
            if compiled.options.count:
                total = int(body["hits"]["total"]["value"])
        single = len(compiled.legs) == 1 and node.kind == "linear" and not node.name
        end = compiled.options.offset + len(hits)
        return Hits(
            hits,
            total=total,
            took_ms=max((a.took_ms for a in lists if a is not None), default=0.0),
            timed_out=any(a.timed_out for a in lists if a is not None),
            legs_missing=legs_missing,
            aggregations=aggregations,
            next_cursor=next_cursor(compiled, digest, len(hits), window) if end < window else None,
            path="single" if single and not isinstance(query, Rescore) else "client",
            notes=tuple(notes),
        )

    def _weigh(self, page: Sequence[Hit], listed: int) -> None:
        """Settle whether later searches let every leg bring its hits' stored fields (one round trip), or
        fetch them for the page alone (two): large documents cost more than a round trip does.

        Args:
            page: the hits shown, whose mean stands for all.
            listed: how many hits the legs listed.
        """
        heavy = sum(len(v) for hit in page for v in hit.source.values() if isinstance(v, str)) / len(page)
        self.inline = heavy * listed <= MAX_INLINE_CHARACTERS

    # -- second round trips ------------------------------------------------------------------------

    def _msearch(self, bodies: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> list[Any]:
        lines = [line for body in bodies for line in (params, body)]
        path = f"/{self.searcher._path}/_msearch"
        response = self.searcher.client.request("POST", path, body=lines)
        return [self.searcher._good(answer) for answer in response.body["responses"]]

    def _complete(
        self,
        compiler: Compiler,
        compiled: CompiledSearch,
        lists: list[LegAnswer | None],
        params: Mapping[str, Any],
    ) -> list[LegAnswer | None]:
        """Every candidate scored by every leg that wants it."""
        wanted = [
            (position, leg)
            for position, leg in enumerate(compiled.legs)
            if leg.complete and lists[position] is not None
        ]
        if len(wanted) < 2:
            return lists
        candidates: dict[str, None] = {}
        for position, _ in wanted:
            answer = lists[position]
            candidates.update(dict.fromkeys(answer.ranked.ids if answer is not None else ()))
        todo: list[tuple[int, Leg, list[str]]] = []
        for position, leg in wanted:
            answer = lists[position]
            if answer is None or leg.is_chunk_document:
                continue
            absent = [doc for doc in candidates if doc not in answer]
            if absent:
                todo.append((position, leg, absent))
        if not todo:
            return lists
        answers = self._msearch([compiler.leg_for(leg, absent) for _, leg, absent in todo], params)
        for (position, leg, _), body in zip(todo, answers, strict=True):
            known = lists[position]
            if known is None:
                continue
            more = LegAnswer(body, leg, None)
            scores = dict(zip(known.ranked.ids, known.ranked.scores, strict=True))
            scores.update(zip(more.ranked.ids, more.ranked.scores, strict=True))
            ordered = sorted(scores.items(), key=lambda item: -item[1])
            ranked = LegList([doc for doc, _ in ordered], [score for _, score in ordered])
            known.ranked = ranked
        return lists

    def _rescore(
        self,
        compiler: Compiler,
        stage: Rescore,
        fused: list[Fused],
        lists: Sequence[LegAnswer | None],
        params: Mapping[str, Any],
        compiled: CompiledSearch,
    ) -> tuple[list[Fused], dict[str, float]]:
        """The head of the list scored again; the tail follows unchanged."""
        head, tail = fused[: stage.window_size], fused[stage.window_size :]
        ids = [hit.id for hit in head]
        if not ids:
            return fused, {}
        scores: dict[str, float] = {}
        if stage.by is not None:
            (body,) = self._msearch([compiler.scores_for(stage.by, ids, align_scores=True)], params)
            for raw in body["hits"]["hits"]:
                scores[str(raw["_id"])] = float(raw["_score"])
        else:
            name = stage.reranker or ""
            reranker = self.searcher.rerankers.get(name)
            if reranker is None:
                known = ", ".join(sorted(self.searcher.rerankers)) or "none"
                raise QueryError(
                    f"no reranker {name!r} (there are: {known}); give the index "
                    f"rerankers={{{name!r}: function}}",
                    field="reranker",
                )
            texts = self._texts(stage, ids, lists, params)
            try:
                values = in_thread(reranker, str(stage.text), [texts[doc] for doc in ids])
                scores = dict(zip(ids, map(float, values), strict=True))
            except EsembedError:
                raise
            except Exception as error:
                raise EncoderError(
                    f"the reranker {name!r} failed on {len(ids)} texts ({type(error).__name__}: {error}); it "
                    "takes a query and a list of texts and returns a number for each"
                ) from error
            bad = next((doc for doc, value in scores.items() if not math.isfinite(value)), None)
            if bad is not None:
                raise EncoderError(f"the reranker {name!r} gave {scores[bad]} for document {bad!r}")
        again = []
        for hit in head:
            added = stage.rescore_weight * scores.get(hit.id, 0.0)
            shares = tuple(
                LegShare(share.leg, share.rank, share.score, share.share * stage.query_weight)
                for share in hit.shares
            )
            if compiled.options.explain:
                shares = (*shares, LegShare("rescore", None, scores.get(hit.id), added))
            again.append(Fused(hit.id, stage.query_weight * hit.score + added, shares))
        again.sort(key=lambda hit: -hit.score)
        return again + list(tail), {hit.id: hit.score for hit in again}

    def _texts(
        self, stage: Rescore, ids: Sequence[str], lists: Sequence[LegAnswer | None], params: Mapping[str, Any]
    ) -> dict[str, str]:
        """What a cross-encoder reads of each document: its stored fields, or of its chunks the best one."""
        (body,) = self._msearch([page_body(ids, list(stage.fields), None)], params)
        sources = {str(raw["_id"]): raw.get("_source") or {} for raw in body["hits"]["hits"]}
        chunk = self.searcher.plan.chunk
        chunk_text = f"{chunk.path}.text" if chunk is not None else None
        texts: dict[str, str] = {}
        for doc in ids:
            parts = []
            for name in stage.fields:
                found = best_chunk(doc, lists) if name == chunk_text else None
                parts += [found] if found else paths.texts(sources.get(doc, {}), name)
            texts[doc] = "\n".join(parts)
        if not any(texts.values()):
            raise QueryError(
                f"rescore: none of the {len(ids)} documents has a text in {', '.join(stage.fields)}; name "
                "stored fields",
                field="fields",
            )
        return texts

    def _page(
        self,
        compiler: Compiler,
        compiled: CompiledSearch,
        hits: Sequence[Hit],
        params: Mapping[str, Any],
    ) -> list[Hit]:
        """The page's stored fields and highlights, fetched for the page alone."""
        options = compiled.options
        spec = None
        if options.highlight is not None and options.highlight is not False:
            parts = [node for leg in compiled.legs for node in text_query(leg.node)]
            shown = [compiler.dialect.clause(node, compiler.scope.filtering()) for node in parts]
            query = {"bool": {"should": shown}} if shown else None
            spec = highlight_spec(options.highlight, compiler.scope, query)
        body = page_body([hit.id for hit in hits], source_spec(options.source, self.searcher.plan), spec)
        (answer,) = self._msearch([body], params)
        found = {str(raw["_id"]): hit_of(raw) for raw in answer["hits"]["hits"]}
        return [
            replace(
                hit, source=found[hit.id].source, highlight=found[hit.id].highlight, index=found[hit.id].index
            )
            if hit.id in found
            else hit
            for hit in hits
        ]

    # -- bounds --------------------------------------------------------------------------------------

    def _bounds(self, compiled: CompiledSearch, notes: list[str]) -> dict[str, Bound]:
        bounds: dict[str, Bound] = {}
        for leg in compiled.legs:
            node = leg.node
            mass: float | None = None
            if isinstance(node, (Match, MultiMatch, MatchPhrase)) and node.scale is None:
                masses = [
                    boost * self._mass(field, node.analyzer, str(node.text))
                    for field, boost in mass_fields(node, self.searcher.plan)
                ]
                mass = max(masses, default=None)
            bound, note = bound_of(node, self.searcher.plan, mass)
            bounds[leg.name] = bound
            if note:
                notes.append(f"{leg.name}: {note}")
        return bounds

    def _mass(self, field: str, analyzer: str | None, text: str) -> float:
        """The idf mass of a text in a field; document frequencies come from the engine, and are cached."""
        key = (field, analyzer, text)
        known = self._masses.get(key)
        if known is not None:
            return known
        body: dict[str, Any] = {
            "doc": {field: text},
            "fields": [field],
            "term_statistics": True,
            "field_statistics": True,
            "positions": False,
            "offsets": False,
        }
        if analyzer is not None:
            body["per_field_analyzer"] = {field: analyzer}
        answer = self.searcher.client.request("POST", f"/{self.searcher._path}/_termvectors", body=body)
        mass = idf_mass((answer.body.get("term_vectors") or {}).get(field) or {})
        if len(self._masses) >= MAX_MASSES:
            self._masses.clear()
        self._masses[key] = mass
        return mass


def _uses_bounds(node: FusionNode) -> bool:
    return node.normalizer == "bound" or any(
        isinstance(child, FusionNode) and _uses_bounds(child) for child in node.children
    )
