"""The few figures that say how the fleet does."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db import connection

from clusters.models import GPU
from dashboard.queries.leakage import leakage
from dashboard.queries.prices import amount_of, in_millionths, per_hour
from jobs import ledger
from jobs.ledger import Account, By, Scope

# Nearest rank, so that each figure is a wait that a job really had.
QUEUE_WAIT = """
    SELECT count(*),
           percentile_disc(0.5) WITHIN GROUP (ORDER BY started_at - submitted_at),
           percentile_disc(0.95) WITHIN GROUP (ORDER BY started_at - submitted_at)
      FROM jobs_job
     WHERE started_at >= %(start)s AND started_at < %(end)s
"""


@dataclass(frozen=True, slots=True)
class QueueWait:
    """How long the jobs that started in the window had waited since their submission, in seconds."""

    jobs: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Kpis:
    """The window's figures. ``gpus`` are in service now; revenue is metered time at its locked prices."""

    start: datetime
    end: datetime
    currency: str
    gpus: int
    account: Account
    revenue: Decimal
    revenue_per_gpu_hour: Decimal | None
    revenue_per_sold_gpu_hour: Decimal | None
    leakage: Decimal
    queue_wait: QueueWait

    def share(self, microseconds: int) -> float:
        """A part of the registered time, 0 to 1 with six decimals; 0 where nothing was registered."""
        registered = self.account.registered
        return round(microseconds / registered, 6) if registered else 0.0


def kpis(currency: str, *, start: datetime, end: datetime) -> Kpis:
    """The figures of ``[start, end)`` in one currency; ``end`` is now. A fixed number of queries."""
    lost = leakage(currency, start=start, end=end)
    sold = ledger.sales(Scope(start, end), [By.RATE])
    priced = [row for row in sold if row.price_per_gpu_hour is not None and row.currency == currency]
    metered = sum(row.held * in_millionths(row.price_per_gpu_hour or Decimal(0)) for row in priced)
    return Kpis(
        start=start,
        end=end,
        currency=currency,
        gpus=GPU.objects.filter(retired_at__isnull=True).count(),
        account=lost.account,
        revenue=amount_of(metered, currency),
        revenue_per_gpu_hour=per_hour(metered, lost.account.registered),
        revenue_per_sold_gpu_hour=per_hour(metered, sum(row.held for row in priced)),
        leakage=lost.lost,
        queue_wait=queue_wait(start=start, end=end),
    )


def queue_wait(*, start: datetime, end: datetime) -> QueueWait:
    """The waits of the jobs that started in ``[start, end)``. One query."""
    with connection.cursor() as cursor:
        cursor.execute(QUEUE_WAIT, {"start": start, "end": end})
        jobs, *waits = cursor.fetchone()
    p50, p95 = (None if wait is None else wait.total_seconds() for wait in waits)
    return QueueWait(jobs, p50, p95)
