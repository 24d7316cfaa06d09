"""The steps of the outbox: what each asks of Stripe, how it is found if it was done before, and when it is needless.

``find`` gives what a step made if Stripe shows that it was done, and None otherwise. It is asked when the last try may
have acted, when Stripe may have forgotten the key, and when Stripe refuses: what is done need not be done again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from billing.gateway import Credit, Customer, Draft, Gateway, Item, Missing, Refused, RemoteInvoice, units_of
from billing.models import CreditNote, Invoice, InvoiceLine, InvoiceStatus, OutboxMessage, OutboxStep, StripeCustomer
from billing.queries import number_of

# Two clocks may differ by this much when one asks the other what it made since.
SKEW = timedelta(hours=1)
# Stripe takes no due date that has passed: an invoice that could not be sent in time is due the next day.
GRACE = timedelta(days=1)
CLOSED = ("void", "deleted")


@dataclass(frozen=True, slots=True)
class Step:
    """``act`` and ``find`` give the id of what was made, or a word; ``needless`` gives the reason, or an empty one."""

    act: Callable[[Gateway, OutboxMessage, datetime], str]
    find: Callable[[Gateway, OutboxMessage], str | None]
    needless: Callable[[OutboxMessage], str]
    keep: Callable[[OutboxMessage, str], None] = lambda message, result: None


def _customer(message: OutboxMessage) -> StripeCustomer:
    return message.invoice.tenant.stripe_customer


def _remote(gateway: Gateway, message: OutboxMessage) -> RemoteInvoice | None:
    known = message.invoice.stripe_invoice_id
    return gateway.get_invoice(known) if known else None


def _closed(message: OutboxMessage) -> str:
    """Nothing more goes out for an invoice that is not owed."""
    return "the invoice is void" if message.invoice.status == InvoiceStatus.VOID else ""


def _not_there(message: OutboxMessage) -> str:
    return "" if message.invoice.stripe_invoice_id else "Stripe never had the invoice"


def _not_open(message: OutboxMessage) -> str:
    invoice = message.invoice
    return "" if invoice.status == InvoiceStatus.OPEN else f"the invoice is {invoice.status}"


def _closed_before_it_was_tried(message: OutboxMessage) -> str:
    """An earlier try may have made a draft, which must be known to be deleted."""
    return "" if message.uncertain or message.attempts > 1 else _closed(message)


def _put_customer(gateway: Gateway, message: OutboxMessage, now: datetime) -> str:
    """The tenant's customer as the tenant is now. All of a tenant's invoices create it under one reference, so that
    two at once make one; a change is each invoice's own call."""
    tenant, customer = message.invoice.tenant, _customer(message)
    known = customer.stripe_id
    if message.reference != customer.reference:  # Another invoice's step has begun anew.
        _refer_to(message, customer.reference)
    who = Customer(message.reference, tenant.pk, tenant.name, tenant.contact_email)
    if known:
        try:
            gateway.update_customer(known, who, key=f"{message.idempotency_key}:{message.pk}")
            return known
        except Missing:  # It was deleted in Stripe's dashboard.
            who = replace(who, reference=_begin_anew(message))
    return gateway.create_customer(who, key=message.idempotency_key)


def _begin_anew(message: OutboxMessage) -> UUID:
    """Another reference, committed before it is used: under the old one Stripe would answer with what is gone."""
    reference = uuid4()
    StripeCustomer.objects.filter(pk=_customer(message).pk).update(reference=reference, stripe_id="")
    _refer_to(message, reference)
    return reference


def _refer_to(message: OutboxMessage, reference: UUID) -> None:
    message.reference = reference
    message.save(update_fields=["reference"])


def _find_customer(gateway: Gateway, message: OutboxMessage) -> str | None:
    if _customer(message).stripe_id:
        return None  # A change may be made twice.
    return gateway.find_customer(message.reference, since=_customer(message).created_at - SKEW)


def _keep_customer(message: OutboxMessage, result: str) -> None:
    StripeCustomer.objects.filter(reference=message.reference).update(stripe_id=result)


def _create_invoice(gateway: Gateway, message: OutboxMessage, now: datetime) -> str:
    invoice = message.invoice
    draft = Draft(
        reference=message.reference,
        customer_id=_customer(message).stripe_id,
        invoice_id=invoice.pk,
        number=number_of(invoice),
        currency=invoice.currency,
        due_at=_due_at(invoice, now),
    )
    return gateway.create_invoice(draft, key=message.idempotency_key)


def _due_at(invoice: Invoice, now: datetime) -> datetime:
    """The invoice's own due date; once that has passed, the end of the next day, so that a repetition says the same."""
    if invoice.due_at is not None and invoice.due_at > now + SKEW:
        return invoice.due_at
    return (now + 2 * GRACE).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _find_invoice(gateway: Gateway, message: OutboxMessage) -> str | None:
    found = gateway.find_invoice(message.reference, since=message.created_at - SKEW)
    return found.stripe_id if found else None


def _keep_invoice(message: OutboxMessage, result: str) -> None:
    Invoice.objects.filter(pk=message.invoice_id).update(stripe_invoice_id=result)


def _add_item(gateway: Gateway, message: OutboxMessage, now: datetime) -> str:
    line, invoice = _line(message), message.invoice
    item = Item(
        reference=message.reference,
        customer_id=_customer(message).stripe_id,
        stripe_invoice_id=invoice.stripe_invoice_id,
        description=_description(line, invoice.currency),
        amount=units_of(line.amount, invoice.currency),
        currency=invoice.currency,
        start=line.period.lower,
        end=line.period.upper,
    )
    return gateway.add_item(item, key=message.idempotency_key)


def _line(message: OutboxMessage) -> InvoiceLine:
    if message.line is None:
        raise ValueError(f"step {message.pk} adds a line and names none")
    return message.line


def _description(line: InvoiceLine, currency: str) -> str:
    price = f"{line.price_per_gpu_hour.normalize():f} {currency} per GPU-hour"
    return f"{line.gpu_model}: {line.billed_seconds / 3600:,.2f} GPU-hours ({line.billed_seconds:,} s) at {price}"


def _find_item(gateway: Gateway, message: OutboxMessage) -> str | None:
    return gateway.find_item(message.reference, stripe_invoice_id=message.invoice.stripe_invoice_id)


def _finalise(gateway: Gateway, message: OutboxMessage, now: datetime) -> str:
    """Only what says the same as our invoice is finalised, since nothing can be changed afterwards."""
    invoice = message.invoice
    there = gateway.get_invoice(invoice.stripe_invoice_id)
    here = units_of(invoice.total, invoice.currency)
    if there is None or (there.total, there.currency) != (here, invoice.currency):
        shown = "no such invoice" if there is None else f"{there.total} {there.currency}"
        raise Refused(f"Stripe has {shown} where we have {here} {invoice.currency}, in the smallest units.")
    gateway.finalise(invoice.stripe_invoice_id, key=message.idempotency_key)
    return "finalised"


def _find_finalised(gateway: Gateway, message: OutboxMessage) -> str | None:
    there = _remote(gateway, message)
    return f"{there.status} already" if there is not None and there.status != "draft" else None


def _send(gateway: Gateway, message: OutboxMessage, now: datetime) -> str:
    gateway.send(message.invoice.stripe_invoice_id, key=message.idempotency_key)
    return "sent"


def _find_sent(gateway: Gateway, message: OutboxMessage) -> str | None:
    """Stripe's invoice does not say that it was mailed; its event does. Whatever is closed needs no mail."""
    if message.invoice.stripe_events.filter(type="invoice.sent").exists():
        return "sent already"
    there = _remote(gateway, message)
    return f"{there.status} already" if there is not None and there.status in ("paid", *CLOSED) else None


def _void(gateway: Gateway, message: OutboxMessage, now: datetime) -> str:
    there = _remote(gateway, message)
    if there is not None and there.status == "draft":
        gateway.delete_draft(there.stripe_id, key=message.idempotency_key)
        return "draft deleted"
    gateway.void(message.invoice.stripe_invoice_id, key=message.idempotency_key)
    return "void"


def _mark_paid(gateway: Gateway, message: OutboxMessage, now: datetime) -> str:
    gateway.mark_paid(message.invoice.stripe_invoice_id, key=message.idempotency_key)
    return "paid"


def _write_off(gateway: Gateway, message: OutboxMessage, now: datetime) -> str:
    gateway.mark_uncollectible(message.invoice.stripe_invoice_id, key=message.idempotency_key)
    return "uncollectible"


def _found_as(*statuses: str) -> Callable[[Gateway, OutboxMessage], str | None]:
    """Done when the invoice stands so at Stripe; one that is not there any longer was a draft, and was deleted."""

    def find(gateway: Gateway, message: OutboxMessage) -> str | None:
        there = _remote(gateway, message)
        status = "deleted" if there is None else there.status
        return f"{status} already" if status in statuses else None

    return find


def _credit(gateway: Gateway, message: OutboxMessage, now: datetime) -> str:
    note, invoice = _note(message), message.invoice
    there = _remote(gateway, message)
    credit = Credit(
        reference=message.reference,
        stripe_invoice_id=invoice.stripe_invoice_id,
        amount=units_of(note.amount, invoice.currency),
        memo=note.reason,
        settled=there is not None and there.status == "paid",
    )
    return gateway.create_credit_note(credit, key=message.idempotency_key)


def _note(message: OutboxMessage) -> CreditNote:
    if message.credit_note is None:
        raise ValueError(f"step {message.pk} sends a credit note and names none")
    return message.credit_note


def _find_credit(gateway: Gateway, message: OutboxMessage) -> str | None:
    return gateway.find_credit_note(message.reference, stripe_invoice_id=message.invoice.stripe_invoice_id)


STEPS = {
    OutboxStep.CUSTOMER: Step(_put_customer, _find_customer, _closed, _keep_customer),
    OutboxStep.CREATE: Step(_create_invoice, _find_invoice, _closed_before_it_was_tried, _keep_invoice),
    OutboxStep.ITEM: Step(_add_item, _find_item, _closed),
    OutboxStep.FINALISE: Step(_finalise, _find_finalised, _closed),
    OutboxStep.SEND: Step(_send, _find_sent, _not_open),
    OutboxStep.CREDIT: Step(_credit, _find_credit, _not_there),
    OutboxStep.PAY: Step(_mark_paid, _found_as("paid"), _not_there),
    OutboxStep.WRITE_OFF: Step(_write_off, _found_as("uncollectible", "paid"), _not_there),
    OutboxStep.VOID: Step(_void, _found_as(*CLOSED), _not_there),
}
