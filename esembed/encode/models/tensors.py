"""Reading safetensors files in place: memory-mapped, converted to float32 on access.

The format (https://github.com/huggingface/safetensors) is a length, a JSON header and the bytes. It is
read here directly because the library's NumPy side has no bfloat16 and copies each tensor, and because
the hash over the source tensors wants the raw bytes. Offsets come from the file and are checked.

Also small tensors out of a file that ``torch.save`` wrote, without torch and without running what it says.

A pickle is a program: reading one calls whatever it names. Here nothing can be called but what makes a
dictionary and an array: every other name is refused (Python's own advice, "Restricting Globals":
https://docs.python.org/3/library/pickle.html#restricting-globals). It reads the zip form that
``torch.save`` has written since torch 1.6, with plain tensors in dictionaries, and no more than 64 MiB.
"""

from __future__ import annotations

import collections
import hashlib
import io
import json
import math
import mmap
import pickle
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from esembed.encode.foreign_errors import reason_of, shown
from esembed.encode.models.json_files import LFS_POINTER, LFS_REMEDY
from esembed.errors import EncoderError

__all__ = ["TensorFile", "Tensors", "read_pickled_tensors", "weights_hash"]

_DTYPES: dict[str, npt.DTypeLike] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
# The safetensors library's own limit.
_MAX_HEADER_BYTES = 100_000_000
# numpy 1 takes 32 axes, numpy 2 takes 64, and either no array whose lengths (but those of 0) overflow when
# they are multiplied.
_MAX_AXES, _MAX_VALUES = 8, 2**40


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
        if self._map[: len(LFS_POINTER)] == LFS_POINTER:
            raise EncoderError(f"{self.path.name} can't be read: {LFS_REMEDY}")
        length = int.from_bytes(self._map[:8], "little") if size >= 8 else -1
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise EncoderError(
                f"{self.path.name} can't be read: no safetensors file, or cut short. Fetch it again"
            )
        try:
            header = json.loads(self._map[8 : 8 + length])
            entries = {}
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                start, end = entry["data_offsets"]
                shape, dtype = tuple(entry["shape"]), entry["dtype"]
                if any(type(n) is not int or n < 0 for n in (start, end, *shape)):
                    raise ValueError(f"tensor {shown(name)} has a shape or place that is none")
                # Of no values, too: numpy refuses both when the tensor is read.
                if len(shape) > _MAX_AXES or math.prod(n or 1 for n in shape) > _MAX_VALUES:
                    raise ValueError(f"tensor {shown(name)} has more axes, or longer ones, than any model")
                if dtype not in _DTYPES:  # F8_E4M3, F4 …
                    raise EncoderError(
                        f"{self.path.name} has values of type {str(dtype)[:20]} ({shown(name)}), as "
                        "quantized models have, and only float weights are read: take the model's "
                        "unquantized revision"
                    )
                # Python's integers: a product of 64 bits can overflow to what the offsets say
                wanted = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
                if not start <= end <= size - 8 - length or end - start != wanted:
                    raise ValueError(f"tensor {shown(name)} lies outside the file")
                entries[name] = (dtype, shape, 8 + length + start, 8 + length + end)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise EncoderError(
                f"{self.path.name} is damaged or of a kind that isn't known here ({reason_of(error)}): fetch "
                "it again"
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


_BROKEN = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    IndexError,
    OverflowError,
    RuntimeError,
    zlib.error,
)
"""What a file that is no such pickle ends in."""

_MAX_BYTES = 64 * 1024 * 1024
_MAX_PROGRAM_BYTES = 1024 * 1024
_MAX_MEMO = 65_536
_STORAGES: dict[str, npt.DTypeLike] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": np.uint16,
}


def read_pickled_tensors(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Name → tensor as float32, of a state dict that ``torch.save`` wrote.

    Raises:
        EncoderError: it is of another form, too large, damaged, or names anything but tensors.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES >> 20} MiB")
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path.stat().st_size)
    except (OSError, MemoryError, *_BROKEN) as error:
        raise EncoderError(
            f"{path.name} can't be read ({reason_of(error)}): only tensors are taken out of a pickle, "
            "nothing in it is run. Save it where you trust it as "
            f"{path.with_suffix('.safetensors').name} (safetensors.torch.save_file), which is read instead",
            spec=path.name,
        ) from error


def _read(archive: zipfile.ZipFile, length: int) -> dict[str, npt.NDArray[np.float32]]:
    sizes = {info.filename: info.file_size for info in archive.infolist()}
    # zipfile asks at once for as many bytes as a part claims to have there: 1 GiB for a file of 2 kB.
    if sum(info.compress_size for info in archive.infolist()) > length:
        raise ValueError("its parts are longer than the file")
    if sum(sizes.values()) > _MAX_BYTES:
        raise ValueError(f"it unpacks to more than {_MAX_BYTES >> 20} MiB")
    [program] = [name for name in sizes if name.count("/") == 1 and name.endswith("/data.pkl")]
    if sizes[program] > _MAX_PROGRAM_BYTES:
        raise ValueError("its pickle is too large for a few tensors")
    root = program.removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in sizes and archive.read(order) != b"little":
        raise ValueError("its bytes are in big-endian order")
    data = archive.read(program)
    for opcode, argument, _ in pickletools.genops(data):
        # a place in the memo is memory before anything is checked
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) < _MAX_MEMO:
            raise ValueError("its pickle asks for too much memory")
    found = _Tensors(data, lambda key: archive.read(f"{root}data/{key}")).load()
    if not isinstance(found, Mapping):
        raise ValueError("it holds no dictionary of tensors")
    return {str(name): value for name, value in found.items() if isinstance(value, np.ndarray)}


class _Tensors(pickle.Unpickler):
    """Reads dictionaries and tensors; every other name in the pickle is an error."""

    def __init__(self, data: bytes, storage: Callable[[str], bytes]) -> None:
        super().__init__(io.BytesIO(data))
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _tensor(*arguments)
        if module == "torch" and name in _STORAGES:
            return name
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> npt.NDArray[Any]:
        kind, storage, key, _, count = pid
        if kind != "storage" or storage not in _STORAGES or not str(key).isalnum():
            raise pickle.UnpicklingError("it refers to something other than a tensor's values")
        return np.frombuffer(self._storage(str(key)), _STORAGES[storage], int(count))


def _tensor(
    values: npt.NDArray[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> npt.NDArray[np.float32]:
    if values.dtype == np.uint16:  # bfloat16
        values = (values.astype(np.uint32) << 16).view(np.float32)
    if not all(size >= 0 for size in shape) or math.prod(shape) > len(values):
        raise ValueError("a tensor has more elements than values")
    if 0 in shape:  # whatever the other sizes: the places along them would be made
        return np.zeros(0, np.float32)
    places = np.full(shape, offset, np.int64)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        along = [1] * len(shape)
        along[axis] = size
        places += (np.arange(size) * stride).reshape(along)
    if places.size and (places.min() < 0 or places.max() >= len(values)):
        raise ValueError("a tensor lies outside its values")
    return np.asarray(values[places], np.float32)
