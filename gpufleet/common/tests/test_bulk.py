from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection

from gpufleet.common import bulk
from gpufleet.common.tests.test_locks import held_elsewhere

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def _greet(doing: bulk.Doing) -> User:
    user = User.objects.get(pk=doing.object_id)
    user.first_name = "Greeted"
    user.save()
    return user


@pytest.fixture
def greeting(monkeypatch: pytest.MonkeyPatch) -> str:
    """A kind of work."""
    work = bulk.Work("test.greet", "Greet", "greeted", User, "auth.view_user", _greet, lambda user: {})
    monkeypatch.setitem(bulk._works, work.name, work)
    return work.name


@pytest.fixture
def impatient() -> Iterator[None]:
    """Whoever waits for a lock fails."""
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '500ms'")
    yield
    with connection.cursor() as cursor:
        cursor.execute("RESET lock_timeout")


@pytest.mark.django_db(transaction=True)
def test_a_step_that_another_request_has_in_hand_is_left_to_it_and_the_others_go_on(
    greeting: str, impatient: None
) -> None:
    users = [User.objects.create_user(name) for name in ("ann", "ben", "cleo")]
    rows = {user.pk: bulk.Row(user.username) for user in users}
    run, _ = bulk.start_run(work=greeting, token=uuid4(), rows=rows, terms={}, actor="fred", reason="", now=NOW)
    first = run.steps.order_by("pk")[:1]
    with held_elsewhere(lambda: list(first.select_for_update())):
        bulk.carry_on(run, actor="fred", now=NOW)
        assert list(run.steps.order_by("pk").values_list("status", flat=True)) == ["waiting", "done", "done"]
        assert run.finished_at is None
    bulk.carry_on(run, actor="fred", now=NOW)
    assert run.finished_at == NOW
    assert User.objects.filter(first_name="Greeted").count() == 3
