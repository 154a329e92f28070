"""Encoder spec strings, ``family:name``: which families there are, and what is wrong with a spec."""

from __future__ import annotations

import difflib

__all__ = ["FAMILIES", "canonical_spec", "spec_problem", "split_spec"]

FAMILIES = {
    "minilm": "",
    "hf": "hf:intfloat/multilingual-e5-small",
    "splade": "splade:naver/splade-v3",
    "static": "static:./potion-base-8M",
    "lexical": "",
    "openai": "openai:text-embedding-3-small",
    "engine": "engine:.elser-2-elasticsearch",
    "custom": "custom:my-model",
    "precomputed": "",
}
"""Encoder family → an example of what its spec looks like; empty where nothing stands after the name."""

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
    example = FAMILIES[family]
    if example and not rest.strip():
        return f"{spec!r} needs a name after the family, as in {example!r}"
    if not example and rest:
        way = f"; for another model write 'hf:{rest}'" if family == "minilm" else ""
        return f"{family} takes no name after it{way}"
    return None


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
    return f"{meant}:{rest or FAMILIES[meant].partition(':')[2]}" if FAMILIES[meant] else meant


def split_spec(spec: str) -> tuple[str, str]:
    """``"hf:intfloat/e5-small-v2"`` → ``("hf", "intfloat/e5-small-v2")``; families by today's name."""
    family, _, name = canonical_spec(spec).partition(":")
    return family, name
