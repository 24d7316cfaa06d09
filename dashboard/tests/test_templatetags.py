import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from dashboard.console import StateCount
from dashboard.templatetags.console import brief, figure, since, stacked

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (86_399, "23 h 59 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_duration_in_few_words(seconds: float, text: str) -> None:
    assert brief(timedelta(seconds=seconds)) == text


def test_how_long_ago() -> None:
    assert since(NOON - timedelta(minutes=2), NOON) == timedelta(minutes=2)


def test_amounts_have_their_thousands_and_words_stay() -> None:
    assert (figure(Decimal("12345.60")), figure("1e3")) == ("12,345.60", "1e3")


def test_the_bar_has_no_gap_and_leaves_out_what_is_empty() -> None:
    counts = [StateCount("sold", 3, 0.75), StateCount("idle", 0, 0.0), StateCount("offline", 1, 0.25)]
    parts = re.findall(r'class="gf-fill-(\w+)" x="([\d.]+)" y="0.00" width="([\d.]+)"', stacked(counts))
    assert parts == [("sold", "0.00", "750.00"), ("offline", "750.00", "250.00")]
