"""A real Celery worker is killed with SIGKILL in the middle of a tick, twenty times, while jobs flow."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from django.db import connection
from django.utils import timezone

from gpufleet.common.locks import SCHEDULER_LOCK
from jobs import services, tasks
from jobs.models import Job, SchedulerCycle
from jobs.tests.test_concurrency import move, submit_one
from jobs.tests.world import breaches, build, leaked_gpus

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

KILLS = 20
PATIENCE_SECONDS = 60


def database_url() -> str:
    """The test database's own URL, for another process."""
    values = connection.settings_dict
    host = values["OPTIONS"].get("host") or values["HOST"]
    return f"postgres://{values['USER']}:{quote(values['PASSWORD'])}@/{values['NAME']}?host={host}"


@contextmanager
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """A Celery worker on the test's database and broker, gone at the end."""
    command = [sys.executable, "-m", "celery", "-A", "gpufleet", "worker", "--pool", "solo", "--loglevel", "ERROR"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    process = subprocess.Popen(command, env={**os.environ, "DATABASE_URL": database_url()})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


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


def ticked_and_runs() -> bool:
    """Whether a cycle runs now, after asking for another: a cycle is so short that a look may miss it."""
    tasks.tick.delay()
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        if cycle_runs():
            return True
    return False


def wait_for(condition: str, check: object) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not check():  # type: ignore[operator]  # a callable
        assert time.monotonic() < deadline, f"waited in vain: {condition}"
        time.sleep(0.001)


def keep_flowing(chance: random.Random, world: tuple) -> None:  # type: ignore[type-arg]  # build()'s
    cluster, tenants = world
    for _ in range(4):
        submit_one(cluster, chance.choice(tenants), chance.randint(1, 4))
    running = list(Job.objects.filter(status="running").values_list("pk", flat=True))
    for job_id in chance.sample(running, len(running) // 2):
        move(job_id, "completed")


def test_twenty_kills_in_the_middle_of_a_tick_break_no_promise() -> None:
    chance = random.Random(20)
    world = build()
    caught = 0
    for _ in range(KILLS):
        keep_flowing(chance, world)
        with worker() as process:
            wait_for("the worker is caught in a cycle", ticked_and_runs)
            time.sleep(chance.random() * 0.03)
            caught += cycle_runs()
            process.kill()
            process.wait()
        wait_for("the killed worker's lock is gone", lambda: not cycle_runs())
        assert breaches() == []
    assert caught >= KILLS // 4, "most kills came after the cycle; the test has lost its point"

    with worker():
        before = timezone.now()
        for _ in range(PATIENCE_SECONDS * 5):
            if not Job.objects.filter(ended_at__isnull=True).exists():
                break
            tasks.tick.delay()
            time.sleep(0.2)
            for job_id in Job.objects.filter(status="running").values_list("pk", flat=True):
                move(job_id, "completed")
    assert set(Job.objects.values_list("status", flat=True)) == {"completed"}
    assert breaches() == []
    assert leaked_gpus() == 0
    assert SchedulerCycle.objects.get().finished_at > before


def test_without_redis_the_next_tick_carries_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doorbell can't be rung; the submission stands all the same, and whoever ticks next places the job."""
    monkeypatch.setattr("jobs.tasks.cache.add", _refuse)
    cluster, _ = build()
    job = services.submit_job(cluster_id=cluster.pk, name="j", actor="test", now=timezone.now())
    tasks.tick()
    job.refresh_from_db()
    assert job.status == "running"


def _refuse(*args: object, **kwargs: object) -> None:
    raise ConnectionRefusedError
