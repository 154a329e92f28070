"""Term statistics of ``lexical`` fields in an index of their own: written once, named by their hash.

They are too bulky for ``_meta`` (which lives in the cluster state), so ``_meta`` holds the hash and
the statistics index the counts. A set of counts never changes: a refresh writes another one and moves
the hash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from esembed.answers import SequenceSum, counted, last_sort, part, refused_line
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.errors import EncoderError, IndexNotFoundError
from esembed.ingest.term_counter import CountedState
from esembed.transport import Response, error_from_response

from .client import AsyncEngineClient
from .live import every_index, index_path, shard_sequences

__all__ = [
    "STATISTICS_INDEX",
    "counted_state",
    "delete_statistics",
    "load_statistics",
    "make_statistics_index",
    "save_statistics",
]

STATISTICS_INDEX = "esembed-statistics"
"""The index that holds the term statistics of all indices of an engine."""
_HASH = re.compile(r"[0-9a-f]{64}")
_MOST_PARTS = 10_000
"""A part holds 10,000 terms, and no collection has 100 million."""

_BODY: Mapping[str, Any] = {
    "settings": {"index": {"number_of_shards": 1, "auto_expand_replicas": "0-1"}},
    "mappings": {
        "dynamic": "false",
        "properties": {
            "hash": {"type": "keyword"},
            "kind": {"type": "keyword"},
            "part": {"type": "integer"},
        },
    },
}


async def counted_state(client: AsyncEngineClient, index: str) -> CountedState:
    """What tells whether anything was written to an index since its terms were counted. Refreshes it."""
    await client.request("POST", f"/{index_path(index)}/_refresh")
    body = {"size": 0, "track_total_hits": True, "aggs": {"written": {"stats": {"field": "_seq_no"}}}}
    path = f"/{index_path(index)}/_search"
    found = (await client.request("POST", path, body=body)).body
    written = part(SequenceSum, found, f"POST {path}").aggregations.written
    # Without the privilege (monitor), or on a server without this API, the sums alone have to tell.
    shards = await shard_sequences(client, index, ignore=(400, 403, 404, 405, 410))
    operations = None if shards is None else sum(shard.highest + 1 for shard in shards.values())
    return CountedState(
        documents=counted(found, f"POST {path}"),
        # Whole numbers, which both engines write as floating ones (exact below 2^53).
        sequence_sum=int(written.sum),
        sequence_last=-1 if written.max is None else int(written.max),
        operations=operations,
    )


async def make_statistics_index(client: AsyncEngineClient) -> None:
    """Make the index of term statistics, where it isn't there.

    Raises:
        EngineRequestError: the engine refused (the privilege for ``esembed-statistics`` is needed).
    """
    # Looked at first: who may only write to it need not be allowed to create it.
    body = {"size": 0}
    found = await client.request("POST", f"/{STATISTICS_INDEX}/_search", body=body, ignore=(404,))
    if found.status != 404:
        return
    created = await client.request("PUT", f"/{STATISTICS_INDEX}", body=_BODY, ignore=(400,))
    if created.status == 400 and "exists" not in str(created.body):
        raise error_from_response("PUT", f"/{STATISTICS_INDEX}", created)


async def save_statistics(client: AsyncEngineClient, statistics: LexicalStatistics) -> str:
    """Write the counts unless they are there already; returns their hash.

    Raises:
        EngineRequestError: the engine refused (a privilege on ``esembed-statistics`` is needed).
    """
    await make_statistics_index(client)
    digest = statistics.hash
    lines: list[Mapping[str, Any]] = []
    for document in statistics.to_documents():
        lines.append({"index": {"_id": f"{digest}-{document['part']}"}})
        lines.append(document)
        # Twenty documents of 10,000 terms are some 4 MB, as much as a bulk request of an ingest.
        if len(lines) >= 40:
            await _write(client, lines)
            lines = []
    await _write(client, lines)
    # Who reads the hash in _meta next must find the counts by a search.
    await client.request("POST", f"/{STATISTICS_INDEX}/_refresh")
    return digest


async def _write(client: AsyncEngineClient, lines: list[Mapping[str, Any]]) -> None:
    if not lines:
        return
    path = f"/{STATISTICS_INDEX}/_bulk"
    answer = await client.request("POST", path, body=lines)
    refused = refused_line(answer.body, len(lines) // 2, f"POST {path}")
    if refused is not None:
        raise error_from_response("POST", path, Response(refused.status, {"error": refused.error}))


async def load_statistics(client: AsyncEngineClient, digest: str) -> LexicalStatistics:
    """The counts with that hash.

    Raises:
        EncoderError: not a hash, not there, or not whole; ``Index.refresh_statistics`` counts again.
    """
    if not _HASH.fullmatch(digest):
        raise EncoderError(f"{digest!r} is no hash of term statistics; run refresh_statistics on the index")
    documents: list[Mapping[str, Any]] = []
    after: list[Any] | None = None
    while True:
        body: dict[str, Any] = {"size": 20, "query": {"term": {"hash": digest}}, "sort": [{"part": "asc"}]}
        if after is not None:
            body["search_after"] = after
        try:
            answer = await client.request("POST", f"/{STATISTICS_INDEX}/_search", body=body)
        except IndexNotFoundError:
            break
        hits = answer.body["hits"]["hits"]
        documents += [hit.get("_source") or {} for hit in hits]
        if len(hits) < 20:
            break
        after = last_sort(hits, f"POST /{STATISTICS_INDEX}/_search", after)
    if not documents:
        raise EncoderError(
            f"the term statistics {digest[:12]}… are not in {STATISTICS_INDEX}; run refresh_statistics on "
            "the index (esembed index repair)"
        )
    return LexicalStatistics.from_documents(documents)


async def delete_statistics(client: AsyncEngineClient, digest: str) -> None:
    """Remove the counts with that hash, if no index names them any more.

    Equal documents give equal counts, so a copy of an index shares them. Where not all indices can be seen,
    the counts stay; so they do without the privileges for their index.
    """
    if not _HASH.fullmatch(digest):
        return
    # "_doc" stands there for the type that mappings had once.
    users = await every_index(client, "mappings._doc._meta.esembed.statistics")
    if users is None or digest in json.dumps(users):
        return
    head = await client.request("GET", f"/{STATISTICS_INDEX}/_doc/{digest}-0", ignore=(403, 404))
    if head.status != 200:
        return
    parts = (head.body.get("_source") or {}).get("parts")
    if type(parts) is not int or not 0 <= parts <= _MOST_PARTS:
        return  # the index is anybody's to write to: no number in it decides how much is sent
    # By id, since _delete_by_query is a module that not every build has. The head goes last.
    lines = [{"delete": {"_id": f"{digest}-{number}"}} for number in range(parts, -1, -1)]
    await client.request("POST", f"/{STATISTICS_INDEX}/_bulk", body=lines)
