"""The part of an index that deals with documents: ingest, get, update, delete, term statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from esembed.capabilities import Capabilities
from esembed.dialect import meta
from esembed.encode import contract
from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.encode.pool import EncoderPool
from esembed.errors import AuthorizationError, EncoderError, RecordError
from esembed.ingest.options import IngestOptions, IngestReport, Progress
from esembed.ingest.sources.mapper import open_source
from esembed.ingest.term_statistics import Peeked, as_meant, count_terms
from esembed.plan import IndexPlan
from esembed.types import Document

from ._shim import in_thread, iterable, requester, stoppable
from .client import AsyncEngineClient
from .live import index_path, update_meta
from .term_statistics import STATISTICS_INDEX, delete_statistics, load_statistics, save_statistics

__all__ = ["DocumentsMixin"]


class DocumentsMixin:
    """What :class:`AsyncIndex` does with documents."""

    client: AsyncEngineClient
    name: str
    concrete: str
    uuid: str
    plan: IndexPlan
    stored: meta.StoredMeta
    capabilities: Capabilities
    pool: EncoderPool

    # -- writing -------------------------------------------------------------------------------

    async def ingest(
        self,
        records: Any,
        options: IngestOptions | None = None,
        *,
        progress: Progress | None = None,
        total: int | None = None,
    ) -> IngestReport:
        """Encode and write records; stages overlap, memory is bounded, unchanged ones are left alone.

        Args:
            records: paths or globs, mappings, Documents, ``(id, mapping)`` pairs (any iterable, async ones
                with AsyncIndex), another index (opened), or a source of ``esembed.ingest.sources.mapper``.
            options: see :class:`~esembed.ingest.options.IngestOptions`.
            progress: is told how far it is.
            total: how many records there will be, for the ETA.

        Returns:
            the report, whose counts add up. Records that could not get in are in its ``errors`` and in
            the dead-letter file; they don't raise, unless ``strict``.

        Raises:
            EngineUnavailableError: the engine stayed away too long; run again, it resumes.
            ContractError: an encoder is not the one that filled the index.
        """
        from esembed.ingest.pipeline import run_ingest

        settings = options or IngestOptions()
        if isinstance(records, DocumentsMixin):
            records = await records.documents()
        stream = await self._settle_avgdl(iterable(records), settings)
        encoders = await in_thread(self._encoders)
        token_ids = await in_thread(self.pool.token_ids)
        sender = requester(self.client)
        report: IngestReport = await stoppable(
            lambda stop: run_ingest(
                stream,
                client=sender,
                index=self.concrete,
                plan=self.plan,
                capabilities=self.capabilities,
                encoders=encoders,
                options=settings,
                progress=progress,
                total=total,
                token_ids=token_ids,
                stop=stop,
            )
        )
        await self._keep_statistics(report)
        await self._after_ingest(settings, report, progress)
        return report

    async def update(self, id: str | int, fields: Mapping[str, Any], *, refresh: bool = False) -> None:
        """Merge *fields* into a document; vectors whose source text changes are encoded anew, the
        others stay.

        Raises:
            RecordError: no such document, or a field that can't be stored.
        """
        await self._one(Document(_id(id), fields, op="update"), refresh)

    async def delete(self, id: str | int, *, refresh: bool = False) -> None:
        """Remove a document and its chunks; no such document is fine."""
        await self._one(Document(_id(id), {}, op="delete"), refresh)

    async def _one(self, document: Document, refresh: bool) -> None:
        report = await self.ingest([document], IngestOptions(refresh=refresh, tuning=False, trust=False))
        if report.errors:
            error = report.errors[0]
            raise RecordError(error.reason, record_id=error.id, position=error.position)

    async def backfill(
        self, options: IngestOptions | None = None, *, progress: Progress | None = None
    ) -> IngestReport:
        """Fill the vector fields of documents that are in the index already, by partial updates that
        never overwrite a document changed meanwhile. Documents that have their vectors are left alone.
        """
        from esembed.ingest.sources.index import read_index

        settings = dataclasses.replace(options or IngestOptions(), vectors_only=True)
        sender = requester(self.client)
        total = await self.count()
        return await self.ingest(
            read_index(sender, self.concrete, plan=self.plan), settings, progress=progress, total=total
        )

    # -- reading -------------------------------------------------------------------------------

    async def get(self, id: str | int, *, vectors: bool = False) -> dict[str, Any] | None:
        """The document's fields, or None when there is no such document.

        Args:
            vectors: with its vectors, for a search of what is like it (``q.knn(…, vector=…)``).
        """
        hidden = [] if vectors else [self.plan.field_path(name) for name, _ in self.plan.vector_fields()]
        params = {"_source_excludes": ",".join([*hidden, meta.HASH_FIELD])}
        if vectors and self.capabilities.kind == "elasticsearch" and self.capabilities.exclude_vectors:
            params["_source_exclude_vectors"] = "false"
        answer = await self.client.request(
            "GET",
            f"/{index_path(self.concrete)}/_doc/{quote(_id(id), safe='')}",
            params=params,
            ignore=(404,),
        )
        if answer.status == 404 or not answer.body.get("found"):
            return None
        source: dict[str, Any] = answer.body["_source"]
        return source

    async def documents(self) -> Any:
        """Every document as a source of records, as of when the reading begins: without the vectors that
        encoders made, with those that were given. ``target.ingest(source_index)`` reads it."""
        from esembed.ingest.sources.index import IndexSource

        known = self.capabilities
        return IndexSource(
            requester(self.client),
            self.concrete,
            self.plan,
            exclude_vectors=known.kind == "elasticsearch" and known.exclude_vectors,
            total=await self.count(),
        )

    async def count(self) -> int:
        """How many documents a search can find (chunks that are documents of their own not counted)."""
        body: dict[str, Any] = {"query": {"match_all": {}}}
        if self.plan.chunk is not None and self.plan.chunk.store == "documents":
            body = {"query": {"bool": {"must_not": [{"exists": {"field": meta.PARENT_FIELD}}]}}}
        answer = await self.client.request("POST", f"/{index_path(self.concrete)}/_count", body=body)
        return int(answer.body["count"])

    async def refresh(self) -> None:
        """Make what was written searchable."""
        await self.client.request("POST", f"/{index_path(self.concrete)}/_refresh")

    # -- term statistics of lexical fields -----------------------------------------------------

    def _lexical(self) -> list[str]:
        return [name for name, part in self.plan.sparse.items() if part.family == "lexical"]

    def _encoders(self) -> dict[str, Any]:
        """Field → encoder for every vector field that isn't brought by the caller."""
        return self.pool.encoders(name for name, part in self.plan.vector_fields() if not part.precomputed)

    async def _settle_avgdl(self, records: Any, options: IngestOptions) -> Any:
        """Before the first record goes in, fix the average length that BM25 divides by, from the head
        of the records, in fields whose plan leaves it open. It can't change afterwards: documents
        hold it."""
        open_fields = [
            name
            for name in self._lexical()
            if self.plan.sparse[name].params.avgdl is None and name not in self.stored.statistics
        ]
        if not open_fields or await self._has_documents():
            return records
        peeked = await in_thread(lambda: Peeked(open_source(records)))
        lexical = {name: self.pool.encoder(name) for name in open_fields}
        head = as_meant(peeked.head, options)
        counted = await in_thread(count_terms, head, self.plan.only(open_fields), lexical)
        changes = {
            name: round(value.average_length, 1)
            for name, value in counted.items()
            if value.average_length > 0
        }
        if changes:
            await self._set_avgdl(changes)
        return peeked

    async def _has_documents(self) -> bool:
        answer = await self.client.request(
            "POST", f"/{index_path(self.concrete)}/_search", body={"size": 1, "_source": False}
        )
        return bool(answer.body["hits"]["hits"])

    async def _set_avgdl(self, changes: Mapping[str, float]) -> None:
        sparse = dict(self.plan.sparse)
        for name, average in changes.items():
            params = msgspec.structs.replace(sparse[name].params, avgdl=average)
            sparse[name] = msgspec.structs.replace(sparse[name], params=params)
        plan = self.plan.replace(sparse=sparse)
        contracts = dict(self.stored.contracts)
        pool = self.pool.for_plan(plan)
        pool.trust({name: kept for name, kept in contracts.items() if name not in changes})
        for name in changes:
            contracts[name] = await in_thread(contract.make, pool.encoder(name))
        await self._store(dataclasses.replace(self.stored, plan=plan, contracts=contracts))
        pool.trust(contracts)
        self.pool = pool

    async def _store(self, stored: meta.StoredMeta) -> None:
        data = meta.build(stored)
        await update_meta(self.client, self.concrete, lambda _: data)
        self.stored = stored
        self.plan = stored.plan
        self._changed()

    async def _after_ingest(
        self, options: IngestOptions, report: IngestReport, progress: Progress | None
    ) -> None:
        """What follows a run whose documents are in."""

    def _changed(self) -> None:
        """The plan or an encoder is another one; what was derived from it goes."""

    async def _keep_statistics(self, report: IngestReport) -> None:
        """Add what an ingest counted to the companion index and move the hashes in ``_meta``."""
        counted = {name: value for name, value in report.statistics.items() if value.documents}
        if not counted:
            return
        for name, old in self.stored.statistics.items():
            if name in counted and not report.statistics_complete:
                counted[name] = (await load_statistics(self.client, old)).merge(counted[name])
        await self._replace_statistics(counted)

    async def _replace_statistics(self, fresh: Mapping[str, LexicalStatistics]) -> None:
        """Store these fields' counts, search with them, and let the ones before go."""
        hashes, outdated = dict(self.stored.statistics), set[str]()
        for name, statistics in fresh.items():
            old = hashes.get(name)
            hashes[name] = await save_statistics(self.client, statistics)
            self._weigh(name, statistics)
            if old is not None and old != hashes[name]:
                outdated.add(old)
        await self._store(dataclasses.replace(self.stored, statistics=hashes))
        for old in outdated:  # only now, that no reader is sent to them
            await delete_statistics(self.client, old)

    def _weigh(self, name: str, statistics: LexicalStatistics) -> None:
        encoder = self.pool.encoder(name)
        if isinstance(encoder, LexicalEncoder):
            self.pool.put(name, encoder.with_statistics(statistics))
            self._changed()

    async def load_statistics(self, field: str | None = None) -> None:
        """Give lexical fields the collection's term statistics, once; a search in them does it by itself.

        Args:
            field: only this one, where it is lexical; None is all of them.

        Raises:
            EncoderError: they are gone, or the credentials may not read them.
        """
        for name in self._lexical():
            if field not in (None, name):
                continue
            encoder = await in_thread(self.pool.encoder, name)
            digest = self.stored.statistics.get(name)
            if isinstance(encoder, LexicalEncoder) and encoder.statistics is None and digest is not None:
                try:
                    counted = await load_statistics(self.client, digest)
                except AuthorizationError as error:
                    raise EncoderError(
                        f"{name}: the collection's term statistics can't be read ({error}); a text search in "
                        f"this field needs the privilege read on the index {STATISTICS_INDEX}, other fields "
                        "don't"
                    ) from error
                self.pool.put(name, encoder.with_statistics(counted))

    async def refresh_statistics(self) -> None:
        """Count the terms of lexical fields anew over all documents, without touching a document.

        Due when many documents were replaced or deleted, or when the counts were lost.
        """
        from esembed.ingest.sources.index import read_index

        sender = requester(self.client)
        encoders = {name: await in_thread(self.pool.encoder, name) for name in self._lexical()}
        fresh = await in_thread(
            count_terms,
            read_index(sender, self.concrete, plan=self.plan),
            self.plan.only(self._lexical()),
            encoders,
            sender=sender,
        )
        await self._replace_statistics(fresh)


def _id(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # as an ingest does with a number
    raise RecordError(
        f"an id is text or a number, not {type(value).__name__}; several documents are changed by "
        "ingest([{'_id': …, 'op': 'delete'}, …])"
    )
