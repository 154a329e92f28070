"""Bytes from files, standard input and remote stores, decompressed on the way."""

from __future__ import annotations

import bz2
import codecs
import glob
import gzip
import io
import lzma
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from esembed.errors import SourceError

__all__ = [
    "Counter",
    "Location",
    "decompress",
    "expand",
    "from_the_store",
    "open_location",
    "sniff_encoding",
    "without_secrets",
]

_HEAD_BYTES = 6
"""What the first read brings at least: enough to tell compression and byte order by."""

_STORES = ("aiohttp", "aiobotocore", "azure", "botocore", "fsspec", "gcsfs", "google", "s3fs")

KNOWN = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".arrows": "arrow",
    ".txt": "text",
    ".md": "text",
}
COMPRESSED = (".gz", ".zst", ".zstd", ".bz2", ".xz")


@dataclass(frozen=True, slots=True)
class Location:
    """One file of a source.

    Attributes:
        name: path or URL (``-`` is standard input).
        label: a short name for positions.
        format: one of KNOWN's values.
        size: bytes on disk (compressed ones as they are), or None.
    """

    name: str
    label: str
    format: str
    size: int | None


def _format_of(name: str, explicit: str) -> str | None:
    if explicit != "auto":
        return explicit
    stem = name.lower().partition("?")[0]
    for suffix in COMPRESSED:
        stem = stem.removesuffix(suffix)
    for suffix, kind in KNOWN.items():
        if stem.endswith(suffix):
            return kind
    return None


def _needs_format(name: str) -> SourceError:
    return SourceError(
        f"can't tell the format of {name}; say it with --format or ReadOptions(format=…): jsonl, json, csv, "
        "tsv, parquet, arrow or text",
        source=name,
    )


def expand(name: str, explicit: str, storage: Mapping[str, Any]) -> Iterator[Location]:
    """The files that a path, folder, glob or URL means, in order of their names.

    Raises:
        SourceError: nothing there, or a format that can't be told.
    """
    if name == "-":
        yield Location("-", "stdin", "jsonl" if explicit == "auto" else explicit, None)
        return
    if "://" in name:
        yield from _expand_remote(name, explicit, storage)
        return
    path = Path(name)
    if path.is_dir():
        found = [p for p in sorted(path.rglob("*")) if p.is_file() and _format_of(p.name, "auto")]
        if not found:
            raise SourceError(f"the folder {name} holds no file of a known format", source=name)
    elif path.exists():
        found = [path]
    else:
        found = [p for p in (Path(f) for f in sorted(glob.glob(name, recursive=True))) if p.is_file()]
        if not found:
            raise SourceError(f"there is no file {name}", source=name)
    for file in found:
        kind = _format_of(file.name, explicit if len(found) == 1 or not path.is_dir() else "auto")
        if kind is None:
            raise _needs_format(str(file))
        label = str(file.relative_to(path)) if path.is_dir() else file.name
        yield Location(str(file), label, kind, file.stat().st_size)


def _fsspec() -> Any:
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise SourceError(
            'remote sources need fsspec and the store\'s own package: pip install "esembed[remote]"'
        ) from error
    return fsspec


def _expand_remote(name: str, explicit: str, storage: Mapping[str, Any]) -> Iterator[Location]:
    fsspec = _fsspec()
    try:
        fs, path = fsspec.core.url_to_fs(name, **storage)
        if any(c in path for c in "*[") or ("?" in path and not name.startswith("http")):
            paths = sorted(fs.glob(path))
        elif not name.startswith("http") and fs.isdir(path):
            paths = [p for p in sorted(fs.find(path)) if _format_of(p, "auto")]
        else:
            paths = [path]
    except Exception as error:
        if not isinstance(error, (ValueError, ImportError)) and not from_the_store(error):
            raise
        raise SourceError(
            f"can't open {_public(name)}: {without_secrets(error)}", source=_public(name)
        ) from error
    if not paths:
        raise SourceError(f"nothing matches {_public(name)}", source=_public(name))
    for item in paths:
        kind = _format_of(item, explicit)
        if kind is None:
            raise _needs_format(_public(item))
        try:
            size = fs.size(item)
        except FileNotFoundError as error:
            raise SourceError(
                f"there is no {_public(item)}, or it can't be read", source=_public(item)
            ) from error
        except Exception as error:
            if not isinstance(error, NotImplementedError) and not from_the_store(error):
                raise
            size = None
        yield Location(fs.unstrip_protocol(item), _public(item).rpartition("/")[2], kind, size)


def from_the_store(error: Exception) -> bool:
    """Whether it is the network's or the store's refusal, not a mistake of ours: the clients under fsspec
    (aiohttp, botocore …) have errors that are no OSErrors."""
    if isinstance(error, ValueError) and "range requests" in str(error):
        return True  # fsspec's, of a server that gives no part of a file, which Parquet needs
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _STORES


def without_secrets(error: Exception) -> str:
    """The error's text; URLs in it lose user, password and query string."""
    text = str(getattr(error, "strerror", None) or error or type(error).__name__)
    text = re.sub(r"(\w://)[^\s/'\"@]+@", r"\1", text)
    return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text)


def _public(url: str) -> str:
    """The URL without user, password and query string, which may hold secrets."""
    head, sep, rest = url.partition("://")
    if not sep:
        return url.partition("?")[0]
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{head}://{host.rpartition('@')[2]}{slash}{path}"


class Counter(io.RawIOBase):
    """A binary stream that counts what was read from it; seekable where the stream is.

    Attributes:
        count: bytes read so far.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        # What is there, not a whole buffer: the lines of a slow producer (a pipe) come when they are written.
        some = getattr(self._stream, "read1", self._stream.read)
        data = some(len(view))
        while not self.count and 0 < len(data) < _HEAD_BYTES and (more := some(len(view) - len(data))):
            data += more
        view[: len(data)] = data
        self.count += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def open_location(location: Location, storage: Mapping[str, Any]) -> IO[bytes]:
    """The file's raw bytes. Raises OSError."""
    if location.name == "-":
        return sys.stdin.buffer
    if "://" in location.name:
        if location.format not in ("parquet", "arrow"):
            from esembed.ingest.sources.remote import open_remote

            _fsspec()
            return cast("IO[bytes]", open_remote(location.name, location.label, storage, from_the_store))
        return cast("IO[bytes]", _fsspec().open(location.name, "rb", **storage).open())
    return open(location.name, "rb")


def decompress(stream: io.RawIOBase, label: str) -> IO[bytes]:
    """The stream as it is, or decompressed, told by its first bytes, not its name.

    Raises:
        SourceError: zstd without the zstandard package.
    """
    buffered = io.BufferedReader(stream, 1 << 16)
    head = buffered.peek(6)[:6]
    if head.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=buffered))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        try:
            import zstandard
        except ModuleNotFoundError as error:
            raise SourceError(
                f'{label} is compressed by zstd; reading it needs: pip install "esembed[ingest]"',
                source=label,
            ) from error
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(
            buffered, read_across_frames=True
        )
        return cast("IO[bytes]", io.BufferedReader(cast(io.RawIOBase, reader), 1 << 16))
    if head.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.BZ2File(buffered))
    if head.startswith(b"\xfd7zXZ\x00"):
        return cast("IO[bytes]", lzma.LZMAFile(buffered))
    return cast("IO[bytes]", buffered)


_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def sniff_encoding(stream: IO[bytes], encoding: str) -> tuple[IO[bytes], str]:
    """The stream (nothing of it lost) and its encoding: what the byte order mark says, else *encoding*."""
    buffered = stream if hasattr(stream, "peek") else io.BufferedReader(cast(io.RawIOBase, stream))
    head = buffered.peek(4)[:4]
    for mark, name in _BOMS:
        if head.startswith(mark):
            return buffered, name
    return buffered, encoding
