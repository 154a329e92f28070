"""Engines with security on, for tests of privileges: each of its own, on loopback, removed afterward.

Elasticsearch is the pinned server with its file realm (:class:`esembed.local.config.Security`). The pinned
OpenSearch (3.6.0) has no security plugin of its version on Maven Central: this one is 2.19.4 with that
version's plugin. Its archive has few modules, and none is added: text and filters only.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esembed.capabilities import Engine
from esembed.local import artifacts
from esembed.local import server as local
from esembed.local.config import LOG_NAME, Security, User, prepare_config
from esembed.local.java import find_java
from esembed.local.process import (
    create_time,
    end_process,
    explain_log,
    give_to,
    published_port,
    remove_tree,
    server_uid,
    spawn,
)

__all__ = ["ADMIN", "PASSWORD", "SecuredEngine", "elasticsearch", "opensearch"]

OPENSEARCH = artifacts.Assembly(
    engine="opensearch",
    version="2.19.4",
    server=artifacts.Artifact(
        group="org.opensearch.distribution.integ-test-zip",
        name="opensearch",
        version="2.19.4",
        sha256="3902e642715210d1d9d7cbdcc8f5abd6f931d1d7a679cea3750937becf16c406",
    ),
    plugins=(
        artifacts.Plugin(
            folder="plugins/opensearch-security",
            artifacts=(
                artifacts.Artifact(
                    group="org.opensearch.plugin",
                    name="opensearch-security",
                    version="2.19.4.0",
                    sha256="1f673622c462c4171a8c53f9b1ad20e5b839834cb79b0d3b388da180a0e514e8",
                ),
            ),
        ),
    ),
    min_java=17,
    max_java=23,  # Java 24 took the security manager away, without which 2.19 doesn't start
)

ADMIN = "esembed"
PASSWORD = "a long enough test password 7"
PASSWORD_HASH = "$2y$12$0p.Yn5kf8ZL/FHxT/niCN.y6xCt1MaQQdz9WcIw7u7GC5Ful26J7K"
"""Of the password, by the plugin's ``tools/hash.sh`` (bcrypt, for which Python needs a package)."""

BOOT_SECONDS = 300.0


@dataclass(frozen=True)
class SecuredEngine:
    """An engine with security on.

    Attributes:
        url: where it answers.
        engine: which one.
        admin_password: the administrator's (``ADMIN``); others have ``PASSWORD``.
        ca_certs: who signed its certificate; None where it is plain HTTP.
    """

    url: str
    engine: Engine
    admin_password: str = field(repr=False)
    ca_certs: Path | None = None

    def password(self, user: str) -> str:
        """A user's password."""
        return self.admin_password if user == ADMIN else PASSWORD

    def client(self, user: str) -> Any:
        """The official client, as that user."""
        secret = (user, self.password(user))
        if self.engine == "elasticsearch":
            from elasticsearch import Elasticsearch

            return Elasticsearch(self.url, basic_auth=secret, ca_certs=str(self.ca_certs), request_timeout=60)
        from opensearchpy import OpenSearch

        return OpenSearch(self.url, http_auth=secret, timeout=60)

    def request(self, method: str, path: str, body: Any = None, *, user: str = ADMIN) -> tuple[int, Any]:
        """Status and parsed body."""
        token = b64encode(f"{user}:{self.password(user)}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        context = ssl.create_default_context(cafile=str(self.ca_certs)) if self.ca_certs else None
        try:
            with urllib.request.urlopen(request, timeout=60, context=context) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read()
        return status, json.loads(text) if text[:1] in (b"{", b"[") else text.decode()


@contextlib.contextmanager
def elasticsearch(
    name: str, roles: Mapping[str, Mapping[str, Any]], *, heap_mb: int = 1024
) -> Iterator[SecuredEngine]:
    """Elasticsearch with the file realm: for each role a user of the same name."""
    users = tuple(User(name=role, password=PASSWORD, roles=(role,)) for role in roles)
    info = local.start(
        "elasticsearch",
        name=name,
        heap_mb=heap_mb,
        security=Security(users=users, roles=roles),
    )
    try:
        yield SecuredEngine(
            url=info.url,
            engine="elasticsearch",
            admin_password=str(info.password),
            ca_certs=info.ca_certs,
        )
    finally:
        local.destroy("elasticsearch", name=name)


@contextlib.contextmanager
def opensearch(
    name: str, roles: Mapping[str, Mapping[str, Any]], *, heap_mb: int = 1024
) -> Iterator[SecuredEngine]:
    """OpenSearch with the security plugin: for each role a user of the same name."""
    home = artifacts.install(OPENSEARCH)
    uid, root = server_uid(), artifacts.engine_root()
    java = find_java(
        min_major=OPENSEARCH.min_java, max_major=OPENSEARCH.max_java, uid=uid, download_dir=root / "jdks"
    )
    instance = root / "instances" / f"opensearch-secured-{name}"
    remove_tree(instance)
    artifacts.make_public(instance)
    conf, log, console = instance / "conf", instance / "logs" / LOG_NAME, instance / "console.log"
    prepare_config("opensearch", home, instance, instance / "data", port=0, trial=False, security=None)
    _write_security(conf, roles)
    give_to(uid, conf, instance / "logs", instance / "tmp", instance / "data")
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(instance / "tmp"),
        "JAVA_HOME": str(java.home),
        "OPENSEARCH_JAVA_HOME": str(java.home),
        "OPENSEARCH_PATH_CONF": str(conf),
        "OPENSEARCH_TMPDIR": str(instance / "tmp"),
        "OPENSEARCH_JAVA_OPTS": f"-Xms{heap_mb}m -Xmx{heap_mb}m",
    }
    pid = spawn([str(home / "bin" / "opensearch")], env=env, log=console, uid=uid, cwd=instance / "tmp")
    try:
        yield _answering(pid, log, console)
    finally:
        end_process(pid)
        remove_tree(instance)


def _write_security(conf: Path, roles: Mapping[str, Mapping[str, Any]]) -> None:
    """Certificates for the transport layer, which the plugin insists on, and what its index begins with."""
    import trustme
    from cryptography.hazmat.primitives import serialization

    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    # The plugin reads PKCS #8 only; trustme writes the older form.
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (conf / "node.key").write_bytes(pem)
    (conf / "node.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    authority.cert_pem.write_to_path(str(conf / "ca.pem"))
    transport = "plugins.security.ssl.transport"
    settings = {
        f"{transport}.pemcert_filepath": "node.pem",
        f"{transport}.pemkey_filepath": "node.key",
        f"{transport}.pemtrustedcas_filepath": "ca.pem",
        f"{transport}.enforce_hostname_verification": False,
        "plugins.security.ssl.http.enabled": False,
        "plugins.security.allow_default_init_securityindex": True,
        "plugins.security.authcz.admin_dn": ["CN=nobody"],
        "plugins.security.audit.type": "noop",
        # Roles are changed between tests.
        "plugins.security.restapi.roles_enabled": ["everything"],
    }
    with (conf / "opensearch.yml").open("a") as file:
        file.writelines(f"{name}: {json.dumps(value)}\n" for name, value in settings.items())
    basic = {
        "http_enabled": True,
        "transport_enabled": True,
        "order": 0,
        "http_authenticator": {"type": "basic", "challenge": True},
        "authentication_backend": {"type": "intern"},
    }
    users = {name: {"hash": PASSWORD_HASH} for name in (ADMIN, *roles)}
    everything = {
        "cluster_permissions": ["*"],
        "index_permissions": [{"index_patterns": ["*"], "allowed_actions": ["*"]}],
    }
    files: dict[str, tuple[str, Mapping[str, Any]]] = {
        "config": ("config", {"config": {"dynamic": {"authc": {"basic": basic}}}}),
        "internal_users": ("internalusers", users),
        "roles": ("roles", {**roles, "everything": everything}),
        "roles_mapping": (
            "rolesmapping",
            {**{name: {"users": [name]} for name in roles}, "everything": {"users": [ADMIN]}},
        ),
        "action_groups": ("actiongroups", {}),
        "tenants": ("tenants", {}),
        "nodes_dn": ("nodesdn", {}),
        "allowlist": ("allowlist", {"config": {"enabled": False}}),
        "audit": ("audit", {"config": {"enabled": False}}),
    }
    folder = conf / "opensearch-security"
    folder.mkdir()
    for name, (type_, content) in files.items():
        # JSON is YAML.
        body = {"_meta": {"type": type_, "config_version": 2}, **content}
        (folder / f"{name}.yml").write_text(json.dumps(body, indent=1))


def _answering(pid: int, log: Path, console: Path) -> SecuredEngine:
    """The engine when it has read who may do what."""
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        port = published_port(log)
        if port:
            engine = SecuredEngine(
                url=f"http://127.0.0.1:{port}", engine="opensearch", admin_password=PASSWORD
            )
            with contextlib.suppress(OSError):
                if engine.request("GET", "/_cluster/health")[0] == 200:
                    return engine
        if create_time(pid) is None:
            break
        time.sleep(0.2)
    cause, shown = explain_log(console, log)
    raise RuntimeError(f"OpenSearch with security did not start: {cause}\n{shown}")
