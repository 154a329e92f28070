"""Hashes that tell models apart by what they compute, not by how their files were written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from esembed.encode.models.json_files import read_json
from esembed.encode.models.tensors import Tensors, weights_hash
from esembed.errors import EncoderError

__all__ = ["cache_folder", "cached_weights_hash", "file_sha256", "tokenizer_hash"]


def cache_folder() -> Path:
    """The user's cache folder of esembed (``ESEMBED_CACHE`` overrides it). Not created here."""
    override = os.environ.get("ESEMBED_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("esembed"))


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def cached_weights_hash(parts: Mapping[str, Tensors]) -> str:
    """``tensors.weights_hash``, remembered by each file's path, size and modification time.

    A cache that can't be read or written costs time only.
    """
    stamp = []
    for folder in sorted(parts):
        for path in sorted({str(parts[folder].file_of(n).path.resolve()) for n in parts[folder]}):
            stat = os.stat(path)
            stamp.append([folder, path, stat.st_size, stat.st_mtime_ns])
    key = hashlib.sha256(json.dumps(["v1", stamp]).encode()).hexdigest()
    place = cache_folder() / "weights" / key
    with contextlib.suppress(OSError):
        known = place.read_text(encoding="ascii").strip()
        if len(known) == 64:
            return known
    value = weights_hash(parts)
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f"{key}.{os.getpid()}.part")
        partial.write_text(value, encoding="ascii")
        partial.replace(place)
    return value


def tokenizer_hash(folder: Path, lower_case: bool = False) -> str:
    """sha256 over tokenizer.json in canonical form (sorted keys, without truncation and padding, which
    are set here anyway), or over vocab.txt and the tokenizer's options where there is none.

    Raises:
        EncoderError: the folder has no tokenizer.
    """
    digest = hashlib.sha256(b"lower" if lower_case else b"")
    main = folder / "tokenizer.json"
    if main.is_file():
        value = read_json(main)
        value.pop("truncation", None)
        value.pop("padding", None)
        digest.update(json.dumps(value, sort_keys=True, ensure_ascii=True).encode())
        return digest.hexdigest()
    names = (
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "spiece.model",
        "tokenizer.model",
    )
    present = [folder / name for name in names if (folder / name).is_file()]
    if not present:
        raise EncoderError(f"{folder.name} has no tokenizer (tokenizer.json or vocab.txt)")
    for path in present:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
