"""Presets: what lies in mappings/ is what the plans compile to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from esembed import presets
from esembed.capabilities import PROFILES
from esembed.errors import PlanError

ROOT = Path(__file__).resolve().parents[2]


def test_files_are_what_the_plans_compile_to():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/compile_presets.py"), "--check"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", presets.names())
def test_each_preset_answers_for_every_profile(name):
    plan = presets.load(name)
    assert plan.description
    assert plan.from_toml(plan.to_toml()) == plan
    folder = presets.folder() / name
    for profile in PROFILES:
        assert (folder / f"{profile}.json").exists() != (folder / f"{profile}.unsupported.json").exists()


def test_some_preset_is_unsupported_somewhere_and_says_why():
    files = list(presets.folder().glob("*/*.unsupported.json"))
    assert files
    for file in files:
        assert all(";" in gap for gap in json.loads(file.read_text(encoding="utf-8"))["unsupported"])


def test_unknown_presets_get_a_hint():
    with pytest.raises(PlanError, match="hybrid-int8"):
        presets.load("hybrid-int9")
