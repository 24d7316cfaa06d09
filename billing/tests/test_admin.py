"""Invoices and credit notes in the console, as finance and as viewers see them."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from billing import services
from billing.drafts_admin import last_month
from billing.models import CreditNote, Invoice, InvoiceEvent, OutboxMessage
from billing.tests.factories import make_rate, sell
from billing.tests.fake_stripe import FakeStripe
from billing.tests.test_sending import draft as stripe_draft
from billing.tests.test_sending import move as stripe_move
from clusters.tests.factories import make_gpu
from gpufleet.common.tests.factories import staff
from jobs.models import Allocation
from tenants.models import Tenant
from tenants.tests.factories import alice, bob, make_tenant

pytestmark = pytest.mark.django_db
INVOICES = "/admin/billing/invoice/"
NOTES = "/admin/billing/creditnote/"
OUTBOX = "/admin/billing/outboxmessage/"


@pytest.fixture
def finance() -> Client:
    models = ("invoice", "invoiceline", "invoiceevent", "creditnote")
    return staff(*(f"{verb}_{model}" for verb in ("view", "add", "change") for model in models), name="fred")


def sold(tenant: Tenant) -> Tenant:
    end = timezone.now() - timedelta(hours=1)
    sell(tenant, end - timedelta(hours=2), end, rate=make_rate())
    return tenant


def preview(client: Client, *tenants: Tenant, **fields: Any) -> str:
    form = {"tenants": [tenant.pk for tenant in tenants], "window": "days", "days": 30, **fields}
    answer = client.post(f"{INVOICES}add/", form)
    assert answer.status_code == 200
    return answer.content.decode()


def agree(client: Client, page: str) -> str:
    """What the preview's button brings; a page without one is the answer itself."""
    inputs = [dict(re.findall(r'(\w+)="([^"]*)"', tag)) for tag in re.findall(r"<input[^>]*>", page)]
    agreed = ("start", "end", "totals", "token")
    form = {tag["name"]: unescape(tag["value"]) for tag in inputs if tag.get("name") in agreed}
    return client.post(f"{INVOICES}add/", {**form, "agreed": "yes"}, follow=True).content.decode() if form else page


def draft(client: Client, *tenants: Tenant, **fields: Any) -> str:
    return agree(client, preview(client, *tenants, **fields))


def move(client: Client, to: str, *ids: int, reason: str = "") -> str:
    form = {"ids": ",".join(map(str, ids)), "reason": reason, "token": uuid4()}
    return client.post(f"{INVOICES}move/{to}", form, follow=True).content.decode()


def run(client: Client, url: str, action: str, *ids: int, **fields: str) -> str:
    return client.post(url, {"action": action, "_selected_action": ids, **fields}, follow=True).content.decode()


def decide(client: Client, action: str, *ids: int, reason: str = "") -> str:
    """Decide notes, on the page that asks."""
    return run(client, NOTES, action, *ids, agreed="yes", once=str(uuid4()), reason=reason)


def test_finance_sees_what_each_invoice_would_say_before_there_is_one(finance: Client) -> None:
    acme, bluefin = sold(alice()), bob()
    page = preview(finance, acme, bluefin)
    for words in ("Together: 4.00 USD.", "H100", "2.0000", "4.00 USD", "Nothing to bill", "Create the draft"):
        assert words in page
    assert not Invoice.objects.exists()
    page = agree(finance, page)
    invoice = Invoice.objects.get()
    assert (invoice.tenant, invoice.created_by, invoice.total) == (acme, "user:fred", Decimal(4))
    assert "1 of 1 tenant with a draft now." in page
    assert f"draft {invoice.pk}" in page


def test_what_was_billed_after_the_preview_is_not_billed_again_and_the_others_are(finance: Client) -> None:
    acme, bluefin = sold(alice()), sold(bob())
    stale = preview(finance, acme, bluefin)
    draft(finance, acme)
    page = agree(finance, stale)
    assert "1 of 2 tenants with a draft now." in page
    assert "no sold and priced GPU time" in page
    assert set(Invoice.objects.values_list("tenant", flat=True)) == {acme.pk, bluefin.pk}


def test_what_has_changed_since_the_preview_is_looked_at_again(finance: Client) -> None:
    acme = sold(alice())
    stale = preview(finance, acme)
    end = timezone.now() - timedelta(minutes=30)
    sell(acme, end - timedelta(minutes=15), end, rate=make_rate("L4", "4.00"))
    page = agree(finance, stale)
    assert "has changed since the preview: it comes to 5.00 USD now." in page
    assert not Invoice.objects.exists()


def test_a_job_that_runs_is_billed_as_the_preview_said_however_long_one_looks_at_it(finance: Client) -> None:
    acme = alice()
    sell(acme, timezone.now() - timedelta(hours=2), rate=make_rate(price="3600.00"))
    page = preview(finance, acme)
    with time_machine.travel(timezone.now() + timedelta(minutes=10), tick=True):
        agree(finance, page)
    invoice = Invoice.objects.get()
    assert f"{invoice.total:,.2f} USD" in page
    assert 7200 <= invoice.total < 7260


@pytest.mark.parametrize(
    "fault",
    [
        {"totals": "[]"},
        {"totals": "{}"},
        {"totals": '{"1": "NaN"}'},
        {"totals": '{"x": "1"}'},
        {"totals": '{"99999999999999999999": "1"}'},
        {"totals": "1"},
        {"start": "yesterday"},
        {"end": ""},
        {"token": "x"},
    ],
)
def test_a_consent_to_no_preview_makes_nothing(finance: Client, fault: dict[str, str]) -> None:
    acme, now = sold(alice()), timezone.now()
    form = {"start": (now - timedelta(days=3)).isoformat(), "end": now.isoformat(), "totals": f'{{"{acme.pk}": "4"}}'}
    form["token"] = str(uuid4())
    page = finance.post(f"{INVOICES}add/", {**form, "agreed": "yes", **fault})
    assert (page.status_code, "Nothing was created" in page.content.decode()) == (200, True)
    assert not Invoice.objects.exists()


def test_nothing_at_all_to_bill_is_said_and_nothing_is_made(finance: Client) -> None:
    page = preview(finance, alice())
    assert "Nothing to bill" in page
    assert 'name="agreed"' not in page
    assert "This field is required" in preview(finance)
    assert "less than or equal to 90" in preview(finance, bob(), days=91)
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


def test_a_move_is_asked_for_then_made_and_put_on_record(finance: Client) -> None:
    draft(finance, sold(alice()), sold(bob()))
    one, two = Invoice.objects.order_by("pk")
    asked = run(finance, INVOICES, "finalise", one.pk, two.pk)
    for words in ("Each gets the next number", "draft 1", "bluefin", "4.00 USD"):
        assert words in asked.replace(str(one), "draft 1")
    assert not InvoiceEvent.objects.exists()
    move(finance, "open", one.pk)
    page = move(finance, "open", one.pk, two.pk)
    assert "1 of 2 invoices now open." in page
    assert "is open; it can" in page
    assert list(Invoice.objects.order_by("number").values_list("number", flat=True)) == [1, 2]
    move(finance, "uncollectible", one.pk, reason="insolvent")
    move(finance, "paid", one.pk)
    page = move(finance, "void", two.pk, reason="<i>wrong</i> tenant")
    assert "&lt;i&gt;wrong&lt;/i&gt; tenant" in page
    assert list(Invoice.objects.order_by("pk").values_list("status", flat=True)) == ["paid", "void"]
    assert list(InvoiceEvent.objects.order_by("pk").values_list("invoice", "from_status", "to_status", "reason")) == [
        (one.pk, "draft", "open", ""),
        (two.pk, "draft", "open", ""),
        (one.pk, "open", "uncollectible", "insolvent"),
        (one.pk, "uncollectible", "paid", ""),
        (two.pk, "open", "void", "<i>wrong</i> tenant"),
    ]
    assert set(InvoiceEvent.objects.values_list("actor", flat=True)) == {"user:fred"}


@pytest.mark.parametrize("to", ["void", "uncollectible"])
def test_who_gives_money_up_says_why(finance: Client, to: str) -> None:
    draft(finance, sold(alice()))
    invoice = Invoice.objects.get()
    move(finance, "open", invoice.pk)
    assert "This field is required" in move(finance, to, invoice.pk)
    invoice.refresh_from_db()
    assert invoice.status == "open"


@pytest.mark.parametrize("ids", ["", "x", "1,", "99999999999999999999", "9999999999999999999"])
def test_a_move_of_nothing_is_no_page(finance: Client, ids: str) -> None:
    assert finance.get(f"{INVOICES}move/open", {"ids": ids}).status_code == 404
    assert finance.post(f"{INVOICES}move/open", {"ids": ids}).status_code == 404
    assert finance.get(f"{INVOICES}move/draft", {"ids": "1"}).status_code == 404


def test_an_invoice_offers_its_legal_moves_to_whoever_may_make_them(finance: Client) -> None:
    draft(finance, sold(alice()))
    invoice = Invoice.objects.get()
    page = finance.get(f"{INVOICES}{invoice.pk}/change/").content.decode()
    assert re.findall(r'name="action" value="(\w+)"', page) == ["finalise", "void"]
    assert "moves" not in page.lower(), "no bare headers of what there is not"
    asked = finance.get(f"{INVOICES}move/open", {"ids": invoice.pk}).content.decode()
    assert "acme" in asked
    viewer = staff("view_invoice", name="victor")
    assert 'name="action"' not in viewer.get(f"{INVOICES}{invoice.pk}/change/").content.decode()
    for call in (viewer.get, viewer.post):
        assert call(f"{INVOICES}move/void", {"ids": str(invoice.pk), "reason": "x"}).status_code == 403


def test_the_list_says_what_all_of_it_comes_to(finance: Client) -> None:
    yen = make_tenant("yen", currency="JPY")
    end = timezone.now() - timedelta(hours=1)
    sell(yen, end - timedelta(hours=2), end, rate=make_rate("L4", "617.40", currency="JPY"))
    draft(finance, sold(alice()), sold(bob()), yen)
    _, paid, void = Invoice.objects.order_by("pk")
    move(finance, "open", paid.pk, void.pk)
    note = services.draft_credit_note(
        invoice_id=paid.pk, amount=Decimal("0.50"), reason="slow", created_by="test", now=timezone.now()
    )
    services.issue_credit_note(credit_note_id=note.pk, actor="test", now=timezone.now())

    def sums(query: str = "") -> list[str]:
        table = finance.get(f"{INVOICES}?{query}").content.decode().split("Sums of all that is listed")[1]
        cells = re.findall(r'<div class="align-middle">|<td[^>]*>(.*?)</td>', table.split("</table>")[0], re.DOTALL)
        return [cell.strip() for cell in cells if cell.strip()]

    assert sums() == ["JPY", "1", "1,235", "0", "0", "USD", "2", "0.00", "8.00", "7.50"]
    assert sums("status__exact=draft") == ["JPY", "1", "1,235", "0", "0"]
    move(finance, "void", void.pk, reason="twice")
    move(finance, "paid", paid.pk)
    assert sums("currency=USD") == ["USD", "2", "0.00", "4.00", "0.00"]
    for query in ("GF-1", "1", "acme", Invoice.objects.get(pk=paid.pk).proof_sha256):
        assert sums(f"q={query}") == ["USD", "1", "0.00", "4.00", "0.00"]


def test_overdue_invoices_are_a_filter(finance: Client) -> None:
    draft(finance, sold(alice()), sold(bob()))
    one, two = Invoice.objects.order_by("pk")
    move(finance, "open", one.pk)
    row, other = (f'href="{INVOICES}{invoice.pk}/change/' for invoice in (one, two))
    assert row not in finance.get(f"{INVOICES}?overdue=yes").content.decode()
    with time_machine.travel(timezone.now() + timedelta(days=31)):
        page = staff("view_invoice", name="late").get(f"{INVOICES}?overdue=yes").content.decode()
    assert (row in page, other in page) == (True, False)


def test_an_invoice_is_looked_at_with_its_lines_and_never_edited(finance: Client) -> None:
    draft(finance, sold(alice()))
    page = f"{INVOICES}{Invoice.objects.get().pk}"
    answer = finance.get(f"{page}/change/")
    assert (answer.status_code, "H100" in answer.content.decode()) == (200, True)
    assert finance.post(f"{page}/change/", {"total": 0}).status_code == 403
    assert finance.post(f"{page}/delete/", {"post": "yes"}).status_code == 403


def test_an_invoices_page_costs_as_many_queries_with_many_lines(
    finance: Client, django_assert_max_num_queries: Any
) -> None:
    acme, end = sold(alice()), timezone.now() - timedelta(hours=1)
    for number in range(12):
        sell(acme, end - timedelta(hours=1), end, rate=make_rate(f"model {number}"))
    draft(finance, acme)
    invoice = Invoice.objects.get()
    move(finance, "open", invoice.pk)
    for number in range(12):
        services.draft_credit_note(
            invoice_id=invoice.pk, amount=Decimal(1), reason=f"r{number}", created_by="test", now=timezone.now()
        )
    with django_assert_max_num_queries(14):
        page = finance.get(f"{INVOICES}{invoice.pk}/change/").content.decode()
    assert "model 11" in page
    assert "r11" in page


def test_credit_notes_are_proposed_issued_and_declined(finance: Client) -> None:
    draft(finance, sold(alice()))
    invoice = Invoice.objects.get()
    form = {"invoice": invoice.pk, "amount": "3.00", "reason": "node failed"}
    assert "Select a valid choice" in finance.post(f"{NOTES}add/", form, follow=True).content.decode()
    move(finance, "open", invoice.pk)
    assert "The amount is above 0." in finance.post(f"{NOTES}add/", {**form, "amount": "-3"}).content.decode()
    refused = finance.post(f"{NOTES}add/", {**form, "amount": "9.00"}).content.decode()
    assert "above 0, at most the invoice&#x27;s total." in refused
    assert 'value="9.00"' in refused
    assert "node failed" in refused, "what was typed stays"
    for _ in range(2):
        finance.post(f"{NOTES}add/", form)
    first, second = CreditNote.objects.order_by("pk")
    assert "2 notes of 6.00 USD." in run(finance, NOTES, "issue", first.pk, second.pk)
    assert "Of this invoice 1.00 USD is left to credit." in decide(finance, "issue", first.pk, second.pk)
    assert "This field is required" in decide(finance, "decline", second.pk)
    decide(finance, "decline", second.pk, reason="paid once already")
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
    move(viewer, "void", invoice.pk, reason="x")
    invoice.refresh_from_db()
    assert invoice.status == "draft"


def test_finance_sees_why_an_invoice_was_not_sent_and_sends_it_later(finance: Client, settings: Settings) -> None:
    draft(finance, sold(alice(contact_email="pay@acme.example")))
    invoice = Invoice.objects.get()
    move(finance, "open", invoice.pk)
    assert "Not sent. Stripe is not set up" in finance.get(f"{INVOICES}{invoice.pk}/change/").content.decode()
    assert "Stripe makes each an invoice" in run(finance, INVOICES, "send", invoice.pk)
    assert "Stripe is not set up" in move(finance, "send", invoice.pk)
    settings.STRIPE_API_KEY = "sk_test_x"
    assert "1 of 1 invoice on the way to Stripe." in move(finance, "send", invoice.pk)
    assert "On its way; next: “Create the customer”" in finance.get(f"{INVOICES}{invoice.pk}/change/").content.decode()


def test_finance_tries_a_dead_letter_again_and_a_viewer_may_not(stripe: FakeStripe) -> None:
    boss = staff("view_outboxmessage", "change_outboxmessage", "view_invoice", "change_invoice", name="fiona")
    invoice = stripe_move(stripe_draft(), "open")
    message = OutboxMessage.objects.filter(invoice=invoice).order_by("pk")[0]
    assert "Nothing was changed" in run(boss, OUTBOX, "retry", message.pk, agreed="yes")
    invoice.stripe_invoice_id = "in_1"
    invoice.save()
    page = f"{INVOICES}{invoice.pk}/change/"
    assert 'value="send"' not in boss.get(page).content.decode()
    OutboxMessage.objects.filter(pk=message.pk).update(status="dead", attempts=7, last_error="No such luck")
    assert 'value="send"' in boss.get(page).content.decode(), "what is stuck can be sent again"
    assert (
        "Failed at “Create the customer”: No such luck" in boss.get(f"{INVOICES}{invoice.pk}/change/").content.decode()
    )
    run(staff("view_outboxmessage", name="victor"), OUTBOX, "retry", message.pk, agreed="yes")
    message.refresh_from_db()
    assert message.status == "dead"
    assert "1 step will be tried again" in run(boss, OUTBOX, "retry", message.pk, agreed="yes")
    message.refresh_from_db()
    assert (message.status, message.attempts) == ("pending", 0)


def test_tenants_that_are_selected_in_their_list_are_billed_together(finance: Client) -> None:
    acme, bluefin = sold(alice()), sold(bob())
    both = staff("view_tenant", "view_invoice", "add_invoice", name="fay")
    form = {"action": "create_invoices", "_selected_action": [acme.pk, bluefin.pk]}
    page = both.post("/admin/tenants/tenant/", form).content.decode()
    assert "Invoices for acme, bluefin." in page
    assert f'<input type="hidden" name="tenants" value="{acme.pk},{bluefin.pk}"' in page
    assert 'name="chosen"' in page
    answer = {"tenants": f"{acme.pk},{bluefin.pk}", "window": "days", "days": 91, "chosen": "yes"}
    again = both.post(f"{INVOICES}add/", answer).content.decode()
    assert f'name="tenants" value="{acme.pk},{bluefin.pk}"' in again
    agree(both, both.post(f"{INVOICES}add/", {**answer, "days": 90}).content.decode())
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
    assert "Not finalised." in finance.get(f"{page}/proof").content.decode()
    move(finance, "open", invoice.pk)
    assert "Verified</span> the ledger says now" in finance.get(f"{page}/proof").content.decode()
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
    move(finance, "open", invoice.pk)
    Allocation.objects.update(gpu=make_gpu(model="H100"))
    assert "MISMATCH</span> finalised with" in finance.get(f"{INVOICES}{invoice.pk}/proof").content.decode()
