"""Names that esembed keeps for itself inside an index."""

from __future__ import annotations

__all__ = ["HASH_FIELD", "PARENT_FIELD"]

HASH_FIELD = "esembed_hash"
"""The hidden field (keyword) with the hash of each document's content and of how it was encoded."""

PARENT_FIELD = "esembed_parent"
"""The hidden field (keyword) with the parent's id, in chunks that are documents of their own."""
