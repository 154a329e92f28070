"""Sources: every format, and every way a file can be broken."""

from __future__ import annotations

import asyncio
import bz2
import codecs
import functools
import gzip
import http.server
import io
import json
import lzma
import os
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esembed.errors import OptionsError, PermanentError, RecordError, SourceError
from esembed.ingest.dead_letters import UnreadableRecord
from esembed.ingest.id_table import IdTable
from esembed.ingest.sources import FileSource, ReadOptions, Source, from_async, open_source
from esembed.ingest.sources.files import Counter, decompress
from esembed.ingest.sources.lines import read_jsonl
from esembed.ingest.sources.mapper import RecordMapper
from esembed.ingest.term_statistics import BufferedHead
from esembed.types import Document

ROWS = [{"id": str(n), "title": f"title {n}", "text": "größer ✓"} for n in range(5)]


def read(path: Path | str, **options: Any) -> tuple[list[Document], list[UnreadableRecord]]:
    good, bad = [], []
    for piece in FileSource([path], ReadOptions(**options)):
        if isinstance(piece, Document):
            good.append(piece)
        else:
            assert isinstance(piece, UnreadableRecord)
            bad.append(piece)
    return good, bad


def jsonl(rows: list[dict[str, Any]] = ROWS) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", lambda b: b),
        ("a.jsonl.gz", gzip.compress),
        ("misnamed.jsonl", gzip.compress),
        ("a.jsonl.bz2", bz2.compress),
        ("a.ndjson.xz", lzma.compress),
    ],
)
def test_jsonl_compressed_or_not(tmp_path: Path, name: str, pack: Any) -> None:
    path = tmp_path / name
    path.write_bytes(pack(jsonl()))
    good, bad = read(path)
    assert [d.source for d in good] == ROWS
    assert not bad
    assert good[2].position == f"{name}:3"


def test_zstd_with_several_frames(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "a.jsonl.zst"
    pack = zstandard.ZstdCompressor().compress
    path.write_bytes(pack(jsonl()) + pack(jsonl()))
    assert len(read(path)[0]) == 10


def test_a_truncated_gzip_gives_what_is_whole_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    rows = [{"id": str(n), "t": f"{n * 7919 % 1000}" * 30} for n in range(2000)]
    path.write_bytes(gzip.compress(jsonl(rows))[:-2000])
    good, bad = read(path)
    assert 0 < len(good) < 2000
    assert "can't be read to its end" in bad[-1].message


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl().decode().encode(encoding))
    good, bad = read(path)
    assert [d.source for d in good] == ROWS
    assert not bad


def test_mixed_encodings_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"t": "größer"}\n'.encode() + '{"t": "größer"}\n'.encode("cp1252"))
    good, bad = read(path)
    assert len(good) == 1
    assert bad[0].position == "a.jsonl:2"
    assert "not UTF-8 (byte 10 of the line)" in bad[0].message
    good, bad = read(path, fallback_encoding="cp1252")
    assert [d.source["t"] for d in good] == ["größer", "größer"]


def test_broken_lines_have_their_numbers(tmp_path: Path) -> None:
    lines = [
        b'{"id": 1}',
        b'{"id": ',
        b"",
        b"[1, 2]",
        b'{"x": NaN}',
        b'{"x": "\\ud800"}',
        b"null",
        b'{"id": 2}',
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\r\n".join(lines))
    good, bad = read(path)
    assert [d.position for d in good] == ["a.jsonl:1", "a.jsonl:8"]
    assert [b.position for b in bad] == [f"a.jsonl:{n}" for n in (2, 4, 5, 6, 7)]
    reasons = [b.message for b in bad]
    assert "broken JSON" in reasons[0]
    assert "list" in reasons[1]
    assert "NaN" in reasons[2]
    assert "surrogate" in reasons[3]


def test_a_line_too_long_is_passed_over_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": 1}\n{"x": "' + b"y" * 5_000_000 + b'"}\n{"id": 2}\n')
    good, bad = read(path, max_record_bytes=1_000_000)
    assert [d.position for d in good] == ["a.jsonl:1", "a.jsonl:3"]
    assert "max_record_bytes" in bad[0].message
    assert bad[0].position == "a.jsonl:2"
    good, _ = read(path)
    assert len(good[1].source["x"]) == 5_000_000


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    text = 'id,title,text\n1,"a, b","two\nlines"\n2,short\n3,,x\n4,größer,y\n'
    path.write_bytes(codecs.BOM_UTF8 + text.encode())
    good, bad = read(path)
    assert [d.source for d in good] == [
        {"id": "1", "title": "a, b", "text": "two\nlines"},
        {"id": "3", "text": "x"},
        {"id": "4", "title": "größer", "text": "y"},
    ]
    assert bad[0].position == "a.csv:4"
    assert "2 cells where the header has 3" in bad[0].message


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("long", ["x" * 5_000, '"' + "x" * 5_000 + '"', ",".join("y" * 3_000)])
def test_a_csv_line_beyond_the_limit_is_one_dead_letter(tmp_path: Path, end: str, long: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(end.join(["_id,body", "1,a", f"2,{long}", "3,b"]).encode())
    good, bad = read(path, max_record_bytes=4_000)
    assert [(doc.source["_id"], doc.position) for doc in good] == [("1", "a.csv:2"), ("3", "a.csv:4")]
    assert [(error.position, "max_record_bytes" in error.message) for error in bad] == [("a.csv:3", True)]


def test_csv_of_another_delimiter_says_so_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id;title\n1;"two\nlines"\n2;x\n')
    with pytest.raises(OptionsError, match="--delimiter ';'"):
        read(path)
    good, bad = read(path, delimiter=";")
    assert not bad
    assert [d.position for d in good] == ["a.csv:2", "a.csv:4"], "the line that a row begins in"
    assert good[0].source == {"id": "1", "title": "two\nlines"}
    assert len(read(path, delimiter=",")[0]) == 3, "what is said is done"


def test_tsv_and_a_cell_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(
        "id\tt\n1\tgrößer\n2\tgrößer\n".encode().replace(b"2\tgr\xc3\xb6\xc3\x9fer", b"2\tgr\xf6\xdfer")
    )
    good, bad = read(path)
    assert [d.source["id"] for d in good] == ["1"]
    assert len(bad) == 1
    assert [d.source["t"] for d in read(path, fallback_encoding="cp1252")[0]] == ["größer", "größer"]


def test_json_files(tmp_path: Path) -> None:
    array, one, lines = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.json"
    array.write_bytes(json.dumps([*ROWS, 3]).encode())
    one.write_text(json.dumps(ROWS[0], indent=2))
    lines.write_bytes(jsonl())
    good, bad = read(array)
    assert (len(good), len(bad)) == (5, 1)
    assert bad[0].position == "a.json[6]"
    assert [d.source for d in read(one)[0]] == ROWS[:1]
    assert [d.source for d in read(lines)[0]] == ROWS


def test_parquet_and_arrow(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "n": pa.array([1, None, 3], pa.int32()),
            "emb": pa.FixedSizeListArray.from_arrays(vectors.ravel(), 4),
            "tags": [["x"], [], None],
            "floats": pa.array([[1.5, 2.5], None, []], pa.list_(pa.float32())),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    with pa.OSFile(str(tmp_path / "b.arrows"), "wb") as out, pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    for name in ("a.parquet", "a.arrow", "b.arrows"):
        good, bad = read(tmp_path / name)
        assert not bad
        assert [d.source["id"] for d in good] == ["a", "b", "c"]
        assert "n" not in good[1].source
        np.testing.assert_array_equal(good[2].source["emb"], vectors[2])
        np.testing.assert_array_equal(good[0].source["floats"], [1.5, 2.5])
        assert "floats" not in good[1].source
        assert good[0].source["tags"] == ["x"]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing else")
    assert "broken Parquet" in read(tmp_path / "broken.parquet")[1][0].message


def test_folders_globs_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS[:1]))
    (tmp_path / "sub" / "b.csv").write_text("id\n7\n")
    (tmp_path / "sub" / "c.md").write_text("# Notes\n")
    (tmp_path / "ignored.bin").write_bytes(b"\0")
    good, _ = read(tmp_path)
    assert [d.position for d in good] == ["a.jsonl:1", "sub/b.csv:2", "sub/c.md"]
    assert good[2].id == "sub/c.md"
    assert len(read(str(tmp_path / "**" / "*.csv"))[0]) == 1
    with pytest.raises(SourceError, match="there is no file"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(SourceError, match="can't tell the format"):
        read(tmp_path / "ignored.bin")


def test_fsspec_urls() -> None:
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://bucket/a.jsonl.gz", "wb") as file:
        file.write(gzip.compress(jsonl()))
    source = FileSource(["memory://bucket/*.gz"], ReadOptions(format="jsonl"))
    assert [d.source for d in source if isinstance(d, Document)] == ROWS
    assert source.bytes_read == source.total_bytes


@pytest.fixture
def https_server(tmp_path: Path) -> Iterator[tuple[str, ssl.SSLContext]]:
    """A file store on loopback: its address, and what trusts its certificate."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nothing."""

    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = theirs.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", ours
    server.shutdown()
    server.server_close()
    thread.join()


def test_https(tmp_path: Path, https_server: tuple[str, ssl.SSLContext]) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    url, trust = https_server
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl()))
    good, bad = read(f"{url}/a.jsonl.gz?signature=secret", storage={"ssl": trust})
    assert not bad
    assert [d.source for d in good] == ROWS
    assert good[0].position == "a.jsonl.gz:1", "no query string, which may hold a secret"
    with pytest.raises(SourceError, match=r"none\.jsonl") as caught:
        read(f"{url}/none.jsonl?signature=secret", storage={"ssl": trust})
    assert "secret" not in str(caught.value)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(gzip.compress(jsonl()))

    monkeypatch.setattr("sys.stdin", Stdin)
    assert len(read("-")[0]) == 5


def test_iterables_of_many_shapes() -> None:
    pieces = list(open_source([{"a": 1}, ("x", {"a": 2}), Document("y", {"a": 3}), 7]))
    assert [p.id for p in pieces[:3] if isinstance(p, Document)] == [None, "x", "y"]
    assert isinstance(pieces[3], UnreadableRecord)
    for wrong in ({"a": 1}, 3):
        with pytest.raises(SourceError):
            open_source(wrong)


def test_ids_operations_and_fields() -> None:
    mapper = RecordMapper(op_field="op", fields={"body": "meta.abstract"})
    made = mapper(Document(None, {"id": 7, "meta": {"abstract": "x"}}))
    assert made is not None
    assert (made.id, made.op, made.source["body"]) == ("7", "index", "x")
    gone = mapper(Document(None, {"op": "delete", "_id": "a"}))
    assert gone is not None
    assert (gone.id, gone.op) == ("a", "delete")
    changed = mapper(Document(None, {"op": "update", "id": "a", "doc": {"n": 1}}))
    assert changed is not None
    assert (changed.op, changed.source) == ("update", {"id": "a", "n": 1})
    plain = mapper(Document(None, {"id": "a", "op": "a word"}))
    assert plain is not None
    assert plain.source["op"] == "a word"
    with pytest.raises(RecordError, match="needs an id"):
        mapper(Document(None, {"op": "delete"}))
    with pytest.raises(RecordError, match="a string, a whole number or a UUID"):
        mapper(Document(None, {"id": 1.5}))
    with pytest.raises(RecordError, match="id_field"):
        RecordMapper(id_field="sku")(Document(None, {"id": "a"}))


@pytest.mark.parametrize("word", ["upsert", "DELETE", "c", "D", "insert"])
def test_another_feeds_word_for_an_operation_is_refused(word: str) -> None:
    document = Document(id=None, source={"op": word, "id": "1", "title": "t"})
    with pytest.raises(RecordError, match=f"'op' is '{word}'; a change feed says index, update or delete"):
        RecordMapper(op_field="op")(document)
    assert RecordMapper(op_field=None)(document), "a field of that name"
    other = Document(id=None, source={"op": "surgery", "id": "1"})
    found = RecordMapper(op_field="op")(other)
    assert found is not None
    assert found.source["op"] == "surgery"


def test_the_transform_hook() -> None:
    mapper = RecordMapper(transform=lambda r: {**r, "n": r["n"] + 1} if r["n"] else None)
    made = mapper(Document("a", {"n": 1}))
    assert made is not None
    assert made.source == {"n": 2}
    assert mapper(Document("a", {"n": 0})) is None
    with pytest.raises(RecordError, match="transform hook failed: KeyError"):
        mapper(Document("a", {}))


def test_ids_that_can_not_be_noted_say_where(monkeypatch: pytest.MonkeyPatch) -> None:
    table = IdTable()
    for number in range(2_100):
        table.put(f"d{number}", "hash")
    assert (len(table), "d2099" in table, table.get("d7"), "x" in table) == (2_100, True, "hash", False)
    table.mark(f"d{number}" for number in range(2_099))
    assert list(table.unmarked()) == ["d2099"]
    table._db.execute("PRAGMA query_only = ON")  # as a disk that is full: nothing can be written
    table.put("more", "hash")
    with pytest.raises(PermanentError, match=r"temporary folder .*TMPDIR"):
        len(table)
    table.close()


def test_a_line_of_an_open_pipe_is_there_when_it_is_written(tmp_path: Path) -> None:
    for first, rest in ((b'{"id": "a"}\n', b""), (b'{"', b'id": "a"}\n')):
        out, into = os.pipe()
        with os.fdopen(out, "rb") as reading, os.fdopen(into, "wb", buffering=0) as writing:
            writing.write(first)
            if rest:
                threading.Timer(0.05, writing.write, (rest,)).start()
            stream = decompress(Counter(reading), "pipe")
            pieces = read_jsonl(stream, "pipe", encoding="utf-8", fallback=None, limit=1000)
            assert next(pieces).source == {"id": "a"}  # type: ignore[union-attr]
            writing.write(b'{"id": "b"}\n')
            assert next(pieces).source == {"id": "b"}  # type: ignore[union-attr]
            writing.close()
            assert list(pieces) == []
    out, into = os.pipe()
    with os.fdopen(out, "rb") as reading, os.fdopen(into, "wb", buffering=0) as writing:
        packed = gzip.compress(b'{"id": "c"}\n')
        writing.write(packed[:1])
        threading.Timer(0.05, lambda: (writing.write(packed[1:]), writing.close())).start()
        stream = decompress(Counter(reading), "pipe")
        (piece,) = read_jsonl(stream, "pipe", encoding="utf-8", fallback=None, limit=1000)
        assert piece.source == {"id": "c"}  # type: ignore[union-attr]
        stream.close()


def test_a_head_is_looked_at_without_waiting_for_a_silent_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esembed.ingest.term_statistics.SAMPLE_SECONDS", 0.1)
    go = threading.Event()

    def slow(error: bool) -> Iterator[dict[str, Any]]:
        yield {"id": "a"}
        assert go.wait(60)
        yield {"id": "b"}
        if error:
            raise OSError("lost")
        yield {"id": "c"}

    peeked = BufferedHead(Source(slow(False)))
    assert [piece.source["id"] for piece in peeked.head] == ["a"]
    records = iter(peeked)
    assert next(records).source["id"] == "a"  # type: ignore[union-attr]
    go.set()
    assert [piece.source["id"] for piece in records] == ["b", "c"]  # type: ignore[union-attr]

    broken = iter(BufferedHead(Source(slow(True))))
    assert [next(broken).source["id"] for _ in range(2)] == ["a", "b"]  # type: ignore[union-attr]
    with pytest.raises(OSError, match="lost"):
        next(broken)
    many = BufferedHead(Source({"id": str(n)} for n in range(2500)))
    assert len(many.head) == 1000
    assert [piece.source["id"] for piece in many] == [str(n) for n in range(2500)]  # type: ignore[union-attr]


def test_records_of_an_async_feed_come_one_by_one() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    closed: list[str] = []

    async def feed(count: int, go: asyncio.Event | None = None, error: bool = False) -> Any:
        try:
            for number in range(count):
                if go is not None and number:
                    await go.wait()
                yield {"id": str(number)}
            if error:
                raise ValueError("the feed broke")
        finally:
            closed.append("closed")

    try:
        go = asyncio.Event()
        records = from_async(feed(3, go), loop)
        assert next(records) == {"id": "0"}  # the next one isn't there yet
        loop.call_soon_threadsafe(go.set)
        assert [record["id"] for record in records] == ["1", "2"]
        assert [r["id"] for r in from_async(feed(1000), loop, limit=7)] == [str(n) for n in range(1000)]
        broken = from_async(feed(20, error=True), loop)
        assert [next(broken)["id"] for _ in range(20)] == [str(n) for n in range(20)]
        with pytest.raises(ValueError, match="the feed broke"):
            next(broken)
        left = from_async(feed(1000), loop, limit=7)
        assert next(left) == {"id": "0"}
        left.close()  # type: ignore[attr-defined]
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), loop).result()
        assert closed == ["closed"] * 4
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "klingon"}, "no text encoding 'klingon' .common ones: utf-8"),
        ({"fallback_encoding": "base64"}, "no text encoding 'base64'"),
        ({"delimiter": ";;"}, "one character stands between CSV cells, not ';;'"),
        ({"delimiter": ""}, "one character stands between CSV cells, not ''"),
    ],
)
def test_read_options_are_checked_before_anything_is_read(options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        ReadOptions(**options)  # type: ignore[arg-type]


def test_a_tab_can_be_written_on_a_command_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id\ttitle\n1\tone\n")
    for tab in ("\t", "\\t", "tab"):
        assert [d.source for d in read(tmp_path / "t.csv", delimiter=tab)[0]] == [{"id": "1", "title": "one"}]
    with pytest.raises(OptionsError, match=r"--delimiter '\\t'"):
        read(tmp_path / "t.csv")
    (tmp_path / "twice.csv").write_text("id,a,a\n1,2,3\n")
    assert read(tmp_path / "twice.csv")[1][0].message == "two columns have the same name, 'a'"


def test_parquet_times_in_nanoseconds_are_cut_to_what_python_has(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    stamp, day = 1_704_164_645_123_456_789, 86_400 * 10**9
    table = pa.table(
        {
            "at": pa.array([stamp, None], pa.timestamp("ns", tz="UTC")),
            "clock": pa.array([day - 1, None], pa.time64("ns")),
        }
    )
    pq.write_table(table, tmp_path / "ns.parquet")
    first, second = read(tmp_path / "ns.parquet")[0]
    assert first.source == {"at": "2024-01-02T03:04:05.123456+00:00", "clock": "23:59:59.999999"}
    assert second.source == {}


def test_quotes_that_are_text(tmp_path: Path) -> None:
    path = tmp_path / "export.tsv"
    path.write_text('sku\ttitle\n1\t"Best" shoes\n2\t24" screen\n3\t"unclosed\n4\tplain\n')
    good, bad = read(path, quote="")
    assert [d.source["title"] for d in good] == ['"Best" shoes', '24" screen', '"unclosed', "plain"]
    assert not bad
    good, bad = read(path)
    assert [d.source["sku"] for d in good] == ["2"]
    assert len(bad) == 2
    assert all("--quote ''" in error.message for error in bad)
    path.write_text("sku\ttitle\n1\t'a\tb'\n")
    assert read(path, quote="'")[0][0].source == {"sku": "1", "title": "a\tb"}
    for wrong in ("''", "\n", "\t"):
        with pytest.raises(OptionsError, match="one character stands around"):
            read(path, quote=wrong)
