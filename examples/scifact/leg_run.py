"""One leg of an index asked every judged query, as a TREC run: for legs that the default query leaves out.

python examples/scifact/leg_run.py INDEX DATASET LEG OUT.run --url http://localhost:9200
esembed eval runs DATASET OUT.run
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esembed import Index
from esembed.cli._connect import Connection, takes_connection
from esembed.cli._query import query_for_legs
from esembed.evaluate.datasets import load_dataset, write_run

app = typer.Typer()


@app.command()
@takes_connection
def leg_run(
    name: str,
    dataset: str,
    leg: str,
    out: Path,
    *,
    size: Annotated[int, typer.Option()] = 100,
    connection: Connection,
) -> None:
    """Write the run of one leg (bm25, dense, sparse or a field's name)."""
    judged = load_dataset(dataset)
    client = connection.client()
    try:
        index = Index.open(client, name)
        query = query_for_legs(index.plan, [leg])
        if query is None:
            raise typer.BadParameter("name a leg")
        run = {}
        for query_id, text in judged.queries.items():
            hits = index.search(query, text=text, size=size)
            run[query_id] = [(hit.id, hit.score) for hit in hits]
    finally:
        client.close()
    write_run(out, run, tag=leg)


if __name__ == "__main__":
    app()
