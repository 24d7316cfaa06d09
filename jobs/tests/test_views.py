"""The routes of jobs, called as clients call them."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_admin_key, make_key
from billing.tests.factories import make_rate
from clusters.models import Node
from jobs.models import Job
from jobs.tests.factories import allocate, make_job
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db


@pytest.fixture
def api() -> APIClient:
    """Charlie sees the whole fleet."""
    return client_with(make_key())


def test_a_job_is_submitted_with_the_contracts_defaults(api: APIClient, node: Node) -> None:
    answer = api.post("/api/jobs", {"cluster_id": node.cluster_id, "name": "train"})
    assert answer.status_code == 201
    body = answer.json()
    submitted_at = body.pop("submitted_at")
    assert submitted_at.endswith("Z")
    assert body == {
        "id": Job.objects.get().pk,
        "cluster_id": node.cluster_id,
        "tenant_id": None,
        "name": "train",
        "gpu_count": 1,
        "gpu_type": "",
        "priority": 5,
        "status": "queued",
        "block_reason": "Waits for the scheduler's next cycle.",
        "submitted_by": "",
        "estimated_duration_min": None,
        "command": None,
        "image": "",
        "env": {},
        "overdue": False,
        "gpu_ids": [],
        "cost": None,
        "currency": None,
        "quote": None,
        "claimed_at": None,
        "preempt_at": None,
        "preempt_for": None,
        "started_at": None,
        "ended_at": None,
    }
    assert api.get(f"/api/jobs/{body['id']}").json() == {**body, "submitted_at": submitted_at}


def test_every_field_is_kept(api: APIClient, node: Node) -> None:
    wish = {
        "cluster_id": node.cluster_id,
        "name": "train",
        "gpu_count": 4,
        "gpu_type": "A100|H100",
        "priority": 1,
        "tenant_id": alice().pk,
        "submitted_by": "eve",
        "estimated_duration_min": 90,
        "command": ["python", "train.py", "--name= a b ", ""],
        "image": "registry.example/train:1",
        "env": {"EPOCHS": "3", "EMPTY": ""},
    }
    body = api.post("/api/jobs", wish).json()
    assert {name: body[name] for name in wish} == wish


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": ""}, "#/name"),
        ({"name": "x" * 201}, "#/name"),
        ({"gpu_count": 0}, "#/gpu_count"),
        ({"gpu_count": 10**12}, "#/gpu_count"),
        ({"gpu_cout": 2}, "#/gpu_cout"),
        ({"priority": 11}, "#/priority"),
        ({"priority": 0}, "#/priority"),
        ({"cluster_id": 10**9}, "#/cluster_id"),
        ({"cluster_id": 10**30}, "#/cluster_id"),
        ({"tenant_id": 10**9}, "#/tenant_id"),
        ({"command": "rm -rf /"}, "#/command"),
        ({"command": []}, "#/command"),
        ({"command": ["a", 1, {}]}, "#/command/2"),
        ({"command": ["", "a"]}, "#/command/0"),
        ({"image": "--volume=/:/host"}, "#/image"),
        ({"image": "train:1 --privileged"}, "#/image"),
        ({"env": {"A=B": "c"}}, "#/env"),
        ({"env": ["A"]}, "#/env"),
        ({"estimated_duration_min": 0}, "#/estimated_duration_min"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_submitted(
    api: APIClient, node: Node, change: dict[str, Any], pointer: str
) -> None:
    answer = api.post("/api/jobs", {"cluster_id": node.cluster_id, "name": "train", **change})
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert not Job.objects.exists()


def test_an_impossible_job_is_a_conflict_with_the_figures(api: APIClient, node: Node) -> None:
    answer = api.post("/api/jobs", {"cluster_id": node.cluster_id, "name": "train", "gpu_count": 5})
    assert answer.status_code == 409
    assert (answer.json()["needs"], answer.json()["available"]) == (5, {"H100": 4})


def test_a_repeated_submission_is_one_job(api: APIClient, node: Node) -> None:
    wish = {"cluster_id": node.cluster_id, "name": "train"}
    first = api.post("/api/jobs", wish, headers={"Idempotency-Key": "abc"})
    again = api.post("/api/jobs", wish, headers={"Idempotency-Key": "abc"})
    assert (again.status_code, again.json(), again["Idempotent-Replayed"]) == (201, first.json(), "true")
    assert Job.objects.count() == 1


def test_a_running_job_shows_what_it_holds_and_costs(api: APIClient, node: Node) -> None:
    now = timezone.now()
    rate = make_rate("H100", "3", valid_from=now)
    job = make_job(cluster=node.cluster, gpu_count=2, status="running")
    gpus = list(node.gpus.all()[:2])
    allocate(job, gpus, start=now - timedelta(hours=2), rate_id=rate.pk, price_per_gpu_hour=Decimal(3), currency="USD")
    body = api.get(f"/api/jobs/{job.pk}").json()
    assert body["gpu_ids"] == [gpu.pk for gpu in gpus]
    assert (Decimal(body["cost"]).quantize(Decimal("0.1")), body["currency"]) == (Decimal("12.0"), "USD")


def test_moves_are_legal_or_a_conflict_that_names_the_legal_ones(api: APIClient, node: Node) -> None:
    job = make_job(cluster=node.cluster)
    url = f"/api/jobs/{job.pk}/status"
    assert api.patch(url, {"status": "blocked"}).json()["errors"][0]["pointer"] == "#/block_reason"
    assert api.patch(url, {"status": "blocked", "block_reason": "data"}).json()["block_reason"] == "On hold: data"
    refused = api.patch(url, {"status": "completed"})
    assert (refused.status_code, refused.json()["legal"]) == (409, ["queued", "cancelled"])
    assert api.patch(url, {"status": "sleeping"}).status_code == 400
    assert api.patch(url, {"status": "cancelled"}).json()["status"] == "cancelled"
    events = api.get(f"/api/jobs/{job.pk}/events").json()
    assert [(event["from_status"], event["to_status"]) for event in events] == [
        ("blocked", "cancelled"),
        ("queued", "blocked"),
    ]
    assert len(api.get(f"/api/jobs/{job.pk}/events?limit=1").json()) == 1
    assert api.get(f"/api/jobs/{job.pk}/events?status=queued").status_code == 400


def test_an_array_is_submitted_whole_in_its_order(api: APIClient, node: Node) -> None:
    wishes = [{"cluster_id": node.cluster_id, "name": f"job-{number}", "gpu_count": number} for number in (3, 1, 2)]
    answer = api.post("/api/jobs", wishes, headers={"Idempotency-Key": "batch"})
    assert answer.status_code == 201
    assert [(job["name"], job["gpu_count"], job["status"]) for job in answer.json()] == [
        ("job-3", 3, "queued"),
        ("job-1", 1, "queued"),
        ("job-2", 2, "queued"),
    ]
    assert api.post("/api/jobs", wishes, headers={"Idempotency-Key": "batch"}).json() == answer.json()
    assert [job.events.get().reason for job in Job.objects.all()] == ["submitted"] * 3
    assert [one["block_reason"] for one in answer.json()] == ["Waits for the scheduler's next cycle."] * 3
    assert [job.wait_periods.get().during.upper for job in Job.objects.all()] == [None] * 3


def test_an_array_with_one_bad_job_is_refused_whole(api: APIClient, node: Node) -> None:
    good = {"cluster_id": node.cluster_id, "name": "train"}
    for change, pointer in [
        ({"priority": 11}, "#/1/priority"),
        ({"gpu_cout": 1}, "#/1/gpu_cout"),
        ({"cluster_id": 10**9}, "#/1/cluster_id"),
        ({"tenant_id": 10**9}, "#/1/tenant_id"),
    ]:
        answer = api.post("/api/jobs", [good, {**good, **change}])
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, pointer)
    refused = api.post("/api/jobs", [good, good, {**good, "gpu_count": 5}])
    assert (refused.status_code, refused.json()["index"], refused.json()["needs"]) == (409, 2, 5)
    assert api.post("/api/jobs", []).status_code == 400
    assert api.post("/api/jobs", [good] * 1_001).status_code == 400
    assert api.post("/api/jobs", [good, 7]).status_code == 400
    assert not Job.objects.exists()


def test_a_tenants_array_is_its_own(node: Node) -> None:
    acme, bluefin = alice(), bob()
    good = {"cluster_id": node.cluster_id, "name": "train"}
    api = client_with(make_key(acme))
    assert [job["tenant_id"] for job in api.post("/api/jobs", [good, good]).json()] == [acme.pk] * 2
    refused = api.post("/api/jobs", [good, {**good, "tenant_id": bluefin.pk}])
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (400, "#/1/tenant_id")


def test_the_priority_of_a_waiting_job_may_change_and_is_on_record(api: APIClient, node: Node) -> None:
    job = make_job(cluster=node.cluster)
    url = f"/api/jobs/{job.pk}"
    assert api.patch(url, {"priority": 1}).json()["priority"] == 1
    assert [event["reason"] for event in api.get(f"{url}/events").json()] == ["priority 5 → 1"]
    assert api.patch(url, {"priority": 11}).json()["errors"][0]["pointer"] == "#/priority"
    assert api.patch(url, {"name": "x"}).status_code == 400
    assert api.patch(url, {}).status_code == 400
    running = make_job(cluster=node.cluster, status="running")
    refused = api.patch(f"/api/jobs/{running.pk}", {"priority": 1})
    assert (refused.status_code, refused.json()["current"]) == (409, "running")
    assert "completed" in refused.json()["legal"]


def test_a_job_past_its_estimate_is_flagged(api: APIClient, node: Node) -> None:
    since = timezone.now() - timedelta(minutes=30)
    late, fine = (
        make_job(cluster=node.cluster, status="running", started_at=since, estimated_duration_min=minutes)
        for minutes in (29, 31)
    )
    assert [api.get(f"/api/jobs/{job.pk}").json()["overdue"] for job in (late, fine)] == [True, False]


def test_a_list_is_filtered_and_paged(api: APIClient, node: Node) -> None:
    jobs = [make_job(cluster=node.cluster, priority=priority) for priority in (1, 2, 2)]
    make_job(cluster=node.cluster, status="completed")
    page = api.get("/api/jobs?status=queued&limit=2")
    assert [job["id"] for job in page.json()] == [jobs[2].pk, jobs[1].pk]
    following = api.get(page["Link"].split(">")[0].removeprefix("<"))
    assert [job["id"] for job in following.json()] == [jobs[0].pk]
    assert "Link" not in following
    assert len(api.get("/api/jobs?priority=2").json()) == 2
    for wrong in (
        "status=done",
        "priority=11",
        "cluster_id=x",
        "stauts=queued",
        "limit=0",
        "cursor=x",
        "tenant_id=1.5",
    ):
        assert api.get(f"/api/jobs?{wrong}").status_code == 400, wrong


def test_a_tenant_sees_and_submits_its_own_jobs_alone(node: Node) -> None:
    acme, bluefin = alice(), bob()
    hers, his = (make_job(cluster=node.cluster, tenant=tenant) for tenant in (acme, bluefin))
    api = client_with(make_key(acme))
    assert [job["id"] for job in api.get("/api/jobs").json()] == [hers.pk]
    for method, path, body in [
        ("get", "", None),
        ("get", "/events", None),
        ("patch", "/status", {"status": "cancelled"}),
    ]:
        missing = getattr(api, method)(f"/api/jobs/{10**9}{path}", body)
        foreign = getattr(api, method)(f"/api/jobs/{his.pk}{path}", body)
        assert (foreign.status_code, foreign.json()["detail"]) == (404, missing.json()["detail"])
    wish = {"cluster_id": node.cluster_id, "name": "train"}
    assert api.post("/api/jobs", wish).json()["tenant_id"] == acme.pk
    assert api.post("/api/jobs", {**wish, "tenant_id": acme.pk}).status_code == 201
    foreign = api.post("/api/jobs", {**wish, "tenant_id": bluefin.pk})
    missing = api.post("/api/jobs", {**wish, "tenant_id": 10**9})
    assert foreign.status_code == missing.status_code == 400
    assert foreign.json()["errors"][0]["code"] == missing.json()["errors"][0]["code"]
    his.refresh_from_db()
    assert his.status == "queued"


def test_the_list_costs_a_fixed_number_of_queries(node: Node, django_assert_max_num_queries: Any) -> None:
    for _ in range(20):
        make_job(cluster=node.cluster, tenant=None)
    api = client_with(make_admin_key())
    api.get("/api/jobs")
    with django_assert_max_num_queries(5):
        assert len(api.get("/api/jobs").json()) == 20


def test_a_submission_costs_two_statements(api: APIClient, node: Node, django_assert_num_queries: Any) -> None:
    """The key's and its own; the first request of a key and of a cluster has more to do."""
    wish = {"cluster_id": node.cluster_id, "tenant_id": alice().pk, "name": "train"}
    assert api.post("/api/jobs", wish).status_code == 201
    for body in (wish, [wish] * 20):
        with django_assert_num_queries(2):
            assert api.post("/api/jobs", body).status_code == 201
