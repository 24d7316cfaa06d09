"""The fleet at noon, as the home page shows it."""

from datetime import timedelta
from typing import Any

import pytest

from alerts.models import AlertEvent, AlertRule
from billing.models import Rate
from clusters.models import GPUHealth, LatestReading, NodeIntent
from clusters.services import mark_many, turn_nodes
from clusters.tests.factories import NOW, make_cluster, make_gpu, make_node
from dashboard import console, heatmap
from gpufleet.common.tests.factories import staff
from jobs.tests.factories import allocate, make_job
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db


def grids() -> list[heatmap.NodeGroup]:
    clusters = heatmap.heat_map(console.fleet_now(now=NOW).report)
    return [group for cluster in clusters for group in cluster.groups or []]


def counts() -> dict[str, int]:
    return {one.state: one.gpus for one in console.fleet_now(now=NOW).states if one.gpus}


def test_a_held_gpu_is_sold_whatever_else_is_true_of_it() -> None:
    node = make_node(intent="draining")
    held, free = make_gpu(node), make_gpu(node)
    allocate(make_job(status="running"), [held])
    assert counts() == {"sold": 1, "draining": 1}
    cells = grids()[0].nodes[0].gpus
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
    groups = [(one.cluster, one.model, [node.hostname for node in one.nodes]) for one in grids()]
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
    cells = grids()[0].nodes[0].gpus
    assert cells[0].sentence == f"GPU 0: sold to fold (job {job.pk}) of acme, 93 % busy, 71 °C, 612 W"
    assert cells[0].sign == "93"
    assert cells[1].sentence == "GPU 1: unhealthy: XID 79"
    assert (cells[1].sign, cells[1].gpu_index) == ("U", sick.gpu_index)


def test_a_reading_that_is_minutes_old_says_nothing_of_now() -> None:
    gpu = make_gpu(make_node())
    allocate(make_job(status="running"), [gpu])
    LatestReading.objects.create(gpu=gpu, recorded_at=NOW, utilization_pct=50)

    def sign(age: timedelta) -> str:
        return heatmap.grid(gpu.node.cluster_id, now=NOW + age)[0].nodes[0].gpus[0].sign

    assert (sign(timedelta(seconds=119)), sign(timedelta(minutes=2))) == ("50", "–")


def test_an_idle_cell_is_empty_and_an_unmeasured_sold_one_says_so() -> None:
    node = make_node()
    held = make_gpu(node)
    make_gpu(node)
    allocate(make_job(status="running"), [held])
    cells = grids()[0].nodes[0].gpus
    assert [cell.sign for cell in cells] == ["–", ""]
    assert cells[1].sentence == "GPU 1: idle"


def test_a_large_fleet_is_folded_and_still_every_gpu_has_its_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heatmap, "OPEN_UP_TO", 2)
    cluster = make_cluster()
    for _ in range(3):
        make_gpu(make_node(cluster))
    (heat,) = heatmap.heat_map(console.fleet_now(now=NOW).report)
    assert (heat.present.gpus, heat.groups) == (3, None)
    assert sum(group.gpus for group in heatmap.grid(cluster.pk, now=NOW)) == 3


def test_a_small_cell_says_its_tenth_and_its_node_says_the_rest() -> None:
    node = make_node(hostname="fra-01")
    busy, lazy, silent = (make_gpu(node) for _ in range(3))
    make_gpu(node, health="unhealthy")
    allocate(make_job(status="running"), [busy, lazy, silent])
    for gpu, used in ((busy, 100), (lazy, 19.9)):
        LatestReading.objects.create(gpu=gpu, recorded_at=NOW, utilization_pct=used)
    (row,) = heatmap.grid(node.cluster_id, now=NOW)[0].nodes
    assert [cell.digit for cell in row.gpus] == ["9", "1", "–", "U"]
    assert [cell.shade for cell in row.gpus] == ["gf-heat-4", "gf-heat-0", "gf-fill-sold", "gf-fill-unhealthy"]
    assert row.sentence == "fra-01, online: 3 sold, 1 unhealthy, the sold ones 60 % busy"


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


def test_only_what_fires_is_an_incident_the_costliest_first() -> None:
    rule = AlertRule.objects.get(type="health_degraded")
    costs = ["2.00", "99.00", "10.00", "99.00", None, None]
    for number, status in enumerate(["firing", "resolved", "firing", "pending", "firing", "firing"]):
        AlertEvent.objects.create(
            rule=rule,
            subject=f"cluster:{number}",
            status=status,
            value=1,
            message=str(number),
            since=NOW,
            fired_at=NOW + timedelta(minutes=number),
            cost_per_hour=costs[number],
        )
    incidents = console.incidents_now()
    assert incidents.firing == 4
    assert [event.message for event in incidents.first] == ["2", "0", "5", "4"]


def test_only_what_is_urgent_alarms() -> None:
    node = make_node()
    gpu = make_gpu(node)
    make_job(status="blocked", cluster=node.cluster)
    client = staff("view_gpu", "view_job")
    calm = client.get("/admin/").content.decode()
    assert "1</strong> job is on hold" in calm
    assert "gf-alarm" not in calm
    mark_many(gpu_ids=[gpu.pk], health=GPUHealth.UNHEALTHY, reason="it smells", now=NOW)
    assert "gf-alarm" in client.get("/admin/").content.decode()


def test_a_node_that_is_not_online_has_a_letter_beside_its_name() -> None:
    node = make_node()
    make_gpu(node)
    turn_nodes(node_ids=[node.pk], intent=NodeIntent.MAINTENANCE, reason="a fan", now=NOW)
    page = staff("view_gpu").get("/admin/").content.decode()
    assert 'title="maintenance"><span aria-hidden="true">M</span>' in page


def test_the_first_steps_lead_nobody_to_what_he_may_not_do() -> None:
    def links(*may: str, name: str) -> set[str]:
        page = staff("view_gpu", *may, name=name).get("/admin/").content.decode()
        return {
            path
            for path in ("clusters/cluster", "billing/rate", "tenants/tenant", "apikeys/apikey")
            if f"/{path}/add/" in page
        }

    assert links(name="vera") == set()
    assert links("add_rate", name="fiona") == {"billing/rate"}
    assert links("add_cluster", "add_tenant", "add_apikey", name="ada") == {
        "clusters/cluster",
        "tenants/tenant",
        "apikeys/apikey",
    }


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
    cluster = make_cluster()
    for _ in range(size):
        node = make_node(cluster)
        gpus = [make_gpu(node) for _ in range(4)]
        allocate(make_job(cluster=cluster, status="running"), gpus[:2])
        LatestReading.objects.create(gpu=gpus[0], recorded_at=NOW)
        make_job(cluster=cluster)
    with django_assert_num_queries(9):
        heatmap.heat_map(console.fleet_now(now=NOW).report)
        console.queue_now(now=NOW)
        console.incidents_now()
