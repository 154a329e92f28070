"""Parquet and Arrow files and frames, a batch at a time (extra ``parquet``).

Columns are converted by their type, nested ones by the types inside. pyarrow's own ``to_pylist`` won't do:
one cell that Python has no value for (a date beyond the year 9999, text that isn't UTF-8) ends it for all
rows, a map comes out as a list of pairs, and nanoseconds come out as pandas' types where that is installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from esembed.errors import SourceError
from esembed.ingest.dead_letters import UnreadableRecord
from esembed.ingest.sources.remote import SlowStoreError
from esembed.lazy import np
from esembed.scalars import iso_year
from esembed.types import Document

__all__ = ["is_frame", "open_frame", "read_arrow", "read_parquet"]

RawRecord = Document | UnreadableRecord

BATCH_ROWS = 512
"""Rows that are converted together: enough to spread a column's fixed costs, few enough to hold in memory
when each has a vector of some thousand dims."""


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.compute
    except ModuleNotFoundError as error:
        raise SourceError(
            'Parquet and Arrow files and frames need pyarrow: pip install "esembed[parquet]"'
        ) from error
    return pyarrow


class _BadCell:
    """A cell that can't be said in JSON, and why."""

    def __init__(self, error: Exception) -> None:
        self.reason = str(error) or type(error).__name__


def _column(pa: Any, column: Any) -> list[Any]:
    """The values of a column, or a _BadCell where one can't be had."""
    try:
        return _values(pa, column)
    except Exception:  # noqa: BLE001 - whatever it was, it is found again below, in its own cell
        cells: list[Any] = []
        for row in range(len(column)):
            try:
                cells += _values(pa, column.slice(row, 1))
            except Exception as error:  # noqa: BLE001 - pyarrow's and Python's own, of many kinds
                cells.append(_BadCell(error))
        return cells


def _values(pa: Any, array: Any) -> list[Any]:
    """An array as Python values, by its type. Raises whatever one of the cells raises."""
    kind, types = array.type, pa.types
    if isinstance(array, pa.ExtensionArray) or isinstance(kind, pa.BaseExtensionType):
        # UUIDs are 16 bytes underneath; all others mean what is underneath.
        if str(kind) == "extension<arrow.uuid>":
            return [None if cell is None else str(cell) for cell in array.to_pylist()]
        if str(kind) == "extension<arrow.bool8>":
            return list(array.to_pylist())
        return _values(pa, array.storage)
    if types.is_dictionary(kind):
        # By hand: Arrow 26 has no decoding of text views, which polars' categories are.
        words = _values(pa, array.dictionary)
        return [None if number is None else words[number] for number in array.indices.to_pylist()]
    if types.is_run_end_encoded(kind):
        return _values(pa, pa.compute.run_end_decode(array))
    if types.is_map(kind):
        return _maps(pa, array)
    if types.is_struct(kind):
        return _structs(pa, array)
    if types.is_union(kind):
        return [_one_of(pa, cell) for cell in array]
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _lists(pa, array)
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        # Their cast to lists gives broken arrays in pyarrow 26 (offsets that are too short).
        return [_values(pa, cell.values) if cell.is_valid else None for cell in array]
    if types.is_timestamp(kind) or types.is_date(kind):
        return _dates(pa, array)
    if types.is_time(kind):
        # Python's own types end at microseconds, as the engines' times of day do.
        cut = array.cast(pa.time64("us"), safe=False) if kind.unit == "ns" else array
        return [None if cell is None else cell.isoformat() for cell in cut.to_pylist()]
    if types.is_duration(kind):
        cut = array.cast(pa.duration("us"), safe=False) if kind.unit == "ns" else array
        return list(cut.to_pylist())
    if _is_binary(types, kind):
        return [None if cell is None else _text_or_bytes(cell) for cell in array.to_pylist()]
    # Numbers as they are: a decimal stays exact, and the preparer decides what a field takes.
    return list(array.to_pylist())


def _is_binary(types: Any, kind: Any) -> bool:
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def _text_or_bytes(cell: bytes) -> str | bytes:
    """Text where it is UTF-8 (many writers mark no column as text), else the bytes, for a hook."""
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError:
        return cell


def _lists(pa: Any, array: Any) -> list[Any]:
    """Lists; those of numbers as NumPy arrays, which is a hundred times as fast."""
    value = array.type.value_type
    flat = array.flatten()
    items: Any
    if (pa.types.is_floating(value) or pa.types.is_integer(value)) and not flat.null_count:
        items = flat.to_numpy(zero_copy_only=False)
    else:
        items = _values(pa, flat)
    # flatten() leaves out what a null list has underneath.
    lengths = pa.compute.list_value_length(array).to_pylist()
    out: list[Any] = []
    at = 0
    for length in lengths:
        if length is None:
            out.append(None)
            continue
        part = items[at : at + length]
        # A copy: a slice would keep the whole batch in memory as long as the record is on its way.
        out.append(part.copy() if isinstance(part, np.ndarray) else part)
        at += length
    return out


def _structs(pa: Any, array: Any) -> list[Any]:
    names = [array.type.field(number).name for number in range(array.type.num_fields)]
    valid = array.is_valid().to_pylist()
    if not names:
        return [{} if ok else None for ok in valid]
    columns = [_values(pa, field) for field in array.flatten()]
    return [
        dict(zip(names, cells, strict=True)) if ok else None
        for ok, cells in zip(valid, zip(*columns, strict=True), strict=True)
    ]


def _maps(pa: Any, array: Any) -> list[Any]:
    """Maps as objects, keys as text."""
    out: list[Any] = []
    # Cell by cell: keys and items of a sliced or null map start elsewhere than its offsets say.
    for cell in array:
        if not cell.is_valid:
            out.append(None)
            continue
        entries = cell.values
        keys, items = (_values(pa, field) for field in entries.flatten())
        names = [_key(key) for key in keys]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"a map has the key {twice!r} twice")
        out.append(dict(zip(names, items, strict=True)))
    return out


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bool):
        return str(key).lower()
    if isinstance(key, (bytes, list, dict, np.ndarray)) or key is None:
        raise ValueError(f"a map has a key that is no text: {key!r:.80}")
    return str(key)


def _one_of(pa: Any, cell: Any) -> Any:
    """A cell of a union, by the type that it has."""
    value = cell.value
    if value is None or not value.is_valid:
        return None
    return _values(pa, pa.array([value.as_py()], value.type))[0]


def _dates(pa: Any, array: Any) -> list[Any]:
    """Dates and times as ISO 8601; to the microsecond, Python's and most engines' fields' end.

    Years beyond 9999 and before 1, which Python has no date for, have a sign or a minus, as the engines take
    them (``+10184-01-01``): "for ever" is often written so.
    """
    kind = array.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        array = array.cast(pa.timestamp("us", kind.tz), safe=False)
    try:
        return [None if cell is None else cell.isoformat() for cell in array.to_pylist()]
    except (OverflowError, ValueError, KeyError, LookupError):
        return [None if not cell.is_valid else _date(pa, cell) for cell in array]


def _date(pa: Any, cell: Any) -> str:
    try:
        return str(cell.as_py().isoformat())
    except (OverflowError, ValueError, LookupError):
        pass
    kind = cell.type
    unit = "ms" if kind == pa.date64() else "D" if kind == pa.date32() else kind.unit
    count = np.int64(cell.value)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        # In UTC, where Python can't compute the zone's offset or has no such zone.
        return iso_year(str(count.view(f"M8[{unit}]"))) + "+00:00"
    return iso_year(str(count.view(f"M8[{unit}]")))


def _rows(pa: Any, batch: Any, label: str, start: int) -> Iterator[RawRecord]:
    names = batch.schema.names
    columns = [_column(pa, column) for column in batch.columns]
    for number, row in enumerate(zip(*columns, strict=True), start + 1):
        where = f"{label}:{number}"
        bad = next(((n, v) for n, v in zip(names, row, strict=True) if isinstance(v, _BadCell)), None)
        if bad is not None:
            why = f"the column {bad[0]!r} can't be read here: {bad[1].reason}"
            yield UnreadableRecord(why, position=where)
            continue
        source = {name: value for name, value in zip(names, row, strict=True) if value is not None}
        yield Document(id=None, source=source, position=where)


def _check_batch(pa: Any, batch: Any) -> Any:
    """The batch, whose offsets, lengths and indices lie within its buffers. Arrow believes what a file says
    of them: reading a cell beyond a buffer ends the process (seen with pyarrow 26.0.1).

    Text is looked at as bytes: what isn't UTF-8 is its own cell's matter, not the file's.

    Raises:
        pyarrow.ArrowInvalid: it is damaged.
    """
    for column in batch.columns:
        kind = _as_bytes(pa, column.type)
        (column if kind == column.type else column.view(kind)).validate(full=True)
    return batch


def _as_bytes(pa: Any, kind: Any) -> Any:
    """The type with bytes in place of text, also inside."""
    types = pa.types
    if types.is_string(kind):
        return pa.binary()
    if types.is_large_string(kind):
        return pa.large_binary()
    if types.is_struct(kind):
        return pa.struct([_field_as_bytes(pa, kind.field(n)) for n in range(kind.num_fields)])
    if types.is_map(kind):
        return pa.map_(_field_as_bytes(pa, kind.key_field), _field_as_bytes(pa, kind.item_field))
    if types.is_large_list(kind):
        return pa.large_list(_field_as_bytes(pa, kind.value_field))
    if types.is_fixed_size_list(kind):
        return pa.list_(_field_as_bytes(pa, kind.value_field), kind.list_size)
    if types.is_list(kind):
        return pa.list_(_field_as_bytes(pa, kind.value_field))
    return kind


def _field_as_bytes(pa: Any, field: Any) -> Any:
    return field.with_type(_as_bytes(pa, field.type))


def _of_the_file(pa: Any) -> tuple[type[Exception], ...]:
    """What is raised for a file that is broken: by a length that no memory has, too. Columns whose names
    can't be fields are that file's fault as well; the others are read."""
    return (pa.ArrowInvalid, MemoryError, OSError, _BadNamesError)


class _BadNamesError(SourceError):
    """Columns that can't be a record's fields."""


def _check_names(names: Sequence[Any], what: str) -> None:
    """Raises _BadNamesError for columns that can't be a record's fields, each by its own name."""
    for name in names:
        if not isinstance(name, str):
            raise _BadNamesError(
                f"{what} has a column named {name!r:.80}; a field's name is text: rename the columns "
                "(frame.columns = [...])"
            )
    if len(set(names)) != len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise _BadNamesError(f"{what} has two columns with the same name, {twice!r}")


def open_frame(frame: Any) -> tuple[Iterator[RawRecord], int | None]:
    """The rows of a frame of pandas, of polars, or of whatever else shows its data by Arrow's interface
    (``__arrow_c_stream__``: pyarrow, DuckDB, DataFusion …), and how many there are, where that is known.
    Missing values are left out; in a frame of pandas NaN is one.

    Raises:
        SourceError: no frame (a single column), columns without names, pyarrow missing.
    """
    total = len(frame) if hasattr(frame, "__len__") else None
    if _of_pandas(frame):
        # An index with a name is data that somebody made the index (set_index("id")).
        if any(name is not None for name in frame.index.names):
            frame = frame.reset_index()
        _check_names(list(frame.columns), "the frame")
        return _pandas_rows(frame), total
    pa = _pyarrow()
    try:
        reader = pa.RecordBatchReader.from_stream(frame)
    except Exception as error:
        raise SourceError(
            f"the {type(frame).__name__} has no rows that can be read ({error}); hand over a frame, or an "
            "iterable of dicts"
        ) from error
    _check_names(reader.schema.names, "the frame")
    return _all_rows(pa, reader, "row"), total


def is_frame(what: Any) -> bool:
    """Whether something is a frame rather than an iterable of records."""
    return hasattr(what, "__arrow_c_stream__") or _of_pandas(what)


def _of_pandas(what: Any) -> bool:
    return all(hasattr(what, name) for name in ("iloc", "columns", "index", "dtypes"))


def _pandas_rows(frame: Any) -> Iterator[RawRecord]:
    """By pandas' own values: Arrow refuses columns of mixed types, which frames read from CSV often have."""
    names = list(frame.columns)
    for at in range(0, len(frame), BATCH_ROWS):
        part = frame.iloc[at : at + BATCH_ROWS]
        columns = [part.iloc[:, number] for number in range(len(names))]
        cells = [column.tolist() for column in columns]
        missing = [column.isna().tolist() for column in columns]
        for row in range(len(part)):
            source = {name: cells[n][row] for n, name in enumerate(names) if not missing[n][row]}
            yield Document(id=None, source=source, position=f"row:{at + row + 1}")


def read_parquet(stream: IO[bytes], label: str) -> Iterator[RawRecord]:
    """Rows; null values are left out. The position is the row, from 1."""
    pa = _pyarrow()
    import pyarrow.parquet as pq

    try:
        # Spark's INT96 times hold a day and a nanosecond of it: 9999-12-31, which stands for "for ever", is
        # no count of nanoseconds since 1970 in 64 bits (it wraps around to 1816). Of microseconds it is.
        file = pq.ParquetFile(stream, memory_map=False, pre_buffer=False, coerce_int96_timestamp_unit="us")
        _check_names(file.schema_arrow.names, label)
        row = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
            yield from _rows(pa, _check_batch(pa, batch), label, row)
            row += batch.num_rows
    except SlowStoreError:
        raise  # the file may be whole
    except _of_the_file(pa) as error:
        yield UnreadableRecord(f"broken Parquet file: {error}", position=label)


def read_arrow(stream: IO[bytes], label: str) -> Iterator[RawRecord]:
    """Rows of an Arrow IPC file (Feather) or stream."""
    pa = _pyarrow()
    try:
        head = stream.read(6)
        stream.seek(0)
        if head == b"ARROW1":
            file = pa.ipc.open_file(stream)
            batches = (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(stream))
        yield from _all_rows(pa, (_check_batch(pa, batch) for batch in batches), label)
    except SlowStoreError:
        raise
    except _of_the_file(pa) as error:
        yield UnreadableRecord(f"broken Arrow file: {error}", position=label)


def _all_rows(pa: Any, batches: Iterable[Any], label: str) -> Iterator[RawRecord]:
    row = 0
    for batch in batches:
        if not row:
            _check_names(batch.schema.names, label)
        for at in range(0, batch.num_rows, BATCH_ROWS):
            part = batch.slice(at, BATCH_ROWS)
            yield from _rows(pa, part, label, row)
            row += part.num_rows
