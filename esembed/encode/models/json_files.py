"""A model folder's JSON files: read in one place, since whoever made the folder chose every byte of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from esembed.encode.foreign_errors import reason_of
from esembed.errors import EncoderError

__all__ = ["LFS_POINTER", "LFS_REMEDY", "checked", "optional_json", "read_json", "read_value"]

_MAX_BYTES = 256 * 1024 * 1024
"""The largest tokenizer.json of a published model has 35 MB."""

_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")

LFS_POINTER = b"version https://git-lfs."
LFS_REMEDY = "it is a pointer of Git LFS, not the file itself: run git lfs pull in the model's folder"

T = TypeVar("T")


def read_value(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        EncoderError: it can't be read, is no JSON, is too deep or too large; names the file.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8")
        if text.startswith(LFS_POINTER.decode()):
            raise ValueError(LFS_REMEDY)
        value = json.loads(text)
        if _HALF_PAIR.search(text):  # which no file name, tensor name or text can hold
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (OSError, ValueError, RecursionError) as error:
        raise EncoderError(f"can't read {path.name} in {path.parent}: {reason_of(error)}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        EncoderError: it can't be read, or is no object.
    """
    value = read_value(path)
    if not isinstance(value, dict):
        raise EncoderError(f"{path.name} in {path.parent} holds no JSON object")
    return value


def optional_json(path: Path) -> dict[str, Any]:
    """:func:`read_json`; empty where there is no such file."""
    return read_json(path) if path.is_file() else {}


def checked(value: Any, kind: type[T], file: str, name: str) -> T:
    """*value* as a typed object, which ignores what it has no field for.

    Args:
        file, name: the file that it comes from, and the model's name, for messages.

    Raises:
        EncoderError: a field holds what it can't hold; names the file and the field.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise EncoderError(f"{name}: {file} can't be right: {reason_of(error)}", spec=name) from error
