from datetime import timedelta

import pytest

from clusters import services
from clusters.models import GPU, GPUHealth
from clusters.tests.factories import NOW, make_cluster, make_gpu, make_node
from clusters.tests.ledger import check_chain, periods_of
from clusters.tests.threads import at_once
from gpufleet.common.errors import InvalidInput, NotFound

pytestmark = pytest.mark.django_db

LATER = NOW + timedelta(minutes=5)


def test_new_gpus_take_their_places_in_the_array() -> None:
    node = make_node()
    sent: list[services.GpuFields] = [
        {"model": "H100", "vram_mb": 81_559, "uuid": "GPU-a", "pci_bus_id": "00000000:1B:00.0"},
        {"gpu_index": 5, "model": "A100"},
        {},
    ]
    registration = services.register_gpus(node_id=node.pk, gpus=sent, now=NOW)
    assert registration.created == 3
    assert [(gpu.gpu_index, gpu.model, gpu.uuid) for gpu in registration.gpus] == [
        (0, "H100", "GPU-a"),
        (5, "A100", ""),
        (2, "", ""),
    ]
    for gpu in registration.gpus:
        assert periods_of(gpu) == [("available", NOW, None)]
        check_chain(gpu.pk)


@pytest.mark.parametrize(
    ("node", "cluster", "state"),
    [
        ({"intent": "draining", "intent_reason": "soon"}, {}, "draining"),
        ({"silent": True}, {}, "offline"),
        ({}, {"status": "maintenance"}, "maintenance"),
    ],
)
def test_a_new_gpu_starts_in_the_state_of_its_node(node: dict[str, str], cluster: dict[str, str], state: str) -> None:
    pk = make_node(make_cluster(**cluster), **node).pk
    (gpu,) = services.register_gpus(node_id=pk, gpus=[{}], now=NOW).gpus
    assert periods_of(gpu) == [(state, NOW, None)]


def test_the_same_message_again_changes_nothing() -> None:
    node = make_node()
    sent: list[services.GpuFields] = [{"uuid": "GPU-a", "model": "H100"}, {"model": "H100"}]
    first = services.register_gpus(node_id=node.pk, gpus=sent, now=NOW)
    again = services.register_gpus(node_id=node.pk, gpus=sent, now=LATER)
    assert again.created == 0
    assert [gpu.pk for gpu in again.gpus] == [gpu.pk for gpu in first.gpus]
    assert GPU.objects.count() == 2
    assert periods_of(first.gpus[0]) == [("available", NOW, None)]


def test_of_a_known_gpu_only_what_was_sent_is_updated() -> None:
    node = make_node()
    gpu = make_gpu(node, model="H100", vram_mb=81_559, uuid="", pci_bus_id="1B")
    services.register_gpus(node_id=node.pk, gpus=[{"uuid": "GPU-a", "vram_mb": 80_000}], now=LATER)
    gpu.refresh_from_db()
    assert (gpu.model, gpu.vram_mb, gpu.uuid, gpu.pci_bus_id) == ("H100", 80_000, "GPU-a", "1B")
    services.register_gpus(node_id=node.pk, gpus=[{"uuid": ""}], now=LATER)
    gpu.refresh_from_db()
    assert gpu.uuid == "GPU-a"


def test_another_device_in_the_slot_retires_the_old_one_with_its_history() -> None:
    node = make_node()
    old, neighbour = make_gpu(node, uuid="GPU-a"), make_gpu(node, uuid="GPU-n")
    registration = services.register_gpus(node_id=node.pk, gpus=[{"uuid": "GPU-b", "model": "H200"}], now=LATER)
    (new,) = registration.gpus
    assert (registration.created, new.gpu_index, new.model) == (1, 0, "H200")
    old.refresh_from_db()
    neighbour.refresh_from_db()
    assert (old.retired_at, neighbour.retired_at) == (LATER, None)
    assert periods_of(old) == [("available", NOW, LATER)]
    assert periods_of(new) == [("available", LATER, None)]


def test_two_devices_that_change_places_are_two_new_rows() -> None:
    node = make_node()
    make_gpu(node, uuid="GPU-a")
    make_gpu(node, uuid="GPU-b")
    registration = services.register_gpus(node_id=node.pk, gpus=[{"uuid": "GPU-b"}, {"uuid": "GPU-a"}], now=LATER)
    assert registration.created == 2
    assert GPU.objects.filter(retired_at=LATER).count() == 2


@pytest.mark.parametrize(
    "sent", [[{"gpu_index": 3, "uuid": "GPU-a"}], [{"gpu_index": 3, "uuid": "GPU-a"}, {"gpu_index": 0}]]
)
def test_a_device_that_is_named_in_another_slot_left_the_one_that_it_had(sent: list[services.GpuFields]) -> None:
    node = make_node()
    old, neighbour, unnamed = make_gpu(node, uuid="GPU-a"), make_gpu(node, uuid="GPU-b"), make_gpu(node, uuid="")
    services.register_gpus(node_id=node.pk, gpus=sent, now=LATER)
    old.refresh_from_db()
    assert old.retired_at == LATER
    in_service = GPU.objects.filter(node=node, retired_at=None)
    assert set(in_service.filter(uuid="GPU-a").values_list("gpu_index", flat=True)) == {3}
    assert {neighbour, unnamed} < set(in_service)


@pytest.mark.parametrize(
    ("sent", "problems"),
    [
        (
            [{"gpu_index": 1}, {}, {"gpu_index": 7}],
            [("#/gpus/0/gpu_index", "repeated_slot"), ("#/gpus/1/gpu_index", "repeated_slot")],
        ),
        (
            [{"uuid": "GPU-a"}, {"uuid": ""}, {"uuid": ""}, {"uuid": "GPU-a"}],
            [("#/gpus/0/uuid", "repeated_uuid"), ("#/gpus/3/uuid", "repeated_uuid")],
        ),
    ],
)
def test_a_slot_and_a_device_stand_once(sent: list[services.GpuFields], problems: list[tuple[str, str]]) -> None:
    node = make_node()
    with pytest.raises(InvalidInput) as caught:
        services.register_gpus(node_id=node.pk, gpus=sent, now=NOW)
    assert [(problem.pointer, problem.code) for problem in caught.value.problems] == problems
    assert not GPU.objects.exists()


def test_a_clusters_key_speaks_of_its_nodes_alone() -> None:
    own, foreign, gone = make_node(), make_node(), make_node(decommissioned_at=NOW)
    key = own.cluster.key_id
    assert services.register_gpus(node_id=own.pk, gpus=[{}], now=NOW, cluster_key_id=key).created == 1
    for node_id in (foreign.pk, gone.pk, 10**12):
        with pytest.raises(NotFound):
            services.register_gpus(node_id=node_id, gpus=[{}], now=NOW, cluster_key_id=key)


def test_an_operators_word_on_health() -> None:
    gpu = make_gpu()
    services.mark_health(gpu_id=gpu.pk, health=GPUHealth.UNHEALTHY, reason="coil whine", now=LATER)
    gpu.refresh_from_db()
    assert (gpu.state, gpu.health_cause, gpu.health_reason) == ("unhealthy", "operator", "coil whine")
    end = LATER + timedelta(minutes=1)
    services.mark_health(gpu_id=gpu.pk, health=GPUHealth.HEALTHY, reason="ignored", now=end)
    gpu.refresh_from_db()
    assert (gpu.state, gpu.health_cause, gpu.health_reason) == ("available", "", "")
    assert periods_of(gpu) == [("available", NOW, LATER), ("unhealthy", LATER, end), ("available", end, None)]


def test_a_retired_gpu_is_past_marking() -> None:
    gpu = make_gpu(retired_at=LATER)
    with pytest.raises(services.GpuRetired):
        services.mark_health(gpu_id=gpu.pk, health=GPUHealth.UNHEALTHY, reason="", now=LATER)
    with pytest.raises(NotFound):
        services.mark_health(gpu_id=gpu.pk + 1, health=GPUHealth.UNHEALTHY, reason="", now=LATER)
    assert services.mark_many(gpu_ids=[gpu.pk, make_gpu().pk], health=GPUHealth.UNHEALTHY, reason="", now=LATER) == 1


@pytest.mark.django_db(transaction=True)
def test_one_message_sent_many_times_at_once_makes_each_gpu_once() -> None:
    node = make_node()
    sent: list[services.GpuFields] = [{"uuid": f"GPU-{slot}"} for slot in range(8)]
    registrations = at_once(*[lambda: services.register_gpus(node_id=node.pk, gpus=sent, now=NOW)] * 5)
    assert sorted(registration.created for registration in registrations) == [0, 0, 0, 0, 8]
    assert GPU.objects.count() == 8


@pytest.mark.django_db(transaction=True)
def test_gpus_that_arrive_while_their_cluster_ends_are_retired_with_it_or_refused() -> None:
    for _ in range(5):
        cluster = make_cluster()
        node = make_node(cluster)

        def arrive(node_id: int = node.pk) -> str:
            try:
                return f"{services.register_gpus(node_id=node_id, gpus=[{}], now=LATER).created} new"
            except NotFound:
                return "refused"

        def end(cluster_id: int = cluster.pk) -> str:
            services.decommission_cluster(cluster_id=cluster_id, now=LATER)
            return "ended"

        at_once(arrive, end)
        assert not GPU.objects.filter(node=node, retired_at__isnull=True).exists()
