"""Nodes: their registration and heartbeats, the operator's wishes, and those that fell silent."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypedDict

import structlog
from django.conf import settings
from django.db import transaction

from clusters.models import GPU, Node, NodeIntent, NodeWatch
from clusters.queries import reportable_clusters
from clusters.services.fleet import share_cluster
from clusters.services.ledger import refresh_gpu_states
from gpufleet.common.errors import Conflict, NotFound
from gpufleet.common.locks import lock_rows

logger = structlog.stdlib.get_logger(__name__)


class HostnameTaken(Conflict):
    """A node of another cluster has this hostname."""

    code = "hostname_taken"


class NodeFields(TypedDict, total=False):
    """What an agent says of its node; what it leaves out stays as it is."""

    ip_address: str | None
    total_gpus: int
    cpu_cores: int | None
    ram_gb: int | None


@dataclass(frozen=True, slots=True)
class NodeRegistration:
    """The node, and whether it was new."""

    node: Node
    created: bool


@transaction.atomic
def register_node(
    *, cluster_id: int, hostname: str, fields: NodeFields, now: datetime, cluster_key_id: int | None = None
) -> NodeRegistration:
    """Register a node, or take a known one's heartbeat and whatever fields it sends.

    A silent node is back with its first heartbeat. ``cluster_key_id`` narrows what is found to the cluster of that
    key. Raises ``NotFound`` for the cluster, and ``HostnameTaken``.
    """
    if not reportable_clusters(cluster_key_id).filter(pk=cluster_id).exists():
        raise NotFound
    node = _locked_by_name(hostname)
    if node is None:
        share_cluster(cluster_id)
        first = {**fields, "cluster_id": cluster_id, "last_heartbeat_at": now, "created_at": now}
        node, created = Node.objects.get_or_create(hostname=hostname, decommissioned_at=None, defaults=first)
        if created:
            logger.info("node registered", node_id=node.pk, cluster_id=cluster_id, hostname=hostname)
            return NodeRegistration(node=node, created=True)
        node = lock_rows(Node.objects.all(), [node.pk])[node.pk]
    if node.cluster_id != cluster_id:
        raise HostnameTaken(f"{hostname} is a node of another cluster.")
    _take_heartbeat(node, fields, now)
    return NodeRegistration(node=node, created=False)


@transaction.atomic
def update_node(*, node_id: int, now: datetime, intent: NodeIntent | None = None, reason: str | None = None) -> None:
    """Drain a node (what runs goes on, nothing new starts), put it in maintenance, or resume it.

    Without a ``reason`` a new intent has none. Raises ``NotFound``.
    """
    if not turn_nodes(node_ids=[node_id], intent=intent, reason=reason, now=now):
        raise NotFound


@transaction.atomic
def turn_nodes(
    *, node_ids: Collection[int], now: datetime, intent: NodeIntent | None = None, reason: str | None = None
) -> int:
    """As ``update_node``, for many nodes at once. Returns how many of them are in service."""
    nodes = lock_rows(Node.objects.filter(decommissioned_at__isnull=True), node_ids)
    for node in nodes.values():
        if intent is not None:
            node.intent = intent
            node.intent_reason = ""
        if reason is not None:
            node.intent_reason = reason
    Node.objects.bulk_update(nodes.values(), ["intent", "intent_reason"])
    refresh_gpu_states(GPU.objects.filter(node__in=nodes), now=now)
    logger.info("nodes turned", node_ids=list(nodes), intent=intent)
    return len(nodes)


@transaction.atomic
def sweep_silent_nodes(*, now: datetime) -> int:
    """Call nodes silent whose last heartbeat is older than ``NODE_SILENT_AFTER_SECONDS``. Returns how many.

    Their GPUs are offline from that heartbeat on. After a pause of the sweeps (the control plane was down, and
    nobody listened) every node first gets its full time to speak again. A node that is beating at this moment is
    locked, and therefore left out.
    """
    limit = timedelta(seconds=settings.NODE_SILENT_AFTER_SECONDS)
    if now - _listening_since(now, limit) < limit:
        return 0
    late = (
        Node.objects.filter(silent=False, decommissioned_at__isnull=True, last_heartbeat_at__lt=now - limit)
        .order_by("pk")
        .select_for_update(skip_locked=True, no_key=True)
    )
    ids = [node.pk for node in late]
    Node.objects.filter(pk__in=ids).update(silent=True)
    refresh_gpu_states(GPU.objects.filter(node__in=ids), now=now, since_heartbeat=True)
    if ids:
        logger.warning("nodes fell silent", node_ids=ids)
    return len(ids)


def _locked_by_name(hostname: str) -> Node | None:
    return (
        Node.objects.filter(hostname=hostname, decommissioned_at__isnull=True)
        .select_for_update(no_key=True, of=("self",))
        .first()
    )


def _take_heartbeat(node: Node, fields: NodeFields, now: datetime) -> None:
    was_silent = node.silent
    for name, value in fields.items():
        setattr(node, name, value)
    node.silent = False
    node.last_heartbeat_at = max(node.last_heartbeat_at, now)
    node.save(update_fields=[*fields, "silent", "last_heartbeat_at"])
    if was_silent:
        refresh_gpu_states(GPU.objects.filter(node=node), now=now)
        logger.info("node is back", node_id=node.pk)


def _listening_since(now: datetime, limit: timedelta) -> datetime:
    """Since when heartbeats are heard without a pause. Nobody can have missed one before the first sweep ever."""
    watch, _ = NodeWatch.objects.select_for_update().get_or_create(
        defaults={"listening_since": now - limit, "last_sweep_at": now}
    )
    if now - watch.last_sweep_at > limit:
        watch.listening_since = now
    watch.last_sweep_at = max(watch.last_sweep_at, now)
    watch.save(update_fields=["listening_since", "last_sweep_at"])
    return watch.listening_since
