"""What the searches of one page read: the index as it is, or as it was when the first page was searched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from esembed.dialect.query import Json
from esembed.errors import EngineRequestError, QueryError
from esembed.search.page import PointInTime, broken_cursor

__all__ = ["View", "lost"]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """An index, or a point in time of it. The engines refuse an index, a routing and a preference beside the
    latter, which was opened with them.

    Attributes:
        path: of the index, quoted.
        params: which shards and copies.
        point_in_time: None for the index as it is.
    """

    path: str
    params: Mapping[str, Any]
    point_in_time: PointInTime | None = None

    def where(self, api: str) -> str:
        """The path of ``_search`` or ``_msearch``."""
        return f"/{api}" if self.point_in_time is not None else f"/{self.path}/{api}"

    @property
    def search_params(self) -> Mapping[str, Any] | None:
        """The parameters of ``_search``."""
        return None if self.point_in_time is not None else self.params

    def body(self, body: Json) -> Json:
        """The body of ``_search``."""
        return body if self.point_in_time is None else self.point_in_time.body(body)

    def lines(self, bodies: Sequence[Json]) -> list[Mapping[str, Any]]:
        """The lines of ``_msearch``."""
        header = self.search_params or {}
        return [line for body in bodies for line in (header, self.body(body))]

    def question(self, names: Collection[str]) -> Json:
        """The search whose answer :meth:`check` reads: a document that is not of the index."""
        others = {"bool": {"must_not": [{"terms": {"_index": list(names)}}]}}
        return self.body({"query": others, "size": 1, "_source": False, "track_total_hits": False})

    @staticmethod
    def check(answer: Mapping[str, Any]) -> None:
        """Refuse a point in time of another index: a cursor comes from outside, and an engine reads, counts
        and closes whatever it is told.

        Raises:
            QueryError: it has a document of another index, or none of any shard.
        """
        if answer["hits"]["hits"] or not (answer.get("_shards") or {}).get("total"):
            raise broken_cursor()


def lost(error: EngineRequestError) -> QueryError:
    """What to say where an engine can't read a cursor's point in time."""
    if "search_context_missing" in str(error) or error.status == 404:
        return QueryError(
            "the engine no longer keeps the index as this cursor's first page saw it: keep_alive_seconds "
            "went by, the last page was read, or the index was deleted; start at the first page",
            field="cursor",
        )
    return broken_cursor()
