"""Between a plan as it was written and a plan as an index has it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from esembed.capabilities import Capabilities
from esembed.dialect import meta
from esembed.dialect.adopt import flat_properties
from esembed.dialect.fields import mapped_types
from esembed.dialect.mapping import CompiledMapping
from esembed.errors import PlanError, UnsupportedFeatureError
from esembed.plan import IndexPlan

__all__ = ["attach_mapping", "fill_in", "plan_difference", "stored_meta", "with_dims", "with_meta"]


def with_dims(plan: IndexPlan, dims_of: Callable[[str], int | None]) -> IndexPlan:
    """The plan with the dims that were left to the encoders.

    Args:
        dims_of: vector field → its encoder's dims.

    Raises:
        PlanError: an encoder that doesn't say how many it makes.
    """
    dense = dict(plan.dense)
    for name, part in plan.dense.items():
        if part.dims is None:
            dims = part.params.dims or dims_of(name)
            if dims is None:
                raise PlanError(
                    f"the encoder {part.encoder!r} doesn't say how many dims it makes; write dims = …",
                    path=f"dense.{name}.dims",
                )
            dense[name] = msgspec.structs.replace(part, dims=dims)
    return plan.replace(dense=dense) if dense != dict(plan.dense) else plan


def fill_in(plan: IndexPlan, stored: IndexPlan) -> IndexPlan:
    """*plan* with what an index of it settled later (BM25's average length) taken from *stored*, so that
    the two can be compared."""
    sparse = dict(plan.sparse)
    for name, part in plan.sparse.items():
        other = stored.sparse.get(name)
        if other is not None and part.family == "lexical" and part.params.avgdl is None:
            params = msgspec.structs.replace(part.params, avgdl=other.params.avgdl)
            sparse[name] = msgspec.structs.replace(part, params=params)
    query = plan.query if plan.query is not None else stored.query
    return plan.replace(sparse=sparse, query=query)


def plan_difference(old: IndexPlan, new: IndexPlan) -> str:
    """What differs between two plans, by path, for a message; the order of fields doesn't count."""
    before, after = _flat(msgspec.to_builtins(old)), _flat(msgspec.to_builtins(new))
    changed: list[str] = []
    added, gone = (
        set(_sections(after)) - set(_sections(before)),
        set(_sections(before)) - set(_sections(after)),
    )
    changed += [f"[{name}] is new" for name in sorted(added)]
    changed += [f"[{name}] is gone" for name in sorted(gone)]
    for path in sorted(before.keys() | after.keys()):
        if ".".join(path[:2]) not in added | gone and before.get(path) != after.get(path):
            was, now = (_shown(side[path]) if path in side else "not set" for side in (before, after))
            changed.append(f"{'.'.join(path)} is {was} in the index and {now} in the plan")
    more = f"; and {len(changed) - 8} more" if len(changed) > 8 else ""
    return "; ".join(changed[:8]) + more


def _flat(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(value, Mapping) or (not value and len(path) != 2):
        return {path: value}
    out: dict[tuple[str, ...], Any] = {} if len(path) != 2 else {path: None}
    for key, item in value.items():
        out |= _flat(item, (*path, str(key)))
    return out


def _sections(flat: Mapping[tuple[str, ...], Any]) -> list[str]:
    """The plan's fields, as TOML names them."""
    return [".".join(path) for path in flat if len(path) == 2 and path[0] in _FIELDS]


_FIELDS = ("text", "dense", "sparse", "filter")


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:77] + "…"


def stored_meta(mapping: Mapping[str, Any]) -> meta.StoredMeta | None:
    """What an index says about itself, from its live mapping; None when it says nothing.

    Raises:
        PlanError: it says something that can't be read.
    """
    own = (mapping.get("_meta") or {}).get(meta.META_KEY)
    if own is None:
        return None
    if not isinstance(own, Mapping):
        raise PlanError("_meta.esembed is damaged; repair it with a plan (esembed index repair --plan)")
    return meta.parse(own)


def with_meta(body: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The body of ``PUT /NAME`` with ``_meta.esembed`` in its mappings."""
    return {**body, "mappings": {"_meta": {meta.META_KEY: dict(own)}, **body["mappings"]}}


def attach_mapping(
    compiled: CompiledMapping,
    mapping: Mapping[str, Any],
    settings: Mapping[str, Any],
    capabilities: Capabilities,
    adopted: Collection[str] = (),
) -> dict[str, Any]:
    """The body of ``PUT /NAME/_mapping`` that adds a plan's vector fields to an index that exists.

    Args:
        compiled: the plan, compiled for this engine.
        mapping, settings: the live index's (settings: what stands under ``index``).
        adopted: given fields that the index has and keeps as they are.

    Raises:
        PlanError: the plan's text and filter fields are not the index's.
        UnsupportedFeatureError: the index was created without a setting that can't be added later.
    """
    plan = compiled.resolved
    if compiled.pipelines:
        raise UnsupportedFeatureError(
            [
                f"{name}: the engine can't compute vectors for documents that are there already; create an "
                "index from the plan and ingest the records, or name an encoder that runs on your side"
                for name, part in plan.vector_fields()
                if part.endpoint is not None
            ],
            profile=f"attach on {capabilities.kind}",
        )
    live, everything = flat_properties(mapping.get("properties") or {}), mapped_types(mapping)
    wanted = compiled.body["mappings"]["properties"]
    problems = []
    for section in ("text", "filter"):
        for name in getattr(plan, section):
            expected = flat_properties(wanted).get(name, {}).get("type")
            found = live.get(name, {}).get("type")
            if found is None and name in everything:
                problems.append(
                    f"{section}.{name}: it is a sub-field in the index, which filters, facets and sorting "
                    "know by its name; leave it out of the plan"
                )
            elif found is None:
                problems.append(f"{section}.{name}: the index has no such field; leave it out of the plan")
            elif found != expected:
                exact = next((n for n in everything if n.startswith(f"{name}.")), None)
                way = f"; leave it out of the plan and filter by {exact!r}" if exact else ""
                problems.append(
                    f"{section}.{name}: it is {found} in the index and {expected} in the plan{way}"
                )
    parts = {name: part for name, part in plan.vector_fields() if name not in adopted}
    own = {plan.field_path(name).partition(".")[0] for name in parts}
    own |= {meta.HASH_FIELD, meta.PARENT_FIELD}
    if plan.chunk is not None:
        own.add(plan.chunk.path)
    for name in own:
        if name in (mapping.get("properties") or {}) and name in wanted:
            problems.append(
                f"{name}: the index has a field of that name already; choose another"
                + (', or write encoder = "given" to search what it holds' if name in parts else "")
            )
    if problems:
        raise PlanError("the plan doesn't fit the index: " + "; ".join(problems))
    gaps = [
        f"index.{key} is fixed when an index is created and this one lacks it; create an index from the plan "
        "and read this one into it (esembed ingest --from-index OLD --index NEW)"
        for key in ("knn", "sparse")
        if compiled.body["settings"]["index"].get(key) and str(settings.get(key)).lower() != "true"
    ]
    if gaps:
        raise UnsupportedFeatureError(gaps, profile=f"this index on {capabilities.kind}")
    return {"properties": {name: body for name, body in wanted.items() if name in own}}
