"""``openai:``: over HTTP, against a server that speaks the protocol and misbehaves on request."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import logging
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from esembed.encode.base import DenseEncoder, RuntimeOptions
from esembed.encode.registry import load
from esembed.encode.remote import OpenAIEncoder, estimate_tokens
from esembed.errors import EncoderError, RateLimitedError, TransientError
from esembed.plan.params import EncoderParams

KEY = "sk-very-secret-0123456789"
DIMS = 8
Answer = tuple[int, dict[str, str], Any]


def vector_of(text: str, dims: int = DIMS) -> list[float]:
    """A unit vector that only the text decides."""
    seed = int.from_bytes(text.encode("utf-8")[-8:], "little")
    values = np.random.default_rng(seed).standard_normal(dims).astype(np.float32)
    return [float(x) for x in values / np.linalg.norm(values)]


def good(request: dict[str, Any]) -> Answer:
    dims = request.get("dimensions", DIMS)
    data: list[dict[str, Any]] = []
    for i, text in enumerate(request["input"]):
        vector: Any = vector_of(text, dims)
        if request["encoding_format"] == "base64":
            vector = base64.b64encode(np.array(vector, "<f4").tobytes()).decode()
        data.append({"object": "embedding", "index": i, "embedding": vector})
    tokens = sum(len(t.split()) for t in request["input"])
    return 200, {}, {"data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def changed(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[dict[str, Any]], Answer]:
    """A good answer whose ``data`` (as float lists) was changed."""

    def behave(request: dict[str, Any]) -> Answer:
        _, _, body = good({**request, "encoding_format": "float"})
        return 200, {}, {"data": change(body["data"])}

    return behave


def status(code: int, message: str = "no", **headers: str) -> Callable[[dict[str, Any]], Answer]:
    wire = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: (code, wire, {"error": {"message": message, "code": wire.get("x-code")}})


class Server:
    """Behaves as the list says, one entry a request, and well when it is used up."""

    def __init__(self) -> None:
        self.behaviors: list[Callable[[dict[str, Any]], Answer]] = []
        self.always: Callable[[dict[str, Any]], Answer] = good
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.release = threading.Event()
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    outer.requests.append(body)
                    outer.headers.append({k.lower(): v for k, v in self.headers.items()})
                    behave = outer.behaviors.pop(0) if outer.behaviors else outer.always
                code, headers, answer = behave(body)
                raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                try:
                    self.send_response(code)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(raw)))
                    self.end_headers()
                    self.wfile.write(raw)
                except OSError:
                    self.close_connection = True  # the client gave up waiting, as it should

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = False
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def slow(self, request: dict[str, Any]) -> Answer:
        self.release.wait(30)
        return good(request)

    def close(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def make(server: Server) -> Iterator[Callable[..., OpenAIEncoder]]:
    made: list[OpenAIEncoder] = []

    def build(**options: Any) -> OpenAIEncoder:
        options = {"api_key": KEY, "base_url": server.url, "sleep": waits.append, **options}
        made.append(OpenAIEncoder("m", **options))
        return made[-1]

    waits: list[float] = []
    build.waits = waits  # type: ignore[attr-defined]
    yield build
    for encoder in made:
        encoder.close()


def test_vectors_come_back_in_order_over_many_batches(server: Server, make: Any) -> None:
    encoder = make(batch_texts=3, max_concurrency=4, price_usd_per_million_tokens=2.0)
    texts = [f"text number {i}" for i in range(20)]
    vectors = encoder.encode_document(texts)
    assert isinstance(encoder, DenseEncoder)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.array([vector_of(t) for t in texts], np.float32))
    assert len(server.requests) == 7
    assert encoder.info.dims == DIMS
    assert (encoder.stats.texts, encoder.stats.tokens) == (20, 60)
    assert encoder.stats.cost_usd == pytest.approx(60 * 2.0 / 1e6)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert server.requests[0]["encoding_format"] == "base64"
    assert "dimensions" not in server.requests[0]


def test_batches_are_bounded_by_tokens(server: Server, make: Any) -> None:
    encoder = make(batch_tokens=10, count_tokens=len)
    encoder.encode_document(["aaaa", "bbbb", "cccc", "d" * 50, "e"])
    assert sorted(len("".join(r["input"])) for r in server.requests) == [1, 4, 8, 50]


def test_dimensions_are_asked_for_and_checked(server: Server, make: Any) -> None:
    assert make(dims=4).encode_query(["a"]).shape == (1, 4)
    assert server.requests[0]["dimensions"] == 4
    server.behaviors = [lambda request: good({**request, "dimensions": DIMS})]
    with pytest.raises(EncoderError, match="8 dimensions instead of 4; it doesn't honour"):
        make(dims=4).encode_query(["a"])


def test_a_server_that_changes_its_width_is_noticed(server: Server, make: Any) -> None:
    encoder = make()
    encoder.encode_query(["a"])
    server.behaviors = [lambda request: good({**request, "dimensions": 5})]
    with pytest.raises(EncoderError, match="5 dimensions instead of 8; the server changed"):
        encoder.encode_query(["a"])


def test_order_is_restored_from_the_indexes(server: Server, make: Any) -> None:
    server.behaviors = [changed(lambda data: data[::-1])]
    vectors = make().encode_document(["a", "b", "c"])
    np.testing.assert_allclose(vectors, [vector_of(t) for t in "abc"], rtol=1e-6)


def test_prompts_empty_texts_and_no_texts(server: Server, make: Any) -> None:
    encoder = make(query_prompt="query: ")
    encoder.encode_query(["cat"])
    encoder.encode_document([""])
    assert [r["input"] for r in server.requests] == [["query: cat"], [" "]]
    assert encoder.encode_document([]).shape == (0, DIMS)
    assert len(server.requests) == 2


def test_normalize(server: Server, make: Any) -> None:
    server.always = changed(lambda data: [{**d, "embedding": [3.0, 4.0]} for d in data])
    np.testing.assert_allclose(make(normalize=True).encode_query(["a"]), [[0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(make().encode_query(["a"]), [[3.0, 4.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "1 vectors .* for 2 texts"),
        (lambda data: [*data, data[0]], "3 vectors"),
        (lambda data: [{**d, "index": 0} for d in data], "2 vectors"),
        (lambda data: [{"embedding": d["embedding"]} for d in data], "no embeddings response"),
        (lambda data: "nothing", "no embeddings response"),
        (lambda data: [{**d, "embedding": [float("nan")] * DIMS} for d in data], "NaN"),
        (lambda data: [{**d, "embedding": [1e300] * DIMS} for d in data], "infinite"),
        (lambda data: [{**d, "embedding": [1.0] * (d["index"] + 1)} for d in data], "unlike lengths"),
        (lambda data: [{**d, "embedding": []} for d in data], "without dimensions"),
        (lambda data: [{**d, "embedding": ["1"] * DIMS} for d in data], "no numbers"),
        (lambda data: [{**d, "embedding": "no base64!"} for d in data], "no numbers"),
    ],
)
def test_answers_that_cant_be_right_are_refused_at_once(
    server: Server, make: Any, change: Any, message: str
) -> None:
    server.always = changed(change)
    with pytest.raises(EncoderError, match=message):
        make().encode_document(["a", "b"])
    assert len(server.requests) == 1


def test_no_json_is_refused(server: Server, make: Any) -> None:
    server.always = lambda request: (200, {}, b"<html>")
    with pytest.raises(EncoderError, match="no embeddings response"):
        make().encode_document(["a"])


def test_retry_after_is_honoured(server: Server, make: Any) -> None:
    server.behaviors = [status(429, retry_after="7"), status(503, retry_after_ms="2500")]
    vectors = make().encode_query(["a"])
    np.testing.assert_allclose(vectors[0], vector_of("a"), rtol=1e-6)
    asked = [w for w in make.waits if w > 0]
    assert 6 < max(asked) <= 7.2  # no time passes with this sleep, so the first wait is asked again
    assert len(server.requests) == 3


def test_retry_after_as_a_date(server: Server, make: Any) -> None:
    server.behaviors = [status(429, retry_after="Fri, 01 Jan 2100 00:00:00 GMT")]
    with pytest.raises(RateLimitedError) as caught:
        make().encode_query(["a"])
    assert caught.value.retry_after_seconds is not None
    assert caught.value.retry_after_seconds > 1e6
    assert len(server.requests) == 1  # longer than max_wait_seconds: told, not waited for


def test_what_passes_is_tried_again_a_bounded_number_of_times(server: Server, make: Any) -> None:
    server.behaviors = [status(500), status(502)]
    assert make(max_retries=2).encode_query(["a"]).shape == (1, DIMS)
    server.requests.clear()
    server.always = status(500, "on fire")
    with pytest.raises(TransientError, match="500: on fire"):
        make(max_retries=2).encode_query(["a"])
    assert len(server.requests) == 3
    assert all(0 <= wait <= 30 for wait in make.waits)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 302])
def test_what_doesnt_pass_is_not_tried_again(server: Server, make: Any, code: int) -> None:
    server.always = status(code, "you shall not")
    with pytest.raises(EncoderError, match=f"{code}: you shall not"):
        make().encode_query(["a", "b"])
    assert len(server.requests) == 1


def test_a_spent_quota_is_no_rate_limit(server: Server, make: Any) -> None:
    server.always = status(429, "pay", x_code="insufficient_quota")
    with pytest.raises(EncoderError, match="quota"):
        make().encode_query(["a"])
    assert len(server.requests) == 1


def test_a_server_that_is_too_slow_is_given_up_and_asked_again(server: Server, make: Any) -> None:
    server.behaviors = [server.slow]
    assert make(timeout_seconds=0.3, max_retries=1).encode_query(["a"]).shape == (1, DIMS)
    server.always = server.slow
    with pytest.raises(TransientError, match="did not answer in time"):
        make(timeout_seconds=0.2, max_retries=1).encode_query(["a"])


def test_an_unreachable_server(make: Any) -> None:
    with pytest.raises(TransientError, match="can't reach"):
        make(base_url="http://127.0.0.1:1/v1", max_retries=1).encode_query(["a"])


@pytest.mark.parametrize("refusal", [status(413), status(422, "batch size 5 > maximum allowed 2")])
def test_a_batch_that_is_too_large_is_halved(server: Server, make: Any, refusal: Any) -> None:
    server.always = lambda request: refusal(request) if len(request["input"]) > 2 else good(request)
    encoder = make()
    texts = list("abcdefghij")
    np.testing.assert_allclose(encoder.encode_document(texts), [vector_of(t) for t in texts], rtol=1e-6)
    before = len(server.requests)
    encoder.encode_document(texts)
    assert all(len(r["input"]) <= 2 for r in server.requests[before:])  # learnt


def test_one_text_that_is_too_large_is_an_error(server: Server, make: Any) -> None:
    server.always = status(413, "too large")
    with pytest.raises(EncoderError, match="413"):
        make().encode_document(["a", "b"])


def test_the_key_stays_secret(server: Server, make: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.always = status(401, f"Incorrect API key provided: {KEY}")
    encoder = make()
    with pytest.raises(EncoderError) as caught:
        encoder.encode_query(["a"])
    error = caught.value
    assert "***" in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None
    seen = [str(error), repr(error), repr(encoder), repr(encoder.info), caplog.text, str(error.__dict__)]
    assert not any(KEY in text for text in seen)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    with pytest.raises(EncoderError, match="made by hand"):
        pickle.dumps(encoder)
    with pytest.raises(TransientError) as lost:
        make(base_url="http://127.0.0.1:1/v1", max_retries=0).encode_query(["a"])
    assert lost.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/v1", "must be a URL"),
        ("https://user:pw@host/v1", "no user, password"),
        ("https://host/v1?key=1", "no user, password"),
        ("http://example.org/v1", "unencrypted"),
    ],
)
def test_addresses_that_wont_do(url: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message) as caught:
        OpenAIEncoder("m", base_url=url, api_key=KEY)
    assert "pw" not in str(caught.value)


def test_the_registry_loads_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    encoder = load(f"openai:org/model@{server.url}", EncoderParams(query_prompt="q: "))
    assert encoder.info.dims == DIMS  # asked once, while loading
    assert encoder.info.spec == "openai:org/model"
    assert encoder.info.runtime["url"] == server.url
    # the key for OpenAI is not for whoever answers at another address
    assert "authorization" not in server.headers[0]
    encoder.close()
    encoder = load(f"openai:m@{server.url}", runtime=RuntimeOptions(api_key_env="OPENAI_API_KEY"))
    assert server.headers[-1]["authorization"] == f"Bearer {KEY}"
    encoder.close()
    encoder = load("openai:text-embedding-3-small", EncoderParams(dims=256))
    assert encoder.info.dims == 256
    encoder.close()
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EncoderError, match="OPENAI_API_KEY holds no key"):
        load("openai:text-embedding-3-small")
    with pytest.raises(EncoderError, match="the server decides the rest"):
        load(f"openai:m@{server.url}", EncoderParams(pooling="mean"))


def test_a_missing_usage_is_estimated_and_said(server: Server, make: Any) -> None:
    server.always = changed(lambda data: data)
    encoder = make()
    encoder.encode_document(["one two three"])
    assert encoder.stats.tokens == estimate_tokens("one two three") == 4
    assert encoder.info.runtime["tokens_estimated"] is True


def raw(body: bytes, **headers: str) -> Callable[[dict[str, Any]], Answer]:
    return lambda request: (200, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def one(index: str, embedding: str = "[1,0]", more: str = "") -> bytes:
    return f'{{"data":[{{"index":{index},"embedding":{embedding}}}]{more}}}'.encode()


@pytest.mark.parametrize(
    "body",
    [
        *map(one, ("0.9", "0.0", "true", "false", '"0"', "null", "[0]", "1e400", "-1", "NaN")),
        one("1" + "0" * 400),
        *(one("0", f"[{n},0]") for n in ("1" + "0" * 400, "1" + "0" * 5000, "1e400", "NaN", "true", "{}")),
        b"[" * 100_000, b'{"data":' * 50_000, b"[]", b"null", b"0", b'{"data":{}}', b'{"data":[[]]}',
    ],
)  # fmt: skip
def test_junk_is_one_error(server: Server, make: Any, body: bytes) -> None:
    server.always = raw(body)
    with pytest.raises(EncoderError, match="answered with"):
        make().encode_document(["a"])


@pytest.mark.parametrize("tokens", ["-1", "true", "1.5", "1" + "0" * 30])
def test_usage_that_is_none_is_estimated(server: Server, make: Any, tokens: str) -> None:
    server.always = raw(one("0", more=f',"usage":{{"total_tokens":{tokens}}}'))
    encoder = make()
    encoder.encode_document(["a"])
    assert encoder.stats.tokens == estimate_tokens("a")


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "zstd", "br", "deflate", "GZIP"])
def test_a_packed_body_is_bounded_unpacked(server: Server, make: Any, encoding: str) -> None:
    server.always = raw(gzip.compress(b" " * (64 << 20)), content_encoding=encoding)
    with pytest.raises(EncoderError, match=r"more than \d+ bytes|not asked for|can't be decoded"):
        make().encode_document(["a"])


def test_a_byte_at_a_time_ends_by_the_deadline(make: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
                while not stop.wait(0.02):
                    connection.sendall(b" ")

        stop = threading.Event()
        thread = threading.Thread(target=drip)
        thread.start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            with pytest.raises(TransientError, match="in time"):
                make(base_url=url, timeout_seconds=0.5, max_retries=0).encode_document(["a"])
        finally:
            stop.set()
            thread.join()
