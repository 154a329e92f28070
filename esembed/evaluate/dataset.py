"""Deprecated path of :mod:`esembed.evaluate.datasets`; it goes with the release after 0.2."""

import warnings

from esembed.evaluate.datasets import Dataset, Run, load_dataset, write_run

__all__ = ["Dataset", "Run", "load_dataset", "write_run"]

warnings.warn("esembed.evaluate.dataset is now esembed.evaluate.datasets", DeprecationWarning, stacklevel=2)
