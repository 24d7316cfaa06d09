"""The figures over time on the home page and the leakage page: they agree with the reports, and they add up."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from alerts.models import AlertEvent, AlertRule
from billing.models import InvoiceStatus
from billing.services import create_invoice, move_invoice
from billing.tests.factories import LONG_AGO, NOW, hours, make_rate, sell
from clusters.models import GPUFault
from clusters.tests.factories import make_gpu, make_node
from dashboard import needs, period
from dashboard.queries import daily, leakage, money, revenue
from dashboard.queries.prices import amount_of
from dashboard.queries.receivables import aged_receivables
from dashboard.waterfall import Step, waterfall
from jobs.tests.factories import make_job
from tenants.models import Tenant
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db


def busy_week() -> Tenant:
    """Alice pays list, Bob less, somebody is nobody's tenant, and a model has no price."""
    one, other = alice(), bob()
    at_list, friends = make_rate(price="2.00"), make_rate(price="1.50", tenant_id=other.pk, reason="a friend")
    sell(one, hours(100), hours(30), rate=at_list)
    sell(other, hours(60), hours(2), rate=friends)
    sell(None, hours(10), hours(1), rate=at_list)
    sell(one, hours(20), hours(3), rate=None)
    return one


def test_the_days_add_up_to_what_the_reports_of_the_window_say() -> None:
    busy_week()
    days = daily("USD", start=hours(120), end=NOW).values()
    earned, lost = revenue("USD", start=hours(120), end=NOW), leakage("USD", start=hours(120), end=NOW)
    assert sum(day.earned for day in days) == earned.total.metered > 0
    assert amount_of(sum(day.lost for day in days), "USD") == lost.lost > 0
    assert len(days) == 6


def test_a_day_has_what_was_earned_and_lost_in_it() -> None:
    rate, gpu = make_rate(price="2.00"), make_gpu(registered_at=LONG_AGO)
    noon = NOW.replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=3)
    sell(alice(), noon, noon + timedelta(hours=6), rate=rate, gpu=gpu)
    day = daily("USD", start=noon - timedelta(hours=12), end=NOW)[noon.date()]
    assert (amount_of(day.earned, "USD"), amount_of(day.lost, "USD")) == (Decimal("12.00"), Decimal("36.00"))


def test_the_balance_adds_up_to_what_was_registered() -> None:
    busy_week()
    balance = period.last_day(now=NOW).balance
    assert sum(part.hours for part in balance.parts) == pytest.approx(balance.registered) == pytest.approx(96)
    assert sum(part.percent for part in balance.parts) == pytest.approx(100)


def test_a_figure_stands_beside_the_one_before() -> None:
    rate, gpu = make_rate(price="2.00"), make_gpu(registered_at=LONG_AGO)
    tenant = alice()
    sell(tenant, hours(36), hours(24), rate=rate, gpu=gpu)
    sell(tenant, hours(18), rate=rate, gpu=gpu)
    cards = {card.title: card for card in period.last_day(now=NOW).cards}
    sold = cards["Sold in the last 24 h"]
    assert (sold.figure, sold.changed, sold.better) == ("USD 36.00", "+50.0 %", True)
    assert (cards["Sold share"].figure, cards["Sold share"].changed) == ("75.0 %", "+25.0 points")
    assert (cards["Leakage"].changed, cards["Leakage"].better) == ("-50.0 %", True)
    assert cards["Run rate"].figure == "USD 2.00"


def test_the_run_rate_stands_beside_that_of_the_same_time_yesterday() -> None:
    rate, tenant = make_rate(price="2.00"), alice()
    for start, end in ((30, 20), (3, None), (2, None), (40, 24)):
        gpu = make_gpu(registered_at=LONG_AGO)
        sell(tenant, hours(start), None if end is None else hours(end), rate=rate, gpu=gpu)
    card = next(card for card in period.last_day(now=NOW).cards if card.title == "Run rate")
    assert (card.figure, card.changed, card.than) == ("USD 4.00", "+100.0 %", "against 24 h ago")


def test_open_alerts_are_counted_then_and_now() -> None:
    rule = AlertRule.objects.get(type="health_degraded")
    for subject, fired, resolved in (("a", 40, 30), ("b", 40, 3), ("c", 5, None), ("d", 6, None), ("e", 2, None)):
        AlertEvent.objects.create(
            rule=rule,
            subject=subject,
            status="firing" if resolved is None else "resolved",
            value=1,
            message=subject,
            since=hours(fired),
            fired_at=hours(fired),
            resolved_at=None if resolved is None else hours(resolved),
        )
    card = next(card for card in period.last_day(now=NOW).cards if card.title == "Open alerts")
    assert (card.figure, card.changed, card.better) == ("3", "+2", False)


def steps_of(hours_ago: float) -> list[Step]:
    shown = money("USD", start=hours(hours_ago), end=NOW)
    return waterfall(shown.lost, shown.earned)


def test_the_leakage_pages_figures_are_those_of_the_reports() -> None:
    tenant = busy_week()
    invoice = create_invoice(tenant_id=tenant.pk, start=hours(120), end=hours(25), created_by="test", now=NOW)
    move_invoice(invoice_id=invoice.pk, to=InvoiceStatus.OPEN, actor="test", now=NOW)
    shown = money("USD", start=hours(120), end=NOW)
    lost, earned = leakage("USD", start=hours(120), end=NOW), revenue("USD", start=hours(120), end=NOW)
    assert (shown.lost.lost, shown.lost.account) == (lost.lost, lost.account)
    assert [(one.cause, one.amount, one.microseconds) for one in shown.lost.losses] == [
        (one.cause, one.amount, one.microseconds) for one in lost.losses
    ]
    assert (shown.earned.total, shown.earned.by_tenant, shown.earned.by_model) == (
        earned.total,
        earned.by_tenant,
        earned.by_model,
    )
    assert earned.total.billed > 0


def test_the_waterfall_falls_from_level_to_level_to_the_cent() -> None:
    invoice = create_invoice(tenant_id=busy_week().pk, start=hours(120), end=hours(25), created_by="test", now=NOW)
    move_invoice(invoice_id=invoice.pk, to=InvoiceStatus.OPEN, actor="test", now=NOW)
    left = Decimal(0)
    for step in steps_of(120):
        assert not step.stands or step.name == "Potential" or step.amount == left, step.name
        left = step.amount if step.stands else left - step.amount
    levels = {step.name: step.amount for step in steps_of(120)}
    assert (levels["Earned"], levels["Billed"], levels["Collected"]) == (
        Decimal("227.00"),
        Decimal("140.00"),
        Decimal("0.00"),
    )
    assert levels["Sold below the list price"] == Decimal("29.00")
    move_invoice(invoice_id=invoice.pk, to=InvoiceStatus.PAID, actor="test", now=NOW)
    assert {step.name: step.amount for step in steps_of(120)}["Collected"] == Decimal("140.00")


def test_receivables_stand_in_the_column_of_their_age() -> None:
    rate, gpu = make_rate(price="2.00"), make_gpu(registered_at=LONG_AGO)
    tenant = alice()
    sell(tenant, hours(10), hours(9), rate=rate, gpu=gpu)
    invoice = create_invoice(tenant_id=tenant.pk, start=hours(10), end=hours(8), created_by="test", now=NOW)
    assert aged_receivables("USD", now=NOW) == []
    due = move_invoice(invoice_id=invoice.pk, to=InvoiceStatus.OPEN, actor="test", now=NOW).due_at
    assert due is not None
    for days, column in ((0, 0), (1, 1), (30, 1), (31, 2), (61, 3), (91, 4)):
        (owed,) = aged_receivables("USD", now=due + timedelta(days=days))
        assert [place for place, amount in enumerate(owed.amounts) if amount] == [column], days
        assert (owed.tenant.name, owed.total) == ("acme", Decimal("2.00"))


def test_what_needs_a_person_is_counted_and_leads_to_its_rows() -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("charlie", password="x"))
    make_gpu(make_node(), health="unhealthy")
    make_job("one", status="blocked")
    make_job("two", status="blocked")
    found = {need.what: need for need in needs.needs_now(lambda permission: True, now=NOW)}
    assert {what: need.count for what, need in found.items()} == {"GPU is unhealthy": 1, "jobs are on hold": 2}
    assert client.get(found["jobs are on hold"].link).context["cl"].result_count == 2
    assert client.get(found["GPU is unhealthy"].link).context["cl"].result_count == 1


def test_a_quarantine_that_was_held_back_is_shown_for_a_day_while_the_gpu_is_in_service() -> None:
    gpu, out = make_gpu(make_node()), make_gpu(make_node(), health="unhealthy")
    gone = make_gpu(make_node(), retired_at=NOW + timedelta(hours=1))
    for one in (gpu, out, gone):
        GPUFault.objects.create(gpu=one, cause="xid", began_at=NOW, ended_at=NOW, held_back=True)
    for age, count in ((timedelta(hours=23), 1), (timedelta(hours=24), 0)):
        found = needs.needs_now(lambda permission: "fault" in permission, now=NOW + age)
        assert [need.count for need in found] == [1] * count


@pytest.mark.parametrize("kind", needs.KINDS, ids=lambda kind: kind.say[1])
def test_each_need_leads_to_a_list_that_takes_its_filter(kind: needs.Kind) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("charlie", password="x"))
    model = kind.rows(NOW).model
    address = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    answer = client.get(f"{address}?{kind.query}")
    assert answer.status_code == 200
    assert answer.context["cl"].has_active_filters or answer.context["cl"].get_filters_params()


def test_a_person_is_told_only_of_what_they_may_see() -> None:
    make_job("one", status="blocked")
    assert needs.needs_now(lambda permission: permission != "jobs.view_job", now=NOW) == []


def test_every_page_of_the_console_has_the_policy_and_nothing_else_has() -> None:
    policy = Client().get(reverse("admin:login")).headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "Content-Security-Policy" in Client().get(reverse("admin:index")).headers
    assert "Content-Security-Policy" not in Client().get("/healthz").headers
