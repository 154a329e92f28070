"""Remote sources through real servers on loopback: S3 (moto's), and https with what goes wrong there."""

from __future__ import annotations

import gzip
import http.server
import json
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from esembed.errors import RecordError, SourceError
from esembed.ingest.sources import FileSource, ReadOptions
from esembed.types import Document

pytest.importorskip("fsspec", reason="remote sources need the extra remote")
LINES = [json.dumps({"id": str(n), "body": f"text {n} " + "x" * 200}).encode() + b"\n" for n in range(60_000)]


def ids(pieces: list[Any]) -> list[str]:
    return [piece.source["id"] for piece in pieces if isinstance(piece, Document)]


# -- S3 ------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 server with an empty bucket; address and keys come from the environment, as a user's."""
    moto = pytest.importorskip(
        "moto.server", reason="the S3 server of the tests is moto: pip install -e .[dev]"
    )
    s3fs = pytest.importorskip("s3fs", reason="s3:// needs s3fs: pip install -e .[dev]")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(reset, timeout=30).close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        store = s3fs.S3FileSystem()
        store.mkdir("bucket")
        yield store
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


def test_s3_globs_folders_and_gzip(bucket: Any) -> None:
    for part in range(3):
        lines = LINES[part * 100 : part * 100 + 100]
        bucket.pipe(f"bucket/feed/part-{part}.jsonl.gz", gzip.compress(b"".join(lines)))
    bucket.pipe("bucket/feed/readme.bin", b"no records")
    source = FileSource(["s3://bucket/feed/part-[01].jsonl.gz"])
    pieces = list(source)
    assert ids(pieces) == [str(n) for n in range(200)]
    assert pieces[150].position == "part-1.jsonl.gz:51"
    assert (
        source.bytes_read
        == source.total_bytes
        == sum(bucket.size(f"bucket/feed/part-{n}.jsonl.gz") for n in "01")
    )
    assert len(ids(list(FileSource(["s3://bucket/feed/"])))) == 300
    bucket.pipe("bucket/feed/part-1.jsonl.gz", bucket.cat("bucket/feed/part-1.jsonl.gz")[:-50])
    broken = list(FileSource(["s3://bucket/feed/*.gz"]))
    [error] = [piece for piece in broken if isinstance(piece, RecordError)]
    assert "part-1.jsonl.gz can't be read to its end" in error.message
    assert {str(n) for n in (*range(100), *range(200, 300))} < set(ids(broken)), "the other files are whole"


def test_s3_says_what_is_missing(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match=r"nothing matches s3://bucket/none/\*\.jsonl"):
        FileSource(["s3://bucket/none/*.jsonl"])
    with pytest.raises(SourceError, match=r"there is no bucket/none\.jsonl"):
        FileSource(["s3://bucket/none.jsonl"])
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    type(bucket).clear_instance_cache()
    with pytest.raises(SourceError, match=r"can't open s3://bucket/a\.jsonl: Unable to locate credentials"):
        FileSource(["s3://bucket/a.jsonl"])


def test_a_store_without_its_package_is_named() -> None:
    try:
        import gcsfs  # noqa: F401
    except ImportError:
        with pytest.raises(SourceError, match="gcsfs"):
            FileSource(["gs://bucket/a.jsonl"])
    else:
        pytest.skip("gcsfs is installed")


# -- https ---------------------------------------------------------------------------------------------

DATA = b"".join(LINES)


class Web(http.server.BaseHTTPRequestHandler):
    """Serves DATA by what the path asks for: with ranges, without, moved, or failing half-way."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[tuple[str, str | None]]] = []

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        if name.startswith("moved"):
            self._answer(302, b"", location="/ranges.jsonl?" + self.path.partition("?")[2])
            return
        if name.startswith(("secret", "broken")):
            self._answer(403 if name.startswith("secret") else 500, b"no")
            return
        given = self.headers.get("range")
        if self.command == "GET":
            self.seen.append((name, given))
        if name.startswith("flaky"):
            self._flaky(name, given, sum(name == other for other, _ in self.seen))
            return
        if given and not name.startswith("plain"):
            first, _, last = given.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(DATA)), len(DATA) - 1)
            self._answer(206, DATA[start : end + 1], **{"content-range": f"bytes {start}-{end}/{len(DATA)}"})
            return
        if name.startswith("plaincut"):
            self._answer(200, DATA[: len(DATA) // 2], length=len(DATA))
            self.close_connection = True
            return
        self._answer(200, DATA, **({} if name.startswith("plain") else {"accept-ranges": "bytes"}))

    def _flaky(self, name: str, given: str | None, time: int) -> None:
        """Answers that break off: after 3 MB each, or the first one alone, of a file that may change."""
        tag = f'"{time}"' if "changing" in name else '"one"'
        tagged = {} if "untold" in name else {"etag": tag, "last-modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        if "ranges" in name and given and self.headers.get("if-range") in (tag, None):
            start = int(given.removeprefix("bytes=").partition("-")[0])
            part = DATA[start:]
            told = {"content-range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}", **tagged}
            self._answer(206, part[:3_000_000], length=len(part), **told)
        else:
            whole = time > 1 and "ranges" not in name
            length = None if "chunked" in name else len(DATA)
            self._answer(200, DATA if whole else DATA[:3_000_000], length=length, **tagged)
        self.close_connection = True

    def _answer(self, status: int, body: bytes, *, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("content-length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr("esembed.ingest.sources.remote.PAUSE_SECONDS", 0.01)


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[str, ReadOptions]]:
    """Its URL, and options that trust its certificate."""
    pytest.importorskip("aiohttp", reason="https:// needs aiohttp, of the extra async")
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    serves, trusts = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(serves)
    authority.configure_trust(trusts)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a reader may leave early
    server.socket = serves.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}", ReadOptions(storage={"ssl": trusts})
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("name", ["ranges", "plain", "moved"])
def test_https_is_read_to_its_end(web: tuple[str, ReadOptions], name: str) -> None:
    url, options = web
    source = FileSource([f"{url}/{name}.jsonl?token=HUSH"], options)
    pieces = list(source)
    assert ids(pieces) == [str(n) for n in range(len(LINES))]
    assert pieces[4].position == f"{name}.jsonl:5"
    assert source.bytes_read == len(DATA)


def test_https_that_breaks_off_keeps_what_came(web: tuple[str, ReadOptions]) -> None:
    url, options = web
    name = "plaincut"
    pieces = list(FileSource([f"{url}/{name}.jsonl?token=HUSH"], options))
    got = ids(pieces)
    assert 0 < len(got) < len(LINES)
    assert got == [str(n) for n in range(len(got))], "nothing is lost before the break"
    error = pieces[-1]
    assert isinstance(error, RecordError)
    assert "4 attempts to go on there failed" in error.message
    assert f"{name}.jsonl can't be read to its end" in error.message
    assert "HUSH" not in error.message


@pytest.mark.parametrize("name", ["flakyranges", "flakyplain", "flakyuntoldplain"])
def test_https_goes_on_where_it_broke(
    web: tuple[str, ReadOptions], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    url, options = web
    source = FileSource([f"{url}/{name}.jsonl?token=HUSH"], options)
    pieces = list(source)
    assert ids(pieces) == [str(n) for n in range(len(LINES))]
    assert [p for p in pieces if isinstance(p, RecordError)] == []
    assert source.bytes_read == len(DATA)
    asked = [given for path, given in Web.seen if path == f"{name}.jsonl"]
    assert asked[0] is None
    assert len(asked) > len(DATA) // 3_000_000 if "ranges" in name else len(asked) == 2
    at = int(str(asked[1]).removeprefix("bytes=").removesuffix("-"))
    assert 0 < at <= 3_000_000  # what aiohttp held when the connection broke is asked for again
    assert f"the connection was lost at byte {at}; going on there" in caplog.text
    assert "HUSH" not in caplog.text


def test_https_never_goes_on_in_another_file(web: tuple[str, ReadOptions]) -> None:
    url, options = web
    for name in ("flakychangingranges", "flakychangingplain"):
        pieces = list(FileSource([f"{url}/{name}.jsonl?token=HUSH"], options))
        got = ids(pieces)
        assert got == [str(n) for n in range(len(got))]
        assert 0 < len(got) < len(LINES)
        error = pieces[-1]
        assert isinstance(error, RecordError)
        assert "and the file is another one by now" in error.message
        assert "run the same again" in error.message


def test_https_that_is_refused_says_so_without_the_secret(web: tuple[str, ReadOptions]) -> None:
    url, options = web
    for name in ("secret", "broken"):
        with pytest.raises(
            SourceError, match=rf"there is no https://[0-9.:]+/{name}\.jsonl, or it can't be read$"
        ):
            FileSource([f"{url}/{name}.jsonl?token=HUSH"], options)


@pytest.mark.parametrize("name", ["ranges", "plain"])
def test_parquet_over_https_needs_ranges(web: tuple[str, ReadOptions], name: str) -> None:
    pytest.importorskip("pyarrow")
    url, options = web
    pieces = list(FileSource([f"{url}/{name}.parquet?token=HUSH"], options))
    [error] = pieces
    assert isinstance(error, RecordError)
    assert ("does not" in error.message or "doesn't" in error.message) == (name == "plain"), error.message
