"""The one pricing function, against rules worked out by hand and by a slower way."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.pricing import Price, Stretch, Terms, billed_seconds, price
from gpufleet.common.currencies import minor_unit

BEGAN = datetime(2026, 11, 23, 12, tzinfo=UTC)


def held(start: float, end: float) -> Stretch:
    return Stretch(BEGAN, BEGAN + timedelta(seconds=start), BEGAN + timedelta(seconds=end))


def terms(
    price_per_gpu_hour: str = "3.60", *, currency: str = "USD", minimum_seconds: int = 0, increment_seconds: int = 1
) -> Terms:
    return Terms(Decimal(price_per_gpu_hour), currency, minimum_seconds, increment_seconds)


@pytest.mark.parametrize(
    ("start", "end", "minimum", "increment", "seconds"),
    [
        (0, 3600, 0, 1, 3600),
        (0, 0.000001, 0, 1, 1),  # A second that has begun is billed.
        (0, 59, 60, 1, 60),
        (0, 61, 60, 1, 61),
        (0, 61, 60, 60, 120),
        (0, 61, 90, 60, 120),  # The minimum is rounded up to a multiple too.
        (0, 120, 0, 60, 120),
        (30, 60, 60, 1, 0),  # The minimum was billed by the stretch before.
        (30, 90, 60, 1, 30),
        (100.5, 100.7, 0, 1, 0),  # Second 101 was begun, and so billed, by the stretch before.
        (100.5, 101.5, 0, 1, 1),
        (50, 50, 60, 60, 0),
    ],
)
def test_billed_seconds(start: float, end: float, minimum: int, increment: int, seconds: int) -> None:
    rules = terms(minimum_seconds=minimum, increment_seconds=increment)
    assert billed_seconds(held(start, end), rules) == seconds


@pytest.mark.parametrize(
    ("currency", "seconds", "amount"),
    [
        ("USD", 3600, "3.60"),
        ("USD", 5, "0.00"),  # 0.005: half-even goes down to 0.00 …
        ("USD", 15, "0.02"),  # … and 0.015 up to 0.02.
        ("USD", 25, "0.02"),
        ("JPY", 3600, "4"),
        ("JPY", 500, "0"),  # 0.5
        ("JPY", 1500, "2"),  # 1.5
        ("KWD", 1, "0.001"),
        ("KWD", 3599, "3.599"),
    ],
)
def test_amounts_round_half_even_to_the_minor_unit(currency: str, seconds: int, amount: str) -> None:
    got = price([held(0, seconds)], terms(currency=currency))
    assert got == Price(seconds, Decimal(amount))
    assert str(got.amount) == amount


def test_a_line_rounds_once_and_not_each_stretch() -> None:
    # 0.004 each: rounded apart they would be nothing.
    assert price([held(0, 4)] * 5, terms()).amount == Decimal("0.02")


def test_a_price_of_any_size_is_exact() -> None:
    assert price([held(0, 86400 * 90)] * 10, terms("99999999.999999")).amount == Decimal("2159999999999.98")


def test_an_unknown_currency_is_refused() -> None:
    with pytest.raises(KeyError):
        price([held(0, 1)], terms(currency="XXX"))


microseconds = st.integers(min_value=0, max_value=10 * 86_400 * 10**6)
rules_of_rates = st.builds(
    Terms,
    price_per_gpu_hour=st.decimals(min_value=0, max_value=10**7, places=6),
    currency=st.sampled_from(["USD", "JPY", "KWD"]),
    minimum_seconds=st.integers(0, 7200),
    increment_seconds=st.integers(1, 3600),
)


@given(cuts=st.lists(microseconds, min_size=2, max_size=8, unique=True), rules=rules_of_rates)
def test_splitting_an_allocation_never_changes_what_it_bills(cuts: list[int], rules: Terms) -> None:
    edges = [BEGAN, *(BEGAN + timedelta(microseconds=cut) for cut in sorted(cuts) if cut)]
    parts = [Stretch(BEGAN, start, end) for start, end in pairwise(edges)]
    whole = Stretch(BEGAN, BEGAN, edges[-1])
    assert price(parts, rules) == price([whole], rules)


@given(rules=rules_of_rates, lengths=st.lists(microseconds, max_size=5))
def test_the_price_against_fractions(rules: Terms, lengths: list[int]) -> None:
    seconds = 0
    for length in filter(None, lengths):
        billed = 0
        while billed < rules.minimum_seconds or billed * 10**6 < length:
            missing = max(rules.minimum_seconds, length / 10**6) - billed
            billed += max(1, int(missing / rules.increment_seconds)) * rules.increment_seconds
        seconds += billed
    stretches = [Stretch(BEGAN, BEGAN, BEGAN + timedelta(microseconds=length)) for length in lengths]
    got = price(stretches, rules)
    assert got.billed_seconds == seconds
    exact = Fraction(rules.price_per_gpu_hour) * seconds / 3600
    units = exact / Fraction(minor_unit(rules.currency))
    assert Fraction(got.amount) == round(units) * Fraction(minor_unit(rules.currency))
