"""Incidents are acknowledged, and planned work keeps them quiet."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction

from alerts.models import AlertEvent, EventStatus, MaintenanceWindow
from clusters.models import Cluster, Node
from gpufleet.common.errors import FieldProblem, InvalidInput, NotFound

LONGEST_MAINTENANCE = timedelta(days=30)


@transaction.atomic
def acknowledge_event(*, event_id: int, actor: str, tenant_id: int | None, now: datetime) -> AlertEvent:
    """Note who has seen an incident; the first one stays. Raises ``NotFound``, also for another tenant's."""
    events = AlertEvent.objects.select_for_update().exclude(status=EventStatus.PENDING)
    if tenant_id is not None:
        events = events.filter(tenant_id=tenant_id)
    event = events.filter(pk=event_id).first()
    if event is None:
        raise NotFound
    if event.acknowledged_at is None:
        event.acknowledged_at, event.acknowledged_by = now, actor
        event.save(update_fields=["acknowledged_at", "acknowledged_by"])
    return event


def acknowledge_events(*, event_ids: Iterable[int], actor: str, now: datetime) -> int:
    """Note who has seen these incidents, where nobody had. Returns how many were new."""
    unseen = AlertEvent.objects.exclude(status=EventStatus.PENDING).filter(acknowledged_at__isnull=True)
    return unseen.filter(pk__in=list(event_ids)).update(acknowledged_at=now, acknowledged_by=actor)


@transaction.atomic
def plan_maintenance(
    *,
    starts_at: datetime,
    ends_at: datetime,
    reason: str,
    actor: str,
    now: datetime,
    cluster: Cluster | None = None,
    node: Node | None = None,
) -> MaintenanceWindow:
    """Tell nobody of a cluster's or a node's incidents in ``[starts_at, ends_at)``, at most 30 days.

    Raises ``InvalidInput``.
    """
    if (cluster is None) == (node is None):
        raise InvalidInput(FieldProblem("#/cluster_id", "one_of", "Name a cluster_id or a node_id, and one of them."))
    # A difference, since a sum may lie beyond the last year that there is.
    if not max(starts_at, now) < ends_at or ends_at - starts_at > LONGEST_MAINTENANCE:
        detail = f"ends_at lies in the future, after starts_at, and at most {LONGEST_MAINTENANCE.days} days after it."
        raise InvalidInput(FieldProblem("#/ends_at", "out_of_range", detail))
    return MaintenanceWindow.objects.create(
        cluster=cluster,
        node=node,
        starts_at=starts_at,
        ends_at=ends_at,
        reason=reason,
        created_by=actor,
        created_at=now,
    )


@transaction.atomic
def end_maintenance(*, window_id: int, now: datetime) -> MaintenanceWindow:
    """End planned work now; one that has not begun never does. What is over stays as it was. Raises ``NotFound``."""
    window = MaintenanceWindow.objects.select_for_update().filter(pk=window_id).first()
    if window is None:
        raise NotFound
    if window.ends_at > now:
        window.starts_at, window.ends_at = min(window.starts_at, now), now
        window.save(update_fields=["starts_at", "ends_at"])
    return window
