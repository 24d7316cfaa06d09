import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction

from gpufleet.common.locks import lock_name, lock_rows, lock_scheduler, try_lock_scheduler


@contextmanager
def held_elsewhere(take: Callable[[], Any]) -> Iterator[None]:
    """Hold a lock on another connection."""
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic():
                take()
                taken.set()
                done.wait(10)
        finally:
            taken.set()
            connection.close()

    with ThreadPoolExecutor(max_workers=1) as pool:
        holder = pool.submit(hold)
        taken.wait(10)
        try:
            yield
        finally:
            done.set()
            holder.result()


def is_free(take: Callable[[], Any]) -> bool:
    """Whether the lock can be had at once."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '50ms'")
        try:
            with transaction.atomic():
                take()
        except Exception as error:
            assert "lock timeout" in str(error)  # noqa: PT017
            return False
    return True


@pytest.mark.django_db(transaction=True)
def test_one_process_at_a_time_schedules_and_the_lock_goes_with_the_transaction() -> None:
    with held_elsewhere(lock_scheduler):
        assert not is_free(lock_scheduler)
        with transaction.atomic():
            assert not try_lock_scheduler()
    assert is_free(lock_scheduler)
    with transaction.atomic():
        assert try_lock_scheduler()


@pytest.mark.django_db(transaction=True)
def test_a_name_locks_itself_and_no_other() -> None:
    with held_elsewhere(lambda: lock_name("a")):
        assert not is_free(lambda: lock_name("a"))
        assert is_free(lambda: lock_name("b"))


@pytest.mark.django_db(transaction=True)
def test_rows_are_locked_by_id_and_missing_ones_left_out() -> None:
    first, second = User.objects.create(username="1"), User.objects.create(username="2")

    def lock(*ids: int) -> dict[int, User]:
        return lock_rows(User.objects.all(), ids)

    with transaction.atomic():
        assert lock(second.pk, first.pk, 404, first.pk) == {first.pk: first, second.pk: second}
    with held_elsewhere(lambda: lock(second.pk)):
        assert is_free(lambda: lock(first.pk))
        assert not is_free(lambda: lock(first.pk, second.pk))


@pytest.mark.django_db(transaction=True)
def test_a_locked_row_may_still_be_referred_to() -> None:
    user = User.objects.create(username="1")

    def refer() -> None:
        with connection.cursor() as cursor:  # What the check of a foreign key does.
            cursor.execute("SELECT 1 FROM auth_user WHERE id = %s FOR KEY SHARE", [user.pk])

    with held_elsewhere(lambda: lock_rows(User.objects.all(), [user.pk])):
        assert is_free(refer)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "take", [lock_scheduler, try_lock_scheduler, lambda: lock_name("a"), lambda: lock_rows(User.objects.all(), [1])]
)
def test_a_lock_outside_a_transaction_would_be_none(take: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError):
        take()
