# Generated from esembed/_async/aliases.py by scripts/run_unasync.py; change that file and run the script.
"""The versions behind an alias: found, named, swapped, blocked, cleaned up."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from esembed.dialect import meta
from esembed.dialect.settle import stored_meta
from esembed.errors import IndexNotFoundError, PermanentError, PlanError
from esembed.migration.lock import Claim

from ._shim import in_thread, requester, sleep
from .client import EngineClient
from .live import Live, check_name, describe, index_path

__all__ = [
    "MARK",
    "abort",
    "checkpoint",
    "choose_alias",
    "claimed",
    "cleanup",
    "enough_disk",
    "next_name",
    "swap",
    "unblock",
    "versions",
]

MARK = "migration"
"""The key under ``_meta.esembed`` that says where a version came from and how far it got."""


@contextmanager
def claimed(engine: EngineClient, alias: str, what: str) -> Iterator[Claim]:
    """The right to move an alias, given back at the end. Raises PermanentError while another run has it."""
    claim = Claim(requester(engine), alias, what)
    in_thread(claim.take, sender=claim.client)
    try:
        yield claim
    finally:
        in_thread(claim.release)


def abort(client: Any, alias: str) -> str | None:
    """Give up an unfinished migration: the half-filled version is deleted, writes are allowed again.

    Returns:
        the deleted index's name, or None when there was none.

    Raises:
        IndexNotFoundError: no such alias.
        PermanentError: the migration is running.
    """
    engine = EngineClient(client)
    check_name(alias)
    if describe(engine, alias) is None:
        raise IndexNotFoundError(f"there is no alias {alias!r}", index=alias)
    with claimed(engine, alias, "abort"):
        return _abort(engine, alias)


def _abort(engine: EngineClient, alias: str) -> str | None:
    live = describe(engine, alias)
    if live is None:
        raise IndexNotFoundError(f"there is no alias {alias!r}", index=alias)
    unblock(engine, live.concrete)
    for name, mark in (versions(engine.official, alias)).items():
        if name != live.concrete and mark.get("state") == "copying" and mark.get("from") == live.concrete:
            engine.request("DELETE", f"/{index_path(name)}")
            return name
    return None


def cleanup(client: Any, alias: str, *, keep: int = 1, min_age_seconds: float = 3600.0) -> list[str]:
    """Delete old versions of an alias, knowingly.

    Args:
        keep: how many versions before the present one stay for a rollback.
        min_age_seconds: the swap must be older than this, so that every searcher has moved on.

    Returns:
        the names that were deleted.

    Raises:
        PermanentError: the last swap is too recent.
    """
    engine = EngineClient(client)
    live = describe(engine, alias)
    if live is None or live.concrete == alias:
        raise PlanError(f"{alias!r} is no alias of an index")
    chain: list[str] = []
    here: Live | None = live
    while here is not None:
        stored = stored_meta(here.mapping)
        mark = stored.rest.get(MARK) if stored is not None else None
        origin = mark.get("from") if isinstance(mark, Mapping) else None
        swapped = mark.get("swapped_at", 0) if isinstance(mark, Mapping) else 0
        if here is live and time.time() - float(swapped) < min_age_seconds:
            raise PermanentError(
                f"{alias!r} was swapped less than {min_age_seconds:.0f} s ago; searchers may still use the "
                "old one; wait, or say min_age_seconds=0 (--min-age-minutes 0)"
            )
        if not isinstance(origin, str) or origin in (*chain, live.concrete):
            break
        check_name(origin)
        here = describe(engine, origin)
        if here is not None:
            chain.append(origin)
    # A version that was rolled back is in no chain any more.
    left = [
        name
        for name, mark in (versions(client, alias)).items()
        if name != live.concrete and name not in chain and mark.get("state") == "done"
    ]
    deleted = []
    for name in [*chain[keep:], *left]:
        answer = engine.request("GET", f"/{index_path(name)}/_alias")
        if not (answer.body.get(name) or {}).get("aliases"):
            engine.request("DELETE", f"/{index_path(name)}")
            deleted.append(name)
    return deleted


def versions(client: Any, alias: str) -> dict[str, Mapping[str, Any]]:
    """Every version of an alias that is there, with what its migration left in its ``_meta``."""
    engine = EngineClient(client)
    check_name(alias)
    answer = engine.request("GET", f"/{index_path(alias)}-v*/_mapping", ignore=(404,))
    found: dict[str, Mapping[str, Any]] = {}
    for name, parts in (answer.body if answer.status == 200 else {}).items():
        if not re.fullmatch(re.escape(alias) + r"-v\d+", name):
            continue
        own = ((parts.get("mappings") or {}).get("_meta") or {}).get(meta.META_KEY)
        mark = own.get(MARK) if isinstance(own, Mapping) else None
        found[name] = mark if isinstance(mark, Mapping) else {}
    return found


def _is_fresh(engine: EngineClient, name: str) -> bool:
    """No document, no alias."""
    live = engine.request("GET", f"/{index_path(name)}")
    for attempt in range(6):
        count = engine.request("GET", f"/{index_path(name)}/_count", ignore=(503,))
        if count.status == 200:
            break
        sleep(0.2 * 2**attempt)  # its shards are about to start
    else:
        return False
    return not (live.body.get(name) or {}).get("aliases") and count.body["count"] == 0


def enough_disk(engine: EngineClient, live: Live, factor: float, notes: list[str]) -> None:
    if factor <= 0:
        return
    stats = engine.request("GET", f"/{index_path(live.concrete)}/_stats/store", ignore=(400, 403, 404, 410))
    nodes = engine.request("GET", "/_nodes/stats/fs", ignore=(400, 403, 404, 410))
    if stats.status != 200 or nodes.status != 200:
        notes.append("free disk could not be asked for")
        return
    size = stats.body["_all"]["primaries"]["store"]["size_in_bytes"]
    free = sum(
        node.get("fs", {}).get("total", {}).get("available_in_bytes", 0)
        for node in nodes.body["nodes"].values()
    )
    if free < size * factor:
        raise PermanentError(
            f"a second copy of {live.concrete!r} needs about {size * factor / 2**20:.0f} MiB, "
            f"{free / 2**20:.0f} MiB are free; make room, or lower disk_factor. Nothing was changed"
        )


def checkpoint(engine: EngineClient, index: str) -> int:
    """The sequence number up to which every shard has processed all writes."""
    answer = engine.request("GET", f"/{index_path(index)}/_stats", params={"level": "shards"})
    shards = next(iter(answer.body["indices"].values()))["shards"]
    return min(
        int(copy["seq_no"]["local_checkpoint"])
        for copies in shards.values()
        for copy in copies
        if copy["routing"]["primary"]
    )


def swap(engine: EngineClient, alias: str, old: str, new: str) -> None:
    actions = [
        {"remove": {"index": old, "alias": alias, "must_exist": True}},
        {"add": {"index": new, "alias": alias}},
    ]
    engine.request("POST", "/_aliases", body={"actions": actions})


def unblock(engine: EngineClient, index: str) -> None:
    engine.request("PUT", f"/{index_path(index)}/_settings", body={"index.blocks.write": None})


def choose_alias(engine: EngineClient, name: str, live: Live, wanted: str | None) -> str:
    if live.concrete != name:
        if wanted not in (None, name):
            raise PlanError(f"{name!r} is an alias already; leave alias out", path="options.alias")
        return name
    if wanted is None:
        raise PermanentError(
            f"{name!r} is an index, and an alias can't take an index's name: give it an alias "
            "(alias=…, --alias NAME) and search by that; nothing was changed"
        )
    check_name(wanted)
    taken = describe(engine, wanted)
    if taken is not None and taken.concrete != name:
        raise PermanentError(f"{wanted!r} stands for {taken.concrete!r} already; choose another alias")
    if taken is not None and taken.concrete == wanted:
        raise PermanentError(f"{wanted!r} is the index itself; an alias needs a name of its own")
    return wanted


def next_name(engine: EngineClient, alias: str, concrete: str) -> str:
    found = versions(engine.official, alias)
    for name, mark in found.items():
        if name != concrete and mark.get("state") == "copying" and mark.get("from") == concrete:
            return name
        if name != concrete and not mark and _is_fresh(engine, name):
            return name  # made by a run that ended before it could mark it
    numbers = [int(name.rpartition("-v")[2]) for name in (*found, concrete) if re.search(r"-v\d+$", name)]
    return f"{alias}-v{max(numbers, default=1) + 1}"
