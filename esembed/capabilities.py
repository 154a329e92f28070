"""What one engine, version, license and build can do.

Filled by probing a live engine (``esembed._async.probe``) or by name, for planning without one
(``profile("elasticsearch-basic", version="9.5")``). The compilers in ``esembed.dialect`` ask only
this object; what it says no to becomes a gap in an :class:`~esembed.errors.UnsupportedFeatureError`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Literal

from esembed.deprecation import renamed
from esembed.errors import OptionsError
from esembed.types import ENGINES, Engine

__all__ = [
    "CORE_ANALYZERS",
    "NEWEST",
    "PROFILES",
    "STANDARD_ANALYZERS",
    "Capabilities",
    "Engine",
    "Version",
    "derive",
    "profile",
]


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """``9.5.3`` as three numbers that compare."""

    major: int
    minor: int = 0
    patch: int = 0

    @classmethod
    def parse(cls, text: str) -> Version:
        """From ``9.5.3``, ``3.6.0-SNAPSHOT`` or ``9.5``. Raises ValueError."""
        numbers = text.split("-", 1)[0].split(".")
        return cls(*(int(part) for part in [*numbers, "0", "0"][:3]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


@renamed(kind="engine")
@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do. Sets hold Elasticsearch's literals, also for OpenSearch.

    Attributes:
        engine: which engine.
        version: its version.
        profile: the profile's name, or ``probed``.
        license: ``basic``, ``trial``, ``enterprise`` …; ``apache2`` for OpenSearch; ``unknown``.
        distribution: ``full``, ``reduced`` (the zip for tests), ``serverless`` or ``unknown``.
        analyzers: analyzer names that the engine has (of those esembed knows to ask for).
        quantizations: dense quantizations it accepts.
        element_types: dense element types it accepts.
        max_dims: the most dimensions of a dense field.
        sparse_storages: of ``sparse_vector``, ``rank_features``, ``seismic``.
        rank_feature: whether the rank_feature query and mapper exist.
        native_knn: OpenSearch: the k-NN native libraries are there (Faiss, Lucene 1 bit).
        lucene_one_bit: OpenSearch: Lucene has a 1-bit form of its own; before, Faiss's on-disk mode does it.
        rrf: fusion by reciprocal rank in the engine, with global ranks.
        rrf_weights: … with a weight for each leg.
        linear: fusion of normalized scores in the engine.
        linear_normalizers: the normalizers it knows, by our names (``minmax``, ``l2``, ``zscore``, ``none``).
        combined_fields: several text fields can be searched as if they were one (BM25F).
        scripts: Elasticsearch: painless is there (exact kNN by a script).
        rescore_vector: knn queries may rescore with the full vectors.
        mapping_rescore: … and the mapping may hold the default oversampling.
        sparse_index_options: the mapping of ``sparse_vector`` takes ``index_options`` (and then prunes by
            default).
        base64_vectors: bulk accepts base64-packed dense vectors.
        exclude_vectors: ``_source.exclude_vectors`` is understood.
        disk_options: Elasticsearch: those of a field's ``disk`` that the mapping takes.
        esql: Elasticsearch: ES|QL with ``FORK``, ``FUSE`` and ``RERANK`` is there.
        visit_percentage: Elasticsearch: a knn query may say what share of a ``bbq_disk`` field it looks at.
        index_options: which of a plan's ``filter_heuristic``, ``early_termination`` and
            ``memory_optimized_search`` an index can have.
        seven_bit_int8: OpenSearch: ``int8_hnsw`` keeps 7 bits of a component (Lucene's), not 8.
        sparse_pruning: a query on ``sparse_vector`` may leave out terms by how common they are.
        shard_doc: a scan through a point in time can be sorted by ``_shard_doc``.
        knn_ends_at_k: a kNN query finds k documents however many candidates it looks at; else Lucene's finds
            all candidates.
        bm25_k1_factor: BM25 scores carry Lucene's old factor (k1 + 1), as Elasticsearch's do.
        diversify: the engine can make hits differ (Elasticsearch's retriever, OpenSearch's ``ext.mmr``).
        inference: the engine can compute vectors itself: Elasticsearch's inference endpoints (Enterprise or
            trial license), OpenSearch's ml-commons plugin.
        max_clauses: the most clauses of a request's query, those of all legs together.
        max_result_window: the most from + size.
        unknown: what could not be asked for (a key without the privilege), for people.
        details: anything else that was seen, for ``doctor``.
    """

    engine: Engine
    version: Version
    profile: str = "probed"
    license: str = "unknown"
    distribution: Literal["full", "reduced", "serverless", "unknown"] = "unknown"
    analyzers: frozenset[str] = frozenset()
    quantizations: frozenset[str] = frozenset()
    element_types: frozenset[str] = frozenset()
    max_dims: int = 4096
    sparse_storages: frozenset[str] = frozenset()
    rank_feature: bool = False
    native_knn: bool = False
    lucene_one_bit: bool = False
    rrf: bool = False
    rrf_weights: bool = False
    linear: bool = False
    linear_normalizers: frozenset[str] = frozenset()
    combined_fields: bool = True
    scripts: bool = False
    rescore_vector: bool = False
    mapping_rescore: bool = False
    sparse_index_options: bool = False
    base64_vectors: bool = False
    exclude_vectors: bool = False
    disk_options: frozenset[str] = frozenset()
    esql: bool = False
    visit_percentage: bool = False
    index_options: frozenset[str] = frozenset()
    seven_bit_int8: bool = False
    sparse_pruning: bool = False
    shard_doc: bool = True
    knn_ends_at_k: bool = True
    bm25_k1_factor: bool = True
    diversify: bool = False
    inference: bool = False
    max_clauses: int = 1024
    max_result_window: int = 10_000
    unknown: tuple[str, ...] = ()
    details: tuple[tuple[str, Any], ...] = field(default=())

    @property
    def query_rescore(self) -> bool:
        """Whether a field's oversample travels with each query: knn can rescore, the mapping can't say it."""
        return self.rescore_vector and not self.mapping_rescore

    @property
    def paid(self) -> bool:
        """Elasticsearch: whether its license has what Enterprise has."""
        return _is_paid(self.license, self.distribution)

    @property
    def version_known(self) -> bool:
        """Whether the engine told its version; else it is assumed, as the oldest that it can be."""
        return not any(one.startswith("version") for one in self.unknown)

    @property
    def label(self) -> str:
        """Profile (the engine's name where it was probed) and version, for messages."""
        name = self.engine if self.profile == "probed" else self.profile
        if not self.version_known:
            return f"{name} (version not told, {self.version} assumed)"
        return f"{name} {self.version}"


PROFILES = (
    "elasticsearch-basic",
    "elasticsearch-enterprise",
    "elasticsearch-reduced",
    "opensearch",
    "opensearch-no-native",
)
"""The profiles by name. ``elasticsearch-reduced`` is the zip for tests, ``opensearch-no-native`` an
OpenSearch whose k-NN plugin lacks its native libraries; both are what the local engines are."""

NEWEST: dict[Engine, Version] = {"elasticsearch": Version(9, 5, 3), "opensearch": Version(3, 6, 0)}
"""The versions that a profile means when none is named: those that the tests run on."""

# Elasticsearch has int4_hnsw and the sparse_vector query from 8.15 on, OpenSearch the processor for RRF from
# 2.19 on.
OLDEST: dict[Engine, Version] = {"elasticsearch": Version(8, 15), "opensearch": Version(2, 19)}

CORE_ANALYZERS = frozenset({"standard", "simple", "whitespace", "stop", "keyword", "default"})
"""What a server has without the module ``analysis-common`` (seen on Elasticsearch 9.5.3)."""

_ANALYSIS_COMMON = """
arabic armenian basque bengali brazilian bulgarian catalan cjk czech danish dutch english estonian
fingerprint finnish french galician german greek hindi hungarian indonesian irish italian latvian
lithuanian norwegian pattern persian portuguese romanian russian sorani spanish swedish thai turkish
"""
STANDARD_ANALYZERS = CORE_ANALYZERS | frozenset(_ANALYSIS_COMMON.split())
"""What every full distribution of either engine has."""

_PAID = frozenset({"enterprise", "trial"})


def _is_paid(license: str, distribution: str) -> bool:
    return license in _PAID or distribution == "serverless"


def profile(name: str, version: str | Version | None = None) -> Capabilities:
    """A named profile, for planning without an engine.

    Args:
        name: one of :data:`PROFILES`.
        version: ``"9.1"`` …; None means the version that the tests run on.

    Raises:
        OptionsError: no such profile, or a version that is none or is older than 8.15 or 2.19.
    """
    if name not in PROFILES:
        raise OptionsError(f"no capability profile {name!r}; there are {', '.join(PROFILES)}")
    # A profile is called after its engine: elasticsearch-basic, opensearch-no-native.
    engine = next(one for one in ENGINES if name.partition("-")[0] == one)
    try:
        number = version if isinstance(version, Version) else Version.parse(version or str(NEWEST[engine]))
    except ValueError:
        raise OptionsError(f"{version!r} is not a version; write it like 9.5 or 3.6.0") from None
    return _profile(name, engine, number)


@functools.lru_cache(maxsize=64)
def _profile(name: str, engine: Engine, number: Version) -> Capabilities:
    if number < OLDEST[engine]:
        raise OptionsError(f"esembed supports {engine} from {OLDEST[engine]} on, not {number}")
    reduced = name == "elasticsearch-reduced"
    return derive(
        engine,
        number,
        profile=name,
        license="apache2"
        if engine == "opensearch"
        else name.removeprefix("elasticsearch-").replace("reduced", "basic"),
        distribution="reduced" if reduced or name == "opensearch-no-native" else "full",
        analyzers=CORE_ANALYZERS if reduced else STANDARD_ANALYZERS,
        rank_feature=not reduced,
        native_knn=name == "opensearch",
        scripts=not reduced,
        server_fusion=not reduced,
        inference=name in ("elasticsearch-basic", "elasticsearch-enterprise", "opensearch"),
    )


def derive(
    engine: Engine,
    version: Version,
    *,
    profile: str = "probed",
    license: str = "unknown",
    distribution: Literal["full", "reduced", "serverless", "unknown"] = "unknown",
    analyzers: frozenset[str],
    rank_feature: bool,
    native_knn: bool,
    scripts: bool,
    server_fusion: bool,
    neural: bool = True,
    knn: bool = True,
    inference: bool = False,
    diskbbq: bool = True,
    unknown: tuple[str, ...] = (),
    details: tuple[tuple[str, Any], ...] = (),
) -> Capabilities:
    """Capabilities from what was seen and what the version implies.

    Elasticsearch's facts are from https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/dense-vector
    (with its "applies to" notes) and the elasticsearch-specification; OpenSearch's from
    https://docs.opensearch.org/latest/mappings/supported-field-types/knn-vector and the release notes.

    Args:
        server_fusion: the rrf and linear retrievers, or hybrid queries with their processors, are there
            (on Elasticsearch the license counts as well).
        neural, knn: OpenSearch: the neural-search and the k-NN plugin are there.
        inference: the modules (x-pack-inference) or the plugin (opensearch-ml) for computing vectors are
            there (on Elasticsearch the license counts as well).
        diskbbq: Elasticsearch: the module that writes ``bbq_disk`` from 9.3 on is there.
    """
    if engine == "elasticsearch":
        return _elasticsearch(
            version,
            profile=profile,
            license=license,
            distribution=distribution,
            analyzers=analyzers,
            rank_feature=rank_feature,
            scripts=scripts,
            server_fusion=server_fusion,
            inference=inference,
            diskbbq=diskbbq,
            unknown=unknown,
            details=details,
        )
    native = native_knn and knn
    # Lucene's own HNSW and its 7-bit codes are Java alone; all else needs Faiss or the SIMD library.
    quantizations = {"auto", "hnsw", "int8_hnsw", "on_disk_4x"} if knn else set()
    if native:
        quantizations |= {
            "int4_hnsw",
            "bbq_hnsw",
            "on_disk_2x",
            "on_disk_8x",
            "on_disk_16x",
            "on_disk_32x",
            "faiss_hnsw",
            "faiss_fp16",
            "faiss_pq",
            "faiss_ivf",
            "faiss_binary",
        }
        if version >= Version(3, 1):
            quantizations.add("on_disk_1x")
        if version >= Version(3, 6):
            quantizations.add("flat")
    storages = {"rank_features"} if rank_feature else set()
    if neural and version >= Version(3, 3):
        storages.add("seismic")
    # Before 3.6 the ranks of score-ranker-processor were not global (neural-search#1718), 2.19 ignores
    # rank_constant (#1370): there the fusion is ours.
    ranks_globally = server_fusion and neural and version >= Version(3, 6)
    return Capabilities(
        engine=engine,
        version=version,
        profile=profile,
        license=license,
        distribution=distribution,
        analyzers=analyzers,
        quantizations=frozenset(quantizations),
        element_types=frozenset(({"float", "byte"} if knn else set()) | ({"bit"} if native else set())),
        max_dims=16_000,
        sparse_storages=frozenset(storages),
        rank_feature=rank_feature,
        native_knn=native,
        lucene_one_bit=version >= Version(3, 6),
        rrf=ranks_globally,
        rrf_weights=ranks_globally,
        linear=server_fusion and neural,
        linear_normalizers=frozenset(
            ({"minmax", "l2"} | ({"zscore"} if version >= Version(3) else set()))
            if server_fusion and neural
            else ()
        ),
        combined_fields=version >= Version(3, 2),  # OpenSearch#3996; Elasticsearch has it since 7.13
        scripts=scripts,
        rescore_vector=knn,
        exclude_vectors=False,
        # A setting for Faiss, which is native.
        index_options=frozenset({"memory_optimized_search"} if native and version >= Version(3, 1) else ()),
        seven_bit_int8=True,
        # OpenSearch#18924; 2.19.4 answers 400, "No mapping found for [_shard_doc]".
        shard_doc=version >= Version(3, 3),
        knn_ends_at_k=version >= Version(3, 5),  # k-NN#3037; 2.19.6 finds more, 3.5.0 doesn't
        # OpenSearch 3.0 took Lucene's newer BM25, whose scores are smaller by this factor.
        bm25_k1_factor=version < Version(3),
        diversify=knn and version >= Version(3, 3),
        inference=inference and neural,
        unknown=unknown,
        details=details,
    )


def _elasticsearch(
    version: Version,
    *,
    profile: str,
    license: str,
    distribution: Literal["full", "reduced", "serverless", "unknown"],
    analyzers: frozenset[str],
    rank_feature: bool,
    scripts: bool,
    server_fusion: bool,
    inference: bool,
    diskbbq: bool,
    unknown: tuple[str, ...],
    details: tuple[tuple[str, Any], ...],
) -> Capabilities:
    paid = _is_paid(license, distribution)
    # 8.19 came out with 9.1 and has some of its features; 9.0 has none of them.
    backported = Version(8, 19) <= version < Version(9)
    quantizations = {"auto", "hnsw", "int8_hnsw", "int4_hnsw", "flat", "int8_flat", "int4_flat"}
    if version >= Version(8, 16):
        quantizations |= {"bbq_hnsw", "bbq_flat"}
    # 9.2 has it without asking for a license. From 9.3 on writing asks for one (403, "current license is
    # non-compliant for [bbq_disk]"), in a module that the zip for tests lacks. Reading never does.
    if version >= Version(9, 2) and ((paid and diskbbq) or version < Version(9, 3)):
        quantizations.add("bbq_disk")
    disk_options = {
        "cluster_size": Version(9, 2),
        "default_visit_percentage": Version(9, 2),
        "on_disk_rescore": Version(9, 3),
        "bits": Version(9, 4),
        "precondition": Version(9, 4),
        "flat_index_threshold": Version(9, 4),
        "auto_calibrate": Version(9, 5),
    }
    index_options = {"filter_heuristic": Version(9, 1), "early_termination": Version(9, 2)}
    fused = server_fusion and paid
    linear = fused and version >= Version(8, 18)
    return Capabilities(
        engine="elasticsearch",
        version=version,
        profile=profile,
        license=license,
        distribution=distribution,
        analyzers=analyzers,
        quantizations=frozenset(quantizations),
        element_types=frozenset(
            {"float", "byte", "bit"} | ({"bfloat16"} if version >= Version(9, 3) else set())
        ),
        max_dims=4096,
        sparse_storages=frozenset({"sparse_vector"} | ({"rank_features"} if rank_feature else set())),
        rank_feature=rank_feature,
        rrf=fused and version >= Version(8, 16),
        rrf_weights=fused and version >= Version(9, 2),
        linear=linear,
        linear_normalizers=frozenset(
            {"minmax", "none"} | ({"l2"} if version >= Version(9, 1) or backported else set())
            if linear
            else ()
        ),
        scripts=scripts,
        rescore_vector=version >= Version(8, 18),
        mapping_rescore=version >= Version(9, 1) or backported,
        sparse_index_options=version >= Version(9, 1) or backported,
        base64_vectors=version >= Version(9, 3),
        exclude_vectors=version >= Version(9, 2),
        diversify=version >= Version(9, 3),
        disk_options=frozenset(name for name, since in disk_options.items() if version >= since),
        esql=version >= Version(9, 2) and distribution != "reduced",
        visit_percentage=version >= Version(9, 2),
        index_options=frozenset(name for name, since in index_options.items() if version >= since),
        sparse_pruning=True,
        inference=inference and paid,
        unknown=unknown,
        details=details,
    )
