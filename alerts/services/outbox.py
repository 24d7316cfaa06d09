"""The sender: takes what is due to its channels, and survives being killed anywhere.

A message is claimed by a lease, not by a lock: no transaction is open while a receiver is spoken to, and what a killed
sender had in hand is due again when its lease ends. Each channel has at most one message in hand, so that one that
hangs holds up nobody but itself; within a channel the messages of a rule keep their order.
"""

import time
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime, timedelta

import structlog
from django.db import connection, transaction

from alerts.models import Delivery, DeliveryStatus
from alerts.notifiers import Envelope, NotDelivered, Refused, deliver
from gpufleet.common.failpoints import reach

logger = structlog.stdlib.get_logger(__name__)

# Longer than one message can take.
LEASE = timedelta(minutes=2)
# The waits double from the first to the longest: all tries together span a day.
FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(hours=2)
MOST_ATTEMPTS = 20
MOST_CHANNELS_AT_ONCE = 32
# One run takes nothing new after so many messages or so many seconds, and the next beat goes on: ``now`` is the run's,
# and no lease made with it may end, nor a signature's time grow stale, while a slow receiver has a long queue.
MOST_IN_A_RUN = 500
LONGEST_RUN_S = 60.0

# Of each channel that has nothing in hand the oldest due message, if none before it of the same rule still waits.
CLAIM = """
    UPDATE alerts_delivery
       SET attempts = attempts + 1, leased_until = %(until)s, next_attempt_at = %(until)s
     WHERE id IN (
           SELECT id FROM alerts_delivery
            WHERE status = 'pending' AND next_attempt_at <= %(now)s AND id IN (
                  SELECT min(due.id)
                    FROM alerts_delivery AS due
                    JOIN alerts_channel AS channel ON channel.id = due.channel_id AND channel.enabled
                   WHERE due.status = 'pending' AND due.next_attempt_at <= %(now)s AND due.channel_id <> ALL (%(busy)s)
                     AND NOT EXISTS (SELECT FROM alerts_delivery AS held
                                      WHERE held.channel_id = due.channel_id AND held.status = 'pending'
                                        AND held.leased_until > %(now)s)
                     AND NOT EXISTS (SELECT FROM alerts_delivery AS earlier
                                      WHERE earlier.channel_id = due.channel_id AND earlier.rule_id = due.rule_id
                                        AND earlier.status = 'pending' AND earlier.id < due.id)
                   GROUP BY due.channel_id)
            ORDER BY id LIMIT %(most)s
              FOR UPDATE SKIP LOCKED)
    RETURNING id
"""


def deliver_due(*, now: datetime) -> int:
    """Send what is due. Returns how many messages arrived.

    Network alone happens in threads; claims and outcomes are written here, each in a transaction of its own.
    """
    failed: set[int] = set()
    running: dict[Future[None], Delivery] = {}
    sent = tried = 0
    began = time.monotonic()
    with ThreadPoolExecutor(MOST_CHANNELS_AT_ONCE) as pool:
        while True:
            busy = failed | {delivery.channel_id for delivery in running.values()}
            most = min(MOST_CHANNELS_AT_ONCE - len(running), MOST_IN_A_RUN - tried)
            late = time.monotonic() - began > LONGEST_RUN_S
            for delivery in _claim(now, busy, most) if most and not late else []:
                running[pool.submit(deliver, _envelope(delivery), now=now)] = delivery
                tried += 1
            if not running:
                return sent
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                delivery = running.pop(future)
                arrived = _settle(delivery, future, now)
                sent += arrived
                if not arrived:
                    failed.add(delivery.channel_id)


@transaction.atomic
def retry_deliveries(*, delivery_ids: Collection[int], now: datetime) -> int:
    """Give dead letters their tries back. Returns how many there were."""
    dead = Delivery.objects.filter(pk__in=delivery_ids, status=DeliveryStatus.DEAD)
    return dead.update(status=DeliveryStatus.PENDING, attempts=0, next_attempt_at=now, leased_until=None)


def wait_after(attempts: int) -> timedelta:
    """How long a message rests after so many tries."""
    return min(FIRST_WAIT * (1 << min(attempts - 1, 16)), LONGEST_WAIT)


def _claim(now: datetime, busy: Collection[int], most: int) -> list[Delivery]:
    with connection.cursor() as cursor:
        cursor.execute(CLAIM, {"now": now, "until": now + LEASE, "busy": sorted(busy), "most": most})
        ids = [row[0] for row in cursor.fetchall()]
    return list(Delivery.objects.filter(pk__in=ids).select_related("channel").order_by("pk"))


def _envelope(delivery: Delivery) -> Envelope:
    channel = delivery.channel
    return Envelope(channel.kind, channel.target, channel.secret, str(delivery.uid), delivery.body)


def _settle(delivery: Delivery, future: "Future[None]", now: datetime) -> bool:
    """Write down what became of it. Returns whether it arrived."""
    reach("alerts.delivered")
    error = future.exception()
    mine = Delivery.objects.filter(pk=delivery.pk, status=DeliveryStatus.PENDING)
    if error is None:
        mine.update(status=DeliveryStatus.SENT, sent_at=now, leased_until=None, last_error="")
        return True
    if not isinstance(error, NotDelivered):
        logger.error("a message broke its sender", delivery=delivery.pk, exc_info=error)
    dead = isinstance(error, Refused) or delivery.attempts >= MOST_ATTEMPTS
    mine.update(
        status=DeliveryStatus.DEAD if dead else DeliveryStatus.PENDING,
        last_error=str(error)[:500] or type(error).__name__,
        next_attempt_at=now + wait_after(delivery.attempts),
        leased_until=None,
    )
    logger.warning("alert not delivered", delivery=delivery.pk, dead=dead, error=str(error))
    return False
