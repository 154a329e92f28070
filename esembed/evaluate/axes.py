"""What tuning tries besides fusion: each leg's own settings, and a cross-encoder as the last stage.

Every variant is asked of the live index, so early stopping counts: queries come in blocks, and a variant
that is clearly behind (its mean difference to the leader plus two standard errors is below zero) is asked
no further. The setting in use is never stopped, and a variant must beat it as any candidate must
(:func:`esembed.evaluate.tune.caution`). See Maron and Moore, "Hoeffding races", 1994.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from esembed import query as q
from esembed.encode.wordsplit import ENGLISH_STOP_WORDS
from esembed.evaluate.dataset import Qrels, Run
from esembed.evaluate.metrics import measure
from esembed.evaluate.significance import Interval, bootstrap_interval
from esembed.evaluate.trust import LexicalScorer
from esembed.evaluate.tune import FEWEST_QUERIES, caution
from esembed.plan import IndexPlan
from esembed.query import Query
from esembed.query.nodes import Knn, Match, Sparse

__all__ = ["AxisChoice", "bm25_parameters", "leg_variants", "race", "rerank_variants"]

Floats = npt.NDArray[np.float64]
BLOCK = 25
"""Queries asked between two looks at who is behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisChoice:
    """One setting that was tried.

    Attributes:
        axis: what was varied (``bm25: field boosts``).
        chosen, default: the variant taken, and the one in use before; equal when nothing beat it.
        gain: nDCG@10 of the best variant minus the default's, over the queries both answered.
        queries: how many those are.
        tried: how many variants.
        stopped: how many of them were stopped early.
    """

    axis: str
    chosen: str
    default: str
    gain: Interval
    queries: int
    tried: int
    stopped: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        gain = [round(x, 4) for x in (self.gain.mean, self.gain.low, self.gain.high)]
        return {
            "axis": self.axis,
            "chosen": self.chosen,
            "default": self.default,
            "gain": gain,
            "queries": self.queries,
            "tried": self.tried,
            "stopped_early": self.stopped,
        }


def leg_variants(
    plan: IndexPlan, name: str, leg: Query, *, prune: bool = False
) -> dict[str, dict[str, Query]]:
    """Axis → label → the leg with another setting; the first is the leg as it is.

    Args:
        prune: the engine can prune sparse query terms by how common they are (Elasticsearch).
    """
    axes: dict[str, dict[str, Query]] = {}
    if isinstance(leg, Match) and len(plan.text) > 1 and not leg.fields:
        boosts = {field: part.boost for field, part in plan.text.items()}
        found: dict[str, Query] = {"as planned": leg}
        for field, boost in boosts.items():
            for factor in (0.0, 0.5, 2.0, 4.0):
                if factor == 0.0 and len(boosts) < 2:
                    continue
                changed = {**boosts, field: boost * factor}
                fields = [f"{f}^{b:g}" for f, b in changed.items() if b > 0]
                found[" ".join(fields)] = leg.replace(fields=tuple(fields))
        axes[f"{name}: field boosts"] = found
    if isinstance(leg, Knn):
        part = plan.dense.get(leg.field)
        k = leg.k or 100
        if part is not None and not part.quantization.endswith("flat"):
            found = {"as planned": leg}
            for factor in (2, 4):
                found[f"num_candidates {k * factor}"] = leg.replace(num_candidates=k * factor)
            axes[f"{name}: num_candidates"] = found
            if part.quantization not in ("hnsw", "none"):
                found = {"as planned": leg}
                for oversample in (2.0, 4.0):
                    found[f"oversample {oversample:g}"] = leg.replace(oversample=oversample)
                axes[f"{name}: oversampling"] = found
    if isinstance(leg, Sparse):
        found = {"as planned": leg}
        for terms in (8, 16, 32, 64):
            found[f"the {terms} heaviest terms"] = leg.replace(max_terms=terms)
        if prune:
            found["pruned by the engine"] = leg.replace(prune=True)
        axes[f"{name}: pruning"] = found
    return axes


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


def race(
    axis: str,
    variants: Mapping[str, Query],
    ask: Callable[[Query, Mapping[str, str]], Run],
    queries: Mapping[str, str],
    qrels: Qrels,
    *,
    costs: Mapping[str, float] | None = None,
    seed: int = 0,
) -> tuple[AxisChoice, Query]:
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
    base = np.array(values[default])
    multiple = caution(len(base)) / math.sqrt(max(1, len(base)))
    best, best_value = default, 0.0
    shown, gain = default, bootstrap_interval(np.zeros(len(base)), seed=seed)
    for label in alive if len(base) >= FEWEST_QUERIES else ():
        if label == default:
            continue
        difference = np.array(values[label]) - base
        value = float(difference.mean()) - multiple * float(difference.std())
        value -= costs.get(label, 0.0) - costs.get(default, 0.0)
        if shown == default or float(difference.mean()) > gain.mean:
            shown, gain = label, bootstrap_interval(difference, seed=seed)
        if value > best_value + 1e-12:
            best, best_value = label, value
    if best != default:
        gain = bootstrap_interval(np.array(values[best]) - base, seed=seed)
    choice = AxisChoice(
        axis=axis,
        chosen=best,
        default=default,
        gain=gain,
        queries=len(base),
        tried=len(labels),
        stopped=len(labels) - len(alive),
    )
    return choice, variants[best]


def _behind(values: Mapping[str, Sequence[float]], label: str, leader: str) -> bool:
    difference = np.array(values[label]) - np.array(values[leader])
    error = float(difference.std()) / math.sqrt(len(difference))
    return float(difference.mean()) + 2 * error < 0


def bm25_parameters(
    plan: IndexPlan,
    texts: Mapping[str, str],
    queries: Mapping[str, str],
    qrels: Qrels,
    *,
    grid: Sequence[tuple[float, float]] = ((0.9, 0.4), (1.2, 0.75), (1.6, 0.75), (1.2, 0.4), (0.6, 0.3)),
) -> AxisChoice:
    """BM25's k1 and b, measured in memory over the documents themselves: an engine fixes both when an
    index is created, so a gain is an advice to migrate, not a setting of the query.

    Args:
        texts: document id → its text.
        grid: pairs to try; the plan's own come first.
    """
    part = next(iter(plan.text.values()))
    english = part.analyzer == "english"
    own = (1.2 if part.k1 is None else part.k1, 0.75 if part.b is None else part.b)
    pairs = list(dict.fromkeys([own, *grid]))
    ids, per_pair = list(texts), {}
    for k1, b in pairs:
        scorer = LexicalScorer(
            language="english" if english else "none",
            k1=k1,
            b=b,
            stop_words=ENGLISH_STOP_WORDS if english else (),
        )
        scorer.fit(list(texts.values()))
        run: dict[str, list[tuple[str, float]]] = {}
        for query, row in zip(queries, scorer.scores(list(queries.values())), strict=True):
            top = np.argsort(-row, kind="stable")[:10]
            run[query] = [(ids[i], float(row[i])) for i in top if row[i] > 0]
        per_pair[k1, b] = measure(qrels, run, ["ndcg@10"])["ndcg@10"]
    base = np.array([per_pair[own][query] for query in queries])
    multiple = caution(len(base)) / math.sqrt(max(1, len(base)))
    best, best_value, gain = own, 0.0, bootstrap_interval(np.zeros(len(base)))
    for pair in pairs[1:]:
        difference: Floats = np.array([per_pair[pair][query] for query in queries]) - base
        value = float(difference.mean()) - multiple * float(difference.std())
        if value > best_value + 1e-12:
            best, best_value, gain = pair, value, bootstrap_interval(difference)
    return AxisChoice(
        axis="bm25: k1 and b (needs a new index)",
        chosen=f"k1 {best[0]:g}, b {best[1]:g}",
        default=f"k1 {own[0]:g}, b {own[1]:g}",
        gain=gain,
        queries=len(base),
        tried=len(pairs),
        stopped=0,
    )
