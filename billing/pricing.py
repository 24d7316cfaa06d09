"""The one pricing function. Pure.

It prices a running job's cost so far, a preview, an invoice's line and a credit note alike, so that none of them can
differ. The rules:

- One allocation is one GPU held by one job. A whole allocation that held its GPU for ``d`` seconds bills
  ``ceil(max(d, minimum) / increment) * increment`` seconds.
- A stretch of an allocation bills the difference between what the allocation bills up to the stretch's end and up to
  its start. So the first stretch carries the minimum, an increment is billed by the stretch in which it begins, and
  however many invoices share an allocation, they bill together exactly what one would have billed.
- A line sums the billed seconds of its stretches, multiplies once, and rounds once: half-even, to the minor unit of
  its currency.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

from gpufleet.common.currencies import minor_unit

SECONDS_PER_HOUR = 3600
MICROSECOND = timedelta(microseconds=1)
MICROSECONDS = 1_000_000
# Enough digits that nothing is rounded before the one rounding: prices have at most 14, seconds at most 20.
EXACT = Context(prec=60)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a GPU-hour costs, and how held time becomes billed time."""

    price_per_gpu_hour: Decimal
    currency: str
    minimum_seconds: int = 0
    increment_seconds: int = 1


@dataclass(frozen=True, slots=True)
class Stretch:
    """Half-open time ``[start, end)`` within one allocation, which itself began at ``began``."""

    began: datetime
    start: datetime
    end: datetime

    @property
    def held_seconds(self) -> Decimal:
        """How long the GPU was held, to the microsecond."""
        return Decimal((self.end - self.start) // MICROSECOND) / MICROSECONDS


@dataclass(frozen=True, slots=True)
class Price:
    """What a set of stretches bills: whole seconds, and the amount, rounded once."""

    billed_seconds: int
    amount: Decimal


def price(stretches: Iterable[Stretch], terms: Terms, percent: int = 100) -> Price:
    """What these stretches cost together, as one line at one rate; or a share of that, which is rounded once, too."""
    seconds = sum(billed_seconds(stretch, terms) for stretch in stretches)
    return Price(seconds, amount_of(seconds, terms, percent))


def billed_seconds(stretch: Stretch, terms: Terms) -> int:
    """The seconds that one stretch bills; see the module's rules."""
    return _billed_until(stretch.end - stretch.began, terms) - _billed_until(stretch.start - stretch.began, terms)


def amount_of(seconds: int, terms: Terms, percent: int = 100) -> Decimal:
    """The price of billed seconds, or a share of it, half-even to the currency's minor unit.

    Raises ``KeyError`` for an unknown code.
    """
    with localcontext(EXACT):
        exact = terms.price_per_gpu_hour * seconds * percent / (SECONDS_PER_HOUR * 100)
        return exact.quantize(minor_unit(terms.currency), rounding=ROUND_HALF_EVEN)


def tax_within(amount: Decimal, percent: Decimal, currency: str) -> Decimal:
    """The tax that an amount contains, half-even to the currency's minor unit: of 119 at 19 % it is 19."""
    with localcontext(EXACT):
        return (amount * percent / (100 + percent)).quantize(minor_unit(currency), rounding=ROUND_HALF_EVEN)


def _billed_until(held: timedelta, terms: Terms) -> int:
    """What an allocation bills in all once it has lasted this long; nothing before it began."""
    if held <= timedelta(0):
        return 0
    at_least = max(held // MICROSECOND, terms.minimum_seconds * MICROSECONDS)
    increment = terms.increment_seconds * MICROSECONDS
    return -(-at_least // increment) * terms.increment_seconds
