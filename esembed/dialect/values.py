"""What queries carry, checked against what the engine takes: words of a text, values of a typed field."""

from __future__ import annotations

import itertools
import re
from typing import Any

from esembed.dialect.dates import date_problem
from esembed.errors import QueryError

__all__ = ["DATES", "NUMERIC", "check_unicode", "check_value", "fit_text"]

DATES = frozenset({"date", "date_nanos"})
NUMERIC = frozenset(
    {"byte", "short", "integer", "long", "float", "double", "half_float", "scaled_float", "unsigned_long"}
)

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
