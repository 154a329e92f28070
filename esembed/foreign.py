"""Text that others wrote (ids, documents, reasons, names of files) on its way to a terminal, JSON or a page.

A terminal obeys control characters: a document's author could retitle, clear or repaint an operator's screen,
and a bidirectional override shows ``exe.png`` for ``gnp.exe``. All foreign text passes :func:`escaped` on its
way to one (and an error's message does in ``str(error)``), and :func:`html_escaped` on its way to a page.
"""

from __future__ import annotations

import html
import re

__all__ = ["escaped", "html_escaped", "json_escaped"]

_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1 (\x9b is an ESC [ of its own)
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing
    "\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"  # line ends, and what can't be seen
    "\U000e0000-\U000e0fff"  # tags, and more that can't be seen
    "\ud800-\udfff]"  # halves of pairs, which no stream can encode
)
# The joiners (U+200C, U+200D), the soft hyphen and U+200B stay: emoji and several scripts need them.


def escaped(text: str, *, one_line: bool = False) -> str:
    """The text as it can be shown on a terminal: what a terminal would obey stands there as Python writes it
    (``\\x1b``, ``\\u202e``).

    Args:
        text: whatever somebody else wrote.
        one_line: line feeds and tabs, too (a cell, a name).
    """
    shown = _OBEYED.sub(_python, text)
    return shown.replace("\n", "\\n").replace("\t", "\\t") if one_line else shown


def html_escaped(text: str) -> str:
    """The text as it can stand in a page, between tags or in a quoted attribute."""
    return html.escape(_OBEYED.sub(_python, text))


def json_escaped(text: str) -> str:
    """JSON (or TOML with quoted strings) that means the same, without characters that a terminal obeys: JSON
    writers escape the first 32 characters only."""
    return _OBEYED.sub(_json, text)


def _python(found: re.Match[str]) -> str:
    number = ord(found.group())
    if number > 0xFFFF:
        return f"\\U{number:08x}"
    return f"\\u{number:04x}" if number > 0xFF else f"\\x{number:02x}"


def _json(found: re.Match[str]) -> str:
    units = found.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
