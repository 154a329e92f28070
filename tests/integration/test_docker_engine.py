"""Both engines through testcontainers, for real.

Where the ordinary Docker API answers, the official images are pulled. ``.ci/run`` names a podman socket
and images made on the spot (ESEMBED_CONTAINER_DOCKER_HOST, ESEMBED_CONTAINER_OPENSEARCH_IMAGE, …), so
that only these tests, not the whole suite, run in containers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from esembed.errors import EngineStartError
from esembed.local import docker
from esembed.local.docker import ContainerInfo
from esembed.pytest_plugin import EngineHandle

KINDS = ("opensearch", "elasticsearch")


@pytest.fixture(autouse=True)
def docker_api(monkeypatch: pytest.MonkeyPatch) -> None:
    host = os.environ.get("ESEMBED_CONTAINER_DOCKER_HOST")
    if host:
        monkeypatch.setenv("DOCKER_HOST", host)
    for kind in KINDS:
        image = os.environ.get(f"ESEMBED_CONTAINER_{kind.upper()}_IMAGE")
        if image:
            monkeypatch.setenv(f"ESEMBED_{kind.upper()}_IMAGE", image)
    state = docker.docker_available()
    if not state:
        if os.environ.get("ESEMBED_REQUIRE_CONTAINERS") == "1":
            pytest.fail(state.reason, pytrace=False)
        pytest.skip(state.reason)


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest) -> Iterator[ContainerInfo]:
    try:
        with docker.container(request.param, heap_mb=512) as info:
            yield info
    except EngineStartError as error:
        if os.environ.get("ESEMBED_REQUIRE_CONTAINERS") == "1" or "pull" not in error.message.lower():
            raise
        pytest.skip(f"the image can't be pulled here: {error.message[:200]}")


@pytest.mark.timeout(900)
def test_container_answers_like_an_engine(engine: ContainerInfo) -> None:
    handle = EngineHandle(engine.engine, engine.url, engine.image, "docker")
    client = handle.client()
    name = handle.new_index_name()
    try:
        vector = {"opensearch": {"type": "knn_vector", "dimension": 2}}.get(
            engine.engine, {"type": "dense_vector", "dims": 2, "similarity": "cosine"}
        )
        if engine.engine == "opensearch":
            vector["method"] = {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"}
        settings = {"index": {"knn": True}} if engine.engine == "opensearch" else {"number_of_shards": 1}
        mappings = {"properties": {"text": {"type": "text"}, "v": vector}}
        client.indices.create(index=name, body={"settings": settings, "mappings": mappings})
        lines = []
        for number, text in enumerate(["red wine", "white wine", "red car"]):
            lines += [{"index": {"_id": str(number)}}, {"text": text, "v": [1.0, float(number)]}]
        answer = client.bulk(index=name, body=lines, refresh=True)
        assert not answer["errors"], answer["items"]
        found = client.search(index=name, body={"query": {"match": {"text": "red"}}})
        assert sorted(hit["_id"] for hit in found["hits"]["hits"]) == ["0", "2"]
        knn = (
            {"query": {"knn": {"v": {"vector": [1.0, 2.0], "k": 1}}}}
            if engine.engine == "opensearch"
            else {"knn": {"field": "v", "query_vector": [1.0, 2.0], "k": 1, "num_candidates": 3}}
        )
        nearest = client.search(index=name, body=knn)
        assert [hit["_id"] for hit in nearest["hits"]["hits"]] == ["2"]
        assert handle.delete_indices(name) == [name]
        assert not client.indices.exists(index=name)
    finally:
        handle.close()


@pytest.mark.timeout(900)
def test_a_container_for_the_command_line_stays_until_it_is_stopped(docker_api: None) -> None:
    if "ESEMBED_OPENSEARCH_IMAGE" not in os.environ:
        pytest.skip("the fixture above has shown the official image; a second pull says nothing new")
    name = f"test-{os.getpid()}"
    try:
        first = docker.start("opensearch", heap_mb=512, name=name)
        again = docker.start("opensearch", heap_mb=512, name=name)
        assert (again.url, again.container_id, again.reused) == (first.url, first.container_id, True)
        assert docker.status("opensearch", name=name) == again
        assert docker.logs("opensearch", 5, name=name)
    finally:
        assert docker.stop("opensearch", name=name)
    assert docker.status("opensearch", name=name) is None
    assert docker.stop("opensearch", name=name) is False


def test_an_image_that_is_not_there_is_named(docker_api: None) -> None:
    with (
        pytest.raises(EngineStartError, match="localhost/no-such-image:1"),
        docker.container("opensearch", image="localhost/no-such-image:1"),
    ):
        pytest.fail("it started")
