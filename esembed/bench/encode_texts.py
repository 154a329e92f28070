"""A corpus of mixed lengths that every machine has: the standard library's docstrings."""

from __future__ import annotations

import random
from pathlib import Path

from esembed.errors import RecordError
from esembed.evaluate.trec import text_lines
from esembed.json_input import JsonInputError, JsonLimits, parse_json

__all__ = ["mixed_texts"]

_LINE = JsonLimits(characters=50_000_000, values=1_000_000)
"""A document with all that is in it."""


def mixed_texts(count: int, *, source: Path | None = None, seed: int = 7) -> list[str]:
    """*count* texts of about 8 to 300 words.

    Args:
        count: how many.
        source: a JSONL file with a ``text`` in each line, or a plain file with a text a line; its
            first *count* texts are taken as they are. None: docstrings of the standard library, joined
            and cut to lengths drawn evenly on a logarithmic scale.
        seed: of the lengths.

    Raises:
        RecordError: *source* holds no texts, or a line is no JSON; it names the line.
        DatasetError: *source* can't be read, or is no UTF-8.
    """
    if source is not None:
        return _from_file(source, count)
    from esembed.demo.corpus import records

    words = [word for record in records() for word in str(record["doc"]).split()]
    rng = random.Random(seed)
    texts, at = [], 0
    for _ in range(count):
        length = int(8 * (300 / 8) ** rng.random())
        texts.append(" ".join(words[at : at + length]))
        at = (at + length) % max(1, len(words) - 300)
    return texts


def _from_file(source: Path, count: int) -> list[str]:
    texts = []
    for number, line in text_lines(source):
        text = line.strip()
        if text.startswith("{"):
            where = f"{source.name}:{number}"
            try:
                value = parse_json(text, _LINE)
            except JsonInputError as error:
                raise RecordError(f"it begins like a JSON object, but: {error}", position=where) from None
            found = value.get("text") or value.get("body") or ""
            if not isinstance(found, str):
                raise RecordError(f"its text is a {type(found).__name__}", position=where)
            text = found
        if text:
            texts.append(text)
        if len(texts) == count:
            break
    if not texts:
        raise RecordError(f"{source} holds no texts (JSONL with a text field, or a text a line)")
    return texts
