"""A cross-encoder as an optional last stage: query and text read together, one score for each text.

Any sequence-classification checkpoint of Transformers with one output (relevance) or two (no, yes)::

    cross = CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2")
    index = Index.open(client, "books", rerankers={"cross": cross})

and in a query ``q.rescore(query, reranker="cross", fields=["body"], window_size=50)``. See Nogueira and
Cho, "Passage re-ranking with BERT", 2019.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from esembed.encode.foreign_errors import foreign_errors
from esembed.encode.processes import ForkSafeLock, ProcessMark, absolute, leave_in_parent, use_torch
from esembed.errors import EncoderError

__all__ = ["CrossEncoder"]


class CrossEncoder:
    """Scores texts for a query; call it, or pass it as a reranker. Calls are serialized.

    Args:
        name: a folder, or a model's name on the hub.
        backend: ``torch``, or ``openvino``: the same graph, converted when it is loaded (torch is needed
            for that, not afterward); ``auto`` is torch.
        max_seq_length: tokens of query and text together; None is the model's own limit, at most 512.
            The text is cut, never the query.
        batch_size: pairs in one pass; they are sorted by length first.
        revision: the hub revision.
        local_files_only: never ask the hub.

    Raises:
        EncoderError: transformers or torch is missing, no such model, weights that aren't safetensors,
            or a head with more than two outputs.
    """

    def __init__(
        self,
        name: str | os.PathLike[str],
        *,
        backend: Literal["auto", "torch", "openvino"] = "auto",
        max_seq_length: int | None = None,
        batch_size: int = 16,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        if batch_size < 1:
            raise EncoderError(f"batch_size must be ≥ 1, not {batch_size}", spec=str(name))
        transformers = _need("transformers", str(name))
        self._torch = _need("torch", str(name))
        use_torch(os.fspath(name))
        self._loaded_from = partial(
            type(self),
            absolute(os.fspath(name)),
            backend=backend,
            max_seq_length=max_seq_length,
            batch_size=batch_size,
            revision=revision,
            local_files_only=local_files_only,
        )
        options: dict[str, Any] = {
            "revision": revision,
            "local_files_only": local_files_only,
            "trust_remote_code": False,
        }
        with foreign_errors(os.fspath(name), "be loaded as a sequence-classification model"):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                name, use_safetensors=True, **options
            )
        self._outputs = int(model.config.num_labels)
        if self._outputs not in (1, 2):
            raise EncoderError(
                f"{os.fspath(name)!r} has {self._outputs} outputs; a reranker has one (relevance) or two "
                "(no, yes)",
                spec=str(name),
            )
        limit = min(512, int(self._tokenizer.model_max_length), _positions(model.config))
        self._length = limit if max_seq_length is None else min(limit, max_seq_length)
        self._batch_size = batch_size
        self._lock = ForkSafeLock()
        self._process = ProcessMark()
        self._model = model.eval()
        self._compiled: Any = self._convert() if backend == "openvino" else None
        self.backend = "openvino" if backend == "openvino" else "torch"

    def __reduce__(self) -> Any:
        """Pickled as its arguments: the process that reads the pickle loads the model again."""
        return self._loaded_from, ()

    def __call__(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score for each text, larger is better; an empty list for none."""
        return self.score([(query, text) for text in texts]).tolist()  # type: ignore[no-any-return]

    def score(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """Scores of (query, text) pairs: float32, shape (len(pairs),), the raw logit, or the difference
        of the two. They are not probabilities, and only comparable within one query."""
        self._process.check("this cross-encoder")
        scores = np.zeros(len(pairs), np.float32)
        with self._lock:
            for rows in self._batches(pairs):
                encoded = self._encode([pairs[i] for i in rows])
                logits = self._run(encoded)
                scores[rows] = logits[:, 0] if self._outputs == 1 else logits[:, 1] - logits[:, 0]
        return scores

    def _batches(self, pairs: Sequence[tuple[str, str]]) -> Iterator[list[int]]:
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        for start in range(0, len(order), self._batch_size):
            yield order[start : start + self._batch_size]

    def _encode(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        encoded = self._tokenizer(
            [query for query, _ in pairs],
            [text for _, text in pairs],
            padding=True,
            truncation="only_second",
            max_length=self._length,
            return_tensors="np",
        )
        return {name: np.asarray(value, dtype=np.int64) for name, value in encoded.items()}

    def _run(self, encoded: dict[str, Any]) -> npt.NDArray[np.float32]:
        if self._compiled is not None:
            known = {name for port in self._compiled.inputs for name in port.get_names()}
            answer = self._compiled({k: v for k, v in encoded.items() if k in known})
            return np.asarray(answer[0], dtype=np.float32)
        torch = self._torch
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(value) for name, value in encoded.items()}
            return np.asarray(self._model(**tensors).logits.float().numpy(), dtype=np.float32)

    def _convert(self) -> Any:
        openvino = _need("openvino", "cross-encoder")
        example = {
            name: self._torch.from_numpy(value)
            for name, value in self._encode([("a query", "a text"), ("a", "b c d e f")]).items()
        }
        with warnings.catch_warnings():
            # torch calls tracing deprecated; OpenVINO's converter has no other way to dynamic shapes.
            warnings.simplefilter("ignore")
            converted = openvino.convert_model(self._model, example_input=example)
        compiled = openvino.Core().compile_model(
            converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        )
        leave_in_parent(compiled)
        return compiled

    def close(self) -> None:
        """Let go of the model."""
        self._model = self._compiled = None


def _positions(config: Any) -> int:
    limit = getattr(config, "max_position_embeddings", None) or 512
    # RoBERTa's positions begin after the padding index.
    offset = 2 if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert") else 0
    return int(limit) - offset


def _need(module: str, spec: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"a cross-encoder needs {module}: pip install 'esembed[torch]'", spec=spec
        ) from error
