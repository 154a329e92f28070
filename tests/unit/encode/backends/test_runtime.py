"""How encoders run: options are checked, and the environment gives them where the code doesn't."""

from __future__ import annotations

import numpy as np
import pytest

from esembed.encode.base import EncoderInfo, RuntimeOptions
from esembed.encode.pool import EncoderPool
from esembed.encode.registry import load
from esembed.errors import EncoderError
from esembed.plan import DenseField, IndexPlan, TextField


def test_options_are_checked() -> None:
    for options, words in (
        ({"backend": "onnx"}, "backend 'onnx' is none of auto, openvino, torch"),
        ({"dtype": "fp16"}, "dtype 'fp16' is none of auto, float32"),
        ({"threads": 0}, "threads must be a whole number of at least 1"),
        ({"batch_tokens": -5}, "batch_tokens must be a whole number of at least 1"),
    ):
        with pytest.raises(EncoderError, match=words):
            RuntimeOptions(**options)  # type: ignore[arg-type]


def test_options_from_the_environment() -> None:
    given = {
        "ESEMBED_ENCODER_BACKEND": "torch",
        "ESEMBED_ENCODER_DEVICES": "cuda:0, cuda:1",
        "ESEMBED_ENCODER_THREADS": "3",
        "ESEMBED_ENCODER_TIMEOUT_SECONDS": "2.5",
        "ESEMBED_ENCODER_LOCAL_FILES_ONLY": "true",
        "ESEMBED_ENCODER_DTYPE": "",
        "ESEMBED_ENGINE": "elsewhere",
    }
    assert RuntimeOptions.from_environment(given) == RuntimeOptions(
        backend="torch",
        devices=("cuda:0", "cuda:1"),
        threads=3,
        timeout_seconds=2.5,
        local_files_only=True,
    )
    assert RuntimeOptions.from_environment({}) == RuntimeOptions()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ESEMBED_ENCODER_DEVISE", "cpu", "names no option; there are: .*ESEMBED_ENCODER_DEVICE,"),
        ("ESEMBED_ENCODER_THREADS", "many", "ESEMBED_ENCODER_THREADS='many' can't be used"),
        ("ESEMBED_ENCODER_THREADS", "0", "threads must be a whole number of at least 1"),
        ("ESEMBED_ENCODER_DTYPE", "fp16", "ESEMBED_ENCODER_DTYPE='fp16' can't be used"),
    ],
)
def test_an_environment_that_cant_be_right(variable: str, value: str, words: str) -> None:
    with pytest.raises(EncoderError, match=words):
        RuntimeOptions.from_environment({variable: value})


def test_the_environment_counts_where_no_options_are_handed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("ESEMBED_ENCODER_DTYPE", "float32")
    monkeypatch.setenv("ESEMBED_ENCODER_THREADS", "1")
    encoder = load("minilm")
    assert (encoder.info.runtime["dtype"], encoder.info.runtime["threads"]) == ("float32", 1)
    encoder.close()
    handed = load("minilm", runtime=RuntimeOptions(threads=2, dtype="float32"))
    assert handed.info.runtime["threads"] == 2
    handed.close()
    fields = {"text": {"body": TextField()}, "dense": {"emb": DenseField(encoder="minilm", source=("body",))}}
    pool = EncoderPool(IndexPlan(**fields))  # type: ignore[arg-type]
    assert pool.encoder("emb").info.runtime["threads"] == 1
    assert np.isfinite(pool.encoder("emb").encode_query(["a"])).all()  # type: ignore[call-overload]
    pool.close()


def test_dims_that_dont_match_the_plan_are_refused() -> None:
    pytest.importorskip("openvino")
    field = DenseField(encoder="minilm", source=("body",), dims=256)
    pool = EncoderPool(IndexPlan(text={"body": TextField()}, dense={"emb": field}), allow_encoders=None)
    with pytest.raises(EncoderError, match=r"emb: the plan says 256 dims, 'minilm' makes 384.*params\.dims"):
        pool.encoder("emb")
    pool.close()


class _Trained:
    """An encoder that says what it was trained for."""

    def __init__(self, similarity: str | None, normalize: bool) -> None:
        self.similarity = similarity
        self.info = EncoderInfo(spec="mine", type="dense", dims=3, normalize=normalize)


@pytest.mark.parametrize(
    ("trained", "normalize", "planned", "told"),
    [
        ("dot", False, "cosine", True),
        ("dot", True, "cosine", False),
        ("dot", False, "max_inner_product", False),
        ("euclidean", False, "cosine", True),
        ("cosine", False, "cosine", False),
        (None, False, "cosine", False),
    ],
)
def test_a_similarity_that_the_model_was_not_trained_for_is_told(
    trained: str | None, normalize: bool, planned: str, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    field = {"encoder": "hf:x", "source": ["body"], "dims": 3, "similarity": planned}
    plan = IndexPlan.from_dict({"text": {"body": {}}, "dense": {"emb": field}})
    pool = EncoderPool(plan)
    pool.put("emb", _Trained(trained, normalize))  # type: ignore[arg-type]
    notes = pool.similarity_notes()
    assert bool(notes) is told
    assert [record.getMessage() for record in caplog.records] == notes
    assert plan.dense["emb"].similarity == planned


def test_a_misspelt_variable_stops_what_encodes_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESEMBED_ENCODER_DEVISE", "cpu")
    plan = IndexPlan.from_dict({"sparse": {"terms": {"encoder": "lexical", "source": ["body"]}}})
    pool = EncoderPool(plan)
    assert pool.for_plan(plan).field("terms").encoder == "lexical"
    with pytest.raises(EncoderError, match="ESEMBED_ENCODER_DEVISE names no option"):
        pool.encoder("terms")
