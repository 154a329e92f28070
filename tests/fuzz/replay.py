"""Real exchanges with an engine, recorded once and answered again without it, one answer of them changed.

The official clients carry them: what reads an answer here is what reads it in production, from its bytes on.
Record them again where a request changes (it needs both engines)::

    python tests/fuzz/scenarios.py
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent))
import mutations
from elastic_transport import ApiResponseMeta, HttpHeaders, Urllib3HttpNode
from elasticsearch import Elasticsearch
from opensearchpy import OpenSearch
from opensearchpy.connection import Urllib3HttpConnection
from urllib3 import HTTPHeaderDict

JSON = {"content-type": "application/json", "x-elastic-product": "Elasticsearch"}
NOT_RECORDED = (404, json.dumps({"error": {"type": "not_recorded"}, "status": 404}).encode(), JSON)


@dataclass
class Exchange:
    """One request with its answer."""

    method: str
    path: str
    status: int
    body: str


class _NodeAnswer(NamedTuple):
    meta: ApiResponseMeta
    body: bytes


class Tape:
    """What is asked is answered from here, or by the engine and kept here.

    Args:
        exchanges: recorded ones; None records.

    Attributes:
        change: what is done to an answer: (its number, status, body, headers) in, the last three out.
    """

    def __init__(self, exchanges: list[Exchange] | None = None) -> None:
        self.recorded: list[Exchange] = []
        self.known: dict[tuple[str, str], list[int]] = {}
        self.recording = exchanges is None
        self.exchanges = exchanges or []
        self.change: Callable[[int, int, bytes], tuple[int, bytes, dict[str, str]]] | None = None
        self.rewind()

    def rewind(self) -> None:
        """From the beginning."""
        self.known = {}
        for number, one in enumerate(self.exchanges):
            self.known.setdefault((one.method, one.path), []).append(number)

    def answer(self, method: str, target: str) -> tuple[int, bytes, dict[str, str]]:
        """The next answer to this request; the last one again where it is asked once more."""
        numbers = self.known.get((method, urlsplit(target).path))
        if not numbers:
            return NOT_RECORDED
        number = numbers.pop(0) if len(numbers) > 1 else numbers[0]
        one = self.exchanges[number]
        body = one.body.encode()
        if self.change is not None:
            return self.change(number, one.status, body)
        return one.status, body, JSON

    def record(self, method: str, target: str, status: int, body: str) -> None:
        """Keep what the engine said."""
        self.recorded.append(Exchange(method, urlsplit(target).path, status, body))


def client(engine: str, tape: Tape) -> Any:
    """An official client that *tape* answers, or whose engine's answers go there."""
    url = os.environ.get(f"ESEMBED_{engine.upper()}_URL", "http://127.0.0.1:9")

    if engine == "elasticsearch":

        class Node(Urllib3HttpNode):
            def perform_request(self, method: str, target: str, *args: Any, **options: Any) -> Any:
                if tape.recording:
                    found = super().perform_request(method, target, *args, **options)
                    tape.record(method, target, found.meta.status, found.body.decode())
                    return found
                status, body, headers = tape.answer(method, target)
                return _NodeAnswer(
                    ApiResponseMeta(
                        node=self.config,
                        duration=0.0,
                        http_version="1.1",
                        status=status,
                        headers=HttpHeaders(headers),
                    ),
                    body,
                )

        return Elasticsearch(url, node_class=Node)

    class Connection(Urllib3HttpConnection):
        def perform_request(
            self, method: str, url: str, params: Any = None, *args: Any, **options: Any
        ) -> Any:
            target = f"{url}?{urlencode(params)}" if params else url
            if tape.recording:
                try:
                    found = super().perform_request(method, url, params, *args, **options)
                except Exception as error:
                    if isinstance(status := getattr(error, "status_code", None), int):
                        tape.record(method, target, status, json.dumps(error.info))  # type: ignore[attr-defined]
                    raise
                tape.record(method, target, found[0], found[2])
                return found
            status, body, headers = tape.answer(method, target)
            text = body.decode("utf-8", "surrogatepass")
            if not 200 <= status < 300:
                self._raise_error(status, text, headers.get("content-type"))
            return status, HTTPHeaderDict(headers), text

    return OpenSearch(url, connection_class=Connection)


# -- changed answers -------------------------------------------------------------------------------------

_RAW = (
    b"", b"null", b"[]", b"{}", b'"x"', b"3", b"true", b"NaN", b"<html>login</html>", b'{"a":"\xc3\xa4"}',
    b"[" * 100_000, b'{"a":' * 5_000, b'{"a":' * 900 + b"1" + b"}" * 900, b"\xef\xbb\xbf{}",
    b'{"a":1}{"a":1}', b'{"a":' + b"9" * 5_000 + b"}",
)  # fmt: skip
_HEADERS: tuple[dict[str, str], ...] = (
    {"content-type": "text/html"},
    {"content-type": "application/json; charset=rot13"},
    {"content-type": ""},
    {},
    {"retry-after": "\xb2"},
    {"retry-after": "9" * 400},
    {"retry-after": "NaN"},
    {"retry-after": "Mon, 01 Jan 0001 00:00:00 +9959"},
    {"retry-after": "0"},
)
_STATUS = (201, 202, 203, 299, 302, 400, 401, 403, 404, 405, 409, 410, 413, 418, 429, 500, 502, 503, 504, 599)


def changed(random: Random, status: int, body: bytes) -> tuple[int, bytes, dict[str, str]]:
    """An answer, changed: mostly its JSON, now and then its bytes, headers or status."""
    headers = dict(JSON)
    kind = random.random()
    if kind < 0.05:
        return status, random.choice(_RAW), headers
    if kind < 0.08:
        return status, body[: random.randrange(len(body) + 1)], headers
    if kind < 0.16:
        headers |= random.choice(_HEADERS)
        status = random.choice(_STATUS)
        body = random.choice((body, b'{"error":{"type":"x","reason":"y","root_cause":[{"reason":"z"}]}}'))
    try:
        value = mutations.from_seed([json.loads(body)], random.randrange(1 << 24))
        return status, json.dumps(value).encode(), headers
    except (ValueError, RecursionError, TypeError):  # not JSON before, or what JSON can't say now
        return status, random.choice(_RAW), headers


# -- recordings ------------------------------------------------------------------------------------------


def recordings(name: str) -> list[tuple[str, list[Exchange]]]:
    """Engine and exchanges of each recording of a kind."""
    found = []
    for value in mutations.load(name):
        found.append((value["engine"], [Exchange(*one) for one in value["exchanges"]]))
    return found


@contextmanager
def recorded(engine: str) -> Iterator[tuple[Any, Tape]]:
    """A client of a real engine, and the tape that its answers go to."""
    tape = Tape()
    made = client(engine, tape)
    yield made, tape
    made.close()
