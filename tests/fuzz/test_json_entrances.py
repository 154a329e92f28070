"""Query JSON, plans and ``_meta`` from strangers: an error of the tree or a value, soon, in little memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import mutations
import query_data
import tomli_w

from esembed import IndexPlan
from esembed import query as q
from esembed.capabilities import profile
from esembed.dialect import meta
from esembed.dialect.mapping import compile_mapping
from esembed.errors import EsembedError, InvariantError
from esembed.plan.checks import check_new
from esembed.search.compile import compile_query
from esembed.search.options import SearchOptions

PROFILES = [profile("elasticsearch-enterprise"), profile("elasticsearch-basic"), profile("opensearch")]

# Measured to take about 15 seconds each on two cores.
EXAMPLES = {"query": 3_300, "plan": 1_700, "meta": 2_600}


def refused_or(read: Any) -> Any:
    """What it returns; None for an error of the tree. A fault of ours (InvariantError) is one."""
    try:
        return read()
    except InvariantError:
        raise
    except EsembedError as error:
        str(error)
        return None


def as_text(value: Any) -> str | None:
    try:
        return json.dumps(value)
    except (RecursionError, ValueError):
        return None


def size_of(value: Any) -> int:
    return len(as_text(value) or "") or 100_000


def test_queries() -> None:
    plan = query_data.plan()

    def check(value: Any) -> None:
        size = size_of(value)
        query = mutations.bounded(lambda: refused_or(lambda: q.from_dict(value)), size, memory=True)
        text = as_text(value)
        read = refused_or(lambda: q.from_json(text)) if text is not None else None
        if query is None:
            return
        # The two entrances have one set of limits: what one takes, so does the other.
        assert text is None or read is not None, f"from_json refuses what from_dict takes: {text:.200}"
        # What was taken can be written, read again and compiled.
        assert q.from_dict(query.to_dict()) == query
        for capabilities in PROFILES:
            mutations.bounded(
                lambda c=capabilities: refused_or(
                    lambda: compile_query(query, c, SearchOptions(), plan=plan)
                ),
                size,
            )

    mutations.fuzz(mutations.load("query"), EXAMPLES["query"], check)


def test_plans() -> None:
    def check(value: Any) -> None:
        size = size_of(value)
        plan = mutations.bounded(lambda: refused_or(lambda: IndexPlan.from_dict(value)), size, memory=True)
        try:
            toml = tomli_w.dumps(value)
        except (
            TypeError,
            ValueError,
            RecursionError,
            AttributeError,
        ):  # what TOML can't say goes in as JSON only
            toml = None
        if toml is not None:
            refused_or(lambda: IndexPlan.from_toml(toml))
        text = as_text(value)
        if text is not None:
            refused_or(lambda: IndexPlan.from_json(text))
        if plan is None:
            return
        assert IndexPlan.from_dict(plan.to_dict()) == plan
        refused_or(lambda: check_new(plan))
        for capabilities in PROFILES:
            mutations.bounded(lambda c=capabilities: refused_or(lambda: compile_mapping(plan, c)), size)

    mutations.fuzz(mutations.load("plan"), EXAMPLES["plan"], check)


def test_meta() -> None:
    def check(value: Any) -> None:
        size = size_of(value)
        stored = mutations.bounded(
            lambda: refused_or(lambda: meta.stored_meta({"_meta": {"esembed": value}})), size, memory=True
        )
        if stored is not None:
            refused_or(lambda: meta.build(stored))

    mutations.fuzz(mutations.load("meta"), EXAMPLES["meta"], check)
