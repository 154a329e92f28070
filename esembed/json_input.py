"""JSON from outside: a query, a plan, what an index says about itself. One place decides how much is taken.

A few kilobytes of JSON can be hours of work: brackets inside brackets, ten thousand legs, a number of a
million digits. So everything that a stranger may have written passes here first, as text or already decoded,
and is small, shallow and plain afterward. What it means is checked by whoever asked for it.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["JsonInputError", "JsonLimits", "check_json", "parse_json", "parse_toml", "read_json_file"]

MAX_KEY_PARTS = 100
"""Parts of a dotted key in TOML. Its readers take quadratic time for them: 20,000 took 9 seconds."""


class JsonInputError(ValueError):
    """What came from outside isn't JSON, or is more than is taken. The caller makes its own error of it.

    Attributes:
        path: where, as a dotted path (``legs[3].filter``); empty for the whole.
        message: what is wrong, without the path.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.message = message
        self.path = path


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonLimits:
    """How much is taken.

    Attributes:
        characters: in all texts and names together; of a document that is still text, all of it.
        depth: objects and lists inside each other.
        values: numbers, texts, objects and lists.
        objects: objects alone; each node of a query and each field of a plan is one.
        bits: of an integer; None leaves that to whoever knows what the number is for.
    """

    characters: int
    depth: int = 100
    values: int = 100_000
    objects: int = 10_000
    bits: int | None = None


def parse_json(text: str | bytes | bytearray, limits: JsonLimits) -> Any:
    """The values of a JSON text, checked.

    Raises:
        JsonInputError: not JSON, or more than the limits take.
    """
    if not isinstance(text, (str, bytes, bytearray)):
        raise JsonInputError(f"JSON is text or bytes, not {type(text).__name__}")
    _check_length(text, limits)
    try:
        data = msgspec.json.decode(text)
    except RecursionError:
        raise _too_deep(limits, "") from None
    except (ValueError, msgspec.DecodeError) as error:  # ValueError: a number of more than 4,300 digits
        raise JsonInputError(f"not JSON: {error!s:.200}") from None
    return check_json(data, limits)


def read_json_file(path: Path, limits: JsonLimits) -> Any:
    """The values of a JSON file, checked; no more of it is read than the limits take.

    Raises:
        OSError: it can't be read.
        JsonInputError: no regular file (a pipe would keep the reader for ever), not JSON, or more than the
            limits take.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise JsonInputError("it is no regular file")
    with path.open("rb") as file:
        return parse_json(file.read(limits.characters + 1), limits)


def parse_toml(text: str, limits: JsonLimits) -> dict[str, Any]:
    """The values of a TOML text, checked; dates are left as they are.

    Raises:
        JsonInputError: not TOML, or more than the limits take.
    """
    _check_length(text, limits)
    for number, line in enumerate(text.splitlines(), 1):
        # A line with so many dots is looked at, no other: keys are few, texts are long.
        if line.count(".") > MAX_KEY_PARTS and _key_parts(line) > MAX_KEY_PARTS:
            raise JsonInputError(f"line {number}: a key of more than {MAX_KEY_PARTS} parts")
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise _too_deep(limits, "") from None
    except ValueError as error:  # tomllib.TOMLDecodeError is one
        raise JsonInputError(f"not TOML: {error!s:.200}") from None
    checked: dict[str, Any] = check_json(data, limits)
    return checked


def _key_parts(line: str) -> int:
    """How many parts the dotted key has that a line begins with (in brackets or before the equals sign)."""
    parts, quote, before, blank = 1, "", "", False
    for character in line.strip().lstrip("["):
        if quote:
            quote = "" if character == quote else quote
        elif character in " \t":
            blank = True
            continue
        elif character in "=]#,{" or (blank and before != "." != character):
            break  # the value, or prose in a text of several lines: words beside each other are no key
        elif character in "\"'":
            quote = character
        elif character == ".":
            parts += 1
        before, blank = character, False
    return parts


def _check_length(text: str | bytes | bytearray, limits: JsonLimits) -> None:
    if len(text) > limits.characters:
        raise JsonInputError(f"it is longer than {limits.characters:,} characters, which is all that is read")


def _too_deep(limits: JsonLimits, path: str) -> JsonInputError:
    return JsonInputError(f"it is nested deeper than {limits.depth} levels", path)


_FLAT = {str, int, float, bool, type(None)}
_NUMBERS = {float}


def check_json(data: Any, limits: JsonLimits) -> Any:
    """The same values, as long as the limits take them.

    Raises:
        JsonInputError: too deep, too many, too long, a name that is no text, or half a surrogate pair; it
            names the path.
    """
    values = characters = objects = 0
    if limits.bits is not None:
        _check_bits(data, limits.bits, None)
    # Level by level, so that no depth is a depth of calls. The places are kept as links to those around them,
    # and become text only where something is wrong.
    level: list[tuple[Any, Any]] = [(data, None)]
    for _ in range(limits.depth):
        below: list[tuple[Any, Any]] = []
        for value, place in level:
            if isinstance(value, str):
                values += 1
                characters += len(value)
                _check_unicode(value, place)
            elif isinstance(value, Mapping):
                objects += 1
                values += len(value)
                for name, inner in value.items():
                    if not isinstance(name, str):
                        raise JsonInputError(f"the name {name!r:.80} is no text", _path(place))
                    characters += len(name)
                    _check_unicode(name, place)
                    kind = type(inner)
                    if kind is str:
                        characters += len(inner)
                        _check_unicode(inner, (place, name))
                    elif kind not in _FLAT:
                        below.append((inner, (place, name)))
                    elif kind is int and limits.bits is not None:
                        _check_bits(inner, limits.bits, (place, name))
            elif isinstance(value, (list, tuple)):
                values += len(value)
                kinds = set(map(type, value))  # a vector is one look at the types of its numbers
                if kinds <= _NUMBERS:
                    continue
                if str in kinds:
                    for i, inner in enumerate(value):
                        if isinstance(inner, str):
                            characters += len(inner)
                            _check_unicode(inner, (place, i))
                if not kinds <= _FLAT:
                    below += [
                        (inner, (place, i)) for i, inner in enumerate(value) if type(inner) not in _FLAT
                    ]
                if int in kinds and limits.bits is not None:
                    for i, inner in enumerate(value):
                        _check_bits(inner, limits.bits, (place, i))
            # Whatever else Python can hold here is the caller's to refuse, who knows what should stand there.
            if values > limits.values:
                raise JsonInputError(f"more than {limits.values:,} values", _path(place))
            if objects > limits.objects:
                raise JsonInputError(f"more than {limits.objects:,} objects", _path(place))
            if characters > limits.characters:
                raise JsonInputError(f"more than {limits.characters:,} characters of text", _path(place))
        if not below:
            return data
        level = below
    raise _too_deep(limits, _path(level[0][1]))


def _check_unicode(text: str, place: Any) -> None:
    # Python's own JSON reader lets half a surrogate pair through; each library that writes the text later
    # (msgspec, orjson, a client) ends in an error of its own.
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise JsonInputError(f"{half!r} in a text is not valid Unicode", _path(place)) from None


def _check_bits(value: Any, bits: int, place: Any) -> None:
    # JSON writers take -2**63 to 2**64 - 1: a negative number needs one bit more, for its sign.
    if type(value) is int and (value.bit_length() > bits or value < -(1 << bits - 1)):
        raise JsonInputError(f"a number of {value.bit_length() + (value < 0)} bits", _path(place))


def _path(place: Any) -> str:
    parts: list[str] = []
    while place is not None:
        place, key = place
        parts.append(f"[{key}]" if isinstance(key, int) else f".{key}")
    path = "".join(reversed(parts)).lstrip(".")
    path = path.encode("utf-8", "backslashreplace").decode()
    return path if len(path) <= 200 else f"{path[:200]}…"
