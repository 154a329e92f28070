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


def all_bodies(
    kind: str, live: Capabilities | None = None
) -> Iterator[tuple[Case, Capabilities, dict[str, Any]]]:
    """Every body that some profile of an engine's kind compiles a case to.

    Args:
        live: an engine's, whose bodies come along; of the profiles those that are no newer.
    """
    profiles = [one for one in PROFILES if one.engine == kind]
    if live is not None:
        profiles = [live, *(one for one in profiles if one.version <= live.version)]
    for case in CASES:
        for capabilities in profiles:
            found = compiled_bodies(case, capabilities)
            if not isinstance(found, str):
                for body in found:
                    yield case, capabilities, body


def has(capabilities: Capabilities) -> set[str]:
    """Which of the things that :func:`needs` names an engine has."""
    found = {"rank features"} if capabilities.rank_feature else set()
    if capabilities.engine == "opensearch":
        found |= {"SEISMIC"} if "seismic" in capabilities.sparse_storages else set()
        found |= {"neural-search"} if capabilities.linear else set()
        return found
    found |= {"painless"} if capabilities.scripts else set()
    found |= {"the rrf retriever (license)"} if capabilities.rrf else set()
    return found | ({"the linear retriever (license)"} if capabilities.linear else set())


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
            elif key == "hybrid":
                found.add("neural-search")
            elif key == "neural_sparse":
                found.add("SEISMIC" if "method_parameters" in json.dumps(value) else "neural-search")
            found |= needs(value, kind)
    elif isinstance(body, list):
        for value in body:
            found |= needs(value, kind)
    return found
