"""The encoder contract: what an encoder declares, and canaries that catch what it doesn't declare.

A contract is stored under ``_meta.esembed`` for each vector field, and compared before an encoder is
first used on that index. It has two halves:

* **declared**: everything of :class:`~esembed.encode.base.EncoderInfo` that changes vectors. An encoder
  that can't know its weights (a remote service) declares little, and then the canaries decide.
* **canaries**: the vectors of a few fixed texts, for documents and for queries: mixed case, Unicode,
  a text beyond ``max_seq_length``. Dense ones are projected to at most 64 dims by fixed random signs
  (Achlioptas, "Database-friendly random projections", 2003) and kept as base64 float16 with their
  lengths; of sparse ones the 24 heaviest features are kept.

Backend, device and dtype are not compared: fp32 and bf16, OpenVINO and torch make the same vectors
within the tolerances below.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from esembed.encode.base import Encoder, EncoderInfo
from esembed.errors import ContractError
from esembed.lazy import np
from esembed.plan.encoders import split_spec
from esembed.types import FloatArray, SparseVector

__all__ = ["canaries", "check_contract", "compare_contracts", "describe_contract", "make_contract"]

VERSION = 1
# With these two a contract takes about 2 KB, and _meta.esembed has 16 KiB for those of all fields.
PROJECTED = 64
SPARSE_KEPT = 24
DENSE_COSINE = 0.998
"""bf16 against fp32 measured .9998 and more; another casing, prompt or pooling .99 and less."""
NORM_RATIO = 0.02
# SPLADE in bfloat16 against float32 measured .999 and more.
SPARSE_COSINE = 0.99
LONGEST_CANARY = 1100
"""Words of the longest canary: models that take more are told apart by what they declare."""

_SHORT = (
    "How do I Reset my PASSWORD on an iPhone 15 Pro?",
    "Ein Käse für Łódź, naïve café; 東京タワー, Ελλάδα, привет мир, שלום \U0001f642 ﬁne",
    "  split   a path\tinto folder\nand file-name: /var/log/app.log (v2.1, 3.5 %)  ",
)
_MIXED = """
river stone market Window signal paper garden engine winter letter music bridge copper Forest harbor
mirror thunder village candle orbit pepper ladder canyon velvet anchor Meadow rocket saddle timber wagon
"""
_WORDS = tuple(_MIXED.split())

_REMOTE_FIELDS = ("kind", "dims", "model", "query_prompt", "document_prompt")
_LOCAL_FIELDS = (
    "kind",
    "dims",
    "revision",
    "weights_hash",
    "tokenizer_hash",
    "pooling",
    "normalize",
    "max_seq_length",
    "query_prompt",
    "document_prompt",
    "extra",
)
_ATTRIBUTE = {"kind": "type"}  # contracts store the name of 0.1.0
_NO_CANARIES = ("precomputed", "engine")


def canaries(max_seq_length: int | None) -> tuple[str, ...]:
    """The fixed texts; the last one has more words than *max_seq_length* (1,100 at most)."""
    count = min((max_seq_length or 512) + 40, LONGEST_CANARY)
    # The order is a fixed shuffle, so that every stretch of the text is another one.
    long = " ".join(_WORDS[(i * i + i // 7) % len(_WORDS)] for i in range(count))
    return (*_SHORT, long)


def make_contract(encoder: Encoder) -> dict[str, Any]:
    """The contract of an encoder, as JSON values (about 2 KB).

    Encodes four short texts twice (once as documents, once as queries). Encoders that encode nothing
    here (``precomputed``, ``engine:…``) have no canaries; ``lexical`` has none for queries, whose weights
    follow the term statistics.
    """
    info = encoder.info
    contract: dict[str, Any] = {"version": VERSION, "declared": _declared(info)}
    family, _ = split_spec(info.spec)
    if family in _NO_CANARIES:
        return contract
    texts = canaries(info.max_seq_length)
    contract["canaries"] = {"document": _canaries(encoder.encode_document(texts))}
    if family != "lexical":
        contract["canaries"]["query"] = _canaries(encoder.encode_query(texts))
    return contract


def check_contract(stored: Mapping[str, Any], encoder: Encoder, *, field: str = "") -> None:
    """Raise unless *encoder* makes the vectors that the contract promises.

    What is declared is compared first, so that a wrong model is refused before it runs.

    Raises:
        ContractError: lists every difference; also when the stored contract can't be read.
    """
    _readable(stored, field)
    differences = _declared_differences(stored["declared"], _declared(encoder.info))
    if not differences and stored.get("canaries"):
        differences = _canary_differences(stored, make_contract(encoder), field)
    _raise(differences, field)


def compare_contracts(
    old: Mapping[str, Any], new: Mapping[str, Any], *, field: str = ""
) -> dict[str, tuple[Any, Any]]:
    """How two contracts differ: attribute → (old, new); empty when the same vectors are promised.

    Raises:
        ContractError: one of them can't be read.
    """
    for contract in (old, new):
        _readable(contract, field)
    return _declared_differences(old["declared"], new["declared"]) or _canary_differences(old, new, field)


def describe_contract(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What a person wants to see of a contract: what is declared, and what the canaries cover."""
    declared = stored.get("declared")
    kept = stored.get("canaries")
    shown: dict[str, Any] = dict(declared) if isinstance(declared, Mapping) else {}
    if isinstance(kept, Mapping) and kept:
        sides = [
            f"{len(side.get('norms') or side.get('features') or ())} {name}"
            for name, side in kept.items()
            if isinstance(side, Mapping)
        ]
        shown["canaries"] = ", ".join(sides)
    else:
        shown["canaries"] = "none"
    if isinstance(shown.get("extra"), Mapping) and "task" in shown["extra"]:
        shown["checked_by"] = "the endpoint's name, task and dims only (the engine computes the vectors)"
    elif not (shown.get("weights_hash") or shown.get("tokenizer_hash")):
        shown["checked_by"] = "canaries only (the encoder can't show its weights)"
    return shown


def _declared(info: EncoderInfo) -> dict[str, Any]:
    """The declared half; what is None or empty is left out. The spec is not in it (it can be a path)."""
    declared: dict[str, Any] = {}
    for name in ("model", *_LOCAL_FIELDS):
        value = getattr(info, _ATTRIBUTE.get(name, name))
        if name == "extra":
            value = _plain(value)
        if value not in (None, "", {}):
            declared[name] = value
    return declared


def _plain(value: Any) -> Any:
    """The value as it comes back from JSON: tuples are lists, numpy numbers plain ones."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in sorted(value.items(), key=lambda item: str(item[0]))}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    return value.item() if isinstance(value, np.generic) else value


def _knows_weights(declared: Mapping[str, Any]) -> bool:
    return bool(declared.get("weights_hash") or declared.get("tokenizer_hash"))


def _declared_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    local = _knows_weights(old) and _knows_weights(new)
    fields = _LOCAL_FIELDS if local else _REMOTE_FIELDS
    found: dict[str, tuple[Any, Any]] = {}
    for name in fields:
        was, is_ = old.get(name), new.get(name)
        one_sided = was is None or is_ is None
        # A copy in a folder has no revision, and another program may give the same weights another name.
        if one_sided and name in ("revision", "model", "dims", "max_seq_length", "pooling"):
            continue
        if name == "model" and _knows_weights(old) != _knows_weights(new):
            continue
        if name == "extra":
            found |= _extra_differences(was or {}, is_ or {})
        elif (was or None) != (is_ or None):
            found[name] = (was, is_)
    return found


def _extra_differences(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return {"extra": (old, new)} if old != new else {}
    return {
        f"extra.{key}": (old.get(key), new.get(key))
        for key in sorted(set(old) | set(new), key=str)
        if _plain(old.get(key)) != _plain(new.get(key))
        and not (key in _LATER and (key in old) != (key in new))
    }


_LATER = frozenset({"tokenizer"})
"""Facts that earlier versions didn't declare, though their vectors may well be right: where only one side has
them, the canaries decide."""


# -- canaries ------------------------------------------------------------------------------------


def _signs(dims: int) -> FloatArray:
    """Fixed random signs, shape (dims, 64), the same on every machine and numpy version."""
    digest = hashlib.shake_256(b"esembed canary projection 1").digest(dims * PROJECTED // 8)
    bits = np.unpackbits(np.frombuffer(digest, np.uint8)).reshape(dims, PROJECTED)
    signs: FloatArray = bits.astype(np.float32) * 2 - 1
    scaled: FloatArray = signs / np.float32(np.sqrt(PROJECTED))
    return scaled


def _canaries(vectors: FloatArray | Sequence[SparseVector]) -> dict[str, Any]:
    if isinstance(vectors, np.ndarray):
        matrix = np.asarray(vectors, np.float32)
        norms = np.linalg.norm(matrix, axis=1)
        unit = matrix / np.where(norms > 0, norms, 1)[:, None]
        if unit.shape[1] > PROJECTED:
            unit = unit @ _signs(unit.shape[1])
        packed = base64.b64encode(unit.astype("<f2").tobytes()).decode("ascii")
        return {"dims": int(unit.shape[1]), "vectors": packed, "norms": [float(f"{n:.4g}") for n in norms]}
    features = []
    for vector in vectors:
        top = vector.top(SPARSE_KEPT)
        features.append({str(k): float(f"{v:.4g}") for k, v in zip(top.indices, top.values, strict=True)})
    return {"features": features}


def _canary_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], field: str
) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    mine, theirs = old.get("canaries") or {}, new.get("canaries") or {}
    for side in ("document", "query"):
        if side not in mine or side not in theirs:
            continue
        try:
            result = _compare_side(mine[side], theirs[side])
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            raise _damaged(field, str(error)) from error
        if result:
            found[f"canaries.{side}"] = result
    return found


def _compare_side(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, str] | None:
    """What differs, as (expected, found), or None."""
    if "features" in old:
        worst = min(
            (_sparse_cosine(a, b) for a, b in zip(old["features"], new["features"], strict=True)), default=1.0
        )
        if worst < SPARSE_COSINE:
            return f"cosine ≥ {SPARSE_COSINE}", f"cosine {worst:.4f}"
        return None
    a, b = _unpack(old), _unpack(new)
    if a.shape != b.shape:
        return f"{a.shape[0]} canaries of {a.shape[1]} dims", f"{b.shape[0]} of {b.shape[1]}"
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1)
    cosine = np.where(lengths > 0, cosine, (np.abs(a) + np.abs(b)).sum(axis=1) == 0)
    if float(cosine.min()) < DENSE_COSINE:
        return f"cosine ≥ {DENSE_COSINE}", f"cosine {float(cosine.min()):.4f}"
    was, is_ = np.asarray(old["norms"], float), np.asarray(new["norms"], float)
    ratio = np.abs(is_ - was) / np.maximum(np.abs(was), 1e-9)
    if float(ratio.max()) > NORM_RATIO:
        at = int(ratio.argmax())
        return f"a length of {was[at]:.4g}", f"a length of {is_[at]:.4g}"
    return None


def _unpack(side: Mapping[str, Any]) -> FloatArray:
    dims = int(side["dims"])
    if not 1 <= dims <= PROJECTED:
        raise ValueError(f"canaries of {dims} dims")
    flat = np.frombuffer(base64.b64decode(side["vectors"], validate=True), "<f2").astype(np.float32)
    matrix: FloatArray = flat.reshape(-1, dims)
    if not np.isfinite(matrix).all() or len(side["norms"]) != len(matrix):
        raise ValueError("canaries that are no finite numbers")
    return matrix


def _sparse_cosine(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    if not a or not b:
        return 1.0 if not a and not b else 0.0
    product = sum(value * b.get(name, 0.0) for name, value in a.items())
    lengths = sum(v * v for v in a.values()) * sum(v * v for v in b.values())
    return float(product / np.sqrt(lengths)) if lengths > 0 else 0.0


# -- errors --------------------------------------------------------------------------------------


def _readable(stored: Mapping[str, Any], field: str) -> None:
    version = stored.get("version")
    if not isinstance(version, int) or not isinstance(stored.get("declared"), Mapping):
        raise _damaged(field, "no version, or nothing declared")
    if version > VERSION:
        raise ContractError(
            f"{field}: the index holds an encoder contract of version {version}; update esembed", field=field
        )
    if not isinstance(stored.get("canaries", {}), Mapping):
        raise _damaged(field, "the canaries are no object")


def _damaged(field: str, why: str) -> ContractError:
    return ContractError(
        f"{field}: the stored encoder contract can't be read ({why}); write it again with "
        "esembed index repair NAME --plan PLAN.toml",
        field=field,
    )


def _raise(differences: Mapping[str, tuple[Any, Any]], field: str) -> None:
    if not differences:
        return
    lines = "\n".join(
        f"  - {name}: the index has {_show(a)}, here it is {_show(b)}" for name, (a, b) in differences.items()
    )
    raise ContractError(
        f"{field or 'the field'}: this encoder is not the one that filled the index:\n{lines}\n"
        "Use the same encoder, or migrate the index to the new one (esembed index migrate).",
        field=field,
        differences=differences,
    )


def _show(value: Any) -> str:
    text = "nothing" if value in (None, "") else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
