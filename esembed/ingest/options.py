"""What an ingest is told, and what it tells: options, progress, report."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import orjson

from esembed.deprecation import old_names, renamed
from esembed.errors import OptionsError
from esembed.ingest.dead_letters import KEPT_ERRORS, Reason, merge_reasons
from esembed.option_checks import check_numbers
from esembed.types import ItemError

if TYPE_CHECKING:
    from esembed.report_page import Html

__all__ = [
    "ALL_FIELDS",
    "ON_MISSING_TEXT",
    "IngestOptions",
    "IngestReport",
    "LogProgress",
    "MissingVectors",
    "Progress",
    "ProgressState",
    "Settled",
    "VerifyResult",
    "merge_missing",
]

ON_MISSING_TEXT = (
    'on_missing_text="skip" (--on-missing-text skip) lets every vector field be missing; write optional = '
    "true for those of the plan that may be, or optional=[…] (--optional FIELD) for this load. The old "
    "switch goes with the release after 0.2"
)
"""What a run says that was asked for the old switch."""

NAMED_IDS = 10
"""Ids of documents without a vector that a report names, for each field."""

ALL_FIELDS = "*"
"""Stands for every vector field in ``IngestOptions.optional``."""

SHOWN_REASONS = 5
"""Kinds of dead letters that the summary names."""

logger = logging.getLogger("esembed.ingest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """How far a source is settled.

    Attributes:
        records: the first so many records have their outcome: nothing of them is on its way any more.
        position: where the last of these stood in its source (``Document.position``), or None.
    """

    records: int
    position: str | None = None


@renamed(
    max_chunk_bytes="max_request_bytes",
    max_chunk_documents="max_request_documents",
    linger_seconds="flush_interval_seconds",
    resume="skip_unchanged",
    missing_text="on_missing_text",
    nan="on_nan",
    tuning="apply_load_settings",
    trust="learn_weights",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """How records get in. Nothing of this changes what is stored.

    Attributes:
        max_request_bytes: the most bytes in one bulk request (a larger single document goes alone).
        max_request_documents: the most lines in one bulk request.
        max_in_flight: the most bulk requests at a time; fewer while the engine pushes back.
        buffer_bytes: the most bytes of records that wait between the stages, all together. The
            process takes two to three times that, and the requests that are out.
        encode_batch_documents: records that go to the encoders in one call, at most.
        encode_workers: encode calls at a time; more than 1 suits remote encoders.
        flush_interval_seconds: a bulk request that isn't full goes out after this long.
        request_timeout_seconds: for one bulk request; cut to *max_wait_seconds*, or to 10 if that is less.
        max_wait_seconds: how long an engine that is down, red, full, busy or blocked is waited for without
            anything being settled, before the run ends with an error (and can be resumed). A request that
            is out when the time is up is still waited for.
        dead_letters: the file for records that can't get in, with reason and position; None keeps
            the first ones in the report only.
        strict: end at the first record that can't get in.
        max_errors: end when more records than this could not get in; None is no limit.
        skip_unchanged: look up what the index has and leave unchanged records alone, which is what makes a
            second run resume the first; False writes all of them again.
        ledger: does nothing any more; the index is asked what it has.
        verify: afterward compare every document of the index with the source, by hash.
        sync: afterward delete what the source did not have.
        sync_max_delete: the largest share of the index that *sync* may delete, 0…1.
        optional: vector fields that records of this run may come without, beside those that the plan says are
            ``optional``; ``"*"`` for all.
        on_missing_text: deprecated; ``skip`` is ``optional=["*"]``.
        on_nan: a number that is no number is an ``error``, or becomes ``null``.
        vectors_only: write only vectors and the hash, as partial updates (backfill of an index).
        fields: new field name → name in the source (dots reach into objects).
        transform: a hook that changes each record (a dict); None as its answer leaves the record out.
        op_field: the field that makes a record of a change feed (``index``, ``update`` or
            ``delete``), unless the plan has a field of that name; None reads none.
        refresh: make everything searchable before the report.
        apply_load_settings: apply the plan's load settings (refresh, replicas, merge) and put them back.
        on_settled: told how many of the source's first records are settled (in the index, or in the
            dead-letter file) and where the last of them stood, a few times a second while that moves, and at
            the end: what a consumer of a feed may commit. Called in the thread that runs the ingest; what it
            raises ends the run.
        learn_weights: then estimate what each leg should weigh, without judgments, and store the
            default query's weights, where the plan's author wrote no query: once there are 50
            documents, and again when there are twice as many. At most 1,000 documents are read back, and
            at most 750 short texts encoded; ``stage_seconds["weights"]`` says how long that took.
    """

    # 8 MiB were no faster, and what is out lies in memory for each of the requests in flight.
    max_request_bytes: int = 4 * 1024 * 1024
    max_request_documents: int = 1_000
    max_in_flight: int = 4
    # A quarter waits in each of three queues and in front of the senders. With it a load of 200 thousand
    # records peaks at 228 MiB on Elasticsearch, at 172 on OpenSearch (docs/ingest.md).
    buffer_bytes: int = 32 * 1024 * 1024
    encode_batch_documents: int = 512
    encode_workers: int = 1
    flush_interval_seconds: float = 0.5
    request_timeout_seconds: float = 120.0
    max_wait_seconds: float = 600.0
    dead_letters: Path | None = None
    strict: bool = False
    max_errors: int | None = None
    skip_unchanged: bool = True
    ledger: Path | None = None
    verify: bool = False
    sync: bool = False
    sync_max_delete: float = 0.1
    optional: Collection[str] = ()
    on_missing_text: Literal["error", "skip"] = "error"
    on_nan: Literal["error", "null"] = "error"
    vectors_only: bool = False
    fields: Mapping[str, str] = field(default_factory=dict)
    transform: Callable[[dict[str, Any]], Mapping[str, Any] | None] | None = None
    op_field: str | None = "op"
    refresh: bool = True
    apply_load_settings: bool = True
    learn_weights: bool = True
    on_settled: Callable[[Settled], None] | None = None

    def __post_init__(self) -> None:
        check_numbers(
            self,
            whole={
                "max_request_bytes": (1, None),
                "max_request_documents": (1, None),
                "max_in_flight": (1, None),
                "buffer_bytes": (1, None),
                "encode_batch_documents": (1, None),
                "encode_workers": (1, None),
                "max_errors": (0, None),
            },
            real={
                "flush_interval_seconds": (0, None),
                "request_timeout_seconds": (0.001, None),
                "max_wait_seconds": (0, None),
                "sync_max_delete": (0, 1),
            },
            prefix="options.",
        )
        if isinstance(self.optional, str) or not all(isinstance(name, str) for name in self.optional):
            raise OptionsError(
                'takes a list of vector fields, as in ["embedding"]', option="options.optional"
            )
        object.__setattr__(self, "optional", tuple(self.optional))
        if self.dead_letters is not None:
            object.__setattr__(self, "dead_letters", Path(self.dead_letters))
        if self.ledger is not None:
            # A file that says what the index has is wrong as soon as anybody else writes to it, and to ask
            # the index is as fast: 2,000 hashes in one request.
            warnings.warn(
                "IngestOptions.ledger does nothing any more: a run asks the index what it has, which "
                "costs as much; the option goes with the release after 0.2",
                DeprecationWarning,
                stacklevel=5,
            )
            object.__setattr__(self, "ledger", None)  # said once, not by each dataclasses.replace
        if self.sync and self.vectors_only:
            raise OptionsError("sync and vectors_only can't go together", option="options.sync")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """What comparing index and source found, by id, hash and vectors.

    Attributes:
        same: documents that are as the source has them.
        different: ids (the first 100) whose hash or vectors are others, and how many.
        missing: ids that the source has and the index lacks.
        extra: ids that only the index has.
        vectors: field → how many documents lack its vector, or have another one than they should.
        newer: documents that were not compared, since the index has a newer version than the source's last
            record of them (``outdated``).
        dead_lettered: documents that were not compared, since the source's last record of them is a dead
            letter: they are what an earlier run left.
    """

    same: int
    different: tuple[str, ...] = ()
    different_count: int = 0
    missing: tuple[str, ...] = ()
    missing_count: int = 0
    extra: tuple[str, ...] = ()
    extra_count: int = 0
    vectors: Mapping[str, int] = field(default_factory=dict)
    newer: int = 0
    dead_lettered: int = 0

    def describe(self) -> str:
        """A line for a person."""
        text = (
            f"{self.same} as in the source, {self.different_count} different, {self.missing_count} missing, "
            f"{self.extra_count} only in the index"
        )
        if self.newer:
            text += f"; not compared: {self.newer} that are newer in the index"
        if self.dead_lettered:
            text += f"; not compared: {self.dead_lettered} whose records are dead letters"
        for name, count in self.vectors.items():
            text += f"; {count} other or missing vectors in {name}"
        return text

    @property
    def ok(self) -> bool:
        """Nothing missing, nothing different (extra documents are for ``sync`` to judge)."""
        return not (self.different_count or self.missing_count or self.vectors)


@dataclass(slots=True, kw_only=True)
class MissingVectors:
    """What went in without its vector in one field.

    Attributes:
        documents: written without any vector in the field.
        chunks: chunks written without one, those of such documents included.
        unknown: of the texts (or precomputed vectors) behind both, those that are there and whose vector says
            nothing: the encoder knows no word, all numbers are 0.
        ids: the first few of these documents.
    """

    documents: int = 0
    chunks: int = 0
    unknown: int = 0
    ids: list[str] = field(default_factory=list)

    def merge(self, other: MissingVectors) -> MissingVectors:
        """Both together, as a new one."""
        return MissingVectors(
            documents=self.documents + other.documents,
            chunks=self.chunks + other.chunks,
            unknown=self.unknown + other.unknown,
            ids=[*self.ids, *other.ids][:NAMED_IDS],
        )

    def describe(self, name: str) -> str:
        """A line for a person about the field *name*."""
        what = []
        if self.documents or not self.chunks:
            what.append(_documents(self.documents))
        if self.chunks:
            what.append(f"{self.chunks} chunk{'' if self.chunks == 1 else 's'}")
        why = f" ({self.unknown} with a text that its encoder knows nothing of)" if self.unknown else ""
        more = ", …" if len(self.ids) == NAMED_IDS and self.documents + self.chunks > NAMED_IDS else ""
        return f"{name}: {' and '.join(what)} without a vector{why}: {', '.join(self.ids)}{more}"


@renamed(dead="dead_lettered", notices="warnings")
@dataclass(slots=True, kw_only=True)
class IngestReport:
    """What happened. ``read == indexed + updated + deleted + unchanged + dead_lettered + skipped + dropped +
    rerouted + outdated`` holds when the run came to its end.

    Attributes:
        index: the index.
        read: records taken from the source, broken lines included.
        indexed: documents written whole (a replaced one counts, too).
        updated: partial updates written.
        deleted: delete records carried out (deleting what isn't there counts as done).
        unchanged: records that the index has already, under the same contract, and updates that the engine
            found to change nothing.
        dead_lettered: records that can't get in; they are in the dead-letter file.
        skipped: records that the transform hook left out.
        dropped: records that an ingest pipeline of the index dropped: they are not in the index.
        rerouted: records that a pipeline put into another index, or under another id.
        outdated: records (and deletes) that were left out since the index has a newer version of their
            document.
        created: of *indexed*, documents that were not there before.
        duplicates: whole records whose id an earlier one of the same run has. The last one wins; where the
            plan has a ``version_field``, the newest.
        duplicate_ids: the first 10 of their ids.
        sync_deleted: documents deleted because the source no longer has them (not part of *read*).
        sync_withheld: documents that the source no longer has and that ``sync`` left where they are: more
            than ``sync_max_delete``, or the source was not read whole.
        documents: in the index after the run, as a search by the same name finds them, chunks not counted;
            None where the run did not make its writes searchable.
        seconds: from start to end.
        stage_seconds: stage → seconds it was at work, waiting for other stages left out (``bulk``: at
            least one request was out).
        tokens: encoder tokens, all fields together.
        truncated: texts that were longer than their encoder takes.
        chunks: chunks made.
        bytes_read: of the source, where it is known.
        bytes_sent: in bulk requests, retries included.
        requests: bulk requests, retries included.
        retried_requests: of these, the ones sent again (whole or in part).
        retried_items: lines that were sent again.
        waited_seconds: spent waiting for an engine that pushed back or was down, over all senders.
        precomputed_vectors: vectors that came with their records and were sent.
        reused_vectors: vectors of documents that were replaced (a field's of all chunks count as one), which
            were kept since the new record has the same text for them.
        without_vector: vector field → the documents that this run wrote without a vector in it.
        cost_usd: what remote encoders cost, where their price is known.
        errors: the first 100 dead letters.
        reasons: dead letters by kind of reason, most frequent first, all of them counted.
        dead_letters: the dead-letter file, if one was written.
        complete: the source was read to its end.
        read_errors: records that could not even be read.
        statistics: BM25 term statistics by field (see esembed.encode.lexical.statistics), of what this
            run wrote.
        statistics_complete: the index was empty before and nothing was replaced or deleted, so
            that these statistics are the whole index's.
        verified: what ``verify`` found, or None.
        leg_weights: leg → its weight in the default query, where this run learned them.
        warnings: messages to the person (waits, restarts, retuning).
    """

    index: str = ""
    read: int = 0
    indexed: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    dead_lettered: int = 0
    skipped: int = 0
    dropped: int = 0
    rerouted: int = 0
    outdated: int = 0
    created: int = 0
    duplicates: int = 0
    duplicate_ids: list[str] = field(default_factory=list)
    sync_deleted: int = 0
    sync_withheld: int = 0
    documents: int | None = None
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    truncated: int = 0
    chunks: int = 0
    bytes_read: int = 0
    bytes_sent: int = 0
    requests: int = 0
    retried_requests: int = 0
    retried_items: int = 0
    waited_seconds: float = 0.0
    precomputed_vectors: int = 0
    reused_vectors: int = 0
    without_vector: dict[str, MissingVectors] = field(default_factory=dict)
    cost_usd: float = 0.0
    errors: list[ItemError] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    dead_letters: Path | None = None
    complete: bool = False
    read_errors: int = 0
    statistics: dict[str, Any] = field(default_factory=dict, repr=False)
    statistics_complete: bool = False
    verified: VerifyResult | None = None
    leg_weights: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def conclusion(self) -> str:
        """What came of it, in one sentence: whether all is in, and if not, where to look."""
        where = self.index or "the index"
        if self.dead_lettered:
            letters = f"; {self.dead_letters} has them with their reasons" if self.dead_letters else ""
            found = f"{self.dead_lettered} of {_records(self.read)} could not get into {where}{letters}"
        elif not self.read:
            found = f"No records were read for {where}"
        else:
            inside = self.indexed + self.updated + self.unchanged + self.deleted
            parts = [f"{n} {name}" for name in _IN_AND_OUT if (n := getattr(self, name))]
            every = "All" if inside == self.read else f"{inside} of"
            done = f"are applied to {where}" if self.deleted else f"are in {where}"
            found = f"{every} {_records(self.read)} {done}: {', '.join(parts)}"
            if not parts:  # a dry run
                found = f"{_records(self.read)} read and nothing written to {where}"
        if not self.complete:
            found += "; the source was not read to its end"
        if self.sync_deleted:
            found += f"; {self.sync_deleted} that the source no longer has were deleted"
        if self.sync_withheld:
            found += f"; {self.sync_withheld} that the source no longer has were not deleted"
        lacking = {name: one.documents + one.chunks for name, one in self.without_vector.items()}
        if lacking:
            found += f"; without a vector: {', '.join(f'{n} in {name}' for name, n in lacking.items())}"
        if self.verified is not None and not self.verified.ok:
            found += "; the index differs from the source"
        return found

    @property
    def settled(self) -> int:
        """Records of which is known what became of them."""
        return (
            self.indexed
            + self.updated
            + self.deleted
            + self.unchanged
            + self.dead_lettered
            + self.skipped
            + self.dropped
            + self.rerouted
            + self.outdated
        )

    @property
    def adds_up(self) -> bool:
        """Whether every record that was read is accounted for."""
        return self.read == self.settled

    @property
    def documents_per_second(self) -> float:
        """Records a second, over the whole run."""
        return self.read / self.seconds if self.seconds else 0.0

    @property
    def stage_shares(self) -> dict[str, float]:
        """Stage → its seconds divided by the run's; stages overlap, so they may sum to more than 1."""
        return {name: s / self.seconds if self.seconds else 0.0 for name, s in self.stage_seconds.items()}

    def merge(self, other: IngestReport) -> IngestReport:
        """Both together, as a new report: of two stages of one run, or of two workers that share its records.

        Counts, seconds of stages and waits are summed, dead letters of one kind are counted together.
        *seconds* is the longer one, since they ran side by side. *complete* and *statistics_complete* hold
        where they do in each that read, or counted, anything.
        """
        both = IngestReport()
        for name in self.__dataclass_fields__:
            first, second = getattr(self, name), getattr(other, name)
            if name in ("index", "dead_letters", "verified"):
                value = first or second
            elif name == "seconds":
                value = max(first, second)
            elif name == "complete":
                value = (first or second) and (first or not self.read) and (second or not other.read)
            elif name == "statistics_complete":
                value = (first or not self.statistics) and (second or not other.statistics)
                value = value and (first or second)
            elif name == "stage_seconds":
                value = {key: first.get(key, 0.0) + second.get(key, 0.0) for key in {**first, **second}}
            elif name == "statistics":
                value = {**first, **second}
                value |= {key: first[key].merge(second[key]) for key in first.keys() & second.keys()}
            elif name == "without_vector":
                value = merge_missing(first, second)
            elif name == "leg_weights":  # of the later run, which saw more
                value = second or first
            elif name == "documents":
                value = first if second is None else second
            elif name == "reasons":
                value = merge_reasons(first, second)
            elif name == "duplicate_ids":
                value = [*first, *second][:NAMED_IDS]
            elif name == "errors":
                value = [*first, *second][:KEPT_ERRORS]
            else:  # counts, seconds and sums of money; lists of messages
                value = first + second
            setattr(both, name, value)
        return both

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("errors", "reasons", "verified", "statistics", "dead_letters", "without_vector")
        }
        plain["conclusion"] = self.conclusion
        plain["without_vector"] = {name: asdict(one) for name, one in sorted(self.without_vector.items())}
        plain["documents_per_second"] = round(self.documents_per_second, 1)
        plain["stage_seconds"] = {k: round(v, 3) for k, v in self.stage_seconds.items()}
        plain["stage_shares"] = {k: round(v, 3) for k, v in self.stage_shares.items()}
        plain["seconds"] = round(self.seconds, 3)
        plain["waited_seconds"] = round(self.waited_seconds, 3)
        plain["adds_up"] = self.adds_up
        plain["errors"] = [asdict(e) for e in self.errors]
        plain["reasons"] = [asdict(r) for r in self.reasons]
        plain["dead_letters"] = str(self.dead_letters) if self.dead_letters else None
        plain["verified"] = asdict(self.verified) if self.verified else None
        plain["statistics"] = {k: getattr(v, "hash", None) for k, v in self.statistics.items()}
        # Programs that read the names of before find them for one more release.
        return plain | {old: plain[new] for old, new in old_names(self).items()}

    def to_json(self) -> str:
        """JSON text."""
        try:
            return orjson.dumps(self.to_dict(), option=orjson.OPT_INDENT_2).decode()
        except TypeError:  # half a character, in the name of a file that isn't UTF-8
            return json.dumps(self.to_dict(), indent=2)

    def html_page(self) -> Html:
        """One self-contained HTML page: what became of the records, why some could not get in, where the time
        went. Ids and reasons are escaped."""
        from esembed.ingest.report_page import html_page

        return html_page(self.to_dict())

    def write_html(self, path: str | Path) -> None:
        """Write :meth:`html_page` to a file, over an earlier report if there is one.

        Raises:
            OptionsError: the file can't be written, or holds something else than a report.
        """
        from esembed.report_page import write_page

        write_page(path, self.html_page(), "path")

    def summary(self) -> str:
        """A few lines for a person."""
        indexed = f"{self.indexed} indexed"
        if self.indexed:
            indexed += f" ({self.created} new, {self.indexed - self.created} replaced)"
        parts = [f"{self.read} read", indexed]
        for name in (
            "updated",
            "deleted",
            "unchanged",
            "dead_lettered",
            "skipped",
            "dropped",
            "rerouted",
            "outdated",
        ):
            if getattr(self, name):
                parts.append(f"{getattr(self, name)} {name.replace('_', '-')}")
        if self.sync_deleted:
            parts.append(f"{self.sync_deleted} deleted by sync")
        if self.sync_withheld:
            parts.append(f"{self.sync_withheld} not deleted by sync")
        text = f"{', '.join(parts)} in {self.seconds:.1f} s ({self.documents_per_second:.0f}/s)"
        if self.documents is not None:
            text += f"; {_documents(self.documents)} in {self.index or 'the index'} now"
        if self.tokens:
            text += f"; {self.tokens} tokens encoded"
        if self.cost_usd:
            text += f" for about {self.cost_usd:.4g} USD"
        if self.reused_vectors:
            text += f"; {self.reused_vectors} vectors kept, since their texts are the same"
        if self.truncated:
            text += f"; {self.truncated} texts were cut to what their encoder takes"
        if self.duplicates:
            more = ", …" if self.duplicates > len(self.duplicate_ids) else ""
            text += (
                f"\n{_records(self.duplicates)} with the id of an earlier one, which the last one (by the "
                f"plan's version_field: the newest) replaces: {', '.join(self.duplicate_ids)}{more}"
            )
        for name, missing in sorted(self.without_vector.items()):
            text += f"\n{missing.describe(name)}"
        if self.dead_lettered and self.dead_letters:
            text += f"\n{self.dead_lettered} dead letters with reasons: {self.dead_letters}"
        for found in self.reasons[:SHOWN_REASONS]:
            where = f" ({found.position})" if found.position else ""
            first = found.reason.partition("\n")[0]
            text += f"\n  {found.count} × {first if len(first) <= 240 else first[:239] + '…'}{where}"
        if len(self.reasons) > SHOWN_REASONS:
            text += f"\n  … and {len(self.reasons) - SHOWN_REASONS} other kinds"
        return text

    def __str__(self) -> str:
        """The summary; ``repr`` has every count."""
        return self.summary()


_IN_AND_OUT = ("indexed", "updated", "unchanged", "deleted", "skipped", "dropped", "rerouted", "outdated")
"""Counts of a run without dead letters, as a sentence lists them."""


def _documents(count: int) -> str:
    return f"{count} document{'' if count == 1 else 's'}"


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"


def merge_missing(
    one: Mapping[str, MissingVectors], other: Mapping[str, MissingVectors]
) -> dict[str, MissingVectors]:
    """Field → what went in without its vector, of both together."""
    none = MissingVectors()
    return {name: one.get(name, none).merge(other.get(name, none)) for name in {**one, **other}}


@renamed(dead="dead_lettered")
@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressState:
    """Where a run is.

    Attributes:
        phase: ``load``; before it ``encoders`` (models are loaded); after it ``merge``, ``refresh``,
            ``verify``, ``sync``, ``terms`` (of lexical fields, counted again), ``weights`` (of the legs,
            learned) and ``done``. Of a migration also ``compare`` (ids of both versions) and ``gate``
            (results of both). All numbers are those of the phase; ``done`` has the load's.
        read: records read so far.
        done: records settled so far (in the index, unchanged, dead or skipped).
        dead_lettered: of these, dead letters.
        total: records in all, where it is known.
        fraction: share of the work that is settled, 0…1, where it can be told.
        seconds: since the start.
        documents_per_second: settled, over the last half minute.
        eta_seconds: what is left at that rate, or None.
        tokens: encoder tokens so far.
    """

    phase: str
    read: int
    done: int
    dead_lettered: int
    total: int | None
    fraction: float | None
    seconds: float
    documents_per_second: float
    eta_seconds: float | None
    tokens: int = 0


class Progress(Protocol):
    """Told about twice a second how far a run is, and at once what a person should know; from several
    threads. What it raises ends the run."""

    def update(self, state: ProgressState) -> None:
        """How far it is."""
        ...

    def notice(self, message: str) -> None:
        """What a person should know now."""
        ...


class LogProgress:
    """A log line a minute, for runs without a terminal.

    Args:
        every_seconds: how often.
    """

    def __init__(self, every_seconds: float = 60.0) -> None:
        self._every = every_seconds
        self._last = time.monotonic()

    def update(self, state: ProgressState) -> None:
        """Logs when a minute has passed, and at the end."""
        now = time.monotonic()
        if state.phase != "done" and now - self._last < self._every:
            return
        self._last = now
        share = "" if state.fraction is None else f" ({state.fraction:.1%})"
        eta = "" if state.eta_seconds is None else f", about {state.eta_seconds:.0f} s left"
        logger.info(
            "%s: %d records settled%s, %d dead, %.0f/s, %.0f s so far%s",
            state.phase,
            state.done,
            share,
            state.dead_lettered,
            state.documents_per_second,
            state.seconds,
            eta,
        )

    def notice(self, message: str) -> None:
        """Logs a warning."""
        logger.warning("%s", message)
