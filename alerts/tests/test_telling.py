"""Who is told of what, when, and in which words: the outbox, looked at after each evaluation."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from alerts import queries, services
from alerts.models import AlertEvent, AlertRule, Channel, Delivery
from alerts.tests.factories import MINUTE, NOW, make_channel, make_rule, statuses
from billing.tests.factories import make_rate
from clusters.models import GPU, LatestReading, Node
from clusters.tests.factories import make_cluster, make_gpu, make_node
from gpufleet.common.errors import InvalidInput
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def only_our_rules() -> None:
    AlertRule.objects.all().delete()


@pytest.fixture
def node() -> Node:
    """A node of two H100 at 2 USD an hour, both at 60 °C."""
    make_rate("H100", "2.00")
    node = make_node(make_cluster("east"), "node-7")
    for _ in range(2):
        gpu = make_gpu(node, model="H100")
        LatestReading.objects.create(gpu=gpu, recorded_at=NOW, temperature_c=60.0)
    return node


def heat(node: Node, celsius: float, *, now: Any = NOW) -> None:
    LatestReading.objects.filter(gpu__node=node).update(temperature_c=celsius, recorded_at=now)


def run(minutes: float = 0) -> None:
    services.evaluate_rules(now=NOW + minutes * MINUTE)


def told() -> list[tuple[str, str, int]]:
    """(channel, kind, number of incidents) of each message, the oldest first."""
    rows = Delivery.objects.order_by("pk").prefetch_related("events").select_related("channel")
    return [(row.channel.name, row.kind, len(row.events.all())) for row in rows]


def hot_rule(**changes: Any) -> AlertRule:
    return make_rule(**{"name": "hot", "type": "gpu_temperature", "threshold": 85.0, **changes})


def test_one_message_speaks_of_all_incidents_of_a_rule_once(node: Node) -> None:
    make_channel()
    hot_rule()
    heat(node, 91)
    run()
    run(0.5)
    assert told() == [("on call", "firing", 2)]
    heat(node, 50)
    run(1)
    run(1.5)
    assert told() == [("on call", "firing", 2), ("on call", "resolved", 2)]


def test_a_message_says_what_where_since_when_how_bad_what_it_costs_the_link_and_what_to_do(
    node: Node, settings: Any
) -> None:
    settings.PUBLIC_URL = "https://fleet.example/"
    make_channel()
    hot_rule(severity="critical")
    heat(node, 91)
    run()
    letter = Delivery.objects.get().body
    first = AlertEvent.objects.order_by("pk")[0]
    assert letter["title"] == "[FIRING] critical: hot (2 incidents)"
    assert letter["cost_per_hour"] == ["4.00 USD"]
    assert "Costs 4.00 USD an hour." in letter["text"]
    where = "Where: cluster east, node node-7, GPU model H100."
    line = f"- GPU 0 of node-7 is at 91 °C (limit 85 °C). {where} Since 2026-03-01T12:00:00Z. 2.00 USD an hour."
    link = f"https://fleet.example/admin/alerts/alertevent/{first.pk}/change/"
    assert f"{line}\n  {link}" in letter["text"]
    assert letter["text"].endswith(f"What to do: {letter['remedy']}")
    assert "drain the node" in letter["remedy"]


def test_the_costliest_incident_comes_first(node: Node) -> None:
    make_rate("B200", "9.00")
    gpu = make_gpu(node, model="B200")
    LatestReading.objects.create(gpu=gpu, recorded_at=NOW, temperature_c=91)
    make_channel()
    hot_rule()
    heat(node, 91)
    run()
    assert [line["cost_per_hour"] for line in Delivery.objects.get().body["events"]] == ["9.00", "2.00", "2.00"]


def test_routes_go_by_severity_and_scope_and_a_rule_may_name_its_own_channels(node: Node) -> None:
    make_channel("all")
    make_channel("grave alone", min_severity="critical")
    make_channel("this cluster", cluster=node.cluster)
    make_channel("another cluster", cluster=make_cluster("west"))
    make_channel("one tenant", tenant=make_tenant())
    make_channel("this model", gpu_model="H100")
    make_channel("another model", gpu_model="B200")
    make_channel("just as grave", min_severity="warning")
    make_channel("off", enabled=False)
    named = make_channel("named", min_severity="")
    hot_rule(severity="warning")
    heat(node, 91)
    run()
    assert [name for name, _, _ in told()] == ["all", "this cluster", "this model", "just as grave"]
    hot_rule(name="special", channels=[named])
    run(1)
    assert told()[4:] == [("named", "firing", 2)]


def test_pagerduty_gets_a_message_an_incident(node: Node) -> None:
    make_channel(kind="pagerduty", secret="k")
    hot_rule()
    heat(node, 91)
    run()
    assert told() == [("on call", "firing", 1)] * 2


def test_a_large_fire_is_told_in_pieces_and_cents_are_kept(node: Node) -> None:
    make_rate("B200", "9.99")
    make_channel()
    hot_rule()
    for _ in range(51):
        LatestReading.objects.create(gpu=make_gpu(node, model="B200"), recorded_at=NOW, temperature_c=91)
    run()
    assert told() == [("on call", "firing", 50), ("on call", "firing", 1)]
    assert set(AlertEvent.objects.values_list("cost_per_hour", flat=True)) == {Decimal("9.99")}


def test_the_end_is_told_to_whoever_heard_of_the_beginning(node: Node) -> None:
    make_channel("early")
    hot_rule()
    heat(node, 91)
    run()
    make_channel("late")
    heat(node, 50)
    run(1)
    assert told() == [("early", "firing", 2), ("early", "resolved", 2)]


def test_a_silent_node_is_one_event_and_its_gpus_hang_under_it_until_it_is_back(node: Node) -> None:
    make_channel()
    make_rule(name="silent", type="node_silent", threshold=60.0)
    hot_rule()
    heat(node, 91)
    Node.objects.update(silent=True, last_heartbeat_at=NOW - 2 * MINUTE)
    run()
    parent = AlertEvent.objects.get(rule__type="node_silent")
    assert parent.message == "node node-7 has been silent for 120 s (limit 60 s)."
    assert parent.cost_per_hour == Decimal("4.00")
    assert AlertEvent.objects.filter(parent=parent, status="firing").count() == 2
    assert told() == [("on call", "firing", 1)]
    Node.objects.update(silent=False)
    heat(node, 91, now=NOW + MINUTE)
    run(1)
    assert AlertEvent.objects.filter(parent=parent).count() == 0
    assert sorted(told()[1:]) == [("on call", "firing", 2), ("on call", "resolved", 1)]


def test_a_silent_node_explains_its_own_gpus_alone(node: Node) -> None:
    make_channel()
    make_rule(name="silent", type="node_silent", threshold=60.0)
    hot_rule()
    other = make_gpu(make_node(node.cluster), model="H100")
    LatestReading.objects.create(gpu=other, recorded_at=NOW, temperature_c=91.0)
    heat(node, 91)
    Node.objects.filter(pk=node.pk).update(silent=True, last_heartbeat_at=NOW - 2 * MINUTE)
    run()
    assert AlertEvent.objects.get(subject=f"gpu:{other.pk}").parent is None
    assert told() == [("on call", "firing", 1)] * 2


def test_in_maintenance_nobody_is_told_and_what_outlasts_it_is(node: Node) -> None:
    make_channel()
    hot_rule()
    plan: dict[str, Any] = {
        "reason": "fans",
        "actor": "key:1",
        "now": NOW,
        "starts_at": NOW,
        "ends_at": NOW + 60 * MINUTE,
    }
    other = services.plan_maintenance(**plan, node=make_node())
    services.plan_maintenance(**plan, node=node)
    heat(node, 91)
    run()
    assert (statuses(), told()) == (["firing"] * 2, [])
    services.end_maintenance(window_id=other.pk, now=NOW + MINUTE)
    run(1)
    assert told() == []
    heat(node, 91, now=NOW + 60 * MINUTE)
    run(60)
    assert told() == [("on call", "firing", 2)]


def test_maintenance_that_has_not_begun_covers_nothing(node: Node) -> None:
    make_channel()
    hot_rule()
    later: dict[str, Any] = {
        "starts_at": NOW + MINUTE,
        "ends_at": NOW + 60 * MINUTE,
        "reason": "fans",
        "actor": "key:1",
        "now": NOW,
    }
    services.plan_maintenance(node=node, **later)
    heat(node, 91)
    run()
    assert told() == [("on call", "firing", 2)]


def test_maintenance_of_a_cluster_covers_its_nodes_and_what_ended_within_it_is_never_told(node: Node) -> None:
    make_channel()
    hot_rule()
    window = services.plan_maintenance(
        cluster=node.cluster, starts_at=NOW, ends_at=NOW + 60 * MINUTE, reason="fans", actor="key:1", now=NOW
    )
    heat(node, 91)
    run()
    heat(node, 50)
    run(1)
    services.end_maintenance(window_id=window.pk, now=NOW + 2 * MINUTE)
    run(3)
    assert (statuses(), told()) == (["resolved"] * 2, [])


@pytest.mark.parametrize(
    ("starts", "ends", "both"), [(0, 0, False), (10, 5, False), (-20, -10, False), (0, 31 * 1440, False), (0, 5, True)]
)
def test_planned_work_has_one_place_and_an_end_within_30_days(starts: int, ends: int, both: bool, node: Node) -> None:
    with pytest.raises(InvalidInput):
        services.plan_maintenance(
            node=node,
            cluster=node.cluster if both else None,
            starts_at=NOW + starts * MINUTE,
            ends_at=NOW + ends * MINUTE,
            reason="?",
            actor="key:1",
            now=NOW,
        )


def test_a_silence_tells_nobody_counts_what_it_costs_and_speaks_before_it_ends(node: Node) -> None:
    make_channel()
    rule = hot_rule()
    services.silence_rule(rule_id=rule.pk, until=NOW + 60 * MINUTE, reason="fans", actor="user:eve", now=NOW)
    heat(node, 91)
    run()
    assert (statuses(), told()) == (["firing"] * 2, [])
    rule.refresh_from_db()
    assert queries.silence_costs([rule], now=NOW + 30 * MINUTE) == {rule.pk: [(Decimal("2.00"), "USD")]}
    heat(node, 91, now=NOW + 45 * MINUTE)
    run(45)
    run(45.5)
    assert told() == [("on call", "silence_ending", 2)]
    text = Delivery.objects.get().body["text"]
    assert "The silence by user:eve (fans) ends at 2026-03-01T13:00:00Z." in text
    assert "has cost 3.00 USD so far" in text
    heat(node, 91, now=NOW + 60 * MINUTE)
    run(60)
    assert told()[1:] == [("on call", "firing", 2)]


def test_whoever_heard_of_it_before_a_silence_ends_hears_that_it_is_over(node: Node) -> None:
    """Else PagerDuty would keep an incident open for ever."""
    make_channel()
    rule = hot_rule()
    services.silence_rule(rule_id=rule.pk, until=NOW + 10 * MINUTE, reason="fans", actor="user:eve", now=NOW)
    heat(node, 91)
    run()
    heat(node, 50, now=NOW + MINUTE)
    run(1)
    run(2)
    assert told() == [("on call", "silence_ending", 2), ("on call", "resolved", 2)]


def test_what_is_in_maintenance_is_not_spoken_of_when_a_silence_is_about_to_end(node: Node) -> None:
    make_channel()
    rule = hot_rule()
    services.silence_rule(rule_id=rule.pk, until=NOW + 10 * MINUTE, reason="fans", actor="user:eve", now=NOW)
    services.plan_maintenance(
        node=node, starts_at=NOW, ends_at=NOW + 60 * MINUTE, reason="fans", actor="key:1", now=NOW
    )
    heat(node, 91)
    run()
    heat(node, 91, now=NOW + 10 * MINUTE)
    run(10)
    assert (statuses(), told()) == (["firing"] * 2, [])


def test_a_silence_that_is_ended_early_tells_what_fires(node: Node) -> None:
    make_channel()
    rule = hot_rule()
    services.silence_rule(rule_id=rule.pk, until=NOW + 60 * MINUTE, reason="fans", actor="user:eve", now=NOW)
    heat(node, 91)
    run()
    assert services.end_silence(rule_id=rule.pk, now=NOW + MINUTE).silence_reason == "fans"
    run(1)
    assert told() == [("on call", "firing", 2)]
    services.end_silence(rule_id=rule.pk, now=NOW + 5 * MINUTE)
    rule.refresh_from_db()
    assert rule.silenced_until == NOW + MINUTE


def test_an_incident_that_comes_and_goes_is_held_and_told_once_more(node: Node) -> None:
    make_channel()
    hot_rule()
    GPU.objects.filter(gpu_index=1).update(retired_at=NOW)
    for minute in range(8):
        heat(node, 91 if minute % 2 == 0 else 50, now=NOW + minute * MINUTE)
        run(minute)
    assert statuses() == ["resolved", "resolved", "resolved", "firing"]
    event = AlertEvent.objects.order_by("-pk")[0]
    assert event.flapping
    assert "held until it has been well for 30 min" in event.message
    assert [kind for _, kind, _ in told()] == ["firing", "resolved"] * 3 + ["firing"]
    assert event.calm_since == NOW + 7 * MINUTE
    heat(node, 50, now=NOW + 36 * MINUTE)
    run(36)
    assert statuses()[-1] == "firing"
    heat(node, 50, now=NOW + 37 * MINUTE)
    run(37)
    assert statuses()[-1] == "resolved"


def test_one_gpu_that_comes_and_goes_does_not_hold_another(node: Node) -> None:
    make_channel()
    hot_rule()
    first = LatestReading.objects.order_by("pk")[0]
    for minute in range(7):
        heat(node, 50, now=NOW + minute * MINUTE)
        LatestReading.objects.filter(pk=first.pk).update(temperature_c=91 if minute % 2 == 0 else 50)
        run(minute)
    heat(node, 91, now=NOW + 7 * MINUTE)
    run(7)
    flaps = dict(AlertEvent.objects.filter(status="firing").values_list("subject", "flapping"))
    assert list(flaps.values()).count(True) == 1
    assert flaps[f"gpu:{first.pk}"]


def test_without_fresh_data_an_incident_is_neither_over_nor_confirmed(node: Node) -> None:
    rule = hot_rule()
    heat(node, 91)
    run()
    run(5)
    assert set(AlertEvent.objects.values_list("status", "missing_since")) == {("firing", NOW + 5 * MINUTE)}
    run(5.5)
    assert set(AlertEvent.objects.values_list("status", "missing_since")) == {("firing", NOW + 5 * MINUTE)}
    rule.refresh_from_db()
    assert (rule.evaluation.subjects, rule.evaluation.in_trouble, rule.evaluation.missing) == (2, 0, 2)
    heat(node, 91, now=NOW + 6 * MINUTE)
    run(6)
    assert set(AlertEvent.objects.values_list("status", "missing_since")) == {("firing", None)}


def test_a_silence_lasts_a_week_at_most() -> None:
    rule = make_rule()
    with pytest.raises(InvalidInput):
        services.silence_rule(rule_id=rule.pk, until=NOW + timedelta(days=8), reason="?", actor="key:1", now=NOW)


def test_without_a_channel_old_news_is_not_told_later(node: Node) -> None:
    hot_rule()
    heat(node, 91)
    run()
    make_channel()
    run(1)
    assert Channel.objects.count() == 1
    assert told() == []


def test_planned_work_on_one_node_says_nothing_of_another(node: Node) -> None:
    make_channel()
    hot_rule()
    other = make_node(node.cluster)
    services.plan_maintenance(
        node=other, starts_at=NOW, ends_at=NOW + 60 * MINUTE, reason="fans", actor="key:1", now=NOW
    )
    heat(node, 91)
    run()
    assert told() == [("on call", "firing", 2)]


def test_who_heard_of_one_incident_is_told_the_end_of_that_alone(node: Node) -> None:
    make_channel("early")
    hot_rule()
    first, second = LatestReading.objects.order_by("pk")
    LatestReading.objects.filter(pk=first.pk).update(temperature_c=91)
    run()
    Channel.objects.update(enabled=False)
    make_channel("late")
    heat(node, 91)
    run(0.5)
    Channel.objects.update(enabled=True)
    heat(node, 50)
    run(1)
    assert told()[2:] == [("early", "resolved", 1), ("late", "resolved", 1)]
    assert second.pk != first.pk
