"""Static vectors by a tokenizer's ids: model2vec folders, and sentence-transformers' StaticEmbedding."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from esembed.encode.foreign_errors import foreign_errors
from esembed.encode.models.checks import check_folder, other_format
from esembed.encode.models.folder import module_entries
from esembed.encode.models.json_files import checked, optional_json, read_json
from esembed.encode.models.tensors import TensorFile
from esembed.encode.models.tokenizer_files import check_growth
from esembed.errors import EncoderError
from esembed.types import FloatArray

__all__ = ["Sums", "TokenSource", "block_sums", "open_token_source"]

IntArray = npt.NDArray[np.int64]

_BLOCK_TOKENS = 65_536  # gathered at once: 64 MiB at 256 dimensions


class _Config(msgspec.Struct):
    """A model2vec folder's config.json."""

    normalize: bool | None = None
    max_length: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)] | None = 512


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Token vectors added up by text.

    Attributes:
        sums: float32, shape (texts, dims).
        counts: int64, shape (texts,): how many vectors went into each.
        truncated: how many texts were cut.
    """

    sums: FloatArray
    counts: IntArray
    truncated: int


def block_sums(rows: Sequence[IntArray], gather: Callable[[IntArray], FloatArray], dims: int) -> FloatArray:
    """For each text the sum of ``gather(its rows)``: float32, shape (len(rows), dims).

    Goes over blocks of tokens, so that memory doesn't grow with the texts.
    """
    sums = np.zeros((len(rows), dims), np.float32)
    texts = [i for i, r in enumerate(rows) if len(r)]
    start = 0
    while start < len(texts):
        stop, tokens = start, 0
        while stop < len(texts) and (stop == start or tokens + len(rows[texts[stop]]) <= _BLOCK_TOKENS):
            tokens += len(rows[texts[stop]])
            stop += 1
        block = texts[start:stop]
        if len(block) == 1:  # it may be far longer than a block
            long = rows[block[0]]
            for at in range(0, len(long), _BLOCK_TOKENS):
                sums[block[0]] += gather(long[at : at + _BLOCK_TOKENS]).sum(axis=0)
        else:
            edges = np.cumsum([0, *(len(rows[i]) for i in block[:-1])])
            sums[block] = np.add.reduceat(gather(np.concatenate([rows[i] for i in block])), edges, axis=0)
        start = stop
    return sums


class TokenSource:
    """A table of vectors by token id, with the tokenizer that goes with it.

    Attributes:
        table: shape (rows, dims), in the dtype of the file.
        mapping: token id → row, or None when they are the same.
        weights: token id → factor, or None.
    """

    def __init__(
        self,
        tokenizer: Any,
        table: npt.NDArray[Any],
        *,
        mapping: IntArray | None,
        weights: FloatArray | None,
        unknown: int | None,
        normalize: bool,
        max_seq_length: int | None,
        weights_hash: str,
        tokenizer_hash: str,
    ) -> None:
        self.tokenizer, self._table = tokenizer, table
        self._mapping, self._weights, self._unknown = mapping, weights, unknown
        self.dims = int(table.shape[1])
        self.normalize, self.max_seq_length = normalize, max_seq_length
        self.weights_hash, self.tokenizer_hash = weights_hash, tokenizer_hash
        self.extra: dict[str, Any] = {}
        lengths = sorted(len(token) for token in tokenizer.get_vocab())
        # As model2vec: characters beyond this are not even tokenized.
        self._characters = None
        if max_seq_length is not None:
            self._characters = max_seq_length * max(1, int(np.median(lengths)))
            self.extra["max_characters"] = self._characters

    def sums(self, texts: Sequence[str]) -> Sums:
        limit, most = self._characters, self.max_seq_length
        cut = [text[:limit] for text in texts] if limit is not None else list(texts)
        truncated = 0
        result: list[IntArray] = []
        with foreign_errors("the tokenizer (tokenizer.json)", "read a text"):
            encodings = self.tokenizer.encode_batch_fast(cut, add_special_tokens=False)
        for text, short, encoding in zip(texts, cut, encodings, strict=True):
            ids = np.asarray(encoding.ids, np.int64)
            if most is not None and (len(ids) > most or len(short) < len(text)):
                truncated += 1
                ids = ids[:most]
            if self._unknown is not None:
                ids = ids[ids != self._unknown]
            result.append(ids)
        sums = block_sums(result, self._gather, self.dims)
        return Sums(sums, np.array([len(ids) for ids in result], np.int64), truncated)

    def _gather(self, rows: IntArray) -> FloatArray:
        at = rows if self._mapping is None else self._mapping[rows]
        vectors = self._table[at].astype(np.float32)
        if self._weights is not None:
            vectors *= self._weights[rows][:, None]
        return vectors


def open_token_source(folder: Path, *, max_seq_length: int | None) -> TokenSource:
    """A model2vec folder, or a sentence-transformers one with a StaticEmbedding module.

    Raises:
        EncoderError: it is neither; the tensors don't fit together; a package is missing.
    """
    spec = f"static:{folder.name}"
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise EncoderError(
            f'static vectors need the package {error.name}: pip install "esembed[static]"', spec=spec
        ) from error
    check_folder(folder, folder.name)
    nested = folder / "0_StaticEmbedding"
    where = nested if (nested / "model.safetensors").is_file() else folder
    weights_path, tokenizer_path = where / "model.safetensors", where / "tokenizer.json"
    for path in (weights_path, tokenizer_path):
        if not path.is_file():
            other = other_format(folder)
            if other is not None:
                raise EncoderError(f"{folder.name} {other}", spec=spec)
            pickled = sorted(p.name for p in where.glob("*.bin")) + sorted(p.name for p in where.glob("*.pt"))
            hint = f"; {pickled[0]} is pickled, and reading it would run its code" if pickled else ""
            raise EncoderError(f"{folder.name} is no static model: it has no {path.name}{hint}", spec=spec)
    file = TensorFile(weights_path)
    # copied: a model that is written over must not change what is loaded
    tensors = {tensor: np.array(file.array(tensor)) for tensor in file.entries}
    with foreign_errors(f"{folder.name}/tokenizer.json", "be read", spec=spec):
        description = read_json(tokenizer_path)
        check_growth(description.get("normalizer"), folder.name)
        tokenizer = Tokenizer.from_file(str(tokenizer_path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        unknown = _unknown_id(description, tokenizer)
    own = "embeddings" in tensors
    table = tensors.get("embeddings", tensors.get("embedding.weight"))
    if table is None or table.ndim != 2 or table.dtype.kind not in "fi":
        raise EncoderError(
            f"{folder.name}/model.safetensors holds {', '.join(sorted(tensors)[:5])} and not a table of "
            "static vectors (embeddings, or embedding.weight); a transformer is loaded with hf:",
            spec=spec,
        )
    mapping, weights = tensors.get("mapping"), tensors.get("weights")
    vocabulary = max(tokenizer.get_vocab(True).values(), default=-1) + 1
    _check_sizes(spec, table, mapping, weights, vocabulary)
    stated = optional_json(folder / "config.json") if own else {}
    config = checked(stated, _Config, "config.json", folder.name)
    limit = max_seq_length
    if limit is None and own:
        limit = config.max_length
    return TokenSource(
        tokenizer,
        table,
        mapping=None if mapping is None else mapping.astype(np.int64),
        weights=None if weights is None else weights.astype(np.float32),
        unknown=unknown if own else None,
        normalize=bool(config.normalize) or (not own and _has_normalize_module(folder)),
        max_seq_length=limit,
        weights_hash=_tensor_hash(tensors),
        tokenizer_hash=hashlib.sha256(tokenizer_path.read_bytes()).hexdigest(),
    )


def _check_sizes(
    spec: str,
    table: npt.NDArray[Any],
    mapping: npt.NDArray[Any] | None,
    weights: npt.NDArray[Any] | None,
    vocabulary: int,
) -> None:
    if mapping is None and len(table) < vocabulary:
        raise EncoderError(
            f"{vocabulary} tokens in tokenizer.json, but only {len(table)} vectors in model.safetensors and "
            "no mapping",
            spec=spec,
        )
    if mapping is not None and (
        mapping.ndim != 1
        or mapping.dtype.kind not in "iu"
        or len(mapping) < vocabulary
        or int(mapping.min()) < 0
        or int(mapping.max()) >= len(table)
    ):
        raise EncoderError(
            "the token mapping in model.safetensors points outside of its table of vectors", spec=spec
        )
    for name, values in (("vectors", table), ("weights", weights)):
        if values is not None and not np.isfinite(values).all():
            raise EncoderError(f"the {name} in model.safetensors hold NaN or infinity", spec=spec)
    if weights is not None and (weights.ndim != 1 or len(weights) < vocabulary):
        raise EncoderError(
            f"{vocabulary} tokens in tokenizer.json, but weights of shape {weights.shape} in "
            "model.safetensors",
            spec=spec,
        )


def _unknown_id(description: dict[str, Any], tokenizer: Any) -> int | None:
    model = description.get("model", {})
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"])
    token = model.get("unk_token")
    found = tokenizer.token_to_id(token) if isinstance(token, str) else None
    return int(found) if found is not None else None


def _has_normalize_module(folder: Path) -> bool:
    path = folder / "modules.json"
    if not path.is_file():
        return False
    known = {"StaticEmbedding", "Normalize"}
    names = [module.type.rpartition(".")[2] for module in module_entries(path, folder.name)]
    if set(names) - known:
        raise EncoderError(
            f"{folder.name} has the modules {', '.join(names)} (modules.json); only "
            f"{', '.join(sorted(known))} are known for static vectors",
            spec=f"static:{folder.name}",
        )
    return "Normalize" in names


def _tensor_hash(tensors: dict[str, npt.NDArray[Any]]) -> str:
    """sha256 over name, dtype, shape and bytes of each tensor, by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}|{tensor.dtype.str}|{tensor.shape}\n".encode())
        digest.update(tensor.data)
    return digest.hexdigest()
