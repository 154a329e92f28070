"""Pairs of a query and what answers it, out of judgments (or clicks, which become judgments), or out of the
corpus alone.

Each function gives a ``datasets.Dataset`` as sentence-transformers' trainers take it, with ``anchor`` and
``positive``, and a report of what was left out. What was judged is split by document before
(:mod:`esembed.train.splits`), and test queries are handed in as *held_out*.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from esembed.errors import OptionsError
from esembed.plan import IndexPlan, paths
from esembed.train.extra import need
from esembed.train.rows import DataReport, drop_held_out, sampled, to_rows
from esembed.train.texts import DocumentText, document_text, every_document, texts_by_id

if TYPE_CHECKING:
    from datasets import Dataset as Rows

    from esembed import Index
    from esembed.evaluate.collection import Dataset

__all__ = [
    "category_pairs",
    "cloze_pairs",
    "field_pairs",
    "judged_pairs",
    "labeled_texts",
    "section_pairs",
]

_SHORT = "queries of fewer words than min_words"
_NO_TEXT = "documents without text"


def judged_pairs(
    index: Index,
    judged: Dataset,
    *,
    field: str | None = None,
    min_grade: int = 1,
    held_out: Dataset | None = None,
) -> tuple[Rows, DataReport]:
    """Each judged query with each of its relevant documents' texts, out of the index.

    Args:
        index: holds the documents.
        judged: the queries, such as ``load_dataset`` reads and ``judgments_from_clicks`` makes.
        field: the documents' text is what this field is made from; see
            :func:`~esembed.train.texts.document_text`.
        min_grade: the least grade of a relevant document.
        held_out: queries that are nearly one of these are left out.

    Returns:
        ``anchor``, ``positive``, ``anchor_id``, ``positive_id``, ``grade``, and the report.

    Raises:
        DatasetError: no pairs.
        OptionsError: no such field, *min_grade* is below 1.
    """
    if min_grade < 1:
        raise OptionsError(
            f"a relevant document has a grade of 1 or more, not {min_grade}", option="min_grade"
        )
    text = document_text(index.plan, field)
    relevant = {
        query: [(document, grade) for document, grade in judged.qrels[query].items() if grade >= min_grade]
        for query in judged.queries
    }
    texts = texts_by_id(index, (doc for listed in relevant.values() for doc, _ in listed), text)
    out: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for query, listed in relevant.items():
        out["queries without a document of that grade"] += not listed
        for document, grade in listed:
            if document not in texts:
                out["relevant documents that the index doesn't hold, or without text"] += 1
                continue
            rows.append(
                {
                    "anchor": judged.queries[query],
                    "positive": texts[document],
                    "anchor_id": query,
                    "positive_id": document,
                    "grade": grade,
                }
            )
    return to_rows(drop_held_out(rows, held_out, out), out, what=judged.name)


def field_pairs(
    index: Index,
    query: str,
    *,
    text: Sequence[str] = (),
    min_words: int = 2,
    max_documents: int = 3,
    limit: int | None = None,
    seed: int = 0,
    held_out: Dataset | None = None,
) -> tuple[Rows, DataReport]:
    """One field of each document with the others: a title with its body, a question with its answer.

    Args:
        index: the documents.
        query: the field that stands for the query; each of its values is one.
        text: the fields that answer it, joined by line ends; none takes all other text fields of the plan.
        min_words: shorter queries are left out.
        max_documents: queries that more documents have are left out: they say nothing about one of them.
        limit: at most so many rows, drawn at random.
        seed: for the draw.
        held_out: queries that are nearly one of these are left out.

    Returns:
        ``anchor``, ``positive``, ``positive_id``, and the report.

    Raises:
        DatasetError: no pairs.
        OptionsError: *text* names the query's field, or there is no other text field.
    """
    sources = tuple(text) or tuple(name for name in index.plan.text if name != query)
    if not sources or query in sources:
        raise OptionsError(
            f"the text that answers {query!r} must be made from other fields: name them with text=",
            option="text",
        )
    out: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for identifier, fields in every_document(index):
            body = "\n".join(line for name in sources for line in paths.texts(fields, name)).strip()
            values = [value.strip() for value in paths.texts(fields, query)]
            if not body or not any(values):
                out["documents without one of the two"] += 1
                continue
            for value in filter(None, values):
                if len(value.split()) < min_words:
                    out[_SHORT] += 1
                else:
                    yield {"anchor": value, "positive": body, "positive_id": identifier}

    kept = sampled(rows(), limit, seed)
    documents = Counter(row["anchor"] for row in kept)
    shared = sum(documents[row["anchor"]] > max_documents for row in kept)
    out[f"queries that more than {max_documents} documents have"] += shared
    kept = [row for row in kept if documents[row["anchor"]] <= max_documents]
    return to_rows(drop_held_out(kept, held_out, out), out, what=index.name)


def section_pairs(
    index: Index,
    field: str,
    *,
    min_words: int = 2,
    min_section_words: int = 10,
    limit: int | None = None,
    seed: int = 0,
    held_out: Dataset | None = None,
) -> tuple[Rows, DataReport]:
    """Each Markdown heading of a text field with the text below it, down to the next heading.

    Args:
        index: the documents.
        field: the field with headings (``## …``, or underlined with ``===`` or ``---``).
        min_words: shorter headings are left out.
        min_section_words: so are shorter sections.
        limit, seed, held_out: as in :func:`field_pairs`.

    Returns:
        ``anchor``, ``positive``, ``positive_id``, and the report.

    Raises:
        DatasetError: no pairs.
        OptionsError: no such field.
    """
    make = document_text(index.plan, field)
    out: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for identifier, fields in every_document(index):
            sections = list(_sections(make(fields)))
            out["documents without headings"] += not sections
            for heading, body in sections:
                if len(heading.split()) < min_words:
                    out[_SHORT] += 1
                elif len(body.split()) < min_section_words:
                    out["sections of fewer words than min_section_words"] += 1
                else:
                    yield {"anchor": heading, "positive": body, "positive_id": identifier}

    return to_rows(drop_held_out(sampled(rows(), limit, seed), held_out, out), out, what=index.name)


def cloze_pairs(
    index: Index,
    field: str | None = None,
    *,
    keep: float = 0.1,
    min_words: int = 5,
    limit: int | None = None,
    seed: int = 0,
    held_out: Dataset | None = None,
) -> tuple[Rows, DataReport]:
    """A sentence of each document with the rest of it, the inverse cloze task (Lee et al., 2019).

    Args:
        index: the documents.
        field: the documents' text; see :func:`~esembed.train.texts.document_text`.
        keep: the share of pairs whose document keeps the sentence, so that equal words are learned, too.
        min_words: shorter sentences are no queries.
        limit, held_out: as in :func:`field_pairs`.
        seed: for the sentences and the draw.

    Returns:
        ``anchor``, ``positive``, ``positive_id``, and the report.

    Raises:
        DatasetError: no pairs.
        OptionsError: no such field, *keep* is no share.
    """
    if not 0 <= keep <= 1:
        raise OptionsError(f"a share from 0 to 1, not {keep}", option="keep")
    make = document_text(index.plan, field)
    random = Random(seed)
    out: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for identifier, fields in every_document(index):
            sentences = _sentences(make(fields))
            candidates = [place for place, one in enumerate(sentences) if len(one.split()) >= min_words]
            if len(sentences) < 2 or not candidates:
                out["documents without a second sentence, or with short ones only"] += 1
                continue
            place = random.choice(candidates)
            rest = sentences if random.random() < keep else sentences[:place] + sentences[place + 1 :]
            yield {"anchor": sentences[place], "positive": " ".join(rest), "positive_id": identifier}

    return to_rows(drop_held_out(sampled(rows(), limit, seed), held_out, out), out, what=index.name)


def category_pairs(
    index: Index,
    category: str,
    *,
    field: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> tuple[Rows, DataReport]:
    """Each document with another one of its category, at random.

    In a batch other documents of the category count as wrong: categories should be many beside the batch.

    Args:
        index: the documents.
        category: a field with one value or several, or a dotted path.
        field: the documents' text; see :func:`~esembed.train.texts.document_text`.
        limit, seed: as in :func:`field_pairs`.

    Returns:
        ``anchor``, ``positive``, ``positive_id``, and the report.

    Raises:
        DatasetError: no category has two documents.
        OptionsError: no such field.
    """
    out: Counter[str] = Counter()
    members: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for identifier, text, value in _labeled(index, category, document_text(index.plan, field), out):
        members[value].append((identifier, text))
    random = Random(seed)

    def rows() -> Iterator[dict[str, Any]]:
        for listed in members.values():
            if len(listed) < 2:
                out["categories of one document"] += 1
                continue
            for place, (_, text) in enumerate(listed):
                other = random.randrange(len(listed) - 1)
                identifier, positive = listed[other + (other >= place)]
                if positive != text:
                    yield {"anchor": text, "positive": positive, "positive_id": identifier}

    return to_rows(sampled(rows(), limit, seed), out, what=index.name)


def labeled_texts(
    index: Index, category: str, *, field: str | None = None, min_documents: int = 2
) -> tuple[Rows, DataReport]:
    """Each document's text with its category as a number, for a classifier.

    Args:
        index: the documents.
        category: a field with one value or several, of which the first counts.
        field: the documents' text; see :func:`~esembed.train.texts.document_text`.
        min_documents: rarer categories are left out.

    Returns:
        ``text``, ``label`` (a ``ClassLabel`` with the names, sorted), ``positive_id``, and the report.

    Raises:
        DatasetError: fewer than two categories.
        OptionsError: no such field.
    """
    out: Counter[str] = Counter()
    rows: dict[str, tuple[str, str]] = {}
    for identifier, text, value in _labeled(index, category, document_text(index.plan, field), out):
        rows.setdefault(identifier, (text, value))
    counts = Counter(value for _, value in rows.values())
    names = sorted(value for value, count in counts.items() if count >= min_documents)
    out["documents of rare categories"] += sum(counts[name] for name in counts if name not in names)
    number = {name: place for place, name in enumerate(names)}
    made, report = to_rows(
        [
            {"text": text, "label": number[value], "positive_id": identifier}
            for identifier, (text, value) in rows.items()
            if value in number and len(names) > 1
        ],
        out,
        what=f"{category!r} of {index.name}",
    )
    return made.cast_column("label", need("datasets").ClassLabel(names=names)), report


def _labeled(
    index: Index, category: str, make: DocumentText, out: Counter[str]
) -> Iterator[tuple[str, str, str]]:
    """(id, text, category), once for each category of a document."""
    _check_path(index.plan, category)
    for identifier, fields in every_document(index):
        text, values = make(fields), _values(fields, category)
        if not text:
            out[_NO_TEXT] += 1
        elif not values:
            out["documents without a category"] += 1
        for value in values if text else ():
            yield identifier, text, value


def _check_path(plan: IndexPlan, category: str) -> None:
    if plan.vector_field(category) is not None:
        raise OptionsError(f"{category!r} holds vectors, not categories", option="category")


def _values(fields: Mapping[str, Any], category: str) -> list[str]:
    value = paths.get(fields, category)
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [str(one) for one in listed if isinstance(one, (str, int, float)) and str(one).strip()]


_HEADING = re.compile(
    r"^(?:#{1,6}[ \t]+(?P<marked>.+?)[ \t#]*|(?P<lined>\S.*)\n(?:={3,}|-{3,})[ \t]*)$", re.M
)


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """(heading, text below it) of Markdown; a heading inside a fenced block is none."""
    fences = [match.span() for match in re.finditer(r"^```.*?^```", text, re.M | re.S)]
    found = [
        match
        for match in _HEADING.finditer(text)
        if not any(start <= match.start() < end for start, end in fences)
    ]
    ends = [*(match.start() for match in found[1:]), len(text)]
    for match, end in zip(found, ends, strict=False):
        heading = match["marked"] or match["lined"]
        yield heading.strip(), text[match.end() : end].strip()


def _sentences(text: str) -> list[str]:
    """Sentences by their marks and line ends, good enough to cut one out."""
    parts = re.split(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\n+", text)
    return [part.strip() for part in parts if part.strip()]
