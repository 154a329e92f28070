"""What an ingest asks of the engine besides bulk, and the one layer that tries again.

Whatever may pass by itself (no connection, 429, 502–504, a read-only block, a red index) is waited
out with jittered, exponential pauses (tenacity), up to ``max_wait_seconds`` without any progress.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import quote

import tenacity

from esembed.dialect.meta import HASH_FIELD, PARENT_FIELD
from esembed.errors import AliasError, EngineRequestError, EngineUnavailableError, EsembedError
from esembed.transport import Response

__all__ = ["Engine", "Patience", "Requester", "Stopped"]

_ANY_STATUS = range(400, 600)
_LOOKED_UP = "docs._id,docs.found,docs.fields,docs._source,docs.error"
KEEP_ALIVE = "5m"
"""How long the engine keeps a scan's point in time between two pages."""


class Requester(Protocol):
    """The sync side of an EngineClient; AsyncIndex hands over one that runs on its loop."""

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | bytes | None = None,
        timeout_seconds: float | None = None,
        ignore: Collection[int] = (),
    ) -> Response: ...


SHORTEST_REQUEST_SECONDS = 10.0
"""What a request that is out is given, however short the wait is."""


class Stopped(EsembedError):
    """The run was asked to end; another stage knows why."""


class Again(Exception):
    """Something is left to be sent again."""

    def __init__(self, reason: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class Patience:
    """Waits that all senders share: messages once an outage, an end when nothing moves for too long.

    Args:
        max_wait_seconds: how long without any answer that settles something.
        stop: set when the run is to end.
        notice: takes messages for the person.
        base_seconds, cap_seconds: the first and the longest pause.
    """

    def __init__(
        self,
        max_wait_seconds: float,
        stop: threading.Event,
        notice: Callable[[str], None],
        *,
        base_seconds: float = 0.1,
        cap_seconds: float = 10.0,
    ) -> None:
        self.max_wait_seconds = max_wait_seconds
        self.waited_seconds = 0.0
        self._stop = stop
        self._notice = notice
        self._lock = threading.Lock()
        self._progress = time.monotonic()
        self._since: float | None = None
        self._told = False
        self._wait = tenacity.wait_random_exponential(multiplier=base_seconds, max=cap_seconds)

    def progress(self) -> None:
        """The engine settled something."""
        with self._lock:
            self._progress = time.monotonic()
            since, told = self._since, self._told
            self._since, self._told = None, False
        if told and since is not None:
            self._notice(f"the engine takes requests again, after {time.monotonic() - since:.0f} s")

    def silent_seconds(self) -> float:
        """How long nothing was settled; 0 where the person was told already."""
        with self._lock:
            return 0.0 if self._told else time.monotonic() - self._progress

    def tell(self, message: str) -> None:
        """Say what is waited for; the end of that wait is told, too."""
        with self._lock:
            told, self._told = self._told, True
            self._since = self._since or self._progress
        if not told:
            self._notice(message)

    def _before_sleep(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        now = time.monotonic()
        pause = state.next_action.sleep if state.next_action is not None else 0.0
        message = None
        with self._lock:
            if self._since is None:
                self._since = now
            if not self._told and now + pause - self._since > 2.0:
                self._told = True
                message = f"waiting for the engine, up to {self.max_wait_seconds:.0f} s: {error}"
            self.waited_seconds += pause
        if message:
            self._notice(message)

    def _left(self, state: tenacity.RetryCallState) -> float:
        """Seconds until the wait has been long enough."""
        with self._lock:
            last = self._progress
        # A call that began after the last progress has its own start.
        return max(last, state.start_time) + self.max_wait_seconds - time.monotonic()

    def _give_up(self, state: tenacity.RetryCallState) -> bool:
        return self._stop.is_set() or self._left(state) <= 0

    def _pause(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        asked = getattr(error, "retry_after_seconds", None)
        pause = float(self._wait(state)) if asked is None else min(float(asked), 60.0)
        # The last attempt comes when the time is up, not a pause later.
        return max(0.0, min(pause, self._left(state)))

    def request_seconds(self, wanted: float | None) -> float:
        """The time-out of one request: *wanted*, and no longer than the whole wait (but for the shortest)."""
        most = max(self.max_wait_seconds, SHORTEST_REQUEST_SECONDS)
        return most if wanted is None else min(wanted, most)

    def retrying(self) -> tenacity.Retrying:
        """tenacity's loop over a callable that raises EngineUnavailableError or Again."""
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((Again, EngineUnavailableError)),
            wait=self._pause,
            stop=self._give_up,
            sleep=tenacity.sleep_using_event(self._stop),
            before_sleep=self._before_sleep,
            reraise=True,
        )

    def gave_up(self, error: BaseException) -> EsembedError:
        """The error for a wait that came to its end."""
        if self._stop.is_set():
            return Stopped("stopped")
        return EngineUnavailableError(
            f"the engine did not settle anything for {self.max_wait_seconds:.0f} s (last: {error}). What was "
            "confirmed is in the index; repair the engine and run the same command again: it resumes",
            status=getattr(error, "status", None),
        )


class Engine:
    """The requests of one run on one index.

    Args:
        client: what carries them; its own retries are off.
        index: the index's (or alias's) name.
        patience: waits.
        timeout_seconds: for one bulk request.
    """

    def __init__(self, client: Requester, index: str, patience: Patience, timeout_seconds: float) -> None:
        self.client = client
        self.index = index
        self.patience = patience
        self._path = "/" + quote(index, safe="*,")
        self._timeout = timeout_seconds
        self._bulk_params = {"filter_path": "items.*.status,items.*.error,items.*.result,error,status"}
        if getattr(client, "kind", "") == "elasticsearch":
            # How long the engine itself waits for a primary, silently (a minute, else). opensearch-py
            # takes a parameter of this name for its own time-out and can't pass it on.
            self._bulk_params["timeout"] = f"{max(1, min(15, int(patience.max_wait_seconds)))}s"

    # -- requests --------------------------------------------------------------------------------

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
        if timeout_seconds is not None or self.patience.max_wait_seconds < 60.0:
            seconds = self.patience.request_seconds(timeout_seconds)

        def once() -> Response:
            nonlocal tries
            tries += 1
            answer = self.client.request(
                method, path, params=params, body=body, ignore=ignore, timeout_seconds=seconds
            )
            if all_shards and (failed := answer.body.get("_shards", {}).get("failed")):
                raise EngineUnavailableError(f"{failed} shards of {self.index} don't answer {method} {path}")
            return answer

        try:
            response: Response = self.patience.retrying()(once)
        except EngineUnavailableError as error:
            raise self.patience.gave_up(error) from error
        if tries > 1:
            # An answer that came at once settles nothing: an index that refuses writes reads well.
            self.patience.progress()
        return response

    def bulk(self, payload: bytes) -> tuple[int | None, Any, float | None]:
        """Send one bulk request, once: status (None without an answer), body, seconds to wait if told."""
        try:
            response = self.client.request(
                "POST",
                f"{self._path}/_bulk",
                params=self._bulk_params,
                body=payload,
                timeout_seconds=self.patience.request_seconds(self._timeout),
                ignore=_ANY_STATUS,
            )
        except EngineUnavailableError as error:
            return error.status, {"error": {"type": None, "reason": str(error)}}, error.retry_after_seconds
        except EngineRequestError as error:
            if error.status:
                return error.status, error.body, None
            raise
        after = response.headers.get("retry-after", "")
        return response.status, response.body, float(after) if after.isdigit() else None

    # -- the index -------------------------------------------------------------------------------

    def identity(self) -> tuple[str, str]:
        """The cluster's and the index's UUID; the cluster's is empty where ``GET /`` is not answered."""
        settings = self.settings()
        uuid = str(settings.get("uuid", ""))
        root = self.call("GET", "/", ignore=range(400, 500))
        cluster = root.body.get("cluster_uuid", "") if isinstance(root.body, Mapping) else ""
        if not cluster:
            state = self.call(
                "GET",
                "/_cluster/state/metadata",
                params={"filter_path": "cluster_uuid"},
                ignore=range(400, 500),
            )
            cluster = state.body.get("cluster_uuid", "") if isinstance(state.body, Mapping) else ""
        return str(cluster), uuid

    def why_silent(self) -> str:
        """Why a bulk request gets no answer, as far as the index's health tells. Asked once."""
        try:
            answer = self.client.request(
                "GET",
                f"/_cluster/health{self._path}",
                params={"filter_path": "status"},
                ignore=_ANY_STATUS,
                timeout_seconds=5.0,
            )
        except EngineUnavailableError as error:
            return f"the engine does not answer ({error})"
        if answer.status < 400 and answer.body.get("status") == "red":
            return f"{self.index} is red, a primary shard is on no node (the engine waits a minute for it)"
        return "the engine answers other requests, so it is busy"

    def wait_for_primaries(self) -> None:
        """Wait while the index is red. Whoever may not ask for its health goes on."""

        def once() -> None:
            path = f"/_cluster/health{self._path}"
            answer = self.client.request("GET", path, ignore=_ANY_STATUS)
            if answer.status in (429, 502, 503, 504):
                raise EngineUnavailableError(f"status {answer.status} to {path}", status=answer.status)
            if answer.status < 400 and answer.body.get("status") == "red":
                raise EngineUnavailableError(f"{self.index} is red: a primary shard is on no node")

        try:
            self.patience.retrying()(once)
        except EngineUnavailableError as error:
            raise self.patience.gave_up(error) from error
        self.patience.progress()

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
        found: Mapping[str, Any] = next(iter(body.values()))["settings"]["index"]
        return found

    def setting(self, name: str) -> Any:
        """One setting under ``index``, by its dotted name, or None."""
        body = self.call("GET", f"{self._path}/_settings", params={"flat_settings": "true"}).body
        return next(iter(body.values()))["settings"].get(f"index.{name}")

    def put_settings(self, settings: Mapping[str, Any]) -> None:
        """Change dynamic settings."""
        self.call("PUT", f"{self._path}/_settings", body={"index": dict(settings)})

    def mapping(self) -> Mapping[str, Any]:
        """The live mapping."""
        body = self.call("GET", f"{self._path}/_mapping").body
        found: Mapping[str, Any] = next(iter(body.values()))["mappings"]
        return found

    def put_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace ``_meta`` (both engines replace it whole: merge first)."""
        self.call("PUT", f"{self._path}/_mapping", body={"_meta": dict(meta)})

    def refresh(self) -> None:
        """Make everything searchable."""
        self.call("POST", f"{self._path}/_refresh", timeout_seconds=self._timeout)

    def count(self) -> int:
        """Documents that a search sees."""
        # A part of the index that can't be seen is no empty one: it is waited for.
        return int(self.call("GET", f"{self._path}/_count", all_shards=True).body["count"])

    def force_merge(self, segments: int) -> None:
        """Merge to at most *segments* segments; the answer comes when it is done, or a time-out before."""
        try:
            self.client.request(
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

    def hashes(self, ids: Sequence[str]) -> dict[str, str | None]:
        """Id → stored hash (None: a document without one), for the documents that are there."""
        if not ids:
            return {}
        params = {"_source_includes": HASH_FIELD, "filter_path": _LOOKED_UP}
        if self._hash_is_stored:
            # _source stays on the disk: reading that one field out of it costs twice the CPU on
            # Elasticsearch and four times on OpenSearch, which builds the vectors into it first.
            params = {"_source": "false", "stored_fields": HASH_FIELD, "filter_path": _LOOKED_UP}
        answer = self.call("POST", f"{self._path}/_mget", params=params, body={"ids": list(ids)}).body
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
        field = self.mapping().get("properties", {}).get(HASH_FIELD, {})
        return str(field.get("store", "false")).lower() == "true"

    def sources(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Id → stored fields, for the documents that are there."""
        if not ids:
            return {}
        answer = self.call("POST", f"{self._path}/_mget", body={"ids": list(ids)}).body
        return {doc["_id"]: dict(doc.get("_source") or {}) for doc in answer["docs"] if doc.get("found")}

    def scan(
        self,
        source: bool | Sequence[str] | Mapping[str, Any] = (HASH_FIELD, PARENT_FIELD),
        *,
        query: Mapping[str, Any] | None = None,
        size: int = 1_000,
    ) -> Iterator[dict[str, Any]]:
        """Every document (``_id``, ``_source``) as of now, in no order: through a point in time, or a
        scroll where the engine opens none."""
        body: dict[str, Any] = {"size": size, "query": dict(query or {"match_all": {}}), "_source": source}
        pages = self._pit_pages(body)
        if pages is None:
            pages = self._scroll_pages(body)
        for answer in pages:
            if answer.get("_shards", {}).get("failed"):
                raise EngineUnavailableError(f"some shards of {self.index} failed during a scan; try again")
            yield from answer["hits"]["hits"]

    def _pit_pages(self, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]] | None:
        opensearch = getattr(self.client, "kind", "") == "opensearch"
        path, key = ("_search/point_in_time", "pit_id") if opensearch else ("_pit", "id")
        opened = self.call(
            "POST",
            f"{self._path}/{path}",
            params={"keep_alive": KEEP_ALIVE},
            ignore=(400, 403, 404, 405, 410),
        )
        if opened.status >= 400:
            return None
        return self._pit_loop(body, str(opened.body[key]), path, key, opensearch)

    def _pit_loop(
        self, body: Mapping[str, Any], pit: str, path: str, key: str, opensearch: bool
    ) -> Iterator[Mapping[str, Any]]:
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
                after = hits[-1]["sort"]
        finally:
            if pit:
                self._close(f"/{path}", {key: [pit] if opensearch else pit})

    def _close(self, path: str, body: Mapping[str, Any]) -> None:
        """End a point in time or a scroll. It ends by itself, too, so a failure is none of the run's.

        A scan that its reader left early is not ended by a request: the garbage collector may be what ends
        the generator, on any thread and inside any lock, the event loop's own thread included.
        """
        with contextlib.suppress(EngineUnavailableError):
            self.client.request("DELETE", path, body=body, ignore=_ANY_STATUS)

    def _scroll_pages(self, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        answer = self.call(
            "POST", f"{self._path}/_search", params={"scroll": KEEP_ALIVE}, body={**body, "sort": ["_doc"]}
        ).body
        scroll = answer.get("_scroll_id")
        try:
            while answer["hits"]["hits"]:
                try:
                    yield answer
                except GeneratorExit:
                    scroll = None  # see _close
                    raise
                # Sent once: a scroll moves on with each request, so the page of an answer that was lost
                # would be missing, and nobody would see it.
                try:
                    answer = self.client.request(
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
