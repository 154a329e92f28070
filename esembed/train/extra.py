"""The libraries of the extra ``train``, imported where they are used: each takes seconds."""

from __future__ import annotations

import importlib
from typing import Any

from esembed.errors import EsembedError

__all__ = ["need"]


def need(module: str) -> Any:
    """The module, imported.

    Raises:
        EsembedError: it isn't installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise EsembedError(
            f"training needs {error.name}, which is in an extra: pip install 'esembed[train]'"
        ) from error
