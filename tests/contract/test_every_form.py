"""Every kind of vector that an engine's capabilities name, and every preset, on that engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from query_engines import World

from esembed import Index, IndexPlan, IngestOptions, presets
from esembed import query as q
from esembed.dialect.mapping import compile_mapping
from esembed.errors import PlanError, UnsupportedFeatureError
from esembed.plan.diff import with_dims
from esembed.plan.fields import DenseField

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_codes import Drawn

TRAINED = {"faiss_pq", "faiss_ivf"}
"""They need a model that somebody trained on the engine."""

ELEMENT_TYPES = get_args(next(f for f in msgspec.structs.fields(DenseField) if f.name == "element_type").type)


def forms(world: World) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(field → its form) of all that compile for the engine, and the refused ones."""
    taken: dict[str, dict[str, Any]] = {}
    refused = []
    for element in ELEMENT_TYPES:
        for quantization in sorted(world.capabilities.quantizations - TRAINED):
            form: dict[str, Any] = {"element_type": element, "quantization": quantization}
            if element == "bit":
                form["similarity"] = "l2_norm"
            try:
                compile_mapping(with_dims(_plan({"v": form}), lambda _: 64), world.capabilities)
            except (PlanError, UnsupportedFeatureError):
                refused.append(f"{element}/{quantization}")
            else:
                taken[f"{element}_{quantization}"] = form
    return taken, refused


def _plan(fields: dict[str, dict[str, Any]]) -> IndexPlan:
    dense = {name: {"encoder": "hf:test/drawn", "source": ["body"], **form} for name, form in fields.items()}
    return IndexPlan.from_dict({"text": {"body": {}}, "dense": dense})


def test_every_form_of_vector_takes_documents_and_queries(
    query_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    taken, refused = forms(query_world)
    assert {f"{element}_hnsw" for element in query_world.capabilities.element_types} <= set(taken)
    texts = [f"text {number}" for number in range(30)]
    options = IngestOptions(refresh=True, strict=True, learn_weights=False)
    fields = list(taken)
    # What an index says about itself has room for so many encoders.
    for start in range(0, len(fields), 6):
        some = {name: taken[name] for name in fields[start : start + 6]}
        index = Index.create(
            query_world.official, f"{query_world.name}-{start}", _plan(some), encoder=Drawn()
        )
        index.ingest(({"_id": text, "body": text} for text in texts), options)
        for field in some:
            found = index.search(q.knn(field, text=texts[7], k=3), size=3).ids
            assert len(found) == 3, field
            assert texts[7] in found, field
    with capsys.disabled():
        shown = ", ".join(taken)
        print(f"\n{query_world.capabilities.label}: {shown}; {len(refused)} refused before anything was sent")


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_created_or_refused(query_world: World, name: str) -> None:
    plan = with_dims(presets.load(name), lambda _: 384)
    try:
        compiled = compile_mapping(plan, query_world.capabilities)
    except UnsupportedFeatureError as refused:
        gaps = refused.gaps
    else:
        gaps = ()
    if gaps:
        assert all(";" in gap for gap in gaps), "each with its remedy"
        return
    path = f"/{query_world.name}"
    query_world.client.request("PUT", path, body=compiled.body)
    shown = query_world.client.request("GET", f"{path}/_mapping").body[query_world.name]["mappings"]
    assert set(compiled.body["mappings"]["properties"]) <= set(shown["properties"])
