"""Settings that are changed for a load, and restored before it is called done, also after a crash.

What they were is written under ``_meta.esembed_load`` first; a later run that finds it there puts
*those* values back, so a killed load never leaves an index without replicas or refresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from esembed.dialect.mapping import MappingCompiler
from esembed.errors import AuthorizationError, IndexChangedError, OptionsError
from esembed.ingest.target import TargetIndex
from esembed.plan import IndexPlan

__all__ = ["LoadSettings", "check_durability"]

MARKER = "esembed_load"

PLAIN = ("refresh_interval", "number_of_replicas")
"""Settings that stand by these names at the top of ``GET /INDEX/_settings``; others are dotted."""


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
        target: the index.
        plan: its ``load`` section says what to change.
        mapping: the engine's, which knows the settings' names.
        warn: takes messages for the person.
    """

    def __init__(
        self,
        target: TargetIndex,
        plan: IndexPlan,
        mapping: MappingCompiler,
        warn: Callable[[str], None],
    ) -> None:
        self._target, self._plan, self._mapping, self._warn = target, plan, mapping, warn
        self._before: dict[str, Any] | None = None

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Remember and change.

        Args:
            settings: the index's settings as they are.
        """
        meta = dict(self._target.mapping().get("_meta", {}))
        marker = meta.get(MARKER)
        before: dict[str, Any] | None = None
        if isinstance(marker, Mapping) and isinstance(marker.get("settings"), Mapping):
            # _meta is untrusted input: only these, only as plain values.
            known = (*PLAIN, *self._mapping.load_setting_names)
            before = {k: v for k, v in marker["settings"].items() if k in known}
            before = {k: v for k, v in before.items() if v is None or isinstance(v, (str, int))}
            self._warn("an earlier load did not put the index's settings back; this one will")
        change, notes = self._mapping.load_settings(self._plan.load)
        for note in notes:
            self._warn(note)
        if not change and before is None:
            return
        fresh = before is None
        if before is None:
            before = {name: settings.get(name) for name in PLAIN}
            before |= {name: self._target.setting(name) for name in change if name not in PLAIN}
            # Before the change: a run that is killed between the two leaves settings that need no restoring,
            # the other way round it would leave an index without replicas that nobody knows of.
            self._target.put_meta({**meta, MARKER: {"settings": before}})
        self._before = before
        if not change:
            return
        try:
            self._target.put_settings(change)
        except AuthorizationError:
            # Nothing was changed, so that nothing is to be put back.
            self._before = None
            if fresh:
                self._target.put_meta(meta)
            raise

    def end(self) -> None:
        """Put everything back, then take the marker away."""
        if self._before is None:
            return
        self._target.put_settings(self._before)
        # Looked at, not believed: an index template or an operator's policy may set these again at once.
        now = self._target.settings()
        for name, value in self._before.items():
            if name in PLAIN and value is not None and str(now.get(name)) != str(value):
                raise IndexChangedError(
                    f"{self._target.index}: {name} is {now.get(name)} instead of {value} after the load; set "
                    "it by hand",
                    index=self._target.index,
                )
        # The marker goes last, and _meta is read again for it: others may have written it during the load.
        meta = dict(self._target.mapping().get("_meta", {}))
        if meta.pop(MARKER, None) is not None:
            self._target.put_meta(meta)
        self._before = None
