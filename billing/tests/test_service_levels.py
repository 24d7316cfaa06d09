"""Faults that become draft credit notes by a rule, once, and what finance makes of them."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from billing import queries, services
from billing.models import CreditNote, Invoice, Rate, ServiceLevel
from billing.services import (
    add_service_level,
    credit_window,
    decline_credit_note,
    issue_credit_note,
    raise_service_level_credits,
    switch_service_level,
)
from billing.tests.factories import LONG_AGO, NOW, hours, make_rate, sell
from clusters.models import GPU, GPUStatePeriod
from gpufleet.common.errors import InvalidInput, NotFound
from jobs.models import Allocation
from tenants.models import Tenant
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db


def make_rule(**fields: Any) -> ServiceLevel:
    """Unhealthy or offline for longer than a minute gives all of the fault's seconds back, to everybody."""
    defaults: dict[str, Any] = {
        "name": "uptime", "states": ["unhealthy", "offline"], "longer_than_seconds": 60, "credit_percent": 100,
        "created_by": "test", "now": LONG_AGO,
    }  # fmt: skip
    return add_service_level(**{**defaults, **fields})


def fail(gpu: GPU, start: datetime, end: datetime | None, state: str = "unhealthy", reason: str = "") -> GPUStatePeriod:
    """The GPU was in a state; what else its ledger said is not looked at here."""
    GPUStatePeriod.objects.filter(gpu=gpu, state="available").delete()
    return GPUStatePeriod.objects.create(gpu=gpu, state=state, reason=reason, during=DateTimeTZRange(start, end))


def finalise(tenant: Tenant, end: datetime = NOW) -> Invoice:
    draft = services.create_invoice(tenant_id=tenant.pk, start=hours(200), end=end, created_by="test", now=NOW)
    return services.move_invoice(invoice_id=draft.pk, to="open", actor="test", now=NOW)


def run(now: datetime = NOW) -> int:
    return raise_service_level_credits(now=now)


def notes() -> list[tuple[str, Decimal]]:
    return list(CreditNote.objects.order_by("pk").values_list("status", "amount"))


@pytest.fixture
def rate() -> Rate:
    """A cent a second."""
    return make_rate(price="36.00")


@pytest.fixture
def acme() -> Tenant:
    return alice()


@pytest.fixture
def sold(acme: Tenant, rate: Rate) -> Allocation:
    """A GPU held from 09:00 to 11:00."""
    return sell(acme, hours(3), hours(1), rate=rate)


def test_a_fault_becomes_a_draft_note_with_its_evidence(acme: Tenant, sold: Allocation) -> None:
    rule = make_rule(credit_percent=50)
    period = fail(sold.gpu, hours(2), hours(1.5), reason="XID 79: fallen off the bus.")
    invoice = finalise(acme)
    assert run() == 1
    note = CreditNote.objects.get()
    assert (note.invoice, note.status, note.kind, note.amount) == (invoice, "draft", "credit", Decimal("9.00"))
    assert (note.origin, note.service_level, note.fault_id) == ("service_level", rule, period.pk)
    assert "XID 79" in note.reason
    (piece,) = note.evidence["pieces"]
    assert piece == {
        "allocation_id": sold.pk, "job_id": sold.job_id, "gpu_id": sold.gpu_id, "gpu_model": "H100",
        "from": hours(2).isoformat(), "to": hours(1.5).isoformat(), "billed_seconds": 1800,
        "rate_id": sold.rate_id, "price_per_gpu_hour": "36.000000",
    }  # fmt: skip
    assert note.evidence["fault"]["period_id"] == period.pk
    assert note.evidence["rule"]["credit_percent"] == note.evidence["percent"] == 50
    (line,) = note.evidence["lines"]
    assert (line["billed_seconds"], line["amount"]) == (1800, "9.00")


def test_it_is_raised_once_whatever_becomes_of_it(acme: Tenant, sold: Allocation) -> None:
    make_rule()
    fail(sold.gpu, hours(2), hours(1.5))
    finalise(acme)
    assert [run(), run()] == [1, 0]
    note = CreditNote.objects.get()
    decline_credit_note(credit_note_id=note.pk, actor="fred", now=NOW, reason="the tenant's own fault")
    make_rule(name="another", credit_percent=10)
    assert run() == 0
    assert notes() == [("declined", Decimal("18.00"))]


def test_an_invoice_that_is_finalised_after_the_fault_and_each_one_of_a_long_allocation(
    acme: Tenant, rate: Rate
) -> None:
    make_rule()
    held = sell(acme, hours(30), rate=rate)
    fail(held.gpu, hours(26), None)
    assert run() == 0
    finalise(acme, end=hours(25))
    assert run() == 1
    finalise(acme, end=hours(24))
    assert [run(), run()] == [1, 0]
    assert notes() == [("draft", Decimal("36.00")), ("draft", Decimal("36.00"))]


def test_one_run_raises_what_is_due_on_every_invoice(acme: Tenant, rate: Rate) -> None:
    make_rule()
    for tenant in (acme, bob()):
        held = sell(tenant, hours(3), hours(1), rate=rate)
        fail(held.gpu, hours(2), hours(1.5))
        finalise(tenant)
    assert [run(), run()] == [2, 0]
    assert {note.invoice.tenant.name for note in CreditNote.objects.all()} == {"acme", "bluefin"}


def test_a_fault_counts_when_it_lasted_longer_than_the_rule_says(acme: Tenant, sold: Allocation) -> None:
    make_rule(longer_than_seconds=1800)
    fail(sold.gpu, hours(2), hours(1.5))
    finalise(acme)
    assert run() == 0
    make_rule(longer_than_seconds=1799)
    assert run() == 1


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, 1),
        ({"states": ["offline"]}, 0),
        ({"states": ["maintenance", "unhealthy"]}, 1),
        ({"reason_starts_with": "XID"}, 1),
        ({"reason_starts_with": "ID"}, 0),
        ({"plan_tier": "starter"}, 1),
        ({"plan_tier": "pro"}, 0),
        ({"enabled": False}, 0),
        ({"credit_percent": 0}, 0),
        ({"effective_from": hours(2)}, 1),
        ({"effective_from": hours(2) + timedelta(microseconds=1)}, 0),
    ],
)
def test_which_faults_and_tenants_a_rule_is_about(
    acme: Tenant, sold: Allocation, fields: dict[str, Any], count: int
) -> None:
    make_rule(**fields)
    make_rule(tenant_id=bob().pk)
    fail(sold.gpu, hours(2), hours(1.5), reason="XID 79: gone.")
    finalise(acme)
    assert run() == count


@pytest.mark.parametrize(("basis", "seconds"), [("overlap", [1800]), ("allocation", [7200]), ("day", [7200])])
def test_the_basis_says_which_seconds(acme: Tenant, sold: Allocation, basis: str, seconds: list[int]) -> None:
    make_rule(basis=basis)
    fail(sold.gpu, hours(2), hours(1.5))
    finalise(acme)
    run()
    assert [piece["billed_seconds"] for piece in CreditNote.objects.get().evidence["pieces"]] == seconds


def test_a_day_is_a_utc_day_of_billed_time(acme: Tenant, rate: Rate) -> None:
    """Held from noon to noon; the fault touches the last second before midnight."""
    make_rule(basis="day")
    held = sell(acme, hours(24), hours(0), rate=rate)
    fail(held.gpu, hours(13), hours(12))
    finalise(acme)
    run()
    assert [piece["billed_seconds"] for piece in CreditNote.objects.get().evidence["pieces"]] == [12 * 3600]


def test_no_second_is_given_back_by_two_rules_and_the_tenants_own_comes_first(acme: Tenant, sold: Allocation) -> None:
    make_rule(basis="allocation", name="everybody's")
    make_rule(credit_percent=10, tenant_id=acme.pk, name="acme's")
    make_rule(credit_percent=50, plan_tier="starter", name="the plan's")
    fail(sold.gpu, hours(2), hours(1.5))
    finalise(acme)
    assert run() == 2
    shown = [(note.service_level.name, note.amount) for note in CreditNote.objects.order_by("pk") if note.service_level]
    assert shown == [("acme's", Decimal("1.80")), ("everybody's", Decimal("54.00"))]


def test_seconds_that_a_window_gave_back_are_left_out(acme: Tenant, sold: Allocation) -> None:
    make_rule()
    fail(sold.gpu, hours(2), hours(1))
    invoice = finalise(acme)
    credit_window(invoice_id=invoice.pk, start=hours(2), end=hours(1.25), reason="r", created_by="test", now=NOW)
    run()
    assert notes()[1:] == [("draft", Decimal("9.00"))]


def test_never_more_than_is_left_of_the_invoice(acme: Tenant, sold: Allocation) -> None:
    make_rule()
    fail(sold.gpu, hours(3), hours(1))
    invoice = finalise(acme)
    goodwill = services.draft_credit_note(
        invoice_id=invoice.pk, amount=Decimal("70.00"), reason="goodwill", created_by="test", now=NOW
    )
    issue_credit_note(credit_note_id=goodwill.pk, actor="test", now=NOW)
    run()
    note = CreditNote.objects.get(status="draft")
    assert note.amount == 2
    assert (note.evidence["worth"], note.evidence["left_to_credit"]) == ("72.00", "2.000")
    issue_credit_note(credit_note_id=note.pk, actor="test", now=NOW)
    assert queries.describe_invoices([invoice])[0].balance == 0


def test_a_draft_note_shrinks_when_another_note_leaves_less(acme: Tenant, sold: Allocation) -> None:
    make_rule()
    fail(sold.gpu, hours(3), hours(2))
    invoice = finalise(acme)
    run()
    goodwill = services.draft_credit_note(
        invoice_id=invoice.pk, amount=Decimal("60.00"), reason="goodwill", created_by="test", now=NOW
    )
    issue_credit_note(credit_note_id=goodwill.pk, actor="test", now=NOW)
    assert notes() == [("withdrawn", Decimal(36)), ("issued", Decimal(60)), ("draft", Decimal(12))]
    assert run() == 0


def test_a_late_rate_reprices_the_draft_and_both_together_pay_once(acme: Tenant, sold: Allocation) -> None:
    make_rule()
    fail(sold.gpu, hours(2), hours(1))
    invoice = finalise(acme)
    run()
    make_rate(price="18.00", valid_from=LONG_AGO + timedelta(days=1), now=NOW)
    drafts = CreditNote.objects.filter(status="draft").order_by("pk")
    assert [(note.origin, note.amount) for note in drafts] == [("service_level", Decimal(18)), ("rate", Decimal(36))]
    for note in drafts:
        issue_credit_note(credit_note_id=note.pk, actor="test", now=NOW)
    assert queries.describe_invoices([invoice])[0].balance == 18
    assert run() == 0


def test_declining_the_late_rate_reprices_the_draft_again(acme: Tenant, sold: Allocation) -> None:
    make_rule()
    fail(sold.gpu, hours(2), hours(1))
    finalise(acme)
    make_rate(price="18.00", valid_from=LONG_AGO + timedelta(days=1), now=NOW)
    run()
    correction = CreditNote.objects.get(origin="rate")
    decline_credit_note(credit_note_id=correction.pk, actor="test", now=NOW, reason="agreed")
    assert notes() == [("declined", Decimal(36)), ("withdrawn", Decimal(18)), ("draft", Decimal(36))]


def test_a_void_invoice_raises_nothing_and_the_next_one_does(acme: Tenant, sold: Allocation) -> None:
    make_rule()
    fail(sold.gpu, hours(2), hours(1.5))
    services.move_invoice(invoice_id=finalise(acme).pk, to="void", actor="test", now=NOW)
    assert run() == 0
    finalise(acme)
    assert run() == 1


def test_an_invoice_of_long_ago_is_left_to_people(acme: Tenant, sold: Allocation) -> None:
    make_rule()
    fail(sold.gpu, hours(2), hours(1.5))
    finalise(acme)
    assert run(NOW + timedelta(days=101)) == 0


def test_a_rule_is_switched_off_and_on(acme: Tenant, sold: Allocation) -> None:
    rule = make_rule()
    fail(sold.gpu, hours(2), hours(1.5))
    finalise(acme)
    switch_service_level(service_level_id=rule.pk, enabled=False, actor="test")
    assert run() == 0
    switch_service_level(service_level_id=rule.pk, enabled=True, actor="test")
    assert run() == 1
    with pytest.raises(NotFound):
        switch_service_level(service_level_id=10**9, enabled=True, actor="test")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"name": " "}, "#/name"),
        ({"states": []}, "#/states"),
        ({"states": ["available"]}, "#/states"),
        ({"longer_than_seconds": -1}, "#/longer_than_seconds"),
        ({"credit_percent": 101}, "#/credit_percent"),
        ({"credit_percent": -1}, "#/credit_percent"),
        ({"basis": "week"}, "#/basis"),
        ({"plan_tier": "gold"}, "#/plan_tier"),
        ({"tenant_id": 10**9}, "#/tenant_id"),
    ],
)
def test_a_wrong_rule_is_refused(fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        make_rule(**fields)
    assert [problem.pointer for problem in refused.value.problems] == [pointer]
    assert not ServiceLevel.objects.exists()
