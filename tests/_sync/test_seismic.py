# Generated from tests/_async/test_seismic.py by scripts/run_unasync.py; change that file and run the script.
"""A learned sparse field stored as SEISMIC vectors, whose features are integers, on a real OpenSearch."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from esembed import Index, IndexPlan, SparseField, TextField
from esembed import query as q
from esembed.errors import PlanError

RECORDS = [("a", {"body": "cat mat"}), ("b", {"body": "dog house"}), ("c", {"body": "cat dog"})]


@pytest.fixture(scope="module")
def tiny_splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked-language model of a few words with random weights, saved to a folder."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("splade")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "mat", "house"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        # Wide enough that the documents' scores differ by far more than bfloat16 rounds.
        initializer_range=0.4,
    )
    import torch

    torch.manual_seed(8)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder, model_max_length=32)
    tokenizer.save_pretrained(folder)
    return folder


def test_learned_weights_by_integer_ids(
    client: Any, esembed_engine: Any, esembed_index_name: str, tiny_splade: Path
) -> None:
    if esembed_engine.engine != "opensearch":
        pytest.skip("SEISMIC is OpenSearch's")
    part = SparseField(encoder=f"splade:{tiny_splade}", source=("body",), storage="seismic")
    plan = IndexPlan(text={"body": TextField()}, sparse={"learned": part})
    index = Index.create(client, esembed_index_name, plan)
    report = index.ingest(RECORDS)
    assert (report.indexed, report.dead_lettered) == (3, 0), report.errors
    encoder = index.pool.encoder("learned")
    documents = encoder.encode_document([r["body"] for _, r in RECORDS])
    [query] = encoder.encode_query(["cat"])
    scores = {id: query.dot(vector) for (id, _), vector in zip(RECORDS, documents, strict=True)}  # type: ignore[union-attr, arg-type]
    wanted = sorted(scores, key=lambda id: -scores[id])
    hits = index.search(q.sparse("learned"), text="cat", size=3)
    gaps = [scores[a] - scores[b] for a, b in itertools.pairwise(wanted)]
    assert min(gaps) > 0.02 * scores[wanted[0]], "the random model ties; choose another seed"
    assert hits.ids == wanted


def test_words_without_a_vocabulary_are_refused(
    client: Any, esembed_engine: Any, esembed_index_name: str
) -> None:
    if esembed_engine.engine != "opensearch":
        pytest.skip("SEISMIC is OpenSearch's")
    part = SparseField(encoder="lexical", source=("body",), storage="seismic")
    plan = IndexPlan(text={"body": TextField()}, sparse={"terms": part})
    index = Index.create(client, esembed_index_name, plan)
    with pytest.raises(PlanError, match="rank_features"):
        index.ingest(RECORDS)
