"""What ``quantization = "auto"`` means, on each engine."""

from __future__ import annotations

from esembed.plan import DenseField

__all__ = ["auto_quantization"]


def auto_quantization(field: DenseField, notes: list[str], where: str) -> str:
    """The field's quantization, ``auto`` resolved and noted.

    Args:
        notes: gets a line when ``auto`` was resolved.
        where: the field's path in the plan, for that line.
    """
    if field.quantization != "auto":
        return field.quantization
    # Bytes and bits are quantized already. For floats this is the one quantized form that both engines
    # have in every build, and it costs at most .02 of recall@10 (docs/quantization.md, 200,000 vectors).
    chosen = "hnsw" if field.element_type in ("byte", "bit") else "int8_hnsw"
    notes.append(f'{where}: quantization "auto" is "{chosen}"')
    return chosen
