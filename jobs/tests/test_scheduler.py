"""Cycles of the scheduler on real rows, at instants of our choosing."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, connection
from django.db.models.functions import Lower, Upper
from django.test.utils import CaptureQueriesContext

from billing.tests.factories import make_rate
from clusters import services as clusters
from clusters.models import GPU, Cluster, Node
from clusters.tests.factories import make_cluster, make_gpu, make_node
from jobs import placement, queries, scheduler, services
from jobs.models import Allocation, Job, JobEvent, JobStatus, KindWait, SchedulerCycle, WaitPeriod
from jobs.scheduler.pieces import write_in_pieces
from jobs.scheduler.world import take_snapshot
from jobs.tests.factories import NOW, allocate, make_job
from tenants.models import Tenant
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


Refuse = Callable[[str, str], None]


@pytest.fixture
def refuse() -> Refuse:
    """Let the database refuse rows of a table that break a rule, as it would refuse a poisoned one."""

    def add_rule(table: str, rule: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # What is deferred would stand in the next line's way.
            cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT poison CHECK ({rule})")

    return add_rule


@pytest.fixture(autouse=True)
def _nothing_is_refused(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A refused write is got over, and would hide a mistake; so only tests that ask for refusals may have them."""
    yield
    if "refuse" not in request.fixturenames:
        assert [record.message for record in caplog.get_records("call") if "refuses" in record.message] == []


def cycle(minutes: float = 0) -> scheduler.CycleResult:
    with scheduler.turn() as mine:
        assert mine
        return scheduler.run_cycle(now=NOW + minutes * MINUTE)


def ranges(rows: type[Allocation] | type[WaitPeriod] | type[KindWait]) -> list[tuple[datetime, datetime | None]]:
    return list(rows.objects.order_by("pk").values_list(Lower("during"), Upper("during")))


def waits(job: Job) -> list[tuple[str, datetime, datetime | None]]:
    return [(one.code, one.start, one.end) for one in queries.waits_of(job)]


def reason_now(job: Job) -> str:
    return queries.describe([job], now=NOW)[0].reason


def test_a_job_gets_its_gpus_and_its_wait_ends_in_the_ledger(node: Node) -> None:
    job = make_job(cluster=node.cluster, gpu_count=2)
    result = cycle(1)
    job.refresh_from_db()
    assert (result.started, result.waiting) == (1, 0)
    assert (job.status, job.started_at, job.block_reason) == ("running", NOW + MINUTE, "")
    assert ranges(Allocation) == [(NOW + MINUTE, None)] * 2
    assert ranges(WaitPeriod) == [(NOW, NOW + MINUTE)]
    event = JobEvent.objects.get()
    assert (event.from_status, event.to_status, event.actor, event.reason) == (
        "queued",
        "running",
        "scheduler",
        "2 × H100, on one node, the tightest fit: 2 of its GPUs stay free.",
    )


def test_the_rate_in_force_is_locked_into_the_allocation(node: Node) -> None:
    tenant = make_tenant()
    rate = make_rate("H100", "2.5", valid_from=NOW)
    make_job(cluster=node.cluster, tenant=tenant)
    cycle(1)
    allocation = Allocation.objects.get()
    assert (allocation.rate_id, allocation.price_per_gpu_hour, allocation.currency) == (rate.pk, Decimal("2.5"), "USD")
    assert allocation.tenant_id == tenant.pk


def test_a_reason_is_a_period_that_is_written_only_when_it_changes(node: Node) -> None:
    running = make_job(cluster=node.cluster, gpu_count=3, status="running")
    allocate(running, node.gpus.all()[:3])
    job = make_job(cluster=node.cluster, gpu_count=4)
    cycle(1)
    cycle(2)
    assert reason_now(job) == "Needs 4 GPUs of one model; 1 are free."
    assert waits(job) == [("scheduler", NOW, NOW + MINUTE), ("capacity", NOW + MINUTE, None)]
    assert (ranges(WaitPeriod), ranges(KindWait)) == ([(NOW, None)], [(NOW + MINUTE, None)])
    services.change_status(job_id=running.pk, status="completed", actor="key:1", now=NOW + 3 * MINUTE)
    cycle(4)
    assert waits(job)[-1] == ("capacity", NOW + MINUTE, NOW + 4 * MINUTE)
    assert ranges(KindWait) == [(NOW + MINUTE, NOW + 4 * MINUTE)]


def test_new_figures_of_the_same_reason_make_no_new_period(node: Node) -> None:
    running = make_job(cluster=node.cluster, gpu_count=3, status="running")
    allocate(running, node.gpus.all()[:3])
    job = make_job(cluster=node.cluster, gpu_count=4)
    cycle(1)
    allocate(make_job(cluster=node.cluster, status="running"), node.gpus.all()[3:])
    cycle(2)
    now = queries.waits_of(job)[-1]
    assert (now.start, now.figures["free"]) == (NOW + MINUTE, 0)


def test_behind_the_head_of_the_queue_new_figures_are_not_written_and_new_reasons_are(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.scheduler.cycle.FIGURES_UP_TO_DATE", 1)
    jobs = [make_job(cluster=node.cluster, gpu_count=gpus) for gpus in (5, 6, 5)]
    cycle(1)
    GPU.objects.filter(gpu_index=0).update(state="draining")
    cycle(2)
    assert [queries.waits_of(job)[-1].figures["free"] for job in jobs] == [3, 4, 3]
    Cluster.objects.filter(pk=node.cluster_id).update(status="maintenance")
    cycle(3)
    assert [queries.waits_of(job)[-1].code for job in jobs] == ["cluster_maintenance"] * 3


@pytest.mark.parametrize("change", [{"state": "draining"}, {"state": "unhealthy"}, {"registered_at": NOW + 9 * MINUTE}])
def test_what_is_out_of_service_takes_nothing(change: dict[str, object]) -> None:
    node = make_node(make_cluster())
    gpu = make_gpu(node)
    GPU.objects.filter(pk=gpu.pk).update(**change)
    make_job(cluster=node.cluster)
    assert cycle(1).started == 0


def test_a_gpu_whose_last_job_ended_after_the_clock_was_read_is_left_for_the_next_cycle(node: Node) -> None:
    done = make_job(cluster=node.cluster, gpu_count=4, status="completed")
    allocate(done, node.gpus.all(), start=NOW - 5 * MINUTE, end=NOW + timedelta(seconds=61))
    make_job(cluster=node.cluster)
    assert cycle(1).started == 0
    assert cycle(2).started == 1


def test_a_job_held_or_submitted_later_is_left_alone(node: Node) -> None:
    make_job(cluster=node.cluster, status="blocked")
    make_job(cluster=node.cluster, submitted_at=NOW + 2 * MINUTE)
    result = cycle(1)
    assert (result.started, result.waiting) == (0, 0)


def test_a_job_on_a_silent_node_fails_and_its_seconds_end_at_the_last_heartbeat(node: Node) -> None:
    other = make_node(node.cluster, last_heartbeat_at=NOW)
    far = make_gpu(other)
    job = make_job(cluster=node.cluster, gpu_count=2, status="running", started_at=NOW - 10 * MINUTE)
    allocate(job, [node.gpus.all()[0], far], start=NOW - 10 * MINUTE)
    Node.objects.filter(pk=other.pk).update(silent=True, last_heartbeat_at=NOW - 4 * MINUTE)
    assert cycle(1).failed == 1
    job.refresh_from_db()
    assert (job.status, job.ended_at) == ("failed", NOW + MINUTE)
    ends = dict(Allocation.objects.values_list("gpu_id", Upper("during")))
    assert ends == {node.gpus.all()[0].pk: NOW + MINUTE, far.pk: NOW - 4 * MINUTE}
    assert other.hostname in JobEvent.objects.get().reason


def test_where_the_cluster_has_it_so_a_lost_job_is_queued_again_and_runs_elsewhere(node: Node) -> None:
    Cluster.objects.filter(pk=node.cluster_id).update(on_node_loss="requeue")
    other = make_node(node.cluster, last_heartbeat_at=NOW)
    job = make_job(cluster=node.cluster, status="running", started_at=NOW - 10 * MINUTE)
    allocate(job, [make_gpu(other)], start=NOW - 10 * MINUTE)
    Node.objects.filter(pk=other.pk).update(silent=True, last_heartbeat_at=NOW - 4 * MINUTE)
    GPU.objects.filter(node=other).update(state="offline")
    assert cycle(1).started == 1
    job.refresh_from_db()
    assert (job.status, job.started_at) == ("running", NOW + MINUTE)
    assert ranges(Allocation) == [(NOW - 10 * MINUTE, NOW - 4 * MINUTE), (NOW + MINUTE, None)]
    assert other.hostname in JobEvent.objects.get(to_status="queued").reason


def test_a_job_past_its_limit_fails_only_where_the_cluster_enforces_it(node: Node) -> None:
    lenient = make_node(make_cluster())
    jobs = []
    for home in (node, lenient):
        for minutes in (9, 11):
            job = make_job(cluster=home.cluster, status="running", estimated_duration_min=minutes)
            allocate(job, [make_gpu(home)])
            jobs.append(job)
    Cluster.objects.filter(pk=node.cluster_id).update(enforce_time_limit=True)
    assert cycle(10).failed == 1
    assert [Job.objects.get(pk=job.pk).status for job in jobs] == ["failed", "running", "running", "running"]
    assert JobEvent.objects.get().reason == "Ran past its limit of 9 minutes."


def test_a_job_that_started_after_the_last_heartbeat_held_nothing_of_the_lost_node(node: Node) -> None:
    job = make_job(cluster=node.cluster, status="running")
    allocate(job, node.gpus.all()[:1])
    Node.objects.filter(pk=node.pk).update(silent=True, last_heartbeat_at=NOW - MINUTE)
    cycle(1)
    job.refresh_from_db()
    assert job.status == "failed"
    assert ranges(Allocation) == []


def test_a_job_whose_gpu_was_retired_fails(node: Node) -> None:
    job = make_job(cluster=node.cluster, status="running")
    allocate(job, node.gpus.all()[:1])
    GPU.objects.filter(pk=node.gpus.all()[0].pk).update(retired_at=NOW + MINUTE)
    cycle(2)
    job.refresh_from_db()
    assert job.status == "failed"
    assert ranges(Allocation) == [(NOW, NOW + MINUTE)]


def test_a_job_whose_card_turns_up_in_another_node_has_lost_it_and_is_told_so(node: Node) -> None:
    held = node.gpus.all()[0]
    GPU.objects.filter(pk=held.pk).update(uuid="GPU-x")
    job, next_job = make_job(cluster=node.cluster, status="running"), make_job(cluster=node.cluster, gpu_count=4)
    allocate(job, [held])
    other = make_node(node.cluster)
    sent: list[clusters.GpuFields] = [{"uuid": uuid, "model": held.model} for uuid in ("GPU-x", "", "", "")]
    (card, *_) = clusters.register_gpus(node_id=other.pk, gpus=sent, now=NOW + MINUTE).gpus
    cycle(2)
    assert JobEvent.objects.get(job=job).reason == (
        f"Lost 1 of its GPUs: GPU 0 was retired ({node.hostname}). "
        "Its card was registered on another node of the cluster."
    )
    held_by = Allocation.objects.filter(gpu__uuid="GPU-x").order_by("pk").values_list("job", "gpu", "during")
    assert [(one, gpu, during.lower, during.upper) for one, gpu, during in held_by] == [
        (job.pk, held.pk, NOW, NOW + MINUTE),
        (next_job.pk, card.pk, NOW + 2 * MINUTE, None),
    ]


def test_what_waits_for_a_decommissioned_cluster_is_cancelled(node: Node) -> None:
    job, held = make_job(cluster=node.cluster), make_job(cluster=node.cluster, status="blocked")
    Cluster.objects.filter(pk=node.cluster_id).update(decommissioned_at=NOW)
    cycle(1)
    assert set(Job.objects.filter(pk__in=[job.pk, held.pk]).values_list("status", flat=True)) == {"cancelled"}
    assert ranges(WaitPeriod) == [(NOW, NOW + MINUTE)]


def test_a_plan_made_before_the_quota_was_lowered_is_checked_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = make_tenant(gpu_quota=4)
    for _ in range(4):
        make_job(cluster=node.cluster, tenant=tenant)

    def lower_then_plan(snapshot: placement.Snapshot, at: datetime) -> placement.Plan:
        Tenant.objects.update(gpu_quota=1)
        return placement.plan(snapshot, at)

    monkeypatch.setattr("jobs.scheduler.cycle.plan", lower_then_plan)
    assert cycle(1).started == 1


def test_a_plan_made_before_a_gpu_was_drained_is_checked_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job gets other GPUs in the same cycle."""
    make_job(cluster=node.cluster, gpu_count=2)
    drained: list[int] = []

    def drain_then_plan(snapshot: placement.Snapshot, at: datetime) -> placement.Plan:
        decided = placement.plan(snapshot, at)
        if not drained:
            drained.append(decided.starts[0].gpu_ids[0])
            GPU.objects.filter(pk__in=drained).update(state="draining")
        return decided

    monkeypatch.setattr("jobs.scheduler.cycle.plan", drain_then_plan)
    assert cycle(1).started == 1
    held = set(Allocation.objects.values_list("gpu_id", flat=True))
    assert len(held) == 2
    assert held.isdisjoint(drained)


def test_a_reason_found_at_the_instant_of_the_submission_is_the_first_one(node: Node) -> None:
    job = make_job(cluster=node.cluster, gpu_count=5)
    cycle(0)
    assert waits(job) == [("capacity", NOW, None)]


def test_a_job_that_the_database_refuses_does_not_stop_the_others(node: Node, refuse: Refuse) -> None:
    jobs = [make_job(cluster=node.cluster) for _ in range(3)]
    refuse("jobs_allocation", f"job_id <> {jobs[1].pk}")
    assert cycle(1).started == 2
    assert Job.objects.get(pk=jobs[1].pk).status == JobStatus.QUEUED
    assert Allocation.objects.count() == 2


def test_gpus_meant_for_a_job_that_the_database_refuses_go_to_the_next_one(node: Node, refuse: Refuse) -> None:
    """Else a poisoned job at the head of the queue would keep a whole cluster idle."""
    poisoned, other = make_job(cluster=node.cluster, gpu_count=4, priority=1), make_job(cluster=node.cluster)
    refuse("jobs_allocation", f"job_id <> {poisoned.pk}")
    assert cycle(1).started == 1
    other.refresh_from_db()
    assert other.status == "running"
    assert Job.objects.get(pk=poisoned.pk).status == "queued"


def test_a_reason_that_the_database_refuses_does_not_stop_the_others(node: Node, refuse: Refuse) -> None:
    jobs = [make_job(cluster=node.cluster, gpu_count=gpus) for gpus in range(5, 10)]
    refuse("jobs_kindwait", "gpu_count <> 7")
    cycle(1)
    assert [waits(job)[-1][0] for job in jobs] == ["capacity", "capacity", "scheduler", "capacity", "capacity"]
    assert SchedulerCycle.objects.exists()


def test_a_cancellation_that_the_database_refuses_does_not_stop_the_cycle(node: Node, refuse: Refuse) -> None:
    gone = make_cluster(decommissioned_at=NOW)
    stranded = [make_job(cluster=gone) for _ in range(3)]
    job = make_job(cluster=node.cluster)
    refuse("jobs_job", f"id <> {stranded[1].pk} OR status = 'queued'")
    assert cycle(1).started == 1
    job.refresh_from_db()
    assert job.status == "running"
    statuses = Job.objects.filter(cluster=gone).order_by("pk").values_list("status", flat=True)
    assert list(statuses) == ["cancelled", "queued", "cancelled"]


def test_what_a_client_did_after_the_clock_was_read_is_left_for_the_next_cycle(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held before the cycle's instant and released after it: the ledger would have to run backwards."""
    starts, held = make_job(cluster=node.cluster), make_job(cluster=node.cluster, gpu_count=5)
    other = make_job(cluster=node.cluster, gpu_count=5)
    for job in (starts, held):
        services.change_status(job_id=job.pk, status="blocked", reason="data", actor="key:1", now=NOW + MINUTE / 2)
    unhold = [starts.pk, held.pk]

    def release_then_plan(snapshot: placement.Snapshot, at: datetime) -> placement.Plan:
        while unhold:
            services.change_status(job_id=unhold.pop(), status="queued", actor="key:1", now=NOW + 2 * MINUTE)
            snapshot = take_snapshot(NOW + MINUTE)
        return placement.plan(snapshot, at)

    monkeypatch.setattr("jobs.scheduler.cycle.plan", release_then_plan)
    assert cycle(1).started == 0
    assert waits(other)[-1] == ("capacity", NOW + MINUTE, None)
    assert cycle(3).started == 1
    assert [code for code, _, _ in waits(held)] == ["scheduler", "held", "capacity"]


def test_a_cycle_that_changes_nothing_writes_no_reason(node: Node) -> None:
    tenant = make_tenant(gpu_quota=3)
    for wish in ({"gpu_count": 4}, {"gpu_count": 2}, {"tenant": tenant, "gpu_count": 3}, {"tenant": tenant}):
        make_job(cluster=node.cluster, **wish)
    cycle(1)
    with CaptureQueriesContext(connection) as queries:
        cycle(2)
    written = [query["sql"] for query in queries if query["sql"].startswith(("UPDATE", "INSERT", "DELETE"))]
    assert [sql for sql in written if "jobs_schedulercycle" not in sql] == []
    assert not [query for query in queries if "WITH decided" in query["sql"]]


@pytest.mark.usefixtures("refuse")
def test_a_piece_with_faulty_rows_is_written_but_for_them() -> None:
    written: list[int] = []

    def write(piece: Sequence[int]) -> int:
        if {3, 7} & set(piece):
            raise IntegrityError("faulty")
        written.extend(piece)
        return len(piece)

    assert write_in_pieces(range(10), 6, write) == (8, [3, 7])
    assert written == [0, 1, 2, 4, 5, 6, 8, 9]


def test_an_empty_cycle_is_a_cycle() -> None:
    cycle(5)
    cycle(6)
    assert SchedulerCycle.objects.get().finished_at == NOW + 6 * MINUTE


@pytest.mark.parametrize("hold", [False, True])
def test_the_number_of_queries_does_not_grow_with_the_queue(hold: bool) -> None:
    """Neither when jobs start nor when they all wait."""
    cycle()  # The first one makes the cycle's row; the others change it.
    assert _queries_of_a_cycle(jobs=3, hold=hold) == _queries_of_a_cycle(jobs=40, hold=hold)


def _queries_of_a_cycle(*, jobs: int, hold: bool) -> int:
    Job.objects.exclude(status__in=["running", "cancelled"]).update(status="cancelled", ended_at=NOW)
    node = make_node(make_cluster())
    for _ in range(2):
        make_gpu(node)
    tenants = [make_tenant(f"{name}-{jobs}") for name in ("acme", "bluefin")]
    for number in range(jobs):
        make_job(cluster=node.cluster, tenant=tenants[number % 2], gpu_count=3 if hold else 1)
    with CaptureQueriesContext(connection) as queries:
        assert cycle(1).started == (0 if hold else 2)
    return len(queries)
