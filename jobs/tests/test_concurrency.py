"""Real threads on the real database: many ticks, submissions and ends at once break no promise."""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from clusters.models import Cluster
from gpufleet.common.errors import DomainError
from jobs import scheduler, services, tasks
from jobs.models import Allocation, Job
from jobs.scheduler.pieces import write_in_pieces
from jobs.tests.world import breaches, build, leaked_gpus
from tenants.models import Tenant

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


@pytest.mark.slow
def test_ticks_submissions_ends_and_quota_changes_at_once() -> None:
    cluster, tenants = build()
    until = time.monotonic() + SECONDS
    broken: list[str] = []

    def submit(seed: int) -> Callable[[], None]:
        chance = random.Random(seed)

        def work() -> None:
            while time.monotonic() < until:
                submit_one(cluster, chance.choice(tenants), chance.randint(1, 6))
                while Job.objects.filter(status="queued").count() > 20 and time.monotonic() < until:
                    time.sleep(0.01)

        return work

    def end() -> None:
        chance = random.Random(7)
        while time.monotonic() < until:
            for job_id in Job.objects.filter(status="running").values_list("pk", flat=True):
                move(job_id, chance.choice(["completed", "failed", "cancelled"]))

    def tick() -> None:
        while time.monotonic() < until:
            tasks.tick()

    def raise_and_lower() -> None:
        """Never below what may be held, since lowering evicts nobody."""
        while time.monotonic() < until:
            Tenant.objects.filter(pk=tenants[0].pk).update(gpu_quota=9)

    def watch() -> None:
        while time.monotonic() < until:
            broken.extend(breaches())

    in_threads(submit(1), submit(2), end, tick, tick, tick, raise_and_lower, watch)
    assert broken == []
    assert Allocation.objects.count() > 50
    drain()
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


def submit_one(cluster: Cluster, tenant: Tenant, gpu_count: int) -> None:
    services.submit_job(
        cluster_id=cluster.pk, tenant_id=tenant.pk, name="j", gpu_count=gpu_count, actor="test", now=timezone.now()
    )


def move(job_id: int, status: str) -> None:
    with contextlib.suppress(DomainError):  # Somebody else has ended it.
        services.change_status(job_id=job_id, status=status, actor="test", now=timezone.now())


def drain() -> None:
    """Run and end whatever is left."""
    for _ in range(10_000):
        if not Job.objects.filter(ended_at__isnull=True).exists():
            return
        tasks.tick()
        assert breaches() == []
        for job_id in Job.objects.filter(status="running").values_list("pk", flat=True):
            move(job_id, "completed")
