"""The console in a real browser, against the real server. Skipped, and says so, where there is no Chromium."""

from typing import Any

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import User
from django.urls import reverse
from playwright.sync_api import Browser, expect

from clusters.models import Cluster, Node
from clusters.tests.factories import make_cluster, make_gpu, make_node
from dashboard.tests.browsing import MARKS, PASSPHRASE, visit
from jobs.tests.factories import allocate, make_job
from tenants.tests.factories import alice

pytestmark = MARKS


@pytest.fixture
def cluster() -> Cluster:
    """Two nodes with two GPUs each; Alice's job holds one of the four."""
    User.objects.create_superuser("charlie", password=PASSPHRASE)
    cluster = make_cluster("fra-1")
    gpus = [make_gpu(node) for node in (make_node(cluster, "fra-01"), make_node(cluster, "fra-02")) for _ in range(2)]
    allocate(make_job("fold", cluster=cluster, status="running", tenant=alice()), gpus[:1])
    return cluster


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
    console.go(reverse("docs"), ours=False)
    expect(console.page.locator(".swagger-ui .info .title")).to_contain_text("gpufleet")
    console.assert_clean()
