"""Vectors inside of ``_source`` and outside of it (``exclude_source_vectors``, derived source): updates,
copies and migrations keep each of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from esembed import AsyncIndex, DenseField, FilterField, IndexPlan, IngestOptions, MigrateOptions, TextField
from esembed import query as q
from esembed.capabilities import Version

from .test_synthetic_source import template

QUIET = IngestOptions(learn_weights=False, refresh=True, dead_letters=None, verify=True)
DIMS, COUNT = 48, 60
RAW = np.random.default_rng(5).standard_normal((COUNT, DIMS)).astype(np.float32)
RAW[0, :3] = [1e-42, -0.0, 3.4e30]  # subnormal, negative zero, large: floats that a rounded text would lose
UNIT = (RAW[1:] / np.linalg.norm(RAW[1:], axis=1, keepdims=True)).astype(np.float32)
UNIT = np.concatenate([UNIT[:1], UNIT])


def plan(**changes: Any) -> IndexPlan:
    field = {"encoder": "precomputed", "dims": DIMS, "quantization": "hnsw", **changes}
    return IndexPlan(
        text={"title": TextField()},
        dense={
            "far": DenseField(**field, similarity="l2_norm"),
            "near": DenseField(**field, similarity="cosine"),
            "long": DenseField(**field, similarity="cosine"),
        },
        filter={"tags": FilterField()},
    )


def record(number: int) -> dict[str, Any]:
    # Of "far" the large number is left out: squared distances to it are no floats.
    far = RAW[number].copy()
    far[2] = 0.5 if number == 0 else far[2]
    return {
        "_id": str(number),
        "title": f"page {number}",
        "tags": ["a", "b"],
        "far": far,
        "near": UNIT[number],
        "long": RAW[number] if number else RAW[1] * 3,
    }


def settings(engine: str, outside: str) -> dict[str, Any]:
    """What keeps vectors outside of ``_source``."""
    if engine == "elasticsearch":
        return {"index.mapping.exclude_source_vectors": outside}
    return {"index.knn": True, "index.knn.derived_source.enabled": outside}


async def check(index: AsyncIndex, exact: bool) -> None:
    """Every vector is the one that was sent; those of cosine that aren't of length 1 nearly so, where
    Elasticsearch multiplies their length back."""
    assert await index.count() == COUNT
    for number in range(0, COUNT, 7):
        sent = record(number)
        document = await index.get(str(number), vectors=True)
        assert document is not None
        for name in ("far", "near", "long"):
            found = np.asarray(document[name], np.float32)
            if name == "long" and not exact:
                np.testing.assert_allclose(found, sent[name], rtol=1e-6)
            else:
                np.testing.assert_array_equal(found.view(np.int32), sent[name].view(np.int32), name)
        like = await index.search(q.knn("near", vector=document["near"], k=3), size=1)
        assert like.ids[0] in ({"0", "1"} if number in (0, 1) else {str(number)})


@pytest.mark.parametrize("outside", ["true", "false"])
async def test_no_vector_is_lost(client: Any, esembed_index_name: str, outside: str) -> None:
    name = esembed_index_name
    probe = await AsyncIndex.create(client, f"{name}-probe", plan(), alias=False)
    version, engine = probe.capabilities.version, probe.capabilities.engine
    await probe.delete_index()
    if version < (Version(9, 2) if engine == "elasticsearch" else Version(3, 0)):
        pytest.skip(f"{engine} {version} has no such setting")
    async with template(client, name, settings(engine, outside)):
        index = await AsyncIndex.create(client, f"{name}-v1", plan(), alias=False)
        assert (await index.ingest([record(number) for number in range(COUNT)], QUIET)).indexed == COUNT
        shown = await index.client.request("GET", f"/{name}-v1/_doc/3")
        # On OpenSearch vectors come back whatever the setting says; where they are kept is its own matter.
        assert ("near" in shown.body["_source"]) is (outside == "false" or engine == "opensearch")
        exact = outside == "false" or engine == "opensearch"
        await check(index, exact)

        # Partial updates build on what is kept.
        for number in range(0, COUNT, 7):
            await index.update(str(number), {"tags": ["c"]})
        await index.refresh()
        await check(index, exact)
        assert (await index.search(q.match_all(filter=q.term("tags", "c")), size=0, count=True)).total == 9

        copy = await AsyncIndex.create(client, f"{name}-copy", plan(), alias=False)
        report = await copy.ingest(await index.documents(), QUIET)
        assert (report.indexed, report.dead_lettered) == (COUNT, 0), report.errors
        await check(copy, exact)

        options = MigrateOptions(alias=f"{name}-alias")
        moved = await index.migrate(plan(m=24, ef_construction=50), options=options)
        assert set(moved.copied) == {"far", "near", "long"}
        after = await AsyncIndex.open(client, f"{name}-alias")
        assert after.concrete_index != index.concrete_index
        await check(after, exact)
