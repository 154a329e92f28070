"""Other people's figures beside ours: bm25s on the same documents, and published tables."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esembed.errors import EsembedError
from esembed.evaluate.datasets import Dataset
from esembed.json_input import JsonInputError, JsonLimits, parse_json

__all__ = ["bm25s_run", "read_published"]

_PUBLISHED = JsonLimits(characters=50_000_000, depth=10, values=1_000_000, objects=100_000)
"""Anserini's table of all collections is 2 MB."""


def bm25s_run(
    dataset: Dataset, *, language: str = "english", k1: float = 1.2, b: float = 0.75, size: int = 100
) -> dict[str, list[tuple[str, float]]]:
    """BM25 by the library bm25s (Lucene's formula) over the dataset's own documents, title and text joined.

    Args:
        language: of PyStemmer and of bm25s' stop words; ``none`` stems nothing and keeps every word.

    Raises:
        EsembedError: bm25s (or PyStemmer, for a language) isn't installed, or the dataset has no documents.
    """
    library: Any = _need("bm25s", "bm25s")
    stemmer: Any = None if language == "none" else _need("Stemmer", "PyStemmer").Stemmer(language)
    stop_words = language if language == "english" else []
    ids, texts = [], []
    for document in dataset.documents():
        ids.append(str(document.id))
        texts.append(" ".join(value for value in document.source.values() if isinstance(value, str)))

    def tokens(batch: list[str]) -> Any:
        return library.tokenize(batch, stopwords=stop_words, stemmer=stemmer, show_progress=False)

    retriever: Any = library.BM25(method="lucene", k1=k1, b=b)
    retriever.index(tokens(texts), show_progress=False)
    found, scores = retriever.retrieve(
        tokens(list(dataset.queries.values())), k=min(size, len(ids)), show_progress=False
    )
    return {
        query: [(ids[int(i)], float(s)) for i, s in zip(row, values, strict=True) if s > 0]
        for query, row, values in zip(dataset.queries, found, scores, strict=True)
    }


def read_published(path: str | Path, name: str) -> dict[str, dict[str, float]]:
    """Figures to stand beside the measured ones, from JSON: ``{name: {measure: value}}``, or a table of
    several collections ``{collection: {name: {measure: value}}}``, such as Anserini's.

    Args:
        path: the file.
        name: the collection's (``scifact/train`` also finds ``scifact``).

    Raises:
        EsembedError: it can't be read, is of another shape, or has no such collection.
    """
    try:
        table = parse_json(Path(path).read_bytes(), _PUBLISHED)
    except (OSError, JsonInputError) as error:
        raise EsembedError(f"{path} can't be read as JSON: {error}") from error
    if isinstance(table, Mapping) and table and not _is_figures(table):
        for key in (name, name.partition("/")[0]):
            if key in table and _is_figures(table[key]):
                table = table[key]
                break
        else:
            names = [str(one) for one in table]
            known = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
            raise EsembedError(f"{path} has no figures for {name!r}; it has {known}")
    if not _is_figures(table):
        raise EsembedError(f"{path} must hold name → measure → value (or that for each collection)")
    return {str(k): {str(m): float(v) for m, v in figures.items()} for k, figures in table.items()}


def _is_figures(table: Any) -> bool:
    return isinstance(table, Mapping) and all(
        isinstance(row, Mapping)
        and all(type(value) in (int, float) and abs(value) < 1e100 for value in row.values())
        for row in table.values()
    )


def _need(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise EsembedError(f"the comparison with bm25s needs {package}: pip install {package}") from error
