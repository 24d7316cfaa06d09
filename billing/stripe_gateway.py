"""Stripe, through its official library: the only file that imports it.

The library retries nothing by itself: the outbox does, across restarts, and knows what may be repeated.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import stripe
from django.conf import settings

from billing.gateway import (
    BadSignature,
    Credit,
    Customer,
    Draft,
    Gateway,
    Item,
    Missing,
    Refused,
    RemoteEvent,
    RemoteInvoice,
    Uncertain,
    Unreachable,
)

TIMEOUT_SECONDS = 20
# Source: https://docs.stripe.com/webhooks#replay-attacks: the library's own default.
TOLERANCE_SECONDS = 300
REFERENCE = "gpufleet_reference"
PAGE = 100


def configured_gateway() -> Gateway | None:
    """Stripe, or None while no key is set."""
    return StripeGateway(settings.STRIPE_API_KEY, settings.STRIPE_API_BASE) if settings.STRIPE_API_KEY else None


class StripeGateway:
    """The ``Gateway`` that speaks to Stripe's API at ``api_base``."""

    def __init__(self, api_key: str, api_base: str) -> None:
        self._stripe = stripe.StripeClient(
            api_key,
            base_addresses={"api": api_base},
            max_network_retries=0,
            http_client=stripe.RequestsClient(timeout=TIMEOUT_SECONDS),
        ).v1

    def create_customer(self, customer: Customer, *, key: str) -> str:
        """See ``Gateway``."""
        with _translated():
            made = self._stripe.customers.create(
                {
                    "name": customer.name,
                    "email": customer.email,
                    "metadata": {REFERENCE: str(customer.reference), "gpufleet_tenant": str(customer.tenant_id)},
                },
                {"idempotency_key": key},
            )
        return made.id

    def update_customer(self, customer_id: str, customer: Customer, *, key: str) -> None:
        """See ``Gateway``."""
        with _translated():
            self._stripe.customers.update(
                customer_id, {"name": customer.name, "email": customer.email}, {"idempotency_key": key}
            )

    def find_customer(self, reference: UUID, *, since: datetime) -> str | None:
        """See ``Gateway``."""
        with _translated():
            found = self._stripe.customers.list({"created": {"gte": _seconds(since)}, "limit": PAGE})
            return _carrying(reference, found.auto_paging_iter())

    def create_invoice(self, draft: Draft, *, key: str) -> str:
        """See ``Gateway``."""
        with _translated():
            made = self._stripe.invoices.create(
                {
                    "customer": draft.customer_id,
                    "currency": draft.currency.lower(),
                    "number": draft.number,
                    "collection_method": "send_invoice",
                    "due_date": _seconds(draft.due_at),
                    "auto_advance": False,
                    "pending_invoice_items_behavior": "exclude",
                    "metadata": {REFERENCE: str(draft.reference), "gpufleet_invoice": str(draft.invoice_id)},
                },
                {"idempotency_key": key},
            )
        return made.id

    def find_invoice(self, reference: UUID, *, since: datetime) -> RemoteInvoice | None:
        """See ``Gateway``."""
        return next((one for one in self.list_invoices(since=since) if one.reference == reference), None)

    def get_invoice(self, stripe_invoice_id: str) -> RemoteInvoice | None:
        """See ``Gateway``."""
        try:
            with _translated():
                return _remote(self._stripe.invoices.retrieve(stripe_invoice_id))
        except Missing:
            return None

    def list_invoices(self, *, since: datetime) -> Iterator[RemoteInvoice]:
        """See ``Gateway``."""
        with _translated():
            found = self._stripe.invoices.list({"created": {"gte": _seconds(since)}, "limit": PAGE})
            yield from map(_remote, found.auto_paging_iter())

    def add_item(self, item: Item, *, key: str) -> str:
        """See ``Gateway``."""
        with _translated():
            made = self._stripe.invoice_items.create(
                {
                    "customer": item.customer_id,
                    "invoice": item.stripe_invoice_id,
                    "description": item.description,
                    "amount": item.amount,
                    "currency": item.currency.lower(),
                    "period": {"start": _seconds(item.start), "end": _seconds(item.end)},
                    "metadata": {REFERENCE: str(item.reference)},
                },
                {"idempotency_key": key},
            )
        return made.id

    def find_item(self, reference: UUID, *, stripe_invoice_id: str) -> str | None:
        """See ``Gateway``."""
        with _translated():
            found = self._stripe.invoice_items.list({"invoice": stripe_invoice_id, "limit": PAGE})
            return _carrying(reference, found.auto_paging_iter())

    def finalise(self, stripe_invoice_id: str, *, key: str) -> None:
        """See ``Gateway``."""
        with _translated():
            self._stripe.invoices.finalize_invoice(stripe_invoice_id, {"auto_advance": False}, {"idempotency_key": key})

    def send(self, stripe_invoice_id: str, *, key: str) -> None:
        """See ``Gateway``."""
        with _translated():
            self._stripe.invoices.send_invoice(stripe_invoice_id, {}, {"idempotency_key": key})

    def void(self, stripe_invoice_id: str, *, key: str) -> None:
        """See ``Gateway``."""
        with _translated():
            self._stripe.invoices.void_invoice(stripe_invoice_id, {}, {"idempotency_key": key})

    def delete_draft(self, stripe_invoice_id: str, *, key: str) -> None:
        """See ``Gateway``."""
        with _translated():
            self._stripe.invoices.delete(stripe_invoice_id, {}, {"idempotency_key": key})

    def mark_paid(self, stripe_invoice_id: str, *, key: str) -> None:
        """See ``Gateway``."""
        with _translated():
            self._stripe.invoices.pay(stripe_invoice_id, {"paid_out_of_band": True}, {"idempotency_key": key})

    def mark_uncollectible(self, stripe_invoice_id: str, *, key: str) -> None:
        """See ``Gateway``."""
        with _translated():
            self._stripe.invoices.mark_uncollectible(stripe_invoice_id, {}, {"idempotency_key": key})

    def create_credit_note(self, credit: Credit, *, key: str) -> str:
        """See ``Gateway``."""
        # Of a paid invoice Stripe must be told where the money goes: to the customer's balance.
        params: stripe.params.CreditNoteCreateParams = {
            "invoice": credit.stripe_invoice_id,
            "amount": credit.amount,
            "memo": credit.memo,
            "metadata": {REFERENCE: str(credit.reference)},
        }
        if credit.settled:
            params["credit_amount"] = credit.amount
        with _translated():
            return self._stripe.credit_notes.create(params, {"idempotency_key": key}).id

    def find_credit_note(self, reference: UUID, *, stripe_invoice_id: str) -> str | None:
        """See ``Gateway``."""
        with _translated():
            found = self._stripe.credit_notes.list({"invoice": stripe_invoice_id, "limit": PAGE})
            return _carrying(reference, found.auto_paging_iter())


def read_event(body: bytes, signature: str) -> RemoteEvent:
    """The event of a webhook's body, which needs the signing secret and no API key. Raises ``BadSignature``."""
    try:
        event = stripe.Webhook.construct_event(body, signature, settings.STRIPE_WEBHOOK_SECRET, TOLERANCE_SECONDS)
    except (stripe.SignatureVerificationError, ValueError) as error:
        raise BadSignature(f"Stripe did not sign it, or signed it more than {TOLERANCE_SECONDS} s ago.") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise BadSignature("It is signed, and is no event.") from error
    payload: dict[str, Any] = event.to_dict()
    try:
        thing = payload["data"]["object"]
        invoice = _invoice_in(thing) if thing.get("object") == "invoice" else None
        return RemoteEvent(payload["id"], payload["type"], _moment(payload["created"]), payload, invoice)
    except (AttributeError, KeyError, TypeError) as error:
        raise BadSignature("It is signed, and is no event.") from error


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except stripe.StripeError as error:
        raise _translation(error) from error


def _translation(error: stripe.StripeError) -> Exception:
    says = error.user_message or str(error)
    status = error.http_status
    # Wrong credentials are mended in the settings: what waits then goes on by itself.
    again = (stripe.APIConnectionError, stripe.RateLimitError, stripe.AuthenticationError, stripe.PermissionError)
    if isinstance(error, again) or status == 409 or error.code in ("idempotency_key_in_use", "lock_timeout"):
        return Unreachable(says)
    # An IdempotencyError says that this key was used with other parameters: what it did then can be found.
    if isinstance(error, stripe.IdempotencyError) or status is None or status >= 500:
        return Uncertain(says)
    return Missing(says) if error.code == "resource_missing" else Refused(says)


def _carrying(reference: UUID, found: Iterable[Any]) -> str | None:
    return next((str(one.id) for one in found if _reference(one.metadata) == reference), None)


def _reference(metadata: Any) -> UUID | None:
    # Metadata is anybody's to write in Stripe's dashboard: what is not one of our references is not ours.
    try:
        return UUID(metadata[REFERENCE])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _remote(invoice: Any) -> RemoteInvoice:
    return _invoice_in(invoice.to_dict())


def _invoice_in(thing: Mapping[str, Any]) -> RemoteInvoice:
    return RemoteInvoice(
        stripe_id=thing["id"],
        status=thing["status"],
        total=thing["total"],
        currency=str(thing["currency"]).upper(),
        reference=_reference(thing.get("metadata")),
        number=thing.get("number"),
    )


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
