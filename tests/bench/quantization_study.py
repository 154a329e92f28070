"""Every quantization that the local engines have, at 200,000 vectors of real texts: recall, RAM, disk.

    python tests/bench/quantization_study.py run DATA --work FOLDER --engine elasticsearch --case bbq_hnsw
    python tests/bench/quantization_study.py simulate DATA --work FOLDER
    python tests/bench/quantization_study.py report --work FOLDER --plot docs/quantization.svg

DATA holds the collections (BEIR layout), FOLDER the vectors and ``results.jsonl``. Each case is an index
of its own, filled, merged to one segment, searched, measured and deleted; a case that was interrupted goes
on, one that stands in the results is skipped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import study_texts

from esembed.advise.advise import CANDIDATES, Candidate, Target, Trial, choose
from esembed.advise.cost import footprint
from esembed.advise.report import svg
from esembed.advise.simulate import exact_neighbors, graph_share, simulate_many
from esembed.capabilities import profile
from esembed.plan import DenseField

PROFILES = {"elasticsearch": "elasticsearch-basic", "opensearch": "opensearch"}
COUNT, ENCODED, ASKED, K = 200_000, 600, 400, 10
OVERSAMPLES = (1.0, 1.5, 2.0, 3.0, 5.0)


def case_part(case: str, vectors: np.ndarray) -> DenseField:
    """``bbq_hnsw``; ``byte/hnsw``: the element type before the slash."""
    from esembed.dialect.quantize_vectors import calibrate

    element, _, quantization = case.rpartition("/")
    return DenseField(
        dims=vectors.shape[1],
        quantization=quantization,  # type: ignore[arg-type]
        element_type=element or "float",  # type: ignore[arg-type]
        similarity="l2_norm" if element == "bit" else "cosine",
        scale=calibrate(vectors) if element == "byte" else None,
    )


def truth_of(work: Path, vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The exact neighbors, computed once."""
    path = work / f"truth-{len(vectors)}-{len(queries)}.npy"
    if not path.exists():
        np.save(path, exact_neighbors(vectors, queries, 100))
    return np.load(path)


def run(args: argparse.Namespace) -> None:
    """One case on one engine."""
    from esembed._sync.client import EngineClient
    from esembed._sync.probe import probe
    from esembed.advise.measure import TrialIndex
    from esembed.local import server as local

    results = args.work / "results.jsonl"
    done = [json.loads(line) for line in results.open()] if results.exists() else []
    if any((r["engine"], r["case"], r["count"]) == (args.engine, args.case, args.count) for r in done):
        return
    vectors, queries = study_texts.vectors(args.data, args.work / "vectors", args.count, ENCODED)
    queries = queries[:ASKED]
    truth = truth_of(args.work, vectors, queries)
    info = local.start(args.engine, name=args.name, heap_mb=args.heap_mb)
    client: Any
    if args.engine == "elasticsearch":
        from elasticsearch import Elasticsearch

        client = Elasticsearch(info.url, request_timeout=3600)
    else:
        from opensearchpy import OpenSearch

        client = OpenSearch(info.url, timeout=3600)
    name = f"study-{args.case.replace('/', '-')}-{args.count}"
    part = case_part(args.case, vectors)
    trial = TrialIndex(client, probe(EngineClient(client)), part, vectors.shape[1], name=name)
    started = time.monotonic()
    there = 0
    if trial.engine.request("HEAD", f"/{name}", ignore=(404,)).status == 404:
        trial.create()
    else:
        trial.engine.request("POST", f"/{name}/_refresh")
        there = trial.engine.request("GET", f"/{name}/_count").body["count"]
    trial.fill(vectors, first=there)
    filled = time.monotonic()
    trial.merge()
    merged = time.monotonic()
    print(f"{args.case}: filled in {filled - started:.0f} s, merged in {merged - filled:.0f} s", flush=True)
    found = {}
    for oversample in OVERSAMPLES:
        if oversample == 1 or trial.rescores:
            found[oversample] = trial.search(queries, truth, K, 100, oversample)
    wide = (
        {1.0: trial.search(queries, truth, K, 400, 1.0)} if "hnsw" in args.case or "disk" in args.case else {}
    )
    ram, disk, vector_disk = trial.sizes()
    line = {
        "engine": args.engine,
        "version": info.version,
        "case": args.case,
        "count": args.count,
        "dims": int(vectors.shape[1]),
        "resumed": bool(there),
        "fill_s": round(filled - started, 1),
        "merge_s": round(merged - filled, 1),
        "shares": {str(o): shares for o, (shares, _) in found.items()},
        "wide": {str(o): shares for o, (shares, _) in wide.items()},
        "latency_ms": {str(o): round(ms, 2) for o, (_, ms) in found.items()},
        "ram_bytes": ram,
        "disk_bytes": disk,
        "vector_disk_bytes": vector_disk,
    }
    with results.open("a") as out:
        out.write(json.dumps(line) + "\n")
    trial.delete()
    shown = {o: round(float(np.mean(shares)), 4) for o, (shares, _) in found.items()}
    print(f"{args.case}: recall@{K} {shown}, RAM {ram}, vectors on disk {vector_disk}", flush=True)


def _candidate(engine: str, case: str) -> Candidate:
    element, _, quantization = case.rpartition("/")
    for candidate in CANDIDATES.values():
        if (candidate.element_type, candidate.quantization) == (element or "float", quantization):
            return candidate.on(profile(PROFILES[engine]))
    named = CANDIDATES[element]  # byte/flat: the codes of byte
    return Candidate(quantization, named.form, graph=quantization != "flat", element_type=element)


def _forms() -> list[str]:
    engines = [profile(name) for name in PROFILES.values()]
    return list(dict.fromkeys(c.on(engine).form for c in CANDIDATES.values() for engine in engines))


def simulate(args: argparse.Namespace) -> None:
    """The same recalls by arithmetic, for each form of codes; resumable like the cases."""
    vectors, queries = study_texts.vectors(args.data, args.work / "vectors", args.count, ENCODED)
    queries = queries[:ASKED]
    truth = truth_of(args.work, vectors, queries)
    out = args.work / f"simulated-{args.count}.json"
    found: dict[str, dict[str, list[float]]] = json.loads(out.read_text()) if out.exists() else {}
    factors = [None if o == 1 else o for o in OVERSAMPLES]
    for form in args.form or _forms():
        if form in found:
            continue
        started = time.monotonic()
        ids = simulate_many(vectors, queries, form, K, factors)
        found[form] = {
            str(o or 1.0): [len(np.intersect1d(a, b[:K])) / K for a, b in zip(rows, truth, strict=True)]
            for o, rows in ids.items()
        }
        out.write_text(json.dumps(found))
        means = {o: round(float(np.mean(shares)), 4) for o, shares in found[form].items()}
        print(f"{form}: {means}, {time.monotonic() - started:.0f} s", flush=True)


def report(args: argparse.Namespace) -> None:
    """A Markdown table on stdout, the choice that advice would make, and the plot."""
    lines = [json.loads(line) for line in (args.work / "results.jsonl").open()]
    lines = [line for line in lines if line["count"] == args.count]
    simulated = json.loads((args.work / f"simulated-{args.count}.json").read_text())
    trials = []
    print(
        "| engine | case | oversample | measured | simulated | held back "
        "| RAM MB | predicted | disk MB | predicted | ms |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for line in sorted(lines, key=lambda x: (x["engine"], x["case"])):
        candidate = _candidate(line["engine"], line["case"])
        codes = simulated[candidate.form]
        predicted = footprint(line["count"], line["dims"], candidate.form, graph=candidate.graph)
        for factor, shares in line["shares"].items():
            measured = float(np.mean(shares[0::2]))
            held = float(np.mean(shares[1::2]))
            through = graph_share(line["count"]) if candidate.graph else 1.0
            whole, guess = float(np.mean(shares)), float(np.mean(codes[factor])) * through
            sizes = [line["ram_bytes"], predicted.ram_bytes, line["vector_disk_bytes"], predicted.disk_bytes]
            print(
                f"| {line['engine']} | {line['case']} | {factor} | {whole:.4f} | {guess:.4f} | {held:.4f} | "
                + " | ".join(f"{size / 1e6:.1f}" for size in sizes)
                + f" | {line['latency_ms'][factor]} |"
            )
            trials.append(
                Trial(
                    quantization=line["case"],
                    dims=line["dims"],
                    oversample=None if factor == "1.0" else float(factor),
                    simulated=guess,
                    measured=measured,
                    standard_error=float(np.std(shares[0::2]) / np.sqrt(len(shares[0::2]))),
                    held_back=held,
                    ram_bytes=line["ram_bytes"],
                    disk_bytes=line["vector_disk_bytes"],
                    latency_ms=line["latency_ms"][factor],
                    # The time of the last part alone says nothing.
                    index_seconds=None if line["resumed"] else line["fill_s"] + line["merge_s"],
                )
            )
        if "1.0" in line["wide"]:
            print(
                f"|  | num_candidates 400 | 1.0 | {float(np.mean(line['wide']['1.0'])):.4f} | | | | | | | |"
            )
    for engine in PROFILES:
        mine = [t for t, e in zip(trials, _engines(lines), strict=True) if e == engine]
        known = [t for t in mine if t.quantization in CANDIDATES]
        for up_to, which in ((0, "a graph"), (args.count, "any form")):
            chosen = choose(known, Target(min_recall=0.95, documents=args.count, flat_up_to=up_to))
            if chosen is not None:
                print(
                    f"\n{engine}, {which}: recall@10 ≥ 0.95 at the least RAM → {chosen.quantization}, "
                    f"oversample {chosen.oversample}: {chosen.measured:.4f} on the queries it was chosen by, "
                    f"{chosen.held_back:.4f} on those held back"
                )
    if args.plot:
        shown = [
            dataclasses.replace(
                t, quantization=f"{t.quantization} ({'ES' if e == 'elasticsearch' else 'OS'})"
            )
            for t, e in zip(trials, _engines(lines), strict=True)
        ]
        args.plot.write_text(
            svg(shown, k=K, goal=0.95, note=f"{args.count:,} MiniLM vectors of real texts, {ASKED} queries"),
            encoding="utf-8",
        )


def _engines(lines: list[dict[str, Any]]) -> list[str]:
    """The engine of each trial, in the order of the table."""
    ordered = sorted(lines, key=lambda x: (x["engine"], x["case"]))
    return [line["engine"] for line in ordered for _ in line["shares"]]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one, arithmetic, table = (commands.add_parser(name) for name in ("run", "simulate", "report"))
    for command in (one, arithmetic):
        command.add_argument("data", type=Path)
    one.add_argument("--engine", choices=sorted(PROFILES), required=True)
    one.add_argument("--case", required=True)
    one.add_argument("--name", default="study")
    one.add_argument("--heap-mb", type=int, default=1024)
    arithmetic.add_argument("--form", action="append", choices=_forms())
    table.add_argument("--plot", type=Path)
    for command in (one, arithmetic, table):
        command.add_argument("--work", type=Path, required=True)
        command.add_argument("--count", type=int, default=COUNT)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    {"run": run, "simulate": simulate, "report": report}[args.command](args)


if __name__ == "__main__":
    main()
