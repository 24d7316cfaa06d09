"""What changes rates, invoices and credit notes."""

from billing.services.comparison import compare_with_stripe
from billing.services.credits import (
    CreditNoteDecided,
    CreditTooLarge,
    InvoiceNotFinalised,
    credit_window,
    decline_credit_note,
    draft_credit_note,
    issue_credit_note,
)
from billing.services.events import handle_event
from billing.services.invoices import (
    IllegalInvoiceMove,
    NothingToBill,
    Outcome,
    create_invoice,
    create_invoices,
    move_invoice,
    move_invoices,
    send_invoices,
)
from billing.services.outbox import send_next
from billing.services.rates import add_rate
from billing.services.sending import (
    NothingToRetry,
    NotSendable,
    retry_steps,
    send_invoice,
    sending_in_words,
)

__all__ = [
    "CreditNoteDecided",
    "CreditTooLarge",
    "IllegalInvoiceMove",
    "InvoiceNotFinalised",
    "NotSendable",
    "NothingToBill",
    "NothingToRetry",
    "Outcome",
    "add_rate",
    "compare_with_stripe",
    "create_invoice",
    "create_invoices",
    "credit_window",
    "decline_credit_note",
    "draft_credit_note",
    "handle_event",
    "issue_credit_note",
    "move_invoice",
    "move_invoices",
    "retry_steps",
    "send_invoice",
    "send_invoices",
    "send_next",
    "sending_in_words",
]
