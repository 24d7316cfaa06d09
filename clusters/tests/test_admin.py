import re
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.test import Client

from apikeys.queries import find_live_key
from clusters.models import GPU, Cluster, GPUFault, GPUStatePeriod, LatestReading, MetricSample, Node, NodeWatch
from clusters.tests.factories import NOW, hold, make_cluster, make_gpu, make_node
from clusters.tests.ledger import check_chain
from gpufleet.common.models import AuditEntry

pytestmark = pytest.mark.django_db

PATH = "/admin/clusters"


def act(client: Client, page: str, action: str, *ids: int) -> str:
    answer = client.post(
        f"{PATH}/{page}/",
        {"action": action, "_selected_action": list(ids), "agreed": "yes", "reason": "dust"},
        follow=True,
    )
    assert answer.status_code == 200
    return answer.content.decode()


def test_every_model_has_its_page() -> None:
    """Samples are too many for a page of their own; the newest of each GPU have one."""
    own = {model for model in apps.get_app_config("clusters").get_models() if admin.site.is_registered(model)}
    assert own == {Cluster, Node, GPU, GPUFault, GPUStatePeriod, LatestReading, NodeWatch}
    assert not admin.site.is_registered(MetricSample)


@pytest.mark.parametrize("page", ["cluster", "node", "gpu", "gpufault", "gpustateperiod", "latestreading", "nodewatch"])
def test_every_page_opens(admin_client: Client, page: str) -> None:
    gpu = make_gpu()
    LatestReading.objects.create(gpu=gpu, recorded_at=NOW)
    GPUFault.objects.create(gpu=gpu, cause="xid", began_at=NOW, ended_at=NOW, held_back=True)
    NodeWatch.objects.create(listening_since=NOW, last_sweep_at=NOW)
    model = apps.get_model("clusters", page)
    assert admin_client.get(f"{PATH}/{page}/").status_code == 200
    assert admin_client.get(f"{PATH}/{page}/{model.objects.get().pk}/change/").status_code == 200
    assert admin_client.get(f"{PATH}/{page}/?q=1").status_code in (200, 302)


@pytest.mark.parametrize("page", ["node", "gpu", "gpustateperiod", "latestreading", "nodewatch"])
def test_what_machines_write_people_only_look_at(admin_client: Client, page: str) -> None:
    gpu = make_gpu()
    assert admin_client.get(f"{PATH}/{page}/add/").status_code == 403
    assert admin_client.post(f"{PATH}/gpu/{gpu.pk}/change/", {"state": "offline"}).status_code == 403
    assert admin_client.post(f"{PATH}/gpu/{gpu.pk}/delete/", {"post": "yes"}).status_code == 403


@pytest.mark.parametrize("page", ["node", "gpu", "gpustateperiod"])
def test_a_list_costs_the_same_however_long(
    admin_client: Client, page: str, django_assert_max_num_queries: Any
) -> None:
    for _ in range(5):
        make_gpu()
    with django_assert_max_num_queries(12):
        admin_client.get(f"{PATH}/{page}/")


def test_a_cluster_made_in_the_console_shows_its_key_once(admin_client: Client) -> None:
    answer = admin_client.post(f"{PATH}/cluster/add/", {"name": "north", "region": "eu"})
    assert answer.status_code == 200
    (raw,) = re.findall(r"gfk_[0-9A-Za-z]{49}", answer.content.decode())
    cluster = Cluster.objects.get()
    assert (cluster.name, cluster.region, cluster.key.created_by) == ("north", "eu", "user:admin")
    assert find_live_key(raw, now=cluster.created_at) == cluster.key
    assert raw not in admin_client.get(f"{PATH}/cluster/").content.decode()


def test_a_taken_name_is_a_message(admin_client: Client) -> None:
    make_cluster("north")
    answer = admin_client.post(f"{PATH}/cluster/add/", {"name": "north"}, follow=True)
    assert "already" in answer.content.decode()
    assert Cluster.objects.count() == 1


def test_maintenance_from_the_form_moves_the_ledger(admin_client: Client) -> None:
    gpu = make_gpu()
    cluster = gpu.node.cluster
    rules = {"on_node_loss": "fail", "preemption": "on", "preemption_grace_s": "30", "preemption_min_run_s": "0"}
    body = {"name": "renamed", "region": "", "status": "maintenance", **rules}
    admin_client.post(f"{PATH}/cluster/{cluster.pk}/change/", body)
    gpu.refresh_from_db()
    assert gpu.state == "maintenance"
    check_chain(gpu.pk)
    assert Cluster.objects.get(pk=cluster.pk).name == "renamed"


def test_decommissioning_ends_the_idle_and_names_the_busy(admin_client: Client) -> None:
    idle, busy = make_gpu().node.cluster, make_gpu().node.cluster
    hold(GPU.objects.get(node__cluster=busy))
    page = act(admin_client, "cluster", "decommission", idle.pk, busy.pk)
    assert "1 cluster is decommissioned." in page
    assert f"1 job runs on {busy.name}" in page
    assert set(Cluster.objects.filter(decommissioned_at=None)) == {busy}
    assert admin_client.post(f"{PATH}/cluster/{idle.pk}/change/", {"name": "x"}).status_code == 403
    assert admin_client.post(f"{PATH}/cluster/{idle.pk}/delete/", {"post": "yes"}).status_code == 403


def test_nodes_are_drained_stopped_and_resumed(admin_client: Client) -> None:
    nodes = [make_node(), make_node()]
    gpu = make_gpu(nodes[0])
    for action, status, state, said in [
        ("drain", "draining", "draining", "draining"),
        ("maintain", "maintenance", "maintenance", "in maintenance"),
        ("resume", "online", "available", "in service"),
    ]:
        assert f"2 nodes are now {said}." in act(admin_client, "node", action, *(node.pk for node in nodes))
        assert set(Node.objects.values_list("status", flat=True)) == {status}
        gpu.refresh_from_db()
        assert gpu.state == state
    check_chain(gpu.pk)


def test_gpus_are_marked(admin_client: Client) -> None:
    gpu, retired = make_gpu(), make_gpu(retired_at=NOW + timedelta(hours=1))
    assert "1 GPU is now marked unhealthy." in act(admin_client, "gpu", "mark_unhealthy", gpu.pk, retired.pk)
    gpu.refresh_from_db()
    assert (gpu.state, gpu.health_reason) == ("unhealthy", "dust (by user:admin)")
    act(admin_client, "gpu", "mark_healthy", gpu.pk)
    gpu.refresh_from_db()
    assert gpu.state == "available"


def test_gpus_are_retired_but_for_those_that_jobs_hold(admin_client: Client) -> None:
    gpu, held, gone = make_gpu(), make_gpu(), make_gpu(retired_at=NOW + timedelta(hours=1))
    job = hold(held)
    page = act(admin_client, "gpu", "retire", gpu.pk, held.pk, gone.pk)
    assert "1 GPU is retired." in page
    assert f"Job {job.pk} holds GPU {held.pk}; end it first." in page
    gpu.refresh_from_db()
    assert gpu.retired_reason == "dust (by user:admin)"
    check_chain(gpu.pk)
    assert set(GPU.objects.filter(retired_at=None)) == {held}
    entry = AuditEntry.objects.get(object_id=gpu.pk)
    assert (entry.action, entry.reason, entry.before["retired_at"]) == ("retire", "dust", None)
    assert entry.after is not None
    assert entry.after["retired_reason"] == gpu.retired_reason
    button = 'value="retire"'
    pages = [admin_client.get(f"{PATH}/gpu/{pk}/change/").content.decode() for pk in (held.pk, gone.pk)]
    assert [button in page for page in pages] == [True, False]
    assert ["until it was retired" in page for page in pages] == [False, True]


def test_who_marks_gpus_does_not_retire_them(client: Client) -> None:
    user = User.objects.create_user("olga", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_gpu", "change_gpu"]))
    client.force_login(user)
    gpu = make_gpu()
    form = {"action": "retire", "_selected_action": [gpu.pk], "agreed": "1", "reason": "because"}
    assert client.post(f"{PATH}/gpu/", form).status_code == 403
    gpu.refresh_from_db()
    assert gpu.retired_at is None


def test_who_may_only_look_is_refused_every_action(client: Client) -> None:
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_node", "view_gpu", "view_cluster"]))
    client.force_login(user)
    gpu = make_gpu()
    rows = (("node", "drain", gpu.node_id), ("gpu", "mark_unhealthy", gpu.pk))
    for model, action, pk in (*rows, ("cluster", "decommission", gpu.node.cluster_id)):
        form = {"action": action, "_selected_action": [pk], "agreed": "1", "reason": "because"}
        assert client.post(f"{PATH}/{model}/", form).status_code == 403
    gpu.refresh_from_db()
    assert (gpu.state, gpu.retired_at) == ("available", None)
