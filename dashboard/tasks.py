"""What beat does for the console."""

from celery import shared_task
from django.utils import timezone

from dashboard import kept, money_pages, period


@shared_task(name="dashboard.keep_figures")  # type: ignore[untyped-decorator]  # Celery has no types
def keep_figures() -> None:
    """Every minute: make anew what people look at and takes longer than a page may."""
    kept.keep_watched({**period.MAKERS, **money_pages.makers()}, clock=timezone.now)
