"""Batches and the web server's threads: a real granian with a single thread for requests."""

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from django.db import connection, transaction
from django.utils import timezone

from apikeys.models import ApiKey
from apikeys.tests.factories import make_key
from clusters.models import GPU, MetricSample
from clusters.tests.factories import make_gpu
from clusters.tests.test_past_one_machine import answers, free_port, granian
from gpufleet.common.tests.processes import database_url, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'clusters_metricframe'::regclass AND NOT granted)"
BACKENDS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class Web:
    """One process that has one thread for requests, and agents that talk to it."""

    def __init__(self, port: int, raw_key: str) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._headers = {"Authorization": f"Bearer {raw_key}"}
        self._agents = ThreadPoolExecutor(8)

    def get(self, path: str) -> int:
        """Its status."""
        return httpx.get(self._base + path, headers=self._headers, timeout=30).status_code

    def send(self, gpu: GPU) -> "Future[httpx.Response]":
        """A batch, whose answer may take its time."""
        body = {"metrics": [{"gpu_id": gpu.pk, "utilization_pct": 50}]}
        address = f"{self._base}/api/clusters/metrics"
        return self._agents.submit(httpx.post, address, json=body, headers=self._headers, timeout=30)


@pytest.fixture
def web() -> Iterator[Web]:
    with connection.cursor() as cursor:  # No model's table, so that no test's end empties it.
        cursor.execute("TRUNCATE clusters_metricframe, clusters_metriclate")
    raw_key, port = make_key().raw, free_port()
    ApiKey.objects.update(last_used_at=timezone.now())
    env = {
        **os.environ,
        "DATABASE_URL": database_url(),
        "ALLOWED_HOSTS": "127.0.0.1",
        "METRICS_GROUP_COMMIT": "1",
        "LOG_LEVEL": "CRITICAL",
    }
    process = subprocess.Popen(granian(port, threads=1), env=env, start_new_session=True)
    try:
        wait_until(lambda: answers(port), "the web server answers")
        yield Web(port, raw_key)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def somebody_stores() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(WAITS)
        return bool(cursor.fetchone()[0])


@contextmanager
def nothing_is_stored() -> Iterator[None]:
    """Whoever stores samples waits until this is over."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE clusters_metricframe IN EXCLUSIVE MODE")
        yield


def test_batches_that_wait_for_their_commit_keep_no_thread(web: Web) -> None:
    gpus = [make_gpu() for _ in range(4)]
    assert web.send(gpus[0]).result().status_code == 202
    with nothing_is_stored():
        waiting = [web.send(gpu) for gpu in gpus[1:]]
        wait_until(somebody_stores, "a group is being written")
        assert web.get("/api/jobs") == 200
        assert not any(one.done() for one in waiting)
    found = [one.result() for one in waiting]
    assert [(one.status_code, one.json()) for one in found] == [(202, {"accepted": 1})] * 3
    assert MetricSample.objects.count() == 4


def test_what_a_group_declines_is_refused_by_django(web: Web) -> None:
    gpu = make_gpu()
    assert web.send(gpu).result().status_code == 202
    ApiKey.objects.update(revoked_at=timezone.now())
    refused = web.send(gpu).result()
    assert (refused.status_code, refused.headers["Content-Type"]) == (401, "application/problem+json")
    assert MetricSample.objects.count() == 1


def test_batches_of_a_group_that_breaks_are_stored_all_the_same(web: Web) -> None:
    gpus = [make_gpu() for _ in range(3)]
    assert web.send(gpus[0]).result().status_code == 202
    with nothing_is_stored():
        waiting = [web.send(gpu) for gpu in gpus[1:]]
        wait_until(somebody_stores, "a group is being written")
        assert web.get("/api/jobs") == 200
        with connection.cursor() as cursor:
            cursor.execute(BACKENDS)
    assert {one.result().status_code for one in waiting} <= {202, 503}
    stored = set(MetricSample.objects.values_list("gpu_id", flat=True))
    taken = {gpu.pk for gpu, one in zip(gpus[1:], waiting, strict=True) if one.result().status_code == 202}
    assert taken | {gpus[0].pk} <= stored
    assert web.send(gpus[0]).result().status_code == 202
