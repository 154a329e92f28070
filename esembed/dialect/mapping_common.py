"""What both engines' mappings share: the collector of gaps, text, filter and chunk fields, object paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from esembed.capabilities import Capabilities
from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD
from esembed.dialect.quantize import unit_scale
from esembed.errors import PlanError
from esembed.plan import DenseField, FilterField, IndexPlan, SparseField, TextField

__all__ = [
    "Draft",
    "byte_scale",
    "chunked_nested",
    "filter_property",
    "known_dims",
    "place",
    "shared",
    "text_property",
]

KNOWN_DIMS = {"minilm": 384}
"""Encoders whose dims are known without loading them."""

KEYWORD_LIMIT = 8191
"""Characters that surely fit into Lucene's longest term (32,766 bytes): ``ignore_above`` of sub-fields,
whose whole text stays searchable in the field itself."""


@dataclass(slots=True)
class Draft:
    """A mapping in the making.

    Attributes:
        capabilities: the engine.
        properties: the mapping's properties, objects nested by path.
        settings: index settings, flat under ``index``.
        gaps: what the engine lacks, each with its way out.
        notes: what was resolved or has to be known.
    """

    capabilities: Capabilities
    properties: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def gap(self, path: str, missing: str, way_out: str) -> None:
        """Remember what is missing; the compiler raises all of them together."""
        self.gaps.append(f"{path}: {missing}; {way_out}")


def known_dims(name: str, part: DenseField) -> int:
    """The field's dims, where they are written down or known by the encoder's name.

    Raises:
        PlanError: only the loaded encoder could tell.
    """
    dims = part.dims or part.params.dims or KNOWN_DIMS.get(part.encoder)
    if dims is None:
        raise PlanError(
            f"not known without loading {part.encoder!r}: write dims = … (Index.create finds it by itself)",
            path=f"dense.{name}.dims",
        )
    return dims


def byte_scale(where: str, part: DenseField, dims: int, draft: Draft) -> DenseField:
    """The field with the scale by which an encoder's floats become bytes; others as they are."""
    if part.element_type != "byte" or part.scale is not None or part.precomputed:
        return part
    if part.similarity not in ("cosine", "dot_product"):
        draft.gap(
            f"{where}.scale",
            f"for {part.similarity} it can't be found from the dims",
            "write scale = … (esembed advise prints the one of your vectors)",
        )
        return part
    scale = unit_scale(dims)
    draft.notes.append(
        f"{where}: scale is {scale:g}, for vectors of length 1; esembed advise finds the one of your vectors"
    )
    return msgspec.structs.replace(part, scale=scale)


def place(properties: dict[str, Any], path: str, value: Mapping[str, Any]) -> None:
    """Put a field's mapping under its dotted path, objects around it.

    Raises:
        PlanError: a field lies inside another one that is no object.
    """
    *outer, leaf = path.split(".")
    here = properties
    for part in outer:
        inner = here.setdefault(part, {"properties": {}})
        if inner.get("type", "object") not in ("object", "nested"):
            raise PlanError(f"the field {path!r} lies inside {part!r}, which is a {inner['type']} field")
        here = inner.setdefault("properties", {})
    if leaf in here:
        raise PlanError(f"the field {path!r} is also an object that holds other fields; rename one")
    here[leaf] = dict(value)


def text_property(name: str, part: TextField, draft: Draft) -> dict[str, Any]:
    """A text field. BM25's parameters become a similarity of the index, one for each distinct pair."""
    capabilities = draft.capabilities
    out: dict[str, Any] = {"type": "text", "analyzer": part.analyzer}
    if part.search_analyzer is not None:
        out["search_analyzer"] = part.search_analyzer
    for option in ("analyzer", "search_analyzer"):
        wanted = getattr(part, option)
        if wanted is None or wanted in capabilities.analyzers:
            continue
        if any(line.startswith("analyzers") for line in capabilities.unknown):
            draft.notes.append(f"text.{name}.{option}: whether {wanted!r} exists could not be asked for")
            continue
        way_out = f'write {option} = "standard"'
        if capabilities.distribution == "reduced":
            way_out += ", or use a full distribution (with the module analysis-common)"
        elif wanted in {"icu_analyzer", "kuromoji", "nori", "smartcn", "polish", "ukrainian"}:
            way_out += ", or install the engine's analysis plugin for it"
        draft.gap(f"text.{name}.{option}", f"there is no analyzer {wanted!r} here", way_out)
    if part.k1 is not None or part.b is not None:
        similarity = {
            "type": "BM25",
            "k1": 1.2 if part.k1 is None else part.k1,
            "b": 0.75 if part.b is None else part.b,
        }
        known = draft.settings.setdefault("similarity", {})
        key = next((key for key, value in known.items() if value == similarity), None)
        if key is None:
            key = f"esembed_bm25_{len(known) + 1}"
            known[key] = similarity
        out["similarity"] = key
    if part.keyword:
        out["fields"] = {"keyword": {"type": "keyword", "ignore_above": KEYWORD_LIMIT}}
    return out


def filter_property(name: str, part: FilterField, draft: Draft) -> dict[str, Any]:
    """A field to filter, sort, facet or boost by."""
    out: dict[str, Any] = {"type": part.type}
    if part.format is not None:
        out["format"] = part.format
    if part.type == "rank_feature":
        if not draft.capabilities.rank_feature:
            draft.gap(
                f"filter.{name}.type",
                "there is no rank_feature field here",
                "use a full distribution (with the module mapper-extras), or a numeric type",
            )
        if not part.positive_score_impact:
            out["positive_score_impact"] = False
    return out


def shared(plan: IndexPlan, draft: Draft) -> None:
    """Everything but the vectors: text, filters, hidden fields, the chunks' object, index settings."""
    for name, text in plan.text.items():
        place(draft.properties, name, text_property(name, text, draft))
    for name, filter_field in plan.filter.items():
        place(draft.properties, name, filter_property(name, filter_field, draft))
    # Stored apart: a re-run reads it for every record, and out of _source it costs four times as much
    # where the engine must put the vectors back into that first.
    draft.properties[HASH_FIELD] = {"type": "keyword", "index": False, "store": True}
    if plan.chunk is not None:
        inside = {"text": {"type": "text", "index": False}}
        if plan.chunk.store == "nested":
            place(draft.properties, plan.chunk.path, {"type": "nested", "properties": inside})
        else:
            place(draft.properties, plan.chunk.path, {"properties": inside})
            draft.properties[PARENT_FIELD] = {"type": "keyword"}
    draft.settings["number_of_shards"] = plan.index.shards
    if plan.index.replicas is not None:
        draft.settings["number_of_replicas"] = plan.index.replicas
    if plan.index.refresh_interval is not None:
        draft.settings["refresh_interval"] = plan.index.refresh_interval


def chunked_nested(plan: IndexPlan, part: DenseField | SparseField) -> bool:
    """Whether the field lies inside the nested chunks."""
    return part.chunked and plan.chunk is not None and plan.chunk.store == "nested"
