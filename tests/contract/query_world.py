"""Compiling the cases, and sending bodies to a live engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from query_cases import CASES, Case, plans

from esembed.capabilities import Capabilities, profile
from esembed.errors import QueryError, UnsupportedFeatureError
from esembed.plan import IndexPlan
from esembed.search.compile import compile_query
from esembed.search.options import SearchOptions

PROFILES = [
    profile("elasticsearch-basic"),
    profile("elasticsearch-enterprise"),
    profile("elasticsearch-reduced"),
    profile("opensearch"),
    profile("opensearch-no-native"),
    profile("opensearch", "3.0"),
    profile("opensearch", "2.19"),
]


def label(capabilities: Capabilities) -> str:
    """A profile as people read it."""
    return f"{capabilities.profile} {capabilities.version}"


def plan_of(case: Case, capabilities: Capabilities) -> IndexPlan | None:
    """The case's plan for an engine, or None where the engine has no such plan."""
    # With the rank_feature field everywhere, so that an engine without the mapper says what it lacks.
    return plans(capabilities.engine, rank_feature=True).get(case.plan)


def compiled_bodies(case: Case, capabilities: Capabilities) -> list[dict[str, Any]] | str:
    """The bodies of the first round trip, or why there are none."""
    plan = plan_of(case, capabilities)
    if plan is None:
        return "SEISMIC is OpenSearch's; sparse fields are stored as sparse_vector here"
    try:
        compiled = compile_query(case.query, capabilities, SearchOptions(**case.options), plan=plan)
    except UnsupportedFeatureError as error:
        return "; ".join(error.gaps)
    except QueryError as error:
        return str(error)
    return compiled.bodies


def canonical(body: dict[str, Any]) -> str:
    """One text for equal bodies."""
    return json.dumps(body, sort_keys=True)


def all_bodies(kind: str) -> Iterator[tuple[Case, Capabilities, dict[str, Any]]]:
    """Every body that some profile of an engine's kind compiles a case to."""
    for case in CASES:
        for capabilities in PROFILES:
            if capabilities.engine != kind:
                continue
            found = compiled_bodies(case, capabilities)
            if not isinstance(found, str):
                for body in found:
                    yield case, capabilities, body


def needs(body: Any, kind: str) -> set[str]:
    """What a body needs that not every engine of its kind has."""
    found: set[str] = set()
    if isinstance(body, dict):
        for key, value in body.items():
            if kind == "elasticsearch":
                if key in ("rrf", "linear") and isinstance(value, dict) and "retrievers" in value:
                    found.add(f"the {key} retriever (license)")
                elif key == "text_similarity_reranker":
                    found.add("a rerank endpoint (license)")
                elif key == "script_score":
                    found.add("painless")
                elif key == "rank_feature":
                    found.add("rank features")
                elif key in ("query_vector_builder", "inference_id") and "inference_text" not in body:
                    found.add("an inference endpoint (license)")
            elif key == "model_id":
                found.add("a model of ml-commons")
            found |= needs(value, kind)
    elif isinstance(body, list):
        for value in body:
            found |= needs(value, kind)
    return found
