"""The console in a real browser, against the real server. Skipped, and says so, where there is no Chromium."""

import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import User
from django.urls import reverse
from playwright.sync_api import Browser, Page, expect, sync_playwright

from clusters.models import Cluster, Node
from clusters.tests.factories import make_cluster, make_gpu, make_node
from jobs.models import Job
from jobs.tests.factories import allocate, make_job
from tenants.tests.factories import alice

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PASSPHRASE = "a long enough passphrase"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]


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

    def go(self, path: str) -> None:
        """Open a page and wait until it is quiet."""
        self.page.goto(self.url + path)
        self.page.wait_for_load_state("networkidle")

    def log_in(self) -> None:
        """As Charlie, through the form."""
        self.go(reverse("admin:index"))
        self.page.fill("#id_username", "charlie")
        self.page.fill("#id_password", PASSPHRASE)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url(self.url + reverse("admin:index"))

    def assert_clean(self) -> None:
        """Nothing from outside, nothing broken."""
        assert self.external == []
        assert self.complaints == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Playwright's own event loop runs in this thread, and Django would take our queries for a coroutine's.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture
def cluster() -> Cluster:
    """Two nodes with two GPUs each; Alice's job holds one of the four."""
    User.objects.create_superuser("charlie", password=PASSPHRASE)
    cluster = make_cluster("fra-1")
    gpus = [make_gpu(node) for node in (make_node(cluster, "fra-01"), make_node(cluster, "fra-02")) for _ in range(2)]
    allocate(make_job("fold", cluster=cluster, status="running", tenant=alice()), gpus[:1])
    return cluster


def visit(browser: Browser, live_server: Any, *, width: int = 1440, scheme: Any = "light") -> Visit:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    return Visit(context.new_page(), live_server.url)


def test_a_person_logs_in_sees_live_figures_and_logs_out(browser: Browser, live_server: Any, cluster: Cluster) -> None:
    console = visit(browser, live_server)
    console.log_in()
    sold = console.page.get_by_role("region", name="Sold now")
    expect(sold).to_contain_text("25.0 %")
    expect(console.page.get_by_role("region", name="In the queue", exact=True)).to_contain_text("nobody waits")

    make_job("next-please", cluster=cluster, gpu_count=2)
    gpu = Node.objects.get(hostname="fra-02").gpus.all()[0]
    allocate(make_job("second", cluster=cluster, status="running"), [gpu])
    expect(sold).to_contain_text("50.0 %", timeout=20_000)
    expect(console.page.get_by_role("region", name="Next in the queue")).to_contain_text("next-please")

    console.page.get_by_text("charlie", exact=True).click()
    console.page.get_by_role("button", name="Log out").click()
    console.page.wait_for_load_state("networkidle")
    console.go(reverse("admin:index"))
    assert "/admin/login/" in console.page.url
    console.assert_clean()


def test_every_registered_model_opens_its_list(browser: Browser, live_server: Any, cluster: Cluster) -> None:
    console = visit(browser, live_server)
    console.log_in()
    for model in site._registry:
        path = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        console.go(path)
        assert console.page.url.endswith(path)
        expect(console.page.locator("#changelist")).to_be_visible()
    console.assert_clean()


def test_an_operator_drains_a_node(browser: Browser, live_server: Any, cluster: Cluster) -> None:
    console = visit(browser, live_server)
    console.log_in()
    console.go(reverse("admin:clusters_node_changelist"))
    row = console.page.get_by_role("row").filter(has_text="fra-01")
    row.locator("input[name=_selected_action]").check()
    console.page.select_option("select[name=action]", "drain")
    console.page.get_by_role("button", name="Run").click()
    console.page.wait_for_load_state("networkidle")
    expect(console.page.get_by_role("row").filter(has_text="fra-01")).to_contain_text(
        re.compile("draining", re.IGNORECASE)
    )
    assert dict(Node.objects.values_list("hostname", "status")) == {"fra-01": "draining", "fra-02": "online"}
    assert Job.objects.get(name="fold").status == "running"

    console.go(reverse("admin:index"))
    expect(console.page.get_by_role("region", name="GPUs by state")).to_contain_text("draining 1")
    console.assert_clean()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_home_page_fits_a_phone(browser: Browser, live_server: Any, cluster: Cluster, scheme: str) -> None:
    make_job("a-job-with-a-rather-long-name-that-somebody-chose", cluster=cluster, gpu_count=4)
    console = visit(browser, live_server, width=390, scheme=scheme)
    console.log_in()
    expect(console.page.get_by_role("region", name="Nodes and their GPUs")).to_be_visible()
    root = "document.documentElement"
    assert console.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") <= 0
    console.assert_clean()


def test_whoever_has_no_fleet_is_told_what_to_do_first(browser: Browser, live_server: Any) -> None:
    User.objects.create_superuser("charlie", password=PASSPHRASE)
    console = visit(browser, live_server)
    console.log_in()
    expect(console.page.get_by_role("heading", name="The fleet is empty. What to do first")).to_be_visible()
    console.page.get_by_role("link", name="Add a rate").click()
    console.page.wait_for_url(console.url + reverse("admin:billing_rate_add"))
    console.assert_clean()


def test_the_api_pages_load_nothing_from_outside(browser: Browser, live_server: Any) -> None:
    console = visit(browser, live_server)
    console.go(reverse("docs"))
    expect(console.page.locator(".swagger-ui .info .title")).to_contain_text("gpufleet")
    console.assert_clean()
