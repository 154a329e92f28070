"""Attention on unpadded rows, in transformers' own models.

The texts of a batch lie one behind the other in a single row, so that every linear layer and norm sees real
tokens only; positions begin anew with each text. Attention is told apart by the texts' offsets: with torch's
variable-length kernel on CUDA (``torch.nn.attention.varlen``, FlashAttention), elsewhere with one fused
attention for each group of texts of equal length. It is registered under transformers' attention interface
(``transformers.AttentionInterface``), which makes no mask for it.

Only for architectures whose attention goes through that interface and whose positions can be given:
:data:`PACKABLE`. Others keep padded rows.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch

__all__ = ["NAME", "PACKABLE", "layout", "packed_model", "positions", "varlen_available"]

NAME = "esembed_packed"

PACKABLE = {
    "bert": 0,
    "roberta": 1,
    "xlm-roberta": 1,
    "camembert": 1,
    "llama": 0,
    "mistral": 0,
    "qwen2": 0,
    "qwen3": 0,
}
"""Model types that run packed; 1 where the first position is the padding's id plus one."""

_VARLEN_DTYPES = (torch.bfloat16, torch.float16)
_now = threading.local()


def varlen_available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has its variable-length kernel for this device and dtype."""
    if device.type != "cuda" or dtype not in _VARLEN_DTYPES:
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.get_device_capability(device)[0] >= 8


def positions(lengths: Sequence[int], model_type: str, pad_id: int) -> torch.Tensor:
    """int64, shape (1, tokens): each text's positions, from 0 or from *pad_id* + 1."""
    first = pad_id + 1 if PACKABLE[model_type] else 0
    return torch.cat([torch.arange(first, first + n) for n in lengths])[None]


@contextlib.contextmanager
def layout(lengths: Sequence[int], offsets: torch.Tensor) -> Iterator[None]:
    """What lies in the row while a model runs in this thread.

    Args:
        lengths: tokens of each text.
        offsets: int32 on the model's device, shape (texts + 1,).
    """
    _now.lengths, _now.offsets = list(lengths), offsets
    try:
        yield
    finally:
        del _now.lengths, _now.offsets


def packed_model(model: Any) -> None:
    """Make *model* run its attention by this module from now on."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    model.set_attn_implementation(NAME)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """(1, heads, tokens, d) three times to (1, tokens, heads, d), each text seeing itself alone."""
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    lengths, offsets = _now.lengths, _now.offsets
    window = sliding_window if sliding_window is not None and sliding_window < max(lengths) else None
    if varlen_available(query.device, query.dtype):
        from torch.nn.attention.varlen import varlen_attn

        longest = max(lengths)
        left = window - 1 if window is not None else -1
        q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
        result: Any = varlen_attn(
            q,
            k,
            v,
            offsets,
            offsets,
            longest,
            longest,
            scale=scaling,
            window_size=(left, 0 if causal else left),
            enable_gqa=key.shape[1] != query.shape[1],
        )
        return result[None], None
    return _grouped(query, key, value, lengths, scaling, bool(causal), window), None


def _grouped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: Sequence[int],
    scaling: float | None,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    """The same by one fused attention for each run of texts of equal length."""
    _, heads, tokens, _ = query.shape
    out = query.new_empty(1, tokens, heads, value.shape[-1])
    start = first = 0
    while first < len(lengths):
        length, last = lengths[first], first
        while last < len(lengths) and lengths[last] == length:
            last += 1
        rows, stop = last - first, start + (last - first) * length
        mask = None
        if window is not None and window < length:
            distance = torch.arange(length, device=query.device)
            distance = distance[:, None] - distance[None]
            mask = (distance < window) & (distance >= 0 if causal else distance > -window)
        q, k, v = (
            x[0, :, start:stop].reshape(x.shape[1], rows, length, -1).transpose(0, 1)
            for x in (query, key, value)
        )
        part = torch.nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=causal and mask is None,
            scale=scaling,
            enable_gqa=key.shape[1] != heads,
        )
        out[0, start:stop] = part.transpose(1, 2).flatten(0, 1)
        start, first = stop, last
    return out
