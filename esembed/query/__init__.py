"""What to search for, as values: ``from esembed import query as q``.

::

    q.rrf(
        q.match("split a path", fields=["title^2", "body"]),
        q.knn("embedding", text="split a path", filter=q.term("lang", "en")),
        rank_window_size=100,
    )

A query is immutable, equal by value, prints as the Python that makes it, and is compiled for an engine
without talking to it: ``esembed.to_body(query, "opensearch")``. A leg without a text has a placeholder for
the text of the search, so a query can be a template (a plan's default query is one).
"""

from esembed.query import builders
from esembed.query.builders import *  # noqa: F403 - a builder is added in builders.py alone
from esembed.query.nodes import Filter, Node, PruneOptions, Query
from esembed.query.tree import (
    bind,
    from_dict,
    from_json,
    legs_to_encode,
    resolve_text,
    text_legs,
    vector_fields,
)

__all__ = [
    "Filter",
    "Node",
    "PruneOptions",
    "Query",
    "bind",
    "from_dict",
    "from_json",
    "legs_to_encode",
    "resolve_text",
    "text_legs",
    "vector_fields",
]
__all__ += builders.__all__
