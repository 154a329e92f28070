"""A plan to what creates the index: settings and mappings, for one engine's capabilities. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from esembed.capabilities import Capabilities
from esembed.dialect.elasticsearch import mapping as elasticsearch_mapping
from esembed.dialect.inference import inference_gap, plan_pipeline
from esembed.dialect.mapping_common import Draft, place, shared
from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD
from esembed.dialect.opensearch import mapping as opensearch_mapping
from esembed.errors import UnsupportedFeatureError
from esembed.plan import IndexPlan

__all__ = ["CompiledMapping", "compile_mapping", "drift"]


@dataclass(frozen=True, slots=True)
class CompiledMapping:
    """A plan, compiled.

    Attributes:
        body: ``{"settings": …, "mappings": …}``, ready for ``PUT /NAME``; ``_meta`` is not in it.
        resolved: the plan with every ``auto`` value, storage and dims as compiled.
        notes: what was resolved or has to be known, one line each.
        pipelines: name → body of the ingest pipeline that fills ``engine:`` fields; the index's settings name
            it, so it is to be there before the index.
    """

    body: dict[str, Any]
    resolved: IndexPlan
    notes: tuple[str, ...]
    pipelines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def compile_mapping(plan: IndexPlan, capabilities: Capabilities) -> CompiledMapping:
    """What creates the index that *plan* describes, on an engine with these capabilities.

    Explicit values are never changed: what the engine can't do is a gap.

    Raises:
        UnsupportedFeatureError: lists every gap with its way out.
        PlanError: dims that only a loaded encoder could tell, a field inside another field.
    """
    engine = elasticsearch_mapping if capabilities.kind == "elasticsearch" else opensearch_mapping
    draft = Draft(capabilities)
    shared(plan, draft)
    dense, sparse = {}, {}
    for name, dense_part in plan.dense.items():
        body, dense[name] = engine.dense(name, dense_part, draft)
        place(draft.properties, plan.field_path(name), body)
    for name, sparse_part in plan.sparse.items():
        body, sparse[name] = engine.sparse(name, sparse_part, draft)
        place(draft.properties, plan.field_path(name), body)
    pipelines = _engine_fields(plan, draft)
    if draft.gaps:
        raise UnsupportedFeatureError(draft.gaps, profile=_label(capabilities))
    return CompiledMapping(
        body={
            "settings": {"index": draft.settings},
            "mappings": {"dynamic": plan.index.dynamic, "properties": draft.properties},
        },
        resolved=plan.replace(dense=dense, sparse=sparse),
        notes=tuple(draft.notes),
        pipelines=pipelines,
    )


def _engine_fields(plan: IndexPlan, draft: Draft) -> dict[str, dict[str, Any]]:
    """What fills the fields whose vectors the engine computes: a pipeline that the index runs by default."""
    made = plan_pipeline(plan, draft.capabilities.kind)
    if made is None:
        return {}
    gap = inference_gap(draft.capabilities)
    for section, fields in (("dense", plan.dense), ("sparse", plan.sparse)):
        for name, part in fields.items():
            endpoint = part.endpoint
            if endpoint is None:
                continue
            where = f"{section}.{name}"
            if gap is not None:
                draft.gap(f"{where}.encoder", *gap)
            if draft.capabilities.kind == "elasticsearch" and getattr(part, "storage", "") == "rank_features":
                draft.gap(
                    f"{where}.storage", "an endpoint is searched in sparse_vector fields only", "leave it out"
                )
            draft.notes.append(
                f"{where}: the engine computes the vectors ({endpoint!r}); nothing here can tell when the "
                "model behind that name becomes another one (no canaries)"
            )
    name, body = made
    draft.settings["default_pipeline"] = name
    return {name: body}


def _label(capabilities: Capabilities) -> str:
    name = capabilities.kind if capabilities.profile == "probed" else capabilities.profile
    return f"{name} {capabilities.version}"


def drift(
    compiled: CompiledMapping, live: Mapping[str, Any], adopted: Collection[str] = ()
) -> tuple[str, ...]:
    """How a live mapping differs from what the plan compiles to, one line for each difference.

    Only what the plan says is compared: defaults that the engine adds are no difference. Fields that
    the plan doesn't know are told, too; empty when all is as planned.

    Args:
        live: the index's mapping (``GET /NAME`` → ``mappings``).
        adopted: fields that are as somebody else mapped them.
    """
    planned = compiled.body["mappings"]
    wanted = dict(_leaves(planned["properties"]))
    present = dict(_leaves(live.get("properties") or {}))
    lines: list[str] = []
    # Whether it is stored apart only decides how fast a re-run looks it up.
    wanted[HASH_FIELD] = {k: v for k, v in wanted[HASH_FIELD].items() if k != "store"}
    for path, mapping in wanted.items():
        if path not in present:
            close = difflib.get_close_matches(path, sorted(set(present) - set(wanted)), n=1)
            hint = f" (there is {close[0]!r})" if close else ""
            lines.append(f"- {path}: in the plan, not in the index{hint}")
            continue
        if path not in adopted:
            lines += _differences(path, mapping, present[path])
    for path in present:
        if path not in wanted and path not in (HASH_FIELD, PARENT_FIELD):
            lines.append(f"+ {path}: in the index ({present[path].get('type', 'object')}), not in the plan")
    dynamic = str(live.get("dynamic", "true")).lower()
    if dynamic != planned["dynamic"]:
        lines.append(f"~ dynamic: the plan says {planned['dynamic']}, the index has {dynamic}")
    return tuple(lines)


def _leaves(properties: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, mapping in properties.items():
        path = f"{prefix}{name}"
        inner = mapping.get("properties")
        if inner is None:
            yield path, mapping
            continue
        if mapping.get("type") == "nested":
            yield path, {"type": "nested"}
        yield from _leaves(inner, f"{path}.")


def _differences(path: str, wanted: Any, present: Any) -> Iterator[str]:
    if isinstance(wanted, Mapping):
        for key, value in wanted.items():
            there = present.get(key) if isinstance(present, Mapping) else None
            if key == "analyzer" and value == "standard" and there is None:
                continue  # engines leave a default analyzer out of the mapping they show
            yield from _differences(f"{path}.{key}", value, there)
    elif _plain(wanted) != _plain(present):
        shown = "nothing" if present is None else present
        yield f"~ {path}: the plan says {wanted}, the index has {shown}"


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, (int, float)):
        return float(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value).lower()
