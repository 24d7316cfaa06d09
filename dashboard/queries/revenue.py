"""What the sold time is worth, and how much of it stands on invoices: by day, tenant and GPU model.

Every figure here is held time at the price that was locked in when the job started, so that metered and billed time
can be compared; an invoice's own amount differs by its minimums, increments and rounding.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TypeVar

from dashboard.queries.billed import Billed, billed_time
from dashboard.queries.prices import in_millionths
from gpufleet.common.snapshots import snapshot
from jobs import ledger
from jobs.ledger import By, Scope
from tenants.models import Tenant

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class Earned:
    """Time in microseconds and worths in one currency. ``drafted`` stands on drafts, ``billed`` on finalised invoices;
    ``collected`` is the part of ``billed`` that is paid; the rest is ``unbilled``. ``unpriced`` time was sold without a
    price and is worth nothing."""

    sold: int = 0
    unpriced: int = 0
    metered: int = 0
    billed: int = 0
    drafted: int = 0
    collected: int = 0

    @property
    def unbilled(self) -> int:
        """Worth on no invoice."""
        return self.metered - self.billed - self.drafted


@dataclass(frozen=True, slots=True)
class Revenue:
    """The revenue of a window in one currency. ``currencies`` are all that time was sold in. ``tenants``: names.
    ``previous`` is the total of the window of the same length before."""

    start: datetime
    end: datetime
    currency: str
    currencies: list[str]
    total: Earned
    previous: Earned
    by_day: dict[date, Earned]
    by_tenant: dict[int | None, Earned]
    by_model: dict[str, Earned]
    tenants: dict[int | None, str]


def revenue(currency: str, *, start: datetime, end: datetime) -> Revenue:
    """What ``[start, end)`` earned in one currency; time without a price has none, and is shown in each."""
    with snapshot():
        report = _by_all(currency, start, end)
        _add_previous(report, start - (end - start), start)
        return report


def _by_all(currency: str, start: datetime, end: datetime) -> Revenue:
    sold = ledger.sales(Scope(start, end), [By.DAY, By.TENANT, By.MODEL, By.RATE])
    return earned_from(sold, currency, start=start, end=end, by_day=True)


def earned_from(
    sold: Sequence[ledger.Sold], currency: str, *, start: datetime, end: datetime, by_day: bool = False
) -> Revenue:
    """The revenue of what was sold in a window, told apart by tenant, model and rate; without the window before it."""
    days = {slot.day: Earned() for slot in ledger.slots(Scope(start, end), by_day=True)} if by_day else {}
    names: dict[int | None, str] = {None: ""}
    names.update(Tenant.objects.values_list("pk", "name"))
    report = Revenue(start, end, currency, [], Earned(), Earned(), days, {}, {}, names)
    for row in sold:
        if row.currency in ("", currency):
            for earned in _places(report, row.group.day, row.tenant_id, row.group.model or ""):
                _add_sold(earned, row)
    for billed in billed_time(currency, start=start, end=end, by_day=by_day):
        for earned in _places(report, billed.day, billed.tenant_id, billed.model):
            _add_billed(earned, billed)
    report.currencies.extend(sorted({row.currency for row in sold if row.currency}))
    return report


def _add_previous(report: Revenue, start: datetime, end: datetime) -> None:
    for row in ledger.sales(Scope(start, end), [By.RATE]):
        if row.currency in ("", report.currency):
            _add_sold(report.previous, row)
    for billed in billed_time(report.currency, start=start, end=end, by_day=False):
        _add_billed(report.previous, billed)


def _places(report: Revenue, day: date | None, tenant_id: int | None, model: str) -> list[Earned]:
    """Where a row counts: in the total, and once in each of the groupings."""
    return [
        report.total,
        _of(report.by_day, day) if day is not None else Earned(),
        _of(report.by_tenant, tenant_id),
        _of(report.by_model, model),
    ]


def _of(group: dict[Key, Earned], key: Key) -> Earned:
    return group.setdefault(key, Earned())


def _add_sold(earned: Earned, row: ledger.Sold) -> None:
    earned.sold += row.held
    if row.price_per_gpu_hour is None:
        earned.unpriced += row.held
    else:
        earned.metered += row.held * in_millionths(row.price_per_gpu_hour)


def _add_billed(earned: Earned, billed: Billed) -> None:
    if billed.finalised:
        earned.billed += billed.worth
        earned.collected += billed.worth if billed.paid else 0
    else:
        earned.drafted += billed.worth
