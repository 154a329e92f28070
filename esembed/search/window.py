"""How far a search looks, and how long: checks of the options before anything is compiled for them."""

from __future__ import annotations

from esembed.capabilities import Capabilities
from esembed.errors import QueryError
from esembed.query.nodes import Collapse, Knn, Linear, Query, Rescore, Rrf
from esembed.search.compiled import SearchOptions

__all__ = ["DEFAULT_WINDOW", "check_timeouts", "page_window"]

DEFAULT_WINDOW = 100


def page_window(
    core: Query, stages: list[Rescore | Collapse], options: SearchOptions, capabilities: Capabilities
) -> int:
    """How many hits take part in a search: the page must end within them.

    Raises:
        QueryError: a page beyond the window, or a window beyond the engine's.
    """
    limit = capabilities.max_result_window
    end = options.offset + options.size
    if options.offset < 0 or options.size < 0:
        raise QueryError(f"size ({options.size}) and offset ({options.offset}) must be ≥ 0", field="size")
    if end > limit:
        raise QueryError(
            f"the page ends at hit {end}, beyond the engine's max_result_window of {limit}; narrow "
            "the query "
            "(filters), or sort and use search_after",
            field="offset",
        )
    fused = isinstance(core, (Rrf, Linear))
    asked = core.rank_window_size if isinstance(core, (Rrf, Linear)) else None
    deep = max((s.window_size for s in stages if isinstance(s, Rescore)), default=0)
    knn = isinstance(core, Knn)
    window = asked or max(DEFAULT_WINDOW, options.size, deep)
    if isinstance(core, Knn) and core.k is not None:
        window = core.k
        if window > limit:
            raise QueryError(f"k = {window} is beyond this engine's limit of {limit}; lower it", field="k")
    for stage in stages:
        if isinstance(stage, Rescore) and end > stage.window_size:
            raise QueryError(
                f"the page ends at hit {end}, beyond rescore's window_size of {stage.window_size}; raise it",
                field="window_size",
            )
    if (fused or knn or stages) and end > window:
        name = "k" if knn else "rank_window_size"
        raise QueryError(
            f"the page ends at hit {end}, beyond {name} = {window}; raise {name} (keep it the same "
            "for all "
            "pages of a search)",
            field=name,
        )
    if window > limit:
        raise QueryError(
            f"rank_window_size = {window} is beyond the engine's max_result_window of {limit}",
            field="rank_window_size",
        )
    return window


def check_timeouts(options: SearchOptions, names: list[str]) -> None:
    """Raises QueryError for a time-out that isn't above 0, or of a leg that isn't among *names*."""
    given = options.leg_timeouts_seconds
    for name, seconds in {"timeout_seconds": options.timeout_seconds, **given}.items():
        if seconds is not None and not seconds > 0:
            raise QueryError(f"{name}: a time-out must be > 0 seconds, not {seconds}", field=name)
    unknown = sorted(set(given) - set(names))
    if unknown:
        there = f"there are: {', '.join(names)}" if names else "it has none; use timeout_seconds"
        raise QueryError(
            f"leg_timeouts_seconds: the query has no leg {unknown[0]!r} ({there})",
            field="leg_timeouts_seconds",
        )
