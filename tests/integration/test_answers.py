"""Servers that answer junk, over real connections."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator

import pytest
from opensearchpy import OpenSearch

from esembed._sync.client import EngineClient
from esembed.bounded import read_url
from esembed.cli._connect import detect_engine
from esembed.encode.remote import OpenAIEncoder
from esembed.errors import EngineRequestError, EngineUnavailableError, TransientError

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


@pytest.mark.parametrize("head", [b"HTTP/1.1 2", OK + b"x: ", OK + b"content-length: 99999\r\n\r\n"])
def test_a_dripping_embeddings_endpoint_does_not_outlast_the_time_out(head: bytes) -> None:
    with answering(head, drip=True) as url:
        encoder = OpenAIEncoder("m", base_url=url, timeout_seconds=0.5, max_retries=0)
        with pytest.raises(TransientError, match="did not answer in time"):
            encoder.encode_query(["a"])
        encoder.close()


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff", b'{"a":' + b"9" * 5_000 + b"}", b""])
def test_a_body_that_is_no_json_is_none(body: bytes) -> None:
    head = OK + b"content-length: %d\r\n\r\n" % len(body) + body
    with answering(head, drip=False) as url:
        assert read_url(url, seconds=5).json() is None


def test_no_more_is_read_than_was_asked_for() -> None:
    with answering(OK + b"content-length: 99999\r\n\r\n" + b"a" * 5_000, drip=True) as url:
        assert read_url(url, seconds=5, most_bytes=1_000).body == b"a" * 1_000


def test_what_is_not_http() -> None:
    with answering(b"SSH-2.0-x\r\n", drip=False) as url, pytest.raises(http.client.HTTPException):
        read_url(url, seconds=5)
