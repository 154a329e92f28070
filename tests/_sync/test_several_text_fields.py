# Generated from tests/_async/test_several_text_fields.py by scripts/run_unasync.py; change that file and run the script.
"""Queries over several text fields find what people mean, and each kind of search is one an engine takes."""

from __future__ import annotations

from typing import Any

import pytest

from esembed import Index, IndexPlan
from esembed import query as q

PLAN = IndexPlan.from_toml("""
[text.name]
boost = 5.0
keyword = true
[text.summary]
""")
PACKAGES = [
    {"_id": "deluge-web", "name": "deluge-web", "summary": "bittorrent client written in Python"},
    {"_id": "lighttpd", "name": "lighttpd", "summary": "fast web server with minimal memory footprint"},
    {"_id": "nginx", "name": "nginx", "summary": "small, powerful, scalable web and proxy server"},
    {"_id": "web-mode", "name": "web-mode", "summary": "editing templates"},
    {"_id": "git", "name": "git", "summary": "fast, scalable, distributed revision control system"},
    {"_id": "git-git", "name": "git git", "summary": "git for git, by git"},
    {"_id": "the", "name": "the", "summary": "console text editor"},
]


def test_the_words_of_a_query_count_wherever_they_stand(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    index.ingest(PACKAGES)
    hits = index.search("web server")
    assert set(hits.ids[:2]) == {"lighttpd", "nginx"}
    assert hits.notes == ()
    best = index.search(q.match("web server"))
    assert best.ids[0] in ("deluge-web", "web-mode")  # one of the words, in the boosted name
    # A name that is the whole text comes first, whatever else says the word more often.
    assert (index.search("git")).ids == ["git", "git-git"]
    hits = index.search("web server", highlight=True, explain=True)
    assert "<em>web</em>" in hits[0].highlight["summary"][0]
    assert set((index.search(q.multi_match("web server", kind="auto", operator="and"))).ids) == {
        "lighttpd",
        "nginx",
    }
    found = index.search(q.multi_match("web", kind="combined_fields", fields=["name^0.5", "summary"]))
    assert len(found) == 4


def test_fields_that_can_not_be_read_as_one_text(client: Any, esembed_index_name: str) -> None:
    plan = IndexPlan.from_toml("""
    [text.name]
    analyzer = "simple"
    [text.summary]
    """)
    index = Index.create(client, esembed_index_name, plan)
    index.ingest(PACKAGES)
    hits = index.search("web server")
    assert {"lighttpd", "nginx", "web-mode", "deluge-web"} == set(hits.ids)
    assert "different analyzers" in hits.notes[0]
    assert not (index.search(q.multi_match("web", kind="auto", analyzer="standard"))).notes


@pytest.mark.parametrize("name", [{"norms": False}, {"similarity": "mine"}])
def test_an_index_that_was_mapped_elsewhere(
    client: Any, esembed_index_name: str, name: dict[str, Any]
) -> None:
    settings = {"index": {"similarity": {"mine": {"type": "BM25", "k1": 0.4}}}}
    text = {"type": "text"}
    mappings = {"properties": {"name": {**text, **name}, "summary": text}}
    client.indices.create(index=esembed_index_name, body={"settings": settings, "mappings": mappings})
    plan = IndexPlan.from_toml("[text.name]\n[text.summary]")
    index = Index.attach(client, esembed_index_name, plan)
    index.ingest(PACKAGES)
    hits = index.search("web server")
    assert set(hits.ids) == {"lighttpd", "nginx", "web-mode", "deluge-web"}
    assert "BM25 parameters of its own, no norms" in hits.notes[0]
