"""Reading one file by its format: options, and the reader that each format has."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from esembed.errors import OptionsError, RecordError
from esembed.ingest.sources.files import Counter, Location, decompress
from esembed.ingest.sources.lines import read_csv, read_json, read_jsonl, read_text
from esembed.ingest.sources.tables import read_arrow, read_parquet
from esembed.option_checks import check_numbers
from esembed.types import Document

__all__ = ["ReadOptions", "read_location"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How sources are read.

    Attributes:
        format: ``jsonl``, ``json``, ``csv``, ``tsv``, ``parquet``, ``arrow``, ``text``, or ``auto``
            (by the name).
        encoding: of text formats, unless a byte order mark says otherwise.
        fallback_encoding: for lines that aren't *encoding*; None makes them dead letters.
        max_record_bytes: the longest line or JSON file; a cell of a CSV file may have a quarter of that in
            characters.
        delimiter: between CSV cells, else ``,`` (a tab for tsv).
        quote: around CSV cells that hold a delimiter, a line break or (doubled) quotes; empty: there is none,
            and quotes are text like any other, as databases export TSV.
        storage: fsspec's options for remote stores (credentials are better left to its environment).
    """

    format: str = "auto"
    encoding: str = "utf-8"
    fallback_encoding: str | None = None
    max_record_bytes: int = 256 * 1024 * 1024
    delimiter: str | None = None
    quote: str = '"'
    storage: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_numbers(self, whole={"max_record_bytes": (1, None)})
        for name in ("encoding", "fallback_encoding"):
            value = getattr(self, name)
            if value is None:
                continue
            try:
                "".encode(value)
            except (LookupError, ValueError) as error:
                raise OptionsError(
                    f"Python knows no text encoding {value!r} (common ones: utf-8, utf-16, latin-1, cp1252, "
                    "iso8859-15, cp932, gb18030)",
                    option=name,
                ) from error
        if self.delimiter is not None:
            delimiter = _TABS.get(self.delimiter, self.delimiter)
            object.__setattr__(self, "delimiter", delimiter)
            if len(delimiter) != 1 or delimiter in "\r\n" or delimiter == self.quote:
                raise OptionsError(
                    f"one character stands between CSV cells, not {delimiter!r} (a tab: '\\t')",
                    option="delimiter",
                )
        if len(self.quote) > 1 or self.quote in ("\r", "\n", "\t", ","):
            raise OptionsError(
                f"one character stands around quoted CSV cells, or none (''), not {self.quote!r}",
                option="quote",
            )


_TABS = {"\\t": "\t", "tab": "\t"}
"""What people write on a command line where they mean a tab."""


def read_location(
    location: Location, counter: Counter, raw: Any, options: ReadOptions
) -> Iterator[Document | RecordError]:
    """The records of one open file, what is no record as an UnreadableRecord.

    Args:
        location: which file, and its format.
        counter: its bytes from the front, for formats that stream.
        raw: the file itself, for formats that need to seek.

    Raises:
        OptionsError: there is no such format.
        SourceError: a package that the format needs is missing.
    """
    label = location.label
    if location.format == "parquet":
        yield from read_parquet(raw, label)
        return
    if location.format == "arrow":
        yield from read_arrow(raw if raw.seekable() else io.BytesIO(raw.read()), label)
        return
    stream = decompress(counter, label)
    common: dict[str, Any] = {
        "encoding": options.encoding,
        "fallback": options.fallback_encoding,
        "limit": options.max_record_bytes,
    }
    if location.format == "jsonl":
        yield from read_jsonl(stream, label, **common)
    elif location.format == "json":
        yield from read_json(stream, label, **common)
    elif location.format in ("csv", "tsv"):
        delimiter = options.delimiter or ("\t" if location.format == "tsv" else None)
        yield from read_csv(stream, label, delimiter=delimiter, quote=options.quote, **common)
    elif location.format == "text":
        yield from read_text(stream, label, **common)
    else:
        raise OptionsError(f"there is no format {location.format!r}", option="format")
