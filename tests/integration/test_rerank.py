"""The cross-encoder on tiny models made here, against Transformers' own forward pass, on both backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")

from esembed.encode.cross_encoder import CrossEncoder  # noqa: E402
from esembed.errors import EncoderError  # noqa: E402

TEXT = "whales swim in the deep sea trees grow on land who where what fish"
WORDS = TEXT.split()


def checkpoint(folder: Path, outputs: int) -> Path:
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(outputs)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=outputs,
        initializer_range=0.6,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    transformers.BertTokenizerFast.from_pretrained(folder, model_max_length=64).save_pretrained(folder)
    return folder


TEXTS = ["whales swim in the deep sea", "trees grow on land", "fish " * 200, "", "sea whales"]


def expected(folder: Path, query: str, text: str) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    # Lists, since a single empty text is taken for no second text at all.
    one = tokenizer([query], [text], return_tensors="pt", truncation="only_second", max_length=64)
    with torch.inference_mode():
        logits = model(**one).logits[0].numpy()
    return logits[0] if len(logits) == 1 else logits[1] - logits[0]


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_scores_are_those_of_the_model_itself(tmp_path: Path, outputs: int, backend: Any) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="needs the openvino extra")
    folder = checkpoint(tmp_path / "model", outputs)
    encoder = CrossEncoder(folder, backend=backend, batch_size=2)
    scores = encoder("where whales swim", TEXTS)
    wanted = [expected(folder, "where whales swim", text) for text in TEXTS]
    assert scores == pytest.approx(wanted, abs=2e-4)
    # Neither the order nor what else is in the batch changes a score.
    assert encoder("where whales swim", TEXTS[::-1]) == pytest.approx(scores[::-1], abs=2e-4)
    assert np.ptp(scores) > 0.01
    assert encoder("who", []) == []
    encoder.close()


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_scores_are_those_of_sentence_transformers(tmp_path: Path, backend: Any) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    if backend == "openvino":
        pytest.importorskip("openvino", reason="needs the openvino extra")
    folder = checkpoint(tmp_path / "model", 1)
    peer = sentence_transformers.CrossEncoder(str(folder), activation_fn=torch.nn.Identity(), device="cpu")
    texts = [text for text in TEXTS if text]
    wanted = peer.predict([("where whales swim", text) for text in texts], show_progress_bar=False)
    encoder = CrossEncoder(folder, backend=backend)
    assert encoder("where whales swim", texts) == pytest.approx(wanted.tolist(), abs=2e-4)
    encoder.close()


def test_what_is_no_reranker(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="3 outputs"):
        CrossEncoder(checkpoint(tmp_path / "three", 3))
    with pytest.raises(EncoderError, match="sequence-classification"):
        CrossEncoder(tmp_path / "nothing", local_files_only=True)
