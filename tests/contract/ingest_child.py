"""One ingest in a process of its own, to be killed: ``python ingest_child.py KIND URL INDEX FILE``.

Prints ``ready`` once everything is imported, and in the end its report and how many texts it encoded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]


def main(kind: str, url: str, index: str, file: str) -> int:
    from ingest_help import LOADED, HashEncoder
    from query_engines import official_client

    from esembed._sync.client import EngineClient
    from esembed._sync.probe import probe
    from esembed.dialect.mapping import compile_mapping
    from esembed.encode.lexical.encoder import LexicalEncoder
    from esembed.ingest.options import IngestOptions
    from esembed.ingest.pipeline import run_ingest
    from esembed.ingest.sources import FileSource

    client = EngineClient(official_client(url, kind))
    capabilities = probe(client)
    encoder = HashEncoder(seconds_per_text=0.0005)
    print("ready", flush=True)
    report = run_ingest(
        FileSource([file]),
        client=client,
        index=index,
        plan=compile_mapping(LOADED, capabilities).resolved,
        capabilities=capabilities,
        encoders={"emb": encoder, "terms": LexicalEncoder()},
        options=IngestOptions(
            dead_letters=Path(file + ".dead"),
            flush_interval_seconds=0.05,
            encode_batch_documents=32,
            max_request_bytes=20_000,
            max_wait_seconds=120,
        ),
    )
    print(json.dumps({**report.to_dict(), "encoded": encoder.stats.texts}))
    return 0


if __name__ == "__main__":
    arguments: Any = sys.argv[1:5]
    raise SystemExit(main(*arguments))
