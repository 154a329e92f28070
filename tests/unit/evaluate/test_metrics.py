"""Measures and significance, against values worked out by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from esembed.errors import EsembedError

pytest.importorskip("ir_measures", reason="needs the eval extra")

from esembed.evaluate.metrics import Latency, measure, measure_name, summary
from esembed.evaluate.significance import bootstrap_interval, compare, holm, paired_p_value

QRELS = {"q1": {"a": 1, "b": 2, "z": 0}, "q2": {"c": 1}, "q3": {"d": 0}}


def test_measures_by_hand() -> None:
    run = {"q1": [("z", 3.0), ("b", 2.0), ("a", 1.0)], "q9": [("a", 1.0)]}
    values = measure(
        QRELS, run, ["ndcg@10", "mrr", "map", "success@1", "success@2", "recall@2", "precision@2"]
    )
    ideal = 2 + 1 / math.log2(3)
    assert values["ndcg@10"]["q1"] == pytest.approx((2 / math.log2(3) + 1 / math.log2(4)) / ideal)
    assert values["mrr"]["q1"] == pytest.approx(0.5)
    assert values["map"]["q1"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert [values[m]["q1"] for m in ("success@1", "success@2", "recall@2", "precision@2")] == [
        0,
        1,
        0.5,
        0.5,
    ]
    # q2 is judged and unanswered: 0; q3 has nothing relevant: not in the average; q9 is not judged.
    assert {q: values["map"][q] for q in values["map"]} == {"q1": pytest.approx(7 / 12), "q2": 0.0}
    assert summary(values)["mrr"] == pytest.approx(0.25)


def test_the_order_of_the_run_decides_between_equal_scores() -> None:
    for order in (["a", "z"], ["z", "a"]):
        values = measure({"q": {"a": 1}}, {"q": [(d, 1.0) for d in order]}, ["success@1"])
        assert values["success@1"]["q"] == (order[0] == "a")


def test_no_answers_at_all_and_unknown_names() -> None:
    assert measure(QRELS, {}, ["ndcg@10"]) == {"ndcg@10": {"q1": 0.0, "q2": 0.0}}
    assert measure_name("ndcg@10") == "nDCG@10"
    assert measure_name("recall@100") == "R@100"
    with pytest.raises(EsembedError, match="no measure"):
        measure(QRELS, {}, ["niceness@3"])


def test_latency() -> None:
    assert Latency.of([]) is None
    latency = Latency.of([1.0, 2.0, 3.0, 4.0, 100.0], [1.0, 1.0, 2.0])
    assert latency is not None
    assert (latency.count, latency.p50_ms, latency.max_ms, latency.engine_p50_ms) == (5, 3.0, 100.0, 1.0)


def test_randomisation_is_exact_for_few_queries() -> None:
    # Four equal gains: only ++++ and ---- reach the observed sum, of 16 patterns.
    assert paired_p_value([0, 0, 0, 0], [1, 1, 1, 1]) == pytest.approx(2 / 16)
    assert paired_p_value([1, 2], [1, 2]) == 1.0
    with pytest.raises(EsembedError, match="same queries"):
        paired_p_value([1], [1, 2])


def test_randomisation_agrees_with_the_t_test_and_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    a = rng.random(200)
    b = a + rng.normal(0.02, 0.12, 200)
    ours = paired_p_value(a, b)
    assert paired_p_value(a, b, test="t-test") == pytest.approx(stats.ttest_rel(a, b).pvalue)
    oracle = stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=5000, rng=1
    )
    assert ours == pytest.approx(oracle.pvalue, abs=0.02)


def test_the_randomisation_test_keeps_its_level() -> None:
    rng = np.random.default_rng(0)
    p_values = [paired_p_value(rng.random(30), rng.random(30), resamples=300, seed=i) for i in range(300)]
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(300):
        interval = bootstrap_interval(rng.beta(1, 2, 60), resamples=400, seed=seed)
        covered += interval.low <= 1 / 3 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98
    assert math.isnan(bootstrap_interval([]).mean)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_compare_corrects_over_all_pairs() -> None:
    rng = np.random.default_rng(5)
    base = rng.random(80)
    runs = {"base": base, "same": base.copy(), "better": np.minimum(1, base + rng.random(80) * 0.2)}
    per_query = {name: {f"q{i}": float(v) for i, v in enumerate(values)} for name, values in runs.items()}
    against = {c.b: c for c in compare(per_query, baseline="base")}
    assert against["better"].significant
    assert not against["same"].significant
    assert against["same"].ties == 80
    assert against["better"].difference.low > 0
    assert len(compare(per_query)) == 3
    assert all(c.p_corrected >= c.p_value for c in compare(per_query))
    with pytest.raises(EsembedError, match="different queries"):
        compare({"a": {"q1": 1.0}, "b": {"q2": 1.0}})
    with pytest.raises(EsembedError, match="no configuration"):
        compare(per_query, baseline="nothing")
