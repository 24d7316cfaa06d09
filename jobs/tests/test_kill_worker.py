"""A real Celery worker is killed with SIGKILL in the middle of a tick, twenty times, while jobs flow."""

import random
import time
from datetime import datetime

import pytest
from django.db import connection
from django.utils import timezone

from clusters.models import Cluster
from gpufleet.common.locks import SCHEDULER_LOCK
from gpufleet.common.tests.processes import PATIENCE_SECONDS, wait_until
from gpufleet.embedded import Valkey
from jobs.models import Job, JobEvent, SchedulerCycle
from jobs.queries import last_cycle_finished_at
from jobs.tests.test_concurrency import move, submit_one
from jobs.tests.workers import ask_for_a_tick, own_valkey, worker
from jobs.tests.world import breaches, build, leaked_gpus
from tenants.models import Tenant

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

KILLS = 20
MOST_ATTEMPTS = 80
LONGEST_CYCLE_S = 0.06


def cycle_runs() -> bool:
    """Whether some session holds the scheduler's lock now."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND (classid::bigint << 32) + objid::bigint = %s",
            [SCHEDULER_LOCK],
        )
        return cursor.fetchone() is not None


def catch_a_cycle(broker: Valkey) -> datetime | None:
    """Ask for ticks until one is seen at work. Returns when the cycle before it finished."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        before = last_cycle_finished_at()
        ask_for_a_tick(broker)
        look_until = time.monotonic() + 0.2  # A cycle is so short that a look may miss it.
        while time.monotonic() < look_until:
            if cycle_runs():
                return before
    raise AssertionError("no cycle was seen")


def keep_flowing(chance: random.Random, cluster: Cluster, tenants: list[Tenant]) -> None:
    """More jobs than fit, and some that end: each cycle reads, starts and explains."""
    while Job.objects.filter(status="queued").count() < 25:
        submit_one(cluster, chance.choice(tenants), chance.randint(1, 4), chance.randint(1, 9))
    running = list(Job.objects.filter(status="running").values_list("pk", flat=True))
    for job_id in chance.sample(running, (len(running) + 1) // 2):
        move(job_id, "completed")


def kill_in_a_cycle(broker: Valkey, chance: random.Random) -> bool:
    """Kill a worker at a random instant after its cycle began. Returns whether that cycle was cut short."""
    with worker(broker) as process:
        before = catch_a_cycle(broker)
        time.sleep(chance.random() * LONGEST_CYCLE_S)
        process.kill()
        process.wait()
    wait_until(lambda: not cycle_runs(), "the killed worker's lock is gone")
    return last_cycle_finished_at() == before


def test_twenty_kills_in_the_middle_of_a_tick_break_no_promise() -> None:
    chance = random.Random(20)
    cluster, tenants = build(quotas=(12, 14))  # So that they compete for GPUs, and preempt each other.
    cut_short = attempts = 0
    with own_valkey() as broker:
        while cut_short < KILLS:
            assert attempts < MOST_ATTEMPTS, f"only {cut_short} of {attempts} kills came in the middle of a cycle"
            keep_flowing(chance, cluster, tenants)
            cut_short += kill_in_a_cycle(broker, chance)
            attempts += 1
            assert breaches() == []
        before = timezone.now()
        with worker(broker):
            wait_until(lambda: _ran_dry(broker), "every job runs and ends")
    assert set(Job.objects.values_list("status", flat=True)) == {"completed"}
    assert breaches() == []
    assert leaked_gpus() == 0
    assert JobEvent.objects.filter(reason__startswith="preempted for").exists()
    assert SchedulerCycle.objects.get().finished_at > before


def _ran_dry(broker: Valkey) -> bool:
    ask_for_a_tick(broker)
    time.sleep(0.1)
    for job_id in Job.objects.filter(status="running").values_list("pk", flat=True):
        move(job_id, "completed")
    return not Job.objects.filter(ended_at__isnull=True).exists()
