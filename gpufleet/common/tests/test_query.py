from datetime import UTC, datetime

import pytest
from django.http import QueryDict
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.common.errors import InvalidInput
from gpufleet.common.query import check_parameters, parse_bounded_int, parse_days, parse_time


@pytest.mark.parametrize(
    ("query", "pointer", "code"),
    [
        ("stauts=running", "?stauts", "unknown_parameter"),
        ("status=a&status=b", "?status", "repeated_parameter"),
        ("status=a&status=a", "?status", "repeated_parameter"),
        ("status=", "?status", "empty_parameter"),
        ("status", "?status", "empty_parameter"),
        ("status=a%00b", "?status", "null_character"),
        ("Status=a", "?Status", "unknown_parameter"),
        ("status%00=a", "?status\x00", "unknown_parameter"),
    ],
)
def test_a_parameter_that_would_be_ignored_is_refused_by_name(query: str, pointer: str, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_parameters(QueryDict(query), {"status", "limit"})
    assert [(problem.pointer, problem.code) for problem in caught.value.problems] == [(pointer, code)]


def test_known_parameters_pass_and_all_faults_are_named_at_once() -> None:
    check_parameters(QueryDict("status=a&limit=5"), {"status", "limit"})
    with pytest.raises(InvalidInput) as caught:
        check_parameters(QueryDict("a=1&b=2&limit=5"), {"limit"})
    assert [problem.pointer for problem in caught.value.problems] == ["?a", "?b"]
    assert "Known: limit." in caught.value.problems[0].detail


@pytest.mark.parametrize("text", ["", "0", "91", "-1", "1.0", "1e1", " 7", "+7", "seven", "٧", "9" * 5000])
def test_days_is_an_integer_from_1_to_90(text: str) -> None:
    params = QueryDict(mutable=True)
    params["days"] = text
    with pytest.raises(InvalidInput) as caught:
        parse_days(params)
    assert caught.value.problems[0].pointer == "?days"


def test_days_is_30_when_absent() -> None:
    assert parse_days(QueryDict("")) == 30


@given(st.integers())
def test_integers_within_the_bounds_are_read_and_others_refused(number: int) -> None:
    def read() -> int:
        return parse_bounded_int(str(number), name="limit", default=1, low=-5, high=500)

    if -5 <= number <= 500:
        assert read() == number
    else:
        with pytest.raises(InvalidInput):
            read()


def test_times_are_instants() -> None:
    assert parse_time(QueryDict("from=2026-11-23T12:00:00Z"), "from") == datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert parse_time(QueryDict(""), "from") is None
    with pytest.raises(InvalidInput) as caught:
        parse_time(QueryDict("from=yesterday"), "from")
    assert caught.value.problems[0].pointer == "?from"
