from datetime import timedelta
from typing import Any

import pytest
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_key
from clusters.models import GPU, LatestReading
from clusters.tests.clients import MISSING, client_of_new_cluster, problems, same_refusal
from clusters.tests.factories import NOW, hold, make_gpu, make_node
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db

PATH = "/api/clusters/gpus"
LIST_QUERIES = 3


def test_registration(noon: Any) -> None:
    cluster, agent = client_of_new_cluster()
    node = make_node(cluster)
    sent = {"model": "H100", "vram_mb": 81_559, "uuid": "GPU-a", "pci_bus_id": "00000000:1B:00.0"}
    answer = agent.post(PATH, {"node_id": node.pk, "gpus": [sent, {"gpu_index": 4, "model": "A100"}]})
    assert answer.status_code == 201
    first, second = GPU.objects.order_by("gpu_index")
    common = {"node_id": node.pk, "state": "available", "registered_at": "2026-11-23T12:00:00.000000Z"}
    assert answer.json() == [
        {**sent, **common, "id": first.pk, "gpu_index": 0},
        {**common, "id": second.pk, "gpu_index": 4, "model": "A100", "vram_mb": None, "uuid": "", "pci_bus_id": ""},
    ]
    again = agent.post(PATH, {"node_id": node.pk, "gpus": [sent, {"gpu_index": 4, "model": "A100"}]})
    assert (again.status_code, again.json()) == (200, answer.json())
    more = agent.post(PATH, {"node_id": node.pk, "gpus": [sent, {"gpu_index": 5, "model": "A100"}]})
    assert more.status_code == 201


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ([], [("#/gpus", "min_length")]),
        ("none", [("#/gpus", "not_a_list")]),
        ([{}] * 257, [("#/gpus", "max_length")]),
        ([{}, 7], [("#/gpus/1", "invalid")]),
        ([{}, {"gpu_index": 0}], [("#/gpus/0/gpu_index", "repeated_slot"), ("#/gpus/1/gpu_index", "repeated_slot")]),
        ([{"gpu_index": -1}], [("#/gpus/0/gpu_index", "min_value")]),
        ([{}, {"vram_mb": -1}], [("#/gpus/1/vram_mb", "min_value")]),
        ([{"model": "m" * 101}], [("#/gpus/0/model", "max_length")]),
        ([{"model": ""}], [("#/gpus/0/model", "blank")]),
        ([{"uuid": "u" * 65}], [("#/gpus/0/uuid", "max_length")]),
        ([{"vram_gb": 80}], [("#/gpus/0/vram_gb", "unknown_field")]),
    ],
)
def test_bad_input_is_named_and_makes_nothing(charlie: APIClient, gpus: Any, expected: Any) -> None:
    assert problems(charlie.post(PATH, {"node_id": make_node().pk, "gpus": gpus})) == expected
    assert not GPU.objects.exists()


def test_what_is_required(charlie: APIClient) -> None:
    assert problems(charlie.post(PATH, {})) == [("#/node_id", "required"), ("#/gpus", "required")]


def test_a_clusters_key_registers_on_its_own_nodes_alone(charlie: APIClient) -> None:
    _, agent = client_of_new_cluster()
    foreign = agent.post(PATH, {"node_id": make_node().pk, "gpus": [{}]})
    assert same_refusal(foreign, agent.post(PATH, {"node_id": MISSING, "gpus": [{}]}))
    assert same_refusal(foreign, charlie.post(PATH, {"node_id": MISSING, "gpus": [{}]}))


def test_a_gpu_with_its_metrics_and_its_job(charlie: APIClient) -> None:
    node = make_node(hostname="n1")
    gpu = make_gpu(node, uuid="GPU-a")
    assert charlie.get(f"{PATH}/{gpu.pk}").json() == {
        "id": gpu.pk,
        "cluster_id": node.cluster_id,
        "node_id": node.pk,
        "hostname": "n1",
        "gpu_index": 0,
        "model": "H100",
        "vram_mb": 81_559,
        "uuid": "GPU-a",
        "pci_bus_id": "",
        "state": "available",
        "health": "healthy",
        "fault": None,
        "health_reason": "",
        "latest_metrics": None,
        "job": None,
        "registered_at": "2026-11-23T12:00:00.000000Z",
        "retired_at": None,
        "retired_reason": "",
    }
    acme = alice()
    job = hold(gpu, acme, name="bert")
    LatestReading.objects.create(gpu=gpu, recorded_at=NOW, utilization_pct=93.5, temperature_c=61.0)
    shown = charlie.get(f"{PATH}/{gpu.pk}").json()
    assert shown["job"] == {
        "id": job.pk,
        "name": "bert",
        "tenant_id": acme.pk,
        "since": "2026-11-23T12:00:00.000000Z",
    }
    assert shown["latest_metrics"] == {
        "recorded_at": "2026-11-23T12:00:00.000000Z",
        "utilization_pct": 93.5,
        "memory_used_mb": None,
        "memory_total_mb": None,
        "temperature_c": 61.0,
        "power_draw_w": None,
        "xid": None,
    }
    (listed,) = charlie.get(PATH).json()
    assert listed == shown


def test_a_retired_gpu_is_found_by_its_id_and_not_in_the_list(charlie: APIClient) -> None:
    gpu = make_gpu(retired_at=NOW + timedelta(hours=1))
    assert charlie.get(PATH).json() == []
    assert charlie.get(f"{PATH}/{gpu.pk}").json()["retired_at"] == "2026-11-23T13:00:00.000000Z"
    answer = charlie.patch(f"{PATH}/{gpu.pk}", {"health": "unhealthy"})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:gpufleet:problem:gpu_retired")


def test_retirement(admin: APIClient, charlie: APIClient, noon: Any) -> None:
    gpu, held = make_gpu(), make_gpu()
    job = hold(held)
    path = f"{PATH}/{gpu.pk}/retire"
    assert problems(admin.post(path, {})) == [("#/reason", "required")]
    assert problems(admin.post(path, {"reason": ""})) == [("#/reason", "blank")]
    answer = admin.post(path, {"reason": "sold"})
    said = answer.json()
    assert (answer.status_code, said["retired_at"]) == (200, "2026-11-23T12:00:00.000000Z")
    assert said["retired_reason"].startswith("sold (by key:")
    noon.shift(timedelta(hours=1))
    assert admin.post(path, {"reason": "again"}).json() == said
    busy = admin.post(f"{PATH}/{held.pk}/retire", {"reason": "sold"})
    assert (busy.status_code, busy.json()["type"]) == (409, "urn:gpufleet:problem:gpu_busy")
    assert busy.json()["job_id"] == job.pk
    assert charlie.post(path, {"reason": "sold"}).status_code == 403
    missing = admin.post(f"{PATH}/{MISSING}/retire", {"reason": "sold"})
    assert missing.status_code == 404


def test_the_list_and_its_filters(charlie: APIClient) -> None:
    node = make_node()
    a = make_gpu(node, model="A100", uuid="GPU-a")
    h = make_gpu(node, model="H100", health="unhealthy")
    other = make_gpu(model="H100")
    for query, found in [
        ("", [other.pk, h.pk, a.pk]),
        (f"cluster_id={node.cluster_id}", [h.pk, a.pk]),
        (f"node_id={other.node_id}", [other.pk]),
        ("model=H100", [other.pk, h.pk]),
        ("model=H100&state=unhealthy", [h.pk]),
        ("health=healthy&limit=1", [other.pk]),
        ("uuid=GPU-a", [a.pk]),
    ]:
        assert [row["id"] for row in charlie.get(f"{PATH}?{query}").json()] == found, query
    for query in ("node_id=x", f"node_id={2**63}", "state=idle", "gpu_model=H100", "model=A&model=B", "step=raw"):
        assert charlie.get(f"{PATH}?{query}").status_code == 400, query


def test_an_operators_word(charlie: APIClient) -> None:
    gpu = make_gpu()
    path = f"{PATH}/{gpu.pk}"
    shown = charlie.patch(path, {"health": "unhealthy", "health_reason": "coil whine"}).json()
    assert (shown["state"], shown["health"], shown["health_reason"]) == ("unhealthy", "unhealthy", "coil whine")
    assert charlie.patch(path, {"health": "healthy"}).json()["state"] == "available"
    assert problems(charlie.patch(path, {"health": "fine"})) == [("#/health", "invalid_choice")]
    assert problems(charlie.patch(path, {})) == [("#/health", "required")]
    assert problems(charlie.patch(path, {"health": "healthy", "model": "H200"})) == [("#/model", "unknown_field")]
    assert charlie.patch(f"{PATH}/{MISSING}", {"health": "healthy"}).status_code == 404


def test_a_tenant_sees_what_its_jobs_hold_now_and_nothing_from_before(charlie: APIClient) -> None:
    acme, bluefin = alice(), bob()
    mine, theirs, idle = make_gpu(), make_gpu(), make_gpu()
    hold(mine, acme, since=NOW)
    hold(theirs, bluefin)
    LatestReading.objects.create(gpu=mine, recorded_at=NOW - timedelta(seconds=1), utilization_pct=99.0)
    tenant = client_with(make_key(acme))
    (listed,) = tenant.get(PATH).json()
    assert (listed["id"], listed["latest_metrics"]) == (mine.pk, None)
    assert tenant.get(f"{PATH}/{mine.pk}").json() == listed
    assert charlie.get(f"{PATH}/{mine.pk}").json()["latest_metrics"]["utilization_pct"] == 99.0
    LatestReading.objects.update(recorded_at=NOW)
    assert tenant.get(f"{PATH}/{mine.pk}").json()["latest_metrics"]["utilization_pct"] == 99.0
    missing, missing_metrics = tenant.get(f"{PATH}/{MISSING}"), tenant.get(f"{PATH}/{MISSING}/metrics")
    for gpu in (theirs, idle):
        assert same_refusal(tenant.get(f"{PATH}/{gpu.pk}"), missing)
        assert same_refusal(tenant.get(f"{PATH}/{gpu.pk}/metrics"), missing_metrics)


def test_tenants_and_clusters_do_not_mark_gpus(noon: Any) -> None:
    acme = alice()
    cluster, agent = client_of_new_cluster()
    gpu = make_gpu(make_node(cluster))
    hold(gpu, acme)
    tenant = client_with(make_key(acme))
    for client in (agent, tenant):
        assert client.patch(f"{PATH}/{gpu.pk}", {"health": "unhealthy"}).status_code == 403
    assert tenant.post(PATH, {"node_id": gpu.node_id, "gpus": [{}]}).status_code == 403


def test_the_list_costs_the_same_however_long(charlie: APIClient, django_assert_max_num_queries: Any) -> None:
    for _ in range(5):
        gpu = make_gpu()
        hold(gpu)
        LatestReading.objects.create(gpu=gpu, recorded_at=NOW)
    charlie.get(PATH)
    with django_assert_max_num_queries(LIST_QUERIES):
        assert len(charlie.get(PATH).json()) == 5
