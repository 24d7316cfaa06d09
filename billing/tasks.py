"""What billing does by the clock: the outbox to Stripe, and the nightly comparison with it."""

from celery import shared_task
from django.utils import timezone

from billing import services
from billing.stripe_gateway import configured_gateway

# One run ends after so many steps, well within a task's time limit; the next beat goes on.
MOST_STEPS = 200


@shared_task(name="billing.send_outbox")  # type: ignore[untyped-decorator]  # celery is untyped
def send_outbox() -> None:
    """Every 30 s: take what is due to Stripe. Nothing is due where no key is set."""
    gateway = configured_gateway()
    if gateway is None:
        return
    for _ in range(MOST_STEPS):
        if not services.send_next(gateway, now=timezone.now()):
            return


@shared_task(name="billing.compare_with_stripe")  # type: ignore[untyped-decorator]  # celery is untyped
def compare_with_stripe() -> None:
    """Every night: list what Stripe and we do not agree on."""
    gateway = configured_gateway()
    if gateway is not None:
        services.compare_with_stripe(gateway, now=timezone.now())


@shared_task(name="billing.raise_service_level_credits")  # type: ignore[untyped-decorator]  # celery is untyped
def raise_service_level_credits() -> None:
    """Every hour: draft credit notes for the faults that service-level rules give something back for."""
    services.raise_service_level_credits(now=timezone.now())
