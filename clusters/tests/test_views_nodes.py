from typing import Any

import pytest
from rest_framework.test import APIClient

from apikeys.tests.factories import client_with, make_key
from clusters.models import Node
from clusters.tests.clients import MISSING, client_of_new_cluster, problems, same_refusal
from clusters.tests.factories import hold, make_cluster, make_gpu, make_node
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db

PATH = "/api/clusters/nodes"
LIST_QUERIES = 2


def test_registration_and_heartbeat(noon: Any) -> None:
    cluster, agent = client_of_new_cluster()
    body = {
        "cluster_id": cluster.pk,
        "hostname": "gpu-node-01.example",
        "ip_address": "2001:db8::7",
        "total_gpus": 8,
        "cpu_cores": 96,
        "ram_gb": 1024,
    }
    answer = agent.post(PATH, body)
    assert answer.status_code == 201
    node = Node.objects.get()
    expected = {
        **body,
        "id": node.pk,
        "gpu_count": 0,
        "status": "online",
        "reason": "",
        "last_heartbeat_at": "2026-11-23T12:00:00.000000Z",
        "created_at": "2026-11-23T12:00:00.000000Z",
    }
    assert answer.json() == expected
    noon.shift(10)
    again = agent.post(PATH, {"cluster_id": cluster.pk, "hostname": "gpu-node-01.example", "ram_gb": 2048})
    assert again.status_code == 200
    assert again.json() == {**expected, "ram_gb": 2048, "last_heartbeat_at": "2026-11-23T12:00:10.000000Z"}


def test_hostname_alone_is_enough(charlie: APIClient) -> None:
    answer = charlie.post(PATH, {"cluster_id": make_cluster().pk, "hostname": "n1"})
    assert answer.status_code == 201
    assert {name: answer.json()[name] for name in ("ip_address", "total_gpus", "cpu_cores", "ram_gb")} == {
        "ip_address": None,
        "total_gpus": 0,
        "cpu_cores": None,
        "ram_gb": None,
    }


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("hostname", None, "null"),
        ("hostname", "", "blank"),
        ("hostname", "h" * 254, "max_length"),
        ("hostname", "a host", "invalid"),
        ("hostname", "host\n", None),
        ("hostname", "-host", "invalid"),
        ("ip_address", "10.0.0.256", "invalid"),
        ("total_gpus", -1, "min_value"),
        ("total_gpus", None, "null"),
        ("cpu_cores", 2**31, "max_value"),
        ("ram_gb", "much", "invalid"),
        ("cluster_id", 0, "min_value"),
        ("status", "online", "unknown_field"),
    ],
)
def test_bad_input_is_named_and_makes_nothing(charlie: APIClient, field: str, value: Any, code: str | None) -> None:
    body = {"cluster_id": make_cluster().pk, "hostname": "n1", field: value}
    answer = charlie.post(PATH, body)
    if code is None:  # White space at the ends is not part of a name.
        assert answer.json()["hostname"] == "host"
        return
    assert problems(answer) == [(f"#/{field}", code)]
    assert not Node.objects.exists()


def test_what_is_required(charlie: APIClient) -> None:
    assert problems(charlie.post(PATH, {})) == [("#/cluster_id", "required"), ("#/hostname", "required")]


def test_a_hostname_of_another_cluster_is_a_conflict(charlie: APIClient) -> None:
    node = make_node(hostname="n1")
    answer = charlie.post(PATH, {"cluster_id": make_cluster().pk, "hostname": "n1"})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:gpufleet:problem:hostname_taken")
    assert Node.objects.get() == node


def test_a_clusters_key_registers_in_its_own_cluster_alone(charlie: APIClient) -> None:
    _, agent = client_of_new_cluster()
    foreign = agent.post(PATH, {"cluster_id": make_cluster().pk, "hostname": "n1"})
    missing = agent.post(PATH, {"cluster_id": MISSING, "hostname": "n1"})
    assert same_refusal(foreign, missing)
    assert same_refusal(foreign, charlie.post(PATH, {"cluster_id": MISSING, "hostname": "n1"}))


def test_a_repeated_registration_is_answered_as_before(charlie: APIClient) -> None:
    body = {"cluster_id": make_cluster().pk, "hostname": "n1"}
    first = charlie.post(PATH, body, HTTP_IDEMPOTENCY_KEY="n1")
    again = charlie.post(PATH, body, HTTP_IDEMPOTENCY_KEY="n1")
    assert (again.status_code, again.json()) == (201, first.json())
    assert again["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("status", ["draining", "maintenance", "online"])
def test_the_operators_wish(charlie: APIClient, status: str) -> None:
    node = make_node(intent="draining", intent_reason="old")
    gpu = make_gpu(node)
    answer = charlie.patch(f"{PATH}/{node.pk}", {"status": status, "reason": "because"})
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["reason"]) == (status, "because")
    gpu.refresh_from_db()
    assert gpu.state == {"online": "available"}.get(status, status)


def test_a_silent_node_stays_offline_whatever_is_wished(charlie: APIClient) -> None:
    node = make_node(silent=True, intent="draining")
    assert charlie.patch(f"{PATH}/{node.pk}", {"status": "online"}).json()["status"] == "offline"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"status": "offline"}, ("#/status", "invalid_choice")),
        ({"status": "active"}, ("#/status", "invalid_choice")),
        ({"hostname": "n2"}, ("#/hostname", "unknown_field")),
        ({"reason": "r" * 501}, ("#/reason", "max_length")),
    ],
)
def test_what_cannot_be_wished(charlie: APIClient, body: Any, expected: Any) -> None:
    node = make_node()
    assert problems(charlie.patch(f"{PATH}/{node.pk}", body)) == [expected]
    node.refresh_from_db()
    assert node.intent == "active"


def test_the_list(charlie: APIClient) -> None:
    north, south = make_cluster(), make_cluster()
    nodes = [make_node(north, "a"), make_node(north, "b", silent=True), make_node(south, "c")]
    make_node(south, "gone", decommissioned_at=nodes[0].created_at)
    make_gpu(nodes[0])
    ids = [node.pk for node in nodes]
    assert [(row["id"], row["gpu_count"]) for row in charlie.get(PATH).json()] == [
        (ids[2], 0),
        (ids[1], 0),
        (ids[0], 1),
    ]
    for query, found in [
        (f"cluster_id={north.pk}", [ids[1], ids[0]]),
        ("status=offline", [ids[1]]),
        ("hostname=c", [ids[2]]),
        (f"cluster_id={MISSING}", []),
    ]:
        assert [row["id"] for row in charlie.get(f"{PATH}?{query}").json()] == found
    for query in ("cluster_id=x", f"cluster_id={2**63}", "cluster_id=1.5", "cluster=1", "status=up", "hostname="):
        assert charlie.get(f"{PATH}?{query}").status_code == 400, query


def test_a_tenant_sees_the_nodes_that_its_jobs_hold_now(charlie: APIClient) -> None:
    acme, bluefin = alice(), bob()
    mine, theirs, idle = make_node(), make_node(), make_node()
    hold(make_gpu(mine), acme)
    hold(make_gpu(theirs), bluefin)
    make_gpu(idle)
    tenant = client_with(make_key(acme))
    assert [row["id"] for row in tenant.get(PATH).json()] == [mine.pk]
    assert tenant.get(f"{PATH}/{mine.pk}").status_code == 200
    missing = tenant.get(f"{PATH}/{MISSING}")
    for node in (theirs, idle):
        assert same_refusal(tenant.get(f"{PATH}/{node.pk}"), missing)
        assert charlie.get(f"{PATH}/{node.pk}").status_code == 200


def test_tenants_and_clusters_do_not_turn_nodes(noon: Any) -> None:
    acme = alice()
    cluster, agent = client_of_new_cluster()
    node = make_node(cluster)
    hold(make_gpu(node), acme)
    tenant = client_with(make_key(acme))
    for client in (agent, tenant, client_with(make_key(permissions=["read"]))):
        assert client.patch(f"{PATH}/{node.pk}", {"status": "draining"}).status_code == 403
    assert tenant.post(PATH, {"cluster_id": cluster.pk, "hostname": "x"}).status_code == 403


def test_the_list_costs_the_same_however_long(charlie: APIClient, django_assert_max_num_queries: Any) -> None:
    for _ in range(5):
        make_gpu(make_node())
    charlie.get(PATH)
    with django_assert_max_num_queries(LIST_QUERIES):
        assert len(charlie.get(PATH).json()) == 5
