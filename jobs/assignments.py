"""Which jobs a node is to run, as its agent asks."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime

from django.db.models import Min, Q, QuerySet

from clusters.models import Node, NodeIntent, NodeStatus
from clusters.queries import reportable_nodes
from gpufleet.common.errors import NotFound
from gpufleet.common.snapshots import snapshot
from jobs.models import Allocation, Job, JobStatus, Run

# A cluster's agents together ask at most this often, however many nodes there are.
POLLS_PER_SECOND = 50
SHORTEST_POLL_S = 1.0
LONG_ENDED_RUNS = 100

HAS_WORK = Q(command__isnull=False) | ~Q(image="")


@dataclass(frozen=True, slots=True)
class AssignedGpu:
    """A GPU that the job holds on the node."""

    gpu_index: int
    uuid: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """One run of a job on one node. ``rank`` is the node's place among the job's ``world_size`` nodes, and
    ``master_addr`` the first one's address. ``stop_by``: it is to end by itself until then."""

    run_id: int
    job_id: int
    name: str
    command: list[str] | None
    image: str
    env: dict[str, str]
    gpus: list[AssignedGpu]
    rank: int
    world_size: int
    master_addr: str
    stop_by: datetime | None


@dataclass(frozen=True, slots=True)
class Assignments:
    """What a node is to run; ``version`` is another one whenever something of it changes."""

    version: str
    execution_enabled: bool
    accepts_new: bool
    poll_after_s: float
    runs: list[Assignment]


def get_assignments(node_id: int, *, cluster_key_id: int | None) -> Assignments:
    """What the node is to run now. A run that it has ended is in it until the job has ended everywhere.

    While the cluster's execution is off, only what the node had started before is listed, so that the agent can look
    after it; no other job's command leaves the server. Raises ``NotFound``.
    """
    with snapshot():  # A job may end while its assignment is put together.
        node = get_node(node_id, cluster_key_id)
        runs = [_assignment(job, node, run_id) for job, run_id in _runs_on(node)]
        if not node.cluster.execution_enabled:
            known = set(
                Run.objects.filter(node=node, run_id__in=[run.run_id for run in runs]).values_list("run_id", flat=True)
            )
            runs = [run for run in runs if run.run_id in known]
    accepts = node.intent == NodeIntent.ACTIVE
    shown = json.dumps([accepts, node.cluster.execution_enabled, *map(asdict, runs)], default=str, sort_keys=True)
    version = hashlib.sha256(shown.encode()).hexdigest()[:16]
    return Assignments(version, node.cluster.execution_enabled, accepts, _poll_after(node), runs)


def get_node(node_id: int, cluster_key_id: int | None) -> Node:
    """The node, if it is one that the key may speak for. Raises ``NotFound``."""
    node = reportable_nodes(cluster_key_id).select_related("cluster").filter(pk=node_id).first()
    if node is None:
        raise NotFound
    return node


def open_allocations(job_id: int) -> QuerySet[Allocation]:
    """What the job holds now."""
    return Allocation.objects.filter(job_id=job_id, during__upper_inf=True).select_related("gpu__node")


def current_run_id(job_id: int) -> int | None:
    """The run that goes on now, or None where the job holds nothing."""
    return open_allocations(job_id).order_by("pk").values_list("pk", flat=True).first()


def nodes_of(allocations: Collection[Allocation]) -> list[Node]:
    """The nodes of a gang in the order of their ranks."""
    nodes = {allocation.gpu.node_id: allocation.gpu.node for allocation in allocations}
    return [nodes[pk] for pk in sorted(nodes)]


def list_runs(job: Job) -> QuerySet[Run]:
    """What the nodes' agents reported of the job, newest first."""
    return job.runs.select_related("node")


def _runs_on(node: Node) -> list[tuple[Job, int]]:
    here = Allocation.objects.filter(gpu__node=node, during__upper_inf=True).order_by().values("job_id")
    jobs = Job.objects.filter(HAS_WORK, pk__in=here, status=JobStatus.RUNNING).order_by("pk")
    firsts: dict[int, int] = dict(
        Allocation.objects.filter(job__in=jobs, during__upper_inf=True)
        .order_by()
        .values_list("job_id")
        .annotate(first=Min("pk"))
    )
    return [(job, firsts[job.pk]) for job in jobs if job.pk in firsts]


def _assignment(job: Job, node: Node, run_id: int) -> Assignment:
    held = list(open_allocations(job.pk))
    nodes = nodes_of(held)
    gpus: dict[int, list[AssignedGpu]] = defaultdict(list)
    for allocation in sorted(held, key=lambda one: one.gpu.gpu_index):
        gpus[allocation.gpu.node_id].append(AssignedGpu(allocation.gpu.gpu_index, allocation.gpu.uuid))
    return Assignment(
        run_id=run_id,
        job_id=job.pk,
        name=job.name,
        command=job.command,
        image=job.image,
        env=job.env,
        gpus=gpus[node.pk],
        rank=[one.pk for one in nodes].index(node.pk),
        world_size=len(nodes),
        master_addr=nodes[0].ip_address or nodes[0].hostname,
        stop_by=job.preempt_at,
    )


def _poll_after(node: Node) -> float:
    nodes = Node.objects.filter(cluster=node.cluster_id, decommissioned_at__isnull=True, status=NodeStatus.ONLINE)
    return max(SHORTEST_POLL_S, nodes.count() / POLLS_PER_SECOND)
