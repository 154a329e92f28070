"""Documents to bulk lines, for each engine. Pure: bytes in the end, no I/O.

Dense vectors travel in the form that the engine takes fastest: base64 of big-endian float32 on
Elasticsearch where it accepts that (https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/dense-vector),
else a JSON list of the shortest decimal form that is the same float32 again (orjson), so nothing is
lost on either way. Sparse weights are written as shortest float32 decimals, too, under the feature
names of :mod:`esembed.encode.tokens`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import orjson

from esembed.capabilities import Capabilities
from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD
from esembed.dialect.quantize import coded
from esembed.encode.tokens import TokenIds, TokenTarget, encode_vector
from esembed.errors import RecordError
from esembed.plan import DenseField, IndexPlan
from esembed.types import SparseVector

__all__ = ["BulkFormat", "Vectors", "action_line", "chunk_id", "dumps"]

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


def action_line(op: str, doc_id: str, **more: Any) -> bytes:
    """The bulk action line, newline included. The index stands in the request's path."""
    return dumps({op: {"_id": doc_id, **more}}) + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkFormat:
    """How one plan's documents are written for one engine.

    Attributes:
        plan: the plan.
        base64_vectors: pack float vectors as base64 (Elasticsearch).
        targets: sparse field → the kind of feature names it takes.
        token_ids: sparse field → its id table (SEISMIC only).
    """

    plan: IndexPlan
    base64_vectors: bool
    targets: Mapping[str, TokenTarget] = field(default_factory=dict)
    token_ids: Mapping[str, TokenIds] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        plan: IndexPlan,
        capabilities: Capabilities,
        token_ids: Mapping[str, TokenIds] | None = None,
    ) -> BulkFormat:
        """The format for an engine with these capabilities."""
        targets: dict[str, TokenTarget] = {}
        for name, part in plan.sparse.items():
            storage = part.storage
            if storage == "auto":
                storage = "sparse_vector" if capabilities.kind == "elasticsearch" else "rank_features"
            kind = "sparse_vector" if storage == "seismic" else storage
            targets[name] = cast(TokenTarget, f"{capabilities.kind}.{kind}")
        return cls(
            plan=plan,
            base64_vectors=capabilities.base64_vectors,
            targets=targets,
            token_ids=dict(token_ids or {}),
        )

    # -- vectors -------------------------------------------------------------------------------

    def dense_value(self, part: DenseField, vector: npt.NDArray[Any]) -> Any:
        """What stands in the document for one dense vector of shape (dims,)."""
        if part.element_type in ("byte", "bit"):
            return np.ascontiguousarray(coded(part, vector))
        if self.base64_vectors and part.element_type == "float":
            return base64.b64encode(np.asarray(vector, dtype=">f4").tobytes()).decode("ascii")
        return np.ascontiguousarray(vector, dtype=np.float32)

    def sparse_value(self, name: str, vector: SparseVector) -> dict[str, Any]:
        """Feature name → weight; features without a weight above zero are not in it.

        Raises:
            RecordError: a weight that is not finite and above zero, a name too long to index.
            EncoderError: SEISMIC without ids for these tokens.
        """
        if len(vector) and not (np.isfinite(vector.values).all() and (vector.values > 0).all()):
            raise RecordError(
                f"{name}: engines take sparse weights that are finite and above 0; leave the others out",
                field=name,
            )
        weights = encode_vector(vector, self.targets[name], self.token_ids.get(name))
        # numpy's own scalars come out of orjson as the shortest float32 form: half the bytes of a double.
        return dict(zip(weights, np.fromiter(weights.values(), np.float32, len(weights)), strict=True))

    def _values(self, vectors: Vectors) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, vector in vectors.items():
            if isinstance(vector, SparseVector):
                out[name] = self.sparse_value(name, vector)
            else:
                out[name] = self.dense_value(self.plan.dense[name], vector)
        return out

    # -- documents -----------------------------------------------------------------------------

    def body(
        self,
        source: Mapping[str, Any],
        vectors: Vectors,
        *,
        content_hash: str | None,
        chunks: Sequence[tuple[str, Vectors]] | None = None,
    ) -> dict[str, Any]:
        """One document as plain values: its fields, its vectors, nested chunks and the hidden hash.

        Args:
            chunks: text and vectors of each chunk, for plans that store them nested.
        """
        out = {**source, **self._values(vectors)}
        if chunks is not None and self.plan.chunk is not None:
            out[self.plan.chunk.path] = [
                {"text": text, **self._values(chunk_vectors)} for text, chunk_vectors in chunks
            ]
        if content_hash is not None:
            out[HASH_FIELD] = content_hash
        return out

    def index_lines(self, doc_id: str, body: Mapping[str, Any]) -> bytes:
        """Action and document: replaces the document whole."""
        return action_line("index", doc_id) + dumps(body) + b"\n"

    def update_lines(self, doc_id: str, body: Mapping[str, Any]) -> bytes:
        """Action and partial document: what is not named in it stays, vectors included; objects are
        merged, so a sparse vector must be cleared (by an empty list) before it is replaced."""
        return action_line("update", doc_id, retry_on_conflict=3) + dumps({"doc": body}) + b"\n"

    def delete_line(self, doc_id: str) -> bytes:
        """Removes the document; no such document is fine."""
        return action_line("delete", doc_id)

    def chunk_body(
        self, parent_id: str, source: Mapping[str, Any], text: str, vectors: Vectors, content_hash: str
    ) -> dict[str, Any]:
        """A chunk that is a document of its own: the parent's filter fields, so that filters reach it,
        its text, its vectors and the parent's id.

        The parent's text fields are left out: they would be found once for each chunk.
        """
        path = self.plan.chunk.path if self.plan.chunk is not None else "chunks"
        kept = {name: source[name] for name in self.plan.filter if name in source}
        return {
            **kept,
            path: {"text": text},
            **self._values(vectors),
            PARENT_FIELD: parent_id,
            HASH_FIELD: content_hash,
        }
