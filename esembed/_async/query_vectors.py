"""The vectors of queries' texts: cached, encoded together with those of other searches, two in one pass
where a dense and a sparse field share their model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import cached_property
from functools import partial as bind
from typing import Any

from esembed.deadline import ENCODING_SHARE, Deadline
from esembed.dialect.quantize_vectors import is_no_vector
from esembed.encode.base import DenseEncoder, SparseEncoder
from esembed.encode.pool import EncoderPool
from esembed.encode.query_cache import QueryVectorCache
from esembed.errors import EncoderError, TransientError
from esembed.plan import IndexPlan
from esembed.plan.encoders import split_spec
from esembed.plan.fields import PRECOMPUTED
from esembed.query.nodes import DenseVector, SparseWeights
from esembed.types import SparseVector

from ._shim import Batcher, Lock, gather, in_thread
from .deadline import each_by

__all__ = ["AsyncQueryVectors"]

Key = tuple[str, str]
"""A field and a text."""


class AsyncQueryVectors:
    """Vectors of texts as the compiler takes them: tuples of floats, and token → weight.

    Args:
        plan: what the index is.
        pool: the encoders.
        before_encoding: called with a field's name before its first text is encoded.
    """

    def __init__(
        self,
        plan: IndexPlan,
        pool: EncoderPool,
        before_encoding: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._plan = plan
        self._pool = pool
        self._before_encoding = before_encoding
        self._prepared: set[str] = set()
        self._preparing = Lock()
        self._batchers: dict[tuple[str, ...], Batcher] = {}

    @cached_property
    def cache(self) -> QueryVectorCache:
        """Vectors by field and text; made for the first text that is encoded."""
        return QueryVectorCache(self._pool.runtime.query_cache_bytes)

    @cached_property
    def _max_batch(self) -> int:
        return max(1, self._pool.runtime.query_batch)

    @property
    def encode_calls(self) -> int:
        """How many encode calls single searches have made; concurrent ones share them, and so do two
        fields that share a pass."""
        return sum(batcher.calls for batcher in self._batchers.values())

    async def of(
        self, wanted: Sequence[Key], partial: bool, deadline: Deadline | None = None
    ) -> dict[Key, Any]:
        """The vectors of one search, all at the same time.

        Args:
            wanted: fields and texts, each once.
            partial: a field that can't be encoded has its error instead.
            deadline: of the search; with *partial* a share of what is left is for the texts.

        Raises:
            EncoderError, TransientError: a text can't be encoded (in time), unless *partial*.
        """
        absent = [key for key in wanted if key not in self.cache]
        pairs = self._pairs(wanted, absent)
        paired = {key for dense, sparse, text in pairs for key in ((dense, text), (sparse, text))}
        keys: list[tuple[Key, ...]] = [((dense, text), (sparse, text)) for dense, sparse, text in pairs]
        calls = [bind(self._two, dense, sparse, text, partial) for dense, sparse, text in pairs]
        for field, text in wanted:
            if (field, text) not in paired:
                keys.append(((field, text),))
                calls.append(bind(self._one, field, text, partial))
        if deadline is None or not absent:
            found = await gather(*(call() for call in calls))
        else:
            # All at the same time in threads, too: a slow encoder must not use up the time of a fast one that
            # happens to come after it.
            seconds = deadline.left() * (ENCODING_SHARE if partial else 1.0)
            what = [f"the query's vector for {' and '.join(field for field, _ in key)}" for key in keys]
            found = await each_by(deadline, seconds, list(zip(what, calls, strict=True)))
        vectors: dict[Key, Any] = {}
        for fields, some in zip(keys, found, strict=True):
            if not isinstance(some, TransientError):
                vectors.update(some)
            elif partial:
                vectors.update(dict.fromkeys(fields, some))
            else:
                raise some
        return vectors

    async def of_many(self, wanted: Mapping[str, Collection[str]]) -> dict[Key, Any]:
        """The vectors of many searches: an encode call for each field (or two that share a pass) and batch.

        Args:
            wanted: field → distinct texts.
        """
        vectors: dict[Key, Any] = {}
        absent: dict[str, list[str]] = {}
        for field, texts in wanted.items():
            for text in texts:
                cached = self.cache.get(field, text)
                if cached is None:
                    absent.setdefault(field, []).append(text)
                else:
                    vectors[field, text] = cached
        for field in absent:
            await self._prepare(field)
        keys = [(field, text) for field, texts in absent.items() for text in texts]
        groups: dict[tuple[str, ...], list[str]] = {}
        for dense, sparse, text in self._pairs(keys, keys):
            groups.setdefault((dense, sparse), []).append(text)
            absent[dense].remove(text)
            absent[sparse].remove(text)
        groups.update({(field,): texts for field, texts in absent.items() if texts})
        for fields, texts in groups.items():
            encode = self._encoder_of(fields)
            for start in range(0, len(texts), self._max_batch):
                batch = texts[start : start + self._max_batch]
                for text, made in zip(batch, await in_thread(encode, batch), strict=True):
                    for field, vector in zip(fields, made, strict=True):
                        vectors[field, text] = vector
                        self.cache.put(field, text, vector)
        return vectors

    async def warm(self) -> None:
        """Load and run the encoder of every field that a text can be searched in."""
        fields = [field for field, field_spec in self._plan.vector_fields() if field_spec.encoded_here]
        keys = [(field, "warm") for field in fields]
        paired = self._pairs(keys, keys)
        groups: list[tuple[str, ...]] = [(dense, sparse) for dense, sparse, _ in paired]
        groups += [(field,) for field in fields if not any(field in group for group in groups)]
        for group in groups:
            for field in group:
                await self._prepare(field)
            await in_thread(self._encoder_of(group), ["warm"])

    def _pairs(self, wanted: Sequence[Key], absent: Collection[Key]) -> list[tuple[str, str, str]]:
        """Dense field, sparse field and text, where both vectors of a text are to be made by one model."""
        missing = set(absent)
        found = []
        for field, text in wanted:
            other = self._pool.partner(field) if field in self._plan.dense else None
            if other is not None and {(field, text), (other, text)} <= missing:
                found.append((field, other, text))
        return found

    async def _one(self, field: str, text: str, partial: bool) -> dict[Key, Any]:
        cached = self.cache.get(field, text)
        if cached is not None:
            return {(field, text): cached}
        try:
            await self._prepare(field)
            [vector] = await self._batcher((field,))(text)
        except (EncoderError, TransientError) as error:
            if not partial:
                raise
            return {(field, text): error}
        self.cache.put(field, text, vector)
        return {(field, text): vector}

    async def _two(self, dense: str, sparse: str, text: str, partial: bool) -> dict[Key, Any]:
        try:
            await self._prepare(dense)
            await self._prepare(sparse)
            made = await self._batcher((dense, sparse))(text)
        except (EncoderError, TransientError):
            if not partial:
                raise
            # one of them may be encoded all the same
            return {**await self._one(dense, text, True), **await self._one(sparse, text, True)}
        for field, vector in zip((dense, sparse), made, strict=True):
            self.cache.put(field, text, vector)
        return {(dense, text): made[0], (sparse, text): made[1]}

    def _batcher(self, fields: tuple[str, ...]) -> Batcher:
        batcher = self._batchers.get(fields)
        if batcher is None:
            batcher = self._batchers[fields] = Batcher(self._encoder_of(fields), self._max_batch)
        return batcher

    async def _prepare(self, field: str) -> None:
        if field in self._prepared:
            return
        # One after the other: two first searches would both read the term statistics.
        async with self._preparing:
            if field not in self._prepared and self._before_encoding is not None:
                await self._before_encoding(field)
            self._prepared.add(field)

    def _encoder_of(self, fields: tuple[str, ...]) -> Callable[[list[str]], list[tuple[Any, ...]]]:
        """Texts to the vectors of one field, or of two that share a pass, for each."""

        def encode(texts: list[str]) -> list[tuple[Any, ...]]:
            # Searches that share a call often ask for the same text; it is encoded once.
            unique = list(dict.fromkeys(texts))
            whole = self._pool.combined(fields[0]) if len(fields) == 2 else None
            if whole is not None:
                dense, sparse = whole.encode_query(unique)
                found = [self._dense(fields[0], dense), _sparse(sparse)]
            else:
                found = [self._encode(field, unique) for field in fields]
            by_text = dict(zip(unique, zip(*found, strict=True), strict=True))
            return [by_text[text] for text in texts]

        return encode

    def _encode(self, field: str, texts: list[str]) -> list[Any]:
        encoder = self._pool.encoder(field)
        if split_spec(encoder.info.spec)[0] == PRECOMPUTED:
            raise EncoderError(
                f"{field} is precomputed by the caller: a text can't be searched in it; pass vector=…",
                spec=PRECOMPUTED,
            )
        if isinstance(encoder, SparseEncoder) and encoder.info.type == "sparse":
            return _sparse(encoder.encode_query(texts))
        if isinstance(encoder, DenseEncoder):
            return self._dense(field, encoder.encode_query(texts))
        raise EncoderError(f"{field}: {encoder!r} has no encode_query")

    def _dense(self, field: str, rows: Any) -> list[Any]:
        found = [_checked(DenseVector, row) for row in rows.tolist()]
        spec = self._plan.dense.get(field)
        if spec is None:
            return found
        return [
            DenseVector.nothing() if is_no_vector(spec, row) else vector
            for row, vector in zip(rows, found, strict=True)
        ]


def _sparse(vectors: Any) -> list[Any]:
    found = []
    for vector in vectors:
        weights = vector.to_dict() if isinstance(vector, SparseVector) else dict(vector)
        found.append(_checked(SparseWeights, {token: w for token, w in weights.items() if w != 0}))
    return found


def _checked(kind: type[DenseVector] | type[SparseWeights], values: Any) -> Any:
    """A vector as query nodes keep it, so that it is checked here and once, not at every search."""
    try:
        return kind(values)
    except ValueError as error:
        raise EncoderError(f"the encoder's query vector can't be searched with: {error}") from None
