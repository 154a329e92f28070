"""What stands in ``_meta`` is a stranger's input: a path, an address, a model's name, 11 MB do nothing."""

from __future__ import annotations

import copy
import socket
import threading

import pytest

from esembed import query as q
from esembed._sync.client import EngineClient
from esembed._sync.index import Index
from esembed._sync.live import describe
from esembed.errors import AliasError, EncoderError, PermanentError, PlanError
from esembed.plan import IndexPlan

PLAN = IndexPlan.from_dict(
    {"text": {"body": {}}, "dense": {"e": {"encoder": "minilm", "source": ["body"], "quantization": "hnsw"}}}
)


@pytest.fixture
def listener():
    """A port of ours, and who knocked."""
    knocks = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen():
            while True:
                try:
                    connection, who = server.accept()
                except OSError:
                    return
                knocks.append(who)
                connection.close()

        threading.Thread(target=listen, daemon=True).start()
        yield server.getsockname()[1], knocks


@pytest.fixture
def client(esembed_engine):
    made = esembed_engine.client()
    yield made
    made.close()


def write(client, name, own):
    EngineClient(client).request("PUT", f"/{name}/_mapping", body={"_meta": {"esembed": own}})


def test_nothing_is_fetched_followed_or_sent(client, esembed_index_name, listener, tmp_path, monkeypatch):
    port, knocks = listener
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    (tmp_path / "modules.json").write_text("[]")
    index = Index.create(client, esembed_index_name, PLAN)
    index.ingest([("a", {"body": "Split a pathname."})])
    own = describe(EngineClient(client), esembed_index_name).mapping["_meta"]["esembed"]
    for spec in (
        f"hf:{tmp_path}",
        f"static:{tmp_path}/words.vec",
        f"openai:any@http://127.0.0.1:{port}/v1",
        f"hf:http://127.0.0.1:{port}/model",
        "hf:somebody/evil-model",
        "splade:somebody/evil-model",
    ):
        changed = copy.deepcopy(own)
        changed["plan"]["dense"]["e"]["encoder"] = spec
        write(client, esembed_index_name, changed)
        opened = Index.open(client, esembed_index_name)
        assert opened.inspect()["documents"] == 1
        assert opened.search(q.match("pathname")).ids == ["a"]
        with pytest.raises(EncoderError, match="allow_encoders"):
            opened.search("pathname")
        with pytest.raises(EncoderError, match="allow_encoders"):
            opened.ingest([("b", {"body": "another"})])
    assert knocks == []


def test_eleven_megabytes_and_nonsense_are_told_and_repaired(client, esembed_index_name):
    made = Index.create(client, esembed_index_name, PLAN)
    for own in (
        {"format": 1, "plan": {"description": "x" * 11_000_000}},
        {"format": 1, "plan": {"dense": {"e": {"encoder": "minilm", "source": ["body"], "dims": 10**12}}}},
        {"format": "1"},
        {"format": 1, "plan": [], "contracts": "none"},
        "nothing",
    ):
        write(client, esembed_index_name, own)
        with pytest.raises((PlanError, EncoderError)) as caught:
            Index.open(client, esembed_index_name).search("text")
        assert len(str(caught.value)) < 1000
    Index.repair(client, esembed_index_name, PLAN)
    assert Index.open(client, esembed_index_name).plan == made.plan


def lay_alias(engine, name, alias):
    engine.request("POST", "/_aliases", body={"actions": [{"add": {"index": name, "alias": alias}}]})


def test_nonsense_about_versions_and_fields_is_not_followed(client, esembed_index_name):
    name = f"{esembed_index_name}-v2"
    Index.create(client, name, PLAN, alias=False)
    engine = EngineClient(client)
    lay_alias(engine, name, esembed_index_name)
    own = describe(engine, name).mapping["_meta"]["esembed"]
    for state in (
        {"from": name, "state": "done", "swapped_at": "yesterday"},
        {"from": 7, "state": "done", "swapped_at": {}},
        {"from": f"{esembed_index_name}-gone", "state": ["copying"]},
        "nothing",
    ):
        write(client, name, {**own, "migration": state, "adopted": {"e": 1}})
        index = Index.open(client, esembed_index_name)
        assert index.fields_to_fill == ("e",)
        assert Index.delete_old_versions(client, esembed_index_name, keep=0) == []
        assert Index.abort_migration(client, esembed_index_name) is None
        with pytest.raises((AliasError, PlanError)):
            index.rollback()
    # Somebody's index, which nothing says esembed made.
    other = f"{esembed_index_name}-theirs"
    engine.request("PUT", f"/{other}")
    write(client, name, {**own, "migration": {"from": other, "state": "done", "swapped_at": 0}})
    assert Index.delete_old_versions(client, esembed_index_name, keep=0, min_age_seconds=0) == []
    assert engine.request("HEAD", f"/{other}", ignore=(404,)).status == 200
    write(client, name, {**own, "migration": {"from": "../_all", "state": "done"}})
    with pytest.raises(PermanentError, match="can't be the name of an index"):
        Index.open(client, esembed_index_name).rollback()
    assert describe(engine, esembed_index_name).concrete_index == name


@pytest.mark.parametrize("forged", ["plain", "loop", "list", "wildcard", "own alias"])
def test_only_what_confirms_the_link_is_deleted(client, esembed_index_name, forged):
    # Somebody's index, which esembed made as well; a forged _meta names it as the version before.
    name, victim = f"{esembed_index_name}-v2", f"{esembed_index_name}-customers"
    Index.create(client, name, PLAN, alias=False)
    Index.create(client, victim, PLAN, alias=False)
    engine = EngineClient(client)
    lay_alias(engine, name, esembed_index_name)
    origin = {"list": [victim], "wildcard": f"{esembed_index_name}*"}.get(forged, victim)
    state = {"alias": esembed_index_name, "from": origin, "state": "done", "swapped_at": 0}
    own = describe(engine, name).mapping["_meta"]["esembed"]
    write(client, name, {**own, "migration": state})
    if forged == "loop":
        write(client, victim, {**own, "migration": {"alias": "other", "from": name, "state": "done"}})
    if forged == "own alias":
        write(client, victim, {**own, "migration": {"alias": "customers", "to": name}})
    if forged == "wildcard":
        with pytest.raises(AliasError, match="can't be the name"):
            Index.delete_old_versions(client, esembed_index_name, keep=0, min_age_seconds=0)
    else:
        assert Index.delete_old_versions(client, esembed_index_name, keep=0, min_age_seconds=0) == []
    with pytest.raises(AliasError):
        Index.open(client, esembed_index_name).rollback()
    assert describe(engine, esembed_index_name).concrete_index == name
    if forged != "wildcard":
        index = Index.open(client, esembed_index_name)
        assert index.delete_index(dry_run=True) == [name]
        assert describe(engine, name) is not None
        assert index.delete_index() == [name]
        assert describe(engine, name) is None
    assert describe(engine, victim) is not None


def test_an_alias_of_somebody_is_not_deleted_by(client, esembed_index_name):
    name = f"{esembed_index_name}-one"
    Index.create(client, name, PLAN, alias=False)
    engine = EngineClient(client)
    lay_alias(engine, name, esembed_index_name)
    with pytest.raises(AliasError, match="did not make"):
        Index.open(client, esembed_index_name).delete_index()
    assert describe(engine, name) is not None
