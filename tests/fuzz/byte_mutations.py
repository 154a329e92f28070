"""Real files, mutated: bytes flipped, cut, doubled and moved, lengths and numbers replaced by hostile ones,
lines of JSON changed inside."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import struct
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import mutations

FILES = mutations.CORPUS / "files"

PIECES: list[bytes] = [
    b"", b"\0", b"\0" * 300, b"\n", b"\r", b"\r\n", b"\n" * 500, b" ", b"\t", b",", b";", b'"',
    b'""', b"'", b"\\", b"\\u", b"\\ud800", b"\\u0000", b"{", b"}", b"[", b"]", b":", b"{}", b"[]",
    b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"1e-400", b"12345678901234567890123",
    b"9" * 400, b"9" * 5000, b"0x10", b"1_000", b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xff\xfe\0\0",
    b"\xef\xbb\xbf", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x85", b"\x1b[2J",
    "\u2028".encode(), "\u202e".encode(), "\U0001f332".encode(), b"[" * 900, b'{"a":' * 900,
    b"[" * 5000, b"x" * 5000, b",".join([b"a"] * 3000), b'{"index":{}}\n',
    b'{"delete":{"_id":"1"}}\n', b'{"update":{"_id":[]}}\n', b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd",
    b"BZh9", b"\xfd7zXZ\0", b"\x50\x2a\x4d\x18\xff\xff\xff\xff", b"PAR1", b"ARROW1", b"/" * 3000,
    b"~1~0", b"esembed_dead_letter", b"1000000000 1000000000\n", b"7 4\n", b"0 0\n", b"-1 4\n",
]  # fmt: skip
"""What means something to one of the readers, or is long, or no text."""

NUMBERS = [
    0, 1, -1, 2, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, -(2**31), 2**32 - 1, 2**62, 2**63 - 1, -(2**63),
]  # fmt: skip


def load(*patterns: str) -> list[tuple[str, bytes]]:
    """The corpus of an entrance: name and bytes of each file."""
    found = sorted({path for pattern in patterns for path in FILES.glob(pattern)})
    assert found, patterns
    return [(path.name, path.read_bytes()) for path in found]


def from_seed(corpus: Sequence[tuple[str, bytes]], seed: int) -> tuple[str, bytes]:
    """One of the corpus' files, changed in one to four ways; its name says the format."""
    random = Random(seed)
    name, data = random.choice(corpus)
    if random.random() < 0.5 and (packing := _packing(name)) is not None:
        # What is inside is changed, not the packing: else it would hardly ever be reached.
        unpack, pack = packing
        return name, pack(_changed(unpack(data)[:50_000], random, corpus))
    if random.random() < 0.5 and name.endswith((".jsonl", ".ndjson", ".json")):
        return name, _changed_json(data, random)
    return name, _changed(data, random, corpus)


def unpacked(name: str, data: bytes) -> bytes:
    """What is in a packed file, by the libraries themselves. Raises what they raise."""
    packing = _packing(name)
    assert packing is not None, name
    return bytes(packing[0](data))


def _packing(name: str) -> Any:
    if name.endswith(".gz"):
        return gzip.decompress, lambda data: gzip.compress(data, mtime=0)
    if name.endswith(".bz2"):
        return bz2.decompress, bz2.compress
    if name.endswith(".xz"):
        return lzma.decompress, lzma.compress
    if name.endswith(".zst"):
        import zstandard

        def unpack(data: bytes) -> bytes:
            with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
                return bytes(reader.read())

        return unpack, zstandard.ZstdCompressor().compress
    return None


def _changed_json(data: bytes, random: Random) -> bytes:
    """Lines of JSON with values replaced by hostile ones, as :mod:`mutations` does it to queries."""
    lines = data.split(b"\n")
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(lines))
        try:
            value = json.loads(lines[at])
            made = json.dumps(mutations.from_seed([value], random.randrange(2**24)))
        except (ValueError, RecursionError):
            continue
        lines[at] = made.encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def _changed(data: bytes, random: Random, corpus: Sequence[tuple[str, bytes]]) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        _change(changed, random, corpus)
    return bytes(changed)


def _change(data: bytearray, random: Random, corpus: Sequence[tuple[str, bytes]]) -> None:
    at = random.randrange(len(data) + 1)
    end = min(len(data), at + random.choice([1, 2, 4, 8, 30, 300, len(data)]))
    what = random.randrange(10)
    if what == 0 and at < len(data):
        data[at] ^= 1 << random.randrange(8)
    elif what == 1:
        data[at:end] = bytes(random.randrange(256) for _ in range(min(8, end - at)))
    elif what == 2:
        data[at:at] = random.choice(PIECES)
    elif what == 3:
        data[at:end] = random.choice(PIECES)
    elif what == 4:
        del data[at:end]
    elif what == 5:
        data[at:at] = data[at:end] * random.choice([1, 2, 50])
    elif what == 6:
        del data[at:]
    elif what == 7:
        # A length or a count of a binary form; small ones at the end and the front are where such stand.
        at = random.choice([at, at, len(data) - 8, 0, 4])
        kind = random.choice(["<i", "<q", ">i", "<h", "<d"])
        number = random.choice(NUMBERS)
        try:
            packed = struct.pack(kind, number)
        except struct.error:
            packed = struct.pack("<q", number)
        data[max(0, at) : max(0, at) + len(packed)] = packed
    elif what == 8:
        _, other = random.choice(corpus)
        start = random.randrange(len(other) + 1)
        data[at:end] = other[start : start + random.choice([10, 100, 4000])]
    else:
        lines = bytes(data).split(b"\n")
        which = random.randrange(len(lines))
        lines[which:which] = [lines[which]] * random.choice([1, 40, 400])
        random.shuffle(lines) if random.random() < 0.3 else None
        data[:] = b"\n".join(lines)
    del data[400_000:]


def put(folder: Path, name: str, data: bytes) -> Path:
    """The file, alone in its folder."""
    path = folder / name
    path.write_bytes(data)
    return path
