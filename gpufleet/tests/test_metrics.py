"""/metrics, scraped as Prometheus does and read by its own parser."""

import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from alerts.models import AlertEvent, AlertRule
from alerts.tests.factories import make_channel
from apikeys.tests.factories import client_with, make_key
from billing.tests.factories import make_rate, sell
from clusters.models import LatestReading
from clusters.tests.factories import make_cluster, make_gpu, make_node, store_sample
from gpufleet.supervisor import ROOT
from jobs.models import SchedulerCycle
from jobs.tests.factories import make_job
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db

DOCS = ROOT / "docs"
RULES = DOCS / "alertmanager-rules.yml"
DASHBOARD = DOCS / "grafana-dashboard.json"


@pytest.fixture
def house() -> None:
    """A node of three GPUs, one sold; a job that waits; an incident."""
    now = timezone.now()
    node = make_node(make_cluster("east"))
    rate = make_rate("H100", "2.00")
    sell(alice(), now - timedelta(hours=1), rate=rate, gpu=make_gpu(node, model="H100"))
    gpu = make_gpu(node, model="H100")
    make_gpu(node, model="H100", state="offline")
    LatestReading.objects.create(gpu=gpu, recorded_at=now, utilization_pct=1)
    make_job(cluster=node.cluster, submitted_at=now - timedelta(minutes=5))
    SchedulerCycle.objects.create(finished_at=now, duration_ms=250, jobs_started=3)
    make_channel("on call")
    rule = AlertRule.objects.get(type="quota_breach")
    AlertEvent.objects.create(rule=rule, subject="tenant:1", status="firing", value=1, since=now, fired_at=now)


def scrape() -> str:
    answer = client_with(make_key(permissions=["read"])).get("/metrics")
    assert (answer.status_code, answer["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    text: str = answer.content.decode()
    return text


def samples() -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(scrape())
    return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


@pytest.mark.usefixtures("house")
def test_the_figures_are_those_of_the_house() -> None:
    found = samples()
    assert found["gpufleet_gpus", "east", "sold"] == 1
    assert found["gpufleet_gpus", "available", "east"] == 1
    assert found["gpufleet_gpus", "east", "offline"] == 1
    assert found["gpufleet_nodes", "online"] == 1
    assert found["gpufleet_jobs", "queued"] == 1
    assert found["gpufleet_jobs", "blocked"] == 0
    assert 300 <= found["gpufleet_queue_oldest_seconds",] < 400
    assert found["gpufleet_scheduler_cycle_seconds",] == 0.25
    assert found["gpufleet_gpus_with_fresh_readings",] == 1
    assert found["gpufleet_alerts_firing", "quota_breach", "warning"] == 1
    assert found["gpufleet_alert_deliveries_dead", "on call"] == 0
    assert found["gpufleet_sold_per_hour", "USD"] == 2
    assert found["gpufleet_unsold_usd_per_hour",] == 4
    assert found["gpufleet_stripe_steps", "dead"] == 0
    assert found["gpufleet_remote_write_behind_seconds",] == 0


def test_how_far_remote_write_is_behind(settings: Any) -> None:
    settings.REMOTE_WRITE_URL = "http://nobody.example/"
    for minutes in (7, 2):
        store_sample(make_gpu(), timezone.now() - timedelta(minutes=minutes), utilization_pct=50)
    assert 420 <= samples()["gpufleet_remote_write_behind_seconds",] < 480


def test_an_empty_house_has_metrics_too() -> None:
    assert "gpufleet_queue_oldest_seconds 0.0" in scrape()


@pytest.mark.usefixtures("house")
def test_the_number_of_series_does_not_grow_with_jobs_gpus_or_tenants() -> None:
    before = len(of_the_house())
    node = make_node()
    node.cluster_id = make_cluster("west").pk
    for _ in range(5):
        job = make_job()
        make_gpu(node)
    assert len(of_the_house()) <= before + 7  # A cluster or two, and no more.
    assert job.name not in scrape()


def of_the_house() -> list[tuple[str, ...]]:
    return [name for name in samples() if name[0].startswith("gpufleet_")]


def test_requests_are_counted_by_view_method_and_status() -> None:
    name = "django_http_responses_total_by_status_view_method_total", "401", "GET", "job-list"
    before = samples().get(name, 0)
    Client().get("/api/jobs")
    Client().get("/api/jobs/17")
    assert samples()[name] == before + 1
    assert "/api/jobs/17" not in scrape()


def test_web_processes_of_one_machine_answer_for_each_other(tmp_path: Path) -> None:
    """Two processes count a request each; either would say two."""
    script = (
        "import django; django.setup(); from django.test import Client; Client().get('/healthz'); "
        "from prometheus_client import generate_latest; from gpufleet.metrics import _framework; "
        "print(generate_latest(_framework()).decode())"
    )
    environment = {
        **os.environ,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "gpufleet.settings",
        "ALLOWED_HOSTS": "testserver",
    }
    said = ""
    for _ in range(2):
        said = subprocess.run(
            [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    assert "django_http_requests_before_middlewares_total 2.0" in said


def test_it_is_open_only_where_that_is_set(settings: Any) -> None:
    assert Client().get("/metrics").status_code == 401
    settings.METRICS_OPEN = True
    assert Client().get("/metrics").status_code == 200


@pytest.mark.usefixtures("house")
def test_every_metric_that_the_documents_name_exists() -> None:
    known = {name for name, *_ in samples()} | {"gpufleet_alert_evaluation_timestamp_seconds"}
    for file in (RULES, DASHBOARD):
        named = {word for word in _words(file) if word.startswith("gpufleet_")}
        assert named
        assert named <= known, file.name


def test_the_alerting_rules_have_what_prometheus_wants() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    for rule in groups[0]["rules"]:
        assert {"alert", "expr", "labels", "annotations"} <= set(rule)
        assert {"summary", "description"} <= set(rule["annotations"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.usefixtures("house")
def test_promtool_finds_no_fault() -> None:
    checked = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout
    linted = subprocess.run(["promtool", "check", "metrics"], input=scrape().encode(), capture_output=True, check=False)
    assert linted.returncode == 0, linted.stderr


def _words(file: Path) -> set[str]:
    text = file.read_text()
    return set("".join(sign if sign.isalnum() or sign == "_" else " " for sign in text).split())
