"""What an index says about itself: ``_meta.esembed``, and the field names esembed keeps inside an index.

::

    {"format": 1, "esembed": "0.1.0", "plan": {…}, "contracts": {field: {…}}, "statistics": {field: hash}}

The cluster state holds it, so it stays under 16 KiB; whoever reads it treats it as untrusted input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from esembed.errors import PlanError
from esembed.json_input import JsonInputError, JsonLimits, check_json
from esembed.plan import IndexPlan
from esembed.plan.default_query import lift_learned_query
from esembed.query.nodes import Query, Raw, StoredRaw
from esembed.query.tree import transform

__all__ = [
    "FLOOR",
    "FORMAT",
    "HASH_FIELD",
    "MAX_META_BYTES",
    "META_KEY",
    "PARENT_FIELD",
    "TEXT_PREFIX",
    "StoredMeta",
    "build",
    "check_size",
    "parse",
    "stored_meta",
    "with_meta",
    "with_raw_allowed",
]

HASH_FIELD = "esembed_hash"
"""The hidden field (keyword) with the hash of each document's content and of how it was encoded."""

PARENT_FIELD = "esembed_parent"
"""The hidden field (keyword) with the parent's id, in chunks that are documents of their own."""

NO_CHUNKS: Mapping[str, Any] = {"bool": {"must_not": [{"exists": {"field": PARENT_FIELD}}]}}
"""The clause that finds documents and no such chunks."""

TEXT_PREFIX = "esembed_text_"
"""Before a field's name: the hidden field with the text that the engine is to encode. The ingest pipeline
takes it out again, so it is in no stored document."""

FLOOR = "floor"
"""The key under which ``_meta.esembed`` keeps how random documents score."""

META_KEY = "esembed"
"""Our key in a mapping's ``_meta``."""
FORMAT = 1
"""The version of what stands under it."""
# The engines have no limit (11 MB were accepted), but `_meta` lies in the cluster state, which every node
# holds in memory and every change of a mapping sends around.
MAX_META_BYTES = 16 * 1024
"""The most bytes of ``_meta`` that are written."""
LIMITS = JsonLimits(characters=4 * MAX_META_BYTES, values=20_000, bits=64)
"""How much of it is read: more than was ever written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMeta:
    """``_meta.esembed``, read.

    Attributes:
        plan: the index's plan, ``auto`` values resolved.
        contracts: vector field → encoder contract (see esembed.encode.model_check).
        statistics: lexical field → hash of its term statistics.
        written_by: the esembed version that wrote it.
        rest: keys this version doesn't know, kept when it is written again.
    """

    plan: IndexPlan
    contracts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    statistics: Mapping[str, str] = field(default_factory=dict)
    written_by: str = ""
    rest: Mapping[str, Any] = field(default_factory=dict)


def build(stored: StoredMeta) -> dict[str, Any]:
    """The plain form, in a fixed order of keys.

    Raises:
        PlanError: more than 16 KiB.
    """
    data: dict[str, Any] = {
        "format": FORMAT,
        "esembed": stored.written_by,
        "plan": stored.plan.to_dict(),
        "contracts": {name: dict(contract) for name, contract in sorted(stored.contracts.items())},
        "statistics": dict(sorted(stored.statistics.items())),
        **stored.rest,
    }
    check_size(data)
    return data


def check_size(data: Mapping[str, Any]) -> None:
    """Raises PlanError when *data* takes more than 16 KiB as JSON."""
    size = len(orjson.dumps(data))
    if size > MAX_META_BYTES:
        raise PlanError(
            f"what the index would say about itself takes {size} bytes, the limit is {MAX_META_BYTES}, as "
            "it lives in the cluster state: shorten description and prompts, or use fewer fields"
        )


def parse(data: Mapping[str, Any]) -> StoredMeta:
    """From ``_meta.esembed``, checked like a stranger's input.

    Raises:
        PlanError: too large, a newer format, or not what this version writes.
    """
    try:
        check_json(data, LIMITS)
    except JsonInputError as error:
        raise PlanError(
            f"_meta.esembed: {error}. esembed did not write that; repair it with a plan (esembed index "
            "repair --plan)"
        ) from None
    number = data.get("format")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise PlanError("_meta.esembed has no format number; repair it with a plan")
    if number > FORMAT:
        raise PlanError(f"the index was written by a newer esembed (format {number!s:.20}); update esembed")
    plan, contracts, statistics = (data.get(k, {}) for k in ("plan", "contracts", "statistics"))
    if not all(isinstance(part, Mapping) for part in (plan, contracts, statistics)):
        raise PlanError("_meta.esembed is damaged; repair it with a plan")
    known = {"format", "esembed", "plan", "contracts", "statistics"}
    read = IndexPlan.from_dict(plan, allow_raw=True)
    lifted = lift_learned_query(read.query, data.get("evidence"))
    # Kept, so that it is written back with the rest. Whether it may run, whoever opens the index decides.
    marked = None if lifted is None else _with_raw_as(StoredRaw, lifted)
    return StoredMeta(
        plan=read if marked is read.query else read.replace(query=marked),
        contracts={str(k): v for k, v in contracts.items() if isinstance(v, Mapping)},
        statistics={str(k): v for k, v in statistics.items() if isinstance(v, str)},
        written_by=str(data.get("esembed", "")),
        rest={k: v for k, v in data.items() if k not in known},
    )


def _with_raw_as(kind: type[Raw], query: Query) -> Query:
    """The query with its ``raw`` nodes as nodes of that class."""

    def change(node: Query) -> Query:
        if not isinstance(node, Raw) or type(node) is kind:
            return node
        return kind(bodies=node.bodies, filter=node.filter, name=node.name)

    return transform(query, change)


def with_raw_allowed(stored: StoredMeta) -> StoredMeta:
    """The same for a caller who trusts whoever may write ``_meta``: the default query may run ``raw``."""
    query = stored.plan.query
    allowed = None if query is None else _with_raw_as(Raw, query)
    return stored if allowed is query else replace(stored, plan=stored.plan.replace(query=allowed))


def stored_meta(mapping: Mapping[str, Any]) -> StoredMeta | None:
    """What an index says about itself, from its live mapping; None when it says nothing.

    Raises:
        PlanError: it says something that can't be read.
    """
    own = (mapping.get("_meta") or {}).get(META_KEY)
    if own is None:
        return None
    if not isinstance(own, Mapping):
        raise PlanError("_meta.esembed is damaged; repair it with a plan (esembed index repair --plan)")
    return parse(own)


def with_meta(body: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The body of ``PUT /NAME`` with ``_meta.esembed`` in its mappings."""
    return {**body, "mappings": {"_meta": {META_KEY: dict(own)}, **body["mappings"]}}
