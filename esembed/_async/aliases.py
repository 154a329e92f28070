"""The versions behind an alias: found, named, swapped, blocked, deleted.

``ALIAS-v1``, ``ALIAS-v2`` … are the versions. What a migration did to one stands in its ``_meta`` (the
migration state): the alias, the version it was copied from, ``copying`` or ``done``, and when it was swapped.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from esembed.answers import DiskFree, StoreSize, part
from esembed.dialect import meta
from esembed.dialect.alias import AliasProperties
from esembed.dialect.live import mapped_types, type_of
from esembed.dialect.meta import stored_meta
from esembed.dialect.names import check_name
from esembed.errors import (
    AliasError,
    EngineRequestError,
    IndexNotFoundError,
    OptionsError,
    PermanentError,
)
from esembed.migration.lock import MigrationLock

from ._shim import in_thread, sleep, thread_transport
from .client import AsyncEngineClient
from .live import LiveIndex, describe, index_path

__all__ = [
    "MIGRATION_STATE",
    "abort_migration",
    "allow_writes",
    "block_writes",
    "choose_alias",
    "create_first_version",
    "delete_old_versions",
    "enough_disk",
    "is_unused",
    "is_version",
    "locked",
    "made_from",
    "migration_state",
    "next_name",
    "properties_of",
    "require_filter_fields",
    "shows_as_much",
    "swap",
    "version_name",
    "versions",
    "versions_before",
]

MIGRATION_STATE = "migration"
"""The key under ``_meta.esembed`` that says where a version came from and how far it got."""


def migration_state(stored: meta.StoredMeta | None) -> Mapping[str, Any]:
    """What a migration left in an index's ``_meta``; empty where none made it. Untrusted input."""
    found = None if stored is None else stored.rest.get(MIGRATION_STATE)
    return found if isinstance(found, Mapping) else {}


@asynccontextmanager
async def locked(client: AsyncEngineClient, alias: str, what: str) -> AsyncIterator[MigrationLock]:
    """The right to move an alias, given back at the end. Raises PermanentError while another run has it."""
    lock = MigrationLock(thread_transport(client), alias, what)
    await in_thread(lock.take, sender=lock.client)
    try:
        yield lock
    finally:
        await in_thread(lock.release)


def made_from(alias: str, new: str, state: Mapping[str, Any], old: LiveIndex) -> bool:
    """Whether *old* itself confirms that it is the version of *alias* that *new* was copied from.

    What is deleted or written over because another index's ``_meta`` names it must say so, too: ``_meta`` is
    untrusted, and one forged line would else delete any index. A migration writes the link into both
    (``from`` here, ``to`` there). Releases up to 0.1 wrote nothing into the first version: there its name
    (``ALIAS-v3``) counts, or the write block that a migration leaves, where no alias stands for it.

    Args:
        alias: the alias that was moved.
        new: the index that *state* stands in.
        state: its migration state.
        old: what ``from`` names, as it is now.
    """
    stored = stored_meta(old.mapping)
    if stored is None or state.get("from") != old.concrete_index or old.concrete_index == new:
        return False
    if state.get("alias") not in (None, alias):
        return False
    own = migration_state(stored)
    named = own.get("alias")
    if named is None and "to" not in own:
        blocked = str((old.settings.get("blocks") or {}).get("write")).lower() == "true"
        return is_version(alias, old.concrete_index) or (blocked and not set(old.aliases) - {alias})
    return named == alias and own.get("to") in (None, new)


def version_name(alias: str, number: int) -> str:
    """The name of an alias's version."""
    return f"{alias}-v{number}"


def is_version(alias: str, index: str) -> bool:
    """Whether the index has the name of one of the alias's versions; "ALIAS-vault" hasn't."""
    return re.fullmatch(re.escape(alias) + r"-v[0-9]+", index) is not None


# -- giving up, and deleting -------------------------------------------------------------------------


async def abort_migration(client: AsyncEngineClient, alias: str) -> str | None:
    """Give up an unfinished migration; see ``AsyncIndex.abort_migration``."""
    check_name(alias)
    # Before the lock, which would create its index for any name.
    if await describe(client, alias) is None:
        raise IndexNotFoundError(f"there is no alias {alias!r}", index=alias)
    async with locked(client, alias, "abort"):
        # Again under the lock: the run that held it may just have moved the alias.
        live = await describe(client, alias)
        if live is None:
            raise IndexNotFoundError(f"there is no alias {alias!r}", index=alias)
        for name, state in (await versions(client, alias)).items():
            unfinished = state.get("state") == "copying" and state.get("from") == live.concrete_index
            unfinished = unfinished and state.get("alias") in (None, alias)
            if name != live.concrete_index and unfinished:
                # Only here: where this alias has no unfinished version, a block is somebody else's, such as
                # that of the migration of another alias of the index, which would lose what is written now.
                # And first, since writers wait for it: a run that ends between the two leaves a version that
                # nobody reads, and which the next abort deletes.
                await allow_writes(client, live.concrete_index)
                await client.request("DELETE", f"/{index_path(name)}")
                return name
    return None


async def delete_old_versions(
    client: AsyncEngineClient, alias: str, *, keep: int, min_age_seconds: float
) -> list[str]:
    """Delete the versions before the present one; see ``AsyncIndex.delete_old_versions``."""
    live = await describe(client, alias)
    if live is None or live.concrete_index == alias:
        raise AliasError(f"{alias!r} is no alias of an index", alias=alias)
    swapped = migration_state(stored_meta(live.mapping)).get("swapped_at")
    if time.time() - (swapped if isinstance(swapped, (int, float)) else 0.0) < min_age_seconds:
        raise AliasError(
            f"{alias!r} was swapped less than {min_age_seconds:.0f} s ago; searchers may still use the "
            "old one; wait, or say min_age_seconds=0 (--min-age-minutes 0)",
            alias=alias,
        )
    chain = await versions_before(client, alias, live)
    # A version that was rolled back is in no chain any more.
    left = [
        name
        for name, state in (await versions(client, alias)).items()
        if name != live.concrete_index
        and name not in chain
        and state.get("state") == "done"
        and state.get("alias") in (None, alias)
    ]
    deleted = []
    for name in [*chain[keep:], *left]:
        if await is_unused(client, name):
            await client.request("DELETE", f"/{index_path(name)}")
            deleted.append(name)
    return deleted


async def is_unused(client: AsyncEngineClient, name: str) -> bool:
    """Whether a version is there and no alias stands for it: somebody may still search it by that."""
    answer = await client.request("GET", f"/{index_path(name)}/_alias", ignore=(404,))
    return answer.status != 404 and not (answer.body.get(name) or {}).get("aliases")


async def versions_before(client: AsyncEngineClient, alias: str, live: LiveIndex) -> list[str]:
    """The versions that *live* came from, newest first, as far back as each confirms it."""
    chain: list[str] = []
    here = live
    while True:
        state = migration_state(stored_meta(here.mapping))
        origin = state.get("from")
        if not isinstance(origin, str) or origin in (*chain, live.concrete_index):
            return chain  # _meta is untrusted: a circle would never end
        before = await describe(client, origin)  # which checks the name
        if before is None or not made_from(alias, here.concrete_index, state, before):
            return chain  # gone already, or an index that says nothing of this alias
        chain.append(origin)
        here = before


# -- finding and naming ------------------------------------------------------------------------------


async def versions(client: AsyncEngineClient, alias: str) -> dict[str, Mapping[str, Any]]:
    """Every version of an alias that is there, each with its migration state."""
    check_name(alias)
    # Patterns leave hidden indices out unless they are told; a template of the cluster's may hide a version.
    params = {"expand_wildcards": "all"}
    answer = await client.request("GET", f"/{index_path(alias)}-v*/_mapping", params=params, ignore=(404,))
    found: dict[str, Mapping[str, Any]] = {}
    for name, parts in (answer.body if answer.status == 200 else {}).items():
        # The pattern finds "ALIAS-vault", too.
        if not is_version(alias, name):
            continue
        # Not by stored_meta: one version whose _meta is damaged must not hide the others.
        own = ((parts.get("mappings") or {}).get("_meta") or {}).get(meta.META_KEY)
        state = own.get(MIGRATION_STATE) if isinstance(own, Mapping) else None
        found[name] = state if isinstance(state, Mapping) else {}
    return found


async def choose_alias(client: AsyncEngineClient, name: str, live: LiveIndex, wanted: str | None) -> str:
    """The alias that a migration moves.

    Args:
        name: what the caller named, an index or an alias.
        live: what stands behind it.
        wanted: ``MigrateOptions.alias``.

    Raises:
        AliasError: an index needs an alias, or that one is taken.
        OptionsError: an alias beside the alias that was named.
    """
    if live.concrete_index != name:
        if wanted not in (None, name):
            raise OptionsError(f"{name!r} is an alias already; leave alias out", option="options.alias")
        if live.alias.narrows and wanted is None:
            raise AliasError(
                f"a migration makes another index for everybody, and the alias {name!r} shows a part of "
                f"{live.concrete_index!r} (it has a filter or a search_routing); migrate by an alias that "
                f"shows all of it, or write alias={name!r} (--alias {name}) if this one is to be moved, with "
                "its filter and routing. Nothing was changed",
                alias=name,
            )
        return name
    if wanted is None:
        raise AliasError(
            f"{name!r} is an index, and an alias can't take an index's name: give it an alias "
            "(MigrateOptions(alias=…), --alias NAME) and search by that; nothing was changed",
            alias=name,
        )
    check_name(wanted, new=True)
    taken = await describe(client, wanted)
    if taken is not None and taken.concrete_index != name:
        raise AliasError(
            f"{wanted!r} stands for {taken.concrete_index!r} already; choose another alias", alias=wanted
        )
    if taken is not None and taken.concrete_index == wanted:
        raise AliasError(f"{wanted!r} is the index itself; an alias needs a name of its own", alias=wanted)
    return wanted


async def next_name(client: AsyncEngineClient, alias: str, concrete_index: str) -> str:
    """The version that a migration from *concrete_index* fills: one that was begun, else a new name."""
    found = await versions(client, alias)
    for name, state in found.items():
        if name == concrete_index:
            continue
        if state.get("state") == "copying" and state.get("from") == concrete_index:
            return name
        if not state and await _is_fresh(client, name):
            return name  # made by a run that ended before it could write the migration state
    return _unused_name(alias, (*found, concrete_index))


def _unused_name(alias: str, taken: Iterable[str]) -> str:
    """The name of the version after those that are there."""
    numbers = [int(name.rpartition("-v")[2]) for name in taken if re.search(r"-v\d+$", name)]
    return version_name(alias, max(numbers, default=1) + 1)


async def create_first_version(client: AsyncEngineClient, alias: str, body: Mapping[str, Any]) -> None:
    """Create ``ALIAS-v1`` and the alias, in one request: no index is left behind without its alias.

    Raises:
        EngineRequestError: the engine refused it; an alias that another run made meanwhile is such a case,
            since one alias has one index to write to.
    """
    body = {**body, "aliases": {alias: {"is_write_index": True}}}
    try:
        await client.request("PUT", f"/{index_path(version_name(alias, 1))}", body=body)
    except EngineRequestError as error:
        if error.error_type != "resource_already_exists_exception":
            raise
        # A version that is left of an alias that was removed; looked for only now, since it is rare.
        name = _unused_name(alias, await versions(client, alias))
        await client.request("PUT", f"/{index_path(name)}", body=body)


async def _is_fresh(client: AsyncEngineClient, name: str) -> bool:
    """No document, no alias."""
    live = await client.request("GET", f"/{index_path(name)}")
    for attempt in range(6):
        count = await client.request("GET", f"/{index_path(name)}/_count", ignore=(503,))
        if count.status == 200:
            break
        await sleep(0.2 * 2**attempt)  # its shards are about to start
    else:
        return False
    return not (live.body.get(name) or {}).get("aliases") and count.body["count"] == 0


# -- steps of a migration ----------------------------------------------------------------------------


async def enough_disk(client: AsyncEngineClient, live: LiveIndex, factor: float, notes: list[str]) -> None:
    """Check that a second copy fits; without the privilege a note says that it isn't known.

    Raises:
        PermanentError: less than *factor* times the index's primaries is free.
    """
    if factor <= 0:
        return
    stats = await client.request(
        "GET", f"/{index_path(live.concrete_index)}/_stats/store", ignore=(400, 403, 404, 410)
    )
    nodes = await client.request("GET", "/_nodes/stats/fs", ignore=(400, 403, 404, 410))
    if stats.status != 200 or nodes.status != 200:
        notes.append("free disk could not be asked for")
        return
    size = part(StoreSize, stats.body, "GET _stats/store").all.primaries.store.size_in_bytes
    disks = part(DiskFree, nodes.body, "GET /_nodes/stats/fs").nodes
    free = sum(node.fs.total.available_in_bytes for node in disks.values())
    if free < size * factor:
        raise PermanentError(
            f"a second copy of {live.concrete_index!r} needs about {size * factor / 2**20:.0f} MiB, "
            f"{free / 2**20:.0f} MiB are free; make room, or lower disk_factor. Nothing was changed"
        )


async def properties_of(client: AsyncEngineClient, alias: str, index: str) -> AliasProperties:
    """What the alias is on that index, beside a name, as it is now.

    Raises:
        AliasError: it isn't an alias of that index any more.
    """
    live = await describe(client, index)
    found = None if live is None else live.aliases.get(alias)
    if found is None:
        raise AliasError(f"{alias!r} is no alias of {index!r} any more; it was moved meanwhile", alias=alias)
    return found


def require_filter_fields(
    alias: str, properties: AliasProperties, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    """Refuse to move a filtered alias to an index that lacks a field of its filter, before anything is
    changed: there a ``term`` would show nothing, and a ``must_not`` every tenant's documents.

    Args:
        alias: its name, for the error.
        old, new: the mappings of the two indices.

    Raises:
        AliasError: naming the fields.
    """
    had, has = mapped_types(old), mapped_types(new)
    computed = {*(old.get("runtime") or {}), *(old.get("derived") or {})}
    # What a dynamic mapping makes of the documents isn't known before they are in: shows_as_much compares.
    dynamic = str(new.get("dynamic", "true")).lower() not in ("false", "strict")
    gone = sorted(
        name
        for name in properties.filter_names
        if type_of(name, had) is not None and type_of(name, has) is None and (name in computed or not dynamic)
    )
    if gone:
        names = ", ".join(map(repr, gone))
        how = "give the plan [filter] fields for them"
        if computed.intersection(gone):
            how = (
                "a field that the mapping computes isn't carried over: index its value in a [filter] field, "
                "and let the alias filter by that"
            )
        raise AliasError(
            f"the alias {alias!r} filters by {names}, which the index that it would be moved to doesn't "
            f"have; {how}. Nothing was changed",
            alias=alias,
        )


async def shows_as_much(client: AsyncEngineClient, alias: AliasProperties, old: str, new: str) -> str | None:
    """Whether the alias's filter means in one index what it means in the other: how their counts differ, or
    None. A filter by a field that is mapped otherwise, or no more, would show too much or nothing.

    Raises:
        EngineRequestError: the new index can't take the filter at all.
    """
    if alias.filter is None:
        return None
    counts = []
    for index in (old, new):
        path = f"/{index_path(index)}"
        await client.request("POST", f"{path}/_refresh")
        # Without chunks that are documents of their own: another plan may cut others.
        answer = await client.request("POST", f"{path}/_count", body={"query": alias.narrow(meta.NO_CHUNKS)})
        counts.append(int(answer.body["count"]))
    if counts[0] == counts[1]:
        return None
    return f"the alias's filter shows {counts[0]} documents of {old!r} and {counts[1]} of {new!r}"


async def swap(
    client: AsyncEngineClient, alias: str, old: str, new: str, *, properties: AliasProperties
) -> None:
    """Move the alias from one index to another in one step. Fails where it isn't on *old* any more.

    Args:
        properties: its filter, routing and flags, read just before (:func:`properties_of`). An alias that is
            added again has only what the action says, so without them a filtered one would show every
            tenant's documents from here on.
    """
    actions = [
        {"remove": {"index": old, "alias": alias, "must_exist": True}},
        {"add": {"index": new, "alias": alias, **properties.to_dict()}},
    ]
    await client.request("POST", "/_aliases", body={"actions": actions})


async def block_writes(client: AsyncEngineClient, index: str) -> None:
    """Refuse writes from now on; returns when those in flight have ended."""
    # By adding a block: setting index.blocks.write would refuse writes, too, but not wait for any.
    await client.request("PUT", f"/{index_path(index)}/_block/write")


async def allow_writes(client: AsyncEngineClient, index: str) -> None:
    """Take the block away."""
    await client.request("PUT", f"/{index_path(index)}/_settings", body={"index.blocks.write": None})
