"""esembed: dense and sparse vectors into Elasticsearch and OpenSearch, hybrid search out of them.

Four nouns: :class:`IndexPlan` says what an index is, an encoder (:func:`load_encoder`) turns text into
vectors, :class:`Index` (:class:`AsyncIndex`) is a plan on a live engine, and :mod:`esembed.query` makes
queries. Names are loaded when they are first used, so that importing esembed stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from esembed._version import __version__

if TYPE_CHECKING:
    from esembed import query
    from esembed._async.follower import AsyncFollower
    from esembed._async.index import AsyncIndex
    from esembed._sync.follower import Follower
    from esembed._sync.index import Index
    from esembed.capabilities import Capabilities
    from esembed.encode.base import RuntimeOptions
    from esembed.encode.registry import load as load_encoder
    from esembed.errors import EsembedError
    from esembed.ingest.options import IngestOptions, IngestReport
    from esembed.migration.options import MigrateOptions, MigrationReport
    from esembed.plan import (
        CandidateRule,
        ChunkOptions,
        DenseField,
        DiskOptions,
        FilterField,
        IndexOptions,
        IndexPlan,
        LoadOptions,
        SeismicOptions,
        SparseField,
        TextField,
    )
    from esembed.plan.params import EncoderParams
    from esembed.query import Query
    from esembed.search.compile import to_body
    from esembed.search.esql import to_esql
    from esembed.types import Document, Hit, Hits, ItemError, SparseVector

__all__ = [
    "AsyncFollower",
    "AsyncIndex",
    "CandidateRule",
    "Capabilities",
    "ChunkOptions",
    "DenseField",
    "DiskOptions",
    "Document",
    "EncoderParams",
    "EsembedError",
    "FilterField",
    "Follower",
    "Hit",
    "Hits",
    "Index",
    "IndexOptions",
    "IndexPlan",
    "IngestOptions",
    "IngestReport",
    "ItemError",
    "LoadOptions",
    "MigrateOptions",
    "MigrationReport",
    "Query",
    "RuntimeOptions",
    "SeismicOptions",
    "SparseField",
    "SparseVector",
    "TextField",
    "__version__",
    "load_encoder",
    "query",
    "to_body",
    "to_esql",
]

_WHERE = {
    "AsyncFollower": "esembed._async.follower",
    "AsyncIndex": "esembed._async.index",
    "Capabilities": "esembed.capabilities",
    "CandidateRule": "esembed.plan",
    "ChunkOptions": "esembed.plan",
    "DenseField": "esembed.plan",
    "DiskOptions": "esembed.plan",
    "Document": "esembed.types",
    "EncoderParams": "esembed.plan.params",
    "EsembedError": "esembed.errors",
    "FilterField": "esembed.plan",
    "Follower": "esembed._sync.follower",
    "Hit": "esembed.types",
    "Hits": "esembed.types",
    "Index": "esembed._sync.index",
    "IndexOptions": "esembed.plan",
    "IndexPlan": "esembed.plan",
    "IngestOptions": "esembed.ingest.options",
    "IngestReport": "esembed.ingest.options",
    "ItemError": "esembed.types",
    "LoadOptions": "esembed.plan",
    "MigrateOptions": "esembed.migration.options",
    "MigrationReport": "esembed.migration.options",
    "Query": "esembed.query",
    "RuntimeOptions": "esembed.encode.base",
    "SeismicOptions": "esembed.plan",
    "SparseField": "esembed.plan",
    "SparseVector": "esembed.types",
    "TextField": "esembed.plan",
    "to_body": "esembed.search.compile",
    "to_esql": "esembed.search.esql",
}


def __getattr__(name: str) -> Any:
    if name == "query":
        return importlib.import_module("esembed.query")
    if name == "load_encoder":
        value = importlib.import_module("esembed.encode.registry").load
    elif name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
    else:
        raise AttributeError(f"module 'esembed' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
