"""What is installed with what: the extras, and that the demo needs no torch."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "sentence-transformers", "tensorflow", "onnxruntime", "scipy"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def split(requirement: str) -> tuple[str, list[str], str]:
    """``name[a,b]>=1; marker`` → name, extras, marker."""
    text, _, marker = requirement.partition(";")
    match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?", text)
    if match is None:
        raise ValueError(requirement)
    extras = [extra.strip() for extra in (match[2] or "").split(",") if extra.strip()]
    return normal(match[1]), extras, marker.strip()


def applies(marker: str, extras: set[str]) -> bool:
    from packaging.markers import Marker

    if not marker:
        return True
    return any(Marker(marker).evaluate({"extra": extra}) for extra in (extras or {""}))


def closure(name: str, extras: set[str]) -> set[str]:
    """Every distribution that installing ``name[extras]`` brings, as installed metadata says."""
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(normal(name), frozenset(extras))]
    while todo:
        current, wanted = todo.pop()
        if (current, wanted) in seen:
            continue
        seen.add((current, wanted))
        try:
            requirements = metadata.requires(current) or []
        except metadata.PackageNotFoundError:
            continue  # another platform's, or not installed here; it is named all the same
        for requirement in requirements:
            needed, its_extras, marker = split(requirement)
            if applies(marker, set(wanted)):
                todo.append((needed, frozenset(its_extras)))
    return {name for name, _ in seen} - {normal("esembed")}


@pytest.fixture(scope="module")
def installed() -> None:
    try:
        metadata.version("esembed")
    except metadata.PackageNotFoundError:
        pytest.skip("esembed is not installed (pip install -e .); its metadata can't be read")


@pytest.mark.usefixtures("installed")
def test_the_demo_extra_brings_no_torch() -> None:
    brought = closure("esembed", {"demo"})
    assert {"openvino", "tokenizers", "jgo", "elasticsearch", "opensearch-py"} <= brought
    assert brought & HEAVY == set()


@pytest.mark.usefixtures("installed")
def test_the_walk_would_notice_torch() -> None:
    assert {"torch", "transformers"} <= closure("esembed", {"torch"})


def test_minilm_encodes_where_torch_can_not_be_imported(tmp_path: Path) -> None:
    """The demo's encoder, in an interpreter in which importing torch or transformers is an error."""
    pytest.importorskip("openvino")
    code = """
import sys

for name in ("torch", "transformers", "sentence_transformers"):
    sys.modules[name] = None  # as if it were not installed: importing it is an error

from esembed.encode.registry import load

encoder = load("minilm")
vectors = encoder.encode_document(["split a path into folder and file name"])
print(vectors.shape, [n for n in sys.modules if n.startswith(("torch.", "transformers."))])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[0] == "(1, 384) []"


def test_constraints_are_plain_pins_of_direct_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(r for g in project["optional-dependencies"].values() for r in g)]
    direct = {split(line)[0] for line in lines} - {"esembed"}
    pinned = set()
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9a-z.]+( ; [a-z_]+ .+)?", line), line
        pinned.add(split(line)[0])
    assert pinned <= direct
    assert direct - pinned == set(), "run scripts/constraints.py"


def test_the_metadata_is_complete() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.10"
    assert (ROOT / project["readme"]).is_file()
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert (ROOT / "esembed" / "py.typed").is_file()
    for minor in (10, 11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in project["classifiers"]


def test_changelog_fragments_have_a_type_that_the_release_knows() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["towncrier"]
    known = {kind["directory"] for kind in config["type"]}
    for path in (ROOT / config["directory"]).iterdir():
        if path.name not in config["ignore"]:
            name, _, kind = path.name.removesuffix(".md").rpartition(".")
            assert name, path.name
            assert kind in known, path.name
            assert path.read_text(encoding="utf-8").strip(), path.name
