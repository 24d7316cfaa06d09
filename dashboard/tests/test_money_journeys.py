"""Work in bulk in a browser: keys alone, and a server that goes away in the middle. See ``browsing``."""

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Browser, Route, expect

from apikeys.tests.factories import client_with, make_admin_key
from billing.models import Invoice, OutboxMessage
from billing.services import create_invoices, move_invoice
from billing.tests.factories import make_rate, sell
from dashboard.tests.browsing import MARKS, PASSPHRASE, visit
from gpufleet.common import bulk
from gpufleet.common.models import AuditEntry
from tenants.tests.factories import make_tenant

pytestmark = MARKS


@pytest.fixture
def drafts() -> list[Invoice]:
    User.objects.create_superuser("charlie", password=PASSPHRASE)
    now, rate = timezone.now(), make_rate()
    tenants = [make_tenant(f"lab-{number}") for number in range(7)]
    for tenant in tenants:
        sell(tenant, now - timedelta(hours=3), now - timedelta(hours=1), rate=rate)
    totals: dict[int, Decimal | None] = {tenant.pk: None for tenant in tenants}
    return create_invoices(
        expected_totals=totals, start=now - timedelta(days=1), end=now, created_by="test", now=now
    ).invoices


def test_finance_finalises_many_and_a_server_that_is_away_only_delays_it(
    browser: Browser, live_server: Any, drafts: list[Invoice], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "AT_ONCE", 2)
    console = visit(browser, live_server, width=390, scheme="dark")
    console.log_in()
    away = True

    def answer(route: Route) -> None:
        route.abort() if away else route.continue_()

    console.page.route("**/go/", answer)
    console.go(f"/admin/billing/invoice/move/open?ids={','.join(str(one.pk) for one in drafts)}")
    console.page.get_by_role("textbox", name="Reason").fill("the month")
    console.page.keyboard.press("Enter")
    status = console.page.get_by_role("status")
    expect(status).to_have_text("2 of 7 invoices now open. 5 left.")
    expect(console.page.get_by_text("The server did not answer.")).to_be_visible()
    console.assert_usable()
    away = False
    console.page.get_by_role("button", name="Go on").focus()
    console.page.keyboard.press("Enter")
    expect(status).to_have_text("7 of 7 invoices now open.")
    assert console.page.get_by_role("button", name="Go on").count() == 0
    console.assert_usable()
    assert Invoice.objects.filter(status="open").count() == 7
    assert AuditEntry.objects.filter(action="finalise", actor="user:charlie", reason="the month").count() == 7
    lost = ("ERR_FAILED", "htmx:sendError", "htmx:afterRequest")
    assert [one for one in console.complaints if not one.endswith(lost) and "ERR_FAILED" not in one] == []
    assert console.external == []


def test_finance_credits_an_invoice_and_less_is_due(browser: Browser, live_server: Any, drafts: list[Invoice]) -> None:
    """From the invoice to the note, from the draft to the issued one; the API says what is still due."""
    invoice = move_invoice(invoice_id=drafts[0].pk, to="open", actor="test", now=timezone.now())
    console = visit(browser, live_server)
    console.log_in()
    console.go(f"/admin/billing/invoice/{invoice.pk}/change/")
    console.press("Credit: draft a note")
    console.page.get_by_label("Amount").fill("1.50")
    console.page.get_by_label("Reason").fill("a node was slow")
    console.press("Save and view")
    console.press("Issue")
    console.page.get_by_role("textbox", name="Reason").fill("agreed")
    console.press("Issue")
    expect(console.page.get_by_text("1 of 1 credit note now issued.")).to_be_visible()
    shown = client_with(make_admin_key()).get(f"/api/billing/invoices/{invoice.pk}").json()
    assert (shown["total"], shown["amount_due"]) == ("4.00", "2.50")
    console.assert_clean()


def test_a_button_that_is_pressed_twice_does_it_once(browser: Browser, live_server: Any, drafts: list[Invoice]) -> None:
    """Until whoever went on comes back to the page."""
    console = visit(browser, live_server)
    console.log_in()
    console.go("/admin/billing/creditnote/add/")
    press = """form => form.dispatchEvent(new SubmitEvent("submit", {bubbles: true, cancelable: true}))"""
    form = console.page.locator("#creditnote_form")
    assert [form.evaluate(press) for _ in range(3)] == [True, False, False]
    console.page.evaluate("""dispatchEvent(new PageTransitionEvent("pageshow"))""")
    assert form.evaluate(press) is True


def test_finance_tries_a_failed_sync_again(browser: Browser, live_server: Any, drafts: list[Invoice]) -> None:
    now = timezone.now()
    invoice = move_invoice(invoice_id=drafts[0].pk, to="open", actor="test", now=now)
    due: dict[str, Any] = {"key_made_at": now, "next_attempt_at": now, "created_at": now}
    dead = OutboxMessage.objects.create(
        invoice=invoice, step="create", status="dead", last_error="No such customer", reference=uuid4(), **due
    )
    console = visit(browser, live_server)
    console.log_in()
    console.go("/admin/leakage/")
    failed = console.page.get_by_role("region", name="Failed syncs with Stripe")
    expect(failed).to_contain_text("No such customer")
    console.press("Try them again")
    expect(console.page.get_by_text("1 dead step is sent to Stripe again")).to_be_visible()
    console.press("Try again")
    expect(console.page.get_by_text("1 step will be tried again.")).to_be_visible()
    dead.refresh_from_db()
    assert dead.status == "pending"
    shown = client_with(make_admin_key()).get("/api/dashboard/leakage?days=30").json()
    assert not [row for cause in shown["causes"] if cause["cause"] == "failed_sync" for row in cause["rows"]]
    console.assert_clean()
