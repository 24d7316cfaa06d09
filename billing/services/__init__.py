"""What changes rates, invoices and credit notes."""

from billing.services.credits import (
    CreditNoteDecided,
    CreditTooLarge,
    InvoiceNotFinalised,
    credit_window,
    decline_credit_note,
    draft_credit_note,
    issue_credit_note,
)
from billing.services.invoices import (
    IllegalInvoiceMove,
    NothingToBill,
    Outcome,
    create_invoice,
    create_invoices,
    move_invoice,
    move_invoices,
)
from billing.services.rates import add_rate

__all__ = [
    "CreditNoteDecided",
    "CreditTooLarge",
    "IllegalInvoiceMove",
    "InvoiceNotFinalised",
    "NothingToBill",
    "Outcome",
    "add_rate",
    "create_invoice",
    "create_invoices",
    "credit_window",
    "decline_credit_note",
    "draft_credit_note",
    "issue_credit_note",
    "move_invoice",
    "move_invoices",
]
