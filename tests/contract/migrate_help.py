"""What the migration's tests and their child process share: models, plans."""

from __future__ import annotations

import hashlib

import numpy as np

from esembed.encode.base import EncoderInfo, EncodeStats
from esembed.plan import IndexPlan


class Salted:
    """A deterministic encoder: a text's vector is drawn from its hash, another one for each salt."""

    def __init__(self, salt):
        self.salt = salt
        self.stats = EncodeStats()
        self.info = EncoderInfo(
            spec=f"hf:test/{salt}",
            type="dense",
            dims=64,
            weights_hash=salt * 16,
            tokenizer_hash="t",
            pooling="mean",
            normalize=True,
            max_seq_length=64,
        )

    def encode_document(self, texts):
        self.stats.texts += len(texts)
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256((self.salt + text).encode()).digest()[:8], "big")
            rows.append(np.random.default_rng(seed).standard_normal(64))
        out = np.stack(rows).astype(np.float32)
        return out / np.linalg.norm(out, axis=1, keepdims=True)

    encode_query = encode_document

    def close(self):
        """Nothing."""


def plan(salt, **options):
    """A plan whose dense field is filled by the model *salt*."""
    return IndexPlan.from_dict(
        {
            "text": {"body": {}},
            "dense": {"e": {"encoder": f"hf:test/{salt}", "source": ["body"], **options}},
            "filter": {"n": {"type": "integer"}},
        }
    )
