"""What a plan says about how an encoder makes its vectors.

It stands below ``encode``, since a plan is written, stored and compared without an encoder being there.
"""

from __future__ import annotations

import msgspec

__all__ = ["EncoderParams"]


class EncoderParams(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """How a field's encoder makes its vectors; part of the plan. None means: as the model says.

    Attributes:
        dims: keep this many leading dimensions and renormalize (Matryoshka).
        max_seq_length: tokens kept of each text.
        query_prompt, document_prompt: text put before each query or document.
        normalize: scale dense vectors to length 1.
        pooling: override the model's pooling.
        revision: the hub revision (commit or tag).
        top_k, query_top_k: keep the heaviest features of documents, of queries (sparse).
        threshold: drop weights at or under it (sparse).
        k1, b, avgdl: BM25's parameters (lexical); avgdl in tokens.
        language: the stemmer of the lexical encoder (Snowball's name), or ``none``.
        stop_words: words that the lexical encoder leaves out, compared before stemming.
        statistics: the hash of the term statistics that queries are weighted by (lexical).
    """

    dims: int | None = None
    max_seq_length: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    normalize: bool | None = None
    pooling: str | None = None
    revision: str | None = None
    top_k: int | None = None
    query_top_k: int | None = None
    threshold: float | None = None
    k1: float | None = None
    b: float | None = None
    avgdl: float | None = None
    language: str | None = None
    stop_words: tuple[str, ...] | None = None
    statistics: str | None = None
