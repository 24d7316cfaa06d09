"""One cycle at a time, over all workers: PostgreSQL's advisory lock, held by the session, so that a killed worker's
lock goes with its connection."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection

from gpufleet.common.locks import SCHEDULER_LOCK, SCHEDULER_WAITING_ROOM


@contextmanager
def turn() -> Iterator[bool]:
    """The right to run a cycle, or False when it is not needed.

    Whoever comes while a cycle runs may have news that the cycle did not see; so one waits for it to end, in the
    waiting room, and runs another. Whoever finds the waiting room taken leaves: the one in it will look after him.
    """
    if _ask("SELECT pg_try_advisory_lock(%s)", SCHEDULER_LOCK):
        taken = True
    elif _ask("SELECT pg_try_advisory_lock(%s)", SCHEDULER_WAITING_ROOM):
        try:
            _ask("SELECT pg_advisory_lock(%s)", SCHEDULER_LOCK)
        finally:
            _ask("SELECT pg_advisory_unlock(%s)", SCHEDULER_WAITING_ROOM)
        taken = True
    else:
        taken = False
    try:
        yield taken
    finally:
        if taken:
            _ask("SELECT pg_advisory_unlock(%s)", SCHEDULER_LOCK)


def _ask(query: str, key: int) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query, [key])
        return cursor.fetchone()[0]
