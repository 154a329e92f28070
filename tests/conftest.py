"""Our own suite runs on the pinned local servers, also where a Docker API answers.

They are what the expected results were checked on; the container path has tests of its own. A URL that
is given still comes first, and ``--esembed-engine`` or ``ESEMBED_ENGINE`` overrule this.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from esembed.local.artifacts import cache_dir, engine_root

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from engine_matrix import check_of, runs_on  # noqa: E402

if not any(os.environ.get(f"ESEMBED_{kind}_URL") for kind in ("OPENSEARCH", "ELASTICSEARCH")):
    os.environ.setdefault("ESEMBED_ENGINE", "local")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what runs on every engine; ``ESEMBED_MATRIX_ENGINE`` leaves the other engine's tests out."""
    engine = os.environ.get("ESEMBED_MATRIX_ENGINE")
    for item in items:
        name = getattr(item, "originalname", None) or item.name
        if item.path.is_relative_to(HERE) and check_of(item.path.relative_to(HERE).as_posix(), name):
            item.add_marker("matrix")
    if engine:
        left_out = [item for item in items if not runs_on(item, engine)]
        items[:] = [item for item in items if runs_on(item, engine)]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def use_cache_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """``use(folder)``: the cache of this test. As root, the engines' folder of a cache that is closed to
    others (pytest's folders are) lies in the machine's cache, where pytest doesn't remove it; this does."""
    outside: set[Path] = set()

    def use(folder: Path) -> None:
        monkeypatch.setenv("ESEMBED_CACHE_DIR", str(folder))
        if not engine_root().is_relative_to(cache_dir()):
            outside.add(engine_root())

    yield use
    for folder in outside:
        shutil.rmtree(folder, ignore_errors=True)
