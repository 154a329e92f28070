"""Every body that the compilers emit is sent to a real engine, or listed with what is missing here.

``unsent_bodies.toml`` is that list. Its Elasticsearch bodies are checked against Elastic's published API
specification, and sent where ``ESEMBED_LICENSED_ELASTICSEARCH_URL`` names an engine that has it all.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from query_world import PROFILES, all_bodies, canonical, compiled_bodies, has, needs, plans

from esembed import IndexPlan
from esembed.capabilities import NEWEST
from esembed.dialect.mapping import compile_mapping

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).resolve().parent
ENDPOINTS = {"an inference endpoint (license)", "a rerank endpoint (license)"}
"""What a licensed engine has only where somebody made one."""
UNSENT = tomllib.loads((HERE / "unsent_bodies.toml").read_text(encoding="utf-8"))


def _send(client: Any, index: str, body: dict[str, Any]) -> str | None:
    """None, or the engine's reason for refusing."""
    response = client.request("POST", f"/{index}/_search", body=body, ignore=range(400, 600))
    if response.status >= 400:
        return json.dumps(response.body)[:600]
    if response.body["_shards"]["failed"]:
        return json.dumps(response.body["_shards"])[:600]
    return None


def _create(client: Any, capabilities: Any, name: str, plan: IndexPlan) -> None:
    # Legs of a plan that the engine encodes can be sent by themselves, where they are of text alone.
    body = compile_mapping(plan, replace(capabilities, inference=True)).body
    client.request("PUT", f"/{name}", body=body)


def _run(live: Any, capsys: pytest.CaptureFixture[str], *, licensed: bool = False) -> None:
    client, capabilities, name = live.client, live.capabilities, live.name
    there = has(capabilities)
    # The list is of what no engine here has: those are the newest of the pinned ones.
    pinned = capabilities.distribution == "reduced" and capabilities.version == NEWEST[capabilities.engine]
    here = plans(capabilities.engine, rank_feature=capabilities.rank_feature)
    bodies: dict[str, tuple[str, str, dict[str, Any]]] = {}
    for case, _, body in all_bodies(capabilities.engine, capabilities):
        bodies.setdefault(f"{case.plan} {canonical(body)}", (case.id, case.plan, body))
    created: dict[str, str] = {}
    sent, unsent, refused, unlisted = 0, Counter[str](), [], []
    listed = {(entry["case"], entry["missing"]) for entry in UNSENT[capabilities.engine]}
    seen: set[tuple[str, str]] = set()
    for case_id, plan_name, body in bodies.values():
        lacking = {(case_id, missing) for missing in needs(body, capabilities.engine) - there}
        if lacking:
            unsent[", ".join(sorted(missing for _, missing in lacking))] += 1
            seen |= lacking
            unlisted += sorted(lacking - listed)
            continue
        if plan_name not in created:
            created[plan_name] = f"{name}-{plan_name}"
            try:
                _create(client, capabilities, created[plan_name], here[plan_name])
            except KeyError:
                raise AssertionError(f"{case_id}: no plan {plan_name} here, yet nothing is lacking") from None
        reason = _send(client, created[plan_name], body)
        if reason is None:
            sent += 1
        else:
            refused.append(f"{case_id}: {reason}\n    {json.dumps(body)}")
    gaps = ", ".join(f"{n} for {what}" for what, n in sorted(unsent.items()))
    with capsys.disabled():
        print(
            f"\n{capabilities.engine} {capabilities.version}: {len(bodies)} distinct bodies, {sent} sent, "
            f"{sum(unsent.values())} not ({gaps})"
        )
    assert not refused, "the engine refused:\n" + "\n".join(refused)
    assert sent
    if pinned:
        assert not unlisted, f"neither sent nor listed in unsent_bodies.toml: {unlisted}"
        assert not listed - seen, f"listed in unsent_bodies.toml, and sent or gone: {sorted(listed - seen)}"
    if licensed:
        assert {missing for _, missing in seen} <= ENDPOINTS, sorted(seen)


def test_every_elasticsearch_body_is_sent_or_listed(
    elasticsearch_world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(elasticsearch_world, capsys)


def test_every_opensearch_body_is_sent_or_listed(
    opensearch_world: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(opensearch_world, capsys)


def test_every_body_is_sent_to_a_licensed_elasticsearch(capsys: pytest.CaptureFixture[str]) -> None:
    url = os.environ.get("ESEMBED_LICENSED_ELASTICSEARCH_URL")
    if not url:
        pytest.skip("ESEMBED_LICENSED_ELASTICSEARCH_URL names no licensed Elasticsearch")
    from query_engines import world

    with world(url, "elasticsearch") as live:
        _run(live, capsys, licensed=True)


def test_elasticsearch_bodies_are_what_the_published_specification_says() -> None:
    schema = json.loads((HERE / "elasticsearch_search.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    wrong, seen, fused = [], set(), 0
    for case, _, body in all_bodies("elasticsearch"):
        text = canonical(body)
        if text in seen:
            continue
        seen.add(text)
        fused += bool(
            {"the rrf retriever (license)", "the linear retriever (license)"} & needs(body, "elasticsearch")
        )
        error = jsonschema.exceptions.best_match(validator.iter_errors(body))
        if error is not None:
            wrong.append(f"{case.id}: {error.json_path}: {error.message[:300]}")
    assert not wrong, "\n".join(wrong)
    assert fused >= 10


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rrf", "rank_konstant"), 60),
        (("rrf", "retrievers"), {}),
        (("linear", "retrievers", 0, "normalizer"), "min_max"),
    ],
)
def test_the_schema_refuses_what_the_specification_does_not_know(path: tuple[Any, ...], value: Any) -> None:
    """Guards the guard: a check that accepts anything would prove nothing."""
    schema = json.loads((HERE / "elasticsearch_search.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    found = next(
        body for _, _, body in all_bodies("elasticsearch") if path[0] in (body.get("retriever") or {})
    )
    broken = json.loads(json.dumps(found))
    assert not list(validator.iter_errors(broken))
    spot: Any = broken["retriever"]
    for step in path[:-1]:
        spot = spot[step]
    spot[path[-1]] = value
    assert list(validator.iter_errors(broken))


def test_the_documentation_page_is_up_to_date() -> None:
    sys.path.insert(0, str(HERE.parent.parent / "scripts"))
    try:
        import query_docs
    finally:
        sys.path.pop(0)
    page = HERE.parent.parent / "docs/queries.md"
    assert page.read_text(encoding="utf-8") == query_docs.page(), "run python scripts/query_docs.py"


def test_compiling_changes_neither_query_nor_plan_and_gives_the_same_again() -> None:
    from query_cases import CASES

    for case in CASES:
        before = repr(case.query)
        for capabilities in PROFILES:
            first = compiled_bodies(case, capabilities)
            assert compiled_bodies(case, capabilities) == first
        assert repr(case.query) == before
