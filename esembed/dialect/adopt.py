"""Vectors that an index holds already: a plan's ``given`` fields fitted to the live mapping. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import msgspec

from esembed.capabilities import Capabilities
from esembed.dialect.mapping_common import Draft
from esembed.dialect.opensearch.mapping import SPACES, method
from esembed.plan import DenseField, IndexPlan, Quantization, SparseField

__all__ = ["ADOPTED", "Adopted", "adopt", "flat_properties"]

ADOPTED = "adopted"
"""The key under ``_meta.esembed`` with the fields whose mapping somebody else made."""


@dataclass(slots=True)
class Adopted:
    """What became of a plan's given fields.

    Attributes:
        plan: the plan, quantization and storage of such fields as the index has them.
        fields: the given fields that the index has.
        problems: how plan and index contradict each other, one line each.
        notes: what was found, one line for each field.
    """

    plan: IndexPlan
    fields: frozenset[str] = frozenset()
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def adopt(plan: IndexPlan, mapping: Mapping[str, Any], capabilities: Capabilities) -> Adopted:
    """Fit a plan's given fields to those that the index has; other fields are left as they are.

    Args:
        plan: what the caller wants.
        mapping: the live mapping.
        capabilities: the engine.
    """
    live = flat_properties(mapping.get("properties") or {})
    found = Adopted(plan)
    dense, sparse = dict(plan.dense), dict(plan.sparse)
    names = []
    for name, part in plan.vector_fields():
        if not part.precomputed or part.chunked or name not in live:
            continue
        names.append(name)
        if isinstance(part, DenseField):
            dense[name] = _dense(name, part, live[name], capabilities, found)
        else:
            sparse[name] = _sparse(name, part, live[name], capabilities, found)
    found.fields = frozenset(names)
    if (dense, sparse) != (dict(plan.dense), dict(plan.sparse)):
        found.plan = plan.replace(dense=dense, sparse=sparse)
    return found


def _dense(
    name: str, part: DenseField, body: Mapping[str, Any], capabilities: Capabilities, found: Adopted
) -> DenseField:
    where, elasticsearch = f"dense.{name}", capabilities.kind == "elasticsearch"
    wanted = "dense_vector" if elasticsearch else "knn_vector"
    if body.get("type") != wanted:
        found.problems.append(
            f"{where}: it is {body.get('type')} in the index, and a dense field is {wanted} here"
        )
        return part
    if body.get("index") is False:
        found.problems.append(
            f"{where}: the index holds its vectors without indexing them (index: false), so a search can't "
            "find by them; read the index into one made from the plan"
        )
    dims = body.get("dims" if elasticsearch else "dimension")
    element = (
        body.get("element_type", "float")
        if elasticsearch
        else {"binary": "bit"}.get(body.get("data_type", "float"), body.get("data_type", "float"))
    )
    similarity = _similarity(part, body, element, elasticsearch)
    pairs: list[tuple[str, Any, Any]] = [
        ("dims", part.dims, dims),
        ("element_type", part.element_type, element),
        ("similarity", part.similarity, similarity),
    ]
    quantization = _quantization(part, body, capabilities)
    if part.quantization != "auto":
        same = _form(_body(part, part.quantization, capabilities)) == _form(body)
        pairs.append(("quantization", part.quantization, part.quantization if same else quantization))
    options = body.get("index_options") if elasticsearch else (body.get("method") or {}).get("parameters")
    for option in ("m", "ef_construction"):
        if getattr(part, option) is not None:
            pairs.append((option, getattr(part, option), (options or {}).get(option)))
    for option, planned, there in pairs:
        if there is not None and planned != there:
            found.problems.append(f"{where}.{option}: {planned!r} in the plan, {there!r} in the index")
    if part.quantization == "auto":
        part = msgspec.structs.replace(part, quantization=quantization or "hnsw")
    found.notes.append(
        f"{where}: the index has it, {part.dims} dims, {part.similarity}, "
        f"{quantization or 'quantized its own way'}; its vectors are searched as they are"
    )
    return part


def _similarity(part: DenseField, body: Mapping[str, Any], element: str, elasticsearch: bool) -> str | None:
    """The live field's similarity by the plan's name."""
    if elasticsearch:
        return str(body.get("similarity") or ("l2_norm" if element == "bit" else "cosine"))
    if "model_id" in body:
        return None  # the trained model's
    space = body.get("space_type") or (body.get("method") or {}).get("space_type") or "l2"
    if space == "hamming":
        return "l2_norm"
    names = [name for name, its_space in SPACES.items() if its_space == space]
    return part.similarity if part.similarity in names else (names or [str(space)])[0]


def _quantization(part: DenseField, body: Mapping[str, Any], capabilities: Capabilities) -> str | None:
    """The plan's word for how the live field is quantized, or None where it has none."""
    form = _form(body)
    for word in get_args(Quantization):
        if word != "auto" and form == _form(_body(part, word, capabilities)):
            return str(word)
    return None


def _body(part: DenseField, quantization: str, capabilities: Capabilities) -> Mapping[str, Any]:
    """What the field would be compiled to with this quantization."""
    if capabilities.kind == "elasticsearch":
        return {"type": "dense_vector", "index_options": {"type": quantization}}
    wanted = msgspec.structs.replace(part, quantization=quantization)
    return method("", wanted, part.dims or 0, Draft(capabilities))


def _form(body: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells one quantization from another in a field's mapping."""
    if body.get("type") == "dense_vector":
        return ((body.get("index_options") or {}).get("type"),)
    how = body.get("method") or {}
    if "model_id" in body or how.get("name", "hnsw") not in ("hnsw", "flat"):
        return ("trained", how.get("name"))
    if body.get("mode") == "on_disk" or body.get("compression_level"):
        return ("on_disk", body.get("compression_level", "32x"))
    encoder = (how.get("parameters") or {}).get("encoder") or {}
    options = encoder.get("parameters") or {}
    return (
        how.get("engine", "faiss"),
        how.get("name", "hnsw"),
        encoder.get("name"),
        options.get("bits"),
        options.get("type"),
    )


def _sparse(
    name: str, part: SparseField, body: Mapping[str, Any], capabilities: Capabilities, found: Adopted
) -> SparseField:
    where, kind = f"sparse.{name}", str(body.get("type"))
    storages = {"rank_features": "rank_features", "sparse_vector": "sparse_vector"}
    if capabilities.kind == "opensearch":
        storages["sparse_vector"] = "seismic"
    storage = storages.get(kind)
    if storage is None:
        found.problems.append(
            f"{where}: it is {kind} in the index, and a sparse field is {' or '.join(storages)}"
        )
        return part
    if part.storage not in ("auto", storage):
        found.problems.append(f"{where}.storage: {part.storage!r} in the plan, {storage!r} in the index")
    found.notes.append(f"{where}: the index has it, as {storage}; its features are searched as they are")
    return msgspec.structs.replace(part, storage=storage)


def flat_properties(properties: Mapping[str, Any], prefix: str = "") -> dict[str, Mapping[str, Any]]:
    """Field → its mapping, objects' fields by dotted name; nested objects are fields themselves."""
    out: dict[str, Mapping[str, Any]] = {}
    for name, body in properties.items():
        if "properties" in body and body.get("type") != "nested":
            out.update(flat_properties(body["properties"], f"{prefix}{name}."))
        else:
            out[f"{prefix}{name}"] = body
    return out
