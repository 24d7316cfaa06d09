"""Stripe's webhook, from a signed request to what became of the invoice."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from billing.models import BilledRange, Invoice, OutboxMessage, StripeEvent
from billing.tests.fake_stripe import API_KEY, FakeStripe
from billing.tests.test_sending import draft, move, send

pytestmark = pytest.mark.django_db

HOOK = "/api/billing/stripe/webhook"


@pytest.fixture
def sent(stripe: FakeStripe) -> Invoice:
    """An invoice that Stripe has, none of whose events has come yet."""
    invoice = move(draft(), "open")
    send()
    return invoice


def post(body: bytes, signature: str) -> Any:
    return Client().post(HOOK, body, content_type="application/json", headers={"Stripe-Signature": signature})


def deliver(stripe: FakeStripe, event: dict[str, Any]) -> None:
    answer = post(*stripe.signed(event))
    assert (answer.status_code, answer.content) == (204, b"")


def at_stripe(stripe: FakeStripe, invoice: Invoice, what: str) -> dict[str, Any]:
    """Do something in Stripe's dashboard. Returns the event that it makes."""
    invoice.refresh_from_db()
    path = f"/v1/invoices/{invoice.stripe_invoice_id}/{what}"
    answer = stripe.handle("POST", path, "", {"Authorization": f"Bearer {API_KEY}"})
    assert answer is not None
    assert answer[0] == 200
    return stripe.events[-1]


def status_of(invoice: Invoice) -> str:
    invoice.refresh_from_db()
    return str(invoice.status)


@pytest.mark.parametrize(
    ("what", "status"), [("pay", "paid"), ("void", "void"), ("mark_uncollectible", "uncollectible")]
)
def test_what_happens_at_stripe_moves_our_invoice(stripe: FakeStripe, sent: Invoice, what: str, status: str) -> None:
    deliver(stripe, at_stripe(stripe, sent, what))
    assert status_of(sent) == status
    assert sent.settled_at is not None
    event = StripeEvent.objects.get()
    assert (event.invoice, event.outcome) == (sent, f"the invoice is {status}")
    assert BilledRange.objects.filter(released_at__isnull=True).exists() == (status != "void")
    # Stripe is not told what it told us.
    assert not OutboxMessage.objects.exclude(status="done").exists()


def test_an_event_that_comes_again_is_stored_once_and_does_nothing(stripe: FakeStripe, sent: Invoice) -> None:
    paid = at_stripe(stripe, sent, "pay")
    for _ in range(3):
        deliver(stripe, paid)
    assert StripeEvent.objects.count() == 1
    deliver(stripe, {**paid, "id": "evt_again"})
    assert StripeEvent.objects.get(stripe_id="evt_again").outcome == "known already"


def test_events_may_come_in_any_order_and_before_our_own_sender_has_noted_its_step(stripe: FakeStripe) -> None:
    invoice = move(draft(), "open")
    send()
    created, finalised, mailed = stripe.events
    paid = at_stripe(stripe, invoice, "pay")
    # As if the sender had been killed over the call: Stripe has the invoice, and we have not noted which one it is.
    Invoice.objects.filter(pk=invoice.pk).update(stripe_invoice_id="")
    for event in (paid, mailed, finalised, created):
        deliver(stripe, event)
    assert status_of(invoice) == "paid"
    assert StripeEvent.objects.filter(invoice=invoice).count() == 4


def test_a_late_event_that_our_invoice_no_longer_allows_is_kept_with_its_reason(
    stripe: FakeStripe, sent: Invoice
) -> None:
    paid = at_stripe(stripe, sent, "pay")
    move(sent, "void")
    deliver(stripe, paid)
    assert status_of(sent) == "void"
    assert "is void; it can" in StripeEvent.objects.get().outcome


def test_events_about_other_things_are_stored_and_change_nothing(stripe: FakeStripe, sent: Invoice) -> None:
    foreign = {**stripe.things[sent_id(sent)], "metadata": {}}
    stripe.tell("invoice.paid", foreign)
    stripe.tell("invoice.paid", {**foreign, "metadata": {"gpufleet_reference": "not a reference"}})
    stripe.tell("customer.created", {"id": "cus_9", "object": "customer"})
    for event in stripe.events[-3:]:
        deliver(stripe, event)
    assert status_of(sent) == "open"
    assert set(StripeEvent.objects.values_list("outcome", flat=True)) == {"not about an invoice of ours"}
    assert not StripeEvent.objects.filter(invoice__isnull=False).exists()


def sent_id(invoice: Invoice) -> str:
    invoice.refresh_from_db()
    return invoice.stripe_invoice_id


def test_what_stripe_did_not_sign_or_signed_too_long_ago_is_refused(stripe: FakeStripe, sent: Invoice) -> None:
    paid = at_stripe(stripe, sent, "pay")
    body, signature = stripe.signed(paid)
    now = timezone.now().timestamp()
    forgeries = [
        (body, ""),
        (body, "t=1,v1=00"),
        (body.replace(b"invoice.paid", b"invoice.sent"), signature),
        stripe.signed(paid, secret="whsec_other"),
        stripe.signed(paid, at=now - 301),
        (b"\xff", signature),
    ]
    for forged, mark in forgeries:
        answer = post(forged, mark)
        assert answer.status_code == 401
        assert answer["Content-Type"] == "application/problem+json"
        assert answer["WWW-Authenticate"] == "Stripe-Signature"
    assert not StripeEvent.objects.exists()
    assert status_of(sent) == "open"
    assert post(*stripe.signed(paid, at=now - 290)).status_code == 204


def test_a_signed_body_that_is_no_event_is_refused_and_never_a_500(stripe: FakeStripe) -> None:
    half = {"id": "evt_1", "object": "event", "type": "invoice.paid"}
    things: list[Any] = [{}, [], "x", half, {"object": "event"}]
    for thing in things:
        body, signature = stripe.signed(thing)
        assert post(body, signature).status_code == 401, thing
    assert not StripeEvent.objects.exists()


def test_without_a_secret_nothing_is_believed(stripe: FakeStripe, sent: Invoice, settings: Settings) -> None:
    settings.STRIPE_WEBHOOK_SECRET = ""
    answer = post(*stripe.signed(at_stripe(stripe, sent, "pay"), secret=""))
    assert answer.status_code == 401
    assert "STRIPE_WEBHOOK_SECRET" in json.loads(answer.content)["detail"]


def test_a_mail_that_stripe_says_it_sent_is_not_sent_again(stripe: FakeStripe) -> None:
    invoice = move(draft(), "open")
    stripe.fail("send$", "after")
    send()
    deliver(stripe, stripe.events[-1])
    send(after=timedelta(minutes=5))
    assert [event["type"] for event in stripe.events].count("invoice.sent") == 1
    assert OutboxMessage.objects.get(invoice=invoice, step="send").result == "sent already"
