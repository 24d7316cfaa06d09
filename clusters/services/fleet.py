"""Making, changing and ending clusters."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

import structlog
from django.db import IntegrityError, connection, transaction

from apikeys.models import KeyKind
from apikeys.services import issue_key, revoke_key
from clusters.models import GPU, Cluster, Node
from clusters.queries import count_running_jobs
from clusters.services.health import take_out
from clusters.services.ledger import refresh_gpu_states
from gpufleet.common.errors import Conflict, NotFound, violated_constraint
from gpufleet.common.locks import lock_rows, lock_scheduler

logger = structlog.stdlib.get_logger(__name__)

LABEL_LENGTH = 200


class ClusterNameTaken(Conflict):
    """Another cluster has this name."""

    code = "cluster_name_taken"


class ClusterBusy(Conflict):
    """Jobs run on the cluster."""

    code = "cluster_busy"


@dataclass(frozen=True, slots=True)
class CreatedCluster:
    """A new cluster and the raw key of its agents, which exists only here and in the one answer made of it."""

    cluster: Cluster
    api_key: str


class ClusterChanges(TypedDict, total=False):
    """What may be changed of a cluster; what is left out stays."""

    name: str
    region: str
    status: str
    on_node_loss: str
    enforce_time_limit: bool
    preemption: bool
    preemption_grace_s: int
    preemption_min_run_s: int
    execution_enabled: bool


@transaction.atomic
def create_cluster(*, name: str, actor: str, now: datetime, region: str = "") -> CreatedCluster:
    """Add a cluster, with a key for its node agents. Raises ``ClusterNameTaken``."""
    issued = issue_key(
        label=f"cluster {name}"[:LABEL_LENGTH],
        permissions=["write"],
        created_by=actor,
        now=now,
        kind=KeyKind.CLUSTER,
    )
    cluster = Cluster(name=name, region=region, key=issued.key, created_at=now)
    _save(cluster)
    logger.info("cluster created", cluster_id=cluster.pk, key_id=issued.key.pk)
    return CreatedCluster(cluster=cluster, api_key=issued.raw)


@transaction.atomic
def update_cluster(*, cluster_id: int, changes: ClusterChanges, now: datetime) -> Cluster:
    """Rename or move a cluster, put it in maintenance or back; its GPUs' states follow.

    Raises ``NotFound`` and ``ClusterNameTaken``.
    """
    cluster = _lock(cluster_id)
    for name, value in changes.items():
        setattr(cluster, name, value)
    _save(cluster)
    if "status" in changes:
        refresh_gpu_states(GPU.objects.filter(node__cluster=cluster), now=now)
    logger.info("cluster changed", cluster_id=cluster_id, fields=sorted(changes))
    return cluster


@transaction.atomic
def decommission_cluster(*, cluster_id: int, now: datetime) -> Cluster:
    """Take a cluster and its hardware out of service for good; its rows and its ledger stay, its hostnames are free.

    Its key is revoked. Its waiting jobs are cancelled by the next tick. Holds the scheduler's lock, so that no job
    can start in between, and the cluster's alone, so that none is submitted. Raises ``NotFound``, and
    ``ClusterBusy`` while it holds a running job.
    """
    lock_scheduler()
    cluster = _lock(cluster_id, alone=True)
    running = count_running_jobs.ask(cluster_id)
    if running:
        jobs = "job runs" if running == 1 else "jobs run"
        raise ClusterBusy(f"{running} {jobs} on {cluster.name}; end them first.", running_jobs=running)
    nodes = lock_rows(Node.objects.filter(decommissioned_at__isnull=True), _ids_of_nodes(cluster))
    in_service = GPU.objects.filter(retired_at__isnull=True)
    gpus = lock_rows(in_service, in_service.filter(node__in=nodes).values_list("pk", flat=True))
    take_out(dict.fromkeys(gpus, "The cluster was decommissioned."), now=now)
    Node.objects.filter(pk__in=nodes).update(decommissioned_at=now)
    cluster.decommissioned_at = now
    cluster.save(update_fields=["decommissioned_at"])
    revoke_key(key_id=cluster.key_id, now=now)
    logger.info("cluster decommissioned", cluster_id=cluster_id, nodes=len(nodes), gpus=len(gpus))
    return cluster


def share_cluster(cluster_id: int) -> None:
    """Keep the cluster's status as it is until the transaction ends; others may share it. Raises ``NotFound``.

    Whoever adds hardware computes its state from the cluster's, which must not change in between.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM clusters_cluster WHERE id = %s AND decommissioned_at IS NULL FOR SHARE", [cluster_id]
        )
        if cursor.fetchone() is None:
            raise NotFound


def _ids_of_nodes(cluster: Cluster) -> list[int]:
    return list(Node.objects.filter(cluster=cluster).values_list("pk", flat=True))


def _lock(cluster_id: int, *, alone: bool = False) -> Cluster:
    in_service = Cluster.objects.filter(decommissioned_at__isnull=True)
    cluster = lock_rows(in_service, [cluster_id], alone=alone).get(cluster_id)
    if cluster is None:
        raise NotFound
    return cluster


def _save(cluster: Cluster) -> None:
    try:
        with transaction.atomic():
            cluster.save()
    except IntegrityError as error:
        if violated_constraint(error) == "cluster_name_unique":
            raise ClusterNameTaken(f"There is a cluster named {cluster.name!r} already.") from error
        raise
