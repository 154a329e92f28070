"""The encoding stage: texts and chunks of a batch of records to vectors, every field with its encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from esembed.encode.base import Encoder
from esembed.errors import ContractError, PermanentError, RecordError
from esembed.ingest.prepare import Work
from esembed.plan import DenseField, IndexPlan, engine_endpoint
from esembed.types import SparseVector

__all__ = ["BatchEncoder"]


class BatchEncoder:
    """Fills the vectors of works; those that the engine computes are left to it.

    Args:
        plan: the plan.
        encoders: field → encoder.
        on_dead: called with a work whose text the encoder refuses, and the error.
    """

    def __init__(
        self,
        plan: IndexPlan,
        encoders: Mapping[str, Encoder],
        on_dead: Callable[[Work, RecordError], None],
    ) -> None:
        self._plan = plan
        self._fields = [
            (name, part, encoders[name])
            for name, part in plan.vector_fields()
            if name in encoders and engine_endpoint(part.encoder) is None
        ]
        self._on_dead = on_dead
        self._ever_worked: set[str] = set()

    def __call__(self, works: Sequence[Work]) -> list[Work]:
        """The works that got all their vectors, in order; the others went to *on_dead*."""
        dead: set[int] = set()
        for name, part, encoder in self._fields:
            chunked = part.chunked and self._plan.chunk is not None
            slots: list[tuple[int, int]] = []
            texts: list[str] = []
            for at, work in enumerate(works):
                if at in dead or work.op == "delete":
                    continue
                if chunked:
                    for number, text in enumerate(work.chunks or ()):
                        slots.append((at, number))
                        texts.append(text)
                elif name in work.texts:
                    slots.append((at, -1))
                    texts.append(work.texts[name])
            if not texts:
                continue
            results = self._encode(name, encoder, texts)
            for (at, number), result in zip(slots, results, strict=True):
                if at in dead:
                    continue
                work = works[at]
                error = result if isinstance(result, RecordError) else self._flaw(name, part, result[0])
                if error is not None:
                    dead.add(at)
                    error.record_id, error.position = work.id, work.document.position
                    self._on_dead(work, error)
                    continue
                vector, counted = result
                if counted is not None:
                    work.statistics.setdefault(name, []).append(counted)
                if number < 0:
                    work.vectors[name] = vector
                else:
                    while len(work.chunk_vectors) <= number:
                        work.chunk_vectors.append({})
                    work.chunk_vectors[number][name] = vector
        return [work for at, work in enumerate(works) if at not in dead]

    def _flaw(self, name: str, part: Any, vector: Any) -> RecordError | None:
        values = vector.values if isinstance(vector, SparseVector) else vector
        if not np.isfinite(values).all():
            return RecordError(f"the encoder made NaN or infinity for {name!r}", field=name)
        if isinstance(part, DenseField) and part.similarity == "cosine" and not np.any(values):
            return RecordError(f"the encoder made a vector of length 0 for {name!r}", field=name)
        return None

    def _encode(self, name: str, encoder: Encoder, texts: Sequence[str]) -> list[Any]:
        """(vector, statistics or None) for each text, or the RecordError of a text that is refused."""
        try:
            out = _call(encoder, texts)
        except ContractError:
            raise
        except (PermanentError, ValueError, TypeError) as error:
            if len(texts) == 1:
                if name not in self._ever_worked:
                    raise
                return [RecordError(f"the encoder of {name!r} refuses this text: {error}", field=name)]
            # One text may spoil a batch: halve until it is alone. When none goes through at all it
            # is the encoder, and its own error is raised.
            return self._halves(name, encoder, texts, error)
        if len(out) != len(texts):
            raise PermanentError(
                f"the encoder of {name!r} returned {len(out)} vectors for {len(texts)} texts"
            )
        self._ever_worked.add(name)
        return out

    def _halves(self, name: str, encoder: Encoder, texts: Sequence[str], error: Exception) -> list[Any]:
        if name not in self._ever_worked:
            for text in texts[:8]:
                try:
                    _call(encoder, [text])
                except (PermanentError, ValueError, TypeError):
                    continue
                self._ever_worked.add(name)
                break
            else:
                raise error
        middle = len(texts) // 2
        return self._encode(name, encoder, texts[:middle]) + self._encode(name, encoder, texts[middle:])


def _call(encoder: Any, texts: Sequence[str]) -> list[tuple[Any, Any]]:
    if hasattr(encoder, "encode_and_count"):
        # One text a call, so that each document's counts can be settled when the engine confirms it.
        out: list[tuple[Any, Any]] = []
        for text in texts:
            vectors, counted = encoder.encode_and_count([text])
            out.append((vectors[0], counted))
        return out
    return [(vector, None) for vector in encoder.encode_document(list(texts))]
