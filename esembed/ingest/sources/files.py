"""Bytes from files, standard input and remote stores, decompressed on the way."""

from __future__ import annotations

import bz2
import codecs
import functools
import glob
import gzip
import io
import lzma
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import unquote

from esembed.credentials import hide_in_logs, public_url
from esembed.errors import SourceError
from esembed.ingest.sources.remote import (
    SlowStoreError,
    ask,
    list_names,
    open_random,
    open_remote,
    web_options,
    without_secrets,
)

__all__ = [
    "Counter",
    "Location",
    "decompress",
    "expand",
    "from_the_store",
    "open_location",
    "sniff_encoding",
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
        partition: fields that the names of its folders say (``lang=en/part-0.parquet``); the columns that
            Spark, Hive, dlt and Athena partition by stand nowhere else.
    """

    name: str
    label: str
    format: str
    size: int | None
    partition: Mapping[str, str] = field(default_factory=dict)


def _is_passed_over(parts: Sequence[str], typed: Collection[str] = ()) -> bool:
    """Whether a file below a folder isn't data, by the convention of Hadoop, which Spark, Hive, Arrow and
    Delta Lake keep: folders that begin with ``_`` or ``.`` are their own (``_delta_log``, ``_temporary``,
    ``.ipynb_checkpoints``, ``__MACOSX``), and so is what begins with a dot. Files with ``_`` at the front are
    read: those writers' own have no ending that is known here, and ``_index.md`` is a page of a site.

    Args:
        parts: the names from the folder down to the file.
        typed: folders that the person wrote out, which are meant.
    """
    folders, file = [part for part in parts[:-1] if part not in typed], parts[-1]
    if file.startswith(".") or any(part[0] in "._" and "=" not in part for part in folders):
        return True
    # An Apache Iceberg table's own files, the only ones with an ending of data (v1.metadata.json).
    return file.endswith(".metadata.json") and folders[-1:] == ["metadata"]


_NO_VALUE = ("", "__HIVE_DEFAULT_PARTITION__")
"""What stands for null in the name of a partition."""


def _partition(folders: Sequence[str]) -> dict[str, str]:
    """``("year=2024", "lang=en")`` as fields. Values are text, as in a CSV file."""
    pairs = (folder.partition("=") for folder in folders if "=" in folder)
    return {unquote(name): unquote(value) for name, _, value in pairs if name and value not in _NO_VALUE}


def _format_of(name: str, explicit: str) -> str | None:
    if explicit != "auto":
        return explicit
    # Only in a URL does a question mark begin a query string; in a file's name it is a character.
    stem = (name.partition("?")[0] if "://" in name else name).lower()
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


def expand(
    name: str, explicit: str, storage: Mapping[str, Any], passed_over: list[str] | None = None
) -> Iterator[Location]:
    """The files that a path, folder, glob or URL means, in order of their names.

    A name that is there as it stands is that file, whatever signs it holds (``a[1].jsonl``, ``why?.jsonl``).

    Args:
        name: what the person wrote.
        explicit: the format, or ``auto``.
        storage: fsspec's options.
        passed_over: takes the names of files that look like data, but lie in folders that aren't.

    Raises:
        SourceError: nothing there, or a format that can't be told.
    """
    if name == "-":
        yield Location("-", "stdin", "jsonl" if explicit == "auto" else explicit, None)
        return
    skipped: list[str] = [] if passed_over is None else passed_over
    if "://" in name:
        yield from _expand_remote(name, explicit, storage, skipped)
        return
    try:
        yield from _expand_local(name, explicit, skipped)
    except OSError as error:  # no permission, a name that is too long, a link that leads to itself
        raise SourceError(f"can't open {name}: {error.strerror or error}", source=name) from error


def _expand_local(name: str, explicit: str, skipped: list[str]) -> list[Location]:
    """The files of this machine that a name means. Raises OSError, SourceError."""
    path = Path(name)
    start = len(path.parts)
    if path.is_dir():
        next(path.iterdir(), None)  # rglob passes over what it can't open, the folder itself too
        files = [p for p in sorted(path.rglob("*")) if p.is_file() and _format_of(p.name, "auto")]
        found = [p for p in files if not _is_passed_over(p.parts[start:])]
        skipped += map(str, sorted({*files} - {*found}))
        if not found:
            raise SourceError(f"the folder {name} holds no file of a known format", source=name)
    elif path.exists():
        found = [path]
    else:
        start = _fixed(path.parts)
        files = [p for p in (Path(f) for f in sorted(glob.glob(name, recursive=True))) if p.is_file()]
        found = [p for p in files if not _is_passed_over(p.parts[start:], path.parts)]
        skipped += map(str, sorted({*files} - {*found}))
        if not found:
            raise SourceError(f"there is no file {name}", source=name)
    locations: list[Location] = []
    for file in found:
        kind = _format_of(file.name, explicit if len(found) == 1 or not path.is_dir() else "auto")
        if kind is None:
            raise _needs_format(str(file))
        label = str(file.relative_to(path)) if path.is_dir() else file.name
        size = file.stat().st_size
        locations.append(Location(str(file), label, kind, size, _partition(file.parts[start:-1])))
    return locations


def _fixed(parts: Sequence[str]) -> int:
    """How many folders at the front of a pattern say where to look, not what: no signs, no partition."""
    for number, part in enumerate(parts[:-1]):
        if any(sign in part for sign in "*?[="):
            return number
    return max(0, len(parts) - 1)


def _fsspec() -> Any:
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise SourceError(
            'remote sources need fsspec and the store\'s own package: pip install "esembed[remote]"'
        ) from error
    hide_in_logs()
    return fsspec


def _expand_remote(
    name: str, explicit: str, storage: Mapping[str, Any], passed_over: list[str]
) -> Iterator[Location]:
    fsspec = _fsspec()
    if name.startswith("http"):
        name = name.partition("#")[0]  # a fragment is the reader's own: no server is ever asked for it
    refused: SourceError | None = None
    try:
        fs, path = fsspec.core.url_to_fs(name, **web_options(name, storage))
        base, web = path.strip("/").split("/"), name.startswith("http")
        start = len(base)
        # On the web a question mark begins the query string.
        signs = any(sign in path for sign in ("*[" if web else "*[?"))
        if signs and not ask(lambda: fs.isfile(path)):
            files, start = list_names(lambda: fs.glob(path)), _fixed(base)
        elif not signs and not web and ask(lambda: fs.isdir(path)):
            files = [p for p in list_names(lambda: fs.find(path)) if _format_of(p, "auto")]
        else:
            files, start = [path], start - 1
        within = {item: item.strip("/").split("/")[start:] for item in files}
        typed = base if signs else ()
        paths = [item for item in files if item == path or not _is_passed_over(within[item], typed)]
        passed_over += map(public_url, sorted({*files} - {*paths}))
    except Exception as error:
        if not isinstance(error, (ValueError, ImportError)) and not from_the_store(error):
            raise
        refused = SourceError(
            f"can't open {public_url(name)}: {without_secrets(error)}", source=public_url(name)
        )
    # Outside of the except block: the store's own error quotes the address with all that is in it.
    if refused is not None:
        raise refused
    if not paths:
        raise SourceError(f"nothing matches {public_url(name)}", source=public_url(name))
    for item in paths:
        kind = _format_of(item, explicit)
        if kind is None:
            raise _needs_format(public_url(item))
        try:
            size = ask(functools.partial(fs.size, item))
        except (FileNotFoundError, SlowStoreError):
            refused = SourceError(
                f"there is no {public_url(item)}, or it can't be read", source=public_url(item)
            )
        except Exception as error:
            if not isinstance(error, NotImplementedError) and not from_the_store(error):
                raise
            size = None
        if refused is not None:
            raise refused
        label = public_url(item).rpartition("/")[2]
        yield Location(fs.unstrip_protocol(item), label, kind, size, _partition(within[item][:-1]))


def from_the_store(error: Exception) -> bool:
    """Whether it is the network's or the store's refusal, not a mistake of ours: the clients under fsspec
    (aiohttp, botocore …) have errors that are no OSErrors."""
    if isinstance(error, ValueError) and "range requests" in str(error):
        return True  # fsspec's, of a server that gives no part of a file, which Parquet needs
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _STORES


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
            _fsspec()
            return cast("IO[bytes]", open_remote(location.name, location.label, storage, from_the_store))
        _fsspec()
        return cast("IO[bytes]", open_random(location.name, storage))
    return open(location.name, "rb")


_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
"""How a frame begins that a zstd reader passes over (RFC 8878, 3.1.2): pzstd and seekable writers put one at
the front of a file."""


def decompress(stream: io.RawIOBase, label: str) -> IO[bytes]:
    """The stream as it is, or decompressed, told by its first bytes, not its name.

    Raises:
        SourceError: zstd without the zstandard package.
    """
    buffered = io.BufferedReader(stream, 1 << 16)
    head = buffered.peek(6)[:6]
    if head.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=buffered))
    if head.startswith(b"\x28\xb5\x2f\xfd") or _SKIPPABLE.match(head):
        try:
            import zstandard
        except ModuleNotFoundError as error:
            raise SourceError(
                f'{label} is compressed by zstd; reading it needs: pip install "esembed[ingest]"',
                source=label,
            ) from error
        # As large as "zstd --long=31" makes it: the library's own limit is 128 MiB, and files made with more
        # fail.
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(
            buffered, read_across_frames=True
        )
        return cast("IO[bytes]", io.BufferedReader(cast(io.RawIOBase, reader), 1 << 16))
    if head.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.BZ2File(buffered))
    if head.startswith(b"\xfd7zXZ\x00"):
        return cast("IO[bytes]", lzma.LZMAFile(buffered))
    return cast("IO[bytes]", buffered)


# UTF-32 before UTF-16: the mark of the one (FF FE 00 00) begins with the other's (FF FE).
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
