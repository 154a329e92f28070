"""What queries carry, checked against what the engine takes: words of a text, values of a typed field, dates.

An engine answers a nonsense date with an error of every shard that holds documents, and with no hits where it
could skip the shards. What can't be told apart here (formats by other names, rare pattern letters) is left to
the engine: see https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/mapping-date-format.
"""

from __future__ import annotations

import calendar
import functools
import ipaddress
import itertools
import math
import re
import zoneinfo
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, NoReturn

from esembed.errors import EngineRequestError, QueryError
from esembed.query.nodes import BoostBy, IsoDate, Query, Range, TextNode, VectorNode
from esembed.query.tree import walk

__all__ = [
    "DATES",
    "DEFAULT_FORMAT",
    "NUMERIC",
    "UNKNOWN_FORMAT",
    "boolean",
    "check_unicode",
    "check_value",
    "check_zone",
    "count_words",
    "date_problem",
    "far_date",
    "fit_text",
    "raise_named",
    "writing_of",
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


def count_words(text: str) -> int:
    """How many words an analyzer makes of a text, counted high."""
    return sum(1 for _ in _WORD.finditer(text))


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


def boolean(value: Any) -> Any:
    """True or False for their names in other cases than the engines', anything else unchanged.

    Python and spreadsheets write True and TRUE into CSV files; the engines take lower case alone. Records and
    filters ask here, so that what a record stored is found by the same word.
    """
    if not isinstance(value, str) or value in ("true", "false"):
        return value
    return {"true": True, "false": False}.get(value.lower(), value)


_FAR = re.compile(
    r"(?P<y>[+-][0-9]{5,9})-(?P<M>[0-9]{2})-(?P<d>[0-9]{2})(?:T(?P<H>[0-9]{2})(?::(?P<m>[0-9]{2})"
    r"(?::(?P<s>[0-9]{2})(?:\.(?P<S>[0-9]{1,9}))?)?)?(?P<zone>Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_DAY_MILLIS = 86_400_000


def far_date(value: Any, format: str | None) -> Any:
    """A date beyond the years -9999 to 9999 as milliseconds since 1970, where a date field of this format
    takes them; anything else unchanged.

    "For ever" is often written so. Elasticsearch 9.5.3 refuses such years in ISO 8601 (its
    ``strict_date_optional_time`` has four digits) and takes the milliseconds; OpenSearch 3.6.0 takes both,
    and makes the last day that it knows, +292278994-08-17, of what lies beyond it without a word.

    Raises:
        ValueError: no such day, or one that no engine can count to.
    """
    if type(value) is not str or value[:1] not in ("+", "-"):
        return value
    found = _FAR.fullmatch(value)
    if found is None or "epoch_millis" not in (format or DEFAULT_FORMAT).split("||"):
        return value
    parts = {name: text for name, text in found.groupdict().items() if name != "zone"}
    if (problem := _no_such_time(parts)) is not None:
        raise ValueError(f"{value} is not a date: {problem}")
    # The calendar repeats after 400 years, which are 146,097 days.
    cycles, year = divmod(int(found["y"]), 400)
    days = date(2000 + year, int(found["M"]), int(found["d"])).toordinal() - _EPOCH_DAY
    seconds = sum(int(found[name] or 0) * unit for name, unit in (("H", 3600), ("m", 60), ("s", 1)))
    zone = (found["zone"] or "Z").replace(":", "")
    if zone != "Z":
        seconds -= int(f"{zone[0]}1") * (int(zone[1:3]) * 3600 + int(zone[3:]) * 60)
    millis = (days + (cycles - 5) * 146_097) * _DAY_MILLIS + seconds * 1000
    millis += int((found["S"] or "").ljust(3, "0")[:3] or 0)
    if not -(2**63) <= millis < 2**63:
        raise ValueError(f"{value} is further away than engines count (292,278,994 years)")
    return millis


_EPOCH_DAY = date(1970, 1, 1).toordinal()

_LIMITS: dict[str, tuple[float, float]] = {
    "byte": (-(2**7), 2**7 - 1),
    "short": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "long": (-(2**63), 2**63 - 1),
    "unsigned_long": (0, 2**64 - 1),
    # The largest finite numbers, and what is rounded to them.
    "half_float": (-65519.99, 65519.99),
    "float": (-3.4028235677973362e38, 3.4028235677973362e38),
}
"""What a numeric type holds. Beyond it the engines disagree: Elasticsearch 9.5 finds nothing for ``term`` and
refuses ``terms`` and ``range``, OpenSearch 3.6 refuses all three for integers and floats."""

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[fFdD]?")
"""A number in a text as both engines read it (Java's ``parseDouble``, blanks around it allowed). Python's own
``float`` takes more: ``1_000``, ``nan``, digits of other scripts."""

_BLANKS = "".join(map(chr, range(0x21)))
"""What Java's ``trim`` takes off."""


def check_value(clause: str, field: str, kind: str, value: Any, *, format: str | None = None) -> Any:
    """The value as it is sent, which a field of this type can be compared with.

    Args:
        value: None is no bound.
        format: of a date field, None for the default one.

    Raises:
        QueryError: of another type, or out of the type's range.
    """
    if value is None:
        return None
    problem: str | None = None
    if kind in NUMERIC:
        problem = _number_problem(kind, value)
    elif kind == "boolean":
        value = boolean(value)
        good = isinstance(value, bool) or value in ("true", "false")
        problem = None if good else "is not true or false"
    elif kind == "ip":
        problem = _address_problem(value, networks=clause != "range")
    elif kind in DATES:
        value = _epoch(value)
        found = date_problem(value, format) or (_nanos_problem(value) if kind == "date_nanos" else None)
        problem = None if found is None else f"is not a date: {found}"
    if problem is not None:
        raise QueryError(f"{clause} on {field!r}, of type {kind}: {value!r} {problem}", field=field)
    return value


def _number_problem(kind: str, value: Any) -> str | None:
    if isinstance(value, str):
        text = value.strip(_BLANKS)
        if not _NUMBER.fullmatch(text):
            return "is not a number"
        number: Any = Decimal(text.rstrip("fFdD"))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = value
    else:
        return "is not a number"
    if kind in _LIMITS and not _LIMITS[kind][0] <= number <= _LIMITS[kind][1]:
        low, high = _LIMITS[kind]
        return (
            f"is out of range: the type holds {low:,} to {high:,}" if type(low) is int else "is out of range"
        )
    if kind not in _LIMITS and not math.isfinite(float(number)):
        return "is out of range"
    return None


def _address_problem(value: Any, *, networks: bool) -> str | None:
    """Why *value* is no IP address (or network), as both engines read them."""
    if not isinstance(value, str):
        return "is not an IP address: it is no text"
    address, slash, bits = value.partition("/")
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "is not an IP address" + (" or network (10.0.0.0/8)" if networks else "")
    if not slash:
        return None
    if not networks:
        return "is a network, and range takes addresses; a network is for q.term"
    if not (re.fullmatch("[0-9]{1,3}", bits) and int(bits) <= parsed.max_prefixlen):
        return f"is not a network: after / stands the number of bits, 0 to {parsed.max_prefixlen}"
    return None


_ZONE_OFFSET = re.compile(r"Z|(?:(?:UTC|GMT|UT)?[+-]([0-9]{1,2})(?::?[0-5][0-9](?::?[0-5][0-9])?)?)")


def check_zone(field: str, zone: str | None) -> None:
    """Raises QueryError for a time zone that no engine knows. Java's list and Python's differ in a few old
    names, so a name that only one of them has is left to the engine (:func:`raise_named`)."""
    if zone is None:
        return
    offset = _ZONE_OFFSET.fullmatch(zone)
    if offset is not None:
        good = offset[1] is None or int(offset[1]) <= 18
    else:
        names = _zones()
        good = not names or zone in names or zone.startswith("SystemV/")
    if not good:
        raise QueryError(
            f"range on {field!r}: time_zone {zone!r} is no time zone; write an offset (+02:00, at most 18 "
            "hours) or a name (Europe/Helsinki, UTC)",
            field="time_zone",
        )


@functools.cache
def _zones() -> frozenset[str]:
    """The names of time zones; empty where the system has no list of them (slim containers)."""
    return frozenset(zoneinfo.available_timezones())


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


ISO_DATE = "strict_date_optional_time"
"""The format of Python's dates, whatever the field's own is."""


def writing_of(values: Sequence[Any], format: str | None) -> str | None:
    """The format that these values are sent with where it isn't the field's own: ISO 8601 for Python's dates,
    which a field of another format doesn't read, or reads as other days; else None.

    Args:
        values: of one clause, None for a bound that isn't there.
        format: the field's; None is the default one, which takes ISO 8601.
    """
    there = [value for value in values if value is not None]
    if format is None or ISO_DATE in format.split("||") or not there:
        return None
    return ISO_DATE if all(isinstance(value, IsoDate) for value in there) else None


def _epoch(value: Any) -> Any:
    """A float as the engines read an epoch: JSON writes large ones with an exponent (``1.7E12``), which both
    refuse in queries."""
    if type(value) is not float:
        return value
    return int(value) if value.is_integer() else format(Decimal(repr(value)), "f")


def _nanos_problem(value: Any) -> str | None:
    """A date_nanos counts nanoseconds since 1970 in 63 bits."""
    year = re.match("[+-]?[0-9]{4,9}(?=-|$)", value) if isinstance(value, str) else None
    if isinstance(value, int) and not 0 <= value <= 9_223_372_036_854:
        return "date_nanos holds 1970 to 2262"
    if year is not None and not 1970 <= int(year[0]) <= 2262:
        return "date_nanos holds 1970 to 2262"
    return None


def date_problem(value: Any, format: str | None) -> str | None:
    """Why *value* is no date of a field with this format, or None where it is one (or might be).

    Args:
        value: a filter's value: text, date mathematics (``now-7d``, ``2024-01-31||/M``), a number.
        format: the field's, alternatives joined by ``||``; None is :data:`DEFAULT_FORMAT`.
    """
    if isinstance(value, bool):
        return "it is true or false"
    if not isinstance(value, str):  # a number is a time in the unit of the format
        return None if -(2**63) <= value < 2**63 else "it doesn't fit into 64 bits"
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


def raise_named(error: EngineRequestError, query: Query) -> NoReturn:
    """Raise an engine's refusal of *query*.

    Raises:
        QueryError: with the field, for what only the engine could tell (a date by a format that isn't known
            here, a time zone of an old name, a negative value under boost_by, an analyzer, the clauses that
            an analyzer makes of a text).
        EngineRequestError: any other refusal, as it is.
    """
    for explain in (_refused_date, _refused_zone, _refused_boost, _refused_analyzer, _refused_clauses):
        refused = explain(error, query)
        if refused is not None:
            raise refused from error
    raise error


def _refused_zone(error: EngineRequestError, query: Query) -> QueryError | None:
    found = re.search(r"Unknown time-zone ID: ([^\s:,\]]+)", str(error))
    if found is None:
        return None
    for node in walk(query):
        if isinstance(node, Range) and node.time_zone == found[1]:
            return QueryError(
                f"range on {node.field!r}: the engine doesn't know the time zone {node.time_zone!r}; write "
                "an offset (+02:00)",
                field="time_zone",
            )
    return None


_NO_SCORE = re.compile(
    r"must not produce negative scores, but got: \[[^\]]*\] for field value: \[(?P<value>[^\]]*)\]"
    r"|function score query returned an invalid score: \S+ for doc"
)
"""What both engines say of a function that is negative, infinite or none (NaN) for some document."""


def _refused_boost(error: EngineRequestError, query: Query) -> QueryError | None:
    found = _NO_SCORE.search(f"{error} {error.body}")
    boosts = [node for node in walk(query) if isinstance(node, BoostBy)]
    if found is None or not boosts:
        return None
    # The engines don't say which field it was; where there are several, all are named.
    fields = list(dict.fromkeys(node.field for node in boosts))
    names = ", ".join(map(repr, fields))
    value = f" ({found['value']})" if found["value"] else ""
    zero = " or 0, whose reciprocal is infinite" if any(n.modifier == "reciprocal" for n in boosts) else ""
    return QueryError(
        f"boost_by on {names}: a document holds a negative value{value}{zero}, and engines refuse such a "
        f"score: leave such documents out (filter=q.range({fields[0]!r}, gte=0)), or index the number "
        "shifted above 0",
        field=fields[0],
    )


_NO_ANALYZER = re.compile(r"analyzer \[(?P<name>[^\]]*)\] not found|analyzer must not be null")
"""What the engines say of an analyzer that neither they nor the index have. Elasticsearch doesn't name it
where it is asked for the terms of a text, and answers 500 (9.5.3)."""


def _refused_analyzer(error: EngineRequestError, query: Query) -> QueryError | None:
    found = _NO_ANALYZER.search(f"{error} {error.body}")
    names = list(dict.fromkeys(name for node in walk(query) if (name := getattr(node, "analyzer", None))))
    if found is None or not names:
        return None
    shown = [found["name"]] if found["name"] in names else names
    return QueryError(
        f"analyzer {' or '.join(map(repr, shown))}: neither the index nor the engine has one of this name; "
        "leave analyzer= out, which takes the field's own, name a built-in one (standard, simple, "
        "whitespace, keyword), or define it in the plan's [analysis] and create the index again",
        field="analyzer",
    )


def _refused_clauses(error: EngineRequestError, query: Query) -> QueryError | None:
    """Only the engine knows what an analyzer makes of a word: each synonym is a clause in each field."""
    found = re.search(r"maxClauseCount is set to (\d+)", f"{error} {error.body}")
    texts = [node for node in walk(query) if isinstance(node, TextNode) and node.text]
    if found is None or not texts:
        return None
    words = max(count_words(str(node.text)) for node in texts)
    return QueryError(
        f"text: its {words} words are more than the {found[1]} clauses that this engine takes in a request, "
        "since the field's search analyzer makes several terms of a word (synonyms, n-grams): shorten the "
        "text, raise indices.query.bool.max_clause_count on the engine, or write synonyms as "
        "'television => tv' into a filter of both analyzer and search_analyzer, which makes one word of them",
        field="text",
    )


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
