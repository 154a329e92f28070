"""A live mapping: which fields it has, how it differs from a plan, what a plan adds to it. Pure.

An index can be older than its plan, or somebody else's: what stands here reads ``GET /NAME`` and says what is
missing, what is different and what may be added.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for, meta
from esembed.dialect.field_types import TEXTS, mapped_parts
from esembed.dialect.mapping import SEARCH_SETTINGS, CompiledMapping
from esembed.errors import PlanError, QueryError, UnsupportedFeatureError
from esembed.plan import ChunkOptions, DenseField, IndexPlan, paths
from esembed.plan.checks import RESERVED
from esembed.query.nodes import MAX_BOOST, MatchPhrase, Query, TextNode

__all__ = [
    "ADOPTED",
    "ExistingFields",
    "attach_mapping",
    "drift",
    "mapped_formats",
    "mapped_types",
    "match_existing_fields",
    "merged_mapping",
    "missing_fields",
    "nested_path",
    "searched_fields",
    "settings_drift",
    "split_boost",
    "type_of",
    "used_fields",
]

_MATCHED = TEXTS - {"semantic_text"}
"""Types that words are looked up in."""
ADOPTED = "adopted"
"""The key under ``_meta.esembed`` with the fields whose mapping somebody else made."""

KEYED = frozenset({"flattened", "flat_object"})
"""Types whose objects' keys are fields without standing in the mapping (``labels.color``)."""


def mapped_types(mapping: Mapping[str, Any]) -> dict[str, str]:
    """Field → type of a live mapping (``{"properties": …}``), sub-fields and objects' fields by dotted
    name, and fields computed at search time (``runtime``, ``derived``)."""
    found: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for name, part in mapped_parts(mapping):
        # Nested objects that are indexed as the document's own fields, too, are found without a nested query.
        flat = part.get("include_in_root") or part.get("include_in_parent")
        found[name] = "object" if flat else str(part.get("type", "object"))
        if found[name] == "alias":
            aliases[name] = str(part.get("path"))
    for section in ("runtime", "derived"):
        for name, part in (mapping.get(section) or {}).items():
            found[name] = str(part.get("type", "keyword"))
    for name, path in aliases.items():
        found[name] = found.get(path, "alias")  # another name of a field, which is used as that field is
    return found


def merged_mapping(mappings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The mappings of several indices that are searched together, as one: every field that one of them has.

    Where two map a field otherwise, the first one's counts. All of them are of one plan, so that is a field
    beside the plan's, and no answer fits both; with the first it is the same one each time.

    Args:
        mappings: in the order of the indices' names.
    """
    whole: dict[str, Any] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            if key in ("properties", "runtime", "derived"):
                whole[key] = _with_more(whole.get(key) or {}, value or {})
            else:
                whole.setdefault(key, value)
    return whole


def _with_more(first: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(first)
    for name, part in more.items():
        mine = out.setdefault(name, part)
        if mine is part or mine.get("type") != part.get("type"):
            continue
        for inside in ("properties", "fields"):  # objects, and sub-fields
            if inside in part:
                out[name] = {**out[name], inside: _with_more(mine.get(inside) or {}, part[inside])}
    return out


def mapped_formats(mapping: Mapping[str, Any]) -> dict[str, str]:
    """Date field → its ``format``, of a live mapping, where it has one of its own."""
    return {name: str(part["format"]) for name, part in mapped_parts(mapping) if "format" in part}


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


def split_boost(text: str, exists: Callable[[str], bool]) -> tuple[str, float]:
    """``"title^2"`` as the field and its boost; the one place where a ``^`` is read.

    A field of an index that esembed didn't make may have ``^`` in its name. One that exists is meant before a
    boost is, so that no other field is searched in its place.

    Args:
        text: a field as a text node names it.
        exists: whether the index has a field of that name.

    Raises:
        QueryError: no number after ``^``, a boost below 0, or a text that means two fields.
    """
    name, mark, number = text.rpartition("^")
    if not mark:
        return text, 1.0
    if exists(text):
        if name and exists(name):
            raise QueryError(
                f"{text!r} is a field of the index, and {name!r} with a boost of {number}: write "
                f"{text + '^1'!r} for the field, {name + '^' + number + '.0'!r} for the boost",
                field=text,
            )
        return text, 1.0
    try:
        boost = float(number)
    except ValueError:
        raise QueryError(f"{text!r}: after ^ a number is expected, as in 'title^2'", field=name) from None
    if not 0 <= boost <= MAX_BOOST:
        raise QueryError(f"{text!r}: the boost must be ≥ 0, and at most {MAX_BOOST:.4g}", field=name)
    return name, boost


def searched_fields(
    node: TextNode, plan: IndexPlan | None, types: Mapping[str, str]
) -> list[tuple[str, float]]:
    """The fields that a text node searches, by their names in the index, with their boosts; a name with ``*``
    stands for all text fields that it fits.

    Raises:
        QueryError: a pattern that fits none; it names none and there is no plan whose text fields it could
            mean, or a wrong boost.
    """
    named = node.named_fields
    if not named:
        if plan is None:
            raise QueryError(
                "match needs fields=[…] where there is no plan to take them from", field="fields"
            )
        if not plan.text:
            raise QueryError("the plan has no text field to match in; name fields=[…]", field="fields")
        return [(name, text.boost) for name, text in plan.text.items()]
    if isinstance(node, MatchPhrase):
        return [(name, 1.0) for name in named]

    def exists(name: str) -> bool:
        planned = plan is not None and (name in plan.text or name in plan.filter)
        return planned or type_of(name, types) is not None

    found: dict[str, float] = {}
    for one in named:
        name, boost = split_boost(one, exists)
        for each in _fitting(name, plan, types) if "*" in name and not exists(name) else [name]:
            found.setdefault(each, boost)
    return list(found.items())


def _fitting(pattern: str, plan: IndexPlan | None, types: Mapping[str, str]) -> list[str]:
    """The text fields whose names fit a pattern with ``*``. Not left to the engine, which would search the
    texts of chunks, and whatever else fits (numbers, our own fields).

    Raises:
        QueryError: there is none.
    """
    chunks = f"{plan.chunk.path}." if plan is not None and plan.chunk is not None else None
    names = dict.fromkeys(plan.text if plan is not None else ())
    for name, kind in types.items():
        own = name.startswith(RESERVED) or (chunks is not None and name.startswith(chunks))
        if kind in _MATCHED and not own and nested_path(name, types) is None:
            names[name] = None
    fits = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL).fullmatch
    found = [name for name in names if fits(name)]
    if not found:
        raise QueryError(
            f"no text field fits {pattern!r} (there are: {', '.join(names) or 'none'})", field="fields"
        )
    return found


def used_fields(nodes: Iterable[Query], plan: IndexPlan, types: Mapping[str, str]) -> set[str]:
    """The mapping's names of the fields that a query's nodes read (``raw`` is its author's business).

    Raises:
        QueryError: as :func:`searched_fields`.
    """
    names: set[str] = set()
    for node in nodes:
        field = getattr(node, "field", None)
        if field is not None:
            names.add(plan.field_path(field))
        elif isinstance(node, TextNode):
            names.update(name for name, _ in searched_fields(node, plan, types))
    return names


def missing_fields(names: Iterable[str], types: Mapping[str, str]) -> list[str]:
    """Those of *names* that the mapping lacks."""
    return sorted(name for name in names if type_of(name, types) is None)


# -- against a plan --------------------------------------------------------------------------------


def drift(
    compiled: CompiledMapping, live: Mapping[str, Any], existing: Collection[str] = ()
) -> tuple[str, ...]:
    """How a live mapping differs from what the plan compiles to, one line for each difference.

    Only what the plan says is compared: defaults that the engine adds are no difference. Fields that
    the plan doesn't know are told, too; empty when all is as planned.

    Args:
        live: the index's mapping (``GET /NAME`` → ``mappings``).
        existing: fields that are as somebody else mapped them.
    """
    planned = compiled.body["mappings"]
    wanted = dict(_leaves(planned["properties"]))
    present = dict(_leaves(live.get("properties") or {}))
    lines: list[str] = []
    plan = compiled.resolved
    if plan.chunk is not None and any(name in existing for name in plan.object_vectors):
        wanted.pop(f"{plan.chunk.path}.text", None)  # in somebody else's objects, which hold what they hold
    existing = {plan.field_path(name) for name in existing}
    # Older indices don't store it apart, which only decides how fast a re-run looks it up.
    wanted[meta.HASH_FIELD] = {k: v for k, v in wanted[meta.HASH_FIELD].items() if k != "store"}
    for path, mapping in wanted.items():
        if path not in present:
            close = difflib.get_close_matches(path, sorted(set(present) - set(wanted)), n=1)
            hint = f" (there is {close[0]!r})" if close else ""
            lines.append(f"- {path}: in the plan, not in the index{hint}")
            continue
        if path not in existing:
            lines += _differences(path, mapping, present[path])
    for path in present:
        if path not in wanted and path not in (meta.HASH_FIELD, meta.PARENT_FIELD):
            lines.append(f"+ {path}: in the index ({present[path].get('type', 'object')}), not in the plan")
    # Engines leave out what is their default, and show booleans as text.
    dynamic = str(live.get("dynamic", "true")).lower()
    if dynamic != planned["dynamic"]:
        lines.append(f"~ dynamic: the plan says {planned['dynamic']}, the index has {dynamic}")
    return tuple(lines)


def settings_drift(compiled: CompiledMapping, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """How an index's settings differ from what the plan says of searching vectors, one line each.

    Args:
        settings: the live settings, under ``index``.
    """
    planned = compiled.body["settings"]["index"]
    lines = []
    for option, (_, _, setting) in SEARCH_SETTINGS.items():
        if setting in planned:
            there = settings.get(setting)
            if there is None:  # engines nest what is dotted, where no setting has the shorter name
                there = paths.get(settings, setting)
            lines += [
                line.replace("~ ", f"~ index.{option} ", 1)
                for line in _differences(f"({setting})", planned[setting], there)
            ]
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
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):  # the last: an integer of 400 digits
        return str(value).lower()


@dataclass(frozen=True, slots=True)
class ExistingFields:
    """A plan's precomputed fields beside those that an index has.

    Attributes:
        plan: the plan, quantization and storage of such fields as the index has them.
        fields: the precomputed fields that the index has.
        problems: how plan and index contradict each other, one line each.
        notes: what was found, one line for each field.
    """

    plan: IndexPlan
    fields: frozenset[str]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def match_existing_fields(
    plan: IndexPlan, mapping: Mapping[str, Any], capabilities: Capabilities
) -> ExistingFields:
    """Fit a plan's precomputed fields to those that the index has; other fields are left as they are.

    Args:
        plan: what the caller wants.
        mapping: the live mapping.
        capabilities: the engine.
    """
    plan, problems, notes = _with_object_paths(plan, mapping)
    live = _flat_properties(mapping.get("properties") or {})
    objects = plan.object_vectors
    if objects and plan.chunk is not None:
        live = {**live, **_inside_nested(live, plan.chunk.path)}
    compiler = dialect_for(capabilities).mapping
    found = {
        name: compiler.read_field(name, field, live[plan.field_path(name)])
        for name, field in plan.vector_fields()
        if field.precomputed and (not field.chunked or name in objects) and plan.field_path(name) in live
    }
    dense, sparse = dict(plan.dense), dict(plan.sparse)
    for name, existing in found.items():
        if isinstance(existing.field, DenseField):
            dense[name] = existing.field
        else:
            sparse[name] = existing.field
    if (dense, sparse) != (dict(plan.dense), dict(plan.sparse)):
        plan = plan.replace(dense=dense, sparse=sparse)
    return ExistingFields(
        plan=plan,
        fields=frozenset(found),
        problems=(*problems, *(line for existing in found.values() for line in existing.problems)),
        notes=(*notes, *(existing.note for existing in found.values() if existing.note)),
    )


def _with_object_paths(
    plan: IndexPlan, mapping: Mapping[str, Any]
) -> tuple[IndexPlan, tuple[str, ...], tuple[str, ...]]:
    """A plan whose dotted precomputed fields lie in nested objects of the index (``chunks.v``), as one whose
    field ``v`` is ``chunked`` under the path ``chunks``: the plan then says by itself that there are nested
    objects, to queries, records and copies. Queries take both names.

    Returns:
        The plan, what stands in the way and what was found, one line each.
    """
    types = mapped_types(mapping)
    places = {
        name: path
        for name, field in plan.vector_fields()
        if field.precomputed and not field.chunked and (path := nested_path(name, types)) is not None
    }
    if not places:
        return plan, (), ()
    path = min(places.values())
    problems: list[str] = []
    own = plan.chunk.path if plan.chunk is not None else path
    taken = {*plan.text, *plan.filter, *(name for name, _ in plan.vector_fields() if name not in places)}
    for name, place in places.items():
        section, short = ("dense" if name in plan.dense else "sparse"), name.removeprefix(f"{place}.")
        if place != own or (plan.chunk is not None and (plan.makes_chunks or plan.chunk.store != "nested")):
            problems.append(
                f"{section}.{name}: it lies in the nested objects {place!r}, and a plan has one path of "
                f"nested objects ({own!r}); leave it out"
            )
        elif "." in short or short in taken:
            problems.append(
                f"{section}.{name}: the plan can't name it {short!r} in the nested objects {place!r}"
            )
    if problems:
        return plan, tuple(problems), ()

    def moved(section: Mapping[str, Any]) -> dict[str, Any]:
        return {
            (name.removeprefix(f"{own}.") if name in places else name): (
                msgspec.structs.replace(field, chunked=True) if name in places else field
            )
            for name, field in section.items()
        }

    plan = plan.replace(
        dense=moved(plan.dense),
        sparse=moved(plan.sparse),
        chunk=plan.chunk or ChunkOptions(source=(), path=own),
    )
    names = ", ".join(repr(name) for name in places)
    note = f"{names}: in nested objects, so the plan has [chunk] path = {own!r} and chunked fields"
    return plan, (), (note,)


def _inside_nested(live: Mapping[str, Mapping[str, Any]], path: str) -> dict[str, Mapping[str, Any]]:
    """The fields of the nested objects at a path, by dotted name."""
    body = live.get(path) or {}
    if body.get("type") != "nested":
        return {}
    return _flat_properties(body.get("properties") or {}, f"{path}.")


def attach_mapping(
    compiled: CompiledMapping,
    mapping: Mapping[str, Any],
    settings: Mapping[str, Any],
    capabilities: Capabilities,
    existing: Collection[str] = (),
) -> dict[str, Any]:
    """The body of ``PUT /NAME/_mapping`` that adds a plan's vector fields to an index that exists.

    Args:
        compiled: the plan, compiled for this engine.
        mapping, settings: the live index's (settings: what stands under ``index``).
        existing: precomputed fields that the index has and keeps as they are.

    Raises:
        PlanError: the plan's text and filter fields are not the index's.
        UnsupportedFeatureError: the index was created without a setting that can't be added later.
    """
    plan = compiled.resolved
    if compiled.pipelines:
        raise UnsupportedFeatureError(
            [
                f"{name}: the engine can't compute vectors for documents that are there already; create an "
                "index from the plan and ingest the records, or name an encoder that runs in your process"
                for name, spec in plan.vector_fields()
                if spec.endpoint is not None
            ],
            profile=f"attach on {capabilities.engine}",
        )
    live, everything = _flat_properties(mapping.get("properties") or {}), mapped_types(mapping)
    wanted = compiled.body["mappings"]["properties"]
    problems = []
    for section in ("text", "filter"):
        for name in getattr(plan, section):
            expected = _flat_properties(wanted).get(name, {}).get("type")
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
    parts = {name: spec for name, spec in plan.vector_fields() if name not in existing}
    own = {plan.field_path(name).partition(".")[0] for name in parts}
    own |= {meta.HASH_FIELD, meta.PARENT_FIELD}
    # Nested objects that somebody else fills stay as they are; those that esembed fills are its own.
    if plan.chunk is not None and not (plan.object_vectors and set(plan.object_vectors) <= set(existing)):
        own.add(plan.chunk.path)
    for name in own:
        if name in (mapping.get("properties") or {}) and name in wanted:
            problems.append(
                f"{name}: the index has a field of that name already; choose another"
                + (', or write encoder = "precomputed" to search what it holds' if name in parts else "")
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
        raise UnsupportedFeatureError(gaps, profile=f"this index on {capabilities.engine}")
    return {"properties": {name: body for name, body in wanted.items() if name in own}}


def _flat_properties(properties: Mapping[str, Any], prefix: str = "") -> dict[str, Mapping[str, Any]]:
    """Field → its mapping, objects' fields by dotted name; nested objects are fields themselves."""
    out: dict[str, Mapping[str, Any]] = {}
    for name, body in properties.items():
        if "properties" in body and body.get("type") != "nested":
            out.update(_flat_properties(body["properties"], f"{prefix}{name}."))
        else:
            out[f"{prefix}{name}"] = body
    return out
