"""Each type of rule reads what it says, at instants of the test's choosing."""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings

from alerts.models import AlertRule, RuleType
from alerts.tests.factories import MINUTE
from alerts.types import TYPES, Reading
from billing.models import OutboxMessage
from billing.services import create_invoice, move_invoice
from billing.tests.factories import LONG_AGO, NOW, hours, make_rate, sell
from clusters.models import LatestReading, Node
from clusters.states import TEMPERATURE_LIMIT_C, TEMPERATURE_RECOVERED_C
from clusters.tests.factories import make_cluster, make_gpu, make_node
from jobs.models import Job, KindWait, SchedulerCycle, WaitPeriod
from jobs.tests.factories import allocate, make_job
from tenants.tests.factories import alice, bob, make_tenant

pytestmark = pytest.mark.django_db


def read(kind: str) -> Mapping[str, Reading]:
    return {reading.subject: reading for reading in TYPES[kind].read(NOW)}


def values(kind: str) -> dict[str, float | None]:
    return {subject: reading.value for subject, reading in read(kind).items()}


def test_every_type_of_the_model_has_its_class_and_says_its_sentence() -> None:
    assert set(TYPES) == set(RuleType.values)
    for kind in TYPES.values():
        assert kind.say("node-7", 12.0, 3.0)
        assert kind.remedy


@pytest.mark.parametrize("kind", RuleType.values)
def test_every_type_reads_an_empty_house(kind: str) -> None:
    assert set(TYPES[kind].read(NOW)) <= {Reading("scheduler", "the scheduler", None)}


def test_utilization_is_the_mean_of_a_jobs_fresh_readings_and_costs_what_is_idle() -> None:
    rate = make_rate("H100", "4.00")
    held = sell(alice(), hours(1), rate=rate)
    second = allocate(
        held.job, [make_gpu(held.gpu.node)], start=hours(1), rate_id=rate.pk, price_per_gpu_hour=4, currency="USD"
    )[0]
    LatestReading.objects.create(gpu=held.gpu, recorded_at=NOW, utilization_pct=10)
    LatestReading.objects.create(gpu=second.gpu, recorded_at=NOW - 2 * MINUTE, utilization_pct=90)
    reading = read("utilization_low")[f"job:{held.job_id}"]
    assert reading.value == 10
    assert reading.hourly is not None
    assert round(reading.hourly, 2) == Decimal("7.20")
    assert (reading.place.tenant_id, reading.place.gpu_model) == (held.tenant_id, "H100")


def test_quota_is_held_by_tenant() -> None:
    tenant, other = alice(gpu_quota=4), bob()
    sell(tenant, hours(1), rate=None)
    sell(tenant, hours(3), hours(2), rate=None)
    assert values("quota_breach") == {f"tenant:{tenant.pk}": 25.0, f"tenant:{other.pk}": 0.0}


def test_a_clusters_broken_share_costs_their_list_price() -> None:
    make_rate("H100", "2.00")
    node = make_node()
    for state in ("available", "available", "unhealthy", "offline"):
        make_gpu(node, state=state)
    reading = read("health_degraded")[f"cluster:{node.cluster_id}"]
    assert (reading.value, reading.hourly) == (50.0, Decimal("4.00"))


def test_a_node_is_silent_since_its_last_heartbeat_unless_it_is_in_maintenance() -> None:
    beating, silent = make_node(), make_node(silent=True, last_heartbeat_at=NOW - 3 * MINUTE)
    make_node(silent=True, intent="maintenance")
    make_node(silent=True, decommissioned_at=NOW)
    assert values("node_silent") == {f"node:{beating.pk}": 0.0, f"node:{silent.pk}": 180.0}


def test_a_gpus_temperature_counts_while_it_is_fresh() -> None:
    fresh, stale, mute = make_gpu(), make_gpu(), make_gpu()
    make_gpu(retired_at=NOW + MINUTE)
    LatestReading.objects.create(gpu=fresh, recorded_at=NOW - MINUTE, temperature_c=71)
    LatestReading.objects.create(gpu=stale, recorded_at=NOW - 2 * MINUTE, temperature_c=99)
    expected = {f"gpu:{fresh.pk}": 71, f"gpu:{stale.pk}": None, f"gpu:{mute.pk}": None}
    assert values("gpu_temperature") == expected


def test_the_built_in_rule_for_heat_has_the_limits_and_the_time_by_which_a_gpu_leaves_service() -> None:
    rule = AlertRule.objects.get(type="gpu_temperature")
    assert (rule.threshold, rule.recovery_threshold) == (TEMPERATURE_LIMIT_C, TEMPERATURE_RECOVERED_C)
    assert rule.for_seconds == settings.GPU_HOT_AFTER_SECONDS


@pytest.mark.parametrize(
    ("code", "gpu_type", "gpu_count", "could_run"),
    [
        ("scheduler", "", 2, True),
        ("capacity", "a100 | h100", 1, True),
        ("capacity", "", 3, False),
        ("capacity", "B200", 1, False),
        ("fragmented", "", 2, False),
        ("quota", "", 1, False),
        ("held", "", 1, False),
    ],
)
def test_a_job_is_stalled_when_its_gpus_are_free(code: str, gpu_type: str, gpu_count: int, could_run: bool) -> None:
    make_rate("H100", "2.00")
    node = make_node()
    for state in ("available", "available", "draining"):
        make_gpu(node, model="H100", state=state)
    sell(bob(), hours(1), rate=None, gpu=make_gpu(node, model="H100"))
    make_gpu(model="H100")
    job = make_job(cluster=node.cluster, submitted_at=NOW - 20 * MINUTE, gpu_type=gpu_type, gpu_count=gpu_count)
    WaitPeriod.objects.update(code=code)
    expected = {f"job:{job.pk}": (20.0, Decimal(2 * gpu_count))} if could_run else {}
    assert {key: (reading.value, reading.hourly) for key, reading in read("queue_stalled").items()} == expected


def test_a_job_waits_since_it_was_queued_last() -> None:
    """It was submitted ten hours ago, and ran until its node fell silent."""
    node = make_node()
    make_gpu(node, model="H100")
    job = make_job(cluster=node.cluster, submitted_at=hours(10))
    WaitPeriod.objects.update(during=(NOW - 20 * MINUTE, None))
    assert values("queue_stalled") == {f"job:{job.pk}": 20.0}


def test_what_another_tenants_jobs_of_the_kind_wait_for_is_of_no_matter() -> None:
    node = make_node()
    make_gpu(node, model="H100")
    job = make_job(cluster=node.cluster, tenant=alice(), submitted_at=NOW - 20 * MINUTE)
    told = {"cluster": node.cluster, "gpu_type": "", "gpu_count": 1, "during": (NOW - 20 * MINUTE, None)}
    KindWait.objects.create(**told, tenant=bob(), code="quota")
    assert values("queue_stalled") == {f"job:{job.pk}": 20.0}


def test_a_node_of_a_cluster_in_maintenance_is_not_missed() -> None:
    make_node(make_cluster(status="maintenance"), silent=True, last_heartbeat_at=NOW - 3 * MINUTE)
    assert values("node_silent") == {}


def test_a_job_overruns_its_estimate() -> None:
    held = sell(alice(), hours(3), rate=make_rate("H100", "2.00"))
    sell(bob(), hours(3), rate=None)
    Job.objects.filter(pk=held.job_id).update(estimated_duration_min=120)
    reading = read("job_overrun")[f"job:{held.job_id}"]
    assert (reading.value, reading.hourly) == (150.0, Decimal("2.00"))
    assert len(read("job_overrun")) == 1


def test_leakage_is_summed_by_fleet_cluster_model_and_both() -> None:
    make_rate("H100", "2.00")
    east, west = make_node(make_cluster("east")), make_node(make_cluster("west"))
    sold = sell(alice(), hours(1), rate=make_rate("H200", "3.00"), gpu=make_gpu(east, model="H200"))
    sell(make_tenant("initech"), hours(1), rate=None, gpu=make_gpu(east, model="H100"))
    make_gpu(east, model="H100", state="offline")
    make_gpu(west, model="H100")
    make_gpu(west, model="unpriced")
    make_gpu(west, model="")
    found = {key: value for key, value in values("leakage_rate").items() if value}
    assert found == {
        "fleet": 6.0,
        "fleet/gpu_model:H100": 6.0,
        f"cluster:{east.cluster_id}": 4.0,
        f"cluster:{east.cluster_id}/gpu_model:H100": 4.0,
        f"cluster:{west.cluster_id}": 2.0,
        f"cluster:{west.cluster_id}/gpu_model:H100": 2.0,
    }
    assert values("leakage_rate")[f"cluster:{sold.job.cluster_id}/gpu_model:H200"] == 0


def test_a_model_without_a_list_price_is_loud() -> None:
    make_rate("H100", "2.00")
    make_rate("B200", "9.00", tenant_id=alice().pk)
    node = make_node()
    for model in ("H100", "B200", "B200"):
        make_gpu(node, model=model)
    assert values("unpriced_gpu") == {"gpu_model:H100": 0.0, "gpu_model:B200": 2.0}
    assert read("unpriced_gpu")["gpu_model:B200"].place.gpu_model == "B200"


@pytest.mark.parametrize(
    ("status", "age", "minutes"), [("pending", 7, 7.0), ("dead", 7, 1440.0), ("dead", 2000, 2000.0), ("done", 7, None)]
)
def test_an_invoice_is_stuck_while_a_step_is_not_done(status: str, age: int, minutes: float | None) -> None:
    tenant = alice()
    sell(tenant, hours(2), hours(1), rate=make_rate())
    invoice = create_invoice(tenant_id=tenant.pk, start=LONG_AGO, end=NOW, created_by="test", now=NOW)
    at = NOW - timedelta(minutes=age)
    OutboxMessage.objects.create(
        invoice=invoice,
        step="create",
        reference=uuid4(),
        status=status,
        key_made_at=at,
        next_attempt_at=at,
        created_at=at,
    )
    assert values("invoice_sync_failed") == ({} if minutes is None else {f"invoice:{invoice.pk}": minutes})


def test_a_stuck_invoice_is_called_by_the_number_on_its_paper() -> None:
    invoices = []
    for tenant in (bob(), alice()):
        sell(tenant, hours(2), hours(1), rate=make_rate())
        invoices.append(create_invoice(tenant_id=tenant.pk, start=LONG_AGO, end=NOW, created_by="test", now=NOW))
    invoice = move_invoice(invoice_id=invoices[1].pk, to="open", actor="test", now=NOW)
    OutboxMessage.objects.create(
        invoice=invoice, step="create", reference=uuid4(), key_made_at=NOW, next_attempt_at=NOW, created_at=NOW
    )
    (reading,) = TYPES[RuleType.INVOICE_SYNC_FAILED].read(NOW)
    assert (reading.subject, reading.name) == (f"invoice:{invoice.pk}", f"invoice GF-{invoice.number} of acme")


def test_the_scheduler_is_late_since_its_last_cycle() -> None:
    assert values("scheduler_late") == {"scheduler": None}
    SchedulerCycle.objects.create(finished_at=NOW - 3 * MINUTE, duration_ms=1)
    assert values("scheduler_late") == {"scheduler": 180.0}


def test_each_type_costs_a_fixed_number_of_queries(django_assert_max_num_queries: Any) -> None:
    make_rate("H100", "2.00")
    for _ in range(3):
        sell(None, hours(1), rate=None, gpu=make_gpu(model="H100"))
        make_job(cluster=Node.objects.all()[0].cluster)
        make_gpu(Node.objects.all()[0], model="H100")
    for kind in TYPES.values():
        with django_assert_max_num_queries(4):
            kind.read(NOW)
