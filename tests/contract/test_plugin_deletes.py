"""What the pytest plugin deletes after a test: what was made under the test's name, and nothing else."""

from __future__ import annotations

from esembed.pytest_plugin import EngineHandle


def test_an_index_that_a_test_laid_its_alias_over_stays(
    esembed_engine: EngineHandle, esembed_index_name: str
) -> None:
    client = esembed_engine.client()
    name, theirs = f"{esembed_index_name}-x", f"theirs-{esembed_index_name}"
    client.indices.create(index=f"{name}-v1")
    client.indices.create(index=theirs)
    try:
        client.indices.put_alias(index=f"{name}-v1", name=name)
        client.indices.put_alias(index=theirs, name=f"{name}-all")
        assert esembed_engine.delete_indices(name) == [f"{name}-v1"]
        assert client.indices.exists(index=theirs)
        assert not client.indices.exists_alias(name=f"{name}-all")
        assert not client.indices.exists(index=f"{name}-v1")
    finally:
        client.indices.delete(index=theirs)
