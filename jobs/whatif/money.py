"""What simulated time is worth: running jobs at the price that was locked in, others at the rates of now."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from gpufleet.common.currencies import minor_unit
from jobs.models import Allocation
from jobs.queries import rate_book
from jobs.simulation import Changes, Course, Holding, held_by, seconds_held

HOUR = Decimal(3_600)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in the currency's minor unit."""

    currency: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Price:
    """Of a GPU for an hour."""

    currency: str
    per_gpu_hour: Decimal


Prices = Mapping[tuple[int | None, str], Price]


class Pricing:
    """Prices of one scenario. ``locked``: by job; ``rates``: by tenant and model, with the list price under no tenant;
    without ``changes`` they are what they are."""

    def __init__(self, locked: Mapping[int, Price], rates: Prices, changes: Changes) -> None:
        self.locked, self.rates, self.changes = locked, rates, changes

    def of(self, holding: Holding) -> Price | None:
        """What an hour of one of its GPUs brings; None without a price."""
        if holding.ran_before:
            return self.locked.get(holding.job_id)
        return self._rate(holding.tenant_id, holding.model)

    def _rate(self, tenant_id: int | None, model: str) -> Price | None:
        rate, other = self.rates.get((tenant_id, model)), self.changes.prices.get(model)
        if other is None or (rate is not None and rate.currency != other[0]):
            return rate
        return Price(*other)

    def revenue(self, holdings: Iterable[Holding], start: datetime, until: datetime) -> list[Money]:
        """What the time sold within ``[start, until)`` brings, by currency."""
        amounts: dict[str, Decimal] = defaultdict(Decimal)
        for holding in holdings:
            price = self.of(holding)
            if price is not None:
                amounts[price.currency] += _decimal(seconds_held(holding, start, until)) * price.per_gpu_hour / HOUR
        return _money(amounts)

    def leakage(self, course: Course, until: datetime, registered: Mapping[str, int]) -> list[Money]:
        """What is not sold, at list price. ``registered``: GPUs by model."""
        sold = held_by(course.holdings, course.began, until, lambda one: one.model)
        amounts: dict[str, Decimal] = defaultdict(Decimal)
        for model, gpus in registered.items():
            price = self._rate(None, model)
            if price is not None:
                unsold = gpus * (until - course.began).total_seconds() - sold.get(model, 0.0)
                amounts[price.currency] += _decimal(max(0.0, unsold)) * price.per_gpu_hour / HOUR
        return _money(amounts)


def locked_prices() -> dict[int, Price]:
    """The price of each running job that has one."""
    rows = (
        Allocation.objects.filter(during__upper_inf=True)
        .order_by("job_id")
        .distinct("job_id")
        .values_list("job_id", "currency", "price_per_gpu_hour")
    )
    return {job_id: Price(currency, price) for job_id, currency, price in rows if price is not None}


def rates_for(keys: Iterable[tuple[int | None, str]], now: datetime) -> Prices:
    """The rates of ``now``."""
    rates = rate_book.ask(set(keys), now=now)
    return {key: Price(rate.currency, rate.price_per_gpu_hour) for key, rate in rates.items()}


def _decimal(seconds: float) -> Decimal:
    return Decimal(round(seconds * 1_000_000)).scaleb(-6)


def _money(amounts: Mapping[str, Decimal]) -> list[Money]:
    return [Money(currency, amounts[currency].quantize(minor_unit(currency))) for currency in sorted(amounts)]
