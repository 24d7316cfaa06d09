"""What billing asks of a payment service, in our own words; ``stripe_gateway`` says it in Stripe's.

Every call that makes or changes something takes the ``key`` under which the service recognises a repetition. What a
call made carries our ``reference``, so that it can be found again once its key has been forgotten.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

from gpufleet.common.currencies import decimals_of

# Source: https://docs.stripe.com/currencies#special-cases. ISK and UGX have no decimals by ISO 4217 and are written
# with two; MGA has two and is written with none; three-decimal amounts end in a zero.
WRITTEN_WITH = {"ISK": 2, "UGX": 2, "MGA": 0}
# The service's own bound on the items of one invoice.
MOST_LINES = 250


class GatewayError(Exception):
    """The service did not do what it was asked."""


class Unreachable(GatewayError):
    """It could not be reached, is too busy, or works on the same key just now: the same call may be made again."""


class Uncertain(GatewayError):
    """It broke over the call and may or may not have acted. It will repeat that answer under the same key: look first
    whether it acted, then use another key."""


class Refused(GatewayError):
    """It understood and said no; asking again changes nothing."""


class Missing(Refused):
    """What the call is about is not there (any longer)."""


class BadSignature(GatewayError):
    """A webhook that the service did not sign, or signed too long ago."""


class NotPayable(Exception):
    """An amount that the service's units can't say exactly."""


@dataclass(frozen=True, slots=True)
class Customer:
    """Who pays."""

    reference: UUID
    tenant_id: int
    name: str
    email: str


@dataclass(frozen=True, slots=True)
class Draft:
    """An invoice without its lines. ``due_at`` must lie ahead."""

    reference: UUID
    customer_id: str
    invoice_id: int
    number: str
    currency: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Item:
    """One line. ``amount`` is in the service's units of the currency; the period is half-open."""

    reference: UUID
    customer_id: str
    stripe_invoice_id: str
    description: str
    amount: int
    currency: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Credit:
    """A credit note on a finalised invoice. ``settled``: it has been paid, and the customer keeps the credit."""

    reference: UUID
    stripe_invoice_id: str
    amount: int
    memo: str
    settled: bool


@dataclass(frozen=True, slots=True)
class RemoteInvoice:
    """An invoice as the service has it. ``reference`` is None where it is not one of ours."""

    stripe_id: str
    status: str
    total: int
    currency: str
    reference: UUID | None
    number: str | None


@dataclass(frozen=True, slots=True)
class RemoteEvent:
    """A verified webhook event; ``invoice`` is None for an event about something else."""

    stripe_id: str
    type: str
    created_at: datetime
    payload: dict[str, Any]
    invoice: RemoteInvoice | None


class Gateway(Protocol):
    """A payment service. Every method raises the errors above; ``find_*`` and ``get_*`` change nothing."""

    def create_customer(self, customer: Customer, *, key: str) -> str:
        """The new customer's id."""

    def update_customer(self, customer_id: str, customer: Customer, *, key: str) -> None:
        """Name and e-mail become those given."""

    def find_customer(self, reference: UUID, *, since: datetime) -> str | None:
        """The id of the customer that carries the reference and was made at ``since`` or later."""

    def create_invoice(self, draft: Draft, *, key: str) -> str:
        """The new draft's id."""

    def find_invoice(self, reference: UUID, *, since: datetime) -> RemoteInvoice | None:
        """The invoice that carries the reference and was made at ``since`` or later."""

    def get_invoice(self, stripe_invoice_id: str) -> RemoteInvoice | None:
        """The invoice, or None where there is none (any longer)."""

    def list_invoices(self, *, since: datetime) -> Iterator[RemoteInvoice]:
        """All invoices that were made at ``since`` or later, ours or not."""

    def add_item(self, item: Item, *, key: str) -> str:
        """The new line's id."""

    def find_item(self, reference: UUID, *, stripe_invoice_id: str) -> str | None:
        """The id of the invoice's line that carries the reference."""

    def finalise(self, stripe_invoice_id: str, *, key: str) -> None:
        """A draft becomes open, or paid where nothing is due."""

    def send(self, stripe_invoice_id: str, *, key: str) -> None:
        """Mail it to the customer."""

    def void(self, stripe_invoice_id: str, *, key: str) -> None:
        """It is owed no longer."""

    def delete_draft(self, stripe_invoice_id: str, *, key: str) -> None:
        """A draft goes away; it has never been owed."""

    def mark_paid(self, stripe_invoice_id: str, *, key: str) -> None:
        """It was paid some other way."""

    def mark_uncollectible(self, stripe_invoice_id: str, *, key: str) -> None:
        """Its money is not expected any more."""

    def create_credit_note(self, credit: Credit, *, key: str) -> str:
        """The new credit note's id."""

    def find_credit_note(self, reference: UUID, *, stripe_invoice_id: str) -> str | None:
        """The id of the invoice's credit note that carries the reference."""


def units_of(amount: Decimal, currency: str) -> int:
    """The amount in the service's units: 12.34 USD is 1234, 500 JPY is 500, 500 ISK is 50000, 1.230 KWD is 1230.

    Raises ``NotPayable`` where that is not exact, rather than ask for another amount than the invoice says.
    """
    decimals = WRITTEN_WITH.get(currency, decimals_of(currency))
    units = amount.scaleb(decimals)
    step = 10 if decimals == 3 else 1
    if units % step:
        smallest = Decimal(step).scaleb(-decimals)
        raise NotPayable(f"Stripe takes {currency} in steps of {smallest}, and {amount.normalize():f} is not one.")
    return int(units)
