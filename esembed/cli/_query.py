"""From words on a command line to a query: ``--legs``, ``--filter`` and ``--cross-encoder``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from esembed import query as q
from esembed.cli._connect import UsageError
from esembed.dialect.field_types import WITHOUT_VALUES
from esembed.dialect.live import type_of
from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD, TEXT_PREFIX
from esembed.dialect.values import NUMERIC
from esembed.plan import FilterField, IndexPlan
from esembed.query import Filter

if TYPE_CHECKING:
    from esembed.encode.cross_encoder import CrossEncoder

__all__ = ["Allow", "AllowRaw", "Cross", "cross_encoders", "parse_filters"]

Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-encoder",
        metavar="SPEC",
        help="An encoder that may be loaded because the index names it (minilm and lexical always may).",
    ),
]
"""The option ``--allow-encoder``."""
AllowRaw = Annotated[
    bool,
    typer.Option(
        "--allow-raw",
        help="Run raw engine JSON in the default query that the index holds. Whoever may write to the "
        "index can put it there.",
    ),
]
"""The option ``--allow-raw``."""
Cross = Annotated[
    list[str] | None,
    typer.Option(
        "--cross-encoder",
        metavar="NAME=MODEL",
        help="A reranker: its name in queries, and a folder or model (openvino:MODEL runs it on OpenVINO).",
    ),
]
"""The option ``--cross-encoder``."""

_FRACTIONS = {"float", "double", "half_float", "scaled_float"}
_CLAUSE = re.compile(r"^(?P<field>[^=<>!]+?)\s*(?P<op>>=|<=|!=|=|<|>)\s*(?P<value>.*)$", re.DOTALL)
_BOUNDS = {">=": "gte", ">": "gt", "<=": "lte", "<": "lt"}


def cross_encoders(values: Sequence[str] | None) -> dict[str, CrossEncoder]:
    """Name → the cross-encoder that ``--cross-encoder NAME=MODEL`` names, loaded.

    Raises:
        UsageError: not of that form, or a name that stands there twice.
        EncoderError: no such model, or torch is missing.
    """
    found: dict[str, CrossEncoder] = {}
    for value in values or ():
        name, separator, model = value.partition("=")
        if not separator or not name.strip() or not model.strip() or name.strip() in found:
            raise UsageError(f"--cross-encoder takes NAME=MODEL, each name once, not {value!r}")
        from esembed.encode.cross_encoder import CrossEncoder

        model, prefix = model.strip(), "openvino:"
        found[name.strip()] = CrossEncoder(
            model.removeprefix(prefix), backend="openvino" if model.startswith(prefix) else "auto"
        )
    return found


def parse_filters(
    plan: IndexPlan, texts: Sequence[str], fields: Mapping[str, str] | None = None
) -> Filter | None:
    """``lang=en``, ``year>=2020``, ``state!=draft`` …, all of which must hold.

    The same field with ``=`` several times means one of the values.

    Args:
        plan: the index's plan.
        texts: the conditions.
        fields: field → type of the live mapping (``Index.fields``), for fields that the plan doesn't know.

    Raises:
        UsageError: not of that form, a field that isn't there, a value of another type.
    """
    equal: dict[str, list[bool | int | float | str]] = {}
    positive: list[Filter] = []
    negative: list[Filter] = []
    for text in texts:
        match = _CLAUSE.match(text)
        if match is None:
            raise UsageError(f"--filter: {text!r} is not FIELD=VALUE (or !=, <, <=, >, >=)")
        field, operator, raw = match["field"].strip(), match["op"], match["value"].strip()
        kind = _filter_type(plan, field, fields or {})
        value = _value(field, kind, raw)
        if operator == "=":
            equal.setdefault(field, []).append(value)
        elif operator == "!=":
            negative.append(q.term(field, value))
        elif isinstance(value, bool):
            raise UsageError(f"--filter: {field!r} is true or false; {operator} has no meaning for it")
        else:
            bounds: dict[str, float | str | None] = dict.fromkeys(_BOUNDS.values())
            bounds[_BOUNDS[operator]] = value
            positive.append(
                q.range(field, gte=bounds["gte"], gt=bounds["gt"], lte=bounds["lte"], lt=bounds["lt"])
            )
    for field, values in equal.items():
        positive.append(q.term(field, values[0]) if len(values) == 1 else q.terms(field, values))
    if not positive and not negative:
        return None
    if len(positive) == 1 and not negative:
        return positive[0]
    return q.bool_(filter=positive, must_not=negative)


def _filter_type(plan: IndexPlan, field: str, fields: Mapping[str, str]) -> str:
    found: FilterField | None = plan.filter.get(field)
    if found is not None:
        return found.type
    base, _, suffix = field.rpartition(".")
    if suffix == "keyword" and base in plan.text and plan.text[base].keyword:
        return "keyword"
    kind = "text" if field in plan.text else type_of(field, fields)
    if kind is None and field == plan.id_field:
        return "keyword"  # the document's id, which no field of the index holds
    if kind == "text":
        exact = [name for name in fields if name.startswith(f"{field}.") and fields[name] == "keyword"]
        way = (
            f"filter by {exact[0]}"
            if exact
            else f"give it keyword = true in the plan and filter by {field}.keyword, or add a filter field"
        )
        raise UsageError(f"--filter: {field!r} is a text field, which is searched and not filtered by; {way}")
    if kind is not None:
        return kind
    hidden = {HASH_FIELD, PARENT_FIELD, *(plan.field_path(name) for name, _ in plan.vector_fields())}
    mapped = {
        name
        for name, kind in fields.items()
        if kind not in WITHOUT_VALUES and name not in hidden and not name.startswith(TEXT_PREFIX)
    }
    there = sorted({*plan.filter, *mapped})
    close = difflib.get_close_matches(field, there, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UsageError(
        f"--filter: the index has no field {field!r} to filter by; it has {', '.join(there) or 'none'}{hint}"
    )


def _value(field: str, kind: str, raw: str) -> bool | int | float | str:
    if kind == "boolean":
        if raw.lower() not in ("true", "false"):
            raise UsageError(f"--filter: {field!r} is true or false, not {raw!r}")
        return raw.lower() == "true"
    if kind in NUMERIC:
        try:
            return float(raw) if kind in _FRACTIONS else int(raw)
        except ValueError:
            raise UsageError(f"--filter: {field!r} holds numbers ({kind}), not {raw!r}") from None
    return raw
