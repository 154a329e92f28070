"""Dotted paths into a record, read the way both engines read documents.

``{"meta": {"state": 1}}`` and ``{"meta.state": 1}`` hold the same field, and a list of objects holds the
values of each: Elasticsearch and OpenSearch flatten both when they index a document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from esembed.errors import RecordError

__all__ = ["align", "flat_below", "get", "is_nulled", "merge", "place", "places", "pop", "put", "texts"]


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


# -- where a path stands -------------------------------------------------------------------------------

Keys = tuple[str, ...]
"""The keys that lead to a value, from the outermost: ``("meta", "state")`` or ``("meta.state",)``."""


def places(record: Mapping[str, Any], path: str) -> list[Keys]:
    """Every place where a path stands in a record, the flat key first; lists of objects are not entered.

    Usually one or none. Two of them are two values of one field to the engines, which read both.
    """
    found: list[Keys] = [(path,)] if path in record else []
    head, dot, rest = path.partition(".")
    while dot:
        inside = record.get(head)
        if isinstance(inside, Mapping):
            found.extend((head, *keys) for keys in places(inside, rest))
        name, dot, rest = rest.partition(".")
        head = f"{head}.{name}"
    return found


def place(record: Mapping[str, Any], path: str) -> Keys:
    """Where a path stands in a record, or is to be put: inside the object that it names, where there is one,
    else under the flat key.

    Elasticsearch (seen on 9.5.3) takes vectors out of ``_source`` and puts them back by the same rule before
    a partial update, whatever form they were sent in; a vector in the other place would be a second one,
    which both engines refuse.
    """
    found = places(record, path)
    if found:
        return found[0]
    head, dot, rest = path.partition(".")
    while dot:
        inside = record.get(head)
        if isinstance(inside, Mapping):
            return (head, *place(inside, rest))
        name, dot, rest = rest.partition(".")
        head = f"{head}.{name}"
    return (path,)


def put(record: dict[str, Any], keys: Keys, value: Any) -> None:
    """Set the value at a place. Objects on the way are copied, so that nobody else's are changed."""
    head, *rest = keys
    if rest:
        inside = record.get(head)
        copy = dict(inside) if isinstance(inside, Mapping) else {}
        put(copy, tuple(rest), value)
        value = copy
    record[head] = value


def pop(record: dict[str, Any], path: str) -> Any:
    """Take a path out of a record, from wherever it stands; the first value that isn't null, or None.

    Objects on the way are copied, and left out where nothing else was in them.
    """
    taken = None
    for keys in places(record, path):
        value = _take(record, keys)
        taken = value if taken is None else taken
    return taken


def _take(record: dict[str, Any], keys: Keys) -> Any:
    head, *rest = keys
    if not rest:
        return record.pop(head, None)
    copy = dict(record[head])
    value = _take(copy, tuple(rest))
    if copy:
        record[head] = copy
    else:
        del record[head]
    return value


# -- partial documents ---------------------------------------------------------------------------------


def merge(current: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """As the engines merge a partial document: objects into objects, everything else replaced. A field set
    to null counts as absent then. Keys are compared as they are written: :func:`align` the change first."""
    out = dict(current)
    for name, value in change.items():
        mine = out.get(name)
        if isinstance(value, Mapping) and isinstance(mine, Mapping):
            out[name] = merge(mine, value)
        elif value is None:
            out.pop(name, None)
        else:
            out[name] = value
    return out


def is_nulled(change: Mapping[str, Any], path: str) -> bool:
    """Whether a partial document sets an object on the way to *path* to null, and so takes away what is in
    it. Null at the path itself doesn't count."""
    head, dot, rest = path.partition(".")
    while dot:
        if head in change:
            inside = change[head]
            if inside is None or (isinstance(inside, Mapping) and is_nulled(inside, rest)):
                return True
        name, dot, rest = rest.partition(".")
        head = f"{head}.{name}"
    return False


def align(stored: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A partial document with every field written where the stored document has it.

    The engines merge by keys as they are written: ``{"meta.state": …}`` beside a stored ``{"meta": {"state":
    …}}`` would be a second value, and the old one would still be found.

    Raises:
        RecordError: a path that stands twice in the change, with different values, or one that leads into a
            stored list of objects.
    """
    out: dict[str, Any] = {}
    seen: dict[str, Any] = {}
    for path, value in _leaves(change, ""):
        if path in seen:
            if seen[path] != value:
                raise RecordError(f"the update holds {path!r} twice, with different values", field=path)
            continue
        seen[path] = value
        blocked = _list_on_the_way(stored, path)
        if blocked is not None:
            raise RecordError(
                f"the update names {path!r}, and the stored document has a list of objects at {blocked!r}: "
                f"send {blocked!r} as a whole",
                field=path,
            )
        mine, *others = places(stored, path) or [place(stored, path)]
        put(out, mine, value)
        if not isinstance(value, Mapping):  # an empty object changes nothing
            # What stands in the way under another spelling: null is no value to the engines.
            for keys in others + _below(stored, path):
                put(out, keys, None)
    return out


def _leaves(value: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, inner in value.items():
        path = f"{prefix}{name}"
        if isinstance(inner, Mapping) and inner:
            found.extend(_leaves(inner, f"{path}."))
        else:
            found.append((path, inner))
    return found


def _below(stored: Mapping[str, Any], path: str) -> list[Keys]:
    """The flat keys of fields that lie inside *path*, which a value for all of it replaces."""
    return [(name,) for name in stored if name.startswith(f"{path}.")]


def flat_below(record: Mapping[str, Any], path: str) -> str | None:
    """A key that holds dots itself and leads below a path (``chunks.page`` below ``chunks``), or None."""
    for name in record:
        if name.startswith(f"{path}."):
            return name
    head, dot, rest = path.partition(".")
    while dot:
        inside = record.get(head)
        if isinstance(inside, Mapping) and (found := flat_below(inside, rest)) is not None:
            return f"{head}.{found}"
        name, dot, rest = rest.partition(".")
        head = f"{head}.{name}"
    return None


def _list_on_the_way(stored: Mapping[str, Any], path: str) -> str | None:
    head, dot, rest = path.partition(".")
    while dot:
        inside = stored.get(head)
        if isinstance(inside, Mapping):
            deeper = _list_on_the_way(inside, rest)
            if deeper is not None:
                return f"{head}.{deeper}"
        elif isinstance(inside, list) and any(isinstance(item, Mapping) for item in inside):
            return head
        name, dot, rest = rest.partition(".")
        head = f"{head}.{name}"
    return None
