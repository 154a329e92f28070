"""What the searches of one page read: the index as it is, or as it was when the first page was searched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from esembed.dialect.query import Json
from esembed.errors import EngineRequestError, QueryError
from esembed.search.page import PointInTime, broken_cursor

__all__ = ["View", "raise_lost"]


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

    def check(self, answers: Sequence[Any], names: Collection[str]) -> None:
        """Compare what was found with where it was looked for: a cursor comes from outside, and an engine
        reads whatever point in time it is told.

        Args:
            answers: of ``_search``.
            names: of the index's parts.

        Raises:
            QueryError: a hit of another index.
        """
        for answer in answers:
            for hit in (answer.get("hits") or {}).get("hits") or ():
                if hit.get("_index") not in names:
                    raise broken_cursor()


def raise_lost(error: EngineRequestError) -> None:
    """Say what an engine says of a cursor's point in time that it can't read.

    Raises:
        QueryError: it is over, or none at all. The first page's request was fine.
    """
    if "search_context_missing" in str(error) or error.status == 404:
        raise QueryError(
            "the engine no longer keeps the index as this cursor's first page saw it: keep_alive_seconds "
            "went by, or the index was deleted or closed; start at the first page",
            field="cursor",
        ) from error
    if error.status == 400:
        raise broken_cursor() from error
