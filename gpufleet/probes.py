"""``/healthz``: the process lives. ``/readyz``: what it needs is there, with the age of the last scheduler cycle."""

from collections.abc import Callable
from typing import Any

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_safe

from jobs.queries import last_cycle_finished_at

TIMEOUT_SECONDS = 2


@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 as long as the process can answer at all."""
    return JsonResponse({"status": "ok"})


@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 when each check passes, else 503; each check is named with what it found."""
    checks = {"database": _check(_database), "broker": _check(_broker), "migrations": _check(_migrations)}
    checks["scheduler"] = _check(_scheduler)
    ready = all(check["ok"] for check in checks.values())
    return JsonResponse({"status": "ok" if ready else "unready", "checks": checks}, status=200 if ready else 503)


def _check(probe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A probe's finding, or the kind of its failure; details of a failure stay in the log, not in the answer."""
    try:
        return probe()
    except (DatabaseError, redis.RedisError) as error:
        return {"ok": False, "error": type(error).__name__}


def _database() -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return {"ok": True}


def _broker() -> dict[str, Any]:
    client = redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
    )
    with client:
        client.ping()
    return {"ok": True}


def _migrations() -> dict[str, Any]:
    executor = MigrationExecutor(connection)
    pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return {"ok": not pending, "pending": len(pending)}


def _scheduler() -> dict[str, Any]:
    finished_at = last_cycle_finished_at()
    if finished_at is None:
        return {"ok": False, "last_cycle_age_s": None}
    age = (timezone.now() - finished_at).total_seconds()
    return {"ok": age <= settings.SCHEDULER_LATE_AFTER_SECONDS, "last_cycle_age_s": round(age, 1)}
