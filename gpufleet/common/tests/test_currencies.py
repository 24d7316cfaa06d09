from decimal import Decimal

import pytest

from gpufleet.common.currencies import CURRENCIES, NO_DECIMALS, THREE_DECIMALS, TWO_DECIMALS, minor_unit


def test_no_currency_stands_in_two_lists() -> None:
    assert len(CURRENCIES) == sum(len(codes) for codes in (NO_DECIMALS, TWO_DECIMALS, THREE_DECIMALS))


@pytest.mark.parametrize(("currency", "unit"), [("JPY", "1"), ("USD", "0.01"), ("KWD", "0.001")])
def test_the_smallest_amount(currency: str, unit: str) -> None:
    assert minor_unit(currency) == Decimal(unit)


def test_what_is_no_currency_has_none() -> None:
    with pytest.raises(KeyError):
        minor_unit("XXX")
