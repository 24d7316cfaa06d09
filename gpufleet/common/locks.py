"""Locks, and the one order in which they are taken: scheduler advisory lock, tenants by id, GPUs by id.

Advisory locks are those of PostgreSQL, held until the transaction ends, so that a killed process lets go of them.
"""

import hashlib
from collections.abc import Iterable
from typing import TypeVar

from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.models import Model, QuerySet

SCHEDULER_LOCK = 0x6770_7566_0001  # "gpuf" and a number: one key space for the whole house.
SCHEDULER_WAITING_ROOM = 0x6770_7566_0002

Row = TypeVar("Row", bound=Model)


def _require_transaction(using: str = DEFAULT_DB_ALIAS) -> None:
    if not connections[using].in_atomic_block:
        raise RuntimeError("a lock of a transaction needs a transaction")


def lock_scheduler() -> None:
    """Wait for the scheduler's lock and hold it until the transaction ends."""
    _require_transaction()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [SCHEDULER_LOCK])


def try_lock_scheduler() -> bool:
    """Take the scheduler's lock if it is free; whoever does not get it leaves quietly."""
    _require_transaction()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [SCHEDULER_LOCK])
        (taken,) = cursor.fetchone()
    return bool(taken)


def lock_name(name: str, *, using: str = DEFAULT_DB_ALIAS) -> None:
    """Wait for the lock of a name (hashed to 64 bits) in a database and hold it until the transaction ends."""
    lock_names([name], using=using)


def lock_names(names: Iterable[str], *, using: str = DEFAULT_DB_ALIAS) -> None:
    """As ``lock_name``, for many at once, always in the same order."""
    _require_transaction(using)
    with connections[using].cursor() as cursor:
        cursor.execute(lock_names_statement(names))


def lock_names_statement(names: Iterable[str]) -> str:
    """The statement of ``lock_names``, for use in a transaction."""
    keys = ",".join(map(str, sorted(map(_key_of, names))))
    return f"SELECT pg_advisory_xact_lock(key) FROM unnest('{{{keys}}}'::bigint[]) AS key"  # noqa: S608  (numbers)


def try_lock_name(name: str, *, using: str = DEFAULT_DB_ALIAS) -> bool:
    """Take the lock of a name in a database if it is free, and hold it until the transaction ends."""
    _require_transaction(using)
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_key_of(name)])
        (taken,) = cursor.fetchone()
    return bool(taken)


def _key_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def lock_rows(rows: QuerySet[Row], ids: Iterable[int], *, alone: bool = False) -> dict[int, Row]:
    """Lock the rows with these ids in the order of their ids, and give them by id; missing ones are left out.

    The lock is ``FOR NO KEY UPDATE``: whoever else takes it waits, and a new row that merely refers to a locked one
    (a reading of a GPU, a job of a tenant) does not. With ``alone`` it is ``FOR UPDATE``, and such a row waits too: for
    changes that decide whether it may be.
    """
    _require_transaction()
    locked = rows.filter(pk__in=sorted(set(ids))).order_by("pk").select_for_update(of=("self",), no_key=not alone)
    return {row.pk: row for row in locked}
