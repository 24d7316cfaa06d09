"""What finance does on the demo fleet, from the login to the effect that the API shows. See ``browsing``.

The simulation does not run, but time does: what is sold and not billed grows while a person looks at it.
"""

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, Locator, Route, expect

from billing.models import Invoice, OutboxMessage
from billing.services import create_invoices
from billing.tasks import send_outbox
from billing.tests.fake_stripe import FakeStripe
from dashboard.tests.browsing import MARKS, api, as_person
from gpufleet.common import bulk
from gpufleet.common.models import AuditEntry
from tenants.models import Tenant

pytestmark = MARKS


def amounts_in(row: Locator) -> list[Decimal]:
    """The figures of a table's row."""
    return [Decimal(re.sub(r"[^\d.]", "", text)) for text in row.get_by_role("cell").all_inner_texts() if text]


def unbilled_of(tenant: Tenant) -> Decimal:
    """What the API says that a tenant has used, and no finalised invoice says."""
    rows = {row["tenant_id"]: row for row in api("dashboard/revenue?days=30")["by_tenant"]}
    return Decimal(rows[tenant.pk]["metered"]) - Decimal(rows[tenant.pk]["billed"])


def test_finance_sees_where_the_money_went(browser: Browser, live_server: Any, demo: None) -> None:
    """From the bars to the tenants behind one of them, and to the page of the one that owes most."""
    before = {tenant: unbilled_of(tenant) for tenant in Tenant.objects.all()}
    console = as_person(browser, live_server, "finance")
    console.follow(console.page.locator("a[href='/admin/leakage/']").first)
    steps = console.page.get_by_role("region", name="From potential to collected, USD")
    (bar,) = amounts_in(steps.get_by_role("row").filter(has_text="Not billed yet"))[-1:]
    (billed,) = amounts_in(steps.get_by_role("row").filter(has_text="= Billed"))[-1:]
    assert billed == Decimal(api("dashboard/revenue?days=30")["total"]["billed"])
    with console.page.expect_download() as file:
        console.page.get_by_role("region", name="Revenue by tenant, USD").get_by_role("link", name="As CSV").click()
    paper = file.value.path().read_text()
    assert all(tenant.name in paper for tenant in before)
    console.follow(steps.get_by_role("link", name="Not billed yet"))
    rows = console.page.get_by_role("region", name="Not billed yet, USD")
    shown = {tenant: amounts_in(rows.get_by_role("row").filter(has_text=tenant.name))[-1] for tenant in before}
    for tenant, amount in shown.items():
        assert before[tenant] <= amount <= unbilled_of(tenant)
    assert abs(sum(shown.values()) - bar) <= Decimal("0.01") * len(shown)
    first = max(shown, key=lambda tenant: shown[tenant])
    console.follow(rows.get_by_role("rowheader").get_by_role("link").first)
    expect(console.page.get_by_role("heading", name="Quota: ")).to_be_visible()
    assert console.page.url.endswith(f"/admin/tenants/tenant/{first.pk}/change/")
    expect(console.page.get_by_role("button", name="Create invoices")).to_be_visible()
    console.assert_clean()


def test_finance_bills_a_tenant_and_finalises_the_draft(browser: Browser, live_server: Any, demo: None) -> None:
    tenant = Tenant.objects.filter(invoices__status="paid").order_by("pk")[0]
    known = {invoice["id"] for invoice in api("billing/invoices")}
    console = as_person(browser, live_server, "finance")
    console.go("/admin/tenants/tenant/")
    console.follow(console.page.get_by_role("link", name=tenant.name, exact=True))
    console.press("Create invoices")
    expect(console.page.get_by_text(f"Invoices for {tenant.name}.")).to_be_visible()
    console.press("Preview")
    told = console.page.get_by_text("Together: ").inner_text()
    console.press("Create the draft")
    (draft,) = [invoice for invoice in api("billing/invoices") if invoice["id"] not in known]
    assert (draft["tenant_id"], draft["status"]) == (tenant.pk, "draft")
    assert f"{Decimal(draft['total']):,.2f} USD" in told
    lines = api(f"billing/invoices/{draft['id']}/lines")
    assert sum(Decimal(line["amount"]) for line in lines) == Decimal(draft["total"])
    console.press("Finalise: number and freeze")
    console.press("Finalise")
    invoice = api(f"billing/invoices/{draft['id']}")
    assert (invoice["status"], invoice["total"]) == ("open", draft["total"])
    console.assert_clean()


def drafts_of_the_second_week() -> list[Invoice]:
    """A draft for every tenant, of what the demo has not billed; with the one that waits, as many as there are."""
    now = timezone.now()
    totals: dict[int, Decimal | None] = dict.fromkeys(Tenant.objects.values_list("pk", flat=True))
    start = now - timedelta(days=15)
    create_invoices(expected_totals=totals, start=start, end=now, created_by="user:finance", now=now)
    return list(Invoice.objects.filter(status="draft").order_by("pk"))


def test_finance_finalises_many_and_a_server_that_is_away_only_delays_it(
    browser: Browser, live_server: Any, demo: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the list, on a telephone, with the keyboard."""
    monkeypatch.setattr(bulk, "AT_ONCE", 2)
    drafts = drafts_of_the_second_week()
    assert len(drafts) == 6
    console = as_person(browser, live_server, "finance", width=390, scheme="dark")
    away = True

    def answer(route: Route) -> None:
        route.abort() if away else route.continue_()

    console.page.route("**/go/", answer)
    console.go("/admin/billing/invoice/?status__exact=draft")
    for box in console.page.locator("input[name=_selected_action]").all():
        box.check()
    console.page.select_option("select[name=action]", "finalise")
    console.press("Run")
    console.page.get_by_role("textbox", name="Reason").fill("the month")
    console.page.keyboard.press("Enter")
    status = console.page.get_by_role("status")
    expect(status).to_have_text("2 of 6 invoices now open. 4 left.")
    expect(console.page.get_by_text("The server did not answer.")).to_be_visible()
    console.assert_usable()
    away = False
    console.page.get_by_role("button", name="Go on").focus()
    console.page.keyboard.press("Enter")
    expect(status).to_have_text("6 of 6 invoices now open.")
    assert console.page.get_by_role("button", name="Go on").count() == 0
    console.assert_usable()
    assert {api(f"billing/invoices/{draft.pk}")["status"] for draft in drafts} == {"open"}
    assert AuditEntry.objects.filter(action="finalise", actor="user:finance", reason="the month").count() == 6
    lost = ("ERR_FAILED", "htmx:sendError", "htmx:afterRequest")
    assert [one for one in console.complaints if not one.endswith(lost) and "ERR_FAILED" not in one] == []
    assert console.external == []


def test_finance_credits_an_invoice_and_less_is_due(browser: Browser, live_server: Any, demo: None) -> None:
    """From the invoice to the note, from the draft to the issued one; the API says what is still due."""
    (before, *_) = [invoice for invoice in api("billing/invoices") if invoice["status"] == "open"]
    console = as_person(browser, live_server, "finance")
    console.go("/admin/billing/invoice/?status__exact=open")
    console.follow(console.page.get_by_role("link", name=f"invoice GF-{before['number']}", exact=True))
    console.press("Credit: draft a note")
    console.page.get_by_label("Amount").fill("100.50")
    console.page.get_by_label("Reason").fill("a node was slow")
    console.press("Save and view")
    console.press("Issue")
    console.page.get_by_role("textbox", name="Reason").fill("agreed")
    console.press("Issue")
    expect(console.page.get_by_text("1 of 1 credit note now issued.")).to_be_visible()
    after = api(f"billing/invoices/{before['id']}")
    assert after["total"] == before["total"]
    assert Decimal(after["amount_due"]) == Decimal(before["amount_due"]) - Decimal("100.50")
    console.assert_clean()


def test_a_button_that_is_pressed_twice_does_it_once(browser: Browser, live_server: Any, demo: None) -> None:
    """Until whoever went on comes back to the page."""
    console = as_person(browser, live_server, "finance")
    console.go("/admin/billing/creditnote/add/")
    press = """form => form.dispatchEvent(new SubmitEvent("submit", {bubbles: true, cancelable: true}))"""
    form = console.page.locator("#creditnote_form")
    assert [form.evaluate(press) for _ in range(3)] == [True, False, False]
    console.page.evaluate("""dispatchEvent(new PageTransitionEvent("pageshow"))""")
    assert form.evaluate(press) is True


def test_finance_sends_an_invoice_and_tries_a_failed_sync_again(
    browser: Browser, live_server: Any, demo: None, stripe: FakeStripe
) -> None:
    """Stripe has an invoice of that number already; once it is gone there, the sync that failed goes through."""
    invoice = Invoice.objects.filter(status="open").select_related("tenant").order_by("pk")[0]
    taken = {"number": f"GF-{invoice.number}", "status": "open", "total": 0, "currency": "usd", "customer": "cus_1"}
    squatter = stripe.new("invoice", "in", **taken)
    console = as_person(browser, live_server, "finance")
    console.go(f"/admin/billing/invoice/{invoice.pk}/change/")
    console.press("Send through Stripe")
    console.press("Send through Stripe")
    send_outbox()
    console.go("/admin/leakage/")
    failed = console.page.get_by_role("region", name="Failed syncs with Stripe")
    expect(failed).to_contain_text(f"{invoice}, {invoice.tenant}")
    expect(failed).to_contain_text(f"The number GF-{invoice.number} is taken.")
    del stripe.things[squatter["id"]]
    console.press("Try them again")
    expect(console.page.get_by_text("1 dead step is sent to Stripe again")).to_be_visible()
    console.press("Try again")
    expect(console.page.get_by_text("1 step will be tried again.")).to_be_visible()
    send_outbox()
    assert set(OutboxMessage.objects.values_list("status", flat=True)) == {"done"}
    (there,) = stripe.of("invoice")
    shown = api(f"billing/invoices/{invoice.pk}")
    assert (there["status"], there["total"]) == ("open", int(Decimal(shown["total"]) * 100))
    assert shown["stripe_invoice_id"] == there["id"]
    causes = api("dashboard/leakage?days=30")["causes"]
    assert not [row for cause in causes if cause["cause"] == "failed_sync" for row in cause["rows"]]
    console.assert_clean()
