"""``esembed bench``: measure on this machine. Each measurement is imported when it is asked for."""

from __future__ import annotations

import typer

from esembed.cli._lazy import Verb, lazy_group

__all__ = ["app"]

VERBS = {
    "encode": Verb(
        "esembed.bench.encode:app",
        "Encoders: tokens a second, latency, memory, against the best peer.",
        "Bench",
    ),
    "ingest": Verb("esembed.bench.ingest:app", "The pipeline and the bulk stage, docs a second.", "Bench"),
    "search": Verb("esembed.bench.search:app", "Latency over the official client, and concurrency.", "Bench"),
}

app = typer.Typer(
    cls=lazy_group(VERBS),
    help="Measure encoding, ingestion and search on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def bench() -> None:
    """Measure encoding, ingestion and search on this machine."""
