"""The documents of an index as records: for backfill, copies, migrations and counting terms."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from esembed.answers import VersionedHit, part
from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for
from esembed.dialect.alias import NO_ALIAS, AliasProperties
from esembed.dialect.documents import DocumentFormat
from esembed.dialect.meta import HASH_FIELD, NO_CHUNKS, PARENT_FIELD
from esembed.dialect.source_rules import SourceFetch
from esembed.errors import RecordError
from esembed.ingest.backoff import RetryPolicy
from esembed.ingest.sources import Source
from esembed.ingest.target import TargetIndex
from esembed.plan import IndexPlan, paths
from esembed.transport import Transport
from esembed.types import Document, FloatArray

__all__ = [
    "IndexSource",
    "VectorSink",
    "draw_vectors",
    "encoded_from",
    "field_vectors",
    "made_again",
    "read_documents",
    "read_index",
    "read_vectors",
    "scan_target",
]

PAGE_DOCUMENTS = 500
"""Documents of one page of a scan. With their vectors, 500 of 1,024 dims are about 10 MB of JSON."""


MAX_WAIT_SECONDS = 600.0
"""How long a reader waits for an engine that is away, as an ingest does by default."""


class VectorSink(Protocol):
    """Takes the stored vectors of one dense field, each with the text that it was made from."""

    def put(self, text: str, vector: FloatArray) -> None:
        """One vector: float32, shape (dims,)."""
        ...


class IndexSource(Source):
    """The documents of another index as records, as of the moment the reading begins (a point in time).

    Vectors that its plan's encoders made are left out, those that were brought (``precomputed``) come along.

    Args:
        transport: what carries the requests.
        index: the index.
        plan: its plan. Of an index that isn't esembed's, the target's plan: fields that the target's
            encoders fill are left out.
        capabilities: of the engine.
        alias: the properties of the alias that the index was opened by: what it hides is not read.
        total: how many documents it has, for the ETA.
    """

    def __init__(
        self,
        transport: Transport,
        index: str,
        plan: IndexPlan,
        capabilities: Capabilities,
        *,
        alias: AliasProperties = NO_ALIAS,
        total: int | None = None,
    ) -> None:
        super().__init__()
        self._read_from = (transport, index, plan, capabilities)
        self._alias = alias
        self.total_records = total

    def __iter__(self) -> Iterator[Document | RecordError]:
        for document in read_documents(*self._read_from, alias=self._alias, on_bytes=self._count):
            # The routing is the index's they were read from; the one they go to is asked for by id alone.
            yield replace(document, routing=None)

    def _count(self, size: int) -> None:
        self.bytes_read += size


def scan_target(
    transport: Transport,
    index: str,
    capabilities: Capabilities,
    *,
    alias: AliasProperties = NO_ALIAS,
) -> TargetIndex:
    """An index to read from, outside of any run: nobody is notified of waits, nothing ends them early."""
    return TargetIndex(transport, index, capabilities, RetryPolicy(MAX_WAIT_SECONDS), alias=alias)


def read_documents(
    transport: Transport,
    index: str,
    plan: IndexPlan,
    capabilities: Capabilities,
    *,
    alias: AliasProperties = NO_ALIAS,
    copied: Mapping[str, VectorSink] | None = None,
    after_seq_no: int | None = None,
    max_documents_per_second: float | None = None,
    on_read: Callable[[str, int], None] | None = None,
    brought: Collection[str] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Document]:
    """Every document of an index, or those written after a sequence number, as records.

    Args:
        index, plan: the index and its plan.
        capabilities: of the engine.
        alias: only documents that it shows.
        copied: dense field → what takes its stored vectors along the way.
        max_documents_per_second: read no faster.
        on_read: told each document's id and sequence number.
        brought: the vector fields of *plan* whose vectors are part of the record, the others' are left out;
            None takes those that are ``precomputed``.
        on_bytes: told each document's length in bytes, as JSON.

    Raises:
        EngineUnavailableError: the engine stayed away for too long.
        UnsupportedFeatureError: the index doesn't keep whole documents.
    """
    stored = dialect_for(capabilities).documents
    copied = copied or {}
    if brought is None:
        brought = [name for name, field in plan.vector_fields() if field.precomputed and not field.chunked]
        brought += plan.object_vectors
    excludes = [HASH_FIELD]
    excludes += [plan.field_path(n) for n, _ in plan.vector_fields() if n not in brought and n not in copied]
    source = stored.source_filter(excludes=excludes, vectors=True)
    query: dict[str, Any] = {"match_all": {}}
    if after_seq_no is not None:
        query = {"range": {"_seq_no": {"gt": after_seq_no}}}
    if plan.chunk is not None and plan.chunk.store == "documents":
        query = {"bool": {"filter": [query, NO_CHUNKS]}}
    target = scan_target(transport, index, capabilities, alias=alias)
    fetch = target.whole_source(f"a copy of {index!r}", made=made_again(plan, brought))
    numbered = on_read is not None
    pages = target.scan(source, query=query, size=PAGE_DOCUMENTS, fetch=fetch, sequence_numbers=numbered)
    started = time.monotonic()
    for count, hit in enumerate(pages, 1):
        if on_read is not None:
            on_read(hit["_id"], part(VersionedHit, hit, f"a scan of {index}").seq_no)
        if on_bytes is not None:
            # Not the length of the answers: opensearch-py (3.0) keeps their headers to itself.
            on_bytes(_size(hit.get("_source")))
        fields = fetch.document(hit)
        _hand_over(stored, plan, fields, copied)
        for name in copied:
            paths.pop(fields, name)
        if plan.chunk is not None and not plan.object_vectors:
            paths.pop(fields, plan.chunk.path)
        stored.read_vectors(plan, fields, brought)
        yield Document(
            id=hit["_id"],
            source=fields,
            position=f"{index}/{hit['_id']}",
            routing=hit.get("_routing"),
        )
        if max_documents_per_second:
            ahead = count / max_documents_per_second - (time.monotonic() - started)
            if ahead > 0.05:  # a shorter sleep is mostly the system's own overhead
                time.sleep(ahead)


def _size(source: Any) -> int:
    """Bytes as JSON, where it is any: what can't be written is refused as a record of its own, later."""
    try:
        return len(msgspec.json.encode(source))
    except (UnicodeEncodeError, OverflowError, RecursionError):  # half a surrogate pair, 400 digits
        return 0


def made_again(plan: IndexPlan, brought: Collection[str] = ()) -> list[str]:
    """The fields of a document that nobody reads back: what esembed puts there, it makes again. Vectors of
    the fields *brought* are read, whoever made them."""
    fields = [
        plan.field_path(name)
        for name, field in plan.vector_fields()
        if not field.precomputed and name not in brought
    ]
    if plan.chunk is not None and not plan.object_vectors:
        fields.append(plan.chunk.path)
    return [*fields, HASH_FIELD, PARENT_FIELD]


def encoded_from(plan: IndexPlan) -> list[str]:
    """The fields that the plan's vectors are made from."""
    names = {path for _, field in plan.vector_fields() for path in field.source}
    return sorted(names | set(plan.chunk.source if plan.chunk is not None else ()))


def _hand_over(
    stored: DocumentFormat, plan: IndexPlan, fields: Mapping[str, Any], copied: Mapping[str, VectorSink]
) -> None:
    for name, sink in copied.items():
        field = plan.dense[name]
        for inside, vector in field_vectors(stored, plan, fields, name):
            if not field.chunked:
                sink.put(field.source_text(fields) or "", vector)
            elif isinstance(inside.get("text"), str):
                sink.put(inside["text"], vector)


def field_vectors(
    stored: DocumentFormat, plan: IndexPlan, document: Mapping[str, Any], name: str
) -> list[tuple[Mapping[str, Any], FloatArray]]:
    """The vectors of a dense field in a stored document, float32 of shape (dims,), each with the object that
    it stands in: the document, or one of its nested objects.

    Raises:
        AnswerError: something else stands there.
    """
    field = plan.dense[name]
    objects: Any = [document]
    if field.chunked and plan.chunk is not None and plan.chunk.store == "nested":
        objects = paths.get(document, plan.chunk.path)
        objects = [objects] if isinstance(objects, Mapping) else objects
    found = []
    for one in objects if isinstance(objects, list) else ():
        if isinstance(one, Mapping) and (vector := stored.read_dense(paths.get(one, name))) is not None:
            found.append((one, vector))
    return found


def _vector_request(
    target: TargetIndex, plan: IndexPlan, capabilities: Capabilities, name: str, texts: bool, what: str
) -> tuple[dict[str, Any], SourceFetch, dict[str, Any]]:
    """What a search for the stored vectors of a dense field says: its ``_source``, what else it fetches, and
    the clause of documents that have some."""
    path, field, chunk = plan.field_path(name), plan.dense[name], plan.chunk
    wanted = [path, PARENT_FIELD]
    if texts:
        wanted += [f"{chunk.path}.text"] if field.chunked and chunk is not None else field.source
    exists: dict[str, Any] = {"exists": {"field": path}}
    if path != name and chunk is not None:
        exists = {"nested": {"path": chunk.path, "query": exists}}
    fetch = target.whole_source(what, wanted=wanted)
    source = dialect_for(capabilities).documents.source_filter(includes=wanted, vectors=True)
    return source, fetch, exists


def _owner(hit: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """The id that a search gives the document: of a chunk that is a document of its own, its parent's."""
    parent = document.get(PARENT_FIELD)
    return parent if isinstance(parent, str) else str(hit["_id"])


def read_vectors(
    transport: Transport,
    index: str,
    plan: IndexPlan,
    capabilities: Capabilities,
    name: str,
    *,
    alias: AliasProperties = NO_ALIAS,
    clauses: Mapping[str, Mapping[str, Any]] | None = None,
    what: str = "this",
) -> Iterator[tuple[str, list[FloatArray], frozenset[str]]]:
    """The stored vectors of a dense field, document by document, as of the moment the reading begins: the id
    (of a chunk that is a document of its own, its parent's), the vectors, float32 of shape (dims,), and the
    names of the *clauses* that the document matches.

    Args:
        alias: only documents that it shows.
        clauses: name → a query in the engine's own JSON.
        what: what they are read for, for the error.

    Raises:
        EngineUnavailableError: the engine stayed away for too long.
        UnsupportedFeatureError: the index doesn't keep the vectors where anybody could read them.
    """
    stored = dialect_for(capabilities).documents
    target = scan_target(transport, index, capabilities, alias=alias)
    source, fetch, exists = _vector_request(target, plan, capabilities, name, False, what)
    # Asked for by name: one scan for all of the clauses.
    named = [{"bool": {"filter": [clause], "_name": key}} for key, clause in (clauses or {}).items()]
    query = {"bool": {"filter": [exists], "should": named, "minimum_should_match": 0}}
    for hit in target.scan(source, query=query, size=PAGE_DOCUMENTS, fetch=fetch):
        document = fetch.document(hit)
        vectors = [vector for _, vector in field_vectors(stored, plan, document, name)]
        yield _owner(hit, document), vectors, frozenset(map(str, hit.get("matched_queries") or ()))


def draw_vectors(
    transport: Transport,
    index: str,
    plan: IndexPlan,
    capabilities: Capabilities,
    name: str,
    count: int,
    *,
    alias: AliasProperties = NO_ALIAS,
    texts: bool = False,
    seed: int = 0,
    what: str = "this",
) -> Iterator[tuple[str, FloatArray, str | None]]:
    """Stored vectors of a dense field, of documents drawn at random by the engine, one of each: the id as
    :func:`read_vectors` has it, the vector, and the text that it was made from.

    Args:
        count: so many documents, or all that have a vector.
        texts: False leaves the texts out.
        seed: draws the same ones as long as nothing is written.
        alias, what: as for :func:`read_vectors`, which also says what this raises.
    """
    stored, field = dialect_for(capabilities).documents, plan.dense[name]
    target = scan_target(transport, index, capabilities, alias=alias)
    source, fetch, exists = _vector_request(target, plan, capabilities, name, texts, what)
    # With its vectors: 200 of 1,024 dims are 4 MB of JSON.
    for number, hit in enumerate(target.draw(count, source, query=exists, size=200, seed=seed, fetch=fetch)):
        document = fetch.document(hit)
        parts = field_vectors(stored, plan, document, name)
        if not parts:
            continue
        inside, vector = parts[(seed + number) % len(parts)]
        text = None
        if texts and not field.chunked:
            text = field.source_text(document)
        elif texts and plan.chunk is not None:
            whole = inside is document
            text = paths.get(inside, f"{plan.chunk.path}.text" if whole else "text")
        yield _owner(hit, document), vector, text if isinstance(text, str) else None


def read_index(
    transport: Transport,
    index: str,
    capabilities: Capabilities,
    *,
    plan: IndexPlan | None = None,
    wanted: Collection[str] | None = None,
    what: str = "this",
) -> Iterator[Document]:
    """Every document as of the moment the reading begins, vectors and hidden fields left out.

    Args:
        transport: what carries the requests.
        index: the index.
        capabilities: of the engine.
        plan: its plan, whose vector fields are left out; None leaves out hidden fields only.
        wanted: the fields that are needed of each; None needs all.
        what: what they are read for, where one that is needed can't be read.

    Raises:
        EngineUnavailableError: it stayed away.
        UnsupportedFeatureError: the index doesn't keep a field that is needed.
    """
    excludes = [HASH_FIELD, PARENT_FIELD]
    query: Mapping[str, Any] | None = None
    if plan is not None:
        excludes += [plan.field_path(name) for name, _ in plan.vector_fields()]
        if plan.chunk is not None and not plan.object_vectors:
            excludes.append(plan.chunk.path)
            if plan.chunk.store == "documents":
                query = NO_CHUNKS
    target = scan_target(transport, index, capabilities)
    fetch = target.whole_source(what, wanted=wanted, made=() if plan is None else made_again(plan))
    for hit in target.scan({"excludes": excludes}, query=query, size=PAGE_DOCUMENTS, fetch=fetch):
        yield Document(
            id=hit["_id"],
            source=fetch.document(hit),
            position=f"{index}/{hit['_id']}",
            routing=hit.get("_routing"),
        )
