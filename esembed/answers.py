"""What engines answer, checked before it is read: the only place that says what an answer is made of.

An engine, a proxy before it or a login page may answer anything with status 200. :func:`check_answer`
compares an answer with the type that its request's answers have, by one table, so that whoever reads it
further finds what the type says, and everything else is one :class:`~esembed.errors.AnswerError`. What only
some requests of an API ask for (an aggregation, sequence numbers, statistics) is read by :func:`part`, with a
type from here. Only what is read is typed; what engines add is ignored. An ingest's ``_bulk`` is left out:
:mod:`esembed.ingest.bulk_answer` compares each item with what was sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

import msgspec

from esembed.errors import AnswerError
from esembed.json_input import JsonInputError, JsonLimits, check_json

__all__ = [
    "BulkAnswer",
    "BulkOutcome",
    "DiskFree",
    "DiskUsage",
    "HitVersion",
    "SegmentStats",
    "SequenceStretches",
    "SequenceSum",
    "ShardSequences",
    "StoreSize",
    "TermBuckets",
    "Versioned",
    "VersionedDocument",
    "VersionedHit",
    "check_answer",
    "counted",
    "last_sort",
    "part",
    "refused_line",
]

T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Number = Annotated[float, msgspec.Meta(ge=-1.7e308, le=1.7e308)]
"""A number that orders: JSON parsers let NaN and infinity through."""
Name = Annotated[str, msgspec.Meta(pattern=r'^[^*?,/\\"<>| #]+$')]
"""An index as both engines name one. What comes from here goes into paths of further requests."""

_WALKED_LIMITS = JsonLimits(characters=1 << 30, depth=100, values=1 << 30, objects=1 << 30)
"""Of mappings and settings, which many functions walk by calls: engines refuse mappings deeper than 20
objects (``index.mapping.depth.limit``), and their size is theirs to limit."""


# -- searches --------------------------------------------------------------------------------------------


class _Cause(msgspec.Struct):
    type: str | None = None
    reason: str | None = None
    caused_by: _Cause | None = None


class _ShardFailure(msgspec.Struct):
    reason: _Cause | None = None


class _Shards(msgspec.Struct):
    failed: Count = 0
    failures: list[_ShardFailure] | None = None


class _Total(msgspec.Struct):
    value: Count
    relation: str = "eq"


class _Place(msgspec.Struct, gc=False):
    field: str | None = None


class _Nested(msgspec.Struct, gc=False):
    """A hit of an inner list; nested ones have no id of their own on OpenSearch."""

    score: Number | None = msgspec.field(name="_score", default=None)
    source: Any = msgspec.field(name="_source", default_factory=dict)
    fields: dict[str, list[Any]] | None = None
    place: _Place | None = msgspec.field(name="_nested", default=None)


class _InnerHits(msgspec.Struct, gc=False):
    hits: list[_Nested]


class _Inner(msgspec.Struct, gc=False):
    hits: _InnerHits


class _Hit(msgspec.Struct, gc=False):
    # A document of its own type would be copied, which costs four times as much as all the rest of an answer
    # of ten hits (4.1 µs instead of 1.2): _sources looks at it.
    id: str = msgspec.field(name="_id")
    index: str | None = msgspec.field(name="_index", default=None)
    routing: str | None = msgspec.field(name="_routing", default=None)
    score: Number | None = msgspec.field(name="_score", default=None)
    source: Any = msgspec.field(name="_source", default_factory=dict)
    fields: dict[str, list[Any]] | None = None
    highlight: dict[str, list[str]] | None = None
    inner_hits: dict[str, _Inner] | None = None
    ignored: list[str] | None = msgspec.field(name="_ignored", default=None)
    sort: list[Any] = msgspec.field(default_factory=list)


class _Hits(msgspec.Struct, gc=False):
    hits: list[_Hit]
    total: _Total | Count | None = None


class _Search(msgspec.Struct, gc=False):
    hits: _Hits
    took: Number = 0.0
    aggregations: dict[str, dict[str, Any]] | None = None
    timed_out: bool = False
    shards: _Shards | None = msgspec.field(name="_shards", default=None)
    pit_id: str | None = None
    scroll_id: str | None = msgspec.field(name="_scroll_id", default=None)


class _Searches(msgspec.Struct):
    """Each is a search's answer, or an error of its own."""

    responses: list[dict[str, Any]]


class _Failed(msgspec.Struct):
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 500


class _Counted(msgspec.Struct):
    count: Count
    shards: _Shards | None = msgspec.field(name="_shards", default=None)


class _Token(msgspec.Struct):
    start_offset: Count
    end_offset: Count


class _Term(msgspec.Struct):
    doc_freq: Count = 0
    term_freq: Count = 1
    tokens: list[_Token] | None = None


class _FieldStatistics(msgspec.Struct):
    # -1 where no document has the field.
    doc_count: Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)] = 0


class _TermVector(msgspec.Struct):
    field_statistics: _FieldStatistics | None = None
    terms: dict[str, _Term] | None = None


class _TermVectors(msgspec.Struct):
    term_vectors: dict[str, _TermVector] | None = None


class _PointInTime(msgspec.Struct):
    """As Elasticsearch opens one."""

    id: str


class _PointInTimeOpenSearch(msgspec.Struct):
    pit_id: str


# -- documents -------------------------------------------------------------------------------------------


class _Document(msgspec.Struct):
    found: bool
    id: str = msgspec.field(name="_id")
    source: dict[str, Any] = msgspec.field(name="_source", default_factory=dict)


class _Looked(msgspec.Struct):
    """Of several; ``found`` is missing beside an error, and where ``filter_path`` leaves false ones out."""

    id: str = msgspec.field(name="_id")
    found: bool = False
    source: dict[str, Any] = msgspec.field(name="_source", default_factory=dict)
    fields: dict[str, Any] = msgspec.field(default_factory=dict)


class _Documents(msgspec.Struct):
    docs: list[_Looked]


# -- what an index is ------------------------------------------------------------------------------------


class _VectorEncoder(msgspec.Struct):
    name: str | None = None
    parameters: dict[str, Any] | None = None


class _GraphParameters(msgspec.Struct):
    m: int | None = None
    ef_construction: int | None = None
    encoder: _VectorEncoder | None = None


class _Method(msgspec.Struct):
    """Of a ``knn_vector``, and of a ``sparse_vector`` that is SEISMIC."""

    name: str = "hnsw"
    engine: str | None = None
    space_type: str | None = None
    parameters: _GraphParameters | None = None


class _Rescore(msgspec.Struct):
    oversample: float | None = None


class _IndexOptions(msgspec.Struct):
    """Of a ``dense_vector``; a text field's are a word."""

    type: str | None = None
    m: int | None = None
    ef_construction: int | None = None
    rescore_vector: _Rescore | None = None


class _Field(msgspec.Struct):
    type: str | None = None
    path: str | None = None
    properties: dict[str, _Field] | None = None
    fields: dict[str, _Field] | None = None
    dims: int | None = None
    dimension: int | None = None
    element_type: str | None = None
    data_type: str | None = None
    similarity: str | None = None
    space_type: str | None = None
    mode: str | None = None
    compression_level: str | None = None
    index_options: _IndexOptions | str | None = None
    method: _Method | None = None


class _Computed(msgspec.Struct):
    type: str | None = None


class _Mappings(msgspec.Struct):
    properties: dict[str, _Field] | None = None
    meta: dict[str, Any] = msgspec.field(name="_meta", default_factory=dict)
    source: dict[str, Any] | None = msgspec.field(name="_source", default=None)
    runtime: dict[str, _Computed] | None = None
    derived: dict[str, _Computed] | None = None


class _Block(msgspec.Struct):
    write: str | None = None


class _Translog(msgspec.Struct):
    durability: str | None = None


class _IndexSettings(msgspec.Struct):
    """Engines show every value as text, whatever was put."""

    uuid: str = ""
    default_pipeline: str | None = None
    final_pipeline: str | None = None
    number_of_replicas: str | None = None
    refresh_interval: str | None = None
    blocks: _Block | None = None
    translog: _Translog = msgspec.field(default_factory=_Translog)


class _Settings(msgspec.Struct):
    index: _IndexSettings


class _Described(msgspec.Struct):
    aliases: dict[str, dict[str, Any]]
    mappings: _Mappings
    settings: _Settings


class _Mapped(msgspec.Struct):
    mappings: _Mappings


class _Set(msgspec.Struct):
    settings: _Settings


_Text = str | list[str] | None


class _SetFlat(msgspec.Struct):
    """With ``flat_settings``; asked for by a name that isn't set, there may be none."""

    settings: dict[str, _Text] = msgspec.field(default_factory=dict)
    defaults: dict[str, _Text] = msgspec.field(default_factory=dict)


class _Aliased(msgspec.Struct):
    aliases: dict[str, dict[str, Any]]


class _Health(msgspec.Struct):
    status: str | None = None


# -- what an engine is -----------------------------------------------------------------------------------


class _Build(msgspec.Struct):
    number: str
    build_flavor: str | None = None
    distribution: str | None = None


class _Root(msgspec.Struct):
    version: _Build


class _Part(msgspec.Struct):
    name: str


class _Node(msgspec.Struct):
    version: str | None = None
    modules: list[_Part] = msgspec.field(default_factory=list)
    plugins: list[_Part] = msgspec.field(default_factory=list)
    jvm: dict[str, Any] = msgspec.field(default_factory=dict)
    thread_pool: dict[str, Any] = msgspec.field(default_factory=dict)


class _Nodes(msgspec.Struct):
    nodes: dict[str, _Node] = msgspec.field(default_factory=dict)


class _LicenseType(msgspec.Struct):
    type: str


class _License(msgspec.Struct):
    license: _LicenseType


class _ClusterSettings(msgspec.Struct):
    defaults: dict[str, _Text] = msgspec.field(default_factory=dict)
    persistent: dict[str, _Text] = msgspec.field(default_factory=dict)
    transient: dict[str, _Text] = msgspec.field(default_factory=dict)


class _KnnStats(msgspec.Struct):
    nodes: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


# -- what only some requests ask for ---------------------------------------------------------------------


class BulkOutcome(msgspec.Struct):
    """What became of one line."""

    status: Annotated[int, msgspec.Meta(ge=100, le=599)]
    error: Any = None


class BulkAnswer(msgspec.Struct):
    """Of a bulk request whose lines are not tried again one by one."""

    items: list[dict[str, BulkOutcome]]


class Versioned(msgspec.Struct):
    """A document's answer with what the next write is compared with."""

    seq_no: Count = msgspec.field(name="_seq_no")
    primary_term: Count = msgspec.field(name="_primary_term")


class VersionedDocument(Versioned):
    """A document of several that were asked for."""

    version: Count = msgspec.field(name="_version")


class HitVersion(msgspec.Struct):
    """A hit of a search that asked for versions."""

    version: Count = msgspec.field(name="_version")


class VersionedHit(msgspec.Struct):
    """A hit of a search that asked for sequence numbers."""

    seq_no: Count = msgspec.field(name="_seq_no")


class _Sum(msgspec.Struct):
    sum: Number
    max: Number | None = None


class _Written(msgspec.Struct):
    written: _Sum


class SequenceSum(msgspec.Struct):
    """A search that sums sequence numbers as ``written``."""

    aggregations: _Written


class _Bucket(msgspec.Struct):
    key: Number
    doc_count: Count


class _Buckets(msgspec.Struct):
    buckets: list[_Bucket]


class _Stretches(msgspec.Struct):
    stretches: _Buckets


class SequenceStretches(msgspec.Struct):
    """A search that counts sequence numbers as ``stretches``."""

    aggregations: _Stretches


class _SequenceNumbers(msgspec.Struct):
    local_checkpoint: int
    max_seq_no: int


class _Routing(msgspec.Struct):
    primary: bool


class ShardCopy(msgspec.Struct):
    """A copy of a shard."""

    routing: _Routing
    seq_no: _SequenceNumbers


class _ShardStats(msgspec.Struct):
    shards: dict[str, list[ShardCopy]]


class ShardSequences(msgspec.Struct):
    """``_stats`` by shards."""

    indices: Annotated[dict[str, _ShardStats], msgspec.Meta(min_length=1)]


class _Bytes(msgspec.Struct):
    size_in_bytes: Count


class _FileSizes(msgspec.Struct):
    file_sizes: dict[str, _Bytes] | None = None


class _Vectors(msgspec.Struct):
    """Off the heap: ``total_vex_size_bytes`` and the like, and objects by field."""

    off_heap: dict[str, Any] | None = None


class _Primaries(msgspec.Struct):
    store: _Bytes
    segments: _FileSizes | None = None
    dense_vector: _Vectors | None = None


class _All(msgspec.Struct):
    primaries: _Primaries


class StoreSize(msgspec.Struct):
    """``_stats`` of an index's disk."""

    all: _All = msgspec.field(name="_all")


class _DocumentCounts(msgspec.Struct):
    count: Count
    deleted: Count = 0


class _SegmentCount(msgspec.Struct):
    count: Count


class _Merged(msgspec.Struct):
    docs: _DocumentCounts
    segments: _SegmentCount


class _MergedAll(msgspec.Struct):
    primaries: _Merged


class SegmentStats(msgspec.Struct):
    """``_stats`` of documents, deleted ones that no merge has dropped yet, and segments."""

    all: _MergedAll = msgspec.field(name="_all")


class _TermBucket(msgspec.Struct):
    key: str | int | float
    doc_count: Count
    key_as_string: str | None = None


class TermBuckets(msgspec.Struct):
    """A terms aggregation's part of an answer."""

    buckets: list[_TermBucket]


class _VectorUsage(msgspec.Struct):
    knn_vectors_in_bytes: Count | None = None


class DiskUsage(msgspec.Struct):
    """``_disk_usage``'s part about one index."""

    fields: dict[str, _VectorUsage] = msgspec.field(default_factory=dict)


class _Free(msgspec.Struct):
    available_in_bytes: int = 0


class _Disk(msgspec.Struct):
    total: _Free = msgspec.field(default_factory=_Free)


class _NodeDisk(msgspec.Struct):
    fs: _Disk = msgspec.field(default_factory=_Disk)


class DiskFree(msgspec.Struct):
    """``_nodes/stats/fs``."""

    nodes: dict[str, _NodeDisk]


# -- the table -------------------------------------------------------------------------------------------

_ROOT = ("/",)
_INDEX = ("INDEX",)

_DESCRIBED = dict[Name, _Described]
_MAPPED = dict[Name, _Mapped]
_SET = dict[Name, _Set]
_SET_FLAT = dict[Name, _SetFlat]
_WALKED = (_DESCRIBED, _MAPPED, _SET)

_READ: dict[tuple[str, ...], Any] = {
    ("_search",): _Search,
    ("_search", "scroll"): _Search,
    ("_search", "point_in_time"): _PointInTimeOpenSearch,
    ("_pit",): _PointInTime,
    ("_msearch",): _Searches,
    ("_count",): _Counted,
    ("_mget",): _Documents,
    ("_termvectors",): _TermVectors,
}
"""By what comes after the index in the path of a GET or POST."""

_READ_BY_GET: dict[tuple[str, ...], Any] = {
    _ROOT: _Root,
    _INDEX: _DESCRIBED,
    ("_doc", "*"): _Document,
    ("_mapping",): _MAPPED,
    ("_settings",): _SET,
    ("_settings", "*"): _SET_FLAT,
    ("_alias",): dict[Name, _Aliased],
    ("_cluster", "health", "*"): _Health,
    ("_cluster", "settings"): _ClusterSettings,
    ("_nodes",): _Nodes,
    ("_license",): _License,
    ("_plugins", "_knn", "stats"): _KnnStats,
    ("_cat", "plugins"): list[dict[str, Any]],
}
"""By what comes after the index (``*`` is any last part); the same paths are written to with PUT and POST,
which answer something else."""

_UNTYPED = frozenset({"_bulk", "_cat"})
"""A bulk answer that is odd confirms nothing, and its records are sent again; ``_cat`` answers lists."""


def check_answer(
    method: str, path: str, status: int, body: Any, params: Mapping[str, Any] | None = None
) -> None:
    """Refuse an answer that isn't what the request's answers are.

    Args:
        method: of the request.
        path: of the request, from the root.
        status: of the answer; below 400, others are errors by themselves.
        body: the parsed answer, or text where it is no JSON.
        params: of the request.

    Raises:
        AnswerError: names the request, and the place in the answer.
    """
    if method == "HEAD":
        return
    api = _api(path)
    kind = None
    if method == "GET":
        kind = _READ_BY_GET.get(api) or _READ_BY_GET.get((*api[:-1], "*"))
    if kind is None and method in ("GET", "POST"):
        kind = _READ.get(api)
    if kind is None:
        if not isinstance(body, Mapping) and api[0] not in _UNTYPED:
            raise _odd(f"{method} {path}", status, f"it is no JSON object, but {_named(body)}")
        return
    if kind is _SET and params is not None and params.get("flat_settings") == "true":
        kind = _SET_FLAT
    _check(f"{method} {path}", status, body, kind)
    if kind is _Document and body["_id"] != unquote(api[-1]):
        raise _odd(f"{method} {path}", status, f"it is of another document, {body['_id']!r:.100}")


def _api(path: str) -> tuple[str, ...]:
    """The path's parts without the index that it may begin with."""
    parts = path.strip("/").split("/")
    if parts == [""]:
        return _ROOT
    if parts[0].startswith("_"):
        return tuple(parts)
    return tuple(parts[1:]) or _INDEX


def _check(where: str, status: int, body: Any, kind: Any) -> None:
    try:
        answer = msgspec.convert(body, kind)
        if kind is _Search:
            _sources(answer)
        elif kind is _Searches:
            for item in answer.responses:
                if "error" in item:
                    msgspec.convert(item, _Failed)
                else:
                    _sources(msgspec.convert(item, _Search))
        elif kind in _WALKED:
            check_json(body, _WALKED_LIMITS)
    except (msgspec.ValidationError, JsonInputError, UnicodeEncodeError) as error:
        # The last: msgspec where half a surrogate pair stands in the place of something else.
        raise _odd(where, status, _printable(error)) from None
    except RecursionError:
        raise _odd(where, status, "it is nested too deeply") from None


def _odd(where: str, status: int, why: str) -> AnswerError:
    return AnswerError(f"{where}: the answer ({status}) is not one of an engine's: {why}", status=status)


def _printable(error: Exception) -> str:
    return str(error).encode("utf-8", "backslashreplace").decode()


def _sources(answer: _Search) -> None:
    for place, hit in enumerate(answer.hits.hits):
        if type(hit.source) is not dict:
            raise msgspec.ValidationError(
                f"Expected `object`, got `{type(hit.source).__name__}` - at `$.hits.hits[{place}]._source`"
            )
        for name, inner in (hit.inner_hits or {}).items():
            if any(type(nested.source) is not dict for nested in inner.hits.hits):
                at = f"$.hits.hits[{place}].inner_hits[{name!r}]"
                raise msgspec.ValidationError(f"Expected `object` as each `_source` - at `{at}`")


def _named(body: Any) -> str:
    if body is None or body == "":
        return "empty"
    return "text" if isinstance(body, str) else f"a {type(body).__name__}"


# -- what only some requests ask for ---------------------------------------------------------------------


def part(kind: type[T], body: Any, where: str) -> T:
    """What a request asked for beside what its API always answers.

    Args:
        kind: one of this module's types.
        body: the answer, or a part of it.
        where: the request, for the error.

    Raises:
        AnswerError: it isn't there, or is something else.
    """
    try:
        return msgspec.convert(body, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise _odd(where, 200, _printable(error)) from None
    except RecursionError:
        raise _odd(where, 200, "it is nested too deeply") from None


def counted(body: Mapping[str, Any], where: str) -> int:
    """The total of a search's answer that was told to count, exact or not. Raises AnswerError."""
    total = body["hits"].get("total")
    value = total.get("value") if isinstance(total, Mapping) else total
    if not isinstance(value, int):
        raise _odd(where, 200, "it has no total - at `$.hits`")
    return value


def last_sort(hits: Sequence[Mapping[str, Any]], where: str, before: list[Any] | None) -> list[Any]:
    """The sort values of a page's last hit, after which the next page begins.

    Args:
        hits: the page.
        where: the request, for the error.
        before: what the page was asked to begin after.

    Raises:
        AnswerError: there are none, or the page ends where it began: it would come again without end.
    """
    values = hits[-1].get("sort")
    if not isinstance(values, list) or not values:
        raise _odd(where, 200, "its last hit has no sort values, so the next page has no beginning")
    if values == before:
        raise _odd(where, 200, "it is the page before once more")
    return values


def refused_line(body: Any, lines: int, where: str) -> BulkOutcome | None:
    """The first line of a bulk request that was refused, or None where each one is confirmed.

    Args:
        body: the answer.
        lines: how many documents were sent.
        where: the request, for the error.

    Raises:
        AnswerError: it doesn't answer what was sent.
    """
    answer = part(BulkAnswer, body, where)
    told = [outcome for item in answer.items for outcome in item.values()]
    if len(told) != lines:
        raise _odd(where, 200, f"{lines} lines were sent, {len(told)} answered")
    return next((one for one in told if one.status >= 300), None)
