"""The public names, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import esembed

PUBLIC = {
    "AsyncFollower",
    "AsyncIndex",
    "Capabilities",
    "CandidateRule",
    "ChunkOptions",
    "DenseField",
    "DiskOptions",
    "Document",
    "EncoderParams",
    "EsembedError",
    "FilterField",
    "Follower",
    "Hit",
    "Hits",
    "Index",
    "IndexOptions",
    "IndexPlan",
    "IngestOptions",
    "IngestReport",
    "ItemError",
    "LoadOptions",
    "MigrateOptions",
    "MigrationReport",
    "Query",
    "RuntimeOptions",
    "SeismicOptions",
    "SparseField",
    "SparseVector",
    "TextField",
    "load_encoder",
    "query",
    "to_body",
    "to_esql",
}
HEAVY = ("torch", "transformers", "openvino", "elasticsearch", "opensearchpy", "sentence_transformers")


def run(code: str, *flags: str) -> str:
    result = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_export_list() -> None:
    assert set(esembed.__all__) - {"__version__"} == PUBLIC
    assert list(esembed.__all__) == sorted(esembed.__all__)
    for name in esembed.__all__:
        assert getattr(esembed, name) is not None, name
    assert set(esembed.__all__) <= set(dir(esembed))


def test_what_is_public_says_where_it_comes_from() -> None:
    for name in PUBLIC - {"query"}:
        value = getattr(esembed, name)
        if isinstance(value, type):
            assert value.__doc__, name


def test_importing_loads_nothing_heavy_and_warns_of_nothing() -> None:
    code = f"import sys, esembed; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run(code, "-W", "error").strip() == "[]"


def test_the_index_class_loads_no_client_until_there_is_one() -> None:
    code = (
        "import sys; from esembed import Index, AsyncIndex, IndexPlan, query;"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert run(code, "-W", "error").strip() == "[]"


def test_an_unused_client_is_not_loaded() -> None:
    code = (
        "import sys; from opensearchpy import OpenSearch; from esembed._sync.client import EngineClient;"
        "EngineClient(OpenSearch('http://127.0.0.1:1')); print('elasticsearch' in sys.modules)"
    )
    assert run(code).strip() == "False"


def test_it_works_optimised() -> None:
    assert run("import esembed; print(esembed.IndexPlan().to_dict())", "-OO").strip() == "{}"
