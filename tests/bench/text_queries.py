"""How should a query over several text fields be read, and what helps one that is misspelled or too long?

::

    python tests/bench/text_queries.py ../shared/data --engine opensearch --url http://127.0.0.1:9200 \
        [--packages dumpavail.txt] [--sets scifact npl] [--analyzer english] [--queries 300] [--part words]

BEIR folders with titles and texts, BM25 alone: nothing is encoded. ``--packages`` adds Debian's packages,
from the output of ``apt-cache dumpavail``: a query is the names of two or three tags (``perl http``), a
package is relevant if its maintainers gave it all of them; and 300 names of packages, each to be found first.

``kinds`` compares the kinds of ``q.multi_match`` for boosts of the title: nDCG@10, and in brackets p-values
of paired randomization tests against ``auto`` with the same boost (Holm's correction). ``words`` compares
fuzziness and operator on the queries as they are, misspelled (one edit in one word, seeded by the query) and
shortened (every second word). Prints Markdown. Indices are named ``bench-text-…`` and removed unless
``--keep``.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esembed import Index, IndexPlan
from esembed import query as q
from esembed.evaluate.datasets import load_dataset
from esembed.evaluate.metrics import measure
from esembed.evaluate.significance import compare
from esembed.query import Query

SETS = ("scifact", "npl", "xquad-en")
BOOSTS = (1.0, 2.0, 3.0, 5.0)
KINDS: dict[str, dict[str, Any]] = {
    "auto": {"kind": "auto"},
    "best_fields": {"kind": "best_fields"},
    "best_fields, tie .3": {"kind": "best_fields", "tie_breaker": 0.3},
    "most_fields": {"kind": "most_fields"},
    "cross_fields": {"kind": "cross_fields"},
}
WAYS: dict[str, dict[str, Any]] = {
    "or": {},
    "fuzziness AUTO": {"fuzziness": "AUTO"},
    "fuzziness missing": {"fuzziness": "missing"},
    "and": {"operator": "and"},
    "relax": {"operator": "relax"},
    "relax, missing": {"operator": "relax", "fuzziness": "missing"},
}
FACETS = ("protocol", "works-with", "works-with-format", "network", "security", "sound", "field", "culture")
USES = ("browsing", "chatting", "downloading", "compressing", "editing", "playing", "scanning", "converting")


@dataclass(frozen=True)
class Collection:
    """Documents of a title and a body, queries and judgments."""

    name: str
    documents: Sequence[Mapping[str, str]]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    def sample(self, count: int) -> Collection:
        """The same with this many queries at most, the same ones each time."""
        if len(self.queries) <= count:
            return self
        kept = sorted(random.Random(0).sample(sorted(self.queries), count))
        return Collection(
            self.name, self.documents, {i: self.queries[i] for i in kept}, {i: self.qrels[i] for i in kept}
        )


def beir(folder: Path) -> Collection:
    dataset = load_dataset(folder)
    documents = [
        {"_id": str(d.id), "title": str(d.source["title"]), "body": str(d.source["text"])}
        for d in dataset.documents()
    ]
    return Collection(dataset.name, documents, dataset.queries, dataset.qrels)


def _paragraphs(path: Path) -> Iterator[dict[str, str]]:
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith(" "):
                fields[name] += line
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if "Tag" in fields and "Description" in fields:
            yield fields


def _tag_words(tag: str) -> str | None:
    """What a person would type for a tag, or None."""
    facet, _, value = tag.partition("::")
    words = value.rpartition(":")[2].replace("-", " ")
    if "TODO" in tag:
        return None
    if facet in FACETS or tag.startswith("devel::lang:") or (facet == "use" and words in USES):
        return words
    if facet == "game":
        return f"{words} game"
    return words if tag in ("devel::library", "devel::compiler", "role::plugin") else None


def packages(path: Path) -> tuple[Collection, Collection]:
    """Queries of tags, and queries of names, over the packages that have tags."""
    documents: list[dict[str, str]] = []
    tagged: dict[str, set[str]] = defaultdict(set)
    for fields in _paragraphs(path):
        name = fields["Package"]
        documents.append({"_id": name, "title": name, "body": fields["Description"]})
        for tag in fields["Tag"].split(","):
            if _tag_words(tag.strip()):
                tagged[tag.strip()].add(name)
    found: list[tuple[str, set[str]]] = []
    tags = sorted(tag for tag, names in tagged.items() if len(names) >= 5)
    for count in (2, 3):
        for group in itertools.combinations(tags, count):
            words = [str(_tag_words(tag)) for tag in group]
            facets = {tag.partition("::")[0] if "devel::l" not in tag else tag for tag in group}
            if len(facets) < count or any(a in b for a, b in itertools.permutations(words, 2)):
                continue
            relevant = set.intersection(*(tagged[tag] for tag in group))
            if 5 <= len(relevant) <= 60:
                found.append((" ".join(words), relevant))
    chosen = random.Random(0).sample(found, min(300, len(found)))
    by_tag = Collection(
        "packages",
        documents,
        {str(i): words for i, (words, _) in enumerate(chosen)},
        {str(i): dict.fromkeys(relevant, 1) for i, (_, relevant) in enumerate(chosen)},
    )
    names = random.Random(1).sample([d["_id"] for d in documents], 300)
    by_name = Collection("names", documents, {n: n for n in names}, {n: {n: 1} for n in names})
    return by_tag, by_name


def misspelled(query: str, seed: str) -> str:
    """The query with one edit in one of its words of four letters or more."""
    rng = random.Random(seed)
    words = query.split()
    long = [i for i, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
    if not long:
        return query
    i = rng.choice(long)
    word, place = words[i], rng.randrange(1, len(words[i]) - 1)
    letter = rng.choice("abcdefghijklmnopqrstuvwxyz")
    words[i] = rng.choice(
        [
            word[:place] + word[place + 1] + word[place] + word[place + 2 :],
            word[:place] + word[place + 1 :],
            word[:place] + letter + word[place:],
            word[:place] + letter + word[place + 1 :],
        ]
    )
    return " ".join(words)


def shortened(query: str) -> str:
    """Every second word of the query."""
    return " ".join(query.split()[::2])


def client_of(engine: str, url: str) -> Any:
    if engine == "elasticsearch":
        return importlib.import_module("elasticsearch").Elasticsearch(url, request_timeout=120)
    return importlib.import_module("opensearchpy").OpenSearch(url, timeout=120)


def loaded(client: Any, collection: Collection, analyzer: str) -> Index:
    plan = IndexPlan.from_dict(
        {
            "text": {
                "title": {"analyzer": analyzer, "keyword": True},
                "body": {"analyzer": analyzer},
            }
        }
    )
    name = f"bench-text-{collection.name}-{analyzer}"
    index = Index.create(client, name, plan, alias=False)
    index.ingest(collection.documents)
    return index


def values(
    index: Index, collection: Collection, queries: Sequence[Query], metric: str
) -> tuple[dict[str, float], int]:
    """Query id → value, and how many found nothing."""
    hits = index.search_many(queries, source=False)
    run = {
        i: [(hit.id, hit.score) for hit in found] for i, found in zip(collection.queries, hits, strict=True)
    }
    return measure(collection.qrels, run, [metric])[metric], sum(not found for found in hits)


def mean(found: Mapping[str, float]) -> float:
    return sum(found.values()) / len(found)


def compare_kinds(index: Index, collection: Collection) -> Iterator[str]:
    metric = "success@1" if collection.name == "names" else "ndcg@10"
    for boost in BOOSTS:
        fields = [f"title^{boost:g}", "body"]
        per_query = {
            name: values(
                index,
                collection,
                [q.multi_match(text, fields=fields, **options) for text in collection.queries.values()],
                metric,
            )[0]
            for name, options in KINDS.items()
        }
        p = {c.b: c.p_corrected for c in compare(per_query, baseline="auto")}
        cells = [
            f"{mean(found):.3f}" + (f" ({p[name]:.3f})" if name in p else "")
            for name, found in per_query.items()
        ]
        yield f"| {collection.name} | {len(collection.queries)} | {boost:g} | {' | '.join(cells)} |"


def compare_ways(index: Index, collection: Collection) -> Iterator[str]:
    changes = {
        "as they are": dict(collection.queries),
        "misspelled": {i: misspelled(text, i) for i, text in collection.queries.items()},
        "shortened": {i: shortened(text) for i, text in collection.queries.items()},
    }
    for change, texts in changes.items():
        per_query: dict[str, dict[str, float]] = {}
        nothing: dict[str, int] = {}
        seconds: dict[str, float] = {}
        for name, options in WAYS.items():
            start = time.perf_counter()
            queries = [q.multi_match(text, kind="auto", **options) for text in texts.values()]
            per_query[name], nothing[name] = values(index, collection, queries, "ndcg@10")
            seconds[name] = (time.perf_counter() - start) / len(queries)
        p = {c.b: c.p_corrected for c in compare(per_query, baseline="or")}
        cells = [
            f"{mean(found):.3f}"
            + (f" ({p[name]:.3f})" if name in p else "")
            + (f", {nothing[name]} empty" if nothing[name] else "")
            + f", {seconds[name] * 1000:.1f} ms"
            for name, found in per_query.items()
        ]
        yield f"| {collection.name} | {len(texts)} | {change} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--engine", choices=("opensearch", "elasticsearch"), required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--packages", type=Path)
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--analyzer", default="standard")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--part", choices=("kinds", "words"), default="kinds")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    columns, what = (KINDS, "boost") if options.part == "kinds" else (WAYS, "queries are")
    print(f"| set | queries | {what} | {' | '.join(columns)} |")
    print("|" + "---|" * (len(columns) + 3))
    collections = [beir(options.data / name) for name in options.sets]
    if options.packages:
        by_tag, by_name = packages(options.packages)
        collections += [by_tag, by_name] if options.part == "kinds" else [by_tag]
    client = client_of(options.engine, options.url)
    part = compare_kinds if options.part == "kinds" else compare_ways
    try:
        for collection in collections:
            index = loaded(client, collection, options.analyzer)
            try:
                for line in part(index, collection.sample(options.queries)):
                    print(line, flush=True)
            finally:
                if not options.keep:
                    index.delete_index()
    finally:
        client.close()


if __name__ == "__main__":
    main()
