from datetime import timedelta

import pytest
from django.conf import LazySettings
from django.db import transaction

from clusters import services
from clusters.models import GPU, Node, NodeIntent, NodeWatch
from clusters.tests.factories import NOW, make_cluster, make_gpu, make_node
from clusters.tests.ledger import check_chain, periods_of
from clusters.tests.threads import at_once, in_thread
from gpufleet.common.errors import NotFound

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)
LATER = NOW + timedelta(minutes=5)


def test_a_new_node() -> None:
    cluster = make_cluster()
    fields: services.NodeFields = {"ip_address": "10.0.0.7", "total_gpus": 8, "cpu_cores": 96, "ram_gb": 1024}
    registration = services.register_node(cluster_id=cluster.pk, hostname="n1", fields=fields, now=NOW)
    assert registration.created
    node = Node.objects.get(pk=registration.node.pk)
    assert (node.cluster, node.hostname, node.ip_address, node.total_gpus) == (cluster, "n1", "10.0.0.7", 8)
    assert (node.cpu_cores, node.ram_gb, node.status) == (96, 1024, "online")
    assert node.created_at == node.last_heartbeat_at == NOW


def test_a_heartbeat_updates_only_what_was_sent() -> None:
    node = make_node(hostname="n1", ip_address="10.0.0.7", cpu_cores=96, ram_gb=1024, intent="draining")
    registration = services.register_node(
        cluster_id=node.cluster_id, hostname="n1", fields={"ram_gb": 2048, "cpu_cores": None}, now=LATER
    )
    assert (registration.created, registration.node.pk) == (False, node.pk)
    node.refresh_from_db()
    assert (node.ip_address, node.cpu_cores, node.ram_gb, node.total_gpus) == ("10.0.0.7", None, 2048, 8)
    assert (node.intent, node.last_heartbeat_at) == ("draining", LATER)


def test_a_late_heartbeat_does_not_turn_the_clock_back() -> None:
    node = make_node(hostname="n1")
    services.register_node(cluster_id=node.cluster_id, hostname="n1", fields={}, now=NOW - SECOND)
    node.refresh_from_db()
    assert node.last_heartbeat_at == NOW


def test_a_hostname_is_one_node_in_the_fleet() -> None:
    make_node(hostname="n1")
    with pytest.raises(services.HostnameTaken, match="n1"):
        services.register_node(cluster_id=make_cluster().pk, hostname="n1", fields={}, now=NOW)
    assert Node.objects.count() == 1


def test_a_clusters_key_speaks_of_its_cluster_alone() -> None:
    own, foreign, gone = make_cluster(), make_cluster(), make_cluster(decommissioned_at=NOW)
    key = own.key_id
    assert services.register_node(cluster_id=own.pk, hostname="a", fields={}, now=NOW, cluster_key_id=key).created
    for cluster_id in (foreign.pk, gone.pk, 10**12):
        with pytest.raises(NotFound):
            services.register_node(cluster_id=cluster_id, hostname="b", fields={}, now=NOW, cluster_key_id=key)


def test_draining_maintenance_and_back() -> None:
    node = make_node()
    gpu = make_gpu(node)
    for step, (intent, reason, state) in enumerate(
        [
            (NodeIntent.DRAINING, "new firmware", "draining"),
            (NodeIntent.MAINTENANCE, "board out", "maintenance"),
            (NodeIntent.ACTIVE, None, "available"),
        ],
        start=1,
    ):
        services.update_node(node_id=node.pk, intent=intent, reason=reason, now=NOW + step * SECOND)
        node.refresh_from_db()
        gpu.refresh_from_db()
        assert (node.intent, node.intent_reason, gpu.state) == (intent, reason or "", state)
    assert [state for state, _, _ in periods_of(gpu)] == ["available", "draining", "maintenance", "available"]


def test_a_reason_alone_leaves_the_intent() -> None:
    node = make_node(intent="draining", intent_reason="old")
    services.update_node(node_id=node.pk, reason="new", now=LATER)
    node.refresh_from_db()
    assert (node.intent, node.intent_reason) == ("draining", "new")


def test_a_node_out_of_service_is_not_there() -> None:
    node = make_node(decommissioned_at=NOW)
    with pytest.raises(NotFound):
        services.update_node(node_id=node.pk, intent=NodeIntent.DRAINING, now=LATER)


def test_many_nodes_turn_at_once() -> None:
    nodes = [make_node(), make_node(), make_node(decommissioned_at=NOW)]
    ids = [node.pk for node in nodes]
    assert services.turn_nodes(node_ids=ids, intent=NodeIntent.DRAINING, reason="by hand", now=LATER) == 2
    assert set(Node.objects.values_list("intent", flat=True)) == {"draining", "active"}


def test_silence_takes_the_gpus_offline_from_the_last_heartbeat_on(settings: LazySettings) -> None:
    settings.NODE_SILENT_AFTER_SECONDS = 90
    beat = NOW + timedelta(seconds=10)
    node, fresh = make_node(last_heartbeat_at=beat), make_node(last_heartbeat_at=beat + SECOND)
    gpu, other = make_gpu(node), make_gpu(fresh)
    assert services.sweep_silent_nodes(now=beat + timedelta(seconds=90)) == 0
    assert services.sweep_silent_nodes(now=beat + timedelta(seconds=91)) == 1
    node.refresh_from_db()
    assert (node.silent, node.status) == (True, "offline")
    assert periods_of(gpu) == [("available", NOW, beat), ("offline", beat, None)]
    assert periods_of(other) == [("available", NOW, None)]
    assert services.sweep_silent_nodes(now=beat + timedelta(seconds=91)) == 0


def test_a_silent_node_in_maintenance_shows_once_it_is_resumed() -> None:
    node = make_node(intent="maintenance")
    gpu = make_gpu(node)
    services.sweep_silent_nodes(now=LATER)
    node.refresh_from_db()
    assert (node.silent, node.status) == (True, "maintenance")
    assert periods_of(gpu) == [("maintenance", NOW, None)]
    services.update_node(node_id=node.pk, intent=NodeIntent.ACTIVE, now=LATER)
    assert periods_of(gpu) == [("maintenance", NOW, LATER), ("offline", LATER, None)]


def test_a_heartbeat_brings_a_silent_node_back() -> None:
    node = make_node(hostname="n1")
    gpu = make_gpu(node)
    services.sweep_silent_nodes(now=LATER)
    back = LATER + SECOND
    services.register_node(cluster_id=node.cluster_id, hostname="n1", fields={}, now=back)
    node.refresh_from_db()
    assert (node.silent, node.status) == (False, "online")
    # It made no sound between registration and return, so it was never available in between.
    assert periods_of(gpu) == [("offline", NOW, back), ("available", back, None)]


def test_nodes_out_of_service_fall_silent_unheard() -> None:
    make_node(decommissioned_at=NOW)
    assert services.sweep_silent_nodes(now=LATER) == 0


def test_after_a_pause_of_our_own_every_node_gets_its_time_to_speak(settings: LazySettings) -> None:
    settings.NODE_SILENT_AFTER_SECONDS = 90
    make_node()
    services.sweep_silent_nodes(now=NOW)
    up_again = NOW + timedelta(hours=1)
    for seconds in (0, 15, 30, 45, 60, 75, 89):
        assert services.sweep_silent_nodes(now=up_again + seconds * SECOND) == 0
    assert services.sweep_silent_nodes(now=up_again + 90 * SECOND) == 1
    assert NodeWatch.objects.get().listening_since == up_again


@pytest.mark.django_db(transaction=True)
def test_a_node_that_is_beating_right_now_is_left_out_of_the_sweep() -> None:
    make_node(hostname="beating")
    silent = make_node(hostname="silent")
    with transaction.atomic():
        Node.objects.select_for_update().get(hostname="beating")
        assert in_thread(lambda: services.sweep_silent_nodes(now=LATER)) == 1
    assert list(Node.objects.filter(silent=True)) == [silent]


@pytest.mark.django_db(transaction=True)
def test_two_agents_that_register_one_hostname_make_one_node() -> None:
    cluster = make_cluster()
    registrations = at_once(
        *[lambda: services.register_node(cluster_id=cluster.pk, hostname="n1", fields={}, now=NOW)] * 6
    )
    assert [registration.created for registration in registrations].count(True) == 1
    assert {registration.node.pk for registration in registrations} == {Node.objects.get().pk}


@pytest.mark.django_db(transaction=True)
def test_two_clusters_that_register_one_hostname_at_once() -> None:
    clusters = [make_cluster() for _ in range(4)]

    def register(cluster_id: int) -> bool:
        try:
            return services.register_node(cluster_id=cluster_id, hostname="n1", fields={}, now=NOW).created
        except services.HostnameTaken:
            return False

    outcomes = at_once(*[lambda pk=cluster.pk: register(pk) for cluster in clusters])
    assert outcomes.count(True) == 1
    assert Node.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_whatever_happens_at_once_the_states_agree_with_their_causes() -> None:
    cluster = make_cluster()
    nodes = [make_node(cluster) for _ in range(3)]
    ids = [node.pk for node in nodes]
    for node in nodes:
        make_gpu(node)

    for turn in range(1, 6):
        now = NOW + turn * timedelta(minutes=10)
        at_once(
            lambda now=now: services.update_cluster(  # type: ignore[misc]
                cluster_id=cluster.pk, changes={"status": "maintenance"}, now=now
            ),
            lambda now=now: services.turn_nodes(node_ids=ids, intent=NodeIntent.DRAINING, now=now),  # type: ignore[misc]
            lambda now=now: services.sweep_silent_nodes(now=now),  # type: ignore[misc]
            *[
                lambda now=now, pk=pk, turn=turn: services.register_gpus(
                    node_id=pk, gpus=[{"gpu_index": turn}], now=now
                )
                for pk in ids
            ],
        )
        for gpu in GPU.objects.all():
            check_chain(gpu.pk)
        services.update_cluster(cluster_id=cluster.pk, changes={"status": "active"}, now=now)
        for node in nodes:
            services.register_node(cluster_id=cluster.pk, hostname=node.hostname, fields={}, now=now)
        services.turn_nodes(node_ids=ids, intent=NodeIntent.ACTIVE, now=now)
    assert set(GPU.objects.values_list("state", flat=True)) == {"available"}
