"""Every option, field and parameter that may hold a secret is known, so that a new one gets a test."""

from __future__ import annotations

import dataclasses
import inspect
import re

from cli_verbs import VERBS

from esembed.encode.base import RuntimeOptions
from esembed.encode.remote import OpenAIEncoder
from esembed.ingest.options import IngestOptions
from esembed.ingest.sources import ReadOptions
from esembed.local.config import Security, User
from esembed.local.server import EngineInfo

CREDENTIAL = re.compile(r"key|passw|token|secret|auth|credential|aws|storage|header|user", re.IGNORECASE)
"""Names of what may hold a secret, or say where one is."""
COUNTED = {
    *("tokens_per_document", "mflop_per_token", "batch_tokens", "price_usd_per_million_tokens", "users"),
    "count_tokens",
}
"""Numbers: a model's tokens, concurrent users."""


def test_nothing_that_takes_a_credential_is_forgotten() -> None:
    """What is new here is added to ``tests/contract/test_canary_secrets.py``, too."""
    options = {p.name for command in VERBS.values() for p in command.params if CREDENTIAL.search(p.name)}
    assert options - COUNTED == {"api_key_env", "username", "password_env", "aws_profile", "aws_region"}
    fields = {
        f"{one.__name__}.{field.name}"
        for one in (RuntimeOptions, ReadOptions, IngestOptions, EngineInfo, Security, User)
        for field in dataclasses.fields(one)
        if CREDENTIAL.search(field.name) and field.name not in COUNTED
    }
    assert fields == {
        "RuntimeOptions.api_key_env",
        "ReadOptions.storage",
        "EngineInfo.username",
        "EngineInfo.password",
        "User.password",
    }
    parameters = inspect.signature(OpenAIEncoder).parameters
    assert {name for name in parameters if CREDENTIAL.search(name)} - COUNTED == {"api_key"}


def test_passwords_are_in_no_repr() -> None:
    assert "hunter2" not in repr(Security(users=(User(name="u", password="hunter2"),)))
    assert "hunter2" not in repr(ReadOptions(storage={"token": "hunter2"}))
    assert "password" in {field.name for field in dataclasses.fields(EngineInfo) if not field.repr}
