"""Stores that send a byte now and then, more than was asked for, or without end: each file has its time."""

from __future__ import annotations

import contextlib
import http.server
import io
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from esembed.errors import RecordError, SourceError
from esembed.ingest.sources import FileSource, remote
from esembed.types import Document

pytest.importorskip("aiohttp", reason="https:// needs aiohttp, of the extra async")
fsspec = pytest.importorskip("fsspec", reason="remote sources need the extra remote")
pa = pytest.importorskip("pyarrow")

LENGTH = 50_000_000


def _tables() -> dict[str, bytes]:
    import pyarrow.parquet as pq

    table = pa.table(
        {"id": [str(n) for n in range(15_000)], "body": [f"text {n} " * 40 for n in range(15_000)]}
    )
    parquet, arrow, feather = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, compression="none", use_dictionary=False, row_group_size=6_000)
    with pa.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table, 4_000)
    with pa.ipc.new_stream(feather, table.schema) as writer:
        writer.write_table(table, 4_000)
    return {"parquet": parquet.getvalue(), "arrow": arrow.getvalue(), "arrows": feather.getvalue()}


class Slow(http.server.BaseHTTPRequestHandler):
    """The path says what is wrong: ``drip`` (the body), ``headers``, ``questions``, ``endless``, or ``whole``
    (nothing is)."""

    protocol_version = "HTTP/1.1"
    tables: dict[str, bytes]
    ended: threading.Event

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        how, _, kind = self.path.strip("/").partition(".")
        if how == "questions":
            self._drip_headers()
            return
        self.send_response(200)
        length = len(self.tables[kind]) if how == "whole" else LENGTH
        self.send_header("content-length", str(length))
        self.send_header("accept-ranges", "bytes")
        self.end_headers()

    def do_GET(self) -> None:
        how, _, kind = self.path.strip("/").partition(".")
        self.close_connection = True
        with contextlib.suppress(OSError):
            if how in ("questions", "headers"):
                self._drip_headers()
                return
            given = self.headers.get("range")
            start, end = (int(n) for n in (given or f"0-{LENGTH - 1}").removeprefix("bytes=").split("-"))
            if how == "whole":
                data = self.tables[kind][start : end + 1]
                self._head(206, len(data), start)
                self.wfile.write(data)
                return
            self._head(206 if given else 200, end - start + 1 if how == "drip" else None, start)
            while not self.ended.wait(0.05 if how == "drip" else 0):
                self.wfile.write(b"ARROW1" if how == "drip" else b"ARROW1" + b"x" * 100_000)

    def _head(self, status: int, length: int | None, start: int) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("content-length", str(length))
        if status == 206:
            self.send_header("content-range", f"bytes {start}-{start + (length or LENGTH) - 1}/{LENGTH}")
        self.end_headers()

    def _drip_headers(self) -> None:
        with contextlib.suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
            while not self.ended.wait(0.05):
                self.wfile.write(b"y")
                self.wfile.flush()


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    Slow.tables, Slow.ended = _tables(), threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a reader may leave early
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        Slow.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same limits, a hundred times shorter."""
    monkeypatch.setattr(remote, "ANSWER_SECONDS", 0.4)
    monkeypatch.setattr(remote, "SLOWEST_BYTES_PER_SECOND", 1 << 30)
    monkeypatch.setattr(remote, "NAMES_SECONDS", 0.4)
    monkeypatch.setattr(remote, "PACE_SECONDS", 0.4)
    monkeypatch.setattr(remote, "WHOLE_BYTES", 1 << 20)
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.01)


def _one_error(source: FileSource) -> str:
    began = time.monotonic()
    records = list(source)
    assert time.monotonic() - began < 20
    [error] = [record for record in records if isinstance(record, RecordError)]
    return error.message


@pytest.mark.parametrize("kind", ["parquet", "arrow", "arrows"])
def test_a_whole_table_is_read_as_it_is(web: str, kind: str) -> None:
    records = list(FileSource([f"{web}/whole.{kind}"]))
    assert [record.source["id"] for record in records if isinstance(record, Document)] == [
        str(n) for n in range(15_000)
    ]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("how", ["drip", "headers"])
def test_a_table_that_drips_is_one_dead_letter(web: str, how: str, kind: str) -> None:
    message = _one_error(FileSource([f"{web}/{how}.{kind}"]))
    assert f"{how}.{kind} can't be read to its end: the store " in message
    assert "broken" not in message


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_part_that_never_ends_is_read_no_further_than_was_asked_for(web: str, kind: str) -> None:
    message = _one_error(FileSource([f"{web}/endless.{kind}"]))
    assert "its answer is longer than" in message


@pytest.mark.usefixtures("impatient")
def test_questions_that_are_never_answered_end(web: str) -> None:
    began = time.monotonic()
    with pytest.raises(
        SourceError, match=r"there is no http://[0-9.:]+/questions\.parquet, or it can't be read"
    ):
        FileSource([f"{web}/questions.parquet"])
    assert time.monotonic() - began < 20


@pytest.mark.usefixtures("impatient")
def test_lines_that_drip_are_one_dead_letter(web: str) -> None:
    assert "it is too slow" in _one_error(FileSource([f"{web}/drip.jsonl"]))
    assert "didn't send what was asked for" in _one_error(FileSource([f"{web}/headers.jsonl"]))


class Store(fsspec.AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
    """A store whose client has no time-outs, and believes what it gets."""

    protocol = "slowstore"
    cachable = False
    how = "slow"

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        if self.how == "questions":
            time.sleep(3)
        if "*" in path:
            raise FileNotFoundError(path)
        return {"name": path, "size": LENGTH, "type": "file"}

    def find(self, path: str, *_: Any, **options: Any) -> list[str]:
        time.sleep(3)
        return [path]

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        how = self.how

        class File(io.BytesIO):
            def seekable(self) -> bool:
                return how != "endless"

            def read(self, size: int | None = -1, /) -> bytes:
                if how == "slow":
                    time.sleep(3)
                return b"x" * (size or 0) * (2 if how == "more" else 1)

        return File(b"x" * 1000)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("how", "message"), [("slow", "didn't send what was asked for within"), ("more", "and was asked for")]
)
@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl"])
def test_each_store_has_the_same_time_and_size(
    kind: str, how: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("slowstore", Store, clobber=True)
    monkeypatch.setattr(Store, "how", how)
    assert message in _one_error(FileSource([f"slowstore://bucket/a.{kind}"]))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("how", "name"),
    [("questions", "a.jsonl"), ("questions", ""), ("questions", "*.jsonl"), ("names", "*.jsonl")],
)
def test_questions_to_each_store_have_a_time(how: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("slowstore", Store, clobber=True)
    monkeypatch.setattr(Store, "how", how)
    began = time.monotonic()
    with pytest.raises(
        SourceError, match=r"can't open slowstore://bucket/.*: the store didn't send|can't be read"
    ):
        FileSource([f"slowstore://bucket/{name}"])
    assert time.monotonic() - began < 2.5


@pytest.mark.usefixtures("impatient")
def test_a_table_that_can_only_be_read_whole_is_read_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("slowstore", Store, clobber=True)
    monkeypatch.setattr(Store, "how", "endless")
    message = _one_error(FileSource(["slowstore://bucket/a.arrow"]))
    assert "longer than 1 MiB, and can only be read whole" in message
