"""Tuning a live index: a cross-encoder as the last stage, and BM25's parameters for the next version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esembed import AsyncIndex, IndexPlan, TextField
from esembed import query as q
from esembed.errors import EsembedError
from esembed.evaluate.datasets import Dataset
from esembed.query.nodes import Match, Rescore
from esembed.types import Document

pytest.importorskip("ir_measures", reason="needs the eval extra")

TOPICS = 30


def dataset(relevant: str, texts: dict[str, str] | None = None) -> Dataset:
    """A query for each topic, and one right answer."""

    def corpus() -> Iterator[Document]:
        return (Document(key, {"title": "", "text": text}) for key, text in (texts or {}).items())

    return Dataset(
        name=relevant,
        queries={f"q{i}": f"topic{i}" for i in range(TOPICS)},
        qrels={f"q{i}": {f"{relevant}{i}": 1} for i in range(TOPICS)},
        corpus=corpus if texts else None,
    )


def checkpoint(folder: Path, *, useful: bool) -> Path:
    """A sequence-classification model of one layer. *useful*: made by hand, so that its one output rises
    with the share of the word "gold" in query and text; else its weights are noise."""
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    transformers = pytest.importorskip("transformers", reason="needs the torch extra")
    folder.mkdir()
    words = ["gold", "plain", "filler", *(f"topic{i}" for i in range(TOPICS))]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(3)
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=16,
            max_position_embeddings=64,
            num_labels=1,
            initializer_range=0.5,
        )
    ).eval()
    if useful:
        with torch.no_grad():
            bert = model.bert
            for parameter in [*bert.encoder.layer[0].parameters(), *model.classifier.parameters()]:
                parameter.zero_()
            # No position and no segment counts; every word points nowhere but "gold", along one axis.
            for table in bert.embeddings.children():
                if isinstance(table, torch.nn.Embedding):
                    table.weight.zero_()
            bert.embeddings.word_embeddings.weight[:, 1] = 1.0
            bert.embeddings.word_embeddings.weight[vocabulary.index("gold")] = torch.eye(16)[0] * 4
            attention = bert.encoder.layer[0].attention
            # Queries and keys of zero attend to all words alike, so [CLS] takes in their mean.
            attention.self.value.weight.copy_(torch.eye(16))
            attention.output.dense.weight.copy_(torch.eye(16) * 4)
            for norm in (attention.output.LayerNorm, bert.encoder.layer[0].output.LayerNorm):
                norm.weight.fill_(1.0)
            bert.pooler.dense.weight.copy_(torch.eye(16) * 0.1)
            bert.pooler.dense.bias.zero_()
            model.classifier.weight[0, 0] = 5.0
    model.save_pretrained(folder)
    transformers.BertTokenizerFast.from_pretrained(folder, model_max_length=64).save_pretrained(folder)
    return folder


def texts() -> dict[str, str]:
    """For each topic a short document, which BM25 puts first, and two longer ones; one of them is gold."""
    found: dict[str, str] = {}
    for i in range(TOPICS):
        found[f"short{i}"] = f"topic{i} plain"
        found[f"gold{i}"] = f"topic{i} filler filler filler plain gold gold"
        found[f"long{i}"] = f"topic{i} filler filler filler plain plain plain"
    return found


@pytest.mark.parametrize("backend", ["torch", "openvino"])
async def test_a_cross_encoder_is_kept_where_it_helps_and_only_there(
    client: Any, esembed_index_name: str, tmp_path: Path, backend: Any
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="needs the openvino extra")
    folders = {name: checkpoint(tmp_path / name, useful=name == "gold") for name in ("gold", "noise")}
    from esembed.encode.cross_encoder import CrossEncoder

    crosses = {name: CrossEncoder(folder, backend=backend) for name, folder in folders.items()}
    plan = IndexPlan(text={"doc": TextField()})
    index = await AsyncIndex.create(client, esembed_index_name, plan, rerankers=crosses)
    await index.ingest([{"_id": key, "doc": text} for key, text in texts().items()])

    # What people want is what BM25 puts first already: both can only hurt.
    told: list[str] = []
    kept = await index.tune(dataset("short"), progress=told.append)
    query = kept.query
    stage = kept.parameters[-1]
    assert (stage.parameter, stage.chosen) == ("reranker", "none")
    assert stage.tried == 7
    assert isinstance(query, Match)
    assert index.plan.query is None
    assert "reranker: 7 variants are compared" in told

    # What people want is gold.
    tuned = await index.tune(dataset("gold"))
    query = tuned.query
    stage = tuned.parameters[-1]
    assert stage.chosen.startswith("gold, the first")
    assert stage.gain.low > 0.2
    assert isinstance(query, Rescore)
    assert index.plan.query == query
    assert index.stored.rest["evidence"]["tuned"]["parameters"][-1]["chosen"] == stage.chosen
    found = await index.evaluate(dataset("gold"), measures=["ndcg@10", "success@1"], latency_queries=0)
    assert found.configuration("default").values["success@1"].mean == 1.0
    assert found.configuration("bm25").values["success@1"].mean == 0.0
    assert found.notes["default"].endswith(f"its first {query.window_size} hits read again by gold")
    # Below its window stand the other hits, so that recall is still of the first hundred.
    assert len(found.configuration("default").run["q7"]) == 3
    hits = await index.search("topic7", size=3)
    assert hits.ids[0] == "gold7"

    # Whoever opens the index without it is told what is missing, and legs still work.
    bare = await AsyncIndex.open(client, esembed_index_name)
    with pytest.raises(EsembedError, match="reranker 'gold'"):
        await bare.search("topic7")
    with pytest.raises(EsembedError, match="--cross-encoder gold=MODEL"):
        await bare.tune(dataset("gold"))
    assert (await bare.search(q.match("topic7"), size=3)).ids[0] == "short7"

    # Where it is no longer right it goes again.
    back = await index.tune(dataset("short"))
    query = back.query
    assert back.parameters[-1].chosen == "none"
    assert isinstance(query, Match)
    for cross in crosses.values():
        cross.close()


async def test_bm25_parameters_are_for_the_next_version(client: Any, esembed_index_name: str) -> None:
    # What is relevant says the word often and is long.
    found = {f"long{i}": f"topic{i} " * 4 + "filler " * 60 for i in range(TOPICS)}
    found |= {f"short{i}": f"topic{i} other" for i in range(TOPICS)}
    index = await AsyncIndex.create(
        client, esembed_index_name, IndexPlan(text={"doc": TextField()}), alias=False
    )
    await index.ingest([{"_id": key, "doc": text} for key, text in found.items()])
    tuned = await index.tune(dataset("long", found))
    assert tuned.parameters[-1].parameter == "bm25: k1 and b"
    assert tuned.similarity["doc"]["b"] < 0.75
    # The present index keeps what it was made with, and says what its next version should have.
    assert index.plan.text["doc"].b is None
    assert index.stored.rest["evidence"]["similarity"] == dict(tuned.similarity)
    assert (await index.search("topic3", size=2)).ids == ["short3", "long3"]

    alias = f"{esembed_index_name}-alias"
    await client.indices.put_alias(index=esembed_index_name, name=alias)
    behind = await AsyncIndex.open(client, alias)
    await behind.migrate(tuned.next_plan(index.plan))
    migrated = await AsyncIndex.open(client, alias)
    assert migrated.plan.text["doc"].b == tuned.similarity["doc"]["b"]
    assert (await migrated.search("topic3", size=2)).ids == ["long3", "short3"]


async def test_a_query_of_ones_own_is_only_replaced_by_a_better_one(
    client: Any, esembed_index_name: str
) -> None:
    own = q.boost_by(q.match(), "rank", factor=1.0)
    plan = IndexPlan.from_dict(
        {"text": {"doc": {}}, "filter": {"rank": {"type": "integer"}}, "id_field": "id"}
    ).replace(query=own)
    index = await AsyncIndex.create(client, esembed_index_name, plan)
    rows = [
        {"id": f"{name}{i}", "doc": f"topic{i} {'filler ' * length}", "rank": rank}
        for i in range(TOPICS)
        for name, length, rank in (("plain", 1, 1), ("ranked", 3, 50))
    ]
    await index.ingest(rows)
    tuned = await index.tune(dataset("ranked"), write=True)
    query = tuned.query
    assert query == own == index.plan.query
    assert tuned.parameters[-1].parameter == "the query in use"
    assert tuned.parameters[-1].chosen == "as it is"
    # The report is of that query, not of what tuning began with.
    assert tuned.conclusion.startswith("Keep the default query")
    assert tuned.reason.startswith("the query in use stays")
    assert (tuned.config, tuned.dropped, tuned.baseline) == (tuned.default, (), tuned.score)
    evaluated = await index.evaluate(dataset("ranked"), measures=["ndcg@10"], latency_queries=0)
    assert tuned.baseline.mean == evaluated.configuration("default").values["ndcg@10"].mean
    tuned = await index.tune(dataset("plain"), write=False)
    query = tuned.query
    assert tuned.parameters[-1].chosen == "fitted"
    assert isinstance(query, Match)


async def test_what_loses_exact_names_is_not_chosen(client: Any, esembed_index_name: str) -> None:
    plan = IndexPlan(text={"name": TextField(keyword=True), "body": TextField()})
    index = await AsyncIndex.create(client, esembed_index_name, plan)
    rows = [
        row
        for i in range(TOPICS)
        for row in (
            {"_id": f"gold{i}", "name": f"unit{i}", "body": f"topic{i} and topic{i}"},
            {"_id": f"other{i}", "name": f"topic{i}", "body": "no word of it"},
        )
    ]
    await index.ingest(rows)
    before = (await index.search("topic3")).ids
    assert before == ["other3", "gold3"]
    # The judged queries would rather have the body alone.
    tuned = await index.tune(dataset("gold"))
    assert tuned.names == {"asked": 2 * TOPICS, "in use": 2 * TOPICS, "chosen": 0}
    assert "exact names first" in tuned.conclusion
    assert all(one.chosen == one.default for one in tuned.parameters)
    assert index.plan.query is None
    assert (await index.search("topic3")).ids == before
    # Where no field holds names there are none to lose.
    free = await AsyncIndex.create(
        client,
        f"{esembed_index_name}-free",
        IndexPlan(text={"name": TextField(boost=5.0), "body": TextField()}),
    )
    await free.ingest(rows)
    assert not (await free.tune(dataset("gold"), write=False)).names
