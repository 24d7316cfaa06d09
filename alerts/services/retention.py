"""What is long over is deleted: messages first, then the incidents that they spoke of.

A batch is a transaction of its own under row locks that skip what another has in hand, so that two workers share the
work, and a killed one loses a batch of it. What is kept however old it is:

- an incident that is not over, and every message that speaks of it, since its end is told to whoever heard of it;
- what a silence under way has cost, which is summed from its incidents, those that are over too;
- what the audit log speaks of: its rows name an incident or a message and link to it;
- a message that is still to be sent, its incidents, and an incident under which another hangs that is kept.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet

from alerts.models import AlertEvent, Delivery, DeliveryStatus, EventStatus
from gpufleet.common.models import AuditEntry

logger = structlog.stdlib.get_logger(__name__)

BATCH = 1000
# One run deletes so many of each at most, and the next goes on.
MOST_BATCHES = 50
# Flapping looks at the last hour, and the console at yesterday.
SHORTEST = timedelta(days=7)


def prune_history(*, now: datetime) -> tuple[int, int]:
    """Delete finished messages and resolved incidents older than ``ALERT_HISTORY_DAYS``, at least a week.

    Returns how many messages and how many incidents went.
    """
    before = now - max(timedelta(days=settings.ALERT_HISTORY_DAYS), SHORTEST)
    messages = _in_batches(partial(_old_messages, before))
    incidents = _in_batches(partial(_old_incidents, before, now))
    if messages or incidents:
        logger.info("old alerts deleted", messages=messages, incidents=incidents)
    return messages, incidents


def _old_messages(before: datetime) -> QuerySet[Delivery]:
    lasting = AlertEvent.objects.filter(deliveries=OuterRef("pk")).exclude(
        status=EventStatus.RESOLVED, resolved_at__lt=before
    )
    old = Delivery.objects.filter(status__in=[DeliveryStatus.SENT, DeliveryStatus.DEAD], created_at__lt=before)
    return old.exclude(Exists(lasting)).exclude(_audited("alerts.delivery"))


def _old_incidents(before: datetime, now: datetime) -> QuerySet[AlertEvent]:
    old = AlertEvent.objects.filter(status=EventStatus.RESOLVED, resolved_at__lt=before)
    spoken_of = Delivery.events.through.objects.filter(alertevent=OuterRef("pk"))
    explains = AlertEvent.objects.filter(parent=OuterRef("pk"))
    counted = AlertEvent.objects.filter(
        pk=OuterRef("pk"), rule__silenced_until__gt=now, rule__silenced_at__lte=F("resolved_at")
    )
    kept = [Exists(spoken_of), Exists(explains), Exists(counted), _audited("alerts.alertevent")]
    for reason in kept:
        old = old.exclude(reason)
    return old


def _audited(model: str) -> Exists:
    return Exists(AuditEntry.objects.filter(model=model, object_id=OuterRef("pk")))


def _in_batches(old: Callable[[], QuerySet[Any]]) -> int:
    gone = 0
    for _ in range(MOST_BATCHES):
        deleted = _delete(old())
        gone += deleted
        if not deleted:
            break
    return gone


@transaction.atomic
def _delete(old: QuerySet[Any]) -> int:
    locked = old.order_by("pk").select_for_update(skip_locked=True, of=("self",)).values_list("pk", flat=True)
    ids = list(locked[:BATCH])
    old.model.objects.filter(pk__in=ids).delete()
    return len(ids)
