# Generated from tests/_async/test_index.py by scripts/run_unasync.py; change that file and run the script.
"""An index's life on each real engine: create, open, fill, change, attach, repair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from esembed import (
    DenseField,
    FilterField,
    Index,
    IndexPlan,
    MigrateOptions,
    SparseField,
    TextField,
)
from esembed import (
    query as q,
)
from esembed._sync.client import EngineClient
from esembed._sync.live import describe, update_meta
from esembed._sync.term_statistics import STATISTICS_INDEX, delete_statistics
from esembed.encode.base import RuntimeOptions
from esembed.encode.lexical.encoder import LexicalEncoder
from esembed.errors import (
    AliasError,
    ContractError,
    EncoderError,
    IndexExistsError,
    IndexNotFoundError,
    MappingDriftError,
    PermanentError,
    PlanError,
    RecordError,
    UnsupportedFeatureError,
)
from esembed.ingest.options import IngestOptions

RECORDS = [
    {
        "id": "paths",
        "title": "os.path.split",
        "body": "Split a pathname into directory and file.",
        "lang": "en",
    },
    {"id": "random", "title": "random.sample", "body": "Choose elements without replacement.", "lang": "en"},
    {"id": "diff", "title": "difflib.ratio", "body": "How similar two sequences of text are.", "lang": "en"},
    {"id": "faden", "title": "threading.Timer", "body": "Führt eine Funktion später aus.", "lang": "de"},
]

PLAN = IndexPlan(
    text={"title": TextField(boost=2.0), "body": TextField()},
    dense={"embedding": DenseField(encoder="minilm", source=("title", "body"))},
    sparse={"terms": SparseField(encoder="lexical", source=("title", "body"))},
    filter={"lang": FilterField()},
    id_field="id",
)

GIVEN = IndexPlan(
    text={"title": TextField()},
    dense={"vector": DenseField(dims=4, quantization="hnsw")},
)


def filled(client: Any, name: str) -> Index:
    index = Index.create(client, name, PLAN)
    report = index.ingest(RECORDS)
    assert (report.indexed, report.dead_lettered, report.adds_up) == (4, 0, True)
    return index


def test_records_come_from_any_iterable_and_from_another_index(client: Any, esembed_index_name: str) -> None:
    def rows() -> Any:
        for number in range(150):
            yield {"title": f"title {number}", "id": f"d{number}", "vector": [1.0, number, 0.0, 1.0]}

    # Under cosine Elasticsearch gives back what it normalized, rounded.
    plan = GIVEN.replace(
        id_field="id",
        dense={"vector": DenseField(dims=4, quantization="hnsw", similarity="l2_norm")},
    )
    index = Index.create(client, esembed_index_name, plan)
    assert (index.ingest(rows())).indexed == 150
    copy = Index.create(client, f"{esembed_index_name}-copy", plan)
    asked: list[str] = []
    request = index.client.request

    def noted(method: str, path: str, **more: Any) -> Any:
        asked.append(path)
        return request(method, path, **more)

    index.client.request = noted
    report = copy.ingest(index)
    assert (report.read, report.indexed, report.dead_lettered) == (150, 150, 0)
    assert (copy.ingest(rows())).unchanged == 150
    assert ("/_search" in asked) == index.capabilities.shard_doc
    scrolled = [path for path in asked if "scroll" in path]
    assert bool(scrolled) != index.capabilities.shard_doc, "a point in time, wherever it can be sorted"


def test_an_index_describes_itself(client: Any, esembed_index_name: str) -> None:
    made = Index.create(client, esembed_index_name, PLAN)
    assert made.plan.dense["embedding"].dims == 384
    assert made.plan.dense["embedding"].quantization == "int8_hnsw"
    again = Index.open(client, esembed_index_name)
    assert again.plan == made.plan
    seen = again.inspect()
    assert seen["drift"] == []
    assert seen["documents"] == 0
    assert seen["contracts"]["embedding"]["model"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_the_same_plan_opens_and_another_is_refused(client: Any, esembed_index_name: str) -> None:
    filled(client, esembed_index_name)
    with pytest.raises(IndexExistsError, match="exists already"):
        Index.create(client, esembed_index_name, PLAN)
    again = Index.create(client, esembed_index_name, PLAN, exist_ok=True)
    assert again.count() == 4
    other = PLAN.replace(filter={"lang": FilterField(), "year": FilterField(type="integer")})
    with pytest.raises(IndexExistsError, match=r"another plan.*filter\.year"):
        Index.create(client, esembed_index_name, other, exist_ok=True)


def test_every_leg_answers_and_the_default_is_hybrid(client: Any, esembed_index_name: str) -> None:
    index = filled(client, esembed_index_name)
    hits = index.search("split a path into folder and file name", size=2, explain=True)
    assert hits[0].id == "paths"
    assert {share.leg for share in hits[0].contributions} == {"bm25", "embedding"}
    assert sum(share.contribution for share in hits[0].contributions) == pytest.approx(
        hits[0].score, rel=1e-6
    )
    assert not {"embedding", "terms", "esembed_hash"} & set(hits[0].source)
    lexical = index.search(q.sparse("terms"), text="similar sequences")
    assert lexical.ids[0] == "diff"
    german = index.search("function", filter=q.term("lang", "de"))
    assert german.ids == ["faden"]


def test_term_statistics_outlive_the_index_object(client: Any, esembed_index_name: str) -> None:
    index = filled(client, esembed_index_name)
    assert index.plan.sparse["terms"].params.avgdl is not None
    again = Index.open(client, esembed_index_name)
    assert again.stored.statistics == index.stored.statistics
    query = q.sparse("terms")
    first = index.search(query, text="similar sequences", size=4)
    second = again.search(query, text="similar sequences", size=4)
    assert [(h.id, h.score) for h in first] == [(h.id, h.score) for h in second]
    before = dict(index.stored.statistics)
    index.refresh_statistics()
    assert index.stored.statistics == before  # counting again finds the same counts


def test_an_index_of_equal_documents_keeps_the_statistics_that_it_shares(
    client: Any, esembed_index_name: str
) -> None:
    index = filled(client, esembed_index_name)
    copy = filled(client, f"{esembed_index_name}-copy")
    assert copy.stored.statistics == index.stored.statistics
    copy.delete_index()
    index.client.request("POST", f"/{STATISTICS_INDEX}/_refresh")
    again = Index.open(client, esembed_index_name)
    assert (again.search(q.sparse("terms"), text="similar sequences")).ids[0] == "diff"
    digest = index.stored.statistics["terms"]
    index.delete_index()
    gone = index.client.request("GET", f"/{STATISTICS_INDEX}/_doc/{digest}-0", ignore=(404,))
    assert gone.status == 404


def test_ids_are_text_or_numbers(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, IndexPlan(text={"title": TextField()}))
    index.ingest([{"_id": 7, "title": "seven"}])
    assert index.get(7) == {"title": "seven"}
    index.update(7, {"title": "sieben"})
    assert (index.get("7") or {})["title"] == "sieben"
    index.delete(7)
    assert index.get(7) is None
    with pytest.raises(RecordError, match=r"not .*; several documents"):
        index.delete(["7", "8"])  # type: ignore[arg-type]


def test_more_like_a_document_is_a_search_by_its_vector(client: Any, esembed_index_name: str) -> None:
    index = filled(client, esembed_index_name)
    document = index.get("paths", vectors=True)
    assert document is not None
    assert set(document) == {*(index.get("paths") or {}), "embedding", "terms"}
    others = q.bool_(must_not=[q.ids(["paths"])])
    alike = index.search(q.knn("embedding", vector=document["embedding"], filter=others), size=2)
    assert len(alike) == 2
    assert "paths" not in alike.ids
    nearest = index.search(q.knn("embedding", vector=document["embedding"], k=1))
    assert nearest.ids == ["paths"]


def test_lost_term_statistics_stop_only_the_field_that_needs_them(
    client: Any, esembed_index_name: str
) -> None:
    made = filled(client, esembed_index_name)
    digest = made.stored.statistics["terms"]
    delete_statistics(made.client, digest)  # an index names them, so they stay
    answer = made.client.request("GET", f"/{STATISTICS_INDEX}/_doc/{digest}-0")
    lines = [{"delete": {"_id": f"{digest}-{part}"}} for part in range(answer.body["_source"]["parts"] + 1)]
    made.client.request("POST", f"/{STATISTICS_INDEX}/_bulk", body=lines)
    made.client.request("POST", f"/{STATISTICS_INDEX}/_refresh")
    index = Index.open(client, esembed_index_name)
    lexical = q.sparse("terms", text="similar sequences", name="terms")
    assert (index.search("similar sequences")).ids[0] == "diff"
    with pytest.raises(EncoderError, match="run refresh_statistics"):
        index.search(lexical)
    hits = index.search(q.rrf(q.match("similar sequences", name="bm25"), lexical), partial_results=True)
    assert (hits.ids[0], list(hits.legs_missing)) == ("diff", ["terms"])
    with pytest.raises(EncoderError, match="run refresh_statistics"):
        index.warm_up()
    index.refresh_statistics()
    index.warm_up()
    assert (index.search(lexical)).ids[0] == "diff"


def test_the_lexical_field_scores_bm25(client: Any, esembed_index_name: str) -> None:
    index = filled(client, esembed_index_name)
    encoder = index.pool.encoder("terms")
    assert isinstance(encoder, LexicalEncoder)
    texts = {r["id"]: f"{r['title']}\n{r['body']}" for r in RECORDS}
    [query] = encoder.encode_query(["split the pathname"])
    wanted = {
        id: query.dot(vector)
        for id, vector in zip(texts, encoder.encode_document([*texts.values()]), strict=True)
    }
    hits = index.search(q.sparse("terms"), text="split the pathname", size=4)
    assert hits.ids == [id for id, score in sorted(wanted.items(), key=lambda item: -item[1]) if score > 0]
    for hit in hits:
        # rank_features keeps nine significant bits, sparse_vector likewise: 0.4 %
        assert hit.score == pytest.approx(wanted[hit.id], rel=0.01)


def test_update_and_delete(client: Any, esembed_index_name: str) -> None:
    index = filled(client, esembed_index_name)
    index.update("random", {"body": "Bake bread with flour, water and yeast."}, refresh=True)
    dense = index.search(q.knn("embedding", k=4), text="a recipe for the oven", size=4)
    assert dense.ids[0] == "random"
    stored = index.get("random")
    assert stored is not None
    assert stored["title"] == "random.sample"
    assert "embedding" not in stored
    index.update("random", {"lang": "fr"}, refresh=True)
    kept = index.search(q.knn("embedding", k=4), text="a recipe for the oven", size=4)
    assert kept.ids[0] == "random"  # its vector survived an update that doesn't touch its text
    assert kept[0].source["lang"] == "fr"
    index.delete("random", refresh=True)
    assert index.get("random") is None
    assert index.count() == 3


def test_updating_what_is_not_there_says_so(client: Any, esembed_index_name: str) -> None:
    index = filled(client, esembed_index_name)
    with pytest.raises(RecordError, match="nobody"):
        index.update("nobody", {"lang": "fr"})


def test_given_vectors_are_checked(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, GIVEN)
    good = np.asarray([1, 2, 3, 4], np.float32)
    report = index.ingest(
        [
            ("good", {"title": "a", "vector": good}),
            ("short", {"title": "b", "vector": [1.0, 2.0]}),
            ("nan", {"title": "c", "vector": [1.0, float("nan"), 0.0, 0.0]}),
            ("zero", {"title": "d", "vector": [0.0, 0.0, 0.0, 0.0]}),
            ("none", {"title": "e"}),
        ]
    )
    assert (report.read, report.indexed, report.dead_lettered, report.adds_up) == (5, 1, 4, True)
    assert {error.id for error in report.errors} == {"short", "nan", "zero", "none"}
    assert all("vector" in error.reason for error in report.errors)
    hits = index.search(q.knn("vector", vector=good, k=1), size=1)
    assert hits.ids == ["good"]


def test_what_an_index_says_is_not_trusted(client: Any, esembed_index_name: str, tmp_path: Any) -> None:
    index = filled(client, esembed_index_name)

    def hostile(own: dict[str, Any]) -> dict[str, Any]:
        own["plan"]["dense"]["embedding"]["encoder"] = f"hf:{tmp_path}"
        return own

    update_meta(index.client, esembed_index_name, hostile)
    opened = Index.open(client, esembed_index_name)
    assert opened.count() == 4
    assert (opened.search(q.match("pathname"))).ids == ["paths"]
    with pytest.raises(EncoderError, match="allow_encoders"):
        opened.search("pathname")


def test_another_encoder_is_noticed_before_it_is_used(client: Any, esembed_index_name: str) -> None:
    filled(client, esembed_index_name)
    stemming = LexicalEncoder(language="english")
    opened = Index.open(client, esembed_index_name, encoder={"terms": stemming})
    with pytest.raises(ContractError, match="terms"):
        opened.search(q.sparse("terms"), text="similar sequences")


def test_attach_adds_vectors_to_an_index_that_is_there(client: Any, esembed_index_name: str) -> None:
    engine = EngineClient(client)
    mapping: dict[str, Any] = {
        "settings": {"index": {"number_of_shards": 1}},
        "mappings": {
            "_meta": {"owner": "somebody else"},
            "properties": {"title": {"type": "text"}, "body": {"type": "text"}, "lang": {"type": "keyword"}},
        },
    }
    if engine.engine == "opensearch":
        mapping["settings"]["index"]["knn"] = True
    engine.request("PUT", f"/{esembed_index_name}", body=mapping)
    for record in RECORDS:
        engine.request("PUT", f"/{esembed_index_name}/_doc/{record['id']}", body=record)
    engine.request("POST", f"/{esembed_index_name}/_refresh")
    plan = PLAN.replace(id_field=None)
    index = Index.attach(client, esembed_index_name, plan)
    assert index.get("paths", vectors=True) == index.get("paths"), "attach fills nothing"
    report = index.backfill()
    assert (report.read, report.dead_lettered, report.adds_up) == (4, 0, True)
    hits = index.search("split a path into folder and file name")
    assert hits.ids[0] == "paths"
    assert hits[0].source["title"] == "os.path.split"
    live = describe(engine, esembed_index_name)
    assert live is not None
    assert live.mapping["_meta"]["owner"] == "somebody else"
    again = Index.attach(client, esembed_index_name, plan)
    second = again.backfill()
    assert second.unchanged == 4  # what has its vectors is left alone
    assert again.count() == 4


def test_attach_refuses_what_does_not_fit(client: Any, esembed_index_name: str) -> None:
    engine = EngineClient(client)
    body = {"mappings": {"properties": {"title": {"type": "keyword"}}}}
    engine.request("PUT", f"/{esembed_index_name}", body=body)
    with pytest.raises(PlanError, match=r"text\.title: it is keyword.*body: the index has no such field"):
        Index.attach(client, esembed_index_name, PLAN)
    live = describe(engine, esembed_index_name)
    assert live is not None
    assert set(live.mapping["properties"]) == {"title"}


def test_attach_to_what_an_engine_mapped_by_itself(client: Any, esembed_index_name: str) -> None:
    engine = EngineClient(client)
    if engine.engine == "opensearch":
        settings = {"settings": {"index": {"knn": True}}}
        engine.request("PUT", f"/{esembed_index_name}", body=settings)
    for record in RECORDS:
        engine.request("PUT", f"/{esembed_index_name}/_doc/{record['id']}", body=record)
    plan = GIVEN.replace(text={"title": TextField()}, filter={"lang": FilterField()})
    with pytest.raises(PlanError, match=r"lang: it is text .* leave it out .* filter by 'lang\.keyword'"):
        Index.attach(client, esembed_index_name, plan)
    sub = plan.replace(filter={"lang.keyword": FilterField()})
    with pytest.raises(PlanError, match=r"lang\.keyword: it is a sub-field"):
        Index.attach(client, esembed_index_name, sub)
    index = Index.attach(client, esembed_index_name, plan.replace(filter={}))
    index.refresh()
    german = index.search(q.match_all(), filter=q.term("lang.keyword", "de"))
    assert german.ids == ["faden"]


def test_repair_restores_what_the_index_says(client: Any, esembed_index_name: str) -> None:
    index = filled(client, esembed_index_name)
    index.client.request("PUT", f"/{esembed_index_name}/_mapping", body={"_meta": {}})
    with pytest.raises(PlanError, match="repair"):
        Index.open(client, esembed_index_name)
    wrong = index.plan.replace(filter={"lang": FilterField(type="integer")})
    with pytest.raises(MappingDriftError, match="lang"):
        Index.repair(client, esembed_index_name, wrong)
    Index.repair(client, esembed_index_name, index.plan)
    opened = Index.open(client, esembed_index_name)
    assert opened.plan == index.plan
    assert (opened.search(q.sparse("terms"), text="similar sequences")).ids[0] == "diff"


def test_a_mapping_changed_by_hand_is_shown(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, GIVEN)
    assert (index.inspect())["drift"] == []
    body = {"properties": {"price": {"type": "integer"}}}
    index.client.request("PUT", f"/{esembed_index_name}/_mapping", body=body)
    opened = Index.open(client, esembed_index_name)
    (line,) = (opened.inspect())["drift"]
    assert line.startswith("+ price")
    assert "integer" in line


def test_what_the_engine_lacks_creates_nothing(client: Any, esembed_index_name: str) -> None:
    plan = GIVEN.replace(dense={"vector": DenseField(dims=32, quantization="bbq_hnsw")})
    with pytest.raises(UnsupportedFeatureError, match="int8_hnsw"):
        Index.create(client, esembed_index_name, plan)
    assert describe(EngineClient(client), esembed_index_name) is None


def test_an_index_is_created_behind_an_alias_of_its_name(client: Any, esembed_index_name: str) -> None:
    name, plan = esembed_index_name, IndexPlan.from_toml("[text.body]\n")
    index = Index.create(client, name, plan)
    assert (index.name, index.concrete_index) == (name, f"{name}-v1")
    answer = index.client.request("GET", f"/{name}/_alias")
    assert answer.body == {f"{name}-v1": {"aliases": {name: {"is_write_index": True}}}}
    index.ingest([{"_id": "1", "body": "red fox"}], IngestOptions(refresh=True))
    wider = IndexPlan.from_toml("[text.body]\n[text.title]\n")
    report = index.migrate(wider)
    assert (report.old, report.new) == (f"{name}-v1", f"{name}-v2")
    moved = Index.create(client, name, wider, exist_ok=True)
    assert (moved.name, moved.concrete_index, moved.count()) == (name, f"{name}-v2", 1)
    assert moved.plan.text == wider.text
    moved.rollback()
    back = Index.open(client, name)
    assert back.concrete_index == f"{name}-v1"
    for dry_run in (True, False):
        assert back.delete_index(dry_run=dry_run) == [f"{name}-v1"]
    # What was rolled back may hold writes of its own: it is left, and named.
    assert [note.partition(":")[0] for note in back.notes] == [f"{name}-v2"]
    assert describe(back.client, name) is None
    assert describe(back.client, f"{name}-v2") is not None


def test_an_index_without_an_alias(client: Any, esembed_index_name: str) -> None:
    name, plan = esembed_index_name, IndexPlan.from_toml("[text.body]\n")
    index = Index.create(client, name, plan, alias=False)
    assert (index.name, index.concrete_index) == (name, name)
    with pytest.raises(AliasError, match="an alias can't take an index's name"):
        index.migrate(IndexPlan.from_toml("[text.body]\n[text.title]\n"))
    # One that is there is opened as it is, and says that it is no alias.
    there = Index.create(client, name, plan, exist_ok=True)
    assert (index.created, there.created, there.concrete_index) == (True, False, name)
    assert any("is no alias" in note for note in there.notes)
    assert not (Index.create(client, name, plan, exist_ok=True, alias=False)).notes
    assert index.delete_index() == [name]


def test_an_alias_where_an_index_is_wanted(client: Any, esembed_index_name: str) -> None:
    name, plan = esembed_index_name, IndexPlan.from_toml("[text.body]\n")
    index = Index.create(client, name, plan)
    with pytest.raises(IndexExistsError, match=rf"alias \(of {name}-v1\), and alias=False"):
        Index.create(client, name, plan, exist_ok=True, alias=False)
    again = Index.create(client, name, plan, exist_ok=True)
    assert (index.created, again.created, again.notes) == (True, False, index.notes)


def test_a_version_that_lost_its_alias_is_left_alone(client: Any, esembed_index_name: str) -> None:
    name, plan = esembed_index_name, IndexPlan.from_toml("[text.body]\n")
    left = Index.create(client, name, plan)
    left.ingest([{"_id": "1", "body": "red fox"}], IngestOptions(refresh=True))
    left.client.request("DELETE", f"/{name}-v1/_alias/{name}")
    index = Index.create(client, name, plan)
    assert index.concrete_index == f"{name}-v2"
    assert index.delete_index() == [f"{name}-v2"], "which didn't come from the one before"
    assert (Index.open(client, f"{name}-v1")).count() == 1


def test_a_name_has_room_for_the_number_of_its_version(client: Any, esembed_index_name: str) -> None:
    name = esembed_index_name.ljust(253, "x")
    with pytest.raises(AliasError, match="has 256 bytes, and 255 is the most"):
        Index.create(client, name, IndexPlan.from_toml("[text.body]\n"))
    index = Index.create(client, name, IndexPlan.from_toml("[text.body]\n"), alias=False)
    assert index.concrete_index == name


def test_names_and_indices_that_are_not_ours(client: Any, esembed_index_name: str) -> None:
    with pytest.raises(IndexNotFoundError, match=esembed_index_name):
        Index.open(client, esembed_index_name)
    for name, words in (("Not-a-name", "lower case"), ("not a name", "it holds ' '")):
        with pytest.raises(PermanentError, match=words):
            Index.create(client, name, PLAN)
    EngineClient(client).request("PUT", f"/{esembed_index_name}", body={})
    with pytest.raises(PlanError, match="attach"):
        Index.open(client, esembed_index_name)


def test_a_change_of_plan_is_kept_beside_what_others_wrote(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, PLAN)
    live = describe(index.client, esembed_index_name)
    assert live is not None
    meta = {**live.mapping["_meta"], "owner": {"team": "search"}}
    index.client.request("PUT", f"/{esembed_index_name}/_mapping", body={"_meta": meta})
    index.ingest(RECORDS)
    live = describe(index.client, esembed_index_name)
    assert live is not None
    assert live.mapping["_meta"]["owner"] == {"team": "search"}
    assert live.mapping["_meta"]["esembed"]["statistics"]["terms"]


def test_a_large_request_warns_of_nothing(client: Any, esembed_index_name: str) -> None:
    """Warnings are errors in this suite, as in many; aiohttp has one for bodies of more than 1 MiB."""
    index = Index.create(client, esembed_index_name, IndexPlan(text={"title": TextField()}))
    report = index.ingest({"_id": str(n), "title": "a long record " * 120_000} for n in range(2))
    assert (report.indexed, report.dead_lettered) == (2, 0), report.errors


def test_what_was_loaded_is_freed(client: Any, esembed_index_name: str) -> None:
    # Options that no other test has: a model that two indices share stays until both are closed.
    runtime = RuntimeOptions(query_batch=63)
    with Index.create(client, esembed_index_name, PLAN, runtime=runtime) as index:
        loaded = index.pool.encoder("embedding")
        assert index.pool.encoder("embedding") is loaded
    assert index.pool.encoder("embedding") is not loaded, "the block's end freed it"
    index.close()
    loaded = index.pool.encoder("embedding")
    index.close()
    assert index.pool.encoder("embedding") is not loaded, "freed without being awaited, too"
    assert index.count() == 0, "the client is the caller's and stays open"


def test_old_names_work_for_one_release_and_warn(client: Any, esembed_index_name: str) -> None:
    index = Index.create(client, esembed_index_name, IndexPlan(text={"title": TextField()}))
    with pytest.warns(DeprecationWarning, match="Index.concrete is now concrete_index"):
        assert index.concrete == index.concrete_index
    with pytest.warns(DeprecationWarning, match="Index.warm is now warm_up"):
        index.warm()
    with (
        pytest.warns(DeprecationWarning, match="is now replay_writes"),
        pytest.raises(AliasError, match="did not come from a migration"),
    ):
        index.rollback(carry_back=False)
    with pytest.warns(DeprecationWarning, match="Index.drop is now delete_index"):
        index.drop()
    assert describe(EngineClient(client), esembed_index_name) is None
    with pytest.warns(DeprecationWarning, match="MigrateOptions.judge is now quality_metric"):
        assert MigrateOptions(judge=len).quality_metric is len  # type: ignore[call-arg]
