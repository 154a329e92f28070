"""Deprecated path of :mod:`esembed.encode.cross_encoder`; it goes with the release after 0.2."""

import warnings

from esembed.encode.cross_encoder import CrossEncoder

__all__ = ["CrossEncoder"]

warnings.warn("esembed.evaluate.rerank is now esembed.encode.cross_encoder", DeprecationWarning, stacklevel=2)
