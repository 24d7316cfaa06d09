"""Stripe itself, with a test key of your own: what the fake can't show is that Stripe agrees. Not part of the suite.

STRIPE_LIVE_TEST_KEY=sk_test_… .venv-dev/bin/python -m pytest -m stripe_live billing/tests/test_stripe_live.py
"""

import os
import uuid

import pytest
from pytest_django import Settings

from billing.models import OutboxMessage
from billing.tests.test_sending import STEPS, draft, gateway, move, send, steps_of

pytestmark = [pytest.mark.django_db, pytest.mark.stripe_live]


@pytest.fixture(autouse=True)
def stripe(settings: Settings) -> None:
    key = os.environ.get("STRIPE_LIVE_TEST_KEY", "")
    if not key.startswith(("sk_test_", "rk_test_")):
        pytest.skip("STRIPE_LIVE_TEST_KEY is not a test key of Stripe's")
    settings.STRIPE_API_KEY = key
    settings.INVOICE_NUMBER_PREFIX = f"T{uuid.uuid4().hex[:12]}-"


def test_an_invoice_goes_all_the_way_and_is_found_as_we_left_it() -> None:
    invoice = move(draft(), "open")
    send()
    assert steps_of(invoice) == [(step, "done") for step in STEPS], OutboxMessage.objects.exclude(last_error="").first()
    invoice.refresh_from_db()
    there = gateway().get_invoice(invoice.stripe_invoice_id)
    assert there is not None
    assert (there.status, there.total, there.currency) == ("open", 667, "USD")
    create = OutboxMessage.objects.get(step="create")
    assert gateway().find_invoice(create.reference, since=invoice.created_at) == there
    for item in OutboxMessage.objects.filter(step="item"):
        assert gateway().find_item(item.reference, stripe_invoice_id=there.stripe_id)

    move(invoice, "void")
    send()
    there = gateway().get_invoice(invoice.stripe_invoice_id)
    assert there is not None
    assert there.status == "void"
