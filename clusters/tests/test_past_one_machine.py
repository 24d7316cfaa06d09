"""Three web processes, three workers, two beats and PostgreSQL's own processes, killed while batches come in."""

import contextlib
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
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psycopg
import pytest
from django.apps import apps
from django.db import connection
from django.utils import timezone

from apikeys.tests.factories import make_key
from clusters.models import GPU
from clusters.tests.factories import make_gpu, make_node
from gpufleet.common.tests.processes import database_url, wait_until
from gpufleet.embedded import Postgres, Valkey
from jobs.tests.workers import ask_for_a_tick, own_valkey

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

WEBS, WORKERS, BEATS, SENDERS = 3, 3, 2, 6
CRASHES, LONGEST_LOAD_S = 3, 120.0

WRITING = """
SELECT pid FROM pg_locks
WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND relation = 'clusters_metricframe'::regclass AND mode = 'RowExclusiveLock' LIMIT 1
"""


class Machines:
    """Processes that are started again when they are killed, as a supervisor does."""

    def __init__(self, folder: Path, broker: Valkey, addresses: dict[str, str]) -> None:
        self.broker = broker
        self.samples_url = addresses.get("METRICS_DATABASE_URL", addresses["DATABASE_URL"])
        self._env = {
            **os.environ,
            **addresses,
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


def granian(port: int, threads: int = 8) -> list[str]:
    binary = str(Path(sys.executable).parent / "granian")
    size = ["--workers", "1", "--blocking-threads", str(threads), "--no-ws", "--log-level", "critical"]
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


@contextmanager
def own_postgres(folder: Path) -> Iterator[Postgres]:
    """A server as an installation runs it, for the test itself too; its crash is nobody else's."""
    server = Postgres(folder)
    server.start()
    there = dict(connection.settings_dict)
    connection.close()
    connection.settings_dict.update(
        NAME=server.database,
        USER=server.user,
        PASSWORD=server.password,
        OPTIONS={**there["OPTIONS"], "host": str(server.sockets)},
    )
    try:
        yield server
    finally:
        connection.close()
        connection.settings_dict.update(there)
        server.stop()


@pytest.fixture(params=["together", "apart"])
def machines(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machines]:
    """With the samples in the main database, and in one of their own."""
    with ExitStack() as stack:
        valkey = stack.enter_context(own_valkey())
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="gpufleet-crash-")))
        folder.chmod(0o711)
        server = stack.enter_context(own_postgres(folder))
        addresses = {"DATABASE_URL": server.url(), "REDIS_URL": valkey.url()}
        if request.param == "apart":
            with psycopg.connect(server.url(), autocommit=True) as maintenance:
                maintenance.execute("CREATE DATABASE metrics")
            addresses["METRICS_DATABASE_URL"] = server.url("metrics")
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity", "0"], env={**os.environ, **addresses}, check=True
        )
        found = Machines(tmp_path, valkey, addresses)
        stack.callback(found.stop)
        wait_until(found.are_up, "three web processes")
        yield found


def kill_a_backend(url: str) -> bool:
    """Kill -9 a process of PostgreSQL in the middle of a write, whereupon it ends them all and recovers from its log.
    Whether there was one.
    """
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url, autocommit=True) as own:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            for (pid,) in own.execute(WRITING):
                os.kill(pid, signal.SIGKILL)
                return True
    return False


def stored_samples(url: str) -> list[tuple[int, datetime]]:
    with psycopg.connect(url) as own:
        own.execute("SET timezone = 'UTC'")
        return [*own.execute("SELECT gpu_id, recorded_at FROM clusters_metricsample")]


def read(port: int, gpu: GPU, raw_key: str) -> list[tuple[int, datetime]]:
    """The GPU's samples as the API gives them."""
    address = f"http://127.0.0.1:{port}/api/clusters/gpus/{gpu.pk}/metrics"
    answer = httpx.get(address, headers={"Authorization": f"Bearer {raw_key}"}).raise_for_status()
    return [(gpu.pk, datetime.fromisoformat(point["recorded_at"])) for point in answer.json()["points"]]


def test_every_acknowledged_sample_is_there_and_none_twice(machines: Machines) -> None:
    raw_key = make_key().raw
    nodes = [[make_gpu(node) for _ in range(4)] for node in (make_node() for _ in range(SENDERS))]
    connection.close()
    stop = threading.Event()
    senders = [Sender(number, gpus, raw_key, machines.ports, stop) for number, gpus in enumerate(nodes)]
    for sender in senders:
        sender.start()
    chance, until, crashes = random.Random(5), time.monotonic() + LONGEST_LOAD_S, 0
    while crashes < CRASHES and time.monotonic() < until:
        time.sleep(0.4)
        machines.kill(chance.randrange(WEBS + WORKERS + BEATS))
        time.sleep(0.6)
        crashes += kill_a_backend(machines.samples_url)
    stop.set()
    wait_until(machines.are_up, "the last killed web process")
    for sender in senders:
        sender.join(60)
        assert not sender.is_alive()
    acknowledged = [sample for sender in senders for sample in sender.acknowledged]
    stored = stored_samples(machines.samples_url)
    assert crashes == CRASHES
    assert len(acknowledged) > 50
    assert sum(sender.sent_again for sender in senders) > 0, "no kill cut a batch short"
    assert set(acknowledged) == set(stored)
    if machines.samples_url == database_url():  # Elsewhere a batch and its key are two commits; reads count once.
        assert len(stored) == len(set(stored))
    counted = [sample for gpus in nodes for gpu in gpus for sample in read(machines.ports[0], gpu, raw_key)]
    assert sorted(counted) == sorted(acknowledged)
    over_since = timezone.now()
    ask_for_a_tick(machines.broker)
    cycles = apps.get_model("jobs", "SchedulerCycle").objects
    wait_until(lambda: cycles.filter(finished_at__gt=over_since).exists(), "a worker that works")
