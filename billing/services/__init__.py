"""What changes rates, invoices and credit notes."""

from billing.services.corrections import correct_invoices
from billing.services.credits import (
    CreditNoteDecided,
    CreditTooLarge,
    InvoiceNotFinalised,
    NothingToCredit,
    NotOwed,
    credit_window,
    decline_credit_note,
    draft_credit_note,
    issue_credit_note,
    settle_debit_note,
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
    "NotOwed",
    "NothingToBill",
    "NothingToCredit",
    "Outcome",
    "add_rate",
    "correct_invoices",
    "create_invoice",
    "create_invoices",
    "credit_window",
    "decline_credit_note",
    "draft_credit_note",
    "issue_credit_note",
    "move_invoice",
    "move_invoices",
    "settle_debit_note",
]
