"""How well q.floor tells questions that a collection answers from others: the table of docs/quality.md.

    python tests/bench/floor_study.py ../shared/data --url http://127.0.0.1:9200

SciFact's documents, asked its own test queries, MED's (near) and CoSQA's (far), by the default query, words
alone and vectors alone. Prints the share of each kind's queries of which no hit is left for some p, and the
AUC of the best hit's share of random documents.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from vector_reads import connected

from esembed import DenseField, Index, IndexPlan, TextField
from esembed import query as q
from esembed.search.calibration import Calibration

FAR = 400
SHARES = (0.01, 0.005, 0.003, 0.002, 0.001, 0.0005)


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def questions(data: Path) -> dict[str, list[str]]:
    """Texts by kind."""
    judged = (data / "scifact/qrels/test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    test = {line.split("\t")[0] for line in judged}
    own = [one["text"] for one in lines(data / "scifact/queries.jsonl") if one["_id"] in test]
    others = {
        name: [one["text"] for one in lines(data / f"{name}/queries.jsonl")] for name in ("med", "cosqa")
    }
    return {"scifact": own, "med": others["med"], "cosqa": others["cosqa"][:FAR]}


def best_shares(index: Index, query: Any, texts: list[str]) -> np.ndarray[Any, Any]:
    """For each text the share of random documents that are as good as its best hit."""
    seen: list[float] = []
    share = Calibration.share

    def watched(self: Calibration, scores: Any) -> float:
        seen.append(share(self, scores))
        return seen[-1]

    Calibration.share = watched  # type: ignore[method-assign]
    try:
        found = []
        for text in texts:
            seen.clear()
            index.search(q.floor(query, p=0.5), text=text, source=False)
            found.append(min(seen, default=1.0))
        return np.array(found)
    finally:
        Calibration.share = share  # type: ignore[method-assign]


def auc(own: Any, others: Any) -> float:
    """The chance that a question of its own has the smaller share; ties count half."""
    return float(np.mean(own[:, None] < others[None, :]) + 0.5 * np.mean(own[:, None] == others[None, :]))


def main(data: Path, url: str) -> None:
    """Fill an index, ask, print, remove it."""
    client = connected(url)
    analyzer = "standard" if "elastic" in type(client).__module__ else "english"
    plan = IndexPlan(
        text={"text": TextField(analyzer=analyzer)},
        dense={"embedding": DenseField(encoder="minilm", source=("text",))},
    )
    asked = questions(data)
    index = Index.create(client, "esembed-bench-floor", plan, alias=False)
    try:
        records = lines(data / "scifact/corpus.jsonl")
        index.ingest({"_id": one["_id"], "text": f"{one.get('title', '')}\n{one['text']}"} for one in records)
        started = time.perf_counter()
        index.learn_floor()
        print(f"learn_floor: {time.perf_counter() - started:.1f} s")
        ways = {"default": index.default_query, "words": q.match(), "vectors": q.knn("embedding")}
        for name, query in ways.items():
            shares = {kind: best_shares(index, query, texts) for kind, texts in asked.items()}
            own = shares["scifact"]
            print(f"{name}: AUC med {auc(own, shares['med']):.3f}, cosqa {auc(own, shares['cosqa']):.3f}")
            for p in SHARES:
                left = {kind: f"{float((found > p).mean()):.3f}" for kind, found in shares.items()}
                print(f"  p = {p}: no hit of {left}")
    finally:
        index.delete_index()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--url", required=True)
    given = parser.parse_args()
    main(given.data, given.url)
