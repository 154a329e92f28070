"""The record's field that is the document's id, in filters: no field of the index holds it."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import AsyncIndex, IndexPlan
from esembed import query as q
from esembed.errors import QueryError

PLAN = """
id_field = "sku"
[text.title]
[filter.lang]
[sparse.words]
encoder = "lexical"
source = ["title"]
[filter.variants]
type = "nested"
[filter.variants.fields.size]
"""
CHUNKED = """
id_field = "sku"
[text.title]
[filter.lang]
[sparse.words]
encoder = "lexical"
chunked = true
[chunk]
source = ["title"]
store = "STORE"
max_tokens = 8
overlap_tokens = 0
"""
FORMS = {
    "plain": PLAN,
    "nested": CHUNKED.replace("STORE", "nested"),
    "documents": CHUNKED.replace("STORE", "documents"),
}


async def _made(client: Any, name: str, form: str) -> AsyncIndex:
    index = await AsyncIndex.create(client, name, IndexPlan.from_toml(FORMS[form]))
    rows: list[Any] = [{"sku": key, "title": "red fox", "lang": "en"} for key in ("A-1", "A-2", 17)]
    await index.ingest(rows)
    return index


@pytest.mark.parametrize("form", FORMS)
async def test_an_id_is_filtered_by(client: Any, esembed_index_name: str, form: str) -> None:
    index = await _made(client, esembed_index_name, form)
    for query in (q.match("red", fields=["title"]), q.sparse("words", text="red")):

        async def found(filter: Any, query: Any = query) -> set[str]:
            return set((await index.search(query, filter=filter)).ids)

        assert await found(q.term("sku", "A-1")) == {"A-1"}
        assert await found(q.terms("sku", ["A-1", 17, "none"])) == {"A-1", "17"}
        assert await found(q.ids("A-1", "A-2")) == {"A-1", "A-2"}
        assert await found(q.bool_(must_not=[q.term("sku", 17)])) == {"A-1", "A-2"}
        assert await found([q.term("sku", "A-2"), q.term("lang", "en")]) == {"A-2"}
    stored = q.from_dict({"type": "term", "field": "sku", "value": "A-2"})
    assert (await index.search(q.match_all(), filter=stored)).ids == ["A-2"]
    assert (await index.delete_by_query(q.term("sku", "A-2"), max_delete=0.5)).deleted == 1
    assert await index.count() == 2


async def test_what_an_id_is_not_good_for(client: Any, esembed_index_name: str) -> None:
    index = await _made(client, esembed_index_name, "plain")
    for clause in (q.prefix("sku", "A"), q.range("sku", gte="A"), q.exists("sku"), q.wildcard("sku", "A*")):
        with pytest.raises(QueryError, match=r"\[filter.sku\] in the plan"):
            await index.search(q.match_all(), filter=clause)
    with pytest.raises(QueryError, match=r"\[filter.sku\] in the plan"):
        await index.search(q.match_all(), sort="sku")
    with pytest.raises(QueryError, match="id is a string"):
        await index.search(q.match_all(), filter=q.term("sku", 1.5))
    for inner in (q.term("sku", "A-1"), q.ids("A-1")):
        with pytest.raises(QueryError, match="beside the one on 'variants'"):
            await index.search(q.match_all(), filter=q.nested("variants", inner))


async def test_a_declared_id_is_a_field(client: Any, esembed_index_name: str) -> None:
    plan = IndexPlan.from_toml('id_field = "sku"\n[text.title]\n[filter.sku]\n')
    index = await AsyncIndex.create(client, esembed_index_name, plan)
    await index.ingest([{"sku": "A-1", "title": "a"}, {"sku": "B-1", "title": "b"}])
    assert (await index.search(q.match_all(), filter=q.prefix("sku", "A"))).ids == ["A-1"]
    assert (await index.search(q.match_all(), filter=q.term("sku", "B-1"))).ids == ["B-1"]
