"""Credit notes: proposed, decided once, and never beyond their invoice."""

import re
from decimal import Decimal

import pytest
from django.db import IntegrityError, transaction

from billing import queries, services
from billing.models import CreditNote, Invoice
from billing.services import (
    CreditNoteDecided,
    CreditTooLarge,
    IllegalInvoiceMove,
    InvoiceNotFinalised,
    credit_window,
    decline_credit_note,
    draft_credit_note,
    issue_credit_note,
)
from billing.tests.factories import NOW, hours, make_rate, sell
from gpufleet.common.errors import InvalidInput, NotFound
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db


@pytest.fixture
def invoice() -> Invoice:
    """Two GPU-hours for 4.00 USD, finalised."""
    acme = alice()
    sell(acme, hours(3), hours(1), rate=make_rate())
    draft = services.create_invoice(tenant_id=acme.pk, start=hours(9), end=NOW, created_by="test", now=NOW)
    return services.move_invoice(invoice_id=draft.pk, to="open", actor="test", now=NOW)


def draft(invoice: Invoice, amount: str = "1.00") -> CreditNote:
    return draft_credit_note(
        invoice_id=invoice.pk, amount=Decimal(amount), reason="node failed", created_by="test", now=NOW
    )


def issue(note: CreditNote) -> CreditNote:
    return issue_credit_note(credit_note_id=note.pk, actor="test", now=NOW)


def test_an_issued_note_has_a_number_and_lowers_what_is_due(invoice: Invoice) -> None:
    first, second, third = draft(invoice), draft(invoice), draft(invoice)
    issue(first)
    decline_credit_note(credit_note_id=second.pk, actor="test", now=NOW)
    assert (issue(third).number, third.number) == (2, None)
    (report,) = queries.describe_invoices([invoice])
    assert (report.credited, report.amount_due) == (Decimal(2), Decimal(2))


def test_issued_notes_never_exceed_the_invoice(invoice: Invoice) -> None:
    notes = [draft(invoice, "3.00"), draft(invoice, "1.01")]
    issue(notes[0])
    with pytest.raises(CreditTooLarge) as refused:
        issue(notes[1])
    assert refused.value.data == {"available": "1.000"}
    with pytest.raises(CreditTooLarge):
        draft(invoice, "1.01")
    issue(draft(invoice, "1.00"))


def test_the_database_refuses_more_than_the_invoice_too(invoice: Invoice) -> None:
    issue(draft(invoice, "3.00"))
    note = draft(invoice)
    with pytest.raises(IntegrityError, match="never exceed"), transaction.atomic():
        CreditNote.objects.filter(pk=note.pk).update(status="issued", number=9, amount="1.01", decided_at=NOW)


def test_a_decided_note_stays_as_it_was_decided(invoice: Invoice) -> None:
    issued, declined = issue(draft(invoice)), draft(invoice)
    decline_credit_note(credit_note_id=declined.pk, actor="test", now=NOW)
    for note in (issued, declined):
        with pytest.raises(CreditNoteDecided):
            issue(note)
        with pytest.raises(IntegrityError, match="as it was decided"), transaction.atomic():
            CreditNote.objects.filter(pk=note.pk).update(amount=2)
        with pytest.raises(IntegrityError, match="as it was decided"), transaction.atomic():
            note.delete()


@pytest.mark.parametrize("amount", ["0", "-1", "0.001", "4.01", "NaN", "Infinity"])
def test_an_amount_that_cannot_be_paid_back_is_refused(invoice: Invoice, amount: str) -> None:
    with pytest.raises(InvalidInput):
        draft(invoice, amount)
    assert not CreditNote.objects.exists()


def test_only_a_finalised_invoice_takes_a_note(invoice: Invoice) -> None:
    note = draft(invoice)
    services.move_invoice(invoice_id=invoice.pk, to="void", actor="test", now=NOW)
    with pytest.raises(InvoiceNotFinalised):
        draft(invoice)
    with pytest.raises(InvoiceNotFinalised):
        issue(note)
    with pytest.raises(NotFound):
        draft(Invoice(pk=10**9))
    with pytest.raises(NotFound):
        issue(CreditNote(pk=10**9))


def test_an_invoice_with_issued_notes_is_not_voided(invoice: Invoice) -> None:
    issue(draft(invoice))
    with pytest.raises(IllegalInvoiceMove, match=re.escape("twice")):
        services.move_invoice(invoice_id=invoice.pk, to="void", actor="test", now=NOW)


def test_a_window_is_credited_by_the_function_that_priced_it(invoice: Invoice) -> None:
    fields = {"reason": "fault", "created_by": "test", "now": NOW}
    whole = credit_window(invoice_id=invoice.pk, start=hours(100), end=NOW, **fields)  # type: ignore[arg-type]
    part = credit_window(invoice_id=invoice.pk, start=hours(2), end=hours(1.25), **fields)  # type: ignore[arg-type]
    assert (whole.amount, part.amount) == (invoice.total, Decimal("1.5"))
    (line,) = part.evidence["lines"]
    assert line["billed_seconds"] == 2700
    with pytest.raises(InvalidInput):
        credit_window(invoice_id=invoice.pk, start=NOW, end=hours(-1), **fields)  # type: ignore[arg-type]
