from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from rest_framework.test import APIClient

from clusters import services
from clusters.models import GPU, GPUFault, GPUHealth, Node
from clusters.tests.factories import NOW, make_gpu, make_node, make_sample
from clusters.tests.ledger import periods_of
from gpufleet.common.errors import InvalidInput

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


def report(*gpus: GPU, at: Any = NOW, **figures: Any) -> None:
    services.record_samples(samples=[make_sample(gpu, at, **figures) for gpu in gpus], now=at)


def mark(gpu: GPU, health: str, *, now: Any, fault_id: int | None = None) -> None:
    services.mark_health(gpu_id=gpu.pk, health=GPUHealth(health), reason="", now=now, fault_id=fault_id)


def faults(gpu: GPU) -> list[Any]:
    return list(gpu.faults.order_by("pk").values_list("cause", "began_at", "ended_at", "held_back"))


def register(node: Any, slots: Any, now: Any, uuid: str = "") -> None:
    services.register_gpus(node_id=node.pk, gpus=[{"gpu_index": slot, "uuid": uuid} for slot in slots], now=now)


def test_a_fault_is_a_session_with_a_period_in_the_ledger() -> None:
    gpu = make_gpu()
    report(gpu, at=NOW + MINUTE, xid=79)
    mark(gpu, "healthy", now=NOW + 2 * MINUTE)
    assert faults(gpu) == [("xid", NOW + MINUTE, NOW + 2 * MINUTE, False)]
    assert [state for state, *_ in periods_of(gpu)] == ["available", "unhealthy", "available"]


def test_an_old_recovery_does_not_end_a_new_fault() -> None:
    gpu = make_gpu()
    report(gpu, at=NOW + MINUTE, xid=79)
    old = GPUFault.objects.get()
    mark(gpu, "healthy", now=NOW + 2 * MINUTE, fault_id=old.pk)
    report(gpu, at=NOW + 3 * MINUTE, xid=95)
    with pytest.raises(services.FaultIsOver):
        mark(gpu, "healthy", now=NOW + 4 * MINUTE, fault_id=old.pk)
    gpu.refresh_from_db()
    assert (gpu.health, gpu.health_cause) == ("unhealthy", "xid")
    mark(gpu, "healthy", now=NOW + 4 * MINUTE, fault_id=GPUFault.objects.get(ended_at=None).pk)
    gpu.refresh_from_db()
    assert gpu.health == "healthy"


def test_another_gpus_fault_is_not_this_ones() -> None:
    one, other = make_gpu(), make_gpu()
    report(one, other, xid=79)
    with pytest.raises(services.FaultIsOver):
        mark(one, "healthy", now=NOW, fault_id=other.faults.get().pk)


def test_the_api_names_the_fault_and_takes_its_number(charlie: APIClient) -> None:
    gpu = make_gpu()
    report(gpu, xid=79)
    path = f"/api/clusters/gpus/{gpu.pk}"
    fault = charlie.get(path).json()["fault"]
    assert (fault["cause"], fault["reason"]) == ("xid", "XID 79: GPU has fallen off the bus.")
    stale = charlie.patch(path, {"health": "healthy", "fault_id": fault["id"] + 1})
    assert (stale.status_code, stale.json()["type"]) == (409, "urn:gpufleet:problem:fault_is_over")
    assert charlie.patch(path, {"health": "healthy", "fault_id": fault["id"]}).json()["fault"] is None


def test_a_worse_cause_is_a_session_of_its_own() -> None:
    gpu = make_gpu()
    for minute in range(3):
        report(gpu, at=NOW + minute * MINUTE, temperature_c=95)
    report(gpu, at=NOW + 3 * MINUTE, xid=79, temperature_c=50)
    assert [(cause, ended) for cause, _, ended, _ in faults(gpu)] == [("temperature", NOW + 3 * MINUTE), ("xid", None)]


def test_a_gpu_that_a_whole_registration_leaves_out_has_vanished_until_it_is_named_again() -> None:
    node = make_node(total_gpus=3)
    gpus = [make_gpu(node) for _ in range(4)]
    register(node, [0, 1], NOW + MINUTE)
    assert not GPUFault.objects.exists()  # Two of three: it is about these two.
    register(node, [0, 1, 2], NOW + MINUTE)
    gpus[3].refresh_from_db()
    assert (gpus[3].state, gpus[3].health_cause) == ("unhealthy", "vanished")
    register(node, [3], NOW + 2 * MINUTE)
    gpus[3].refresh_from_db()
    assert gpus[3].state == "available"
    assert faults(gpus[3]) == [("vanished", NOW + MINUTE, NOW + 2 * MINUTE, False)]
    assert GPUFault.objects.count() == 1


def test_a_node_that_has_none_left_says_so_and_one_that_has_some_may_not() -> None:
    node = make_node(total_gpus=2)
    gpus = [make_gpu(node), make_gpu(node)]
    with pytest.raises(InvalidInput) as refusal:
        register(node, [], NOW + MINUTE)
    assert [(one.pointer, one.code) for one in refusal.value.problems] == [("#/gpus", "min_length")]
    assert "says that it has 2" in refusal.value.problems[0].detail
    assert not GPUFault.objects.exists()
    Node.objects.update(total_gpus=0)
    register(node, [], NOW + MINUTE)
    assert set(GPU.objects.values_list("state", "health_cause")) == {("unhealthy", "vanished")}
    register(node, [gpus[0].gpu_index], NOW + 2 * MINUTE)  # It never said that this is all, so it is about this one.
    assert [faults(gpu)[0][2] for gpu in gpus] == [NOW + 2 * MINUTE, None]


def test_what_vanished_for_another_reason_stays_what_it_is() -> None:
    node = make_node(total_gpus=1)
    gpu, ill = make_gpu(node), make_gpu(node)
    report(ill, xid=79)
    register(node, [gpu.gpu_index], NOW + MINUTE)
    register(node, [gpu.gpu_index, ill.gpu_index], NOW + 2 * MINUTE)
    assert faults(ill) == [("xid", NOW, None, False)]


def test_the_breaker_keeps_the_rest_of_the_fleet_in_service(settings: LazySettings) -> None:
    settings.QUARANTINE_MAX_SHARE = 0.5
    gpus = [make_gpu(make_node()) for _ in range(20)]
    report(*gpus[:7], xid=79)
    report(*gpus[7:], at=NOW + MINUTE, xid=79)
    assert GPU.objects.filter(health="unhealthy").count() == 10
    assert set(GPUFault.objects.filter(held_back=True).values_list("gpu_id", flat=True)) == {
        gpu.pk for gpu in gpus[10:]
    }
    mark(gpus[19], "unhealthy", now=NOW + 2 * MINUTE)  # A person's word is always taken.
    assert GPU.objects.filter(health="unhealthy").count() == 11


@pytest.mark.parametrize("but", ["retired", "operator"])
def test_the_breaker_counts_whom_readings_took_and_who_is_in_service(settings: LazySettings, but: str) -> None:
    settings.QUARANTINE_MAX_SHARE = 0.0
    gpus = [make_gpu(make_node()) for _ in range(9)]
    report(*gpus[:8], xid=79)
    change: dict[str, Any] = {"retired_at": NOW} if but == "retired" else {"health_cause": "operator"}
    GPU.objects.filter(pk=gpus[0].pk).update(**change)
    report(gpus[8], xid=79)
    assert faults(gpus[8]) == [("xid", NOW, None, False)]


def test_a_worse_cause_of_a_gpu_that_is_out_is_not_held_back(settings: LazySettings) -> None:
    settings.QUARANTINE_MAX_SHARE = 0.0
    gpus = [make_gpu(make_node()) for _ in range(8)]
    for minute in range(3):
        report(*gpus, at=NOW + minute * MINUTE, temperature_c=95)
    report(gpus[0], at=NOW + 3 * MINUTE, xid=79)
    assert faults(gpus[0])[1:] == [("xid", NOW + 3 * MINUTE, None, False)]


def test_a_node_that_never_said_how_many_it_has_leaves_nobody_out() -> None:
    node = make_node(total_gpus=0)
    _, other = make_gpu(node), make_gpu(node)
    register(node, [0], NOW + MINUTE)
    other.refresh_from_db()
    assert other.health == "healthy"


def test_what_is_held_back_is_told_once_an_hour_and_done_once_it_may_be(settings: LazySettings) -> None:
    settings.QUARANTINE_MAX_SHARE = 0.0
    gpus = [make_gpu(make_node()) for _ in range(9)]
    report(*gpus[:8], xid=79)
    for minute in range(64):
        report(gpus[8], at=NOW + minute * MINUTE, temperature_c=95)
    first, again = NOW + 2 * MINUTE, NOW + 62 * MINUTE
    assert faults(gpus[8]) == [("temperature", first, first, True), ("temperature", again, again, True)]
    report(gpus[8], at=NOW + 64 * MINUTE, xid=79, temperature_c=95)  # Another cause is news.
    assert faults(gpus[8])[2:] == [("xid", NOW + 64 * MINUTE, NOW + 64 * MINUTE, True)]
    mark(gpus[0], "healthy", now=NOW + 64 * MINUTE)
    report(gpus[8], at=NOW + 65 * MINUTE, xid=79, temperature_c=95)
    assert faults(gpus[8])[3:] == [("temperature", NOW + 65 * MINUTE, None, False)]


def test_what_is_held_back_is_told_again_where_it_is_another_thing(settings: LazySettings) -> None:
    """Another cause, another XID, and what comes after a session that was not held back."""
    node = make_node(total_gpus=1)
    gpus = [make_gpu(make_node()) for _ in range(8)]
    _, gpu = make_gpu(node), make_gpu(node)
    for minute in range(3):
        report(gpu, at=NOW + minute * MINUTE, temperature_c=95)
    mark(gpu, "healthy", now=NOW + 2 * MINUTE)
    settings.QUARANTINE_MAX_SHARE = 0.0
    report(*gpus, xid=79)
    report(gpu, at=NOW + 3 * MINUTE, temperature_c=95)
    register(node, [0], NOW + 4 * MINUTE)
    for minute, xid in ((5, 79), (6, None), (7, 79)):
        report(gpu, at=NOW + minute * MINUTE, xid=xid)
    assert [(cause, began, held) for cause, began, _, held in faults(gpu)] == [
        ("temperature", NOW + 2 * MINUTE, False),
        ("temperature", NOW + 3 * MINUTE, True),
        ("vanished", NOW + 4 * MINUTE, True),
        ("xid", NOW + 5 * MINUTE, True),
        ("xid", NOW + 7 * MINUTE, True),
    ]


def test_a_registration_that_leaves_out_what_is_held_back_tells_it_once(settings: LazySettings) -> None:
    settings.QUARANTINE_MAX_SHARE = 0.0
    report(*[make_gpu(make_node()) for _ in range(8)], xid=79)
    node = make_node(total_gpus=1)
    gone = [make_gpu(node), make_gpu(node)][1]
    for minute in range(3):
        register(node, [0], NOW + minute * MINUTE)
    assert faults(gone) == [("vanished", NOW, NOW, True)]


@pytest.mark.parametrize("cause", ["xid", "memory", "operator"])
def test_a_card_keeps_its_fault_wherever_it_is_put_until_an_operator_ends_it(cause: str) -> None:
    first, second, third = (make_node(total_gpus=1) for _ in range(3))
    old = make_gpu(first, uuid="GPU-x", health="unhealthy", health_cause=cause, health_reason="Broken.")
    GPUFault.objects.create(gpu=old, cause=cause, reason="Broken.", began_at=NOW)
    register(first, [0], NOW + MINUTE, uuid="GPU-y")
    register(second, [0], NOW + 2 * MINUTE, uuid="GPU-x")
    moved = GPU.objects.get(node=second)
    assert periods_of(moved) == [("unhealthy", NOW + 2 * MINUTE, None)]
    assert (moved.health_cause, moved.health_reason) == (cause, "Broken.")
    assert faults(old) == [(cause, NOW, NOW + 2 * MINUTE, False)]
    mark(moved, "healthy", now=NOW + 3 * MINUTE)
    register(third, [0], NOW + 4 * MINUTE, uuid="GPU-x")
    assert GPU.objects.get(node=third).state == "available"
    assert GPU.objects.get(node=first, retired_at=None).state == "available"


@pytest.mark.parametrize("cause", ["temperature", "vanished"])
def test_what_passes_by_itself_stays_where_the_card_was(cause: str) -> None:
    old = make_gpu(make_node(), uuid="GPU-x", health="unhealthy", health_cause=cause)
    GPUFault.objects.create(gpu=old, cause=cause, began_at=NOW)
    node = make_node()
    register(node, [0], NOW + MINUTE, uuid="GPU-x")
    assert GPU.objects.get(node=node).health == "healthy"
    assert faults(old) == [(cause, NOW, None, False)]


def test_another_card_in_the_slot_starts_its_own_history() -> None:
    node = make_node(total_gpus=1)
    old = make_gpu(node, uuid="GPU-old")
    report(old, xid=79)
    register(node, [0], NOW + MINUTE, uuid="GPU-new")
    new = GPU.objects.get(retired_at=None)
    assert (new.pk != old.pk, new.health, new.state, faults(new)) == (True, "healthy", "available", [])
