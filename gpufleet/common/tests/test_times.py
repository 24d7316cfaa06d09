from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.common.times import EARLIEST, parse_instant


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-23T14:20:00Z", datetime(2026, 11, 23, 14, 20, tzinfo=UTC)),
        ("2026-11-23t14:20:00z", datetime(2026, 11, 23, 14, 20, tzinfo=UTC)),
        ("2026-11-23T14:20:00.5+02:00", datetime(2026, 11, 23, 12, 20, 0, 500_000, tzinfo=UTC)),
        ("2026-11-23T14:20:00.123456789-00:00", datetime(2026, 11, 23, 14, 20, 0, 123_456, tzinfo=UTC)),
    ],
)
def test_instants_are_read_in_utc(text: str, expected: datetime) -> None:
    assert parse_instant(text) == expected
    assert parse_instant(text).tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-23",
        "2026-11-23T14:20:00",
        "2026-11-23 14:20:00Z",
        "2026-11-23T14:20Z",
        "20261123T142000Z",
        "2026-W48-1T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-11-23T24:00:01Z",
        "2026-11-23T14:20:60Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "0192-02-15T19:49:48Z",
        "1970-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-23:59",
        "２０２６-11-23T14:20:00Z",
        " 2026-11-23T14:20:00Z",
        "1763907600",
    ],
)
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_instant(text)


@given(st.datetimes(min_value=EARLIEST.replace(tzinfo=None), timezones=st.just(UTC)))
def test_what_the_api_writes_it_reads(instant: datetime) -> None:
    assert parse_instant(instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")) == instant
