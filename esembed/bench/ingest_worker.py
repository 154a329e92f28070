"""One ingest in a process of its own; prints its report and its peak memory as one JSON line.

``python -m esembed.bench.ingest_worker COUNT [KIND URL]``; without an engine into a sink.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import nullcontext
from typing import Any

from esembed.bench.ingest_parts import Sink, TimedEncoder, bench_plan, fresh_index, records
from esembed.capabilities import Capabilities, Version
from esembed.ingest.options import IngestOptions
from esembed.ingest.pipeline import run_ingest
from esembed.ingest.sources import Source

DIMS = 384


def main(arguments: list[str]) -> None:
    """Run it."""
    count = int(arguments[0])
    plan = bench_plan("own:timed", DIMS)
    where: Any
    client: Any
    if len(arguments) == 3:
        from esembed._sync.probe import probe
        from esembed.bench.ingest import engine_client

        client = engine_client(arguments[2], arguments[1])
        capabilities = probe(client)
        where = fresh_index(client, capabilities, plan)
    else:
        client = Sink()
        capabilities = Capabilities(engine="elasticsearch", version=Version(9, 5), base64_vectors=True)
        where = nullcontext(("sink", plan))
    with where as (index, resolved):
        report = run_ingest(
            Source(records(count)),
            client=client,
            index=index,
            plan=resolved,
            capabilities=capabilities,
            encoders={"emb": TimedEncoder(DIMS, 0.0)},
            options=IngestOptions(),
        )
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"peak_mib": peak_kib / 1024, "report": report.to_dict()}))


if __name__ == "__main__":
    main(sys.argv[1:])
