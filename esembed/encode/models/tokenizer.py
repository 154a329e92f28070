"""Text to token ids: Hugging Face ``tokenizers`` with our own truncation, and none of its padding."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from esembed.encode.foreign_errors import foreign_errors, shown
from esembed.encode.models.tokenizer_files import read_tokenizer
from esembed.errors import EncoderError

if TYPE_CHECKING:
    from esembed.encode.models.folder import ModelFiles

__all__ = ["TextTokenizer", "Tokenized"]


_MOST_TOKENS = 1 << 24


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Token ids of some texts.

    Attributes:
        ids: for each text an int32 array of at least one token.
        truncated: how many texts were longer than the model takes.
    """

    ids: list[npt.NDArray[np.int32]]
    truncated: int


class TextTokenizer:
    """A model's tokenizer.

    Args:
        files: the model.
        max_seq_length: tokens kept of each text, special tokens included; None for all.

    Attributes:
        pad_id: the id that fills rows of a batch.
        applied: options with an effect on ids that the tokenizer's hash doesn't cover, for the contract.

    Raises:
        EncoderError: the model has no tokenizer that can be read here.
    """

    def __init__(self, files: ModelFiles, max_seq_length: int | None) -> None:
        from tokenizers import normalizers

        folder = files.transformer_folder
        found = read_tokenizer(folder, files.name)
        tokenizer, options = found.tokenizer, found.options
        self.applied: Mapping[str, Any] = found.applied
        # all-MiniLM-L6-v2's tokenizer.json pads and cuts each text at 128 tokens, where the model says 256.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer, self._name = tokenizer, files.name
        own = self._own_tokens()
        if max_seq_length is not None:
            least = own + 1
            if max_seq_length < least:
                raise EncoderError(
                    f"{files.name}: max_seq_length={max_seq_length} (your option, or the limit of "
                    "sentence_bert_config.json, tokenizer_config.json or config.json) leaves no room for "
                    f"text: take at least {least}",
                    spec=files.name,
                )
            side = str(options.get("truncation_side", "right"))
            tokenizer.enable_truncation(max_length=max_seq_length, direction=side)
        if files.lower_case and "Lowercase" not in str(tokenizer.normalizer):
            parts = [normalizers.Lowercase()]
            if tokenizer.normalizer is not None:
                parts.append(tokenizer.normalizer)
            tokenizer.normalizer = normalizers.Sequence(parts)
        self.pad_id = self._pad_id(files, options)

    def _own_tokens(self) -> int:
        """How many tokens it puts around a text: each one of the vocabulary's, which :func:`check_tokens`
        compares with the model's rows. The limit of tokens counts on the text being in there once."""
        with self._library("read a text"):
            own = self._tokenizer.num_special_tokens_to_add(False)
            # add_special_tokens=False leaves out the tokens only: a text that stands twice stays twice
            steps, self._tokenizer.post_processor = self._tokenizer.post_processor, None
            text = self._readable()
            bare = len(self._tokenizer.encode(text).ids)
            self._tokenizer.post_processor = steps
            ids = self._tokenizer.encode(text).ids
        full = len(ids)
        if unknown := [one for one in ids if self._tokenizer.id_to_token(one) is None]:
            raise EncoderError(
                f"{self._name}: post_processor in tokenizer.json puts the id {unknown[0]} around each text, "
                "which no token of the vocabulary has. Take the tokenizer from where the model was published",
                spec=self._name,
            )
        if full != bare + own:
            raise EncoderError(
                f"{self._name}: post_processor in tokenizer.json makes {full} tokens of a text of {bare} and "
                f"its own {own}. Take the tokenizer from where the model was published",
                spec=self._name,
            )
        return int(own)

    def _readable(self) -> str:
        """A text that the vocabulary has something for. One of few words and no unknown token has nothing for
        most texts, and raises; none is read then."""
        words: Iterable[str] = itertools.islice(self._tokenizer.get_vocab(True), 10)
        for text in ("a", *words):
            try:
                with foreign_errors(text, "be read"):
                    self._tokenizer.encode(text)
            except EncoderError:
                continue
            return text
        return ""

    def _library(self, doing: str) -> AbstractContextManager[None]:
        return foreign_errors(f"{self._name}: its tokenizer", f"{doing} by tokenizer.json", spec=self._name)

    def _pad_id(self, files: ModelFiles, options: Mapping[str, Any]) -> int:
        token = options.get("pad_token") or options.get("eos_token")
        if isinstance(token, dict):
            token = token.get("content")
        found = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
        if found is None:
            found = files.config.get("pad_token_id")
        # padding is masked, so that any row will do; -1 and ids beyond the table are found in configs
        return found if isinstance(found, int) and 0 <= found < self.vocabulary_size else 0

    @cached_property
    def vocabulary_size(self) -> int:
        """The largest token id + 1, added tokens included.

        Raises:
            EncoderError: it is beyond any vocabulary; memory would be asked for by this number.
        """
        last, token = max(((place, token) for token, place in self.tokens().items()), default=(-1, ""))
        if last >= _MOST_TOKENS:
            raise EncoderError(
                f"{self._name}: tokenizer.json has the id {last} for {shown(token)}, beyond any vocabulary",
                spec=self._name,
            )
        return last + 1

    def id_to_token(self, token: int) -> str | None:
        """The token with that id, or None."""
        found = self._tokenizer.id_to_token(token)
        return None if found is None else str(found)

    def tokens(self) -> dict[str, int]:
        """Token → id, added tokens included."""
        return dict(self._tokenizer.get_vocab(True))

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of added special tokens ([CLS], [PAD] …)."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    def __call__(self, texts: Sequence[str], prompt: str = "") -> Tokenized:
        """Token ids of ``prompt + text`` for each text.

        Lone surrogates, which no UTF-8 can hold, become U+FFFD. A text without any token (an empty one,
        in a model that adds none of its own) becomes one padding token.

        Raises:
            EncoderError: something in *texts* is no string; its place is named. The vocabulary has nothing
                for a text, not even an unknown token.
        """
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise EncoderError(f"texts[{place}] is {type(text).__name__}, not str")
        given = [prompt + text for text in texts] if prompt else list(texts)
        with self._library("read a text"):
            try:
                # The fast one keeps no offsets, which nobody reads here.
                encodings = self._tokenizer.encode_batch_fast(given)
            # Half a surrogate pair is found by failing: to look for one in every text would cost each call.
            except (UnicodeEncodeError, TypeError):
                encodings = self._tokenizer.encode_batch_fast([_clean(text) for text in given])
            empty = np.array([self.pad_id], dtype=np.int32)
            ids = [np.array(one.ids, dtype=np.int32) if one.ids else empty for one in encodings]
        longest = self._tokenizer.truncation["max_length"] if self._tokenizer.truncation else None
        truncated = 0
        if longest is not None:
            # only a text that fills the window can have lost something
            truncated = sum(
                1
                for one, encoding in zip(ids, encodings, strict=True)
                if len(one) >= longest and encoding.overflowing
            )
        return Tokenized(ids, truncated)

    def to_str(self) -> str:
        """The tokenizer as the JSON of a tokenizer.json: chunks are measured with a copy made of it."""
        return str(self._tokenizer.to_str())

    def prompt_length(self, prompt: str) -> int:
        """The tokens that *prompt* takes at the start, leading special tokens included; 0 for none.

        Models with ``include_prompt: false`` leave them out of pooling (INSTRUCTOR, Su et al. 2023).
        """
        if not prompt:
            return 0
        with self._library("read a prompt"):
            encoding = self._tokenizer.encode(prompt)
        ids = list(encoding.ids)
        return len(ids) - 1 if ids and ids[-1] in self.special_ids else len(ids)


def _clean(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
