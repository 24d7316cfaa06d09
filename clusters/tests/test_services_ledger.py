from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusters import services
from clusters.models import GPU, GPUHealth, GPUStatePeriod, Node, NodeWatch
from clusters.services.ledger import refresh_gpu_states, retire_gpus
from clusters.telemetry import Sample
from clusters.tests.factories import NOW, make_cluster, make_gpu, make_node
from clusters.tests.ledger import check_cards, check_chain, periods_of

pytestmark = pytest.mark.django_db

LATER = NOW + timedelta(minutes=5)


def everything() -> Any:
    return GPU.objects.all()


def test_a_change_closes_one_period_and_opens_the_next() -> None:
    node = make_node()
    gpu, other = make_gpu(node), make_gpu()
    Node.objects.filter(pk=node.pk).update(intent="draining", intent_reason="new firmware")
    assert refresh_gpu_states(everything(), now=LATER) == 1
    assert periods_of(gpu) == [("available", NOW, LATER), ("draining", LATER, None)]
    assert periods_of(other) == [("available", NOW, None)]
    assert GPUStatePeriod.objects.get(gpu=gpu, during__upper_inf=True).reason == "new firmware"
    gpu.refresh_from_db()
    assert gpu.state == "draining"


def test_no_change_writes_nothing() -> None:
    gpu = make_gpu()
    assert refresh_gpu_states(everything(), now=LATER) == 0
    assert periods_of(gpu) == [("available", NOW, None)]


@pytest.mark.parametrize("now", [NOW, NOW - timedelta(seconds=3)])
def test_a_period_is_never_empty_and_never_runs_backwards(now: datetime) -> None:
    gpu = make_gpu()
    Node.objects.filter(pk=gpu.node_id).update(intent="draining")
    refresh_gpu_states(everything(), now=now)
    assert periods_of(gpu) == [("draining", NOW, None)]
    check_chain(gpu.pk)


def test_silence_begins_at_the_last_heartbeat() -> None:
    gpu = make_gpu(make_node(last_heartbeat_at=NOW + timedelta(seconds=40)))
    Node.objects.filter(pk=gpu.node_id).update(silent=True)
    refresh_gpu_states(everything(), now=LATER, since_heartbeat=True)
    beat = NOW + timedelta(seconds=40)
    assert periods_of(gpu) == [("available", NOW, beat), ("offline", beat, None)]


def test_silence_does_not_begin_before_the_present_period() -> None:
    gpu = make_gpu(make_node(last_heartbeat_at=NOW - timedelta(minutes=1)))
    Node.objects.filter(pk=gpu.node_id).update(silent=True)
    refresh_gpu_states(everything(), now=LATER, since_heartbeat=True)
    assert periods_of(gpu) == [("offline", NOW, None)]


def test_retirement_ends_the_chain() -> None:
    gpu = make_gpu()
    retire_gpus({gpu.pk: "sold"}, now=LATER)
    assert periods_of(gpu) == [("available", NOW, LATER)]
    Node.objects.filter(pk=gpu.node_id).update(intent="draining")
    assert refresh_gpu_states(everything(), now=LATER + timedelta(minutes=1)) == 0
    check_chain(gpu.pk)


@pytest.mark.parametrize("now", [NOW, NOW - timedelta(seconds=3)])
def test_a_gpu_retired_in_the_moment_of_its_registration_was_never_there(now: datetime) -> None:
    gpu = make_gpu()
    retire_gpus({gpu.pk: "sold"}, now=now)
    assert periods_of(gpu) == []
    check_chain(gpu.pk)


def test_a_retired_gpus_chain_ends_with_its_last_period_that_lasted() -> None:
    gpu = make_gpu()
    Node.objects.filter(pk=gpu.node_id).update(intent="draining")
    refresh_gpu_states(everything(), now=LATER)
    retire_gpus({gpu.pk: "sold"}, now=LATER)
    assert periods_of(gpu) == [("available", NOW, LATER)]
    check_chain(gpu.pk)


def test_many_gpus_cost_as_many_queries_as_one(django_assert_num_queries: Any) -> None:
    node = make_node()
    for _ in range(20):
        make_gpu(node)
    Node.objects.filter(pk=node.pk).update(intent="draining")
    with django_assert_num_queries(7):  # which, lock, read, close, rename, set the state, open
        assert refresh_gpu_states(everything(), now=LATER) == 20


# A history: each event happens some seconds after the one before it, or, with clocks that differ, a little before.
SECONDS = st.one_of(st.integers(-3, 3), st.integers(0, 400))
EVENT = st.one_of(
    st.tuples(st.just("cluster"), st.sampled_from(["active", "maintenance"])),
    st.tuples(st.just("intent"), st.integers(0, 1), st.sampled_from(["active", "draining", "maintenance"])),
    st.tuples(st.just("beat"), st.integers(0, 1)),
    st.tuples(st.just("sweep")),
    st.tuples(st.just("mark"), st.integers(0, 3), st.sampled_from(GPUHealth)),
    st.tuples(st.just("put"), st.integers(0, 3), st.integers(0, 5)),
    st.tuples(st.just("put"), st.integers(0, 3), st.integers(0, 5)),
    st.tuples(st.just("retire"), st.integers(0, 3)),
    st.tuples(st.just("report"), st.integers(0, 3), st.sampled_from([40.0, 87.0, 95.0]), st.sampled_from([None, 79])),
)
HISTORY = st.lists(st.tuples(SECONDS, EVENT), max_size=25)


class Fleet:
    """Two nodes with two slots each, six cards to put in them, and a clock."""

    def __init__(self) -> None:
        self.now = NOW
        self.cluster = make_cluster()
        self.hosts = ["n0", "n1"]
        self.nodes = [self.beat(0), self.beat(1)]
        for slot in range(4):
            self.put(slot, slot)

    def beat(self, node: int) -> int:
        registration = services.register_node(
            cluster_id=self.cluster.pk, hostname=self.hosts[node], fields={}, now=self.now
        )
        return registration.node.pk

    def cluster_becomes(self, status: str) -> None:
        services.update_cluster(cluster_id=self.cluster.pk, changes={"status": status}, now=self.now)

    def intent(self, node: int, intent: Any) -> None:
        services.update_node(node_id=self.nodes[node], intent=intent, now=self.now)

    def sweep(self) -> None:
        """Without the grace after a pause, which has tests of its own."""
        NodeWatch.objects.all().delete()
        services.sweep_silent_nodes(now=self.now)

    def mark(self, slot: int, health: GPUHealth) -> None:
        for gpu_id in self.in_slot(slot):
            services.mark_health(gpu_id=gpu_id, health=health, reason="", now=self.now)

    def put(self, slot: int, device: int) -> None:
        gpu: services.GpuFields = {"gpu_index": slot % 2, "uuid": f"GPU-{device}"}
        services.register_gpus(node_id=self.nodes[slot // 2], gpus=[gpu], now=self.now)

    def retire(self, slot: int) -> None:
        for gpu_id in self.in_slot(slot):
            services.retire_gpu(gpu_id=gpu_id, reason="sold", actor="test", now=self.now)

    def report(self, slot: int, temperature: float, xid: int | None) -> None:
        samples = [Sample(gpu_id, self.now, 50.0, None, None, temperature, None, xid) for gpu_id in self.in_slot(slot)]
        services.record_samples(samples=samples, now=self.now)

    def in_slot(self, slot: int) -> list[int]:
        """The GPU there, if there is one."""
        there = GPU.objects.filter(node=self.nodes[slot // 2], gpu_index=slot % 2, retired_at=None)
        return list(there.values_list("pk", flat=True))

    def happen(self, name: str, *details: Any) -> None:
        getattr(self, "cluster_becomes" if name == "cluster" else name)(*details)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=HISTORY)
def test_any_history_leaves_one_chain_without_gaps_for_every_gpu(history: list[tuple[int, tuple[Any, ...]]]) -> None:
    with transaction.atomic():
        fleet = Fleet()
        for seconds, event in history:
            fleet.now += timedelta(seconds=seconds)
            fleet.happen(*event)
            check_cards()
        for gpu in GPU.objects.all():
            check_chain(gpu.pk)
        services.decommission_cluster(cluster_id=fleet.cluster.pk, now=fleet.now)
        for gpu in GPU.objects.all():
            assert gpu.retired_at is not None
            check_chain(gpu.pk)
        transaction.set_rollback(True)
