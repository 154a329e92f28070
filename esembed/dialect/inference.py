"""Vectors that the engine computes itself: what the engines share. Pure.

A plan's ``engine:ENDPOINT`` field is an ordinary vector field. The text that is to be encoded travels in a
hidden field; an ingest pipeline, the index's default one, hands it to the endpoint, puts the vector into the
field, and removes the text. Queries carry the text and the endpoint's name.

Each engine's bodies are in ``elasticsearch/inference.py`` and ``opensearch/inference.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import orjson

from esembed.capabilities import Capabilities
from esembed.dialect.meta import TEXT_PREFIX
from esembed.errors import OptionsError
from esembed.plan import IndexPlan

__all__ = ["PIPELINE_PREFIX", "VectorType", "inference_gap", "ingest_pipeline", "need_fields"]

VectorType = Literal["dense", "sparse"]
"""Which vectors an endpoint makes."""

PIPELINE_PREFIX = "esembed-inference-"
"""Pipelines are named by the hash of what they do, so that equal plans share one."""


def ingest_pipeline(
    plan: IndexPlan, processors: Callable[[VectorType, str, Mapping[str, str]], list[dict[str, Any]]]
) -> tuple[str, dict[str, Any]] | None:
    """Name and body of the ingest pipeline that fills a plan's ``engine:`` fields; None without such fields.

    Args:
        processors: dense or sparse, endpoint, text field → vector field: what the engine runs for them.
    """
    by_endpoint: dict[tuple[VectorType, str], dict[str, str]] = {}
    for name, field in plan.vector_fields():
        if field.endpoint is not None:
            section: VectorType = "dense" if name in plan.dense else "sparse"
            by_endpoint.setdefault((section, field.endpoint), {})[f"{TEXT_PREFIX}{name}"] = name
    if not by_endpoint:
        return None
    steps: list[dict[str, Any]] = []
    for (section, endpoint), fields in by_endpoint.items():
        steps += processors(section, endpoint, fields)
    texts = sorted(text for fields in by_endpoint.values() for text in fields)
    # Last: the processors before read these texts.
    steps.append({"remove": {"field": texts, "ignore_missing": True}})
    body = {"description": "esembed: vectors that the engine computes", "processors": steps}
    digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
    return f"{PIPELINE_PREFIX}{digest}", body


def inference_gap(capabilities: Capabilities, missing: str) -> tuple[str, str] | None:
    """What the engine lacks for computing vectors itself, and the remedy; None where it can, or where it
    couldn't be asked.

    Args:
        missing: why this engine can't, in its own words.
    """
    if capabilities.inference or any(line.startswith("inference") for line in capabilities.unknown):
        return None
    return missing, (
        "name an encoder that runs in your process (hf:…, splade:…, minilm), or an engine that has inference"
    )


def need_fields(fields: Mapping[str, str]) -> None:
    """Raises OptionsError for a pipeline without fields."""
    if not fields:
        raise OptionsError(
            "an inference pipeline needs at least one source field and its vector field", option="fields"
        )
