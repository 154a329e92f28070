"""An index's default query fitted to judgements: each leg's settings, the fusion, a last stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from esembed.dialect.default import default_query
from esembed.evaluate.ask import ask, latency, leg_table, plan_legs, store_query
from esembed.evaluate.axes import AxisChoice, bm25_parameters, leg_variants, race, rerank_variants
from esembed.evaluate.dataset import Dataset, Run, load_dataset
from esembed.evaluate.knowing import document_text
from esembed.evaluate.legs import FusionConfig
from esembed.evaluate.tune import Tuned, TuneOptions, fused_query, tune
from esembed.query import Query
from esembed.query.nodes import Bool, Knn, Rrf, Sparse

if TYPE_CHECKING:
    from esembed import Index

__all__ = ["tune_index"]


def tune_index(
    index: Index,
    dataset: Dataset | str,
    *,
    options: TuneOptions | None = None,
    size: int = 100,
    write: bool = True,
    axes: bool = True,
) -> tuple[Tuned, Query]:
    """Fit the default query to judgements and store it in the index's plan, with its evidence.

    First each leg's own settings (field boosts, pruning, num_candidates, oversampling), then the fusion,
    then the index's rerankers as a last stage; BM25's k1 and b are measured where the dataset brings its
    documents, as advice.

    Args:
        write: store it (only when something better than the default was found).
        axes: try settings besides the fusion, too.

    Returns:
        the choice and its evidence, and the query it stands for.
    """
    if not isinstance(dataset, Dataset):
        dataset = load_dataset(dataset)
    options = settings = options or TuneOptions()
    if index.plan.chunk is not None:
        # Legs that find chunks can't be added up inside one request.
        options = settings = replace(options, kinds=tuple(kind for kind in options.kinds if kind != "bound"))
    choices: list[AxisChoice] = []
    legs = plan_legs(index, k=size)

    def answer(query: Query, texts: Mapping[str, str]) -> Run:
        return ask(index, query, texts, max(10, min(size, 50)))[0]

    def costs(variants: Mapping[str, Query]) -> dict[str, float]:
        if not settings.latency_weight:
            return {}
        times = {label: latency(index, query, dataset, 10) for label, query in variants.items()}
        return {k: settings.latency_weight * t.p50_ms / 100 for k, t in times.items() if t is not None}

    if axes and dataset.queries:
        prune = index.capabilities.kind == "elasticsearch"
        for name in list(legs):
            for axis, variants in leg_variants(index.plan, name, legs[name], prune=prune).items():
                # A later axis of the leg varies what the earlier one chose.
                asked = {label: _like(query, legs[name]) for label, query in variants.items()}
                choice, legs[name] = race(
                    axis, asked, answer, dataset.queries, dataset.qrels, costs=costs(asked), seed=options.seed
                )
                choices.append(choice)
    table, legs = leg_table(index, dataset, size=size, legs=legs)
    if options.latency_weight and not options.latency_ms:
        timed = {name: latency(index, query, dataset, 20) for name, query in legs.items()}
        options = replace(options, latency_ms={name: t.p50_ms for name, t in timed.items() if t is not None})
    start = _config_of(default_query(index.plan), legs, size)
    tuned = tune(table, default=start, options=options)
    other_legs = any(choice.chosen != choice.default for choice in choices)
    chosen = tuned.config != tuned.default
    query = default_query(index.plan)
    if chosen or (other_legs and start is not None):
        query = fused_query(tuned.config, legs)
        chosen = True
    if axes and index.rerankers:
        stages = rerank_variants(index.plan, query, list(index.rerankers))
        choice, query = race(
            "reranker", stages, answer, dataset.queries, dataset.qrels, costs=costs(stages), seed=options.seed
        )
        choices.append(choice)
        chosen = chosen or choice.chosen != choice.default
    if axes and index.plan.text and dataset.corpus is not None:
        texts = _corpus_texts(index, dataset)
        if texts:
            choices.append(bm25_parameters(index.plan, texts, dataset.queries, dataset.qrels))
    tuned = replace(tuned, axes=tuple(choices))
    if write and chosen:
        store_query(index, query, {"tuned": tuned.to_dict()})
    return tuned, query


MAX_BM25_DOCUMENTS = 50_000
"""Beyond this many documents BM25's parameters are not tried in memory."""


def _corpus_texts(index: Index, dataset: Dataset) -> dict[str, str]:
    texts: dict[str, str] = {}
    for document in dataset.documents():
        values = document.source.values()
        text = document_text(index.plan, document.source) or "\n".join(
            v for v in values if isinstance(v, str)
        )
        texts[str(document.id)] = text
        if len(texts) > MAX_BM25_DOCUMENTS:
            return {}
    return texts


def _like(variant: Query, leg: Query) -> Query:
    """What an axis changed, on a leg that an earlier axis changed."""
    if isinstance(variant, Knn) and isinstance(leg, Knn):
        return leg.replace(  # type: ignore[no-any-return]
            num_candidates=variant.num_candidates or leg.num_candidates,
            oversample=variant.oversample or leg.oversample,
        )
    return variant


def _config_of(query: Query, legs: Mapping[str, Query], size: int) -> FusionConfig | None:
    """The default query as a point of the search space, where it is one."""
    names = list(legs)

    def place(parts: Sequence[Query], weights: Sequence[float]) -> tuple[float, ...] | None:
        found = dict.fromkeys(names, 0.0)
        for part, weight in zip(parts, weights, strict=True):
            name = getattr(part, "field", None) if isinstance(part, (Knn, Sparse)) else "bm25"
            if name not in found:
                return None
            found[name] = weight
        return tuple(found.values()) if any(found.values()) else None

    if isinstance(query, Rrf):
        weights = place(query.legs, query.weights or (1.0,) * len(query.legs))
        if weights is not None:
            return FusionConfig(kind="rrf", weights=weights, rank_constant=query.rank_constant, window=size)
    if isinstance(query, Bool) and query.should and not query.must:
        weights = place(query.should, [getattr(part, "boost", 1.0) for part in query.should])
        if weights is not None:
            return FusionConfig(kind="bound", weights=weights, window=size)
    return None
