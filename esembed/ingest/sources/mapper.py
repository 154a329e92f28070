"""From a record as it was read to the record that is meant: operation, id, field names, transform hook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from esembed.errors import RecordError
from esembed.plan import paths
from esembed.types import Document

__all__ = ["RecordMapper"]

OPS = ("index", "update", "delete")
OTHER_OPS = frozenset(
    (*OPS, "create", "insert", "upsert", "replace", "remove", "c", "u", "d", "i", "r"),
)
"""What change feeds (Debezium's, Maxwell's, databases' own) call their operations, in any case."""


class RecordMapper:
    """Field mapping, the transform hook, id and operation: a record as read → the record as meant.

    Args:
        id_field: the field that holds the id (must be there), else ``_id`` or ``id`` is taken where it
            is, else the id comes from the content.
        op_field: the field that holds the operation of a change feed, or None.
        fields: new name → name in the source (dots reach into objects).
        transform: called with each record (a dict of its own); None leaves the record out.
    """

    def __init__(
        self,
        *,
        id_field: str | None = None,
        op_field: str | None = None,
        fields: Mapping[str, str] | None = None,
        transform: Callable[[dict[str, Any]], Mapping[str, Any] | None] | None = None,
    ) -> None:
        self._id_field = id_field
        self._op_field = op_field
        self._fields = dict(fields or {})
        self._transform = transform

    def __call__(self, document: Document) -> Document | None:
        """The record as meant, or None when the hook left it out.

        Raises:
            RecordError: no id where one is needed, an id that is no string or number, a hook that fails.
        """
        source: Mapping[str, Any] = document.source
        doc_id, op = document.id, document.op
        if doc_id is None and self._op_field is not None and source.get(self._op_field) in OPS:
            source = dict(source)
            op = source.pop(self._op_field)
            body = source.get("doc")
            if (
                op == "update"
                and isinstance(body, Mapping)
                and set(source) <= {"doc", "id", "_id", self._id_field}
            ):
                source = {**{k: v for k, v in source.items() if k != "doc"}, **body}
        elif doc_id is None and self._op_field is not None:
            self._no_other_op(source.get(self._op_field))
        if doc_id is None:
            doc_id, source = self._take_id(source, op)
        if self._fields:
            source = self._rename(source)
        if self._transform is not None and op != "delete":
            try:
                changed = self._transform(dict(source))
            except Exception as error:
                raise RecordError(
                    f"the transform hook failed: {type(error).__name__}: {error}", record_id=doc_id
                ) from error
            if changed is None:
                return None
            if not isinstance(changed, Mapping):
                raise RecordError(
                    f"the transform hook returned a {type(changed).__name__}; it returns the record (a "
                    "mapping) or None to leave it out",
                    record_id=doc_id,
                )
            source = changed
        return replace(document, id=doc_id, source=source, op=op)

    def _no_other_op(self, value: Any) -> None:
        """Another feed's word for an operation must not be stored as if it were a field: a delete would
        write the record."""
        if isinstance(value, str) and value.lower() in OTHER_OPS:
            raise RecordError(
                f"{self._op_field!r} is {value!r}; a change feed says index, update or delete. Translate it "
                "with a transform hook, or set the op_field to another name if this one is data",
                field=self._op_field,
            )

    def _take_id(self, source: Mapping[str, Any], op: str) -> tuple[str | None, Mapping[str, Any]]:
        value: Any
        if "_id" in source:
            value = source["_id"]
            source = {k: v for k, v in source.items() if k != "_id"}
        elif self._id_field is not None:
            value = source.get(self._id_field)
            if value is None:
                raise RecordError(
                    f"the record has no {self._id_field!r}, which the plan names as its id_field",
                    field=self._id_field,
                )
        elif source.get("id") is not None:
            value = source["id"]
        elif op == "index":
            return None, source
        else:
            raise RecordError(f"a record with op {op} needs an id (_id or id)")
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            if hasattr(value, "item") and isinstance(value.item(), (str, int)):
                return str(value.item()), source
            if isinstance(value, UUID):
                return str(value), source
            raise RecordError(f"an id is a string, a whole number or a UUID, not {value!r:.80}")
        return str(value), source

    def _rename(self, source: Mapping[str, Any]) -> Mapping[str, Any]:
        out = {k: v for k, v in source.items() if k not in self._fields.values()}
        for target, path in self._fields.items():
            value = paths.get(source, path)
            if value is not None:
                out[target] = value
        return out
