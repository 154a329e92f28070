"""Words of a text, for the lexical encoder: Unicode words, lower-cased, optionally stemmed.

Close to Lucene's ``standard`` analyzer and not the same: runs of letters, digits and combining marks
are words; ideographs and hiragana stand alone, one token each; an apostrophe inside a word stays
(Snowball's English stemmer takes a possessive off). Unlike Lucene, ``_`` and ``.`` always separate, so
that ``os.path.split_ext`` is found by its parts. A word of more than 255 characters is cut into
pieces, as Lucene does.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import Any, Protocol, cast

import msgspec

from esembed.encode.processes import ForkSafeLock
from esembed.errors import EncoderError

__all__ = ["ENGLISH_STOP_WORDS", "WordSplitter"]

ENGLISH_STOP_WORDS: tuple[str, ...] = (
    "a",
    "an",
    "and",
    "are",
    "as",
    "at",
    "be",
    "but",
    "by",
    "for",
    "if",
    "in",
    "into",
    "is",
    "it",
    "no",
    "not",
    "of",
    "on",
    "or",
    "such",
    "that",
    "the",
    "their",
    "then",
    "there",
    "these",
    "they",
    "this",
    "to",
    "was",
    "will",
    "with",
)
"""The list of Lucene's ``english`` analyzer, for ``stop_words``."""

# Lucene's max_token_length, by default.
_MAX_WORD = 255
_MAX_CACHED_STEMS = 200_000
_APOSTROPHES = {0x2019: "'", 0xFF07: "'", 0x0027: "'"}
# One token a character: no spaces between words there, and a run would be a whole sentence.
_SINGLE = ("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA LETTER")


class _Stemmer(Protocol):
    def stemWord(self, word: str) -> str: ...


class _WordTable(dict[int, str]):
    """For str.translate: what is in a word stays, all else becomes a space. Filled as it is asked."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if code in _APOSTROPHES:
            value = "'"
        elif category[0] in "LNM":
            single = unicodedata.name(character, "").startswith(_SINGLE)
            value = f" {character} " if single else character
        elif category == "Cf" and code in (0x200C, 0x200D):  # joiners inside Persian and Indic words
            value = character
        else:
            value = " "
        self[code] = value
        return value


_TABLE = _WordTable()


class WordSplitter:
    """Text to tokens. Safe to call from several threads.

    Args:
        language: a Snowball stemmer's name (``english``, ``german`` …), or ``none``.
        stop_words: words left out, compared before stemming, lower-cased.
        keep_case: don't lower-case (for tables of cased words).

    Raises:
        EncoderError: no stemmer of that name, or the package snowballstemmer is missing.
    """

    def __init__(
        self, language: str = "none", stop_words: Iterable[str] = (), *, keep_case: bool = False
    ) -> None:
        self.language = language.lower()
        self.stop_words = frozenset(word.lower() for word in stop_words)
        self.keep_case = keep_case
        self.stemmer_version: str | None = None
        self._stems: dict[str, str] = {}
        self._lock = ForkSafeLock()
        self._stemmer = self._load_stemmer() if self.language != "none" else None

    def __getstate__(self) -> dict[str, Any]:
        """Without the stemmer, which other versions of its package write otherwise."""
        left_out = ("_stemmer", "_stems")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _stems={})
        self._stemmer = self._load_stemmer() if self.language != "none" else None

    def _load_stemmer(self) -> _Stemmer:
        try:
            import snowballstemmer  # type: ignore[import-untyped]
        except ModuleNotFoundError as error:
            raise EncoderError(
                f"stemming ({self.language}) needs the package snowballstemmer; install it, or set "
                'language = "none"',
                spec="lexical",
            ) from error
        from importlib.metadata import version

        self.stemmer_version = f"snowballstemmer {version('snowballstemmer')}"
        try:
            return cast(_Stemmer, snowballstemmer.stemmer(self.language))
        except KeyError:
            known = ", ".join(sorted(snowballstemmer.algorithms()))
            raise EncoderError(
                f'no Snowball stemmer {self.language!r}; there are: {known}; or "none"', spec="lexical"
            ) from None

    @property
    def hash(self) -> str:
        """sha256 over what decides the tokens: the rules' version, language, stop words."""
        rules: tuple[object, ...] = ("words-1", self.language, sorted(self.stop_words))
        if self.keep_case:
            rules += ("keep_case",)
        return hashlib.sha256(msgspec.json.encode(rules)).hexdigest()

    def split(self, text: str) -> list[str]:
        """The tokens of *text* in order, with repeats."""
        text = unicodedata.normalize("NFC", text)
        words = (text if self.keep_case else text.lower()).translate(_TABLE).split()
        if "'" in text or "’" in text or "＇" in text:
            words = [stripped for word in words if (stripped := word.strip("'"))]
        if any(len(word) > _MAX_WORD for word in words):
            words = [w[i : i + _MAX_WORD] for w in words for i in range(0, len(w), _MAX_WORD)]
        if self.stop_words:
            words = [word for word in words if word not in self.stop_words]
        return [self._stem(word) for word in words] if self._stemmer is not None else words

    def _stem(self, word: str) -> str:
        stem = self._stems.get(word)
        if stem is not None:
            return stem
        with self._lock:  # a Snowball stemmer keeps the word it works on in itself
            stem = cast(_Stemmer, self._stemmer).stemWord(word) or word
            if len(self._stems) >= _MAX_CACHED_STEMS:
                self._stems.clear()
            self._stems[word] = stem
        return stem
