# Generated from esembed/_async/client.py by scripts/run_unasync.py; change that file and run the script.
"""One method over the caller's official client: every byte goes through it, and it is never changed.

The transport's own retries are switched off for our requests (on a copy that shares the connection
pool), so that exactly one layer retries; only a node that refuses the connection is passed over for another
one of the pool. Errors become :mod:`esembed.errors`.
"""

from __future__ import annotations

import copy
import functools
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from esembed.answers import check_answer
from esembed.credentials import hide_in_logs, is_header_error
from esembed.deadline import Deadline
from esembed.errors import AnswerError, EsembedError
from esembed.transport import (
    JSON_HEADERS,
    NDJSON_HEADERS,
    Response,
    answer_body,
    client_engine,
    client_package,
    client_refused,
    client_scrubber,
    connection_error,
    encode_body,
    error_from_response,
    query_value,
    refuse_serverless,
    refuses_client,
)

from ._shim import IS_ASYNC, LoopGuard
from .deadline import ended_by

__all__ = ["EngineClient"]

ANSWER_SECONDS = 600.0
"""What an answer may take beyond its request's time-out, where nobody stated a deadline. The client's own
time-outs are for each read: a server that sends a byte now and then is waited for without end."""
_BY_ANSWER: Any = object()

_MODULE = re.escape(__name__)
VERSION_SECONDS = 5.0
"""How long the version of a server that refuses the client is waited for; the error says less without it."""

_LARGE_BODY_BYTES = 1024 * 1024
"""Above it aiohttp warns about bytes, which the official clients always send."""


_hushed: dict[tuple[type[Warning], str, str], Any] = {}
"""Each filter of our own → the list of filters that it was last put into: looking through that takes 2 µs for
each request."""


def _hush(category: type[Warning], *, message: str = "", module: str = "") -> None:
    """A filter for what our own requests warn of, which nobody else can act on.

    ``warnings.catch_warnings`` can't do it: it swaps the process's filters, and concurrent requests would
    restore each other's. Where somebody else swaps them, it goes into the new list, too.
    """
    key = (category, message, module)
    filters = warnings.filters
    if _hushed.get(key) is filters and filters:
        return
    mine = (
        "ignore",
        re.compile(message, re.IGNORECASE) if message else None,
        category,
        re.compile(module) if module else None,
        0,
    )
    if mine not in filters:
        warnings.filterwarnings("ignore", message, category, module)
    _hushed[key] = warnings.filters


def _other_nodes(nodes: Any) -> int:
    """How often a request may go to another node of the client's pool, after one that refused the connection.

    A retry of the same request to the same node is left to :mod:`esembed.ingest.backoff`. A node that is down
    answers at once, so this adds nothing to a time-out; a node that hangs is not tried again anywhere, since
    each node would get the whole time-out.
    """
    return max(0, len(nodes) - 1)


class _Unanswered(Exception):
    """A client's own exception, on its way to :func:`~esembed.transport.connection_error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class EngineClient:
    """The caller's official client behind one method, :meth:`request`.

    Args:
        client: ``Elasticsearch`` or ``OpenSearch``; it stays the caller's to close.

    Raises:
        TypeError: another kind of client, or a sync one for async code and the other way round.
        UnsupportedFeatureError: a client of Amazon OpenSearch Serverless.
    """

    def __init__(self, client: Any) -> None:
        self.engine, is_async = client_engine(client)
        if is_async is not IS_ASYNC:
            raise TypeError(
                "Index takes an async client and Index a sync one; "
                f"{type(client).__name__} is {'async' if is_async else 'sync'}"
            )
        refuse_serverless(client)
        self.official = client
        # Kept for the logs alone, which forget it with this object. Errors ask the client again, whose
        # credentials may have been renewed (AWS session tokens are).
        self._scrub = client_scrubber(client)
        hide_in_logs(scrub=self._scrub)
        # Its errors are classes of the client's own package: elasticsearch, or elasticsearch8 beside it.
        self._errors = client_package(client)
        self.requests_sent = 0
        self.loop = LoopGuard()
        self._derived: dict[Any, Any] = {}

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | bytes | None = None,
        timeout_seconds: float | None = None,
        ignore: Collection[int] = (),
        deadline: Deadline | None = _BY_ANSWER,
    ) -> Response:
        """Send one request, once.

        Args:
            method: ``GET``, ``POST`` …
            path: from the root, already percent-encoded where it needs to be.
            params: the query string's parameters.
            body: a mapping is sent as JSON, a sequence of mappings as NDJSON, bytes as NDJSON as they are.
            timeout_seconds: for this request, else the client's own.
            ignore: statuses that are answers, not errors.
            deadline: no answer is waited for after it; ten minutes after the time-out where it is left out.
                None waits for as long as the client reads, and saves a search the thread.

        Raises:
            AuthorizationError: 401 or 403.
            IndexNotFoundError: 404 that names an index.
            EngineRequestError: any other refusal.
            EngineUnavailableError: no connection, a time-out, the deadline, 429, 502, 503 or 504.
            EventLoopError: another event loop than at the first request.
        """
        self.loop.check()
        payload, headers = encode_body(body)
        self.requests_sent += 1
        if IS_ASYNC and payload is not None and len(payload) > _LARGE_BODY_BYTES:
            _hush(ResourceWarning, message="Sending a large body directly with raw bytes")
        send = self._elasticsearch if self.engine == "elasticsearch" else self._opensearch
        if deadline is _BY_ANSWER:
            deadline = Deadline(ANSWER_SECONDS + (timeout_seconds or 0.0), option=None)
        refused: EsembedError
        try:
            if deadline is None:
                response = send(method, path, params, payload, headers, timeout_seconds)
            else:
                seconds = deadline.http_seconds(timeout_seconds)
                call = functools.partial(send, method, path, params, payload, headers, seconds)
                response = ended_by(deadline, f"the engine's answer to {method} {path}", call)
        except _Unanswered as unanswered:
            error = unanswered.error
            refused = connection_error(error, method, path, client_scrubber(self.official))
            if not is_header_error(error):
                raise refused from error
        except RecursionError:
            # The clients' JSON parser on deep brackets; before RuntimeError, which it is one of.
            raise AnswerError(
                f"{method} {path}: the answer is nested too deeply to be one of an engine's", status=200
            ) from None
        except (AttributeError, LookupError, TypeError) as error:
            # opensearch-py's on an error whose body is a list or a text (3.2: it reads body.get("error")).
            raise AnswerError(
                f"{method} {path}: the client can't read the answer ({type(error).__name__}: {error!s:.200})",
                status=0,
            ) from error
        except RuntimeError as error:
            # aiohttp's way to say that its session belongs to another loop, or was closed.
            raise connection_error(error, method, path, client_scrubber(self.official)) from error
        except ValueError as error:
            if not is_header_error(error):
                raise
            refused = connection_error(error, method, path)
        else:
            if refuses_client(response):
                raise client_refused(response, self._versions(), self._errors)
            if response.status not in ignore:
                if response.status >= 400:
                    raise error_from_response(method, path, response, client_scrubber(self.official))
                check_answer(method, path, response.status, response.body, params)
            return response
        # Outside of the except blocks: the HTTP libraries quote the whole header, and with it the key.
        raise refused

    def _versions(self) -> Response | None:
        """Which versions the nodes have, asked past the client, whose media types this server refuses."""
        headers = {**(getattr(self.official, "_headers", None) or {}), **JSON_HEADERS}
        target = "/_nodes/http?filter_path=nodes.*.version"
        try:
            answer = self.official.transport.perform_request(
                "GET", target, headers=headers, request_timeout=VERSION_SECONDS
            )
        except self._errors.exceptions.TransportError:
            return None
        return Response(answer.meta.status, answer.body)

    def _elasticsearch(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        payload: bytes | None,
        headers: Mapping[str, str],
        timeout_seconds: float | None,
    ) -> Response:
        errors = self._errors
        client = self._derived.get(timeout_seconds)
        if client is None:
            options: dict[str, Any] = {
                "max_retries": _other_nodes(self.official.transport.node_pool),
                "retry_on_timeout": False,
                "retry_on_status": (),
            }
            if timeout_seconds is not None:
                options["request_timeout"] = timeout_seconds
            # One for each time-out: deadlines are rounded to a few, timeout_seconds may be any number.
            if len(self._derived) > 32:
                self._derived.clear()
            client = self._derived[timeout_seconds] = self.official.options(**options)
        if headers is NDJSON_HEADERS:
            body: Any = [payload]
        else:
            # The transport serializes by content type; a string passes through its JSON serializer as it is.
            body = None if payload is None else payload.decode("utf-8")
        _hush(errors.ElasticsearchWarning, module=_MODULE)
        try:
            answer = client.perform_request(method, path, params=params or None, headers=headers, body=body)
        except errors.ApiError as error:
            return Response(error.meta.status, answer_body(error.body), error.meta.headers)
        except (errors.exceptions.TransportError, errors.exceptions.UnsupportedProductError) as error:
            raise _Unanswered(error) from None
        return Response(answer.meta.status, answer.body, answer.meta.headers)

    def _opensearch(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        payload: bytes | None,
        headers: Mapping[str, str],
        timeout_seconds: float | None,
    ) -> Response:
        exceptions = self._errors.exceptions
        transport = self._derived.get("transport")
        if transport is None:
            original = self.official.transport
            prepare = getattr(original, "_async_call", None)
            if prepare is not None:
                # The async transport makes its connection pool at its first call; the copy must share it.
                prepare()
            transport = copy.copy(original)
            transport.max_retries = _other_nodes(original.hosts)
            transport.retry_on_timeout, transport.retry_on_status = False, ()
            self._derived["transport"] = transport
        try:
            answer = transport.perform_request(
                method,
                path,
                params=None if params is None else {k: query_value(v) for k, v in params.items()},
                body=payload,
                timeout=timeout_seconds,
                headers=dict(headers),
            )
        except exceptions.TransportError as error:
            if not isinstance(error.status_code, int):
                raise _Unanswered(error) from None
            body = error.info if error.info is not None else error.error
            return Response(error.status_code, answer_body(body))
        except exceptions.SerializationError as error:
            raise _Unanswered(error) from None
        if isinstance(answer, bool):
            return Response(200 if answer else 404, None)
        return Response(200, answer)
