"""From a record to what is stored: id, checked fields and vectors, texts to encode, the content hash."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from datetime import date, datetime, time
from typing import Any, Literal
from uuid import UUID

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from esembed.capabilities import Capabilities
from esembed.dialect.documents import Vectors, dumps
from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD, TEXT_PREFIX
from esembed.dialect.quantize_vectors import is_no_vector, quantize
from esembed.dialect.values import boolean, far_date
from esembed.encode.base import Encoder
from esembed.encode.precomputed import validate_dense, validate_sparse
from esembed.errors import OptionsError, PlanError, RecordError
from esembed.ingest.dead_letters import MARK
from esembed.ingest.options import ALL_FIELDS, IngestOptions, IngestReport
from esembed.ingest.outcomes import Outcomes
from esembed.ingest.record import PreparedRecord, vector_size
from esembed.ingest.sources.mapper import OPS, RecordMapper
from esembed.plan import DenseField, IndexPlan, SparseField, paths
from esembed.scalars import plain
from esembed.types import Document, SparseVector

__all__ = ["PrepareStage", "Preparer", "contract_fingerprint"]

MAX_ID_BYTES = 512
"""Both engines refuse a longer ``_id``."""

MAX_ENCODE_CHARS = 1_000_000
"""Text beyond this is not shown to an encoder that cuts its input anyway: tokenizing 30 MB to keep 512
tokens would take gigabytes."""


def contract_fingerprint(plan: IndexPlan, encoders: Mapping[str, Encoder]) -> str:
    """16 hex digits over all that decides vectors: fields, sources, chunks and the encoders' declared
    half of the contract (never backend, dtype or batch size)."""
    parts: list[Any] = [msgspec.to_builtins(plan.chunk)]
    for name, spec in sorted(plan.vector_fields()):
        settings = {
            "name": name,
            "source": spec.source,
            "separator": spec.separator,
            "chunked": spec.chunked,
            "encoder": spec.encoder,
        }
        encoder = encoders.get(name)
        declared: dict[str, Any] = {}
        if encoder is not None:
            declared = {
                key: getattr(encoder.info, key)
                for key in encoder.info.__dataclass_fields__
                # Queries' prompts change no document's vector, and one model has several specs (its name, its
                # folder).
                if key not in ("runtime", "query_prompt", "spec")
            }
            declared["extra"] = {
                k: v for k, v in dict(declared["extra"]).items() if not k.startswith("query_")
            }
        parts.append((settings, declared))
    data = msgspec.json.encode(parts, order="deterministic", enc_hook=str)
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _naming(source: Mapping[str, Any], error: RecordError) -> RecordError:
    """The same refusal with the field that it is about."""
    for name, value in source.items():
        try:
            dumps({name: value})
        except RecordError as own:
            return RecordError(f"{name!r} {own.message}", field=name)
    return error


def _digest(data: bytes, size: int = 16) -> str:
    return hashlib.blake2b(data, digest_size=size).hexdigest()


class Preparer:
    """Turns records into :class:`PreparedRecord`. Pure but for its lookups in the plan.

    Args:
        plan: the plan.
        encoders: field → encoder, for every vector field that isn't ``precomputed``.
        optional: vector fields that a record may come without, beside the plan's; see IngestOptions.
        on_nan: see IngestOptions.
        require_precomputed: whether a whole record must bring every precomputed vector.

    Attributes:
        encoded, precomputed: fields that are encoded, or brought by the record.
        inside: those of *encoded* whose vectors the engine computes.
        optional: the vector fields that a record may come without.

    Raises:
        PlanError: precomputed vectors of chunks that esembed itself would cut.
        RecordError: a field without an encoder.
        OptionsError: *optional* names a field that is none.
    """

    def __init__(
        self,
        plan: IndexPlan,
        encoders: Mapping[str, Encoder],
        *,
        optional: Collection[str] = (),
        on_nan: Literal["error", "null"] = "error",
        require_precomputed: bool = True,
    ) -> None:
        self.plan = plan
        self.contract = contract_fingerprint(plan, encoders)
        self.encoded = {name: spec for name, spec in plan.vector_fields() if not spec.precomputed}
        self.precomputed = {name: spec for name, spec in plan.vector_fields() if spec.precomputed}
        self._in_objects = plan.object_vectors
        cut = [name for name, spec in self.precomputed.items() if spec.chunked and plan.makes_chunks]
        if cut:
            raise PlanError(
                f"{', '.join(map(repr, cut))}: records can't bring vectors of the chunks that esembed cuts; "
                "leave chunked out there, or make all chunked fields precomputed and bring the chunks, too",
                path=f"{'dense' if cut[0] in plan.dense else 'sparse'}.{cut[0]}",
            )
        self.inside = {name for name, spec in self.encoded.items() if spec.endpoint is not None}
        for name in self.encoded:
            if name not in encoders:
                raise RecordError(f"no encoder for the field {name!r}", field=name)
        self.optional = _optional(plan, optional)
        self._on_nan = on_nan
        self._require_precomputed = require_precomputed
        self._limits = {name: encoders[name].info.max_seq_length is not None for name in self.encoded}
        declared = {*plan.text, *plan.filter, *dict(plan.vector_fields())}
        # What esembed itself puts into a document: a record's own value would be replaced without a word.
        self._kept = [HASH_FIELD, PARENT_FIELD, *(f"{TEXT_PREFIX}{name}" for name in sorted(self.inside))]
        self._strict = plan.index.dynamic == "strict"
        self._declared = declared
        self._path = plan.chunk.path if plan.chunk is not None else ""
        self._nested = plan.chunk is not None and plan.chunk.store == "nested"
        # How the texts of typed fields are read; others stay as they are.
        self._readers: dict[str, Callable[[Any], Any]] = {}
        for name, spec in plan.filter.items():
            if spec.type == "boolean":
                self._readers[name] = boolean
            elif spec.type == "date":
                self._readers[name] = functools.partial(far_date, format=spec.format)

    # -- one record ----------------------------------------------------------------------------

    def prepare(self, document: Document) -> PreparedRecord:
        """Check a record and take it apart.

        Raises:
            RecordError: naming the field and what to do.
        """
        try:
            return self._prepare(document)
        except RecordError as error:
            if error.record_id is None:
                error.record_id = document.id
            if error.position is None:
                error.position = document.position
            raise

    def _prepare(self, document: Document) -> PreparedRecord:
        _check_form(document)
        if document.op == "delete":
            gone = self._checked_id(document.id)
            return PreparedRecord(
                document=document,
                id=gone,
                op="delete",
                source={},
                size=len(gone) + 200,
                version=document.version,
                unless_changed=document.unless_changed,
            )
        # A null in a whole record is a field that isn't there, to both engines; in a partial update it takes
        # the field away.
        source = {k: v for k, v in document.source.items() if v is not None or document.op == "update"}
        for name in self._kept:
            if name in source:
                raise RecordError(
                    f"{name!r} is a field that esembed keeps for itself, and a value for it would be lost: "
                    "rename it or leave it out (a transform); an index that esembed made is read with "
                    "--from-index",
                    field=name,
                )
        if MARK in source:
            raise RecordError(
                "this is a dead letter, not a record; what it holds is tried again with --from-dead-letters "
                "(dead_letter_source)",
                field=MARK,
            )
        for name in _METADATA.intersection(source):
            raise RecordError(
                f"{name!r} is a metadata field of the engine and can't stand in a document", field=name
            )
        vectors, removed = self._take_precomputed(source, document.op)
        source = self._clean(source)
        if self._nested and (flat := paths.flat_below(source, self._path)) is not None:
            # Not in an object, it would be the document's own: one such document and Elasticsearch 9.5.3
            # answers every search in the nested vectors with 500 ("Index 1 out of bounds for length 1").
            raise RecordError(
                f"{flat!r} lies in the nested objects {self._path!r}, and the record brings it beside them: "
                f"put it into the objects of a list under {self._path!r}, or drop it",
                field=flat,
            )
        in_objects = self._check_objects(source)
        if self._nested and self.plan.makes_chunks:
            path = self._path
            if paths.places(source, path):
                raise RecordError(
                    f"the field {path!r} is filled with the chunks, and the record brings a value for it; "
                    "write another path = … into the plan's [chunk], or drop it from the record",
                    field=path,
                )
        for name in self.encoded:
            if document.op == "update" and paths.is_nulled(source, name):
                raise RecordError(
                    f"the update sets the object that {name!r} stands in to null, and its vector would be "
                    "lost: name the fields in it that are to go",
                    field=name,
                )
            if paths.places(source, name):
                raise RecordError(
                    f"the field {name!r} is filled by its encoder, and the record brings a value for it; use "
                    'encoder = "precomputed" in the plan, or drop it from the record',
                    field=name,
                )
        if document.op == "index" and self._require_precomputed:
            for name in self.precomputed:
                if name not in vectors and name not in self.optional and not in_objects.get(name, (0, 0))[0]:
                    where = f" in the objects {self._path!r}" if name in self._in_objects else ""
                    raise RecordError(
                        f"the record brings no vector {name!r}{where}, which the plan says is precomputed; "
                        f"{_make_optional(name)}",
                        field=name,
                    )
        # Sorted: the same record with its fields in another order is unchanged.
        canonical = orjson.dumps(source, option=orjson.OPT_SORT_KEYS) if source else b"{}"
        doc_id: str | None = document.id
        if doc_id is None:
            if document.op == "update":
                raise RecordError("a partial update needs the id of its document")
            given = b"".join(_vector_bytes(vectors[name]) for name in sorted(vectors))
            doc_id = _digest(canonical + given)
        record = PreparedRecord(
            document=document,
            id=self._checked_id(doc_id),
            op=document.op,
            source=source,
            vectors=vectors,
            size=2 * len(canonical) + 500 + sum(vector_size(v) for v in vectors.values()),
            wanted={*removed, *vectors},
            zeros=dict.fromkeys((name for name, zeros in removed.items() if zeros), 1),
            in_objects=in_objects,
            version=document.version,
        )
        if document.op == "index" and self._require_precomputed:
            record.wanted.update(self.precomputed)
        if not record.id.strip():  # but for a delete, since earlier runs took it
            raise RecordError(
                f"the id is blank ({record.id!r}), as that of a record whose key is missing; give it one, or "
                "leave the record out (a transform)"
            )
        if document.op == "index":
            self.complete(record, canonical)
        return record

    def complete(self, record: PreparedRecord, canonical: bytes | None = None) -> None:
        """Texts and hash of a whole document (for a partial update: once it is merged).

        Raises:
            RecordError: a source field is missing, or no text.
        """
        source = record.source
        self.fill_texts(record, source, set(self.encoded))
        if canonical is None:
            canonical = orjson.dumps(source, option=orjson.OPT_SORT_KEYS)
        record.hash = self.content_hash(canonical, record.vectors)

    def content_hash(
        self, canonical: bytes, vectors: Vectors, old: str | None = None, *, removed: Set[str] = frozenset()
    ) -> str:
        """``contract.content.vectors``: contract and content in hex, and one part for precomputed vectors.

        Args:
            canonical: the fields as JSON with sorted keys, vectors left out.
            vectors: the precomputed vectors at hand.
            old: the stored hash, whose parts stand for precomputed vectors that aren't at hand.
            removed: precomputed vectors that aren't at hand since the document loses them.
        """
        parts: list[str] = []
        old_parts = old.split(".")[2].split("-") if old and old.count(".") >= 2 else []
        for number, name in enumerate(sorted(self.precomputed)):
            if name in vectors:
                parts.append(_digest(_vector_bytes(vectors[name]), 8))
            else:
                kept = number < len(old_parts) and name not in removed
                parts.append(old_parts[number] if kept else "0")
        return f"{self.contract}.{_digest(canonical)}.{'-'.join(parts) or '0'}"

    def fill_texts(self, record: PreparedRecord, source: Mapping[str, Any], names: set[str]) -> None:
        """The texts of these fields from *source* into the record."""
        record.wanted |= names
        for name in sorted(names):
            spec = self.encoded[name]
            if spec.chunked and self.plan.chunk is not None:
                continue
            text = self._checked([name], spec.source, spec.source_text(source), source)
            if text is not None:
                if self._limits[name] and len(text) > MAX_ENCODE_CHARS:
                    text = text[:MAX_ENCODE_CHARS]
                record.texts[name] = text
                record.size += len(text)
        chunk = self.plan.chunk
        chunked = sorted(name for name in names if self.encoded[name].chunked)
        if chunk is not None and chunked:
            record.chunk_text = self._checked(chunked, chunk.source, chunk.source_text(source), source)
            record.size += 2 * len(record.chunk_text or "")

    def without_vectors(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """A stored document without what esembed put there, as its record was."""
        out = {k: v for k, v in stored.items() if v is not None}
        for name in (HASH_FIELD, PARENT_FIELD, *self.encoded, *self.precomputed):
            paths.pop(out, name)
        if self.plan.chunk is not None and not self._in_objects:
            paths.pop(out, self.plan.chunk.path)
        return out

    def touches(self, name: str, change: Mapping[str, Any]) -> bool:
        """Whether a partial update changes what this field is encoded from."""
        source = self.plan.vector_source(name)
        keys = {str(key).split(".", 1)[0] for key in change}
        return any(path in change or path.split(".", 1)[0] in keys for path in source)

    # -- ids -----------------------------------------------------------------------------------

    def _checked_id(self, doc_id: str | None) -> str:
        if doc_id is None or doc_id == "":
            raise RecordError(
                "a delete or update record needs an id" if doc_id is None else "the id is empty"
            )
        if not isinstance(doc_id, str):
            raise RecordError(f"the id is of type {type(doc_id).__name__}, not text; make it text")
        try:
            size = len(doc_id.encode("utf-8"))
        except UnicodeEncodeError:
            raise RecordError("the id holds a lone surrogate (half of a character)") from None
        if size > MAX_ID_BYTES:
            raise RecordError(f"the id has {size} bytes; engines take at most {MAX_ID_BYTES}")
        return doc_id

    # -- fields --------------------------------------------------------------------------------

    def _clean(self, source: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        id_field = self.plan.id_field
        for name, value in source.items():
            # A strict mapping refuses the whole document for a field that it doesn't have, and the id is in
            # _id already.
            if self._strict and name in ("id", id_field) and name not in self._declared:
                continue
            if not isinstance(name, str):
                raise RecordError(f"a field name must be a string, not {name!r}")
            # Most values are short texts and small integers, which need no call.
            if type(value) is not str or name in self._readers:
                value = self._clean_value(name, value)
            out[name] = value
        try:
            dumps(out)  # refuses surrogates and unknown types
        except RecordError as error:
            raise _naming(out, error) from error
        return out

    def _clean_value(self, path: str, value: Any, depth: int = 0) -> Any:
        """What databases and data frames hand over, too: scalars by :func:`esembed.scalars.plain`, as those
        of filters, arrays and tuples as lists, a set as a sorted list."""
        if type(value) in _WRITTEN:
            return value
        try:
            value = plain(value)
            if type(value) is str:
                read = self._readers.get(path)
                return value if read is None else read(value)
        except ValueError as error:
            raise RecordError(f"{path}: {error}", field=path) from None
        kind = type(value)
        if kind is int or kind is bool or value is None:
            return value
        if kind is float:
            if math.isfinite(value):
                return value
            if self._on_nan == "null":
                return None
            raise RecordError(
                f"{path} is {value}, which JSON has no form for; leave it out, or ingest with on_nan=null "
                "(--on-nan null)",
                field=path,
            )
        # orjson writes 254 levels. Below that esembed refuses, and names the field.
        if depth > 200:
            raise RecordError(f"{path}: nested too deeply", field=path)
        if isinstance(value, Mapping):
            return {str(k): self._clean_value(f"{path}.{k}", v, depth + 1) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._clean_value(path, v, depth + 1) for v in value]
        if isinstance(value, np.ndarray):
            # One by one: the tolist() of an array of datetime64 gives counts of nanoseconds.
            items = list(value) if value.dtype.kind in "MmO" else value.tolist()
            return self._clean_value(path, items, depth + 1)
        if isinstance(value, (set, frozenset)):  # sorted, so that equal sets have one hash
            return sorted((self._clean_value(path, v, depth + 1) for v in value), key=dumps)
        return value

    def _checked(
        self, names: Sequence[str], fields: Sequence[str], text: str | None, source: Mapping[str, Any]
    ) -> str | None:
        """The text that the fields *names* are made from, if there is something in it; None where a record
        may come without."""
        if text is not None and text.strip():
            return text
        needed = [name for name in names if name not in self.optional]
        if not needed:
            return None
        made, remedy = ", ".join(map(repr, names)), _make_optional(*needed)
        sources = ", ".join(repr(f) for f in fields)
        field = fields[0] if fields else names[0]
        if text is None:
            raise RecordError(
                f"the record has none of the fields {sources} that {made} is made from (it has "
                f"{', '.join(sorted(source)[:12]) or 'no fields'}); map them with fields= (--field), or "
                f"{remedy}",
                field=field,
            )
        raise RecordError(f"the text for {made} (from {sources}) is empty; {remedy}", field=field)

    # -- vectors that the caller brings ----------------------------------------------------------

    def _take_precomputed(
        self, source: dict[str, Any], op: str
    ) -> tuple[dict[str, npt.NDArray[Any] | SparseVector], dict[str, bool]]:
        """The vectors, taken out of *source*, and the fields that the record is to have none in: a vector
        that says nothing is there (True), or an update writes null over it (False)."""
        vectors: dict[str, npt.NDArray[Any] | SparseVector] = {}
        removed: dict[str, bool] = {}
        for name, spec in self.precomputed.items():
            if name in self._in_objects:
                if paths.places(source, name):
                    raise RecordError(
                        f"{name!r} is a field of the objects under {self._path!r}, and the record brings it "
                        "beside them: put each vector into its object",
                        field=name,
                    )
                if op == "update" and name not in self.optional and self._without_objects(source):
                    raise _taken_away(name)
                continue
            # An object around it that is set to null takes the vector with it.
            named = op == "update" and (bool(paths.places(source, name)) or paths.is_nulled(source, name))
            value = paths.pop(source, name)
            if value is None:
                if named and name not in self.optional:
                    raise _taken_away(name)
                if named:
                    removed[name] = False
                continue
            value = _parsed(name, value)
            if isinstance(spec, SparseField):
                vector: npt.NDArray[Any] | SparseVector = validate_sparse(name, value)
            else:
                # Where it may be missing, a vector without a direction is as good as missing.
                vector = validate_dense(name, spec, value, may_be_zero=name in self.optional)
                if not (name in self.optional and spec.has_no_direction(vector)):
                    vector = _as_stored(name, spec, vector)
            if _says_nothing(spec, vector, optional=name in self.optional):
                removed[name] = True
            else:
                vectors[name] = vector
        return vectors, removed

    def _without_objects(self, change: Mapping[str, Any]) -> bool:
        """Whether a partial document takes away all nested objects, and the vectors in them."""
        there = bool(paths.places(change, self._path))
        return paths.is_nulled(change, self._path) or (there and not paths.get(change, self._path))

    def _check_objects(self, source: dict[str, Any]) -> dict[str, tuple[int, int]]:
        """Look at the vectors in the nested objects that a record brings; they stay where they are.

        Returns:
            Field → how many objects have a vector and how many have none; nothing where there are no objects.
        """
        if not self._in_objects or not paths.places(source, self._path):
            return {}
        value = paths.get(source, self._path)
        objects = value if isinstance(value, list) else [] if value is None else [value]
        found = dict.fromkeys(self._in_objects, (0, 0))
        checked: list[Any] = []
        for number, item in enumerate(objects):
            if not isinstance(item, Mapping):
                raise RecordError(
                    f"{self._path}: item {number} is {item!r:.40}, and objects were expected",
                    field=self._path,
                )
            item = dict(item)
            for name, spec in self._in_objects.items():
                have, lack = found[name]
                vector = self._object_vector(f"{self._path}.{name}", spec, item.get(name))
                if vector is None:
                    item.pop(name, None)
                    found[name] = have, lack + 1
                else:
                    item[name] = vector
                    found[name] = have + 1, lack
            checked.append(item)
        if checked:
            paths.put(source, paths.places(source, self._path)[0], checked)
        return found

    def _object_vector(self, path: str, spec: DenseField | SparseField, value: Any) -> Any:
        """A vector of one object, checked, as JSON has it; None where there is none that says something."""
        if value is None:
            return None
        value = _parsed(path, value)
        if isinstance(spec, SparseField):
            sparse = validate_sparse(path, value)
            return None if is_no_vector(spec, sparse) else sparse.to_dict()
        dense = validate_dense(path, spec, value, may_be_zero=True)
        if spec.has_no_direction(dense):
            return None
        return _as_stored(path, spec, dense).tolist()


def _optional(plan: IndexPlan, more: Collection[str]) -> Set[str]:
    """The vector fields that a record may come without. This alone decides it.

    Raises:
        OptionsError: *more* names a field that is none.
    """
    fields = dict(plan.vector_fields())
    if ALL_FIELDS in more:
        return frozenset(fields)
    for name in more:
        if name not in fields:
            raise OptionsError(
                f"the plan has no vector field {name!r} (it has {', '.join(fields) or 'none'})",
                option="options.optional",
            )
    return frozenset(more) | {name for name, field in fields.items() if field.optional}


def _check_form(document: Document) -> None:
    """Raises RecordError for a Document that isn't what its type says: hooks and iterables of a caller's own
    make them."""
    if document.op not in OPS:
        raise RecordError(f"there is no op {document.op!r:.80}; it is index, update or delete")
    if not isinstance(document.source, Mapping):
        raise RecordError(f"a record is a mapping, not a {type(document.source).__name__}")
    if document.routing is None:
        return
    if not isinstance(document.routing, str):
        raise RecordError(f"the routing is of type {type(document.routing).__name__}, not text")
    try:
        document.routing.encode("utf-8")
    except UnicodeEncodeError:
        raise RecordError("the routing holds a lone surrogate (half of a character)") from None


def _taken_away(name: str) -> RecordError:
    return RecordError(
        f"the update takes the vector {name!r} away, which the plan says each document has; send the new "
        f"vector, leave the field out of the update, or {_make_optional(name)}",
        field=name,
    )


def _make_optional(*names: str) -> str:
    """What a person can do where records have no vector."""
    shown = ", ".join(map(repr, names))
    options = " ".join(f"--optional {name}" for name in names)
    return f"let {shown} be missing: optional = true in the plan, or {options} (optional=[{shown}]) once"


def _parsed(name: str, value: Any) -> Any:
    """A record's vector, out of its JSON where it is text. Raises RecordError."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except ValueError:
        raise RecordError(f"{name}: a string that is no JSON vector", field=name) from None


def _says_nothing(
    spec: DenseField | SparseField, vector: npt.NDArray[Any] | SparseVector, *, optional: bool
) -> bool:
    """Whether a record's own vector is as good as none. A dense one may say something by being at the origin
    (l2_norm), so only a missing direction counts, and only where the plan allows that."""
    if isinstance(spec, SparseField):
        return is_no_vector(spec, vector)
    return optional and spec.element_type != "bit" and spec.has_no_direction(np.asarray(vector))


def _as_stored(name: str, spec: DenseField, vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A checked vector as its field takes it: int8 for byte and bit fields, else as it is."""
    if spec.element_type not in ("byte", "bit"):
        return vector
    try:
        return quantize(spec, vector)
    except ValueError as error:
        raise RecordError(f"{name}: {error}", field=name) from None


def _vector_bytes(vector: npt.NDArray[Any] | SparseVector) -> bytes:
    """What a vector's hash is made of."""
    if isinstance(vector, SparseVector):
        pairs = sorted(zip(map(str, vector.indices), vector.values.tolist(), strict=True))
        return orjson.dumps(pairs)
    return vector.tobytes()


_WRITTEN = frozenset({date, datetime, time, UUID})
"""What orjson writes in C exactly as ``plain`` does in Python."""

_METADATA = frozenset(
    {
        "_id",
        "_index",
        "_source",
        "_routing",
        "_field_names",
        "_ignored",
        "_doc_count",
        "_tier",
        "_type",
        "_nested_path",
    }
)


class PrepareStage:
    """Records as they are read → prepared ones: mapped, transformed, checked, taken apart.

    Args:
        plan, capabilities, options: of the run.
        encoders: field → encoder, of every field that is encoded; only what they declare is kept.
        outcomes: counts what is read and what leaves here.

    Attributes:
        preparer: what checks and takes apart; the look-up merges updates with it.

    Raises:
        RecordError: a field without an encoder.
    """

    name = "read"

    def __init__(
        self,
        plan: IndexPlan,
        capabilities: Capabilities,
        options: IngestOptions,
        *,
        encoders: Mapping[str, Encoder],
        outcomes: Outcomes,
    ) -> None:
        self._plan, self._outcomes = plan, outcomes
        self.preparer = Preparer(
            plan,
            encoders,
            optional=(ALL_FIELDS,) if options.on_missing_text == "skip" else options.optional,
            on_nan=options.on_nan,
            require_precomputed=not options.vectors_only,
        )
        declared = {*plan.text, *plan.filter, *dict(plan.vector_fields())}
        self._mapper = RecordMapper(
            id_field=plan.id_field,
            # What is filled in afterward is no newer record.
            version_field=None if options.vectors_only else plan.version_field,
            op_field=None if options.op_field in declared else options.op_field,
            fields=options.fields,
            transform=options.transform,
        )

    def start(self) -> None:
        """Nothing is needed."""

    def report(self) -> IngestReport:
        """Nothing of its own: its outcomes have the counts."""
        return IngestReport()

    def __call__(self, read: Document | RecordError) -> PreparedRecord | None:
        """One record; None where it left the pipeline here.

        Raises:
            RecordError, PermanentError: see :meth:`Outcomes.dead_letter`.
        """
        number = self._outcomes.read(read.position)
        if isinstance(read, RecordError):
            self._outcomes.dead_letter(None, read, readable=False, number=number)
            return None
        meant = None
        try:
            meant = self._mapper(read)
            if meant is None:
                self._outcomes.skipped(number)
                return None
            record = self.preparer.prepare(meant)
        except BaseException as raised:  # noqa: BLE001 - Outcomes.failed decides whose error it is
            known = getattr(raised, "record_id", None) or (read.id if meant is None else meant.id)
            if known is None and meant is None:
                known = self._known_id(read)
            self._outcomes.failed(
                None,
                raised,
                "preparing it",
                document=read,
                record_id=known,
                readable=known is not None,
                number=number,
            )
            return None
        # From here on it is the record as it was read that a dead letter would need: its replay runs the
        # hook and the field mapping again.
        record.document, record.number = read, number
        self._outcomes.identified(record)
        return record

    def _known_id(self, read: Document) -> str | None:
        """The id that stands in a record that isn't prepared. A dead letter whose id is known keeps its
        document from being taken for gone (sync). With a hook or a field mapping the id that stands in the
        record may not be the one that was meant."""
        if self._mapper.changes_ids:
            return None
        for key in ("_id", self._plan.id_field, "id"):
            try:
                value = read.source.get(key) if key else None
                if isinstance(value, (str, int)) and not isinstance(value, bool):
                    return str(value)
            except Exception:  # noqa: BLE001 - a foreign mapping, or an integer of too many digits
                return None
        return None
