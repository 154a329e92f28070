"""Test collections: queries, judgments and (where there is one) a corpus; TREC runs.

Four sources are read into one :class:`Dataset`: a BEIR folder, TREC topics with qrels, an ir_datasets
id, and a CSV of query–document–grade. What is wrong in them is counted in ``problems`` and left out of
the averages by name, never averaged in silence.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esembed.errors import RecordError
from esembed.evaluate.collection import Dataset, DatasetError, Problem, ProblemLog, Qrels, Run, make_dataset
from esembed.evaluate.trec import judge, read_qrels, read_run, read_topics, text_lines, unique_hits, write_run
from esembed.json_input import JsonInputError, JsonLimits, parse_json
from esembed.types import Document

__all__ = [
    "Dataset",
    "DatasetError",
    "Problem",
    "ProblemLog",
    "Qrels",
    "Run",
    "load_dataset",
    "make_dataset",
    "read_qrels",
    "read_run",
    "read_topics",
    "unique_hits",
    "write_run",
]


_LINE = JsonLimits(characters=50_000_000, values=1_000_000)
"""A document or a query with all of its text."""


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


def _json_lines(path: Path, log: ProblemLog | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(position, object) of each line; a bad line is counted in *log*, or raised without one."""
    for number, line in text_lines(path):
        where = f"{path.name}:{number}"
        try:
            value = parse_json(line, _LINE)
            if not isinstance(value, dict):
                raise JsonInputError(f"a {type(value).__name__}")
        except JsonInputError as error:
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
    text = "\n".join(line for _, line in text_lines(path))
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
        judge(qrels, query_id, row[document_at].strip(), row[grade_at], where, log)
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
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    try:
        for query in loaded.queries_iter():
            if str(query.query_id) in queries:
                log.add("duplicate-query", str(query.query_id))
            else:
                queries[str(query.query_id)] = str(query.default_text())
        for row in loaded.qrels_iter():
            judge(qrels, str(row.query_id), str(row.doc_id), str(row.relevance), identifier, log)
    except (OSError, RuntimeError) as error:
        # It downloads when it is first read.
        raise DatasetError(
            f"ir_datasets can't bring {identifier} ({type(error).__name__}: {error}); without a network, get "
            "its files elsewhere and name a BEIR folder, or qrels with --topics",
            source=identifier,
        ) from error

    def documents() -> Iterator[Document]:
        for row in loaded.docs_iter():
            title = str(getattr(row, "title", "") or "")
            body = str(getattr(row, "text", "") or "") or str(row.default_text())
            yield Document(str(row.doc_id), {"title": title, "text": body})

    corpus = documents if loaded.has_docs() else None
    return make_dataset(identifier, queries, qrels, log=log, corpus=corpus)
