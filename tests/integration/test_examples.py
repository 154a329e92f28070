"""The files under examples/ run as they stand."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from esembed.pytest_plugin import EngineHandle

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="runs in a checkout")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def get(url: str) -> tuple[int, Any]:
    def fetch() -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    return await asyncio.to_thread(fetch)


async def test_etl_then_backend(
    esembed_engine: EngineHandle,
    esembed_index_name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    etl, backend = load("etl"), load("search_backend")
    engine = (esembed_engine.url, esembed_engine.engine, esembed_index_name)
    assert await asyncio.to_thread(etl.main, *engine) == 0
    assert "12 indexed" in capsys.readouterr().out
    assert await asyncio.to_thread(etl.main, *engine) == 0
    assert "12 unchanged" in capsys.readouterr().out

    async with backend.serve(*engine, port=0) as server:
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        status, answer = await get(f"{base}/search?q=baking+at+home")
        assert status == 200
        assert answer["hits"][0]["id"] == "b02"
        status, answer = await get(f"{base}/search?q=Wanderungen+mit+Karten&lang=de")
        assert status == 200
        assert answer["hits"][0]["id"] == "b03"
        assert (await get(f"{base}/search"))[0] == 400
        assert (await get(f"{base}/elsewhere"))[0] == 404


def test_tests_with_esembed(
    tmp_path: Path, esembed_opensearch: EngineHandle, esembed_elasticsearch: EngineHandle
) -> None:
    """In a pytest of its own, as in somebody else's project; the engines are the ones that run here."""
    shutil.copy(EXAMPLES / "test_with_esembed.py", tmp_path)
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    command += [f"--esembed-opensearch-url={esembed_opensearch.url}"]
    command += [f"--esembed-elasticsearch-url={esembed_elasticsearch.url}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_the_scifact_hook_joins_title_and_text() -> None:
    sys.path.insert(0, str(EXAMPLES / "scifact"))
    try:
        import hooks
    finally:
        sys.path.pop(0)
    record = {"_id": "1", "title": "A", "text": "b"}
    assert hooks.contents(record) == {**record, "contents": "A b"}
    assert hooks.contents({"_id": "2", "text": "b"})["contents"] == "b"
