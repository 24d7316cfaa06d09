"""Rates, invoices and their lines, the seconds they bill, credit notes, and the outbox to Stripe.

Money is ``Decimal`` in the currency that stands beside it. Ranges are half-open, in UTC.
"""

from billing.models.credits import (
    FAULT_STATES,
    CreditBasis,
    CreditedRange,
    CreditNote,
    CreditNoteStatus,
    NoteKind,
    NoteOrigin,
    ServiceLevel,
)
from billing.models.invoices import BilledRange, Invoice, InvoiceEvent, InvoiceLine, InvoiceStatus
from billing.models.rates import Rate
from billing.models.stripe import OutboxMessage, OutboxStatus, OutboxStep, StripeCustomer, StripeDifference, StripeEvent

__all__ = [
    "FAULT_STATES",
    "BilledRange",
    "CreditBasis",
    "CreditNote",
    "CreditNoteStatus",
    "CreditedRange",
    "Invoice",
    "InvoiceEvent",
    "InvoiceLine",
    "InvoiceStatus",
    "NoteKind",
    "NoteOrigin",
    "OutboxMessage",
    "OutboxStatus",
    "OutboxStep",
    "Rate",
    "ServiceLevel",
    "StripeCustomer",
    "StripeDifference",
    "StripeEvent",
]
