"""The fleet at noon, as the home page shows it."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from alerts.models import AlertEvent, AlertRule
from billing.models import Rate
from clusters.models import LatestReading
from clusters.tests.factories import NOW, make_cluster, make_gpu, make_node
from dashboard import console
from jobs.tests.factories import allocate, make_job
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db


def counts() -> dict[str, int]:
    return {one.state: one.gpus for one in console.fleet_now(now=NOW).states if one.gpus}


def test_a_held_gpu_is_sold_whatever_else_is_true_of_it() -> None:
    node = make_node(intent="draining")
    held, free = make_gpu(node), make_gpu(node)
    allocate(make_job(status="running"), [held])
    assert counts() == {"sold": 1, "draining": 1}
    cells = console.fleet_now(now=NOW).groups[0].nodes[0].gpus
    assert [(cell.state, cell.trouble) for cell in cells] == [("sold", "draining"), ("draining", "draining")]
    assert free.gpu_index == cells[1].gpu_index


def test_a_job_that_ended_holds_nothing_and_retired_gpus_are_not_there() -> None:
    node = make_node()
    gpu = make_gpu(node)
    make_gpu(node, retired_at=NOW + timedelta(hours=1))
    allocate(make_job(status="completed"), [gpu], end=NOW + timedelta(minutes=5))
    assert counts() == {"idle": 1}


def test_every_state_is_counted_and_the_shares_are_parts_of_the_fleet() -> None:
    make_gpu(make_node())
    make_gpu(make_node(intent="draining"))
    make_gpu(make_node(intent="maintenance"))
    make_gpu(make_node(silent=True))
    make_gpu(make_node(), health="unhealthy", health_reason="94 °C")
    fleet = console.fleet_now(now=NOW)
    assert counts() == {"idle": 1, "draining": 1, "maintenance": 1, "offline": 1, "unhealthy": 1}
    assert fleet.gpus == 5
    assert sum(one.share for one in fleet.states) == pytest.approx(1)
    assert {one.percent for one in fleet.states} == {0.0, 20.0}


def test_the_grid_groups_nodes_by_cluster_and_model_in_the_order_of_their_names() -> None:
    east, west = make_cluster("east"), make_cluster("west")
    make_gpu(make_node(west, "w-1"), model="L40S")
    make_gpu(make_node(east, "e-2"), model="H100")
    make_gpu(make_node(east, "e-1"), model="H100")
    mixed = make_node(east, "e-3")
    make_gpu(mixed, model="H100")
    make_gpu(mixed, model="A10")
    make_node(east, "e-4")
    groups = [
        (one.cluster, one.model, [node.hostname for node in one.nodes]) for one in console.fleet_now(now=NOW).groups
    ]
    assert groups == [
        ("east", "H100", ["e-1", "e-2"]),
        ("east", "no GPUs yet", ["e-4"]),
        ("east", "several models", ["e-3"]),
        ("west", "L40S", ["w-1"]),
    ]


def test_a_cell_says_in_words_what_its_colour_says() -> None:
    node = make_node()
    gpu, sick = make_gpu(node), make_gpu(node, health="unhealthy", health_reason="XID 79")
    job = make_job("fold", status="running", tenant=alice())
    allocate(job, [gpu])
    LatestReading.objects.create(
        gpu=gpu, recorded_at=NOW, utilization_pct=93.4, temperature_c=71, memory_used_mb=1, power_draw_w=612
    )
    cells = console.fleet_now(now=NOW).groups[0].nodes[0].gpus
    assert cells[0].sentence == f"GPU 0: sold to fold (job {job.pk}) of acme, 93 % busy, 71 °C, 612 W"
    assert cells[0].sign == "93"
    assert cells[1].sentence == "GPU 1: unhealthy: XID 79"
    assert (cells[1].sign, cells[1].gpu_index) == ("U", sick.gpu_index)


def test_a_reading_that_is_minutes_old_says_nothing_of_now() -> None:
    gpu = make_gpu(make_node())
    allocate(make_job(status="running"), [gpu])
    LatestReading.objects.create(gpu=gpu, recorded_at=NOW, utilization_pct=50)

    def sign(age: timedelta) -> str:
        return console.fleet_now(now=NOW + age).groups[0].nodes[0].gpus[0].sign

    assert (sign(timedelta(seconds=119)), sign(timedelta(minutes=2))) == ("50", "–")


def test_an_idle_cell_is_empty_and_an_unmeasured_sold_one_says_so() -> None:
    node = make_node()
    held = make_gpu(node)
    make_gpu(node)
    allocate(make_job(status="running"), [held])
    cells = console.fleet_now(now=NOW).groups[0].nodes[0].gpus
    assert [cell.sign for cell in cells] == ["–", ""]
    assert cells[1].sentence == "GPU 1: idle"


def test_a_large_fleet_is_counted_whole_and_shown_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "NODES_SHOWN", 2)
    cluster = make_cluster()
    for _ in range(3):
        make_gpu(make_node(cluster))
    fleet = console.fleet_now(now=NOW)
    assert (fleet.gpus, fleet.nodes_total, fleet.nodes_shown) == (3, 3, 2)
    assert sum(len(group.nodes) for group in fleet.groups) == 2


def test_the_queue_counts_what_runs_waits_and_is_held_and_shows_its_head() -> None:
    cluster = make_cluster()
    make_job("late", cluster=cluster, priority=5, gpu_count=4, submitted_at=NOW + timedelta(minutes=1))
    make_job("early", cluster=cluster, priority=5, gpu_count=2)
    make_job("urgent", cluster=cluster, priority=1, gpu_count=1, submitted_at=NOW + timedelta(minutes=2))
    make_job("held", cluster=cluster, status="blocked", gpu_count=64)
    make_job("busy", cluster=cluster, status="running", gpu_count=8)
    make_job("over", cluster=cluster, status="completed", gpu_count=16)
    queue = console.queue_now(now=NOW + timedelta(minutes=10))
    assert [one.job.name for one in queue.head] == ["urgent", "early", "late"]
    assert (queue.running, queue.running_gpus, queue.waiting, queue.waiting_gpus, queue.held) == (1, 8, 3, 7, 1)
    assert queue.oldest == timedelta(minutes=10)
    assert queue.head[0].waited == timedelta(minutes=8)


def test_an_empty_queue_has_no_oldest_job() -> None:
    queue = console.queue_now(now=NOW)
    assert (queue.waiting, queue.waiting_gpus, queue.oldest, list(queue.head)) == (0, 0, None, [])


def test_metered_money_is_the_part_of_each_allocation_within_the_day_at_its_own_price() -> None:
    node, day = make_node(), timedelta(hours=24)
    euro, dollar = make_job(status="running"), make_job(status="running")
    price: dict[str, Any] = {"rate_id": 1, "price_per_gpu_hour": Decimal("2.50"), "currency": "USD"}
    allocate(dollar, [make_gpu(node)], start=NOW - 2 * day, end=NOW - day + timedelta(hours=3), **price)
    allocate(dollar, [make_gpu(node)], start=NOW - timedelta(hours=2), **price)
    allocate(euro, [make_gpu(node)], start=NOW - timedelta(minutes=30), **{**price, "currency": "EUR"})
    allocate(dollar, [make_gpu(node)], start=NOW - 3 * day, end=NOW - day, **price)
    allocate(dollar, [make_gpu(node)], start=NOW - timedelta(hours=5))
    amounts = {one.currency: one.amount for one in console.metered_last_day(now=NOW)}
    assert amounts == {"USD": Decimal("12.50"), "EUR": Decimal("1.25")}


def test_only_what_fires_is_an_incident_the_newest_first() -> None:
    rule = AlertRule.objects.get(type="health_degraded")
    for number, status in enumerate(["firing", "resolved", "firing", "pending"]):
        AlertEvent.objects.create(
            rule=rule,
            subject=f"cluster:{number}",
            status=status,
            value=1,
            message=str(number),
            since=NOW,
            fired_at=NOW + timedelta(minutes=number),
        )
    incidents = console.incidents_now()
    assert incidents.firing == 2
    assert [event.message for event in incidents.newest] == ["2", "0"]


def test_the_first_steps_follow_the_operator() -> None:
    assert console.first_steps() == console.FirstSteps(False, False, False, False, False, False)
    node = make_node()
    assert console.first_steps() == console.FirstSteps(True, True, False, False, False, False)
    make_gpu(node)
    bob()
    make_job()
    Rate.objects.create(gpu_model="H100", price_per_gpu_hour=1, valid_from=NOW, recorded_at=NOW, recorded_by="test")
    assert console.first_steps() == console.FirstSteps(True, True, True, True, True, True)


@pytest.mark.parametrize("size", [1, 6])
def test_the_number_of_queries_does_not_grow_with_the_fleet(size: int, django_assert_num_queries: Any) -> None:
    for _ in range(size):
        node = make_node()
        gpus = [make_gpu(node) for _ in range(4)]
        allocate(make_job(status="running", tenant=None), gpus[:2])
        LatestReading.objects.create(gpu=gpus[0], recorded_at=NOW)
        make_job()
    with django_assert_num_queries(11):
        console.fleet_now(now=NOW)
        console.queue_now(now=NOW)
        console.metered_last_day(now=NOW)
        console.incidents_now()
