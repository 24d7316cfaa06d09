import contextlib
import json
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.exceptions import ParseError

from gpufleet.common.parsing import MAX_DEPTH, StrictJSONParser

storable = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | storable,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(storable, inner, max_size=4),
    max_leaves=20,
)


def parse(raw: bytes) -> Any:
    return StrictJSONParser().parse(BytesIO(raw))


@given(values, st.booleans())
def test_all_json_that_the_database_can_store_is_read_as_it_was_written(value: Any, ascii_only: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=40))
def test_no_bytes_at_all_cause_another_error_than_a_parse_error(raw: bytes) -> None:
    with contextlib.suppress(ParseError):
        parse(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"{}{}",
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b"1e999",
        b"-1e999",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'"\\u0000"',
        b'{"a\\u0000": 1}',
        b'["a\x00"]',
        b'"\\ud800"',
        b'{"\\udc00": 1}',
        b'[[["\\ud800\\ud800"]]]',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b"1" * 5000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    ],
)
def test_what_is_not_strict_json_is_a_parse_error(raw: bytes) -> None:
    with pytest.raises(ParseError):
        parse(raw)


def test_the_deepest_that_is_allowed_is_read() -> None:
    assert json.dumps(parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)) == "[" * MAX_DEPTH + "]" * MAX_DEPTH


def test_brackets_inside_strings_are_no_depth() -> None:
    assert parse(json.dumps("[" * 1000).encode()) == "[" * 1000


def test_escapes_that_make_one_whole_character_are_read() -> None:
    assert parse(b'"\\ud83d\\ude00"') == "😀"
