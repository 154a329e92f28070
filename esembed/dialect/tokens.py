"""Names of sparse features: what an engine calls a token, and the token back.

What was run against the real engines: ``sparse_vector`` of Elasticsearch and ``rank_features`` of
OpenSearch take any string, dots and the empty one included; ``rank_features`` of Elasticsearch
refuses both; a ``rank_feature`` query names its feature as ``field.feature`` on either engine, so a
dot there reads as a path. Rewriting ``.`` to ``_`` makes two tokens one. So: an escape that can be
undone, and only where it is needed.

SEISMIC (``sparse_vector`` of OpenSearch) wants integer ids and folds them modulo 32,768, so larger
ids collide silently. Its fields come with a mapping of token to id (a vocabulary's positions, see
:mod:`esembed.encode.models.vocabulary`), and ids that don't fit are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from esembed.errors import EncoderError, RecordError
from esembed.plan.fields import MAX_SEISMIC_IDS
from esembed.types import SparseVector

__all__ = ["MAX_TERM_BYTES", "TokenTarget", "decode", "encode", "encode_vector"]

TokenTarget = Literal[
    "elasticsearch.sparse_vector",
    "elasticsearch.rank_features",
    "opensearch.rank_features",
    "opensearch.sparse_vector",
]
"""Engine and field type that the name is for; ``opensearch.sparse_vector`` is SEISMIC."""

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


def encode(token: str, target: TokenTarget, ids: Mapping[str, int] | None = None) -> str:
    """The feature name of *token* in a field of type *target*.

    Distinct tokens get distinct names, and :func:`decode` gives the token back.

    Args:
        token: any string, the empty one included.
        target: engine and field type.
        ids: token → id; needed for ``opensearch.sparse_vector`` and for nothing else.

    Raises:
        EncoderError: SEISMIC without *ids*, or a token that is not among them.
        RecordError: the name is longer than Lucene can index.
    """
    if target == _SEISMIC:
        return str(_id_of(token, ids))
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


def decode(name: str, target: TokenTarget) -> str:
    """The token that :func:`encode` made *name* from; for SEISMIC the id stays as it is, in decimals."""
    if target == _SEISMIC:
        return name
    if name == _EMPTY and target in _ESCAPED:
        return ""
    return _UNESCAPE.sub(_unescape, name) if "%" in name else name


def _has_surrogates(token: str) -> bool:
    return not token.isascii() and any("\ud800" <= c <= "\udfff" for c in token)


def _id_of(token: str, ids: Mapping[str, int] | None) -> int:
    if ids is None:
        raise EncoderError(
            "SEISMIC (opensearch.sparse_vector) wants integer token ids: pass ids=, the mapping of token to "
            "id that the index was filled with"
        )
    try:
        return ids[token]
    except KeyError:
        raise EncoderError(
            f"the token {token!r} has no id among these {len(ids)}; documents and queries must use the ids "
            "that the index was created with"
        ) from None


def encode_vector(
    vector: SparseVector, target: TokenTarget, ids: Mapping[str, int] | None = None, *, unknown: str = "error"
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
                    "another token; number the tokens from 0, or store the field as rank_features"
                )
            result[str(index)] = value
            continue
        if target == _SEISMIC and unknown == "drop" and ids is not None and index not in ids:
            continue
        result[encode(str(index), target, ids)] = value
    return result
