"""JSON that loses nothing: exact integers when it is read, the types of values when it is written.

A dead letter holds a record as it was read, and a replay must see the same values: a ``Decimal`` that came
back as text, or NaN that came back as ``"nan"``, would store another document than the first try meant, or
store what was rightly refused. The types stand beside the JSON (by JSON pointer, RFC 6901), not inside, so
that people can read a record and repair it with jq.
"""

from __future__ import annotations

import base64
import enum
import importlib.util
import ipaddress
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePath
from typing import IO, Any
from uuid import UUID

import orjson

from esembed.lazy import np
from esembed.types import SparseVector

__all__ = ["bounded_lines", "decode", "encode", "loads"]

_LONG_INTEGER = re.compile(rb"[0-9](?<![0-9.][0-9])[0-9]{18,}(?![0-9.eE])")
"""Nineteen digits are the first that may not fit in 64 bits. In fractions, and in text, it doesn't matter.

The digit stands before the lookbehind, so that the search skips to digits instead of trying every byte of
every line."""


def loads(data: bytes | str) -> Any:
    """JSON → values, each integer exact whatever its length.

    orjson makes a float of an integer beyond 64 bits, without a word (12345678901234567890123 comes out as
    1.2345678901234568e22): an id would become another one. The standard library parses such texts again.

    Raises:
        ValueError: no JSON, an integer of more digits than Python converts, or one that stands too deep.
    """
    value = orjson.loads(data)
    if _LONG_INTEGER.search(data if isinstance(data, bytes) else data.encode("utf-8", "replace")):
        try:
            return json.loads(data)
        except RecursionError:  # orjson goes to 1,024 levels, the standard library as deep as Python calls
            raise ValueError("it holds an integer beyond 64 bits and is nested too deeply for it") from None
    return value


def bounded_lines(stream: IO[bytes], limit: int) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a stream with their numbers from 1; None for one beyond *limit* bytes, which is never in
    memory whole."""
    for number in itertools.count(1):
        line = stream.readline(limit + 1)
        if not line:
            return
        if len(line) > limit and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(1 << 20)
            yield number, None
        else:
            yield number, line


def encode(record: Any) -> tuple[Any, dict[str, str], dict[str, str]]:
    """Values → JSON's own, and what was lost on the way.

    Returns:
        the values that JSON takes; JSON pointer → name of the type that :func:`decode` makes of it again;
        JSON pointer → the type of each value that can't be brought back (it is shown as text).
    """
    writing = _Writing()
    try:
        plain = writing.value(record, "")
    except RecursionError:
        return None, {}, {"": "record nested too deeply"}
    except Exception as error:  # noqa: BLE001 - a foreign mapping whose items raise: the letter is written
        return None, {}, {"": f"record that can't be written down ({type(error).__name__})"}
    return plain, writing.types, writing.lost


def decode(plain: Any, types: Mapping[str, str]) -> Any:
    """What :func:`encode` was given. A value that was repaired since, and is no longer in the form that its
    type is written in, stays as it is.

    Raises:
        ValueError: a type that isn't known here, or whose package isn't installed.
    """
    holder: list[Any] = [plain]
    # The innermost first: a set of dates is made of dates.
    for pointer in sorted(types, key=lambda path: -path.count("/")):
        make = _maker(types[pointer])
        try:
            parent, key = _place(holder, pointer)
            parent[key] = make(parent[key])
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            continue
    return holder[0]


def _place(holder: list[Any], pointer: str) -> tuple[Any, Any]:
    """What holds the value at a pointer, and under which key. Raises LookupError, ValueError, TypeError."""
    parent: Any = holder
    key: Any = 0
    for step in pointer.split("/")[1:]:
        parent = parent[key]
        key = int(step) if isinstance(parent, list) else step.replace("~1", "/").replace("~0", "~")
    return parent, key


class _Writing:
    """One value on its way to JSON."""

    def __init__(self) -> None:
        self.types: dict[str, str] = {}
        self.lost: dict[str, str] = {}

    def value(self, value: Any, at: str) -> Any:
        """JSON's form; its type is noted where JSON has none."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, enum.Enum):
            return self.value(value.value, at)  # what is stored of it, too
        if isinstance(value, np.generic):
            return self._scalar(value, at)
        if isinstance(value, str):
            return self._text(value, at)
        if isinstance(value, int):
            # Beyond 64 bits orjson refuses it, and other readers (jq) round it.
            value = int.__index__(value)
            return value if -(2**63) <= value < 2**64 else self._typed("int", at, _digits(value))
        if isinstance(value, float):
            value = float.__float__(value)
            return value if math.isfinite(value) else self._typed("float", at, str(value))
        if isinstance(value, Mapping):
            return self._mapping(value, at)
        if isinstance(value, (list, tuple)):
            made = [self.value(item, f"{at}/{number}") for number, item in enumerate(value)]
            return made if isinstance(value, list) else self._typed("tuple", at, made)
        if isinstance(value, (set, frozenset)):
            made = [self.value(item, f"{at}/{n}") for n, item in enumerate(sorted(value, key=repr))]
            return self._typed("set" if isinstance(value, set) else "frozenset", at, made)
        if isinstance(value, np.ndarray):
            return self._array(value, at)
        if isinstance(value, SparseVector):
            values = [float(weight) for weight in value.values]
            return self._typed("sparse_vector", at, [list(value.indices), values])
        for name, (kind, text, _) in _TYPES.items():
            if isinstance(value, kind):
                return self._typed(name, at, text(value))
        return self._lost(value, at)

    def _typed(self, name: str, at: str, form: Any) -> Any:
        self.types[at] = name
        return form

    def _lost(self, value: Any, at: str) -> str:
        self.lost[at] = type(value).__name__
        try:
            shown = str(value)[:1000]
        except Exception:  # noqa: BLE001 - whatever a foreign object does, the letter is written
            shown = ""
        return shown.encode("utf-8", "backslashreplace").decode()

    def _text(self, value: str, at: str) -> str:
        value = str.__str__(value)  # what is sent is the text that a subclass holds, whatever it shows
        if _surrogates(value):
            # Half of a pair: JSON could say it, but most readers refuse the whole line then.
            return str(self._typed("escaped", at, value.encode("unicode_escape").decode("ascii")))
        return value

    def _mapping(self, value: Mapping[Any, Any], at: str) -> Any:
        if all(isinstance(key, str) and not _surrogates(key) for key in value):
            return {
                str.__str__(key): self.value(item, f"{at}/{key.replace('~', '~0').replace('/', '~1')}")
                for key, item in value.items()
            }
        # Numbers, None and half characters as keys.
        pairs = [
            [self.value(key, f"{at}/{n}/0"), self.value(item, f"{at}/{n}/1")]
            for n, (key, item) in enumerate(value.items())
        ]
        return self._typed("map", at, pairs)

    def _array(self, value: np.ndarray[Any, Any], at: str) -> Any:
        kind = value.dtype.kind
        if not value.ndim:
            return self.value(value[()], at)  # what is stored of it, too
        if isinstance(value, np.ma.MaskedArray):
            return self.value(value.tolist(), at)  # masked numbers as null, as they are stored
        if kind in "biuU" or (kind == "f" and value.dtype.itemsize <= 8):
            form = value.tolist()
            if kind == "U" or (kind == "f" and not np.isfinite(value).all()):
                form = self.value(form, at)
            return self._typed(f"array:{value.dtype.str}", at, form)
        if kind in "mM":
            return self._typed(f"array:{value.dtype.str}", at, value.view("i8").tolist())
        if kind == "O" and value.ndim == 1:
            return self._typed("array:|O", at, self.value(value.tolist(), at))
        return self._lost(value, at)

    def _scalar(self, value: np.generic, at: str) -> Any:
        kind, name = value.dtype.kind, f"scalar:{value.dtype.str}"
        if kind in "mM":
            return self._typed(name, at, int(value.view("i8")))
        if kind in "biu" or (kind == "f" and value.dtype.itemsize <= 8):
            item = value.item()
            return self._typed(name, at, item if math.isfinite(item) else str(item))
        return self._text(str(value), at) if kind == "U" else self._lost(value, at)


def _surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # more than Python's 4,300 digits; hexadecimal has no limit
        return hex(value)


def _bytes(value: Any) -> str:
    return base64.b64encode(bytes(value)).decode("ascii")


def _pandas(value: Any) -> Any:
    pandas: Any = importlib.import_module("pandas")
    return getattr(pandas, value) if value in ("NaT", "NA") else pandas.Timestamp(value)


class _Pandas(type):
    """What pandas has beside Python's own types, without importing it."""

    def __instancecheck__(cls, value: Any) -> bool:
        kind = type(value)
        return kind.__module__.partition(".")[0] == "pandas" and kind.__name__ in (
            "Timestamp",
            "NaTType",
            "NAType",
        )


class _PandasValue(metaclass=_Pandas):
    pass


def _iso(value: Any) -> str:
    return str(value.isoformat())


_TYPES: dict[str, tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]] = {
    # pandas' Timestamp is a datetime, and a datetime is a date: in this order.
    "pandas": (
        _PandasValue,
        lambda v: _iso(v) if type(v).__name__ == "Timestamp" else str(v).strip("<>"),
        _pandas,
    ),
    "datetime": (datetime, _iso, datetime.fromisoformat),
    "date": (date, _iso, date.fromisoformat),
    "time": (time, _iso, time.fromisoformat),
    "timedelta": (timedelta, lambda v: [v.days, v.seconds, v.microseconds], lambda v: timedelta(*v)),
    "decimal": (Decimal, str, Decimal),
    "uuid": (UUID, str, UUID),
    "bytes": ((bytes, bytearray, memoryview), _bytes, lambda v: base64.b64decode(v, validate=True)),
    # An interface is an address, too.
    "ip_interface": ((ipaddress.IPv4Interface, ipaddress.IPv6Interface), str, ipaddress.ip_interface),
    "ip": ((ipaddress.IPv4Address, ipaddress.IPv6Address), str, ipaddress.ip_address),
    "ip_network": ((ipaddress.IPv4Network, ipaddress.IPv6Network), str, ipaddress.ip_network),
    "path": ((PurePath, os.PathLike), os.fsdecode, Path),
}
"""Type → what it is, value → JSON, JSON → value."""


def _sparse(value: Any) -> SparseVector:
    return SparseVector(tuple(value[0]), np.asarray(value[1], np.float32))


def _objects(value: list[Any]) -> np.ndarray[Any, Any]:
    array = np.empty(len(value), object)
    array[:] = value
    return array


def _maker(name: str) -> Callable[[Any], Any]:
    """JSON → a value of this type. Raises ValueError for a type that isn't known here."""
    kind, _, dtype = name.partition(":")
    if name == "pandas" and importlib.util.find_spec("pandas") is None:
        raise ValueError("it holds values of pandas, which is not installed here")
    if name in _TYPES:
        return _TYPES[name][2]
    if kind in ("array", "scalar"):
        try:
            wanted = np.dtype(dtype)
        except TypeError as error:
            raise ValueError(f"there is no array of type {dtype!r}") from error
        if wanted.kind in "mM":
            return lambda v: np.asarray(v, "i8").view(wanted)[()]
        if kind == "scalar" and wanted.kind in "biuf":
            return lambda v: wanted.type(v)
        if kind == "array" and wanted.kind in "biufUO":
            if wanted.kind == "O":
                return _only(list, _objects)
            # The length of text comes from the text: a file that names a long one gets no memory for it.
            return _only(list, lambda v: np.asarray(v, "U" if wanted.kind == "U" else wanted))
    if name not in _PLAIN:
        raise ValueError(f"it holds a value of a type that is not known here, {name!r}")
    return _PLAIN[name]


def _only(kind: type, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """For types that are written as text or as a list: anything else in its place is a repair."""

    def made(value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError("repaired")
        return make(value)

    return made


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "int": _only(str, lambda v: int(v, 0)),
    "float": _only(str, float),
    "escaped": _only(str, lambda v: v.encode("ascii").decode("unicode_escape")),
    "map": _only(list, dict),
    "tuple": _only(list, tuple),
    "set": _only(list, set),
    "frozenset": _only(list, frozenset),
    "sparse_vector": _only(list, _sparse),
}
