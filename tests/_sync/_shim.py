"""What async and sync tests differ in; the twin is written by hand."""

from __future__ import annotations

from typing import Any


def official(kind: str, url: str) -> Any:
    """The official sync client."""
    if kind == "elasticsearch":
        import elasticsearch

        return elasticsearch.Elasticsearch(url)
    import opensearchpy

    return opensearchpy.OpenSearch(url)


def together(*results: Any) -> list[Any]:
    """Results that are there already."""
    return list(results)


OVERLAP = False
