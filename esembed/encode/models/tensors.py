"""Reading safetensors files in place: memory-mapped, converted to float32 on access.

The format (https://github.com/huggingface/safetensors) is a length, a JSON header and the bytes. It is
read here directly because the library's NumPy side has no bfloat16 and copies each tensor, and because
the hash over the source tensors wants the raw bytes. Offsets come from the file and are checked.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from esembed.errors import EncoderError

__all__ = ["TensorFile", "Tensors", "weights_hash"]

_DTYPES: dict[str, npt.DTypeLike] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_MAX_HEADER_BYTES = 100_000_000


class TensorFile:
    """One safetensors file, mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as handle:
                self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise EncoderError(f"can't read {path.name}: {error}") from error
        self.entries = self._read_header()

    def _read_header(self) -> dict[str, tuple[str, tuple[int, ...], int, int]]:
        size = len(self._map)
        length = int.from_bytes(self._map[:8], "little") if size >= 8 else -1
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise EncoderError(f"{self.path.name} is no safetensors file, or it is cut short: fetch it again")
        try:
            header = json.loads(self._map[8 : 8 + length])
            entries = {}
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                start, end = entry["data_offsets"]
                shape, dtype = tuple(int(n) for n in entry["shape"]), entry["dtype"]
                wanted = int(np.prod(shape, dtype=np.int64)) * np.dtype(_DTYPES[dtype]).itemsize
                if (
                    not 0 <= start <= end <= size - 8 - length
                    or end - start != wanted
                    or min(shape, default=0) < 0
                ):
                    raise ValueError(f"tensor {name!r} lies outside the file")
                entries[name] = (dtype, shape, 8 + length + start, 8 + length + end)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EncoderError(
                f"{self.path.name} is damaged or of a kind that isn't known here ({error}): fetch it again"
            ) from error
        return entries

    def raw(self, name: str) -> memoryview:
        """The tensor's bytes, not copied."""
        _, _, start, end = self.entries[name]
        return memoryview(self._map)[start:end]

    def array(self, name: str) -> npt.NDArray[Any]:
        """The tensor as stored, except that bfloat16 becomes float32."""
        dtype, shape, _, _ = self.entries[name]
        values = np.frombuffer(self.raw(name), dtype=_DTYPES[dtype])
        if dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(shape)


class Tensors(Mapping[str, npt.NDArray[np.float32]]):
    """All tensors of a model by name; access converts to float32."""

    def __init__(self, files: list[TensorFile]) -> None:
        self._where = {name: file for file in files for name in file.entries}

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        return self._where[name].array(name).astype(np.float32, copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def file_of(self, name: str) -> TensorFile:
        """The file that holds *name*."""
        return self._where[name]


def weights_hash(parts: Mapping[str, Tensors]) -> str:
    """sha256 over tensors in canonical form: sorted by name, each as name, dtype, shape and bytes.

    The order of tensors in files, sharding and file metadata don't matter; position_ids buffers, which
    some exports carry and some don't, are left out.

    Args:
        parts: folder of the module (empty for the transformer) → its tensors.
    """
    digest = hashlib.sha256()
    names = sorted(
        (f"{folder}/{name}" if folder else name, folder, name) for folder in parts for name in parts[folder]
    )
    for full, folder, name in names:
        if name.endswith("position_ids"):
            continue
        file = parts[folder].file_of(name)
        dtype, shape, _, _ = file.entries[name]
        digest.update(json.dumps([full, dtype, list(shape)]).encode())
        digest.update(file.raw(name))
    return digest.hexdigest()
