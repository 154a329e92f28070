"""A plan, a query, a record ↔ an engine's JSON. Pure: nothing here does I/O.

A module here holds what the engines share, the module of the same name under ``elasticsearch/`` and
``opensearch/`` what one of them does its own way. A new engine is one more folder, and a line here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esembed.capabilities import Capabilities
    from esembed.dialect.base import Dialect

__all__ = ["dialect_for"]


def dialect_for(capabilities: Capabilities) -> Dialect:
    """The dialect of the engine with these capabilities; the only place that picks one.

    Cheap to call: it loads one engine's compilers the first time, and a dialect holds nothing but its
    capabilities.
    """
    # Imported here, so that the modules below can be imported one by one, and one engine without the other.
    if capabilities.engine == "elasticsearch":
        from esembed.dialect.elasticsearch import elasticsearch

        return elasticsearch(capabilities)
    from esembed.dialect.opensearch import opensearch

    return opensearch(capabilities)
