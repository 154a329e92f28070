"""Rows of training data: as ``datasets.Dataset`` for trainers, as JSON lines in files.

Columns have the names that sentence-transformers gives them: ``anchor``, ``positive``, ``negative`` or
``negative_1`` …, ``label``, ``score``, ``scores``. Beside them stand those of :data:`BESIDE`, which say where
a row comes from; recipes leave them out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from esembed.errors import OptionsError
from esembed.evaluate.collection import DatasetError
from esembed.evaluate.trec import text_lines
from esembed.json_input import JsonInputError, JsonLimits, parse_json
from esembed.train.extra import need
from esembed.train.splits import near_equal

if TYPE_CHECKING:
    from datasets import Dataset as Rows

    from esembed.evaluate.collection import Dataset

__all__ = [
    "BESIDE",
    "DataReport",
    "drop_held_out",
    "read_rows",
    "sampled",
    "to_rows",
    "trained_columns",
    "write_rows",
]

BESIDE = ("anchor_id", "positive_id", "grade")
"""Columns that no model reads: the query's and the document's id, and the judgment."""

_LINE = JsonLimits(characters=50_000_000, values=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """What became training data, and what was left out.

    Attributes:
        rows: of the data.
        queries: different texts in its first column.
        left_out: reason → how many rows, queries or documents.
    """

    rows: int
    queries: int
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """One line for a person."""
        out = "; ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
        return f"{self.rows:,} rows of {self.queries:,} queries" + (f"; left out: {out}" if out else "")


def to_rows(
    rows: Sequence[Mapping[str, Any]], left_out: Counter[str], *, what: str
) -> tuple[Rows, DataReport]:
    """The rows as a Dataset, with their report.

    Raises:
        DatasetError: there are none; the message says what was left out.
        EsembedError: the extra isn't installed.
    """
    out = {reason: count for reason, count in left_out.most_common() if count}
    if not rows:
        listed = "; ".join(f"{count:,} {reason}" for reason, count in out.items())
        raise DatasetError(f"{what} gives no training data. Left out: {listed or 'nothing'}", source=what)
    made = need("datasets").Dataset.from_list([dict(row) for row in rows])
    first = next(iter(rows[0]))
    return made, DataReport(rows=len(rows), queries=len({row[first] for row in rows}), left_out=out)


def sampled(rows: Iterable[dict[str, Any]], limit: int | None, seed: int) -> list[dict[str, Any]]:
    """All rows, or *limit* of them drawn at random while they pass, in their order.

    Raises:
        OptionsError: *limit* is below 1.
    """
    if limit is None:
        return list(rows)
    if limit < 1:
        raise OptionsError(f"at least 1 row, not {limit}", option="limit")
    random = Random(seed)
    kept: list[tuple[int, dict[str, Any]]] = []
    for number, row in enumerate(rows):
        if len(kept) < limit:
            kept.append((number, row))
        elif (place := random.randrange(number + 1)) < limit:
            kept[place] = (number, row)
    return [row for _, row in sorted(kept, key=lambda one: one[0])]


def drop_held_out(
    rows: list[dict[str, Any]], held_out: Dataset | None, left_out: Counter[str]
) -> list[dict[str, Any]]:
    """The rows without those whose query is nearly a query of *held_out*: what is tested is never learned."""
    if held_out is None:
        return rows
    anchors = {text: text for text in dict.fromkeys(row["anchor"] for row in rows)}
    near = {text for text, _ in near_equal(anchors, held_out.queries)}
    left_out["rows whose query is nearly one that is held out"] += sum(row["anchor"] in near for row in rows)
    return [row for row in rows if row["anchor"] not in near]


def write_rows(rows: Rows, path: str | Path) -> None:
    """Write the rows as JSON lines, in UTF-8; an earlier file there is replaced."""
    target = Path(path)
    part = target.with_name(f"{target.name}.part")
    with part.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    part.replace(target)


def read_rows(path: str | Path) -> Rows:
    """The rows of a file that :func:`write_rows` wrote, or of any JSON lines that all have the same names.

    Raises:
        DatasetError: a line that is no object or that has other names than the first; no lines.
    """
    path = Path(path)
    rows: list[dict[str, Any]] = []
    for where, row in _objects(path):
        if rows and list(row) != list(rows[0]):
            raise DatasetError(
                f"{where} has the names {', '.join(row)}; the first line has {', '.join(rows[0])}",
                source=str(path),
            )
        rows.append(row)
    if not rows:
        raise DatasetError(f"{path.name} has no rows", source=str(path))
    try:
        return need("datasets").Dataset.from_list(rows)
    except (TypeError, ValueError, OverflowError) as error:  # PyArrow's errors are these
        raise DatasetError(
            f"{path.name}: a name has values of several types: {error}", source=str(path)
        ) from error


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in text_lines(path):
        where = f"{path.name}:{number}"
        try:
            value = parse_json(line, _LINE)
        except JsonInputError as error:
            raise DatasetError(f"{where}: {error.message}", source=str(path)) from error
        if not isinstance(value, dict):
            raise DatasetError(f"{where} is a {type(value).__name__}, not an object", source=str(path))
        yield where, value


def trained_columns(rows: Rows) -> Rows:
    """The rows without the columns of :data:`BESIDE`."""
    return rows.remove_columns([name for name in BESIDE if name in rows.column_names])
