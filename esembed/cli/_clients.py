"""The official client's class, without what its package imports beside and no verb uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from esembed.capabilities import Engine

__all__ = ["client_class", "own_process"]

own_process = False
"""Whether this process runs one command line and nothing else. Where a program calls
:func:`esembed.cli.main`, the packages are imported whole: it may use what a verb doesn't."""

_OPTIONAL: dict[Engine, tuple[str, ...]] = {
    # Measured with all of them installed, processor time: 1.27 s, and 0.52 s without these. The package
    # imports them only to know their types or to offer them as HTTP stacks; it does without what is absent.
    "elasticsearch": ("numpy", "pandas", "pyarrow", "aiohttp", "httpx", "requests"),
    # 0.55 s, and 0.31 s without; its signers need requests.
    "opensearch": ("aiohttp",),
}


def client_class(engine: Engine, *, lean: bool = False) -> Any:
    """``elasticsearch.Elasticsearch`` or ``opensearchpy.OpenSearch``.

    Args:
        engine: whose.
        lean: without the async client, the HTTP stacks that aren't the default one, and values of NumPy,
            pandas and pyarrow in bodies. For verbs that run no code of the user.
    """
    with _absent(_OPTIONAL[engine] if lean and own_process else ()):
        if engine == "elasticsearch":
            from elasticsearch import Elasticsearch

            return Elasticsearch
        from opensearchpy import OpenSearch

        return OpenSearch


@contextmanager
def _absent(packages: tuple[str, ...]) -> Iterator[None]:
    """For as long as this lasts, an import of these fails as if they weren't installed."""
    hidden = [package for package in packages if package not in sys.modules]
    for package in hidden:
        sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]
