"""The end of a single GPU: a person retires it, or its card turns up elsewhere."""

from concurrent.futures import ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.db import transaction

from clusters import services
from clusters.models import GPU, Cluster, GPUFault, GPUHealth, Node
from clusters.tests.factories import NOW, hold, make_cluster, make_gpu, make_node
from clusters.tests.ledger import check_chain, periods_of
from clusters.tests.threads import after, at_once, in_thread
from gpufleet.common.errors import NotFound
from gpufleet.common.locks import lock_rows
from tenants.tests.factories import alice

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)
LATER = NOW + 5 * MINUTE


def retire(gpu: GPU, now: datetime = LATER) -> bool:
    return services.retire_gpu(gpu_id=gpu.pk, reason="sold", actor="key:1", now=now)


def register(node: Node, *uuids: str, now: datetime = LATER, key: int | None = None) -> list[GPU]:
    sent: list[services.GpuFields] = [{"uuid": uuid} for uuid in uuids]
    return services.register_gpus(node_id=node.pk, gpus=sent, now=now, cluster_key_id=key).gpus


def in_service(uuid: str) -> GPU:
    return GPU.objects.get(uuid=uuid, retired_at=None)


def test_a_retired_gpus_time_ends_and_its_history_stays() -> None:
    node = make_node()
    gpu, neighbour = make_gpu(node), make_gpu(node)
    services.mark_health(gpu_id=gpu.pk, health=GPUHealth.UNHEALTHY, reason="dead", now=NOW + MINUTE)
    assert retire(gpu)
    gpu.refresh_from_db()
    assert (gpu.retired_at, gpu.retired_reason) == (LATER, "sold (by key:1)")
    assert periods_of(gpu) == [("available", NOW, NOW + MINUTE), ("unhealthy", NOW + MINUTE, LATER)]
    neighbour.refresh_from_db()
    assert neighbour.retired_at is None


def test_a_gpu_is_retired_once() -> None:
    gpu = make_gpu()
    assert [retire(gpu), retire(gpu, LATER + MINUTE)] == [True, False]
    gpu.refresh_from_db()
    assert gpu.retired_at == LATER
    with pytest.raises(NotFound):
        services.retire_gpu(gpu_id=gpu.pk + 1, reason="sold", actor="key:1", now=LATER)


def test_a_gpu_that_a_job_holds_stays() -> None:
    gpu = make_gpu()
    job = hold(gpu, alice())
    with pytest.raises(services.GpuBusy, match="end it first") as caught:
        retire(gpu)
    assert caught.value.data == {"job_id": job.pk}
    gpu.refresh_from_db()
    assert gpu.retired_at is None
    check_chain(gpu.pk)


def test_what_made_it_vanish_is_over_and_what_an_operator_ends_is_not() -> None:
    node = make_node(total_gpus=1)
    gone, broken = make_gpu(node, 1, uuid="GPU-gone"), make_gpu(uuid="GPU-broken")
    register(node, "GPU-a", now=NOW + MINUTE)
    services.mark_health(gpu_id=broken.pk, health=GPUHealth.UNHEALTHY, reason="dead", now=NOW + MINUTE)
    for gpu in (gone, broken):
        retire(gpu)
    ends = dict(GPUFault.objects.values_list("cause", "ended_at"))
    assert ends == {"vanished": LATER, "operator": None}


def test_a_retired_card_that_is_registered_again_begins_anew_with_its_fault() -> None:
    node = make_node()
    well, ill = register(node, "GPU-well", "GPU-ill", now=NOW)
    services.mark_health(gpu_id=ill.pk, health=GPUHealth.UNHEALTHY, reason="dead", now=NOW + MINUTE)
    for gpu in (well, ill):
        retire(gpu)
    again = register(node, "GPU-well", "GPU-ill", now=LATER + MINUTE)
    assert {gpu.pk for gpu in again}.isdisjoint({well.pk, ill.pk})
    assert [periods_of(gpu) for gpu in again] == [
        [("available", LATER + MINUTE, None)],
        [("unhealthy", LATER + MINUTE, None)],
    ]


@pytest.mark.django_db(transaction=True)
def test_a_job_that_starts_just_before_keeps_the_gpu() -> None:
    gpu, tenant = make_gpu(), alice()

    def start() -> None:
        lock_rows(GPU.objects.all(), [gpu.pk])
        hold(gpu, tenant)

    with pytest.raises(services.GpuBusy):
        after(start, lambda: retire(gpu))
    assert GPU.objects.get().retired_at is None


@pytest.mark.django_db(transaction=True)
def test_a_gpu_and_its_cluster_end_in_the_same_moment() -> None:
    gpu = make_gpu()
    cluster_id = gpu.node.cluster_id
    assert not after(lambda: services.decommission_cluster(cluster_id=cluster_id, now=LATER), lambda: retire(gpu))
    gpu.refresh_from_db()
    assert (gpu.retired_at, gpu.retired_reason) == (LATER, "The cluster was decommissioned.")


@pytest.mark.django_db(transaction=True)
def test_whoever_retires_a_gpu_waits_for_its_cluster_first_and_is_in_nobodys_way() -> None:
    gpu = make_gpu()
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            lock_rows(Cluster.objects.all(), [gpu.node.cluster_id], alone=True)
            retired = pool.submit(in_thread, lambda: retire(gpu))
            assert not wait([retired], timeout=0.5).done
            assert GPU.objects.select_for_update(nowait=True).get() == gpu
        assert retired.result()


def test_a_card_that_another_node_of_the_cluster_registers_has_left_the_old_one() -> None:
    cluster = make_cluster()
    old, new = make_node(cluster), make_node(cluster)
    moved, neighbour = register(old, "GPU-x", "GPU-n", now=NOW)
    (there,) = register(new, "GPU-x", key=cluster.key_id)
    moved.refresh_from_db()
    assert periods_of(moved) == [("available", NOW, LATER)]
    assert moved.retired_reason == "Its card was registered on another node of the cluster."
    assert periods_of(there) == [("available", LATER, None)]
    assert in_service("GPU-n") == neighbour
    (back,) = register(old, "GPU-x", now=LATER + MINUTE)
    assert in_service("GPU-x") == back
    assert periods_of(there) == [("available", LATER, LATER + MINUTE)]


def test_a_slot_without_a_uuid_that_gets_one_takes_the_card_from_where_it_was() -> None:
    cluster = make_cluster()
    (moved,) = register(make_node(cluster), "GPU-x", now=NOW)
    unnamed = make_gpu(make_node(cluster), uuid="")
    assert register(unnamed.node, "GPU-x") == [unnamed]
    assert in_service("GPU-x") == unnamed
    moved.refresh_from_db()
    assert moved.retired_at == LATER


def test_the_fault_of_a_card_goes_with_it() -> None:
    cluster = make_cluster()
    (moved,) = register(make_node(cluster), "GPU-x", now=NOW)
    services.mark_health(gpu_id=moved.pk, health=GPUHealth.UNHEALTHY, reason="dead", now=NOW + MINUTE)
    (there,) = register(make_node(cluster), "GPU-x")
    assert list(GPUFault.objects.order_by("pk").values_list("gpu", "began_at", "ended_at")) == [
        (moved.pk, NOW + MINUTE, LATER),
        (there.pk, LATER, None),
    ]


def test_gpus_without_a_uuid_are_nobodys_double() -> None:
    cluster = make_cluster()
    register(make_node(cluster), "", now=NOW)
    register(make_node(cluster), "")
    assert GPU.objects.filter(retired_at=None).count() == 2


@pytest.mark.parametrize("with_key", [True, False])
def test_another_cluster_retires_nothing_and_the_log_names_both(with_key: bool, caplog: Any) -> None:
    (gpu,) = register(make_node(), "GPU-x", now=NOW)
    foreign = make_node()
    register(foreign, "GPU-x", key=foreign.cluster.key_id if with_key else None)
    gpu.refresh_from_db()
    assert gpu.retired_at is None
    assert GPU.objects.filter(uuid="GPU-x", retired_at=None).count() == 2
    (told,) = [record.msg for record in caplog.records if "two clusters" in str(record.msg)]
    assert (told["node_id"], told["elsewhere"]) == (foreign.pk, {gpu.pk: "GPU-x"})


@pytest.mark.parametrize("ended_by", ["move", "person"])
def test_the_clock_of_another_process_does_not_count_a_second_twice(ended_by: str) -> None:
    """The one that took the card away runs three seconds ahead."""
    cluster = make_cluster()
    (gpu,) = register(make_node(cluster), "GPU-x", now=NOW)
    if ended_by == "person":
        retire(gpu, LATER + timedelta(seconds=3))
    else:
        services.update_cluster(
            cluster_id=cluster.pk, changes={"status": "maintenance"}, now=LATER + timedelta(seconds=3)
        )
    register(make_node(cluster), "GPU-x", now=LATER)
    rows = GPU.objects.filter(uuid="GPU-x").order_by("registered_at")
    assert [(one.retired_at, two.registered_at) for one, two in pairwise(rows)] == [
        (LATER + timedelta(seconds=3), LATER + timedelta(seconds=3))
    ]


@pytest.mark.django_db(transaction=True)
def test_two_nodes_that_name_one_card_at_once_have_it_one_after_the_other() -> None:
    cluster = make_cluster()
    nodes = [make_node(cluster) for _ in range(4)]
    for step in range(5):
        now = LATER + step * MINUTE
        at_once(*[lambda node=node, now=now: register(node, "GPU-x", "GPU-y", now=now) for node in nodes])
        for uuid in ("GPU-x", "GPU-y"):
            assert in_service(uuid)
    for gpu in GPU.objects.all():
        check_chain(gpu.pk)
