"""Imports go down the floors of DESIGN.md; read from the syntax trees, nothing is imported.

``breaches.toml`` lists what is still wrong. It only shrinks: what is mended must be taken out, and nothing
may be added.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structure

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BREACHES = tomllib.loads(Path(__file__).with_name("breaches.toml").read_text(encoding="utf-8"))


def test_every_module_has_a_floor() -> None:
    assert [name for name in structure.modules() if structure.floor(name) < 0] == []


@pytest.mark.parametrize(
    ("rule", "check"),
    [
        pytest.param("upward", structure.upward, id="imports-go-down"),
        pytest.param("private", structure.private, id="no-private-name-of-another-module"),
        pytest.param("mixins", structure.mixins, id="classes-are-whole"),
        pytest.param("engines", structure.engines_asked, id="capabilities-are-asked-not-names"),
        pytest.param("hidden", structure.own_import_module, id="no-hidden-import"),
    ],
)
def test_the_tree_obeys(rule: str, check: Callable[[str], Iterator[str]]) -> None:
    found = sorted({line for name in structure.written() for line in check(name)})
    assert found == sorted(BREACHES[rule]), f"breaches.toml, {rule}"


def test_no_circle_of_imports_of_any_kind() -> None:
    assert structure.circles() == BREACHES["circles"]


def test_sync_is_not_written_by_hand() -> None:
    for path in (structure.PACKAGE / "_sync").glob("*.py"):
        if path.name not in ("__init__.py", "_shim.py"):
            assert path.read_text(encoding="utf-8").startswith("# Generated from"), path.name
            assert (structure.PACKAGE / "_async" / path.name).exists(), path.name
