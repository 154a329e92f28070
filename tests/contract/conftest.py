"""The real engines for the contract tests: from the pytest plugin, or where a URL names one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from query_engines import World, world


def _engine(request: pytest.FixtureRequest, kind: str) -> Any:
    url = os.environ.get(f"ESEMBED_{kind.upper()}_URL")
    return url or request.getfixturevalue(f"esembed_{kind}")


@pytest.fixture
def elasticsearch_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A real Elasticsearch."""
    with world(_engine(request, "elasticsearch"), "elasticsearch") as live:
        yield live


@pytest.fixture
def opensearch_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A real OpenSearch."""
    with world(_engine(request, "opensearch"), "opensearch") as live:
        yield live


@pytest.fixture(params=["elasticsearch", "opensearch"])
def query_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Each engine in turn."""
    with world(_engine(request, request.param), request.param) as live:
        yield live
