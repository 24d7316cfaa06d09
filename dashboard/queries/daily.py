"""Revenue and leakage day by day, for the console's bars. The days add up to what the reports of the window say."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from operator import attrgetter

from dashboard.queries.causes import UNSOLD
from dashboard.queries.prices import SegmentPrices, in_millionths, list_prices
from gpufleet.common.snapshots import snapshot
from jobs import ledger
from jobs.ledger import By, Scope, Sold


@dataclass(slots=True)
class Day:
    """One UTC day's worths: what its sold time earned at the locked prices, and what was lost. See ``prices``."""

    earned: int = 0
    lost: int = 0


def daily(currency: str, *, start: datetime, end: datetime) -> Mapping[date, Day]:
    """The days of ``[start, end)`` in one currency, each of them present. A fixed number of queries, of one instant."""
    with snapshot():
        prices = list_prices(currency, start=start, end=end)
        scope, by_segment = Scope(start, end, cuts=prices.cuts), prices.by_segment()
        by = [By.DAY, By.SEGMENT, By.MODEL]
        accounts, sold = ledger.accounts(scope, by), ledger.sales(scope, [*by, By.TENANT, By.RATE])
    days: dict[date, Day] = defaultdict(Day)
    days.update((slot.day, Day()) for slot in ledger.slots(Scope(start, end), by_day=True))
    unsold = attrgetter(*UNSOLD)
    for account in accounts:
        group = account.group
        price = by_segment.get((group.segment or 0, group.model or ""), 0)
        days[group.day or start.date()].lost += price * sum(unsold(account))
    for row in sold:
        day = days[row.group.day or start.date()]
        if row.price_per_gpu_hour is not None and row.currency == currency:
            day.earned += row.held * in_millionths(row.price_per_gpu_hour)
        day.lost += _lost_though_sold(row, by_segment, currency)
    return days


def _lost_though_sold(row: Sold, prices: SegmentPrices, currency: str) -> int:
    """A sold second counts under one cause at most, as in ``leakage``: no price, else no tenant, else below list."""
    at_list = prices.get((row.group.segment or 0, row.group.model or ""))
    if row.price_per_gpu_hour is None:
        return row.held * (at_list or 0)
    price = in_millionths(row.price_per_gpu_hour)
    if row.currency != currency:
        return 0
    if row.tenant_id is None:
        return row.held * price
    return row.held * max(0, (at_list or 0) - price)
