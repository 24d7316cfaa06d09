"""Many invoices are moved in steps, each a request of its own."""

import re

import pytest

from billing.models import Invoice, InvoiceEvent
from billing.tests.test_admin import INVOICES, draft, move, sold
from gpufleet.common.tests.factories import staff
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db


def test_many_are_moved_in_steps_that_say_how_far_they_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    models = ("invoice", "invoiceline", "invoiceevent", "creditnote")
    finance = staff(*(f"{verb}_{model}" for verb in ("view", "add", "change") for model in models), name="fred")
    monkeypatch.setattr("billing.moves_admin.AT_ONCE", 2)
    draft(finance, *(sold(make_tenant(f"tenant-{number}")) for number in range(5)))
    invoices = list(Invoice.objects.order_by("pk"))
    move(finance, "open", invoices[1].pk)
    ids = ",".join(str(invoice.pk) for invoice in invoices)
    page = finance.post(f"{INVOICES}move/open", {"ids": ids, "reason": "the month"}).content.decode()
    assert "2 of 5 invoices are done" in page
    part = finance.post(f"{INVOICES}move/open", left_in(page), headers={"HX-Request": "true"})
    assert "4 of 5 invoices are done" in part.content.decode()
    assert "<html" not in part.content.decode()
    end = finance.post(f"{INVOICES}move/open", left_in(part.content.decode()), headers={"HX-Request": "true"})
    assert (end.status_code, end.headers["HX-Redirect"]) == (204, INVOICES)
    told = finance.get(INVOICES).content.decode()
    assert "4 of 5 invoices now open." in told
    assert "draft" not in set(Invoice.objects.values_list("status", flat=True))
    assert InvoiceEvent.objects.filter(reason="the month").count() == 4


def left_in(page: str) -> dict[str, str]:
    """The hidden fields of the progress."""
    form = page[page.index('id="progress"') :]
    return dict(re.findall(r'<input type="hidden" name="(ids|reason|total|moved)" value="([^"]*)">', form))
