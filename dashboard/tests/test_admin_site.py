"""The console as a person gets it: the home page, its refreshed part, the sidebar."""

import re
from datetime import timedelta

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse

from alerts.models import AlertEvent, AlertRule
from clusters.tests.factories import NOW, make_gpu, make_node
from dashboard.admin_site import SIDEBAR, ConsoleSite
from jobs.tests.factories import allocate, make_job
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db

INLINE_SCRIPT = re.compile(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon[a-z]+=", re.IGNORECASE)


@pytest.fixture
def charlie() -> Client:
    """Charlie sees the whole fleet."""
    client = Client()
    client.force_login(User.objects.create_superuser("charlie", password="x"))
    return client


def someone(*groups: str) -> Client:
    user = User.objects.create_user("somebody", password="x", is_staff=True)
    user.groups.set(Group.objects.filter(name__in=groups))
    client = Client()
    client.force_login(user)
    return client


def small_fleet() -> None:
    node = make_node(hostname="fra-01")
    held = make_gpu(node)
    make_gpu(node)
    allocate(make_job("protein-9", status="running", tenant=alice()), [held])
    make_job("waits-for-more", gpu_count=8)


def test_the_admin_site_is_the_console() -> None:
    assert isinstance(site._wrapped, ConsoleSite)  # type: ignore[attr-defined]  # a lazy object


def test_the_home_page_shows_the_fleet_the_queue_and_the_money(charlie: Client) -> None:
    small_fleet()
    page = charlie.get(reverse("admin:index")).content.decode()
    assert "50.0 %" in page
    assert "1 of 2 GPUs" in page
    assert "GPU 0: sold to protein-9" in page
    assert "waits-for-more" in page
    assert "Sold in the last 24 h" in charlie.get(reverse("admin:live_period")).content.decode()
    assert "GPU 0: sold to protein-9" in page
    assert 'hx-get="/admin/live/"' in page
    assert "every 10s" in page


def test_the_refreshed_part_is_a_fragment_that_no_one_keeps(charlie: Client) -> None:
    small_fleet()
    answer = charlie.get(reverse("admin:live"))
    assert answer.headers["Cache-Control"] == "no-store"
    assert "1 of 2 GPUs" in answer.content.decode()
    assert "<html" not in answer.content.decode()


def test_the_fragment_has_no_script_and_no_style_of_its_own(charlie: Client) -> None:
    small_fleet()
    assert not INLINE_SCRIPT.search(charlie.get(reverse("admin:live")).content.decode())


def test_names_that_clients_choose_are_text_and_not_markup(charlie: Client) -> None:
    make_gpu(make_node())
    make_job("<script>alert(1)</script>")
    page = charlie.get(reverse("admin:live")).content.decode()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_who_is_logged_out_is_sent_to_log_in_and_gets_no_page_in_the_fragment(client: Client) -> None:
    answer = client.get(reverse("admin:live"))
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["HX-Redirect"] == "/admin/login/?next=/admin/"


def test_the_home_page_itself_asks_for_a_login(client: Client) -> None:
    assert client.get(reverse("admin:index")).headers["Location"] == "/admin/login/?next=/admin/"


def test_an_empty_fleet_says_what_to_do_first(charlie: Client) -> None:
    make_node()
    page = charlie.get(reverse("admin:index")).content.decode()
    assert "The fleet is empty. What to do first" in page
    assert page.count("— done") == 2
    assert "/api/docs" in page


def test_staff_without_a_group_sees_no_figure_and_why() -> None:
    small_fleet()
    page = someone().get(reverse("admin:index")).content.decode()
    assert "Your account has no permissions" in page
    assert "fra-01" not in page
    assert "protein-9" not in page


def test_each_part_is_for_those_who_may_see_its_rows() -> None:
    small_fleet()
    user = User.objects.create_user("hardware", password="x", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_gpu"))
    client = Client()
    client.force_login(user)
    page = client.get(reverse("admin:index")).content.decode()
    assert "fra-01" in page
    assert "In the queue" not in page
    assert "/admin/live/period/" not in page
    assert client.get(reverse("admin:live_period")).status_code == 403


@pytest.mark.parametrize("group", ["viewer", "operator", "finance", "administrator"])
def test_every_group_sees_the_whole_home_page(group: str) -> None:
    small_fleet()
    page = someone(group).get(reverse("admin:index")).content.decode()
    for part in ("GPUs by state", "Running jobs", "/admin/live/period/", "Next in the queue"):
        assert part in page


def test_firing_alerts_stand_on_the_home_page_and_in_the_sidebar(charlie: Client) -> None:
    small_fleet()
    rule = AlertRule.objects.get(type="health_degraded")
    AlertEvent.objects.create(
        rule=rule, subject="cluster:1", status="firing", value=9, message="9 % are ill", since=NOW, fired_at=NOW
    )
    page = charlie.get(reverse("admin:index")).content.decode()
    assert "1 alert firing" in page
    assert "9 % are ill" in page


def test_every_registered_model_has_its_place_in_the_sidebar() -> None:
    placed = {label for entries in SIDEBAR.values() for label, _ in entries}
    assert {model._meta.label for model in site._registry} <= placed


def test_the_sidebar_leads_to_what_the_person_may_see_and_to_nothing_else() -> None:
    page = someone("viewer").get(reverse("admin:index")).content.decode()
    assert reverse("admin:clusters_node_changelist") in page
    assert reverse("admin:billing_invoice_changelist") in page
    assert reverse("admin:auth_user_changelist") not in page


def test_instants_are_written_as_logs_write_them(charlie: Client) -> None:
    make_node()
    assert "2026-11-23 12:00:00" in charlie.get(reverse("admin:clusters_node_changelist")).content.decode()


def test_the_ledger_says_from_when_until_when(charlie: Client) -> None:
    node = make_node()
    allocate(make_job(status="running"), [make_gpu(node)])
    allocate(make_job(status="completed"), [make_gpu(node)], end=NOW + timedelta(seconds=90))
    page = charlie.get(reverse("admin:jobs_allocation_changelist")).content.decode()
    assert "2026-11-23 12:00:00 – now" in page
    assert "2026-11-23 12:00:00 – 2026-11-23 12:01:30" in page


def test_logging_in_and_out() -> None:
    User.objects.create_superuser("charlie", password="a-long-passphrase")
    client = Client()
    wrong = client.post(reverse("admin:login"), {"username": "charlie", "password": "nonsense"})
    assert wrong.status_code == 200
    right = {"username": "charlie", "password": "a-long-passphrase", "next": "/admin/"}
    assert client.post(reverse("admin:login"), right).headers["Location"] == "/admin/"
    assert client.get(reverse("admin:index")).status_code == 200
    client.post(reverse("admin:logout"))
    assert client.get(reverse("admin:index")).status_code == 302
