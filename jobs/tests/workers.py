"""Real processes on the test's database: a Valkey to do harm to, and Celery workers to kill."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import current_app

from gpufleet.common.tests.processes import database_url
from gpufleet.embedded import Valkey
from gpufleet.env import celery_url
from jobs import tasks


@contextmanager
def own_valkey() -> Iterator[Valkey]:
    """A Valkey that no other test speaks to."""
    with tempfile.TemporaryDirectory(prefix="gpufleet-jobs-") as folder:
        Path(folder).chmod(0o711)  # The server has an account of its own where the tests run as root.
        server = Valkey(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def worker(broker: Valkey) -> Iterator[subprocess.Popen[bytes]]:
    """A Celery worker on the test's database and this broker, gone at the end."""
    command = [sys.executable, "-m", "celery", "-A", "gpufleet", "worker", "--pool", "solo", "--loglevel", "ERROR"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    surroundings = {**os.environ, "DATABASE_URL": database_url(), "REDIS_URL": broker.url()}
    process = subprocess.Popen(command, env=surroundings)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ask_for_a_tick(broker: Valkey) -> None:
    """What beat does every 30 s."""
    with current_app.connection_for_write(celery_url(broker.url())) as broker_connection:
        tasks.tick.apply_async(connection=broker_connection)
