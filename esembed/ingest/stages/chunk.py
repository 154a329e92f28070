"""Long texts into chunks of so many tokens, at sentence, markdown or word boundaries (extra ``chunk``).

The cutting is semantic-text-splitter's (https://docs.rs/text-splitter): the largest units (paragraphs,
sentences, words) that fit, counted by the plan's own encoder where it shows its tokenizer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from esembed.capabilities import Capabilities
from esembed.encode.base import Encoder
from esembed.errors import OptionsError, PlanError
from esembed.ingest.options import IngestOptions, IngestReport
from esembed.ingest.outcomes import Outcomes
from esembed.ingest.record import PreparedRecord
from esembed.ingest.stages.encode import Encoders, encoders_of
from esembed.plan import IndexPlan

__all__ = ["ChunkStage", "Chunker"]


class Chunker:
    """Cuts texts as a plan says.

    Args:
        plan: with a chunk section.
        encoders: field → encoder; the first chunked field's encoder counts the tokens.

    Attributes:
        counted_by: ``tokenizer`` (the encoder's own), ``encoder`` (its token counter) or ``words``
            (the encoder shows neither: a token is taken as three quarters of a word).
        max_tokens: what is kept to, no more than the encoder takes.

    Raises:
        PlanError: no chunk section.
        OptionsError: the extra is missing.
    """

    def __init__(self, plan: IndexPlan, encoders: Mapping[str, Encoder]) -> None:
        if plan.chunk is None:
            raise PlanError("the plan has no [chunk] section", path="chunk")
        try:
            import semantic_text_splitter
        except ModuleNotFoundError as error:
            raise OptionsError(
                'the plan cuts texts into chunks, which needs a splitter: pip install "esembed[chunk]"',
                option="chunk",
            ) from error
        options = plan.chunk
        fields = [name for name, field in plan.vector_fields() if field.chunked and name in encoders]
        encoder: Any = encoders[fields[0]] if fields else None
        limit = encoder.info.max_seq_length if encoder is not None else None
        tokenizer = _tokenizer(encoder)
        # Room for what the encoder adds: its special tokens ([CLS], [SEP]) and its document prompt.
        prompt = encoder.info.document_prompt if encoder is not None else ""
        added = 2 if tokenizer is None else tokenizer.num_special_tokens_to_add(False)
        if prompt and tokenizer is not None:
            added += len(tokenizer.encode(prompt, add_special_tokens=False))
        self.max_tokens = (
            options.max_tokens if limit is None else max(1, min(options.max_tokens, limit - added))
        )
        overlap = min(options.overlap_tokens, self.max_tokens - 1)
        markdown = options.boundary == "markdown"
        splitter: Any = (
            semantic_text_splitter.MarkdownSplitter if markdown else semantic_text_splitter.TextSplitter
        )
        count: Callable[[str], int]
        if tokenizer is not None:
            self.counted_by = "tokenizer"
            count = lambda text: len(tokenizer.encode(text, add_special_tokens=False))  # noqa: E731
        elif hasattr(encoder, "tokens"):
            self.counted_by = "encoder"
            count = lambda text: len(encoder.tokens(text))  # noqa: E731
        else:
            self.counted_by = "words"
            count = lambda text: -(-4 * len(text.split()) // 3)  # noqa: E731
        self._count = count
        self._words = options.boundary == "word"
        self._overlap = overlap
        if self._words:
            self._splitter = None
        elif tokenizer is not None:
            self._splitter = splitter.from_huggingface_tokenizer(tokenizer, self.max_tokens, overlap)
        else:
            self._splitter = splitter.from_callback(count, self.max_tokens, overlap)

    def __call__(self, text: str) -> list[str]:
        """The chunks, in order; each a stretch of *text* with outer white space removed."""
        if self._splitter is not None:
            return list(self._splitter.chunks(text))
        return self._by_words(text)

    def _by_words(self, text: str) -> list[str]:
        words = text.split()
        counts = [max(1, self._count(word)) for word in words]
        out: list[str] = []
        start = 0
        while start < len(words):
            end, total = start, 0
            while end < len(words) and (end == start or total + counts[end] <= self.max_tokens):
                total += counts[end]
                end += 1
            out.append(" ".join(words[start:end]))
            if end == len(words):
                break
            back, repeated = end, 0
            while back - 1 > start and repeated + counts[back - 1] <= self._overlap:
                back -= 1
                repeated += counts[back]
            start = back
        return out


class ChunkStage:
    """Cuts the texts of records, where the plan has chunked fields.

    Args:
        plan, capabilities, options: of the run.
        encoders: field → encoder, or a function that makes them at the start; the first chunked field's
            counts the tokens.
        outcomes: takes the records whose text can't be cut.

    Attributes:
        seconds: how long the cutting took so far.
    """

    name = "chunk"

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
        self._chunker: Chunker | None = None
        self._chunked = {n for n, f in plan.vector_fields() if f.chunked and not f.precomputed}
        self._chunks = 0
        self.seconds = 0.0

    def start(self) -> None:
        """Make the splitter: it is compiled code that doesn't pickle.

        Raises:
            OptionsError: the extra is missing.
        """
        if self._plan.chunk is not None and any(
            field.chunked and not field.precomputed for _, field in self._plan.vector_fields()
        ):
            self._chunker = Chunker(self._plan, encoders_of(self._encoders))

    def report(self) -> IngestReport:
        """The chunks, and what a person should know about how they are measured."""
        return IngestReport(chunks=self._chunks, warnings=self.warnings())

    def warnings(self) -> list[str]:
        """Where chunks are not what the plan says to the letter."""
        if self._chunker is None or self._plan.chunk is None:
            return []
        found = []
        if self._chunker.counted_by == "words":
            found.append(
                "the encoder shows no tokenizer: chunks are measured in words (4 tokens for 3 words)"
            )
        if self._chunker.max_tokens < self._plan.chunk.max_tokens:
            found.append(f"chunks are kept to {self._chunker.max_tokens} tokens, what the encoder takes")
        return found

    def __call__(self, records: Sequence[PreparedRecord]) -> list[PreparedRecord]:
        """Cut what is to be cut, in place. Returns the records that go on.

        Raises:
            RecordError, PermanentError: see :meth:`Outcomes.dead_letter`.
        """
        if self._chunker is None:
            return list(records)
        started = time.monotonic()
        going_on: list[PreparedRecord] = []
        for record in records:
            if record.chunk_text is not None:
                try:
                    record.chunks = self._chunker(record.chunk_text)
                except BaseException as raised:  # noqa: BLE001 - Outcomes.failed decides whose error it is
                    self._outcomes.failed(record, raised, "cutting it into chunks")
                    continue
                record.chunk_vectors = [{} for _ in record.chunks]
                self._chunks += len(record.chunks)
            elif self._chunked & record.wanted:
                # Without a text it has no chunks, which isn't the same as chunks that nobody looks at: those
                # that the index has of an earlier text must go.
                record.chunks = []
            going_on.append(record)
        self.seconds += time.monotonic() - started
        return going_on


def _tokenizer(encoder: Any) -> Any:
    """A copy of the encoder's tokenizer that neither truncates nor pads, or None.

    ``encoder.tokenizer`` is a ``tokenizers.Tokenizer``, or what gives one's JSON by ``to_str``.
    """
    found = getattr(encoder, "tokenizer", None)
    if found is None or not hasattr(found, "to_str"):
        return None
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        return None
    copy = Tokenizer.from_str(found.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
