"""An index's default query fitted to judgments: each leg's settings, the fusion, a last stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from esembed.dialect.mapping import KEYWORD_LIMIT
from esembed.errors import EsembedError
from esembed.evaluate.datasets import Dataset, Run, load_dataset
from esembed.evaluate.evaluation import judged_share, judged_warning
from esembed.evaluate.leg_parameters import (
    ParameterChoice,
    bm25_parameters,
    choose,
    compare_candidates,
    leg_variants,
    rerank_variants,
)
from esembed.evaluate.leg_table import FusionConfig
from esembed.evaluate.metrics import measure
from esembed.evaluate.significance import bootstrap_interval
from esembed.evaluate.target import (
    SearchTarget,
    TunableTarget,
    at_random,
    latency,
    leg_table,
    plan_legs,
    run_queries,
)
from esembed.evaluate.tuning import QUERY_IN_USE, RERANKER, Tuned, TuneOptions, fused_query, tune
from esembed.plan import TextField
from esembed.plan.default_query import default_query, text_leg
from esembed.plan.paths import get as get_path
from esembed.query import Query
from esembed.query.nodes import Bool, Knn, Linear, Match, MultiMatch, Rescore, Rrf, Sparse
from esembed.query.tree import resolve_text
from esembed.weights.query import lexical_scorer

__all__ = ["tune_index"]


def tune_index(
    index: TunableTarget,
    dataset: Dataset | str,
    *,
    options: TuneOptions | None = None,
    size: int = 100,
    write: bool = True,
    tune_legs: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Tuned:
    """Fit the default query to judgments and store it in the index's plan, with its evidence.

    First each leg's own settings (field boosts, pruning, num_candidates, oversampling), then the fusion,
    then the index's rerankers as a last stage; BM25's k1 and b are measured where the dataset brings its
    documents, for the next version of the index (:meth:`~esembed.evaluate.tuning.Tuned.next_plan`).

    Args:
        write: store it (only when something better than the default was found).
        tune_legs: try settings besides the fusion, too.
        progress: told what is being done, one line each.

    Returns:
        the choice with its evidence, and the query it stands for (``query``).

    Raises:
        EsembedError: no judged queries; the default query's reranker wasn't given to the index.
    """
    if not isinstance(dataset, Dataset):
        dataset = load_dataset(dataset)
    if not dataset.queries:
        listed = "; ".join(problem.text for problem in dataset.problems)
        raise EsembedError(f"{dataset.name} has no query with a relevant document. {listed}")
    tell = progress or (lambda line: None)
    options = settings = options or TuneOptions()
    if index.plan.chunk is not None:
        # Legs that find chunks can't be added up inside one request.
        options = settings = replace(options, kinds=tuple(kind for kind in options.kinds if kind != "bound"))
    choices: list[ParameterChoice] = []
    legs = plan_legs(index, k=size)
    before = _without_reranker(index, default_query(index.plan))
    tell(f"{len(dataset.queries)} judged queries, legs: {', '.join(legs)}")

    def answer(query: Query, texts: Mapping[str, str]) -> Run:
        return run_queries(index, query, texts, max(10, min(size, 50)))[0]

    def costs(variants: Mapping[str, Query]) -> dict[str, float]:
        if not settings.latency_weight:
            return {}
        times = {label: latency(index, query, dataset, 10) for label, query in variants.items()}
        return {k: settings.latency_weight * t.p50_ms / 100 for k, t in times.items() if t is not None}

    def compared(parameter: str, variants: Mapping[str, Query]) -> Query:
        tell(f"{parameter}: {len(variants)} variants are compared")
        choice, query = compare_candidates(
            parameter,
            variants,
            answer,
            dataset.queries,
            dataset.qrels,
            costs=costs(variants),
            seed=settings.seed,
        )
        choices.append(choice)
        return query

    if tune_legs:
        prune = index.capabilities.sparse_pruning
        for name in list(legs):
            for parameter, variants in leg_variants(index.plan, name, legs[name], prune=prune).items():
                # A later parameter of the leg varies what the earlier one chose.
                legs[name] = compared(
                    parameter, {k: _like(query, legs[name]) for k, query in variants.items()}
                )
    tell(f"each leg's first {size} for every query, and what they score the others'")
    table, legs = leg_table(index, dataset, size=size, legs=legs)
    if options.latency_weight and not options.latency_ms:
        timed = {name: latency(index, query, dataset, 20) for name, query in legs.items()}
        options = replace(options, latency_ms={name: t.p50_ms for name, t in timed.items() if t is not None})
    start = _config_of(before, legs, size)
    tell("choosing the fusion and its weights, cross-validated")
    words = text_leg(index.plan)
    tuned = tune(table, default=start, options=options, words=words if words in legs else None)
    query, own = before, None  # own: what a query that is no plain fusion of the legs answered
    if tuned.config != tuned.default or any(choice.chosen != choice.default for choice in choices):
        query = fused_query(tuned.config, legs)
    if start is None:
        # No point of the search space: what was found must beat the query itself.
        tell("the query in use against what was found")
        found = {"as it is": before, "fitted": fused_query(tuned.config, legs)}
        runs = {label: answer(one, dataset.queries) for label, one in found.items()}
        values = {label: _ndcg(run, dataset) for label, run in runs.items()}
        choices.append(choose(QUERY_IN_USE, values, "as it is", costs=costs(found), seed=options.seed))
        query, own = found[choices[-1].chosen], runs["as it is"]
        # What the report says is in use is this query, not the fusion that tuning started from.
        tuned = replace(
            tuned,
            baseline=bootstrap_interval(values["as it is"], seed=options.seed),
            score=bootstrap_interval(values[choices[-1].chosen], seed=options.seed),
            gain=choices[-1].gain,
        )
        if query is before:
            fitted = tuned.config.label(tuned.legs)
            tuned = _kept(tuned, f"the query in use stays: {fitted} did not beat it by enough")
            choices = [_as_it_was(choice) for choice in choices]
    if tune_legs and index.rerankers:
        query = compared(RERANKER, rerank_variants(index.plan, query, list(index.rerankers)))
    if query != before and (exact := _exact_names(index)):
        tell(f"{len(exact)} exact names, with the query in use and what was found")
        finds = {"in use": _first(index, before, exact), "chosen": _first(index, query, exact)}
        tuned = replace(tuned, names={"asked": len(exact), **finds})
        if finds["chosen"] < finds["in use"]:
            query = before
            tuned = _kept(tuned, "the query in use stays: what was fitted loses exact names")
            choices = [_as_it_was(choice) for choice in choices]
    judged = {
        "in use": judged_share(table.run(tuned.default) if own is None else own, dataset.qrels),
    }
    judged["chosen"] = judged["in use"]
    if tuned.config != tuned.default:
        judged["chosen"] = judged_share(table.run(tuned.config), dataset.qrels)
    judgments = sum(map(len, dataset.qrels.values())) / max(1, len(dataset.qrels))
    tuned = replace(
        tuned,
        parameters=tuple(choices),
        judged=judged,
        warning=judged_warning({f"the fusion {name}": share for name, share in judged.items()}, judgments),
    )
    if tune_legs and index.plan.text and dataset.corpus is not None:
        texts = _corpus_texts(index, dataset)
        if texts:
            tell(f"BM25's k1 and b over {len(texts)} documents, in memory")
            tuned = _with_bm25(tuned, index, texts, dataset)
    if write:
        if query != default_query(index.plan):
            tell("storing the query and its evidence")
            index.store_query(query, {"tuned": tuned.to_dict()})
        elif tuned.similarity:
            earlier: Any = index.stored.rest.get("evidence") or {}
            index.store_query(index.plan.query, {**earlier, "similarity": tuned.to_dict()["similarity"]})
    return replace(tuned, query=query)


def _kept(tuned: Tuned, reason: str) -> Tuned:
    """The report of a search whose finds are not taken."""
    return replace(tuned, config=tuned.default, score=tuned.baseline, dropped=(), reason=reason)


def _as_it_was(choice: ParameterChoice) -> ParameterChoice:
    return replace(choice, chosen=choice.default)


NAMES = 200
"""Exact names that are searched for, at most: what finds one in a hundred fewer is seen."""


def _exact_names(index: SearchTarget) -> list[tuple[str, str]]:
    """Fields that hold names, each with a document's, drawn at random; each name once."""
    fields = [name for name, spec in index.plan.text.items() if spec.keyword]
    if not fields:
        return []
    found: dict[str, tuple[str, str]] = {}
    for hit in index.search(at_random(0), size=NAMES):
        for field in fields:
            value = get_path(hit.source, field)
            if isinstance(value, str) and value.strip() and len(value) <= KEYWORD_LIMIT:
                found.setdefault(value.strip().casefold(), (field, value))
    return list(found.values())[:NAMES]


def _first(index: SearchTarget, query: Query, exact: Sequence[tuple[str, str]]) -> int:
    """How many names find a document of that name first."""
    answers = index.search_many([resolve_text(query, name) for _, name in exact], size=1)
    return sum(
        str(get_path(hits[0].source, field)).strip().casefold() == name.strip().casefold()
        for (field, name), hits in zip(exact, answers, strict=True)
        if hits
    )


def _without_reranker(index: SearchTarget, query: Query) -> Query:
    """The query below a cross-encoder, which has to win its place again."""
    if not isinstance(query, Rescore) or query.reranker is None:
        return query
    if query.reranker not in index.rerankers:
        raise EsembedError(
            f"the default query is rescored by {query.reranker!r}, which this index wasn't given: open it "
            f"with rerankers={{{query.reranker!r}: CrossEncoder(…)}} (--cross-encoder {query.reranker}=MODEL)"
        )
    return query.query


def _ndcg(run: Run, dataset: Dataset) -> Any:
    found = measure(dataset.qrels, run, ["ndcg@10"])["ndcg@10"]
    return np.array([found[query] for query in dataset.queries])


def _with_bm25(tuned: Tuned, index: SearchTarget, texts: Mapping[str, str], dataset: Dataset) -> Tuned:
    """BM25's k1 and b beside the other settings, and what follows for the text fields."""
    first = next(iter(index.plan.text.values()))
    own = (1.2 if first.k1 is None else first.k1, 0.75 if first.b is None else first.b)
    choice, (k1, b) = bm25_parameters(lexical_scorer(first), own, texts, dataset.queries, dataset.qrels)
    similarity = {}
    if (k1, b) != own:
        similarity = {name: {"k1": k1, "b": b} for name in _same_words(index.plan.text, first)}
    return replace(tuned, parameters=(*tuned.parameters, choice), similarity=similarity)


def _same_words(fields: Mapping[str, TextField], first: TextField) -> list[str]:
    """The fields that are scored like the first one: they were measured together, as one text."""
    key = (first.analyzer, first.k1, first.b)
    return [name for name, spec in fields.items() if (spec.analyzer, spec.k1, spec.b) == key]


MAX_BM25_DOCUMENTS = 50_000
"""Beyond this many documents BM25's parameters are not tried in memory."""


def _corpus_texts(index: SearchTarget, dataset: Dataset) -> dict[str, str]:
    texts: dict[str, str] = {}
    for document in dataset.documents():
        values = document.source.values()
        text = index.plan.searched_text(document.source) or "\n".join(v for v in values if isinstance(v, str))
        texts[str(document.id)] = text
        if len(texts) > MAX_BM25_DOCUMENTS:
            return {}
    return texts


def _like(variant: Query, leg: Query) -> Query:
    """What an parameter changed, on a leg that an earlier parameter changed."""
    if isinstance(variant, Knn) and isinstance(leg, Knn):
        return leg.replace(
            num_candidates=variant.num_candidates or leg.num_candidates,
            oversample=variant.oversample or leg.oversample,
        )
    return variant


def _config_of(query: Query, legs: Mapping[str, Query], size: int) -> FusionConfig | None:
    """The default query as a point of the search space, where it is one: legs as the plan has them."""
    names = list(legs)

    def place(parts: Sequence[Query], weights: Sequence[float]) -> tuple[float, ...] | None:
        found = dict.fromkeys(names, 0.0)
        for part, weight in zip(parts, weights, strict=True):
            name = part.field if isinstance(part, (Knn, Sparse)) else "bm25"
            if name not in found or _plain(part) != _plain(legs[name]):
                return None
            found[name] = weight
        return tuple(found.values()) if any(found.values()) else None

    if isinstance(query, (Knn, Sparse, Match, MultiMatch)):
        weights = place((query,), (1.0,))
        if weights is not None:
            return FusionConfig(kind="bound", weights=weights)
    if isinstance(query, Rrf) and query.filter is None:
        weights = place(query.legs, query.weights or (1.0,) * len(query.legs))
        if weights is not None:
            return FusionConfig(kind="rrf", weights=weights, rank_constant=query.rank_constant, window=size)
    if (
        isinstance(query, Linear)
        and query.filter is None
        and query.normalizer in ("floor", "minmax", "zscore", "l2")
    ):
        weights = place(query.legs, query.weights or (1.0,) * len(query.legs))
        if weights is not None:
            return FusionConfig(kind=query.normalizer, weights=weights, window=size)
    if isinstance(query, Bool) and query.should and not (query.must or query.filter or query.must_not):
        weights = place(query.should, [getattr(part, "boost", 1.0) for part in query.should])
        if weights is not None:
            return FusionConfig(kind="bound", weights=weights, window=size)
    return None


def _plain(leg: Query) -> Query | None:
    """A leg without its weight and without what only changes how far down it looks."""
    if isinstance(leg, Knn):
        return leg.replace(boost=1.0, name=None, k=None, num_candidates=None, oversample=None)
    if isinstance(leg, Match):
        return leg.replace(boost=1.0, name=None, damp_words=None)
    return leg.replace(boost=1.0, name=None) if isinstance(leg, (Sparse, MultiMatch)) else None
