"""Names of indices and aliases: one function, asked before anything is sent."""

import pytest

from esembed.dialect.names import check_name
from esembed.errors import AliasError

BAD = [
    *("", " ", "*", "a*", "a?", "_all", "a,b", "a,-b", "-a", "_a", "+a", "<a-{now/d}>", "a:b", "*:a", "a#b"),
    *("a/b", "../a", ".", "..", "a\\b", 'a"b', "a|b", "a b", "a\n", "\x00a", "a\x1b", "a\u202eb", "a\ud800"),
    *("a\u2028b", "a\u200bb", "a" * 256, "é" * 128, None, 7, True, ["a"], {"a": 1}, b"a"),
]


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_bad_names(name, new):
    with pytest.raises(AliasError, match="can't be the name"):
        check_name(name, new=new)


@pytest.mark.parametrize("name", ["a", "a-b_c.d", "é", "書", "a" * 255, "é" * 127, "1", "a%2cb"])
def test_good_names(name):
    assert check_name(name) == check_name(name, new=True) == name


@pytest.mark.parametrize("name", ["Books", ".hidden"])
def test_what_only_exists(name):
    assert check_name(name) == name
    with pytest.raises(AliasError):
        check_name(name, new=True)
