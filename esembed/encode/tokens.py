"""Feature names that every engine takes, and integer ids where it wants integers.

What was run against the real engines: ``sparse_vector`` of Elasticsearch and ``rank_features`` of
OpenSearch take any string, dots and the empty one included; ``rank_features`` of Elasticsearch
refuses both; a ``rank_feature`` query names its feature as ``field.feature`` on either engine, so a
dot there reads as a path. Rewriting ``.`` to ``_`` makes two tokens one. So: an escape that can be
undone, and only where it is needed.

SEISMIC (``sparse_vector`` of OpenSearch) wants integer ids and folds them modulo 32,768, so larger
ids collide silently. :class:`TokenIds` gives each token a dense id below that and refuses what
doesn't fit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np

from esembed.errors import EncoderError, RecordError
from esembed.types import SparseVector

__all__ = [
    "MAX_SEISMIC_IDS",
    "MAX_TERM_BYTES",
    "TokenIds",
    "TokenTarget",
    "decode",
    "decode_vector",
    "encode",
    "encode_vector",
]

TokenTarget = Literal[
    "elasticsearch.sparse_vector",
    "elasticsearch.rank_features",
    "opensearch.rank_features",
    "opensearch.sparse_vector",
]
"""Engine and field type that the name is for; ``opensearch.sparse_vector`` is SEISMIC."""

MAX_SEISMIC_IDS = 32_768
"""SEISMIC keeps 15 bits of a token id."""

MAX_TERM_BYTES = 32_766
"""The longest term that Lucene indexes, in UTF-8 bytes."""

_ESCAPED = {"elasticsearch.rank_features", "opensearch.rank_features"}
_SEISMIC = "opensearch.sparse_vector"
# A lone surrogate has no UTF-8 form and NUL ends a string in some tools: both are escaped as well.
_NEEDS_ESCAPE = re.compile("[.%\x00\ud800-\udfff]")
_EMPTY = "%"  # a "%" that nothing follows never comes out of escaping, so it can stand for ""


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"%{code:02X}" if code < 0x80 else f"%u{code:04X}"


_UNESCAPE = re.compile(r"%(?:u([0-9A-F]{4})|([0-9A-F]{2}))")


def _unescape(match: re.Match[str]) -> str:
    return chr(int(match.group(1) or match.group(2), 16))


def encode(token: str, target: TokenTarget, ids: TokenIds | None = None) -> str:
    """The feature name of *token* in a field of type *target*.

    Distinct tokens get distinct names, and :func:`decode` gives the token back.

    Args:
        token: any string, the empty one included.
        target: engine and field type.
        ids: the id table; needed for ``opensearch.sparse_vector`` and for nothing else.

    Raises:
        EncoderError: SEISMIC without *ids*, or a token that is not among them.
        RecordError: the name is longer than Lucene can index.
    """
    if target == _SEISMIC:
        return str(_need_ids(ids).id_of(token))
    if target in _ESCAPED or _has_surrogates(token):
        name = _NEEDS_ESCAPE.sub(_escape, token) if token else _EMPTY
    else:
        # "%" alone or "%2E" as a token would read as an escape when it comes back.
        name = token.replace("%", "%25") if "%" in token else token
    if len(name) * 4 > MAX_TERM_BYTES and len(name.encode("utf-8")) > MAX_TERM_BYTES:
        raise RecordError(
            f"the token {token[:40]!r}… makes a feature name of {len(name.encode('utf-8'))} bytes; engines "
            f"index at most {MAX_TERM_BYTES}. Cut it before encoding."
        )
    return name


def decode(name: str, target: TokenTarget, ids: TokenIds | None = None) -> str:
    """The token that :func:`encode` made *name* from.

    Raises:
        EncoderError: SEISMIC without *ids*, or an id outside the table.
    """
    if target == _SEISMIC:
        table = _need_ids(ids)
        try:
            return table.tokens[int(name)]
        except (ValueError, IndexError):
            raise EncoderError(
                f"{name!r} is no token id of this table ({len(table.tokens)} tokens)"
            ) from None
    if name == _EMPTY and target in _ESCAPED:
        return ""
    return _UNESCAPE.sub(_unescape, name) if "%" in name else name


def _has_surrogates(token: str) -> bool:
    return not token.isascii() and any("\ud800" <= c <= "\udfff" for c in token)


def _need_ids(ids: TokenIds | None) -> TokenIds:
    if ids is None:
        raise EncoderError(
            "SEISMIC (opensearch.sparse_vector) wants integer token ids: pass ids=TokenIds…, the table that "
            "the index was filled with"
        )
    return ids


def encode_vector(
    vector: SparseVector, target: TokenTarget, ids: TokenIds | None = None, *, unknown: str = "error"
) -> dict[str, float]:
    """Feature name → weight, as the engine's bulk and query bodies take it.

    Integer indices are taken as they are (they are ids already).

    Args:
        unknown: for SEISMIC, ``"error"`` refuses tokens outside *ids* and ``"drop"`` leaves them out
            (right for a query: a token that no document has scores nothing).

    Raises:
        EncoderError, RecordError: as :func:`encode`.
    """
    result: dict[str, float] = {}
    for index, value in zip(vector.indices, vector.values.tolist(), strict=True):
        if isinstance(index, int):
            if target == _SEISMIC and not 0 <= index < MAX_SEISMIC_IDS:
                raise EncoderError(
                    f"token id {index} is outside 0…{MAX_SEISMIC_IDS - 1}: SEISMIC would fold it onto "
                    "another token; map the vocabulary to dense ids with TokenIds"
                )
            result[str(index)] = value
            continue
        if target == _SEISMIC and unknown == "drop" and ids is not None and index not in ids:
            continue
        result[encode(str(index), target, ids)] = value
    return result


def decode_vector(
    weights: Mapping[str, float], target: TokenTarget, ids: TokenIds | None = None
) -> SparseVector:
    """The sparse vector over tokens that :func:`encode_vector` made *weights* from."""
    return SparseVector(
        tuple(decode(name, target, ids) for name in weights),
        np.fromiter(weights.values(), np.float32, len(weights)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class TokenIds:
    """A table of tokens with dense integer ids (a token's position), at most 32,768 of them.

    It decides what the stored ids mean, so it belongs to the index: keep :meth:`to_json` beside the
    term statistics and compare :attr:`hash`.

    Attributes:
        tokens: the tokens, distinct; the id is the position.
        dropped: how many tokens were left out when the table was cut to size.
    """

    tokens: tuple[str, ...]
    dropped: int = 0
    _positions: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        object.__setattr__(self, "_positions", {token: i for i, token in enumerate(self.tokens)})
        if len(self._positions) != len(self.tokens):
            raise EncoderError("a token id table needs distinct tokens; some appear twice")
        if len(self.tokens) > MAX_SEISMIC_IDS:
            raise EncoderError(
                f"{len(self.tokens)} tokens don't fit into SEISMIC's {MAX_SEISMIC_IDS} ids: build the table "
                "from the tokens that the documents use (TokenIds.from_counts), or use rank_features"
            )

    @classmethod
    def from_vocabulary(cls, tokens: Sequence[str]) -> TokenIds:
        """Ids are the model's own (position in the vocabulary); for vocabularies of up to 32,768.

        Raises:
            EncoderError: the vocabulary is larger; see :meth:`from_counts`.
        """
        return cls(tuple(tokens))

    @classmethod
    def from_counts(
        cls, counts: Mapping[str, int], *, max_ids: int = MAX_SEISMIC_IDS, drop_rare: bool = False
    ) -> TokenIds:
        """Ids by descending count (ties by token), for vocabularies beyond 32,768.

        Args:
            counts: token → how many documents have it (``LexicalStatistics.df``, or a first pass).
            max_ids: the size of the table, at most 32,768.
            drop_rare: leave the rarest tokens out when there are more; they are counted in *dropped*.

        Raises:
            EncoderError: more tokens than ids, and *drop_rare* is off.
        """
        if len(counts) > max_ids and not drop_rare:
            raise EncoderError(
                f"{len(counts)} tokens are in use and there are {max_ids} ids: pass drop_rare=True to "
                f"lose the {len(counts) - max_ids} rarest, or use rank_features, which takes them all"
            )
        ordered = sorted(counts, key=lambda token: (-counts[token], token))
        kept = tuple(ordered[: min(max_ids, MAX_SEISMIC_IDS)])
        return cls(kept, dropped=len(counts) - len(kept))

    @property
    def hash(self) -> str:
        """sha256 over the tokens in order."""
        return hashlib.sha256(msgspec.json.encode(self.tokens)).hexdigest()

    def id_of(self, token: str) -> int:
        """Raises EncoderError for a token outside the table."""
        try:
            return self._positions[token]
        except KeyError:
            raise EncoderError(
                f"the token {token!r} has no id in this table of {len(self.tokens)}; documents and queries "
                "must use the table that the index was created with"
            ) from None

    def __contains__(self, token: object) -> bool:
        return token in self._positions

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenIds) and self.tokens == other.tokens

    def __hash__(self) -> int:
        return hash(self.tokens)

    def to_ids(self, vector: SparseVector, *, drop_unknown: bool = False) -> SparseVector:
        """The vector with integer indices; unknown tokens raise, or go with *drop_unknown*."""
        pairs = [
            (self.id_of(str(token)), value)
            for token, value in zip(vector.indices, vector.values.tolist(), strict=True)
            if not (drop_unknown and token not in self._positions)
        ]
        return SparseVector(tuple(i for i, _ in pairs), np.array([v for _, v in pairs], np.float32))

    def to_tokens(self, vector: SparseVector) -> SparseVector:
        """The inverse of :meth:`to_ids`."""
        return SparseVector(tuple(self.tokens[int(i)] for i in vector.indices), vector.values)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` reads."""
        return {"version": 1, "hash": self.hash, "dropped": self.dropped, "tokens": list(self.tokens)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TokenIds:
        """Raises EncoderError for another version, or when tokens and hash don't agree."""
        if data.get("version") != 1 or not isinstance(data.get("tokens"), list):
            raise EncoderError(f"a token id table of version 1 was expected, not {data.get('version')!r}")
        tokens: Iterable[Any] = data["tokens"]
        table = cls(tuple(str(t) for t in tokens), dropped=int(data.get("dropped", 0)))
        if table.hash != data.get("hash"):
            raise EncoderError("the token id table doesn't match its hash: it was cut or changed")
        return table
