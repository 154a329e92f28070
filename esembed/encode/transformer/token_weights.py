"""BGE-M3's sparse head: a weight for each token of a text, from its hidden state alone.

Chen et al. 2024, "M3-Embedding" (and FlagEmbedding's BGEM3): the weight of a token is
``relu(W h + b)`` with W of one row, the weight of a vocabulary entry the largest of its occurrences in
the text; special tokens have none. No masked-LM head takes part, so a pass gives one number for each
token, and nothing of the size of the vocabulary is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from esembed.encode.models.tensors import TensorFile, Tensors, read_pickled_tensors
from esembed.errors import EncoderError
from esembed.types import FloatArray

__all__ = ["TokenWeightHead", "heaviest", "read_token_weights", "token_weights_file"]

_FILES = ("sparse_linear.safetensors", "sparse_linear.pt")


def token_weights_file(folder: Path) -> Path | None:
    """The file of the head in a model's folder, safetensors first, or None."""
    return next((folder / name for name in _FILES if (folder / name).is_file()), None)


def read_token_weights(path: Path, hidden_size: int) -> tuple[FloatArray, float]:
    """The head's weight, float32 (hidden,), and its bias.

    Raises:
        EncoderError: the file can't be read, or holds no projection of *hidden_size* to one number.
    """
    if path.suffix == ".safetensors":
        tensors: dict[str, FloatArray] = dict(Tensors([TensorFile(path)]))
    else:
        tensors = read_pickled_tensors(path)
    short = {name.rpartition(".")[2]: np.asarray(value, np.float32) for name, value in tensors.items()}
    weight, bias = short.get("weight"), short.get("bias", np.zeros(1, np.float32))
    if weight is None or weight.size != hidden_size or bias.size != 1:
        raise EncoderError(
            f"{path.name}: a projection of {hidden_size} numbers to one is needed (weight and bias), it has "
            f"{', '.join(f'{name} {value.shape}' for name, value in tensors.items()) or 'nothing'}",
            spec=path.name,
        )
    weight = weight.reshape(-1)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise EncoderError(f"{path.name} holds NaN or infinity", spec=path.name)
    return weight, float(bias.reshape(-1)[0])


@dataclass(frozen=True, slots=True, eq=False)
class TokenWeightHead:
    """A weight for each token. One output, for :func:`heaviest`: in OpenVINO float32 (rows, length), in
    torch float32 (tokens,) of the real tokens, row by row.

    Attributes:
        weight: float32 (hidden,).
        bias: added before the relu.
    """

    weight: FloatArray
    bias: float = 0.0

    @property
    def needs_masked_lm(self) -> bool:
        return False

    def openvino(self, graph: Any, hidden: Any, mask: Any) -> list[Any]:
        from openvino import opset13 as ov

        x = graph.affine(hidden, self.weight[None], np.array([self.bias], np.float32))
        return [ov.squeeze(ov.relu(x), graph.constant([2], np.int64))]

    def torch(self, model: Any, hidden: Any, offsets: Any) -> tuple[Any, ...]:
        import torch

        weight = torch.from_numpy(self.weight).to(hidden.device)
        return (torch.relu(hidden.float() @ weight + self.bias),)


def heaviest(
    weights: FloatArray, ids: Sequence[npt.NDArray[Any]], excluded: npt.NDArray[np.bool_]
) -> Iterator[tuple[npt.NDArray[Any], FloatArray]]:
    """For each row its distinct ids and the largest weight of each.

    Args:
        weights: what the head returned for one batch.
        ids: the token ids of each row.
        excluded: (vocabulary,): true where an id never counts.
    """
    start = 0
    for row, tokens in enumerate(ids):
        if weights.ndim == 1:
            mine = weights[start : start + len(tokens)]
            start += len(tokens)
        else:
            mine = weights[row, : len(tokens)]
        kept = ~excluded[tokens]
        distinct, place = np.unique(tokens[kept], return_inverse=True)
        largest = np.zeros(len(distinct), np.float32)
        np.maximum.at(largest, place, mine[kept])
        yield distinct, largest
