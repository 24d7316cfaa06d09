"""A tenant's usage against the ledger, counted by hand and second by second."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import time_machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apikeys.tests.factories import client_with, make_key
from billing import queries
from billing.models import Rate
from clusters.tests.factories import make_cluster, make_gpu, make_node
from jobs.models import Allocation
from jobs.tests.factories import allocate, make_job
from tenants.callers import Caller, CallerKind, Scope
from tenants.models import Tenant
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
CHARLIE = Caller(CallerKind.KEY, frozenset({Scope.READ}), "key:0")


def make_rate(price: str, model: str = "H100", **fields: Any) -> Rate:
    return Rate.objects.create(
        gpu_model=model,
        price_per_gpu_hour=Decimal(price),
        valid_from=NOON,
        recorded_at=NOON,
        recorded_by="test",
        **fields,
    )


def hold(tenant: Tenant, start: datetime, end: datetime | None, rate: Rate | None, model: str = "H100") -> None:
    node = make_node(make_cluster())
    priced = {"rate_id": rate.pk, "price_per_gpu_hour": rate.price_per_gpu_hour, "currency": "USD"} if rate else {}
    job = make_job(cluster=node.cluster, tenant=tenant, status="running")
    allocate(job, [make_gpu(node, model=model)], start=start, end=end, **priced)


def test_usage_is_clipped_to_the_window_and_split_by_day_and_model() -> None:
    acme, rate = alice(), make_rate("2.50")
    hold(acme, NOON - 40 * 24 * HOUR, NOON - 13 * HOUR, rate)
    hold(acme, NOON - HOUR, None, rate)
    hold(acme, NOON - 2 * HOUR, NOON - HOUR, None, model="A100")
    hold(bob(), NOON - 9 * HOUR, None, rate)
    make_job(tenant=acme, status="failed", submitted_at=NOON - 3 * HOUR)
    with time_machine.travel(NOON, tick=False):
        body = client_with(make_key(acme)).get(f"/api/tenants/{acme.pk}/usage?days=1").json()
    assert body == {
        "tenant_id": acme.pk,
        "window_from": "2026-03-09T12:00:00.000000Z",
        "window_to": "2026-03-10T12:00:00.000000Z",
        "currency": "USD",
        "gpu_seconds": "46800.000000",
        "cost": "30.00",
        "jobs": {
            "submitted": 1,
            "completed": 0,
            "failed": 1,
            "cancelled": 0,
            "queued": 0,
            "blocked": 0,
            "running": 3,
        },
        "by_day": [
            {"date": "2026-03-09", "gpu_seconds": "39600.000000", "cost": "27.50"},
            {"date": "2026-03-10", "gpu_seconds": "7200.000000", "cost": "2.50"},
        ],
        "by_gpu_model": [
            {"gpu_model": "A100", "gpu_seconds": "3600.000000", "cost": "0.00"},
            {"gpu_model": "H100", "gpu_seconds": "43200.000000", "cost": "30.00"},
        ],
    }


def test_another_tenants_usage_is_not_there() -> None:
    acme, bluefin = alice(), bob()
    api = client_with(make_key(acme))
    foreign, missing = (api.get(f"/api/tenants/{number}/usage") for number in (bluefin.pk, 10**9))
    assert foreign.status_code == missing.status_code == 404
    assert foreign.json()["detail"] == missing.json()["detail"]


@pytest.mark.parametrize("days", ["0", "91", "x", "", "1.5", "-1"])
def test_days_are_one_to_ninety(days: str) -> None:
    assert client_with(make_key()).get(f"/api/tenants/{alice().pk}/usage?days={days}").status_code == 400


spans = st.lists(st.tuples(st.integers(-100, 100), st.integers(1, 90), st.sampled_from([0, 600, 3600])), max_size=8)


@given(spans)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_usage_equals_a_count_second_by_second(held: list[tuple[int, int, int]]) -> None:
    """Spans in quarters of an hour around midnights; the oracle walks the quarters."""
    Allocation.objects.all().delete()
    Tenant.objects.filter(api_keys=None, jobs=None).delete()
    acme = Tenant.objects.create(name=f"t{Tenant.objects.count()}", gpu_quota=9, created_at=NOON)
    quarter = HOUR / 4
    start, end = NOON - 24 * HOUR, NOON
    days: dict[str, int] = {}
    for first, length, minimum in held:
        began = NOON - 12 * HOUR + first * quarter
        hold(acme, began, began + length * quarter, make_rate("4", minimum_seconds=minimum))
        for step in range(length):
            at = began + step * quarter
            if start <= at < end:
                days[f"{at:%Y-%m-%d}"] = days.get(f"{at:%Y-%m-%d}", 0) + 900
    usage = queries.usage_of(acme.pk, CHARLIE, start=start, end=end)
    assert {f"{day:%Y-%m-%d}": int(used.gpu_seconds) for day, used in usage.by_day.items()} == days
    assert usage.total.gpu_seconds == sum(days.values())
