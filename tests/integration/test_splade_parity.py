"""``splade:``: sentence-transformers' SparseEncoder is the oracle, on small random models made here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esembed.encode.base import RuntimeOptions, SparseEncoder
from esembed.encode.models.vocabulary import token_ids
from esembed.encode.registry import load
from esembed.encode.transformer.splade import SpladeEncoder
from esembed.errors import EncoderError
from esembed.plan.params import EncoderParams
from esembed.types import SparseVector

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
oracle_package = pytest.importorskip("sentence_transformers")
pytest.importorskip("openvino")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TAILS = ["##ing", "##ed", *(f"##{letter}" for letter in LETTERS)]
PLAIN = ["the", "cat", "sat", "on", "mat", "dog", "ran", "fast", "over", "lazy", "fox", "jump", "14", "3"]
WORDS = [*LETTERS, *TAILS, *PLAIN, ".", ",", "?", *(f"word{i}" for i in range(400))]
TEXTS = [
    "The cat sat on the mat.",
    "a dog ran, jumping over lazy foxes?",
    "",
    "word1 word2 word399 " * 30,
    "fast",
    "3.14 the fox",
    "unseen words are spelt in letters",
]
SHAPES = ["bert", "distilbert", "roberta", "mpnet", "modernbert"]
RUNTIMES = {
    "openvino": RuntimeOptions(backend="openvino", dtype="float32"),
    "torch": RuntimeOptions(backend="torch", device="cpu", dtype="float32"),
}


def make_tokenizer(folder: Path) -> Any:
    """A folder with vocab.txt, read back: transformers 5 builds a five-token vocabulary otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64})
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    assert len(tokenizer) == len(SPECIAL) + len(WORDS)
    return tokenizer


def make_model(folder: Path, shape: str, seed: int = 0) -> Path:
    tokenizer = make_tokenizer(folder)
    torch.manual_seed(seed)
    size = len(tokenizer)
    common = {"vocab_size": size + 3, "max_position_embeddings": 80, "initializer_range": 0.3}
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    if shape == "bert":
        model = transformers.BertForMaskedLM(transformers.BertConfig(**common, **small))
    elif shape == "distilbert":
        model = transformers.DistilBertForMaskedLM(
            transformers.DistilBertConfig(**common, dim=32, n_layers=2, n_heads=4, hidden_dim=48)
        )
    elif shape == "modernbert":
        model = transformers.ModernBertForMaskedLM(
            transformers.ModernBertConfig(**common, **small, pad_token_id=0, cls_token_id=2, sep_token_id=3)
        )
    else:
        model = transformers.RobertaForMaskedLM(
            transformers.RobertaConfig(**common, **small, type_vocab_size=1, pad_token_id=0)
        )
    with torch.no_grad():  # a bias that matters, as in a trained head
        model.get_output_embeddings().bias.normal_(-1.0, 1.0)
    model.eval().save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("splade")
    return {shape: make_model(root / shape, shape) for shape in SHAPES}


def close_to(oracle: Any, mine: Sequence[SparseVector], vocabulary: Sequence[str]) -> None:
    """Every weight within 1e-3 of the oracle's, special tokens (which we leave out) aside."""
    expected = oracle.to_dense().float().numpy() if oracle.is_sparse else oracle.float().numpy()
    ids = {token: i for i, token in enumerate(vocabulary)}
    excluded = [i for i, token in enumerate(vocabulary) if token in SPECIAL or token.startswith("[no token")]
    expected = expected.copy()
    expected[:, [i for i in excluded if i < expected.shape[1]]] = 0
    got = np.zeros_like(expected)
    for row, vector in enumerate(mine):
        got[row, [ids[str(token)] for token in vector.indices]] = vector.values
        assert (np.diff(vector.values) <= 0).all()
        assert (vector.values > 0).all()
    np.testing.assert_allclose(got, expected, atol=1e-3)
    assert expected.any()


@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_plain_masked_lm_checkpoints(folders: dict[str, Path], shape: str, backend: str) -> None:
    oracle = oracle_package.SparseEncoder(str(folders[shape]), device="cpu")
    encoder = load(f"splade:{folders[shape]}", runtime=RUNTIMES[backend])
    assert isinstance(encoder, SpladeEncoder)
    assert isinstance(encoder, SparseEncoder)
    assert encoder.info.runtime["backend"] == backend
    close_to(oracle.encode_document(TEXTS), encoder.encode_document(TEXTS), encoder.vocabulary)
    close_to(oracle.encode_query(TEXTS), encoder.encode_query(TEXTS), encoder.vocabulary)
    encoder.close()


@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize(("strategy", "activation"), [("max", "log1p_relu"), ("sum", "relu")])
def test_sparse_encoder_folders(
    folders: dict[str, Path], tmp_path: Path, backend: str, strategy: str, activation: str
) -> None:
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

    modules = [MLMTransformer(str(folders["bert"])), SpladePooling(strategy, activation)]
    oracle = oracle_package.SparseEncoder(
        modules=modules, device="cpu", prompts={"query": "the ", "document": "a dog "}, max_active_dims=50
    )
    oracle.save_pretrained(str(tmp_path))
    encoder = load(f"splade:{tmp_path}", runtime=RUNTIMES[backend])
    assert encoder.info.query_prompt == "the "
    assert encoder.info.extra["activation"] == activation
    assert encoder.info.extra["top_k"] == 50  # the model's own limit
    wide = load(f"splade:{tmp_path}", EncoderParams(top_k=500, query_top_k=500), RUNTIMES[backend])
    for ours, theirs in (
        (wide.encode_document(TEXTS), oracle.encode_document(TEXTS, max_active_dims=500)),
        (wide.encode_query(TEXTS), oracle.encode_query(TEXTS, max_active_dims=500)),
    ):
        close_to(theirs, ours, wide.vocabulary)  # type: ignore[union-attr, arg-type]
    encoder.close()
    wide.close()


@pytest.mark.parametrize("backend", RUNTIMES)
def test_top_k_is_the_oracles_up_to_ties(folders: dict[str, Path], backend: str) -> None:
    full = load(f"splade:{folders['bert']}", runtime=RUNTIMES[backend])
    params = EncoderParams(top_k=20, query_top_k=5, threshold=0.05)
    cut = load(f"splade:{folders['bert']}", params, RUNTIMES[backend])
    oracle = oracle_package.SparseEncoder(str(folders["bert"]), device="cpu")
    theirs = oracle.encode_document(TEXTS, max_active_dims=20 + len(SPECIAL) + 3).to_dense().numpy()
    excluded = [i for i, t in enumerate(full.vocabulary) if t in SPECIAL or t.startswith("[no token")]  # type: ignore[union-attr]
    theirs[:, excluded] = 0
    ids = {token: i for i, token in enumerate(full.vocabulary)}  # type: ignore[union-attr]
    documents, queries = cut.encode_document(TEXTS), cut.encode_query(TEXTS)
    for row, (whole, document, query) in enumerate(
        zip(full.encode_document(TEXTS), documents, queries, strict=True)
    ):
        assert isinstance(whole, SparseVector)
        kept = whole.top(20)
        np.testing.assert_allclose(document.values, kept.values[kept.values > 0.05], atol=1e-5)
        np.testing.assert_allclose(query.values, kept.values[:5], atol=1e-5)
        order = np.argsort(-theirs[row], kind="stable")[: len(document)]
        np.testing.assert_allclose(theirs[row][order], document.values, atol=1e-3)
        edge = float(document.values[-1]) + 1e-3  # beyond ties at the edge the sets are the same
        sure = {ids[str(t)] for t, v in zip(document.indices, document.values, strict=True) if v > edge}
        assert sure <= set(order.tolist())
    assert all(len(d) <= 20 and len(q) <= 5 for d, q in zip(documents, queries, strict=True))
    assert cut.info.extra["top_k"] == 20
    full.close()
    cut.close()


@pytest.mark.parametrize("top_k", [None, 20])
def test_pruned_on_the_device_and_whole_when_memory_runs_out(
    folders: dict[str, Path], top_k: int | None
) -> None:
    """Rows of different widths, from halves of different widths."""
    from esembed.encode.backends.torch import TorchBackbone
    from esembed.encode.models.folder import read_folder
    from esembed.encode.transformer.runner import make_batch
    from esembed.encode.transformer.splade_head import SpladeHead, raw_threshold, rows_of, weights_of

    class Hungry:
        needs_masked_lm = True

        def __init__(self, head: SpladeHead, most: int) -> None:
            self.head, self.most, self.left = head, most, 0

        def torch(self, model: Any, hidden: Any, offsets: Any) -> tuple[Any, ...]:
            if len(hidden) > self.most:
                raise torch.OutOfMemoryError("no room")
            outputs = self.head.torch(model, hidden, offsets)
            self.left += outputs[0].numel()
            return outputs

        def openvino(self, graph: Any, hidden: Any, mask: Any) -> list[Any]:
            raise NotImplementedError

    backbone = TorchBackbone(read_folder(folders["bert"]), RUNTIMES["torch"])
    rng = np.random.default_rng(1)
    batch = make_batch([rng.integers(5, 90, n).astype(np.int32) for n in (30, 22, 13, 9, 4, 2, 1)], 0)
    everything = Hungry(SpladeHead(threshold=-1e6), 10_000)
    [whole] = backbone.program(everything).run([batch])
    assert len(set(whole[2].tolist())) == 1
    hungry = Hungry(SpladeHead("max", "relu", (), top_k, raw_threshold(0.4, "relu")), 40)
    [got] = backbone.program(hungry).run([batch])
    assert hungry.left == len(got[0]) < everything.left / 2
    assert len(set(got[2].tolist())) > (1 if top_k is None else 0)
    for (ids, values), (_, every) in zip(rows_of(got), rows_of(whole), strict=True):
        weights, wanted = weights_of(values, "relu"), weights_of(every, "relu")
        limit = max(0.4, np.sort(wanted)[-top_k] - 1e-6) if top_k else 0.4
        expected = np.flatnonzero(wanted >= limit)
        assert ids is not None
        assert np.sort(ids).tolist() == expected.tolist()
        np.testing.assert_allclose(weights[np.argsort(ids)], wanted[expected], atol=1e-5)


def test_nan_is_found_behind_the_pruning(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "bert")
    model = transformers.AutoModelForMaskedLM.from_pretrained(str(folder))
    with torch.no_grad():
        model.get_output_embeddings().bias[50] = float("nan")
    model.save_pretrained(str(folder))
    for backend, runtime in RUNTIMES.items():
        encoder = load(f"splade:{folder}", EncoderParams(threshold=0.3), runtime)
        with pytest.raises(EncoderError, match=r"NaN or infinity in float32: use dtype='float32'"):
            encoder.encode_document(["the cat", "a dog"])
        encoder.close()
        assert backend == encoder.info.runtime["backend"]


@pytest.mark.parametrize("backend", RUNTIMES)
def test_bfloat16_stays_near(folders: dict[str, Path], backend: str) -> None:
    exact = load(f"splade:{folders['bert']}", runtime=RUNTIMES[backend])
    runtime = RuntimeOptions(backend=backend, device="cpu", dtype="bfloat16")  # type: ignore[arg-type]
    half = load(f"splade:{folders['bert']}", runtime=runtime)
    assert half.info.runtime["dtype"] == "bfloat16"
    for one, other in zip(exact.encode_document(TEXTS), half.encode_document(TEXTS), strict=True):
        assert isinstance(one, SparseVector)
        assert isinstance(other, SparseVector)
        ours, theirs = other.to_dict(), one.to_dict()
        names = list(ours.keys() | theirs.keys())
        a = np.array([ours.get(name, 0.0) for name in names])
        b = np.array([theirs.get(name, 0.0) for name in names])
        assert a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) >= 0.999
    exact.close()
    half.close()


def test_products_stay_in_bfloat16_for_the_maximum(folders: dict[str, Path]) -> None:
    """Else the runtime writes all of rows x length x vocabulary out in float32, chunk by chunk."""
    import openvino

    from esembed.encode.backends.openvino import build
    from esembed.encode.models.folder import read_folder
    from esembed.encode.transformer.splade_head import SpladeHead

    core = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU computes in float32")
    model = build(read_folder(folders["bert"]), SpladeHead(), "bf16")
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    kinds = {
        op.get_rt_info()["layerType"].astype(str): op.get_rt_info()["runtimePrecision"].astype(str)
        for op in compiled.get_runtime_model().get_ops()
    }
    assert kinds["Reduce"] == "bf16"


def test_special_tokens_are_left_out_and_words_come_back(folders: dict[str, Path]) -> None:
    encoder = load(f"splade:{folders['bert']}", runtime=RUNTIMES["openvino"])
    assert isinstance(encoder, SpladeEncoder)
    [vector] = encoder.encode_document(["the cat"])
    assert not set(vector.indices) & set(SPECIAL)
    words = encoder.decode(vector, 3)
    assert [word for word, _ in words] == list(vector.indices[:3])
    assert words[0][1] == pytest.approx(float(vector.values[0]))
    ids = token_ids(encoder.vocabulary)
    assert [encoder.vocabulary[ids[token]] for token in vector.indices] == list(vector.indices)
    encoder.close()


@pytest.mark.parametrize("backend", RUNTIMES)
def test_what_shares_the_batch_doesnt_matter(folders: dict[str, Path], backend: str) -> None:
    encoder = load(f"splade:{folders['bert']}", runtime=RUNTIMES[backend])
    together = encoder.encode_document(TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        [alone] = encoder.encode_document([text])
        mine, theirs = alone.to_dict(), vector.to_dict()  # type: ignore[union-attr]
        for token in mine.keys() | theirs.keys():
            assert mine.get(token, 0.0) == pytest.approx(theirs.get(token, 0.0), abs=1e-4)
    assert encoder.stats.truncated == 2  # the long text, twice
    encoder.close()


def test_both_backends_declare_the_same(folders: dict[str, Path]) -> None:
    infos = []
    for runtime in RUNTIMES.values():
        encoder = load(f"splade:{folders['bert']}", runtime=runtime)
        info = encoder.info
        infos.append((info.spec, info.weights_hash, info.tokenizer_hash, dict(info.extra), info.pooling))
        assert str(folders["bert"].parent) not in repr(info)
        encoder.close()
    assert infos[0] == infos[1]


@pytest.mark.parametrize("backend", RUNTIMES)
def test_dense_and_sparse_from_one_pass(folders: dict[str, Path], backend: str) -> None:
    from esembed.encode.transformer.combined import load_combined

    runtime = RUNTIMES[backend]
    both = load_combined(
        str(folders["bert"]),
        dense=EncoderParams(pooling="mean", normalize=True),
        sparse=EncoderParams(top_k=30),
        runtime=runtime,
    )
    apart_dense = load(f"hf:{folders['bert']}", EncoderParams(pooling="mean", normalize=True), runtime)
    apart_sparse = load(f"splade:{folders['bert']}", EncoderParams(top_k=30), runtime)
    dense, sparse = both.encode_document(TEXTS)
    np.testing.assert_allclose(dense, apart_dense.encode_document(TEXTS), atol=1e-5)
    for mine, theirs in zip(sparse, apart_sparse.encode_document(TEXTS), strict=True):
        np.testing.assert_allclose(mine.values, theirs.values, atol=1e-5)  # type: ignore[union-attr]
    for half, apart in ((both.dense, apart_dense), (both.sparse, apart_sparse)):
        assert (half.info.weights_hash, half.info.tokenizer_hash) == (
            apart.info.weights_hash,
            apart.info.tokenizer_hash,
        )
        assert (half.info.spec, half.info.pooling, half.info.dims, dict(half.info.extra)) == (
            apart.info.spec,
            apart.info.pooling,
            apart.info.dims,
            dict(apart.info.extra),
        )
    tokens = both.dense.stats.tokens
    assert (tokens, both.sparse.stats.tokens) == (apart_dense.stats.tokens, 0)  # counted once
    same, vectors = both.encode_query(TEXTS)
    np.testing.assert_array_equal(same, dense)
    for mine, theirs in zip(vectors, both.sparse.encode_query(TEXTS), strict=True):
        assert mine == theirs
    assert (both.dense.stats.tokens, both.sparse.stats.tokens) == (2 * tokens, tokens)
    with pytest.raises(EncoderError, match="for both"):
        load_combined(str(folders["bert"]), dense=EncoderParams(query_prompt="x"), runtime=runtime)
    for encoder in (both, apart_dense, apart_sparse):
        encoder.close()


# -- queries without a network ---------------------------------------------------------------------


def test_a_router_with_static_queries(folders: dict[str, Path], tmp_path: Path) -> None:
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import (
        MLMTransformer,
        SparseStaticEmbedding,
        SpladePooling,
    )

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folders["bert"]))
    weights = torch.rand(len(tokenizer)) * 3
    router = Router.for_query_document(
        query_modules=[SparseStaticEmbedding(tokenizer, weight=weights, frozen=True)],
        document_modules=[MLMTransformer(str(folders["bert"])), SpladePooling("max", "log1p_relu")],
    )
    oracle = oracle_package.SparseEncoder(modules=[router], device="cpu")
    oracle.save_pretrained(str(tmp_path))
    encoder = load(f"splade:{tmp_path}", runtime=RUNTIMES["openvino"])
    assert encoder.info.extra["query"] == "static"
    close_to(oracle.encode_document(TEXTS), encoder.encode_document(TEXTS), encoder.vocabulary)  # type: ignore[union-attr, arg-type]
    close_to(oracle.encode_query(TEXTS), encoder.encode_query(TEXTS), encoder.vocabulary)  # type: ignore[union-attr, arg-type]
    before = encoder.encode_document(TEXTS)
    encoder.close()
    # OpenSearch's v3 models keep the transformer in the root folder, beside modules.json
    config = json.loads((tmp_path / "router_config.json").read_text())
    [moved] = [
        key for key in config["types"] if "MLMTransformer" in key or "Transformer" in config["types"][key]
    ]
    config["types"][""] = config["types"].pop(moved)
    config["structure"]["document"] = ["" if m == moved else m for m in config["structure"]["document"]]
    (tmp_path / "router_config.json").write_text(json.dumps(config))
    for file in (tmp_path / moved).iterdir():
        file.rename(tmp_path / file.name)
    encoder = load(f"splade:{tmp_path}", runtime=RUNTIMES["openvino"])
    assert encoder.encode_document(TEXTS) == before
    encoder.close()


@pytest.mark.parametrize("name", ["idf.json", "query_token_weights.txt"])
def test_opensearch_doc_only_models(tmp_path: Path, name: str) -> None:
    folder = make_model(tmp_path / "model", "bert")
    weights = {"cat": 2.5, "the": 0.25, "##s": 1.5, "[CLS]": 9.0}
    if name.endswith("json"):
        (folder / name).write_text(json.dumps(weights))
    else:
        (folder / name).write_text("".join(f"{token}\t{weight}\n" for token, weight in weights.items()))
    encoder = load(f"splade:{folder}", runtime=RUNTIMES["openvino"])
    [query] = encoder.encode_query(["the cats, the cats"])
    assert query == SparseVector(("cat", "##s", "the"), np.array([2.5, 1.5, 0.25], np.float32))
    assert encoder.encode_query(["", "[CLS]"])[0] == SparseVector((), np.zeros(0, np.float32))
    oracle = oracle_package.SparseEncoder(str(folder), device="cpu")
    close_to(oracle.encode(TEXTS), encoder.encode_document(TEXTS), encoder.vocabulary)  # type: ignore[union-attr, arg-type]
    encoder.close()
    (folder / name).write_text("{}" if name.endswith("json") else "cat\tmuch\n")
    with pytest.raises(EncoderError, match=r"no weight|can't be read"):
        load(f"splade:{folder}", runtime=RUNTIMES["openvino"])


# -- what is refused -------------------------------------------------------------------------------


def test_folders_that_are_no_sparse_model(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="there is no folder"):
        load(f"splade:{tmp_path / 'nowhere'}")
    with pytest.raises(EncoderError, match="config"):
        load(f"splade:{tmp_path}")
    config = json.loads((folders["bert"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    with pytest.raises(EncoderError, match="not a masked-LM checkpoint"):
        load(f"splade:{tmp_path}")
    (tmp_path / "modules.json").write_text(
        json.dumps(
            [
                {"type": "sentence_transformers.models.Transformer", "path": ""},
                {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
            ]
        )
    )
    with pytest.raises(EncoderError, match="For dense vectors use hf:"):
        load(f"splade:{tmp_path}")
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "custom_st.Thing", "path": ""}]))
    with pytest.raises(EncoderError, match=r"custom_st\.Thing"):
        load(f"splade:{tmp_path}")
    (tmp_path / "modules.json").write_text(
        json.dumps([{"type": "sentence_transformers.models.Router", "path": "../../etc"}])
    )
    with pytest.raises(EncoderError, match="leads out"):
        load(f"splade:{tmp_path}")
    with pytest.raises(EncoderError, match="dims mean nothing"):
        load(f"splade:{folders['bert']}", EncoderParams(dims=3))
    with pytest.raises(EncoderError, match="at most 80"):
        load(f"splade:{folders['bert']}", EncoderParams(max_seq_length=100), RUNTIMES["openvino"])
