"""A Stripe for the tests that need one."""

from collections.abc import Iterator

import pytest
from pytest_django import Settings

from billing.tests.fake_stripe import API_KEY, SECRET, FakeStripe, fake_stripe


@pytest.fixture
def stripe(settings: Settings) -> Iterator[FakeStripe]:
    """A fake Stripe that the settings point at."""
    with fake_stripe() as server:
        settings.STRIPE_API_KEY, settings.STRIPE_API_BASE = API_KEY, server.url
        settings.STRIPE_WEBHOOK_SECRET = SECRET
        yield server
