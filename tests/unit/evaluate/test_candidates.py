"""The rule that follows from recall measured over numbers of candidates, and what queries are told by it."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import query as q
from esembed import to_body
from esembed.capabilities import profile
from esembed.errors import OptionsError, PlanError, QueryError, UnsupportedFeatureError
from esembed.evaluate.candidates import CandidateOptions, CandidateTrial, candidate_rule
from esembed.plan import CandidateRule, DenseField, IndexPlan

ES, OS = profile("elasticsearch-basic"), profile("opensearch")


def trials(k: int, words: str, *pairs: tuple[int, float], error: float = 0.0) -> list[CandidateTrial]:
    return [
        CandidateTrial(k=k, filter=words, num_candidates=n, recall=r, standard_error=error, latency_ms=1.0)
        for n, r in pairs
    ]


def test_the_smallest_numbers_that_keep_the_recall() -> None:
    measured = [
        *trials(10, "", (10, 0.9), (50, 0.97), (100, 0.99)),
        *trials(100, "", (100, 0.95), (200, 0.985), (300, 0.99)),
        *trials(10, "lang=en", (10, 0.8), (150, 0.975), (300, 0.99)),
    ]
    rule, kept = candidate_rule(measured, CandidateOptions(min_recall=0.98))
    assert (rule, kept) == (CandidateRule(least=100, per_k=2.0, filtered=3.0), True)
    assert (rule.of(10), rule.of(100), rule.of(10, filtered=True)) == (100, 200, 300)
    rule, kept = candidate_rule(measured, CandidateOptions(min_recall=0.9, margin=0.0))
    assert (rule, kept) == (CandidateRule(least=10, per_k=1.0, filtered=15.0), True)


def test_queries_of_the_kind_keep_it_too_or_the_best_is_taken() -> None:
    measured = trials(10, "", (10, 0.95), (50, 0.981), (100, 0.999), error=0.005)
    assert candidate_rule(measured, CandidateOptions(min_recall=0.98)) == (
        CandidateRule(least=100, per_k=10.0),
        True,
    )
    lost = trials(10, "", (10, 0.7), (50, 0.899), (100, 0.9))
    assert candidate_rule(lost, CandidateOptions()) == (CandidateRule(least=50, per_k=5.0), False)
    # 1 can't be exceeded: what found everything keeps it.
    assert candidate_rule(trials(10, "", (10, 1.0), error=0.1), CandidateOptions())[1]


def test_a_rule_never_says_fewer_than_k_or_more_than_engines_take() -> None:
    assert CandidateRule(least=1, per_k=1.0).of(10) == 10
    assert CandidateRule(per_k=1.1, least=1).of(10) == 11
    assert CandidateRule(filtered=200.0).of(100, filtered=True) == 10_000


@pytest.mark.parametrize(
    ("options", "filtered", "elasticsearch", "opensearch"),
    [
        ({}, False, 100, None),
        ({"k": 200}, True, 300, None),
        ({"candidates": CandidateRule(least=40, per_k=2.0, filtered=3.0)}, False, 40, 40),
        ({"candidates": CandidateRule(least=40, per_k=2.0, filtered=3.0), "k": 50}, True, 300, 300),
        ({"candidates": CandidateRule(least=40), "num_candidates": 77}, True, 77, 77),
    ],
)
def test_searches_are_told_by_the_rule_and_explicit_numbers_stay(
    options: dict[str, Any], filtered: bool, elasticsearch: int, opensearch: int | None
) -> None:
    given = dict(options)
    field = DenseField(dims=2, quantization="hnsw", candidates=given.pop("candidates", None))
    plan = IndexPlan.from_dict({"filter": {"lang": {}}}).replace(dense={"v": field})
    given.setdefault("k", 10)
    query = q.knn("v", vector=[1, 2], filter=q.term("lang", "en") if filtered else None, **given)
    assert to_body(query, ES, plan=plan)["knn"]["num_candidates"] == elasticsearch
    sent = to_body(query, OS, plan=plan)["query"]["knn"]["v"].get("method_parameters")
    assert sent == (None if opensearch is None else {"ef_search": opensearch})
    assert IndexPlan.from_toml(plan.to_toml()) == plan


def test_a_share_that_is_looked_at() -> None:
    plan = IndexPlan(dense={"v": DenseField(dims=2, quantization="bbq_disk")})
    query = q.knn("v", vector=[1, 2], visit_percentage=2.5)
    assert to_body(query, ES, plan=plan)["knn"]["visit_percentage"] == 2.5
    graph = IndexPlan(dense={"v": DenseField(dims=2, quantization="hnsw")})
    for capabilities, used, words in (
        (ES, graph, "is hnsw; use num_candidates"),
        (profile("elasticsearch-basic", "9.1"), plan, "9.2"),
        (OS, graph, "use num_candidates"),
    ):
        with pytest.raises(UnsupportedFeatureError, match=words):
            to_body(query, capabilities, plan=used)
    for bad in ({"visit_percentage": 101}, {"visit_percentage": 1, "exact": True}):
        with pytest.raises(QueryError):
            q.knn("v", vector=[1, 2], **bad)


def test_rules_and_options_that_cannot_be() -> None:
    for bad in ({"least": 0}, {"least": 10_001}, {"per_k": 0.5}, {"filtered": 0.9}):
        with pytest.raises(PlanError, match=rf"candidates\.{next(iter(bad))}"):
            IndexPlan(dense={"v": DenseField(dims=2, candidates=CandidateRule(**bad))})
    with pytest.raises(PlanError, match="every vector"):
        IndexPlan(dense={"v": DenseField(dims=2, quantization="flat", candidates=CandidateRule())})
    for options in ({"min_recall": 0.0}, {"ks": ()}, {"ks": (0,)}, {"factors": (0.5,)}, {"sample": 1}):
        with pytest.raises(OptionsError):
            CandidateOptions(**options)
