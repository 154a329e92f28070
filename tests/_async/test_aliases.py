"""An alias is more than a name: whose documents it shows, where they go, who may write, how many indices."""

from __future__ import annotations

import json
from typing import Any

import pytest

from esembed import (
    AsyncFollower,
    AsyncIndex,
    ChunkOptions,
    DenseField,
    FilterField,
    IndexOptions,
    IndexPlan,
    IngestOptions,
    MigrateOptions,
    SparseField,
    TextField,
)
from esembed import query as q
from esembed._async.client import AsyncEngineClient
from esembed.errors import AliasError, EsembedError, IndexNotFoundError, QueryError, RecordError
from esembed.types import Document

from .search_world import data

PLAN = IndexPlan(
    text={"body": TextField()},
    dense={"v": DenseField(encoder="precomputed", dims=4, similarity="l2_norm")},
    filter={"tenant": FilterField(), "n": FilterField(type="integer")},
    index=IndexOptions(shards=3),
)

QUIET = IngestOptions(learn_weights=False)


def records(tenant: str, count: int = 4) -> list[dict[str, Any]]:
    return [
        {"_id": f"{tenant}{i}", "tenant": tenant, "body": f"invoice {i}", "v": [1, i, 0, 0], "n": i}
        for i in range(count)
    ]


async def put_alias(client: Any, index: str, alias: str, **properties: Any) -> None:
    actions = [{"add": {"index": index, "alias": alias, **properties}}]
    await AsyncEngineClient(client).request("POST", "/_aliases", body={"actions": actions})


async def shown_alias(client: Any, alias: str) -> dict[str, Any]:
    """Index → what the engine says about the alias there."""
    body = (await AsyncEngineClient(client).request("GET", f"/_alias/{alias}")).body
    return {index: parts["aliases"][alias] for index, parts in body.items()}


async def two_tenants(client: Any, name: str, plan: IndexPlan = PLAN) -> str:
    """An index with two tenants' documents, and the alias of one of them."""
    index = await AsyncIndex.create(client, name, plan, alias=False)
    await index.ingest([*records("acme"), *records("other", 40)], QUIET)
    await put_alias(client, name, f"{name}-acme", filter={"term": {"tenant": "acme"}})
    return f"{name}-acme"


MINE = [f"acme{i}" for i in range(4)]
NEAREST = q.knn("v", vector=[1, 0, 0, 0], k=4)
ROWS = q.match("invoice")


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(ROWS, id="match"),
        pytest.param(NEAREST, id="knn"),
        pytest.param(q.rrf(ROWS, NEAREST), id="rrf"),
        pytest.param(q.linear(ROWS, NEAREST, normalizer="minmax"), id="minmax"),
        pytest.param(q.bool_(should=[ROWS, NEAREST]), id="bool"),
        pytest.param(q.match_all(), id="all"),
        pytest.param(q.ids(["acme0", "acme1", "acme2", "acme3", "other0"]), id="ids"),
        pytest.param(q.raw({"elasticsearch": {"match_all": {}}, "opensearch": {"match_all": {}}}), id="raw"),
        pytest.param(q.rescore(ROWS, by=q.match_all(), window_size=50), id="rescore"),
    ],
)
async def test_every_query_finds_the_tenants_own_documents(
    client: Any, esembed_index_name: str, query: Any
) -> None:
    index = await AsyncIndex.open(client, await two_tenants(client, esembed_index_name))
    assert sorted((await index.search(query, size=10, fusion="auto")).ids) == MINE
    assert sorted((await index.search(query, size=4, filter=q.range("n", gte=2))).ids) == MINE[2:]


async def test_every_way_of_reading_is_the_tenants_own(client: Any, esembed_index_name: str) -> None:
    alias = await two_tenants(client, esembed_index_name)
    index = await AsyncIndex.open(client, alias)
    assert await index.count() == 4
    assert await index.get("other1") is None
    found = await index.get("acme1", vectors=True)
    assert found is not None
    assert found["n"] == 1
    assert "v" in found
    many = await index.search_many([ROWS, NEAREST, q.rrf(ROWS, NEAREST)], size=10)
    assert [sorted(hits.ids) for hits in many] == [MINE] * 3
    facets = {"tenants": {"terms": {"field": "tenant"}}}
    hits = await index.search(q.rrf(ROWS, NEAREST), aggregations=facets, count=True)
    buckets = hits.aggregations["tenants"]["buckets"]
    assert [(b["key"], b["doc_count"]) for b in buckets] == [("acme", 4)]
    assert hits.total == 4
    everything = {"all": {"global": {}, "aggs": facets}}
    with pytest.raises(QueryError, match="global"):
        await index.search(ROWS, aggregations={"x": {"filter": {"match_all": {}}, "aggs": everything}})
    copy = await AsyncIndex.create(client, f"{esembed_index_name}-copy", PLAN, alias=False)
    report = await copy.ingest(await index.documents(), QUIET)
    assert report.bytes_read > 20 * report.read
    assert (report.read, report.indexed, await copy.count()) == (4, 4, 4)
    async with await AsyncIndex.open(client, esembed_index_name) as whole:
        assert await whole.count() == 44


async def test_a_follower_follows_the_filter_too(client: Any, esembed_index_name: str) -> None:
    alias = await two_tenants(client, esembed_index_name)
    follower = AsyncFollower(client, alias, ttl_seconds=0)
    assert sorted((await follower.search(ROWS)).ids) == MINE
    await put_alias(client, esembed_index_name, alias, filter={"term": {"tenant": "nobody"}})
    assert (await follower.search(ROWS)).ids == []
    assert follower.moves == 0, "it is the same index"


async def test_writes_by_the_alias_leave_others_documents_alone(client: Any, esembed_index_name: str) -> None:
    index = await AsyncIndex.open(client, await two_tenants(client, esembed_index_name))
    whole = await AsyncIndex.open(client, esembed_index_name)
    with pytest.raises(RecordError, match="does not show"):
        await index.update("other1", {"body": "stolen"})
    with pytest.raises(RecordError, match="does not show"):
        await index.delete("other1")
    stolen = {"_id": "other2", "tenant": "acme", "body": "stolen", "v": [1, 0, 0, 0]}
    report = await index.ingest([stolen, *records("acme", 5)], QUIET)
    assert (report.indexed, report.unchanged, report.dead_lettered) == (1, 4, 1)
    assert (await whole.get("other1") or {})["body"] == "invoice 1"
    assert (await whole.get("other2") or {})["tenant"] == "other"
    # What was written and not refreshed yet is the tenant's own.
    await index.ingest([{**records("acme", 6)[5]}], IngestOptions(learn_weights=False, refresh=False))
    await index.update("acme5", {"n": 50}, refresh=True)
    assert (await index.get("acme5") or {})["n"] == 50
    await index.delete("acme5", refresh=True)
    assert await index.count() == 5


async def test_sync_deletes_among_the_tenants_own(client: Any, esembed_index_name: str) -> None:
    index = await AsyncIndex.open(client, await two_tenants(client, esembed_index_name))
    options = IngestOptions(learn_weights=False, sync=True, verify=True, sync_max_delete=0.9)
    report = await index.ingest(records("acme", 2), options)
    assert report.sync_deleted == 2
    assert report.verified is not None
    assert report.verified.extra == ()
    whole = await AsyncIndex.open(client, esembed_index_name)
    assert (await index.count(), await whole.count()) == (2, 42)


async def test_what_concerns_the_whole_index_is_refused(client: Any, esembed_index_name: str) -> None:
    alias = await two_tenants(client, esembed_index_name)
    routed = f"{esembed_index_name}-routed"
    await put_alias(client, esembed_index_name, routed, search_routing="1")
    for name in (alias, routed):
        index = await AsyncIndex.open(client, name)
        calls = {
            "delete": index.delete_index,
            "backfill": index.backfill,
            "migrate": lambda index=index: index.migrate(PLAN.replace(description="other")),
            "learn": index.learn_weights,
            "count": index.refresh_statistics,
            "attach": lambda name=name: AsyncIndex.attach(client, name, PLAN),
            "rollback": index.rollback,
        }
        for what, call in calls.items():
            with pytest.raises(AliasError, match=esembed_index_name):
                print(what, await call())
    with pytest.raises(AliasError, match="sync"):
        await (await AsyncIndex.open(client, routed)).ingest(records("acme"), IngestOptions(sync=True))
    whole = await AsyncIndex.open(client, esembed_index_name)
    assert await whole.count() == 44
    assert list(await shown_alias(client, alias)) == [esembed_index_name]


PROPERTIES = [
    {"filter": {"term": {"tenant": "acme"}}},
    {"filter": {"bool": {"must_not": [{"term": {"tenant": "other"}}]}}, "is_hidden": True},
    {"index_routing": "1", "search_routing": "1,2", "is_write_index": True},
    {"filter": {"range": {"n": {"gte": 1}}}, "search_routing": "a", "index_routing": "a"},
    {"is_write_index": True, "is_hidden": False},
    {},
]


@pytest.mark.parametrize("properties", PROPERTIES, ids=lambda one: "-".join(one) or "plain")
async def test_a_migration_and_a_rollback_carry_everything(
    client: Any, esembed_index_name: str, properties: dict[str, Any]
) -> None:
    name, alias = f"{esembed_index_name}-v1", esembed_index_name
    index = await AsyncIndex.create(client, name, PLAN, alias=False)
    await put_alias(client, name, alias, **properties)
    routing = properties.get("index_routing")
    rows = [*records("acme"), *records("other")]
    await index.ingest([Document(row.pop("_id"), row, routing=routing) for row in rows], QUIET)
    before = (await shown_alias(client, alias))[name]
    assert before == properties, "the engine says what was asked for"
    seen = sorted((await (await AsyncIndex.open(client, alias)).search(q.match_all(), size=20)).ids)
    opened = await AsyncIndex.open(client, name)
    options = MigrateOptions(alias=alias, in_place=False, ingest=QUIET)
    report = await opened.migrate(PLAN.replace(text={"body": TextField(k1=0.9)}), options=options)
    assert report.documents == 8
    assert await shown_alias(client, alias) == {report.new: before}
    moved = await AsyncIndex.open(client, alias)
    assert sorted((await moved.search(q.match_all(), size=20)).ids) == seen
    if seen:
        assert await moved.get(seen[0]) is not None
    extra = {"_id": "late", "tenant": "acme", "body": "late", "v": [0, 0, 0, 1], "n": 3}
    await moved.ingest([extra], QUIET)
    back = await moved.rollback()
    assert (back.new, await shown_alias(client, alias)) == (name, {name: before})
    assert "late" in (await (await AsyncIndex.open(client, alias)).search(q.match_all(), size=20)).ids


async def test_a_tenants_alias_is_migrated_by_name(client: Any, esembed_index_name: str) -> None:
    alias = await two_tenants(client, esembed_index_name)
    index = await AsyncIndex.open(client, alias)
    with pytest.raises(AliasError, match="alias="):
        await index.migrate(PLAN.replace(text={"body": TextField(k1=0.9)}))
    options = MigrateOptions(alias=alias, ingest=QUIET)
    report = await index.migrate(PLAN.replace(text={"body": TextField(k1=0.9)}), options=options)
    assert report.documents == 44, "the whole index"
    assert not any("other aliases" in note for note in report.notes)
    await put_alias(client, report.new, f"{esembed_index_name}-more")
    again = await AsyncIndex.open(client, alias)
    later = await again.migrate(PLAN.replace(text={"body": TextField(k1=1.0)}), options=options)
    assert any(f"other aliases: {esembed_index_name}-more" in note for note in later.notes)
    report = later
    assert await shown_alias(client, alias) == {report.new: {"filter": {"term": {"tenant": "acme"}}}}
    assert await (await AsyncIndex.open(client, alias)).count() == 4


async def test_a_filter_that_would_show_more_is_no_filter_there(client: Any, esembed_index_name: str) -> None:
    name, alias = f"{esembed_index_name}-v1", esembed_index_name
    index = await AsyncIndex.create(client, name, PLAN, alias=False)
    rows = [{**row, "tenant": f"acme {row['tenant']}"} for row in records("x")]
    await index.ingest([*records("acme"), *rows], QUIET)
    await put_alias(client, name, alias, filter={"term": {"tenant": "acme"}})
    other = PLAN.replace(text={"body": TextField(), "tenant": TextField()}, filter={"n": PLAN.filter["n"]})
    options = MigrateOptions(alias=alias, ingest=QUIET)
    with pytest.raises(EsembedError, match=r"4 documents of .* and 8 of"):
        await index.migrate(other, options=options)
    assert list(await shown_alias(client, alias)) == [name]
    await index.ingest([{"_id": "w", "tenant": "acme", "body": "writable", "v": [1, 0, 0, 0]}], QUIET)


COMPUTED = {"type": "keyword"}


@pytest.mark.parametrize(
    ("filter", "named"),
    [
        ({"term": {"shade": "dark"}}, "shade"),
        ({"bool": {"must_not": [{"terms": {"shade": ["dark"]}}]}}, "shade"),
        ({"constant_score": {"filter": {"exists": {"field": "shade"}}}}, "shade"),
        ({"nested": {"path": "parts", "query": {"range": {"parts.n": {"gte": 1}}}}}, "parts.n"),
    ],
    ids=["term", "must_not", "exists", "nested"],
)
async def test_a_filter_by_what_the_plan_lacks_is_refused_first(
    client: Any, esembed_index_name: str, filter: dict[str, Any], named: str
) -> None:
    """Mapped by somebody else beside the plan's fields, or computed by the mapping."""
    name, alias = f"{esembed_index_name}-v1", esembed_index_name
    index = await AsyncIndex.create(client, name, PLAN, alias=False)
    engine = index.client
    parts = {"type": "nested", "properties": {"n": {"type": "integer"}}}
    body: dict[str, Any] = {"properties": {"parts": parts}}
    if engine.engine == "elasticsearch":
        body["runtime"] = {"shade": COMPUTED}  # without a script: read from _source
    else:
        body["properties"]["shade"] = COMPUTED
    await engine.request("PUT", f"/{name}/_mapping", body=body)
    rows = [
        {**row, "shade": "dark" if n % 2 else "light", "parts": [{"n": n}]}
        for n, row in enumerate(records("a"))
    ]
    await index.ingest(rows, QUIET)
    await put_alias(client, name, alias, filter=filter)
    shown = await AsyncIndex.open(client, alias)
    seen = sorted((await shown.search(q.match_all())).ids)
    assert await shown.count() == len(seen)
    hidden = [row["_id"] for row in rows if row["_id"] not in seen]
    assert await shown.get(seen[0]) is not None
    assert not hidden or await shown.get(hidden[0]) is None
    before = (await engine.request("GET", f"/{name}")).body
    options = MigrateOptions(alias=alias, ingest=QUIET)
    with pytest.raises(AliasError, match=rf"filters by '{named}'.*Nothing was changed"):
        await shown.migrate(PLAN.replace(text={"body": TextField(k1=0.9)}), options=options)
    assert (await engine.request("GET", f"/{name}")).body == before
    assert list((await engine.request("GET", f"/{alias}*")).body) == [name], "no version was made"
    if named == "shade":
        fields = {**PLAN.filter, "shade": FilterField()}
        await shown.migrate(PLAN.replace(filter=fields), options=options)
        moved = await AsyncIndex.open(client, alias)
        assert sorted((await moved.search(q.match_all())).ids) == seen


async def test_a_rollback_would_not_show_more(client: Any, esembed_index_name: str) -> None:
    name, alias = f"{esembed_index_name}-v1", esembed_index_name
    index = await AsyncIndex.create(client, name, PLAN, alias=False)
    await put_alias(client, name, alias)
    await index.ingest([{**row, "secret": True} for row in records("acme")], QUIET)
    options = MigrateOptions(alias=alias, ingest=QUIET)
    fields = {**PLAN.filter, "secret": FilterField(type="boolean")}
    report = await index.migrate(PLAN.replace(filter=fields), options=options)
    await put_alias(client, report.new, alias, filter={"bool": {"must_not": [{"term": {"secret": True}}]}})
    moved = await AsyncIndex.open(client, alias)
    assert await moved.count() == 0
    for replay in (True, False):
        with pytest.raises(AliasError, match="filters by 'secret'"):
            await AsyncIndex.rollback(await AsyncIndex.open(client, alias), replay_writes=replay)
    assert list(await shown_alias(client, alias)) == [report.new]
    with pytest.raises(EsembedError):  # it is blocked as before
        await index.ingest(records("late"), IngestOptions(learn_weights=False, max_wait_seconds=0.1))


async def test_other_chunks_are_no_other_documents(client: Any, esembed_index_name: str) -> None:
    name, alias = f"{esembed_index_name}-v1", esembed_index_name
    tiny = DenseField(encoder="custom:tiny", quantization="hnsw", chunked=True)
    plan = PLAN.replace(
        dense={"made": tiny},
        chunk=ChunkOptions(source=("body",), max_tokens=8, overlap_tokens=0, store="documents"),
    )
    index = await AsyncIndex.create(client, name, plan, encoder=data.TinyDense(), alias=False)
    rows = [
        {"_id": f"{tenant}{n}", "tenant": tenant, "body": "red dog. blue house. " * 9, "n": n}
        for tenant in ("acme", "other")
        for n in range(2)
    ]
    await index.ingest(rows, QUIET)
    await put_alias(client, name, alias, filter={"term": {"tenant": "acme"}}, is_hidden=True)
    longer = plan.replace(
        chunk=ChunkOptions(source=("body",), max_tokens=16, overlap_tokens=0, store="documents")
    )
    options = MigrateOptions(alias=alias, ingest=QUIET)
    report = await index.migrate(longer, options=options, encoder=data.TinyDense())
    moved = await AsyncIndex.open(client, alias, encoder=data.TinyDense())
    assert (report.documents, await moved.count()) == (4, 2)
    hits = await moved.search(q.knn("made", text="red dog"))
    assert sorted(hits.ids) == ["acme0", "acme1"]
    assert (await moved.rollback(encoder=data.TinyDense())).new == name


async def test_an_abort_by_another_alias_leaves_the_block(client: Any, esembed_index_name: str) -> None:
    """Writes between the last pass and the swap would be lost."""
    alias = await two_tenants(client, esembed_index_name)
    engine = AsyncEngineClient(client)
    await engine.request("PUT", f"/{esembed_index_name}/_block/write")
    assert await AsyncIndex.abort_migration(client, alias) is None
    settings = (await engine.request("GET", f"/{esembed_index_name}/_settings")).body
    assert settings[esembed_index_name]["settings"]["index"]["blocks"]["write"] == "true"


async def test_hidden_versions_are_found(client: Any, esembed_index_name: str) -> None:
    engine = AsyncEngineClient(client)
    alias = esembed_index_name
    body = {"index_patterns": [f"{alias}-v*"], "template": {"settings": {"index.hidden": True}}}
    await engine.request("PUT", f"/_index_template/{alias}", body=body)
    try:
        index = await AsyncIndex.create(client, f"{alias}-v1", PLAN, alias=False)
        await index.ingest(records("acme"), QUIET)
        options = MigrateOptions(alias=alias, ingest=QUIET)
        news = []
        for k1 in (0.9, 1.0, 1.1):
            report = await index.migrate(PLAN.replace(text={"body": TextField(k1=k1)}), options=options)
            news.append(report.new)
            index, options = await AsyncIndex.open(client, alias), MigrateOptions(ingest=QUIET)
        assert news == [f"{alias}-v{number}" for number in (2, 3, 4)]
        await index.rollback()
        more = PLAN.replace(text={"body": TextField(k1=1.3)})
        index = await AsyncIndex.open(client, alias)
        assert (await index.migrate(more, options=options)).new == f"{alias}-v5", "no name is used twice"
        deleted = await AsyncIndex.delete_old_versions(client, alias, keep=0, min_age_seconds=0)
        assert sorted(deleted) == [f"{alias}-v{number}" for number in (1, 2, 3, 4)]
        assert await (await AsyncIndex.open(client, alias)).count() == 4
    finally:
        await engine.request("DELETE", f"/_index_template/{alias}")
        for number in range(1, 7):
            await engine.request("DELETE", f"/{alias}-v{number}", ignore=(404,))


async def test_documents_go_where_the_alias_says(client: Any, esembed_index_name: str) -> None:
    await AsyncIndex.create(client, esembed_index_name, PLAN, alias=False)
    alias = f"{esembed_index_name}-routed"
    await put_alias(client, esembed_index_name, alias, routing="acme", filter={"term": {"tenant": "acme"}})
    index = await AsyncIndex.open(client, alias)
    first = await index.ingest(records("acme"), QUIET)
    again = await index.ingest(records("acme"), QUIET)
    assert (first.created, again.unchanged) == (4, 4), "looked up where they were written"
    raw = await AsyncEngineClient(client).request("GET", f"/{esembed_index_name}/_search")
    assert {hit["_routing"] for hit in raw.body["hits"]["hits"]} == {"acme"}
    await index.update("acme1", {"n": 10}, refresh=True)
    assert (await index.get("acme1") or {})["n"] == 10
    assert sorted((await index.search(q.rrf(ROWS, NEAREST))).ids) == MINE
    await index.delete("acme1", refresh=True)
    assert await index.count() == 3
    options = IngestOptions(learn_weights=False, sync=True, sync_max_delete=1)
    assert (await index.ingest(records("acme", 1), options)).sync_deleted == 2
    whole = await AsyncIndex.open(client, esembed_index_name)
    # By the index's name, documents that have a routing are still read and changed by a scan.
    assert await whole.count() == 1
    await whole.ingest([], IngestOptions(learn_weights=False, sync=True, sync_max_delete=1))
    assert await whole.count() == 0


async def test_an_alias_for_reading(client: Any, esembed_index_name: str) -> None:
    await two_tenants(client, esembed_index_name)
    alias = f"{esembed_index_name}-read"
    await put_alias(client, esembed_index_name, alias, is_write_index=False)
    index = await AsyncIndex.open(client, alias)
    assert await index.count() == 44
    with pytest.raises(AliasError, match="is_write_index"):
        await index.ingest(records("acme"), QUIET)
    with pytest.raises(AliasError, match="is_write_index"):
        await index.delete("acme0")


async def test_chunks_are_the_tenants_own(client: Any, esembed_index_name: str) -> None:
    plan = PLAN.replace(
        sparse={"terms": SparseField(encoder="lexical", chunked=True)},
        chunk=ChunkOptions(source=("body",), store="documents", max_tokens=16, overlap_tokens=2),
        dense={},
    )
    index = await AsyncIndex.create(client, esembed_index_name, plan, alias=False)
    rows = [{**row, "v": None, "body": "one two three " * 20} for row in records("acme") + records("other")]
    report = await index.ingest(rows, QUIET)
    assert report.indexed == 8, report.errors
    alias = f"{esembed_index_name}-acme"
    await put_alias(client, esembed_index_name, alias, filter={"term": {"tenant": "acme"}})
    mine = await AsyncIndex.open(client, alias)
    assert sorted((await mine.search(q.sparse("terms", text="two"), size=20)).ids) == MINE
    assert await mine.count() == 4
    report = await mine.ingest(rows[:1], IngestOptions(learn_weights=False, sync=True, sync_max_delete=1))
    assert report.sync_deleted == 3
    left = await AsyncEngineClient(client).request("POST", f"/{esembed_index_name}/_count")
    each = left.body["count"] / 5
    assert each == int(each) > 1, "chunks went with their documents"


# -- several indices --------------------------------------------------------------------------------


async def test_several_indices_of_one_plan_are_searched(client: Any, esembed_index_name: str) -> None:
    name = esembed_index_name
    plan = PLAN.replace(sparse={"terms": SparseField(encoder="lexical", source=("body",))})
    for month in ("a", "b", "c"):
        index = await AsyncIndex.create(client, f"{name}-{month}", plan, alias=False)
        await index.ingest(records(month, 3), QUIET)
        await put_alias(client, f"{name}-{month}", name)
        # Somebody maps other fields of one object in each.
        mapping = {"properties": {"meta": {"properties": {month: {"type": "keyword"}}}}}
        await AsyncEngineClient(client).request("PUT", f"/{name}-{month}/_mapping", body=mapping)
        extra = {"_id": f"{month}0", **records(month, 1)[0], "meta": {month: "x"}}
        await index.ingest([extra], QUIET)
    index = await AsyncIndex.open(client, name)
    for month in "abc":
        by_field = await index.search(q.match_all(filter=q.term(f"meta.{month}", "x")))
        assert by_field.ids == [f"{month}0"]
    everything = sorted(f"{month}{i}" for month in "abc" for i in range(3))
    queries = [ROWS, q.knn("v", vector=[1, 0, 0, 0], k=9), q.sparse("terms", text="invoice"), q.match_all()]
    for query in (*queries, q.rrf(*queries[:3])):
        assert sorted((await index.search(query, size=20)).ids) == everything
    assert await index.count() == 9
    assert (await index.get("b2") or {})["n"] == 2
    assert sorted(index.fields_to_fill) == ["terms", "v"]
    assert (await index.inspect())["documents"] == 9
    follower = AsyncFollower(client, name)
    assert (await follower.search(ROWS, size=20)).ids
    for hits in await follower.search_many(queries, size=20, deadline_seconds=30):
        assert sorted(hits.ids) == everything
    many = await index.search_many(queries, size=20)
    assert all(sorted(hits.ids) == everything for hits in many)
    for call in (
        lambda: index.ingest(records("a"), QUIET),
        lambda: index.update("a1", {"n": 5}),
        lambda: index.delete("a1"),
        lambda: index.migrate(plan),
        index.backfill,
        index.delete_index,
        index.rollback,
        index.learn_weights,
        lambda: AsyncIndex.attach(client, name, plan),
        lambda: AsyncIndex.repair(client, name, plan),
        lambda: AsyncIndex.create(client, name, plan, exist_ok=True, alias=False),
        lambda: AsyncIndex.delete_old_versions(client, name),
    ):
        with pytest.raises(AliasError, match="stands for 3"):
            await call()
    assert await index.count() == 9


async def test_different_plans_are_refused(client: Any, esembed_index_name: str) -> None:
    name = esembed_index_name
    await AsyncIndex.create(client, f"{name}-a", PLAN, alias=False)
    other = PLAN.replace(dense={"v": DenseField(encoder="precomputed", dims=8, similarity="l2_norm")})
    await AsyncIndex.create(client, f"{name}-b", other, alias=False)
    for month in "ab":
        await put_alias(client, f"{name}-{month}", name)
    with pytest.raises(AliasError, match=r"different plans.*dims"):
        await AsyncIndex.open(client, name)
    await AsyncEngineClient(client).request("PUT", f"/{name}-c")
    await put_alias(client, f"{name}-a", f"{name}-foreign")
    await put_alias(client, f"{name}-c", f"{name}-foreign")
    with pytest.raises(EsembedError, match=f"{name}-c"):
        await AsyncIndex.open(client, f"{name}-foreign")
    await AsyncIndex.create(client, f"{name}-d", PLAN, alias=False)
    await put_alias(client, f"{name}-a", f"{name}-mixed", filter={"term": {"tenant": "a"}})
    await put_alias(client, f"{name}-d", f"{name}-mixed")
    with pytest.raises(AliasError, match="different filters"):
        await AsyncIndex.open(client, f"{name}-mixed")


BAD_NAMES = ["{}*", "*", "_all", "{}-a,{}-b", "{}?", "<{}-{{now/d}}>", "other:{}", " ", "", "{} ", "-{}"]


@pytest.mark.parametrize("pattern", BAD_NAMES)
async def test_names_that_engines_expand_are_refused(
    client: Any, esembed_index_name: str, pattern: str
) -> None:
    await AsyncIndex.create(client, esembed_index_name, PLAN, alias=False)
    name = pattern.format(esembed_index_name, esembed_index_name)
    with pytest.raises(AliasError, match="name one index"):
        await AsyncIndex.open(client, name)
    with pytest.raises(AliasError, match="name one index"):
        await AsyncIndex.attach(client, name, PLAN)
    with pytest.raises(AliasError):
        await AsyncFollower(client, name).search(ROWS)
    with pytest.raises(IndexNotFoundError):
        await AsyncIndex.open(client, f"{esembed_index_name}-nothing")


async def test_a_data_stream_is_refused(client: Any, esembed_index_name: str) -> None:
    engine, name = AsyncEngineClient(client), esembed_index_name
    template = {
        "index_patterns": [name],
        "data_stream": {},
        "priority": 500,
        "template": {"mappings": {"properties": {"@timestamp": {"type": "date"}}}},
    }
    await engine.request("PUT", f"/_index_template/{name}", body=template)
    try:
        made = await engine.request("PUT", f"/_data_stream/{name}", ignore=(400, 404))
        if made.status != 200:
            pytest.skip("this Elasticsearch has no module for data streams")
        backing = next(iter((await engine.request("GET", f"/{name}")).body))
        for one in (name, backing):
            with pytest.raises(AliasError, match="data stream"):
                await AsyncIndex.open(client, one)
            with pytest.raises(AliasError, match="data stream"):
                await AsyncIndex.attach(client, one, PLAN)
        with pytest.raises(AliasError, match="data stream"):
            await AsyncIndex.create(client, name, PLAN, alias=False)
    finally:
        await engine.request("DELETE", f"/_data_stream/{name}", ignore=range(400, 500))
        await engine.request("DELETE", f"/_index_template/{name}")


def test_what_an_alias_says_is_read_and_written_as_the_engines_do() -> None:
    from esembed.dialect.alias import NO_ALIAS, AliasProperties

    for properties in PROPERTIES:
        assert AliasProperties.read(json.loads(json.dumps(properties))).to_dict() == properties
    assert AliasProperties.read(None) == AliasProperties.read(["junk"]) == NO_ALIAS
    assert AliasProperties.read({"is_hidden": "true", "search_routing": 7}).to_dict() == {
        "search_routing": "7",
        "is_hidden": True,
    }
    with pytest.raises(ValueError, match="not an object"):
        AliasProperties.read({"filter": "tenant:acme"})
