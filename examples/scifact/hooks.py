"""A transform for BEIR collections: title and text in one field, as published BM25 figures have it."""

from __future__ import annotations

from typing import Any


def contents(record: dict[str, Any]) -> dict[str, Any]:
    """``contents`` = title, a space, text."""
    return {**record, "contents": f"{record.get('title', '')} {record.get('text', '')}".strip()}
