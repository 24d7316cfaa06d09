"""Real threads with connections of their own, for tests of what happens at once."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from django.db import connection, transaction

Result = TypeVar("Result")

LONGEST_S = 30


def at_once(*actions: Callable[[], Result]) -> list[Result]:
    """Start the actions at the same moment, each in a thread, and give their results in order, or raise."""
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], Result]) -> Result:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '10s'")  # A test that would hang fails instead.
            barrier.wait(LONGEST_S)
            return action()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(actions)) as pool:
        futures = [pool.submit(run, action) for action in actions]
        return [future.result(LONGEST_S) for future in futures]


def after(first: Callable[[], object], then: Callable[[], Result]) -> Result:
    """Do the first action in a transaction; begin the other one meanwhile, check that it waits, commit, and give its
    result, or raise."""
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            first()
            other = pool.submit(in_thread, then)
            assert not wait([other], timeout=0.5).done
        return other.result(LONGEST_S)


def in_thread(action: Callable[[], Result]) -> Result:
    """Run one action in another thread, while this one keeps its transaction."""
    return at_once(action)[0]
