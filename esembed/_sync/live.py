# Generated from esembed/_async/live.py by scripts/run_unasync.py; change that file and run the script.
"""An index as the engine has it: described, its ``_meta`` written, the names it goes by.

What a name stands for is decided here alone: one index, an alias with its filter and routing, or several
indices; and what can't be right by such a name is refused by :class:`LiveIndex`.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from urllib.parse import quote

from esembed.answers import ShardSequences, part
from esembed.capabilities import Capabilities
from esembed.dialect import dialect_for, meta
from esembed.dialect.alias import NO_ALIAS, AliasProperties
from esembed.dialect.inference import PIPELINE_PREFIX
from esembed.dialect.live import merged_mapping
from esembed.dialect.names import check_name
from esembed.dialect.source_rules import SourceFetch, SourceRules, defaults_question, with_defaults
from esembed.errors import AliasError, IndexNotFoundError, TransientError

from ._shim import sleep
from .client import EngineClient

__all__ = [
    "LiveIndex",
    "ShardSequence",
    "describe",
    "describe_all",
    "drop_pipeline",
    "every_index",
    "index_path",
    "put_pipelines",
    "shard_sequences",
    "update_meta",
    "write_meta",
]


@dataclass(frozen=True, slots=True)
class LiveIndex:
    """What stands behind a name, as the engine has it: one index, or several of one plan.

    Attributes:
        name: what was asked for, an index or an alias.
        concrete_index: the index behind it; of several, their names with commas, as a search takes them.
        mapping: the live mapping (``properties``, ``_meta`` …); of several, the first one's with the fields
            that only others have.
        settings: the live settings, flat strings under ``index``; of several, the first one's.
        uuid: the index's UUID; of several, all of them.
        alias: what the alias is beside a name, where *name* is one.
        aliases: every alias of the index, with its properties.
        several: the indices, where there are several.
    """

    name: str
    concrete_index: str
    mapping: Mapping[str, Any]
    settings: Mapping[str, Any]
    uuid: str
    alias: AliasProperties = NO_ALIAS
    aliases: Mapping[str, AliasProperties] = field(default_factory=dict)
    several: tuple[LiveIndex, ...] = ()

    @property
    def source_rules(self) -> SourceRules:
        """What the index keeps of a document."""
        return SourceRules.read(self.mapping, self.settings)

    def whole_source(
        self,
        what: str,
        capabilities: Capabilities | None = None,
        *,
        wanted: Collection[str] | None = None,
        made: Collection[str] = (),
    ) -> SourceFetch:
        """How its documents are read whole, or the refusal, before anything is changed.

        Args:
            what: what they are read for, for the error.
            capabilities: of the engine, where vectors are needed: it may give them back in another way.
            wanted, made: see :meth:`SourceRules.fetch`.

        Raises:
            UnsupportedFeatureError: a field that can't be read back.
        """
        doc_values = capabilities is not None and dialect_for(capabilities).documents.vector_doc_values
        return self.source_rules.fetch(
            self.mapping, what=what, wanted=wanted, made=made, vector_doc_values=doc_values
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The indices' names."""
        return tuple(one.concrete_index for one in self.several) or (self.concrete_index,)

    def require_one(self, what: str) -> None:
        """Refuse what needs one index.

        Raises:
            AliasError: the name stands for several.
        """
        if self.several:
            raise AliasError(
                f"{what} needs one index, and {self.name!r} stands for {len(self.several)} "
                f"({_some(self.names)}); name the one that is meant",
                alias=self.name,
            )

    def require_writable(self, what: str) -> None:
        """Refuse to change documents by a name that doesn't say where they go.

        Raises:
            AliasError: the name stands for several indices, or it is an alias for reading.
        """
        self.require_one(what)
        if self.alias.is_write_index is False:
            raise AliasError(
                f"{what}: the alias {self.name!r} is for reading (is_write_index is false); name the index, "
                f"{self.concrete_index!r}, or set is_write_index",
                alias=self.name,
            )

    def require_whole(self, what: str) -> None:
        """Refuse what concerns a whole index by a name that shows a part of it.

        Raises:
            AliasError: the name stands for several indices, or its alias has a filter or a routing.
        """
        self.require_one(what)
        if self.alias.narrows:
            how = "filter" if self.alias.filter is not None else "search_routing"
            raise AliasError(
                f"{what} concerns the whole index, and the alias {self.name!r} shows a part of it (it has a "
                f"{how}); nothing was changed. Name the index, {self.concrete_index!r}, if all is meant",
                alias=self.name,
            )


def index_path(name: str) -> str:
    """The name as it stands in a URL's path."""
    return quote(name, safe="")


def describe(client: EngineClient, name: str, *, what: str = "what was asked for") -> LiveIndex | None:
    """The one index behind a name, or None when nothing stands there.

    Args:
        what: what is about to be done, for the error.

    Raises:
        AliasError: a name that engines expand, an alias of several indices, or a data stream.
    """
    live = describe_all(client, name)
    if live is not None:
        live.require_one(what)
    return live


def describe_all(client: EngineClient, name: str) -> LiveIndex | None:
    """As :func:`describe`, but several indices are one answer; whether they have one plan isn't looked at."""
    try:
        answer = client.request("GET", f"/{index_path(check_name(name))}")
    except IndexNotFoundError:
        return None
    if not answer.body:
        return None
    found = [_read(name, concrete, parts) for concrete, parts in sorted(answer.body.items())]
    if any(not one.source_rules.whole for one in found):
        # Rare, so only then: whether the engine keeps vectors beside _source is a default, which isn't shown.
        path, params = defaults_question(f"/{index_path(name)}")
        answer = client.request("GET", path, params=params, ignore=(400, 403, 404))
        shown = answer.body if answer.status == 200 else {}
        found = [
            replace(one, settings=with_defaults(one.settings, shown.get(one.concrete_index))) for one in found
        ]
    if len(found) == 1:
        return found[0]
    first = found[0]
    # One filter for all of them can be put into a query; which index a document lies in can't be.
    if any(one.alias.filter != first.alias.filter for one in found):
        raise AliasError(
            f"the alias {name!r} has different filters on its {len(found)} indices; open them one by one, or "
            "give it one filter",
            alias=name,
        )
    # A search has one routing for all of its indices.
    routing = {one.alias.search_routing for one in found}
    if len(routing) > 1:
        raise AliasError(
            f"the alias {name!r} has different search_routing values on its {len(found)} indices; open them "
            "one by one, or give it one",
            alias=name,
        )
    return LiveIndex(
        name=name,
        concrete_index=",".join(one.concrete_index for one in found),
        mapping=merged_mapping(one.mapping for one in found),
        settings=first.settings,
        uuid=",".join(one.uuid for one in found),
        alias=first.alias,
        several=tuple(found),
    )


def _read(name: str, concrete_index: str, parts: Mapping[str, Any]) -> LiveIndex:
    """One index of the answer to ``GET /NAME``.

    Raises:
        AliasError: it belongs to a data stream, or its alias can't be read.
    """
    if "data_stream" in parts:
        raise AliasError(
            f"{name!r} is (part of) the data stream {parts['data_stream']!r}, which only takes new documents "
            "and moves on to another index by itself; make an index from a plan and read the stream into it "
            "(esembed ingest --from-index STREAM --index NEW)",
            alias=name,
        )
    settings = (parts.get("settings") or {}).get("index") or {}
    try:
        aliases = {
            alias: AliasProperties.read(shown) for alias, shown in (parts.get("aliases") or {}).items()
        }
    except ValueError as error:
        raise AliasError(f"an alias of {concrete_index!r} can't be read: {error}", alias=name) from None
    return LiveIndex(
        name=name,
        concrete_index=concrete_index,
        mapping=parts.get("mappings") or {},
        settings=settings,
        uuid=str(settings.get("uuid", "")),
        alias=NO_ALIAS if name == concrete_index else aliases.get(name, NO_ALIAS),
        aliases=aliases,
    )


def _some(names: Iterable[str]) -> str:
    """Up to five names."""
    first = list(names)
    return ", ".join(first[:5]) + (" …" if len(first) > 5 else "")


class ShardSequence(NamedTuple):
    """How far a primary shard has counted its writes, deletes among them.

    Attributes:
        checkpoint: the number up to which all of them are processed; below it none is still on its way.
        highest: the highest number given; -1 where nothing was written.
    """

    checkpoint: int
    highest: int


def shard_sequences(
    client: EngineClient, index: str, *, ignore: Collection[int] = ()
) -> dict[str, ShardSequence] | None:
    """Shard → its sequence numbers, of the primaries; None where the engine answered with one of *ignore*
    (the privilege ``monitor`` is needed, and serverless offerings have no such API)."""
    path = f"/{index_path(index)}/_stats"
    answer = client.request("GET", path, params={"level": "shards"}, ignore=ignore)
    if answer.status != 200:
        return None
    stats = part(ShardSequences, answer.body, f"GET {path}")
    return {
        shard: ShardSequence(copy.seq_no.local_checkpoint, copy.seq_no.max_seq_no)
        for shard, copies in next(iter(stats.indices.values())).shards.items()
        for copy in copies
        if copy.routing.primary
    }


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


def every_index(client: EngineClient, part: str) -> Mapping[str, Any] | None:
    """A part of every index of the cluster, of those too that these credentials can't see; None where that
    isn't told.

    Where security is on, ``GET /_mapping`` and patterns show what the user may see, and answer 200: what
    isn't in there may still be in use. The cluster's state is whole or refused (403 without the cluster
    privilege ``monitor``, ``cluster_monitor`` on OpenSearch; serverless offerings have no such API). Seen on
    Elasticsearch 9.5.3 and OpenSearch 2.19.4 with its security plugin.

    Args:
        part: under an index, dotted: ``settings.index.default_pipeline``.
    """
    answer = client.request(
        "GET",
        "/_cluster/state/metadata",
        params={"filter_path": f"cluster_uuid,metadata.indices.*.{part}"},
        ignore=(400, 401, 403, 404, 405, 410),
    )
    # Without an index that has such a part nothing is left of "metadata": the UUID shows that it's an answer.
    if answer.status != 200 or not isinstance(answer.body, Mapping) or "cluster_uuid" not in answer.body:
        return None
    metadata = answer.body.get("metadata")
    found = metadata.get("indices") if isinstance(metadata, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def drop_pipeline(client: EngineClient, name: str) -> None:
    """Delete an ingest pipeline of ours that no index names any more. Where not all indices can be seen, and
    without the privilege, it stays."""
    # The name is a live setting, which anybody may have written: no pattern may reach the DELETE.
    if re.fullmatch(re.escape(PIPELINE_PREFIX) + "[0-9a-f]+", name) is None:
        return
    users = every_index(client, "settings.index.default_pipeline")
    if users is None or name in json.dumps(users):
        return
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
        # Longer each time, so that two writers that met don't meet again in step; under two seconds in all.
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
