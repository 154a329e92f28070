"""What the index made of the documents that were written: a sample of them, read back and compared.

The engines confirm a document that an ingest pipeline changed, or a value that no search will find, as they
confirm any other. So where an index has a pipeline that isn't ours, or ignores malformed values, some of what
a run wrote is looked at once it is done. Other indices cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from esembed.dialect.inference import PIPELINE_PREFIX
from esembed.dialect.meta import TEXT_PREFIX
from esembed.dialect.source_rules import within
from esembed.ingest.bulk import BulkAction
from esembed.plan import IndexPlan

if TYPE_CHECKING:
    from esembed.ingest.target import TargetIndex

__all__ = ["SAMPLE_DOCUMENTS", "WrittenSample", "foreign_pipelines"]

SAMPLE_DOCUMENTS = 100
"""How many documents are looked at: what a pipeline does it mostly does to all, and this is one request."""

SAMPLE_BYTES = 4 * 1024 * 1024
"""The most that is kept of them meanwhile."""


def foreign_pipelines(settings: Mapping[str, Any]) -> list[str]:
    """The ingest pipelines that an index runs, without those that compute a plan's vectors.

    Args:
        settings: what stands under ``index``.
    """
    found = [str(settings.get(name) or "_none") for name in ("default_pipeline", "final_pipeline")]
    return [name for name in found if name != "_none" and not name.startswith(PIPELINE_PREFIX)]


class WrittenSample:
    """The first documents that a run wrote, as they were sent. Not thread-safe by itself.

    Args:
        plan: of the run.
    """

    def __init__(self, plan: IndexPlan) -> None:
        self._plan = plan
        self._sent: dict[str, bytes] = {}
        self._routing: dict[str, str] = {}
        self._bytes = 0

    def add(self, action: BulkAction) -> None:
        """Keep a whole document that the engine took; a later one of the same id replaces it."""
        known = action.id in self._sent
        # Called for each record of a load: what is not kept is not cut out of its line, either.
        if not known and len(self._sent) >= SAMPLE_DOCUMENTS:
            return
        body = action.lines[-1].split(b"\n", 2)[1]
        if not known and self._bytes + len(body) > SAMPLE_BYTES:
            return
        self._bytes += len(body) - len(self._sent.get(action.id, b""))
        self._sent[action.id] = body
        routing = getattr(getattr(action.tag, "document", None), "routing", None)
        if routing is not None:
            self._routing[action.id] = routing

    def compare(self, target: TargetIndex, who: str) -> list[str]:
        """What the index has otherwise than it was sent, a line each for a person.

        Args:
            who: who may have changed it.
        """
        if not self._sent:
            return []
        lines = []
        rules = target.source_rules
        if foreign := self._changed(target):
            changed, fields = foreign
            lines.append(
                f"{who} changed {changed} of {len(self._sent)} documents that were looked at "
                f"({', '.join(map(repr, sorted(fields)[:8]))}): the index has other values than the records, "
                "and vectors are made from the records"
            )
        if rules.ignore_malformed or rules.malformed:
            target.refresh()
            ignored = target.ignored(list(self._sent))
            names = sorted({name for fields in ignored.values() for name in fields})
            if ignored:
                lines.append(
                    f"{len(ignored)} of {len(self._sent)} documents that were looked at hold a value that "
                    f"doesn't fit its field ({', '.join(map(repr, names[:8]))}): it is kept, and can't be "
                    "searched (ignore_malformed)"
                )
        return lines

    def _changed(self, target: TargetIndex) -> tuple[int, set[str]] | None:
        rules = target.source_rules
        if rules.synthetic:  # it comes back in the engine's own form, which isn't the record's
            return None
        # What isn't read back, or comes back in another form: vectors, and our own fields but for the hash.
        plan = self._plan
        aside = {plan.field_path(name).partition(".")[0] for name, _ in plan.vector_fields()}
        aside |= set() if plan.chunk is None else {plan.chunk.path}
        changed: set[str] = set()
        count = 0
        stored = target.sources(list(self._sent), self._routing)
        for doc_id, body in self._sent.items():
            if doc_id not in stored:
                continue  # somebody deleted it meanwhile
            sent, has = orjson.loads(body), stored[doc_id]
            differs = {
                name
                for name in sent.keys() | has.keys()
                if sent.get(name) != has.get(name)
                and name not in aside
                and not name.startswith(TEXT_PREFIX)
                and not any(within(path, (name,)) for path in target.lost)
            }
            count += bool(differs)
            changed |= differs
        return (count, changed) if count else None
