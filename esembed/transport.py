"""What async and sync requests share: answers, bodies, and which error an answer stands for. No I/O."""

from __future__ import annotations

import base64
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import orjson

from esembed.capabilities import Engine
from esembed.credentials import Scrubber, is_header_error
from esembed.deadline import Deadline
from esembed.errors import (
    AuthorizationError,
    EngineRequestError,
    EngineUnavailableError,
    EsembedError,
    EventLoopError,
    IndexNotFoundError,
    OptionsError,
    UnsupportedFeatureError,
)

__all__ = [
    "Response",
    "Transport",
    "answer_body",
    "client_engine",
    "client_package",
    "client_refused",
    "client_scrubber",
    "connection_error",
    "encode_body",
    "error_from_response",
    "query_value",
    "refuse_serverless",
    "refuses_client",
    "retry_after_seconds",
]

NO_SECRETS = Scrubber()
"""Where no credential can be in the words: answers that came in a body of others."""

_EVERYWHERE = frozenset({"_refresh", "_bulk", "_search", "_count", "_mapping", "_settings", "_mget"})
"""APIs that every Elasticsearch and OpenSearch has."""

LOOP_WORDINGS = ("event loop is closed", "same event loop", "different event loop", "different loop")
# A busy engine (429), or a proxy before one that restarts (502 to 504).
# Not 500: engines answer it for requests that fail each time, too.
TRANSIENT_STATUS = frozenset({429, 502, 503, 504})
JSON_HEADERS = {"accept": "application/json", "content-type": "application/json"}
NDJSON_HEADERS = {"accept": "application/json", "content-type": "application/x-ndjson"}


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: HTTP status, parsed body (text where it is no JSON), lower-case headers (may be empty)."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


class Transport(Protocol):
    """What carries blocking requests to one engine, without retries of its own; safe to use from several
    threads. The sync EngineClient is one, and what AsyncIndex hands to its threads is another."""

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | bytes | None = None,
        timeout_seconds: float | None = None,
        ignore: Collection[int] = (),
        deadline: Deadline | None = ...,
    ) -> Response:
        """One request.

        Args:
            timeout_seconds: for each read of the answer.
            deadline: for the whole answer; one of minutes where it is left out.

        Raises:
            EngineUnavailableError: no answer in time, or one that asks to come back later.
            EngineRequestError: any other status of 400 or more that is not in *ignore*.
        """
        ...


def client_engine(client: Any) -> tuple[Engine, bool]:
    """Which engine a client is for and whether it is async, told by its class so that only the
    package in use is ever imported. Raises TypeError for anything else."""
    cls = _official_class(client)
    return ("opensearch" if "OpenSearch" in cls.__name__ else "elasticsearch"), cls.__name__.startswith(
        "Async"
    )


def _official_class(client: Any) -> type:
    """The class of an official package that a client is of, or made from."""
    for cls in type(client).__mro__:
        package = cls.__module__.partition(".")[0]
        if package.startswith("elasticsearch") and cls.__name__ in ("Elasticsearch", "AsyncElasticsearch"):
            return cls
        if package == "opensearchpy" and cls.__name__ in ("OpenSearch", "AsyncOpenSearch"):
            return cls
    raise TypeError(
        "esembed takes the official clients: elasticsearch.Elasticsearch, opensearchpy.OpenSearch or their "
        f"async forms, not {type(client).__module__}.{type(client).__qualname__}"
    )


def client_package(client: Any) -> Any:
    """The module of a client's official package: ``elasticsearch``, ``opensearchpy``, or ``elasticsearch8``,
    a release that installs beside another one. The errors that the client raises are that package's."""
    return sys.modules[_official_class(client).__module__.partition(".")[0]]  # there, since its class is


_SERVERLESS_HOST = re.compile(r"\.aoss(-fips)?\..*(amazonaws|api\.aws|on\.aws)", re.IGNORECASE)


def refuse_serverless(client: Any) -> None:
    """Refuse Amazon OpenSearch Serverless, known by its host name or by the service that requests are signed
    for, before anything is sent.

    Raises:
        UnsupportedFeatureError: it is one.
    """
    transport = getattr(client, "transport", None)
    hosts = getattr(transport, "hosts", None) or ()
    names = [str(host.get("host", "")) for host in hosts if isinstance(host, Mapping)]
    options = getattr(transport, "kwargs", None)
    auth = options.get("http_auth") if isinstance(options, Mapping) else None
    # The async signer keeps the service on its inner signer only.
    service = getattr(auth, "service", None) or getattr(getattr(auth, "signer", None), "service", None)
    if service == "aoss" or any(_SERVERLESS_HOST.search(name) for name in names):
        # Its vector collections take no document ids (so no record could be found again, resumed or updated),
        # its search collections no vectors; neither has _refresh, points in time or index statistics.
        raise UnsupportedFeatureError(
            [
                "document ids beside vectors, _refresh, consistent scans: use an Amazon OpenSearch Service "
                "domain (its signing service is es), or OpenSearch or Elasticsearch elsewhere"
            ],
            profile="Amazon OpenSearch Serverless",
        )


def answer_body(body: Any) -> Any:
    """An answer's body as JSON where it is JSON, whatever the client made of it.

    opensearch-py's ``AsyncHttpConnection`` (the class for signed async requests) hands the bodies of errors
    over as text: it doesn't pass the content type on to what parses them (seen in 2.7 to 3.2).
    """
    if isinstance(body, (bytes, str)):
        text = body.strip()
        if text[:1] in ("{", "[", b"{", b"["):
            try:
                return orjson.loads(text)
            except orjson.JSONDecodeError:
                return body
    return body


def encode_body(
    body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | bytes | None,
) -> tuple[bytes | None, Mapping[str, str]]:
    """Bytes and headers of a request: a mapping is JSON, several are NDJSON, bytes NDJSON as they are."""
    if isinstance(body, bytes):
        return body, NDJSON_HEADERS
    if body is None:
        return None, JSON_HEADERS
    option = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    if isinstance(body, Mapping):
        return orjson.dumps(body, option=option), JSON_HEADERS
    option |= orjson.OPT_APPEND_NEWLINE
    return b"".join(orjson.dumps(line, option=option) for line in body), NDJSON_HEADERS


def query_value(value: Any) -> Any:
    """A value as it stands in a URL's query: lower-case booleans, lists joined by commas."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    return value


def client_scrubber(client: Any) -> Scrubber:
    """What masks a client's own credentials, wherever the client, a proxy or an engine quotes them.

    Where they are kept is each client's own affair, so that whatever isn't found there is simply not known.
    """
    return Scrubber(_credentials(client))


def _credentials(client: Any) -> Iterator[str]:
    transport = getattr(client, "transport", None)
    options = getattr(transport, "kwargs", None)
    options = options if isinstance(options, Mapping) else {}
    pool = getattr(transport, "connection_pool", None) or getattr(transport, "node_pool", None)
    headers = [getattr(client, "_headers", None), options.get("headers")]
    auths = [options.get("http_auth")]
    try:
        nodes = list(getattr(pool, "connections", None) or pool.all()) if pool is not None else []
    except Exception:  # noqa: BLE001 - a foreign object
        nodes = []
    for node in nodes:
        headers += [getattr(node, "headers", None), getattr(getattr(node, "config", None), "headers", None)]
    for host in getattr(transport, "hosts", None) or ():
        if isinstance(host, Mapping):
            auths.append(host.get("http_auth"))
            headers.append(host.get("headers"))
    for found in headers:
        if isinstance(found, Mapping):
            for name, value in found.items():
                if isinstance(value, str) and _SECRET_HEADER.search(str(name)):
                    yield value.partition(" ")[2] or value
    for auth in auths:
        if isinstance(auth, (list, tuple)) and len(auth) == 2:
            yield str(auth[1])
            yield base64.b64encode(":".join(map(str, auth)).encode("utf-8", "replace")).decode("ascii")
        elif isinstance(auth, str):
            yield auth.partition(":")[2] or auth
        else:  # an AWS signer's, of any of opensearch-py's
            signed = getattr(getattr(auth, "signer", auth), "credentials", None)
            for name in ("secret_key", "token"):
                value = getattr(signed, name, None)
                if isinstance(value, str):
                    yield value


_SECRET_HEADER = re.compile(r"auth|token|key|secret|cookie", re.IGNORECASE)


def connection_error(error: Exception, method: str, path: str, scrub: Scrubber = NO_SECRETS) -> EsembedError:
    """What a client's exception without an answer means: TLS, another product, a time-out, or no engine."""
    if is_header_error(error):
        return OptionsError(
            f"{method} {path}: the client's credentials, or another header of its, hold a character that a "
            "request can't carry (a line break, a curly quote); make the client with the right ones (the "
            "value is not shown)",
            option="client",
        )
    text = scrub(f"{type(error).__name__}: {error}")
    lowered = text.lower()
    # aiohttp and asyncio say it in a RuntimeError of four wordings, opensearch-py in a ConnectionError.
    if any(wording in lowered for wording in LOOP_WORDINGS):
        return EventLoopError(
            f"{method} {path}: the async client was used in another event loop before ({text}); make the "
            "client and open the index in the loop that uses them"
        )
    if "certificate" in lowered or "tlserror" in lowered or "sslerror" in lowered:
        return EngineRequestError(
            f"{method} {path}: TLS failed ({text}); pass the CA that signed the engine's certificate "
            "(ca_certs), or use the right scheme",
            status=0,
            error_type="tls",
        )
    if "unsupportedproduct" in lowered:
        return EngineRequestError(
            f"{method} {path}: the server is not Elasticsearch; for OpenSearch pass an opensearchpy client",
            status=0,
            error_type="unsupported_product",
        )
    # elastic_transport 9 over aiohttp says "Connection error", and keeps what it was beside it.
    kept = getattr(error, "errors", None)
    inner = [*(kept if isinstance(kept, (list, tuple)) else ()), error.__cause__, error.__context__]
    if any(_UNREADABLE.search(f"{type(one).__name__}: {one!s:.1000}") for one in (error, *inner)):
        return EngineUnavailableError(
            f"{method} {path}: the engine's answer was cut, or isn't JSON ({text}); look at the proxy before "
            "it, if there is one",
            unreadable=True,
        )
    return EngineUnavailableError(f"{method} {path}: the engine did not answer ({text})")


_UNREADABLE = re.compile(
    r"SerializationError|IncompleteRead|ClientPayloadError|TransferEncodingError|ContentLengthError|"
    r"payload is not completed|ChunkedEncodingError|complete message body|DecodeError|content-encoding",
    re.IGNORECASE,
)
"""How the clients (over urllib3, requests, aiohttp and httpx) say that an answer came and is none."""


def refuses_client(response: Response) -> bool:
    """Whether an Elasticsearch refuses every request of this client: it is made for a newer server."""
    error = (
        response.body.get("error") if response.status == 400 and isinstance(response.body, Mapping) else None
    )
    return isinstance(error, Mapping) and error.get("type") == "media_type_header_exception"


def client_refused(refusal: Response, versions: Response | None, package: Any) -> OptionsError:
    """What :func:`refuses_client` means for people.

    Args:
        refusal: the answer.
        versions: the answer to ``GET /_nodes`` without the client's media type, or None.
        package: the client's.
    """
    nodes = (
        versions.body.get("nodes") if versions is not None and isinstance(versions.body, Mapping) else None
    )
    found = sorted(
        str(node["version"])
        for node in (nodes.values() if isinstance(nodes, Mapping) else ())
        if isinstance(node, Mapping) and re.fullmatch(r"\d{1,3}(\.\d{1,3}){1,3}", str(node.get("version")))
    )
    # "Accept version must be either version 8 or 7, but found 9."
    told = re.findall(r"version (\d{1,2}) or (\d{1,2})", str(refusal.body)[:5000])
    major = int(found[0].partition(".")[0]) if found else int(told[0][0]) if told else 8
    client = f"elasticsearch-py {getattr(package, '__versionstr__', '')}".rstrip()
    return OptionsError(
        f"{client} is too new for this server, Elasticsearch {found[0] if found else major}, which refuses "
        f'all its requests: pip install "elasticsearch<{major + 1}"',
        option="client",
    )


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """How long a server asks to be left alone: ``retry-after-ms``, or ``Retry-After`` in
    seconds or as a date; None without either, or where it is neither."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):  # a year beyond the platform's
                continue
        if seconds == seconds:  # not NaN
            return max(0.0, seconds)
    return None


def error_from_response(
    method: str, path: str, response: Response, scrub: Scrubber = NO_SECRETS
) -> EsembedError:
    """The error that an answer with a status of 400 or more stands for."""
    # Before anything is cut: a proxy's page may quote the request's headers.
    try:
        status, body = response.status, scrub.value(response.body)
    except RecursionError:
        status, body = response.status, "an answer that is nested too deeply"
    error_type: str | None = None
    reason: str | None = None
    index: str | None = None
    error = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(error, Mapping):
        # As texts, whatever a proxy wrote there: they are looked up, compared and printed.
        error_type, reason, index = (
            None if error.get(name) is None else str(error[name]) for name in ("type", "reason", "index")
        )
        root = error.get("root_cause")
        if isinstance(root, Sequence) and root and isinstance(root[0], Mapping):
            deepest = root[0].get("reason")
            if deepest and deepest != reason:
                reason = f"{reason}: {deepest}"
        cause = error.get("caused_by")
        if isinstance(cause, Mapping) and cause.get("reason"):
            reason = f"{reason}: {cause['reason']}"
    elif error is not None:
        reason = str(error)
    elif body:
        reason = str(body)[:500]
    message = f"{method} {path}: {status} {error_type or ''} {reason or ''}".rstrip()
    api = path.rpartition("/")[2]
    if status == 404 and error_type is None and api in _EVERYWHERE:
        # No index that is missing: the API itself. Amazon OpenSearch Serverless behind a name of one's own,
        # or a proxy that lets only some requests through.
        return EngineRequestError(
            f"{message} (this server, or a proxy before it, has no {api} API, and without it "
            "esembed can't work: Amazon OpenSearch Serverless is not supported, an Amazon OpenSearch Service "
            "domain is)",
            status=status,
            error_type=error_type,
            reason=reason,
            body=body,
        )
    if status == 404 and error_type == "index_not_found_exception":
        return IndexNotFoundError(f"there is no index {index or path!r}", index=str(index or path))
    if status in TRANSIENT_STATUS:
        return EngineUnavailableError(
            message, status=status, retry_after_seconds=retry_after_seconds(response.headers)
        )
    if status in (401, 403):
        hint = (
            "; check the user name and password or the API key"
            if status == 401
            else "; the credentials lack a privilege, or the license a feature"
        )
        return AuthorizationError(
            message + hint, status=status, error_type=error_type, reason=reason, body=body
        )
    return EngineRequestError(message, status=status, error_type=error_type, reason=reason, body=body)
