"""The compose files: loopback only, pinned as the code pins, each with a health check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from esembed.local.docker import IMAGES

FOLDER = Path(__file__).parents[2] / "docker"
FILES = sorted(FOLDER.glob("compose*.yaml"))


def test_there_is_one_for_each_engine_and_license() -> None:
    assert [path.name for path in FILES] == [
        "compose.elasticsearch-basic.yaml",
        "compose.elasticsearch-trial.yaml",
        "compose.opensearch.yaml",
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_compose_file(path: Path) -> None:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    assert set(content) == {"name", "services", "volumes"}
    ((_, service),) = content["services"].items()
    kind = "opensearch" if "opensearch" in path.name else "elasticsearch"
    assert service["image"].endswith(f":-{IMAGES[kind]}}}"), "the tag that esembed.local.docker pins"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "/_cluster/health" in service["healthcheck"]["test"][1]
    assert service["environment"]["discovery.type"] == "single-node"
    assert {volume.split(":")[0] for volume in service["volumes"]} == set(content["volumes"])
    if kind == "elasticsearch":
        license = service["environment"]["xpack.license.self_generated.type"]
        assert path.stem.endswith(license)
    values = service["environment"].values()
    assert all(isinstance(value, str) for value in values), "YAML booleans are refused in environment"


def test_side_by_side_they_collide_in_nothing() -> None:
    parsed = [yaml.safe_load(path.read_text()) for path in FILES]
    for part in ("services", "volumes"):
        names = [name for content in parsed for name in content[part]]
        assert len(names) == len(set(names))
    ports = [port for content in parsed for s in content["services"].values() for port in s["ports"]]
    assert len(ports) == len({port.split(":-")[1] for port in ports})
