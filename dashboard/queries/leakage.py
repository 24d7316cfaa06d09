"""Where money is lost: every unsold GPU-second by cause, priced, and the sold ones that bring less than they could.

Unsold time is priced at the list price that was in force in those seconds. A sold second counts under one cause at
most: without a price, else without a tenant, else below list.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from operator import attrgetter

from dashboard.queries.causes import ABOUT, UNSOLD, Cause, Nature
from dashboard.queries.late import failed_syncs, overdue, unbilled
from dashboard.queries.losses import ROWS_SHOWN, Behind, Bucket, Buckets, Loss, loss_of, named
from dashboard.queries.prices import SegmentPrices, Tally, amount_of, in_millionths, list_prices
from dashboard.queries.reclaimable import UNDERUSED_BELOW_PCT, underused
from gpufleet.common.snapshots import snapshot
from jobs import ledger
from jobs.ledger import Account, By, Scope, Sold, Unsold


@dataclass(frozen=True, slots=True)
class Leakage:
    """Every cause, the costliest first. ``account`` is the ledger's identity; ``lost`` the sum of what is lost."""

    start: datetime
    end: datetime
    currency: str
    account: Account
    lost: Decimal
    losses: list[Loss]


@dataclass(frozen=True, slots=True)
class Lost:
    """What a window lost, by cause. ``sold`` is all the time that was sold in it, by segment, model, tenant and rate;
    ``prices`` are the list prices in force at its end, by model."""

    account: Account
    buckets: Buckets
    sold: Sequence[Sold]
    prices: Mapping[str, int]

    def amount(self, currency: str) -> Decimal:
        """The sum over the causes, rounded once."""
        return amount_of(sum(bucket.total.worth for bucket in self.buckets.values()), currency)


def leakage(
    currency: str, *, start: datetime, end: datetime, underused_below_pct: int = UNDERUSED_BELOW_PCT
) -> Leakage:
    """The leakage of ``[start, end)`` in one currency; ``end`` is now. A fixed number of queries, of one instant."""
    with snapshot():
        lost = lost_in(currency, start=start, end=end)
        return report_of(lost, currency, start=start, end=end, underused_below_pct=underused_below_pct)


def report_of(
    lost: Lost,
    currency: str,
    *,
    start: datetime,
    end: datetime,
    underused_below_pct: int = UNDERUSED_BELOW_PCT,
    most: int = ROWS_SHOWN,
) -> Leakage:
    """The report about what a window lost, with what is late or reclaimable at its end; ``most`` rows of each cause."""
    buckets = {
        **lost.buckets,
        Cause.UNBILLED: unbilled(currency, now=end),
        Cause.UNDERUSED: underused(lost.prices, below_pct=underused_below_pct, now=end),
    }
    losses = [loss_of(cause, bucket, currency, most=most) for cause, bucket in buckets.items()]
    losses += [overdue(currency, now=end, most=most), failed_syncs(currency, most=most)]
    losses.sort(key=_rank, reverse=True)
    return Leakage(start, end, currency, lost.account, lost.amount(currency), named(losses))


def _rank(loss: Loss) -> tuple[bool, Decimal, int]:
    """The costliest first; but what was sold without a price, and could be worth anything, before all others."""
    return loss.cause is Cause.UNPRICED and loss.unvalued > 0, loss.amount, loss.microseconds


def lost_in(currency: str, *, start: datetime, end: datetime, most: int = ROWS_SHOWN) -> Lost:
    """What ``[start, end)`` lost in one currency, with the ``most`` GPUs behind each kind of unsold time, or none."""
    prices = list_prices(currency, start=start, end=end)
    by_segment = prices.by_segment()
    scope = Scope(start, end, cuts=prices.cuts)
    by = [By.SEGMENT, By.MODEL]
    spent = ledger.unsold(scope, by_segment, most=most) if most else Unsold(ledger.accounts(scope, by), rankings={})
    sold = ledger.sales(scope, [*by, By.TENANT, By.RATE])
    buckets = {cause: Bucket() for cause in Cause if ABOUT[cause].nature is Nature.LOST}
    _gather_unsold(buckets, spent, by_segment)
    _gather_sold(buckets, sold, by_segment, currency)
    at_end = {model: price for (segment, model), price in by_segment.items() if segment == len(prices.cuts)}
    return Lost(_sum(spent.accounts), buckets, sold, at_end)


def _gather_unsold(buckets: Buckets, spent: Unsold, prices: SegmentPrices) -> None:
    for cause in UNSOLD:
        bucket, read = buckets[cause], attrgetter(cause)
        for account in spent.accounts:
            bucket.total.add(read(account), prices.get((account.group.segment or 0, account.group.model or "")))
        ranking = spent.rankings.get(cause, ledger.Ranking())
        bucket.rows = {Behind(gpu_id=gpu.gpu_id): Tally(gpu.microseconds, gpu.worth) for gpu in ranking.largest}
        bucket.others = ranking.gpus - len(bucket.rows)


def _gather_sold(buckets: Buckets, sold: Iterable[Sold], prices: SegmentPrices, currency: str) -> None:
    for row in sold:
        at_list = prices.get((row.group.segment or 0, row.group.model or ""))
        about = Behind(tenant_id=row.tenant_id, gpu_model=row.group.model, rate_id=row.rate_id)
        if row.price_per_gpu_hour is None:
            buckets[Cause.UNPRICED].add(about, row.held, at_list)
            continue
        if row.currency != currency:
            continue
        price = in_millionths(row.price_per_gpu_hour)
        if row.tenant_id is None:
            buckets[Cause.WITHOUT_TENANT].add(about, row.held, price)
        elif at_list is not None and price < at_list:
            buckets[Cause.BELOW_LIST].add(about, row.held, at_list - price)


def _sum(accounts: Sequence[Account]) -> Account:
    names = [name for name in Account.__dataclass_fields__ if name != "group"]
    return Account(ledger.Group(), **{name: sum(map(attrgetter(name), accounts)) for name in names})
