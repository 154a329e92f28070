"""From a record as it was read to the record that is meant: transform hook, field names, operation and id.

In this order: the hook sees the record before anything was taken out of it, so it can unwrap a change feed's
envelope (Debezium's ``before`` and ``after``, DynamoDB's ``NewImage``), make an id, or say that a record is a
delete. An operation that was read before the hook would be the envelope's, and a delete that only the hook
knows of would overwrite the document with its tombstone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from esembed.errors import RecordError
from esembed.ingest.record import as_record_error
from esembed.lazy import np
from esembed.plan import paths
from esembed.scalars import identifier, plain
from esembed.types import Document

__all__ = ["OPS", "RecordMapper", "as_id"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
OPS = ("index", "update", "delete")
OTHER_OPS = frozenset(
    (*OPS, "create", "insert", "upsert", "replace", "remove", "c", "u", "d", "i", "r"),
)
"""What change feeds (Debezium's, Maxwell's, databases' own) call their operations, in any case."""


def as_id(value: Any) -> str:
    """A document id from what a record holds. Raises RecordError for what is none."""
    try:
        return identifier(value)
    except ValueError as error:
        raise RecordError(str(error)) from None


def as_version(value: Any, name: str) -> int:
    """A version that engines take: a whole number, or a time as microseconds since 1970.

    Raises:
        RecordError: anything else; *name* is the field.
    """
    found: Any = plain(value)
    if isinstance(found, str):
        try:
            # Python 3.10 reads no Z.
            moment = datetime.fromisoformat(found.replace("Z", "+00:00"))
        except ValueError:
            found = int(found) if found.isascii() and found.isdigit() and len(found) < 20 else None
        else:
            moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
            found = (moment - _EPOCH) // timedelta(microseconds=1)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 2**63:
        raise RecordError(
            f"{value!r:.80} in {name!r} is no version: a whole number from 0 to 2^63 - 1, or a time",
            field=name,
        )
    return found


class RecordMapper:
    """Transform hook, field mapping, operation and id: a record as read → the record as meant.

    Args:
        id_field: the field that holds the id (must be there), else ``_id`` or ``id`` is taken where it
            is, else the id comes from the content.
        op_field: the field that holds the operation of a change feed, or None.
        version_field: the field that says which of two records of one id is the newer one, or None.
        fields: new name → name in the source (dots reach into objects).
        transform: called with each record (a dict of its own, which it may change); None leaves it out.
    """

    def __init__(
        self,
        *,
        id_field: str | None = None,
        op_field: str | None = None,
        version_field: str | None = None,
        fields: Mapping[str, str] | None = None,
        transform: Callable[[dict[str, Any]], Mapping[str, Any] | None] | None = None,
    ) -> None:
        self._id_field = id_field
        self._op_field = op_field
        self._version_field = version_field
        self._fields = dict(fields or {})
        self._transform = transform

    @property
    def changes_ids(self) -> bool:
        """Whether the id that is meant may be another one than stands in the record as it was read."""
        return self._transform is not None or bool(self._fields)

    def __call__(self, document: Document) -> Document | None:
        """The record as meant, or None when the hook left it out. *document* is never changed.

        Raises:
            RecordError: no id where one is needed, an id that is no string or number, a hook that fails.
        """
        source: Mapping[str, Any] = document.source
        # A document that is a delete as such (Document(op="delete")) has no record to transform.
        if self._transform is not None and document.op != "delete":
            changed = self._transformed(source)
            if changed is None:
                return None
            source = changed
        if self._fields:
            source = self._rename(source)
        doc_id, op = document.id, document.op
        # A document that came with its id is no record of a feed: its "op" is data (one that is copied from
        # another index), unless the hook put it there.
        op_field = self._op_field
        if op_field is not None and (doc_id is None or _put(op_field, source, document.source)):
            said = source.get(op_field)
            if isinstance(said, str) and said in OPS:
                op, source = self._of_feed(source, op_field)
            else:
                self._no_other_op(said)
        if doc_id is None or _put("_id", source, document.source):
            doc_id, source = self._take_id(source, op)
        version = document.version
        if version is None and self._version_field is not None:
            version = self._version(source, op, self._version_field)
        return replace(document, id=doc_id, source=source, op=op, version=version)

    def _version(self, source: Mapping[str, Any], op: str, name: str) -> int | None:
        """The record's version, or None for a delete or an update that comes without a record."""
        value = paths.get(source, name)
        if value is None:
            if op == "index" or source:
                if op == "update":
                    return None  # it changes what is there, whatever version that is
                raise RecordError(
                    f"the record has no {name!r}, which the plan names as its version_field", field=name
                )
            return None
        if op == "update":
            raise RecordError(
                f"a partial update can't carry a version ({name!r}): it changes the document that is there, "
                "under its version; send the whole record, or leave the field out",
                field=name,
            )
        return as_version(value, name)

    def _transformed(self, source: Mapping[str, Any]) -> Mapping[str, Any] | None:
        assert self._transform is not None
        try:
            changed = self._transform(_copied(source))
        except Exception as error:
            raise as_record_error(error, "the transform hook") from error
        if changed is not None and not isinstance(changed, Mapping):
            raise RecordError(
                f"the transform hook returned a {type(changed).__name__}; it returns the record (a "
                "mapping) or None to leave it out"
            )
        return changed

    def _of_feed(self, source: Mapping[str, Any], op_field: str) -> tuple[Any, Mapping[str, Any]]:
        """The operation of a feed's record, and the record without it."""
        source = dict(source)
        op = str(source.pop(op_field))
        # As in a file for _bulk, an update's fields may stand under "doc". Beside other fields "doc" is one
        # of them.
        body = source.get("doc")
        if (
            op == "update"
            and isinstance(body, Mapping)
            and set(source) <= {"doc", "id", "_id", self._id_field}
        ):
            source = {**{k: v for k, v in source.items() if k != "doc"}, **body}
        return op, source

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
        return as_id(value), source

    def _rename(self, source: Mapping[str, Any]) -> Mapping[str, Any]:
        out = {k: v for k, v in source.items() if k not in self._fields.values()}
        for target, path in self._fields.items():
            value = paths.get(source, path)
            if value is not None:
                out[target] = value
        return out


_ABSENT = object()


def _put(name: str, now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a hook or the field mapping put this there. By identity: values may not be comparable."""
    return name in now and now[name] is not before.get(name, _ABSENT)


def _copied(value: Any) -> Any:
    """A record of the hook's own, down to its lists and arrays: what it changes in place must change neither
    the caller's object nor what a dead letter holds. What can't be changed is shared."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value.copy() if isinstance(value, (np.ndarray, set, bytearray)) else value
