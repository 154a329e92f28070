"""Judgments, topics and runs in the formats of TREC, read with every flaw counted, and runs written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from esembed.errors import EsembedError
from esembed.evaluate.collection import DatasetError, ProblemLog, Run

__all__ = ["judge", "read_qrels", "read_run", "read_topics", "text_lines", "unique_hits", "write_run"]


def _grade(text: str) -> int | None:
    """A whole number, written ``2`` or ``2.0``; else None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number, from 1, and line, of a UTF-8 file; empty lines left out.

    Raises:
        DatasetError: it can't be read, or is no UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except OSError as error:
        raise DatasetError(f"can't read {path.name}: {error.strerror}", source=str(path)) from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path.name} is not UTF-8 text", source=str(path)) from error


def judge(
    qrels: dict[str, dict[str, int]], query: str, document: str, grade: str, where: str, log: ProblemLog
) -> None:
    """Add one judgment to *qrels*; a grade that is no number, and a contradiction, go to *log*."""
    value = _grade(grade)
    if value is None:
        log.add("bad-grade", f"{where}: {grade.strip()[:40]!r}")
        return
    grades = qrels.setdefault(query, {})
    if document in grades:
        if grades[document] != value:
            log.add("conflicting-judgment", f"{where}: {query} {document}")
        return
    grades[document] = value


def read_qrels(path: str | Path, *, log: ProblemLog | None = None) -> dict[str, dict[str, int]]:
    """Judgments: TREC (``query 0 document grade``) or BEIR (``query<TAB>document<TAB>grade``, with or
    without its header line).

    Raises:
        DatasetError: no such file, or not text.
    """
    path, log = Path(path), log or ProblemLog()
    qrels: dict[str, dict[str, int]] = {}
    for number, line in text_lines(path):
        parts = line.split("\t") if "\t" in line else line.split()
        parts = [part.strip() for part in parts]
        if number == 1 and parts[0].lower() in {"query-id", "query_id", "qid", "query"}:
            continue
        if len(parts) == 4:
            query, _, document, grade = parts
        elif len(parts) == 3:
            query, document, grade = parts
        else:
            log.add("bad-line", f"{path.name}:{number}")
            continue
        judge(qrels, query, document, grade, f"{path.name}:{number}", log)
    return qrels


_TOP = re.compile(r"<top>(.*?)</top>", re.S | re.I)
_NUM = re.compile(r"<num>\s*(?:number:)?\s*([^\s<]+)", re.I)
_TITLE = re.compile(r"<title>\s*(?:topic:)?\s*(.*?)\s*(?=<|\Z)", re.S | re.I)


def read_topics(path: str | Path, *, log: ProblemLog | None = None) -> dict[str, str]:
    """Queries: TREC ``<top>`` sections (number and title) or ``id<TAB>text`` lines.

    Raises:
        DatasetError: no such file, or not text.
    """
    path, log = Path(path), log or ProblemLog()
    lines = list(text_lines(path))
    whole = "\n".join(line for _, line in lines)
    found: list[tuple[str, str, str]] = []
    if "<top>" in whole.lower():
        for position, section in enumerate(_TOP.findall(whole), 1):
            number, title = _NUM.search(section), _TITLE.search(section)
            if number is None or title is None or not title[1]:
                log.add("bad-line", f"{path.name}: topic {position}")
                continue
            found.append((number[1], " ".join(title[1].split()), f"topic {position}"))
    else:
        for line_number, line in lines:
            query_id, separator, text = line.partition("\t")
            if not separator or not text.strip():
                log.add("bad-line", f"{path.name}:{line_number}")
                continue
            found.append((query_id.strip(), text.strip(), f"{path.name}:{line_number}"))
    queries: dict[str, str] = {}
    for query_id, text, where in found:
        if query_id in queries:
            log.add("duplicate-query", f"{where}: {query_id}")
        else:
            queries[query_id] = text
    return queries


def read_run(path: str | Path, *, log: ProblemLog | None = None) -> dict[str, list[tuple[str, float]]]:
    """A TREC run (``query Q0 document rank score tag``), each query's list best score first.

    As in trec_eval the score decides, not the rank column; equal scores keep the file's order. A
    document that is listed twice for a query keeps its best place and is counted (``duplicate-id``).

    Raises:
        DatasetError: no such file, or not text.
    """
    path, log = Path(path), log or ProblemLog()
    found: dict[str, list[tuple[str, float]]] = {}
    for number, line in text_lines(path):
        parts = line.split()
        if len(parts) not in {5, 6}:
            log.add("bad-line", f"{path.name}:{number}")
            continue
        try:
            score = float(parts[4])
        except ValueError:
            score = float("nan")
        if score != score:
            log.add("bad-score", f"{path.name}:{number}: {parts[4][:40]!r}")
            continue
        found.setdefault(parts[0], []).append((parts[2], score))
    return {
        query: unique_hits(sorted(hits, key=lambda hit: -hit[1]), query, log) for query, hits in found.items()
    }


def unique_hits(hits: Iterable[tuple[str, float]], query_id: str, log: ProblemLog) -> list[tuple[str, float]]:
    """*hits* with each document at its first place only; the others are counted in *log*."""
    kept: dict[str, float] = {}
    for document, score in hits:
        if document in kept:
            log.add("duplicate-id", f"{document} (query {query_id})")
        else:
            kept[document] = score
    return list(kept.items())


def write_run(path: str | Path, run: Run, *, tag: str = "esembed") -> None:
    """Write a run in TREC format, ranks from 1.

    Raises:
        EsembedError: an id that holds white space, which the format can't say.
    """
    lines: list[str] = []
    for query, hits in run.items():
        for rank, (document, score) in enumerate(hits, 1):
            if len(query.split()) != 1 or len(document.split()) != 1:
                raise EsembedError(
                    f"TREC runs can't hold ids with white space or empty ids: {query!r} {document!r}"
                )
            lines.append(f"{query} Q0 {document} {rank} {float(score)!r} {tag}\n")
    Path(path).write_text("".join(lines), encoding="utf-8")
