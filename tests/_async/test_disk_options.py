"""Options of vectors on disk and of searching them, on a live index: written, read back, changed in place."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from esembed import AsyncIndex, DiskOptions, IndexOptions, IndexPlan, IngestOptions
from esembed import query as q
from esembed.errors import UnsupportedFeatureError

PLAN = IndexPlan.from_toml("""
[dense.e]
encoder = "precomputed"
dims = 4
quantization = "int8_hnsw"
disk = {on_disk_rescore = true, flat_index_threshold = 5}
oversample = 2.0

[filter.lang]

[index]
filter_heuristic = "fanout"
early_termination = true
""")


async def test_options_are_written_read_back_and_changed_in_place(
    client: Any, esembed_engine: Any, esembed_index_name: str
) -> None:
    name = esembed_index_name
    if esembed_engine.engine == "opensearch":
        with pytest.raises(UnsupportedFeatureError) as caught:
            await AsyncIndex.create(client, name, PLAN)
        for path in ("dense.e.disk", "index.filter_heuristic", "index.early_termination"):
            assert any(gap.startswith(f"{path}: ") for gap in caught.value.gaps), path
        return
    index = await AsyncIndex.create(client, name, PLAN)
    await index.ingest(
        [{"_id": str(i), "lang": "de" if i % 3 else "en", "e": [1.0, i, 0.0, 0.0]} for i in range(30)],
        IngestOptions(learn_weights=False),
    )
    near = q.knn("e", vector=[1, 0, 0, 0], k=3, filter=q.term("lang", "de"))
    assert (await index.search(near)).ids[:3] == ["1", "2", "4"]
    assert (await index.inspect())["drift"] == []
    field = msgspec.structs.replace(PLAN.dense["e"], disk=DiskOptions(flat_index_threshold=0))
    changed = PLAN.replace(dense={"e": field}, index=IndexOptions(filter_heuristic="acorn"))
    report = await index.migrate(changed)
    assert report.in_place
    again = await AsyncIndex.open(client, name)
    assert again.plan == changed
    assert again.concrete_index == index.concrete_index
    assert (await again.inspect())["drift"] == []
    assert (await again.search(near)).ids[:3] == ["1", "2", "4"]
    await client.indices.put_settings(
        index=again.concrete_index, settings={"index.dense_vector.hnsw_filter_heuristic": "fanout"}
    )
    (line,) = (await again.inspect())["drift"]
    assert "the plan says acorn, the index has fanout" in line
