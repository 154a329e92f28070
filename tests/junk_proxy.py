"""A proxy on loopback before a real engine that changes what one API answers."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

JUNK: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'"x"',
    b"<html>login</html>",
    b"[" * 100_000,
    b'{"took":1,"hits":{"hits":[{"_id":7}]}}',
    b'{"responses":[{},{"hits":null}]}',
    b'{"i":{}}',
    b'{"i":{"settings":{},"mappings":[]}}',
    b'{"docs":[{"_id":"zzz"}]}',
    b'{"count":"many"}',
    b'{"id":3,"pit_id":[]}',
    b'{"i":{"mappings":{"properties":{"body":3}}}}',
]


class JunkProxy(http.server.ThreadingHTTPServer):
    """Passes requests on.

    Attributes:
        api: what stands in the paths whose answers are changed; None changes none.
        change: the engine's status and body in, what is answered out.
        changed: how many were.
        cut: the connection ends in the middle of those answers.
        drips: those answers come a byte at a time, one in each of so many seconds; None sends them at once.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.api: str | None = None
        self.change: Callable[[int, bytes], tuple[int, bytes]] = lambda status, body: (status, body)
        self.changed = 0
        self.cut = False
        self.drips: float | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what this is for."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: JunkProxy

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def _any(self) -> None:
        sent = self.rfile.read(int(self.headers.get("content-length") or 0))
        connection = http.client.HTTPConnection(*self.server.upstream, timeout=60)
        kept = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "accept")}
        connection.request(self.command, self.path, sent or None, kept)
        answer = connection.getresponse()
        status, body = answer.status, answer.read()
        connection.close()
        spoiled = self.server.api is not None and self.server.api in self.path and self.command != "HEAD"
        if spoiled:
            self.server.changed += 1
            status, body = self.server.change(status, body)
        self.send_response(status)
        self.send_header("content-type", answer.headers.get("content-type", "application/json"))
        self.send_header("x-elastic-product", "Elasticsearch")
        cut = spoiled and self.server.cut
        self.send_header("content-length", str(len(body) + (100 if cut else 0)))
        self.close_connection |= cut
        self.end_headers()
        if self.command == "HEAD":
            return
        if not spoiled or self.server.drips is None:
            self.wfile.write(body)
            return
        for at in range(len(body)):
            self.wfile.write(body[at : at + 1])
            self.wfile.flush()
            time.sleep(self.server.drips)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _any


@contextlib.contextmanager
def junk_proxy(upstream: str) -> Iterator[JunkProxy]:
    """A proxy that runs until the block ends."""
    server = JunkProxy(upstream)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def part_of(body: bytes) -> list[bytes]:
    """The engine's own answer, cut, and without each of its uppermost parts."""
    found = [body[: len(body) // 2]]
    with contextlib.suppress(ValueError):
        whole = json.loads(body)
        if isinstance(whole, dict):
            found += [json.dumps({k: v for k, v in whole.items() if k != name}).encode() for name in whole]
    return found
