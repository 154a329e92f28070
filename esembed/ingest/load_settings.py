"""Settings that are changed for a load, and put back before it is called done, also after a crash.

What they were is written under ``_meta.esembed_load`` first; a later run that finds it there puts
*those* values back, so a killed load never leaves an index without replicas or refresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from esembed.errors import IndexChangedError, OptionsError
from esembed.ingest.target import TargetIndex
from esembed.plan import IndexPlan

__all__ = ["LoadSettings", "check_durability"]

MARKER = "esembed_load"
GRAPHS = "knn.advanced.approximate_threshold"
KNOWN = ("refresh_interval", "number_of_replicas", GRAPHS)


def check_durability(settings: Mapping[str, Any], index: str) -> None:
    """Refuse an index whose translog is written late: what it confirms can be lost with the node.

    Raises:
        OptionsError: ``index.translog.durability`` is ``async``.
    """
    if settings.get("translog", {}).get("durability") == "async":
        raise OptionsError(
            f"{index} has index.translog.durability = async: what the engine confirms can be lost, and then "
            'a resumed load would leave holes. Set it to "request" for the load',
            option="index.translog.durability",
        )


class LoadSettings:
    """Changes an index's settings for a load and puts them back.

    Args:
        engine: the index.
        plan: its ``load`` section says what to change.
        kind: which engine it is.
        notice: takes messages for the person.
    """

    def __init__(
        self, engine: TargetIndex, plan: IndexPlan, kind: str, notice: Callable[[str], None]
    ) -> None:
        self._engine, self._load, self._kind, self._notice = engine, plan.load, kind, notice
        self._before: dict[str, Any] | None = None

    @property
    def crashed_before(self) -> bool:
        """Whether an earlier load of this index ended without putting its settings back."""
        return self._found

    _found = False

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Remember and change.

        Args:
            settings: the index's settings as they are.
        """
        meta = dict(self._engine.mapping().get("_meta", {}))
        marker = meta.get(MARKER)
        before: dict[str, Any] | None = None
        if isinstance(marker, Mapping) and isinstance(marker.get("settings"), Mapping):
            # _meta is untrusted input: only these, only as plain values.
            before = {k: v for k, v in marker["settings"].items() if k in KNOWN}
            before = {k: v for k, v in before.items() if v is None or isinstance(v, (str, int))}
            self._found = True
            self._notice("an earlier load did not put the index's settings back; this one will")
        change: dict[str, Any] = {}
        if not self._load.refresh:
            change["refresh_interval"] = "-1"
        if self._load.replicas is not None:
            change["number_of_replicas"] = self._load.replicas
        if self._load.graph_threshold is not None:
            if self._kind == "opensearch":
                change[GRAPHS] = self._load.graph_threshold
            else:
                self._notice("load.graph_threshold is a setting of OpenSearch; it does nothing here")
        if not change and before is None:
            return
        if before is None:
            before = {
                "refresh_interval": settings.get("refresh_interval"),
                "number_of_replicas": settings.get("number_of_replicas"),
            }
            if GRAPHS in change:
                before[GRAPHS] = self._engine.setting(GRAPHS)
            self._engine.put_meta({**meta, MARKER: {"settings": before}})
        self._before = before
        if change:
            self._engine.put_settings(change)

    def end(self) -> None:
        """Put everything back, then take the marker away."""
        if self._before is None:
            return
        self._engine.put_settings(self._before)
        now = self._engine.settings()
        for name, value in self._before.items():
            if name != GRAPHS and value is not None and str(now.get(name)) != str(value):
                raise IndexChangedError(
                    f"{self._engine.index}: {name} is {now.get(name)} instead of {value} after the load; set "
                    "it by hand",
                    index=self._engine.index,
                )
        meta = dict(self._engine.mapping().get("_meta", {}))
        if meta.pop(MARKER, None) is not None:
            self._engine.put_meta(meta)
        self._before = None

    def merge(self) -> None:
        """Force-merge where the plan asks for it."""
        if self._load.force_merge_segments is not None:
            self._engine.force_merge(self._load.force_merge_segments)
