"""What the console calls an invoice, how its lines read, and the way from it to a credit note."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.test import Client
from django.utils import timezone

from billing.models import CreditNote, Invoice, InvoiceEvent, OutboxMessage
from billing.services import create_invoice, move_invoice
from billing.tests.factories import make_rate, sell
from gpufleet.common.tests.factories import staff
from tenants.models import Tenant
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db
INVOICES = "/admin/billing/invoice/"
NOTES = "/admin/billing/creditnote/"


@pytest.fixture
def finance() -> Client:
    models = ("invoice", "invoiceline", "invoiceevent", "creditnote")
    return staff(*(f"{verb}_{model}" for verb in ("view", "add", "change") for model in models), name="fred")


def drafted(tenant: Tenant, hours: int = 500) -> Invoice:
    now = timezone.now()
    sell(tenant, now - timedelta(hours=hours), now - timedelta(seconds=1), rate=make_rate())
    start = now - timedelta(days=60)
    return create_invoice(tenant_id=tenant.pk, start=start, end=now, created_by="test", now=now)


def finalised(invoice: Invoice) -> Invoice:
    return move_invoice(invoice_id=invoice.pk, to="open", actor="test", now=timezone.now())


def page(client: Client, address: str) -> str:
    return client.get(address).content.decode()


def test_an_invoice_is_called_by_the_number_on_its_paper_wherever_it_is_spoken_of() -> None:
    """Ids and numbers differ as soon as drafts are finalised in another order than they were made in."""
    first, second = drafted(alice()), drafted(bob())
    invoice = finalised(second)
    assert invoice.pk != invoice.number
    note, step = CreditNote(pk=7, invoice=invoice), OutboxMessage(invoice=invoice, step="create", status="pending")
    event = InvoiceEvent.objects.get()
    assert [str(invoice), str(note), str(event), str(step), str(first)] == [
        f"invoice GF-{invoice.number}",
        f"credit note 7 on invoice GF-{invoice.number}",
        f"invoice GF-{invoice.number}: draft → open",
        f"create of invoice GF-{invoice.number}: pending",
        f"draft {first.pk}",
    ]


def test_the_proofs_file_is_called_as_the_invoice_is(finance: Client) -> None:
    drafted(alice())
    invoice = finalised(drafted(bob()))
    answer = finance.get(f"{INVOICES}{invoice.pk}/proof.csv")
    assert f'"invoice-gf-{invoice.number}-proof.csv"' in answer["Content-Disposition"]


def test_a_lines_seconds_and_gpu_hours_can_be_read(finance: Client) -> None:
    shown = page(finance, f"{INVOICES}{drafted(alice()).pk}/change/")
    for figure in ("1,799,999.000000", "1,799,999", "499.9997", "1,000.00 USD"):
        assert figure in shown, figure


def test_a_note_is_drafted_from_the_invoices_page(finance: Client) -> None:
    invoice, other = finalised(drafted(alice())), drafted(bob())
    assert "Credit: draft a note" in page(finance, f"{INVOICES}{invoice.pk}/change/")
    assert "Credit: draft a note" not in page(finance, f"{INVOICES}{other.pk}/change/")
    answer = finance.post(INVOICES, {"action": "credit", "_selected_action": [invoice.pk]})
    assert answer["Location"] == f"{NOTES}add/?invoice={invoice.pk}"
    form = page(finance, answer["Location"])
    assert f'<option value="{invoice.pk}" selected>invoice GF-{invoice.number}, acme, 1,000.00 USD</option>' in form
    assert f'<option value="{other.pk}"' not in form, "A draft takes no credit note."
    finance.post(answer["Location"], {"invoice": invoice.pk, "amount": "10.00", "reason": "a bad week"})
    note = CreditNote.objects.get()
    assert (note.invoice_id, note.amount) == (invoice.pk, Decimal("10.00"))
    assert "10.00 USD" in page(finance, f"{NOTES}{note.pk}/change/")
    assert "acme" in page(finance, NOTES)


def test_notes_about_several_invoices_are_drafted_one_by_one(finance: Client) -> None:
    ids = [finalised(drafted(tenant)).pk for tenant in (alice(), bob())]
    answer = finance.post(INVOICES, {"action": "credit", "_selected_action": ids}, follow=True)
    assert "choose one" in answer.content.decode()


def test_whoever_may_not_credit_has_no_such_button_and_is_refused() -> None:
    invoice = finalised(drafted(alice()))
    clerk = staff("view_invoice", "change_invoice", name="carl")
    assert "Credit: draft a note" not in page(clerk, f"{INVOICES}{invoice.pk}/change/")
    assert clerk.post(INVOICES, {"action": "credit", "_selected_action": [invoice.pk]}).status_code == 403
    assert clerk.get(f"{NOTES}add/?invoice={invoice.pk}").status_code == 403


def test_what_is_at_stripe_is_not_offered_to_be_sent(finance: Client) -> None:
    invoice = finalised(drafted(alice()))
    assert "Send through Stripe" in page(finance, f"{INVOICES}{invoice.pk}/change/")
    Invoice.objects.filter(pk=invoice.pk).update(stripe_invoice_id="in_1")
    assert "Send through Stripe" not in page(finance, f"{INVOICES}{invoice.pk}/change/")
