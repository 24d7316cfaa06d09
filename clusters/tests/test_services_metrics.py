from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connection, transaction

from clusters import ingest, services
from clusters.models import GPU, GPUHealth, LatestReading, MetricSample, Node
from clusters.telemetry import Sample
from clusters.tests.factories import NOW, make_gpu, make_node, make_sample
from clusters.tests.ledger import check_chain, periods_of
from clusters.tests.threads import after, at_once, in_thread
from gpufleet.common.errors import InvalidInput

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
LATER = NOW + MINUTE


def sample(gpu: GPU, at: Any = LATER, **figures: Any) -> Sample:
    return make_sample(gpu, at, **figures)


def record(*samples: Sample, now: Any = LATER, **narrowing: Any) -> int:
    return services.record_samples(samples=samples, now=now, **narrowing)


def streak(gpu: GPU) -> Any:
    return LatestReading.objects.values_list("hot_since", "cool_since", "streak_until").get(gpu=gpu)


def refused(*samples: Sample, **narrowing: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidInput) as caught:
        record(*samples, **narrowing)
    return [(problem.pointer, problem.code) for problem in caught.value.problems]


def test_samples_are_stored_as_they_were_sent() -> None:
    gpu = make_gpu()
    figures = {
        "utilization_pct": 93.5,
        "memory_used_mb": 40_000,
        "memory_total_mb": 81_559,
        "temperature_c": 61.0,
        "power_draw_w": 512.25,
        "xid": 13,
    }
    assert record(sample(gpu, **figures), sample(gpu, NOW)) == 2
    rows = MetricSample.objects.order_by("recorded_at").values()
    assert list(rows) == [
        {"gpu_id": gpu.pk, "recorded_at": NOW, **dict.fromkeys(figures)},
        {"gpu_id": gpu.pk, "recorded_at": LATER, **figures},
    ]
    latest = LatestReading.objects.values(*ingest.COLUMNS).get()
    assert latest == {"gpu_id": gpu.pk, "recorded_at": LATER, **figures}


def test_an_older_sample_is_kept_and_is_not_the_latest() -> None:
    gpu = make_gpu()
    record(sample(gpu, LATER, utilization_pct=90))
    record(sample(gpu, NOW, utilization_pct=10))
    record(sample(gpu, LATER, utilization_pct=20))
    assert MetricSample.objects.count() == 3
    assert LatestReading.objects.get().utilization_pct == 90


def test_the_upsert_itself_never_overwrites_a_newer_reading() -> None:
    gpu = make_gpu()
    record(sample(gpu, LATER, utilization_pct=90))
    ingest.upsert_latest([ingest.Newest(sample(gpu, NOW, utilization_pct=10), streak=None)])
    assert LatestReading.objects.get().utilization_pct == 90


def test_a_batch_over_midnight_goes_to_two_days() -> None:
    gpu = make_gpu()
    midnight = NOW.replace(hour=0)
    record(sample(gpu, midnight - SECOND), sample(gpu, midnight), now=midnight)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT tableoid) FROM clusters_metricframe")
        assert cursor.fetchone() == (2,)


def test_one_unknown_gpu_refuses_the_whole_batch() -> None:
    gpu = make_gpu()
    unknown = GPU(pk=gpu.pk + 1000)
    assert refused(sample(gpu), sample(unknown), sample(gpu, NOW), sample(unknown, NOW)) == [
        ("#/metrics/1/gpu_id", "does_not_exist"),
        ("#/metrics/3/gpu_id", "does_not_exist"),
    ]
    assert not MetricSample.objects.exists()
    assert not LatestReading.objects.exists()


def test_another_clusters_gpu_is_as_unknown_as_one_that_is_not_there() -> None:
    own, foreign = make_gpu(), make_gpu()
    key = own.node.cluster.key_id
    assert record(sample(own), cluster_key_id=key) == 1
    assert refused(sample(own), sample(foreign), cluster_key_id=key) == [("#/metrics/1/gpu_id", "does_not_exist")]


def test_a_retired_gpus_last_samples_are_taken_and_later_ones_are_not() -> None:
    gpu = make_gpu(retired_at=LATER)
    assert record(sample(gpu, LATER)) == 1
    assert refused(sample(gpu, LATER + SECOND)) == [("#/metrics/0/gpu_id", "gpu_retired")]


def test_the_samples_and_what_follows_from_them_are_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = make_gpu()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr("clusters.services.metrics.refresh_gpu_states", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        record(sample(gpu, xid=79))
    assert not MetricSample.objects.exists()
    gpu.refresh_from_db()
    assert gpu.health == "healthy"


def test_heat_takes_a_gpu_out_and_cold_brings_it_back() -> None:
    """Reported every 60 s, each as it is taken: out after 120 s of heat, back after 120 s below the recovery limit."""
    gpu, neighbour = make_gpu(), make_gpu()
    for minute, celsius in enumerate([91.0, 92.0, 93.0, 94.0, 86.0, 70.0, 70.0, 70.0], start=1):
        now = NOW + minute * MINUTE
        record(sample(gpu, now, temperature_c=celsius), sample(neighbour, now, temperature_c=60.0), now=now)
    assert periods_of(gpu) == [
        ("available", NOW, NOW + 3 * MINUTE),
        ("unhealthy", NOW + 3 * MINUTE, NOW + 8 * MINUTE),
        ("available", NOW + 8 * MINUTE, None),
    ]
    assert periods_of(neighbour) == [("available", NOW, None)]
    assert gpu.faults.get().reason == "93 °C: 90 °C or more for 120 s."
    assert streak(gpu) == (None, None, None)


def test_the_time_of_heat_is_a_setting(settings: LazySettings) -> None:
    settings.GPU_HOT_AFTER_SECONDS = 30
    gpu = make_gpu()
    record(*(sample(gpu, NOW + second * SECOND, temperature_c=95) for second in (0, 30)), now=NOW + 30 * SECOND)
    gpu.refresh_from_db()
    assert gpu.health_cause == "temperature"


def test_a_gap_longer_than_a_heartbeat_may_be_late_breaks_the_heat(settings: LazySettings) -> None:
    settings.NODE_SILENT_AFTER_SECONDS = 45
    gpu = make_gpu()
    for minute in range(1, 6):
        record(sample(gpu, NOW + minute * MINUTE, temperature_c=95), now=NOW + minute * MINUTE)
    gpu.refresh_from_db()
    assert (gpu.health, streak(gpu)) == ("healthy", (NOW + 5 * MINUTE, None, NOW + 5 * MINUTE))


def test_a_batch_is_read_in_the_order_of_its_times() -> None:
    gpu = make_gpu()
    times = [NOW + second * SECOND for second in (150, 0, 75, 90)]
    heats = dict(zip(sorted(times), [95.0, 95.0, 60.0, 95.0], strict=True))
    record(*(sample(gpu, at, temperature_c=heats[at]) for at in times), now=NOW + 150 * SECOND)
    gpu.refresh_from_db()
    assert (gpu.health, streak(gpu)[0]) == ("healthy", NOW + 150 * SECOND)


def test_a_late_sample_neither_begins_heat_nor_makes_it_longer() -> None:
    gpu = make_gpu()
    record(sample(gpu, NOW + 2 * MINUTE, temperature_c=60), now=NOW + 2 * MINUTE)
    record(sample(gpu, NOW, temperature_c=95), sample(gpu, NOW + MINUTE, temperature_c=95), now=NOW + 2 * MINUTE)
    assert streak(gpu) == (None, None, None)
    record(sample(gpu, NOW + 3 * MINUTE, temperature_c=95), now=NOW + 3 * MINUTE)
    record(sample(gpu, NOW + 2 * MINUTE + SECOND, temperature_c=95), now=NOW + 3 * MINUTE)
    record(sample(gpu, NOW + 4 * MINUTE, temperature_c=95), now=NOW + 4 * MINUTE)
    gpu.refresh_from_db()
    assert (gpu.health, streak(gpu)[0]) == ("healthy", NOW + 3 * MINUTE)


def test_a_batch_that_was_kept_for_hours_takes_nobody_away_and_brings_nobody_back() -> None:
    gpu, now = make_gpu(), NOW + timedelta(hours=3)
    record(*(sample(gpu, NOW + minute * MINUTE, temperature_c=95) for minute in range(10)), now=now)
    gpu.refresh_from_db()
    assert (gpu.health, streak(gpu)[0]) == ("healthy", NOW)
    record(*(sample(gpu, now + minute * MINUTE, temperature_c=95) for minute in range(3)), now=now + 2 * MINUTE)
    later = now + timedelta(hours=3)
    record(*(sample(gpu, now + minute * MINUTE, temperature_c=40) for minute in range(3, 9)), now=later)
    gpu.refresh_from_db()
    assert gpu.health_cause == "temperature"


def test_a_fast_clock_makes_no_heat_last_longer() -> None:
    """What claims to come from later was seen no later than now."""
    gpu = make_gpu()
    record(sample(gpu, NOW, temperature_c=95), sample(gpu, NOW + 30 * SECOND, temperature_c=95), now=NOW)
    record(*(sample(gpu, NOW + second * SECOND, temperature_c=95) for second in (70, 125)), now=LATER)
    gpu.refresh_from_db()
    assert (gpu.health, streak(gpu)) == ("healthy", (NOW, None, LATER))


def test_a_batch_sent_twice_heats_nothing_twice() -> None:
    gpu = make_gpu()
    hot = [sample(gpu, NOW + second * SECOND, temperature_c=95.0) for second in (1, 60)]
    record(*hot)
    record(*hot)
    gpu.refresh_from_db()
    assert (gpu.health, streak(gpu)) == ("healthy", (NOW + SECOND, None, LATER))


def test_an_xid_says_why() -> None:
    gpu = make_gpu()
    record(sample(gpu, xid=79))
    gpu.refresh_from_db()
    assert (gpu.state, gpu.health_cause, gpu.health_reason) == (
        "unhealthy",
        "xid",
        "XID 79: GPU has fallen off the bus.",
    )


def test_a_retired_gpus_health_is_no_longer_decided() -> None:
    gpu = make_gpu(retired_at=LATER)
    record(sample(gpu, NOW, xid=79))
    gpu.refresh_from_db()
    assert gpu.health == "healthy"


def test_a_sample_is_a_heartbeat_of_its_own_time() -> None:
    node = make_node()
    gpu = make_gpu(node)
    record(sample(gpu, NOW - timedelta(hours=1)))
    node.refresh_from_db()
    assert node.last_heartbeat_at == NOW
    record(sample(gpu, NOW + 30 * SECOND), sample(gpu, NOW + 20 * SECOND))
    node.refresh_from_db()
    assert node.last_heartbeat_at == NOW + 30 * SECOND
    record(sample(gpu, LATER + 50 * SECOND))
    node.refresh_from_db()
    assert node.last_heartbeat_at == LATER  # An agent's fast clock promises no life beyond now.


def test_fresh_samples_bring_a_silent_node_back_and_old_ones_do_not(settings: LazySettings) -> None:
    settings.NODE_SILENT_AFTER_SECONDS = 90
    node = make_node()
    gpu, quiet = make_gpu(node), make_gpu(node)
    silence = NOW + timedelta(hours=1)
    services.sweep_silent_nodes(now=silence)
    record(sample(gpu, silence - 91 * SECOND), now=silence)
    node.refresh_from_db()
    assert node.silent
    record(sample(gpu, silence - 90 * SECOND), now=silence)
    node.refresh_from_db()
    assert (node.silent, node.status) == (False, "online")
    for one in (gpu, quiet):
        assert periods_of(one) == [("offline", NOW, silence), ("available", silence, None)]


def test_a_retired_gpus_samples_do_not_speak_for_the_node() -> None:
    node = make_node()
    record(sample(make_gpu(node, retired_at=LATER), LATER))
    node.refresh_from_db()
    assert node.last_heartbeat_at == NOW


def test_whole_and_broken_numbers_may_stand_in_one_batch() -> None:
    gpus = [make_gpu(), make_gpu()]
    record(sample(gpus[0], utilization_pct=50), sample(gpus[1], utilization_pct=50.5))
    assert list(LatestReading.objects.order_by("pk").values_list("utilization_pct", flat=True)) == [50, 50.5]


def test_a_large_batch_costs_as_many_queries_as_a_small_one(django_assert_num_queries: Any) -> None:
    gpus = [make_gpu(node) for node in (make_node(), make_node()) for _ in range(8)]
    record(sample(gpus[0], NOW))
    # Savepoint, GPUs, partitions, nodes, their update, readings, upsert, savepoint; and the COPY.
    with django_assert_num_queries(9):
        record(*(sample(gpu, LATER - second * SECOND) for gpu in gpus for second in range(50)))


@pytest.mark.django_db(transaction=True)
def test_batches_of_one_gpu_at_once_leave_the_newest_and_every_sample() -> None:
    gpu = make_gpu()
    record(sample(gpu, NOW, temperature_c=20.0))
    at_once(
        *[
            lambda second=second: record(sample(gpu, NOW + second * SECOND, temperature_c=95.0))
            for second in range(1, 7)
        ]
    )
    latest = LatestReading.objects.get()
    assert latest.recorded_at == NOW + 6 * SECOND
    assert MetricSample.objects.filter(gpu_id=gpu.pk).values("recorded_at").distinct().count() == 7


@pytest.mark.django_db(transaction=True)
def test_batches_of_many_gpus_in_any_order_do_not_lock_each_other_out() -> None:
    gpus = [make_gpu(node) for node in (make_node(), make_node()) for _ in range(4)]
    for turn in range(4):
        at = NOW + turn * SECOND
        xid = 79 if turn == 2 else None
        at_once(
            lambda at=at, xid=xid: record(*(sample(gpu, at, xid=xid) for gpu in gpus)),  # type: ignore[misc]
            lambda at=at, xid=xid: record(*(sample(gpu, at, xid=xid) for gpu in reversed(gpus))),  # type: ignore[misc]
            lambda at=at: services.turn_nodes(node_ids=[gpu.node_id for gpu in gpus], reason="x", now=at),  # type: ignore[misc]
        )
    assert set(GPU.objects.values_list("state", flat=True)) == {"unhealthy"}
    for gpu in gpus:
        check_chain(gpu.pk)


@pytest.mark.django_db(transaction=True)
def test_an_operator_who_speaks_between_reading_and_writing_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = make_gpu()
    upsert = ingest.upsert_latest

    def speak_first(newest: Any) -> None:
        upsert(newest)
        in_thread(lambda: services.mark_health(gpu_id=gpu.pk, health=GPUHealth.UNHEALTHY, reason="by hand", now=LATER))

    monkeypatch.setattr(ingest, "upsert_latest", speak_first)
    record(sample(gpu, xid=79))
    gpu.refresh_from_db()
    assert (gpu.health_cause, gpu.health_reason) == ("operator", "by hand")


@pytest.mark.django_db(transaction=True)
def test_an_answered_batch_is_committed() -> None:
    gpu = make_gpu()
    record(sample(gpu))
    assert not transaction.get_connection().in_atomic_block
    assert in_thread(MetricSample.objects.filter(gpu_id=gpu.pk).count) == 1
    assert Node.objects.get().last_heartbeat_at == LATER


@pytest.mark.django_db(transaction=True)
def test_two_batches_of_one_gpu_heat_it_one_after_the_other() -> None:
    gpu = make_gpu()
    record(sample(gpu, NOW, temperature_c=95.0), now=NOW)
    after(
        lambda: record(sample(gpu, NOW + MINUTE, temperature_c=95.0), now=NOW + MINUTE),
        lambda: record(sample(gpu, NOW + 2 * MINUTE, temperature_c=95.0), now=NOW + 2 * MINUTE),
    )
    gpu.refresh_from_db()
    assert (gpu.health_cause, streak(gpu)) == ("temperature", (NOW, None, NOW + 2 * MINUTE))


@pytest.mark.django_db(transaction=True)
def test_a_sample_that_comes_while_its_node_is_called_silent_brings_it_back() -> None:
    gpu = make_gpu()
    silence = NOW + timedelta(hours=1)
    after(
        lambda: services.sweep_silent_nodes(now=silence),
        lambda: record(sample(gpu, silence), now=silence),
    )
    assert Node.objects.get().status == "online"
    assert periods_of(gpu)[-1] == ("available", silence, None)
    check_chain(gpu.pk)
