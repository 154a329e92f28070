"""Encoder spec strings, ``family:name``: which families there are, and what is wrong with a spec."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

__all__ = ["FAMILIES", "Family", "canonical_spec", "fetches_nothing", "spec_problem", "split_spec"]


@dataclass(frozen=True, slots=True)
class Family:
    """What is known of an encoder family without importing it.

    Attributes:
        loader: ``module:function`` that makes its encoders, imported when one is loaded. A string, so that a
            plan is read and checked without the code that encodes.
        example: what its spec looks like; empty where nothing stands after the family's name.
        fetches_nothing: its specs name no address, file or model, so one that stands in an index is loaded
            without ``allow_encoders``: whoever wrote the index could not choose what is read.
    """

    loader: str
    example: str = ""
    fetches_nothing: bool = False


FAMILIES = {
    "minilm": Family("esembed.encode.transformer.minilm:load", fetches_nothing=True),
    "hf": Family("esembed.encode.transformer.dense:load", "hf:intfloat/multilingual-e5-small"),
    "splade": Family("esembed.encode.transformer.splade:load", "splade:naver/splade-v3"),
    "static": Family("esembed.encode.static.encoder:load", "static:./potion-base-8M"),
    "lexical": Family("esembed.encode.lexical.encoder:load", fetches_nothing=True),
    "openai": Family("esembed.encode.remote:load", "openai:text-embedding-3-small"),
    "engine": Family("esembed.encode.engine_inference:load", "engine:.elser-2-elasticsearch"),
    "custom": Family("esembed.encode.precomputed:load_custom", "custom:my-model"),
    "precomputed": Family("esembed.encode.precomputed:load", fetches_nothing=True),
}
"""Every encoder family by name; the only list of them."""

_ALIASES = {
    "allminilml6v2": "minilm",
    "bm25": "lexical",
    "elser": "engine",
    "fasttext": "static",
    "glove": "static",
    "huggingface": "hf",
    "inference": "engine",
    "model2vec": "static",
    "none": "precomputed",
    "ollama": "openai",
    "sentencetransformer": "hf",
    "sentencetransformers": "hf",
    "sparseencoder": "splade",
    "st": "hf",
    "tei": "openai",
    "transformers": "hf",
    "vllm": "openai",
    "word2vec": "static",
}
"""What people write → the family."""

_OLD_FAMILIES = {"given": "precomputed", "own": "custom"}
"""What 0.1.0 called them: it stands in plans and in the ``_meta`` of indices, so it is read for ever."""


def canonical_spec(spec: str) -> str:
    """The spec with its family's name of today: ``given`` is ``precomputed``, ``own:X`` is ``custom:X``."""
    family, colon, rest = spec.partition(":")
    return f"{_OLD_FAMILIES.get(family, family)}{colon}{rest}"


def spec_problem(spec: str) -> str | None:
    """What is wrong with an encoder's spec string, or None where its family is known and its form right.

    Whether there is such a model is found out when it is loaded.
    """
    family, rest = split_spec(spec)
    if family not in FAMILIES:
        near = _near(family, rest, spec)
        hint = f"; did you mean {near!r}?" if near else ""
        return (
            f"there is no encoder family {family!r}{hint} (there are: {', '.join(FAMILIES)}; custom:NAME is "
            "an encoder that you pass as encoder=)"
        )
    example = FAMILIES[family].example
    if example and not rest.strip():
        return f"{spec!r} needs a name after the family, as in {example!r}"
    if not example and rest:
        way = f"; for another model write 'hf:{rest}'" if family == "minilm" else ""
        return f"{family} takes no name after it{way}"
    return None


def fetches_nothing(spec: str) -> bool:
    """Whether an encoder's spec, also one read from an index, can be loaded without the caller's leave."""
    return spec_problem(spec) is None and FAMILIES[split_spec(spec)[0]].fetches_nothing


def _near(family: str, rest: str, spec: str) -> str | None:
    """The spec that was probably meant."""
    short = "".join(c for c in family.lower() if c.isalnum())
    meant = _ALIASES.get(short)
    if meant is None and "/" in family:
        return f"hf:{spec}"
    if meant is None:
        known = {**_ALIASES, **{name: name for name in FAMILIES}}
        close = difflib.get_close_matches(short, known, n=1, cutoff=0.75)
        meant = known[close[0]] if close else None
    if meant is None:
        return None
    example = FAMILIES[meant].example
    return f"{meant}:{rest or example.partition(':')[2]}" if example else meant


def split_spec(spec: str) -> tuple[str, str]:
    """``"hf:intfloat/e5-small-v2"`` → ``("hf", "intfloat/e5-small-v2")``; families by today's name."""
    family, _, name = canonical_spec(spec).partition(":")
    return family, name
