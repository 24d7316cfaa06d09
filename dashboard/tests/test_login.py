"""Whoever fails too often is locked out, and nobody else is."""

from datetime import timedelta

import pytest
import time_machine
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from redis import ConnectionError as RedisIsAway

from dashboard.login import LOCKED, MOST_OF_ADDRESS, MOST_OF_NAME

pytestmark = pytest.mark.django_db

RIGHT = "a-long-passphrase"


@pytest.fixture(autouse=True)
def people() -> None:
    User.objects.create_superuser("charlie", password=RIGHT)
    User.objects.create_superuser("dana", password=RIGHT)


def log_in(name: str, password: str, address: str = "192.0.2.1") -> str:
    """Where it leads, or what the form says."""
    form = {"username": name, "password": password, "next": "/admin/"}
    answer = Client(REMOTE_ADDR=address).post(reverse("admin:login"), form)
    return answer.headers.get("Location") or answer.content.decode()


def test_after_some_failures_the_right_password_does_not_help() -> None:
    for _ in range(MOST_OF_NAME):
        assert LOCKED not in log_in("charlie", "nonsense")
    assert LOCKED in log_in("Charlie", RIGHT)
    assert log_in("dana", RIGHT) == "/admin/"
    assert log_in("charlie", RIGHT, address="192.0.2.2") == "/admin/"


def test_the_lock_lasts_a_quarter_of_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[float] = []
    add = cache.add

    def add_and_tell(name: str, value: int, timeout: float) -> bool:
        kept.append(timeout)
        return add(name, value, timeout=timeout)

    monkeypatch.setattr(cache, "add", add_and_tell)
    log_in("charlie", "nonsense")
    assert set(kept) == {15 * 60}
    assert "Try again in 15 minutes." in LOCKED


@pytest.mark.parametrize(("hours", "status"), [(11.9, 200), (12.1, 302)])
def test_a_session_ends_twelve_hours_after_its_login_however_busy_it_was(hours: float, status: int) -> None:
    client, began = Client(), timezone.now()
    client.post(reverse("admin:login"), {"username": "charlie", "password": RIGHT, "next": "/admin/"})
    assert client.cookies["sessionid"]["max-age"] == 12 * 60 * 60
    for after in (hours / 2, hours):
        with time_machine.travel(began + timedelta(hours=after)):
            answer = client.get(reverse("admin:password_change"))
    assert answer.status_code == status


def test_a_login_forgets_the_failures_before_it() -> None:
    for _ in range(3):
        for _ in range(MOST_OF_NAME - 1):
            log_in("charlie", "nonsense")
        assert log_in("charlie", RIGHT) == "/admin/"


def test_an_address_that_tries_many_names_is_locked_out_for_all_of_them() -> None:
    for number in range(MOST_OF_ADDRESS):
        log_in(f"somebody{number}", "nonsense")
    assert LOCKED in log_in("charlie", RIGHT)


def test_ones_own_logins_do_not_forget_what_the_address_tries_on_others() -> None:
    for number in range(MOST_OF_ADDRESS):
        log_in(f"somebody{number}", "nonsense")
        if number % 10 == 5:
            assert log_in("dana", RIGHT) == "/admin/"
    assert LOCKED in log_in("charlie", RIGHT)


def test_without_redis_people_log_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: object, **kwargs: object) -> None:
        raise RedisIsAway("away")

    for method in ("get", "add", "incr", "delete"):
        monkeypatch.setattr(cache, method, away)
    assert LOCKED not in log_in("charlie", "nonsense")
    assert log_in("charlie", RIGHT) == "/admin/"
