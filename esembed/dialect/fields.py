"""Which fields a query uses, and whether the live mapping has them.

Engines answer a kNN search on a field that isn't mapped with no hits and no error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from esembed.plan import IndexPlan
from esembed.query.bind import walk
from esembed.query.nodes import Match, MultiMatch, Query, Raw

__all__ = ["mapped_types", "missing_fields", "used_fields"]


def mapped_types(mapping: Mapping[str, Any]) -> dict[str, str]:
    """Field → type of a live mapping (``{"properties": …}``), sub-fields and objects' fields by dotted
    name."""
    found: dict[str, str] = {}

    def visit(properties: Mapping[str, Any], prefix: str) -> None:
        for name, part in properties.items():
            path = f"{prefix}{name}"
            if "type" in part:
                found[path] = str(part["type"])
            elif "properties" in part:
                found[path] = "object"
            visit(part.get("properties") or {}, f"{path}.")
            visit(part.get("fields") or {}, f"{path}.")

    visit(mapping.get("properties") or {}, "")
    return found


def used_fields(query: Query, plan: IndexPlan) -> set[str]:
    """The mapping's names of the fields that a query reads (``raw`` is its author's business)."""
    names: set[str] = set()
    for node in walk(query):
        if isinstance(node, Raw):
            continue
        field = getattr(node, "field", None)
        if isinstance(field, str):
            names.add(plan.field_path(field))
        if isinstance(node, (Match, MultiMatch)):
            fields = node.fields or tuple(plan.text)
            names.update(name.partition("^")[0] for name in fields)
    return names


def missing_fields(names: Iterable[str], types: Mapping[str, str]) -> list[str]:
    """Those of *names* that the mapping lacks."""
    return sorted(name for name in names if name not in types)
