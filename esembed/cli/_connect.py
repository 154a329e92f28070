"""Where the engine is: the options every verb shares, and the official client they make.

A verb is written with one parameter ``connection: Connection`` and decorated with
:func:`takes_connection`, which puts the options in its place.
"""

from __future__ import annotations

import enum
import http.client
import inspect
import ssl
import typing
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esembed.bounded import read_url
from esembed.capabilities import Engine
from esembed.cli._clients import client_class
from esembed.credentials import (
    basic_authorization,
    checked_credential,
    key_from_environment,
    public_url,
    without_url_secrets,
)
from esembed.errors import (
    AuthorizationError,
    EngineUnavailableError,
    EsembedError,
    OptionsError,
    PermanentError,
)

if TYPE_CHECKING:
    from esembed.local.server import EngineInfo

__all__ = ["Connection", "EngineName", "UsageError", "detect_engine", "running_local", "takes_connection"]

PANEL = "Which engine"

DETECT_SECONDS = 10.0
"""The question which engine answers is a small one: a server that takes longer is told at once, not after the
minute that a search is given."""


class UsageError(PermanentError):
    """Options that contradict each other or name something that isn't there; exit code 2."""


class EngineName(str, enum.Enum):
    """The two engines, as an option's choices."""

    elasticsearch = "elasticsearch"
    opensearch = "opensearch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where the engine is and how to get in. Secrets are read from the environment, late.

    Attributes:
        url: its address, else the local engine that ``esembed engine start`` started.
        cloud_id: the Elastic Cloud deployment's id, in place of an address.
        engine: which engine, else the server is asked.
        api_key_env: the environment variable that holds the API key.
        username, password_env: basic authentication; the variable holds the password.
        aws_region: sign requests for Amazon OpenSearch Service in this region, with the credentials that
            boto3 finds (environment, profile, role).
        aws_profile: whose credentials, of the profiles that boto3 knows.
        ca_certs: a PEM file with the certificate authority, else the system's.
        insecure: don't verify the server's certificate.
        timeout_seconds: for one request.
    """

    url: str | None = None
    cloud_id: str | None = None
    engine: Engine | None = None
    api_key_env: str | None = None
    username: str | None = None
    password_env: str | None = None
    aws_region: str | None = None
    aws_profile: str | None = None
    ca_certs: Path | None = None
    insecure: bool = False
    timeout_seconds: float = 60.0
    _found: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def resolve(self) -> tuple[str, Engine]:
        """The address and the engine behind it.

        Raises:
            EngineUnavailableError: nothing answers, or no local engine runs.
            AuthorizationError: the credentials are wrong.
            UsageError: options that can't be.
        """
        if "engine" not in self._found:
            url, engine = self._named()
            if url is None:
                local = running_local(engine)
                if local is None:
                    what = f"local {engine}" if engine else "local engine"
                    raise EngineUnavailableError(
                        f"no {what} is running; start one with: esembed engine start"
                        f"{f' --engine {engine}' if engine else ''}  (or name a server with --url)"
                    )
                url, engine = local.url, local.engine
                self._found["local"] = local
            _check_url(url)
            if engine is None:
                engine = detect_engine(
                    url,
                    headers=self._headers(),
                    context=self._context(url),
                    timeout_seconds=min(self.timeout_seconds, DETECT_SECONDS),
                )
            self._found.update(url=url, engine=engine)
        return self._found["url"], self._found["engine"]

    def _named(self) -> tuple[str | None, Engine | None]:
        """The address that the options name, and the engine where they tell it.

        Raises:
            UsageError: options that contradict each other.
        """
        url, engine = self.url, self.engine
        if self.cloud_id is not None:
            if url is not None:
                raise UsageError(
                    "--cloud-id names the server, and so does --url (or ESEMBED_URL): give one of them"
                )
            url = _cloud_url(self.cloud_id)
            if engine == "opensearch":
                raise UsageError("--cloud-id is an Elastic Cloud deployment, --engine says opensearch")
            engine = "elasticsearch"
        if self.aws_profile is not None and self.aws_region is None:
            raise UsageError("--aws-profile needs --aws-region: requests are signed for a region")
        if self.aws_region is not None:
            if url is None or self.cloud_id is not None:
                raise UsageError(
                    "--aws-region signs for Amazon OpenSearch Service: name the domain with --url"
                )
            if engine == "elasticsearch":
                raise UsageError(
                    "--aws-region signs for Amazon OpenSearch Service, which the Elasticsearch client "
                    "refuses; leave --engine out"
                )
            if self.api_key_env or self.username or self.password_env:
                raise UsageError(
                    "--aws-region signs each request; leave --username, --password-env and --api-key-env out"
                )
            # Not asked: an unsigned question is answered by 403.
            engine = "opensearch"
        return url, engine

    def client(self, *, lean: bool = False) -> Any:
        """The official sync client: ``Elasticsearch`` or ``OpenSearch``. The caller closes it.

        Args:
            lean: see :func:`~esembed.cli._clients.client_class`.
        """
        url, engine = self.resolve()
        make = client_class(engine, lean=lean)
        return (
            make(url, **self._elasticsearch(url))
            if engine == "elasticsearch"
            else make(**self._opensearch(url))
        )

    # -- credentials ---------------------------------------------------------------------------

    def _authorization(self) -> str | None:
        """The value of the Authorization header, or None. Made here and not by the official clients: they
        take names and passwords in ASCII or Latin-1 only, while both engines read UTF-8."""
        if self.username is None and self.password_env is None:
            if self.api_key_env:
                return f"ApiKey {_secret(self.api_key_env, '--api-key-env')}"
            local: EngineInfo | None = self._found.get("local")
            if local is None or not local.username or not local.password:
                return None
            return basic_authorization(local.username, local.password)
        if self.username is None or self.password_env is None:
            raise UsageError(
                "--username and --password-env belong together; the second names the environment "
                "variable that holds the password"
            )
        if self.api_key_env:
            raise UsageError("give either --api-key-env or --username with --password-env, not both")
        password = _secret(self.password_env, "--password-env", header=False)
        try:
            return basic_authorization(self.username, password)
        except OptionsError as error:
            raise UsageError(f"--username: {error.message}") from None

    def _headers(self) -> dict[str, str]:
        authorization = self._authorization()
        return {"Authorization": authorization} if authorization else {}

    def _context(self, url: str) -> ssl.SSLContext | None:
        if not url.startswith("https:"):
            return None
        local: EngineInfo | None = self._found.get("local")
        ca_certs = self.ca_certs or (local.ca_certs if local is not None else None)
        if ca_certs is not None and not ca_certs.is_file():
            raise UsageError(f"--ca-certs: there is no file {ca_certs}")
        try:
            context = ssl.create_default_context(cafile=None if ca_certs is None else str(ca_certs))
        except ssl.SSLError as error:
            raise UsageError(f"--ca-certs: {ca_certs} is not a PEM file of certificates") from error
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _elasticsearch(self, url: str) -> dict[str, Any]:
        options: dict[str, Any] = {"request_timeout": self.timeout_seconds}
        if context := self._context(url):
            options["ssl_context"] = context
        if headers := self._headers():
            options["headers"] = headers
        return options

    def _opensearch(self, url: str) -> dict[str, Any]:
        parts = urllib.parse.urlsplit(url)
        host: dict[str, Any] = {
            "host": parts.hostname,
            "port": parts.port or (443 if parts.scheme == "https" else 80),
            "use_ssl": parts.scheme == "https",
        }
        if parts.path.strip("/"):
            host["url_prefix"] = parts.path.strip("/")
        # opensearch-py (3.1) keeps one connection: each further request at a time opens its own and warns.
        options: dict[str, Any] = {"hosts": [host], "timeout": self.timeout_seconds, "pool_maxsize": 16}
        if context := self._context(url):
            options["ssl_context"] = context
        if self.aws_region is not None:
            options["http_auth"] = _signer(self.aws_region, self.aws_profile)
        elif headers := self._headers():
            options["headers"] = headers
        return options


def _cloud_url(cloud_id: str) -> str:
    """The Elasticsearch address in an Elastic Cloud id."""
    from elastic_transport.client_utils import parse_cloud_id

    try:
        host, port = parse_cloud_id(cloud_id).es_address or ("", None)
    except (ValueError, TypeError):
        host, port = "", None
    if not host:
        raise UsageError(
            "--cloud-id: that is no Elastic Cloud id; copy it from the deployment's page (NAME:BASE64), or "
            "give the deployment's address with --url"
        )
    return f"https://{host}:{port or 443}"


def _signer(region: str, profile: str | None) -> Any:
    """What signs opensearch-py's requests with AWS Signature Version 4."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError as error:
        raise UsageError('--aws-region needs boto3: pip install "esembed[aws]"') from error
    from opensearchpy import Urllib3AWSV4SignerAuth

    try:
        credentials = boto3.Session(profile_name=profile, region_name=region).get_credentials()
    except BotoCoreError as error:
        raise UsageError(f"--aws-profile: {error}") from error
    if credentials is None:
        raise UsageError(
            "--aws-region: boto3 finds no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or name a profile with --aws-profile"
        )
    # Amazon OpenSearch Service's domains; the serverless service (aoss) is refused, see
    # transport.refuse_serverless.
    return Urllib3AWSV4SignerAuth(credentials, region, "es")


def _secret(variable: str, option: str, *, header: bool = True) -> str:
    try:
        value = key_from_environment(variable, option)
        return checked_credential(value, f"the environment variable {variable}", header=header)
    except OptionsError as error:
        raise UsageError(error.message) from None


def _check_url(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_ok = urllib.parse.urlsplit(""), False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok:
        # What is no address can't be told from a password by its form.
        shown = "" if "@" in url or "%" in url else f"{public_url(url).partition('?')[0]!r}: "
        raise UsageError(f"--url: {shown}that is no address; write http://host:9200")
    if parts.username or parts.password or "@" in parts.netloc:
        raise UsageError(
            "--url: leave user name and password out of the address; give --username and --password-env"
        )
    if parts.query or parts.fragment:
        raise UsageError(f"--url: {public_url(url)} is the address; leave out what stands behind ? or #")


def running_local(engine: Engine | None) -> EngineInfo | None:
    """The local engine that ``esembed engine start`` started, OpenSearch first; None when none runs.

    Engines with a name (``--name``, those of a test run) are their starter's: they take a ``--url``.
    """
    from esembed.local.server import ENGINES, status

    for each in (engine,) if engine else ENGINES:
        if (found := status(each)) is not None:
            return found
    return None


# -- asking which engine it is ---------------------------------------------------------------------


def detect_engine(
    url: str,
    *,
    headers: dict[str, str] | None = None,
    context: ssl.SSLContext | None = None,
    timeout_seconds: float = DETECT_SECONDS,
) -> Engine:
    """Which engine answers at *url*: by its product header, else by what ``GET /`` says of itself.

    Raises:
        EngineUnavailableError: nothing answers.
        AuthorizationError: 401 or 403.
        PermanentError: something else answers.
    """
    denied: AuthorizationError | None = None
    for path in ("/", "/_nodes?filter_path=nodes.*.version"):
        status, answer_headers, body = _get(url.rstrip("/") + path, headers or {}, context, timeout_seconds)
        product = answer_headers.get("x-elastic-product", "").lower() == "elasticsearch"
        if status == 403 and (product or _is_security_plugin(body)):
            # Who may search one index need not be told the version: the refusal itself says whose it is.
            return "elasticsearch" if product else "opensearch"
        if product and status != 401:
            return "elasticsearch"
        if status in (401, 403):
            denied = AuthorizationError(
                f"{public_url(url)} answers {status}: the user name and password, or the API key, "
                "are missing, wrong, or lack a privilege (--username with --password-env, or --api-key-env)"
                + ("; --engine elasticsearch|opensearch skips this question" if status == 403 else ""),
                status=status,
            )
            if status == 401:
                break
            continue
        version = body.get("version") if isinstance(body, dict) else None
        if isinstance(version, dict):
            return "opensearch" if version.get("distribution") == "opensearch" else "elasticsearch"
        if status == 200 and isinstance(body, dict) and "nodes" in body:
            return "opensearch"
    if denied is not None:
        raise denied
    raise PermanentError(
        f"{public_url(url)} answers, but not as Elasticsearch or OpenSearch; is it the right address "
        "and port? --engine elasticsearch|opensearch skips this question"
    )


def _is_security_plugin(body: Any) -> bool:
    """Whether a refusal is worded as OpenSearch's security plugin words it (seen in 2.19.4); Elasticsearch's
    is "action […] is unauthorized"."""
    error = body.get("error") if isinstance(body, dict) else None
    reason = error.get("reason") if isinstance(error, dict) else None
    return isinstance(reason, str) and reason.startswith("no permissions for [cluster:")


def _get(
    url: str, headers: dict[str, str], context: ssl.SSLContext | None, timeout_seconds: float
) -> tuple[int, Mapping[str, str], Any]:
    """An answer's status, headers and JSON body (None where it is none), by one deadline for all of it."""
    try:
        answer = read_url(
            url,
            headers={"Accept": "application/json", **headers},
            context=context,
            seconds=timeout_seconds,
        )
    except TimeoutError as error:
        raise EngineUnavailableError(
            f"{public_url(url)} did not answer within {timeout_seconds:g} s"
        ) from error
    except ssl.SSLError as error:
        raise _tls_error(url, error) from error
    except OSError as error:
        raise EngineUnavailableError(f"nothing answers at {public_url(url)}: {error}") from error
    except http.client.HTTPException as error:
        raise PermanentError(f"what answers at {public_url(url)} is not HTTP: {error}") from error
    status, got = answer.status, answer.headers
    if 300 <= status < 400:
        where = without_url_secrets(str(got.get("location", "")))[:200]
        raise PermanentError(
            f"{public_url(url)} answers {status}, a redirect to {where!r}. Redirects aren't followed, so "
            "that credentials go nowhere else; give --url the final address, if it is right"
        )
    return status, got, answer.json()


def _tls_error(url: str, error: ssl.SSLError) -> EsembedError:
    # OpenSSL's words for an answer in clear text, of old and new versions.
    if error.reason in (
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
    ):
        return EngineUnavailableError(
            f"{url} doesn't speak TLS; if that is the right port, write http:// instead of https://"
        )
    return PermanentError(
        f"TLS with {url} failed: {error.reason or error}; name the certificate authority with "
        "--ca-certs FILE (--insecure switches the check off)"
    )


# -- the options -----------------------------------------------------------------------------------


def _option(type_: Any, name: str, help_: str, default: Any = None, **more: Any) -> tuple[Any, Any]:
    return Annotated[type_, typer.Option(name, rich_help_panel=PANEL, help=help_, **more)], default


_OPTIONS: dict[str, tuple[Any, Any]] = {
    "url": _option(
        str | None,
        "--url",
        "The server's address; without it, the running local engine.",
        envvar="ESEMBED_URL",
    ),
    "cloud_id": _option(
        str | None,
        "--cloud-id",
        "The Elastic Cloud deployment's id, instead of --url.",
    ),
    "engine": _option(EngineName | None, "--engine", "Which engine; without it, the server is asked."),
    "api_key_env": _option(
        str | None,
        "--api-key-env",
        "The environment variable that holds the API key.",
        metavar="VARIABLE",
    ),
    "username": _option(str | None, "--username", "For basic authentication."),
    "password_env": _option(
        str | None,
        "--password-env",
        "The environment variable that holds the password.",
        metavar="VARIABLE",
    ),
    "aws_region": _option(
        str | None,
        "--aws-region",
        "Sign requests for Amazon OpenSearch Service with the credentials that boto3 finds.",
        metavar="REGION",
    ),
    "aws_profile": _option(
        str | None, "--aws-profile", "Whose AWS credentials, by a profile's name.", metavar="NAME"
    ),
    "ca_certs": _option(
        Path | None,
        "--ca-certs",
        "PEM file of the certificate authority, where the system doesn't know it.",
        metavar="FILE",
    ),
    "insecure": _option(bool, "--insecure", "Don't verify the server's certificate.", False),
    "timeout_seconds": _option(float, "--timeout-seconds", "For one request.", 60.0, min=0.1),
}


def takes_connection(function: Callable[..., None]) -> Callable[..., None]:
    """Replace a verb's parameter ``connection`` by the options that make one."""
    hints = typing.get_type_hints(function, include_extras=True)
    own = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=hints.get(name, parameter.annotation))
        for name, parameter in own.parameters.items()
        if name != "connection"
    ]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]

    def verb(**values: Any) -> None:
        given = {name: values.pop(name) for name in _OPTIONS}
        if given["engine"] is not None:
            given["engine"] = EngineName(given["engine"]).value
        function(connection=Connection(**given), **values)

    verb.__name__ = function.__name__
    verb.__qualname__ = function.__qualname__
    verb.__module__ = function.__module__
    verb.__doc__ = function.__doc__
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return verb
