"""A proxy on loopback that spoils a share of the requests: statuses, resets, cut and slow answers."""

from __future__ import annotations

import http.client
import http.server
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

FAULTS = ("429", "503", "413", "reset-before", "reset-after", "truncated", "slow", "partial-429")
# 413 and rejected items are answers to a bulk request; a look-up of some ids never is too large.
OTHER_FAULTS = ("429", "503", "reset-before", "reset-after", "truncated", "slow")


class FaultProxy(http.server.ThreadingHTTPServer):
    """Passes requests on; a share of them goes wrong.

    Attributes:
        requests, bulk_requests: how many arrived, and how many of these were bulk requests. Compared
            with what the client counts, they prove that one layer retries.
        faults, other_faults: how often each fault was injected into a bulk and into another request.
    """

    daemon_threads = True

    def __init__(self, upstream: str, *, share: float, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.share = share
        self.chance = random.Random(seed)
        self.lock = threading.Lock()
        self.requests = self.bulk_requests = 0
        self.faults: Counter[str] = Counter()
        self.other_faults: Counter[str] = Counter()
        self._decks: dict[bool, list[str]] = {True: [], False: []}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what this is for."""

    def draw(self, *, bulk: bool) -> str | None:
        with self.lock:
            self.requests += 1
            self.bulk_requests += bulk
            if self.chance.random() >= self.share:
                return None
            # From a shuffled deck, so that a short run meets each fault, too.
            deck = self._decks[bulk]
            if not deck:
                kinds = FAULTS if bulk else OTHER_FAULTS
                deck.extend(self.chance.sample(kinds, k=len(kinds)))
            fault = deck.pop()
            (self.faults if bulk else self.other_faults)[fault] += 1
            return fault


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def _any(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        fault = self.server.draw(bulk="/_bulk" in self.path)
        if fault in ("429", "503", "413"):
            self._answer(
                int(fault),
                {"error": {"type": "injected", "reason": f"injected {fault}"}, "status": int(fault)},
            )
            return
        if fault == "reset-before":
            self._reset()
            return
        connection = http.client.HTTPConnection(*self.server.upstream, timeout=60)
        try:
            headers = {
                k: v
                for k, v in self.headers.items()
                if k.lower() not in ("host", "connection", "accept-encoding")
            }
            connection.request(self.command, self.path, body=body or None, headers=headers)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if fault == "reset-after":
            self._reset()
            return
        if fault == "slow":
            time.sleep(0.3)
        if fault == "partial-429":
            data = _spoil_items(data)
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "content-encoding"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if fault == "truncated":
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self._reset()
            return
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _any

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("x-elastic-product", "Elasticsearch")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def _spoil_items(data: bytes) -> bytes:
    """Claim that every third item was rejected, though the engine took it: a re-sent one must not hurt."""
    body = json.loads(data)
    for number, item in enumerate(body.get("items", [])):
        if number % 3 == 0:
            action = next(iter(item))
            item[action] = {
                "status": 429,
                "error": {"type": "es_rejected_execution_exception", "reason": "injected"},
            }
    return json.dumps(body).encode()


@contextmanager
def fault_proxy(upstream: str, *, share: float = 1 / 3, seed: int = 0) -> Iterator[FaultProxy]:
    """The proxy, for as long as the block lasts."""
    proxy = FaultProxy(upstream, share=share, seed=seed)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
