"""Which fields a query uses, and whether the live mapping has them.

Engines answer a kNN search on a field that isn't mapped with no hits and no error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from esembed.plan import IndexPlan
from esembed.query.nodes import Query, TextNode

__all__ = ["mapped_formats", "mapped_types", "missing_fields", "nested_path", "type_of", "used_fields"]

KEYED = frozenset({"flattened", "flat_object"})
"""Types whose objects' keys are fields without standing in the mapping (``labels.colour``)."""


def mapped_types(mapping: Mapping[str, Any]) -> dict[str, str]:
    """Field → type of a live mapping (``{"properties": …}``), sub-fields and objects' fields by dotted
    name, and fields computed at search time (``runtime``, ``derived``)."""
    found = {}
    for name, part in _parts(mapping):
        # Nested objects that are indexed as the document's own fields, too, are found without a nested query.
        flat = part.get("include_in_root") or part.get("include_in_parent")
        found[name] = "object" if flat else str(part.get("type", "object"))
    for section in ("runtime", "derived"):
        for name, part in (mapping.get(section) or {}).items():
            found[name] = str(part.get("type", "keyword"))
    return found


def mapped_formats(mapping: Mapping[str, Any]) -> dict[str, str]:
    """Date field → its ``format``, of a live mapping, where it has one of its own."""
    return {name: str(part["format"]) for name, part in _parts(mapping) if "format" in part}


def _parts(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, part in (mapping.get("properties") or {}).items():
        path = f"{prefix}{name}"
        if "type" in part or "properties" in part:
            yield path, part
        yield from _parts(part, f"{path}.")
        yield from _parts({"properties": part.get("fields")}, f"{path}.")


def type_of(name: str, types: Mapping[str, str]) -> str | None:
    """The type of a mapped field, or None where there is none; a key of a flattened object is a keyword."""
    if name in types:
        return types[name]
    base, dot, _ = name.rpartition(".")
    while dot:
        if types.get(base) in KEYED:
            return "keyword"
        base, dot, _ = base.rpartition(".")
    return None


def nested_path(name: str, types: Mapping[str, str]) -> str | None:
    """The innermost nested objects that a field lies in, or None."""
    base, dot, _ = name.rpartition(".")
    while dot:
        if types.get(base) == "nested":
            return base
        base, dot, _ = base.rpartition(".")
    return None


def used_fields(nodes: Iterable[Query], plan: IndexPlan) -> set[str]:
    """The mapping's names of the fields that a query's nodes read (``raw`` is its author's business)."""
    names: set[str] = set()
    for node in nodes:
        field = getattr(node, "field", None)
        if field is not None:
            names.add(plan.field_path(field))
        elif isinstance(node, TextNode):
            fields = getattr(node, "fields", ()) or tuple(plan.text)
            names.update(name.partition("^")[0] for name in fields)
    return names


def missing_fields(names: Iterable[str], types: Mapping[str, str]) -> list[str]:
    """Those of *names* that the mapping lacks."""
    return sorted(name for name in names if type_of(name, types) is None)
