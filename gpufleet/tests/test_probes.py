"""The probes, against servers that are there and servers that are not."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from apikeys.tests.factories import unissued_key
from gpufleet import probes
from jobs.models import SchedulerCycle


def scheduled(*, ago: timedelta = timedelta()) -> None:
    """Let the scheduler have finished a cycle."""
    SchedulerCycle.objects.create(id=1, finished_at=timezone.now() - ago, duration_ms=1)


def ready(client: Client, *, failing: list[str]) -> dict[str, Any]:
    """What each check found, after comparing which of them fail."""
    answer = client.get("/readyz")
    body: dict[str, Any] = answer.json()
    assert body["failing"] == failing
    assert answer.status_code == (503 if failing else 200)
    assert body["status"] == ("unready" if failing else "ok")
    checks: dict[str, Any] = body["checks"]
    assert [name for name, found in sorted(checks.items()) if not found["ok"]] == failing
    return checks


@pytest.fixture
def no_database(transactional_db: None) -> Iterator[None]:
    """A database server that is not there."""
    host = connection.settings_dict["HOST"]
    options = connection.settings_dict["OPTIONS"]
    connection.close()
    connection.settings_dict.update(HOST="/nowhere", OPTIONS={**options, "host": "/nowhere"})
    yield
    connection.settings_dict.update(HOST=host, OPTIONS=options)


@pytest.mark.django_db
def test_a_process_lives_without_asking_anybody(client: Client) -> None:
    with CaptureQueriesContext(connection) as queries:
        answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert len(queries) == 0


@pytest.mark.django_db
def test_ready_when_all_is_there(client: Client) -> None:
    scheduled(ago=timedelta(seconds=20))
    checks = ready(client, failing=[])
    assert set(checks) == {"broker", "database", "migrations", "scheduler"}
    assert 20 <= checks["scheduler"]["last_cycle_age_s"] < 60
    assert checks["migrations"] == {"ok": True, "pending": 0}


@pytest.mark.django_db
def test_unready_before_the_first_cycle_of_the_scheduler(client: Client) -> None:
    assert ready(client, failing=["scheduler"])["scheduler"]["last_cycle_age_s"] is None


@pytest.mark.django_db
def test_unready_when_the_scheduler_is_late(client: Client, settings: Settings) -> None:
    settings.SCHEDULER_LATE_AFTER_SECONDS = 120
    scheduled(ago=timedelta(seconds=121))
    ready(client, failing=["scheduler"])


@pytest.mark.django_db
def test_unready_without_a_migration_that_this_code_needs(client: Client) -> None:
    scheduled()
    MigrationRecorder(connection).record_unapplied("tenants", "0001_initial")
    assert ready(client, failing=["migrations"])["migrations"]["pending"] == 1


@pytest.mark.django_db
def test_ready_with_a_migration_of_newer_code(client: Client) -> None:
    scheduled()
    MigrationRecorder(connection).record_applied("tenants", "9999_of_the_next_release")
    ready(client, failing=[])


@pytest.mark.django_db
def test_unready_without_the_broker_and_soon(client: Client, settings: Settings) -> None:
    scheduled()
    settings.REDIS_URL = "unix:///nowhere/valkey.sock?db=0"
    started = time.perf_counter()
    checks = ready(client, failing=["broker"])
    assert time.perf_counter() - started < probes.TIMEOUT_S
    assert checks["broker"] == {"ok": False, "error": "ConnectionError"}


@pytest.mark.usefixtures("no_database")
def test_unready_without_the_database_and_telling_nothing_of_where_it_is(client: Client) -> None:
    checks = ready(client, failing=["database"])
    assert checks["database"] == {"ok": False, "error": "OperationalError"}
    assert client.get("/healthz").status_code == 200


@pytest.mark.usefixtures("no_database")
def test_without_the_database_the_api_says_that_it_is_not_available(client: Client) -> None:
    answer = client.get("/api/tenants", headers={"Authorization": f"Bearer {unissued_key()}"})
    assert (answer.status_code, answer["Content-Type"]) == (503, "application/problem+json")
    assert answer["Retry-After"] == "1"
    assert b"nowhere" not in answer.content


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_are_never_cached_take_head_and_nothing_that_changes(client: Client, path: str) -> None:
    scheduled()
    assert "no-store" in client.get(path)["Cache-Control"]
    assert client.head(path).status_code == 200
    assert client.post(path).status_code == 405
