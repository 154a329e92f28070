"""Records to bulk lines, and stored documents back to values. Pure: no I/O.

Dense vectors travel in the form that the engine takes fastest: base64 of big-endian float32 on
Elasticsearch where it accepts that (https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/dense-vector),
else a JSON list of the shortest decimal form that is the same float32 again (orjson), so nothing is
lost on either way. Sparse weights are written as shortest float32 decimals, too, under the feature
names of :mod:`esembed.dialect.tokens`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import orjson

from esembed.capabilities import Capabilities
from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD
from esembed.dialect.quantize_vectors import quantize
from esembed.dialect.tokens import TokenTarget, decode, encode_vector
from esembed.errors import AnswerError, EncoderError, RecordError
from esembed.lazy import np, npt
from esembed.plan import DenseField, IndexPlan, SparseField, paths
from esembed.types import FloatArray, SparseVector

__all__ = [
    "BulkFormat",
    "DocumentFormat",
    "PointInTime",
    "Storage",
    "Vectors",
    "action_line",
    "as_of",
    "chunk_id",
    "dumps",
    "random_score",
]


def random_score(seed: int) -> dict[str, Any]:
    """The function of a ``function_score`` by which an engine draws documents at random: the same ones for
    the same seed as long as nothing is written."""
    return {"random_score": {"seed": seed, "field": "_seq_no"}}


Storage = Literal["sparse_vector", "rank_features", "seismic"]
"""How an engine keeps a sparse field; a plan's ``auto`` is resolved."""

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS

_UNKNOWN = "Type is not JSON serializable: "

Vectors = Mapping[str, "npt.NDArray[Any] | SparseVector"]
"""Field name → one vector: an array of shape (dims,), or a sparse vector."""


def dumps(value: Any) -> bytes:
    """JSON bytes.

    Raises:
        RecordError: something that JSON has no form for: a lone surrogate, an unknown type, an
            integer beyond 64 bits, nesting beyond 254 levels.
    """
    try:
        return orjson.dumps(value, option=_OPTIONS)
    except (TypeError, ValueError) as error:  # orjson.JSONEncodeError is a TypeError
        text = str(error)
        if "surrogate" in text:
            text = "a string holds a lone surrogate (half of a character); repair its encoding"
        elif "Recursion" in text:
            text = "nested too deeply (more than 254 levels)"
        elif text.startswith(_UNKNOWN):
            text = (
                f"JSON has no form for a {text.removeprefix(_UNKNOWN)}; make it text or a number (by a "
                "transform hook), or leave the field out"
            )
        raise RecordError(f"can't be written as JSON: {text}") from error


def chunk_id(parent: str, number: int) -> str:
    """The id of a chunk that is a document of its own. ``#`` and a number follow the parent's id."""
    return f"{parent}#{number}"


def action_line(op: str, doc_id: str, *, routing: str | None = None, **more: Any) -> bytes:
    """The bulk action line, newline included. The index stands in the request's path.

    Args:
        routing: which shard has the document, where that isn't its id's.
    """
    if routing is not None:
        more["routing"] = routing
    return dumps({op: {"_id": doc_id, **more}}) + b"\n"


def as_of(version: int) -> dict[str, Any]:
    """What an action says that writes or deletes under a version: the engine refuses it (409) where it has a
    newer one, and keeps this one afterward, of a deleted document for ``index.gc_deletes``."""
    # gte: a request that is sent again, since its answer was lost, is no conflict with itself.
    return {"version": version, "version_type": "external_gte"}


@dataclass(frozen=True, slots=True)
class DocumentFormat:
    """How an engine takes documents and gives them back; an engine's subclass says what differs.

    Attributes:
        capabilities: the engine's.
        auto_storage: what a sparse field's storage ``auto`` is here.
        targets: storage → the kind of feature names that it takes.
        pit: how a point in time is opened and closed.
        vector_doc_values: a dense vector that isn't in ``_source`` can be read from its doc values.
    """

    capabilities: Capabilities

    auto_storage: ClassVar[Storage]
    targets: ClassVar[Mapping[str, TokenTarget]]
    pit: ClassVar[PointInTime]
    vector_doc_values: ClassVar[bool] = False

    def bulk(self, plan: IndexPlan, token_ids: Mapping[str, Mapping[str, int]] | None = None) -> BulkFormat:
        """How one plan's documents are written.

        Args:
            token_ids: sparse field → token → id (SEISMIC only).
        """
        return BulkFormat(plan=plan, format=self, token_ids=dict(token_ids or {}))

    # -- sparse vectors --------------------------------------------------------------------------

    def sparse_storage(self, field: SparseField | None) -> Storage:
        """How the engine keeps a sparse field. This alone resolves ``auto``.

        Args:
            field: None for a field without a plan, which is taken for ``auto``.
        """
        return self.auto_storage if field is None or field.storage == "auto" else field.storage

    def token_target(self, field: SparseField | None) -> TokenTarget:
        """Which feature names the field takes."""
        return self.targets[self.sparse_storage(field)]

    def sparse_value(
        self, name: str, field: SparseField | None, vector: SparseVector, ids: Mapping[str, int] | None = None
    ) -> dict[str, Any]:
        """Feature name → weight; features without a weight above zero are not in it.

        Raises:
            RecordError: a weight that is not finite and above zero, a name too long to index, a token or an
                id that SEISMIC's table doesn't have.
            EncoderError: SEISMIC without a table of ids.
        """
        if len(vector) and not (np.isfinite(vector.values).all() and (vector.values > 0).all()):
            raise RecordError(
                f"{name}: engines take sparse weights that are finite and above 0; leave the others out",
                field=name,
            )
        try:
            weights = encode_vector(vector, self.token_target(field), ids)
        except EncoderError as error:
            if ids is None and not any(isinstance(index, int) for index in vector.indices):
                raise  # the caller's to bring, for all documents
            raise RecordError(f"{name}: {error.message}", field=name) from error
        # numpy's own scalars come out of orjson as the shortest float32 form: half the bytes of a double.
        return dict(zip(weights, np.fromiter(weights.values(), np.float32, len(weights)), strict=True))

    def read_sparse(self, field: SparseField | None, stored: Any) -> Any:
        """Token → weight of a stored sparse vector (SEISMIC: token id → weight); anything else unchanged.

        Raises:
            AnswerError: an object that holds something else.
        """
        if not isinstance(stored, Mapping):
            return stored
        if not all(map(_is_weight, stored.values())):
            raise AnswerError("a stored sparse vector holds a weight that is no number", status=200)
        if self.sparse_storage(field) == "seismic":
            if not all(re.fullmatch("[0-9]{1,10}", name) for name in stored):
                raise AnswerError("a stored sparse vector holds a token id that is no number", status=200)
            return {int(name): weight for name, weight in stored.items()}
        target = self.token_target(field)
        return {decode(name, target): weight for name, weight in stored.items()}

    # -- dense vectors ---------------------------------------------------------------------------

    def dense_value(self, field: DenseField, vector: npt.NDArray[Any]) -> Any:
        """What stands in the document for one dense vector of shape (dims,)."""
        if field.element_type in ("byte", "bit"):
            return np.ascontiguousarray(quantize(field, vector))
        if self.capabilities.base64_vectors and field.element_type == "float":
            # Big-endian, as Elasticsearch reads it from 9.3 on: about half as long as decimals, and nobody
            # has to parse them.
            return base64.b64encode(np.asarray(vector, dtype=">f4").tobytes()).decode("ascii")
        # Contiguous: orjson writes no other array.
        return np.ascontiguousarray(vector, dtype=np.float32)

    @staticmethod
    def read_dense(stored: Any) -> FloatArray | None:
        """float32, shape (dims,), from a stored vector; None where there is none.

        Raises:
            AnswerError: something else stands there.
        """
        # An engine gives back what it was sent: base64 of big-endian floats, or a list.
        try:
            if isinstance(stored, str):
                vector = np.frombuffer(base64.b64decode(stored), dtype=">f4").astype(np.float32)
            elif isinstance(stored, list) and stored:
                vector = np.asarray(stored, dtype=np.float32)
            else:
                return None
        except (ValueError, TypeError, OverflowError) as error:  # OverflowError: an integer of 400 digits
            raise AnswerError(f"a stored vector is no vector: {error!s:.200}", status=200) from None
        if vector.ndim != 1 or not np.isfinite(vector).all():
            raise AnswerError("a stored vector is no list of finite numbers", status=200)
        return vector

    def read_vectors(self, plan: IndexPlan, document: dict[str, Any], names: Collection[str]) -> None:
        """Vectors of a stored document, in place, as records bring them and queries take them.

        Args:
            names: the fields; of chunks that esembed cuts nothing is changed.
        """
        for name in names:
            field = plan.vector_field(name)
            if field is None or field.chunked or not paths.places(document, name):
                continue
            keys = paths.place(document, name)
            value = self._read_vector(field, paths.pop(document, name))
            if value is not None:
                paths.put(document, keys, value)
        objects = {name: field for name, field in plan.object_vectors.items() if name in names}
        for item in _objects(plan, document) if objects else ():
            for name, field in objects.items():
                if name in item:
                    item[name] = self._read_vector(field, item[name])

    def _read_vector(self, field: DenseField | SparseField, stored: Any) -> Any:
        if isinstance(field, SparseField):
            return self.read_sparse(field, stored)
        if not isinstance(stored, str) and field.scale is None:
            return stored
        vector = self.read_dense(stored)
        if vector is None:
            return None
        # A byte field has floats times its scale. Given back as they are, they would be multiplied again by
        # whoever takes them: every number of a vector would end at 127.
        return (vector.astype(np.float64) / (field.scale or 1.0)).tolist()

    # -- bulk ------------------------------------------------------------------------------------

    def bulk_params(self, *, primary_wait_seconds: float) -> dict[str, str]:
        """Parameters of ``_bulk``; the answer comes without what nobody reads.

        Args:
            primary_wait_seconds: how long the engine may wait for a primary shard that is away, where it can
                be told.
        """
        # The index and id of each item, since an ingest pipeline may have changed both.
        kept = ",".join(f"items.*.{name}" for name in ("status", "error", "result", "_index", "_id"))
        return {"filter_path": f"{kept},error,status"}

    # -- reading ---------------------------------------------------------------------------------

    def source_params(self, *, excludes: Sequence[str] = (), vectors: bool = False) -> dict[str, str]:
        """Parameters of ``GET /INDEX/_doc/ID``: stored fields without *excludes*.

        Args:
            vectors: vectors come back, too.
        """
        params = {"_source_excludes": ",".join(excludes)} if excludes else {}
        if vectors and self.capabilities.exclude_vectors:
            # From 9.2 on Elasticsearch leaves vectors out of _source unless told otherwise.
            params["_source_exclude_vectors"] = "false"
        return params

    def source_filter(
        self, *, excludes: Sequence[str] = (), includes: Sequence[str] = (), vectors: bool = False
    ) -> dict[str, Any]:
        """``_source`` of a search body, as :meth:`source_params`; *includes* leaves out all else."""
        source: dict[str, Any] = {"includes": list(includes)} if includes else {"excludes": list(excludes)}
        if vectors and self.capabilities.exclude_vectors:
            source["exclude_vectors"] = False
        return source


def _objects(plan: IndexPlan, document: dict[str, Any]) -> list[dict[str, Any]]:
    """The nested objects with vectors that the records of a plan bring, as copies put into the document."""
    places = paths.places(document, plan.chunk.path) if plan.object_vectors and plan.chunk is not None else []
    if not places:
        return []
    value = paths.get(document, ".".join(places[0]))
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        return []
    copies = [dict(item) for item in value if isinstance(item, Mapping)]
    paths.put(document, places[0], copies)
    return copies


@dataclass(frozen=True, slots=True)
class PointInTime:
    """How an engine's point in time is opened and closed; searches in it are alike.

    Attributes:
        open: the path after ``/INDEX/`` that opens one (``POST``).
        close: the path that closes it (``DELETE``).
        key: where its id stands in the answer, and in the request that closes it.
        closes_many: that request takes a list of ids.
    """

    open: str
    close: str
    key: str
    closes_many: bool

    def close_body(self, id: str) -> dict[str, Any]:
        """The body of the request that closes it."""
        return {self.key: [id] if self.closes_many else id}


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkFormat:
    """How one plan's documents are written for one engine.

    Attributes:
        plan: the plan.
        format: the engine's.
        token_ids: sparse field → token → id (SEISMIC only).
    """

    plan: IndexPlan
    format: DocumentFormat
    token_ids: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def _values(self, vectors: Vectors) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, vector in vectors.items():
            if isinstance(vector, SparseVector):
                field, ids = self.plan.sparse[name], self.token_ids.get(name)
                out[name] = self.format.sparse_value(name, field, vector, ids)
            else:
                out[name] = self.format.dense_value(self.plan.dense[name], vector)
        return out

    # -- documents -----------------------------------------------------------------------------

    def body(
        self,
        source: Mapping[str, Any],
        vectors: Vectors,
        *,
        content_hash: str | None,
        chunks: Sequence[tuple[str, Vectors]] | None = None,
        places: Mapping[str, tuple[str, ...]] | None = None,
        removed: Collection[str] = (),
    ) -> dict[str, Any]:
        """One document as plain values: its fields, its vectors, nested chunks and the hidden hash.

        Args:
            places: vector field → the keys where the stored document has it; None for a whole document.
            chunks: text and vectors of each chunk, for plans that store them nested.
            removed: vector fields that a partial update takes the vector away from.
        """
        out = dict(source)
        # Elasticsearch 9.5.3 refuses null for a sparse_vector, and an empty list for a dense_vector.
        none: dict[str, Any] = {name: [] if name in self.plan.sparse else None for name in removed}
        for name, value in {**none, **self._values(vectors)}.items():
            # Inside the object that a dotted name stands in, else under the name: see paths.place.
            paths.put(out, (places or {}).get(name) or paths.place(source, name), value)
        if chunks is not None and self.plan.chunk is not None:
            out[self.plan.chunk.path] = [
                {"text": text, **self._values(chunk_vectors)} for text, chunk_vectors in chunks
            ]
        self._fill_objects(out)
        if content_hash is not None:
            out[HASH_FIELD] = content_hash
        return out

    def _fill_objects(self, out: dict[str, Any]) -> None:
        """Sparse vectors in the nested objects that a record brought, by the names that the engine has for
        tokens; dense ones stand there as it takes them."""
        for item in _objects(self.plan, out):
            for name, spec in self.plan.object_vectors.items():
                if isinstance(spec, SparseField) and isinstance(item.get(name), Mapping):
                    vector = SparseVector.from_dict(item[name])
                    item[name] = self.format.sparse_value(name, spec, vector, self.token_ids.get(name))

    def index_lines(
        self, doc_id: str, body: Mapping[str, Any], routing: str | None = None, **condition: Any
    ) -> bytes:
        """Action and document: replaces the document whole.

        Args:
            condition: what the action says beside, as ``version``.
        """
        return action_line("index", doc_id, routing=routing, **condition) + dumps(body) + b"\n"

    def update_lines(self, doc_id: str, body: Mapping[str, Any], routing: str | None = None) -> bytes:
        """Action and partial document: what is not named in it stays, vectors included; objects are
        merged, so a sparse vector must be cleared (by an empty list) before it is replaced."""
        # Somebody else may write the document between the engine's own reading and writing of it.
        action = action_line("update", doc_id, routing=routing, retry_on_conflict=3)
        return action + dumps({"doc": body}) + b"\n"

    def delete_line(self, doc_id: str, routing: str | None = None, **condition: Any) -> bytes:
        """Removes the document; no such document is fine. *condition* as for :meth:`index_lines`."""
        return action_line("delete", doc_id, routing=routing, **condition)

    def chunk_body(
        self, parent_id: str, source: Mapping[str, Any], text: str, vectors: Vectors, content_hash: str
    ) -> dict[str, Any]:
        """A chunk that is a document of its own: the parent's filter fields, so that filters reach it,
        its text, its vectors and the parent's id.

        The parent's text fields are left out: they would be found once for each chunk.
        """
        path = self.plan.chunk.path if self.plan.chunk is not None else "chunks"
        kept = {name: paths.get(source, name) for name in self.plan.filter if paths.places(source, name)}
        return {
            **kept,
            path: {"text": text},
            **self._values(vectors),
            PARENT_FIELD: parent_id,
            HASH_FIELD: content_hash,
        }


def _is_weight(value: Any) -> bool:
    # Engines take numbers in quotes, too, and give back what was sent.
    if type(value) is str and len(value) <= 40:
        try:
            value = float(value)
        except ValueError:
            return False
    return type(value) in (int, float) and -1e38 < value < 1e38
