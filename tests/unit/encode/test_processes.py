"""Encoders and processes: forked children, pickles, and models that pools share."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esembed.encode import processes
from esembed.encode.base import RuntimeOptions
from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.encode.models.folder import read_folder
from esembed.encode.pool import EncoderPool
from esembed.encode.processes import ForkSafeLock, ModelUser, release, share
from esembed.encode.registry import load
from esembed.encode.transformer.dense import TransformerEncoder
from esembed.encode.transformer.minilm import find_minilm
from esembed.errors import EncoderError
from esembed.plan import IndexPlan
from esembed.plan.params import EncoderParams

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from forks import forks, in_child, told

pytest.importorskip("openvino")
RUNTIME = RuntimeOptions(threads=1, dtype="float32", backend="openvino")
PLAN = IndexPlan.from_dict(
    {"text": {"body": {}}, "dense": {"emb": {"encoder": "minilm", "source": ["body"], "dims": 384}}}
)


pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")


@forks
@pytest.mark.parametrize("backend", ["openvino", "torch"])
@pytest.mark.parametrize("side", ["encode_document", "encode_query"])
def test_a_forked_child_is_told(backend: str, side: str) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    encoder: Any = load("minilm", runtime=RuntimeOptions(backend=backend, threads=2))  # type: ignore[arg-type]
    texts = ["split a path into folder and file"] * 40
    encoder.encode_document(texts)
    assert "before this process was forked" in in_child(lambda: told(getattr(encoder, side), texts))
    assert np.isfinite(encoder.encode_document(texts)).all()
    encoder.close()


@forks
def test_what_has_no_threads_goes_on_in_a_child() -> None:
    encoder: Any = load("lexical")
    assert in_child(lambda: str(len(encoder.encode_document(["a b"])))) == "1"


@forks
def test_a_child_is_offered_no_model_of_its_parent() -> None:
    user = ModelUser()
    marker = load("lexical")
    recipes = (("minilm", EncoderParams(), RUNTIME),)
    share(user, recipes, lambda: (marker,))

    def work() -> str:
        found = share(ModelUser(), recipes, lambda: (load("lexical"),))
        return str(found is not None and found[0] is marker)

    assert in_child(work) == "False"
    release(user)


@pytest.mark.parametrize("spec", ["minilm", "hf", "lexical", "precomputed"])
def test_pickles_load_again(spec: str) -> None:
    params = EncoderParams(dims=32) if spec != "lexical" else EncoderParams(k1=1.5)
    encoder: Any = load(f"hf:{find_minilm()}" if spec == "hf" else spec, params, RUNTIME)
    data = pickle.dumps(encoder)
    assert len(data) < 4000
    copy: Any = pickle.loads(data)
    assert copy.info == encoder.info
    if spec in ("minilm", "hf"):
        assert np.allclose(copy.encode_document(["a path"]), encoder.encode_document(["a path"]), atol=1e-6)
        again = pickle.loads(pickle.dumps(copy))
        assert again.info == encoder.info
        for one in (copy, again):
            one.close()
    encoder.close()


def test_a_relative_folder_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").symlink_to(find_minilm())
    monkeypatch.chdir(tmp_path)
    encoder = load("hf:./model", runtime=RUNTIME)
    (tmp_path / "pickle").write_bytes(pickle.dumps(encoder))
    encoder.close()
    code = f"import pickle; e = pickle.load(open({str(tmp_path / 'pickle')!r}, 'rb')); print(e.info.dims)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True)
    assert done.stdout.strip() == "384"


def test_term_statistics_and_stemmers_travel() -> None:
    pytest.importorskip("snowballstemmer")
    encoder: Any = load("lexical", EncoderParams(language="english"))
    counted = encoder.with_statistics(LexicalStatistics.empty(encoder.analyzer))
    copy: LexicalEncoder = pickle.loads(pickle.dumps(counted))
    assert copy.tokens("running paths") == counted.tokens("running paths")
    assert copy.statistics == counted.statistics
    assert copy.info == counted.info


def test_what_was_made_by_hand_says_so() -> None:
    load("minilm", runtime=RUNTIME).close()
    encoder = TransformerEncoder(read_folder(find_minilm()), EncoderParams(), RUNTIME, spec="hf:x")
    with pytest.raises(EncoderError, match=r"made by hand.*load_encoder\(spec"):
        pickle.dumps(encoder)
    encoder.close()


def test_pools_share_a_model_and_the_last_closes_it() -> None:
    first, second = (EncoderPool(PLAN, allow_encoders=None, runtime=RUNTIME) for _ in range(2))
    one: Any = first.encoder("emb")
    assert second.encoder("emb") is one
    other = EncoderPool(PLAN, allow_encoders=None, runtime=RuntimeOptions(threads=2, dtype="float32"))
    assert other.encoder("emb") is not one
    other.close()
    first.close()
    assert np.isfinite(one.encode_query(["a"])).all()
    second.close()
    third = EncoderPool(PLAN, allow_encoders=None, runtime=RUNTIME)
    assert third.encoder("emb") is not one
    third.close()


def test_a_model_written_into_the_same_folder_is_another(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    recipes = ((f"hf:{tmp_path}", EncoderParams(), RUNTIME),)
    users = [ModelUser() for _ in range(3)]
    made = [share(user, recipes, lambda: (load("lexical"),)) for user in users[:2]]
    assert made[0] is made[1]
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert share(users[2], recipes, lambda: (load("lexical"),)) is not made[0]


def test_a_pool_that_is_dropped_lets_its_model_go() -> None:
    before = len(processes._models)
    user = ModelUser()
    share(user, (("minilm", EncoderParams(k1=1.0), RUNTIME),), lambda: (load("lexical"),))
    assert len(processes._models) == before + 1
    del user
    gc.collect()
    assert len(processes._models) == before


def test_two_threads_load_one_model_once() -> None:
    made: list[int] = []
    found: list[Any] = []
    users = [ModelUser() for _ in range(4)]

    def make() -> Any:
        made.append(1)
        time.sleep(0.1)
        return (load("lexical"),)

    def work(user: ModelUser) -> None:
        found.append(share(user, (("minilm", EncoderParams(b=0.1), RUNTIME),), make))

    threads = [threading.Thread(target=work, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len({id(one) for one in found})) == (1, 1)


def test_a_load_that_fails_is_tried_again() -> None:
    def fail() -> Any:
        raise EncoderError("no")

    recipes = (("minilm", EncoderParams(b=0.2), RUNTIME),)
    user = ModelUser()
    with pytest.raises(EncoderError, match="no"):
        share(user, recipes, fail)
    assert share(user, recipes, lambda: None) is None
    assert share(user, recipes, lambda: (load("lexical"),)) is not None


# -- what a child may do ---------------------------------------------------------------------------

SCRIPT = """
import gc, os, sys, threading, time
from esembed import RuntimeOptions, load_encoder
from esembed.errors import EncoderError
backend, work = sys.argv[1:]
runtime = RuntimeOptions(backend=backend, threads=2)
texts = ["split a path into folder and file " * k for k in range(1, 5)] * 20
encoder = load_encoder("minilm", runtime=runtime)
encoder.encode_document(texts)
encoder.encode_query(texts[:1])
pid = os.fork()
if pid == 0:
    if work == "close":
        encoder.close()
    elif work == "drop":
        del encoder
        gc.collect()
    elif work == "load":
        try:
            encoder = load_encoder("minilm", runtime=runtime)
            print(encoder.encode_document(texts).shape, flush=True)
        except EncoderError as error:
            print(error, flush=True)
    sys.exit(0)
until = time.monotonic() + 40
while time.monotonic() < until:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        sys.exit(print("status", status))
    time.sleep(0.05)
os.kill(pid, 9)
print("hangs")
"""


@forks
@pytest.mark.parametrize(
    ("backend", "work"),
    [
        ("openvino", "nothing"),
        ("openvino", "close"),
        ("openvino", "drop"),
        ("openvino", "load"),
        ("torch", "load"),
    ],
)
def test_a_child_ends_as_other_programs_do(backend: str, work: str) -> None:
    """Compiled OpenVINO models wait for their threads in the destructor: the child hung when it ended."""
    if backend == "torch":
        pytest.importorskip("torch")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, backend, work]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[-1] == "status 0"
    if work == "load" and backend == "openvino":
        assert lines[0] == "(80, 384)"
    elif work == "load":  # torch's threads can't be started again in a child
        assert "forked after torch had computed" in lines[0]


@forks
def test_a_lock_that_another_thread_held_is_free_in_the_child() -> None:
    lock, again = ForkSafeLock(), ForkSafeLock(reentrant=True)
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock, again:
            held.set()
            let_go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)

    def work() -> str:
        with lock, again, again:
            return "free"

    try:
        assert in_child(work, 10) == "free"
    finally:
        let_go.set()
        thread.join()


@forks
def test_encoders_without_threads_go_on_while_another_thread_encodes() -> None:
    encoder: Any = load("lexical", EncoderParams(language="english"))
    stop = threading.Event()

    def busy() -> None:
        n = 0
        while not stop.is_set():
            encoder.encode_document([f"running{n} paths{n}" for n in range(n, n + 50)])
            n += 50

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert in_child(lambda: str(len(encoder.encode_document(["some running words"]))), 15) == "1"
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@forks
def test_a_pool_in_a_child_says_so_whatever_its_parent_was_doing() -> None:
    pool = EncoderPool(PLAN, allow_encoders=None, runtime=RUNTIME)
    encoder: Any = pool.encoder("emb")
    encoder.encode_query(["a"])
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with pool._lock:
            held.set()
            let_go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)

    def work() -> str:
        pool.accept_contracts({})
        first = told(pool.encoders(["emb"])["emb"].encode_query, ["a"])
        pool.close()
        fresh: Any = EncoderPool(PLAN, allow_encoders=None, runtime=RUNTIME).encoder("emb")
        return f"{first} {fresh.encode_query(['a']).shape}"

    try:
        found = in_child(work)
    finally:
        let_go.set()
        thread.join()
    assert "before this process was forked" in found
    assert "(1, 384)" in found
    pool.close()


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_load_a_pickled_encoder(how: str) -> None:
    import multiprocessing

    if how not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {how} here")
    encoder: Any = load("minilm", EncoderParams(dims=64), RUNTIME)
    expected = encoder.encode_document(["a path", "a folder"])
    data = pickle.dumps(encoder)
    with multiprocessing.get_context(how).Pool(1) as workers:
        made = workers.map(_encode_pickled, [data])[0]
    assert np.allclose(made, expected, atol=1e-6)
    encoder.close()


def _encode_pickled(data: bytes) -> Any:
    return pickle.loads(data).encode_document(["a path", "a folder"])


def test_cloudpickle_and_joblib_carry_encoders() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    joblib = pytest.importorskip("joblib")
    encoder: Any = load("minilm", EncoderParams(dims=64), RUNTIME)
    expected = encoder.encode_query(["a path"])
    work = pickle.loads(cloudpickle.dumps(lambda texts: encoder.encode_query(texts)))
    assert np.allclose(work(["a path"]), expected, atol=1e-6)
    [made] = joblib.Parallel(n_jobs=2)([joblib.delayed(encoder.encode_query)(["a path"])])
    assert np.allclose(made, expected, atol=1e-6)
    encoder.close()


def test_static_vectors_are_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gensim")
    (tmp_path / "words.txt").write_text("2 3\npath 1 0 0\nfolder 0 1 0\n")
    monkeypatch.chdir(tmp_path)
    encoder: Any = load("static:words.txt")
    monkeypatch.chdir("/")
    copy: Any = pickle.loads(pickle.dumps(encoder))
    assert (copy.encode_query(["path"]) == encoder.encode_query(["path"])).all()
    user, other = ModelUser(), ModelUser()
    recipes = ((f"static:{tmp_path / 'words.txt'}", EncoderParams(), RUNTIME),)
    first = share(user, recipes, lambda: (load("lexical"),))
    (tmp_path / "words.txt").write_text("2 3\npath 0 0 1\nfolder 0 1 0\n")
    assert share(other, recipes, lambda: (load("lexical"),)) is not first


WORKERS = """
import os, sys
from esembed import RuntimeOptions, load_encoder
from esembed.errors import EncoderError
encoder = load_encoder("minilm", runtime=RuntimeOptions(backend="torch", devices=["cpu", "cpu"], threads=2))
pid = os.fork()
if pid == 0:
    try:
        encoder.encode_document(["a"])
    except EncoderError as error:
        print(error, flush=True)
    encoder.close()
    sys.exit(0)
print("status", os.waitpid(pid, 0)[1])
print(encoder.encode_document(["a path"] * 5).shape)
"""


@forks
def test_a_child_that_ends_leaves_its_parents_workers_alone() -> None:
    """multiprocessing ended them: an interpreter that ends does so with every daemon it knows of."""
    pytest.importorskip("torch")
    command = [sys.executable, "-W", "ignore", "-c", WORKERS]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "before this process was forked" in lines[0]
    assert lines[1:] == ["status 0", "(5, 384)"]
