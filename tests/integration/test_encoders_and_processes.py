"""Remote, static, combined and cross-encoders in forked children and through pickles: each works, or says at
once that it has to be loaded there."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from forks import forks, in_child, told
from small_models import make_cross_encoder, make_masked_lm, make_static

from esembed.encode.base import RuntimeOptions
from esembed.encode.pool import EncoderPool
from esembed.encode.registry import load
from esembed.encode.transformer.combined import load_combined
from esembed.errors import EncoderError
from esembed.plan import IndexPlan
from esembed.plan.params import EncoderParams

pytest.importorskip("openvino")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
RUNTIME = RuntimeOptions(backend="openvino", dtype="float32", threads=2)
TEXTS = ["the cat sat on the mat", "a dog ran", ""]
BEFORE = "before this process was forked"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("members")
    return {
        "masked_lm": make_masked_lm(root / "masked_lm"),
        "cross": make_cross_encoder(root / "cross"),
        "static": make_static(root / "static"),
    }


@pytest.fixture
def endpoint() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
            data = [
                {"index": i, "embedding": [float(len(t)), float(os.getpid())]} for i, t in enumerate(asked)
            ]
            body = json.dumps({"data": data, "usage": {"total_tokens": len(asked)}}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()
    http.server_close()
    thread.join()


@contextlib.contextmanager
def busy(call: Callable[[], Any]) -> Iterator[None]:
    """Two other threads of the parent are in *call* all the time."""
    stop = threading.Event()
    failed: list[Exception] = []

    def work() -> None:
        while not stop.is_set():
            try:
                call()
            except Exception as error:
                failed.append(error)
                raise

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed


@forks
def test_a_remote_encoder_goes_on_in_a_child_on_connections_of_its_own(endpoint: str) -> None:
    encoder: Any = load(f"openai:m@{endpoint}", EncoderParams(dims=2))
    texts = [f"text {n}" for n in range(600)]  # several requests at once
    expected = encoder.encode_document(texts)
    with busy(lambda: encoder.encode_query(["a busy parent"])):
        for _ in range(6):
            work = lambda: str((encoder.encode_document(texts) == expected).all())  # noqa: E731
            assert in_child(work, 20) == "True"
            # a child that only lets go of it ends nobody's connections
            assert in_child(lambda: str(encoder.close()), 20) == "None"
    assert (encoder.encode_document(texts) == expected).all()
    encoder.close()


@forks
@pytest.mark.parametrize("parallel", ["", "true", "1", "false"])
def test_a_static_encoder_goes_on_in_a_child(folders: dict[str, Path], parallel: str) -> None:
    """tokenizers waited for ever for the parent's threads where the variable asked for threads."""
    code = f"""
import sys, threading
sys.path[:0] = [{str(Path(__file__).resolve().parents[1])!r}]
from forks import in_child
from esembed import load_encoder
encoder = load_encoder({f"static:{folders['static']}"!r})
texts = ["the cat sat on the mat"] * 3000
expected = encoder.encode_document(texts)
stop = threading.Event()
def busy():
    while not stop.is_set():
        encoder.encode_query(texts)
thread = threading.Thread(target=busy)
thread.start()
for _ in range(3):
    print(in_child(lambda: str((encoder.encode_document(texts) == expected).all()), 20))
stop.set()
thread.join()
"""
    environ = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    environ |= {"TOKENIZERS_PARALLELISM": parallel} if parallel else {}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout.split() == ["True"] * 3


@forks
@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_a_cross_encoder_tells_a_child(folders: dict[str, Path], backend: Any) -> None:
    from esembed.encode.cross_encoder import CrossEncoder

    cross = CrossEncoder(folders["cross"], backend=backend)
    before = cross("where the cat", TEXTS)

    def work() -> str:
        said = told(cross, "where the cat", TEXTS)
        cross.close()
        # torch can't compute here any more, whoever asks
        return f"{said} | {told(CrossEncoder, folders['cross'])}"

    with busy(lambda: cross("where", TEXTS)):
        said = in_child(work)
    assert BEFORE in said
    assert "forked after torch had computed" in said
    assert cross("where the cat", TEXTS) == pytest.approx(before, abs=1e-5)
    cross.close()


@forks
@pytest.mark.parametrize("side", ["encode_document", "encode_query"])
def test_a_combined_encoder_and_its_halves_tell_a_child(folders: dict[str, Path], side: str) -> None:
    both = load_combined(str(folders["masked_lm"]), runtime=RUNTIME)
    parts: list[Any] = [both, both.dense, both.sparse, *both.one_at_a_time()]
    for part in parts:
        getattr(part, side)(TEXTS)

    def work() -> str:
        said = [told(getattr(part, side), [*TEXTS, "another"]) for part in parts]
        both.close()
        return str([BEFORE in one for one in said])

    with busy(lambda: both.encode_document(TEXTS)):
        assert in_child(work) == str([True] * 5)
    both.close()


def _same(one: Any, two: Any) -> None:
    if isinstance(one, tuple):
        for mine, theirs in zip(one, two, strict=True):
            _same(mine, theirs)
    elif isinstance(one, np.ndarray):
        np.testing.assert_allclose(one, two, atol=1e-5)
    else:
        assert [v.to_dict() for v in one] == [pytest.approx(v.to_dict(), abs=1e-5) for v in two]


def test_combined_encoders_and_their_halves_are_pickled_as_what_they_were_loaded_from(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders["masked_lm"].parent)
    made = load_combined(
        "./masked_lm", dense=EncoderParams(dims=16), sparse=EncoderParams(top_k=5), runtime=RUNTIME
    )
    plan = IndexPlan.from_dict(
        {
            "text": {"body": {}},
            "dense": {"embedding": {"encoder": f"hf:{folders['masked_lm']}", "source": ["body"]}},
            "sparse": {"terms": {"encoder": f"splade:{folders['masked_lm']}", "source": ["body"]}},
        }
    )
    pool = EncoderPool(plan, allow_encoders=None, runtime=RUNTIME)
    monkeypatch.chdir("/")
    for both in (made, pool.combined("terms")):
        assert both is not None
        for part in (both, both.dense, both.sparse):
            data = pickle.dumps(part)
            assert len(data) < 4000
            copy: Any = pickle.loads(data)
            _same(copy.encode_document(TEXTS), part.encode_document(TEXTS))
            _same(copy.encode_query(TEXTS), part.encode_query(TEXTS))
            if part is not both:
                assert copy.info == part.info
            copy.close()
        view: Any = pickle.loads(pickle.dumps(both.one_at_a_time()[0]))
        _same(view.encode_query(TEXTS), both.dense.encode_query(TEXTS))
        view.close()
    made.close()
    pool.close()


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_cross_encoders_are_pickled_as_their_arguments(folders: dict[str, Path], backend: Any) -> None:
    from esembed.encode.cross_encoder import CrossEncoder

    cross = CrossEncoder(folders["cross"], backend=backend, batch_size=2, max_seq_length=20)
    data = pickle.dumps(cross)
    assert len(data) < 4000
    copy = pickle.loads(data)
    assert copy("where the cat", TEXTS) == pytest.approx(cross("where the cat", TEXTS), abs=1e-5)
    for one in (copy, cross):
        one.close()


def test_remote_and_static_encoders_are_pickled_as_their_specs(
    folders: dict[str, Path], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "sk-0123456789")
    specs = [
        (f"openai:m@{endpoint}", EncoderParams(dims=2), RuntimeOptions(api_key_env="SECRET_OF_MINE")),
        (f"static:{folders['static']}", EncoderParams(dims=3, query_prompt="the "), RuntimeOptions()),
    ]
    for recipe in specs:
        encoder: Any = load(*recipe)
        data = pickle.dumps(encoder)
        assert len(data) < 4000
        assert b"0123456789" not in data
        copy: Any = pickle.loads(data)
        assert copy.info == encoder.info
        assert (copy.encode_query(TEXTS) == encoder.encode_query(TEXTS)).all()
        if recipe[0].startswith("openai:"):
            monkeypatch.delenv("SECRET_OF_MINE")
            with pytest.raises(EncoderError, match="SECRET_OF_MINE"):
                pickle.loads(data)
        for one in (copy, encoder):
            one.close()
