"""One incident, one message: what hangs under what, and when it stands for itself again."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from alerts import services
from alerts.models import AlertEvent, AlertRule, Delivery
from alerts.services.explaining import LATELY
from alerts.tests.factories import MINUTE, NOW, make_channel, make_rule
from billing.tests.factories import make_rate
from clusters.models import GPU, Cluster, LatestReading, Node
from clusters.tests.factories import make_cluster, make_gpu, make_node
from jobs.models import SchedulerCycle
from jobs.tests.factories import make_job
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db

LONG = timedelta(hours=1)


@pytest.fixture(autouse=True)
def only_our_rules() -> None:
    AlertRule.objects.all().delete()
    make_rule(name="silent", type="node_silent", threshold=120.0, severity="critical")
    make_rule(name="ill", type="health_degraded", threshold=5.0, recovery_threshold=3.0, severity="critical")


@pytest.fixture
def nodes() -> list[Node]:
    """A cluster of ten nodes with ten GPUs each."""
    cluster = make_cluster("east")
    nodes = [make_node(cluster, f"east-{number}") for number in range(10)]
    for node in nodes:
        for _ in range(10):
            make_gpu(node, model="H100")
    return nodes


def fall_silent(node: Node, *, at: datetime = NOW - 2 * MINUTE) -> None:
    Node.objects.filter(pk=node.pk).update(silent=True, last_heartbeat_at=at)
    GPU.objects.filter(node=node).update(state="offline")


def come_back(node: Node, *, at: datetime = NOW) -> None:
    Node.objects.filter(pk=node.pk).update(silent=False, last_heartbeat_at=at)
    GPU.objects.filter(node=node, health="healthy").update(state="available")
    GPU.objects.filter(node=node, health="unhealthy").update(state="unhealthy")


def fall_ill(node: Node, gpus: int) -> None:
    ids = list(GPU.objects.filter(node=node).values_list("pk", flat=True)[:gpus])
    GPU.objects.filter(pk__in=ids).update(health="unhealthy", health_cause="xid", state="unhealthy")


def run(minutes: float = 0) -> None:
    services.evaluate_rules(now=NOW + minutes * MINUTE)


def told() -> list[tuple[str, str]]:
    """(rule, kind) of each message, the oldest first."""
    return list(Delivery.objects.order_by("pk").values_list("rule__name", "kind"))


def of(rule: str) -> AlertEvent:
    return AlertEvent.objects.filter(rule__name=rule).order_by("-pk")[0]


def test_a_silent_node_is_one_event_for_its_cluster_too(nodes: list[Node]) -> None:
    make_channel()
    fall_silent(nodes[0])
    run()
    assert of("ill").parent == of("silent")
    assert told() == [("silent", "firing")]
    come_back(nodes[0], at=NOW + MINUTE)
    run(1)
    assert set(AlertEvent.objects.values_list("status", flat=True)) == {"resolved"}
    assert told() == [("silent", "firing"), ("silent", "resolved")]


def test_a_cluster_that_is_ill_besides_wakes_somebody(nodes: list[Node]) -> None:
    make_channel()
    fall_ill(nodes[1], 5)
    fall_silent(nodes[0])
    run()
    assert of("ill").parent is None
    assert sorted(told()) == [("ill", "firing"), ("silent", "firing")]


def test_gpus_of_a_silent_node_that_are_ill_themselves_count_as_ill(nodes: list[Node]) -> None:
    make_channel()
    fall_ill(nodes[0], 5)
    fall_silent(nodes[0])
    run()
    assert of("ill").parent is None


def test_a_cluster_that_falls_ill_under_a_silence_is_told_then(nodes: list[Node]) -> None:
    make_channel()
    fall_silent(nodes[0])
    run()
    fall_ill(nodes[1], 5)
    run(1)
    assert of("ill").parent is None
    assert told() == [("silent", "firing"), ("ill", "firing")]


def test_what_outlasts_the_silence_is_delivered(nodes: list[Node]) -> None:
    """The node's rule is switched off: the cluster is as degraded as it was, and nobody else says so."""
    make_channel()
    fall_silent(nodes[0])
    run()
    services.switch_rules(rule_ids=[AlertRule.objects.get(name="silent").pk], enabled=False, now=NOW + LONG)
    run(60)
    assert of("ill").parent is None
    assert told() == [("silent", "firing"), ("silent", "resolved"), ("ill", "firing")]


def test_a_node_that_comes_back_broken_leaves_its_cluster_to_stand_alone(nodes: list[Node]) -> None:
    make_channel()
    fall_silent(nodes[0])
    run()
    GPU.objects.filter(node=nodes[0]).update(health="unhealthy", health_cause="xid")
    come_back(nodes[0], at=NOW + MINUTE)
    run(1)
    assert of("ill").parent is None
    assert told()[0] == ("silent", "firing")
    assert sorted(told()[1:]) == [("ill", "firing"), ("silent", "resolved")]


def test_hysteresis_is_for_what_people_were_told(nodes: list[Node]) -> None:
    """4 % is less than the threshold and more than the recovery; nobody heard of more."""
    make_channel()
    fall_ill(nodes[1], 4)
    fall_silent(nodes[0])
    run()
    assert of("ill").parent == of("silent")
    come_back(nodes[0], at=NOW + MINUTE)
    run(1)
    assert of("ill").status == "resolved"
    assert told() == [("silent", "firing"), ("silent", "resolved")]


def test_half_a_cluster_that_is_silent_is_one_message_with_all_its_nodes(nodes: list[Node]) -> None:
    make_channel()
    for node in nodes[:5]:
        fall_silent(node)
    run()
    assert told() == [("silent", "firing")]
    assert len(Delivery.objects.get().body["events"]) == 5
    for node in nodes[:4]:
        come_back(node, at=NOW + MINUTE)
    run(1)
    assert of("ill").parent == AlertEvent.objects.get(rule__name="silent", status="firing")
    assert told() == [("silent", "firing"), ("silent", "resolved")]


def test_a_second_node_that_has_just_fallen_silent_wakes_nobody_twice(nodes: list[Node]) -> None:
    """Its GPUs are offline before its own incident fires."""
    make_channel()
    fall_silent(nodes[0])
    run()
    fall_silent(nodes[1], at=NOW - MINUTE)
    run(0.5)
    assert of("ill").parent is not None
    run(1)
    assert told() == [("silent", "firing"), ("silent", "firing")]


def test_a_second_silence_that_has_no_incident_of_its_own_is_no_explanation_for_long(nodes: list[Node]) -> None:
    make_channel()
    AlertRule.objects.filter(name="silent").update(for_seconds=3600)
    fall_silent(nodes[0], at=NOW - LONG - 2 * MINUTE)
    run(-60)
    run()
    fall_silent(nodes[1], at=NOW)
    run(4)
    assert of("ill").parent is not None
    run((LATELY + MINUTE) / MINUTE)
    assert of("ill").parent is None


def test_a_cluster_is_told_of_before_its_nodes_where_their_rule_is_slower(nodes: list[Node]) -> None:
    make_channel()
    AlertRule.objects.filter(name="silent").update(threshold=600.0)
    fall_silent(nodes[0])
    run()
    assert told() == [("ill", "firing")]
    run(10)
    assert of("ill").parent == of("silent")
    assert told() == [("ill", "firing"), ("silent", "firing")]
    come_back(nodes[0], at=NOW + 11 * MINUTE)
    run(11)
    assert sorted(told()[2:]) == [("ill", "resolved"), ("silent", "resolved")]


def test_another_clusters_silence_explains_nothing(nodes: list[Node]) -> None:
    make_channel()
    other = make_node(make_cluster("west"))
    make_gpu(other)
    fall_silent(other)
    fall_ill(nodes[0], 6)
    run()
    assert AlertEvent.objects.get(rule__name="ill", cluster=nodes[0].cluster).parent is None
    assert AlertEvent.objects.get(rule__name="ill", cluster=other.cluster).parent == of("silent")


def test_under_a_silenced_rule_the_cluster_speaks_for_itself(nodes: list[Node]) -> None:
    """A silence is of the rule that it names, and not of what follows."""
    make_channel()
    rule = AlertRule.objects.get(name="silent")
    services.silence_rule(rule_id=rule.pk, until=NOW + 60 * MINUTE, reason="noise", actor="user:eve", now=NOW)
    fall_silent(nodes[0])
    run()
    assert told() == [("ill", "firing")]


def test_planned_work_on_the_node_covers_what_it_does_to_the_cluster(nodes: list[Node]) -> None:
    make_channel()
    services.plan_maintenance(
        node=nodes[0], starts_at=NOW, ends_at=NOW + 60 * MINUTE, reason="fans", actor="key:1", now=NOW
    )
    fall_silent(nodes[0])
    run()
    assert (of("ill").parent, told()) == (of("silent"), [])
    run(60)
    assert told() == [("silent", "firing")]


def test_an_acknowledged_silence_explains_as_before(nodes: list[Node]) -> None:
    make_channel()
    AlertRule.objects.filter(name="ill").update(for_seconds=120)
    fall_silent(nodes[0])
    run()
    services.acknowledge_event(event_id=of("silent").pk, actor="user:eve", tenant_id=None, now=NOW)
    run(2)
    assert of("ill").parent == of("silent")
    assert told() == [("silent", "firing")]


@pytest.mark.parametrize(
    "deaf",
    [
        {"min_severity": "", "named": "ill"},
        {"cluster": "east", "named": ""},
    ],
)
def test_who_would_not_hear_of_the_node_hears_of_the_cluster(nodes: list[Node], deaf: dict[str, Any]) -> None:
    """A channel of the one rule alone; one that takes both hears of one."""
    fields = {key: value for key, value in deaf.items() if key != "named"}
    if "cluster" in fields:
        fields["cluster"] = Cluster.objects.get(name="east")
    channel = make_channel(**fields)
    if deaf["named"]:
        AlertRule.objects.get(name=deaf["named"]).channels.set([channel])
    fall_silent(nodes[0])
    run()
    assert told() == ([("ill", "firing")] if deaf["named"] else [("silent", "firing")])


def test_leakage_that_is_a_silent_nodes_alone_hangs_under_it(nodes: list[Node]) -> None:
    make_channel()
    make_rate("H100", "1.00")
    make_rule(name="leak", type="leakage_rate", threshold=91.0, recovery_threshold=80.0)
    make_rule(name="leak east", type="leakage_rate", threshold=91.0, cluster=nodes[0].cluster)
    fall_silent(nodes[0])
    run()
    assert (of("leak").parent, of("leak east").parent) == (of("silent"), of("silent"))
    assert told() == [("silent", "firing")]
    come_back(nodes[0], at=NOW + MINUTE)
    run(1)
    assert of("leak").parent is None
    assert sorted(told()[1:]) == [("leak", "firing"), ("leak east", "firing"), ("silent", "resolved")]


def test_leakage_that_is_more_than_the_silence_is_told(nodes: list[Node]) -> None:
    make_channel()
    make_rate("H100", "1.00")
    make_rule(name="leak", type="leakage_rate", threshold=90.0)
    fall_silent(nodes[0])
    run()
    assert of("leak").parent is None


def test_a_late_scheduler_explains_the_jobs_that_wait_for_it(nodes: list[Node]) -> None:
    make_channel()
    make_rule(name="late", type="scheduler_late", threshold=120.0)
    make_rule(name="stalled", type="queue_stalled", threshold=15.0)
    cycle = SchedulerCycle.objects.create(finished_at=NOW - 20 * MINUTE, duration_ms=1)
    tenant = make_tenant()
    for _ in range(3):
        make_job(cluster=nodes[0].cluster, tenant=tenant, submitted_at=NOW - 20 * MINUTE)
    run()
    stalled = AlertEvent.objects.filter(rule__name="stalled", status="firing")
    assert set(stalled.values_list("parent", flat=True)) == {of("late").pk}
    assert told() == [("late", "firing")]
    SchedulerCycle.objects.filter(pk=cycle.pk).update(finished_at=NOW + MINUTE)
    run(1)
    assert set(stalled.values_list("parent", flat=True)) == {None}
    assert sorted(told()[1:]) == [("late", "resolved"), ("stalled", "firing")]


def test_without_fresh_data_nothing_is_told_when_its_cover_ends(nodes: list[Node]) -> None:
    """The node is back, and its GPUs have not said yet how hot they are."""
    make_channel()
    make_rule(name="hot", type="gpu_temperature", threshold=85.0)
    gpu = GPU.objects.filter(node=nodes[0])[0]
    reading = LatestReading.objects.create(gpu=gpu, recorded_at=NOW - MINUTE, temperature_c=91.0)
    fall_silent(nodes[0])
    run()
    assert told() == [("silent", "firing")]
    come_back(nodes[0], at=NOW + 9 * MINUTE)
    run(9)
    assert (of("hot").parent, of("hot").status) == (None, "firing")
    assert told() == [("silent", "firing"), ("silent", "resolved")]
    LatestReading.objects.filter(pk=reading.pk).update(recorded_at=NOW + 10 * MINUTE)
    run(10)
    assert told()[2:] == [("hot", "firing")]
