"""Reads of jobs and of the ledger of allocations."""

from datetime import datetime

from jobs.models import SchedulerCycle


def last_cycle_finished_at() -> datetime | None:
    """When the scheduler last finished a cycle, or None when it never has."""
    return SchedulerCycle.objects.values_list("finished_at", flat=True).first()
