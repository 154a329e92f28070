"""The pytest plugin on a real engine: workers share one, the last one out stops it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from esembed.local import server as local

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.timeout(900)
HOME = Path.home()

SUITE = """
import os, pytest

@pytest.mark.parametrize("n", range(4))
def test_it(esembed_opensearch, esembed_index_name, n):
    client = esembed_opensearch.client()
    client.index(index=esembed_index_name, body={"n": n}, refresh=True)
    assert client.count(index=esembed_index_name)["count"] == 1
    with open(os.environ["SEEN"], "a") as file:
        file.write(f"{esembed_opensearch.url} {os.getpid()} {esembed_index_name}\\n")
"""


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester) -> Iterator[str]:
    # pytester moves HOME, and with it the cache that already holds the server.
    monkeypatch.setenv("HOME", str(HOME))
    for variable in [v for v in os.environ if v.startswith("PYTEST_")]:
        monkeypatch.delenv(variable)
    for variable in ("ESEMBED_OPENSEARCH_URL", "ESEMBED_ENGINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SEEN", str(pytester.path / "seen"))
    unique = f"plugin-{os.getpid()}"
    yield unique
    local.destroy("opensearch", name=unique)


def test_two_workers_share_one_engine_and_the_last_one_stops_it(pytester: pytest.Pytester, name: str) -> None:
    pytester.makepyfile(SUITE)
    options = ["--esembed-engine=local", f"--esembed-local-name={name}", "--esembed-heap-mb=512", "-n", "2"]
    kept = pytester.runpytest_subprocess(*options, "--esembed-keep-engine", "-p", "no:cacheprovider")
    kept.assert_outcomes(passed=4)
    seen = [line.split() for line in (pytester.path / "seen").read_text().splitlines()]
    assert len({url for url, _, _ in seen}) == 1
    assert len({pid for _, pid, _ in seen}) == 2, "both workers had tests"
    info = local.status("opensearch", name=name)
    assert info is not None, "--esembed-keep-engine leaves it"
    assert info.url == seen[0][0]

    again = pytester.runpytest_subprocess(*options)
    again.assert_outcomes(passed=4)
    still = local.status("opensearch", name=name)
    assert still is not None, "an engine that ran already is left running"
    assert still.pid == info.pid
    handle_names = {index for _, _, index in seen}
    import urllib.request

    with urllib.request.urlopen(f"{info.url}/_cat/indices?h=index&expand_wildcards=all") as answer:
        left = set(answer.read().decode().split())
    assert not left & handle_names, "each test's index was deleted"

    local.stop("opensearch", name=name)
    fresh = pytester.runpytest_subprocess(*options)
    fresh.assert_outcomes(passed=4)
    assert local.status("opensearch", name=name) is None, "started for the tests, stopped by the last worker"
