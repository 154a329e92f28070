"""Deprecated path of :mod:`esembed.ingest.dead_letters`; it goes with the release after 0.2."""

import warnings

from esembed.ingest.dead_letters import DeadLetters

__all__ = ["DeadLetters"]

warnings.warn(
    "esembed.ingest.deadletters is now esembed.ingest.dead_letters", DeprecationWarning, stacklevel=2
)
