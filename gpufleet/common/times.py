"""Instants as the API takes them: RFC 3339 with an offset, never a guess at one. Pure."""

import re
from datetime import UTC, datetime

# Nothing that gpufleet knows of is older, and what is older than the year 1000 has no form that all readers agree on.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_instant(text: str) -> datetime:
    """An RFC 3339 time from 1970 on, in UTC, to the microsecond. Raises ``ValueError``."""
    if not RFC_3339.fullmatch(text):
        raise ValueError("not an RFC 3339 time with its offset, such as 2026-11-23T14:20:00Z")
    try:
        instant = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except OverflowError as error:
        raise ValueError("out of the calendar") from error
    if instant < EARLIEST:
        raise ValueError("before 1970")
    return instant
