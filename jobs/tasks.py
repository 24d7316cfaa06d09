"""The scheduler's tick, and the doorbell that wakes it between two beats."""

import logging
import time

from celery import shared_task
from django.core.cache import cache
from django.utils import timezone
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from jobs import queries, scheduler
from jobs.ledger import rollups

logger = logging.getLogger(__name__)

RUNG = "jobs.doorbell"
RUNG_FOR_SECONDS = 5
# A Redis that does not answer costs its caller a second; it is not asked again for a while, so that who moves many
# jobs at once does not wait for each of them.
LEFT_ALONE_SECONDS = 5.0
_left_alone_until = 0.0
UNREACHABLE = (RedisError, KombuError, OperationalError, OSError)


@shared_task(name="jobs.tick")  # type: ignore[untyped-decorator]  # celery is untyped
def tick() -> None:
    """Every 30 s, and whenever the doorbell rings: one cycle of the scheduler."""
    _forget_ring()
    with scheduler.turn() as mine:
        if mine:
            scheduler.run_cycle_of_process(now=timezone.now())


@shared_task(name="jobs.roll_up_ledger")  # type: ignore[untyped-decorator]  # celery is untyped
def roll_up_ledger() -> None:
    """Every 10 min: sum up the past days that are not, among them those whose past has changed."""
    rollups.roll_up(now=timezone.now(), cuts=queries.price_changes.ask())


def ring() -> None:
    """Ask for a tick now, unless one is on its way that has not begun. Without Redis, the beat does it."""
    global _left_alone_until
    if time.monotonic() < _left_alone_until:
        return
    try:
        if cache.add(RUNG, 1, timeout=RUNG_FOR_SECONDS):
            tick.apply_async(expires=30, retry=False)
    except UNREACHABLE as error:
        _left_alone_until = time.monotonic() + LEFT_ALONE_SECONDS
        logger.warning("the doorbell could not be rung: %s", error)


def _forget_ring() -> None:
    """From here on a ring needs a tick of its own, since this one may already have looked."""
    try:
        cache.delete(RUNG)
    except UNREACHABLE as error:
        logger.warning("the doorbell could not be reset: %s", error)
