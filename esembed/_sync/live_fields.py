# Generated from esembed/_async/live_fields.py by scripts/run_unasync.py; change that file and run the script.
"""The fields that the live index has: what searches may use beside the plan's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from esembed.deadline import Deadline
from esembed.dialect.field_types import mapped_analyzers, mapped_columns
from esembed.dialect.live import mapped_formats, mapped_types, merged_mapping, missing_fields, used_fields
from esembed.errors import QueryError
from esembed.plan import IndexPlan
from esembed.query.nodes import Query
from esembed.search.facets import facet_fields
from esembed.search.options import SearchOptions
from esembed.search.sorting import sorted_fields

from .client import EngineClient
from .live import index_path

__all__ = ["LiveFields"]


class LiveFields:
    """Types and formats of the live mapping, looked up again where a query uses a field that isn't there.

    Args:
        client: the seam over the official client.
        index_name: an index or an alias of one.
        plan: what the index is.
        mapping: the live mapping; None checks nothing here.

    Attributes:
        types: field → type, or None.
        formats: date field → its format where it has one, or None.
        columns: field → whether it can be sorted and counted by, where its type doesn't say it.
        analyzers: text field → its analyzer, see :func:`~esembed.dialect.field_types.mapped_analyzers`; or
            None.
    """

    def __init__(
        self,
        client: EngineClient,
        index_name: str,
        plan: IndexPlan,
        mapping: Mapping[str, Any] | None,
    ) -> None:
        self.client = client
        self.index_name = index_name
        self.plan = plan
        self.types: dict[str, str] | None = None
        self.formats: dict[str, str] | None = None
        self.columns: dict[str, bool] = {}
        self.analyzers: dict[str, str | None] | None = None
        if mapping is not None:
            self._learn(mapping)

    def _learn(self, mapping: Mapping[str, Any]) -> None:
        self.types, self.formats = mapped_types(mapping), mapped_formats(mapping)
        self.columns, self.analyzers = mapped_columns(mapping), mapped_analyzers(mapping)

    def lacks(self, nodes: Sequence[Query], options: SearchOptions) -> bool:
        """Whether a query, its sort or its aggregations read a field that isn't known to be mapped: it would
        find nothing, and the engines raise nothing.

        Raises:
            QueryError: a key of the sort that is none.
        """
        if self.types is None:
            return False
        used = used_fields(nodes, self.plan, self.types)
        if options.aggregations:
            used |= {field for _, field, _, _ in facet_fields(options.aggregations) if field[:1] != "_"}
        if options.sort:
            used |= sorted_fields(options.sort)
        return bool(missing_fields(used, self.types))

    def look_again(self, nodes: Sequence[Query], deadline: Deadline | None = None) -> None:
        """Learn the live mapping as it is now.

        Raises:
            QueryError: a field of the plan that the query reads is not in the mapping. (Other unknown ones
                are refused when the query is compiled, with those that there are.)
        """
        path = f"/{index_path(self.index_name)}/_mapping"
        answer = self.client.request("GET", path, ignore=(403,), deadline=deadline)
        if answer.status == 403:
            return
        # One, but of an alias of several indices.
        shown = sorted(answer.body.items())
        self._learn(merged_mapping(body.get("mappings") or {} for _, body in shown))
        known = set(dict(self.plan.vector_fields())) | set(self.plan.text) | set(self.plan.filter)
        types = self.types or {}
        unmapped = missing_fields(used_fields(nodes, self.plan, types), types)
        missing = [name for name in unmapped if name in known or "." in name]
        if missing:
            raise QueryError(
                f"the mapping of {self.index_name!r} lacks {', '.join(map(repr, missing))}, so nothing "
                "can be found "
                "there; add the field with Index.attach (esembed index attach), or check the index's name",
                field=missing[0],
            )
