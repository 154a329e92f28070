"""Parquet and Arrow files, a batch at a time (extra ``parquet``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from esembed.errors import SourceError
from esembed.ingest.dead_letters import UnreadableRecord
from esembed.types import Document

__all__ = ["read_arrow", "read_parquet"]

Piece = Document | UnreadableRecord
BATCH_ROWS = 512


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise SourceError('Parquet and Arrow files need pyarrow: pip install "esembed[parquet]"') from error
    return pyarrow


def _column(pa: Any, column: Any) -> list[Any]:
    """A column's values; lists of numbers as NumPy arrays, which is a hundred times as fast as lists."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if getattr(kind, "unit", None) == "ns":
        # Python's own types end at microseconds, and the engines' dates at milliseconds.
        column = column.cast(_microseconds(pa, kind), safe=False)
    fixed = pa.types.is_fixed_size_list(kind)
    listed = fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (listed and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))):
        values: list[Any] = column.to_pylist()
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
            return [None if v is None else v.isoformat() for v in values]
        if pa.types.is_decimal(kind):
            return [None if v is None else float(v) for v in values]
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return [None if v is None else v.decode("utf-8", "surrogateescape") for v in values]
        return values
    flat_nulls = column.flatten().null_count
    if flat_nulls:
        return list(column.to_pylist())
    valid = column.is_valid().to_pylist()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    lengths = column.value_lengths().to_pylist()
    out: list[Any] = []
    at = 0
    for ok, length in zip(valid, lengths, strict=True):
        if not ok:
            out.append(None)
            continue
        out.append(flat[at : at + length].copy())
        at += length
    return out


def _microseconds(pa: Any, kind: Any) -> Any:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.time64("us") if pa.types.is_time(kind) else pa.duration("us")


def _rows(pa: Any, batch: Any, label: str, start: int) -> Iterator[Piece]:
    names = batch.schema.names
    columns = [_column(pa, column) for column in batch.columns]
    for number, row in enumerate(zip(*columns, strict=True), start + 1):
        source = {name: value for name, value in zip(names, row, strict=True) if value is not None}
        yield Document(id=None, source=source, position=f"{label}:{number}")


def read_parquet(stream: IO[bytes], label: str) -> Iterator[Piece]:
    """Rows; null values are left out. The position is the row, from 1."""
    pa = _pyarrow()
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(stream, memory_map=False, pre_buffer=False)
        row = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
            yield from _rows(pa, batch, label, row)
            row += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        yield UnreadableRecord(f"broken Parquet file: {error}", position=label)


def read_arrow(stream: IO[bytes], label: str) -> Iterator[Piece]:
    """Rows of an Arrow IPC file (Feather) or stream."""
    pa = _pyarrow()
    try:
        head = stream.read(6)
        stream.seek(0)
        row = 0
        if head == b"ARROW1":
            file = pa.ipc.open_file(stream)
            batches = (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(stream))
        for batch in batches:
            for at in range(0, batch.num_rows, BATCH_ROWS):
                piece = batch.slice(at, BATCH_ROWS)
                yield from _rows(pa, piece, label, row)
                row += piece.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        yield UnreadableRecord(f"broken Arrow file: {error}", position=label)
