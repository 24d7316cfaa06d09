"""A browser for the tests that want one."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.cache import cache
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Browser, sync_playwright

from billing.tests.conftest import stripe  # noqa: F401  (a fixture)
from clusters.models import GPU
from dashboard.tests.browsing import CHROMIUM, FLAGS, make_people
from dashboard.tests.demo_fleet import Kept, arrive, held_gpus, overheat, put_back, seed_and_keep


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    """No test sees figures that another one had made, nor its failed logins."""
    cache.clear()


@pytest.fixture
def finance(db: None) -> Client:
    """Somebody of the group finance, logged in."""
    user = User.objects.create_user("fiona", password="x", is_staff=True)
    user.groups.add(Group.objects.get(name="finance"))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """Without what another test has left open, whose pages would go on asking."""
    yield chromium
    for context in chromium.contexts:
        context.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    # Playwright's own event loop runs in this thread, and Django would take our queries for a coroutine's.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture(scope="session")
def demo_rows(django_db_setup: None, django_db_blocker: Any) -> list[Kept]:
    """What ``make up`` shows, seeded once for all tests that want it."""
    with django_db_blocker.unblock():
        return seed_and_keep(timezone.now())


@pytest.fixture
def house(demo_rows: list[Kept], transactional_db: None) -> None:
    """The demo's rows, as its seeding left them: two clusters, 256 GPUs, five tenants, two weeks. A person a group."""
    put_back(demo_rows)
    make_people()


@pytest.fixture
def demo(house: None) -> None:
    """The demo fleet as it is now."""
    arrive(timezone.now())


@pytest.fixture
def hot_gpu(house: None) -> GPU:
    """The demo fleet as it is now, and a GPU whose job makes it too hot."""
    gpu = held_gpus()[-1]
    overheat(gpu, timezone.now())
    return gpu
