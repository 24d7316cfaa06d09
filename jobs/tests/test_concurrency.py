"""Real threads on the real database: many ticks, submissions and ends at once break no promise."""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from clusters import services as clusters
from clusters.models import Cluster, Node, NodeIntent
from gpufleet.common.errors import DomainError
from jobs import scheduler, services, tasks
from jobs.models import Allocation, Job
from jobs.scheduler.pieces import write_in_pieces
from jobs.tests.world import breaches, build, leaked_gpus
from tenants.models import Tenant
from tenants.services import update_tenant

pytestmark = pytest.mark.django_db(transaction=True)

SECONDS = 4


def in_threads(*works: Callable[[], None]) -> None:
    """Run each in its own thread with its own connection; what one raises is raised here."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=guarded, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# Whenever GPUs go to a job, its tenant is locked; so what it holds can be compared with the quota of that instant.
QUOTA_WATCH = """
CREATE TABLE quota_breach (tenant_id bigint, held bigint, quota bigint);
CREATE FUNCTION quota_watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO quota_breach
    SELECT tenant.id, count(*), tenant.gpu_quota
      FROM tenants_tenant AS tenant
      JOIN jobs_allocation AS held ON held.tenant_id = tenant.id AND upper_inf(held.during)
     WHERE tenant.id IN (SELECT tenant_id FROM new_rows)
     GROUP BY tenant.id HAVING count(*) > tenant.gpu_quota;
    RETURN NULL;
END $$;
CREATE TRIGGER quota_watch AFTER INSERT ON jobs_allocation REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION quota_watch();
"""
NO_QUOTA_WATCH = """
DROP TRIGGER quota_watch ON jobs_allocation; DROP FUNCTION quota_watch(); DROP TABLE quota_breach;
"""


@pytest.fixture
def quota_breaches() -> Iterator[Callable[[], list[tuple[int, int, int]]]]:
    """Every start that went over a quota: (tenant, held after it, quota)."""

    def execute(sql: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(sql)

    def found() -> list[tuple[int, int, int]]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM quota_breach")
            return list(cursor.fetchall())

    execute(QUOTA_WATCH)
    yield found
    execute(NO_QUOTA_WATCH)


@pytest.mark.slow
def test_everything_at_once_breaks_no_promise(
    quota_breaches: Callable[[], list[tuple[int, int, int]]], caplog: pytest.LogCaptureFixture
) -> None:
    """Ticks, submissions, ends, holds, quotas that rise and fall, nodes that are drained and nodes that are lost."""
    cluster, tenants = build(nodes=4, gpus_per_node=4, quotas=(6, 8))
    nodes = list(cluster.nodes.order_by("pk"))
    broken: list[str] = []
    until = time.monotonic() + SECONDS

    def repeat(work: Callable[[random.Random], object], seed: int) -> Callable[[], None]:
        chance = random.Random(seed)

        def loop() -> None:
            while time.monotonic() < until:
                work(chance)

        return loop

    def submit(chance: random.Random) -> None:
        if Job.objects.filter(status="queued").count() > 20:
            time.sleep(0.01)
        with contextlib.suppress(DomainError):  # The quota is too low at the moment.
            submit_one(cluster, chance.choice(tenants), chance.randint(1, 6), chance.randint(1, 9))

    def end(chance: random.Random) -> None:
        for job_id in Job.objects.filter(status="running").values_list("pk", flat=True):
            move(job_id, chance.choice(["completed", "failed", "cancelled"]))

    def hold_and_release(chance: random.Random) -> None:
        waiting = Job.objects.filter(status__in=["queued", "blocked"]).values_list("pk", "status")
        for job_id, status in chance.sample(list(waiting), min(3, len(waiting))):
            move(job_id, "blocked" if status == "queued" else "queued")

    def change_quota(chance: random.Random) -> None:
        update_tenant(tenant_id=chance.choice(tenants).pk, changes={"gpu_quota": chance.randint(1, 12)})
        time.sleep(0.02)

    def drain(chance: random.Random) -> None:
        node, intent = chance.choice(nodes[:2]), chance.choice([NodeIntent.DRAINING, NodeIntent.ACTIVE])
        clusters.update_node(node_id=node.pk, intent=intent, now=timezone.now())
        time.sleep(0.02)

    def lose(chance: random.Random) -> None:
        node = nodes[3]
        Node.objects.filter(pk=node.pk).update(last_heartbeat_at=timezone.now() - timedelta(hours=1))
        clusters.sweep_silent_nodes(now=timezone.now())
        time.sleep(0.1)
        clusters.register_node(cluster_id=cluster.pk, hostname=node.hostname, fields={}, now=timezone.now())
        time.sleep(0.2)

    def watch(chance: random.Random) -> None:
        broken.extend(breach for breach in breaches() if "quota" not in breach)

    Node.objects.update(last_heartbeat_at=timezone.now())
    works = [submit, submit, end, hold_and_release, change_quota, drain, lose, watch]
    ticks = [repeat(lambda _: tasks.tick(), 0)] * 3
    in_threads(*[repeat(work, seed) for seed, work in enumerate(works)], *ticks)

    assert broken == []
    assert quota_breaches() == []
    assert [record.message for record in caplog.records if "refuses" in record.message] == []
    assert Allocation.objects.count() > 50
    assert Job.objects.filter(events__actor="scheduler", status="failed").exists()
    Tenant.objects.update(gpu_quota=12)
    for node in nodes:
        clusters.update_node(node_id=node.pk, intent=NodeIntent.ACTIVE, now=timezone.now())
    for job_id in Job.objects.filter(status="blocked").values_list("pk", flat=True):
        move(job_id, "queued")
    drain_queue()
    assert leaked_gpus() == 0
    assert not Job.objects.filter(ended_at__isnull=True).exists()


def test_only_one_cycle_runs_and_one_more_waits() -> None:
    """Ten come while a cycle runs: one waits for its turn and runs another, and nine leave."""
    build()
    turns: list[bool] = []
    arrived = threading.Barrier(11)

    def come() -> None:
        arrived.wait()
        with scheduler.turn() as mine:
            turns.append(mine)

    def hold() -> None:
        with scheduler.turn() as mine:
            assert mine
            arrived.wait()
            deadline = time.monotonic() + 20
            while len(turns) < 9 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert turns == [False] * 9

    in_threads(hold, *[come] * 10)
    assert sorted(turns) == [False] * 9 + [True]


def test_a_lost_connection_ends_the_cycle() -> None:
    """With the connection the scheduler's lock is gone, and another worker may be in its cycle by now."""
    attempts: list[Sequence[int]] = []

    @transaction.atomic
    def write(piece: Sequence[int]) -> int:
        attempts.append(piece)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return len(piece)

    with pytest.raises(OperationalError, match="terminating connection"):
        write_in_pieces(range(10), 5, write)
    assert attempts == [[0, 1, 2, 3, 4]]


def submit_one(cluster: Cluster, tenant: Tenant, gpu_count: int, priority: int = 5) -> None:
    services.submit_job(
        cluster_id=cluster.pk, tenant_id=tenant.pk, name="j", gpu_count=gpu_count, priority=priority, actor="test",
        now=timezone.now(),
    )  # fmt: skip


def move(job_id: int, status: str) -> None:
    with contextlib.suppress(DomainError):  # Somebody else has ended it.
        services.change_status(job_id=job_id, status=status, reason="a test", actor="test", now=timezone.now())


def drain_queue() -> None:
    """Run and end whatever is left."""
    for _ in range(10_000):
        if not Job.objects.filter(ended_at__isnull=True).exists():
            return
        tasks.tick()
        assert breaches() == []
        for job_id in Job.objects.filter(status="running").values_list("pk", flat=True):
            move(job_id, "completed")


WHO_STARTS = """
CREATE TABLE who_starts (tenant_id bigint, backend int);
CREATE FUNCTION who_starts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO who_starts SELECT tenant_id, pg_backend_pid() FROM new_rows;
    RETURN NULL;
END $$;
CREATE TRIGGER who_starts AFTER INSERT ON jobs_allocation REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION who_starts()
"""


@pytest.fixture
def who_starts() -> Iterator[Callable[[], list[tuple[int, int]]]]:
    """Which tenants' GPUs were given by which of PostgreSQL's processes."""
    with connection.cursor() as cursor:
        cursor.execute(WHO_STARTS)

    def found() -> list[tuple[int, int]]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT DISTINCT tenant_id, backend FROM who_starts")
            rows: list[tuple[int, int]] = cursor.fetchall()
        return rows

    yield found
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER who_starts ON jobs_allocation; DROP FUNCTION who_starts; DROP TABLE who_starts")


def test_very_many_starts_are_written_by_two_connections_each_for_tenants_of_its_own(
    who_starts: Callable[[], list[tuple[int, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.scheduler.starting.MANY", 12)
    cluster, tenants = build(nodes=4, quotas=(6, 6, 5, 5))
    for tenant in tenants:
        for _ in range(7):
            services.submit_job(cluster_id=cluster.pk, name="job", actor="t", now=timezone.now(), tenant_id=tenant.pk)
    with connection.cursor() as cursor:  # One of them is refused by the database, in whichever connection.
        poisoned = Job.objects.filter(tenant=tenants[2]).earliest("pk").pk
        cursor.execute(f"ALTER TABLE jobs_allocation ADD CONSTRAINT poison CHECK (job_id <> {poisoned})")
    try:
        result = scheduler.run_cycle(now=timezone.now())
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE jobs_allocation DROP CONSTRAINT poison")
    assert (result.started, breaches()) == (22, [])
    assert not Job.objects.filter(pk=poisoned, status="running").exists()
    backends: dict[int, set[int]] = {}
    for tenant_id, backend in who_starts():
        backends.setdefault(tenant_id, set()).add(backend)
    assert len(set().union(*backends.values())) >= 2
    assert sorted(len(mine) for mine in backends.values())[:3] == [1, 1, 1]  # One was served again in a second plan.
