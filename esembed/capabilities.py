"""What one engine, version, licence and build can do.

Filled by probing a live engine (``esembed._async.probe``) or by name, for planning without one
(``profile("elasticsearch-basic", version="9.5")``). The compilers in ``esembed.dialect`` ask only
this object; what it says no to becomes a gap in an :class:`~esembed.errors.UnsupportedFeatureError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Capabilities", "Kind", "Version"]

Kind = Literal["elasticsearch", "opensearch"]


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
        return cls(*(int(part) for part in (numbers + ["0", "0"])[:3]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do. Sets hold Elasticsearch's literals, also for OpenSearch.

    Attributes:
        kind: which engine.
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
        rrf: fusion by reciprocal rank in the engine, with global ranks.
        rrf_weights: … with a weight for each leg.
        linear: fusion of normalised scores in the engine.
        linear_normalizers: the normalizers it knows, by our names (``minmax``, ``l2``, ``zscore``, ``none``).
        scripts: Elasticsearch: painless is there (exact kNN by a script).
        rescore_vector: knn queries may rescore with the full vectors.
        base64_vectors: bulk accepts base64-packed dense vectors.
        exclude_vectors: ``_source.exclude_vectors`` is understood.
        vectors_in_source: by default vectors come back in ``_source``.
        max_clauses: the most clauses of a bool query.
        max_result_window: the most from + size.
        unknown: what could not be asked for (a key without the privilege), for people.
        details: anything else that was seen, for ``doctor``.
    """

    kind: Kind
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
    rrf: bool = False
    rrf_weights: bool = False
    linear: bool = False
    linear_normalizers: frozenset[str] = frozenset()
    scripts: bool = False
    rescore_vector: bool = False
    base64_vectors: bool = False
    exclude_vectors: bool = False
    vectors_in_source: bool = True
    max_clauses: int = 1024
    max_result_window: int = 10_000
    unknown: tuple[str, ...] = ()
    details: tuple[tuple[str, Any], ...] = field(default=())
