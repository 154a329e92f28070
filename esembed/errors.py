"""Every error that esembed raises, in one tree.

::

    EsembedError
    ├── InvariantError            a fault of esembed itself; please report it
    ├── PermanentError            trying again with the same input can't help
    │   ├── PlanError             a plan, or what an index says about its plan (``path`` names the place)
    │   ├── OptionsError          an option, or two that contradict each other (``option``)
    │   │   └── DeleteLimitError      more would be deleted than the limit allows (``report``)
    │   ├── SourceError           a source of records that can't be read (``source``)
    │   ├── AliasError            a name that is no alias, or the wrong one (``alias``)
    │   ├── QueryError            a query that can't be compiled
    │   ├── UnsupportedFeatureError   the engine lacks something (``gaps`` lists all of it)
    │   ├── EncoderError          a model that can't be loaded or doesn't fit
    │   ├── ContractError         the index was encoded otherwise than this encoder does it
    │   ├── RecordError           one record is wrong (``record_id``, ``field``, ``position``)
    │   ├── EventLoopError        an async client used in another event loop than its own
    │   ├── IndexNotFoundError    no such index
    │   ├── IndexExistsError      an index of that name exists, with another plan
    │   ├── IndexChangedError     the index was deleted or made again while it was used
    │   ├── MappingDriftError     the live mapping is not the plan's
    │   ├── EngineStartError      a local or containerized engine did not start
    │   ├── DownloadError         an artifact is missing or its checksum is wrong
    │   └── EngineRequestError    the engine refused a request (``status``, ``reason``)
    │       └── AuthorizationError    401 or 403
    └── TransientError            trying again later can help
        ├── EngineUnavailableError    no connection, 429, 502, 503, 504, time-out
        └── RateLimitedError      a remote encoder asked to wait (``retry_after_seconds``)

Attributes carry what a program needs, the message what a person needs. All are picklable, so they
cross process borders whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from esembed.foreign import escaped

__all__ = [
    "AliasError",
    "AnswerError",
    "AuthorizationError",
    "ContractError",
    "DeleteLimitError",
    "DownloadError",
    "EncoderError",
    "EncoderPickleError",
    "EngineRequestError",
    "EngineStartError",
    "EngineUnavailableError",
    "EsembedError",
    "EventLoopError",
    "IndexChangedError",
    "IndexExistsError",
    "IndexNotFoundError",
    "InvariantError",
    "MappingDriftError",
    "OptionsError",
    "PermanentError",
    "PlanError",
    "QueryError",
    "RateLimitedError",
    "RecordError",
    "SourceError",
    "TransientError",
    "UnsupportedFeatureError",
    "message_of",
]


def _rebuild(cls: type[EsembedError], message: str, state: dict[str, Any]) -> EsembedError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class EsembedError(Exception):
    """The root of all errors that esembed raises on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        """The message as a terminal can show it: an engine's reason or a file's name may hold anything."""
        return escaped(self.message)

    def __reduce__(self) -> tuple[Callable[..., EsembedError], tuple[Any, ...]]:
        return _rebuild, (type(self), self.message, dict(self.__dict__))


class PermanentError(EsembedError):
    """Trying again with the same input can't help."""


class TransientError(EsembedError):
    """Trying again later can help."""


class InvariantError(EsembedError, AssertionError):
    """What can't be, is: a fault of esembed. The message asks for a report."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message}. This is a fault of esembed; please report it with the full traceback")


class PlanError(PermanentError):
    """A plan that is wrong, or what an index says about its plan.

    Attributes:
        path: where, as a dotted path (``dense.embedding.dims``); empty when it is the whole plan.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class OptionsError(PermanentError):
    """An option that is out of range or unknown, or two options that contradict each other.

    Attributes:
        option: the option's name, dotted where it lies in another (``options.sync``), or empty.
    """

    def __init__(self, message: str, *, option: str = "") -> None:
        super().__init__(f"{option}: {message}" if option else message)
        self.option = option


class DeleteLimitError(OptionsError):
    """More documents would be deleted than the limit allows (``sync_max_delete``, ``max_delete``); none was.

    Attributes:
        found: how many would be deleted.
        total: how many the index has.
        report: of an ingest with ``sync``, whose records are in: its report, as it would have been returned.
            None where nothing was written.
    """

    def __init__(self, message: str, *, option: str, found: int, total: int, report: Any = None) -> None:
        super().__init__(message, option=option)
        self.found = found
        self.total = total
        self.report = report


class SourceError(PermanentError):
    """A source of records that isn't there, can't be read, or is no source.

    Attributes:
        source: its name as it was given, without secrets; empty for an object.
    """

    def __init__(self, message: str, *, source: str = "") -> None:
        super().__init__(message)
        self.source = source


class AliasError(PermanentError):
    """A name that is no alias, that stands for something else, or an alias that nothing can be done with.

    Attributes:
        alias: the name.
    """

    def __init__(self, message: str, *, alias: str) -> None:
        super().__init__(message)
        self.alias = alias


class QueryError(PermanentError):
    """A query that can't be compiled: an unknown field, a window smaller than the page …

    Attributes:
        field: the field or option at fault, or None.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnsupportedFeatureError(PermanentError):
    """What was asked for is not in this engine, version, license or build; or the credentials may not ask
    whether it is.

    Attributes:
        gaps: one line for each missing thing, with its remedy.
        profile: the name of the capability profile that lacks them.
        unknown: what the credentials could not ask for, and which counts as missing.
    """

    def __init__(self, gaps: Sequence[str], *, profile: str, unknown: Sequence[str] = ()) -> None:
        lines = "\n".join(f"  - {gap}" for gap in gaps)
        message = f"{profile} can't do this:\n{lines}"
        if unknown:
            # What is not known is not absent: nobody must upgrade or install a thing that is there.
            asked = "\n".join(f"  - {one}" for one in unknown)
            message = (
                f"{profile}, as far as these credentials can tell, can't do this:\n{lines}\nWhat they may "
                f"not ask for counts as missing, and may be there:\n{asked}\nGive them the cluster privilege "
                "monitor (cluster_monitor on OpenSearch), or pass capabilities="
            )
        super().__init__(message)
        self.gaps = tuple(gaps)
        self.profile = profile
        self.unknown = tuple(unknown)


class EncoderError(PermanentError):
    """A model that can't be loaded, is not understood, or doesn't fit the plan.

    Attributes:
        spec: the encoder's spec string, or None.
    """

    def __init__(self, message: str, *, spec: str | None = None) -> None:
        super().__init__(message)
        self.spec = spec


class EncoderPickleError(EncoderError, TypeError):
    """An encoder that a pickle can't say how to load. A TypeError too, which is what ``pickle`` raises."""


class ContractError(PermanentError):
    """The encoder at hand is not the one that filled the index.

    Attributes:
        field: the vector field.
        differences: declared attribute → (in the index, at hand).
    """

    def __init__(
        self, message: str, *, field: str, differences: Mapping[str, tuple[Any, Any]] | None = None
    ) -> None:
        super().__init__(message)
        self.field = field
        self.differences = dict(differences or {})


class RecordError(PermanentError):
    """One record is wrong; the others go on.

    Attributes:
        record_id: the document's id, if it is known by then.
        field: the field at fault, if it is one.
        position: where in the source it stood (``file.jsonl:17``), if it is known.
    """

    def __init__(
        self,
        message: str,
        *,
        record_id: str | None = None,
        field: str | None = None,
        position: str | None = None,
    ) -> None:
        super().__init__(message)
        self.record_id = record_id
        self.field = field
        self.position = position


class EventLoopError(PermanentError):
    """An async client, or an index made with it, is used in another event loop than the one it began in.

    Its connections live in that loop: open the client and the index in the loop that uses them.
    """


class IndexNotFoundError(PermanentError):
    """There is no index of that name (``index``)."""

    def __init__(self, message: str, *, index: str) -> None:
        super().__init__(message)
        self.index = index


class IndexExistsError(PermanentError):
    """An index of that name (``index``) exists, and its plan is another one (or it has none)."""

    def __init__(self, message: str, *, index: str) -> None:
        super().__init__(message)
        self.index = index


class IndexChangedError(PermanentError):
    """The index (``index``) was deleted, or made again under its name, while it was used."""

    def __init__(self, message: str, *, index: str) -> None:
        super().__init__(message)
        self.index = index


class MappingDriftError(PermanentError):
    """The live mapping is not what the plan compiles to (``differences``: one line each)."""

    def __init__(self, message: str, *, index: str, differences: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.index = index
        self.differences = tuple(differences)


class EngineStartError(PermanentError):
    """A local or containerized engine did not start (``log_tail``: the end of its log)."""

    def __init__(self, message: str, *, log_tail: str = "") -> None:
        super().__init__(message)
        self.log_tail = log_tail


class DownloadError(PermanentError):
    """An artifact can't be had, or what arrived has another checksum than the pinned one."""


class EngineRequestError(PermanentError):
    """The engine refused a request.

    Attributes:
        status: the HTTP status.
        error_type: the engine's own error type (``illegal_argument_exception``), or None.
        reason: the engine's own reason, or None.
        body: the whole answer, parsed where it is JSON.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        error_type: str | None = None,
        reason: str | None = None,
        body: Any = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.reason = reason
        self.body = body


class AnswerError(EngineRequestError):
    """An engine's answer, by its status a success, is not what the request's answers are: a proxy's page, a
    missing or mistyped part. Names the request and the place in the answer."""


class AuthorizationError(EngineRequestError):
    """401 or 403: wrong or missing credentials, or a privilege or license that is lacking."""


class EngineUnavailableError(TransientError):
    """No connection, a time-out, or an answer that asks to come back later.

    Attributes:
        status: the HTTP status (429, 502, 503, 504), or None without an answer.
        retry_after_seconds: what the engine asked for, or None.
        unreadable: an answer came, and it was cut or isn't JSON.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after_seconds: float | None = None,
        unreadable: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.unreadable = unreadable


class RateLimitedError(TransientError):
    """A remote encoder asked to slow down (``retry_after_seconds``, or None)."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


def message_of(error: BaseException) -> str:
    """What an error says; nothing where it holds what can't be shown (str() of a KeyError of an odd key
    raises in turn)."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001
        return ""
