"""What-if questions, asked as clients ask them, against small worlds that can be reckoned by hand."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.apps import apps
from django.core import serializers
from django.db.models import Model
from django.utils import timezone
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_key
from billing.tests.factories import make_rate
from clusters.models import Node
from jobs import queries
from jobs.models import EstimateSource, Job, StartEstimate
from jobs.scheduler import run_cycle
from jobs.services import submit_job
from jobs.tests.factories import allocate, make_job
from jobs.whatif import asking
from tenants.models import Tenant
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
# A whole run of the clock may pass between the reading of the time here and there.
CLOCK_S = 60


@pytest.fixture
def api() -> APIClient:
    """Charlie sees the whole fleet."""
    return client_with(make_key())


@pytest.fixture
def acme() -> Tenant:
    """Alice may hold all of the node's four GPUs."""
    return alice(gpu_quota=4)


@pytest.fixture
def now() -> datetime:
    """The API reads the real clock."""
    return timezone.now()


def running(node: Node, tenant: Tenant | None, now: datetime, *, gpus: int = 4, minutes: int | None = 60) -> Job:
    """A job that has just started on the node's first GPUs."""
    job = make_job(
        cluster=node.cluster,
        tenant=tenant,
        gpu_count=gpus,
        estimated_duration_min=minutes,
        status="running",
        submitted_at=now - MINUTE,
        started_at=now,
    )
    allocate(job, node.gpus.order_by("pk")[:gpus], start=now)
    return job


def queued(node: Node, tenant: Tenant | None, now: datetime, *, gpus: int = 4, minutes: int | None = 60) -> Job:
    """A job that was submitted just now."""
    return submit_job(
        cluster_id=node.cluster_id,
        tenant_id=None if tenant is None else tenant.pk,
        name="train",
        gpu_count=gpus,
        estimated_duration_min=minutes,
        actor="test",
        now=now,
    )


def ask(api: APIClient, **question: Any) -> dict[str, Any]:
    """The answer to a question that is fine."""
    answer = api.post("/api/jobs/simulate", question)
    assert answer.status_code == 200, answer.json()
    body: dict[str, Any] = answer.json()
    return body


def starts_in(scenario: dict[str, Any], now: datetime) -> float:
    """Minutes until the job that was asked about starts."""
    return round((datetime.fromisoformat(scenario["job"]["starts_at"]) - now) / MINUTE)


def everything() -> list[str]:
    """Every row of every table, but for keys: their last use is noted."""
    models = [model for model in apps.get_models() if model._meta.app_label not in ("apikeys", "sessions")]
    return [row for model in models for row in rows_of(model._default_manager.all())]


def rows_of(objects: Iterable[Model]) -> list[str]:
    """Each row in one line."""
    lines: str = serializers.serialize("jsonl", objects)
    return lines.splitlines()


def test_a_queued_job_starts_when_those_before_it_have_ended(
    api: APIClient, node: Node, acme: Tenant, now: datetime
) -> None:
    running(node, acme, now, minutes=60)
    queued(node, acme, now, minutes=30)
    last = queued(node, acme, now, minutes=10)
    body = ask(api, job_id=last.pk)
    assert starts_in(body["present"], now) == 90
    assert body["present"]["job"]["model"] == "H100"
    assert body["present"]["job"]["nodes"] == [node.hostname]
    assert body["present"]["job"]["waits_s"] == pytest.approx(90 * 60, abs=CLOCK_S)
    assert body["changed"] is None
    assert not body["cut"]
    assert body["present"]["lengths"] == {"estimate": 3, "history": 0, "unknown": 0}


def test_the_figures_are_as_reckoned_by_hand(api: APIClient, node: Node, acme: Tenant, now: datetime) -> None:
    """Four GPUs for two hours at a list price of 2.00. One hour is sold at a locked 1.50, half an hour at 2.00, and
    half an hour is not."""
    rate = make_rate("H100", "2.00")
    job = running(node, acme, now, minutes=60)
    job.allocations.update(rate_id=rate.pk, price_per_gpu_hour="1.50", currency="USD")
    queued(node, acme, now, minutes=30)
    body = ask(api, horizon_hours=2)
    figures = body["present"]["figures"]
    assert figures["registered_gpu_seconds"] == 4 * 2 * 3600
    assert figures["sold_gpu_seconds"] == pytest.approx(4 * 1.5 * 3600, abs=4 * CLOCK_S)
    assert figures["utilization"] == pytest.approx(0.75, abs=0.01)
    assert figures["revenue"] == [{"amount": "10.00", "currency": "USD"}]
    assert figures["leakage"] == [{"amount": "4.00", "currency": "USD"}]
    assert (figures["started"], figures["still_waiting"]) == (1, 0)
    assert figures["wait_p50_s"] == figures["wait_p95_s"] == pytest.approx(3600, abs=CLOCK_S)


def test_a_larger_quota_starts_it_at_once(api: APIClient, node: Node, now: datetime) -> None:
    tenant = alice(gpu_quota=2)
    running(node, tenant, now, gpus=2, minutes=60)
    job = queued(node, tenant, now, gpus=2)
    body = ask(api, job_id=job.pk, quotas=[{"tenant_id": tenant.pk, "gpu_quota": 4}], horizon_hours=1)
    assert starts_in(body["present"], now) == 60
    assert starts_in(body["changed"], now) == 0
    assert body["changed"]["figures"]["utilization"] > body["present"]["figures"]["utilization"]


def test_more_gpus_start_it_on_a_new_node(api: APIClient, node: Node, now: datetime) -> None:
    running(node, None, now, minutes=60)
    job = {"cluster_id": node.cluster_id, "gpu_count": 4, "estimated_duration_min": 30}
    more = [{"cluster_id": node.cluster_id, "model": "H100", "gpus": 16}]
    body = ask(api, job=job, add_gpus=more, horizon_hours=2)
    assert starts_in(body["present"], now) == 60
    assert starts_in(body["changed"], now) == 0
    assert body["changed"]["job"]["nodes"] == ["new-1"]
    assert body["changed"]["figures"]["registered_gpu_seconds"] == 20 * 2 * 3600


def test_a_drained_node_takes_nothing_again(api: APIClient, node: Node, now: datetime) -> None:
    running(node, None, now, minutes=60)
    job = queued(node, None, now)
    body = ask(api, job_id=job.pk, drain_node_ids=[node.pk])
    assert starts_in(body["present"], now) == 60
    assert body["changed"]["job"]["starts_at"] is None
    assert body["changed"]["job"]["reason"] == "Needs 4 GPUs of one model; 0 are free."
    assert body["changed"]["figures"]["still_waiting"] == 1
    assert body["changed"]["figures"]["wait_p50_s"] is None


def test_another_price_is_for_what_starts_from_now_on(api: APIClient, node: Node, now: datetime) -> None:
    rate = make_rate("H100", "2.00")
    job = running(node, None, now, gpus=2, minutes=None)
    job.allocations.update(rate_id=rate.pk, price_per_gpu_hour="2.00", currency="USD")
    queued(node, None, now, gpus=1, minutes=None)
    prices = [{"gpu_model": "H100", "price_per_gpu_hour": "5.00"}]
    body = ask(api, prices=prices, horizon_hours=10)
    figures = body["present"]["figures"], body["changed"]["figures"]
    assert [one["revenue"][0]["amount"] for one in figures] == ["60.00", "90.00"]
    assert [one["leakage"][0]["amount"] for one in figures] == ["20.00", "50.00"]


def test_who_says_nothing_lasts_as_long_as_others_like_it(api: APIClient, node: Node, acme: Tenant) -> None:
    """Alice's jobs of four GPUs ran for 20, 30 and 70 minutes: the median is 30."""
    now = timezone.now()
    for number, minutes in enumerate([20, 30, 70], start=1):
        start = now - number * 5 * HOUR
        end = start + minutes * MINUTE
        ended: dict[str, Any] = {"status": "completed", "ended_at": end}
        job = make_job(cluster=node.cluster, tenant=acme, gpu_count=4, submitted_at=start, **ended)
        allocate(job, node.gpus.all(), start=start, end=end)
    running(node, acme, now, minutes=None)
    job = queued(node, acme, now, minutes=None)
    body = ask(api, job_id=job.pk)
    assert starts_in(body["present"], now) == 30
    assert body["present"]["lengths"] == {"estimate": 0, "history": 2, "unknown": 0}


def test_what_nobody_knows_does_not_end(api: APIClient, node: Node, now: datetime) -> None:
    running(node, None, now, minutes=None)
    job = queued(node, None, now)
    body = ask(api, job_id=job.pk)
    assert body["present"]["job"]["starts_at"] is None
    assert body["present"]["lengths"] == {"estimate": 0, "history": 0, "unknown": 1}


def test_nothing_changes(api: APIClient, node: Node, acme: Tenant, now: datetime) -> None:
    make_rate("H100", "2.00")
    running(node, acme, now)
    queued(node, acme, now)
    before = everything()
    ask(
        api,
        job={"cluster_id": node.cluster_id, "gpu_count": 4, "tenant_id": acme.pk},
        quotas=[{"tenant_id": acme.pk, "gpu_quota": 1}],
        drain_node_ids=[node.pk],
        add_gpus=[{"cluster_id": node.cluster_id, "model": "H100", "gpus": 16}],
        prices=[{"gpu_model": "H100", "price_per_gpu_hour": "5.00"}],
    )
    assert everything() == before
    assert len(before) > 15


def test_what_it_said_of_a_queued_job_is_kept_and_scored(
    api: APIClient, node: Node, acme: Tenant, now: datetime
) -> None:
    first = running(node, acme, now)
    job = queued(node, acme, now)
    before = set(everything())
    ask(api, job_id=job.pk)
    estimate = StartEstimate.objects.get()
    assert [row for row in everything() if row not in before] == rows_of([estimate])
    assert abs(estimate.starts_at - (now + HOUR)) < timedelta(seconds=CLOCK_S)
    first.allocations.update(during=(now, now + HOUR / 2))
    Job.objects.filter(pk=first.pk).update(status="completed", ended_at=now + HOUR / 2)
    run_cycle(now=now + HOUR / 2)
    score = queries.score_estimates(start=now, end=now + HOUR)[EstimateSource.WHAT_IF]
    assert (score.scored, score.held) == (1, 1)
    assert score.error_p50_s == pytest.approx(1800, abs=CLOCK_S)


def test_a_world_with_changes_or_no_wait_is_no_prediction(
    api: APIClient, node: Node, acme: Tenant, now: datetime
) -> None:
    job = queued(node, acme, now)
    ask(api, job_id=job.pk)
    assert not StartEstimate.objects.exists()


def test_alice_asks_about_herself_alone(node: Node, now: datetime) -> None:
    acme, bluefin = alice(gpu_quota=2), bob(gpu_quota=4)
    api = client_with(make_key(acme))
    mine = queued(node, acme, now, gpus=2)
    theirs = queued(node, bluefin, now, gpus=4)
    queued(node, bluefin, now, gpus=2)
    assert api.post("/api/jobs/simulate", {"job_id": theirs.pk}).status_code == 404
    body = ask(api, job_id=mine.pk)
    figures = body["present"]["figures"]
    assert (figures["started"], figures["still_waiting"]) == (1, 0)
    assert (figures["registered_gpu_seconds"], figures["utilization"], figures["leakage"]) == (None, None, None)
    assert figures["sold_gpu_seconds"] == pytest.approx(2 * 3600, abs=2 * CLOCK_S)
    assert sum(body["present"]["lengths"].values()) == 1
    ask(api, quotas=[{"tenant_id": acme.pk, "gpu_quota": 4}])
    hers = ask(api, job={"cluster_id": node.cluster_id, "gpu_count": 3})
    assert hers["present"]["job"]["reason"] == "Needs 3 GPUs; the tenant holds 0 of its quota of 2."


@pytest.mark.parametrize("what", ["drain_node_ids", "add_gpus", "prices"])
def test_alice_does_not_ask_about_the_fleet(node: Node, acme: Tenant, what: str) -> None:
    questions: dict[str, Any] = {
        "drain_node_ids": [node.pk],
        "add_gpus": [{"cluster_id": node.cluster_id, "model": "H100", "gpus": 16}],
        "prices": [{"gpu_model": "H100", "price_per_gpu_hour": "5.00"}],
    }
    answer = client_with(make_key(acme)).post("/api/jobs/simulate", {what: questions[what]})
    assert answer.status_code == 403
    assert answer.json()["type"].endswith("not_yours")


@pytest.mark.parametrize("what", ["quotas", "job"])
def test_alice_is_told_that_there_is_no_bob(node: Node, acme: Tenant, what: str) -> None:
    bluefin = bob()
    questions: dict[str, Any] = {
        "quotas": [{"tenant_id": bluefin.pk, "gpu_quota": 1}],
        "job": {"cluster_id": node.cluster_id, "tenant_id": bluefin.pk},
    }
    answer = client_with(make_key(acme)).post("/api/jobs/simulate", {what: questions[what]})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["detail"] == f"There is no tenant {bluefin.pk}."


@pytest.mark.parametrize("status", ["running", "completed", "blocked"])
def test_only_a_queued_job_has_a_start_to_come(api: APIClient, node: Node, status: str) -> None:
    job = make_job(cluster=node.cluster, status=status)
    answer = api.post("/api/jobs/simulate", {"job_id": job.pk})
    assert answer.status_code == 409
    assert answer.json()["current"] == status


@pytest.mark.parametrize(
    ("question", "pointer"),
    [
        ({"job_ids": [1]}, "#/job_ids"),
        ({"job_id": 0}, "#/job_id"),
        ({"job_id": 1, "job": {"cluster_id": 1}}, "#/job"),
        ({"job": {}}, "#/job/cluster_id"),
        ({"job": {"cluster_id": 10**9}}, "#/job/cluster_id"),
        ({"job": {"cluster_id": 1, "gpus": 3}}, "#/job/gpus"),
        ({"quotas": [{"tenant_id": 10**9, "gpu_quota": 1}]}, "#/quotas/0/tenant_id"),
        ({"quotas": [{"tenant_id": 1, "gpu_quota": 0}]}, "#/quotas/0/gpu_quota"),
        ({"quotas": [{"tenant_id": 1, "gpu_quota": 1}, {"tenant_id": 1, "gpu_quota": 2}]}, "#/quotas"),
        ({"quotas": {"tenant_id": 1}}, "#/quotas"),
        ({"drain_node_ids": [10**9]}, "#/drain_node_ids"),
        ({"drain_node_ids": 5}, "#/drain_node_ids"),
        ({"add_gpus": [{"cluster_id": 10**9, "model": "H100", "gpus": 8}]}, "#/add_gpus/0/cluster_id"),
        ({"add_gpus": [{"cluster_id": 1, "model": "", "gpus": 8}]}, "#/add_gpus/0/model"),
        ({"prices": [{"gpu_model": "H100", "price_per_gpu_hour": "-1"}]}, "#/prices/0/price_per_gpu_hour"),
        ({"prices": [{"gpu_model": "H100", "price_per_gpu_hour": "1", "currency": "XXX"}]}, "#/prices/0/currency"),
        ({"horizon_hours": 0}, "#/horizon_hours"),
        ({"time_limit_s": 3600}, "#/time_limit_s"),
    ],
)
def test_what_is_wrong_is_named(api: APIClient, question: dict[str, Any], pointer: str) -> None:
    answer = api.post("/api/jobs/simulate", question)
    assert answer.status_code == 400
    assert [problem["pointer"] for problem in answer.json()["errors"]] == [pointer]


def test_a_question_is_posted(api: APIClient) -> None:
    assert api.get("/api/jobs/simulate").status_code == 405
    assert api.post("/api/jobs/simulate?days=3", {}).status_code == 400
    assert api.post("/api/jobs/simulate", []).status_code == 400


def test_what_runs_counts_where_nobody_waits(api: APIClient, node: Node, now: datetime) -> None:
    running(node, None, now, gpus=2, minutes=None)
    assert ask(api)["present"]["figures"]["utilization"] == pytest.approx(0.5, abs=0.01)


def test_one_question_is_answered_at_a_time(api: APIClient, node: Node) -> None:
    with asking._turn:
        answer = api.post("/api/jobs/simulate", {"time_limit_s": 1})
    assert (answer.status_code, answer.json()["status"]) == (503, 503)
    ask(api, time_limit_s=1)


def test_an_empty_house_has_its_answer(api: APIClient) -> None:
    figures = ask(api)["present"]["figures"]
    assert (figures["utilization"], figures["wait_p50_s"], figures["revenue"]) == (None, None, [])
