"""Transformers as OpenVINO graphs, built from config.json and the safetensors alone (no torch).

Here are the blocks that all architectures (``openvino_bert``, ``openvino_decoder``, ``openvino_modernbert``)
and heads are built of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from esembed.errors import EncoderError

if TYPE_CHECKING:
    from esembed.encode.models.folder import ModelFiles

__all__ = ["ACTIVATIONS", "EMBEDDINGS", "Graph"]

ACTIVATIONS = (
    "gelu",
    "gelu_new",
    "gelu_pytorch_tanh",
    "relu",
    "silu",
    "swish",
    "tanh",
    "sigmoid",
    "identity",
)
"""What configs may name; see :meth:`Graph.activation`."""


EMBEDDINGS = ("embeddings.word_embeddings.weight", "embeddings.tok_embeddings.weight", "embed_tokens.weight")
"""How the table of word embeddings is called, behind the prefix."""
_PREFIXES = ("", "bert.", "roberta.", "distilbert.", "mpnet.", "model.")


def _present_name(name: str) -> str:
    """Checkpoints that came from TensorFlow call a layer norm's weight and bias gamma and beta."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(f"LayerNorm{old}"):
            return name.removesuffix(old) + new
    return name


def _width(x: Any) -> int | None:
    """The size of the last axis, or None where it comes with the input."""
    size = x.output(0).partial_shape[-1]
    return size.get_length() if size.is_static else None


class Graph:
    """Small building blocks over one model's tensors.

    Args:
        files: the model.
        precision: ``f32``, or ``bf16`` where the CPU computes in it.

    Attributes:
        config: the model's config.json.
        prefix: what stands before the encoder's tensor names in the file (``bert.`` …), maybe empty.
        precision: what products are computed in.
    """

    def __init__(self, files: ModelFiles, precision: str = "f32") -> None:
        self.config: Mapping[str, Any] = files.config
        self.precision = precision
        self._tensors = files.tensors()
        self._stored = {_present_name(name): name for name in self._tensors}
        self.prefix = next(
            (p for p in _PREFIXES if any(f"{p}{name}" in self._stored for name in EMBEDDINGS)), ""
        )
        self._name = files.name

    def has(self, name: str) -> bool:
        """Whether the model has a tensor of that full name."""
        return name in self._stored

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """A source tensor as float32, by its full name in the file.

        Raises:
            EncoderError: the file has no such tensor.
        """
        if name not in self._stored:
            raise EncoderError(
                f"{self._name} has no tensor {name!r} in its safetensors: the checkpoint is incomplete",
                spec=self._name,
            )
        return self._tensors[self._stored[name]]

    def constant(self, value: npt.ArrayLike, dtype: Any = np.float32) -> Any:
        """*value* as a node, which shares the array's memory."""
        from openvino import op

        return op.Constant(np.asarray(value, dtype=dtype, order="C"), shared_memory=True)

    def bfloat16(self, value: npt.NDArray[np.float32]) -> Any:
        """*value* as a node that holds it in bfloat16."""
        import openvino
        from openvino import opset13 as ov

        return ov.constant(np.ascontiguousarray(value), openvino.Type.bf16)

    def linear(self, x: Any, name: str) -> Any:
        """x·Wᵀ + b with the tensors ``name.weight`` and, where there is one, ``name.bias``."""
        bias = self.tensor(f"{name}.bias") if self.has(f"{name}.bias") else None
        return self.affine(x, self.tensor(f"{name}.weight"), bias)

    def affine(
        self, x: Any, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32] | None = None
    ) -> Any:
        """x·Wᵀ + b; *weight* has shape (out, in), *bias* (out,).

        Raises:
            EncoderError: they have other shapes.
        """
        from openvino import opset13 as ov

        if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            raise self._misfit(
                f"a linear layer's weight has the shape {weight.shape} and its bias "
                f"{None if bias is None else bias.shape}"
            )
        y = ov.matmul(x, self.constant(weight), False, True)
        return y if bias is None else ov.add(y, self.constant(bias))

    def layer_norm(self, x: Any, name: str, eps: float) -> Any:
        """Layer normalization over the last axis with ``name.weight`` and maybe ``name.bias``."""
        from openvino import opset13 as ov

        y = ov.mvn(x, self.constant([-1], np.int64), True, eps, "inside_sqrt")
        y = ov.multiply(y, self._each(x, f"{name}.weight"))
        return ov.add(y, self._each(x, f"{name}.bias")) if self.has(f"{name}.bias") else y

    def rms_norm(self, x: Any, name: str, eps: float) -> Any:
        """x over the root mean square of its last axis (Zhang and Sennrich 2019), times ``name.weight``."""
        from openvino import opset13 as ov

        square = ov.reduce_mean(ov.power(x, self.constant(2.0)), self.constant([-1], np.int64), True)
        root = ov.sqrt(ov.add(square, self.constant(eps)))
        return ov.multiply(
            ov.multiply(x, ov.divide(self.constant(1.0), root)), self._each(x, f"{name}.weight")
        )

    def add(self, x: Any, y: Any) -> Any:
        """x + y of one width. ``ov.add`` broadcasts: a layer with one output would be added to each number.

        Raises:
            EncoderError: they differ in width.
        """
        from openvino import opset13 as ov

        return ov.add(*self._alike(x, y))

    def multiply(self, x: Any, y: Any) -> Any:
        """x · y of one width. See :meth:`add`.

        Raises:
            EncoderError: they differ in width.
        """
        from openvino import opset13 as ov

        return ov.multiply(*self._alike(x, y))

    def heads(self, x: Any, count: int, depth: int) -> Any:
        """*x* (rows, length, count · depth) as (rows, length, count, depth).

        Raises:
            EncoderError: *x* is of another width, which OpenVINO's reshape makes an empty tensor of, silently
                (2026.4).
        """
        from openvino import opset13 as ov

        if _width(x) not in (None, count * depth):
            raise self._misfit(f"{_width(x)} numbers are divided among {count} heads of {depth}")
        return ov.reshape(x, self.constant([0, 0, count, depth], np.int64), True)

    def check_width(self, x: Any, width: int) -> None:
        """Refuse an *x* whose last axis isn't of the size *width*.

        Raises:
            EncoderError: it isn't.
        """
        if _width(x) not in (None, width):
            raise self._misfit(f"the last layer gives {_width(x)} numbers, and config.json says {width}")

    def _alike(self, x: Any, y: Any) -> tuple[Any, Any]:
        if None not in (_width(x), _width(y)) and _width(x) != _width(y):
            raise self._misfit(f"a layer gives {_width(y)} numbers where {_width(x)} are wanted")
        return x, y

    def _each(self, x: Any, name: str) -> Any:
        """A tensor with a number for each along the last axis of *x*."""
        values = self.tensor(name)
        if values.ndim != 1 or _width(x) not in (None, len(values)):
            raise self._misfit(f"tensor {name} has the shape {values.shape}, and {_width(x)} numbers come in")
        return self.constant(values)

    def _misfit(self, what: str) -> EncoderError:
        return EncoderError(
            f"{self._name}: {what}: the safetensors and config.json are of two models, or one of them was "
            "edited. Fetch both from the same revision",
            spec=self._name,
        )

    def length(self, ids: Any) -> Any:
        """The second dimension of *ids*, int64 (1,)."""
        from openvino import opset13 as ov

        return ov.gather(ov.shape_of(ids), self.constant([1], np.int64), self.constant(0, np.int64))

    def first(self, table: npt.NDArray[np.float32], length: Any, axes: tuple[int, ...] = (0,)) -> Any:
        """The leading *length* (see :meth:`length`) of the constant *table* along each of *axes*."""
        from openvino import opset13 as ov

        return ov.slice(
            self.constant(table),
            self.constant([0] * len(axes), np.int64),
            ov.concat([length] * len(axes), 0),
            self.constant([1] * len(axes), np.int64),
            self.constant(axes, np.int64),
        )

    def padding_bias(self, mask: Any) -> Any:
        """What is added to scores, (rows, 1, 1, length): 0 at tokens, a large negative number at padding."""
        from openvino import opset13 as ov

        away = ov.multiply(ov.subtract(mask, self.constant(1.0)), self.constant(10000.0))
        return ov.unsqueeze(away, self.constant([1, 2], np.int64))

    def distances(self, length: Any) -> Any:
        """How far each query's place is behind each key's, int64 (length, length)."""
        from openvino import opset13 as ov

        zero, one = self.constant(0, np.int64), self.constant(1, np.int64)
        place = ov.range(zero, ov.squeeze(length, zero), one, "i64")
        return ov.subtract(ov.unsqueeze(place, one), ov.unsqueeze(place, zero))

    def rotated(self, x: Any, tables: tuple[Any, Any]) -> Any:
        """Rotary positions (Su et al. 2021): *x* is (rows, heads, length, depth), *tables* the cosines and
        sines of :func:`rotary_tables`, each (length, depth); the halves of the depth make the pairs."""
        from openvino import opset13 as ov

        cosines, sines = tables
        low, high = ov.split(x, self.constant(-1, np.int64), 2).outputs()
        turned = ov.concat([ov.multiply(high, self.constant(-1.0)), low], -1)
        return ov.add(ov.multiply(x, cosines), ov.multiply(turned, sines))

    def activation(self, x: Any, name: str) -> Any:
        """One of the activations that configs name (``gelu``, ``gelu_new``, ``relu`` …)."""
        from openvino import opset13 as ov

        if name == "gelu":
            # As the models were trained; the tanh form changes MiniLM's vectors by 3e-4.
            return ov.gelu(x, "erf")
        if name in ("gelu_new", "gelu_pytorch_tanh"):
            return ov.gelu(x, "tanh")
        if name in ("silu", "swish"):
            return ov.swish(x)
        if name == "identity":
            return x
        if name in ("relu", "tanh", "sigmoid"):
            return getattr(ov, name)(x)
        raise EncoderError(f"the OpenVINO backend doesn't know the activation {name!r}", spec=self._name)

    def gelu(self, x: Any) -> Any:
        """The exact (erf) GELU."""
        return self.activation(x, "gelu")
