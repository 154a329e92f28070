"""Cut Elastic's published OpenAPI file down to the JSON Schema of the search bodies that esembed emits.

The input is ``output/openapi/elasticsearch-serverless-openapi.json`` of
https://github.com/elastic/elasticsearch-specification (Apache License 2.0); the output is
``tests/contract/elasticsearch_search.schema.json``. Descriptions go, objects become closed (so that a
misspelt key is an error), and what esembed never emits is left out.

    python scripts/es_search_schema.py OPENAPI.json COMMIT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "tests/contract/elasticsearch_search.schema.json"
BODY = [
    "aggs",
    "collapse",
    "from",
    "fields",
    "highlight",
    "knn",
    "post_filter",
    "query",
    "rescore",
    "retriever",
    "search_after",
    "size",
    "sort",
    "_source",
    "timeout",
    "track_total_hits",
]
QUERIES = [
    "bool",
    "combined_fields",
    "exists",
    "function_score",
    "geo_distance",
    "ids",
    "knn",
    "match",
    "match_all",
    "match_none",
    "match_phrase",
    "multi_match",
    "nested",
    "prefix",
    "range",
    "rank_feature",
    "script_score",
    "sparse_vector",
    "term",
    "terms",
    "wildcard",
]
RETRIEVERS = ["standard", "knn", "rrf", "text_similarity_reranker", "linear", "diversify"]
SKIPPED = (
    "aggregations.",
    "SearchRequestBody",
    "Suggester",
    "Highlight",
    "Sort",
    "MappingProperty",
    "runtime",
)
# What the specification's source says and its OpenAPI form can't: shorthands (@shortcut_property) and a
# field's name as an object's key.
SHORTHANDS = {"_types.query_dsl.FieldAndFormat": "string", "_global.search._types.SourceFilter": "array"}
KEYED = {"_types.query_dsl.TermsQuery", "_types.query_dsl.GeoDistanceQuery"}
OPEN = {"aggs", "sort", "search_after", "highlight"}  # handed through as the caller wrote them


class Extract:
    """One run."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.schemas = spec["components"]["schemas"]
        self.found: dict[str, Any] = {}

    def resolve(self, node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            node = self.schemas[node["$ref"].rpartition("/")[2]]
        return node

    def flat(self, node: dict[str, Any]) -> dict[str, Any]:
        """``allOf`` parts that are objects merged into one."""
        node = self.resolve(node)
        if "allOf" not in node:
            return node
        parts = [self.flat(part) for part in node["allOf"]]
        if not all("properties" in part or part.get("type") == "object" for part in parts):
            return node
        merged: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
        for part in parts:
            merged["properties"].update(part.get("properties") or {})
            merged["required"] += part.get("required") or []
            if "additionalProperties" in part:
                merged["additionalProperties"] = part["additionalProperties"]
        return merged

    def ref(self, name: str) -> dict[str, Any]:
        if any(part in name for part in SKIPPED):
            return {}
        if name not in self.found:
            self.found[name] = {}
            cut = self.cut(self.schemas[name], name)
            if name in SHORTHANDS:
                cut = {"anyOf": [{"type": SHORTHANDS[name]}, cut]}
            if name in KEYED:
                cut.pop("additionalProperties", None)
            self.found[name] = cut
        return {"$ref": f"#/$defs/{name}"}

    def cut(self, node: dict[str, Any], name: str = "") -> dict[str, Any]:
        if "$ref" in node:
            return self.ref(node["$ref"].rpartition("/")[2])
        if "allOf" in node and len(node["allOf"]) == 1:
            return self.cut(node["allOf"][0])
        if "allOf" in node:
            merged = self.flat(node)
            if "allOf" in merged:
                return {"allOf": [self.cut(part) for part in merged["allOf"]]}
            node = merged
        for many in ("oneOf", "anyOf"):
            if many in node:
                # Published unions overlap (an integer is a number as well), so any branch will do.
                return {"anyOf": [self.cut(part) for part in node[many]]}
        if node.get("type") == "object" and not {"properties", "additionalProperties"} & set(node):
            return {}  # any value
        kept: dict[str, Any] = {k: node[k] for k in ("type", "enum", "required") if node.get(k)}
        if node.get("format") == "float" or node.get("type") == "number":
            kept["type"] = "number"
        if "items" in node:
            kept["items"] = self.cut(node["items"])
        properties = node.get("properties")
        if properties is not None:
            wanted = None
            if name.endswith("query_dsl.QueryContainer"):
                wanted = set(QUERIES)
            elif name.endswith("RetrieverContainer"):
                wanted = set(RETRIEVERS)
            kept["type"] = "object"
            kept["properties"] = {
                key: self.cut(value) for key, value in properties.items() if wanted is None or key in wanted
            }
        extra = node.get("additionalProperties")
        if isinstance(extra, dict):
            kept["additionalProperties"] = self.cut(extra)
        elif properties is not None and extra is not True:
            kept["additionalProperties"] = False
        return kept


def main() -> int:
    """Write the schema."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    extract = Extract(spec)
    path = next(p for p in ("/_search", "/{index}/_search") if p in spec["paths"])
    body = spec["paths"][path]["post"]["requestBody"]
    if "$ref" in body:
        body = spec["components"]["requestBodies"][body["$ref"].rpartition("/")[2]]
    schema = extract.resolve(body["content"]["application/json"]["schema"])
    names = {"aggs": "aggregations"}
    properties: dict[str, Any] = {}
    for key in BODY:
        source = schema["properties"].get(key) or schema["properties"][names.get(key, key)]
        properties[key] = {} if key in OPEN else extract.cut(source)
    result = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Cut from elastic/elasticsearch-specification (Apache License 2.0), commit "
        f"{sys.argv[2]}, by scripts/es_search_schema.py",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": dict(sorted(extract.found.items())),
    }
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(result, separators=(",", ":"), sort_keys=True) + "\n", encoding="utf-8")
    print(f"{TARGET.name}: {len(extract.found)} types, {TARGET.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
