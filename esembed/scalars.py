"""One value as JSON holds it, whether it stands in a record, an update or a filter, or is an id.

Data frames, databases and Python's own library hand over values that JSON has no form for. What they
become is decided here alone, so that a filter finds what a record stored. A number is kept exactly or
refused: engines read JSON numbers as 64-bit integers or doubles, and round what doesn't fit without an error.
"""

from __future__ import annotations

import math
import os
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any
from uuid import UUID

__all__ = ["LARGEST", "SMALLEST", "identifier", "iso_year", "plain"]

SMALLEST, LARGEST = -(2**63), 2**64 - 1
"""The integers that JSON can carry to both engines: a ``long``, or an ``unsigned_long``."""

_ADDRESSES = (IPv4Address, IPv6Address, IPv4Network, IPv6Network)
_INTERFACES = (IPv4Interface, IPv6Interface)


def plain(value: Any) -> Any:
    """The value as Python's own ``str``, ``int``, ``float`` or ``bool``; None for what stands for no value.

    Dates and times become ISO 8601 text; UUIDs, IP addresses and networks, and paths their text; enums their
    value; scalars of NumPy and pandas Python's own. NaN and the infinities stay (callers differ in what they
    do with them), and so does whatever has no JSON form: containers are the caller's business, and anything
    else is for the caller to refuse.

    Raises:
        ValueError: a number that JSON can't hold exactly; what it is and what to do, without the field.
    """
    kind = type(value)
    if kind in (str, float, bool) or value is None:
        return value
    if kind is int:
        return _fitting(value)
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, (datetime, date, time)):
        if value != value:  # pandas' NaT
            return None
        return value.isoformat()
    if isinstance(value, Decimal):
        return _exact(value) if value.is_finite() else float("nan") if value.is_nan() else float(value)
    if isinstance(value, Fraction):
        return _exact(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, _INTERFACES):
        # An interface is an address and a network at once: stored it would be one, in a filter the other.
        raise ValueError(f"{value!r} is an address and a network; take its .ip or its .network")
    if isinstance(value, _ADDRESSES):
        return str(value)
    if kind.__module__.partition(".")[0] == "pandas" and kind.__name__ == "NAType":
        return None  # comparing it with anything, itself too, gives NA, which has no truth value
    if hasattr(value, "dtype") and hasattr(value, "item") and not getattr(value, "shape", ()):
        return _array_scalar(value)
    # Subclasses: what is sent is the value that they hold, whatever their own __str__ says.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return _fitting(int.__index__(value))
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    return value


def identifier(value: Any) -> str:
    """A document's id as the engines have it: text.

    Raises:
        ValueError: what is no id (a float, true or false, a list …), without the field's name.
    """
    if type(value) is str:
        return value
    if isinstance(value, Decimal) and value.is_finite() and value.adjusted() < 600 and value == int(value):
        return str(int(value))  # databases' whole numbers; exact, as many digits as an id can have
    if isinstance(value, int) and not isinstance(value, (bool, Enum)):
        return str(int.__index__(value))
    # No dates: one instant has many texts, and an id must have one.
    whole = getattr(getattr(value, "dtype", None), "kind", "") in tuple("iuUO")
    if whole or isinstance(value, (str, UUID, Enum, *_ADDRESSES)):
        made = plain(value)
        if type(made) is int or type(made) is str:
            return str(made)
    shown = f"{value!r:.80}"
    if isinstance(value, float) and value.is_integer():
        # What a data frame makes of whole numbers once one is missing; beyond 2**53 they are others then.
        raise ValueError(
            f"an id is a string, a whole number or a UUID, not the float {shown}; keep ids as text or "
            'integers (pandas: dtype="string" or "Int64")'
        )
    raise ValueError(f"an id is a string, a whole number or a UUID, not {shown}")


def _fitting(number: int) -> int:
    if SMALLEST <= number <= LARGEST:
        return number
    shown = str(number) if number.bit_length() < 400 else f"a number of {number.bit_length()} bits"
    raise ValueError(f"{shown} doesn't fit into 64 bits; make it text")


def _exact(number: Decimal | Fraction) -> int | float:
    """What a JSON number holds exactly: an integer of 64 bits, or a double that prints the same decimals."""
    # The exponent first: Decimal("1E+999999999") as an int would take a gigabyte.
    small = isinstance(number, Fraction) or number.adjusted() < 20
    if small and number == int(number) and SMALLEST <= number <= LARGEST:
        return int(number)
    try:
        double = float(number)
    except OverflowError:  # a Fraction; a Decimal becomes infinite
        double = math.inf
    if math.isfinite(double):
        # A decimal's double is hardly ever equal to it (0.1 is not), but it prints as the same decimals.
        same = Decimal(repr(double)) == number if isinstance(number, Decimal) else Fraction(double) == number
        if same:
            return double
    raise ValueError(
        f"{number!s:.60} has more digits than a JSON number keeps; round it with float(), or make it text"
    )


def _array_scalar(value: Any) -> Any:
    """A scalar of NumPy (or of a library that has its ways) as Python's own."""
    kind = getattr(value.dtype, "kind", "")
    if kind == "M":
        return _datetime64(value)
    made = value.item()
    # NumPy's long doubles and void scalars give themselves: they are the caller's to refuse, as bytes are.
    return value if type(made) is type(value) else plain(made)


def _datetime64(value: Any) -> str | None:
    """ISO text of a ``numpy.datetime64`` of any unit. Its own ``item()`` gives a count of nanoseconds for the
    finer units, which a date field would take for milliseconds."""
    import numpy as np

    if np.isnat(value):
        return None
    unit = np.datetime_data(value.dtype)[0]
    if unit in ("Y", "M", "W", "D"):
        return iso_year(str(value.astype("datetime64[D]")))
    if unit in ("h", "m"):
        value = value.astype("datetime64[s]")
    elif unit in ("ps", "fs", "as"):
        nanos = value.astype("datetime64[ns]")  # the finest that an engine's date keeps
        if nanos.astype(value.dtype) != value:
            raise ValueError(f"{value} is finer than a nanosecond, which no date field keeps; round it")
        value = nanos
    text = str(value)
    return iso_year(text.rstrip("0").rstrip(".") if "." in text else text)


def iso_year(text: str) -> str:
    """NumPy's date in ISO 8601's form for years that don't have four digits, as the engines read it: a sign
    beyond 9999 (``+10184-01-01``), four digits before 1 (``-0044-03-15``)."""
    sign, rest = ("-", text[1:]) if text.startswith("-") else ("", text)
    year, dash, rest = rest.partition("-")
    if not sign and len(year) > 4:
        sign = "+"
    return f"{sign}{year.rjust(4, '0')}{dash}{rest}"
