"""What alerts do by the clock."""

from celery import shared_task
from django.utils import timezone

from alerts import services


@shared_task(name="alerts.evaluate")  # type: ignore[untyped-decorator]  # celery is untyped
def evaluate() -> None:
    """Every 30 s: move incidents on, and put what is news into the outbox."""
    services.evaluate_rules(now=timezone.now())


@shared_task(name="alerts.deliver")  # type: ignore[untyped-decorator]  # celery is untyped
def deliver() -> None:
    """Every 10 s: send what is due."""
    services.deliver_due(now=timezone.now())


@shared_task(name="alerts.prune_history")  # type: ignore[untyped-decorator]  # celery is untyped
def prune_history() -> None:
    """Hourly: an end to what is long over."""
    services.prune_history(now=timezone.now())
