"""The index that an ingest writes to or reads from: every request about it, each tried again where that
helps (see :mod:`esembed.ingest.backoff`)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

from esembed.answers import SequenceStretches, VersionedDocument, last_sort, part
from esembed.capabilities import Capabilities
from esembed.deadline import Deadline
from esembed.dialect import dialect_for
from esembed.dialect.alias import NO_ALIAS, AliasProperties
from esembed.dialect.documents import random_score
from esembed.dialect.meta import HASH_FIELD, NO_CHUNKS, PARENT_FIELD
from esembed.dialect.names import check_name
from esembed.dialect.source_rules import SourceFetch, SourceRules, defaults_question, with_defaults
from esembed.errors import (
    AliasError,
    AnswerError,
    AuthorizationError,
    EngineRequestError,
    EngineUnavailableError,
    IndexChangedError,
    IndexNotFoundError,
)
from esembed.ingest.backoff import RetryPolicy
from esembed.transport import TRANSIENT_STATUS, Response, Transport, retry_after_seconds

__all__ = ["WHOLE_DOCUMENTS", "SeenDocument", "TargetIndex"]

_ANY_STATUS = range(400, 600)
# Without it an answer about 2,000 ids repeats index, version and sequence number of each.
_LOOKED_UP = "docs._id,docs.found,docs.fields,docs._source,docs.error"
CHECK_SECONDS = 0.25
"""An index that was seen so recently is not looked at again before a bulk request: four small requests a
second at most, also where many threads send."""
KEEP_ALIVE = "5m"
"""How long the engine keeps a scan's point in time between two pages."""
WHOLE_DOCUMENTS = 200
"""Documents of one page that are read with their vectors: those of 1,024 dims are 4 MB of JSON."""


@dataclass(frozen=True, slots=True)
class SeenDocument:
    """A document as it was at one moment.

    Attributes:
        version: its version; where records bring one (``version_field``), that of its record.
        sequence: its sequence number and primary term, which any write changes.
        source: its stored fields, vectors included, where they were asked for.
    """

    version: int
    sequence: tuple[int, int]
    source: Mapping[str, Any] | None


class TargetIndex:
    """The requests of one run on one index.

    Args:
        transport: what carries them; its own retries are off.
        index: the index's (or alias's) name; of several to be read, their names with commas.
        capabilities: of the engine.
        retry: how long its answers are waited for.
        timeout_seconds: for one bulk request.
        alias: the properties of the alias that the caller named. Scans give what it shows, and documents are
            written with its routing; what concerns the whole index (its count, its settings) is the index's.

    Attributes:
        concrete_index: the index behind the name, known once its settings were asked for.
    """

    def __init__(
        self,
        transport: Transport,
        index: str,
        capabilities: Capabilities,
        retry: RetryPolicy,
        timeout_seconds: float = 120.0,
        *,
        alias: AliasProperties = NO_ALIAS,
    ) -> None:
        self.transport = transport
        self.index = index
        self.retry = retry
        # Several, with commas, where an alias stands for them; nothing that an engine would expand.
        self._path = "/" + ",".join(quote(check_name(name), safe="") for name in index.split(","))
        self._timeout = timeout_seconds
        self._alias = alias
        self.concrete_index: str | None = None
        self._settings: Mapping[str, Any] | None = None
        self._uuid: str | None = None
        self._checked_at = 0.0
        documents = dialect_for(capabilities).documents
        self._pit = documents.pit
        self._scans_pit = capabilities.shard_doc
        self._vector_doc_values = documents.vector_doc_values
        self._source_filter = documents.source_filter
        self._with_vectors = documents.source_params(vectors=True)
        self._bulk_params = {
            **documents.bulk_params(primary_wait_seconds=retry.max_wait_seconds),
            **alias.params_of_document(None),
        }

    # -- requests --------------------------------------------------------------------------------

    def _send(self, method: str, path: str, *, within: float | None = None, **options: Any) -> Response:
        """One request, once.

        Args:
            within: seconds for the whole answer; None is what an engine that settles nothing is waited for.
                Time-outs are for each read, and one that sends a byte now and then settles nothing.
        """
        ends = Deadline(within or self.retry.request_seconds(None), option="max_wait_seconds")
        return self.transport.request(method, path, deadline=ends, **options)

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        ignore: Collection[int] = (),
        timeout_seconds: float | None = None,
        all_shards: bool = False,
    ) -> Response:
        """One request, tried again while that can help; with *all_shards* also while some are missing.

        Raises:
            EngineUnavailableError: it never could be answered.
            EngineRequestError: refused.
        """
        tries = 0
        # Without a time-out of its own the client's counts, unless the whole wait is shorter than those are.
        seconds = timeout_seconds
        if timeout_seconds is not None or self.retry.max_wait_seconds < 60.0:
            seconds = self.retry.request_seconds(timeout_seconds)

        def once() -> Response:
            nonlocal tries
            tries += 1
            answer = self._send(
                method, path, params=params, body=body, ignore=ignore, timeout_seconds=seconds
            )
            if all_shards and (failed := (answer.body.get("_shards") or {}).get("failed")):
                raise EngineUnavailableError(f"{failed} shards of {self.index} don't answer {method} {path}")
            return answer

        try:
            response: Response = self.retry.retrying()(once)
        except EngineUnavailableError as error:
            raise self.retry.exhausted(error) from error
        if tries > 1:
            # An answer that came at once settles nothing: an index that refuses writes reads well.
            self.retry.progress()
        return response

    def pin(self, uuid: str | None) -> None:
        """From now on only the index with that UUID is written to; None ends that."""
        self._uuid, self._checked_at = uuid, time.monotonic()

    def check_same(self) -> None:
        """Ask whether the index is still the one that was pinned, unless that was seen a moment ago.

        A bulk request for an index that is gone makes both engines create one with a guessed mapping
        (``action.auto_create_index``), and no parameter of the request forbids it: ``require_alias`` takes
        aliases only. So each request is preceded by a look; what is deleted in the moment between the two is
        seen by the next one, or at the end of the run.

        Raises:
            IndexChangedError: it is gone, or another one has its name.
        """
        if self._uuid is None or time.monotonic() - self._checked_at < CHECK_SECONDS:
            return
        answer = self._look("_settings")
        if answer is None:
            return  # the bulk request says so, too, and is what gets tried again
        self._checked_at = time.monotonic()
        if answer.status == 404:
            raise IndexChangedError(
                f"the index {self.index!r} was deleted during the load; make it again and run the load again",
                index=self.index,
            )
        found = answer.body.values() if answer.status == 200 else ()
        uuids = {parts["settings"]["index"].get("uuid") for parts in found}
        if uuids - {None, self._uuid}:
            raise self.changed()

    def _look(self, api: str) -> Response | None:
        """One question about the index, without retries; None where there is no answer, or an odd one."""
        try:
            return self._send("GET", f"{self._path}/{api}", ignore=_ANY_STATUS, within=10.0)
        except (AnswerError, EngineUnavailableError):
            return None

    def changed(self) -> IndexChangedError:
        """The error of an index that isn't the pinned one; it says so where the engine guessed it."""
        answer = self._look("_mapping")
        maps = answer.body.values() if answer is not None and answer.status == 200 else ()
        guessed = maps and not any(parts["mappings"].get("_meta") for parts in maps)
        what = (
            # Not deleted here: nothing proves that this run's requests made it.
            f"the index that stands there now has no _meta, as one that the engine made by itself from "
            f"bulk requests: look at {self.index!r}, delete it, make it again from its plan, and run it again"
            if guessed
            else "run it again"
        )
        return IndexChangedError(
            f"the index {self.index!r} was deleted and made again during the load; {what}", index=self.index
        )

    def bulk(self, payload: bytes) -> tuple[int | None, Any, float | None]:
        """Send one bulk request, once: status (None without an answer), body, seconds to wait if told."""
        self.check_same()
        try:
            response = self._send(
                "POST",
                f"{self._path}/_bulk",
                params=self._bulk_params,
                body=payload,
                timeout_seconds=self.retry.request_seconds(self._timeout),
                ignore=_ANY_STATUS,
            )
        except EngineUnavailableError as error:
            return error.status, {"error": {"type": None, "reason": str(error)}}, error.retry_after_seconds
        except AnswerError:
            return 200, None, None  # confirms nothing, whatever it is
        except EngineRequestError as error:
            if error.status:
                return error.status, error.body, None
            raise
        return response.status, response.body, retry_after_seconds(response.headers)

    # -- the index -------------------------------------------------------------------------------

    def diagnose_stall(self) -> str:
        """Why a bulk request gets no answer, as far as the index's health tells. Asked once."""
        try:
            answer = self._send(
                "GET",
                f"/_cluster/health{self._path}",
                params={"filter_path": "status"},
                ignore=_ANY_STATUS,
                within=5.0,
            )
        except EngineUnavailableError as error:
            return f"the engine does not answer ({error})"
        if answer.status < 400 and answer.body.get("status") == "red":
            return f"{self.index} is red, a primary shard is on no node (the engine waits a minute for it)"
        return "the engine answers other requests, so it is busy"

    def wait_for_primaries(self) -> None:
        """Wait while the index is red. Whoever may not ask for its health goes on.

        Raises:
            EngineUnavailableError: it stays red.
        """

        def once() -> None:
            path = f"/_cluster/health{self._path}"
            answer = self._send("GET", path, ignore=_ANY_STATUS)
            if answer.status in TRANSIENT_STATUS:
                raise EngineUnavailableError(f"status {answer.status} to {path}", status=answer.status)
            if answer.status < 400 and answer.body.get("status") == "red":
                raise EngineUnavailableError(f"{self.index} is red: a primary shard is on no node")

        try:
            self.retry.retrying()(once)
        except EngineUnavailableError as error:
            raise self.retry.exhausted(error) from error
        self.retry.progress()

    def settings(self) -> Mapping[str, Any]:
        """The settings under ``index`` of the one concrete index.

        Raises:
            AliasError: the alias stands for several indices.
        """
        body = self.call("GET", f"{self._path}/_settings").body
        if len(body) != 1:
            raise AliasError(
                f"{self.index!r} stands for {len(body)} indices; ingest into one of them by its name",
                alias=self.index,
            )
        ((self.concrete_index, parts),) = body.items()
        found: Mapping[str, Any] = parts["settings"]["index"]  # there: see esembed.answers
        self._settings = found
        return found

    def setting(self, name: str) -> Any:
        """One setting under ``index``, by its dotted name, or None."""
        body = self.call("GET", f"{self._path}/_settings", params={"flat_settings": "true"}).body
        return (self._first(body).get("settings") or {}).get(f"index.{name}")

    def put_settings(self, settings: Mapping[str, Any]) -> None:
        """Change dynamic settings."""
        self.call("PUT", f"{self._path}/_settings", body={"index": dict(settings)})

    def mapping(self) -> Mapping[str, Any]:
        """The live mapping."""
        found: Mapping[str, Any] = self._first(self.call("GET", f"{self._path}/_mapping").body)["mappings"]
        return found

    def _first(self, body: Mapping[str, Any]) -> Any:
        """The only index of an answer, or the first of several. Raises IndexNotFoundError where none is left
        (a name with an asterisk finds none without an error)."""
        for shown in body.values():
            return shown
        raise IndexNotFoundError(f"there is no index {self.index!r}", index=self.index)

    @cached_property
    def _live(self) -> tuple[Mapping[str, Any], SourceRules]:
        """The mapping and what the index keeps of a document. Of several indices the first one's: they have
        one plan."""
        try:
            settings = self._settings
            if settings is None:
                body = self.call("GET", f"{self._path}/_settings").body
                settings = self._first(body)["settings"]["index"]
            mapping = self.mapping()
        except AuthorizationError:
            # OpenSearch has a privilege for each of the two, beside the one that opens an index, and a scan
            # should need no more than a search does.
            parts = self._first(self.call("GET", self._path).body)
            settings, mapping = parts["settings"]["index"], parts["mappings"]
        rules = SourceRules.read(mapping, settings)
        if not rules.whole:
            path, params = defaults_question(self._path)
            shown = self.call("GET", path, params=params, ignore=(400, 403, 404))
            first = next(iter(shown.body.values()), None) if shown.status == 200 else None
            rules = SourceRules.read(mapping, with_defaults(settings, first))
        return mapping, rules

    @property
    def source_rules(self) -> SourceRules:
        """What the index keeps of a document, asked once."""
        return self._live[1]

    @cached_property
    def lost(self) -> frozenset[str]:
        """The fields that a partial update loses where it doesn't bring them: the engines build on
        ``_source``, which hasn't got them."""
        mapping, rules = self._live
        return frozenset(rules.lost(mapping))

    def whole_source(
        self, what: str, *, wanted: Collection[str] | None = None, made: Collection[str] = ()
    ) -> SourceFetch:
        """How whole documents are read; see :meth:`SourceRules.fetch`."""
        mapping, rules = self._live
        return rules.fetch(
            mapping, what=what, wanted=wanted, made=made, vector_doc_values=self._vector_doc_values
        )

    def put_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace ``_meta`` (both engines replace it whole: merge first)."""
        self.call("PUT", f"{self._path}/_mapping", body={"_meta": dict(meta)})

    def refresh(self) -> None:
        """Make everything searchable."""
        self.call("POST", f"{self._path}/_refresh", timeout_seconds=self._timeout)

    def count(self, query: Mapping[str, Any] | None = None) -> int:
        """Documents of the whole index that a search sees (and that match), shown by the alias or not."""
        # A part of the index that can't be seen is no empty one: it is waited for.
        body = None if query is None else {"query": dict(query)}
        return int(self.call("POST", f"{self._path}/_count", body=body, all_shards=True).body["count"])

    def documents(self) -> int:
        """Documents that a search by the run's name finds, chunks not counted."""
        body = {"query": self._alias.narrow(NO_CHUNKS)}
        path, params = f"{self._path}/_count", self._alias.search_params
        return int(self.call("POST", path, params=params, body=body, all_shards=True).body["count"])

    def sequence_counts(self, width: int) -> dict[int, int]:
        """How many documents have a sequence number in each stretch of *width* numbers, chunks not counted.

        Deleted documents and earlier versions have none. Shards number on their own, so a number may stand
        for as many documents as there are shards.
        """
        histogram = {"field": "_seq_no", "interval": width, "min_doc_count": 1}
        body = {
            "size": 0,
            "query": NO_CHUNKS,
            "aggs": {"stretches": {"histogram": histogram}},
        }
        path = f"{self._path}/_search"
        answer = self.call("POST", path, body=body, all_shards=True).body
        buckets = part(SequenceStretches, answer, f"POST {path}").aggregations.stretches.buckets
        return {int(bucket.key) // width: bucket.doc_count for bucket in buckets}

    def force_merge(self, segments: int) -> None:
        """Merge to at most *segments* segments; the answer comes when it is done, or a time-out before.

        Raises:
            EngineUnavailableError: it is not confirmed; the engine may still be merging.
        """
        # Sent once: when the connection is lost the engine goes on merging, and another request would only
        # wait for the same merge.
        try:
            self.transport.request(
                "POST",
                f"{self._path}/_forcemerge",
                params={"max_num_segments": segments},
                timeout_seconds=3600.0,
            )
        except EngineUnavailableError as error:
            raise EngineUnavailableError(
                f"the merge to {segments} segments is not confirmed ({error}); all is in the index and "
                "the engine may still be merging",
                status=error.status,
            ) from error

    # -- documents -------------------------------------------------------------------------------

    def hashes(self, ids: Sequence[str], routing: Mapping[str, str] | None = None) -> dict[str, str | None]:
        """Id → stored hash (None: a document without one), for the documents that are there.

        Args:
            routing: id → routing, of documents that have their own.

        Raises:
            EngineRequestError: the engine can't look one of them up.
        """
        if not ids:
            return {}
        params = {"_source_includes": HASH_FIELD, "filter_path": _LOOKED_UP}
        if self._hash_is_stored:
            # _source stays on the disk: reading that one field out of it costs twice the CPU on
            # Elasticsearch and four times on OpenSearch, which builds the vectors into it first.
            params = {"_source": "false", "stored_fields": HASH_FIELD, "filter_path": _LOOKED_UP}
        answer = self._multi_get(ids, routing, params)
        out: dict[str, str | None] = {}
        for doc in answer["docs"]:
            if "error" in doc:
                raise EngineRequestError(
                    f"can't look up {doc.get('_id')!r} in {self.index}: {doc['error']}", status=400
                )
            if doc.get("found"):
                values = doc.get("fields" if self._hash_is_stored else "_source", {}).get(HASH_FIELD)
                out[doc["_id"]] = values[0] if isinstance(values, list) and values else values or None
        return out

    @cached_property
    def _hash_is_stored(self) -> bool:
        """Whether the mapping keeps the hash as a field of its own; older indices have it in _source only."""
        field = (self._live[0].get("properties") or {}).get(HASH_FIELD) or {}
        return str(field.get("store", "false")).lower() == "true"

    def sources(
        self, ids: Sequence[str], routing: Mapping[str, str] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Id → stored fields, for the documents that are there. *routing* as in :meth:`hashes`."""
        if not ids:
            return {}
        answer = self._multi_get(ids, routing, {})
        return {doc["_id"]: dict(doc.get("_source") or {}) for doc in answer["docs"] if doc.get("found")}

    def seen(
        self, ids: Sequence[str], routing: Mapping[str, str] | None = None, *, source: bool
    ) -> dict[str, SeenDocument]:
        """Id → the document's version, sequence number and (with *source*) fields, all of one moment, for the
        documents that are there. *routing* as in :meth:`hashes`."""
        params = self._with_vectors if source else {"_source": "false"}
        found: dict[str, SeenDocument] = {}
        page = WHOLE_DOCUMENTS if source else len(ids)
        for start in range(0, len(ids), max(page, 1)):
            for doc in self._multi_get(ids[start : start + page], routing, params)["docs"]:
                if doc.get("found"):
                    shown = part(VersionedDocument, doc, f"POST {self._path}/_mget")
                    found[doc["_id"]] = SeenDocument(
                        shown.version,
                        (shown.seq_no, shown.primary_term),
                        doc.get("_source") if source else None,
                    )
        return found

    def ignored(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """Those of the documents that hold values which their fields don't take and that no search finds
        (``ignore_malformed``), each with the fields' names. Sees what was refreshed."""
        if not ids:
            return {}
        kept = {"bool": {"filter": [{"ids": {"values": list(ids)}}, {"exists": {"field": "_ignored"}}]}}
        body = {"query": kept, "_source": False, "size": len(ids)}
        hits = self.call("POST", f"{self._path}/_search", body=body).body["hits"]["hits"]
        return {hit["_id"]: list(hit.get("_ignored") or ()) for hit in hits}

    def _multi_get(
        self, ids: Sequence[str], routing: Mapping[str, str] | None, params: Mapping[str, str]
    ) -> Any:
        body: dict[str, Any] = {"ids": list(ids)}
        if routing:
            body = {"docs": [{"_id": i, "routing": routing[i]} if i in routing else {"_id": i} for i in ids]}
        params = {**self._alias.params_of_document(None), **params}
        path = f"{self._path}/_mget"
        answer = self.call("POST", path, params=params, body=body).body
        if [doc["_id"] for doc in answer["docs"]] != list(ids):
            # One that is left out would count as a document that isn't there.
            raise AnswerError(f"POST {path}: the answer is not about the documents asked for", status=200)
        return answer

    def hidden(self, ids: Sequence[str], routing: Mapping[str, str] | None = None) -> set[str]:
        """Those of the ids whose documents are there and not shown by the alias. A read or a write by id
        knows no filter: it would show, or change, another tenant's document."""
        if self._alias.filter is None or not ids:
            return set()
        unseen = self._unseen(list(dict.fromkeys(ids)))
        there = set(self.hashes(sorted(unseen), routing))
        if there:
            # A search sees what was refreshed, and one of these may just have been written.
            self.call("POST", f"{self._path}/_refresh", timeout_seconds=self._timeout, ignore=(403,))
            there &= self._unseen(sorted(there))
        return there

    def _unseen(self, ids: Sequence[str]) -> set[str]:
        unseen = set(ids)
        for start in range(0, len(ids), 1_000):
            page = list(ids[start : start + 1_000])
            body = {
                "query": self._alias.narrow({"ids": {"values": page}}),
                "_source": False,
                # An id may stand on several shards, where documents have a routing of their own.
                "size": min(10_000, 2 * len(page)),
            }
            answer = self.call("POST", f"{self._path}/_search", params=self._alias.search_params, body=body)
            unseen -= {hit["_id"] for hit in answer.body["hits"]["hits"]}
        return unseen

    def scan(
        self,
        source: bool | Sequence[str] | Mapping[str, Any] = (HASH_FIELD, PARENT_FIELD),
        *,
        query: Mapping[str, Any] | None = None,
        size: int = 1_000,
        fetch: SourceFetch | None = None,
        sequence_numbers: bool = False,
        versions: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Every document (``_id``, ``_source``, ``_routing``) that the alias shows, as of now, in no order:
        through a point in time, or a scroll where the engine opens none.

        Args:
            fetch: what else is read beside ``_source``.
            sequence_numbers: also ``_seq_no`` of each.
            versions: also ``_version`` of each.

        Raises:
            EngineUnavailableError: a shard failed, or a page of a scroll was lost: some would be missing.
        """
        shown = self._alias.narrow(query or {"match_all": {}})
        body: dict[str, Any] = {"size": size, "query": shown, "_source": source}
        if fetch is not None:
            body |= fetch.to_body()
        if sequence_numbers:
            body["seq_no_primary_term"] = True
        if versions:
            body["version"] = True
        pages = self._pit_pages(body)
        if pages is None:
            pages = self._scroll_pages(body)
        for answer in pages:
            if (answer.get("_shards") or {}).get("failed"):
                raise EngineUnavailableError(f"some shards of {self.index} failed during a scan; try again")
            yield from answer["hits"]["hits"]

    def draw(
        self,
        count: int,
        source: Mapping[str, Any],
        *,
        query: Mapping[str, Any],
        size: int,
        seed: int = 0,
        fetch: SourceFetch | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Documents (``_id``, ``_source``) that match *query* and that the alias shows, drawn at random by
        the engine; the same *seed* draws the same ones as long as nothing is written.

        Args:
            count: so many, or all there are.
            size: documents of one page.
            fetch: what else is read beside ``_source``.
        """
        random = {
            "query": dict(query),
            **random_score(seed),
            "boost_mode": "replace",
        }
        body: dict[str, Any] = {"query": self._alias.narrow({"function_score": random}), "_source": source}
        if fetch is not None:
            body |= fetch.to_body()
        for start in range(0, count, size):
            page = {**body, "from": start, "size": min(size, count - start)}
            path = f"{self._path}/_search"
            hits = self.call("POST", path, params=self._alias.search_params, body=page).body["hits"]["hits"]
            yield from hits
            if len(hits) < page["size"]:
                return

    def try_scan(self) -> None:
        """Open a scan and end it.

        Raises:
            AuthorizationError: these credentials may not scan the index.
        """
        if (pit := self._open_pit()) is not None:
            self._close(self._pit.close, self._pit.close_body(pit))
            return
        body = {"size": 1, "_source": False, "sort": ["_doc"]}
        params = {"scroll": KEEP_ALIVE, **self._alias.search_params}
        scroll = self.call("POST", f"{self._path}/_search", params=params, body=body).body.get("_scroll_id")
        # The next page is another request, which needs a privilege of its own.
        page = {"scroll": KEEP_ALIVE, "scroll_id": scroll}
        scroll = self.call("POST", "/_search/scroll", body=page).body.get("_scroll_id", scroll)
        self._close("/_search/scroll", {"scroll_id": scroll})

    def scan_hidden(self, vectors: Collection[str] = ()) -> Iterator[Mapping[str, Any]]:
        """Of every document its ``_id``, ``_version``, ``_routing``, and under ``_source`` hash and parent,
        wherever they can be read.

        Args:
            vectors: vector fields that are read, too, by their paths; see :meth:`readable`.
        """
        wanted = (HASH_FIELD, PARENT_FIELD, *vectors)
        kept = [name for name in wanted if name not in self.lost]
        # Hash and parent are keywords, whose doc values have them. Read from a _source without them, every
        # document would look changed, and a chunk like a document that the source lacks, which sync deletes.
        mapped = self._live[0].get("properties") or {}
        fetch = SourceFetch(doc_values=tuple(n for n in wanted if n not in kept and n in mapped))
        source: Any = self._source_filter(includes=kept, vectors=True) if vectors else kept
        pages = self.scan(
            source if kept else False,
            size=WHOLE_DOCUMENTS if vectors else 1_000,
            fetch=fetch,
            versions=True,
        )
        for hit in pages:
            yield {**hit, "_source": fetch.document(hit)} if fetch else hit

    def readable(self, path: str) -> bool:
        """Whether a vector field can be read back."""
        return path not in self.lost or (
            self._vector_doc_values and "." not in path and self._type_of(path) == "dense_vector"
        )

    def _type_of(self, name: str) -> Any:
        return ((self._live[0].get("properties") or {}).get(name) or {}).get("type")

    def ids_without(self, field: str) -> Iterator[str]:
        """The ids of documents that have nothing in a field; also where nobody can read what they have."""
        for hit in self.scan(False, query={"bool": {"must_not": [{"exists": {"field": field}}]}}):
            yield hit["_id"]

    def _pit_pages(self, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]] | None:
        pit = self._open_pit()
        return None if pit is None else self._pit_loop(body, pit)

    def _open_pit(self) -> str | None:
        """A point in time that can be read page by page; None where this engine or this key opens none."""
        if not self._scans_pit:
            return None  # no other sort goes on where a page ended, whatever the shards' documents are
        opened = self.call(
            "POST",
            f"{self._path}/{self._pit.open}",
            params={"keep_alive": KEEP_ALIVE, **self._alias.search_params},
            ignore=(400, 403, 404, 405, 410),
        )
        return None if opened.status >= 400 else str(opened.body[self._pit.key])

    def _pit_loop(self, body: Mapping[str, Any], pit: str) -> Iterator[Mapping[str, Any]]:
        after: list[Any] | None = None
        try:
            while True:
                page = {**body, "pit": {"id": pit, "keep_alive": KEEP_ALIVE}, "sort": ["_shard_doc"]}
                if after is not None:
                    page["search_after"] = after
                answer = self.call("POST", "/_search", body=page).body
                pit = answer.get("pit_id", pit)
                hits = answer["hits"]["hits"]
                if not hits:
                    return
                try:
                    yield answer
                except GeneratorExit:
                    pit = ""  # see _close
                    raise
                if len(hits) < body["size"]:
                    return  # as of one moment nothing comes after a page that isn't full
                after = last_sort(hits, "POST /_search", after)
        finally:
            if pit:
                self._close(self._pit.close, self._pit.close_body(pit))

    def _close(self, path: str, body: Mapping[str, Any]) -> None:
        """End a point in time or a scroll. It ends by itself, too, so a failure is none of the run's.

        A scan that its reader left early is not ended by a request: the garbage collector may be what ends
        the generator, on any thread and inside any lock, the event loop's own thread included.
        """
        with contextlib.suppress(EngineUnavailableError):
            self._send("DELETE", path, body=body, ignore=_ANY_STATUS)

    def _scroll_pages(self, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        answer = self.call(
            "POST",
            f"{self._path}/_search",
            params={"scroll": KEEP_ALIVE, **self._alias.search_params},
            body={**body, "sort": ["_doc"]},
        ).body
        scroll = answer.get("_scroll_id")
        page: list[str] = []
        try:
            while answer["hits"]["hits"]:
                before, page = page, [hit["_id"] for hit in answer["hits"]["hits"]]
                if page == before:
                    raise AnswerError("POST /_search/scroll: the answer is the page before", status=200)
                try:
                    yield answer
                except GeneratorExit:
                    scroll = None  # see _close
                    raise
                # Sent once: a scroll moves on with each request, so the page of an answer that was lost
                # would be missing, and nobody would see it.
                try:
                    answer = self._send(
                        "POST", "/_search/scroll", body={"scroll": KEEP_ALIVE, "scroll_id": scroll}
                    ).body
                except EngineUnavailableError as error:
                    raise EngineUnavailableError(
                        f"a page of the scan of {self.index} was lost ({error}), and this engine opens no "
                        "point in time to read it again; run the same command again",
                        status=error.status,
                    ) from error
                scroll = answer.get("_scroll_id", scroll)
        finally:
            if scroll is not None:
                self._close("/_search/scroll", {"scroll_id": scroll})
