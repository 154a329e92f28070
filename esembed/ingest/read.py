"""Deprecated path of :mod:`esembed.ingest.sources`; it goes with the release after 0.2."""

import warnings

from esembed.ingest.sources import FileSource, Source, dead_letter_source, from_async, open_source
from esembed.ingest.sources.readers import ReadOptions

__all__ = ["FileSource", "ReadOptions", "Source", "dead_letter_source", "from_async", "open_source"]

warnings.warn("esembed.ingest.read is now esembed.ingest.sources", DeprecationWarning, stacklevel=2)
