from datetime import timedelta
from typing import Any

import pytest
from rest_framework.test import APIClient

from apikeys.models import ApiKey
from apikeys.tests.factories import client_with, make_key
from clusters.models import Cluster
from clusters.tests.clients import MISSING, client_of_new_cluster, problems, same_refusal
from clusters.tests.factories import hold, make_cluster, make_gpu, make_node
from gpufleet.common.models import IdempotentResponse
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db

# Authentication, and its note of the key's use; the list; the ports.
LIST_QUERIES = 4
DETAIL_QUERIES = 7


def test_a_new_cluster_shows_its_key_once_and_the_key_works(admin: APIClient) -> None:
    answer = admin.post("/api/clusters", {"name": "north", "region": "eu-north-1"})
    assert answer.status_code == 201
    body = answer.json()
    raw = body.pop("api_key")
    assert body == {
        "id": Cluster.objects.get().pk,
        "name": "north",
        "region": "eu-north-1",
        "status": "active",
        "on_node_loss": "fail",
        "enforce_time_limit": False,
        "preemption": False,
        "preemption_grace_s": 60,
        "preemption_min_run_s": 600,
        "execution_enabled": False,
        "node_count": 0,
        "gpu_count": 0,
        "idle_gpus": 0,
        "active_jobs": 0,
        "queued_jobs": 0,
        "created_at": "2026-11-23T12:00:00.000000Z",
    }
    agent = APIClient()
    agent.credentials(HTTP_AUTHORIZATION=f"Bearer {raw}")
    assert agent.post("/api/clusters/nodes", {"cluster_id": body["id"], "hostname": "n1"}).status_code == 201
    assert raw not in admin.get(f"/api/clusters/{body['id']}").content.decode()


def test_what_becomes_of_jobs_that_cannot_go_on_is_the_clusters_choice(admin: APIClient) -> None:
    url = f"/api/clusters/{admin.post('/api/clusters', {'name': 'north'}).json()['id']}"
    rules = {"on_node_loss": "requeue", "enforce_time_limit": True, "preemption": True, "preemption_grace_s": 0}
    assert admin.patch(url, rules).status_code == 200
    assert {name: admin.get(url).json()[name] for name in rules} == rules
    assert admin.patch(url, {"on_node_loss": "hope"}).json()["errors"][0]["pointer"] == "#/on_node_loss"


def test_a_repeated_request_gets_the_first_answer_without_the_key(admin: APIClient) -> None:
    headers: Any = {"HTTP_IDEMPOTENCY_KEY": "make-north"}
    first = admin.post("/api/clusters", {"name": "north"}, **headers)
    again = admin.post("/api/clusters", {"name": "north"}, **headers)
    assert again.status_code == 201
    assert again["Idempotent-Replayed"] == "true"
    assert again.json() == {**first.json(), "api_key": None}
    assert Cluster.objects.count() == 1
    assert first.json()["api_key"] not in str(IdempotentResponse.objects.get().body)
    other = admin.post("/api/clusters", {"name": "south"}, **headers)
    assert other.status_code == 422


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, [("#/name", "required")]),
        ({"name": " "}, [("#/name", "blank")]),
        ({"name": "n" * 201}, [("#/name", "max_length")]),
        ({"name": "n", "region": "r" * 101}, [("#/region", "max_length")]),
        ({"name": "n", "status": "active"}, [("#/status", "unknown_field")]),
        ({"name": None}, [("#/name", "null")]),
    ],
)
def test_bad_input_is_named_and_makes_nothing(admin: APIClient, body: Any, expected: Any) -> None:
    keys = ApiKey.objects.count()
    assert problems(admin.post("/api/clusters", body)) == expected
    assert (Cluster.objects.count(), ApiKey.objects.count()) == (0, keys)


def test_a_taken_name_is_a_conflict(admin: APIClient) -> None:
    make_cluster("north")
    answer = admin.post("/api/clusters", {"name": "north"})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:gpufleet:problem:cluster_name_taken")
    assert ApiKey.objects.count() == 2  # The administrator's and the first cluster's.


def test_the_counts(admin: APIClient) -> None:
    cluster = make_cluster()
    nodes = [make_node(cluster), make_node(cluster, intent="draining")]
    held, idle = make_gpu(nodes[0]), make_gpu(nodes[0])
    make_gpu(nodes[0], health="unhealthy")
    make_gpu(nodes[1])
    make_gpu(nodes[0], 7, retired_at=idle.registered_at + timedelta(hours=1))
    make_gpu()
    hold(held, alice())
    hold(make_gpu(nodes[1], 9), bob())
    shown = admin.get(f"/api/clusters/{cluster.pk}").json()
    assert {name: shown[name] for name in ("node_count", "gpu_count", "idle_gpus", "active_jobs", "queued_jobs")} == {
        "node_count": 2,
        "gpu_count": 5,
        "idle_gpus": 1,
        "active_jobs": 2,
        "queued_jobs": 0,
    }


def test_the_detail_has_nodes_and_jobs(admin: APIClient) -> None:
    cluster = make_cluster()
    node = make_node(cluster, "n1")
    job = hold(make_gpu(node), alice(), name="bert")
    make_gpu()
    shown = admin.get(f"/api/clusters/{cluster.pk}").json()
    assert [(row["id"], row["hostname"], row["gpu_count"]) for row in shown["nodes"]] == [(node.pk, "n1", 1)]
    assert [(row["id"], row["name"]) for row in shown["jobs"]] == [(job.pk, "bert")]


def test_at_most_twenty_jobs(admin: APIClient) -> None:
    cluster = make_cluster()
    node = make_node(cluster)
    jobs = [hold(make_gpu(node), alice() if index == 0 else None) for index in range(21)]
    shown = admin.get(f"/api/clusters/{cluster.pk}").json()["jobs"]
    assert [row["id"] for row in shown] == [job.pk for job in reversed(jobs[1:])]


def test_the_list_is_newest_first_filtered_and_paged(admin: APIClient) -> None:
    names = ["a", "b", "c"]
    ids = [make_cluster(name, region="eu" if name != "b" else "us").pk for name in names]
    make_cluster("gone", decommissioned_at=make_cluster("d", status="maintenance").created_at)
    answer = admin.get("/api/clusters?limit=2")
    assert [row["name"] for row in answer.json()] == ["d", "c"]
    follow = answer["Link"].split(">")[0].removeprefix("<")
    assert [row["id"] for row in admin.get(follow).json()] == [ids[1], ids[0]]
    assert [row["name"] for row in admin.get("/api/clusters?region=us").json()] == ["b"]
    assert [row["name"] for row in admin.get("/api/clusters?status=maintenance").json()] == ["d"]
    assert [row["name"] for row in admin.get("/api/clusters?name=a").json()] == ["a"]
    assert problems(admin.get("/api/clusters?regoin=us")) == [("?regoin", "unknown_parameter")]
    assert problems(admin.get("/api/clusters?status=broken")) == [("?status", "invalid_choice")]


def test_a_change(admin: APIClient) -> None:
    cluster = make_cluster("north")
    gpu = make_gpu(make_node(cluster))
    path = f"/api/clusters/{cluster.pk}"
    body = {"name": "far north", "region": "arctic", "status": "maintenance"}
    answer = admin.patch(path, body)
    assert answer.status_code == 200
    assert {name: answer.json()[name] for name in body} == body
    gpu.refresh_from_db()
    assert gpu.state == "maintenance"
    assert problems(admin.patch(path, {"status": "broken"})) == [("#/status", "invalid_choice")]
    assert problems(admin.patch(path, {"id": 7})) == [("#/id", "unknown_field")]
    assert admin.patch(path, {}).json()["name"] == "far north"
    assert admin.put(path, body).status_code == 405


def test_the_end_of_a_cluster(admin: APIClient) -> None:
    cluster, agent = client_of_new_cluster()
    path = f"/api/clusters/{cluster.pk}"
    assert admin.delete(path).status_code == 204
    missing = f"/api/clusters/{MISSING}"
    for method in (admin.get, admin.delete):
        assert same_refusal(method(path), method(missing))
    assert same_refusal(admin.patch(path, {"name": "x"}), admin.patch(missing, {"name": "x"}))
    assert agent.post("/api/clusters/nodes", {"cluster_id": cluster.pk, "hostname": "n1"}).status_code == 401


def test_a_cluster_at_work_is_not_deleted(admin: APIClient) -> None:
    gpu = make_gpu()
    hold(gpu, alice())
    answer = admin.delete(f"/api/clusters/{gpu.node.cluster_id}")
    assert answer.status_code == 409
    assert answer.json()["running_jobs"] == 1


def test_a_tenant_sees_the_inventory_and_its_own_jobs_alone(charlie: APIClient) -> None:
    cluster = make_cluster()
    mine, theirs = make_node(cluster), make_node(cluster)
    acme, bluefin = alice(), bob()
    job = hold(make_gpu(mine), acme)
    hold(make_gpu(theirs), bluefin)
    tenant = client_with(make_key(acme))
    path = f"/api/clusters/{cluster.pk}"
    shown, all_of_it = tenant.get(path).json(), charlie.get(path).json()
    assert [row["id"] for row in shown.pop("nodes")] == [mine.pk]
    assert [row["id"] for row in shown.pop("jobs")] == [job.pk]
    assert shown.pop("active_jobs") == 1
    assert all_of_it.pop("active_jobs") == 2
    assert shown.items() <= all_of_it.items()
    assert [row["active_jobs"] for row in tenant.get("/api/clusters").json()] == [1]


@pytest.mark.parametrize("who", ["tenant", "cluster", "charlie"])
def test_only_an_administrator_changes_clusters(who: str, charlie: APIClient) -> None:
    cluster, agent = client_of_new_cluster()
    client = {"tenant": client_with(make_key(alice())), "cluster": agent, "charlie": charlie}[who]
    path = f"/api/clusters/{cluster.pk}"
    answers = [client.post("/api/clusters", {"name": "x"}), client.patch(path, {"name": "x"}), client.delete(path)]
    assert [answer.status_code for answer in answers] == [403] * 3
    assert list(Cluster.objects.filter(decommissioned_at=None).values_list("name", flat=True)) == [cluster.name]


def test_a_clusters_key_reads_nothing(charlie: APIClient) -> None:
    cluster, agent = client_of_new_cluster()
    paths = ["", f"/{cluster.pk}", "/nodes", "/nodes/1", "/gpus", "/gpus/1", "/gpus/1/metrics"]
    assert [agent.get(f"/api/clusters{path}").status_code for path in paths] == [403] * len(paths)


def test_a_route_below_clusters_is_not_taken_for_an_id(admin: APIClient) -> None:
    for path in ("nodes", "gpus"):
        assert admin.get(f"/api/clusters/{path}").json() == []
    assert admin.get("/api/clusters/metrics").status_code == 405
    assert admin.get("/api/clusters/north").status_code == 404


def test_the_list_costs_the_same_however_long(admin: APIClient, django_assert_max_num_queries: Any) -> None:
    for _ in range(5):
        hold(make_gpu(make_node(make_cluster())))
    admin.get("/api/clusters")
    with django_assert_max_num_queries(LIST_QUERIES):
        assert len(admin.get("/api/clusters").json()) == 5


def test_the_detail_costs_the_same_however_large(admin: APIClient, django_assert_max_num_queries: Any) -> None:
    cluster = make_cluster()
    for _ in range(5):
        hold(make_gpu(make_node(cluster)))
    admin.get("/api/clusters")
    with django_assert_max_num_queries(DETAIL_QUERIES):
        assert len(admin.get(f"/api/clusters/{cluster.pk}").json()["nodes"]) == 5
