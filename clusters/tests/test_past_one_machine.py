"""Three web processes, three workers and two beats on one database, killed at random while batches come in."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connection
from django.utils import timezone

from apikeys.tests.factories import make_key
from clusters.models import GPU, MetricSample
from clusters.tests.factories import make_gpu, make_node
from gpufleet.common.tests.processes import database_url, wait_until
from jobs.tests.workers import own_valkey

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

WEBS, WORKERS, BEATS, SENDERS = 3, 3, 2, 6
LOAD_S = 6.0


class Machines:
    """Processes that are started again when they are killed, as a supervisor does."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self._env = {
            **os.environ,
            "DATABASE_URL": database_url(),
            "REDIS_URL": redis_url,
            "METRICS_GROUP_COMMIT": "1",
            "LOG_LEVEL": "CRITICAL",
            "ALLOWED_HOSTS": "127.0.0.1",
        }
        self.ports = [free_port() for _ in range(WEBS)]
        celery = [sys.executable, "-m", "celery", "-A", "gpufleet"]
        self._commands = [granian(port) for port in self.ports]
        self._commands += [[*celery, "worker", "--pool", "solo", "--loglevel", "CRITICAL"]] * WORKERS
        self._commands += [
            [*celery, "beat", "--schedule", str(folder / f"beat-{n}"), "--pidfile", "", "--loglevel", "CRITICAL"]
            for n in range(BEATS)
        ]
        self._processes = [self._start(command) for command in self._commands]

    def kill(self, number: int) -> None:
        """Kill -9, with its children, and start it again."""
        os.killpg(self._processes[number].pid, signal.SIGKILL)
        self._processes[number].wait()
        self._processes[number] = self._start(self._commands[number])

    def stop(self) -> None:
        for process in self._processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def are_up(self) -> bool:
        return all(answers(port) for port in self.ports)

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, env=self._env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )


def granian(port: int) -> list[str]:
    binary = str(Path(sys.executable).parent / "granian")
    size = ["--workers", "1", "--blocking-threads", "8", "--no-ws", "--log-level", "critical"]
    return [binary, "--interface", "wsgi", "--port", str(port), *size, "gpufleet.wsgi:application"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").is_success
    except httpx.HTTPError:
        return False


class Sender(threading.Thread):
    """An agent: it sends each batch to whichever machine, again and again under one key, until one takes it."""

    def __init__(self, number: int, gpus: list[GPU], raw_key: str, ports: list[int], stop: threading.Event) -> None:
        super().__init__()
        self.number, self.gpus, self.ports, self.stop = number, gpus, ports, stop
        self.acknowledged: list[tuple[int, Any]] = []
        self.sent_again = 0
        self._headers = {"Authorization": f"Bearer {raw_key}", "Content-Type": "application/json"}

    def run(self) -> None:
        began = timezone.now() - timedelta(minutes=5)
        batch = 0
        while not self.stop.is_set():
            batch += 1
            at = began + timedelta(milliseconds=batch)
            metrics = [{"gpu_id": gpu.pk, "recorded_at": at.isoformat(), "utilization_pct": 50} for gpu in self.gpus]
            body = json.dumps({"metrics": metrics}, separators=(",", ":")).encode()
            headers = {**self._headers, "Idempotency-Key": f"{self.number}-{batch}"}
            while not self._is_taken(body, headers):
                self.sent_again += 1
                time.sleep(0.05)
            self.acknowledged += [(gpu.pk, at) for gpu in self.gpus]

    def _is_taken(self, body: bytes, headers: dict[str, str]) -> bool:
        port = random.choice(self.ports)
        try:
            answer = httpx.post(
                f"http://127.0.0.1:{port}/api/clusters/metrics", content=body, headers=headers, timeout=30
            )
        except httpx.HTTPError:
            return False
        assert answer.status_code in (202, 503), answer.text
        return answer.status_code == 202


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE clusters_metricframe, clusters_metriclate, clusters_metrichour, clusters_metricrollup")
    with own_valkey() as valkey, ExitStack() as stack:
        found = Machines(tmp_path, valkey.url())
        stack.callback(found.stop)
        wait_until(found.are_up, "three web processes")
        yield found


def kill_a_backend() -> None:
    """One of PostgreSQL's processes that serve the web or the workers, as by an operator or the kernel."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"
        )


def test_every_acknowledged_sample_is_there_and_none_twice(machines: Machines) -> None:
    raw_key = make_key().raw
    nodes = [[make_gpu(node) for _ in range(4)] for node in (make_node() for _ in range(SENDERS))]
    stop = threading.Event()
    senders = [Sender(number, gpus, raw_key, machines.ports, stop) for number, gpus in enumerate(nodes)]
    for sender in senders:
        sender.start()
    chance, until = random.Random(5), time.monotonic() + LOAD_S
    while time.monotonic() < until:
        time.sleep(0.4)
        machines.kill(chance.randrange(WEBS + WORKERS + BEATS))
        kill_a_backend()
    stop.set()
    wait_until(machines.are_up, "the last killed web process")
    for sender in senders:
        sender.join(60)
        assert not sender.is_alive()
    acknowledged = [sample for sender in senders for sample in sender.acknowledged]
    stored = list(MetricSample.objects.values_list("gpu_id", "recorded_at"))
    assert len(acknowledged) > 50
    assert sum(sender.sent_again for sender in senders) > 0, "no kill cut a batch short"
    assert set(acknowledged) == set(stored)
    assert len(stored) == len(set(stored))
