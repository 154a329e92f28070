"""Servers that answer junk, over real connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from opensearchpy import OpenSearch

from esembed._sync.client import EngineClient
from esembed.cli._connect import detect_engine
from esembed.errors import EngineRequestError, EngineUnavailableError

OK = b"HTTP/1.1 200 OK\r\n"


@contextlib.contextmanager
def answering(head: bytes, *, drip: bool) -> Iterator[str]:
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(65_536)
                connection.sendall(head)
                while drip and not stop.wait(0.05):
                    connection.sendall(b"a")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join(10)


@pytest.mark.parametrize("head", [b"HTTP/1.1 2", OK + b"x: ", OK + b"content-length: 99999\r\n\r\n"])
def test_a_dripping_server_does_not_outlast_the_time_out(head: bytes) -> None:
    with (
        answering(head, drip=True) as url,
        pytest.raises(EngineUnavailableError, match=r"did not answer within 0\.5 s"),
    ):
        detect_engine(url, timeout_seconds=0.5)


def test_deep_brackets_are_one_error_that_names_the_request() -> None:
    body = b"[" * 100_000
    head = OK + b"content-type: application/json\r\ncontent-length: 100000\r\n\r\n" + body
    with (
        answering(head, drip=False) as url,
        pytest.raises(EngineRequestError, match="GET /x/_search: the answer"),
    ):
        EngineClient(OpenSearch(url)).request("GET", "/x/_search")
