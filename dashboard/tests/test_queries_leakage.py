"""Each cause of leakage is found, priced at the list price in force, and ranked."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing.models import InvoiceStatus
from billing.services import create_invoice, move_invoice
from billing.tests.factories import LONG_AGO, NOW, hours, make_rate, sell
from clusters.models import GPU
from clusters.tests.factories import make_gpu
from dashboard.queries.causes import ABOUT, UNBILLED_AFTER, Cause
from dashboard.queries.leakage import Leakage, Loss, leakage
from jobs.models import WaitPeriod
from jobs.tests.factories import make_job
from tenants.tests.factories import alice, bob

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
    assert loss.rows[0].label == f"acme: Invoice {invoice.number}, due {invoice.due_at:%Y-%m-%d}"
    assert loss_of(of_last_day("EUR"), Cause.OVERDUE).rows == []


def test_the_largest_rows_stand_first_and_there_are_ten_at_most() -> None:
    make_rate(price="2.00")
    gpus = [make_gpu(registered_at=hours(hour)) for hour in range(1, 13)]
    loss = loss_of(of_last_day(), Cause.NO_DEMAND)
    assert [row.about.gpu_id for row in loss.rows] == [gpu.pk for gpu in reversed(gpus)][:10]
    assert loss.amount == Decimal(2 * sum(range(1, 13)))


def test_as_many_queries_for_many_rows_as_for_few() -> None:
    make_rate(price="2.00")
    old_gpu()
    with CaptureQueriesContext(
        connection,
    ) as few:
        of_last_day()
    discount = make_rate(price="1.50", tenant_id=alice().pk)
    for state in ["unhealthy", "offline", "available", "draining"]:
        old_gpu(state=state)
        sell(discount.tenant, hours(10), hours(2), rate=discount)
    with CaptureQueriesContext(connection) as many:
        of_last_day()
    assert len(few) <= len(many) <= 15
    assert len(many) - len(few) <= 2  # in_bulk() asks nothing about no ids.


@pytest.mark.parametrize("cause", list(Cause))
def test_each_cause_leads_to_a_list_of_the_console(cause: Cause) -> None:
    console = Client()
    console.force_login(User.objects.create_superuser("operator"))
    about = ABOUT[cause]
    response = console.get(f"{reverse(about.page)}?{about.query}")
    assert response.status_code == 200  # A filter that the list does not know redirects to ?e=1.
    assert about.advice
