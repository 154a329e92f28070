"""Test collections: queries, judgements and (where there is one) a corpus; TREC runs.

Four sources are read into one :class:`Dataset`: a BEIR folder, TREC topics with qrels, an ir_datasets
id, and a CSV of query–document–grade. What is wrong in them is counted in ``problems`` and left out of
the averages by name, never averaged in silence.
"""

from __future__ import annotations

import csv
import importlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from esembed.errors import EsembedError, PermanentError, RecordError
from esembed.types import Document

__all__ = [
    "Dataset",
    "DatasetError",
    "Problem",
    "ProblemLog",
    "Qrels",
    "Run",
    "load_dataset",
    "read_qrels",
    "read_run",
    "read_topics",
    "write_run",
]

Qrels: TypeAlias = Mapping[str, Mapping[str, int]]
"""Query id → document id → grade; a grade > 0 is relevant."""

Run: TypeAlias = Mapping[str, Sequence[tuple[str, float]]]
"""Query id → (document id, score), best first."""

ProblemKind = Literal[
    "bad-grade",
    "bad-line",
    "bad-score",
    "conflicting-judgement",
    "duplicate-document",
    "duplicate-id",
    "duplicate-query",
    "no-relevant-document",
    "not-in-index",
    "query-without-judgements",
    "unknown-document",
    "unknown-query",
]

_EXPLAIN: dict[str, str] = {
    "bad-grade": "judgements whose grade is not a whole number; not used",
    "bad-line": "lines that can't be read; not used",
    "bad-score": "run lines whose score is not a number; not used",
    "conflicting-judgement": "a query and document judged twice with different grades; the first counts",
    "duplicate-document": "document ids that stand in the corpus twice; the last replaces the first",
    "duplicate-id": "documents listed twice for one query of a run; the best rank counts",
    "duplicate-query": "query ids that stand in the topics twice; the first counts",
    "no-relevant-document": "judged queries without any relevant document; left out of every average",
    "not-in-index": "relevant documents that the index does not hold; they count as never found",
    "query-without-judgements": "queries without judgements; left out of every average",
    "unknown-document": "relevant judgements of documents that are not there; they count as never found",
    "unknown-query": "judged or answered query ids that are not among the queries; not used",
}


class DatasetError(PermanentError):
    """A test collection that can't be read at all: no such folder, file, split or id.

    Attributes:
        source: what was asked for.
    """

    def __init__(self, message: str, *, source: str) -> None:
        super().__init__(message)
        self.source = source


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of flaw in a collection or run.

    Attributes:
        kind: its short name.
        count: how often.
        examples: the first few, each with its place or ids.
    """

    kind: ProblemKind
    count: int
    examples: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line for a person."""
        shown = "; ".join(self.examples)
        return f"{self.count} {_EXPLAIN[self.kind]}" + (f" (such as {shown})" if shown else "")


class ProblemLog:
    """Counts problems by kind and keeps the first few of each as examples."""

    def __init__(self, keep: int = 3) -> None:
        self._keep = keep
        self._counts: Counter[ProblemKind] = Counter()
        self._examples: dict[ProblemKind, list[str]] = {}

    def add(self, kind: ProblemKind, example: str) -> None:
        """Count one, and keep *example* if it is among the first."""
        self._counts[kind] += 1
        kept = self._examples.setdefault(kind, [])
        if len(kept) < self._keep:
            kept.append(example)

    def problems(self) -> tuple[Problem, ...]:
        """What was counted, most frequent first."""
        return tuple(Problem(k, n, tuple(self._examples[k])) for k, n in self._counts.most_common())


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Queries with judgements.

    Attributes:
        name: for reports.
        queries: query id → text; only those with at least one relevant judged document, in order.
        qrels: the judgements of these queries.
        unjudged: the other queries (no judgement, or none relevant): for latency and the bootstrap,
            never for averages.
        problems: what was wrong, counted.
        corpus: opens a fresh stream of the documents, or None when the source has none.
    """

    name: str
    queries: Mapping[str, str]
    qrels: Qrels
    unjudged: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    corpus: Callable[[], Iterator[Document]] | None = None

    def documents(self) -> Iterator[Document]:
        """A fresh stream of the corpus.

        Raises:
            DatasetError: the source has no corpus (TREC topics, CSV).
        """
        if self.corpus is None:
            raise DatasetError(f"{self.name} has judgements but no documents", source=self.name)
        return self.corpus()

    def subset(self, query_ids: Iterable[str]) -> Dataset:
        """The same collection with these queries only (unknown ids are ignored)."""
        wanted = [q for q in query_ids if q in self.queries]
        return Dataset(
            name=self.name,
            queries={q: self.queries[q] for q in wanted},
            qrels={q: self.qrels[q] for q in wanted},
            problems=self.problems,
            corpus=self.corpus,
        )


def make_dataset(
    name: str,
    queries: Mapping[str, str],
    qrels: Qrels,
    *,
    log: ProblemLog | None = None,
    known_ids: Iterable[str] | None = None,
    corpus: Callable[[], Iterator[Document]] | None = None,
) -> Dataset:
    """Join queries and judgements, counting what doesn't fit together.

    A relevant document that isn't in *known_ids* stays in the judgements: it lowers recall, as it
    should, and is counted as ``unknown-document``.
    """
    log = log or ProblemLog()
    known = None if known_ids is None else set(known_ids)
    for query_id in qrels:
        if query_id not in queries:
            log.add("unknown-query", query_id)
    judged: dict[str, str] = {}
    unjudged: dict[str, str] = {}
    for query_id, text in queries.items():
        grades = qrels.get(query_id)
        if not grades:
            log.add("query-without-judgements", query_id)
            unjudged[query_id] = text
            continue
        if known is not None:
            for document_id, grade in grades.items():
                if grade > 0 and document_id not in known:
                    log.add("unknown-document", f"{document_id} (query {query_id})")
        if any(grade > 0 for grade in grades.values()):
            judged[query_id] = text
        else:
            log.add("no-relevant-document", query_id)
            unjudged[query_id] = text
    return Dataset(
        name=name,
        queries=judged,
        qrels={q: dict(qrels[q]) for q in judged},
        unjudged=unjudged,
        problems=log.problems(),
        corpus=corpus,
    )


def load_dataset(source: str | Path, *, split: str = "test", topics: str | Path | None = None) -> Dataset:
    """Read a test collection.

    Args:
        source: a BEIR folder (``corpus.jsonl``, ``queries.jsonl``, ``qrels/SPLIT.tsv``); a TREC qrels
            file, with *topics*; ``ir_datasets:ID`` (``ir_datasets:beir/scifact/test``); or a CSV or TSV
            file whose header names ``query``, ``document`` (or ``doc_id``) and ``grade``.
        split: which qrels of a BEIR folder.
        topics: TREC topics (``<top>`` sections, or ``id<TAB>text`` lines) for a qrels file.

    Raises:
        DatasetError: nothing readable there; the message says what was looked for.
    """
    text = str(source)
    for prefix in ("ir_datasets:", "irds:"):
        if text.startswith(prefix):
            return _from_ir_datasets(text.removeprefix(prefix))
    path = Path(source)
    if path.is_dir():
        return _from_beir(path, split)
    if not path.is_file():
        raise DatasetError(
            f"no test collection at {text}: expected a BEIR folder, a qrels file, a CSV, or ir_datasets:ID",
            source=text,
        )
    if topics is not None:
        log = ProblemLog()
        return make_dataset(path.stem, read_topics(topics, log=log), read_qrels(path, log=log), log=log)
    if path.suffix.lower() in {".csv", ".tsv"}:
        return _from_csv(path)
    raise DatasetError(f"{text} looks like a qrels file; name its queries with topics=", source=text)


# -- grades and lines ------------------------------------------------------------------------------


def _grade(text: str) -> int | None:
    """A whole number, written ``2`` or ``2.0``; else None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except OSError as error:
        raise DatasetError(f"can't read {path.name}: {error.strerror}", source=str(path)) from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path.name} is not UTF-8 text", source=str(path)) from error


def _judge(
    qrels: dict[str, dict[str, int]], query: str, document: str, grade: str, where: str, log: ProblemLog
) -> None:
    value = _grade(grade)
    if value is None:
        log.add("bad-grade", f"{where}: {grade.strip()[:40]!r}")
        return
    grades = qrels.setdefault(query, {})
    if document in grades:
        if grades[document] != value:
            log.add("conflicting-judgement", f"{where}: {query} {document}")
        return
    grades[document] = value


def read_qrels(path: str | Path, *, log: ProblemLog | None = None) -> dict[str, dict[str, int]]:
    """Judgements: TREC (``query 0 document grade``) or BEIR (``query<TAB>document<TAB>grade``, with or
    without its header line).

    Raises:
        DatasetError: no such file, or not text.
    """
    path, log = Path(path), log or ProblemLog()
    qrels: dict[str, dict[str, int]] = {}
    for number, line in _lines(path):
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
        _judge(qrels, query, document, grade, f"{path.name}:{number}", log)
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
    lines = list(_lines(path))
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


# -- sources ---------------------------------------------------------------------------------------


def _json_lines(path: Path, log: ProblemLog | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(position, object) of each line; a bad line is counted in *log*, or raised without one."""
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in _lines(path):
        where = f"{path.name}:{number}"
        try:
            value = decoder.decode(line)
        except msgspec.DecodeError as error:
            if log is None:
                raise RecordError(f"not a JSON object: {error}", position=where) from error
            log.add("bad-line", where)
            continue
        yield where, value


def _beir_documents(path: Path) -> Iterator[Document]:
    for where, row in _json_lines(path, None):
        source = {"title": row.get("title") or "", "text": row.get("text") or ""}
        identifier = row.get("_id", row.get("id"))
        yield Document(None if identifier is None else str(identifier), source, position=where)


def _from_beir(folder: Path, split: str) -> Dataset:
    queries_path, qrels_path = folder / "queries.jsonl", folder / "qrels" / f"{split}.tsv"
    if not queries_path.is_file():
        raise DatasetError(f"{folder} has no queries.jsonl, so it is no BEIR folder", source=str(folder))
    if not qrels_path.is_file():
        there = sorted(p.stem for p in (folder / "qrels").glob("*.tsv"))
        raise DatasetError(
            f"{folder.name} has no qrels/{split}.tsv; splits there: {', '.join(there) or 'none'}",
            source=str(folder),
        )
    log = ProblemLog()
    qrels = read_qrels(qrels_path, log=log)
    queries: dict[str, str] = {}
    for where, row in _json_lines(queries_path, log):
        query_id, text = str(row.get("_id", row.get("id", ""))), str(row.get("text") or "").strip()
        if not query_id or not text:
            log.add("bad-line", where)
        elif query_id in queries:
            log.add("duplicate-query", f"{where}: {query_id}")
        else:
            queries[query_id] = text
    # A BEIR folder keeps the queries of every split in one file: those of the others are not a flaw.
    others = {
        q
        for p in (folder / "qrels").glob("*.tsv")
        if p.stem != split
        for q in read_qrels(p)
        if q not in qrels
    }
    queries = {q: text for q, text in queries.items() if q not in others}
    corpus_path = folder / "corpus.jsonl"
    if not corpus_path.is_file():
        return make_dataset(folder.name, queries, qrels, log=log)
    known: set[str] = set()
    for where, row in _json_lines(corpus_path, log):
        document_id = str(row.get("_id", row.get("id", "")))
        if document_id in known:
            log.add("duplicate-document", f"{where}: {document_id}")
        known.add(document_id)
    name = folder.name if split == "test" else f"{folder.name}/{split}"
    return make_dataset(
        name, queries, qrels, log=log, known_ids=known, corpus=lambda: _beir_documents(corpus_path)
    )


_COLUMNS = {
    "query": ("query", "query_text", "text", "q"),
    "query_id": ("query_id", "query-id", "qid"),
    "document": ("document", "doc_id", "document_id", "doc-id", "corpus-id", "docid", "doc", "id"),
    "grade": ("grade", "score", "relevance", "rel", "label"),
}


def _from_csv(path: Path) -> Dataset:
    """A header naming query (text), document and grade; ``query_id`` where two queries share a text.
    Without it queries are numbered in their order, ``q1`` …, so that TREC runs can name them."""
    text = "\n".join(line for _, line in _lines(path))
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = csv.reader(io.StringIO(text), delimiter=delimiter)
    header = [name.strip().lower() for name in next(rows, [])]
    at = {
        wanted: next((header.index(name) for name in names if name in header), None)
        for wanted, names in _COLUMNS.items()
    }
    query_at, document_at, grade_at = at["query"], at["document"], at["grade"]
    if query_at is None or document_at is None or grade_at is None:
        raise DatasetError(
            f"{path.name}: the first line must name the columns query, document and grade; it has "
            f"{', '.join(header) or 'nothing'}",
            source=str(path),
        )
    log = ProblemLog()
    queries: dict[str, str] = {}
    numbers: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for row in rows:
        where = f"{path.name}:{rows.line_num}"
        if len(row) < len(header) or not row[query_at].strip() or not row[document_at].strip():
            log.add("bad-line", where)
            continue
        query = row[query_at].strip()
        id_at = at["query_id"]
        query_id = "" if id_at is None else row[id_at].strip()
        query_id = query_id or numbers.setdefault(query, f"q{len(numbers) + 1}")
        queries.setdefault(query_id, query)
        _judge(qrels, query_id, row[document_at].strip(), row[grade_at], where, log)
    return make_dataset(path.stem, queries, qrels, log=log)


def _from_ir_datasets(identifier: str) -> Dataset:
    try:
        ir_datasets = importlib.import_module("ir_datasets")
    except ModuleNotFoundError as error:
        raise DatasetError(
            "ir_datasets ids need the package ir-datasets: pip install ir-datasets",
            source=identifier,
        ) from error
    try:
        loaded: Any = ir_datasets.load(identifier)
    except KeyError as error:
        raise DatasetError(f"ir_datasets knows no {identifier!r}", source=identifier) from error
    for part in ("queries", "qrels"):
        if not getattr(loaded, f"has_{part}")():
            raise DatasetError(f"ir_datasets' {identifier} has no {part}", source=identifier)
    log = ProblemLog()
    queries = {str(q.query_id): str(q.default_text()) for q in loaded.queries_iter()}
    qrels: dict[str, dict[str, int]] = {}
    for judgement in loaded.qrels_iter():
        _judge(
            qrels, str(judgement.query_id), str(judgement.doc_id), str(judgement.relevance), identifier, log
        )

    def documents() -> Iterator[Document]:
        for row in loaded.docs_iter():
            title = str(getattr(row, "title", "") or "")
            body = str(getattr(row, "text", "") or "") or str(row.default_text())
            yield Document(str(row.doc_id), {"title": title, "text": body})

    corpus = documents if loaded.has_docs() else None
    return make_dataset(identifier, queries, qrels, log=log, corpus=corpus)


# -- TREC runs -------------------------------------------------------------------------------------


def read_run(path: str | Path, *, log: ProblemLog | None = None) -> dict[str, list[tuple[str, float]]]:
    """A TREC run (``query Q0 document rank score tag``), each query's list best score first.

    As in trec_eval the score decides, not the rank column; equal scores keep the file's order. A
    document that is listed twice for a query keeps its best place and is counted (``duplicate-id``).

    Raises:
        DatasetError: no such file, or not text.
    """
    path, log = Path(path), log or ProblemLog()
    found: dict[str, list[tuple[str, float]]] = {}
    for number, line in _lines(path):
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
