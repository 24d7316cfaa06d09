"""A person at a browser in front of the console, with an eye on whatever is broken, foreign or hard to use."""

import json
import shutil
from functools import cache
from importlib import import_module
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it has no stubs
from django.apps import apps
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group, User
from django.db import connection
from django.urls import reverse
from playwright.sync_api import Browser, Locator, Page

from apikeys.tests.factories import client_with, make_admin_key

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PASSPHRASE = "a long enough passphrase"

MARKS = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]
# WCAG 2.2 AA.
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}

GROUPS = ("operator", "finance", "viewer", "administrator")


def make_people() -> None:
    """Somebody of each group, who has its name. The groups are made again: what migrations put there is gone."""
    with connection.schema_editor() as editor:
        import_module("dashboard.migrations.0001_groups").add_groups(apps, editor)
    password = _hashed()
    for name in GROUPS:
        user = User.objects.create(username=name, password=password, is_staff=True)
        user.groups.add(Group.objects.get(name=name))


@cache
def _hashed() -> str:
    """Once: it is meant to take its time."""
    return make_password(PASSPHRASE)


class Visit:
    """A page of the console, and everything that it asked for or complained about."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.external: list[str] = []
        self.complaints: list[str] = []
        page.on("request", self._note_request)
        page.on("console", lambda message: self._complain(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self._complain(str(error)))
        page.on(
            "response", lambda answer: self._complain(f"{answer.status} {answer.url}") if answer.status > 399 else None
        )

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.external.append(request.url)

    def _complain(self, text: str) -> None:
        self.complaints.append(f"{self.page.url}: {text}")

    def go(self, path: str, *, ours: bool = True) -> None:
        """Open a page, wait until it is quiet, and see whether everybody can use it, if it is one of ``ours``."""
        self.page.goto(self.url + path)
        self.page.wait_for_load_state("networkidle")
        if ours:
            self.assert_usable()

    def log_in(self, name: str = "charlie") -> None:
        """Through the form."""
        self.go(reverse("admin:index"))
        self.page.fill("#id_username", name)
        self.page.fill("#id_password", PASSPHRASE)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url(self.url + reverse("admin:index"))

    def press(self, button: str) -> None:
        """Press a button, wait until the page is quiet, and see whether everybody can use what it brought."""
        self.page.get_by_role("button", name=button, exact=True).click()
        self.page.wait_for_load_state("networkidle")
        self.assert_usable()

    def give_reason(self, button: str, reason: str) -> None:
        """On the page that asks."""
        self.page.get_by_role("textbox", name="Reason").fill(reason)
        self.press(button)

    def follow(self, link: Locator) -> None:
        """Follow a link, wait until the page is quiet, and see whether everybody can use what it leads to."""
        link.click()
        self.page.wait_for_load_state("networkidle")
        self.assert_usable()

    def assert_usable(self) -> None:
        """For people who see, hear or point otherwise: axe finds nothing, and the page is as wide as the screen."""
        root = "document.documentElement"
        # Waited for: what slides in may be beside the screen for a moment.
        self.page.wait_for_function(f"{root}.scrollWidth <= {root}.clientWidth", timeout=10_000)
        found = Axe().run(self.page, options=RULES).response["violations"]
        told = [(one["id"], [(node["target"], node["failureSummary"]) for node in one["nodes"][:3]]) for one in found]
        assert not told, f"{self.page.url}: {told}"

    def assert_clean(self) -> None:
        """Nothing from outside, nothing broken."""
        assert self.external == []
        assert self.complaints == []


def as_person(browser: Browser, live_server: Any, name: str, **look: Any) -> Visit:
    """Somebody who has just logged in."""
    console = visit(browser, live_server, **look)
    console.log_in(name)
    return console


def api(path: str) -> Any:
    """What the API says to an administrator's key."""
    answer = client_with(make_admin_key()).get(f"/api/{path}")
    return json.loads(b"".join(answer))


def visit(browser: Browser, live_server: Any, *, width: int = 1440, scheme: Any = "light", zone: str = "UTC") -> Visit:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, timezone_id=zone)
    return Visit(context.new_page(), live_server.url)
