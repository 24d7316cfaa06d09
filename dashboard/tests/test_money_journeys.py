"""Work in bulk in a browser: keys alone, and a server that goes away in the middle. See ``browsing``."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Browser, Route, expect

from billing.models import Invoice
from billing.services import create_invoices
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
