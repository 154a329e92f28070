"""A search backend: an HTTP endpoint on asyncio alone, answering many users from one index.

    python examples/etl.py http://localhost:9200
    python examples/search_backend.py http://localhost:9200
    curl 'http://127.0.0.1:8000/search?q=baking+at+home&lang=en'

With Elasticsearch both scripts take ``elasticsearch`` as a second word. In a web framework the handler is the
same: open the index once at start-up, search in each request.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from elasticsearch import AsyncElasticsearch
from opensearchpy import AsyncOpenSearch

from esembed import AsyncIndex
from esembed import query as q
from esembed.errors import EsembedError, QueryError, TransientError


async def search(index: AsyncIndex, parameters: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """One request: what the user typed, and a filter. The text is text; there is no syntax in it."""
    text = parameters.get("q", "").strip()
    if not text:
        return 400, {"error": "q is missing"}
    language = parameters.get("lang")
    try:
        hits = await index.search(text, filter=q.term("lang", language) if language else None, size=5)
    except QueryError as error:
        return 400, {"error": error.message}
    except TransientError:
        return 503, {"error": "the search is not available just now; please try again"}
    except EsembedError as error:
        print(error, file=sys.stderr)
        return 500, {"error": "the search failed"}
    return 200, {
        "took_ms": hits.took_ms,
        "hits": [{"id": hit.id, "score": hit.score, "title": hit.source["title"]} for hit in hits],
    }


async def handle(index: AsyncIndex, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Just enough HTTP for the example."""
    request = await reader.readuntil(b"\r\n\r\n")
    target = urlsplit(request.split(b" ", 2)[1].decode("ascii"))
    if target.path == "/search":
        parameters = {name: values[-1] for name, values in parse_qs(target.query).items()}
        status, answer = await search(index, parameters)
    else:
        status, answer = 404, {"error": "there is only /search?q=…"}
    body = json.dumps(answer, ensure_ascii=False).encode("utf-8")
    head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    writer.write(head.encode("ascii") + b"connection: close\r\n\r\n" + body)
    await writer.drain()
    writer.close()


@asynccontextmanager
async def serve(
    url: str, engine: str = "opensearch", name: str = "books", port: int = 8000
) -> AsyncIterator[asyncio.Server]:
    """Open the index once, warm it up, and answer until the block ends."""
    async with AsyncElasticsearch(url) if engine == "elasticsearch" else AsyncOpenSearch(url) as client:
        index = await AsyncIndex.open(client, name)
        await index.warm_up()  # the model is loaded and its contract checked here
        async with await asyncio.start_server(lambda r, w: handle(index, r, w), "127.0.0.1", port) as server:
            yield server


async def main(url: str, engine: str = "opensearch") -> None:
    """Serve until interrupted."""
    async with serve(url, engine) as server:
        print("http://127.0.0.1:8000/search?q=baking+at+home")
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
