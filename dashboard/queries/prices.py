"""What GPU-time is worth: list prices as they were in force, and exact sums of time times price.

A worth is an integer: microseconds times millionths of the currency per GPU-hour. Worths are added without any
rounding; an amount is rounded once, where it is shown.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

from billing.models import Rate
from billing.queries import minor_unit_of

MILLIONTHS = 1_000_000
MICROSECONDS = 1_000_000
MICROSECONDS_PER_HOUR = 3_600 * MICROSECONDS
EXACT = Context(prec=60)

# (segment of the window, GPU model) to the list price in millionths; a model without a list price is left out.
SegmentPrices = dict[tuple[int, str], int]


def in_millionths(price_per_gpu_hour: Decimal) -> int:
    """A price, exactly: prices have at most six decimals."""
    return int(price_per_gpu_hour.scaleb(6))


def amount_of(worth: int, currency: str) -> Decimal:
    """A worth as money, half-even to the currency's minor unit."""
    with localcontext(EXACT):
        exact = Decimal(worth) / (MILLIONTHS * MICROSECONDS_PER_HOUR)
        return exact.quantize(minor_unit_of(currency), rounding=ROUND_HALF_EVEN)


def per_hour(worth: int, microseconds: int) -> Decimal | None:
    """What an hour of this time was worth on average, to six decimals; None when there was no time."""
    if not microseconds:
        return None
    with localcontext(EXACT):
        return (Decimal(worth) / MILLIONTHS / microseconds).quantize(Decimal(1).scaleb(-6), rounding=ROUND_HALF_EVEN)


def seconds_of(microseconds: int) -> Decimal:
    """GPU-seconds, to the microsecond."""
    return Decimal(microseconds).scaleb(-6)


@dataclass(slots=True)
class Tally:
    """Time and its worth. ``unvalued`` is the part that has no price to value it by."""

    microseconds: int = 0
    worth: int = 0
    unvalued: int = 0

    def add(self, microseconds: int, millionths: int | None) -> None:
        """Add time at a price in millionths per GPU-hour; None: there is no price."""
        self.microseconds += microseconds
        if millionths is None:
            self.unvalued += microseconds
        else:
            self.worth += microseconds * millionths


@dataclass(frozen=True, slots=True)
class ListPrices:
    """List prices of one currency. ``steps``: by GPU model, from when on which price is in force, in order."""

    start: datetime
    end: datetime
    steps: dict[str, tuple[list[datetime], list[Decimal]]] = field(default_factory=dict)

    @property
    def cuts(self) -> list[datetime]:
        """The instants within the window at which some price changed; segment ``n`` begins at ``cuts[n - 1]``."""
        instants = {instant for since, _ in self.steps.values() for instant in since}
        return sorted(instant for instant in instants if self.start < instant < self.end)

    def by_segment(self) -> SegmentPrices:
        """The prices of each segment of the window."""
        return {
            (segment, model): in_millionths(price)
            for segment, instant in enumerate([self.start, *self.cuts])
            for model in self.steps
            if (price := self.at(model, instant)) is not None
        }

    def at(self, model: str, instant: datetime) -> Decimal | None:
        """The list price of a model at an instant, or None when there was none yet."""
        since, prices = self.steps.get(model, ([], []))
        place = bisect_right(since, instant)
        return prices[place - 1] if place else None


def list_prices(currency: str, *, start: datetime, end: datetime) -> ListPrices:
    """The list prices in ``[start, end)``: the latest ``valid_from`` wins, then the one recorded last. One query."""
    rates = Rate.objects.filter(tenant__isnull=True, plan_tier="", currency=currency, valid_from__lt=end)
    in_order = rates.order_by("gpu_model", "valid_from", "recorded_at", "pk")
    return ListPrices(start, end, _steps(in_order.values_list("gpu_model", "valid_from", "price_per_gpu_hour")))


def _steps(rows: Iterable[tuple[str, datetime, Decimal]]) -> dict[str, tuple[list[datetime], list[Decimal]]]:
    steps: dict[str, tuple[list[datetime], list[Decimal]]] = {}
    for model, valid_from, price in rows:
        since, prices = steps.setdefault(model, ([], []))
        if since and since[-1] == valid_from:
            prices[-1] = price  # Recorded later for the same instant: it corrects the one before.
        elif not prices or prices[-1] != price:
            since.append(valid_from)
            prices.append(price)
    return steps
