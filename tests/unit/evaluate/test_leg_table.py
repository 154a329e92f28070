"""Leg tables: the same fusion and the same nDCG as the reference implementations; tuning's caution."""

from __future__ import annotations

import numpy as np
import pytest

from esembed import query as q
from esembed.errors import EsembedError
from esembed.evaluate.leg_table import FusionConfig, LegTable, untuned
from esembed.evaluate.tuning import TuneOptions, caution, fused_query, split_protocol, tune
from esembed.fusion import FusionNode, LegList, LegRef, fuse
from esembed.plan.default_query import TEXT_LEAST

Run = dict[str, list[tuple[str, float]]]


def collection(
    queries: int, quality: dict[str, float], seed: int = 0
) -> tuple[dict[str, Run], dict[str, dict[str, int]]]:
    """Legs that put the right document first with the given chance, else mostly nowhere."""
    rng = np.random.default_rng(seed)
    runs: dict[str, Run] = {leg: {} for leg in quality}
    qrels: dict[str, dict[str, int]] = {}
    for number in range(queries):
        query = f"q{number}"
        qrels[query] = {"right": 1, "other": int(rng.integers(0, 3))}
        for leg, chance in quality.items():
            documents = [f"d{i}" for i in rng.permutation(30)[:12]]
            place = 0 if rng.random() < chance else int(rng.integers(1, 60))
            documents.insert(place, "right")
            scores = np.sort(rng.gamma(2, 3, 13))[::-1]
            runs[leg][query] = list(zip(documents, map(float, scores), strict=True))[:12]
    return runs, qrels


@pytest.mark.parametrize("kind", ["rrf", "floor", "minmax", "l2", "zscore"])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 2.0)])
def test_the_same_order_and_scores_as_the_reference_fusion(kind: str, weights: tuple[float, float]) -> None:
    runs, qrels = collection(20, {"a": 0.5, "b": 0.3})
    table = LegTable(runs, qrels)
    config = FusionConfig(kind=kind, weights=weights, window=8)  # type: ignore[arg-type]
    node = FusionNode(
        kind="rrf" if kind == "rrf" else "linear",
        children=(LegRef("a", 0), LegRef("b", 1)),
        weights=weights,
        normalizer="none" if kind == "rrf" else kind,  # type: ignore[arg-type]
        window=8,
    )
    for position, query in enumerate(table.queries):
        lists = [
            LegList([d for d, _ in runs[leg][query][:8]], [s for _, s in runs[leg][query][:8]])
            for leg in ("a", "b")
        ]
        expected = fuse(node, lists, explain=False)
        # The reference keeps its window of the fused list, this keeps all of it.
        mine = table.fused(config, position)[: len(expected)]
        assert [d for d, _ in mine] == [f.id for f in expected]
        assert [s for _, s in mine] == pytest.approx([f.score for f in expected])


def test_ndcg_is_that_of_ir_measures() -> None:
    pytest.importorskip("ir_measures", reason="needs the eval extra")
    from esembed.evaluate.metrics import measure

    runs, qrels = collection(40, {"a": 0.5, "b": 0.3}, seed=2)
    table = LegTable(runs, qrels)
    for config in [*untuned(table.legs).values(), FusionConfig(kind="bound", weights=(0.2, 1.0))]:
        expected = measure(qrels, table.run(config), ["ndcg@10"])["ndcg@10"]
        assert table.ndcg(config) == pytest.approx([expected[query] for query in table.queries])


def test_bound_uses_scores_from_outside_of_the_list() -> None:
    runs: dict[str, Run] = {"text": {"q": [("a", 9.0)]}, "dense": {"q": [("b", 0.9), ("c", 0.8)]}}
    config = FusionConfig(kind="bound", weights=(0.1, 1.0))
    qrels = {"q": {"c": 1}}
    assert LegTable(runs, qrels).fused(config, 0)[0][0] == "a"
    completed = {"text": {"q": {"c": 5.0, "never listed": 99.0}}}
    fused = LegTable(runs, qrels, completed=completed).fused(config, 0)
    assert fused == [("c", pytest.approx(1.3)), ("a", pytest.approx(0.9)), ("b", pytest.approx(0.9))]


def test_tuning_drops_a_leg_that_only_hurts() -> None:
    runs, qrels = collection(300, {"good": 0.8, "noise": 0.02})
    tuned = tune(LegTable(runs, qrels))
    assert tuned.config.label(tuned.legs) == "good"
    assert tuned.dropped == ("noise",)
    assert tuned.gain.low > 0


def test_words_keep_the_weight_that_names_need() -> None:
    runs, qrels = collection(300, {"bm25": 0.05, "dense": 0.8})
    table = LegTable(runs, qrels)
    assert tune(table).dropped == ("bm25",)
    for default in (None, FusionConfig(kind="floor", weights=(0.4, 0.6))):
        tuned = tune(table, words="bm25", default=default)
        assert tuned.config != tuned.default
        assert tuned.config.weights[0] == pytest.approx(TEXT_LEAST, abs=0.08)
        assert tuned.config.weights[0] >= TEXT_LEAST
        assert sum(tuned.config.weights) == pytest.approx(1)
        assert tuned.gain.mean > 0
    # A default that somebody gave less stays the measure.
    light = tune(table, words="bm25", default=FusionConfig(kind="floor", weights=(0.0, 1.0)))
    assert light.config.weights[0] < TEXT_LEAST
    raw = tune(table, words="bm25", options=TuneOptions(kinds=("bound",)))
    assert "bm25" not in raw.dropped


def test_tuning_keeps_the_default_on_few_queries() -> None:
    assert caution(50) == caution(5000) == 0.5 < caution(25) < caution(0) == 4.0
    kept = 0
    for seed in range(10):
        runs, qrels = collection(12, {"a": 0.5, "b": 0.5}, seed=seed)
        tuned = tune(LegTable(runs, qrels), options=TuneOptions(steps=9))
        kept += tuned.config == tuned.default
    assert kept >= 6


def test_tuned_on_one_half_holds_on_the_other() -> None:
    runs, qrels = collection(240, {"a": 0.7, "b": 0.35}, seed=4)
    result = split_protocol(LegTable(runs, qrels), splits=12, options=TuneOptions(steps=9))
    assert result.difference.mean > -0.005
    assert result.tuned.mean > result.default


def test_latency_can_be_part_of_the_objective() -> None:
    runs, qrels = collection(200, {"fast": 0.6, "slow": 0.6}, seed=5)
    table = LegTable(runs, qrels)
    assert len(tune(table).config.used) == 2
    dear = TuneOptions(latency_ms={"fast": 5.0, "slow": 900.0}, latency_weight=0.2)
    assert tune(table, options=dear).config.label(table.legs) == "fast"


def test_configurations_become_queries() -> None:
    legs = {"bm25": q.match(name="bm25"), "emb": q.knn("emb", name="emb")}
    bound = fused_query(FusionConfig(kind="bound", weights=(0.05, 2.0)), legs)
    assert bound == q.bool_(
        should=[q.match(name="bm25", boost=0.025), q.knn("emb", name="emb", boost=1.0, k=100)],
        minimum_should_match=1,
    )
    assert fused_query(FusionConfig(kind="rrf", weights=(1.0, 0.5), rank_constant=10), legs) == q.rrf(
        *legs.values(), weights=[1.0, 0.5], rank_constant=10, rank_window_size=100
    )
    assert fused_query(FusionConfig(kind="rrf", weights=(0.0, 1.0)), legs) == legs["emb"]
    with pytest.raises(EsembedError, match="at least one leg"):
        LegTable({}, {"q": {"a": 1}})
