"""What billing does by the clock."""

from datetime import timedelta

import pytest
from django.utils import timezone
from pytest_django import Settings

from billing import tasks
from billing.models import CreditNote, OutboxMessage, StripeDifference
from billing.services import create_invoice
from billing.tests.factories import make_rate, sell
from billing.tests.fake_stripe import FakeStripe
from billing.tests.test_sending import assert_sent, draft, move
from billing.tests.test_service_levels import fail, make_rule
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db


def test_the_beat_sends_what_is_due(stripe: FakeStripe) -> None:
    invoice = move(draft(), "open")
    tasks.send_outbox()
    assert_sent(invoice, stripe)


def test_without_a_key_what_waits_stays_as_it_is(stripe: FakeStripe, settings: Settings) -> None:
    move(draft(), "open")
    settings.STRIPE_API_KEY = ""
    tasks.send_outbox()
    tasks.compare_with_stripe()
    assert set(OutboxMessage.objects.values_list("status", "attempts")) == {("pending", 0)}
    assert stripe.calls == []


def test_the_night_lists_what_stripe_says_differently(stripe: FakeStripe) -> None:
    move(draft(), "open")
    tasks.send_outbox()
    OutboxMessage.objects.update(done_at=timezone.now() - timedelta(hours=2))
    stripe.of("invoice")[0]["status"] = "void"
    tasks.compare_with_stripe()
    difference = StripeDifference.objects.get()
    assert (difference.what, difference.ours, difference.theirs) == ("status", "open", "void")


def test_the_hour_raises_what_service_levels_promise() -> None:
    acme, now = alice(), timezone.now()
    start, end = now - timedelta(hours=3), now - timedelta(hours=1)
    make_rule(now=start)
    fail(sell(acme, start, end, rate=make_rate()).gpu, start, end)
    drafted = create_invoice(tenant_id=acme.pk, start=start, end=end, created_by="test", now=now)
    move(drafted, "open")
    tasks.raise_service_level_credits()
    assert CreditNote.objects.get().invoice == drafted
