"""What the home page says of the last day and month: figures beside those before them, and bars by day."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from django.db.models import Q, Sum
from django.utils.safestring import SafeString

from alerts.models import AlertEvent
from billing.queries import DEFAULT_CURRENCY
from dashboard import kept, plots
from dashboard.queries import Day, Kpis, daily, kpis
from dashboard.queries.kpis import change
from dashboard.queries.prices import amount_of
from jobs.ledger import Account
from jobs.models import Allocation

DAY = timedelta(hours=24)
DAYS_SHOWN = 30
YESTERDAY = "against 24 h ago"
KEPT_AS = "home"
MICROSECONDS_PER_HOUR = 3_600_000_000
# The kinds of GPU-time in the order of the bar, with their names.
KINDS: Mapping[str, str] = {
    "sold": "Sold",
    "could_have_run": "Idle, a job could have run",
    "held_by_quota": "Idle, held by quota",
    "fragmented": "Idle, fragmented",
    "no_demand": "Idle, no demand",
    "draining": "Draining",
    "maintenance": "Maintenance",
    "unhealthy": "Unhealthy",
    "offline": "Offline",
}


@dataclass(frozen=True, slots=True)
class Card:
    """A figure with its change, and against what that is.

    ``better``: whether the change is a good one; None: there is none, or neither.
    """

    title: str
    figure: str
    note: str
    changed: str = ""
    than: str = "against the 24 h before"
    better: bool | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """One kind of GPU-time in the balance: GPU-hours, and its part of the registered time."""

    kind: str
    name: str
    hours: float
    percent: float


@dataclass(frozen=True, slots=True)
class Balance:
    """The GPU-seconds of a window: the parts add up to ``registered``, which is measured by itself."""

    parts: Sequence[Spent]
    registered: float
    bar: SafeString


@dataclass(frozen=True, slots=True)
class DayRow:
    """Revenue and leakage of one UTC day."""

    day: date
    earned: Decimal
    lost: Decimal


@dataclass(frozen=True, slots=True)
class Money:
    """The last days, the last of which is today so far."""

    currency: str
    days: Sequence[DayRow]
    most: Decimal
    bars: SafeString


@dataclass(frozen=True, slots=True)
class LastDay:
    """The cards and the balance of the last 24 hours, and the bars of the last month."""

    now: datetime
    cards: Sequence[Card]
    balance: Balance
    money: Money


def last_day(*, now: datetime) -> LastDay:
    """Everything over time on the home page, in one currency. A fixed number of queries."""
    currency = _currency()
    figures = kpis(currency, start=now - DAY, end=now)
    cards = [
        _sold(figures),
        _revenue(figures),
        _run_rate(figures, now),
        _leakage(figures),
        *_waits(figures),
        _alerts(now),
    ]
    return LastDay(now, cards, balance_of(figures.now.account), _by_day(currency, now))


def kept_last_day(*, now: datetime) -> LastDay:
    """The same as it is kept: over a large fleet it takes a second, and many may be looking."""
    return kept.kept(KEPT_AS, _make, now=now).figures


def _make(now: datetime) -> LastDay:
    return last_day(now=now)


def balance_of(account: Account) -> Balance:
    """What the registered GPU-time of a window was spent on."""
    registered = account.registered or 1
    parts = []
    for kind, name in KINDS.items():
        spent = getattr(account, kind)
        parts.append(Spent(kind, name, spent / MICROSECONDS_PER_HOUR, 100 * spent / registered))
    pieces = [
        plots.Piece(f"gf-spent-{one.kind}", one.hours, f"{one.name}: {one.hours:,.1f} GPU-hours, {one.percent:.1f} %")
        for one in parts
    ]
    bar = plots.stack(pieces, "What the GPU-time was spent on; the table below has the same figures")
    return Balance(parts, account.registered / MICROSECONDS_PER_HOUR, bar)


def _currency() -> str:
    """The house's currency, or where nothing runs in it that of whatever runs."""
    running = Allocation.objects.filter(during__upper_inf=True).exclude(currency="").order_by("currency")
    currencies = list(running.values_list("currency", flat=True).distinct())
    return DEFAULT_CURRENCY if DEFAULT_CURRENCY in currencies or not currencies else currencies[0]


def _by_day(currency: str, now: datetime) -> Money:
    first = datetime.combine(now.date() - timedelta(days=DAYS_SHOWN - 1), time.min, UTC)
    known: Mapping[date, Day] = daily(currency, start=first, end=now)
    days = [
        DayRow(day, amount_of(one.earned, currency), amount_of(one.lost, currency))
        for day, one in sorted(known.items())
    ]
    columns = [
        [
            plots.Piece("gf-earned", float(row.earned), f"{row.day}: {currency} {row.earned:,} earned"),
            plots.Piece("gf-lost", float(row.lost), f"{row.day}: {currency} {row.lost:,} lost"),
        ]
        for row in days
    ]
    most = max((max(row.earned, row.lost) for row in days), default=Decimal(0))
    return Money(
        currency, days, most, plots.bars(columns, "Revenue and leakage by day; the table has the same figures")
    )


def _sold(figures: Kpis) -> Card:
    now, before = (100 * one.share(one.account.sold) for one in (figures.now, figures.before))
    if not figures.before.account.registered:
        return Card("Sold share", f"{now:.1f} %", "of all GPU-time, last 24 h")
    points = round(now - before, 1)
    return Card(
        "Sold share", f"{now:.1f} %", "of all GPU-time, last 24 h", f"{points:+.1f} points", better=_better(points)
    )


def _revenue(figures: Kpis) -> Card:
    grown = change(figures.now.revenue, figures.before.revenue)
    shown = f"{figures.currency} {figures.now.revenue:,}"
    return Card(
        "Sold in the last 24 h", shown, "metered, at the prices locked in", _percent(grown), better=_better(grown)
    )


def _run_rate(figures: Kpis, now: datetime) -> Card:
    sold = Allocation.objects.filter(currency=figures.currency)
    hourly, before = (
        held.aggregate(sum=Sum("price_per_gpu_hour"))["sum"] or Decimal(0)
        for held in (sold.filter(during__upper_inf=True), sold.filter(during__contains=now - DAY))
    )
    grown = change(hourly, before)
    shown = f"{figures.currency} {hourly:,.2f}"
    return Card("Run rate", shown, "an hour, of what runs now", _percent(grown), YESTERDAY, _better(grown))


def _leakage(figures: Kpis) -> Card:
    grown = change(figures.now.leakage, figures.before.leakage)
    shown = f"{figures.currency} {figures.now.leakage:,}"
    return Card(
        "Leakage", shown, "unsold or sold too low, last 24 h", _percent(grown), better=_better(grown, more=False)
    )


def _waits(figures: Kpis) -> list[Card]:
    now, before = figures.now.queue_wait, figures.before.queue_wait
    cards = []
    for name, wait, then in (("p50", now.p50, before.p50), ("p95", now.p95, before.p95)):
        grown = None if wait is None or not then else wait / then - 1
        shown = "–" if wait is None else shown_seconds(wait)
        note = f"of the {now.jobs} jobs that started in 24 h"
        cards.append(Card(f"Queue wait {name}", shown, note, _percent(grown), better=_better(grown, more=False)))
    return cards


def _alerts(now: datetime) -> Card:
    def open_at(at: datetime) -> int:
        return AlertEvent.objects.filter(
            Q(resolved_at__isnull=True) | Q(resolved_at__gt=at), fired_at__isnull=False, fired_at__lte=at
        ).count()

    count, before = open_at(now), open_at(now - DAY)
    changed, than = (f"{count - before:+d}", YESTERDAY) if count != before else ("as many", "as 24 h ago")
    return Card("Open alerts", str(count), "that fire now", changed, than, _better(count - before, more=False))


def shown_seconds(seconds: float) -> str:
    """A wait in a unit that suits it."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _percent(grown: float | None) -> str:
    return "" if grown is None else f"{100 * grown:+.1f} %"


def _better(grown: float | None, *, more: bool = True) -> bool | None:
    """Whether a change is good, where more is better, or less."""
    return None if not grown else (grown > 0) == more


MAKERS: Mapping[str, kept.Maker] = {KEPT_AS: kept.Maker(_make, standing=True)}
