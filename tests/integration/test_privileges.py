"""The roles of docs/permissions.md, on engines with security on: each is enough, and each right is needed.

The engines are this module's own: an Elasticsearch with its file realm and an OpenSearch 2.19 with its
security plugin (:mod:`secured_engines`).
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from secured_engines import ADMIN, OPENSEARCH, SecuredEngine, elasticsearch, opensearch

from esembed import Index, IndexPlan, IngestOptions
from esembed import query as q
from esembed._sync.client import EngineClient
from esembed._sync.privileges import may_write, require
from esembed._sync.term_statistics import (
    STATISTICS_INDEX,
    load_statistics,
    make_statistics_index,
    save_statistics,
)
from esembed.cli import main
from esembed.encode.lexical.statistics import LexicalStatistics
from esembed.errors import AuthorizationError, EngineStartError, EsembedError, UnsupportedFeatureError
from esembed.evaluate.datasets import Dataset
from esembed.local.java import find_java

RUN_ENV = "ESEMBED_TEST_PRIVILEGES"
pytestmark = [
    pytest.mark.timeout(900),
    # Two more engines, a minute and more beside a suite that keeps all processors busy.
    pytest.mark.skipif(os.environ.get(RUN_ENV) != "1", reason=f"starts two engines; {RUN_ENV}=1 runs it"),
]

PAGE = Path(__file__).parents[2] / "docs" / "permissions.md"
TASKS = {"Search": "search", "Ingest": "ingest", "Migrate": "migrate"}
ENGINES = ("elasticsearch", "opensearch")


def documented() -> dict[str, dict[str, dict[str, Any]]]:
    """Engine → task → role, as the page has them."""
    found: dict[str, dict[str, dict[str, Any]]] = {engine: {} for engine in ENGINES}
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        task = TASKS[section.split("\n")[0].partition(",")[0]]
        blocks = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
        for engine, block in zip(ENGINES, blocks, strict=True):
            found[engine][task] = json.loads(block)
    return found


def rights(role: Mapping[str, Any]) -> list[str]:
    """Every right that a role names."""
    found = list(role.get("cluster_permissions", ()))
    for part in role.get("indices", ()):
        found += part["privileges"]
    for part in role.get("index_permissions", ()):
        found += part["allowed_actions"]
    return found


def without(role: Mapping[str, Any], right: str) -> dict[str, Any]:
    """The role less one right."""
    left = copy.deepcopy(dict(role))
    if right in left.get("cluster_permissions", ()):
        left["cluster_permissions"].remove(right)
        return left
    for part in left.get("indices", ()):
        part["privileges"].remove(right)
    for part in left.get("index_permissions", ()):
        part["allowed_actions"].remove(right)
    return left


def user(task: str, right: str | None = None) -> str:
    """Who has a task's role, less a right."""
    return task if right is None else f"{task}-less-{re.sub('[^a-z]+', '-', right.lower()).strip('-')}"


ROLES = documented()
STATISTICS = ("read", "write", "maintenance", "create_index")
"""What the page asks for on ``esembed-statistics``, for lexical fields (this OpenSearch can't have those)."""


def all_roles(engine: str) -> dict[str, dict[str, Any]]:
    roles = {}
    for task, role in ROLES[engine].items():
        roles[user(task)] = role
        roles |= {user(task, right): without(role, right) for right in rights(role)}
    # What the page adds for load settings.
    roles["load"] = copy.deepcopy(ROLES[engine]["ingest"])
    if engine == "opensearch":
        roles["load"]["index_permissions"][0]["allowed_actions"].append("indices:admin/settings/update")
    else:
        roles["load"]["indices"][0]["privileges"].append("manage")
    roles["unlocked"] = copy.deepcopy(ROLES[engine]["migrate"])
    if engine == "opensearch":
        roles["unlocked"]["index_permissions"][0]["index_patterns"].remove("books-migration")
        ingest = ROLES[engine]["ingest"]
        for right in (None, *STATISTICS_THERE):
            allowed = [r for r in STATISTICS_THERE if r != right]
            counts = {"index_patterns": ["esembed-statistics"], "allowed_actions": allowed}
            roles[user("lexical", right)] = ingest | {
                "index_permissions": [*ingest["index_permissions"], counts]
            }
        return roles
    roles["unlocked"]["indices"][0]["names"].remove("books-migration")
    owner = ROLES[engine]["migrate"]["indices"]
    for right in (None, *STATISTICS):
        counts = {"names": ["esembed-statistics"], "privileges": [r for r in STATISTICS if r != right]}
        roles[user("lexical", right)] = {"indices": [*owner, counts]}
    return roles


STATISTICS_THERE = ("read", "write", "indices:admin/refresh*", "indices:admin/create")
"""The same for OpenSearch."""


@pytest.fixture(scope="module", params=ENGINES)
def secured(request: pytest.FixtureRequest) -> Iterator[SecuredEngine]:
    """An engine with a user for each role."""
    engine, name = request.param, f"privileges-{os.getpid()}"
    try:
        if engine == "opensearch":
            find_java(min_major=OPENSEARCH.min_java, max_major=OPENSEARCH.max_java)
        else:
            find_java()
    except EngineStartError as error:
        # Java 24 and newer can't run the OpenSearch that has a security plugin; not every machine has more.
        if engine == "elasticsearch" and os.environ.get("ESEMBED_REQUIRE_ENGINES") == "1":
            raise
        pytest.skip(error.message)
    start = opensearch if engine == "opensearch" else elasticsearch
    with start(name, all_roles(engine)) as running:
        yield running


GROUPS = {
    "read": ("indices:data/read*", "indices:admin/mappings/fields/get*"),
    "write": ("indices:data/write*", "indices:admin/mapping/put"),
    "manage": ("indices:monitor/*", "indices:admin/*"),
    "cluster_composite_ops": ("indices:data/write/bulk", "indices:data/read/*", "indices:admin/aliases*"),
}
"""OpenSearch's action groups, as far as these tests meet them."""


def names_the_right(engine: str, right: str, text: str) -> bool:
    """Whether an error's text says that this right is missing."""
    if engine == "elasticsearch":
        # "… this action is granted by the index privileges [maintenance,manage,all]"
        return any(right in found.split(",") for found in re.findall(r"privileges \[([^\]]*)\]", text))
    actions = re.findall(r"\[([a-z]+:[a-z_/]+)[^\]]*\]", text)
    return any(fnmatch.fnmatch(a, pattern) for a in actions for pattern in GROUPS.get(right, (right,)))


def plan(engine: str, *, more: str = "") -> IndexPlan:
    # The OpenSearch here has no k-NN plugin.
    dense = '[dense.v]\nencoder = "precomputed"\ndims = 2\n' if engine == "elasticsearch" else ""
    return IndexPlan.from_toml(f'[text.body]\n[filter.n]\ntype = "integer"\n{dense}{more}')


def records(engine: str, start: int, end: int) -> list[dict[str, Any]]:
    vector = (lambda n: {"v": [1.0, float(n)]}) if engine == "elasticsearch" else (lambda n: {})
    return [{"_id": str(n), "body": f"red fox topic{n}", "n": n, **vector(n)} for n in range(start, end)]


OPTIONS = IngestOptions(dead_letters=None, max_wait_seconds=10)


@pytest.fixture
def world(secured: SecuredEngine) -> Iterator[SecuredEngine]:
    """The alias ``books`` of ``books-v1``, with 20 documents."""
    _fill(secured)
    yield secured
    _clean(secured)


def _fill(secured: SecuredEngine) -> None:
    _clean(secured)
    with secured.client(ADMIN) as client:
        index = Index.create(client, "books", plan(secured.engine))
        assert index.ingest(records(secured.engine, 0, 20), OPTIONS).indexed == 20
        assert index.concrete_index == "books-v1"


def _clean(secured: SecuredEngine) -> None:
    for index in indices(secured):
        if not index.startswith("."):
            secured.request("DELETE", f"/{index}")


def indices(secured: SecuredEngine) -> dict[str, Any]:
    """Every index with all of its metadata: versions of mapping, settings and aliases tell any change."""
    return dict(secured.request("GET", "/_cluster/state/metadata")[1]["metadata"]["indices"])


def everything(secured: SecuredEngine) -> dict[str, Any]:
    """All that could have been changed: metadata of indices, and how many writes each has seen."""
    found = {name: body for name, body in indices(secured).items() if not name.startswith(".")}
    for name in found:
        shards = secured.request("GET", f"/{name}/_stats?level=shards")[1]["indices"][name]["shards"]
        found[name] = (found[name], [copies[0]["seq_no"]["max_seq_no"] for copies in shards.values()])
    return found


# -- the tasks ---------------------------------------------------------------------------------------


def search(client: Any, engine: str) -> None:
    index = Index.open(client, "books")
    assert "3" in index.search("topic3").ids
    fused = q.rrf(q.match("fox"), q.match("topic4"))
    assert index.search(fused, filter=q.range("n", gte=0), count=True).total == 20
    assert len(index.search_many(["fox", "topic5"])) == 2
    assert index.search("fox", aggregations={"n": {"terms": {"field": "n"}}}).aggregations
    page = index.search(fused, size=12, keep_alive_seconds=60)
    assert (
        len({*page.ids, *index.search(fused, size=12, keep_alive_seconds=60, cursor=page.next_cursor).ids})
        == 20
    )
    assert index.get("1") is not None
    assert index.count() == len(list(index.documents())) == 20
    assert index.inspect()
    if engine == "elasticsearch":
        assert index.search(q.knn("v", vector=[1.0, 0.0])).ids
    dataset = Dataset(
        name="known",
        queries={f"q{n}": f"topic{n}" for n in range(20)},
        qrels={f"q{n}": {str(n): 1} for n in range(20)},
    )
    assert index.evaluate(dataset, latency_queries=1).measured
    assert index.tune(dataset, write=False).queries == 20


def ingest(client: Any, engine: str) -> None:
    index = Index.open(client, "books")
    whole = IngestOptions(dead_letters=None, sync=True, max_wait_seconds=10)
    report = index.ingest(records(engine, 1, 25), whole)
    assert (report.indexed, report.sync_deleted) == (5, 1)
    assert index.ingest(records(engine, 15, 26), OPTIONS).indexed == 1
    index.update("1", {"n": 99})
    index.delete("2", refresh=True)
    index.refresh()
    assert index.count() == 24


def migrate(client: Any, engine: str) -> None:
    more = '[filter.m]\ntype = "keyword"\n'
    first = Index.open(client, "books").migrate(plan(engine, more=more))
    assert (first.new, first.documents) == ("books-v2", 20)
    assert not any("lock" in note or "prevents" in note for note in first.notes)
    Index.open(client, "books").ingest(records(engine, 20, 22), OPTIONS)
    assert Index.open(client, "books").rollback().new == "books-v1"
    assert Index.open(client, "books").count() == 22
    again = Index.open(client, "books").migrate(plan(engine, more=more))
    assert Index.delete_old_versions(client, "books", keep=0, min_age_seconds=0) == ["books-v1", "books-v2"]
    assert Index.abort_migration(client, "books") is None
    assert Index.open(client, "books").concrete_index == again.new == "books-v3"


RUN: dict[str, Callable[[Any, str], None]] = {"search": search, "ingest": ingest, "migrate": migrate}


@pytest.mark.parametrize("task", RUN)
def test_the_role_is_enough(world: SecuredEngine, task: str) -> None:
    if task == "search":
        pytest.importorskip("ir_measures", reason="needs the eval extra")
    with world.client(user(task)) as client:
        RUN[task](client, world.engine)


def test_each_right_is_needed_and_named(world: SecuredEngine) -> None:
    """One world for all: a run that is refused changes nothing, which is looked at after each."""
    before = everything(world)
    wrong: list[str] = []
    for task, role in ROLES[world.engine].items():
        for right in rights(role):
            case = f"{task} without {right}"
            try:
                with world.client(user(task, right)) as client:
                    RUN[task](client, world.engine)
            except EsembedError as error:
                if not names_the_right(world.engine, right, str(error)):
                    wrong.append(f"{case}: the error doesn't name it: {type(error).__name__}: {error}")
            else:
                wrong.append(f"{case}: nothing was refused")
            after = everything(world)
            changed = [n for n in {*before, *after} if before.get(n) != after.get(n)]
            if changed:
                wrong.append(f"{case}: changed {changed}")
                _fill(world)
                before = everything(world)
    assert not wrong, "\n".join(wrong)


def test_what_may_not_be_asked_is_not_called_absent(world: SecuredEngine) -> None:
    with world.client("search") as client:
        index = Index.open(client, "books")
        known = index.capabilities
        assert any(one.startswith("version") for one in known.unknown)
        version = world.request("GET", "/_nodes")[1]["nodes"].popitem()[1]["version"]
        assert str(known.version).split(".")[:2] == version.split(".")[:2], (
            "the index's own version, at least"
        )
        assert known.label == f"{world.engine} (version not told, {known.version} assumed)"
        fused = q.rrf(q.match("fox"), q.match("red"))
        with pytest.raises(UnsupportedFeatureError, match="as far as these credentials can tell") as caught:
            index.search(fused, fusion="server")
        assert caught.value.unknown == known.unknown
        said = str(caught.value)
        assert "may be there" in said
        assert "not installed" not in said
        assert re.search(rf"{world.engine} \d", said) is None, "no version is told that nobody told us"


def effective(secured: SecuredEngine) -> dict[str, Any]:
    """What the indices are like, without the numbers that count changes."""
    found = {}
    for name, body in secured.request("GET", "/books*")[1].items():
        secured.request("POST", f"/{name}/_refresh")
        found[name] = (body, secured.request("GET", f"/{name}/_count")[1]["count"])
    return found


def test_load_settings_are_changed_with_the_right_or_not_at_all(world: SecuredEngine) -> None:
    loading = plan(world.engine, more="[load]\nrefresh = false\n")
    with world.client(ADMIN) as client:
        Index.create(client, "books-v2", loading, alias=False)
    before = effective(world)
    with world.client("ingest") as client:
        index = Index.open(client, "books-v2")
        with pytest.raises(AuthorizationError) as caught:
            index.ingest(records(world.engine, 0, 3), OPTIONS)
        right = "indices:admin/settings/update" if world.engine == "opensearch" else "manage"
        assert names_the_right(world.engine, right, str(caught.value)), str(caught.value)
        assert effective(world) == before, "no document, no marker of a load in _meta"
        without = dataclasses.replace(OPTIONS, apply_load_settings=False)
        assert index.ingest(records(world.engine, 0, 3), without).indexed == 3
    with world.client("load") as client:
        assert Index.open(client, "books-v2").ingest(records(world.engine, 3, 6), OPTIONS).indexed == 3
    after = effective(world)
    assert after["books-v2"] == (before["books-v2"][0], 6), "the settings are put back"


def test_the_way_back_tries_its_rights_first(world: SecuredEngine) -> None:
    with world.client(ADMIN) as client:
        more = '[filter.m]\ntype = "keyword"\n'
        assert Index.open(client, "books").migrate(plan(world.engine, more=more)).new == "books-v2"
        Index.open(client, "books").ingest(records(world.engine, 20, 22), OPTIONS)
    before = effective(world)
    for right in rights(ROLES[world.engine]["migrate"]):
        with world.client(user("migrate", right)) as client:
            with pytest.raises(AuthorizationError) as caught:
                Index.open(client, "books").rollback()
            assert names_the_right(world.engine, right, str(caught.value)), (right, str(caught.value))
            assert effective(world) == before, right
            if right == "manage":
                with pytest.raises(AuthorizationError):
                    Index.delete_old_versions(client, "books", keep=0, min_age_seconds=0)
                with pytest.raises(AuthorizationError):
                    Index.open(client, "books").delete_index()
                assert effective(world) == before
    with world.client(user("search")) as client, pytest.raises(AuthorizationError):
        Index.open(client, "books").rollback()
    assert effective(world) == before


def test_a_default_query_is_refused_before_it_is_looked_for(world: SecuredEngine) -> None:
    dataset = Dataset(name="known", queries={"q": "topic1"}, qrels={"q": {"1": 1}})
    with world.client("search") as client:
        index = Index.open(client, "books")
        before = everything(world)
        with pytest.raises(AuthorizationError, match="storing the default query needs rights"):
            index.tune(dataset, write=True)
        with pytest.raises(AuthorizationError, match="storing the weights needs rights"):
            index.learn_weights(write=True)
    assert everything(world) == before


def test_an_index_and_its_alias_are_created_with_the_role(world: SecuredEngine) -> None:
    with world.client(user("migrate")) as client:
        index = Index.create(client, "books-v9", plan(world.engine))
        assert (index.name, index.concrete_index) == ("books-v9", "books-v9-v1")
        assert index.delete_index() == ["books-v9-v1"]


def test_without_rights_on_the_lock_a_migration_says_so(world: SecuredEngine) -> None:
    with world.client("unlocked") as client:
        report = Index.open(client, "books").migrate(
            plan(world.engine, more='[filter.m]\ntype = "keyword"\n')
        )
    assert report.new == "books-v2"
    assert any("nothing prevents a second migration" in note for note in report.notes)
    assert "books-migration" not in indices(world)


def test_the_command_line_asks_no_more(
    world: SecuredEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PASSWORD_OF_SEARCH", world.password("search"))
    where = ["--url", world.url, "--username", "search", "--password-env", "PASSWORD_OF_SEARCH"]
    if world.ca_certs is not None:
        where += ["--ca-certs", str(world.ca_certs)]
    assert main(["search", "topic3", "--index", "books", *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(["index", "inspect", "books", *where, "--json"]) == 0
    assert "not installed" not in capsys.readouterr().out
    main(["doctor", *where])
    shown = "".join(capsys.readouterr())
    assert "not installed" not in shown.partition("encoders")[0]
    assert "version (no privilege" in " ".join(shown.split())
    before = everything(world)
    assert main(["index", "delete", "books-v1", "--yes", *where]) == 5
    assert everything(world) == before
    assert "delete" in capsys.readouterr().err


LEXICAL = IndexPlan.from_toml('[text.body]\n[sparse.terms]\nencoder = "lexical"\nsource = ["body"]\n')


def lexical(world: SecuredEngine, name: str, who: str) -> Index:
    """An index with counted terms: the same documents wherever it is made, so the same counts."""
    with world.client(who) as client:
        index = Index.create(client, name, LEXICAL, alias=False)
        report = index.ingest([{"_id": str(n), "body": f"red fox {n}"} for n in range(9)], OPTIONS)
        assert report.indexed == 9
        return index


def test_counts_are_stored_and_each_right_for_them_is_tried_first(world: SecuredEngine) -> None:
    if world.engine == "opensearch":
        pytest.skip("OpenSearch 2.19 of this test has no rank_features")
    for right in ("create_index", "read", "write", "maintenance"):
        if right == "read":
            lexical(world, "kept", ADMIN)  # now there are counts
        with world.client(user("lexical", right)) as client:
            index = Index.create(client, "books-v2", LEXICAL, alias=False)
            before = everything(world)
            with pytest.raises(AuthorizationError) as caught:
                index.ingest([{"_id": "1", "body": "red"}], OPTIONS)
            assert names_the_right("elasticsearch", right, str(caught.value)), (right, str(caught.value))
            before.pop("books-v2")
            after = everything(world)
            assert after.pop("books-v2")[1] == [-1], "no document"
            assert after == before
            index.delete_index()
    lexical(world, "books-v2", "lexical")


def test_counts_are_stored_on_opensearch(world: SecuredEngine) -> None:
    """What an ingest does for counts, without the lexical field that this OpenSearch can't have."""
    if world.engine == "elasticsearch":
        pytest.skip("it has lexical fields, which are ingested above")
    counted = LexicalStatistics(analyzer="x", documents=3, total_terms=9, df={"fox": 3})

    def store(client: Any) -> None:
        engine = EngineClient(client)
        make_statistics_index(engine)
        require(engine, "counting terms", may_write(STATISTICS_INDEX))
        digest = save_statistics(engine, counted)
        assert load_statistics(engine, digest) == counted

    for right in ("indices:admin/create", "read", "write", "indices:admin/refresh*"):
        if right == "read":
            with world.client("lexical") as client:
                store(client)
        before = everything(world)
        with world.client(user("lexical", right)) as client, pytest.raises(AuthorizationError) as caught:
            store(client)
        assert names_the_right("opensearch", right, str(caught.value)), (right, str(caught.value))
        assert everything(world) == before


def test_counts_that_an_unseen_index_uses_stay(world: SecuredEngine) -> None:
    if world.engine == "opensearch":
        pytest.skip("OpenSearch 2.19 of this test has no rank_features")
    lexical(world, "unseen", ADMIN)
    lexical(world, "books-v2", "lexical")
    with world.client("lexical") as client:
        assert world.request("GET", "/_mapping", user="lexical")[1].keys().isdisjoint({"unseen"})
        Index.open(client, "books-v2").delete_index()
    with world.client(ADMIN) as client:
        index = Index.open(client, "unseen")
        assert len(index.search(q.sparse("terms", text="fox")).ids) == 9
        index.delete_index()
    world.request("POST", "/esembed-statistics/_refresh")
    assert world.request("GET", "/esembed-statistics/_count")[1]["count"] == 0, "nobody needs them now"
