from datetime import timedelta

import pytest

from apikeys.models import KeyKind
from apikeys.queries import find_live_key
from clusters import services
from clusters.models import GPU, Cluster, Node
from clusters.tests.factories import NOW, hold, make_cluster, make_cluster_and_key, make_gpu, make_node
from clusters.tests.ledger import check_chain, periods_of
from clusters.tests.threads import after
from gpufleet.common.errors import NotFound
from gpufleet.common.locks import lock_scheduler
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db

LATER = NOW + timedelta(minutes=5)


def test_a_cluster_comes_with_a_key_that_only_reports() -> None:
    created = services.create_cluster(name="north", region="eu", actor="key:1", now=NOW)
    key = find_live_key(created.api_key, now=NOW)
    assert key is not None
    assert created.cluster.key == key
    assert (key.kind, key.permissions, key.tenant, key.created_by) == (KeyKind.CLUSTER, ["write"], None, "key:1")
    assert (created.cluster.name, created.cluster.region, created.cluster.status) == ("north", "eu", "active")


def test_a_long_name_still_fits_the_keys_label() -> None:
    assert services.create_cluster(name="n" * 200, actor="test", now=NOW).cluster.name == "n" * 200


def test_a_taken_name_is_refused_and_leaves_no_key() -> None:
    cluster = make_cluster("north")
    with pytest.raises(services.ClusterNameTaken, match="'north'"):
        services.create_cluster(name="north", actor="test", now=NOW)
    assert list(Cluster.objects.all()) == [cluster]
    with pytest.raises(services.ClusterNameTaken):
        services.update_cluster(cluster_id=make_cluster("south").pk, changes={"name": "north"}, now=NOW)


def test_maintenance_of_the_cluster_is_maintenance_of_its_gpus() -> None:
    cluster = make_cluster()
    gpu, elsewhere = make_gpu(make_node(cluster)), make_gpu()
    services.update_cluster(cluster_id=cluster.pk, changes={"status": "maintenance"}, now=LATER)
    assert periods_of(gpu) == [("available", NOW, LATER), ("maintenance", LATER, None)]
    assert periods_of(elsewhere) == [("available", NOW, None)]
    end = LATER + timedelta(minutes=1)
    services.update_cluster(cluster_id=cluster.pk, changes={"status": "active", "name": "renamed"}, now=end)
    assert periods_of(gpu)[-1] == ("available", end, None)
    assert Cluster.objects.get(pk=cluster.pk).name == "renamed"


def test_a_cluster_that_is_not_there_can_neither_change_nor_end() -> None:
    gone = make_cluster(decommissioned_at=NOW)
    for cluster_id in (gone.pk, gone.pk + 1):
        with pytest.raises(NotFound):
            services.update_cluster(cluster_id=cluster_id, changes={"name": "x"}, now=NOW)
        with pytest.raises(NotFound):
            services.decommission_cluster(cluster_id=cluster_id, now=NOW)


def test_a_cluster_with_a_running_job_stays_and_says_how_many() -> None:
    cluster, raw = make_cluster_and_key()
    gpu = make_gpu(make_node(cluster))
    hold(gpu, alice())
    with pytest.raises(services.ClusterBusy) as caught:
        services.decommission_cluster(cluster_id=cluster.pk, now=LATER)
    assert caught.value.data == {"running_jobs": 1}
    gpu.refresh_from_db()
    cluster.refresh_from_db()
    assert gpu.retired_at is None
    assert cluster.decommissioned_at is None
    assert find_live_key(raw, now=LATER) is not None


def test_decommissioning_ends_the_hardware_and_the_key_and_frees_the_names() -> None:
    cluster, raw = make_cluster_and_key("north")
    node = make_node(cluster, "n1", last_heartbeat_at=NOW)
    gpu, elsewhere = make_gpu(node), make_gpu()
    services.decommission_cluster(cluster_id=cluster.pk, now=LATER)
    gpu = GPU.objects.get(pk=gpu.pk)
    assert gpu.retired_at == LATER
    assert periods_of(gpu) == [("available", NOW, LATER)]
    check_chain(elsewhere.pk)
    assert GPU.objects.get(pk=elsewhere.pk).retired_at is None
    assert Node.objects.get(pk=node.pk).decommissioned_at == LATER
    assert find_live_key(raw, now=LATER) is None
    again = services.create_cluster(name="north", actor="test", now=LATER).cluster
    assert services.register_node(cluster_id=again.pk, hostname="n1", fields={}, now=LATER).created


@pytest.mark.django_db(transaction=True)
def test_a_node_that_registers_while_its_cluster_ends_is_refused() -> None:
    cluster = make_cluster()
    with pytest.raises(NotFound):
        after(
            lambda: services.decommission_cluster(cluster_id=cluster.pk, now=LATER),
            lambda: services.register_node(cluster_id=cluster.pk, hostname="n1", fields={}, now=LATER),
        )
    assert not Node.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_cluster_ends_between_two_ticks() -> None:
    cluster = make_cluster()
    ended = after(lock_scheduler, lambda: services.decommission_cluster(cluster_id=cluster.pk, now=LATER))
    assert ended.decommissioned_at == LATER
