"""The floor's own periodic work."""

from celery import shared_task
from django.utils import timezone

from gpufleet.common import idempotency


@shared_task(name="common.expire_idempotent_responses")  # type: ignore[untyped-decorator]  # Celery has no types
def expire_idempotent_responses() -> None:
    """Hourly: forget the answers that may no longer be replayed."""
    idempotency.expire_responses(now=timezone.now())
