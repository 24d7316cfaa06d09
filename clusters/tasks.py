"""The clusters' periodic work; the times are in the one beat table."""

from celery import shared_task
from django.utils import timezone

from clusters import forwarding, rollups, services


@shared_task(name="clusters.sweep_silent_nodes")  # type: ignore[untyped-decorator]  # Celery has no types
def sweep_silent_nodes() -> None:
    """Every 15 seconds: nodes whose heartbeats stopped."""
    services.sweep_silent_nodes(now=timezone.now())


@shared_task(name="clusters.maintain_partitions")  # type: ignore[untyped-decorator]  # Celery has no types
def maintain_partitions() -> None:
    """Hourly: partitions of the coming days, and an end to those past their time."""
    rollups.maintain_partitions(now=timezone.now())


@shared_task(name="clusters.roll_up_metrics")  # type: ignore[untyped-decorator]  # Celery has no types
def roll_up_metrics() -> None:
    """Every five minutes: the hours that are over, and those with late samples."""
    rollups.roll_up(now=timezone.now())


@shared_task(name="clusters.forward_samples")  # type: ignore[untyped-decorator]  # Celery has no types
def forward_samples() -> None:
    """Every 15 seconds: samples to ``REMOTE_WRITE_URL``, if there is one."""
    forwarding.forward_samples()
