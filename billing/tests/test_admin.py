"""Invoices and credit notes in the console, as finance and as viewers see them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from billing.admin import last_month
from billing.models import CreditNote, Invoice, OutboxMessage
from billing.tests.factories import make_rate, sell
from billing.tests.fake_stripe import FakeStripe
from billing.tests.test_sending import draft as stripe_draft
from billing.tests.test_sending import move
from clusters.tests.factories import make_gpu
from gpufleet.common.tests.factories import staff
from jobs.models import Allocation
from tenants.models import Tenant
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db
INVOICES = "/admin/billing/invoice/"
NOTES = "/admin/billing/creditnote/"
OUTBOX = "/admin/billing/outboxmessage/"


@pytest.fixture
def finance() -> Client:
    models = ("invoice", "invoiceline", "creditnote")
    return staff(*(f"{verb}_{model}" for verb in ("view", "add", "change") for model in models), name="fred")


def sold(tenant: Tenant) -> Tenant:
    end = timezone.now() - timedelta(hours=1)
    sell(tenant, end - timedelta(hours=2), end, rate=make_rate())
    return tenant


def draft(client: Client, *tenants: Tenant, **fields: Any) -> str:
    form = {"tenants": [tenant.pk for tenant in tenants], "window": "days", "days": 30, **fields}
    answer = client.post(f"{INVOICES}add/", form, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def run(client: Client, url: str, action: str, *ids: int, **fields: str) -> str:
    return client.post(url, {"action": action, "_selected_action": ids, **fields}, follow=True).content.decode()


def test_finance_drafts_for_many_tenants_at_once_and_hears_who_has_nothing(finance: Client) -> None:
    acme, bluefin = sold(alice()), bob()
    page = draft(finance, acme, bluefin)
    assert "1 drafts were made" in page
    assert "no sold and priced GPU time" in page
    invoice = Invoice.objects.get()
    assert (invoice.tenant, invoice.created_by) == (acme, "user:fred")


def test_nothing_at_all_to_bill_is_said_and_nothing_is_made(finance: Client) -> None:
    assert "no sold and priced GPU time" in draft(finance, alice())
    assert draft(finance)  # No tenant chosen: the form again.
    assert not Invoice.objects.exists()


def test_last_month_is_the_whole_month_before_in_utc() -> None:
    march = datetime(2024, 3, 31, 23, 59, tzinfo=UTC)
    assert last_month(march) == (datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC))
    assert last_month(datetime(2026, 1, 1, tzinfo=UTC))[0] == datetime(2025, 12, 1, tzinfo=UTC)


def test_last_month_can_be_billed(finance: Client) -> None:
    acme = alice()
    start, end = last_month(timezone.now())
    sell(acme, end - timedelta(hours=1), end + timedelta(hours=1), rate=make_rate())
    draft(finance, acme, window="month")
    invoice = Invoice.objects.get()
    assert (invoice.period.lower, invoice.period.upper) == (start, end)
    assert invoice.total == 2


def test_actions_move_invoices_and_say_what_they_refuse(finance: Client) -> None:
    draft(finance, sold(alice()), sold(bob()))
    one, two = Invoice.objects.order_by("pk")
    run(finance, INVOICES, "finalise", one.pk)
    assert "is open; it can" in run(finance, INVOICES, "finalise", one.pk, two.pk)
    assert list(Invoice.objects.order_by("number").values_list("number", flat=True)) == [1, 2]
    run(finance, INVOICES, "mark_uncollectible", one.pk)
    run(finance, INVOICES, "mark_paid", one.pk)
    run(finance, INVOICES, "void", two.pk)
    assert list(Invoice.objects.order_by("pk").values_list("status", flat=True)) == ["paid", "void"]


def test_an_invoice_is_looked_at_with_its_lines_and_never_edited(finance: Client) -> None:
    draft(finance, sold(alice()))
    page = f"{INVOICES}{Invoice.objects.get().pk}"
    answer = finance.get(f"{page}/change/")
    assert (answer.status_code, "H100" in answer.content.decode()) == (200, True)
    assert finance.post(f"{page}/change/", {"total": 0}).status_code == 403
    assert finance.post(f"{page}/delete/", {"post": "yes"}).status_code == 403


def test_credit_notes_are_proposed_issued_and_declined(finance: Client) -> None:
    draft(finance, sold(alice()))
    invoice = Invoice.objects.get()
    form = {"invoice": invoice.pk, "amount": "3.00", "reason": "node failed"}
    assert "only a finalised one" in finance.post(f"{NOTES}add/", form, follow=True).content.decode()
    run(finance, INVOICES, "finalise", invoice.pk)
    for _ in range(2):
        finance.post(f"{NOTES}add/", form)
    first, second = CreditNote.objects.order_by("pk")
    assert "is left to credit" in run(finance, NOTES, "issue", first.pk, second.pk)
    assert "declined for a reason" in run(finance, NOTES, "decline", second.pk)
    run(finance, NOTES, "decline", second.pk, reason="paid once already")
    assert CreditNote.objects.get(pk=second.pk).decision_reason == "paid once already"
    assert list(CreditNote.objects.order_by("pk").values_list("status", "decided_by")) == [
        ("issued", "user:fred"),
        ("declined", "user:fred"),
    ]
    assert finance.get(f"{NOTES}{first.pk}/change/").status_code == 200


def test_a_viewer_moves_nothing() -> None:
    viewer = staff("view_invoice", "view_creditnote", name="fred")
    assert viewer.get(f"{INVOICES}add/").status_code == 403
    assert viewer.get(f"{NOTES}add/").status_code == 403
    acme = sold(alice())
    invoice = Invoice.objects.create(
        tenant=acme, currency="USD", period=(None, None), created_at=timezone.now(), created_by="test"
    )
    run(viewer, INVOICES, "void", invoice.pk)
    invoice.refresh_from_db()
    assert invoice.status == "draft"


def test_finance_sees_why_an_invoice_was_not_sent_and_sends_it_later(finance: Client, settings: Settings) -> None:
    draft(finance, sold(alice(contact_email="pay@acme.example")))
    invoice = Invoice.objects.get()
    run(finance, INVOICES, "finalise", invoice.pk)
    assert "Not sent. Stripe is not set up" in finance.get(f"{INVOICES}{invoice.pk}/change/").content.decode()
    assert "Stripe is not set up" in run(finance, INVOICES, "send", invoice.pk)
    settings.STRIPE_API_KEY = "sk_test_x"
    assert "1 invoices are on their way" in run(finance, INVOICES, "send", invoice.pk)
    assert "On its way; next: “Create the customer”" in finance.get(f"{INVOICES}{invoice.pk}/change/").content.decode()


def test_finance_tries_a_dead_letter_again_and_a_viewer_may_not(stripe: FakeStripe) -> None:
    boss = staff("view_outboxmessage", "change_outboxmessage", "view_invoice", "change_invoice", name="fiona")
    invoice = move(stripe_draft(), "open")
    message = OutboxMessage.objects.filter(invoice=invoice).order_by("pk")[0]
    assert "Nothing was changed" in run(boss, OUTBOX, "retry", message.pk)
    OutboxMessage.objects.filter(pk=message.pk).update(status="dead", attempts=7, last_error="No such luck")
    assert (
        "Failed at “Create the customer”: No such luck" in boss.get(f"{INVOICES}{invoice.pk}/change/").content.decode()
    )
    run(staff("view_outboxmessage", name="victor"), OUTBOX, "retry", message.pk)
    message.refresh_from_db()
    assert message.status == "dead"
    assert "1 steps will be tried again" in run(boss, OUTBOX, "retry", message.pk)
    message.refresh_from_db()
    assert (message.status, message.attempts) == ("pending", 0)


def test_tenants_that_are_selected_in_their_list_are_billed_together(finance: Client) -> None:
    acme, bluefin = sold(alice()), sold(bob())
    both = staff("view_tenant", "view_invoice", "add_invoice", name="fay")
    form = {"action": "create_invoices", "_selected_action": [acme.pk, bluefin.pk]}
    answer = both.post("/admin/tenants/tenant/", form)
    assert answer.status_code == 302
    page = both.get(answer["Location"]).content.decode()
    assert page.count("checked") >= 2
    draft(both, acme, bluefin)
    assert set(Invoice.objects.values_list("tenant", flat=True)) == {acme.pk, bluefin.pk}


def test_whoever_may_not_make_invoices_has_no_such_action() -> None:
    acme = sold(alice())
    viewer = staff("view_tenant", "change_tenant", name="olga")
    assert "create_invoices" not in viewer.get("/admin/tenants/tenant/").content.decode()
    answer = viewer.post("/admin/tenants/tenant/", {"action": "create_invoices", "_selected_action": [acme.pk]})
    assert "invoice/add" not in answer.headers.get("Location", "")


def test_papers_of_an_invoice_are_for_whoever_may_see_it(finance: Client) -> None:
    draft(finance, sold(alice()))
    invoice = Invoice.objects.get()
    page = f"{INVOICES}{invoice.pk}"
    assert "Not finalised." in finance.get(f"{page}/change/").content.decode()
    run(finance, INVOICES, "finalise", invoice.pk)
    assert "Verified: the ledger says now" in finance.get(f"{page}/change/").content.decode()
    assert finance.get(f"{page}/pdf").content.startswith(b"%PDF")
    assert finance.get(f"{page}/proof.csv").content.startswith(b"line_id,")
    assert finance.get(f"{page}/proof.json").json()["matches"] is True
    stranger = staff("view_tenant", name="sam")
    for paper in ("pdf", "proof.csv", "proof.json"):
        assert stranger.get(f"{page}/{paper}").status_code == 403
        assert Client().get(f"{page}/{paper}").status_code == 302
        assert finance.get(f"{INVOICES}999999/{paper}").status_code == 404


def test_a_ledger_that_says_something_else_is_shown_as_a_mismatch(finance: Client) -> None:
    draft(finance, sold(alice()))
    invoice = Invoice.objects.get()
    run(finance, INVOICES, "finalise", invoice.pk)
    Allocation.objects.update(gpu=make_gpu(model="H100"))
    assert "MISMATCH: finalised with" in finance.get(f"{INVOICES}{invoice.pk}/change/").content.decode()
