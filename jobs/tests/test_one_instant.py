"""What one answer says of a job is true of one instant, though the scheduler starts the job while it is written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_key
from clusters.models import Node
from jobs import scheduler
from jobs.models import Job
from jobs.tests.factories import make_job

pytestmark = pytest.mark.django_db(transaction=True)


def start_jobs() -> None:
    """A cycle of another process."""
    try:
        scheduler.run_cycle(now=timezone.now())
    finally:
        connection.close()


@contextmanager
def a_cycle_before(part: str = 'FROM "jobs_allocation"') -> Iterator[Thread]:
    """When this connection first asks with such a ``part``, a cycle runs first, or begins to where it has to wait."""
    cycle = Thread(target=start_jobs)

    def cycle_first(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if part in sql and cycle.ident is None:
            cycle.start()
            cycle.join(timeout=1)
        return execute(sql, *rest)

    with connection.execute_wrapper(cycle_first):
        yield cycle
    cycle.join()


@pytest.fixture
def api() -> APIClient:
    """Charlie sees the whole fleet."""
    return client_with(make_key())


@pytest.fixture
def job(node: Node) -> Job:
    """One that the next cycle starts."""
    return make_job(cluster=node.cluster, priority=5)


ASKED: list[tuple[str, Callable[[APIClient, Job], Any]]] = [
    ("list", lambda api, job: api.get("/api/jobs").json()[0]),
    ("detail", lambda api, job: api.get(f"/api/jobs/{job.pk}").json()),
    ("priority", lambda api, job: api.patch(f"/api/jobs/{job.pk}", {"priority": 3}).json()),
]


@pytest.mark.parametrize("ask", [ask for _, ask in ASKED], ids=[name for name, _ in ASKED])
def test_a_job_is_shown_as_waiting_or_with_its_gpus(
    ask: Callable[[APIClient, Job], Any], api: APIClient, job: Job
) -> None:
    with a_cycle_before() as cycle:
        shown = ask(api, job)
    assert cycle.ident is not None
    assert (shown["status"], shown["gpu_ids"]) == ("queued", [])
    now = api.get(f"/api/jobs/{job.pk}").json()
    assert (now["status"], len(now["gpu_ids"])) == ("running", 1)


def test_a_released_job_is_shown_as_queued(api: APIClient, node: Node) -> None:
    job = make_job(cluster=node.cluster, status="blocked", block_reason="On hold: data")
    with a_cycle_before():
        shown = api.patch(f"/api/jobs/{job.pk}/status", {"status": "queued"}).json()
    assert (shown["status"], shown["gpu_ids"]) == ("queued", [])
    scheduler.run_cycle(now=timezone.now())
    assert api.get(f"/api/jobs/{job.pk}").json()["status"] == "running"


def test_a_cluster_is_shown_with_the_workload_of_its_jobs(api: APIClient, job: Job) -> None:
    with a_cycle_before('"jobs_job"."image"') as cycle:
        shown = api.get(f"/api/clusters/{job.cluster_id}").json()
    assert cycle.ident is not None
    [of_job] = shown["jobs"]
    running = int(of_job["status"] == "running")
    assert (len(of_job["gpu_ids"]), shown["active_jobs"], shown["queued_jobs"]) == (running, running, 1 - running)
