"""Encoder specs in a plan: a family that nobody knows is refused when the plan is read."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from esembed import DenseField, IndexPlan
from esembed.encode.registry import load
from esembed.errors import EncoderError, PlanError
from esembed.plan import encoders as checks


def plan(spec: str, section: str = "dense") -> IndexPlan:
    return IndexPlan.from_toml(f'[text.body]\n[{section}.v]\nencoder = "{spec}"\nsource = ["body"]\n')


@pytest.mark.parametrize("name", checks.FAMILIES)
def test_every_family_has_its_loader_its_form_and_its_row_in_the_docs(name: str) -> None:
    family = checks.FAMILIES[name]
    module, _, function = family.loader.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    spec = family.example or name
    assert checks.split_spec(spec)[0] == name
    assert checks.spec_problem(spec) is None
    # What an index names is loaded unasked only where the spec leaves nothing to choose.
    assert checks.fetches_nothing(spec) is family.fetches_nothing
    if family.fetches_nothing:
        assert not checks.fetches_nothing(f"{name}:http://127.0.0.1/x")
    docs = Path(__file__).parents[3] / "docs" / "encoders.md"
    assert re.search(rf"^\| `{name}[:`]", docs.read_text(encoding="utf-8"), re.MULTILINE)


def test_what_people_write_leads_to_a_family() -> None:
    assert set(checks._ALIASES.values()) <= set(checks.FAMILIES)
    assert not checks.fetches_nothing("nonsense:x")


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("sentencetransformers:foo", "hf:foo"),
        ("sentence-transformers:all-MiniLM-L12-v2", "hf:all-MiniLM-L12-v2"),
        ("HF:intfloat/e5-small", "hf:intfloat/e5-small"),
        ("intfloat/e5-small", "hf:intfloat/e5-small"),
        ("miniLM", "minilm"),
        ("all-MiniLM-L6-v2", "minilm"),
        ("splad:naver/splade-v3", "splade:naver/splade-v3"),
        ("open-ai:text-embedding-3-small", "openai:text-embedding-3-small"),
        ("bm25", "lexical"),
        ("model2vec:./m", "static:./m"),
    ],
)
def test_an_unknown_family_is_refused_with_what_was_meant(spec: str, meant: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan(spec)
    assert caught.value.path == "dense.v.encoder"
    assert f"did you mean {meant!r}?" in str(caught.value)
    with pytest.raises(EncoderError, match="did you mean"):
        load(spec)


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("nonsense:x", "there are: minilm, hf,"),
        ("", "there are: minilm"),
        ("hf:", "'hf:' needs a name after the family, as in 'hf:"),
        ("splade", "needs a name"),
        ("minilm:intfloat/e5-small", "write 'hf:intfloat/e5-small'"),
        ("custom:", "needs a name"),
    ],
)
def test_a_spec_of_the_wrong_form_is_refused(spec: str, part: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan(spec)
    assert part in str(caught.value)
    assert "did you mean" not in str(caught.value)


def test_what_is_right_is_taken() -> None:
    for spec in (
        "minilm",
        "hf:./folder",
        "static:x",
        "openai:m@http://127.0.0.1:1/v1",
        "custom:mine",
        "engine:e",
    ):
        assert plan(spec).dense["v"].encoder == spec
    for spec in ("lexical", "splade:x", "custom:mine"):
        assert plan(spec, "sparse").sparse["v"].encoder == spec
    assert DenseField(encoder="nonsense:x").encoder  # a part alone is not checked, the plan is


def test_an_encoder_of_ones_own_is_never_loaded() -> None:
    wanted: Any = r"custom:mine.*Index\.open\(…, encoder=mine\)"
    with pytest.raises(EncoderError, match=wanted):
        load("custom:mine")


@pytest.mark.parametrize(("old", "new"), [("given", "precomputed"), ("own:mine", "custom:mine")])
def test_the_names_of_0_1_0_are_read_for_ever(old: str, new: str) -> None:
    fields: dict[str, Any] = {"source": [] if new == "precomputed" else ["body"], "dims": 3}
    written, today = (
        IndexPlan.from_dict({"dense": {"e": {"encoder": spec, **fields}}}) for spec in (old, new)
    )
    assert written == today
    assert written.dense["e"].encoder == new
    assert msgspec.structs.replace(written.dense["e"], encoder=old) == today.dense["e"]
    assert 'encoder = "' + new in written.to_toml()
