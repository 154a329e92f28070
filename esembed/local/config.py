"""The configuration files of a local server: settings, JVM options, bounded logs, users, certificates."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esembed.capabilities import Engine
from esembed.errors import EngineStartError

__all__ = ["Security", "User", "prepare_config", "write_security"]

LOG_MAX_MB = 10  # a server that a laptop keeps running for months must not fill its disk
LOG_KEPT_FILES = 2
LOG_NAME = "server.log"

_PATTERN = "[%d{ISO8601}][%-5p][%-25c{1.}] [%node_name]%marker %m%n"
# One rolling file and no console: the size on disk is bounded however long the server runs.
_LOG4J = f"""status = error
appender.rolling.type = RollingFile
appender.rolling.name = rolling
appender.rolling.fileName = ${{sys:PREFIX.logs.base_path}}/{LOG_NAME}
appender.rolling.filePattern = ${{sys:PREFIX.logs.base_path}}/server-%i.log.gz
appender.rolling.layout.type = PatternLayout
appender.rolling.layout.pattern = {_PATTERN}
appender.rolling.policies.type = Policies
appender.rolling.policies.size.type = SizeBasedTriggeringPolicy
appender.rolling.policies.size.size = {LOG_MAX_MB}MB
appender.rolling.strategy.type = DefaultRolloverStrategy
appender.rolling.strategy.max = {LOG_KEPT_FILES}
rootLogger.level = info
rootLogger.appenderRef.rolling.ref = rolling
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A file-realm user of a local Elasticsearch."""

    name: str
    password: str = field(repr=False)
    roles: tuple[str, ...] = ("superuser",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """HTTPS and users for a local Elasticsearch (for tests of both).

    Attributes:
        users: besides ``esembed``, a superuser whose password is made again at every start.
        roles: role name → role as Elasticsearch's roles.yml has it (``cluster``, ``indices`` …).
    """

    users: tuple[User, ...] = ()
    roles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def prepare_config(
    engine: Engine,
    home: Path,
    instance: Path,
    data: Path,
    *,
    port: int,
    trial: bool,
    security: Security | None,
) -> None:
    """Write ``conf/`` and create the data, log and temp folders of one instance."""
    conf, logs = instance / "conf", instance / "logs"
    for folder in (conf, logs, data, instance / "tmp", conf / "jvm.options.d"):
        folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "cluster.name": "esembed-local",
        "node.name": f"esembed-{engine}",
        "path.data": str(data),
        "path.logs": str(logs),
        "network.host": "127.0.0.1",
        "http.port": port,
        # Any free port: two local engines would both want 9300, and nobody connects there.
        "transport.port": 0,
        # Skips the bootstrap checks, which would ask for vm.max_map_count and more file handles.
        "discovery.type": "single-node",
        # A nearly full laptop disk must not turn a development index read-only.
        "cluster.routing.allocation.disk.threshold_enabled": False,
    }
    if engine == "elasticsearch":
        settings["xpack.license.self_generated.type"] = "trial" if trial else "basic"
        settings["xpack.security.enabled"] = security is not None
        # Else the first start writes certificates into the configuration and turns security on.
        settings["xpack.security.autoconfiguration.enabled"] = False
        if security is not None:
            settings |= {
                "xpack.security.enrollment.enabled": False,
                "xpack.security.transport.ssl.enabled": False,
                "xpack.security.http.ssl.enabled": True,
                "xpack.security.http.ssl.key": str(conf / "http.key"),
                "xpack.security.http.ssl.certificate": str(conf / "http.crt"),
            }
    # JSON scalars are YAML scalars.
    lines = [f"{name}: {json.dumps(value)}" for name, value in settings.items()]
    (conf / f"{engine}.yml").write_text("\n".join(lines) + "\n")
    prefix = "es" if engine == "elasticsearch" else "opensearch"
    (conf / "log4j2.properties").write_text(_LOG4J.replace("PREFIX", prefix))
    options = (home / "config" / "jvm.options").read_text().splitlines()
    # A heap dump is as large as the heap and would fill the caller's disk; the heap's size is the caller's.
    unwanted = re.compile(r"-Xlog:gc|-Xloggc|-Xm[sx]|HeapDump|-XX:ErrorFile|GCLog")
    kept = [line for line in options if not unwanted.search(line)]
    # Touching the whole heap at start costs seconds and memory that a small index never needs.
    kept += ["-XX:-AlwaysPreTouch", f"-XX:ErrorFile={logs / 'hs_err.log'}", ""]
    (conf / "jvm.options").write_text("\n".join(kept))


def write_security(conf: Path, security: Security, password: str) -> Path:
    """Certificates by trustme and the file realm; the path of the CA's certificate.

    Raises EngineStartError when trustme is not installed.
    """
    try:
        import trustme
    except ImportError as error:
        raise EngineStartError("a local engine with HTTPS needs trustme: pip install trustme") from error
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(str(conf / "http.key"))
    (conf / "http.crt").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    authority.cert_pem.write_to_path(str(conf / "ca.pem"))
    users = (User(name="esembed", password=password), *security.users)
    (conf / "users").write_text("".join(f"{user.name}:{_pbkdf2(user.password)}\n" for user in users))
    members: dict[str, list[str]] = {}
    for user in users:
        for role in user.roles:
            members.setdefault(role, []).append(user.name)
    (conf / "users_roles").write_text("".join(f"{r}:{','.join(names)}\n" for r, names in members.items()))
    roles = [f"{json.dumps(name)}: {json.dumps(role)}" for name, role in security.roles.items()]
    (conf / "roles.yml").write_text("\n".join(roles) + "\n")
    for name in ("http.key", "users"):
        (conf / name).chmod(0o600)
    return conf / "ca.pem"


# As many rounds as Elasticsearch's own pbkdf2 has by default.
def _pbkdf2(password: str, iterations: int = 10_000) -> str:
    """Elasticsearch's ``{PBKDF2}`` form: it needs no library beyond the standard one (bcrypt would)."""
    salt = secrets.token_bytes(32)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations, dklen=32)
    encoded = "$".join(base64.b64encode(part).decode() for part in (salt, digest))
    return f"{{PBKDF2}}{iterations}${encoded}"
