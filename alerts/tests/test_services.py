"""Rules evaluated at instants of our choosing, on real rows."""

import threading
from datetime import datetime, timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from alerts import services
from alerts.models import AlertEvent, AlertRule, EventStatus
from alerts.services import RuleHasHistory, RuleNameTaken
from alerts.tasks import evaluate
from alerts.tests.factories import MINUTE, NOW, make_rule, statuses
from alerts.types.hardware import NodeSilent
from clusters.models import LatestReading
from clusters.tests.factories import NOW as HARDWARE_NOW
from clusters.tests.factories import make_cluster, make_gpu, make_node
from gpufleet.common.errors import InvalidInput, NotFound
from gpufleet.common.locks import lock_scheduler
from jobs.models import Allocation, SchedulerCycle
from jobs.tests.factories import make_job
from tenants.models import Tenant
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def only_our_rules() -> None:
    AlertRule.objects.all().delete()


@pytest.fixture
def alice() -> Tenant:
    """Alice's tenant holds two of its four GPUs."""
    tenant = make_tenant(name="acme", gpu_quota=4)
    node = make_node(make_cluster())
    job = make_job(cluster=node.cluster, tenant=tenant, gpu_count=2, status="running")
    for _ in range(2):
        gpu = make_gpu(node)
        Allocation.objects.create(job=job, gpu=gpu, tenant=tenant, during=(NOW - 30 * MINUTE, None))
    return tenant


def test_an_incident_waits_fires_once_and_resolves_once(alice: Tenant) -> None:
    make_rule(for_seconds=300)
    services.evaluate_rules(now=NOW)
    assert statuses() == ["pending"]
    services.evaluate_rules(now=NOW + 4 * MINUTE)
    assert statuses() == ["pending"]
    services.evaluate_rules(now=NOW + 5 * MINUTE)
    assert services.evaluate_rules(now=NOW + 6 * MINUTE) == 0
    assert statuses() == ["firing"]
    event = AlertEvent.objects.get()
    assert (event.subject, event.tenant_id, event.value) == (f"tenant:{alice.pk}", alice.pk, 50.0)
    assert (event.since, event.fired_at) == (NOW, NOW + 5 * MINUTE)
    assert event.message == "tenant acme holds 50 % of its GPU quota (limit 50 %)."
    Allocation.objects.all().delete()
    services.evaluate_rules(now=NOW + 7 * MINUTE)
    services.evaluate_rules(now=NOW + 8 * MINUTE)
    assert statuses() == ["resolved"]
    assert AlertEvent.objects.get().resolved_at == NOW + 7 * MINUTE


def test_a_condition_that_passes_leaves_no_trace(alice: Tenant) -> None:
    make_rule(for_seconds=300)
    services.evaluate_rules(now=NOW)
    Allocation.objects.all().delete()
    services.evaluate_rules(now=NOW + MINUTE)
    assert statuses() == []


def test_what_was_pending_on_a_subject_that_is_gone_leaves_no_trace(alice: Tenant) -> None:
    make_rule(type="utilization_low", threshold=10.0, for_seconds=300)
    for allocation in Allocation.objects.all():
        LatestReading.objects.create(gpu=allocation.gpu, recorded_at=NOW, utilization_pct=4.0)
    services.evaluate_rules(now=NOW)
    assert statuses() == ["pending"]
    Allocation.objects.all().delete()
    services.evaluate_rules(now=NOW + MINUTE)
    assert statuses() == []


def test_utilization_without_fresh_readings_is_neither_ok_nor_firing(alice: Tenant) -> None:
    make_rule(type="utilization_low", threshold=10.0)
    services.evaluate_rules(now=NOW)
    assert statuses() == []
    for allocation in Allocation.objects.all():
        LatestReading.objects.create(gpu=allocation.gpu, recorded_at=NOW, utilization_pct=4.0)
    services.evaluate_rules(now=NOW + MINUTE)
    assert statuses() == ["firing"]
    services.evaluate_rules(now=NOW + 3 * MINUTE)
    assert statuses() == ["firing"]
    LatestReading.objects.update(recorded_at=NOW + 4 * MINUTE, utilization_pct=80.0)
    services.evaluate_rules(now=NOW + 4 * MINUTE)
    assert statuses() == ["resolved"]


def test_an_incident_whose_subject_is_gone_resolves(alice: Tenant) -> None:
    make_rule(type="utilization_low", threshold=10.0)
    for allocation in Allocation.objects.all():
        LatestReading.objects.create(gpu=allocation.gpu, recorded_at=NOW, utilization_pct=4.0)
    services.evaluate_rules(now=NOW)
    Allocation.objects.all().delete()
    services.evaluate_rules(now=NOW + MINUTE)
    assert statuses() == ["resolved"]


def test_health_is_the_broken_share_of_a_cluster() -> None:
    node = make_node(make_cluster("east"))
    for index, state in enumerate(["available", "available", "unhealthy", "offline"]):
        make_gpu(node, index, state=state)
    make_gpu(node, 9, state="offline", retired_at=HARDWARE_NOW + MINUTE)
    make_rule(type="health_degraded", threshold=50.0)
    services.evaluate_rules(now=NOW)
    event = AlertEvent.objects.get()
    assert (event.subject, event.value, event.tenant_id) == (f"cluster:{node.cluster_id}", 50.0, None)


def test_what_is_renamed_or_decommissioned_while_it_fires_is_called_by_its_name_and_resolves() -> None:
    node = make_node(make_cluster("east"))
    make_gpu(node, state="offline")
    make_rule(type="health_degraded", threshold=50.0)
    services.evaluate_rules(now=NOW)
    node.cluster.name = "west"
    node.cluster.save()
    services.evaluate_rules(now=NOW + MINUTE)
    event = AlertEvent.objects.get()
    assert (event.name, event.message.count("cluster west")) == ("cluster west", 1)
    node.gpus.update(retired_at=NOW + MINUTE)
    services.evaluate_rules(now=NOW + 2 * MINUTE)
    assert statuses() == ["resolved"]


def test_a_clock_that_jumps_back_and_forth_fires_nothing_twice(alice: Tenant) -> None:
    make_rule(for_seconds=300)
    for minutes in (0, -60, 5, -600, 1000, 5, 0):
        services.evaluate_rules(now=NOW + minutes * MINUTE)
    assert statuses() == ["firing"]
    Allocation.objects.all().delete()
    services.evaluate_rules(now=NOW - 60 * MINUTE)
    services.evaluate_rules(now=NOW + 60 * MINUTE)
    assert statuses() == ["resolved"]


def test_a_threshold_that_is_raised_while_it_fires_resolves_it_and_a_name_does_not(alice: Tenant) -> None:
    rule = make_rule()
    services.evaluate_rules(now=NOW)
    services.update_rule(rule_id=rule.pk, changes={"name": "renamed", "for_seconds": 900}, now=NOW)
    services.evaluate_rules(now=NOW + MINUTE)
    assert statuses() == ["firing"]
    services.update_rule(rule_id=rule.pk, changes={"threshold": 90.0}, now=NOW + MINUTE)
    services.evaluate_rules(now=NOW + 2 * MINUTE)
    assert statuses() == ["resolved"]


def test_a_rule_watches_its_scope_alone(alice: Tenant) -> None:
    bob = make_tenant(name="bluefin")
    make_rule(tenant=bob)
    services.evaluate_rules(now=NOW)
    assert statuses() == []


@pytest.mark.parametrize("until", [NOW, NOW - MINUTE, NOW + timedelta(days=7, seconds=1)])
def test_a_silence_ends_in_the_future_and_within_a_week(until: datetime) -> None:
    rule = make_rule()
    with pytest.raises(InvalidInput):
        services.silence_rule(rule_id=rule.pk, until=until, reason="?", actor="key:1", now=NOW)


def test_a_disabled_rule_resolves_its_incidents(alice: Tenant) -> None:
    rule = make_rule()
    services.evaluate_rules(now=NOW)
    services.update_rule(rule_id=rule.pk, changes={"enabled": False}, now=NOW + MINUTE)
    assert statuses() == ["resolved"]
    services.evaluate_rules(now=NOW + 2 * MINUTE)
    assert statuses() == ["resolved"]


def test_a_rule_with_incidents_is_not_deleted(alice: Tenant) -> None:
    rule = make_rule(for_seconds=300)
    services.evaluate_rules(now=NOW)
    services.evaluate_rules(now=NOW + 5 * MINUTE)
    with pytest.raises(RuleHasHistory):
        services.delete_rule(rule_id=rule.pk)
    fresh = make_rule(name="fresh", for_seconds=300)
    services.evaluate_rules(now=NOW)
    services.delete_rule(rule_id=fresh.pk)
    with pytest.raises(NotFound):
        services.delete_rule(rule_id=fresh.pk)


def test_names_are_unique_and_recovery_lies_on_the_healthy_side() -> None:
    make_rule()
    with pytest.raises(RuleNameTaken):
        make_rule()
    with pytest.raises(InvalidInput):
        make_rule(name="above", threshold=90.0, recovery_threshold=91.0)
    with pytest.raises(InvalidInput):
        make_rule(name="below", type="utilization_low", threshold=10.0, recovery_threshold=9.0)


def test_the_first_acknowledgement_stays_and_another_tenants_event_is_not_there(alice: Tenant) -> None:
    make_rule()
    services.evaluate_rules(now=NOW)
    event = AlertEvent.objects.get()
    with pytest.raises(NotFound):
        services.acknowledge_event(event_id=event.pk, actor="key:2", tenant_id=alice.pk + 1, now=NOW)
    services.acknowledge_event(event_id=event.pk, actor="key:1", tenant_id=alice.pk, now=NOW)
    services.acknowledge_event(event_id=event.pk, actor="key:2", tenant_id=None, now=NOW + MINUTE)
    assert services.acknowledge_events(event_ids=[event.pk], actor="user:eve", now=NOW) == 0
    event.refresh_from_db()
    assert (event.acknowledged_by, event.acknowledged_at) == ("key:1", NOW)


def test_a_type_whose_query_fails_holds_up_no_other(alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, now: datetime) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")

    make_rule()
    make_rule(name="silent", type="node_silent")
    monkeypatch.setattr(NodeSilent, "read", fail)
    services.evaluate_rules(now=NOW)
    assert statuses() == ["firing"]


@pytest.mark.django_db(transaction=True)
def test_the_alert_on_a_late_scheduler_needs_no_tick() -> None:
    """A tick hangs, with the scheduler's lock in its hands."""
    SchedulerCycle.objects.create(finished_at=timezone.now() - 10 * MINUTE, duration_ms=1)
    make_rule(type="scheduler_late", threshold=120)
    held, over = threading.Event(), threading.Event()

    def hang() -> None:
        with transaction.atomic():
            lock_scheduler()
            held.set()
            over.wait(30)
        connection.close()

    hanging = threading.Thread(target=hang)
    hanging.start()
    assert held.wait(10)
    try:
        evaluate()
        assert statuses() == ["firing"]
    finally:
        over.set()
        hanging.join()


@pytest.mark.django_db(transaction=True)
def test_ten_workers_at_once_fire_once_and_resolve_once(alice: Tenant) -> None:
    make_rule()

    def evaluate(now: datetime) -> None:
        barrier.wait()
        services.evaluate_rules(now=now)
        connection.close()

    for step, expected in [(0, EventStatus.FIRING), (1, EventStatus.RESOLVED)]:
        if expected == EventStatus.RESOLVED:
            Allocation.objects.all().delete()
        barrier = threading.Barrier(10)
        threads = [threading.Thread(target=evaluate, args=[NOW + (step * 60 + n) * MINUTE]) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses() == [expected]


def test_evaluation_costs_the_same_queries_however_many_rules_there_are(alice: Tenant) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            services.evaluate_rules(now=NOW)
        return len(captured)

    make_rule(name="one", threshold=1000.0)
    few = queries()
    for number in range(20):
        make_rule(name=f"rule {number}", threshold=1000.0)
    assert queries() == few
