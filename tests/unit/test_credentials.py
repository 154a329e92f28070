"""Secrets: refused where they come in, masked where others quote them, left out of addresses."""

from __future__ import annotations

import base64
import html
import json
import logging
import urllib.parse

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esembed.credentials import (
    Scrubber,
    basic_authorization,
    checked_credential,
    hide_in_logs,
    is_header_error,
    key_from_environment,
    public_url,
    without_secrets,
    without_url_secrets,
)
from esembed.errors import OptionsError

SECRET = "sk-\"quote\\'&+/ü" + "Zq7x" * 5
PIECES = "Zq7x" * 5

KEYS = {
    "line break": "abcdefghijk\n",
    "carriage return": "abcdefghijk\r",
    "a tab": "abc\tdefghijk",
    "a blank": "abcdef ghijk",
    "U+201D": "abcdefghijk”",
    "U+00E9": "abcdéfghijk",
    "U+0000": "abcdefgh\0ijk",
    "U+007F": "abcdefgh\x7fijk",
    "U+0085": "abcdefgh\x85ijk",
    "U+FEFF": "\ufeffabcdefghijk",
    "U+200B": "abcdefghijk\u200b",
    "U+D800": "abcdefghijk\ud800",
}


@pytest.mark.parametrize("named", KEYS)
def test_a_key_that_a_header_cannot_hold_is_refused_without_its_value(named: str) -> None:
    with pytest.raises(OptionsError, match="the variable KEY has") as raised:
        checked_credential(KEYS[named], "the variable KEY")
    assert named in str(raised.value)
    assert "abc" not in str(raised.value)
    assert "ghijk" not in str(raised.value)


def test_a_password_may_hold_any_letter_but_no_control_character() -> None:
    value = basic_authorization("jürgen", "gehéim ”: ß")
    assert base64.b64decode(value.partition(" ")[2]).decode() == "jürgen:gehéim ”: ß"
    for wrong in ("geheim\n", "ge\0heim", "geheim\x85", "geheim\ud800"):
        with pytest.raises(OptionsError) as raised:
            basic_authorization("u", wrong)
        assert "heim" not in str(raised.value)
    with pytest.raises(OptionsError, match="colon"):
        basic_authorization("a:b", "geheim")


def test_a_secret_in_the_place_of_a_variables_name_is_not_quoted() -> None:
    for wrong in ("Zm9vYmFyLXNlY3JldA==", "sk-abcdefgh", "AKIAIOSFODNN7EXAMPLE", "a\0b", "x\ud800"):
        with pytest.raises(OptionsError) as raised:
            key_from_environment(wrong, "--api-key-env")
        assert wrong not in str(raised.value)
    with pytest.raises(OptionsError, match="MY_ES_KEY"):
        key_from_environment("MY_ES_KEY", "--api-key-env")


FORMS = {
    "as it is": SECRET,
    "repr": repr(SECRET),
    "ascii": ascii(SECRET),
    "bytes": repr(SECRET.encode()),
    "JSON": json.dumps(SECRET),
    "JSON in UTF-8": json.dumps(SECRET, ensure_ascii=False),
    "URL": urllib.parse.quote(SECRET, safe=""),
    "form": urllib.parse.quote_plus(SECRET),
    "lower-case URL": urllib.parse.quote(SECRET).lower().replace(PIECES.lower(), PIECES),
    "HTML": html.escape(SECRET),
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "basic auth": base64.b64encode(b"user:" + SECRET.encode()).decode(),
    "basic auth, one more": base64.b64encode(b"users:" + SECRET.encode()).decode(),
    "basic auth, two more": base64.b64encode(b"users2:" + SECRET.encode()).decode(),
    "URL-safe base64": base64.urlsafe_b64encode(SECRET.encode()).decode(),
    "its beginning": SECRET[:14],
    "its end": SECRET[-12:],
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_secret_is_masked(form: str) -> None:
    said = Scrubber([SECRET])(f"bad key <{FORMS[form]}> here")
    assert said.startswith("bad key ")
    assert said.endswith(" here")
    assert "***" in said
    assert PIECES[:8] not in said
    inner = base64.b64encode(PIECES.encode()).decode()
    assert not any(inner[i : i + 8] in said for i in range(4, len(inner) - 12))


def test_what_an_api_key_decodes_to_is_masked_too() -> None:
    key = base64.b64encode(b"VuaCfGcBCdbk:ui2lp2axTNms").decode()
    assert Scrubber([key])("the key VuaCfGcBCdbk:ui2lp2axTNms is bad") == "the key *** is bad"


def test_short_secrets_are_masked_where_they_stand_alone() -> None:
    assert Scrubber(["pw"])("pw for pwd: (pw)") == "*** for pwd: (***)"


def test_a_parsed_body_is_masked_at_any_depth_and_in_keys() -> None:
    body = {"error": {"reason": [f"Bearer {SECRET}", 3, None], SECRET: b"x" + SECRET.encode()}}
    assert PIECES not in json.dumps(Scrubber([SECRET]).value(body))


@given(st.text(min_size=8, max_size=40), st.text(max_size=30), st.text(max_size=30))
def test_whatever_the_secret_nothing_of_eight_characters_stays(secret: str, before: str, after: str) -> None:
    said = Scrubber([secret])(before + secret + after)
    rest = said.replace("***", "\0")
    assert not any(secret[i : i + 8] in rest for i in range(len(secret) - 7) if "\0" not in secret)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@h/a?sig=x#y", "https://h/a"),
        ("https://u:p/x@h/a", "https://***/h/a"),
        ("https://u:p@x@h/a", "https://h/a"),
        ("https://u%3Ap%40h/a", "https://***/a"),
        ("s3://bucket_1/a?versionId=x", "s3://bucket_1/a"),
        ("http://[::1]:9200/x#y", "http://[::1]:9200/x"),
        ("file:///a/b#c", "file:///a/b"),
        ("bucket/a#1.jsonl", "bucket/a#1.jsonl"),
    ],
)
def test_public_url(url: str, shown: str) -> None:
    assert public_url(url) == shown
    assert without_url_secrets(f"can't open {url} now") == f"can't open {shown} now"


@pytest.mark.parametrize(
    "said",
    [
        "Authorization: Bearer {} and",
        "proxy-authorization=Basic {} and",
        "[(b'authorization', b'ApiKey {}'), ] and",
        "{{'X-Amz-Security-Token': b'{}' }} and",
        "x-amz-security-token:{}\nand",
        "X-Api-Key: {} and",
        "Cookie: {} and",
        "the header ApiKey {} and",
        "see https://u:{}@h/a and",
        "see 'https://h/a?sig=it'{}' and",
    ],
)
def test_headers_and_addresses_that_others_quote_lose_their_values(said: str) -> None:
    shown = without_secrets(said.format("Zq7x/+=secret"))
    assert "Zq7x" not in shown
    assert "secret'" not in shown
    assert shown.endswith("and")


def test_words_without_secrets_stay_as_they_are() -> None:
    for said in (
        "3 tokens: 5",
        "basically fine",
        "keys: a, b",
        "see 'https://h/a', 'https://h/b'",
        "a cookie jar",
    ):
        assert without_secrets(said) == said


def test_a_log_loses_secrets_that_are_known(caplog: pytest.LogCaptureFixture) -> None:
    logger, scrub = logging.getLogger("esembed-test-known"), Scrubber([SECRET])
    hide_in_logs([logger.name], scrub)
    with caplog.at_level(logging.DEBUG, logger.name):
        logger.debug("your key %s is wrong", SECRET)
    assert "your key *** is wrong" in caplog.text


def test_foreign_logs_lose_secrets_of_addresses(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("esembed-test-foreign")
    hide_in_logs([logger.name])
    with caplog.at_level(logging.DEBUG, logger.name):
        logger.debug("size of %s", "http://u:geheim@h/a?sig=geheim#geheim")
        try:
            raise ValueError("http://u:geheim@h/")
        except ValueError as error:
            logger.debug("", exc_info=error)
    assert "size of http://h/a" in caplog.text
    assert "geheim" not in caplog.text


def test_the_words_of_http_libraries_for_a_wrong_header_are_known() -> None:
    for value in ("Bearer a\n", "Bearer a”", "Bearer a\0"):
        with pytest.raises(Exception) as raised:
            httpx.Client(transport=httpx.HTTPTransport()).get(
                "http://127.0.0.1:9/", headers={"authorization": value}
            )
        assert is_header_error(raised.value) or isinstance(raised.value, httpx.ConnectError)
    assert not is_header_error(ConnectionError("refused"))
