"""Two weeks of history, made by replaying virtual time through the services: nothing is written beside them.

A moment of the replay is what happens between two looks at the fleet: jobs end, customers submit, an incident begins
or passes, and the scheduler runs a cycle. All of it is in one transaction, so that a kill leaves nothing half-made.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings

from clusters import services as clusters
from clusters.models import GPU, GPUHealth, GPUState, Node, NodeIntent
from dashboard.demo import demand
from dashboard.demo.catalog import CLUSTERS
from dashboard.demo.demand import Board, JobView, Request
from jobs import scheduler
from jobs import services as jobs
from jobs.models import Job, JobStatus

DAYS = 14
ACTOR = "demo"
PATIENCE = timedelta(hours=20)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the replay needs to know of the rows that stand for the catalogue's entries."""

    cluster_ids: dict[str, int]
    tenant_ids: dict[str, int]


def _gap(moment: datetime, *, since_start: timedelta) -> tuple[float, float]:
    """The shortest and the longest wait for the next moment, in minutes."""
    if since_start < timedelta(hours=1):
        return 5, 9
    return (40, 75) if 7 <= moment.hour < 19 else (70, 130)


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that happens to the hardware, between the first moment at or after ``at`` and the next one."""

    at: datetime
    happen: Callable[[datetime], None]


class Replay:
    """Virtual time from ``start`` to ``end``, both in UTC."""

    def __init__(self, fleet: Fleet, *, start: datetime, end: datetime, seed: int) -> None:
        self.fleet, self.start, self.end, self.seed = fleet, start, end, seed
        self.rng = random.Random(seed)  # noqa: S311  (a story, not a secret)
        self.customers = {tenant_id: name for name, tenant_id in fleet.tenant_ids.items()}
        self.hostnames = [node.hostname for cluster in CLUSTERS for node in cluster.nodes()]

    def run(self) -> int:
        """Live through it. Returns the number of moments."""
        incidents = sorted(self._incidents(), key=lambda incident: incident.at)
        moments = 0
        for moment in self._moments():
            self._live_through(moment)
            due = [incident for incident in incidents if incident.at <= moment]
            for number, incident in enumerate(due):
                incident.happen(moment + timedelta(minutes=1 + 4 * number, seconds=self.rng.uniform(0, 50)))
            incidents = incidents[len(due) :]
            moments += 1
        self._arrive(self.end)
        return moments

    def _moments(self) -> Iterator[datetime]:
        """Closer together by day than by night, and while the fleet fills at the beginning."""
        moment = self.start + timedelta(minutes=2)
        while moment < self.end - timedelta(minutes=10):
            yield moment
            moment += timedelta(minutes=self.rng.uniform(*_gap(moment, since_start=moment - self.start)))

    def _live_through(self, moment: datetime) -> None:
        board = self._board()
        ended = self._end_jobs(board, moment)
        left = Board([job for job in board.jobs if job.job_id not in ended], board.capacity)
        requests = demand.next_requests(
            left, share=demand.busy_share(moment), pace=demand.IN_HISTORY, clusters=CLUSTERS, rng=self.rng
        )
        for number, request in enumerate(requests):
            self._submit(request, moment - timedelta(seconds=2 * (len(requests) - number) + self.rng.random()))
        if requests or left.waiting:
            scheduler.run_cycle(now=moment)

    def _board(self) -> Board:
        alive = Job.objects.filter(status__in=[JobStatus.QUEUED, JobStatus.RUNNING]).order_by("pk")
        views = [
            JobView(
                job_id=job.pk,
                name=job.name,
                customer=self.customers[job.tenant_id or 0],
                gpu_count=job.gpu_count,
                running=job.status == JobStatus.RUNNING,
                submitted_at=job.submitted_at,
                started_at=job.started_at,
                estimated_duration_min=job.estimated_duration_min,
            )
            for job in alive
        ]
        return Board(views, GPU.objects.filter(state=GPUState.AVAILABLE).count())

    def _end_jobs(self, board: Board, moment: datetime) -> set[int]:
        """End what is due, a little before the moment, and cancel what nobody waits for any longer."""
        due = [(job, demand.ending_of(job, seed=self.seed)) for job in board.jobs if job.running]
        over = [(job.job_id, ending.status, ending.reason) for job, ending in due if ending.at <= moment]
        tired = demand.given_up(board, now=moment, patience=PATIENCE)
        over += [(job_id, "cancelled", "no longer needed") for job_id in tired]
        for number, (job_id, status, reason) in enumerate(over):
            at = moment - timedelta(seconds=40 + 3 * (len(over) - number) + self.rng.random())
            jobs.change_status(job_id=job_id, status=status, reason=reason, actor=ACTOR, now=at)
        return {job_id for job_id, _, _ in over}

    def _submit(self, request: Request, at: datetime) -> None:
        jobs.submit_job(
            cluster_id=self.fleet.cluster_ids[request.cluster],
            tenant_id=self.fleet.tenant_ids[request.customer],
            name=request.name,
            gpu_count=request.gpu_count,
            gpu_type=request.gpu_type,
            priority=request.priority,
            submitted_by=request.submitted_by,
            estimated_duration_min=request.estimated_duration_min,
            actor=ACTOR,
            now=at,
        )

    def _incidents(self) -> Iterator[Incident]:
        """Three nodes that fall silent, three that are drained and repaired, two GPUs that fail."""
        unlucky = self.rng.sample(self.hostnames, 8)
        for hostname in unlucky[:3]:
            yield from self._outage(hostname, self._some_time(), timedelta(minutes=self.rng.uniform(35, 200)))
        for hostname in unlucky[3:6]:
            yield from self._repair(hostname, self._some_time())
        reasons = ("94 °C under load: a fan has failed.", "XID 79: GPU has fallen off the bus.")
        for hostname, reason in zip(unlucky[6:], reasons, strict=True):
            yield from self._failure(hostname, reason, self._some_time())

    def _some_time(self) -> datetime:
        """An instant after the first day and well before the last one."""
        return self.start + (self.end - self.start) * self.rng.uniform(0.08, 0.93)

    def _outage(self, hostname: str, at: datetime, lasts: timedelta) -> Iterator[Incident]:
        node = Node.objects.get(hostname=hostname, decommissioned_at=None)
        yield Incident(at, lambda now: self._fall_silent(node, now))
        yield Incident(at + lasts, lambda now: self._beat(node, now))

    def _fall_silent(self, node: Node, now: datetime) -> None:
        """The node's last heartbeat is now; the others go on, until the sweeps have listened long enough."""
        limit = timedelta(seconds=settings.NODE_SILENT_AFTER_SECONDS)
        nodes = list(Node.objects.filter(silent=False))
        for one in nodes:
            self._beat(one, now)
        clusters.sweep_silent_nodes(now=now + limit * 0.5)
        for one in nodes:
            if one.pk != node.pk:
                self._beat(one, now + limit)
        clusters.sweep_silent_nodes(now=now + limit * 1.4)
        clusters.sweep_silent_nodes(now=now + limit * 1.9)
        scheduler.run_cycle(now=now + limit * 2)

    def _beat(self, node: Node, now: datetime) -> None:
        clusters.register_node(cluster_id=node.cluster_id, hostname=node.hostname, fields={}, now=now)

    def _repair(self, hostname: str, at: datetime) -> Iterator[Incident]:
        node_id = Node.objects.get(hostname=hostname, decommissioned_at=None).pk
        reason = self.rng.choice(["NVLink bridge to be changed", "firmware update", "rack power work"])
        maintenance = at + timedelta(hours=self.rng.uniform(4, 9))
        back = maintenance + timedelta(hours=self.rng.uniform(1, 4))
        steps = ((at, NodeIntent.DRAINING), (maintenance, NodeIntent.MAINTENANCE), (back, NodeIntent.ACTIVE))
        for when, intent in steps:
            yield Incident(when, self._turn(node_id, intent, "" if intent == NodeIntent.ACTIVE else reason))

    def _turn(self, node_id: int, intent: NodeIntent, reason: str) -> Callable[[datetime], None]:
        def turn(now: datetime) -> None:
            clusters.update_node(node_id=node_id, intent=intent, reason=reason, now=now)

        return turn

    def _failure(self, hostname: str, reason: str, at: datetime) -> Iterator[Incident]:
        gpu = GPU.objects.get(node__hostname=hostname, gpu_index=self.rng.randrange(8), retired_at=None)
        yield Incident(at, self._mark(gpu.pk, GPUHealth.UNHEALTHY, reason))
        yield Incident(at + timedelta(hours=self.rng.uniform(3, 30)), self._mark(gpu.pk, GPUHealth.HEALTHY, ""))

    def _mark(self, gpu_id: int, health: GPUHealth, reason: str) -> Callable[[datetime], None]:
        def mark(now: datetime) -> None:
            clusters.mark_health(gpu_id=gpu_id, health=health, reason=reason, now=now)

        return mark

    def _arrive(self, now: datetime) -> None:
        """The present: every node has just been heard, and the scheduler has just looked."""
        for node in Node.objects.all():
            self._beat(node, now)
        scheduler.run_cycle(now=now)
