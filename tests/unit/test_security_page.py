"""SECURITY.md names tests and modules that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "SECURITY.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="runs in a checkout, not against an installed package")
def test_each_test_and_module_of_the_threat_table_exists() -> None:
    rows = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    assert rows
    for who, _, holds, tests in rows:
        named = re.findall(r"`([^`]+)`", tests)
        assert named, who
        modules = re.findall(r"`([\w/]+(?:\.py|/))`", holds)
        missing = [name for name in named if not (ROOT / name).is_file()]
        missing += [name for name in modules if not (ROOT / "esembed" / name).exists()]
        assert not missing, who
