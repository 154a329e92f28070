"""Training data and mined negatives out of a live index, beside sentence-transformers' own mining."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from training import documents, make_encoder, need_training, queries

need_training()

from datasets import Dataset as Rows  # noqa: E402
from sentence_transformers import SentenceTransformer, mine_hard_negatives  # noqa: E402

from esembed import DenseField, FilterField, Index, IndexPlan, TextField  # noqa: E402
from esembed import query as q  # noqa: E402
from esembed.encode.base import RuntimeOptions  # noqa: E402
from esembed.errors import OptionsError  # noqa: E402
from esembed.evaluate.collection import Dataset, DatasetError, make_dataset  # noqa: E402
from esembed.ingest.options import IngestOptions  # noqa: E402
from esembed.train.data import (  # noqa: E402
    category_pairs,
    cloze_pairs,
    field_pairs,
    judged_pairs,
    labeled_texts,
    section_pairs,
)
from esembed.train.negatives import MiningOptions, mine_negatives  # noqa: E402
from esembed.train.rows import read_rows, write_rows  # noqa: E402
from esembed.train.splits import split_by_document  # noqa: E402

DOCUMENTS = documents()
TEXT = {one["id"]: f"{one['title']}\n{one['body']}" for one in DOCUMENTS}
MARKDOWN = """Before any heading.

# How to install it
Run the installer and wait until all of the files are there, then begin.

```
# no heading but a comment of code that stands in a fenced block
```

Known problems
--------------
None of them is known so far, but please report all that you find here.

## Short
Too short.
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("train-data") / "encoder")


@pytest.fixture(scope="module")
def index(esembed_shared_index_factory: Callable[..., Index], model: Path) -> Index:
    """All topics, searched exactly."""
    plan = IndexPlan(
        text={"title": TextField(), "body": TextField()},
        dense={"embedding": DenseField(encoder=f"hf:{model}", source=("title", "body"), quantization="hnsw")},
        filter={"topic": FilterField()},
        id_field="id",
    )
    made = esembed_shared_index_factory(plan, runtime=RuntimeOptions(backend="torch"))
    report = made.ingest(DOCUMENTS, IngestOptions(learn_weights=False))
    assert report.errors == []
    made.refresh()
    return made


@pytest.fixture(scope="module")
def judged() -> Dataset:
    texts, qrels = queries()
    return make_dataset("topics", texts, qrels)


@pytest.fixture(scope="module")
def rows(index: Index, judged: Dataset) -> Any:
    return judged_pairs(index, judged)[0]


@pytest.fixture(scope="module")
def memory(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """The model, and where sentence-transformers keeps the vectors that it made."""
    return SentenceTransformer(str(model), device="cpu"), str(tmp_path_factory.mktemp("memory"))


def test_judged_queries_come_with_the_texts_that_vectors_are_made_from(index: Index, judged: Dataset) -> None:
    rows, report = judged_pairs(index, judged)
    assert rows.column_names == ["anchor", "positive", "anchor_id", "positive_id", "grade"]
    assert report.rows == len(rows) == 240
    assert all(row["positive"] == TEXT[row["positive_id"]] for row in rows)
    strict, report = judged_pairs(index, judged, min_grade=2, field="title")
    assert len(strict) == 120
    assert strict[0]["positive"] == next(one["title"] for one in DOCUMENTS if one["id"] == "d0-0")


def test_what_the_index_lacks_and_what_is_held_out_is_counted(index: Index, judged: Dataset) -> None:
    split = split_by_document(judged, test_share=0.3)
    more = {**judged.qrels, "q0-0": {"nowhere": 1, "d0-0": 1}}
    rows, report = judged_pairs(index, make_dataset("more", judged.queries, more), held_out=split.test)
    assert report.left_out["relevant documents that the index doesn't hold, or without text"] == 1
    assert not {row["anchor"] for row in rows} & set(split.test.queries.values())
    with pytest.raises(DatasetError, match="no training data"):
        judged_pairs(index, make_dataset("none", {"a": "b"}, {"a": {"nowhere": 1}}))
    with pytest.raises(OptionsError, match="'nofield'"):
        judged_pairs(index, judged, field="nofield")


def test_pairs_of_fields(index: Index) -> None:
    rows, report = field_pairs(index, "title")
    pairs = {(one["title"], one["body"]) for one in DOCUMENTS}
    assert len(rows) >= 100
    assert {(row["anchor"], row["positive"]) for row in rows} <= pairs
    few, report = field_pairs(index, "title", limit=10, seed=3)
    assert report.rows == len(few) == 10
    assert few.to_list() == field_pairs(index, "title", limit=10, seed=3)[0].to_list()
    with pytest.raises(OptionsError, match="other fields"):
        field_pairs(index, "title", text=["title"])


def test_pairs_of_sentences(index: Index) -> None:
    rows, _ = cloze_pairs(index, "body", keep=0.0, min_words=5)
    assert len(rows) == len(DOCUMENTS)
    assert all(row["anchor"] not in row["positive"] for row in rows)
    kept, _ = cloze_pairs(index, "body", keep=1.0, min_words=5)
    assert all(row["anchor"] in row["positive"] for row in kept)


def test_pairs_and_labels_of_categories(index: Index) -> None:
    topic = {TEXT[one["id"]]: one["topic"] for one in DOCUMENTS}
    rows, _ = category_pairs(index, "topic")
    assert len(rows) == len(DOCUMENTS)
    assert all(topic[row["anchor"]] == topic[row["positive"]] for row in rows)
    assert all(row["anchor"] != row["positive"] for row in rows)
    labeled, _ = labeled_texts(index, "topic")
    names = labeled.features["label"].names
    assert len(names) == 30
    assert all(names[row["label"]] == topic[row["text"]] for row in labeled)


def test_pairs_of_headings_and_sections(esembed_index_factory: Callable[..., Index]) -> None:
    made = esembed_index_factory(IndexPlan(text={"body": TextField()}, id_field="id"))
    made.ingest([{"id": "a", "body": MARKDOWN}, {"id": "b", "body": "No headings in here."}])
    made.refresh()
    rows, report = section_pairs(made, "body")
    assert [row["anchor"] for row in rows] == ["How to install it", "Known problems"]
    assert "# no heading" in rows[0]["positive"]
    assert report.left_out == {
        "documents without headings": 1,
        "queries of fewer words than min_words": 1,
    }


def test_rows_are_read_as_they_were_written(rows: Any, tmp_path: Path) -> None:
    write_rows(rows, tmp_path / "rows.jsonl")
    assert read_rows(tmp_path / "rows.jsonl").to_list() == rows.to_list()
    (tmp_path / "bad.jsonl").write_text('{"anchor": "a"}\n{"positive": "b"}\n')
    with pytest.raises(DatasetError, match=r"bad\.jsonl:2 has the names positive"):
        read_rows(tmp_path / "bad.jsonl")
    (tmp_path / "mixed.jsonl").write_text('{"anchor": "a"}\n{"anchor": 1}\n')
    with pytest.raises(DatasetError, match="several types"):
        read_rows(tmp_path / "mixed.jsonl")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"output_scores": True},
        {"output_format": "n-tuple", "num_negatives": 4, "output_scores": True},
        {"output_format": "n-tuple", "range_min": 2, "range_max": 12},
        {"output_format": "labeled-pair", "relative_margin": 0.002},
        {"output_format": "labeled-pair", "output_scores": True},
        {"output_format": "labeled-list", "absolute_margin": 0.002, "max_score": 0.98},
        {"output_format": "labeled-list", "output_scores": True, "min_score": 0.5, "relative_margin": 0.002},
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()) or "default",
)
def test_the_same_is_mined_as_in_memory(
    index: Index, rows: Any, memory: tuple[Any, str], options: dict[str, Any]
) -> None:
    """sentence-transformers encodes all documents and searches them exactly."""
    encoder, folder = memory
    expected = mine_hard_negatives(
        rows.select_columns(["anchor", "positive"]),
        encoder,
        corpus=list(TEXT.values()),
        verbose=False,
        cache_folder=folder,
        **options,
    )
    found, report = mine_negatives(index, rows, MiningOptions(**options), legs=["embedding"])
    assert found.column_names == expected.column_names
    assert len(found) == len(expected) > 20
    assert report.queries == 120
    texts = [name for name in found.column_names if "score" not in name]
    assert found.select_columns(texts).to_list() == expected.select_columns(texts).to_list()
    for name in set(found.column_names) - set(texts):
        flat = [flattened(one[name]) for one in (found, expected)]
        assert flat[0] == pytest.approx(flat[1], abs=2e-5)


def flattened(values: Any) -> list[float]:
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


@pytest.mark.parametrize("legs", [["bm25"], None], ids=["bm25", "hybrid"])
def test_known_answers_are_never_mined(index: Index, judged: Dataset, legs: list[str] | None) -> None:
    rows, _ = judged_pairs(index, judged, min_grade=2)
    mined, report = mine_negatives(index, rows, legs=legs, judged=judged)
    known = {
        (judged.queries[query], TEXT[document])
        for query, grades in judged.qrels.items()
        for document in grades
    }
    assert not known & {(row["anchor"], row["negative"]) for row in mined}
    assert report.negatives == len(mined) > 200
    # Half of each topic's documents are answers that nobody judged: the report must not hide them.
    topic = {TEXT[one["id"]]: one["topic"] for one in DOCUMENTS}
    answer = {judged.queries[query]: TEXT[next(iter(grades))] for query, grades in judged.qrels.items()}
    false = sum(topic[row["negative"]] == topic[answer[row["anchor"]]] for row in mined) / len(mined)
    assert report.false_share is not None
    assert false > 0.3
    assert report.false_share >= false - 0.2


def test_filters_margins_and_other_models_choose(index: Index, rows: Any) -> None:
    only = [f"topic {number}" for number in range(10)]
    mined, _ = mine_negatives(index, rows, legs=["bm25"], filter=q.terms("topic", only))
    topic = {TEXT[one["id"]]: one["topic"] for one in DOCUMENTS}
    assert {topic[text] for text in mined["negative"]} <= set(only)

    def by_length(text: str, texts: Any) -> list[float]:
        return [float(len(one)) for one in texts]

    mined, _ = mine_negatives(index, rows, MiningOptions(absolute_margin=1.0), cross_encoder=by_length)
    weakest: dict[str, int] = {}
    for row in rows:
        weakest[row["anchor"]] = min(weakest.get(row["anchor"], 10**6), len(row["positive"]))
    assert len(mined)
    assert all(len(row["negative"]) <= weakest[row["anchor"]] - 1 for row in mined)


def test_random_ones_are_drawn_from_the_range(index: Index, rows: Any) -> None:
    wide, _ = mine_negatives(index, rows, MiningOptions(num_negatives=10, range_max=10), legs=["embedding"])
    options = {"num_negatives": 2, "range_max": 10, "sampling_strategy": "random"}
    drawn, _ = mine_negatives(index, rows, MiningOptions(**options, seed=1), legs=["embedding"])
    again, _ = mine_negatives(index, rows, MiningOptions(**options, seed=1), legs=["embedding"])
    other, _ = mine_negatives(index, rows, MiningOptions(**options, seed=2), legs=["embedding"])
    pairs = {(row["anchor"], row["negative"]) for row in wide}
    assert {(row["anchor"], row["negative"]) for row in drawn} <= pairs
    assert drawn.to_list() == again.to_list() != other.to_list()


def test_an_interrupted_mining_asks_only_what_is_new(index: Index, rows: Any, tmp_path: Path) -> None:
    first, report = mine_negatives(index, rows, legs=["bm25"], cache_folder=tmp_path)
    assert report.cached == 0
    before = index.client.requests_sent
    again, report = mine_negatives(index, rows, legs=["bm25"], cache_folder=tmp_path)
    assert report.cached > 3
    assert index.client.requests_sent - before <= 3
    assert again.to_list() == first.to_list()


def test_what_can_not_be_mined_is_refused(index: Index, rows: Any, judged: Dataset) -> None:
    with pytest.raises(OptionsError, match="first two columns"):
        mine_negatives(index, Rows.from_dict({"anchor": ["a"]}))
    with pytest.raises(OptionsError, match="more than a search gives"):
        mine_negatives(index, rows, MiningOptions(range_max=10_000))
    with pytest.raises(OptionsError, match="don't fit"):
        MiningOptions(range_min=5, range_max=6)
    with pytest.raises(OptionsError, match="no query is left"):
        mine_negatives(index, rows, held_out=judged)
