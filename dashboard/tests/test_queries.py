"""The KPIs, the revenue, the fleet now, and the prices they use."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from celery import current_app
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing.models import InvoiceStatus
from billing.queries import rates_in_force, usage_of
from billing.services import create_invoice, move_invoice
from billing.tests.factories import LONG_AGO, NOW, hours, make_rate, sell
from clusters.models import GPU, LatestReading
from clusters.tests.factories import make_gpu, make_node
from dashboard.queries import fleet, kpis, leakage, revenue
from dashboard.queries.kpis import change, queue_wait
from dashboard.queries.prices import amount_of, list_prices, per_hour
from jobs import ledger
from jobs.ledger import By, Scope
from jobs.models import Job, LedgerDay
from jobs.tests.factories import allocate, make_job
from tenants.callers import Caller, CallerKind
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db

HOUR = 3600 * 10**6


def test_list_prices_follow_the_rule_of_the_rates() -> None:
    make_rate(price="1.00", valid_from=hours(50))
    make_rate(price="2.00", valid_from=hours(10))
    make_rate(price="2.50", valid_from=hours(10), now=hours(9))  # Corrects the one before.
    make_rate(price="2.50", valid_from=hours(5))  # Changes nothing.
    make_rate(price="7.00", valid_from=hours(8), tenant_id=alice().pk)
    make_rate("A100", price="3.00", valid_from=hours(-1))
    prices = list_prices("USD", start=hours(24), end=NOW)
    assert prices.cuts == [hours(10)]
    assert prices.by_segment() == {(0, "H100"): 1_000_000, (1, "H100"): 2_500_000}
    for hour in (60, 50, 24, 10, 9, 5, 1):
        in_force = rates_in_force([(None, "H100")], now=hours(hour)).get((None, "H100"))
        assert prices.at("H100", hours(hour)) == (in_force.price_per_gpu_hour if in_force else None)


def test_the_beat_rolls_days_up_and_cuts_them_where_list_prices_change() -> None:
    start = timezone.now() - timedelta(days=3)
    make_gpu(registered_at=start)
    make_rate(price="1.00", valid_from=start - timedelta(days=1))
    change = (start + timedelta(days=1)).replace(hour=13)
    make_rate(price="2.00", valid_from=change)
    make_rate(price="9.00", valid_from=change + timedelta(hours=1), tenant_id=alice().pk)  # No list price.
    before = leakage("USD", start=start, end=timezone.now())
    current_app.tasks["jobs.roll_up_ledger"]()
    assert LedgerDay.objects.filter(rolled_at__isnull=False).count() >= 2
    assert LedgerDay.objects.get(day=change.date()).cuts == [change]
    assert leakage("USD", start=before.start, end=before.end) == before


@pytest.mark.parametrize(
    ("currency", "worth", "amount"),
    [
        ("USD", 5 * 10**6 * HOUR // 1000, "0.00"),  # Half a cent goes to the even neighbour.
        ("USD", 15 * 10**6 * HOUR // 1000, "0.02"),
        ("JPY", 25 * 10**5 * HOUR, "2"),
        ("KWD", 10**6 * HOUR, "1.000"),
    ],
)
def test_an_amount_is_rounded_once_to_its_currency(currency: str, worth: int, amount: str) -> None:
    assert str(amount_of(worth, currency)) == amount


def test_an_average_price_needs_time() -> None:
    assert per_hour(3 * 10**6 * HOUR, 2 * HOUR) == Decimal("1.500000")
    assert per_hour(0, 0) is None


def test_kpis_read_the_same_ledger_as_the_other_reports() -> None:
    rate = make_rate(price="2.00")
    make_gpu(registered_at=LONG_AGO, state="unhealthy")
    sell(alice(), hours(10), hours(4), rate=rate)
    report = kpis("USD", start=hours(24), end=NOW)
    assert report.gpus == 2
    now, before = report.now, report.before
    assert (now.account.registered, now.account.sold) == (48 * HOUR, 6 * HOUR)
    assert now.share(now.account.sold) == 0.125
    assert now.share(now.account.unhealthy) == 0.5
    assert now.revenue == Decimal("12.00")
    assert now.revenue_per_gpu_hour == Decimal("0.25")
    assert now.revenue_per_sold_gpu_hour == Decimal("2")
    assert now.leakage == leakage("USD", start=hours(24), end=NOW).lost == Decimal("84.00")
    assert (before.start, before.end, before.revenue) == (hours(48), hours(24), Decimal("0.00"))
    assert before.leakage == leakage("USD", start=hours(48), end=hours(24)).lost == Decimal("96.00")
    assert (change(now.leakage, before.leakage), change(now.revenue, before.revenue)) == (-0.125, None)


def test_figures_are_compared_with_the_window_of_the_same_length_before() -> None:
    rate = make_rate(price="2.00")
    sell(alice(), hours(30), hours(18), rate=rate)  # Six hours in each of the two days.
    sell(bob(), hours(40), hours(37), rate=rate)
    sell(None, hours(50), hours(47), rate=None)  # An hour of it, and without a price.
    report = kpis("USD", start=hours(24), end=NOW)
    assert (report.now.revenue, report.before.revenue) == (Decimal("12.00"), Decimal("18.00"))
    assert change(report.now.revenue, report.before.revenue) == -0.333333
    earned = revenue("USD", start=hours(24), end=NOW)
    assert (amount_of(earned.total.metered, "USD"), amount_of(earned.previous.metered, "USD")) == (
        Decimal(12),
        Decimal(18),
    )
    assert (earned.previous.sold, earned.previous.unpriced) == (10 * HOUR, HOUR)


@pytest.mark.parametrize(
    ("now", "before", "grown"),
    [("1.25", "1.00", 0.25), ("0.00", "2.00", -1.0), ("1.00", "0.00", None), (None, "1", None), ("1", None, None)],
)
def test_growth_needs_something_to_grow_from(now: str | None, before: str | None, grown: float | None) -> None:
    figures = [None if text is None else Decimal(text) for text in (now, before)]
    assert change(*figures) == grown


def test_kpis_of_an_empty_fleet_are_zeros() -> None:
    report = kpis("USD", start=hours(24), end=NOW)
    now = report.now
    assert (report.gpus, now.revenue, now.revenue_per_gpu_hour) == (0, Decimal("0.00"), None)
    assert now.share(0) == 0.0
    assert (now.queue_wait.jobs, now.queue_wait.p50, now.queue_wait.p95) == (0, None, None)


def test_queue_waits_are_of_the_jobs_that_started_in_the_window() -> None:
    start = hours(1)
    assert queue_wait(start=hours(24), end=NOW).p50 is None
    make_job(status="running", submitted_at=start, started_at=start)
    assert queue_wait(start=hours(24), end=NOW).p50 == 0.0
    for wait in range(1, 20):
        make_job(status="running", submitted_at=start - timedelta(seconds=wait), started_at=start)
    make_job(status="running", submitted_at=hours(30), started_at=hours(25))
    make_job(status="running", submitted_at=hours(30), started_at=NOW)
    make_job()
    found = queue_wait(start=hours(24), end=NOW)
    assert (found.jobs, found.p50, found.p95) == (20, 9.0, 18.0)


def test_revenue_by_day_tenant_and_model_and_what_of_it_is_billed() -> None:
    h100, a100 = make_rate(price="2.00"), make_rate("A100", price="1.00")
    acme, bluefin = alice(), bob()
    sell(acme, hours(18), hours(8), rate=h100)  # 18:00 to 04:00: six hours of the first day, four of the second.
    sell(bluefin, hours(3), hours(1), rate=a100)
    sell(bluefin, hours(2), hours(1), rate=None)
    sell(None, hours(2), hours(1), rate=a100)
    for tenant, start, finalise in [(acme, 18, True), (bluefin, 3, False)]:
        end = hours(start - 2) if finalise else hours(2)
        invoice = create_invoice(tenant_id=tenant.pk, start=hours(start), end=end, created_by="test", now=NOW)
        if finalise:
            move_invoice(invoice_id=invoice.pk, to=InvoiceStatus.OPEN, actor="test", now=NOW)
    report = revenue("USD", start=hours(24), end=NOW)

    def money(worth: int) -> Decimal:
        return amount_of(worth, "USD")

    assert report.currencies == ["USD"]
    total = report.total
    assert (total.sold, total.unpriced, money(total.metered)) == (14 * HOUR, HOUR, Decimal(23))
    assert [money(total.billed), money(total.drafted), money(total.unbilled)] == [4, 1, 18]
    assert {day: money(part.metered) for day, part in report.by_day.items()} == {
        date(2026, 11, 22): 12,
        date(2026, 11, 23): 11,
    }
    assert money(report.by_day[date(2026, 11, 22)].billed) == 4
    assert {key: money(part.metered) for key, part in report.by_tenant.items()} == {acme.pk: 20, bluefin.pk: 2, None: 1}
    assert {key: money(part.unbilled) for key, part in report.by_model.items()} == {
        "H100": 16,
        "A100": 2,
        "unpriced": 0,
    }
    assert revenue("EUR", start=hours(24), end=NOW).total.metered == 0


def test_billed_time_is_cut_at_midnight() -> None:
    rate = make_rate(price="2.00")
    acme = alice()
    sell(acme, hours(60), hours(2), rate=rate)
    create_invoice(tenant_id=acme.pk, start=hours(60), end=NOW, created_by="test", now=NOW)
    report = revenue("USD", start=hours(50), end=NOW)
    assert {day.day: amount_of(part.drafted, "USD") for day, part in report.by_day.items()} == {
        21: 28,  # From 10:00.
        22: 48,
        23: 20,  # To 10:00.
    }
    assert report.total.unbilled == 0


def test_a_tenants_usage_is_what_the_ledger_sold_it() -> None:
    rate = make_rate(price="2.00")
    acme = alice()
    sell(acme, hours(30), hours(8), rate=rate)
    sell(acme, hours(5), None, rate=None)
    caller = Caller(CallerKind.KEY, frozenset(), "key:1")
    usage = usage_of(acme.pk, caller, start=hours(24), end=NOW)
    sold = ledger.sales(Scope(hours(24), NOW), [By.DAY], tenants=[acme.pk])
    assert {row.group.day: Decimal(row.held).scaleb(-6) for row in sold} == {
        day: used.gpu_seconds for day, used in usage.by_day.items()
    }


def test_the_fleet_now_by_cluster_node_and_model() -> None:
    node = make_node()
    gpus: list[GPU] = [make_gpu(node, model=model) for model in ("H100", "H100", "A100")]
    far = make_gpu(state="offline")
    make_gpu(node, 9, retired_at=NOW + timedelta(seconds=1))
    allocate(make_job(cluster=node.cluster, status="running"), gpus[:1])
    for gpu, age, busy in [(gpus[0], 10, 90.0), (gpus[1], 20, 10.5), (gpus[2], 121, 55.0)]:
        LatestReading.objects.create(gpu=gpu, recorded_at=NOW - timedelta(seconds=age), utilization_pct=busy)
    with CaptureQueriesContext(connection) as queries:
        report = fleet(now=NOW)
    assert len(queries) == 1
    assert (report.total.gpus, report.total.utilization_pct) == (4, 50.2)
    assert {part.id: part.present.gpus for part in report.clusters} == {node.cluster_id: 3, far.node.cluster_id: 1}
    (here,) = (part for part in report.nodes if part.id == node.pk)
    assert (here.name, here.cluster_id) == (node.hostname, node.cluster_id)
    assert {state: count for state, count in here.present.states.items() if count} == {"sold": 1, "idle": 2}
    assert [(part.name, part.present.gpus, part.present.utilization_pct) for part in report.models] == [
        ("A100", 1, None),
        ("H100", 3, 50.2),
    ]


def test_days_and_segments_cut_a_window_without_gaps() -> None:
    start, end = datetime(2026, 3, 1, 22, tzinfo=UTC), datetime(2026, 3, 3, 1, tzinfo=UTC)
    cut = datetime(2026, 3, 2, 12, tzinfo=UTC)
    slots = ledger.slots(Scope(start, end, cuts=[cut, cut, start, end]), by_day=True)
    assert [(slot.day.day, slot.segment) for slot in slots] == [(1, 0), (2, 0), (2, 1), (3, 1)]
    assert [slot.start for slot in slots[1:]] == [slot.end for slot in slots[:-1]]
    assert Job.objects.count() == 0
