"""The plot of an incident: what each type of rule would have read of its subject, from rows of the ledger."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from alerts import queries
from alerts.models import AlertEvent, AlertRule, RuleType
from alerts.tests.factories import MINUTE
from alerts.types import TYPES, Reading, Window
from alerts.types.past import STEPS, stepped
from billing.models import OutboxMessage
from billing.services import create_invoice
from billing.tests.factories import LONG_AGO, NOW, hours, make_rate, sell
from clusters.models import GPU, GPUStatePeriod, LatestReading
from clusters.tests.factories import make_gpu, make_node, store_sample
from jobs.models import Job, KindWait, SchedulerCycle, WaitPeriod
from jobs.tests.factories import allocate, make_job
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db

WINDOW = Window(hours(4), NOW)
# A step is two and a half minutes.
STEP = timedelta(hours=4) / STEPS


def past(kind: str, reading: Reading) -> dict[datetime, float]:
    return dict(TYPES[kind].past(reading.subject, reading.place, WINDOW))


def the(kind: str, subject: str) -> Reading:
    return next(reading for reading in TYPES[kind].read(NOW) if reading.subject == subject)


def in_state(gpu: GPU, state: str, *, since: datetime) -> None:
    """From then on, and in service since the year began."""
    GPUStatePeriod.objects.filter(gpu=gpu).delete()
    GPUStatePeriod.objects.create(gpu=gpu, state="available", during=(LONG_AGO, since))
    GPUStatePeriod.objects.create(gpu=gpu, state=state, during=(since, None))
    GPU.objects.filter(pk=gpu.pk).update(state=state, registered_at=LONG_AGO)


def long_lived(node: Any = None, **fields: Any) -> GPU:
    return make_gpu(node, registered_at=LONG_AGO, **fields)


def utilization() -> tuple[str, dict[float, float]]:
    """Two GPUs, the second from two hours ago on."""
    held = sell(alice(), hours(3), rate=None, gpu=long_lived())
    second = allocate(held.job, [long_lived(held.gpu.node)], start=hours(2))[0]
    for gpu, percent in [(held.gpu, 10.0), (second.gpu, 50.0)]:
        for ago in (3.5, 2.5, 1.0, 0.0):
            store_sample(gpu, hours(ago) - timedelta(seconds=1), utilization_pct=percent)
        LatestReading.objects.create(gpu=gpu, recorded_at=NOW, utilization_pct=percent)
    return f"job:{held.job_id}", {2.5 + 1 / 24: 10.0, 1.0 + 1 / 24: 30.0, 1 / 24: 30.0}


def quota() -> tuple[str, dict[float, float]]:
    tenant = alice(gpu_quota=4)
    sell(tenant, hours(3), hours(1), rate=None)
    sell(tenant, hours(2), rate=None)
    sell(bob(), hours(3), rate=None)
    return f"tenant:{tenant.pk}", {4: 0.0, 3: 25.0, 2: 50.0, 1: 25.0, 0: 25.0}


def health() -> tuple[str, dict[float, float]]:
    node = make_node()
    in_state(long_lived(node), "unhealthy", since=hours(3))
    in_state(long_lived(node), "offline", since=hours(1))
    in_state(long_lived(node), "draining", since=hours(1))
    in_state(long_lived(), "offline", since=hours(2))
    late = make_gpu(node, registered_at=hours(2))
    assert late.state == "available"
    return f"cluster:{node.cluster_id}", {4: 0.0, 3: 100 / 3, 2: 25.0, 1: 50.0, 0: 50.0}


def silence() -> tuple[str, dict[float, float]]:
    node = make_node(silent=True, last_heartbeat_at=hours(1))
    in_state(long_lived(node), "offline", since=hours(1))
    return f"node:{node.pk}", {4: 0.0, 1: 0.0, 0.5: 1800.0, 0: 3600.0}


def temperature() -> tuple[str, dict[float, float]]:
    gpu, other = long_lived(), long_lived()
    for ago, celsius in [(3, 60.0), (2, 70.0), (0, 80.0)]:
        store_sample(gpu, hours(ago) - timedelta(seconds=1), temperature_c=celsius)
        store_sample(other, hours(ago) - timedelta(seconds=1), temperature_c=20.0)
    LatestReading.objects.create(gpu=gpu, recorded_at=NOW, temperature_c=80)
    return f"gpu:{gpu.pk}", {3 + 1 / 24: 60.0, 2 + 1 / 24: 70.0, 1 / 24: 80.0}


def stalled() -> tuple[str, dict[float, float]]:
    """It waits for its quota for an hour, and for hardware that is there since."""
    node = make_node()
    long_lived(node)
    job = make_job(cluster=node.cluster, submitted_at=hours(2))
    kind = {"cluster": node.cluster, "gpu_type": "", "gpu_count": 1}
    KindWait.objects.create(**kind, code="quota", during=(hours(3), hours(1)))
    KindWait.objects.create(**kind, code="capacity", during=(hours(1), None))
    return f"job:{job.pk}", {4: 0.0, 1.5: 0.0, 1: 60.0, 0: 120.0}


def stalled_again() -> tuple[str, dict[float, float]]:
    """It ran from three hours ago until one and a half hours ago, and has waited for the scheduler else."""
    node = make_node()
    long_lived(node)
    job = make_job(cluster=node.cluster, submitted_at=hours(3.5))
    WaitPeriod.objects.update(during=(hours(3.5), hours(3)))
    WaitPeriod.objects.create(job=job, code="kind", during=(hours(1.5), None))
    return f"job:{job.pk}", {3.25: 15.0, 2: 0.0, 1: 30.0, 0: 90.0}


def overrun() -> tuple[str, dict[float, float]]:
    held = sell(alice(), hours(3), rate=None)
    Job.objects.filter(pk=held.job_id).update(estimated_duration_min=120)
    return f"job:{held.job_id}", {3: 0.0, 2: 50.0, 0: 150.0}


def leakage() -> tuple[str, dict[float, float]]:
    """Three GPUs at 2, and at 3 for the last hour; one is sold for an hour, one without a price."""
    make_rate("H100", "2.00")
    make_rate("H100", "3.00", valid_from=hours(1), now=hours(1))
    tenant, node = alice(), make_node()
    tenants_own = make_rate("H100", "9.00", tenant_id=tenant.pk)
    for sold_at in (tenants_own, None):
        sell(tenant, hours(3), hours(2), rate=sold_at, gpu=long_lived(node))
    make_gpu(node, registered_at=hours(2.5))
    make_rate("B200", "5.00")
    long_lived(node, model="B200")
    long_lived()
    return f"cluster:{node.cluster_id}/gpu_model:H100", {4: 4.0, 3: 2.0, 2.5: 4.0, 2: 6.0, 1: 9.0, 0: 9.0}


def unpriced() -> tuple[str, dict[float, float]]:
    make_rate("B200", "9.00", tenant_id=alice().pk)
    long_lived(model="B200")
    make_gpu(model="B200", registered_at=hours(2))
    long_lived(model="H100")
    return "gpu_model:B200", {4: 1.0, 2: 2.0, 0: 2.0}


def invoice() -> tuple[str, dict[float, float]]:
    tenant = alice()
    sell(tenant, hours(9), hours(8), rate=make_rate())
    made = create_invoice(tenant_id=tenant.pk, start=LONG_AGO, end=NOW, created_by="test", now=NOW)
    for step, created, done in [("create", 3, 2), ("finalise", 1, None)]:
        OutboxMessage.objects.create(
            invoice=made,
            step=step,
            reference=uuid4(),
            status="pending" if done is None else "done",
            done_at=None if done is None else hours(done),
            key_made_at=hours(created),
            next_attempt_at=NOW,
            created_at=hours(created),
        )
    return f"invoice:{made.pk}", {4: 0.0, 2.5: 30.0, 2: 0.0, 0.5: 30.0, 0: 60.0}


WORLDS: dict[str, Callable[[], tuple[str, dict[float, float]]]] = {
    "utilization_low": utilization,
    "quota_breach": quota,
    "health_degraded": health,
    "node_silent": silence,
    "gpu_temperature": temperature,
    "queue_stalled": stalled,
    "job_overrun": overrun,
    "leakage_rate": leakage,
    "unpriced_gpu": unpriced,
    "invoice_sync_failed": invoice,
}


@pytest.mark.parametrize("kind", [*WORLDS, "queue_stalled again"])
def test_the_past_is_what_the_rule_would_have_read_and_ends_with_what_it_reads_now(kind: str) -> None:
    subject, expected = WORLDS[kind]() if kind in WORLDS else stalled_again()
    kind = kind.split(maxsplit=1)[0]
    reading = the(kind, subject)
    found = past(kind, reading)
    assert {ago: pytest.approx(found[hours(ago)]) for ago in expected} == expected
    assert found[max(found)] == pytest.approx(reading.value)


def test_of_the_scheduler_the_jobs_that_wait_for_it_are_shown_and_no_threshold() -> None:
    SchedulerCycle.objects.create(finished_at=hours(1), duration_ms=1)
    for since, until in [(3, 2), (2.5, 2), (1, None)]:
        job = make_job(submitted_at=hours(since))
        WaitPeriod.objects.filter(job=job).update(during=(hours(since), None if until is None else hours(until)))
    found = past("scheduler_late", the("scheduler_late", "scheduler"))
    assert [found[hours(ago)] for ago in (4, 3, 2.5, 2, 1, 0)] == [0, 1, 2, 0, 1, 1]
    rule = AlertRule.objects.get(type="scheduler_late")
    event = AlertEvent(rule=rule, subject="scheduler", since=hours(2))
    assert queries.past_of(event, now=NOW).level is None


@pytest.mark.parametrize("kind", RuleType.values)
def test_every_type_has_a_past_also_of_what_is_gone_in_few_queries(
    kind: str, django_assert_max_num_queries: Any
) -> None:
    place = Reading("", "", None).place
    with django_assert_max_num_queries(3):
        points = TYPES[kind].past("tenant:999999", place, WINDOW)
    assert not any(value for _, value in points)
    assert all(TYPES[kind].figure)


@pytest.mark.parametrize(
    ("since", "resolved", "start", "end"),
    [(1, None, 3, 0), (9, 8, 11, 6), (1, 0.5, 3, 0), (24 * 30, None, 24 * 30 + 2, 24 * 23 + 2)],
)
def test_the_window_is_two_hours_around_the_incident_and_a_week_at_most(
    since: float, resolved: float | None, start: float, end: float
) -> None:
    rule = AlertRule.objects.get(type="quota_breach")
    event = AlertEvent(
        rule=rule, subject="tenant:1", since=hours(since), resolved_at=None if resolved is None else hours(resolved)
    )
    seen = queries.past_of(event, now=NOW)
    assert (seen.window.start, seen.window.end) == (hours(start), hours(end))
    assert (seen.name, seen.level) == ("Held", 100.0)


def test_a_range_counts_from_its_first_instant_to_the_last_before_its_end() -> None:
    spans = "SELECT 1::numeric AS amount, tstzrange(%(begin)s, %(end)s) AS during"
    sums = stepped(spans, {"begin": WINDOW.instants[2], "end": WINDOW.instants[4]}, WINDOW)
    assert sums[:6] == [0, 0, 1, 1, 0, 0]
    between = {"begin": WINDOW.instants[2] + STEP / 2, "end": WINDOW.instants[4] + STEP / 2}
    assert stepped(spans, between, WINDOW)[:6] == [0, 0, 0, 1, 1, 0]
    assert stepped(spans, {"begin": LONG_AGO, "end": None}, WINDOW) == [1] * (STEPS + 1)
    assert stepped(spans, {"begin": LONG_AGO, "end": hours(9)}, WINDOW) == [0] * (STEPS + 1)
    assert MINUTE < STEP


def test_an_incident_between_two_instants_of_the_plot_is_seen_there() -> None:
    """It was over after a few seconds."""
    tenant = alice(gpu_quota=1)
    fired_at = hours(1) + timedelta(seconds=7)
    sell(tenant, hours(1), fired_at + timedelta(seconds=5), rate=None)
    rule = AlertRule.objects.get(type="quota_breach")
    ended = fired_at + timedelta(seconds=30)
    event = AlertEvent(
        rule=rule, subject=f"tenant:{tenant.pk}", since=hours(1), fired_at=fired_at, resolved_at=ended, tenant=tenant
    )
    points = queries.past_of(event, now=NOW).points
    assert dict(points)[fired_at] == 100.0
    assert points == sorted(points)


def test_a_job_that_has_ended_ran_no_longer() -> None:
    held = sell(alice(), hours(3), hours(1), rate=None)
    Job.objects.filter(pk=held.job_id).update(
        estimated_duration_min=60, started_at=hours(3), ended_at=hours(1), status="completed"
    )
    found = dict(TYPES["job_overrun"].past(f"job:{held.job_id}", Reading("", "", None).place, WINDOW))
    assert (found[hours(1)], max(found)) == (200.0, hours(1))


def test_a_model_is_priced_from_the_first_instant_of_its_price() -> None:
    long_lived(model="B200")
    make_rate("B200", "9.00", valid_from=hours(1), now=hours(1))
    found = past("unpriced_gpu", the("unpriced_gpu", "gpu_model:B200"))
    assert (found[hours(1) - STEP], found[hours(1)]) == (1.0, 0.0)


def test_a_node_without_gpus_is_silent_too() -> None:
    node = make_node(silent=True, last_heartbeat_at=hours(1))
    found = past("node_silent", the("node_silent", f"node:{node.pk}"))
    assert (found[hours(2)], found[hours(0.5)]) == (0.0, 1800.0)
