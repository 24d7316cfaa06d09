"""Where money is lost: every unsold GPU-second by cause, priced, and the sold ones that bring less than they could.

Unsold time is priced at the list price that was in force in those seconds. A sold second counts under one cause at
most: without a price, else without a tenant, else below list.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from heapq import nlargest
from operator import attrgetter

from billing.models import Invoice, InvoiceStatus, Rate
from billing.queries import describe_invoices
from clusters.models import GPU
from dashboard.queries.billed import billed_time
from dashboard.queries.causes import ABOUT, UNBILLED_AFTER, UNBILLED_SINCE, UNSOLD, Cause, Nature
from dashboard.queries.prices import SegmentPrices, Tally, amount_of, in_millionths, list_prices
from jobs import ledger
from jobs.ledger import Account, By, Scope, Sold
from tenants.models import Tenant

ROWS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Behind:
    """Who a row behind a cause is about: a GPU, a tenant's time at a rate, or an invoice."""

    gpu_id: int | None = None
    tenant_id: int | None = None
    gpu_model: str | None = None
    rate_id: int | None = None
    invoice_id: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One of the rows behind a cause, with its time in microseconds and what it is worth. ``label`` is for people."""

    about: Behind
    microseconds: int
    amount: Decimal
    node_id: int | None = None
    cluster_id: int | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Loss:
    """One cause: its time in microseconds, its amount, and the largest rows behind it. ``unvalued`` has no price."""

    cause: Cause
    microseconds: int
    unvalued: int
    amount: Decimal
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Leakage:
    """Every cause, the costliest first. ``account`` is the ledger's identity; ``lost`` the sum of what is lost."""

    start: datetime
    end: datetime
    currency: str
    account: Account
    lost: Decimal
    losses: list[Loss]


@dataclass(slots=True)
class _Bucket:
    """What gathers under one cause."""

    total: Tally = field(default_factory=Tally)
    rows: dict[Behind, Tally] = field(default_factory=dict)

    def add(self, about: Behind, microseconds: int, millionths: int | None) -> None:
        self.total.add(microseconds, millionths)
        self.rows.setdefault(about, Tally()).add(microseconds, millionths)


Buckets = dict[Cause, _Bucket]


def leakage(currency: str, *, start: datetime, end: datetime) -> Leakage:
    """The leakage of ``[start, end)`` in one currency; ``end`` is now. A fixed number of queries."""
    buckets: Buckets = {cause: _Bucket() for cause in Cause if cause is not Cause.OVERDUE}
    prices = list_prices(currency, start=start, end=end)
    scope = Scope(start, end, cuts=prices.cuts)
    by_segment = prices.by_segment()
    accounts = ledger.accounts(scope, [By.SEGMENT, By.MODEL, By.GPU])
    _gather_unsold(buckets, accounts, by_segment)
    sold = ledger.sales(scope, [By.SEGMENT, By.MODEL, By.TENANT, By.RATE])
    _gather_sold(buckets, sold, by_segment, currency)
    _gather_unbilled(buckets[Cause.UNBILLED], currency, end)
    lost = sum(bucket.total.worth for cause, bucket in buckets.items() if ABOUT[cause].nature is Nature.LOST)
    losses = [_loss(cause, bucket, currency) for cause, bucket in buckets.items()]
    losses.append(_overdue(currency, end))
    losses.sort(key=lambda loss: (loss.amount, loss.microseconds), reverse=True)
    return Leakage(start, end, currency, _sum(accounts), amount_of(lost, currency), _named(losses))


def _gather_unsold(buckets: Buckets, accounts: Collection[Account], prices: SegmentPrices) -> None:
    """The largest GPUs of each cause become its rows. There are thousands of others, so they stay plain integers."""
    priced = [(account, prices.get((account.group.segment or 0, account.group.model or ""))) for account in accounts]
    for cause in UNSOLD:
        total, read = buckets[cause].total, attrgetter(cause)
        times: dict[int | None, int] = defaultdict(int)
        worths: dict[int | None, int] = defaultdict(int)
        for account, price in priced:
            microseconds = read(account)
            if microseconds:
                total.add(microseconds, price)
                times[account.group.gpu_id] += microseconds
                worths[account.group.gpu_id] += microseconds * (price or 0)
        for gpu_id in nlargest(ROWS_SHOWN, times, key=lambda gpu_id: (worths[gpu_id], times[gpu_id])):
            buckets[cause].rows[Behind(gpu_id=gpu_id)] = Tally(times[gpu_id], worths[gpu_id])


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


def _gather_unbilled(bucket: _Bucket, currency: str, now: datetime) -> None:
    """Sold and priced, minus what stands on invoices, by tenant; of time that is older than billing needs."""
    start, end = now - UNBILLED_SINCE, now - UNBILLED_AFTER
    tallies: dict[int, Tally] = {}
    for row in ledger.sales(Scope(start, end), [By.TENANT, By.RATE]):
        if row.tenant_id is not None and row.price_per_gpu_hour is not None and row.currency == currency:
            tallies.setdefault(row.tenant_id, Tally()).add(row.held, in_millionths(row.price_per_gpu_hour))
    for billed in billed_time(currency, start=start, end=end, by_day=False):
        tally = tallies.setdefault(billed.tenant_id, Tally())
        tally.microseconds -= billed.microseconds
        tally.worth -= billed.worth
    for tenant_id, tally in tallies.items():
        if tally.microseconds:
            bucket.rows[Behind(tenant_id=tenant_id)] = tally
            bucket.total.microseconds += tally.microseconds
            bucket.total.worth += tally.worth


def _loss(cause: Cause, bucket: _Bucket, currency: str) -> Loss:
    largest = nlargest(ROWS_SHOWN, bucket.rows.items(), key=lambda item: (item[1].worth, item[1].microseconds))
    rows = [Row(about, tally.microseconds, amount_of(tally.worth, currency)) for about, tally in largest]
    total = bucket.total
    return Loss(cause, total.microseconds, total.unvalued, amount_of(total.worth, currency), rows)


def _overdue(currency: str, now: datetime) -> Loss:
    invoices = Invoice.objects.filter(status=InvoiceStatus.OPEN, due_at__lt=now, currency=currency)
    reports = describe_invoices(invoices.order_by("pk"))
    largest = nlargest(ROWS_SHOWN, reports, key=lambda report: report.amount_due)
    rows = [
        Row(
            Behind(tenant_id=report.invoice.tenant_id, invoice_id=report.invoice.pk),
            0,
            report.amount_due,
            label=f"Invoice {report.invoice.number}, due {report.invoice.due_at:%Y-%m-%d}",
        )
        for report in largest
    ]
    amount = sum((report.amount_due for report in reports), amount_of(0, currency))
    return Loss(Cause.OVERDUE, 0, 0, amount, rows)


def _sum(accounts: Collection[Account]) -> Account:
    names = [name for name in Account.__dataclass_fields__ if name != "group"]
    return Account(ledger.Group(), **{name: sum(map(attrgetter(name), accounts)) for name in names})


def _named(losses: list[Loss]) -> list[Loss]:
    """The same losses with the names of what their rows are about. Three queries for all of them."""
    abouts = [row.about for loss in losses for row in loss.rows]
    gpus = {
        gpu.pk: gpu for gpu in GPU.objects.filter(pk__in=_ids(about.gpu_id for about in abouts)).select_related("node")
    }
    tenants = Tenant.objects.in_bulk(_ids(about.tenant_id for about in abouts))
    rates = Rate.objects.in_bulk(_ids(about.rate_id for about in abouts))
    return [
        Loss(
            loss.cause,
            loss.microseconds,
            loss.unvalued,
            loss.amount,
            [_named_row(loss.cause, row, gpus, tenants, rates) for row in loss.rows],
        )
        for loss in losses
    ]


def _named_row(cause: Cause, row: Row, gpus: dict[int, GPU], tenants: dict[int, Tenant], rates: dict[int, Rate]) -> Row:
    about = row.about
    if about.gpu_id is not None:
        gpu = gpus[about.gpu_id]
        about = replace(about, gpu_model=gpu.model)
        label = f"{gpu.node.hostname}, GPU {gpu.gpu_index}"
        return Row(about, row.microseconds, row.amount, gpu.node_id, gpu.node.cluster_id, label)
    parts = [tenants[about.tenant_id].name if about.tenant_id else "no tenant", row.label, about.gpu_model or ""]
    if cause is Cause.BELOW_LIST and about.rate_id in rates:
        parts.append(rates[about.rate_id].reason or "no reason given")
    return Row(about, row.microseconds, row.amount, label=": ".join(part for part in parts if part))


def _ids(ids: Iterable[int | None]) -> Collection[int]:
    return sorted({one for one in ids if one is not None})
