"""Servers that answer too late: one that never answers, and one that sends a byte now and then."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Literal

HEAD = (
    b"HTTP/1.1 200 OK\r\nX-Elastic-Product: Elasticsearch\r\ncontent-type: application/json\r\n"
    b"content-length: 1000000\r\n\r\n{"
)


@contextlib.contextmanager
def hanging_server(how: Literal["silent", "dripping"]) -> Iterator[str]:
    """A server's address. It takes connections and reads what comes, until the block ends."""
    ended = threading.Event()

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            if how == "silent":
                ended.wait()
                return
            connection.sendall(HEAD)
            while not ended.wait(0.2):
                connection.sendall(b" ")

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            ended.set()
