"""Old import paths: each still gives its names, and warns."""

from __future__ import annotations

import importlib
import sys

import pytest
import structure


@pytest.mark.parametrize("path", sorted(structure.DEPRECATED))
def test_an_old_path_gives_its_names_and_warns(path: str) -> None:
    sys.modules.pop(path, None)
    with pytest.warns(DeprecationWarning, match=rf"{path} is now esembed\."):
        module = importlib.import_module(path)
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None
