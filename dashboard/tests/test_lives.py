"""Random lives of a fleet on a real database, step by step, beside a model that knows only what it was told.

The model counts the GPU-seconds that each job holds, by a clock of its own. After every step the promises are looked
up in the database, and after every cycle what the process kept of the world is compared with the world read anew.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.db.models import QuerySet
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing.models import BilledRange
from billing.services import add_rate, create_invoice
from clusters import services as clusters
from clusters.models import GPU, Node, NodeIntent, NodeWatch
from clusters.tests.factories import make_cluster, make_gpu, make_node
from gpufleet.common.errors import DomainError
from jobs import ledger, services
from jobs.models import Allocation, Job, JobEvent
from jobs.placement import Snapshot, plan
from jobs.scheduler import run_cycle
from jobs.scheduler.world import World, take_snapshot
from jobs.tests.factories import NOW
from jobs.tests.world import BREACHES, decided
from tenants.models import Tenant
from tenants.services import update_tenant
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db(transaction=True)

SILENT = timedelta(seconds=django_settings.NODE_SILENT_AFTER_SECONDS)
TABLES = (
    "billing_billedrange, billing_invoiceline, billing_invoice, billing_rate, jobs_startestimate, jobs_jobevent, "
    "jobs_waitperiod, jobs_kindwait, jobs_allocation, jobs_job, jobs_schedulercycle, jobs_ledgerday, "
    "clusters_gpustateperiod, clusters_gpu, clusters_node, clusters_cluster, clusters_nodewatch, tenants_tenant, "
    "apikeys_apikey"
)
# Quotas are looked at when GPUs are given, since a lower quota evicts nobody; see ``_check_starts``.
PROMISES = {name: query for name, query in BREACHES.items() if "quota" not in name}
OTHERS = {
    "a second was billed twice": """
        SELECT a.id FROM billing_billedrange a JOIN billing_billedrange b
            ON a.allocation_id = b.allocation_id AND a.id < b.id AND a.during && b.during""",
}
# Whoever changes a claimant or a victim leaves it to the next cycle to look at the others.
AFTER_A_CYCLE = {
    "a job runs on notice for one that claims nothing": """
        SELECT victim.id FROM jobs_job victim JOIN jobs_job claimant ON claimant.id = victim.preempt_for
         WHERE claimant.claimed_at IS NULL""",
    "a job claims what nobody is preempted for": """
        SELECT claimant.id FROM jobs_job claimant
         WHERE claimed_at IS NOT NULL AND NOT EXISTS (SELECT FROM jobs_job WHERE preempt_for = claimant.id)""",
}


@dataclass(frozen=True)
class Wish:
    """A job to submit: to which cluster and for which tenant, by number, and how many days ago."""

    cluster: int
    tenant: int | None
    gpus: int
    priority: int
    minutes: int | None
    days: int


WISHES = st.builds(
    Wish, cluster=st.sampled_from([0, 0, 1]), tenant=st.sampled_from([None, 0, 1, 1, 2]), gpus=st.integers(1, 6),
    priority=st.sampled_from([5, 9, 9, 1]), minutes=st.sampled_from([None, 1, 3]),
    days=st.sampled_from([0, 0, 0, 0, 8]),
)  # fmt: skip
MOVES = st.tuples(st.integers(0, 99), st.sampled_from(["completed", "failed", "cancelled", "queued", "blocked"]))


@dataclass
class Held:
    """What the model knows of a job that holds GPUs."""

    since: datetime
    gpus: dict[int, int] = field(default_factory=dict)  # By GPU, its node.


class Fleet(RuleBasedStateMachine):
    """Two clusters, one of which allows preemption; three tenants, one of which lends, and one of which borrows."""

    @initialize(wishes=st.lists(WISHES, min_size=8, max_size=14))
    def begin(self, wishes: list[Wish]) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {TABLES} RESTART IDENTITY CASCADE")
        self.now = NOW
        self.world = World()
        self.held: dict[int, Held] = {}
        self.seconds: Counter[int] = Counter()
        self.quiet: set[int] = set()
        self.nodes: list[Node] = []
        terms: dict[str, Any] = {
            "preemption": True,
            "preemption_grace_s": 20,
            "preemption_min_run_s": 10,
            "on_node_loss": "requeue",
        }
        self.clusters = [make_cluster(**terms), make_cluster()]
        for cluster in self.clusters:
            for _ in range(2):
                node = make_node(cluster)
                self.nodes.append(node)
                for _ in range(4):
                    make_gpu(node)
        self.tenants = [
            make_tenant("alice", gpu_quota=6, lends_idle_quota=True),
            make_tenant("bob", gpu_quota=3, borrow_limit=4),
            make_tenant("charlie", gpu_quota=4),
        ]
        add_rate(gpu_model="H100", price_per_gpu_hour=Decimal(2), recorded_by="test", valid_from=NOW - SILENT, now=NOW)
        NodeWatch.objects.create(last_sweep_at=NOW, listening_since=NOW - 9 * SILENT)
        for wish in wishes:
            self._submit(wish)
        self._pass(1)
        self._outrank(3, "blocked")

    @rule(
        wishes=st.lists(WISHES, max_size=4), moves=st.lists(MOVES, max_size=2), seconds=st.integers(1, 45),
        ticks=st.sampled_from([True, True, True, False]),
    )  # fmt: skip
    def live(self, wishes: list[Wish], moves: list[tuple[int, str]], seconds: int, ticks: bool) -> None:
        """Jobs come and go, time passes, nodes beat, and mostly a cycle runs."""
        for wish in wishes:
            self._submit(wish)
        for which, status in moves:
            self._move(which, status)
        self._pass(seconds, ticks=ticks)

    def _pass(self, seconds: int = 15, *, ticks: bool = True) -> None:
        self.now += timedelta(seconds=seconds)
        for node in self.nodes:
            if node.pk not in self.quiet:
                clusters.register_node(cluster_id=node.cluster_id, hostname=node.hostname, fields={}, now=self.now)
        clusters.sweep_silent_nodes(now=self.now)
        if ticks:
            self._tick()

    def _submit(self, wish: Wish) -> None:
        tenant = None if wish.tenant is None else self.tenants[wish.tenant].pk
        since = self.now - timedelta(days=wish.days)
        self._try(
            lambda: services.submit_job(
                cluster_id=self.clusters[wish.cluster].pk, name="job", actor="test", now=since, tenant_id=tenant,
                gpu_count=wish.gpus, priority=wish.priority, estimated_duration_min=wish.minutes,
            )
        )  # fmt: skip

    def _move(self, which: int, status: str) -> None:
        alive = list(Job.objects.filter(ended_at=None).order_by("pk"))
        if not alive:
            return
        job = alive[which % len(alive)]
        moved = self._try(
            lambda: services.change_status(job_id=job.pk, status=status, actor="test", now=self.now, reason="asked")
        )
        if moved and job.pk in self.held:
            self._give_back(job.pk)

    @rule(which=st.integers(0, 99), priority=st.integers(1, 10))
    def change_priority(self, which: int, priority: int) -> None:
        waiting = list(Job.objects.filter(status__in=["queued", "blocked"]).order_by("pk"))
        if waiting:
            job_id = waiting[which % len(waiting)].pk
            services.change_priority(job_id=job_id, priority=priority, actor="test", now=self.now)
        self._pass()

    @rule(gpus=st.integers(2, 4), status=st.sampled_from(["blocked", "cancelled"]), ticks=st.booleans())
    def outrank(self, gpus: int, status: str, ticks: bool) -> None:
        self._outrank(gpus, status, ticks=ticks)

    def _outrank(self, gpus: int, status: str, *, ticks: bool = True) -> None:
        """Whoever has most of its quota left wants something urgently. A job that others are to be preempted for may
        not start for a while, and then is held or cancelled, while they still run."""
        held = Counter(Allocation.objects.filter(during__upper_inf=True).values_list("tenant_id", flat=True))
        left = [Tenant.objects.get(pk=tenant.pk).gpu_quota - held[tenant.pk] for tenant in self.tenants]
        self._submit(Wish(0, left.index(max(left)), gpus, 1, None, 0))
        self._pass()
        for tenant_id in self._claimants().filter(tenant__isnull=False).values_list("tenant_id", flat=True)[:1]:
            self._without_quota(tenant_id)
        for job_id in self._claimants().values_list("pk", flat=True)[:1]:
            services.change_status(job_id=job_id, status=status, actor="test", now=self.now, reason="asked")
            self._pass(5, ticks=ticks)

    def _claimants(self) -> QuerySet[Job]:
        return Job.objects.filter(claimed_at__isnull=False).order_by("pk")

    def _without_quota(self, tenant_id: int) -> None:
        """For a cycle the tenant may start next to nothing."""
        had = Tenant.objects.get(pk=tenant_id)
        for quota, borrows in ((1, 0), (had.gpu_quota, had.borrow_limit)):
            update_tenant(tenant_id=tenant_id, changes={"gpu_quota": quota, "borrow_limit": borrows})
            self._pass(5)

    @rule(tenant=st.integers(0, 2), quota=st.integers(3, 8))
    def change_quota(self, tenant: int, quota: int) -> None:
        update_tenant(tenant_id=self.tenants[tenant].pk, changes={"gpu_quota": quota})
        self._pass()

    @rule(node=st.integers(0, 3), loses=st.sampled_from([True, False, False, False]))
    def lose_node(self, node: int, loses: bool) -> None:
        """Its heartbeats stop, or come again."""
        self.quiet -= {self.nodes[node].pk}
        if loses:
            self.quiet.add(self.nodes[node].pk)
        self._pass()

    @rule(
        node=st.integers(0, 3),
        intent=st.sampled_from([NodeIntent.ACTIVE, NodeIntent.ACTIVE, NodeIntent.ACTIVE, *NodeIntent]),
    )
    def turn_node(self, node: int, intent: NodeIntent) -> None:
        clusters.update_node(node_id=self.nodes[node].pk, intent=intent, reason="asked", now=self.now)
        self._pass()

    @rule(tenant=st.integers(0, 2))
    def bill(self, tenant: int) -> None:
        self._try(
            lambda: create_invoice(
                tenant_id=self.tenants[tenant].pk, start=NOW - SILENT, end=self.now, created_by="test", now=self.now
            )
        )

    def _tick(self) -> None:
        newest = JobEvent.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        run_cycle(now=self.now, world=self.world)
        for event in JobEvent.objects.filter(pk__gt=newest).order_by("pk"):
            if event.from_status == "running" and event.to_status != "running":
                self._give_back(event.job_id, lost=event.reason.startswith("Lost"))
            elif event.to_status == "running" and event.from_status != "running":
                self._take(event.job_id)
        self._check_starts(newest)
        kept, anew = self.world_now(), take_snapshot(self.now)
        assert shape(kept) == shape(anew)
        assert decided(plan(kept, self.now)) == decided(plan(anew, self.now))
        self._hold_to(AFTER_A_CYCLE)

    @precondition(lambda self: hasattr(self, "nodes"))
    @invariant()
    def promises_hold(self) -> None:
        self._hold_to(PROMISES | OTHERS)

    def _hold_to(self, promises: Mapping[str, str]) -> None:
        with connection.cursor() as cursor:
            for name, query in promises.items():
                cursor.execute(query)
                assert cursor.fetchall() == [], name

    def teardown(self) -> None:
        """The model's seconds are the ledger's, and the ledger adds up."""
        if not hasattr(self, "nodes"):
            return
        for job_id in list(self.held):
            self._give_back(job_id)
        scope = ledger.Scope(NOW - SILENT, self.now)
        whole = ledger.account(scope)
        unsold = whole.idle + whole.draining + whole.maintenance + whole.unhealthy + whole.offline
        assert whole.registered == whole.sold + unsold
        if not BilledRange.objects.exists():  # What an invoice has named was sold, whatever is found to be lost later.
            assert whole.sold == sum(self.seconds.values()) * 1_000_000

    def world_now(self) -> Snapshot:
        """What the process knows, after it has looked."""
        self.world.refresh(self.now)
        return self.world.snapshot(self.now)

    def _try(self, act: object) -> bool:
        try:
            act()  # type: ignore[operator]
        except DomainError:
            return False
        return True

    def _take(self, job_id: int) -> None:
        rows = Allocation.objects.filter(job_id=job_id, during__upper_inf=True)
        gpus = dict(rows.values_list("gpu_id", "gpu__node_id"))
        job = Job.objects.get(pk=job_id)
        assert len(gpus) == job.gpu_count
        assert not {gpu_id for one in self.held.values() for gpu_id in one.gpus} & gpus.keys()
        states = GPU.objects.filter(pk__in=gpus).values_list("state", flat=True)
        assert set(states) == {"available"}
        self.held[job_id] = Held(self.now, gpus)

    def _give_back(self, job_id: int, *, lost: bool = False) -> None:
        """What is lost was held until its node's last heartbeat."""
        held = self.held.pop(job_id)
        silent = dict(Node.objects.filter(silent=True).values_list("pk", "last_heartbeat_at"))
        for node_id in held.gpus.values():
            end = silent[node_id] if lost and node_id in silent else self.now
            self.seconds[job_id] += max(0, int((end - held.since).total_seconds()))

    def _check_starts(self, newest: int) -> None:
        """Who was given GPUs is within its quota, or within what others leave idle of theirs."""
        started = Job.objects.filter(events__pk__gt=newest, events__to_status="running", status="running")
        held = Counter(Allocation.objects.filter(during__upper_inf=True).values_list("tenant_id", flat=True))
        tenants = {tenant.pk: tenant for tenant in Tenant.objects.all()}
        idle = sum(max(0, one.gpu_quota - held[pk]) for pk, one in tenants.items() if one.lends_idle_quota)
        for tenant_id in started.exclude(events__from_status="running").values_list("tenant_id", flat=True).distinct():
            if tenant_id is not None:
                above = held[tenant_id] - tenants[tenant_id].gpu_quota
                assert above <= 0 or above <= min(tenants[tenant_id].borrow_limit, idle + above)


def shape(snapshot: Snapshot) -> object:
    """A snapshot, such that two that say the same are equal."""
    return (
        sorted(snapshot.jobs, key=lambda job: job.job_id),
        sorted((node.node_id, {model: sorted(gpus) for model, gpus in node.free.items()}) for node in snapshot.nodes),
        dict(snapshot.tenants),
        dict(snapshot.largest_node),
        snapshot.closed_clusters,
        snapshot.unassigned_held,
        snapshot.gpu_total,
        sorted(snapshot.running, key=lambda job: job.job_id),
        dict(snapshot.preempting),
    )


@pytest.fixture
def silence() -> Iterator[None]:
    """Nobody hears the doorbell: ticks are steps of the test. Logs would bury a life that failed."""
    logging.disable(logging.WARNING)
    with services.doorbell.stand_in(lambda: None):
        yield
    logging.disable(logging.NOTSET)


def test_no_life_of_a_fleet_breaks_a_promise(silence: None) -> None:
    run_state_machine_as_test(
        Fleet,
        settings=settings(
            max_examples=15, stateful_step_count=22, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
