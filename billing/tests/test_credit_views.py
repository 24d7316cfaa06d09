"""Credit notes and service-level rules over HTTP and in the console."""

from decimal import Decimal
from typing import Any

import pytest
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_admin_key, make_key
from billing import services
from billing.models import CreditNote, Invoice, ServiceLevel
from billing.tests.factories import NOW, hours, make_rate, sell
from billing.tests.test_admin import decide
from billing.tests.test_service_levels import make_rule
from gpufleet.common.tests.factories import staff
from tenants.models import Tenant
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db
NOTES = "/api/billing/credit-notes"
RULES = "/api/billing/service-levels"
BODY: dict[str, Any] = {"name": "uptime", "states": ["offline"], "longer_than_seconds": 300, "credit_percent": 50}


def bill(tenant: Tenant) -> Invoice:
    sell(tenant, hours(3), hours(1), rate=make_rate())
    made = services.create_invoice(tenant_id=tenant.pk, start=hours(9), end=NOW, created_by="test", now=NOW)
    return services.move_invoice(invoice_id=made.pk, to="open", actor="test", now=NOW)


def propose(invoice: Invoice, amount: str = "1.00") -> CreditNote:
    return services.draft_credit_note(
        invoice_id=invoice.pk, amount=Decimal(amount), reason="node failed", created_by="test", now=NOW
    )


@pytest.fixture
def admin() -> APIClient:
    return client_with(make_admin_key())


def test_an_admin_issues_and_declines(admin: APIClient) -> None:
    invoice = bill(alice())
    first, second = propose(invoice), propose(invoice)
    issued = admin.patch(f"{NOTES}/{first.pk}/status", {"status": "issued"}).json()
    assert (issued["status"], issued["number"], issued["amount"], issued["currency"]) == ("issued", 1, "1.00", "USD")
    refused = admin.patch(f"{NOTES}/{second.pk}/status", {"status": "declined"})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (400, "#/reason")
    declined = admin.patch(f"{NOTES}/{second.pk}/status", {"status": "declined", "reason": "not ours"}).json()
    assert (declined["status"], declined["decision_reason"], declined["number"]) == ("declined", "not ours", None)
    again = admin.patch(f"{NOTES}/{second.pk}/status", {"status": "issued"})
    assert (again.status_code, again.json()["current"]) == (409, "declined")
    assert admin.patch(f"{NOTES}/{first.pk}/status", {"status": "draft"}).status_code == 400
    assert admin.patch(f"{NOTES}/{10**9}/status", {"status": "issued"}).status_code == 404


def test_a_tenants_key_sees_its_own_issued_notes_alone(admin: APIClient) -> None:
    acme, bluefin = alice(), bob()
    notes = [propose(bill(tenant)) for tenant in (acme, acme, bluefin)]
    for note in notes[1:]:
        services.issue_credit_note(credit_note_id=note.pk, actor="test", now=NOW)
    client = client_with(make_key(acme))
    assert [row["id"] for row in client.get(NOTES).json()] == [notes[1].pk]
    assert [client.get(f"{NOTES}/{note.pk}").status_code for note in notes] == [404, 200, 404]
    shown = [client.get(f"/api/billing/invoices/{note.invoice_id}").json() for note in notes[:2]]
    assert [len(invoice["credit_notes"]) for invoice in shown] == [0, 1]
    assert len(admin.get(NOTES).json()) == 3
    assert len(admin.get(f"/api/billing/invoices/{notes[0].invoice_id}").json()["credit_notes"]) == 1


def test_notes_are_filtered_by_their_fields(admin: APIClient) -> None:
    acme, bluefin = alice(), bob()
    one, two = propose(bill(acme)), propose(bill(bluefin))
    services.issue_credit_note(credit_note_id=two.pk, actor="test", now=NOW)

    def ids(query: str) -> list[int]:
        return [row["id"] for row in admin.get(f"{NOTES}?{query}").json()]

    assert ids(f"tenant_id={acme.pk}") == ids(f"invoice_id={one.invoice_id}") == ids("status=draft") == [one.pk]
    assert ids("kind=credit&origin=manual") == [two.pk, one.pk]
    assert ids("kind=debit") == []
    assert admin.get(f"{NOTES}?amount=1").status_code == 400


def test_a_list_of_notes_costs_the_same_however_long(admin: APIClient, django_assert_max_num_queries: Any) -> None:
    invoice = bill(alice())
    for _ in range(3):
        propose(invoice)
    with django_assert_max_num_queries(5):
        assert len(admin.get(NOTES).json()) == 3


def test_the_evidence_stands_on_the_note(admin: APIClient) -> None:
    invoice = bill(alice())
    note = services.credit_window(
        invoice_id=invoice.pk, start=hours(2), end=NOW, reason="r", created_by="test", now=NOW
    )
    shown = admin.get(f"{NOTES}/{note.pk}").json()
    assert shown["evidence"]["lines"][0]["billed_seconds"] == 3600
    assert shown["origin"] == "window"


def test_an_admin_adds_a_rule_once_and_turns_it_off(admin: APIClient) -> None:
    acme = alice()
    body = {**BODY, "tenant_id": acme.pk, "basis": "day", "effective_from": "2026-11-01T00:00:00Z"}
    answers = [admin.post(RULES, body, HTTP_IDEMPOTENCY_KEY="once") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    shown = answers[0].json()
    assert (shown["tenant_id"], shown["basis"], shown["states"]) == (acme.pk, "day", ["offline"])
    assert shown["enabled"] is True
    assert shown["effective_from"] == "2026-11-01T00:00:00.000000Z"
    assert admin.get(RULES).json() == [shown]
    off = admin.patch(f"{RULES}/{shown['id']}", {"enabled": False})
    assert (off.status_code, off.json()["enabled"]) == (200, False)
    assert admin.patch(f"{RULES}/{shown['id']}", {"credit_percent": 1}).status_code == 400
    assert admin.patch(f"{RULES}/{shown['id']}", {}).status_code == 400


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"states": []}, "#/states"),
        ({"states": ["available"]}, "#/states/0"),
        ({"credit_percent": 101}, "#/credit_percent"),
        ({"longer_than_seconds": -1}, "#/longer_than_seconds"),
        ({"basis": "week"}, "#/basis"),
        ({"tenant_id": 999}, "#/tenant_id"),
        ({"effective_from": "2026-11-01"}, "#/effective_from"),
        ({"percent": 5}, "#/percent"),
    ],
)
def test_a_wrong_rule_is_a_400_that_names_the_field(admin: APIClient, change: dict[str, Any], pointer: str) -> None:
    answer = admin.post(RULES, {**BODY, **change})
    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert not ServiceLevel.objects.exists()


def test_a_tenants_key_sees_the_rules_that_concern_it() -> None:
    acme, bluefin = alice(plan_tier="pro"), bob(plan_tier="starter")
    visible = [make_rule(), make_rule(plan_tier="pro"), make_rule(tenant_id=acme.pk)]
    make_rule(plan_tier="starter")
    make_rule(tenant_id=bluefin.pk)
    shown = client_with(make_key(acme)).get(RULES).json()
    assert [row["id"] for row in shown] == [rule.pk for rule in reversed(visible)]


def test_finance_adds_rules_in_the_console_and_switches_them() -> None:
    finance = staff("view_servicelevel", "add_servicelevel", "change_servicelevel", name="fred")
    page = "/admin/billing/servicelevel/"
    form = {
        "name": "uptime", "states": ["offline", "unhealthy"], "longer_than_seconds": 300, "credit_percent": 100,
        "basis": "overlap", "effective_from_0": "2026-11-01", "effective_from_1": "00:00:00", "enabled": "on",
    }  # fmt: skip
    answer = finance.post(f"{page}add/", form, follow=True)
    rule = ServiceLevel.objects.get()
    assert (rule.states, rule.created_by, answer.status_code) == (["offline", "unhealthy"], "user:fred", 200)
    assert finance.get(f"{page}{rule.pk}/change/").status_code == 200
    for action, enabled in (("disable", False), ("enable", True)):
        finance.post(page, {"action": action, "_selected_action": [rule.pk], "agreed": "yes"}, follow=True)
        rule.refresh_from_db()
        assert rule.enabled is enabled


def test_finance_settles_a_debit_note_in_the_console() -> None:
    finance = staff("view_creditnote", "change_creditnote", name="fred")
    invoice = bill(alice())
    make_rate(price="3.00", valid_from=hours(24), now=NOW)
    note = CreditNote.objects.get(kind="debit")
    for action in ("issue", "settle"):
        decide(finance, action, note.pk)
    note.refresh_from_db()
    assert (note.status, note.settled_at is not None, note.invoice) == ("issued", True, invoice)
