"""Rates and sold time for tests: rates through the service, ledger rows as the scheduler would leave them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from billing.models import Rate
from billing.services import add_rate
from clusters.models import GPU
from clusters.tests.factories import make_gpu
from jobs.models import Allocation, Job
from tenants.models import Tenant

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def hours(count: float) -> datetime:
    """So many hours before noon."""
    return NOW - timedelta(hours=count)


def make_rate(gpu_model: str = "H100", price: str = "2.00", **fields: Any) -> Rate:
    """A list price since the year began, unless told otherwise."""
    defaults: dict[str, Any] = {"valid_from": LONG_AGO, "now": LONG_AGO, "recorded_by": "test"}
    return add_rate(gpu_model=gpu_model, price_per_gpu_hour=Decimal(price), **{**defaults, **fields})


def make_job(tenant: Tenant | None, gpu: GPU, start: datetime, end: datetime | None = None) -> Job:
    """A job that held its GPUs from start to end, or still runs."""
    ended = {"status": "running"} if end is None else {"status": "completed", "ended_at": end}
    return Job.objects.create(
        cluster=gpu.node.cluster, tenant=tenant, name="train", submitted_at=start, started_at=start, **ended
    )


def sell(
    tenant: Tenant | None, start: datetime, end: datetime | None = None, *, rate: Rate | None, gpu: GPU | None = None
) -> Allocation:
    """One GPU of the rate's model held from start to end, or still held, at the rate; None: it has no price."""
    gpu = gpu or make_gpu(model=rate.gpu_model if rate else "unpriced", registered_at=LONG_AGO)
    locked: dict[str, Any] = {}
    if rate is not None:
        locked = {"rate_id": rate.pk, "price_per_gpu_hour": rate.price_per_gpu_hour, "currency": rate.currency}
    return Allocation.objects.create(
        job=make_job(tenant, gpu, start, end), gpu=gpu, tenant=tenant, during=DateTimeTZRange(start, end), **locked
    )
