# Generated from tests/_async/test_candidates.py by scripts/run_unasync.py; change that file and run the script.
"""How many candidates a live index's searches need: measured, stored, and told to every search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from esembed import CandidateRule, DenseField, FilterField, Index, IndexPlan, IngestOptions, LoadOptions
from esembed import query as q
from esembed.errors import OptionsError, PlanError
from esembed.evaluate.candidates import CandidateOptions


def test_a_rule_is_found_stored_and_used(client: Any, esembed_index_name: str) -> None:
    vectors = np.random.default_rng(5).normal(size=(3000, 32)).astype(np.float32)
    # One graph with two links a node misses much, so that there is something to find.
    field = DenseField(dims=32, quantization="hnsw", m=2, ef_construction=4)
    plan = IndexPlan(
        dense={"v": field},
        filter={"half": FilterField(type="boolean")},
        load=LoadOptions(force_merge_segments=1),
    )
    index = Index.create(client, esembed_index_name, plan)
    index.ingest(
        [{"_id": str(i), "v": one.tolist(), "half": bool(i % 2)} for i, one in enumerate(vectors)],
        IngestOptions(learn_weights=False),
    )
    index.refresh()
    queries = [one.tolist() for one in vectors[:30] + 0.3]
    options = CandidateOptions(min_recall=0.9, ks=(5, 50), factors=(1.0, 4.0, 20.0, 100.0))
    told: list[str] = []
    choice = index.choose_candidates(
        queries, filters={"half": q.term("half", True)}, options=options, write=False, progress=told.append
    )
    assert (Index.open(client, esembed_index_name)).plan.dense["v"].candidates is None
    assert [line.partition(":")[0] for line in told] == ["v, k = 5", "v, k = 50", "v, k = 5, half"]
    smallest, largest = choice.trials[0], [t for t in choice.trials if (t.k, t.filter) == (5, "")][-1]
    assert smallest.num_candidates == 5
    assert smallest.recall < 0.9 <= largest.recall
    assert choice.rule.least > 5
    assert choice.rule.least in {t.num_candidates for t in choice.trials}
    again = index.choose_candidates(queries, options=options)
    opened = Index.open(client, esembed_index_name)
    assert opened.plan.dense["v"].candidates == again.rule == index.plan.dense["v"].candidates

    def found(searched: Index, **asked: Any) -> list[list[str]]:
        knn = [q.knn("v", vector=one, k=5, **asked) for one in queries]
        return [(searched.search(one, size=5)).ids for one in knn]

    assert found(opened) == found(opened, num_candidates=again.rule.of(5))
    # Another rule in the plan is no other index.
    changed = opened.plan.replace(
        dense={"v": DenseField(**{**_options(opened.plan.dense["v"]), "candidates": CandidateRule(least=7)})}
    )
    assert (opened.migrate(changed)).in_place
    opened = Index.open(client, esembed_index_name)
    assert found(opened) == found(opened, num_candidates=8)
    with pytest.raises(OptionsError, match="too few"):
        index.choose_candidates(queries[:1])
    with pytest.raises(PlanError, match="no dense field"):
        index.choose_candidates(queries, field="w")


def _options(field: DenseField) -> dict[str, Any]:
    return {name: getattr(field, name) for name in field.__struct_fields__}
