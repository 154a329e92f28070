"""What queries carry, checked against what the engine takes: words of a text, values of a typed field, dates.

An engine answers a nonsense date with an error of every shard that holds documents, and with no hits where it
could skip the shards. What can't be told apart here (formats by other names, rare pattern letters) is left to
the engine: see https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/mapping-date-format.
"""

from __future__ import annotations

import calendar
import contextlib
import itertools
import re
from collections.abc import Iterator
from typing import Any

from esembed.errors import EngineRequestError, QueryError
from esembed.query.nodes import Query, VectorNode
from esembed.query.tree import walk

__all__ = [
    "DATES",
    "DEFAULT_FORMAT",
    "NUMERIC",
    "UNKNOWN_FORMAT",
    "check_unicode",
    "check_value",
    "date_problem",
    "dates_named",
    "fit_text",
]

DATES = frozenset({"date", "date_nanos"})
"""Types of fields that hold dates."""
NUMERIC = frozenset(
    {"byte", "short", "integer", "long", "float", "double", "half_float", "scaled_float", "unsigned_long"}
)
"""Types of fields that hold numbers."""

_WORD = re.compile(r"[0-9A-Za-z_'.]{1,250}|[^\x00-\x7f]")
"""What an analyzer makes a word of, counted high: a run of ASCII, which is cut at 255 characters, or one
character of any other script."""


def fit_text(text: str, limit: int) -> tuple[str, int | None]:
    """The text's head that makes no more than *limit* clauses, and how many words that are; None for a
    text that fits."""
    if len(text) <= limit:
        return text, None
    extra = next(itertools.islice(_WORD.finditer(text), limit, None), None)
    return (text, None) if extra is None else (text[: extra.start()], limit)


def check_unicode(text: str, name: str) -> str:
    """The text, which can be sent. Raises QueryError for half a surrogate pair (``"\\ud800"`` in JSON)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise QueryError(
            f"{name} is not valid Unicode: {text[error.start]!r} at position {error.start}; replace it "
            '(text.encode("utf-8", "replace").decode())',
            field=name,
        ) from None
    return text


def check_value(clause: str, field: str, kind: str, *values: Any, format: str | None = None) -> None:
    """Raises QueryError for a value that a field of this type can't be compared with.

    Args:
        format: of a date field, None for the default one.
    """
    for value in values:
        if value is None:
            continue
        if kind in NUMERIC:
            good, wanted = not isinstance(value, bool) and _is_number(value), "a number"
        elif kind == "boolean":
            good, wanted = value in (True, False, "true", "false"), "true or false"
        elif kind in DATES:
            problem = date_problem(value, format)
            good, wanted = problem is None, f"a date: {problem}"
        else:
            continue
        if not good:
            raise QueryError(f"{clause} on {field!r}, of type {kind}: {value!r} is not {wanted}", field=field)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


# -- dates -----------------------------------------------------------------------------------------

DEFAULT_FORMAT = "strict_date_optional_time||epoch_millis"
"""What a date field without a ``format`` takes, on both engines."""

UNKNOWN_FORMAT = "?"
"""In place of a format that isn't known."""

_MATH = re.compile(r"([+-][0-9]*[yMwdhHms]|/[yMwdhHms])*")
_OPTIONAL_TIME = re.compile(
    r"(?P<y>-?[0-9]{4}|[+-][0-9]{5,9})(-(?P<M>[0-9]{2})(-(?P<d>[0-9]{2})"
    r"(T((?P<H>[0-9]{2})(:(?P<m>[0-9]{2})(:(?P<s>[0-9]{2})([.,][0-9]{1,9})?)?)?([A-Za-z+-].*)?)?)?)?)?"
)
_EPOCH = re.compile(r"-?[0-9]+(\.[0-9]*)?")
_NAMED = {
    "strict_date_optional_time": _OPTIONAL_TIME,
    "strict_date_optional_time_nanos": _OPTIONAL_TIME,
    "strict_date_time_no_millis": _OPTIONAL_TIME,
    "epoch_millis": _EPOCH,
    "epoch_second": _EPOCH,
}
_LETTERS = {
    "y": {4: r"[+-]?[0-9]{4,9}"},
    "u": {4: r"[+-]?[0-9]{4,9}"},
    "M": {1: "[0-9]{1,2}", 2: "[0-9]{2}"},
    "d": {1: "[0-9]{1,2}", 2: "[0-9]{2}"},
    "H": {1: "[0-9]{1,2}", 2: "[0-9]{2}"},
    "m": {1: "[0-9]{1,2}", 2: "[0-9]{2}"},
    "s": {1: "[0-9]{1,2}", 2: "[0-9]{2}"},
    "S": {n: f"[0-9]{{{n}}}" for n in range(1, 10)},
}
_TOKEN = re.compile(r"'(?P<quoted>[^']+)'|(?P<letter>[A-Za-z])(?P=letter)*|(?P<mark>[-/.:, _])|(?P<other>.)")


def date_problem(value: Any, format: str | None) -> str | None:
    """Why *value* is no date of a field with this format, or None where it is one (or might be).

    Args:
        value: a filter's value: text, date mathematics (``now-7d``, ``2024-01-31||/M``), a number.
        format: the field's, alternatives joined by ``||``; None is :data:`DEFAULT_FORMAT`.
    """
    if isinstance(value, bool):
        return "it is true or false"
    if not isinstance(value, str):
        return None  # a number is a time in the unit of the format
    if value.startswith("now"):
        return _math_problem(value[3:])
    text, mark, mathematics = value.partition("||")
    if mark and (problem := _math_problem(mathematics)):
        return problem
    if not any(map(str.isdigit, text)):
        return "it has no digit"
    reason = f"it isn't written as {format or DEFAULT_FORMAT}"
    for one in (format or DEFAULT_FORMAT).split("||"):
        pattern = _pattern(one)
        if pattern is None:
            return None
        found = pattern.fullmatch(text)
        if found:
            problem = _no_such_time(found.groupdict())
            if problem is None:
                return None
            reason = problem
    return reason


def _math_problem(text: str) -> str | None:
    if _MATH.fullmatch(text):
        return None
    return (
        "date mathematics is + or - with a number and one of y M w d h m s, or / and one of them (now-7d/d)"
    )


def _pattern(name: str) -> re.Pattern[str] | None:
    """What texts of one format look like; None for one that is not known here."""
    if name in _NAMED:
        return _NAMED[name]
    made, seen = "", set()
    for token in _TOKEN.finditer(name):
        letter = token["letter"]
        if token["other"] or (letter and letter in seen):
            return None
        if letter:
            digits = _LETTERS.get(letter, {}).get(len(token[0]))
            if digits is None:
                return None
            seen.add(letter)
            made += f"(?P<{'y' if letter == 'u' else letter}>{digits})"
        else:
            made += re.escape(token["quoted"] or token["mark"])
    return re.compile(made) if {"y", "u"} & seen and not {"y", "u"} <= seen else None


def _no_such_time(parts: dict[str, str | None]) -> str | None:
    """What is out of range in a date whose form is right."""
    number = {name: int(text) for name, text in parts.items() if text is not None and name != "S"}
    month, day = number.get("M", 1), number.get("d")
    if not 1 <= month <= 12:
        return f"there is no month {month}"
    if day is not None:
        leap = "y" not in number or calendar.isleap(abs(number["y"]))
        days = calendar.monthrange(2024 if leap else 2023, month)[1]
        if not 1 <= day <= days:
            return f"there is no day {day} in that month"
    for name, most, word in (("H", 23, "hour"), ("m", 59, "minute"), ("s", 59, "second")):
        if number.get(name, 0) > most:
            return f"there is no {word} {number[name]}"
    return None


@contextlib.contextmanager
def dates_named(query: Query) -> Iterator[None]:
    """What the engine refuses inside as a date becomes the query's error. Raises QueryError."""
    try:
        yield
    except EngineRequestError as error:
        refused = _refused_date(error, query)
        if refused is None:
            raise
        raise refused from error


def _refused_date(error: EngineRequestError, query: Query) -> QueryError | None:
    """The engine's refusal of a date as the query's error, with the field's name, which the engine leaves
    out; None for any other refusal."""
    found = re.search(r"failed to parse date field \[(.*?)\] with format \[(.*?)\]", str(error))
    if found is None:
        return None
    for node in walk(query):
        field = getattr(node, "field", None)
        if field is None or isinstance(node, VectorNode):
            continue
        for value in _values(node):
            if found[1] in (str(value), str(value).partition("||")[0]):
                return QueryError(
                    f"{node.builder()} on {field!r}, of type date: {value!r} is not a date: the engine can't "
                    f"read it as {found[2]}",
                    field=field,
                )
    return None


def _values(node: Query) -> Iterator[Any]:
    """Every text and number that a node compares its field with, whatever the attribute is called."""
    for name in node.__struct_fields__:
        value = getattr(node, name) if name != "field" else None
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, (str, int, float)):
                yield one
