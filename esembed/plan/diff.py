"""Between a plan as it was written and a plan as an index has it: what is open, what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from esembed.errors import PlanError
from esembed.plan.index_plan import IndexPlan

__all__ = ["fill_in", "plan_difference", "with_dims"]


def with_dims(plan: IndexPlan, dims_of: Callable[[str], int | None]) -> IndexPlan:
    """The plan with the dims that were left to the encoders.

    Args:
        dims_of: vector field → its encoder's dims.

    Raises:
        PlanError: an encoder that doesn't say how many it makes.
    """
    dense = dict(plan.dense)
    for name, field in plan.dense.items():
        if field.dims is None:
            dims = field.params.dims or dims_of(name)
            if dims is None:
                raise PlanError(
                    f"the encoder {field.encoder!r} doesn't say how many dims it makes; write dims = …",
                    path=f"dense.{name}.dims",
                )
            dense[name] = msgspec.structs.replace(field, dims=dims)
    return plan.replace(dense=dense) if dense != dict(plan.dense) else plan


def fill_in(plan: IndexPlan, stored: IndexPlan) -> IndexPlan:
    """*plan* with what an index of it settled later (BM25's average length) taken from *stored*, so that
    the two can be compared."""
    sparse = dict(plan.sparse)
    for name, field in plan.sparse.items():
        other = stored.sparse.get(name)
        if other is not None and field.family == "lexical" and field.params.avgdl is None:
            params = msgspec.structs.replace(field.params, avgdl=other.params.avgdl)
            sparse[name] = msgspec.structs.replace(field, params=params)
    query = plan.query if plan.query is not None else stored.query
    return plan.replace(sparse=sparse, query=query)


def plan_difference(old: IndexPlan, new: IndexPlan) -> str:
    """What differs between two plans, by path, for a message; the order of fields doesn't count."""
    before, after = (
        _flat(msgspec.to_builtins(old, enc_hook=str)),
        _flat(msgspec.to_builtins(new, enc_hook=str)),
    )
    changed: list[str] = []
    added, gone = (
        set(_sections(after)) - set(_sections(before)),
        set(_sections(before)) - set(_sections(after)),
    )
    changed += [f"[{name}] is new" for name in sorted(added)]
    changed += [f"[{name}] is gone" for name in sorted(gone)]
    for path in sorted(before.keys() | after.keys()):
        if ".".join(path[:2]) not in added | gone and before.get(path) != after.get(path):
            was, now = _apart(*(_json(side[path]) if path in side else "not set" for side in (before, after)))
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


SHOWN = 80
"""Characters of a value that a message shows."""


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _apart(was: str, now: str) -> tuple[str, str]:
    """Two texts that differ, cut to where they do."""
    if max(len(was), len(now)) <= SHOWN:
        return was, now
    same = next(
        (n for n, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now))
    )
    # Some of what they share shows where that is.
    start = max(0, same - SHOWN // 4)
    return _cut(was, start), _cut(now, start)


def _cut(text: str, start: int) -> str:
    rest = text[start : start + SHOWN]
    return ("…" if start else "") + rest + ("…" if start + SHOWN < len(text) else "")
