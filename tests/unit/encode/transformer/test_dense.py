"""Reading models, batching, tokenizing, given vectors: what needs no oracle and (mostly) no model."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esembed.encode.backends.base import JoinedHead, TokenBatch
from esembed.encode.base import DenseEncoder, RuntimeOptions
from esembed.encode.models.folder import read_folder
from esembed.encode.registry import load
from esembed.encode.transformer.pooling import dense_recipe
from esembed.encode.transformer.prompts import resolve_prompts
from esembed.encode.transformer.runner import Interrupted, interruptible, make_batch, plan_batches, prefetched
from esembed.errors import DownloadError, EncoderError
from esembed.ingest.stages.chunk import Chunker
from esembed.plan import ChunkOptions, DenseField, IndexPlan
from esembed.plan.params import EncoderParams

pytest.importorskip("openvino")
save_file = pytest.importorskip("safetensors.numpy").save_file

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "cat",
    "dog",
    "house",
    "##s",
    "a",
    "b",
    ".",
    "query",
    "passage",
]
WIDTH = 16


def _weights(layers: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(3)

    def some(*shape: int) -> Any:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": some(len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": some(32, WIDTH),
        "embeddings.token_type_embeddings.weight": some(2, WIDTH),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(layers):
        p = f"encoder.layer.{i}."
        for name, out, into in (
            ("attention.self.query", WIDTH, WIDTH),
            ("attention.self.key", WIDTH, WIDTH),
            ("attention.self.value", WIDTH, WIDTH),
            ("attention.output.dense", WIDTH, WIDTH),
            ("intermediate.dense", 32, WIDTH),
            ("output.dense", WIDTH, 32),
        ):
            tensors[f"{p}{name}.weight"] = some(out, into)
            tensors[f"{p}{name}.bias"] = some(out)
        norms += [f"{p}attention.output.LayerNorm", f"{p}output.LayerNorm"]
    for name in norms:
        tensors[f"{name}.weight"] = np.ones(WIDTH, np.float32)
        tensors[f"{name}.bias"] = np.zeros(WIDTH, np.float32)
    return tensors


CONFIG = {
    "model_type": "bert", "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 32, "hidden_act": "gelu", "vocab_size": len(WORDS),
    "architectures": ["BertModel"],
}  # fmt: skip


def make_folder(folder: Path, config: dict[str, Any] | None = None, modules: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **(config or {})}))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    save_file(_weights(), str(folder / "model.safetensors"))
    if modules is not None:
        (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def module(kind: str, path: str, name: str = "") -> dict[str, Any]:
    return {"idx": 0, "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "tiny")


@pytest.fixture
def encoder(folder: Path) -> Iterator[Any]:
    made = load(f"hf:{folder}", EncoderParams(), RuntimeOptions(threads=1))
    yield made
    made.close()


def test_it_is_a_dense_encoder_that_keeps_order(encoder: Any) -> None:
    assert isinstance(encoder, DenseEncoder)
    texts = ["cat", "cats and dogs . " * 3, "", "house", "a b a b"] * 7
    got = encoder.encode_document(texts)
    assert got.shape == (35, WIDTH)
    assert got.dtype == np.float32
    assert np.array_equal(got[:5].argmax(1), got[5:10].argmax(1))
    for place in (0, 1, 2, 3, 4):
        assert np.allclose(got[place], encoder.encode_document([texts[place]])[0], atol=1e-5)
    assert encoder.encode_query([]).shape == (0, WIDTH)


def test_long_and_odd_texts(encoder: Any) -> None:
    got = encoder.encode_document(["cat " * 100_000, "\ud800 cat", "", "\x00"])
    assert np.isfinite(got).all()
    assert encoder.stats.truncated == 1
    assert encoder.stats.texts == 4
    with pytest.raises(EncoderError, match=r"texts\[1\] is NoneType"):
        encoder.encode_document(["cat", None])
    with pytest.raises(EncoderError, match="not one string"):
        encoder.encode_document("cat")


def test_threads_share_an_encoder(encoder: Any) -> None:
    texts = [f"cat {'dog ' * n}" for n in range(25)]
    expected = encoder.encode_document(texts)
    results: dict[int, Any] = {}

    def work(n: int) -> None:
        one = [encoder.encode_query([text])[0] for text in texts]
        results[n] = np.array(one) if n % 2 else encoder.encode_document(texts)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for got in results.values():
        assert np.allclose(got, expected, atol=1e-5)


def test_windows_are_put_together_in_order(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"cat {'dog ' * (n % 7)}" for n in range(50)]
    expected = encoder.encode_document(texts)
    monkeypatch.setattr("esembed.encode.transformer.runner.WINDOW_TEXTS", 8)
    assert np.allclose(encoder.encode_document(texts), expected, atol=1e-5)


def test_params_that_do_not_fit(folder: Path) -> None:
    for params, words in (
        (EncoderParams(dims=17), "gives 16 dimensions"),
        (EncoderParams(max_seq_length=33), "at most 32 tokens"),
        (EncoderParams(max_seq_length=2), "no room for text"),
        (EncoderParams(pooling="median"), "median"),
        (EncoderParams(top_k=3), "mean nothing to a dense encoder"),
    ):
        with pytest.raises(EncoderError, match=words):
            load(f"hf:{folder}", params)
    for runtime, words in (
        (RuntimeOptions(backend="openvino", dtype="float16"), "float16"),
        (RuntimeOptions(backend="openvino", device="cuda"), "CPU only"),
    ):
        with pytest.raises(EncoderError, match=words):
            load(f"hf:{folder}", EncoderParams(), runtime)


def test_dims_are_cut_and_renormalized(folder: Path, encoder: Any) -> None:
    short = load(f"hf:{folder}", EncoderParams(dims=5))
    whole, cut = encoder.encode_document(["cat dog"]), short.encode_document(["cat dog"])
    assert short.info.normalize
    assert np.allclose(cut[0], whole[0, :5] / np.linalg.norm(whole[0, :5]), atol=1e-6)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"no config\.json"):
        load(f"hf:{tmp_path}")
    with pytest.raises(EncoderError, match="there is no folder"):
        load(f"hf:{tmp_path}/nowhere")
    with pytest.raises(EncoderError, match="names no model"):
        load("hf:")
    with pytest.raises(EncoderError, match="neither a folder nor a hub id"):
        load("hf:not a name!")


def test_what_runs_code_is_refused(tmp_path: Path) -> None:
    remote = make_folder(tmp_path / "remote", {"auto_map": {"AutoModel": "modeling.X"}})
    with pytest.raises(EncoderError, match="brings its own code"):
        load(f"hf:{remote}")
    nv = make_folder(tmp_path / "nv", {"architectures": ["NVEmbedModel"], "auto_map": {}})
    with pytest.raises(EncoderError, match="latent attention"):
        load(f"hf:{nv}")
    custom = make_folder(
        tmp_path / "custom", modules=[{"idx": 0, "name": "0", "path": "", "type": "own.Code"}]
    )
    with pytest.raises(EncoderError, match=r"module of its own, own\.Code"):
        load(f"hf:{custom}")
    pickled = make_folder(tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(EncoderError, match="only a pickled checkpoint"):
        load(f"hf:{pickled}")
    outside = make_folder(
        tmp_path / "outside", modules=[module("Transformer", ""), module("Pooling", "../x")]
    )
    with pytest.raises(EncoderError, match="points outside"):
        load(f"hf:{outside}")


@pytest.mark.parametrize("kind", ["WeightedLayerPooling", "SpladePooling", "CNN"])
def test_unknown_heads_are_refused(kind: str, tmp_path: Path) -> None:
    made = make_folder(
        tmp_path / "m",
        modules=[module("Transformer", ""), module(kind, "1_X"), module("Pooling", "2_Pooling")],
    )
    for place in ("1_X", "2_Pooling"):
        (made / place).mkdir()
        (made / place / "config.json").write_text("{}")
    with pytest.raises(EncoderError, match=kind):
        load(f"hf:{made}")


def test_a_head_of_a_wrong_shape_is_refused(tmp_path: Path) -> None:
    made = make_folder(
        tmp_path / "m",
        modules=[module("Transformer", ""), module("Pooling", "1_P"), module("Dense", "2_Dense")],
    )
    with pytest.raises(EncoderError, match=r"names a Pooling in 1_P/, and 1_P/config\.json isn't there"):
        load(f"hf:{made}")
    (made / "1_P").mkdir()
    (made / "1_P" / "config.json").write_text('{"pooling_mode": "cls"}')
    (made / "2_Dense").mkdir()
    config = {"in_features": 99, "out_features": 4, "activation_function": "torch.nn.modules.activation.Tanh"}
    (made / "2_Dense" / "config.json").write_text(json.dumps(config))
    save_file({"linear.weight": np.ones((4, 99), np.float32)}, str(made / "2_Dense" / "model.safetensors"))
    with pytest.raises(EncoderError, match="projection of 16 dimensions"):
        load(f"hf:{made}")
    config["activation_function"] = "os.system"
    (made / "2_Dense" / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=r"os\.system isn't known"):
        load(f"hf:{made}")


def test_damaged_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"\xff" * 64, whole[:8] + b"{" * 40):
        path.write_bytes(broken)
        with pytest.raises(EncoderError, match=r"model\.safetensors"):
            load(f"hf:{folder}")
    tensors = _weights()
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, str(path))
    with pytest.raises(EncoderError, match=r"no tensor 'encoder\.layer\.1\.output\.dense\.weight'"):
        load(f"hf:{folder}")


def test_weights_hash_is_of_the_tensors_not_of_the_file(tmp_path: Path) -> None:
    one, two = make_folder(tmp_path / "one"), make_folder(tmp_path / "two")
    tensors = _weights()
    backwards = dict(reversed(list(tensors.items())))
    backwards["embeddings.position_ids"] = np.arange(32)[None]
    save_file(backwards, str(two / "model.safetensors"), metadata={"format": "pt"})
    assert read_folder(one).weights_hash() == read_folder(two).weights_hash()
    tensors["embeddings.LayerNorm.bias"] = tensors["embeddings.LayerNorm.bias"] + np.float32(1e-3)
    save_file(tensors, str(two / "model.safetensors"))
    assert read_folder(one).weights_hash() != read_folder(two).weights_hash()
    assert read_folder(one).tokenizer_hash() == read_folder(two).tokenizer_hash()


def test_layer_norms_under_their_old_names_are_read(tmp_path: Path) -> None:
    present, old = make_folder(tmp_path / "present"), make_folder(tmp_path / "old")
    rng = np.random.default_rng(5)
    tensors = _weights()
    for name in [name for name in tensors if "LayerNorm" in name]:
        tensors[name] = rng.normal(1, 0.3, WIDTH).astype(np.float32)
    save_file(tensors, str(present / "model.safetensors"))
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    save_file(renamed, str(old / "model.safetensors"))
    runtime = RuntimeOptions(threads=1, backend="openvino")
    one, two = (load(f"hf:{made}", EncoderParams(), runtime) for made in (present, old))
    assert np.array_equal(one.encode_document(["cat dog"]), two.encode_document(["cat dog"]))
    one.close()
    two.close()


def test_bfloat16_and_shards_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    made = make_folder(tmp_path / "m")
    tensors = {name: torch.from_numpy(value).bfloat16() for name, value in _weights().items()}
    (made / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[:10], "model-2.safetensors": names[10:]}
    for shard, members in shards.items():
        save_torch({name: tensors[name] for name in members}, str(made / shard))
    index = {"weight_map": {name: shard for shard, members in shards.items() for name in members}}
    (made / "model.safetensors.index.json").write_text(json.dumps(index))
    read = read_folder(made).tensors()
    for name, value in tensors.items():
        assert np.array_equal(read[name], value.float().numpy())
    assert load(f"hf:{made}").encode_document(["cat"]).shape == (1, WIDTH)


def test_prompts_come_from_the_files_then_from_the_family() -> None:
    assert resolve_prompts("intfloat/e5-small-v2", {})[:2] == ("query: ", "passage: ")
    assert resolve_prompts("x/e5-small", {"query": "q ", "passage": "p "}) == ("q ", "p ", None)
    assert resolve_prompts("BAAI/bge-small-en-v1.5", {})[0].startswith("Represent this sentence")
    assert resolve_prompts("BAAI/bge-m3", {}) == ("", "", None)
    assert resolve_prompts("Qwen/Qwen3-Embedding-0.6B", {})[0].endswith("\nQuery:")
    assert resolve_prompts("intfloat/multilingual-e5-large-instruct", {})[1] == ""
    assert resolve_prompts("some/model", {}) == ("", "", None)


def test_prompts_of_the_plan_win(tmp_path: Path) -> None:
    made = make_folder(tmp_path / "e5-tiny")
    encoder = load(f"hf:{made}")
    assert encoder.info.query_prompt == "query: "
    assert not np.allclose(encoder.encode_query(["cat"]), encoder.encode_document(["cat"]), atol=1e-3)
    plain = load(f"hf:{made}", EncoderParams(query_prompt="", document_prompt="dog "))
    assert plain.info.document_prompt == "dog "
    assert np.allclose(plain.encode_query(["dog cat"]), plain.encode_document(["cat"]), atol=1e-6)


def test_batches_hold_the_budget_and_every_text() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 1000)
    plan = plan_batches(lengths, 2048, 8)
    assert sorted(np.concatenate(plan)) == list(range(1000))
    for members in plan:
        width = -(-lengths[members].max() // 8) * 8
        assert len(members) == 1 or width * len(members) <= 2048
    assert max(lengths[plan[0]]) == lengths.max()
    assert plan_batches([5000], 2048)[0].tolist() == [0]
    batch = make_batch([np.array([5, 6, 7], np.int32), np.array([5], np.int32)], 0, 8, limit=4)
    assert batch.ids.tolist() == [[5, 6, 7, 0], [5, 0, 0, 0]]
    assert batch.mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def test_prefetching_keeps_order_and_passes_errors_on() -> None:
    assert list(prefetched(lambda n: n * n, 5)) == [0, 1, 4, 9, 16]

    def failing(n: int) -> int:
        if n == 2:
            raise EncoderError("at two")
        return n

    seen: list[int] = []
    with pytest.raises(EncoderError, match="at two"):
        seen.extend(prefetched(failing, 5))
    assert seen == [0, 1]


class _Hungry:
    """A head that runs out of memory above some tokens, as a device would."""

    needs_masked_lm = False

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen: list[int] = []

    def torch(self, model: Any, hidden: Any, offsets: Any) -> tuple[Any, ...]:
        import torch

        self.seen.append(len(hidden))
        if len(hidden) > self.most:
            raise torch.OutOfMemoryError("no room")
        first = hidden[offsets[:-1]]
        return first, offsets[1:] - offsets[:-1]

    def openvino(self, graph: Any, hidden: Any, mask: Any) -> list[Any]:
        raise NotImplementedError


def test_out_of_memory_halves_and_goes_on(folder: Path) -> None:
    pytest.importorskip("transformers")
    from esembed.encode.backends.torch import TorchBackbone

    backbone = TorchBackbone(read_folder(folder), RuntimeOptions(device="cpu", dtype="float32", threads=2))
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 12, n).astype(np.int32) for n in (20, 19, 11, 7, 5, 5, 2, 1)]
    batch = make_batch(ids, 0)
    [expected] = backbone.program(_Hungry(10_000)).run([batch])
    head = _Hungry(40)
    got, again = backbone.program(head).run([batch, batch])
    for one in (got, again):
        assert np.allclose(one[0], expected[0], atol=1e-5)
        assert one[1].tolist() == [20, 19, 11, 7, 5, 5, 2, 1]
    assert sum(1 for tokens in head.seen if tokens > 40) == 2  # 70, then 57; the second batch is cut at once
    with pytest.raises(EncoderError, match="one text of 20 tokens"):
        list(backbone.program(_Hungry(10)).run([batch]))


def test_joined_heads_share_one_pass(folder: Path) -> None:
    pytest.importorskip("transformers")
    from esembed.encode.backends.openvino import OpenVinoBackbone
    from esembed.encode.backends.torch import TorchBackbone
    from esembed.encode.transformer.pooling import DenseHead

    head = JoinedHead((DenseHead(("mean",), normalize=True), DenseHead(("cls", "max"))))
    batch = TokenBatch(np.array([[2, 5, 6, 3], [2, 7, 3, 0]], np.int32), np.array([4, 3], np.int32))
    files = read_folder(folder)
    results = []
    for backbone in (
        OpenVinoBackbone(files, RuntimeOptions(threads=1, dtype="float32")),
        TorchBackbone(files, RuntimeOptions(device="cpu", threads=2, dtype="float32")),
    ):
        [outputs] = backbone.program(head).run([batch])
        assert [one.shape for one in outputs] == [(2, WIDTH), (2, 2 * WIDTH)]
        results.append(outputs)
    for mine, theirs in zip(*results, strict=True):
        assert np.allclose(mine, theirs, atol=1e-5)


def test_several_devices(folder: Path) -> None:
    pytest.importorskip("transformers")
    texts = [f"cat {'dog ' * (n % 9)}" for n in range(40)]
    one = load(f"hf:{folder}", EncoderParams(), RuntimeOptions(backend="torch", device="cpu"))
    runtime = RuntimeOptions(backend="torch", devices=("cpu", "cpu"), batch_tokens=64)
    several = load(f"hf:{folder}", EncoderParams(), runtime)
    try:
        assert several.info.runtime["devices"] == ["cpu", "cpu"]
        assert np.allclose(several.encode_document(texts), one.encode_document(texts), atol=1e-5)
        assert np.allclose(several.encode_query(texts[:1]), one.encode_query(texts[:1]), atol=1e-5)
    finally:
        several.close()
    with pytest.raises(EncoderError, match="closed"):
        several.encode_document(["cat"])
    with pytest.raises(EncoderError, match="cuda:77"):
        load(f"hf:{folder}", EncoderParams(), RuntimeOptions(backend="torch", device="cuda:77"))


def test_minilm_damaged_cache_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESEMBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with pytest.raises(DownloadError, match="local_files_only"):
        load("minilm", EncoderParams(), RuntimeOptions(local_files_only=True))
    from esembed.encode.transformer.minilm import _FILES, WEIGHTS_SHA256

    place = tmp_path / "cache" / "minilm" / WEIGHTS_SHA256[:16]
    for name in _FILES:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("tampered")
    with pytest.raises(DownloadError, match="local_files_only"):
        load("minilm", EncoderParams(), RuntimeOptions(local_files_only=True))
    assert not place.exists()
    with pytest.raises(EncoderError, match="takes no name"):
        load("minilm:other")


def test_minilm_needs_no_torch() -> None:
    code = (
        "import sys; from esembed.encode.registry import load; e = load('minilm'); "
        "v = e.encode_document(['a path', 'a folder']); assert v.shape == (2, 384); "
        "assert e.info.model == 'sentence-transformers/all-MiniLM-L6-v2'; "
        "bad = [m for m in ('torch', 'transformers', 'sentence_transformers') if m in sys.modules]; "
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_given_says_what_to_do() -> None:
    encoder = load("precomputed", EncoderParams(dims=3))
    assert encoder.info.dims == 3
    with pytest.raises(EncoderError, match="record must bring the vector"):
        encoder.encode_document(["x"])
    with pytest.raises(EncoderError, match="query's vector"):
        encoder.encode_query(["x"])
    with pytest.raises(EncoderError, match="no parameter but dims"):
        load("precomputed", EncoderParams(dims=3, pooling="mean"))


def test_a_model_shows_its_tokenizer_so_that_chunks_fit_it(encoder: Any) -> None:
    pytest.importorskip("semantic_text_splitter")
    plan = IndexPlan(
        dense={"emb": DenseField(encoder="minilm", chunked=True)},
        chunk=ChunkOptions(source=("body",), max_tokens=12, overlap_tokens=0),
    )
    cut = Chunker(plan, {"emb": encoder})
    assert cut.counted_by == "tokenizer"
    text = " ".join(["cats", "dogs", "houses"] * 20)  # two tokens a word
    chunks = cut(text)
    assert " ".join(chunks) == text
    assert max(len(chunk.split()) for chunk in chunks) == 6
    encoder.encode_document(chunks)
    assert encoder.stats.truncated == 0


def test_the_document_prompt_has_its_room_in_a_chunk(folder: Path) -> None:
    pytest.importorskip("semantic_text_splitter")
    with closing(
        load(
            f"hf:{folder}",
            EncoderParams(document_prompt="passage a b ", max_seq_length=16),
            RuntimeOptions(threads=1),
        )
    ) as encoder:
        plan = IndexPlan(
            dense={"emb": DenseField(encoder="minilm", chunked=True)},
            chunk=ChunkOptions(source=("body",), max_tokens=100, overlap_tokens=0),
        )
        cut = Chunker(plan, {"emb": encoder})
        assert cut.max_tokens == 16 - 2 - 3
        encoder.encode_document(cut(" ".join(["cat dog house"] * 30)))
        assert encoder.stats.truncated == 0


def test_an_encode_call_ends_between_batches_when_its_run_does(folder: Path) -> None:
    with closing(
        load(f"hf:{folder}", EncoderParams(), RuntimeOptions(threads=1, batch_tokens=16))
    ) as encoder:
        stop = threading.Event()
        with interruptible(stop):
            assert len(encoder.encode_document(["cat", "dog"])) == 2
            stop.set()
            with pytest.raises(Interrupted):
                encoder.encode_document(["cat dog house"] * 50)
        assert len(encoder.encode_document(["cat"] * 50)) == 50


def test_the_attention_option_is_taken_and_has_no_effect() -> None:
    with pytest.warns(DeprecationWarning, match="attention has no effect"):
        RuntimeOptions(attention="packed")
    unknown: dict[str, Any] = {"attention": "fast"}
    with pytest.raises(EncoderError, match="attention 'fast' is none of"):
        RuntimeOptions(**unknown)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "is quantized \\(fp8; quantization_config"),
        ({"quantization_config": {}, "compression_config": {"format": "x"}}, "compression_config"),
        ({"hidden_size": 24}, "attention.self.query.weight has the shape"),
        ({"vocab_size": 9}, "config.json says vocab_size = 9"),
        ({"max_position_embeddings": 99}, "max_position_embeddings = 99"),
        ({"intermediate_size": 64}, "intermediate_size = 64"),
        ({"num_attention_heads": 3}, "16 dimensions among 3"),
        ({"num_hidden_layers": "two"}, "config.json can.t be right.*num_hidden_layers"),
    ],
)
def test_a_config_that_the_weights_do_not_fit(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    made = make_folder(tmp_path / "m", config)
    with pytest.raises(EncoderError, match=words):
        load(f"hf:{made}")


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("encoder.layer.0.output.dense.weight", np.ones((16, 32), np.int8), "quantized .*of I8"),
        ("encoder.layer.0.output.dense.weight_scale", np.ones(16, np.float32), "quantized .*weight_scale"),
        ("encoder.layer.0.output.dense.qweight", np.ones((2, 2), np.int32), "quantized .*of I32"),
        ("encoder.layer.0.output.dense.SCB", np.ones(16, np.float32), "quantized .*SCB"),
    ],
)
def test_quantized_weights_are_refused(name: str, values: Any, words: str, folder: Path) -> None:
    save_file({**_weights(), name: values}, str(folder / "model.safetensors"))
    with pytest.raises(EncoderError, match=words):
        load(f"hf:{folder}")


def test_buffers_of_integers_are_no_weights(folder: Path) -> None:
    more = {"embeddings.position_ids": np.arange(32)[None], "h.0.attn.bias": np.ones((4, 4), np.uint8)}
    save_file({**_weights(), **more}, str(folder / "model.safetensors"))
    load(f"hf:{folder}").close()


def test_values_of_eight_bits_are_refused_by_name(folder: Path) -> None:
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"ab")
    with pytest.raises(EncoderError, match=r"of type F8_E4M3 .*unquantized"):
        load(f"hf:{folder}")


def test_a_token_without_a_row_is_refused(folder: Path) -> None:
    with open(folder / "vocab.txt", "a") as handle:
        handle.write("zebra\n")
    with pytest.raises(EncoderError, match=r"ids up to 14, the model 14 rows .*'zebra' \(id 14\)"):
        load(f"hf:{folder}")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("model.gguf", "GGUF"),
        ("model.onnx", "ONNX export"),
        ("onnx/model.onnx", "ONNX export"),
        ("openvino/openvino_model.xml", "OpenVINO export"),
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
    ],
)
@pytest.mark.parametrize("with_config", [True, False])
def test_a_folder_of_another_format_says_so(file: str, words: str, with_config: bool, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    if not with_config:
        (folder / "config.json").unlink()
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(b"x")
    with pytest.raises(EncoderError, match=words):
        load(f"hf:{folder}")


def test_an_adapter_is_refused_beside_a_model_too(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "base_model_name_or_path": "org/base"}'
    )
    for family in ("hf", "splade"):
        with pytest.raises(EncoderError, match=r"adapter \(LORA.*org/base.*merge_and_unload"):
            load(f"{family}:{folder}")


@pytest.mark.parametrize("name", ["sentence_roberta_config.json", "sentence_xlm-roberta_config.json"])
def test_older_names_of_the_transformers_options(name: str, folder: Path) -> None:
    (folder / name).write_text('{"max_seq_length": 7, "do_lower_case": true}')
    files = read_folder(folder)
    assert (files.max_seq_length, files.lower_case) == (7, True)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 9}')
    assert read_folder(folder).max_seq_length == 9


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        ({"model_type": "roberta", "pad_token_id": 1}, 30),
        ({"model_type": "xlm-roberta", "pad_token_id": 3}, 28),
        ({"model_type": "mpnet", "pad_token_id": 1}, 30),
        ({"model_type": "bert", "pad_token_id": 5}, 32),
    ],
)
def test_a_limit_that_no_file_states(config: dict[str, Any], rows: int, tmp_path: Path) -> None:
    made = make_folder(tmp_path / "m", config)
    assert read_folder(made).max_seq_length == rows
    (made / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    assert read_folder(made).max_seq_length == rows


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"model_type": "qwen3", "architectures": ["Qwen3Model"]}, "lasttoken"),
        ({"model_type": "gemma2"}, "lasttoken"),
        ({"model_type": "new", "architectures": ["NewForCausalLM"]}, "lasttoken"),
        ({"model_type": "qwen2", "is_causal": False}, "mean"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "mean"),
        ({"model_type": "bert"}, "mean"),
    ],
)
def test_what_is_pooled_without_modules(config: dict[str, Any], mode: str, tmp_path: Path) -> None:
    made = make_folder(tmp_path / "m", config)
    assert dense_recipe(read_folder(made), WIDTH).modes == (mode,)
