"""Text to token ids: Hugging Face ``tokenizers`` with our own truncation, and none of its padding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from esembed.errors import EncoderError

if TYPE_CHECKING:
    from esembed.encode.models.folder import ModelFiles

__all__ = ["TextTokenizer", "Tokenized"]


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

    Raises:
        EncoderError: the model has no tokenizer that can be read here.
    """

    def __init__(self, files: ModelFiles, max_seq_length: int | None) -> None:
        from tokenizers import normalizers

        folder = files.transformer_folder
        options = _options(folder)
        tokenizer = _load(folder, files.name, options)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if max_seq_length is not None:
            least = tokenizer.num_special_tokens_to_add(False) + 1
            if max_seq_length < least:
                raise EncoderError(
                    f"max_seq_length={max_seq_length} leaves no room for text: take at least {least}",
                    spec=files.name,
                )
            side = str(options.get("truncation_side", "right"))
            tokenizer.enable_truncation(max_length=max_seq_length, direction=side)
        if files.lower_case and "Lowercase" not in str(tokenizer.normalizer):
            parts = [normalizers.Lowercase()]
            if tokenizer.normalizer is not None:
                parts.append(tokenizer.normalizer)
            tokenizer.normalizer = normalizers.Sequence(parts)
        self._tokenizer = tokenizer
        self.pad_id = self._pad_id(files, options)

    def _pad_id(self, files: ModelFiles, options: dict[str, Any]) -> int:
        token = options.get("pad_token") or options.get("eos_token")
        if isinstance(token, dict):
            token = token.get("content")
        found = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
        if found is None:
            found = files.config.get("pad_token_id")
        return int(found or 0)

    @property
    def vocabulary_size(self) -> int:
        """The number of token ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size(True))

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
            EncoderError: something in *texts* is no string; its place is named.
        """
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise EncoderError(f"texts[{place}] is {type(text).__name__}, not str")
        given = [prompt + text for text in texts] if prompt else list(texts)
        try:
            encodings = self._tokenizer.encode_batch_fast(given)
        except (UnicodeEncodeError, TypeError):
            encodings = self._tokenizer.encode_batch_fast([_clean(text) for text in given])
        empty = np.array([self.pad_id], dtype=np.int32)
        ids = [np.array(encoding.ids, dtype=np.int32) if encoding.ids else empty for encoding in encodings]
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
        encoding = self._tokenizer.encode(prompt)
        ids = list(encoding.ids)
        return len(ids) - 1 if ids and ids[-1] in self.special_ids else len(ids)


def _clean(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _options(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(f"can't read tokenizer_config.json: {error}") from error
    return value if isinstance(value, dict) else {}


def _load(folder: Path, name: str, options: dict[str, Any]) -> Any:
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise EncoderError(
            'a transformer needs the package tokenizers: pip install "esembed[openvino]" or "esembed[torch]"',
            spec=name,
        ) from error
    main, vocabulary = folder / "tokenizer.json", folder / "vocab.txt"
    if main.is_file():
        try:
            return Tokenizer.from_file(str(main))
        except Exception as error:  # the library raises bare Exception
            raise EncoderError(f"{name}: tokenizer.json can't be read ({error})", spec=name) from error
    if vocabulary.is_file() and str(options.get("tokenizer_class", "BertTokenizer")).startswith(
        ("Bert", "DistilBert")
    ):
        return _from_vocabulary(vocabulary, options)
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"{name} has no tokenizer.json; converting its older files needs transformers: "
            'pip install "esembed[torch]"',
            spec=name,
        ) from error
    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # of many kinds
        raise EncoderError(f"{name} has no tokenizer that can be read: {error}", spec=name) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise EncoderError(f"{name}: its tokenizer has no fast form", spec=name)
    return backend


def _from_vocabulary(path: Path, options: dict[str, Any]) -> Any:
    """BERT's tokenizer from vocab.txt alone (Devlin et al. 2019)."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = path.read_text(encoding="utf-8").splitlines()
    ids = {word.rstrip("\n"): place for place, word in enumerate(words)}

    def special(key: str, default: str) -> str:
        value = options.get(key, default)
        return str(value.get("content", default) if isinstance(value, dict) else value or default)

    unknown, cls, sep = (
        special("unk_token", "[UNK]"),
        special("cls_token", "[CLS]"),
        special("sep_token", "[SEP]"),
    )
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=unknown, max_input_chars_per_word=100))
    lower = bool(options.get("do_lower_case", True))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(options.get("tokenize_chinese_chars", True)),
        strip_accents=options.get("strip_accents"),
        lowercase=lower,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = [special("pad_token", "[PAD]"), unknown, cls, sep, special("mask_token", "[MASK]")]
    tokenizer.add_special_tokens([name for name in names if name in ids])
    if cls in ids and sep in ids:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {sep} $B:1 {sep}:1",
            special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
        )
    return tokenizer
