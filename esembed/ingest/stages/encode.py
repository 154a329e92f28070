"""The encoding stage: texts and chunks of a batch of records to vectors, every field with its encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from esembed.capabilities import Capabilities
from esembed.dialect.quantize_vectors import is_no_vector
from esembed.encode.base import Encoder, EncodeStats
from esembed.encode.counting import EncodeCounter, counting
from esembed.encode.pool import combined_of
from esembed.encode.processes import ForkSafeLock
from esembed.errors import ContractError, EncoderError, PermanentError, RecordError, message_of
from esembed.ingest.options import IngestOptions, IngestReport
from esembed.ingest.outcomes import Outcomes
from esembed.ingest.record import PreparedRecord, ends_the_run
from esembed.lazy import np
from esembed.plan import DenseField, IndexPlan, SparseField
from esembed.types import SparseVector

__all__ = ["EncodeStage", "Encoders", "encoders_of"]

Encoders = Mapping[str, Encoder] | Callable[[], Mapping[str, Encoder]]
"""Field → encoder, or what makes them."""


Encode = Callable[[Sequence[str]], list[tuple[Any, ...]]]
"""Texts to, for each, (vector, statistics or None) of every field of a group, one after the other."""


def encoders_of(encoders: Encoders) -> Mapping[str, Encoder]:
    """Field → encoder, made now where they aren't there yet."""
    return encoders() if callable(encoders) else encoders


@dataclass(frozen=True, slots=True)
class _Group:
    """Fields whose vectors are made together, and what makes them."""

    fields: Mapping[str, DenseField | SparseField]
    encode: Encode

    @property
    def label(self) -> str:
        return " and ".join(map(repr, self.fields))


class EncodeStage:
    """Fills the vectors of records; those that the engine computes are left to it.

    A dense and a sparse field of one combined encoder, over the same text, are encoded in one pass. Safe to
    call from several threads where the encoders are.

    Args:
        plan, capabilities, options: of the run.
        encoders: field → encoder, or a function that makes them at the start. The stage pickles where this
            does: loaded models mostly don't, a function that loads them does.
        outcomes: takes the records whose text an encoder refuses.

    Attributes:
        shared: the names of the fields that share a pass, two by two; known after the start.
    """

    name = "encode"

    def __init__(
        self,
        plan: IndexPlan,
        capabilities: Capabilities,
        options: IngestOptions,
        *,
        encoders: Encoders,
        outcomes: Outcomes,
    ) -> None:
        self._plan, self._encoders, self._outcomes = plan, encoders, outcomes
        self.shared: list[tuple[str, str]] = []
        self._groups: list[_Group] = []
        self._made = EncodeStats()
        self._made_lock = ForkSafeLock()
        self._totals: list[tuple[Encoder, EncodeStats]] = []
        self._taken: dict[str, str] = {}

    def start(self) -> None:
        """Make the encoders where they aren't there yet, and find out which fields share a pass."""
        encoders = encoders_of(self._encoders)
        fields = {n: spec for n, spec in self._plan.vector_fields() if n in encoders and spec.encoded_here}
        # A class of the user's own may keep totals only: what they grow by is this run's if no other uses it.
        self._totals = [
            (encoder, _totals(encoder))
            for encoder in {id(encoders[name]): encoders[name] for name in fields}.values()
            if not isinstance(encoder.stats, EncodeCounter)
        ]
        taken: set[str] = set()
        for name, spec in fields.items():
            if name in taken:
                continue
            group, encode = {name: spec}, _alone(encoders[name])
            for other, theirs in fields.items():
                whole = combined_of(encoders[name], encoders[other])
                if whole is not None and other not in taken and _same_text(spec, theirs):
                    group[other], encode = theirs, _together(whole)
                    taken.add(other)
                    self.shared.append((name, other))
                    break
            self._groups.append(_Group(group, encode))

    @property
    def tokens(self) -> int:
        """Encoder tokens since the start, all fields together."""
        return self._counted().tokens

    def _counted(self) -> EncodeStats:
        with self._made_lock:
            counted = replace(self._made)
        for encoder, before in self._totals:
            now = _totals(encoder)
            counted.tokens += now.tokens - before.tokens
            counted.truncated += now.truncated - before.truncated
            counted.cost_usd += now.cost_usd - before.cost_usd
        return counted

    def report(self) -> IngestReport:
        """Tokens, truncated texts and cost of this run, whoever else uses the same encoders."""
        counted = self._counted()
        return IngestReport(
            tokens=counted.tokens,
            truncated=counted.truncated,
            cost_usd=counted.cost_usd,
            warnings=[f"{a}, {b}: both vectors from one pass of their model" for a, b in self.shared],
        )

    def __call__(self, records: Sequence[PreparedRecord]) -> list[PreparedRecord]:
        """The records that got their vectors, in order; those that an encoder refuses are dead letters. A
        text that an encoder knows no word of has no vector, and its record goes on without.

        Raises:
            RecordError, PermanentError: see :meth:`Outcomes.dead_letter`; also an encoder that takes no text
                at all.
        """
        dead: set[int] = set()
        for group in self._groups:
            first, spec = next(iter(group.fields.items()))
            chunked = spec.chunked and self._plan.chunk is not None
            slots: list[tuple[int, int]] = []
            texts: list[str] = []
            for at, record in enumerate(records):
                if at in dead or record.op == "delete":
                    continue
                if chunked:
                    for number, text in enumerate(record.chunks or ()):
                        slots.append((at, number))
                        texts.append(text)
                elif first in record.texts:
                    slots.append((at, -1))
                    texts.append(record.texts[first])
            if not texts:
                continue
            with counting() as made:
                try:
                    results = self._encode(group, texts)
                finally:
                    with self._made_lock:
                        self._made.add(made)
            for (at, number), result in zip(slots, results, strict=True):
                if at in dead:
                    continue
                record = records[at]
                if isinstance(result, BaseException):
                    dead.add(at)
                    self._outcomes.failed(record, result, f"encoding it for {group.label}")
                    continue
                for name, (vector, counted) in zip(group.fields, result, strict=True):
                    if counted is not None:
                        record.statistics.setdefault(name, []).append(counted)
                    if is_no_vector(group.fields[name], vector):
                        # The record goes in without it: a search for it would be one for anything.
                        record.zeros[name] = record.zeros.get(name, 0) + 1
                    elif number < 0:
                        record.vectors[name] = vector
                    else:
                        while len(record.chunk_vectors) <= number:
                            record.chunk_vectors.append({})
                        record.chunk_vectors[number][name] = vector
        return [record for at, record in enumerate(records) if at not in dead]

    def _encode(self, group: _Group, texts: Sequence[str]) -> list[Any]:
        """For each text what ``group.encode`` gives, or what was raised for a text that is refused.

        Raises:
            BaseException: what is no single text's fault: the encoder is away, or takes no text at all (any
                more).
        """
        try:
            results = _made(group, texts)
        except BaseException as error:
            if _ends_the_run(error):
                raise
            if len(texts) > 1:
                # One text may spoil a batch: halve until it is alone.
                self._find_one_that_works(group, texts, error)
                middle = len(texts) // 2
                return self._encode(group, texts[:middle]) + self._encode(group, texts[middle:])
            self._try_again(group, error)
            return [_refused(group, error)]
        self._taken.setdefault(group.label, texts[0])
        return results

    def _find_one_that_works(self, group: _Group, texts: Sequence[str], error: BaseException) -> None:
        """Before a batch is halved: when none of a few texts goes through it is the encoder, and its own
        error is raised at once."""
        if group.label in self._taken:
            return
        for text in texts[:8]:
            try:
                _made(group, [text])
            except BaseException as again:
                if _ends_the_run(again):
                    raise
                continue
            self._taken[group.label] = text
            return
        raise error

    def _try_again(self, group: _Group, error: BaseException) -> None:
        """Whether the text is at fault or the encoder is asked of the encoder, with a text that it took
        before: a device that was lost in mid-run would make a dead letter of every record that is left.

        Raises:
            BaseException: the encoder's own error.
        """
        taken = self._taken.get(group.label)
        if taken is None:
            raise error
        _made(group, [taken])


class _WrongCount(PermanentError):
    """An encoder that gives another number of vectors than it got texts: no text is at fault."""


def _ends_the_run(error: BaseException) -> bool:
    # Encoders say with a PermanentError (an endpoint's status 400) that they refuse a text.
    if isinstance(error, PermanentError):
        return isinstance(error, (ContractError, _WrongCount))
    return ends_the_run(error)


def _made(group: _Group, texts: Sequence[str]) -> list[Any]:
    """For each text what ``group.encode`` gives, looked at: what one text makes of an encoder's answer is
    that text's error, too."""
    out = group.encode(texts)
    if len(out) != len(texts):
        raise _WrongCount(f"the encoder of {group.label} returned {len(out)} vectors for {len(texts)} texts")
    return [_checked(group, made) for made in out]


def _checked(group: _Group, made: Sequence[tuple[Any, Any]]) -> Any:
    """What an encoder made of one text, or the RecordError that it can't be stored.

    Raises:
        EncoderError: no vector at all.
    """
    for name, (vector, _) in zip(group.fields, made, strict=True):
        values = vector.values if isinstance(vector, SparseVector) else vector
        if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "fiub":
            form = (
                f"an array of shape {values.shape}, dtype {values.dtype}" if hasattr(values, "dtype") else ""
            )
            raise EncoderError(
                f"it made {form or f'a {type(values).__name__}'} for {name!r}; a vector is an array of real "
                "numbers, shape (dims,)"
            )
        if not np.isfinite(values).all():
            return RecordError(f"the encoder made NaN or infinity for {name!r}", field=name)
    return made


def _refused(group: _Group, error: BaseException) -> RecordError:
    refused = RecordError(
        f"the encoder of {group.label} refuses this text: {message_of(error) or type(error).__name__}",
        field=next(iter(group.fields)),
    )
    refused.__cause__ = error
    return refused


def _totals(encoder: Encoder) -> EncodeStats:
    stats = encoder.stats
    return EncodeStats(tokens=stats.tokens, truncated=stats.truncated, cost_usd=stats.cost_usd)


def _same_text(one: DenseField | SparseField, two: DenseField | SparseField) -> bool:
    return (one.source, one.separator, one.chunked) == (two.source, two.separator, two.chunked)


def _together(whole: Any) -> Encode:
    def encode(texts: Sequence[str]) -> list[tuple[Any, ...]]:
        dense, sparse = whole.encode_document(list(texts))
        return [((row, None), (vector, None)) for row, vector in zip(dense, sparse, strict=True)]

    return encode


def _alone(encoder: Any) -> Encode:
    def encode(texts: Sequence[str]) -> list[tuple[Any, ...]]:
        if hasattr(encoder, "encode_and_count"):
            # One text a call, so that each document's counts can be settled when the engine confirms it.
            out: list[tuple[Any, ...]] = []
            for text in texts:
                vectors, counted = encoder.encode_and_count([text])
                out.append(((vectors[0], counted),))
            return out
        return [((vector, None),) for vector in encoder.encode_document(list(texts))]

    return encode
