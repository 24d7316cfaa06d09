"""Invoices on their way through Stripe: the outbox, its sender, and what Stripe has in the end."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from billing import services
from billing.gateway import Gateway
from billing.models import Invoice, OutboxMessage, StripeCustomer
from billing.services import NothingToRetry, NotSendable
from billing.services.outbox import KEY_LIFE, MOST_ATTEMPTS, wait_after
from billing.stripe_gateway import configured_gateway
from billing.tests.factories import make_rate, sell
from billing.tests.fake_stripe import API_KEY, FakeStripe, fake_stripe
from tenants.models import Tenant
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db

MAIL = "pay@acme.example"
STEPS = ["customer", "create", "item", "item", "finalise", "send"]


def gateway() -> Gateway:
    found = configured_gateway()
    assert found is not None
    return found


def draft(tenant: Tenant | None = None) -> Invoice:
    """Two lines: 3 h of an H100 at 2.00 and 2 h of an L4 at 0.333333."""
    tenant, now = tenant or alice(contact_email=MAIL), timezone.now()
    for model, price, length in (("H100", "2.00", 3), ("L4", "0.333333", 2)):
        end = now - timedelta(minutes=10)
        rate = make_rate(model, price, currency=tenant.currency)
        sell(tenant, end - timedelta(hours=length), end, rate=rate)
    start = now - timedelta(days=1)
    return services.create_invoice(tenant_id=tenant.pk, start=start, end=now, created_by="test", now=now)


def draft_of_an_hour(tenant: Tenant, model: str, now: datetime) -> Invoice:
    sell(tenant, now - timedelta(hours=30), now - timedelta(hours=29), rate=make_rate(model))
    start = now - timedelta(days=2)
    return services.create_invoice(tenant_id=tenant.pk, start=start, end=now, created_by="test", now=now)


def move(invoice: Invoice, to: str) -> Invoice:
    return services.move_invoice(invoice_id=invoice.pk, to=to, actor="test", now=timezone.now())


def send(after: timedelta = timedelta(0)) -> None:
    """All that is due once so much time has passed."""
    for _ in range(50):
        if not services.send_next(gateway(), now=timezone.now() + after):
            return
    raise AssertionError("the outbox never rests")


def steps_of(invoice: Invoice) -> list[tuple[str, str]]:
    return list(OutboxMessage.objects.filter(invoice=invoice).order_by("pk").values_list("step", "status"))


def only_invoice(stripe: FakeStripe) -> dict[str, Any]:
    (there,) = stripe.of("invoice")
    return there


def assert_sent(invoice: Invoice, stripe: FakeStripe) -> None:
    """One customer, one open invoice with our number and total, a line each, mailed once."""
    invoice.refresh_from_db()
    there = only_invoice(stripe)
    assert (there["id"], there["status"]) == (invoice.stripe_invoice_id, "open")
    assert there["number"] == f"GF-{invoice.number}"
    assert there["total"] == int(invoice.total * 100) == 667
    assert sorted(item["amount"] for item in stripe.of("invoiceitem")) == [67, 600]
    assert len(stripe.of("customer")) == 1
    assert [event["type"] for event in stripe.events].count("invoice.sent") == 1
    assert steps_of(invoice) == [(step, "done") for step in STEPS]


def test_finalising_sends_an_invoice_with_a_line_each(stripe: FakeStripe) -> None:
    invoice = draft()
    assert not OutboxMessage.objects.exists()
    move(invoice, "open")
    assert steps_of(invoice) == [(step, "pending") for step in STEPS]
    send()
    assert_sent(invoice, stripe)
    there = only_invoice(stripe)
    invoice.refresh_from_db()
    assert invoice.due_at is not None
    assert int(there["due_date"]) == int(invoice.due_at.timestamp())
    assert there["collection_method"] == "send_invoice"
    (customer,) = stripe.of("customer")
    assert (customer["name"], customer["email"]) == (invoice.tenant.name, invoice.tenant.contact_email)
    (item,) = [item for item in stripe.of("invoiceitem") if item["amount"] == 600]
    assert item["description"] == "H100: 3.00 GPU-hours (10,800 s) at 2 USD per GPU-hour"


def test_without_a_key_all_but_sending_works_and_it_says_so() -> None:
    invoice = move(draft(), "open")
    assert not OutboxMessage.objects.exists()
    with pytest.raises(NotSendable, match="STRIPE_API_KEY"):
        services.send_invoice(invoice_id=invoice.pk, actor="test", now=timezone.now())
    assert move(invoice, "paid").status == "paid"
    assert not OutboxMessage.objects.exists()


def test_an_invoice_of_before_there_was_a_key_is_sent_by_hand_and_once(settings: Settings) -> None:
    invoice = move(draft(), "open")
    with fake_stripe() as stripe:
        settings.STRIPE_API_KEY, settings.STRIPE_API_BASE = API_KEY, stripe.url
        for _ in range(2):
            services.send_invoice(invoice_id=invoice.pk, actor="test", now=timezone.now())
            send()
        assert_sent(invoice, stripe)


@pytest.mark.parametrize(
    ("fields", "price", "says"),
    [({"contact_email": ""}, "2.00", "e-mail"), ({}, "0", "nothing to pay"), ({"currency": "KWD"}, "1.2345", "0.01")],
)
def test_what_stripe_can_not_take_is_finalised_and_not_sent(
    stripe: FakeStripe, fields: dict[str, str], price: str, says: str
) -> None:
    acme, now = alice(**{"contact_email": MAIL, **fields}), timezone.now()
    sell(acme, now - timedelta(hours=2), now - timedelta(hours=1), rate=make_rate(price=price, currency=acme.currency))
    start = now - timedelta(days=1)
    invoice = services.create_invoice(tenant_id=acme.pk, start=start, end=now, created_by="test", now=now)
    assert move(invoice, "open").number == 1
    assert not OutboxMessage.objects.exists()
    with pytest.raises(NotSendable, match=says):
        services.send_invoice(invoice_id=invoice.pk, actor="test", now=now)


@pytest.mark.parametrize("how", ["before", "after", "cut", "deaf", "busy"])
@pytest.mark.parametrize(
    "path", ["customers$", "invoices$", "invoiceitems$", "finalize$", "send$"], ids=lambda path: path.strip("$")
)
def test_whatever_call_fails_in_whatever_way_one_invoice_is_there_in_the_end(
    stripe: FakeStripe, path: str, how: str
) -> None:
    stripe.fail(path, how)
    invoice = move(draft(), "open")
    send()
    (waiting,) = OutboxMessage.objects.exclude(last_error="")
    assert (waiting.status, waiting.attempts, waiting.uncertain) == ("pending", 1, how in ("before", "after"))
    send()  # Too early: nothing is due.
    assert OutboxMessage.objects.exclude(last_error="").exists()
    send(after=wait_after(1) + timedelta(seconds=1))
    if (path, how) == ("send$", "after"):
        # Stripe's invoice does not say that it was mailed. Until its event comes, a second mail is the lesser evil.
        stripe.events = stripe.events[:-1]
    assert_sent(invoice, stripe)
    assert not stripe.faults


@pytest.mark.parametrize("path", ["invoices$", "invoiceitems$", "finalize$"])
def test_a_call_that_acted_unseen_is_found_again_after_stripe_forgot_its_key(stripe: FakeStripe, path: str) -> None:
    stripe.fail(path, "cut")
    invoice = move(draft(), "open")
    send()
    stripe.forget_keys()
    send(after=KEY_LIFE + timedelta(minutes=1))
    assert_sent(invoice, stripe)


def test_a_step_that_is_refused_is_a_dead_letter_and_holds_up_its_own_invoice_alone(stripe: FakeStripe) -> None:
    squatter = {"number": "GF-1", "status": "open", "total": 0, "currency": "usd", "customer": "cus_1"}
    stripe.new("invoice", "in", **squatter)
    first, second = move(draft(), "open"), move(draft(bob(contact_email=MAIL)), "open")
    send()
    assert dict(steps_of(first))["create"] == "dead"
    assert dict(steps_of(second))["send"] == "done"
    dead = OutboxMessage.objects.get(status="dead")
    assert "GF-1 is taken" in dead.last_error
    send(after=timedelta(days=2))
    dead.refresh_from_db()
    assert (dead.status, dead.attempts) == ("dead", 1)

    stripe.things = {key: thing for key, thing in stripe.things.items() if thing.get("customer") != "cus_1"}
    services.send_invoice(invoice_id=first.pk, actor="test", now=timezone.now())
    send()
    assert steps_of(first) == [(step, "done") for step in STEPS]
    with pytest.raises(NothingToRetry):
        services.retry_steps(message_ids=[dead.pk], actor="test", now=timezone.now())


def test_a_stripe_that_stays_away_is_given_up_and_everything_can_be_tried_again(stripe: FakeStripe) -> None:
    invoice = move(draft(), "open")
    waited = timedelta(0)
    for attempt in range(1, MOST_ATTEMPTS + 1):
        stripe.fail("customers$", "deaf")
        send(after=waited)
        waited += wait_after(attempt) + timedelta(seconds=1)
    message = OutboxMessage.objects.get(step="customer")
    assert (message.status, message.attempts) == ("dead", MOST_ATTEMPTS)
    assert timedelta(days=1) < waited < timedelta(days=2)
    services.retry_steps(message_ids=[message.pk], actor="test", now=timezone.now())
    send()
    assert_sent(invoice, stripe)


def test_what_stripe_adds_up_differently_is_not_finalised(stripe: FakeStripe) -> None:
    invoice = move(draft(), "open")
    for _ in range(4):
        services.send_next(gateway(), now=timezone.now())
    only_invoice(stripe)["total"] += 1
    send()
    assert dict(steps_of(invoice))["finalise"] == "dead"
    assert only_invoice(stripe)["status"] == "draft"
    assert "668 USD where we have 667 USD" in OutboxMessage.objects.get(status="dead").last_error


def test_a_tenant_is_one_customer_and_keeps_its_name_and_mail_up_to_date(stripe: FakeStripe) -> None:
    acme = alice(contact_email=MAIL)
    move(draft(acme), "open")
    send()
    Tenant.objects.filter(pk=acme.pk).update(contact_email="new@acme.example")
    acme.refresh_from_db()
    now = timezone.now()
    again = draft_of_an_hour(acme, "B200", now)
    move(again, "open")
    send()
    (customer,) = stripe.of("customer")
    assert customer["email"] == "new@acme.example"
    assert StripeCustomer.objects.get().stripe_id == customer["id"]
    assert {invoice["customer"] for invoice in stripe.of("invoice")} == {customer["id"]}


def test_a_customer_that_was_deleted_at_stripe_is_made_anew(stripe: FakeStripe) -> None:
    acme = alice(contact_email=MAIL)
    move(draft(acme), "open")
    send()
    (gone,) = stripe.of("customer")
    del stripe.things[gone["id"]]
    now = timezone.now()
    again = draft_of_an_hour(acme, "B200", now)
    move(again, "open")
    move(draft_of_an_hour(acme, "L40S", now), "open")
    stripe.fail("customers$", "cut")
    send()
    send(after=timedelta(minutes=5))
    (customer,) = stripe.of("customer")
    assert customer["id"] != gone["id"]
    assert [invoice["customer"] for invoice in stripe.of("invoice")] == [gone["id"], customer["id"], customer["id"]]
    assert StripeCustomer.objects.get().stripe_id == customer["id"]


@pytest.mark.parametrize(("to", "there"), [("paid", "paid"), ("uncollectible", "uncollectible"), ("void", "void")])
def test_what_finance_does_by_hand_stripe_hears(stripe: FakeStripe, to: str, there: str) -> None:
    invoice = move(draft(), "open")
    send()
    move(invoice, to)
    send()
    assert only_invoice(stripe)["status"] == there
    assert not OutboxMessage.objects.exclude(status="done").exists()


@pytest.mark.parametrize("sent", range(len(STEPS)))
def test_an_invoice_that_is_voided_on_its_way_is_owed_nowhere(stripe: FakeStripe, sent: int) -> None:
    invoice = move(draft(), "open")
    for _ in range(sent):
        services.send_next(gateway(), now=timezone.now())
    move(invoice, "void")
    send()
    assert [there["status"] for there in stripe.of("invoice")] == (["void"] if sent == 5 else [])
    assert not OutboxMessage.objects.exclude(status="done").exists()
    assert "invoice.sent" not in [event["type"] for event in stripe.events]


def test_a_draft_that_was_made_unseen_is_deleted_when_its_invoice_is_voided(stripe: FakeStripe) -> None:
    invoice = move(draft(), "open")
    stripe.fail("invoices$", "cut")
    send()
    move(invoice, "void")
    send(after=timedelta(hours=1))
    assert stripe.of("invoice") == []
    assert not OutboxMessage.objects.exclude(status="done").exists()


@pytest.mark.parametrize("paid", [False, True])
def test_an_issued_credit_note_goes_to_stripe_as_well(stripe: FakeStripe, paid: bool) -> None:
    invoice = move(draft(), "open")
    send()
    if paid:
        move(invoice, "paid")
        send()
    now = timezone.now()
    note = services.draft_credit_note(
        invoice_id=invoice.pk, amount=Decimal("1.50"), reason="a slow night", created_by="test", now=now
    )
    assert not OutboxMessage.objects.filter(step="credit").exists()
    services.issue_credit_note(credit_note_id=note.pk, actor="test", now=now)
    stripe.fail("credit_notes$", "after")
    send()
    send(after=timedelta(minutes=5))
    (there,) = stripe.of("credit_note")
    assert (there["amount"], there["memo"]) == (150, "a slow night")
    assert ("credit_amount" in there) == paid
