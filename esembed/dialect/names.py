"""Which names reach an engine: one index or one alias, never what an engine would expand. Pure.

Every verb asks :func:`check_name` before it sends or touches anything. A name goes into a URL's path, where
engines read wildcards, lists, exclusions, date expressions and other clusters' names out of it, also in a
request that deletes.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from esembed.errors import AliasError

__all__ = ["check_name"]

MAX_BYTES = 255
"""The longest name that both engines take, in UTF-8."""


def check_name(name: Any, *, new: bool = False) -> str:
    """The name, if engines take it as the name of one index or one alias.

    Args:
        name: from a person, a program, or ``_meta``, which is untrusted.
        new: an index or alias is about to be made: no upper case, no dot in front (that is for the engines'
            own indices). Existing ones may have them: an alias may have upper case, which an index may not.

    Raises:
        AliasError: a wildcard, a list, ``_all``, a date expression, another cluster's index, part of a path,
            a control character, no text at all …
    """
    problem = _problem(name, new)
    if problem is not None:
        raise AliasError(
            f"{name!r} can't be the name of an index or alias: it {problem}; name one index, or an alias. "
            "For several indices of one plan make an alias of all of them, and open that",
            alias=str(name),
        )
    return str(name)


def _problem(name: Any, new: bool) -> str | None:
    """What is wrong with the name, after "it"."""
    if not isinstance(name, str):
        return f"is a {type(name).__name__}, not text"
    if not name.strip():
        return "is empty"
    if "*" in name or "?" in name:
        return "is a wildcard, and what it stands for changes with each new index"
    if "," in name:
        return "is a list"
    if name == "_all":
        return "is every index of the cluster"
    if "<" in name or ">" in name:
        return "is a date expression, which stands for another index tomorrow"
    if ":" in name:
        return "is an index of another cluster"
    if name in (".", "..") or "/" in name or "\\" in name:
        return "is part of a path"
    if name[0] in "-_+":
        return "begins with - _ or +, which engines keep for themselves"
    for sign in name:
        # Cc, Cf, Cs: control and format characters, and halves of a surrogate pair, which UTF-8 can't hold.
        if sign in '"|#' or sign.isspace() or unicodedata.category(sign) in ("Cc", "Cf", "Cs"):
            return f"holds {sign!r}"
    if (size := len(name.encode())) > MAX_BYTES:
        return f"has {size} bytes, and {MAX_BYTES} is the most"
    if new and name != name.lower():
        return "has upper case, and an index has lower case only"
    if new and name[0] == ".":
        return "begins with a dot, which engines keep for their own indices"
    return None
