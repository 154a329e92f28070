# Generated from esembed/_async/client_fusion.py by scripts/run_unasync.py; change that file and run the script.
"""Client-side fusion of legs that a live engine answered: scores completed, fused, rescored, paged."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from esembed.answers import counted
from esembed.deadline import Deadline
from esembed.dialect import dialect_for
from esembed.dialect.source_rules import SourceFetch
from esembed.errors import (
    AnswerError,
    EncoderError,
    EngineRequestError,
    EsembedError,
    InvariantError,
    QueryError,
    TransientError,
)
from esembed.fusion import Bound, Fused, FusionNode, LegList, collapse, fuse, normalize
from esembed.plan import IndexPlan, paths
from esembed.query.nodes import Collapse, Diversify, Floor, Knn, MultiMatch, Rescore, TextNode
from esembed.search.answer import (
    LegAnswer,
    best_chunk,
    checked_item,
    end_note,
    hit_of,
    merge_hits,
    msearch_items,
    next_cursor,
    shard_failure,
)
from esembed.search.bounds import bound_of, idf_sum
from esembed.search.calibration import Calibration, calibrated_leg
from esembed.search.compile import CompiledLeg, CompiledSearch, SearchCompiler
from esembed.search.diversity import marginal_relevance, similarities
from esembed.search.options import Reranker
from esembed.search.page import highlight_spec, page_body, text_query
from esembed.search.view import View
from esembed.transport import Response, error_from_response
from esembed.types import Hit, Hits, LegContribution

from ._shim import in_thread
from .client import EngineClient
from .deadline import ended_by
from .live import LiveIndex, index_path

__all__ = ["ClientFusion"]

MAX_IDF_SUMS = 4096
"""How many texts' IDF sums are kept: some 100 bytes each beside the text."""
MAX_FETCHED_CHARACTERS = 512 * 1024
"""Up to this many characters of stored fields the legs bring them along: some 5 ms of parsing, where a round
trip of its own takes 1 to 2."""


class ClientFusion:
    """Fuses what the legs of one index answered, with the later round trips that this takes.

    Args:
        client: the caller's client behind one method.
        index_name: an index or an alias of one.
        plan: what the index is.
        rerankers: name → cross-encoder.
        live: the index as the engine has it: where it keeps vectors. None: in ``_source``.

    Attributes:
        calibration: how random documents score, for ``q.floor``; None where it was not counted.
        fetch_with_legs: legs bring stored fields along, as long as documents are small.
    """

    def __init__(
        self,
        client: EngineClient,
        index_name: str,
        plan: IndexPlan,
        rerankers: Mapping[str, Reranker],
        calibration: Calibration | None = None,
        live: LiveIndex | None = None,
    ) -> None:
        self.client = client
        self.plan = plan
        self.calibration = calibration
        self._live = live
        self.rerankers = rerankers
        self.fetch_with_legs = True
        self._path = index_path(index_name)
        self._idf_sums: dict[tuple[str, str | None, str], float] = {}

    def hits(
        self,
        compiler: SearchCompiler,
        compiled: CompiledSearch,
        answers: Sequence[Any],
        view: View,
        *,
        partial: bool,
    ) -> Hits:
        """The page, from the legs' answers.

        Args:
            view: what later requests read.
            partial: legs that failed are left out and named in ``legs_missing``.

        Raises:
            EsembedError: a leg failed, or all of them.
        """
        node, options, request = compiled.fusion, compiled.options, compiled.request
        if node is None:
            raise InvariantError("a search on the client path has no fusion")
        judged = any(isinstance(stage, Floor) for stage in request.stages)
        cut = judged or options.min_score is not None
        word_sums = dict(request.word_sums)
        bounds = self._bounds(compiled, word_sums) if judged or _uses_bounds(node) else {}
        missing = dict(request.legs_missing)
        work = _Work(compiler, view, partial, bounds, missing)
        blocks: list[_Block] = []
        position = 0
        for longer in (compiled, *compiled.grown):
            if blocks and blocks[-1].last:
                break
            blocks.append(self._block(work, longer, answers[position:], blocks))
            position += len(longer.legs) + (longer.match_any is not None)
        fused, scored = self._staged(work, compiled, blocks)
        while len(fused) < options.offset + options.size and request.goes_on and not blocks[-1].last:
            # A stage left hits out, so the page ends further down.
            more = compiler.grown(request, len(blocks))
            if more is None:
                break
            found = self._msearch(more.bodies, view, options.deadline)
            blocks.append(self._block(work, more, found, blocks))
            fused, scored = self._staged(work, compiled, blocks)
        window = len(fused)
        shown = fused[options.offset : options.offset + options.size]
        hits = []
        for block in blocks:
            hits += merge_hits([hit for hit in shown if hit.id in block.ids], block.lists, options.explain)
        lists = [answer for block in blocks for answer in block.lists]
        if scored:
            hits = [replace(hit, rescored=scored.get(hit.id)) for hit in hits]
        if not compiled.fetch_with_legs and hits and (options.source is not False or options.highlight):
            try:
                hits = self._page(compiler, compiled, hits, view)
            except TransientError as error:
                if not partial or options.deadline is None:
                    raise
                missing["source"] = f"{error}: the hits have ids and scores alone"
        # Only whole documents tell how large they are.
        if hits and options.source in (None, True):
            self._weigh(hits, sum(blocks[0].found))
        total: int | None = None
        aggregations: Mapping[str, Any] = {}
        if compiled.match_any is not None:
            body = checked_item(answers[len(compiled.legs)], f"/{self._path}/_msearch")
            aggregations = body.get("aggregations") or {}
            if options.count and not cut:
                total = counted(body, f"POST /{self._path}/_msearch")
        alone = request.fusion is None and not any(isinstance(stage, Rescore) for stage in request.stages)
        total_hits = window if blocks[-1].last else None
        cursor = next_cursor(compiled, len(hits), total_hits, word_sums=word_sums)
        # Where a leg had more than the window takes, there may be groups beyond it.
        full = any(a is not None and len(a.ranked.ids) >= request.window for a in lists)
        return Hits(
            hits,
            total=total,
            took_ms=max((a.took_ms for a in lists if a is not None), default=0.0),
            timed_out=any(a.timed_out for a in lists if a is not None),
            legs_missing=missing,
            aggregations=aggregations,
            next_cursor=cursor,
            path="single" if alone else "client",
            notes=compiled.notes + end_note(compiled, cursor, len(hits), windowed=full),
        )

    def _block(
        self, work: _Work, compiled: CompiledSearch, answers: Sequence[Any], before: Sequence[_Block]
    ) -> _Block:
        """What lists of this length add to the blocks before: documents that none of these ranked."""
        node, options, request = compiled.fusion, compiled.options, compiled.request
        if node is None:
            raise InvariantError("a search on the client path has no fusion")
        lists = self._lists(compiled, answers, work)
        found = [0 if answer is None else len(answer.ranked.ids) for answer in lists]
        last = not request.goes_on or request.window >= work.compiler.capabilities.max_result_window
        if not last:
            earlier = before[-1].found if before else [-1] * len(found)
            counts = zip(compiled.legs, found, earlier, strict=True)
            last = not any(_may_grow(leg, count, shorter, compiled) for leg, count, shorter in counts)
        try:
            lists = self._complete(work.compiler, compiled, lists, work.view)
        except TransientError as error:
            if not work.partial or options.deadline is None:
                raise
            # A document is worth what the legs that listed it say, as where nothing is completed.
            work.missing["complete"] = f"{error}: scores of documents that a leg did not list are left out"
        fused = fuse(
            node,
            [None if a is None else a.ranked for a in lists],
            bounds=work.bounds,
            explain=options.explain,
            whole=last and request.goes_on,
        )
        known = {doc for block in before for doc in block.ids}
        fused = [hit for hit in fused if hit.id not in known]
        ids = {hit.id for hit in fused}
        if options.min_score is not None:
            fused = [hit for hit in fused if hit.score >= options.min_score]
        return _Block(compiled, lists, found, fused, ids, last)

    def _staged(
        self, work: _Work, compiled: CompiledSearch, blocks: Sequence[_Block]
    ) -> tuple[list[Fused], dict[str, float]]:
        """The hits of all blocks after the stages, and what a rescore gave those that it saw. A stage with a
        window of its own is in a search of one block."""
        fused = [hit for block in blocks for hit in block.fused]
        lists = [answer for block in blocks for answer in block.lists]
        scored: dict[str, float] = {}
        for stage in compiled.request.stages:
            if isinstance(stage, Collapse):
                path = compiled.scope.usable(stage.field, "collapse").path
                groups = {
                    doc: answer.value(doc, path) for answer in lists if answer for doc in answer.ranked.ids
                }
                fused = collapse(fused, groups)
                continue
            if isinstance(stage, Floor):
                kept, best = [], 1.0
                for block in blocks:
                    of_block = [hit for hit in fused if hit.id in block.ids]
                    better, share = self._better_than_chance(stage, of_block, block, work.bounds)
                    kept += better
                    best = min(best, share)
                if fused and not kept:
                    compiled.scope.note(
                        f"floor(p={stage.p:g}): none of the {len(fused)} hits is better than chance; of "
                        f"random documents {best:.2g} are as good as the best of them"
                    )
                fused = kept
                continue
            try:
                if isinstance(stage, Diversify):
                    fused = self._diversify(work.compiler, stage, fused, compiled, work.view)
                elif isinstance(stage, Rescore):
                    fused, scored = self._rescore(work.compiler, stage, fused, lists, work.view, compiled)
            except (EncoderError, EngineRequestError, TransientError) as error:
                if not work.partial:
                    raise
                work.missing[stage.builder()] = str(error)
        return fused, scored

    def _lists(self, compiled: CompiledSearch, answers: Sequence[Any], work: _Work) -> list[LegAnswer | None]:
        """Each leg's answer, None for one that failed; what is missing is noted by leg."""
        chunk_path = self.plan.chunk.path if self.plan.chunk is not None else None
        lists: list[LegAnswer | None] = []
        failures: list[EsembedError] = []
        for leg, answer in zip(compiled.legs, answers, strict=False):
            if "error" in answer:
                status = int(answer.get("status", 500))
                error = error_from_response("POST", f"leg {leg.name}", Response(status, answer))
                if not work.partial:
                    raise error
                failures.append(error)
                work.missing[leg.name] = str(error)
                lists.append(None)
                continue
            lost = shard_failure(answer)
            if lost is not None and not work.partial:
                raise lost
            lists.append(LegAnswer(answer, leg, chunk_path))
            if lost is not None:
                work.missing[leg.name] = f"{lost}: what the others found was used"
            elif answer.get("timed_out"):
                work.missing[leg.name] = "the engine's time was up: what it had by then was used"
        if failures and all(answer is None for answer in lists):
            raise failures[0]
        return lists

    def _weigh(self, page: Sequence[Hit], listed: int) -> None:
        """Decide whether later searches let every leg bring its hits' stored fields (one round trip), or
        fetch them for the page alone (two): large documents cost more than a round trip does.

        Args:
            page: the hits shown, whose mean stands for all.
            listed: how many hits the legs listed.
        """
        mean = sum(len(v) for hit in page for v in hit.source.values() if isinstance(v, str)) / len(page)
        self.fetch_with_legs = mean * listed <= MAX_FETCHED_CHARACTERS

    # -- second round trips ------------------------------------------------------------------------

    def _msearch(self, bodies: Sequence[dict[str, Any]], view: View, deadline: Deadline | None) -> list[Any]:
        path = view.where("_msearch")
        response = self.client.request("POST", path, body=view.lines(bodies), deadline=deadline)
        return [checked_item(item, path) for item in msearch_items(response.body, len(bodies), path)]

    def _complete(
        self,
        compiler: SearchCompiler,
        compiled: CompiledSearch,
        lists: list[LegAnswer | None],
        view: View,
    ) -> list[LegAnswer | None]:
        """Every candidate scored by every leg that wants it."""
        wanted = [
            (position, leg)
            for position, leg in enumerate(compiled.legs)
            if leg.leg.complete and lists[position] is not None
        ]
        # One leg's list holds all candidates there are.
        if len(wanted) < 2:
            return lists
        candidates: dict[str, None] = {}
        for position, _ in wanted:
            answer = lists[position]
            candidates.update(dict.fromkeys(answer.ranked.ids if answer is not None else ()))
        todo: list[tuple[int, CompiledLeg, list[str]]] = []
        for position, leg in wanted:
            answer = lists[position]
            if answer is None or leg.is_chunk_document:
                continue
            absent = [doc for doc in candidates if doc not in answer]
            if absent:
                todo.append((position, leg, absent))
        if not todo:
            return lists
        bodies = [
            compiler.scores_for(leg.leg.query, absent, compiled.scope, align_scores=leg.leg.align_scores)
            for _, leg, absent in todo
        ]
        answers = self._msearch(bodies, view, compiled.options.deadline)
        for (position, leg, _), body in zip(todo, answers, strict=True):
            known = lists[position]
            if known is None:
                continue
            more = LegAnswer(body, leg, None)
            scores = dict(zip(known.ranked.ids, known.ranked.scores, strict=True))
            scores.update(zip(more.ranked.ids, more.ranked.scores, strict=True))
            ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
            ranked = LegList([doc for doc, _ in ordered], [score for _, score in ordered])
            known.ranked = ranked
        return lists

    def _rescore(
        self,
        compiler: SearchCompiler,
        stage: Rescore,
        fused: list[Fused],
        lists: Sequence[LegAnswer | None],
        view: View,
        compiled: CompiledSearch,
    ) -> tuple[list[Fused], dict[str, float]]:
        """The head of the list scored again; the tail follows unchanged."""
        head, tail = fused[: stage.window_size], fused[stage.window_size :]
        ids = [hit.id for hit in head]
        if not ids:
            return fused, {}
        scores: dict[str, float] = {}
        if stage.by is not None:
            (body,) = self._msearch(
                [
                    compiler.scores_for(
                        stage.by, ids, compiled.scope, align_scores=True, adds=stage.query_weight > 0
                    )
                ],
                view,
                compiled.options.deadline,
            )
            for raw in body["hits"]["hits"]:
                scores[str(raw["_id"])] = float(raw.get("_score") or 0.0)
        else:
            name = stage.reranker or ""
            reranker = self.rerankers.get(name)
            if reranker is None:
                known = ", ".join(sorted(self.rerankers)) or "none"
                raise QueryError(
                    f"no reranker {name!r} (there are: {known}); give the index "
                    f"rerankers={{{name!r}: function}}",
                    field="reranker",
                )
            deadline = compiled.options.deadline
            texts = self._texts(stage, ids, lists, view, deadline)
            score = functools.partial(in_thread, reranker, str(stage.text), [texts[doc] for doc in ids])
            try:
                values = ended_by(deadline, f"the reranker {name!r}", score, keep=True)
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
            contributions = tuple(
                LegContribution(share.leg, share.rank, share.score, share.contribution * stage.query_weight)
                for share in hit.contributions
            )
            if compiled.options.explain:
                contributions = (*contributions, LegContribution("rescore", None, scores.get(hit.id), added))
            again.append(Fused(hit.id, stage.query_weight * hit.score + added, contributions))
        # A stable sort: what a stage can't tell apart keeps the order that the stage before gave it.
        again.sort(key=lambda hit: -hit.score)
        return again + list(tail), {hit.id: hit.score for hit in again}

    def _better_than_chance(
        self,
        stage: Floor,
        fused: list[Fused],
        block: _Block,
        bounds: Mapping[str, Bound],
    ) -> tuple[list[Fused], float]:
        """The hits that a share of at most ``stage.p`` of random documents would be as good as, and the
        smallest share of all."""
        compiled = block.compiled
        if self.calibration is None:
            raise QueryError(
                "floor needs to know how random documents score, and this index hasn't counted it: "
                "index.learn_floor() (esembed eval floor INDEX) does",
                field="p",
            )
        scored: list[tuple[str, dict[str, float], float | None]] = []
        for leg, answer in zip(compiled.legs, block.lists, strict=True):
            curve = calibrated_leg(leg.leg.scored_as)
            if curve is None or curve not in self.calibration.legs:
                known = ", ".join(sorted(self.calibration.legs))
                raise QueryError(
                    f"floor can't judge the scores of leg {leg.name!r}: how random documents score is known "
                    f"of {known}; put the floor around legs of words and of vectors (index.learn_floor() "
                    "counts again)",
                    field=leg.name,
                )
            if answer is None:
                continue
            bound, ranked = bounds.get(leg.name, Bound()), answer.ranked
            values = dict(zip(ranked.ids, map(bound, ranked.scores), strict=True))
            # What a full list doesn't hold is worth its last at most; of a list that isn't, nothing.
            full = len(ranked.ids) >= compiled.request.window
            scored.append((curve, values, min(values.values()) if full else None))
        kept, best = [], 1.0
        for hit in fused:
            # Of two legs by the same curve the better score counts.
            scores: dict[str, float | None] = {}
            for curve, values, last in scored:
                value = values.get(hit.id, last)
                before = scores.get(curve)
                scores[curve] = value if before is None else before if value is None else max(before, value)
            share = self.calibration.share(scores)
            best = min(best, share)
            if share <= stage.p:
                kept.append(hit)
        return kept, best

    def _diversify(
        self,
        compiler: SearchCompiler,
        stage: Diversify,
        fused: list[Fused],
        compiled: CompiledSearch,
        view: View,
    ) -> list[Fused]:
        """The head of the list in an order in which each hit differs from those before it."""
        head, tail = fused[: stage.window_size], fused[stage.window_size :]
        if len(head) < 2 or stage.relevance == 1.0:
            return fused
        field, format = compiled.scope.dense(stage.field), dialect_for(compiler.capabilities).documents
        fetch = SourceFetch()
        if self._live is not None:
            fetch = self._live.whole_source("diversify", compiler.capabilities, wanted=(field.path,))
        wanted = compiler.source({"includes": [field.path], "excludes": []})
        body = {**page_body([hit.id for hit in head], wanted, None), **fetch.to_body()}
        (answer,) = self._msearch([body], view, compiled.options.deadline)
        found = {
            str(raw["_id"]): format.read_dense(paths.get(fetch.document(raw), field.path))
            for raw in answer["hits"]["hits"]
        }
        vectors = [found.get(hit.id) for hit in head]
        if all(vector is None for vector in vectors):
            compiled.scope.note(
                f"diversify: none of the {len(head)} hits has a vector in {stage.field}, so their order stays"
            )
            return fused
        if len({vector.shape for vector in vectors if vector is not None}) > 1:
            raise AnswerError(f"the vectors of {stage.field} differ in their dimensions", status=200)
        kind = field.spec.element_type if field.spec is not None else "float"
        compared = field.spec.similarity if field.spec is not None else "cosine"
        asked, scores = compiled.request.inner, [hit.score for hit in head]
        relevance = normalize(scores, "minmax")
        before = compiled.request.stages[: compiled.request.stages.index(stage)]
        if isinstance(asked, Knn) and not any(isinstance(one, Rescore) for one in before):
            searched = compiled.scope.dense(asked.field).spec
            bounded = searched is None or searched.similarity != "max_inner_product"
            if bounded and asked.boost:
                relevance = [score / asked.boost for score in scores]
        similar = similarities(vectors, compared, bits=kind == "bit")
        order = marginal_relevance(relevance, similar, stage.relevance)
        return [head[place] for place in order] + tail

    def _texts(
        self,
        stage: Rescore,
        ids: Sequence[str],
        lists: Sequence[LegAnswer | None],
        view: View,
        deadline: Deadline | None,
    ) -> dict[str, str]:
        """What a cross-encoder reads of each document: its stored fields, or of its chunks the best one."""
        (body,) = self._msearch([page_body(ids, list(stage.fields), None)], view, deadline)
        sources = {str(raw["_id"]): raw.get("_source") or {} for raw in body["hits"]["hits"]}
        chunk = self.plan.chunk
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
        compiler: SearchCompiler,
        compiled: CompiledSearch,
        hits: Sequence[Hit],
        view: View,
    ) -> list[Hit]:
        """The page's stored fields and highlights, fetched for the page alone."""
        options = compiled.options
        spec = None
        if options.highlight is not None and options.highlights:
            parts = [node for leg in compiled.legs for node in text_query(leg.leg.query)]
            shown = [compiler.dialect.clause(node, compiled.scope.filtering()) for node in parts]
            query = {"bool": {"should": shown}} if shown else None
            spec = highlight_spec(options.highlight, compiled.scope, query)
        body = page_body([hit.id for hit in hits], compiler.source(options.source), spec)
        (answer,) = self._msearch([body], view, options.deadline)
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

    def _bounds(self, compiled: CompiledSearch, word_sums: dict[str, float]) -> dict[str, Bound]:
        """The bounds of the legs' scores. *word_sums* holds what an earlier page asked, and gets the rest:
        the engines count words in the index as it is by then."""
        bounds: dict[str, Bound] = {}
        for leg in compiled.legs:
            node, deadline = leg.leg.scored_as, compiled.options.deadline
            words: float | None = word_sums.get(leg.name)
            if words is None and isinstance(node, TextNode) and node.scale is None:
                # As one text, a word is as rare as in the field that has it most, and boosts only multiply
                # how often it counts; of several texts the best one's score is the leg's.
                one = isinstance(node, MultiMatch) and node.kind in ("auto", "combined_fields")
                sums = [
                    (1.0 if one else boost) * self._idf_sum(field, node.analyzer, str(node.text), deadline)
                    for field, boost in compiled.scope.searched_fields(node)
                ]
                words = (min if one else max)(sums, default=None)
                if words is not None:
                    word_sums[leg.name] = words
            bound, note = bound_of(node, self.plan, words)
            bounds[leg.name] = bound
            if note:
                compiled.scope.note(f"{leg.name}: {note}")
        return bounds

    def _idf_sum(self, field: str, analyzer: str | None, text: str, deadline: Deadline | None) -> float:
        """The IDF sum of a text in a field; document frequencies come from the engine, and are cached."""
        key = (field, analyzer, text)
        known = self._idf_sums.get(key)
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
        path = f"/{self._path}/_termvectors"
        answer = self.client.request("POST", path, body=body, deadline=deadline)
        total = idf_sum((answer.body.get("term_vectors") or {}).get(field) or {})
        if len(self._idf_sums) >= MAX_IDF_SUMS:
            self._idf_sums.clear()
        self._idf_sums[key] = total
        return total


@dataclass(frozen=True, slots=True)
class _Work:
    """What every part of one answer is made with; *missing* is filled in on the way."""

    compiler: SearchCompiler
    view: View
    partial: bool
    bounds: Mapping[str, Bound]
    missing: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Block:
    """The hits that lists of one length rank: all of a search, but for pages beyond the window.

    Attributes:
        compiled: what was sent for them.
        lists: the legs' answers.
        found: how many documents each of them had.
        fused: the hits that no shorter lists ranked, best first.
        ids: the same, with those that ``min_score`` leaves out.
        last: longer lists have no more.
    """

    compiled: CompiledSearch
    lists: list[LegAnswer | None]
    found: list[int]
    fused: list[Fused]
    ids: set[str]
    last: bool


def _may_grow(leg: CompiledLeg, found: int, earlier: int, compiled: CompiledSearch) -> bool:
    """Whether a longer list of a leg may have more documents than this one, which has *found*; the one before
    had *earlier*."""
    node, size, window = leg.leg.query, leg.body["size"], compiled.request.window
    if size < window:
        return False  # a k of its own
    nested = isinstance(node, Knn) and compiled.scope.dense(node.field).nested is not None
    if nested or leg.is_chunk_document:
        return found > earlier  # of the k nearest chunks, any number are of one document
    return bool(found >= size)


def _uses_bounds(node: FusionNode) -> bool:
    return node.normalizer == "bound" or any(
        isinstance(child, FusionNode) and _uses_bounds(child) for child in node.children
    )
