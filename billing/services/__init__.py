"""What changes rates, invoices and credit notes."""

from billing.services.comparison import compare_with_stripe
from billing.services.corrections import correct_invoices
from billing.services.credits import (
    CreditNoteDecided,
    CreditTooLarge,
    InvoiceNotFinalised,
    NothingToCredit,
    NotOwed,
    credit_window,
    decide_credit_note,
    decline_credit_note,
    draft_credit_note,
    issue_credit_note,
    settle_debit_note,
)
from billing.services.events import handle_event
from billing.services.invoices import (
    INVOICE_MOVES,
    IllegalInvoiceMove,
    NothingToBill,
    Outcome,
    Preview,
    UnbilledTimeChanged,
    create_invoice,
    create_invoices,
    move_invoice,
    move_invoices,
    preview_invoice,
    preview_invoices,
)
from billing.services.notes import CREDITABLE
from billing.services.outbox import send_next
from billing.services.rates import add_rate
from billing.services.sending import (
    NothingToRetry,
    NotSendable,
    retry_steps,
    send_invoice,
    sending_in_words,
)
from billing.services.service_levels import add_service_level, raise_service_level_credits, switch_service_level

__all__ = [
    "CREDITABLE",
    "INVOICE_MOVES",
    "CreditNoteDecided",
    "CreditTooLarge",
    "IllegalInvoiceMove",
    "InvoiceNotFinalised",
    "NotOwed",
    "NotSendable",
    "NothingToBill",
    "NothingToCredit",
    "NothingToRetry",
    "Outcome",
    "Preview",
    "UnbilledTimeChanged",
    "add_rate",
    "add_service_level",
    "compare_with_stripe",
    "correct_invoices",
    "create_invoice",
    "create_invoices",
    "credit_window",
    "decide_credit_note",
    "decline_credit_note",
    "draft_credit_note",
    "handle_event",
    "issue_credit_note",
    "move_invoice",
    "move_invoices",
    "preview_invoice",
    "preview_invoices",
    "raise_service_level_credits",
    "retry_steps",
    "send_invoice",
    "send_next",
    "sending_in_words",
    "settle_debit_note",
    "switch_service_level",
]
