"""The doorbell and the tick while Redis is frozen, emptied, killed or gone: it is a doorbell, never a record."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from django.utils import timezone
from pytest_django import Settings

from gpufleet.common.tests.processes import wait_until
from gpufleet.embedded import Valkey
from jobs import services, tasks
from jobs.models import Job
from jobs.tests.workers import ask_for_a_tick, own_valkey, worker
from jobs.tests.world import build

# A submission must not wait longer for a doorbell that does not answer, and many submissions not each of them.
ONE_RING_S = 1.5
FIFTY_RINGS_S = 2.5

RINGER = """
import sys, time, django
django.setup()
from jobs import tasks
for line in sys.stdin:
    began = time.monotonic()
    for _ in range(int(line)):
        tasks.ring()
    print(time.monotonic() - began, flush=True)
"""


class Ringer:
    """A process like a web worker, that rings as often as it is told and says how long it took."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ring(self, times: int = 1) -> float:
        """Seconds for so many rings one after the other."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


@contextmanager
def ringer(broker: Valkey) -> Iterator[Ringer]:
    surroundings = {**os.environ, "REDIS_URL": broker.url(), "DJANGO_SETTINGS_MODULE": "gpufleet.settings"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", RINGER], text=True, env=surroundings, **pipes)  # type: ignore[call-overload]  # a dict of pipes
    try:
        yield Ringer(process)
    finally:
        process.kill()
        process.wait()


def messages(broker: Valkey) -> int:
    with redis.Redis(unix_socket_path=str(broker.socket)) as client:
        return int(client.llen("celery"))


def test_a_burst_of_rings_is_one_message_until_a_tick_begins() -> None:
    with own_valkey() as broker, ringer(broker) as bell:
        bell.ring(20)
        assert messages(broker) == 1


def test_a_redis_that_is_frozen_or_gone_holds_nobody_up_and_is_found_again() -> None:
    with own_valkey() as broker, ringer(broker) as bell:
        bell.ring()
        assert broker.process is not None
        os.kill(broker.process.pid, signal.SIGSTOP)
        try:
            assert bell.ring() < ONE_RING_S
            assert bell.ring(50) < FIFTY_RINGS_S
        finally:
            os.kill(broker.process.pid, signal.SIGCONT)
        broker.stop()
        assert bell.ring(50) < FIFTY_RINGS_S
        time.sleep(tasks.LEFT_ALONE_SECONDS)
        assert bell.ring() < ONE_RING_S
        broker.start()
        with redis.Redis(unix_socket_path=str(broker.socket)) as client:
            client.flushall()
        time.sleep(tasks.LEFT_ALONE_SECONDS)
        bell.ring()
        assert messages(broker) == 1


@pytest.mark.django_db(transaction=True)
def test_a_submission_and_a_tick_need_no_redis(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_left_alone_until", 0.0)
    with own_valkey() as broker:
        gone = broker.url()
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": gone}}
    cluster, _ = build()
    job = services.submit_job(cluster_id=cluster.pk, name="j", actor="test", now=timezone.now())
    tasks.tick()
    job.refresh_from_db()
    assert job.status == "running"


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_after_redis_was_emptied_or_killed_the_next_tick_carries_on() -> None:
    cluster, _ = build()

    def submit() -> Job:
        return services.submit_job(cluster_id=cluster.pk, name="j", actor="test", now=timezone.now())

    def runs(job: Job) -> bool:
        return Job.objects.get(pk=job.pk).status == "running"

    with own_valkey() as broker:
        job = submit()
        ask_for_a_tick(broker)
        with redis.Redis(unix_socket_path=str(broker.socket)) as client:
            client.flushall()
        with worker(broker):
            time.sleep(3)
            assert not runs(job), "the message was not lost; the test has lost its point"
            ask_for_a_tick(broker)
            wait_until(lambda: runs(job), "the next tick places the job")

            assert broker.process is not None
            broker.process.kill()
            broker.process.wait()
            other = submit()
            broker.start()
            ask_for_a_tick(broker)
            wait_until(lambda: runs(other), "the worker comes back to the broker")
