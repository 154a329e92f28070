# Generated from esembed/_async/live.py by scripts/run_unasync.py; change that file and run the script.
"""An index as the engine has it: described, its ``_meta`` written, the names it goes by."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from esembed.dialect import meta
from esembed.dialect.inference import PIPELINE_PREFIX
from esembed.errors import IndexNotFoundError, PermanentError, TransientError

from ._shim import sleep
from .client import EngineClient

__all__ = [
    "LiveIndex",
    "check_name",
    "describe",
    "drop_pipeline",
    "index_path",
    "put_pipelines",
    "update_meta",
    "write_meta",
]


@dataclass(frozen=True, slots=True)
class LiveIndex:
    """One index as the engine has it.

    Attributes:
        name: what was asked for, an index or an alias.
        concrete_index: the one index behind it.
        mapping: the live mapping (``properties``, ``_meta`` …).
        settings: the live settings, flat strings under ``index``.
        uuid: the index's UUID.
    """

    name: str
    concrete_index: str
    mapping: Mapping[str, Any]
    settings: Mapping[str, Any]
    uuid: str


def check_name(name: str) -> str:
    """The name, if engines take it as one index's name.

    Raises:
        PermanentError: upper case, wildcards, lists, reserved first characters …
    """
    bad = set('\\/*?"<>| ,#:') & set(name)
    if not name or name != name.lower() or name[0] in "-_+" or name in (".", "..") or bad:
        raise PermanentError(
            f"{name!r} can't be the name of an index: lower case, not starting with - _ +, and none of "
            '\\ / * ? " < > | , # : or a space in it'
        )
    if len(name.encode()) > 255:
        raise PermanentError(f"an index name has at most 255 bytes; this one has {len(name.encode())}")
    return name


def index_path(name: str) -> str:
    """The name as it stands in a URL's path."""
    return quote(name, safe="")


def describe(client: EngineClient, name: str) -> LiveIndex | None:
    """What stands behind a name, or None when nothing does.

    Raises:
        PermanentError: an alias of several indices.
    """
    try:
        answer = client.request("GET", f"/{index_path(name)}")
    except IndexNotFoundError:
        return None
    if not isinstance(answer.body, Mapping) or not answer.body:
        return None
    if len(answer.body) > 1:
        raise PermanentError(
            f"{name!r} stands for {len(answer.body)} indices ({', '.join(sorted(answer.body)[:5])}); name one"
        )
    concrete_index, parts = next(iter(answer.body.items()))
    settings = (parts.get("settings") or {}).get("index") or {}
    return LiveIndex(
        name=name,
        concrete_index=concrete_index,
        mapping=parts.get("mappings") or {},
        settings=settings,
        uuid=str(settings.get("uuid", "")),
    )


def put_pipelines(client: EngineClient, pipelines: Mapping[str, Mapping[str, Any]]) -> None:
    """Store the ingest pipelines that a plan compiles to, where they aren't there yet.

    Raises:
        EngineRequestError: the engine refused (it lacks a processor, or the privilege is missing).
    """
    for name, body in pipelines.items():
        # A name is the hash of what the pipeline does, so one that is there is the right one.
        path = f"/_ingest/pipeline/{quote(name, safe='')}"
        known = client.request("GET", path, ignore=(403, 404))
        if known.status != 200:
            client.request("PUT", path, body=body)


def drop_pipeline(client: EngineClient, name: str) -> None:
    """Delete an ingest pipeline of ours that no index names any more; without the privilege it stays."""
    if not name.startswith(PIPELINE_PREFIX):
        return
    params = {"expand_wildcards": "open,closed", "flat_settings": "true"}
    # without the system's own indices, whose reading the engines warn of
    answer = client.request("GET", "/*,-.*/_settings", params=params, ignore=(403, 404))
    if answer.status != 200:
        return
    used = {(one.get("settings") or {}).get("index.default_pipeline") for one in answer.body.values()}
    if name not in used:
        client.request("DELETE", f"/_ingest/pipeline/{quote(name, safe='')}", ignore=(400, 403, 404))


def update_meta(
    client: EngineClient,
    name: str,
    change: Callable[[dict[str, Any]], Mapping[str, Any]],
    *,
    attempts: int = 5,
) -> Mapping[str, Any]:
    """Read, merge, write, verify ``_meta.esembed``.

    Args:
        change: takes a copy of ``_meta.esembed`` (empty when there is none), returns the new one.
        attempts: how often it is tried while others write, too.

    Returns:
        ``_meta.esembed`` as it was written.

    Raises:
        IndexNotFoundError: no such index.
        PlanError: it would take more than 16 KiB; nothing was written.
        TransientError: others wrote each time.
        EngineRequestError: the engine refused.
    """
    # PUT _mapping replaces _meta whole and knows no condition (no if_seq_no, unlike a document). So what
    # others keep there is read first and written back, and the result is read again: where somebody else
    # wrote in between, all of it once more.
    for attempt in range(attempts):
        live = describe(client, name)
        if live is None:
            raise IndexNotFoundError(f"there is no index {name!r}", index=name)
        whole = copy.deepcopy(dict(live.mapping.get("_meta") or {}))
        own = whole.get(meta.META_KEY)
        wanted = dict(change(copy.deepcopy(dict(own)) if isinstance(own, Mapping) else {}))
        meta.check_size(wanted)
        whole[meta.META_KEY] = wanted
        client.request("PUT", f"/{index_path(live.concrete_index)}/_mapping", body={"_meta": whole})
        after = describe(client, live.concrete_index)
        if after is not None and after.mapping.get("_meta") == whole:
            return wanted
        sleep(0.05 * 2**attempt)
    raise TransientError(
        f"_meta of {name!r} was changed by somebody else {attempts} times while it was written; try again"
    )


def write_meta(client: EngineClient, name: str, stored: meta.StoredMeta) -> None:
    """Write what an index says about itself; what others keep in ``_meta`` stays.

    Raises:
        PlanError: it would take more than 16 KiB; nothing was written.
        IndexNotFoundError, TransientError, EngineRequestError: as :func:`update_meta`.
    """
    data = meta.build(stored)
    update_meta(client, name, lambda _: data)
