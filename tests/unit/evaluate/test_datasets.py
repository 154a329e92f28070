"""Reading test collections: what is wrong in them is counted, never averaged in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esembed.errors import EsembedError
from esembed.evaluate.datasets import (
    Dataset,
    DatasetError,
    ProblemLog,
    load_dataset,
    read_qrels,
    read_run,
    read_topics,
    write_run,
)


def kinds(dataset: Dataset) -> dict[str, int]:
    return {problem.kind: problem.count for problem in dataset.problems}


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": f"T{i}", "text": f"body {i}"} for i in range(4)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)) + "\n")
    queries = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(5)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\nnot json\n")
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n"
        "q0\td0\t1\nq0\td9\t2\nq1\td1\thigh\nq1\td2\t1\nq2\td3\t0\nq8\td1\t1\nq1\td2\t2\nq1 d2\n"
    )
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq4\td0\t1\n")
    return folder


def test_a_beir_folder_with_every_flaw(beir: Path) -> None:
    dataset = load_dataset(beir)
    assert dict(dataset.queries) == {"q0": "query 0", "q1": "query 1"}
    assert dataset.qrels == {"q0": {"d0": 1, "d9": 2}, "q1": {"d2": 1}}
    assert dict(dataset.unjudged) == {"q2": "query 2", "q3": "query 3"}
    assert kinds(dataset) == {
        "bad-line": 2,
        "bad-grade": 1,
        "conflicting-judgment": 1,
        "unknown-document": 1,
        "unknown-query": 1,
        "query-without-judgments": 1,
        "no-relevant-document": 1,
    }
    assert [document.id for document in dataset.documents()] == ["d0", "d1", "d2", "d3"]
    assert "d9 (query q0)" in " ".join(problem.text for problem in dataset.problems)


def test_another_split(beir: Path) -> None:
    assert load_dataset(beir, split="dev").qrels == {"q4": {"d0": 1}}
    with pytest.raises(DatasetError, match="splits there: dev, test"):
        load_dataset(beir, split="validation")


def test_a_corpus_with_an_id_twice_is_counted(beir: Path) -> None:
    corpus = beir / "corpus.jsonl"
    corpus.write_text(corpus.read_text() + json.dumps({"_id": "d0", "text": "again"}) + "\n")
    assert kinds(load_dataset(beir))["duplicate-document"] == 1


def test_csv_with_and_without_query_ids(tmp_path: Path) -> None:
    path = tmp_path / "judgments.csv"
    path.write_text('query,document,grade\n"red, shoes",p1,3\n"red, shoes",p2,0\nhats,p3,n/a\nhats,p4,1.0\n')
    dataset = load_dataset(path)
    assert dataset.qrels == {"q1": {"p1": 3, "p2": 0}, "q2": {"p4": 1}}
    assert dataset.queries == {"q1": "red, shoes", "q2": "hats"}
    assert kinds(dataset) == {"bad-grade": 1}
    path.write_text("qid,query,doc_id,grade\n7,hats,p1,1\n8,hats,p2,1\n")
    assert dict(load_dataset(path).queries) == {"7": "hats", "8": "hats"}
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DatasetError, match="query, document and grade"):
        load_dataset(path)
    with pytest.raises(DatasetError, match="no documents"):
        dataset.documents()


@pytest.mark.parametrize("grade", ["nan", "inf", "1.5", "", "x"])
def test_grades_that_are_not_whole_numbers(tmp_path: Path, grade: str) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text(f"q1\td1\t{grade}\nq1\td2\t-1\n")
    log = ProblemLog()
    assert read_qrels(path, log=log) == {"q1": {"d2": -1}}
    assert [problem.kind for problem in log.problems()] == ["bad-grade"]


def test_trec_topics_and_qrels(tmp_path: Path) -> None:
    topics = tmp_path / "topics.txt"
    topics.write_text(
        "<top>\n<num> Number: 301\n<title> International Organized\nCrime\n"
        "<desc> Description:\nlong\n</top>\n"
        "<top><num>302</num><title>polio</title></top>\n<top><num>303</num></top>\n"
    )
    assert read_topics(topics) == {"301": "International Organized Crime", "302": "polio"}
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("301 0 FT1 1\n302 0 FT2 2\n302 0 FT3 0\n")
    dataset = load_dataset(qrels, topics=topics)
    assert dataset.qrels == {"301": {"FT1": 1}, "302": {"FT2": 2, "FT3": 0}}
    assert kinds(dataset) == {"bad-line": 1}
    lines = tmp_path / "topics.tsv"
    lines.write_text("301\tcrime\n301\tagain\n302\t\n")
    log = ProblemLog()
    assert read_topics(lines, log=log) == {"301": "crime"}
    assert {p.kind for p in log.problems()} == {"duplicate-query", "bad-line"}
    with pytest.raises(DatasetError, match="topics="):
        load_dataset(qrels)


def test_runs_round_trip_and_their_flaws_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "run.txt"
    run = {"q1": [("b", 2.5), ("a", 1.0 / 3)], "q2": [("c", 1.0)]}
    write_run(path, run)
    assert path.read_text().splitlines()[0] == "q1 Q0 b 1 2.5 esembed"
    assert read_run(path) == run
    path.write_text("q1 Q0 a 1 1 t\nq1 Q0 b 2 3 t\nq1 Q0 a 3 2 t\nq1 Q0 c 4 x t\nq1 Q0 c 4 nan t\nq1\n")
    log = ProblemLog()
    assert read_run(path, log=log) == {"q1": [("b", 3.0), ("a", 2.0)]}
    assert {p.kind: p.count for p in log.problems()} == {"bad-score": 2, "duplicate-id": 1, "bad-line": 1}
    with pytest.raises(EsembedError, match="white space"):
        write_run(path, {"q 1": [("a", 1.0)]})


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no test collection"):
        load_dataset(tmp_path / "nothing")
    with pytest.raises(DatasetError, match=r"queries\.jsonl"):
        load_dataset(tmp_path)
    (tmp_path / "queries.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(DatasetError, match="UTF-8"):
        load_dataset(tmp_path)


def test_an_ir_datasets_id(tmp_path: Path) -> None:
    ir_datasets = pytest.importorskip("ir_datasets", reason="needs the package ir-datasets")
    (tmp_path / "docs.tsv").write_text("d1\tone text\nd2\ttwo texts\n")
    (tmp_path / "topics.tsv").write_text("q1\tone\nq2\tnothing\nq3\ttwo\nq3\tagain\n")
    (tmp_path / "qrels").write_text("q1 0 d1 2\nq1 0 d1 1\nq3 0 d2 1\nq9 0 d1 1\n")
    parts = {"docs_tsv": "docs.tsv", "queries_tsv": "topics.tsv", "qrels_trec": "qrels"}
    made = ir_datasets.create_dataset(**{part: str(tmp_path / name) for part, name in parts.items()})
    identifier = f"esembed-test/{tmp_path.name}"
    ir_datasets.registry.register(identifier, made)

    dataset = load_dataset(f"ir_datasets:{identifier}")
    assert dict(dataset.queries) == {"q1": "one", "q3": "two"}
    assert dataset.qrels == {"q1": {"d1": 2}, "q3": {"d2": 1}}
    assert kinds(dataset) == {
        "conflicting-judgment": 1,
        "duplicate-query": 1,
        "query-without-judgments": 1,
        "unknown-query": 1,
    }
    documents = {document.id: document.source["text"] for document in dataset.documents()}
    assert documents == {"d1": "one text", "d2": "two texts"}

    topics = ir_datasets.create_dataset(queries_tsv=str(tmp_path / "topics.tsv"))
    ir_datasets.registry.register(f"{identifier}-unjudged", topics)
    with pytest.raises(DatasetError, match="has no qrels"):
        load_dataset(f"irds:{identifier}-unjudged")
    with pytest.raises(DatasetError, match="knows no 'esembed-test/nothing'"):
        load_dataset("ir_datasets:esembed-test/nothing")
    lost = ir_datasets.create_dataset(
        queries_tsv=str(tmp_path / "gone.tsv"), qrels_trec=str(tmp_path / "qrels")
    )
    ir_datasets.registry.register(f"{identifier}-lost", lost)
    with pytest.raises(DatasetError, match=r"can.t bring .* name a BEIR folder"):
        load_dataset(f"ir_datasets:{identifier}-lost")
