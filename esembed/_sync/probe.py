# Generated from esembed/_async/probe.py by scripts/run_unasync.py; change that file and run the script.
"""What the engine at the other end can do, asked without leaving anything behind.

Queries and retrievers are probed by a search over an index pattern that matches nothing: the engine
parses the body (and checks the license) and answers 200 with no hits. Nothing here needs a native
library: whether OpenSearch has those is told by its statistics and its set of plugins, and not knowing
means no.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from esembed.capabilities import (
    CORE_ANALYZERS,
    NEWEST,
    OLDEST,
    STANDARD_ANALYZERS,
    Capabilities,
    Version,
    derive,
)
from esembed.dialect.names import check_name
from esembed.errors import AnswerError, AuthorizationError, EngineRequestError
from esembed.transport import Response

from ._shim import gather
from .client import EngineClient
from .live import index_path

__all__ = ["probe"]

NOTHING = "/esembed-probe-matches-nothing-*/_search"
NATIVE_VARIABLE = "ESEMBED_NATIVE_KNN"
MOST_CLAUSES = 2**31 - 1
"""The greatest that the engine's setting takes."""
NOT_AN_ANSWER = tuple(status for status in range(400, 500) if status not in (401, 429))

# Plugins that come with OpenSearch's full bundle and with managed services, never with the bare server.
BUNDLE = frozenset(
    {"opensearch-alerting", "opensearch-anomaly-detection", "opensearch-index-management", "opensearch-ml"}
    | {"opensearch-job-scheduler", "opensearch-observability", "opensearch-security", "opensearch-sql"}
)
ANALYZER_PLUGINS = {
    "analysis-icu": {"icu_analyzer"},
    "analysis-kuromoji": {"kuromoji"},
    "analysis-nori": {"nori"},
    "analysis-smartcn": {"smartcn"},
    "analysis-stempel": {"polish"},
    "analysis-ukrainian": {"ukrainian"},
}


def probe(client: EngineClient, *, index: str | None = None) -> Capabilities:
    """Ask the engine what it can do; nothing is written.

    Args:
        index: an index that these credentials may read: where the cluster may not be asked, its
            settings tell a version that the server has at least.

    A 400, 403, 404, 405 or 410 means that this can't be known; what is not known counts as missing and
    stands in ``unknown``.

    Raises:
        AuthorizationError: 401, the credentials are wrong.
        EngineUnavailableError: no answer.
    """
    if index is not None:
        check_name(index)
    if client.engine == "elasticsearch":
        return _elasticsearch(client, index)
    return _opensearch(client, index)


def _ask(client: EngineClient, method: str, path: str, **options: Any) -> Response:
    """One question; a refusal is an answer, a wrong password is not. Status 0 is an answer that is none."""
    try:
        return client.request(method, path, ignore=NOT_AN_ANSWER, **options)
    except AuthorizationError:
        raise
    except AnswerError:
        return Response(0, None)  # a proxy's page tells nothing, whatever its status
    except EngineRequestError as error:
        return Response(error.status, error.body)


def _parses(client: EngineClient, body: Mapping[str, Any]) -> Response:
    params = {"allow_no_indices": "true", "ignore_unavailable": "true"}
    return _ask(client, "POST", NOTHING, params=params, body={"size": 0, **body})


def _mapping(response: Response) -> Mapping[str, Any]:
    return response.body if response.status == 200 and isinstance(response.body, Mapping) else {}


def _reason(response: Response) -> str:
    error = response.body.get("error") if isinstance(response.body, Mapping) else None
    return str(error.get("reason", error)) if isinstance(error, Mapping) else str(error or "")


def _answer(response: Response) -> bool | None:
    """Known and allowed, known to be missing, or not told (no privilege)."""
    if response.status == 200:
        return True
    if response.status == 400 or "non-compliant" in _reason(response):
        return False
    return None


def _modules(nodes: Response) -> frozenset[str] | None:
    """Modules and plugins that every node has, or None."""
    sets = [
        frozenset(
            str(part.get("name"))
            for kind in ("modules", "plugins")
            for part in node.get(kind) or ()
            if isinstance(part, Mapping)
        )
        for node in (_mapping(nodes).get("nodes") or {}).values()
        if isinstance(node, Mapping)
    ]
    return frozenset.intersection(*sets) if sets and any(sets) else None


def _version(
    client: EngineClient, root: Response, nodes: Response, index: str | None
) -> tuple[Version, bool]:
    """The oldest version of the cluster, and whether it is known."""
    seen = [
        str(node.get("version"))
        for node in (_mapping(nodes).get("nodes") or {}).values()
        if isinstance(node, Mapping) and node.get("version")
    ]
    number = (_mapping(root).get("version") or {}).get("number")
    if not seen and number:
        seen = [str(number)]
    try:
        if seen:
            return min(Version.parse(text) for text in seen), True
    except ValueError:
        pass
    oldest = OLDEST[client.engine]
    if index is not None:
        # The same request as opening the index, so that it needs no privilege more (on OpenSearch the
        # settings alone need another one, and numbers alone don't tell Elasticsearch's releases).
        shown = _ask(client, "GET", f"/{index_path(index)}", params={"human": "true"})
        found = []
        for parts in _mapping(shown).values():
            settings = parts["settings"]["index"]  # as check_answer has seen
            created = settings.get("version")
            # "9.5.3", or a range of releases with one format of indices: "9.5.2-9.5.3".
            text = str(created.get("created_string", "")) if isinstance(created, Mapping) else ""
            with contextlib.suppress(ValueError):
                found.append(Version.parse(text.partition("-")[0]))
        if found:
            # An index can be older than the server, never newer: a safe lower bound, of several the best.
            return max(oldest, *found), False
    return oldest, False


def _version_unknown(version: Version) -> str:
    return f"version (no privilege for GET / and GET /_nodes); assumed: {version}"


def _analyzers(english: Response, modules: frozenset[str] | None, unknown: list[str]) -> frozenset[str]:
    known = _answer(english)
    if known is None:
        known = None if modules is None else "analysis-common" in modules
    if known is None:
        unknown.append("analyzers (no privilege for _analyze); assumed: those that every server has")
    found = set(STANDARD_ANALYZERS if known else CORE_ANALYZERS)
    for plugin, names in ANALYZER_PLUGINS.items():
        if modules is not None and plugin in modules:
            found |= names
    return frozenset(found)


ENGLISH = {"analyzer": "english", "text": "a"}
NODES_PARAMS = {
    "filter_path": "nodes.*.version,nodes.*.modules.name,nodes.*.plugins.name,nodes.*.build_type,"
    "nodes.*.jvm.mem.heap_max_in_bytes,nodes.*.thread_pool.search.size"
}
SETTINGS_PARAMS = {"include_defaults": "true", "flat_settings": "true"}
RANK_FEATURE = {"query": {"rank_feature": {"field": "a.b", "linear": {}}}}
ALL: dict[str, Any] = {"standard": {"query": {"match_all": {}}}}


def _elasticsearch(client: EngineClient, index: str | None) -> Capabilities:
    linear = {"retrievers": [{"retriever": ALL, "weight": 1.0}], "rank_window_size": 10}
    root, nodes, license, english, rank_feature, rrf, lin = gather(
        _ask(client, "GET", "/"),
        _ask(client, "GET", "/_nodes", params=NODES_PARAMS),
        _ask(client, "GET", "/_license"),
        _ask(client, "POST", "/_analyze", body=ENGLISH),
        _parses(client, RANK_FEATURE),
        _parses(client, {"retriever": {"rrf": {"retrievers": [ALL, ALL], "rank_window_size": 10}}}),
        _parses(client, {"retriever": {"linear": linear}}),
    )
    unknown: list[str] = []
    modules = _modules(nodes)
    version, sure = _version(client, root, nodes, index)
    serverless = (_mapping(root).get("version") or {}).get("build_flavor") == "serverless"
    if serverless:
        # Serverless reports a fixed old number; it is always as new as the newest release.
        version = max(version, NEWEST["elasticsearch"])
    elif not sure:
        unknown.append(_version_unknown(version))
    license_type = str((_mapping(license).get("license") or {}).get("type", "unknown"))
    fusion = _answer(rrf)
    if license_type == "unknown" and not serverless:
        if fusion is True:
            license_type = "enterprise"
        elif "non-compliant" in _reason(rrf):
            license_type = "basic"
        else:
            unknown.append("license (no privilege for _license)")
    if fusion is None:
        unknown.append("rrf and linear retrievers; assumed: none")
    features = _answer(rank_feature)
    if features is None:
        features = modules is not None and "mapper-extras" in modules
        if modules is None:
            unknown.append("rank_feature; assumed: none")
    scripts = modules is not None and "lang-painless" in modules
    if modules is None:
        # A full distribution always has Painless, the reduced zip has neither it nor mapper-extras.
        scripts = features
    reduced = modules is not None and "mapper-extras" not in modules
    if modules is None and not serverless:
        unknown.append("inference endpoints (no privilege for _nodes)")
    capabilities = derive(
        "elasticsearch",
        version,
        license=license_type,
        distribution="serverless"
        if serverless
        else "unknown"
        if modules is None
        else "reduced"
        if reduced
        else "full",
        analyzers=_analyzers(english, modules, unknown),
        rank_feature=features,
        native_knn=False,
        scripts=scripts,
        server_fusion=fusion is True,
        inference=serverless or (modules is not None and "x-pack-inference" in modules),
        diskbbq=serverless or modules is None or "diskbbq" in modules,
        unknown=tuple(unknown),
        details=(("modules", tuple(sorted(modules or ()))),),
    )
    if _answer(lin) is not True and capabilities.linear:
        capabilities = _without_linear(capabilities)
    from dataclasses import replace

    return replace(capabilities, max_clauses=_clauses_by_heap(nodes, version))


def _clauses_by_heap(nodes: Response, version: Version) -> int:
    """How many clauses Elasticsearch takes in a request; 1,024 where the nodes don't tell.

    From 8.1 on that is 64 for each MB of heap, divided by the search threads, and 1,024 at least (seen on
    9.5.3: 16,384 with 1 GB and 4 threads). The setting, which says 4,096, has no effect any more.
    """
    found = []
    for node in (_mapping(nodes).get("nodes") or {}).values():
        try:
            heap = int(node["jvm"]["mem"]["heap_max_in_bytes"]) // 2**20
            found.append(max(1024, heap * 64 // int(node["thread_pool"]["search"]["size"])))
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            found.append(1024)
    return min(found, default=1024) if version >= Version(8, 1, 0) else 1024


def _without_linear(capabilities: Capabilities) -> Capabilities:
    from dataclasses import replace

    return replace(capabilities, linear=False, linear_normalizers=frozenset())


def _opensearch(client: EngineClient, index: str | None) -> Capabilities:
    knn_query = {"query": {"knn": {"a": {"vector": [1.0], "k": 1}}}}
    root, nodes, plugins, stats, settings, english, rank_feature, hybrid, knn = gather(
        _ask(client, "GET", "/"),
        _ask(client, "GET", "/_nodes", params=NODES_PARAMS),
        _ask(client, "GET", "/_cat/plugins", params={"format": "json"}),
        _ask(client, "GET", "/_plugins/_knn/stats"),
        _ask(
            client, "GET", "/_cluster/settings", params={"include_defaults": "true", "flat_settings": "true"}
        ),
        _ask(client, "POST", "/_analyze", body=ENGLISH),
        _parses(client, RANK_FEATURE),
        _parses(client, {"query": {"hybrid": {"queries": [{"match_all": {}}]}}}),
        _parses(client, knn_query),
    )
    unknown: list[str] = []
    modules = _modules(nodes)
    if plugins.status == 200 and isinstance(plugins.body, list):
        listed = {str(row.get("component")) for row in plugins.body if isinstance(row, Mapping)}
        modules = (modules or frozenset()) | listed
    version, sure = _version(client, root, nodes, index)
    if not sure:
        unknown.append(_version_unknown(version))
    features, has_hybrid, has_knn = (_answer(r) for r in (rank_feature, hybrid, knn))
    for name, value in (("rank_feature", features), ("hybrid", has_hybrid)):
        if value is None:
            unknown.append(f"{name}; assumed: none")
    if has_knn is None:
        # Unlike the others it has no client-side stand-in: absent would refuse every index with vectors.
        # Where it is absent, the engine says so: 400, "No handler for type [knn_vector]".
        unknown.append("k-NN; assumed: there")
    if modules is None:
        unknown.append("inference by ml-commons (no privilege for _cat/plugins)")
    native, how = _native(stats, modules)
    if native is None:
        unknown.append(
            "k-NN native libraries (a request that needs missing ones would end the node); assumed: none. "
            f"Where they are there, set {NATIVE_VARIABLE}=1 or pass capabilities="
        )
    clauses = 1024
    for group in ("defaults", "persistent", "transient"):
        value = (_mapping(settings).get(group) or {}).get("indices.query.bool.max_clause_count")
        if value is not None:
            try:
                clauses = min(int(str(value)), MOST_CLAUSES)
            except ValueError:
                unknown.append(f"indices.query.bool.max_clause_count ({value!r:.40}); assumed: {clauses}")
    from dataclasses import replace

    capabilities = derive(
        "opensearch",
        version,
        license="apache2",
        distribution="full" if native else "reduced" if native is False else "unknown",
        analyzers=_analyzers(english, modules, unknown),
        rank_feature=bool(features),
        native_knn=bool(native),
        scripts=modules is not None and "lang-painless" in modules,
        server_fusion=bool(has_hybrid),
        neural=bool(has_hybrid),
        knn=has_knn is not False,
        inference=modules is not None and "opensearch-ml" in modules,
        unknown=tuple(unknown),
        details=(("modules", tuple(sorted(modules or ()))), ("native_knn", how)),
    )
    return replace(capabilities, max_clauses=clauses)


def _native(stats: Response, modules: frozenset[str] | None) -> tuple[bool | None, str]:
    """Whether the k-NN native libraries are there, and how that is known."""
    told = os.environ.get(NATIVE_VARIABLE, "").strip().lower()
    if told in ("1", "true", "yes"):
        return True, f"{NATIVE_VARIABLE} says so"
    if told in ("0", "false", "no"):
        return False, f"{NATIVE_VARIABLE} says no"
    nodes = [n for n in (_mapping(stats).get("nodes") or {}).values() if isinstance(n, Mapping)]
    if nodes and all(n.get("faiss_initialized") is True for n in nodes):
        return True, "Faiss is loaded on every node"
    if modules is not None and "opensearch-knn" in modules and len(BUNDLE & modules) >= 4:
        return True, "the full bundle's plugins are installed"
    if modules is not None and "opensearch-knn" in modules:
        # The plugin on a bare server is the Java part from Maven, without the libraries.
        return False, "the k-NN plugin is there without the full bundle"
    return None, "could not be asked for"
