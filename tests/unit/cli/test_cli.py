"""The command line without an engine: help, options, exit codes, which engine answers."""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from esembed import errors
from esembed.cli import VERBS, exit_code, main
from esembed.cli._connect import Connection, UsageError, detect_engine
from esembed.cli._query import parse_filters
from esembed.plan import DenseField, FilterField, IndexPlan, SparseField, TextField

Answer = tuple[int, dict[str, str], Any]

CLOUD_ID = "books:" + base64.b64encode(b"eu-west-1.aws.found.io:9243$abc$def").decode()


class Server:
    """A small HTTP server on loopback that answers as told and remembers what it was asked."""

    def __init__(self, answer: Callable[[str, dict[str, str]], Answer], certificate: Any = None) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.seen.append((self.path, headers))
                status, more, body = answer(self.path, headers)
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **more}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        scheme = "http"
        if certificate is not None:
            import ssl

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: Callable[[str, dict[str, str]], Answer], certificate: Any = None) -> Server:
        servers.append(Server(answer, certificate))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def opensearch(path: str, headers: dict[str, str]) -> Answer:
    return 200, {}, {"version": {"distribution": "opensearch", "number": "3.6.0"}}


def elasticsearch(path: str, headers: dict[str, str]) -> Answer:
    return 200, {"X-elastic-product": "Elasticsearch"}, {"version": {"number": "9.5.3"}}


def reduced_elasticsearch(path: str, headers: dict[str, str]) -> Answer:
    """The zip for tests knows no ``GET /``."""
    if path == "/":
        return 405, {}, {"error": "Incorrect HTTP method"}
    return 200, {"X-elastic-product": "Elasticsearch"}, {"nodes": {"a": {"version": "9.5.3"}}}


# -- help ------------------------------------------------------------------------------------------


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for verb in VERBS:
        assert verb in shown


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS)], ids=lambda v: v[0] if v else "esembed")
def test_every_verb_teaches_itself(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb, "--help"]) == 0
    assert "Usage: esembed" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["create", "attach", "inspect", "delete", "repair"])
def test_index_verbs_have_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"esembed index {verb}" in shown
    assert "--api-key-env" in shown
    assert "--ca-certs" in shown


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from esembed.cli import main; main(['--help']);"
        "heavy = {'numpy', 'elasticsearch', 'opensearchpy', 'openvino', 'torch', 'msgspec'};"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("heavy: []")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert "esembed" in capsys.readouterr().out


# -- exit codes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (errors.PlanError("x", path="dense"), 2),
        (errors.OptionsError("x", option="y"), 2),
        (errors.DeleteLimitError("x", option="y", found=2, total=3), 7),
        (errors.SourceError("x"), 2),
        (errors.AliasError("x", alias="y"), 2),
        (errors.QueryError("x"), 2),
        (errors.EngineUnavailableError("x"), 4),
        (errors.AuthorizationError("x", status=401), 5),
        (errors.UnsupportedFeatureError(["x"], profile="y"), 6),
        (errors.IndexNotFoundError("x", index="y"), 1),
        (errors.DownloadError("x"), 1),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["search"], ["search", "x", "--index", "i", "--size", "-1"], ["index", "create"]],
)
def test_usage_errors_end_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err


def test_a_closed_port_ends_with_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "x", "--index", "i", "--url", "http://127.0.0.1:1"]) == 4
    message = capsys.readouterr().err
    assert "nothing answers at http://127.0.0.1:1" in message
    assert "Traceback" not in message


def test_debug_shows_the_traceback_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "x", "--index", "i", "--url", "http://127.0.0.1:1", "--debug"]) == 4
    assert "Traceback" in capsys.readouterr().err


def test_a_plan_with_an_unknown_field_ends_with_2(
    tmp_path: Path, serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(opensearch)
    plan = tmp_path / "plan.toml"
    plan.write_text("[text.body]\nanalyser = 'english'\n")
    assert main(["index", "create", "books", str(plan), "--url", server.url]) == 2
    message = capsys.readouterr().err
    assert "analyser" in message
    assert "plan.toml" in message
    assert server.seen == [], "nothing may be sent before the plan is read"


@pytest.mark.parametrize(
    ("text", "part"),
    [("not toml at all [", "not TOML"), ("[dense.v]\nencoder = 'given'\n", "dims")],
)
def test_a_broken_plan_ends_with_2(
    text: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(text)
    assert main(["index", "create", "books", str(plan), "--url", "http://127.0.0.1:1"]) == 2
    assert part in capsys.readouterr().err


def test_deleting_without_a_terminal_asks_for_yes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["index", "delete", "books", "--url", "http://127.0.0.1:1"]) == 2
    assert "--yes" in capsys.readouterr().err


# -- which engine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(opensearch, "opensearch"), (elasticsearch, "elasticsearch"), (reduced_elasticsearch, "elasticsearch")],
)
def test_the_engine_says_what_it_is(answer: Any, kind: str, serve: Callable[..., Server]) -> None:
    assert detect_engine(serve(answer).url) == kind


def test_a_wrong_password_ends_with_5(
    serve: Callable[..., Server], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = "Basic " + base64.b64encode(b"ada:right").decode()

    def guarded(path: str, headers: dict[str, str]) -> Answer:
        if headers.get("authorization") == right:
            return opensearch(path, headers)
        return 401, {"www-authenticate": "Basic"}, {"error": "no"}

    server = serve(guarded)
    monkeypatch.setenv("TEST_PASSWORD", "wrong-and-secret")
    options = ["--url", server.url, "--username", "ada", "--password-env", "TEST_PASSWORD"]
    assert main(["search", "x", "--index", "i", *options]) == 5
    message = capsys.readouterr().err
    assert "--password-env" in message
    assert "wrong-and-secret" not in message

    monkeypatch.setenv("TEST_PASSWORD", "right")
    connection = Connection(url=server.url, username="ada", password_env="TEST_PASSWORD")
    assert connection.resolve() == (server.url, "opensearch")
    assert "right" not in repr(connection)


def test_an_api_key_is_sent_and_never_shown(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(elasticsearch)
    monkeypatch.setenv("TEST_KEY", "secret-key")
    connection = Connection(url=server.url, api_key_env="TEST_KEY")
    connection.resolve()
    assert server.seen[0][1]["authorization"] == "ApiKey secret-key"
    assert "secret-key" not in repr(connection)
    client = connection.client()
    client.close()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"url": "localhost:9200"}, "http://host:9200"),
        ({"url": "http://ada:pw-in-url@127.0.0.1:9"}, "--password-env"),
        ({"url": "http://127.0.0.1:9", "username": "ada"}, "belong together"),
        ({"url": "http://127.0.0.1:9", "api_key_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE"),
        ({"url": "https://127.0.0.1:9", "ca_certs": Path("/nowhere/ca.pem")}, "no file"),
        ({"cloud_id": "nonsense"}, "no Elastic Cloud id"),
        ({"cloud_id": "name:bm9uc2Vuc2U="}, "no Elastic Cloud id"),
        ({"cloud_id": CLOUD_ID, "url": "http://127.0.0.1:9"}, "give one of them"),
        ({"cloud_id": CLOUD_ID, "engine": "opensearch"}, "--engine says opensearch"),
        ({"cloud_id": CLOUD_ID, "aws_region": "eu-west-1"}, "name the domain with --url"),
        ({"aws_region": "eu-west-1"}, "name the domain with --url"),
        ({"url": "http://127.0.0.1:9", "aws_profile": "p"}, "needs --aws-region"),
        ({"url": "http://127.0.0.1:9", "aws_region": "r", "engine": "elasticsearch"}, "leave --engine out"),
        ({"url": "http://127.0.0.1:9", "aws_region": "r", "username": "ada"}, "leave --username"),
    ],
)
def test_wrong_connection_options(options: dict[str, Any], part: str) -> None:
    with pytest.raises(UsageError, match=part) as caught:
        Connection(**options).resolve()
    assert "pw-in-url" not in str(caught.value)


def test_an_elastic_cloud_id_is_an_address() -> None:
    connection = Connection(cloud_id=CLOUD_ID, timeout_seconds=7.0)
    assert connection.resolve() == ("https://abc.eu-west-1.aws.found.io:9243", "elasticsearch")
    client = connection.client()
    assert next(iter(client.transport.node_pool.all())).base_url == "https://abc.eu-west-1.aws.found.io:9243"
    client.close()


def test_requests_to_amazon_are_signed(
    serve: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = serve(opensearch)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    options = ["--url", server.url, "--aws-region", "eu-west-1"]
    assert main(["search", "x", "--index", "i", *options]) == 2
    assert "no AWS credentials" in capsys.readouterr().err
    assert main(["search", "x", "--index", "i", *options, "--aws-profile", "nobody"]) == 2
    assert "--aws-profile" in capsys.readouterr().err
    (tmp_path / "credentials").write_text(
        "[mine]\naws_access_key_id = AKIDMINE\naws_secret_access_key = very-secret\n"
    )
    main(["search", "x", "--index", "i", *options, "--aws-profile", "mine"])
    assert "very-secret" not in "".join(capsys.readouterr())
    assert server.seen, "nothing was asked"
    for _, headers in server.seen:
        assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDMINE/")
        assert "/eu-west-1/es/aws4_request" in headers["authorization"]


def test_a_server_that_hangs_is_told_within_the_time_out() -> None:
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        # The socket's time-out and the deadline of the whole answer end at the same moment.
        with pytest.raises(errors.EngineUnavailableError, match=r"nothing answers|did not answer within"):
            Connection(url=f"http://127.0.0.1:{hanging.getsockname()[1]}", timeout_seconds=0.5).resolve()


def test_something_else_answers(serve: Callable[..., Server]) -> None:
    server = serve(lambda path, headers: (200, {}, b"<html>hello</html>"))
    with pytest.raises(errors.PermanentError, match="not as Elasticsearch or OpenSearch"):
        detect_engine(server.url)


def test_tls_is_verified_unless_told_otherwise(serve: Callable[..., Server], tmp_path: Path) -> None:
    authority = trustme.CA()
    server = serve(opensearch, authority.issue_cert("127.0.0.1"))
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with pytest.raises(errors.PermanentError, match="--ca-certs"):
        Connection(url=server.url).resolve()
    assert Connection(url=server.url, ca_certs=ca_file).resolve()[1] == "opensearch"
    assert Connection(url=server.url, insecure=True).resolve()[1] == "opensearch"
    not_pem = tmp_path / "not.pem"
    not_pem.write_text("hello")
    with pytest.raises(UsageError, match="not a PEM file"):
        Connection(url=server.url, ca_certs=not_pem).resolve()


# -- legs and filters ------------------------------------------------------------------------------

PLAN = IndexPlan(
    text={"title": TextField(keyword=True), "body": TextField()},
    dense={"embedding": DenseField(encoder="precomputed", dims=3)},
    sparse={"terms": SparseField(encoder="lexical", source=("body",))},
    filter={
        "lang": FilterField(),
        "year": FilterField(type="integer"),
        "price": FilterField(type="float"),
        "sold": FilterField(type="boolean"),
        "day": FilterField(type="date"),
    },
)


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        (["lang=en"], "q.term('lang', 'en')"),
        (["lang=en", "lang=de"], "q.terms('lang', ['en', 'de'])"),
        (["year>=2020"], "q.range('year', gte=2020)"),
        (["price<9.5"], "q.range('price', lt=9.5)"),
        (["sold=true"], "q.term('sold', True)"),
        (["day>2024-01-31"], "q.range('day', gt='2024-01-31')"),
        (["title.keyword=A = B"], "q.term('title.keyword', 'A = B')"),
        (
            ["year<=2020", "lang!=en"],
            "q.bool_(filter=[q.range('year', lte=2020)], must_not=[q.term('lang', 'en')])",
        ),
    ],
)
def test_filters(filters: list[str], shown: str) -> None:
    assert repr(parse_filters(PLAN, filters)) == shown


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("lang", "FIELD=VALUE"),
        ("=en", "FIELD=VALUE"),
        ("title=x", "title.keyword"),
        ("body=x", "keyword = true"),
        ("nothing=x", "no field 'nothing' to filter by"),
        ("year=soon", "numbers"),
        ("sold=perhaps", "true or false"),
        ("sold>true", "no meaning"),
    ],
)
def test_wrong_filters_say_what_to_do(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        parse_filters(PLAN, [text])


# -- doctor ----------------------------------------------------------------------------------------


def test_doctor_never_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", "/nowhere/at/all")
    assert main(["doctor", "--json", "--url", "http://127.0.0.1:1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"python", "packages", "machine", "encoders", "java", "engine", "advice"} <= set(report)
    assert "nothing answers" in report["engine"]["problem"]
    assert any("--url" in line for line in report["advice"])


def test_doctor_shows_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--url", "http://127.0.0.1:1"]) == 0
    shown = capsys.readouterr().out
    assert "cores" in shown
    assert "\x1b[" not in shown, "no colors where there is no terminal"


def test_the_page_about_the_command_line_is_up_to_date() -> None:
    script = Path(__file__).resolve().parents[3] / "scripts" / "cli_docs.py"
    if not script.is_file():
        pytest.skip("runs in a checkout")
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_option_by_its_old_name_is_understood_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    from esembed.cli._renamed import RENAMED, with_new_names

    words = ["--debug", "ingest", "a.jsonl", "--again", "--chunk-mb=2", "--in-flight", "3", "--", "--nan"]
    wanted = [
        "--debug",
        "ingest",
        "a.jsonl",
        "--rewrite",
        "--max-request-mb=2",
        "--max-in-flight",
        "3",
        "--",
        "--nan",
    ]
    assert with_new_names(words) == wanted
    assert "--again is now --rewrite" in capsys.readouterr().err
    assert with_new_names(["search", "--nan"]) == ["search", "--nan"]
    assert with_new_names(["search", "x", "--kind=opensearch"]) == ["search", "x", "--engine=opensearch"]
    assert with_new_names(["engine", "stop", "-k", "opensearch"]) == ["engine", "stop", "-e", "opensearch"]
    assert main(["ingest", "--help"]) == 0
    shown = capsys.readouterr().out
    for old, new in RENAMED["ingest"].items():
        assert new in shown
        assert f" {old} " not in shown


def test_a_dash_is_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bm25.run").write_text("q1 Q0 d1 1 2.0 x\nq1 Q0 d2 2 1.0 x\n", encoding="utf-8")
    Path("judged.txt").write_text("q1 0 d1 1\n", encoding="utf-8")
    Path("topics.tsv").write_text("q1\tred fox\n", encoding="utf-8")
    base = ["eval", "runs", "judged.txt", "bm25.run", "--topics", "topics.tsv"]
    assert main([*base, "--html", "-"]) == 0
    out, err = capfdbinary.readouterr()
    # The page and nothing else, so that it can be piped; what people read is on stderr.
    assert out.startswith(b"<!doctype html>")
    assert out.rstrip().endswith(b"</html>")
    assert b"bm25" in err
    assert main([*base]) == 0
    out, err = capfdbinary.readouterr()
    assert b"bm25" in out
    for both in (["--html", "-", "--json"], ["--json", "--html", "-"]):
        assert main([*base, *both]) == 2
        assert b"both write to standard output" in b"".join(capfdbinary.readouterr())
    for wrong in (
        ["ingest", "-", "--index", "x", "--dead-letters", "-"],
        ["advise", "plan.toml", "x.npy", "--plot", "no/such/folder.svg"],
        ["tune", "x", "judged.txt", "--next-plan", "."],
        ["advise", "plan.toml", "x.npy", "--plot", "-", "--output", "-"],
        ["eval", "index", "x", "judged.txt", "--save-runs", "-"],
        ["eval", "index", "x", "judged.txt", "--save-runs", "judged.txt"],
    ):
        assert main(wrong) == 2
        assert wrong[-2].encode() in b"".join(capfdbinary.readouterr())
    assert not Path("-").exists()
