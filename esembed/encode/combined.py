"""Deprecated path of :mod:`esembed.encode.transformer.combined`; it goes with the release after 0.2."""

import warnings

from esembed.encode.transformer.combined import load_combined

__all__ = ["load_combined"]

warnings.warn(
    "esembed.encode.combined is now esembed.encode.transformer.combined", DeprecationWarning, stacklevel=2
)
