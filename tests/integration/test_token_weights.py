"""BGE-M3's sparse head on small random models: the oracle is the published formula in plain torch."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import make_m3

from esembed.dialect.tokens import decode, encode
from esembed.encode.base import RuntimeOptions, SparseEncoder
from esembed.encode.pool import EncoderPool
from esembed.encode.registry import load
from esembed.encode.transformer.splade import SpladeEncoder
from esembed.errors import EncoderError, PlanError
from esembed.plan import IndexPlan
from esembed.plan.params import EncoderParams

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("openvino")

TEXTS = [
    "The cat sat on the mat, the cat",
    "dog",
    "a strange beast ran over the lazy fox?",
    "",
    "the fox 14 " * 40,
]
RUNTIMES = {
    "openvino": RuntimeOptions(backend="openvino", dtype="float32"),
    "torch": RuntimeOptions(backend="torch", device="cpu", dtype="float32"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_m3(tmp_path_factory.mktemp("m3") / "bge-m3")


def oracle(folder: Path, text: str, limit: int = 64) -> tuple[Any, dict[str, float]]:
    """The dense vector (first token, length 1) and the weight of each token: relu(W h + b), the largest of
    its occurrences; cls, eos, pad and unk have none."""
    from tokenizers import Tokenizer

    model = transformers.XLMRobertaModel.from_pretrained(str(folder), add_pooling_layer=False).eval()
    linear = torch.nn.Linear(model.config.hidden_size, 1)
    linear.load_state_dict(torch.load(folder / "sparse_linear.pt", weights_only=True))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(limit)
    encoding = tokenizer.encode(text)
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([encoding.ids])).last_hidden_state[0]
        weights = torch.relu(linear(hidden))[:, 0].tolist()
    found: dict[str, float] = {}
    for token, weight in zip(encoding.tokens, weights, strict=True):
        if token not in ("<s>", "</s>", "<pad>", "<unk>") and weight > 0:
            found[token] = max(found.get(token, 0.0), weight)
    return torch.nn.functional.normalize(hidden[0], dim=0).numpy(), found


@pytest.mark.parametrize("backend", RUNTIMES)
def test_the_published_formula(folder: Path, backend: str) -> None:
    sparse = load(f"splade:{folder}", runtime=RUNTIMES[backend])
    dense = load(f"hf:{folder}", runtime=RUNTIMES[backend])
    assert isinstance(sparse, SpladeEncoder)
    assert isinstance(sparse, SparseEncoder)
    assert sparse.info.runtime["backend"] == backend
    assert (sparse.info.pooling, sparse.info.max_seq_length) == ("token_weights_max", 64)
    expected = [oracle(folder, text) for text in TEXTS]
    assert any(weights for _, weights in expected)
    np.testing.assert_allclose(dense.encode_document(TEXTS), [row for row, _ in expected], atol=1e-5)
    for vectors in (sparse.encode_document(TEXTS), sparse.encode_query(TEXTS)):
        for mine, (_, theirs) in zip(vectors, expected, strict=True):
            assert mine.to_dict() == pytest.approx(theirs, abs=1e-5)
            assert (np.diff(mine.values) <= 0).all()
    assert sparse.stats.truncated == 2  # the long text, twice
    # every token is a feature of an engine's field and comes back
    for token in sparse.vocabulary:
        assert decode(encode(token, "opensearch.rank_features"), "opensearch.rank_features") == token
    [vector] = sparse.encode_document(["the cat"])
    assert [word for word, _ in sparse.decode(vector)] == list(vector.indices)
    sparse.close()
    dense.close()


@pytest.mark.parametrize("backend", RUNTIMES)
def test_top_k_and_threshold(folder: Path, backend: str) -> None:
    whole = load(f"splade:{folder}", runtime=RUNTIMES[backend]).encode_document(TEXTS)
    params = EncoderParams(top_k=3, query_top_k=2, threshold=0.05)
    cut = load(f"splade:{folder}", params, RUNTIMES[backend])
    for made, limit in ((cut.encode_document(TEXTS), 3), (cut.encode_query(TEXTS), 2)):
        for all_of_it, some in zip(whole, made, strict=True):
            kept = [float(value) for value in all_of_it.values if value > 0.05][:limit]  # type: ignore[union-attr]
            assert some.values.tolist() == pytest.approx(kept, abs=1e-5)  # type: ignore[union-attr]
    cut.close()


def test_both_files_say_the_same(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    other = shutil.copytree(folder, tmp_path / "bge-m3")
    state = torch.load(folder / "sparse_linear.pt", weights_only=True)
    save_file(state, str(other / "sparse_linear.safetensors"))
    (other / "sparse_linear.pt").write_bytes(b"not read, where safetensors are there")
    infos = []
    for place, backend in ((folder, "openvino"), (other, "torch")):
        encoder = load(f"splade:{place}", runtime=RUNTIMES[backend])
        infos.append((encoder.info.weights_hash, dict(encoder.info.extra), encoder.info.pooling))
        encoder.close()
    assert infos[0] == infos[1]
    # another head is another model
    torch.save({"weight": state["weight"] * 2, "bias": state["bias"]}, other / "sparse_linear.pt")
    (other / "sparse_linear.safetensors").unlink()
    encoder = load(f"splade:{other}", runtime=RUNTIMES["openvino"])
    assert encoder.info.weights_hash != infos[0][0]
    encoder.close()


def test_a_fine_tuned_model_as_flagembedding_saves_it(folder: Path, tmp_path: Path) -> None:
    """It writes no modules.json: the dense side is BGE-M3's all the same, not a mean."""
    place = shutil.copytree(folder, tmp_path / "tuned")
    (place / "modules.json").unlink()
    pool = EncoderPool(
        IndexPlan.from_dict(
            {
                "dense": {"embedding": {"encoder": f"hf:{place}", "source": ["body"]}},
                "sparse": {"terms": {"encoder": f"splade:{place}", "source": ["body"]}},
            }
        ),
        allow_encoders=None,
        runtime=RUNTIMES["openvino"],
    )
    whole = pool.combined("embedding")
    assert whole is not None
    assert (whole.dense.info.pooling, whole.dense.info.normalize) == ("cls", True)
    assert "BGE-M3" in whole.dense.info.runtime["notes"][0]
    dense, _ = whole.encode_document(TEXTS)
    np.testing.assert_allclose(dense, [oracle(folder, text)[0] for text in TEXTS], atol=1e-5)
    pool.close()


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_a_head_of_another_dtype_and_layout(folder: Path, tmp_path: Path, dtype: str) -> None:
    from esembed.encode.transformer.token_weights import read_token_weights

    kind = getattr(torch, dtype)
    numbers = torch.randn(40, 2, dtype=torch.float32).to(kind)
    column = numbers[4:36, 1]  # a view: an offset and a stride
    torch.save({"linear.weight": column[None], "linear.bias": numbers[0, :1]}, tmp_path / "sparse_linear.pt")
    weight, bias = read_token_weights(tmp_path / "sparse_linear.pt", 32)
    np.testing.assert_array_equal(weight, column.float().numpy())
    assert bias == float(numbers[0, 0])


class _Runs:
    """What a pickle does that is more than a table of numbers."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_nothing_in_a_pickle_is_run(folder: Path, tmp_path: Path) -> None:
    place = shutil.copytree(folder, tmp_path / "bge-m3")
    target, file = tmp_path / "made-by-the-pickle", place / "sparse_linear.pt"

    def refused(words: str) -> None:
        with pytest.raises(EncoderError, match=words):
            load(f"splade:{place}", runtime=RUNTIMES["torch"])
        assert not target.exists()

    torch.save({"weight": _Runs(target)}, file)
    refused(r"names (posix|nt)\.mkdir.*nothing in it is run.*sparse_linear\.safetensors")
    file.write_bytes(pickle.dumps(_Runs(target)))  # the bare form of old
    refused("not a zip file")

    def repacked(program: bytes) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", program)
        file.write_bytes(buffer.getvalue())

    repacked(b"\x80\x02}r\xff\xff\xff\xff.")  # a memo of 32 GiB
    refused("too much memory")
    repacked(pickle.dumps([1.0]))
    refused("no dictionary of tensors")
    torch.save({"weight": torch.zeros(1).expand(1, 10**9)}, file)
    refused("more elements than values")
    torch.save(torch.nn.Linear(16, 1).state_dict(), file)
    refused(r"a projection of 32 numbers to one is needed.*weight \(1, 16\)")


def test_seismic_is_refused_for_a_large_vocabulary(tmp_path: Path) -> None:
    large = make_m3(tmp_path / "bge-m3", words=33_000)
    plan = IndexPlan.from_dict(
        {"sparse": {"terms": {"encoder": f"splade:{large}", "source": ["body"], "storage": "seismic"}}}
    )
    pool = EncoderPool(plan, allow_encoders=None, runtime=RUNTIMES["openvino"])
    with pytest.raises(PlanError, match="at most 32768 tokens"):
        pool.token_ids()
    [vector] = pool.encoder("terms").encode_document(["word32999 the cat"])
    assert "word32999" in vector.to_dict() or vector.values.size == 0  # type: ignore[union-attr]
    pool.close()
