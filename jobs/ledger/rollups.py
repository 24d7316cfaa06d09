"""The daily rollup: sums of whole past days that say exactly what the ledger's ranges say.

A day is announced first, in a transaction of its own; from then on whoever changes its past deletes the announcement
(triggers do, in the change's own transaction). Once every transaction that could not yet see the announcement has
ended, the day is computed and kept, with its row locked: a change in the meantime waits, and then takes the day back.
So a report may trust every day that is marked, at any instant, and a process may be killed between any two steps.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from django.db import OperationalError, connection, transaction

from jobs.ledger.reading import BLOCK, DAY, days_of, parameters_of, with_demand
from jobs.ledger.shapes import By, Scope
from jobs.ledger.statements import KEEP_BLOCK, KEEP_GPUS, KEEP_SALES
from jobs.models import GpuBlock, GpuDay, LedgerBlock, LedgerDay, SalesDay

# A day is left alone for a while after its end: heartbeats that stopped before midnight are noticed after it.
SETTLES_IN: Final = timedelta(minutes=15)
# How many days back the rollup reaches; older ones are computed from the ranges.
REACH: Final = 400
DAYS_AT_ONCE: Final = 120
PATIENCE: Final = "2s"

LEDGER: Final = ("jobs_allocation", "jobs_waitperiod", "jobs_kindwait", "clusters_gpustateperiod", "clusters_gpu")
FIRST: Final = "SELECT min(lower(during)) FROM clusters_gpustateperiod"


def roll_up(*, now: datetime, cuts: Collection[datetime] = (), most: int = DAYS_AT_ONCE) -> int:
    """Roll up past days that are not, the newest first. Returns how many it did; the next call does what is left.

    Days are cut at ``cuts``, so that a report that cuts them there needs no more than the rollup. A day that was rolled
    up without one of its cuts is done again.
    """
    wanted = cuts_by_day(cuts)
    days = missing_days(wanted, now=now)[:most]
    kept = _roll_up_days(days, wanted, now=now) if days else 0
    for first_day in missing_blocks():
        _keep_block(first_day, now=now)
    return kept


def missing_blocks() -> list[date]:
    """The first days of the blocks that are not summed up, though all of their days are rolled up; newest first."""
    rolled = set(LedgerDay.objects.filter(rolled_at__isnull=False).values_list("day", flat=True))
    made = set(LedgerBlock.objects.values_list("first_day", flat=True))
    firsts = {first_day_of(day) for day in rolled} - made
    return sorted((first for first in firsts if set(days_of(first)) <= rolled), reverse=True)


def first_day_of(day: date) -> date:
    """The first day of the block that the day is in: blocks are counted from the calendar's first day."""
    return day - day.toordinal() % (BLOCK // DAY) * DAY


def _roll_up_days(days: Collection[date], wanted: Mapping[date, list[datetime]], *, now: datetime) -> int:
    markers = [LedgerDay(day=day, cuts=wanted.get(day, [])) for day in days]
    LedgerDay.objects.bulk_create(
        markers, update_conflicts=True, unique_fields=["day"], update_fields=["cuts", "rolled_at"]
    )
    try:
        _await_writers()
    except OperationalError:  # Somebody holds a table longer than anyone should wait; the days stay announced.
        return 0
    return sum(_keep(day, now=now) for day in days)


def cuts_by_day(cuts: Iterable[datetime]) -> dict[date, list[datetime]]:
    """The cuts of each UTC day, in order; a cut at midnight cuts no day."""
    wanted: dict[date, list[datetime]] = {}
    for cut in sorted({cut.astimezone(UTC) for cut in cuts}):
        if cut.time() != time.min:
            wanted.setdefault(cut.date(), []).append(cut)
    return wanted


def missing_days(cuts: Mapping[date, Collection[datetime]], *, now: datetime) -> list[date]:
    """The past days since the ledger began, within reach, that are not rolled up, or without a cut; newest first."""
    with connection.cursor() as cursor:
        cursor.execute(FIRST)
        (began,) = cursor.fetchone()
    if began is None:
        return []
    end = (now - SETTLES_IN).astimezone(UTC).date()
    begin = max(began.astimezone(UTC).date(), end - REACH * DAY)
    rolled = dict(LedgerDay.objects.filter(rolled_at__isnull=False).values_list("day", "cuts"))
    return [
        day for day in _backwards(begin, end) if day not in rolled or not set(cuts.get(day, ())) <= set(rolled[day])
    ]


def _backwards(begin: date, end: date) -> Iterable[date]:
    while end > begin:
        end -= DAY
        yield end


def _await_writers() -> None:
    """Wait until each transaction that has written to the ledger, and may not have seen the announcement, has ended.

    One table at a time, so that this never holds one lock while it waits for another.
    """
    for table in LEDGER:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [PATIENCE])
            cursor.execute(f"LOCK TABLE {table} IN SHARE MODE")


@transaction.atomic
def _keep(day: date, *, now: datetime) -> bool:
    """Compute and keep one announced day. False when it is not announced any more, or somebody else is at it."""
    marker = LedgerDay.objects.select_for_update(skip_locked=True).filter(day=day, rolled_at__isnull=True).first()
    if marker is None:
        return False
    start = datetime.combine(day, time.min, UTC)
    scope = Scope(start, start + DAY, cuts=marker.cuts)
    GpuDay.objects.filter(start__gte=scope.start, start__lt=scope.end).delete()
    SalesDay.objects.filter(start__gte=scope.start, start__lt=scope.end).delete()
    parameters = parameters_of(scope, [By.DAY], {})
    with connection.cursor() as cursor:
        cursor.execute(KEEP_GPUS, with_demand(parameters))
        cursor.execute(KEEP_SALES, parameters)
    # The block's own rows stay until it is summed up anew: a report that saw its marker may be about to read them.
    LedgerBlock.objects.filter(first_day=first_day_of(day)).delete()
    marker.rolled_at = now
    marker.save(update_fields=["rolled_at"])
    return True


@transaction.atomic
def _keep_block(first_day: date, *, now: datetime) -> None:
    """Sum up ten rolled days, with their rows locked: a change in the meantime waits, and then takes its day back."""
    days = LedgerDay.objects.select_for_update().filter(day__in=days_of(first_day), rolled_at__isnull=False)
    if len(days.order_by("day")) < BLOCK // DAY:
        return
    start = datetime.combine(first_day, time.min, UTC)
    GpuBlock.objects.filter(first_day=first_day).delete()
    with connection.cursor() as cursor:
        cursor.execute(KEEP_BLOCK, {"first_day": first_day, "start": start, "end": start + BLOCK})
    LedgerBlock.objects.update_or_create(first_day=first_day, defaults={"rolled_at": now})
