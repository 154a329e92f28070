"""A dotted key and an object are one path: in records, vectors, updates, copies and chunks."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import AsyncIndex, IndexPlan, IngestOptions
from esembed import query as q

PLAN = IndexPlan.from_toml(
    """
    [text."meta.title"]
    [filter."meta.lang"]
    [dense."meta.v"]
    dims = 2
    [sparse."meta.s"]
    encoder = "precomputed"
    [sparse."meta.e"]
    encoder = "lexical"
    source = ["meta.title"]
    """
)
OBJECT: dict[str, Any] = {"meta": {"title": "red fox", "lang": "en", "v": [1, 0], "s": {"x": 1.0}}}
FLAT = {f"meta.{name}": value for name, value in OBJECT["meta"].items()}
MIXED = {"meta": {"title": "red fox", "lang": "en"}, "meta.v": [1, 0], "meta.s": {"x": 1.0}}
CHANGES: list[dict[str, Any]] = [
    {"meta": {"lang": "de"}},
    {"meta.lang": "fr"},
    {"meta.title": "blue fox"},
    {"meta": {"title": "green fox"}},
    {"meta.v": [0, 1]},
    {"meta": {"v": [1, 1]}},
    {"meta.s": {"y": 1.0}},
    {"meta": {"s": {"z": 1.0}, "lang": "en"}},
]
NO_LEARNING = IngestOptions(learn_weights=False)


async def found(index: AsyncIndex, query: Any, **options: Any) -> list[str]:
    return sorted((await index.search(query, **options)).ids)


@pytest.mark.parametrize("record", [OBJECT, FLAT, MIXED], ids=["object", "flat", "mixed"])
async def test_updates_and_copies(client: Any, esembed_index_name: str, record: dict[str, Any]) -> None:
    index = await AsyncIndex.create(client, esembed_index_name, PLAN)
    report = await index.ingest([{"_id": "1", **record}], NO_LEARNING)
    assert (report.indexed, report.dead_lettered) == (1, 0)
    lang, token, title = "en", "x", "red"
    for change in CHANGES:
        await index.update("1", change, refresh=True)
        flat = {path: value for path, value in change.items() if path != "meta"}
        flat |= {f"meta.{name}": value for name, value in change.get("meta", {}).items()}
        lang = flat.get("meta.lang", lang)
        title = flat.get("meta.title", f"{title} fox").split()[0]
        token = next(iter(flat.get("meta.s", {token: 1})))
        for name in ("en", "de", "fr"):
            wanted = ["1"] if name == lang else []
            assert await found(index, q.match_all(filter=q.term("meta.lang", name))) == wanted, change
        for word in ("red", "blue", "green"):
            wanted = ["1"] if word == title else []
            assert await found(index, q.match(word, fields="meta.title")) == wanted, change
            # The encoder read the new text, and the old vector is gone.
            assert await found(index, q.sparse("meta.e", text=word)) == wanted, change
        for name in ("x", "y", "z"):
            wanted = ["1"] if name == token else []
            assert await found(index, q.sparse("meta.s", vector={name: 1.0})) == wanted, change
        assert await found(index, q.knn("meta.v", vector=[1, 0])) == ["1"]
    again = await index.ingest([{"_id": "1", "op": "update", "meta.lang": lang}], NO_LEARNING)
    assert (again.unchanged, again.updated) == (1, 0)
    report = await index.backfill(NO_LEARNING)
    assert report.dead_lettered == 0
    copied = await AsyncIndex.create(client, f"{esembed_index_name}-copy", PLAN)
    report = await copied.ingest(await index.documents(), NO_LEARNING)
    assert (report.indexed, report.dead_lettered) == (1, 0)
    assert await found(copied, q.sparse("meta.s", vector={"z": 1.0})) == ["1"]
    hits = await copied.search(q.knn("meta.v", vector=[1, 1]))
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    await copied.delete_index()


async def test_filters_of_chunk_documents_stand_in_objects(client: Any, esembed_index_name: str) -> None:
    plan = IndexPlan.from_toml(
        """
        [text.body]
        [filter."meta.lang"]
        [chunk]
        source = ["body"]
        store = "documents"
        [sparse.e]
        encoder = "lexical"
        chunked = true
        """
    )
    index = await AsyncIndex.create(client, esembed_index_name, plan)
    await index.ingest([{"_id": "1", "body": "red fox", "meta": {"lang": "en"}}], NO_LEARNING)
    for change, wanted in (
        ({"meta.lang": "de"}, "de"),
        ({"meta": {"lang": "fr"}}, "fr"),
        ({"meta.lang": None}, ""),
    ):
        for name in ("en", "de", "fr"):
            query = q.sparse("e", text="fox", filter=q.term("meta.lang", name))
            before = {"de": "en", "fr": "de", "": "fr"}[wanted]
            assert await found(index, query) == (["1"] if name == before else [])
        await index.update("1", change, refresh=True)
    assert await found(index, q.sparse("e", text="fox", filter=q.exists("meta.lang"))) == []
