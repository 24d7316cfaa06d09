"""``/healthz``: the process lives. ``/readyz``: what it needs is there, with the age of the last scheduler cycle."""

import functools
from collections.abc import Callable
from typing import Any

import redis
import structlog
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, Error, connection, connections
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest, JsonResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobs.queries import last_cycle_finished_at

logger = structlog.stdlib.get_logger(__name__)

TIMEOUT_S = 2


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 as long as the process can answer at all."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 when each check passes, else 503; each check is named with what it found."""
    checks = {"broker": _check(_broker), "database": _check(_database)}
    if settings.SAMPLES_DATABASE != DEFAULT_DB_ALIAS:
        checks["samples_database"] = _check(_samples_database)
    if checks["database"]["ok"]:
        checks |= {"migrations": _check(_migrations), "scheduler": _check(_scheduler)}
    failing = sorted(name for name, found in checks.items() if not found["ok"])
    body = {"status": "unready" if failing else "ok", "failing": failing, "checks": checks}
    return JsonResponse(body, status=503 if failing else 200)


def _check(probe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A probe's finding, or the kind of its failure; what failed exactly is for the log, not for the answer."""
    try:
        return probe()
    except (Error, redis.RedisError) as error:
        logger.warning("not ready", probe=probe.__name__, error=str(error))
        return {"ok": False, "error": type(error).__name__}


def _broker() -> dict[str, Any]:
    client = redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    with client:
        client.ping()
    return {"ok": True}


def _database() -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return {"ok": True}


def _samples_database() -> dict[str, Any]:
    pending = _pending(connections[settings.SAMPLES_DATABASE])
    return {"ok": not pending, "pending": pending}


def _migrations() -> dict[str, Any]:
    pending = _pending(connection)
    return {"ok": not pending, "pending": pending}


def _pending(database: Any) -> int:
    return len(_migrations_of_this_code() - set(MigrationRecorder(database).applied_migrations()))


@functools.cache
def _migrations_of_this_code() -> frozenset[tuple[str, str]]:
    """Read from the disk once: the code of a process does not change, and reading it costs more than the rest."""
    return frozenset(MigrationLoader(None).graph.nodes)


def _scheduler() -> dict[str, Any]:
    finished_at = last_cycle_finished_at()
    if finished_at is None:
        return {"ok": False, "last_cycle_age_s": None}
    age = (timezone.now() - finished_at).total_seconds()
    return {"ok": age <= settings.SCHEDULER_LATE_AFTER_SECONDS, "last_cycle_age_s": round(age, 1)}
