"""Credit notes: proposed, decided once, and never beyond their invoice."""

import re
from decimal import Decimal

import pytest
from django.db import IntegrityError, transaction

from billing import queries, services
from billing.models import CreditedRange, CreditNote, Invoice
from billing.services import (
    CreditNoteDecided,
    CreditTooLarge,
    IllegalInvoiceMove,
    InvoiceNotFinalised,
    NothingToCredit,
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
    decline_credit_note(credit_note_id=second.pk, actor="test", now=NOW, reason="no fault of ours")
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
    decline_credit_note(credit_note_id=declined.pk, actor="test", now=NOW, reason="no fault of ours")
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
    with pytest.raises(CreditNoteDecided, match="withdrawn"):
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
    part = credit_window(invoice_id=invoice.pk, start=hours(2), end=hours(1.25), **fields)  # type: ignore[arg-type]
    (line,) = part.evidence["lines"]
    assert (part.amount, line["billed_seconds"]) == (Decimal("1.5"), 2700)
    with pytest.raises(NothingToCredit):
        credit_window(invoice_id=invoice.pk, start=NOW, end=hours(-1), **fields)  # type: ignore[arg-type]


def test_a_window_leaves_out_what_another_note_gives_back(invoice: Invoice) -> None:
    def credit(start: float, end: float) -> CreditNote:
        return credit_window(
            invoice_id=invoice.pk, start=hours(start), end=hours(end), reason="fault", created_by="test", now=NOW
        )

    part = credit(2, 1.25)
    whole = credit(100, 0)
    assert (part.amount, whole.amount) == (Decimal("1.5"), Decimal("2.5"))
    assert [piece["billed_seconds"] for piece in whole.evidence["pieces"]] == [3600, 900]
    with pytest.raises(NothingToCredit):
        credit(3, 1)
    decline_credit_note(credit_note_id=part.pk, actor="test", now=NOW, reason="wrong window")
    assert credit(2, 1.5).amount == 1


def test_the_database_refuses_to_give_a_second_back_twice(invoice: Invoice) -> None:
    note = credit_window(invoice_id=invoice.pk, start=hours(3), end=NOW, reason="r", created_by="test", now=NOW)
    row = note.credited_ranges.get()
    with pytest.raises(IntegrityError, match="second_credited_once"), transaction.atomic():
        CreditedRange.objects.create(note=draft(invoice), billed_range_id=row.billed_range_id, during=row.during)
    for change in ({"released_at": NOW}, {"note": draft(invoice)}):
        with pytest.raises(IntegrityError, match="let"), transaction.atomic():
            CreditedRange.objects.filter(pk=row.pk).update(**change)
    with pytest.raises(IntegrityError, match="by a draft"), transaction.atomic():
        CreditedRange.objects.create(note=issue(note), billed_range_id=row.billed_range_id, during=row.during)


def test_a_note_is_declined_for_a_reason(invoice: Invoice) -> None:
    note = draft(invoice)
    with pytest.raises(InvalidInput) as refused:
        decline_credit_note(credit_note_id=note.pk, actor="test", now=NOW, reason=" ")
    assert refused.value.problems[0].pointer == "#/reason"
    with pytest.raises(IntegrityError, match="declined_with_reason"), transaction.atomic():
        CreditNote.objects.filter(pk=note.pk).update(status="declined", decided_at=NOW)
    declined = decline_credit_note(credit_note_id=note.pk, actor="fred", now=NOW, reason="not ours")
    assert (declined.status, declined.decided_by, declined.decision_reason) == ("declined", "fred", "not ours")
