"""What tuning tries besides fusion: each leg's own settings, and a cross-encoder as the last stage.

Every variant is asked of the live index, so early stopping counts: queries come in blocks, and a variant
that is clearly behind (its mean difference to the leader plus two standard errors is below zero) is asked
no further. The setting in use is never stopped, and a variant must beat it as any candidate must
(:func:`esembed.evaluate.tuning.caution`), and in cross-validation, too. See Maron and Moore, "Hoeffding
races", 1994.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from esembed import query as q
from esembed.evaluate.datasets import Qrels, Run
from esembed.evaluate.metrics import measure
from esembed.evaluate.significance import Interval, bootstrap_interval
from esembed.evaluate.tuning import FEWEST_QUERIES, NEXT_VERSION, caution
from esembed.plan import IndexPlan
from esembed.query import Query
from esembed.query.nodes import Knn, Match, MultiMatch, Sparse
from esembed.weights.scorers import LexicalScorer

__all__ = [
    "ParameterChoice",
    "bm25_parameters",
    "choose",
    "compare_candidates",
    "leg_variants",
    "rerank_variants",
]

Floats = npt.NDArray[np.float64]
BLOCK = 25
"""Queries asked between two looks at who is behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterChoice:
    """One setting that was tried.

    Attributes:
        parameter: what was varied (``bm25: field boosts``).
        chosen, default: the variant taken, and the one in use before; equal when nothing beat it.
        gain: nDCG@10 of choosing so minus the default's, cross-validated: each query by what was chosen
            on the others; 95 % interval over queries.
        closest: the best variant that isn't the default, and *difference* its nDCG@10 minus the default's
            on all of the queries (optimistic: it was picked there).
        queries: how many those are.
        tried: how many variants.
        stopped: how many of them were stopped early.
    """

    parameter: str
    chosen: str
    default: str
    gain: Interval
    closest: str
    difference: Interval
    queries: int
    tried: int
    stopped: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        gain, difference = (
            [round(x, 4) for x in (interval.mean, interval.low, interval.high)]
            for interval in (self.gain, self.difference)
        )
        return {
            "parameter": self.parameter,
            "chosen": self.chosen,
            "default": self.default,
            "cross_validated_gain": gain,
            "closest": self.closest,
            "difference": difference,
            "queries": self.queries,
            "tried": self.tried,
            "stopped_early": self.stopped,
        }


def leg_variants(
    plan: IndexPlan, name: str, leg: Query, *, prune: bool = False
) -> dict[str, dict[str, Query]]:
    """Axis → label → the leg with another setting; the first is the leg as it is.

    Args:
        prune: the engine can prune sparse query terms by how common they are.
    """
    variants_of: dict[str, dict[str, Query]] = {}
    if isinstance(leg, (Match, MultiMatch)) and len(plan.text) > 1 and not leg.fields:
        boosts = {field: spec.boost for field, spec in plan.text.items()}
        found: dict[str, Query] = {"as planned": leg}
        for field, boost in boosts.items():
            for factor in (0.0, 0.5, 2.0, 4.0):
                if factor == 0.0 and len(boosts) < 2:
                    continue
                changed = {**boosts, field: boost * factor}
                fields = [f"{f}^{b:g}" for f, b in changed.items() if b > 0]
                found[" ".join(fields)] = leg.replace(fields=tuple(fields))
        variants_of[f"{name}: field boosts"] = found
    if isinstance(leg, Knn) and not leg.exact:
        spec = plan.dense.get(leg.field)
        k = leg.k or 100
        if spec is not None and not spec.quantization.endswith("flat"):
            found = {"as planned": leg}
            for factor in (2, 4):
                found[f"num_candidates {k * factor}"] = leg.replace(num_candidates=k * factor)
            variants_of[f"{name}: num_candidates"] = found
            if spec.quantization not in ("hnsw", "none"):
                found = {"as planned": leg}
                for oversample in (2.0, 4.0):
                    found[f"oversample {oversample:g}"] = leg.replace(oversample=oversample)
                variants_of[f"{name}: oversampling"] = found
    if isinstance(leg, Sparse):
        found = {"as planned": leg}
        for terms in (8, 16, 32, 64):
            found[f"the {terms} heaviest terms"] = leg.replace(max_terms=terms)
        if prune:
            found["pruned by the engine"] = leg.replace(prune=True)
        variants_of[f"{name}: pruning"] = found
    return variants_of


def rerank_variants(
    plan: IndexPlan, query: Query, rerankers: Sequence[str], *, windows: Sequence[int] = (10, 25, 50)
) -> dict[str, Query]:
    """Label → the query with a cross-encoder over its first hits; the first is the query without one."""
    fields = list(plan.text)
    found: dict[str, Query] = {"none": query}
    for reranker in rerankers if fields else ():
        for window in windows:
            found[f"{reranker}, the first {window}"] = q.rescore(
                query, reranker=reranker, fields=fields, window_size=window
            )
    return found


def compare_candidates(
    parameter: str,
    variants: Mapping[str, Query],
    ask: Callable[[Query, Mapping[str, str]], Run],
    queries: Mapping[str, str],
    qrels: Qrels,
    *,
    costs: Mapping[str, float] | None = None,
    seed: int = 0,
) -> tuple[ParameterChoice, Query]:
    """Measure *variants* block by block and choose one.

    Args:
        variants: label → query; the first is the one in use.
        ask: runs a query (its text open) for some queries.
        costs: label → nDCG that its latency is worth, when latency counts.
        seed: of the queries' order.

    Returns:
        the choice, and its query.
    """
    labels = list(variants)
    default = labels[0]
    costs = costs or {}
    order = [list(queries)[i] for i in np.random.default_rng(seed).permutation(len(queries))]
    values: dict[str, list[float]] = {label: [] for label in labels}
    alive = list(labels)
    for start in range(0, len(order), BLOCK):
        block = {query: queries[query] for query in order[start : start + BLOCK]}
        judged = {query: qrels[query] for query in block}
        for label in alive:
            found = measure(judged, ask(variants[label], block), ["ndcg@10"])["ndcg@10"]
            values[label] += [found[query] for query in block]
        if start + BLOCK >= 2 * BLOCK:
            leader = max(alive, key=lambda label: float(np.mean(values[label])) - costs.get(label, 0.0))
            alive = [
                label for label in alive if label in (default, leader) or not _behind(values, label, leader)
            ]
    complete = {label: np.array(values[label]) for label in alive}
    choice = choose(parameter, complete, default, costs=costs, tried=len(labels), seed=seed)
    return choice, variants[choice.chosen]


def choose(
    parameter: str,
    values: Mapping[str, Floats],
    default: str,
    *,
    costs: Mapping[str, float] | None = None,
    tried: int | None = None,
    folds: int = 5,
    seed: int = 0,
) -> ParameterChoice:
    """One of the variants, by its mean minus :func:`~esembed.evaluate.tuning.caution` standard errors, if the
    same choosing also gains on queries that it didn't see.

    Args:
        values: label → nDCG@10 of each query, shape (queries,), alike for all; *default* among them.
        costs: label → nDCG that its latency is worth.
        tried: how many there were, with those that were stopped early.
    """
    costs = costs or {}
    base = values[default]
    count = len(base)
    others = {label: found - base for label, found in values.items() if label != default}
    dearer = {label: costs.get(label, 0.0) - costs.get(default, 0.0) for label in values}

    def pick(subset: npt.NDArray[np.int64]) -> str:
        best, best_value = default, 1e-12
        if len(subset) < FEWEST_QUERIES:
            return best
        multiple = caution(len(subset)) / math.sqrt(len(subset))
        for label, difference in others.items():
            part = difference[subset]
            value = float(part.mean()) - multiple * float(part.std()) - dearer[label]
            if value > best_value:
                best, best_value = label, value
        return best

    everything = np.arange(count)
    chosen = pick(everything)
    gains, cost = np.zeros(count), 0.0
    if count >= FEWEST_QUERIES:
        for fold in np.array_split(np.random.default_rng(seed).permutation(count), folds):
            picked = pick(np.setdiff1d(everything, fold))
            gains[fold] = values[picked][fold] - base[fold]
            cost += dearer[picked] * len(fold) / count
    if float(gains.mean()) - cost <= 0:
        chosen = default
    closest = chosen
    if chosen == default and others:
        closest = max(others, key=lambda label: float(others[label].mean()) if count else 0.0)
    return ParameterChoice(
        parameter=parameter,
        chosen=chosen,
        default=default,
        gain=bootstrap_interval(gains, seed=seed),
        closest=closest,
        difference=bootstrap_interval(values[closest] - base, seed=seed),
        queries=count,
        tried=len(values) if tried is None else tried,
        stopped=0 if tried is None else tried - len(values),
    )


def _behind(values: Mapping[str, Sequence[float]], label: str, leader: str) -> bool:
    difference = np.array(values[label]) - np.array(values[leader])
    error = float(difference.std()) / math.sqrt(len(difference))
    return float(difference.mean()) + 2 * error < 0


BM25_GRID = tuple((k1, b) for k1 in (0.6, 0.9, 1.2, 1.6, 2.0) for b in (0.2, 0.4, 0.6, 0.75, 0.9))


def bm25_parameters(
    scorer: LexicalScorer,
    own: tuple[float, float],
    texts: Mapping[str, str],
    queries: Mapping[str, str],
    qrels: Qrels,
    *,
    grid: Sequence[tuple[float, float]] = BM25_GRID,
    seed: int = 0,
) -> tuple[ParameterChoice, tuple[float, float]]:
    """BM25's k1 and b, measured in memory over the documents themselves: an engine fixes both when an
    index is created, so a gain is for the next index, not a setting of the query.

    Args:
        scorer: cuts words as the text field's analyzer does.
        own: k1 and b in use.
        texts: document id → its text.
        grid: further pairs to try.

    Returns:
        the choice by nDCG@10 of the text leg alone, and its k1 and b.
    """
    pairs = {f"k1 {k1:g}, b {b:g}": (k1, b) for k1, b in dict.fromkeys([own, *grid])}
    ids, asked = list(texts), list(queries.values())
    scorer.fit_texts(list(texts.values()))
    values: dict[str, Floats] = {}
    for label, (k1, b) in pairs.items():
        run: dict[str, list[tuple[str, float]]] = {}
        for start in range(0, len(asked), 64):
            scores = scorer.scores(asked[start : start + 64], k1=k1, b=b)
            for query, row in zip(list(queries)[start : start + 64], scores, strict=True):
                top = np.argpartition(-row, 10)[:10] if len(row) > 10 else np.arange(len(row))
                top = top[np.lexsort((top, -row[top]))]
                run[query] = [(ids[i], float(row[i])) for i in top if row[i] > 0]
        found = measure(qrels, run, ["ndcg@10"])["ndcg@10"]
        values[label] = np.array([found[query] for query in queries])
    choice = choose(NEXT_VERSION, values, next(iter(pairs)), seed=seed)
    return choice, pairs[choice.chosen]
