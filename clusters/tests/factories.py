"""Hardware for tests: rows as the services would leave them, each GPU with its open period in the ledger."""

import itertools
import time
from datetime import UTC, datetime
from typing import Any

from django.apps import apps
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from apikeys.models import KeyKind
from apikeys.services import issue_key
from clusters import ingest
from clusters.models import GPU, Cluster, GPUStatePeriod, HealthCause, Node
from clusters.services.ledger import circumstances_of
from clusters.states import gpu_state
from clusters.telemetry import Sample
from tenants.models import Tenant

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

_numbers = itertools.count(1)


def make_cluster_and_key(name: str | None = None, **fields: Any) -> tuple[Cluster, str]:
    """An active cluster since noon, and the raw text of its agents' key."""
    name = name or f"cluster-{next(_numbers)}"
    now = fields.get("created_at", NOW)
    issued = issue_key(label=f"cluster {name}", permissions=["write"], created_by="test", now=now, kind=KeyKind.CLUSTER)
    fields = {"region": "eu-north", "created_at": now, **fields}
    return Cluster.objects.create(name=name, key=issued.key, **fields), issued.raw


def make_cluster(name: str | None = None, **fields: Any) -> Cluster:
    """An active cluster since noon."""
    return make_cluster_and_key(name, **fields)[0]


def make_node(cluster: Cluster | None = None, hostname: str | None = None, **fields: Any) -> Node:
    """A node that beat at noon. It has no GPUs yet."""
    defaults: dict[str, Any] = {"total_gpus": 8, "last_heartbeat_at": NOW, "created_at": NOW}
    node = Node.objects.create(
        cluster=cluster or make_cluster(), hostname=hostname or f"node-{next(_numbers)}", **{**defaults, **fields}
    )
    node.refresh_from_db(fields=["status"])
    return node


def make_gpu(node: Node | None = None, gpu_index: int | None = None, **fields: Any) -> GPU:
    """A GPU registered at noon, in the next free slot, in the state that its node, cluster and health give it."""
    node = node or make_node()
    if gpu_index is None:
        gpu_index = node.gpus.filter(retired_at__isnull=True).count()
    if fields.get("health") == "unhealthy":
        fields = {"health_cause": HealthCause.OPERATOR, **fields}
    gpu = GPU(node=node, gpu_index=gpu_index, **{"model": "H100", "vram_mb": 81_559, "registered_at": NOW, **fields})
    verdict = gpu_state(circumstances_of(gpu))
    gpu.state = fields.get("state", verdict.state)
    gpu.save()
    GPUStatePeriod.objects.create(
        gpu=gpu, state=gpu.state, reason=verdict.reason, during=DateTimeTZRange(gpu.registered_at, gpu.retired_at)
    )
    return gpu


def make_sample(gpu: GPU, at: datetime = NOW, **figures: Any) -> Sample:
    """A sample; what is not named was not measured."""
    nothing: dict[str, Any] = dict.fromkeys(ingest.COLUMNS[2:])
    return Sample(gpu_id=gpu.pk, recorded_at=at, **{**nothing, **figures})


def store_sample(gpu: GPU, at: datetime = NOW, *, now: datetime | None = None, **figures: Any) -> None:
    """A sample in the database, stored at ``now`` (default: when it was taken), and nothing that follows from it."""
    sample, began = make_sample(gpu, at, **figures), time.monotonic()
    ingest.copy_samples([sample], {gpu.pk: gpu.node_id}, now=now or at, began=began)


def hold(gpu: GPU, tenant: Tenant | None = None, *, since: datetime = NOW, name: str = "training") -> Any:
    """A running job of the tenant that holds the GPU. Jobs stand above clusters, so they are looked up by name."""
    job = apps.get_model("jobs", "Job").objects.create(
        cluster=gpu.node.cluster, tenant=tenant, name=name, status="running", submitted_at=since, started_at=since
    )
    apps.get_model("jobs", "Allocation").objects.create(
        job=job, gpu=gpu, tenant=tenant, during=DateTimeTZRange(since, None)
    )
    return job
