from celery import shared_task
from django.utils import timezone

from alerts import services


@shared_task(name="alerts.evaluate")  # type: ignore[untyped-decorator]  # celery is untyped
def evaluate() -> None:
    """Every 30 s: move incidents on."""
    services.evaluate_rules(now=timezone.now())
