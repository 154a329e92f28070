# Generated from esembed/_async/privileges.py by scripts/run_unasync.py; change that file and run the script.
"""Whether these credentials may do what a run does late, found out before it changes anything.

No question serves everywhere: Elasticsearch has ``_security/user/_has_privileges``, OpenSearch's security
plugin nothing of the kind, a proxy neither. So the requests that come late are sent early, in a form that
changes nothing (a setting that is as it was, a write on a condition that can't hold). Credentials are checked
before content, so that what is refused now names the right that would be missing then, in the engine's words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esembed.dialect.alias import AliasProperties
from esembed.errors import AuthorizationError
from esembed.transport import Response, error_from_response

from .client import EngineClient
from .live import LiveIndex, index_path

__all__ = ["Trial", "may_block", "may_change", "may_move", "may_read", "may_write", "require"]

_NEVER = {"if_seq_no": 2**62, "if_primary_term": 1}
"""A condition that no document meets: the write is a conflict (409), and nothing is written or counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A request that shows whether something is allowed, and changes nothing.

    Attributes:
        what: what is tried, for people, after "to".
        method, path, params, body: the request's.
    """

    what: str
    method: str
    path: str
    params: Mapping[str, Any] | None = None
    body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None


def may_read(index: str, *, copy: bool = False) -> list[Trial]:
    """To search an index.

    Args:
        copy: also what a copy of it needs, that keeps up with what is written meanwhile.
    """
    path = f"/{index_path(index)}"
    body = {"size": 0, "terminate_after": 1}
    trials = [Trial(what=f"search {index!r}", method="POST", path=f"{path}/_search", body=body)]
    if copy:
        trials += [
            Trial(what=f"read the statistics of {index!r}", method="GET", path=f"{path}/_stats/docs"),
            Trial(what=f"read the settings of {index!r}", method="GET", path=f"{path}/_settings"),
            Trial(what=f"read the mapping of {index!r}", method="GET", path=f"{path}/_mapping"),
            Trial(what=f"refresh {index!r}", method="POST", path=f"{path}/_refresh"),
        ]
    return trials


def may_write(index: str) -> list[Trial]:
    """To write and delete documents of an index that is there, to find those that are, and to make them
    searchable."""
    lines: list[Mapping[str, Any]] = [
        {"index": {"_id": "esembed-privileges", **_NEVER}},
        {},
        {"delete": {"_id": "esembed-privileges", **_NEVER}},
    ]
    path = f"/{index_path(index)}"
    return [
        # Without the index's pipeline, which may answer an empty document by an error of its own.
        Trial(
            what=f"write documents of {index!r}",
            method="POST",
            path=f"{path}/_bulk",
            params={"pipeline": "_none"},
            body=lines,
        ),
        Trial(
            what=f"look documents of {index!r} up",
            method="POST",
            path=f"{path}/_mget",
            body={"ids": ["esembed-privileges"]},
        ),
        Trial(what=f"refresh {index!r}", method="POST", path=f"{path}/_refresh"),
        *may_read(index),
    ]


def may_change(index: LiveIndex, *, settings: bool = True) -> list[Trial]:
    """To write what an index says about itself, and its settings."""
    name = index.concrete_index
    path = f"/{index_path(name)}"
    trials = [
        Trial(
            what=f"change the mapping of {name!r} (_meta)",
            method="PUT",
            path=f"{path}/_mapping",
            body={"properties": {}},
        )
    ]
    if settings:
        # preserve_existing: whatever the setting is by now, it stays.
        same = {"index": {"number_of_replicas": index.settings.get("number_of_replicas", 1)}}
        trials.append(
            Trial(
                what=f"change settings of {name!r}",
                method="PUT",
                path=f"{path}/_settings",
                params={"preserve_existing": "true"},
                body=same,
            )
        )
    return trials


def may_block(index: str) -> list[Trial]:
    """To block the writes to an index. Blocks them: for one that nobody writes to yet, or that is blocked."""
    path = f"/{index_path(index)}/_block/write"
    return [Trial(what=f"block writes to {index!r}", method="PUT", path=path)]


def may_move(alias: str, index: LiveIndex, *, properties: AliasProperties | None) -> list[Trial]:
    """To move an alias from or to an index.

    Args:
        properties: the alias's, where the index has it: it is added again as it is. None: it is removed from
            an index that doesn't have it.
    """
    name = index.concrete_index
    action: dict[str, Any] = {"remove": {"index": name, "alias": alias, "must_exist": False}}
    if properties is not None:
        action = {"add": {"index": name, "alias": alias, **properties.to_dict()}}
    return [
        Trial(
            what=f"move the alias {alias!r} of {name!r}",
            method="POST",
            path="/_aliases",
            body={"actions": [action]},
        )
    ]


def require(client: EngineClient, what: str, trials: Iterable[Trial]) -> None:
    """Find out whether these credentials may do all of it.

    Args:
        what: what is about to be done, for the error ("a migration").

    Raises:
        AuthorizationError: not all of it; names each right that is missing.
    """
    lacking = []
    for trial in trials:
        answer = client.request(
            trial.method,
            trial.path,
            params=trial.params,
            body=trial.body,
            # Anything else that is wrong is told by the request that is meant.
            ignore=[status for status in range(400, 500) if status not in (401, 429)],
        )
        if (refused := _refused(answer)) is not None:
            error = error_from_response(trial.method, trial.path, refused)
            lacking.append(f"to {trial.what}: {getattr(error, 'reason', None) or error.message}")
    if lacking:
        reason = "\n".join(f"  - {one}" for one in lacking)
        raise AuthorizationError(
            f"{what} needs rights that these credentials lack; nothing was changed:\n{reason}\n"
            "docs/permissions.md has the role that is enough",
            status=403,
            reason="; ".join(lacking),
        )


def _refused(answer: Response) -> Response | None:
    """The refusal in an answer, or None."""
    if answer.status == 403:
        # A block is an index's, not a right that is missing.
        return None if "cluster_block_exception" in str(answer.body) else answer
    items = answer.body.get("items") if isinstance(answer.body, Mapping) else None
    for item in items if isinstance(items, list) else ():
        for result in item.values() if isinstance(item, Mapping) else ():
            if isinstance(result, Mapping) and result.get("status") == 403:
                error = result.get("error")
                if not (isinstance(error, Mapping) and error.get("type") == "cluster_block_exception"):
                    return Response(403, {"error": error})
    return None
