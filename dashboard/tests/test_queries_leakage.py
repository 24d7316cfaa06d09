"""Each cause of leakage is found, priced at the list price in force, and ranked."""

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing.models import Invoice, InvoiceStatus, OutboxMessage, Rate
from billing.services import create_invoice, move_invoice
from billing.tests.factories import LONG_AGO, NOW, hours, make_rate, sell
from clusters.models import GPU
from clusters.services import record_batch
from clusters.tests.factories import make_gpu
from dashboard.queries.causes import ABOUT, UNBILLED_AFTER, Cause, Nature
from dashboard.queries.leakage import Leakage, leakage
from dashboard.queries.losses import Loss
from jobs.models import Allocation, WaitPeriod
from jobs.tests.factories import make_job
from tenants.models import Tenant
from tenants.tests.factories import alice, bob, make_tenant

pytestmark = pytest.mark.django_db


def of_last_day(currency: str = "USD") -> Leakage:
    return leakage(currency, start=hours(24), end=NOW)


def loss_of(report: Leakage, cause: Cause) -> Loss:
    return next(loss for loss in report.losses if loss.cause is cause)


def old_gpu(**fields: Any) -> GPU:
    return make_gpu(registered_at=LONG_AGO, **fields)


@pytest.mark.parametrize("state", ["unhealthy", "offline", "draining", "maintenance"])
def test_unsold_time_is_priced_at_list_by_its_state(state: str) -> None:
    make_rate(price="2.00")
    gpu = old_gpu(state=state)
    loss = loss_of(of_last_day(), Cause(state))
    assert (loss.microseconds, loss.amount, loss.unvalued) == (24 * 3600 * 10**6, Decimal("48.00"), 0)
    (row,) = loss.rows
    assert (row.about.gpu_id, row.node_id, row.cluster_id) == (gpu.pk, gpu.node_id, gpu.node.cluster_id)
    assert (row.amount, row.label) == (Decimal("48.00"), f"{gpu.node.hostname}, GPU 0")


def test_idle_time_is_split_by_what_the_queue_said() -> None:
    make_rate(price="2.00")
    gpu = old_gpu()
    job = make_job(cluster=gpu.node.cluster, gpu_type="H100", status="blocked", submitted_at=hours(20))
    for code, start, end in [("scheduler", 20, 19), ("quota", 19, 15), ("capacity", 15, 12), ("held", 12, 0)]:
        WaitPeriod.objects.create(job=job, code=code, during=(hours(start), hours(end)))
    report = of_last_day()
    amounts = {loss.cause: loss.amount for loss in report.losses if loss.amount}
    assert amounts == {
        Cause.NO_DEMAND: Decimal("32.00"),  # Before the job came, and while a person held it back.
        Cause.HELD_BY_QUOTA: Decimal("8.00"),
        Cause.FRAGMENTED: Decimal("6.00"),
        Cause.COULD_HAVE_RUN: Decimal("2.00"),
    }
    assert [loss.cause for loss in report.losses[:4]] == list(amounts)  # The costliest first.
    assert report.lost == Decimal("48.00")


def test_each_second_is_priced_at_the_list_price_that_was_in_force() -> None:
    make_rate(price="1.00")
    make_rate(price="3.00", valid_from=hours(6))
    make_rate(price="9.00", valid_from=hours(30), plan_tier="pro")  # No list price.
    make_rate(price="9.00", valid_from=hours(30), currency="EUR")
    old_gpu()
    assert loss_of(of_last_day(), Cause.NO_DEMAND).amount == Decimal(18 * 1 + 6 * 3)
    assert loss_of(of_last_day("EUR"), Cause.NO_DEMAND).amount == Decimal(24 * 9)


def test_time_that_no_list_price_values_is_shown_and_worth_nothing() -> None:
    make_rate(price="1.00", valid_from=hours(6))
    old_gpu()
    loss = loss_of(of_last_day(), Cause.NO_DEMAND)
    assert (loss.amount, loss.unvalued) == (Decimal("6.00"), 18 * 3600 * 10**6)


def test_sold_time_that_brings_less_than_it_could() -> None:
    make_rate(price="2.00")
    discount = make_rate(price="1.50", tenant_id=alice().pk, reason="three years")
    free_rider = make_rate("A100", price="4.00")
    sell(discount.tenant, hours(10), hours(2), rate=discount)
    sell(None, hours(10), hours(9), rate=free_rider)
    sell(bob(), hours(10), hours(7), rate=None)
    report = of_last_day()
    below, nobody, unpriced = (
        loss_of(report, cause) for cause in (Cause.BELOW_LIST, Cause.WITHOUT_TENANT, Cause.UNPRICED)
    )
    assert (below.amount, [row.label for row in below.rows]) == (Decimal("4.00"), ["acme: H100: three years"])
    assert (nobody.amount, [row.label for row in nobody.rows]) == (Decimal("4.00"), ["no tenant: A100"])
    assert (unpriced.amount, unpriced.unvalued) == (Decimal("0.00"), 3 * 3600 * 10**6)
    assert [row.label for row in unpriced.rows] == ["bluefin: unpriced"]
    assert loss_of(of_last_day("EUR"), Cause.BELOW_LIST).microseconds == 0


def test_a_price_above_list_is_no_leakage() -> None:
    make_rate(price="2.00")
    dear = make_rate(price="2.50", tenant_id=alice().pk)
    sell(dear.tenant, hours(10), hours(2), rate=dear)
    assert loss_of(of_last_day(), Cause.BELOW_LIST).microseconds == 0


def test_old_time_on_no_invoice_is_late_and_not_lost() -> None:
    rate = make_rate(price="2.00")
    acme = alice()
    old = NOW - UNBILLED_AFTER
    sell(acme, old - timedelta(hours=3), old + timedelta(hours=1), rate=rate)
    before = of_last_day()
    loss = loss_of(before, Cause.UNBILLED)
    assert (loss.amount, loss.microseconds) == (Decimal("6.00"), 3 * 3600 * 10**6)
    assert [(row.about.tenant_id, row.label) for row in loss.rows] == [(acme.pk, "acme")]
    # The GPU that the factory made is idle otherwise, and that alone is lost.
    assert before.lost == loss_of(before, Cause.NO_DEMAND).amount
    draft = create_invoice(
        tenant_id=acme.pk, start=old - timedelta(hours=2), end=old - timedelta(hours=1), created_by="test", now=NOW
    )
    assert loss_of(of_last_day(), Cause.UNBILLED).amount == Decimal("4.00")
    move_invoice(invoice_id=draft.pk, to=InvoiceStatus.VOID, actor="test", now=NOW)
    assert loss_of(of_last_day(), Cause.UNBILLED).amount == Decimal("6.00")


def test_an_open_invoice_past_its_date_is_overdue() -> None:
    rate = make_rate(price="2.00")
    acme = alice()
    made = NOW - timedelta(days=60)
    sell(acme, made - timedelta(hours=10), made - timedelta(hours=4), rate=rate)
    invoice = create_invoice(tenant_id=acme.pk, start=made - timedelta(days=1), end=made, created_by="test", now=made)
    assert loss_of(of_last_day(), Cause.OVERDUE).amount == 0
    invoice = move_invoice(invoice_id=invoice.pk, to=InvoiceStatus.OPEN, actor="test", now=made)
    loss = loss_of(of_last_day(), Cause.OVERDUE)
    assert (loss.amount, loss.rows[0].about.invoice_id) == (Decimal("12.00"), invoice.pk)
    assert loss.rows[0].label == f"acme: Invoice GF-{invoice.number}, due {invoice.due_at:%Y-%m-%d}"
    assert loss_of(of_last_day("EUR"), Cause.OVERDUE).rows == []


def test_the_largest_rows_stand_first_and_there_are_ten_at_most() -> None:
    make_rate(price="2.00")
    gpus = [make_gpu(registered_at=hours(hour)) for hour in range(1, 13)]
    loss = loss_of(of_last_day(), Cause.NO_DEMAND)
    assert [row.about.gpu_id for row in loss.rows] == [gpu.pk for gpu in reversed(gpus)][:10]
    assert loss.amount == Decimal(2 * sum(range(1, 13)))
    assert (loss.rows_total, loss.other_amount, loss.other_microseconds) == (12, Decimal(6), 3 * 3600 * 10**6)


def test_the_costliest_stand_first_also_where_prices_changed() -> None:
    make_rate(price="1.00")
    make_rate("A100", price="3.00")
    make_rate(price="9.00", valid_from=hours(2))
    longest, dearest, unpriced = (
        make_gpu(registered_at=hours(hour), model=model) for hour, model in [(10, "A100"), (6, "H100"), (20, "B200")]
    )
    loss = loss_of(of_last_day(), Cause.NO_DEMAND)
    assert [(row.about.gpu_id, row.amount) for row in loss.rows] == [
        (longest.pk, Decimal(30)),
        (dearest.pk, Decimal(4 + 18)),
        (unpriced.pk, Decimal(0)),
    ]
    assert (loss.amount, loss.unvalued, loss.other_amount) == (Decimal(52), 20 * 3600 * 10**6, Decimal(0))


def test_rows_and_the_others_add_up_to_the_cause_whatever_rounding_does() -> None:
    make_rate(price="0.333333")
    for _ in range(13):
        make_gpu(registered_at=hours(1))
    loss = loss_of(of_last_day(), Cause.NO_DEMAND)
    assert {row.amount for row in loss.rows} == {Decimal("0.33")}
    assert loss.amount == Decimal("4.33") == loss.other_amount + sum(row.amount for row in loss.rows)
    assert loss.other_amount == Decimal("1.03")


def dead_letter(invoice: Invoice, **fields: Any) -> OutboxMessage:
    made = {"reference": uuid4(), "key_made_at": NOW, "next_attempt_at": NOW, "created_at": NOW, **fields}
    return OutboxMessage.objects.create(invoice=invoice, **made)


def open_invoice(tenant: Tenant, rate: Rate) -> Invoice:
    sell(tenant, hours(10), hours(7), rate=rate)
    draft = create_invoice(tenant_id=tenant.pk, start=hours(24), end=NOW, created_by="test", now=NOW)
    return move_invoice(invoice_id=draft.pk, to=InvoiceStatus.OPEN, actor="test", now=NOW)


def test_a_failed_sync_is_late_with_what_is_due_on_its_invoice_once() -> None:
    rate = make_rate(price="2.00")
    first, second, third = (open_invoice(tenant, rate) for tenant in (alice(), bob(), make_tenant("globex")))
    OutboxMessage.objects.all().delete()
    dead_letter(first, step="finalise", status="dead", attempts=9, last_error="no such customer")
    dead_letter(first, step="send", attempts=1)
    dead_letter(second, step="create", attempts=2)
    dead_letter(third, step="create")  # On its way, as far as anybody knows.
    loss = loss_of(of_last_day(), Cause.FAILED_SYNC)
    assert (loss.amount, loss.rows_total) == (Decimal("12.00"), 2)
    assert {(row.about.invoice_id, row.amount, row.label) for row in loss.rows} == {
        (first.pk, Decimal("6.00"), f"acme: Invoice GF-{first.number}: finalise, tried 9 times: no such customer"),
        (second.pk, Decimal("6.00"), f"bluefin: Invoice GF-{second.number}: create, tried 2 times"),
    }
    assert loss_of(of_last_day("EUR"), Cause.FAILED_SYNC).rows == []


def report_readings(gpu: GPU, *readings: tuple[int, float]) -> None:
    """(minutes ago, utilisation in percent) of a GPU, the newest last; each in a batch of its own."""
    for minutes, busy in readings:
        moment = NOW - timedelta(minutes=minutes)
        metric = {"gpu_id": gpu.pk, "recorded_at": moment.isoformat(), "utilization_pct": busy}
        record_batch(body={"metrics": [metric]}, now=moment)


def test_what_is_held_and_hardly_used_is_reclaimable_and_not_lost() -> None:
    rate = make_rate(price="2.00")
    gpus = {name: old_gpu() for name in ("lazy", "busy", "was busy", "silent", "young", "over")}
    tenant = alice()
    for name, gpu in gpus.items():
        sell(
            tenant,
            NOW - timedelta(minutes=30) if name == "young" else hours(10),
            hours(1) if name == "over" else None,
            rate=rate,
            gpu=gpu,
        )
    report_readings(gpus["lazy"], (50, 50.0), (50, 50.0), (50, 50.0), (10, 1.0), (1, 2.0))
    report_readings(gpus["busy"], (50, 3.0), (1, 95.0))
    report_readings(gpus["was busy"], (50, 90.0), (1, 2.0))
    report_readings(gpus["silent"], (50, 1.0), (30, 1.0))
    report_readings(gpus["young"], (50, 99.0), (20, 9.0), (1, 10.0))
    report_readings(gpus["over"], (50, 1.0), (1, 1.0))
    report = of_last_day()
    loss = loss_of(report, Cause.UNDERUSED)
    assert (loss.amount, loss.microseconds) == (Decimal("3.00"), 90 * 60 * 10**6)
    held = {row.gpu_id: row.job_id for row in Allocation.objects.all()}
    assert [(row.about.job_id, row.amount, row.label) for row in loss.rows] == [
        (held[gpus["lazy"].pk], Decimal("2.00"), "acme: H100"),
        (held[gpus["young"].pk], Decimal("1.00"), "acme: H100"),
    ]
    assert report.lost == sum(one.amount for one in report.losses if ABOUT[one.cause].nature is Nature.LOST)
    lower = leakage("USD", start=hours(24), end=NOW, underused_below_pct=11)
    assert {row.about.job_id for row in loss_of(lower, Cause.UNDERUSED).rows} == {held[gpus["young"].pk]}


def test_a_model_without_a_price_is_said_first() -> None:
    make_rate(price="2.00")
    old_gpu(state="offline")
    sell(bob(), hours(10), hours(9), rate=None)
    assert of_last_day().losses[0].cause is Cause.UNPRICED
    make_rate("unpriced", price="1.00", valid_from=hours(24))  # It has a list price now, so it has its place.
    report = of_last_day()
    assert (loss_of(report, Cause.UNPRICED).amount, report.losses[0].cause) == (Decimal("1.00"), Cause.OFFLINE)


def test_as_many_queries_for_many_rows_as_for_few() -> None:
    make_rate(price="2.00")
    old_gpu()
    of_last_day()  # The first one also asks for the ids of types.
    with CaptureQueriesContext(connection) as few:
        of_last_day()
    discount = make_rate(price="1.50", tenant_id=alice().pk)
    for state in ["unhealthy", "offline", "available", "draining"]:
        old_gpu(state=state)
        sell(discount.tenant, hours(10), hours(2), rate=discount)
    with CaptureQueriesContext(connection) as many:
        of_last_day()
    assert len(few) <= len(many) <= 17
    assert len(many) - len(few) <= 2  # in_bulk() asks nothing about no ids.


@pytest.mark.parametrize("cause", list(Cause))
def test_each_cause_leads_to_a_list_of_the_console(cause: Cause) -> None:
    console = Client()
    console.force_login(User.objects.create_superuser("operator"))
    about = ABOUT[cause]
    response = console.get(f"{reverse(about.page)}?{about.query}")
    assert response.status_code == 200  # A filter that the list does not know redirects to ?e=1.
    assert about.advice
