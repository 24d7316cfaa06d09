"""kill -9 between every two steps of finalise-and-send, then recovery: one invoice at Stripe, with the right total."""

import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest

from billing.models import Invoice, OutboxMessage
from billing.services.outbox import LEASE
from billing.tests.fake_stripe import API_KEY, FakeStripe
from billing.tests.test_sending import assert_sent, draft, send
from gpufleet.common.failpoints import VARIABLE
from gpufleet.common.tests.processes import database_url

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

STEPS = ("customer", "create", "item", "finalise", "send")
# After Stripe acted and before that is noted; and after it is noted, before the next step begins.
PLACES = [f"outbox.{step}.{place}" for step in STEPS for place in ("done", "recorded")]
FIRST = ["invoice.moving", "invoice.moved"]


def run_sender(invoice: Invoice, stripe: FakeStripe, place: str) -> int:
    """A process that finalises and sends. Returns how it ended."""
    surroundings = {
        **os.environ,
        "DATABASE_URL": database_url(),
        "STRIPE_API_KEY": API_KEY,
        "STRIPE_API_BASE": stripe.url,
        VARIABLE: place,
    }
    command = [sys.executable, "-m", "billing.tests.sender_process", str(invoice.pk)]
    return subprocess.run(command, env=surroundings, timeout=60, check=False).returncode


@pytest.mark.parametrize("place", [*FIRST, *PLACES])
def test_a_sender_that_is_killed_anywhere_leaves_one_right_invoice(stripe: FakeStripe, place: str) -> None:
    invoice = draft()
    assert run_sender(invoice, stripe, place) == -signal.SIGKILL
    if place == FIRST[0]:
        invoice.refresh_from_db()
        assert (invoice.status, OutboxMessage.objects.count()) == ("draft", 0)
        assert run_sender(invoice, stripe, "") == 0
    send(after=LEASE + timedelta(seconds=1))
    assert_sent(invoice, stripe)
