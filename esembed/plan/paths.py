"""Dotted paths into a record, read the way both engines read documents.

``{"meta": {"state": 1}}`` and ``{"meta.state": 1}`` hold the same field, and a list of objects holds the
values of each: Elasticsearch and OpenSearch flatten both when they index a document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["get", "texts"]


def get(record: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None where there is none (or where it is null).

    A key that holds the dots itself comes first, then objects; a path through a list of objects gives the
    flat list of what each of them has.
    """
    if path in record:
        return record[path]
    head, dot, rest = path.partition(".")
    while dot:
        if head in record:
            found = _inside(record[head], rest)
            if found is not None:
                return found
        name, dot, rest = rest.partition(".")
        head = f"{head}.{name}"
    return None


def _inside(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        return get(value, path)
    if isinstance(value, (list, tuple)):
        found: list[Any] = []
        for item in value:
            inner = _inside(item, path)
            if isinstance(inner, (list, tuple)):
                found.extend(inner)
            elif inner is not None:
                found.append(inner)
        return found or None
    return None


def texts(record: Mapping[str, Any], path: str) -> list[str]:
    """What stands at a path, as one text for each value; null values are left out.

    Any scalar is taken as its ``str``: this is for showing stored documents and for drawing known items. What
    an encoder is given goes through ``VectorField.source_text``, which refuses what isn't text.
    """
    value = get(record, path)
    flat = value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]
    return [str(item) for item in flat if item is not None]
