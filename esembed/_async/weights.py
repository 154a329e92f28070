"""The weights of an index's legs: learned from the index itself, stored in its default query."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from esembed.dialect import dialect_for
from esembed.dialect.documents import random_score
from esembed.dialect.meta import FLOOR, HASH_FIELD
from esembed.errors import EsembedError, OptionsError, QueryError
from esembed.ingest.options import IngestOptions, IngestReport, Progress
from esembed.ingest.progress import StepProgress
from esembed.option_checks import SEED, not_within
from esembed.plan import paths
from esembed.plan.default_query import searchable_legs, text_leg
from esembed.query import builders as q
from esembed.query.nodes import MAX_WINDOW
from esembed.query.tree import resolve_text

from . import documents
from ._shim import in_thread
from .live import index_path
from .privileges import may_change, require
from .state import IndexState
from .target import AsyncIndexTarget

if TYPE_CHECKING:
    from esembed.search.calibration import Calibration
    from esembed.weights.estimate import WeightsOptions, WeightsReport
    from esembed.weights.scorers import SampledDocument

__all__ = [
    "FEWEST_DOCUMENTS",
    "FLOOR_DOCUMENTS",
    "FLOOR_TEXTS",
    "learn",
    "learn_after_ingest",
    "learn_floor",
]

FEWEST_DOCUMENTS = 50
"""Below this an ingest doesn't learn: the weights would be chance."""

PAGE_DOCUMENTS = 250
"""Documents of one page of the sample: with vectors of 1,024 dims about 5 MB of JSON."""


FLOOR_TEXTS, FLOOR_DOCUMENTS = 120, 250
"""Texts, and random documents that each is scored with: 30,000 pairs. On SciFact ten times as many tell
queries that the index can't answer from others no better (docs/quality.md)."""

ENCODED_DOCUMENTS = 200
"""Where vectors can't be read back as they were sent, so many documents are encoded again, and no more."""


async def learn(
    state: IndexState,
    *,
    options: WeightsOptions | None,
    write: bool,
    progress: Callable[[int, int], None] | None = None,
) -> WeightsReport:
    """Estimate the legs' weights and store the query that follows; see ``AsyncIndex.learn_weights``."""
    # Imported here: a search must not wait for what only an estimate needs.
    from esembed.weights.estimate import WeightsOptions, estimate_weights
    from esembed.weights.query import as_kept, plan_scorers, provenance, weighted_query

    # Drawn from all documents, and stored for everybody who searches the index.
    state.live.require_whole("learning the weights of legs")
    state.live.whole_source(
        "learning the weights of legs",
        wanted=[*state.plan.text, *(state.plan.field_path(name) for name, _ in state.plan.vector_fields())],
    )
    if write:  # before minutes of searching for what can't be stored
        await require(state.client, "storing the weights", may_change(state.live, settings=False))
    options = options or WeightsOptions()
    plan = state.plan
    await state.load_statistics()
    encoders = await in_thread(
        state.pool.one_at_a_time, [name for name, field in plan.vector_fields() if field.encoded_here]
    )
    scorers, notes = plan_scorers(plan, encoders)
    drawn = await draw(state, options.documents, seed=options.seed)
    unread = sum(any(one.vectors.get(n) is None for n in plan.dense if n in scorers) for one in drawn)
    if unread > ENCODED_DOCUMENTS:
        drawn = drawn[:ENCODED_DOCUMENTS]
    found: WeightsReport = await in_thread(
        functools.partial(
            estimate_weights,
            drawn,
            scorers,
            text=text_leg(plan),
            total=await documents.count(state),
            options=options,
            progress=progress,
        )
    )
    query = weighted_query(plan, found)
    if len(scorers) < len(searchable_legs(plan)):
        notes.append("not every leg can be weighed, so the default query stays as it is")
        query = None
    elif plan.chunk is not None:
        notes.append("legs that find chunks are not weighed, so the default query stays as it is")
        query = None
    found = replace(found, notes=(*found.notes, *notes), query=query)
    before: Any = state.stored.rest.get("evidence") or {}
    learned_here = plan.query is None or "trust" in before
    if plan.query is not None and not learned_here:
        found = as_kept(found, plan.query)
    if write and learned_here:
        # Written even when nothing follows, so that the next ingest doesn't ask again at once. The key is
        # the one that indices hold since 0.1.0.
        kept = {key: before[key] for key in ("similarity",) if key in before}
        evidence = {**kept, "trust": found.to_dict(), "summary": provenance(found)}
        await AsyncIndexTarget(state).store_query(query, evidence)
    if write and plan.chunk is None:
        try:
            await learn_floor(state, seed=options.seed)
        except QueryError as error:
            found = replace(found, notes=(*found.notes, f"q.floor can't be used: {error}"))
    return found


async def learn_floor(
    state: IndexState, *, texts: int = FLOOR_TEXTS, documents: int = FLOOR_DOCUMENTS, seed: int = 0
) -> Calibration:
    """Count how random documents score, and store it; see ``AsyncIndex.learn_floor``."""
    from esembed.evaluate.target import at_random, texts_of
    from esembed.search.calibration import count_scores
    from esembed.weights.known_items import known_items

    for option, value, limits in (
        ("texts", texts, (FEWEST_DOCUMENTS // 2, MAX_WINDOW // 2)),
        ("documents", documents, (FEWEST_DOCUMENTS, MAX_WINDOW // 2)),
        ("seed", seed, SEED),
    ):
        if problem := not_within(value, limits, whole=True):
            raise OptionsError(problem, option=option)
    state.live.require_whole("counting how random documents score")
    legs = searchable_legs(state.plan)
    if not legs or state.plan.chunk is not None:
        raise QueryError(
            "q.floor needs fields that a text can be searched in, of whole documents"
            + (": this index's are chunks" if legs else ""),
            field="floor",
        )
    await require(state.client, "storing how random documents score", may_change(state.live, settings=False))
    await state.load_statistics()
    drawn = texts_of(await state.searcher.search(at_random(seed), size=documents + texts), state.plan)
    # Two texts of a document: its title or first sentence, and scattered words.
    asking, others = drawn[: texts // 2], drawn[texts // 2 :][:documents]
    items = known_items(asking, count=texts, kinds=("first", "words"), seed=seed)
    if len(others) < FEWEST_DOCUMENTS or len(items) < FEWEST_DOCUMENTS // 2:
        raise QueryError(
            "the index has too few documents, or too short ones, to count how random ones score: "
            f"{len(others)} documents and {len(items)} texts; {FEWEST_DOCUMENTS} and {FEWEST_DOCUMENTS // 2} "
            "are needed",
            field="floor",
        )
    query = q.linear(
        *(leg.replace(name=name) for name, leg in legs.items()),
        normalizer="bound",
        complete=False,
        rank_window_size=len(others),
    )
    ids = [name for name, _ in others]
    answers = await state.searcher.search_many(
        [resolve_text(query, item.query) for item in items],
        filter=q.ids(*ids),
        size=len(ids),
        source=False,
        explain=True,
        fusion="client",
    )
    pairs: list[dict[str, float | None]] = []
    for hits in answers:
        found = {hit.id: hit.contributions for hit in hits}
        for one in ids:
            shares = {share.leg: share for share in found.get(one, ())}
            pairs.append(
                {
                    name: shares[name].contribution if name in shares and shares[name].rank else None
                    for name in legs
                }
            )
    counted = count_scores(pairs, documents=len(ids), texts=len(items))
    stored = state.stored
    await state.store(dataclasses.replace(stored, rest={**stored.rest, FLOOR: counted.to_dict()}))
    return counted


async def draw(state: IndexState, count: int, *, seed: int) -> list[SampledDocument]:
    """*count* documents with a text, drawn at random by the engine, with their stored vectors."""
    from esembed.weights.scorers import SampledDocument

    plan, format = state.plan, dialect_for(state.capabilities).documents
    random = {"function_score": random_score(seed)}
    found: list[SampledDocument] = []
    for start in range(0, count, PAGE_DOCUMENTS):
        size = min(PAGE_DOCUMENTS, count - start)
        body = {
            "query": random,
            "from": start,
            "size": size,
            "_source": format.source_filter(excludes=[HASH_FIELD], vectors=True),
        }
        answer = await state.client.request("POST", f"/{index_path(state.concrete_index)}/_search", body=body)
        hits = answer.body["hits"]["hits"]
        for hit in hits:
            source = hit.get("_source") or {}
            text = plan.searched_text(source)
            if not text:
                continue
            vectors: dict[str, Any] = {}
            for name in plan.dense:
                vectors[name] = format.read_dense(paths.get(source, name))
            for name, sparse in plan.sparse.items():
                stored = format.read_sparse(sparse, paths.get(source, name))
                if isinstance(stored, Mapping):
                    vectors[name] = stored
            found.append(SampledDocument(str(hit["_id"]), text, vectors))
        if len(hits) < size:
            break
    return found


async def learn_after_ingest(
    state: IndexState, options: IngestOptions, report: IngestReport, progress: Progress | None
) -> None:
    """Weigh the legs once the index has something to learn from, and again when it has doubled.

    Adds a notice and the time to *report*. A failure is a notice, too: it never fails an ingest whose
    documents are in.
    """
    if not options.learn_weights or not report.complete or not (report.indexed + report.updated):
        return
    evidence: Any = state.stored.rest.get("evidence") or {}
    earlier = evidence.get("trust") if isinstance(evidence, Mapping) else None
    if state.plan.query is not None and earlier is None:
        return  # the plan's author or a tuning wrote it: nothing that is learned here replaces that
    if len(searchable_legs(state.plan)) < 2 or state.plan.chunk is not None:
        return
    if any(field.endpoint is not None for _, field in state.plan.vector_fields()):
        return  # a leg that can't be scored in this process can't be weighed
    count = await documents.count(state)
    known = earlier.get("documents", 0) if isinstance(earlier, Mapping) else 0
    if count < FEWEST_DOCUMENTS:
        report.warnings.append(
            f"{count} documents are too few to learn the legs' weights from ({FEWEST_DOCUMENTS} are needed): "
            "the default query keeps those it begins with"
        )
        return
    if count < 2 * int(known):
        return
    started = time.monotonic()
    if progress is not None:
        progress.notice(
            "weighing the default query's legs, words against vectors, by pieces of its documents "
            "(it asks no further ones after 20 s; --no-learn-weights leaves it out)"
        )
    try:
        with StepProgress(progress, "weights") as step:

            def asked(done: int, total: int) -> None:
                step.advance(done - step.done, total=total)

            found = await learn(state, options=None, write=True, progress=asked)
    except EsembedError as error:
        line = f"the legs' weights were not learned (esembed eval weights does it later): {error}"
    else:
        if found.query is None:
            line = "; ".join(found.notes) or "there is nothing to weigh"
        else:
            legs = ", ".join(f"{leg.name} {leg.weight:.2f}" for leg in found.legs)
            line = f"{found.conclusion}; default query weighted: {legs} ({found.queries} known items)"
            report.leg_weights = {leg.name: round(leg.weight, 4) for leg in found.legs}
    seconds = time.monotonic() - started
    report.stage_seconds["weights"] = seconds
    report.seconds += seconds
    report.warnings.append(f"{line}, {seconds:.1f} s")
    if progress is not None:
        progress.notice(report.warnings[-1])
