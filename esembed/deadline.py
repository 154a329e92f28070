"""When a search, or one answer, has to be over: one clock for all that is waited for until then."""

from __future__ import annotations

import math
import time

from esembed.errors import EngineUnavailableError, QueryError

__all__ = ["ENCODING_SHARE", "ENGINE_SHARE", "Deadline"]

CLIENT_SECONDS = 10.0
"""What both official clients wait for an answer by default. A deadline shortens that and never lengthens it:
a client that was told to wait two seconds is not made to wait for ten."""

ENCODING_SHARE = 0.5
"""How much of the time that is left the texts may take where a part of the legs is an answer, too. Without
a share of its own one slow encoder would leave nothing for the legs that need none."""

ENGINE_SHARE = 0.8
"""How much of the time that is left the engine is told to take. The rest is for its answer's way back, for
what it does after its clock said stop (it looks between segments), and for a fusion's stored fields."""

_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)


class Deadline:
    """A point in time, *seconds* from when it is made. Safe to use from several threads.

    Args:
        seconds: above 0.
        in_parts: whether what is waited for can be answered in part.
        option: what the caller knows the seconds by, for the error; None where no option states them.

    Raises:
        QueryError: no number above 0.
    """

    __slots__ = ("_ends", "_in_parts", "_option", "seconds")

    def __init__(
        self, seconds: float, *, in_parts: bool = True, option: str | None = "deadline_seconds"
    ) -> None:
        # True is a number to Python, but nobody means one second by it.
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not number or not 0 < seconds < math.inf:
            raise QueryError(
                f"deadline_seconds must be a number > 0, not {seconds!r}", field="deadline_seconds"
            )
        self.seconds = float(seconds)
        self._in_parts = in_parts
        self._option = option
        self._ends = time.monotonic() + self.seconds

    def left(self) -> float:
        """Seconds until then; 0 when it has passed."""
        return max(0.0, self._ends - time.monotonic())

    def error(self, what: str) -> EngineUnavailableError:
        """The error of what is not over in time.

        Args:
            what: what it was waiting for.
        """
        if self._option != "deadline_seconds":
            stated = f"{self.seconds:g} s" if self._option is None else f"{self._option} = {self.seconds:g}"
            return EngineUnavailableError(
                f"{stated} passed while waiting for the end of {what}; look at the engine, and at what is "
                "between: they may send a byte now and then"
            )
        parts = " (partial_results=True answers with the legs that came)" if self._in_parts else ""
        return EngineUnavailableError(
            f"deadline_seconds = {self.seconds:g} passed while waiting for {what}; raise it, or see why that "
            f"takes so long{parts}"
        )

    def http_seconds(self, wanted: float | None) -> float | None:
        """The time-out of a request that may take what is left.

        The search itself ends at the deadline whatever the client does; this frees the connection of one
        that was given up. It is rounded up to few values, since the Elasticsearch client is derived anew for
        each value and a derived client is kept.

        Args:
            wanted: its time-out otherwise; None is the client's own.
        """
        # A little longer than the deadline, whose error says more than the client's.
        least = max(self.left(), 0.01) * 1.2
        unit = 10.0 ** math.floor(math.log10(least))
        seconds = next(round(step * unit, 6) for step in _STEPS if step * unit >= least)
        return wanted if seconds >= (CLIENT_SECONDS if wanted is None else wanted) else seconds
