"""Run the contract tests of ``tests/engine_matrix.py`` on any engines, and print the table.

    ESEMBED_ENGINE_URLS=http://localhost:9200,https://… python scripts/engine_matrix.py [-n 2]
    python scripts/engine_matrix.py --local opensearch@2.19.6 elasticsearch@8.19.0

An Elasticsearch 8 gets a client of its own age, in a folder of its own (``--clients``). ``--local`` starts
each server by itself and removes it afterward. Exit status 1 when a test failed.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from engine_matrix import CHECKS, check_of  # noqa: E402

from esembed.bounded import read_url  # noqa: E402
from esembed.capabilities import Version  # noqa: E402
from esembed.cli._connect import detect_engine  # noqa: E402
from esembed.credentials import basic_authorization, public_url  # noqa: E402

HEAP_MB = 1024
SHORT = {"ESEMBED_PROPERTY_EXAMPLES": "6", "ESEMBED_PROPERTY_COLLECTIONS": "1", "ESEMBED_PROPERTY_SEED": "7"}
"""The property tests in their short form."""


def identify(url: str) -> tuple[str, Version]:
    """Which engine answers, and its version, asked without a client: one that is too new gets no answer."""
    parts = urllib.parse.urlsplit(url)
    headers = {}
    if parts.username:
        user, password = (urllib.parse.unquote(one or "") for one in (parts.username, parts.password))
        headers["Authorization"] = basic_authorization(user, password)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    engine = detect_engine(plain, headers=headers)
    path = "/_nodes/http?filter_path=nodes.*.version"
    answer = read_url(plain + path, headers=headers, seconds=30.0, most_bytes=1 << 20)
    nodes = (answer.json() or {}).get("nodes") if answer.status == 200 else None
    if not nodes:
        raise SystemExit(f"{public_url(url)} doesn't say its version ({answer.status} for GET /_nodes)")
    return engine, min(Version.parse(node["version"]) for node in nodes.values())


def client_folder(version: Version, folder: Path) -> Path | None:
    """Where a client lies that speaks to an Elasticsearch, or None for the installed one."""
    import elasticsearch

    if elasticsearch.__version__[0] <= version.major:
        return None
    target = folder / f"elasticsearch-{version.major}"
    if not (target / "elasticsearch").is_dir():
        bounds = f">={version.major},<{version.major + 1}"
        # Without what they need in turn, which is installed and would be shadowed by other versions of it.
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        subprocess.run([*command, f"elasticsearch{bounds}", f"elastic-transport{bounds}"], check=True)
    return target


def run(url: str, options: argparse.Namespace) -> tuple[list[str], bool]:
    """The table's row, and whether all was well."""
    engine, version = identify(url)
    began = time.monotonic()
    env = {key: value for key, value in os.environ.items() if key not in ("ESEMBED_ENGINE_URLS",)}
    for kind in ("OPENSEARCH", "ELASTICSEARCH"):
        env.pop(f"ESEMBED_{kind}_URL", None)
    env |= SHORT
    env |= {"ESEMBED_ENGINE": "url", "ESEMBED_MATRIX_ENGINE": engine, f"ESEMBED_{engine.upper()}_URL": url}
    client = client_folder(version, options.clients) if engine == "elasticsearch" else None
    if client is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(client), *filter(None, [env.get("PYTHONPATH")])])
    files = sorted({str(Path("tests") / path) for check in CHECKS.values() for path in check})
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "matrix", f"--junitxml={report}"]
        command += ["-n", str(options.workers), "--dist", "worksteal"] if options.workers > 1 else []
        done = subprocess.run([*command, *files], cwd=ROOT, env=env, check=False)
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    counts = {check: Counter[str]() for check in CHECKS}
    for case in cases:
        path = case.get("classname", "").replace(".", "/").removeprefix("tests/") + ".py"
        check = check_of(path, case.get("name", "").partition("[")[0])
        if check is not None:
            kinds = {child.tag for child in case}
            bad = kinds & {"failure", "error"}
            counts[check]["failed" if bad else "skipped" if "skipped" in kinds else "passed"] += 1
    cells = [_cell(counts[check]) for check in CHECKS]
    seconds = f"{time.monotonic() - began:.0f} s"
    name = "OpenSearch" if engine == "opensearch" else "Elasticsearch"
    return [f"{name} {version}", *cells, seconds, datetime.date.today().isoformat()], done.returncode == 0


def _cell(found: Counter[str]) -> str:
    if found["failed"]:
        return f"**{found['failed']} failed**, {found['passed']}"
    return f"{found['passed']}" + (f" ({found['skipped']} skipped)" if found["skipped"] else "")


@contextmanager
def started(wanted: Sequence[str]) -> Iterator[Iterator[str]]:
    """The addresses of local servers, each started when it is asked for and removed before the next one."""
    from esembed.local import server as local

    name = f"matrix-{os.getpid()}"

    def addresses() -> Iterator[str]:
        for text in wanted:
            engine, _, version = text.partition("@")
            try:
                yield local.start(engine, version=version or None, heap_mb=HEAP_MB, name=name).url
            finally:
                local.destroy(engine, name=name)

    running = addresses()
    try:
        yield running
    finally:
        running.close()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("urls", nargs="*", help="besides those of ESEMBED_ENGINE_URLS")
    parser.add_argument("--local", nargs="+", default=[], metavar="ENGINE@VERSION")
    parser.add_argument("-n", dest="workers", type=int, default=1, help="pytest-xdist's workers")
    parser.add_argument("--clients", type=Path, default=ROOT / ".ci" / "work" / "clients")
    options = parser.parse_args()
    given = [url.strip() for url in os.environ.get("ESEMBED_ENGINE_URLS", "").split(",") if url.strip()]
    urls = [*given, *options.urls]
    if not urls and not options.local:
        parser.error("set ESEMBED_ENGINE_URLS, or name URLs or --local servers")
    head = ["engine", *CHECKS, "took", "date"]
    rows, well = [], True
    with started(options.local) as local:
        for url in itertools.chain(urls, local):
            row, good = run(url, options)
            rows.append(row)
            well = well and good
    for line in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(line) + " |")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
