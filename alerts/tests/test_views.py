"""The routes of alerts, called as clients call them."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from alerts.models import AlertEvent, AlertRule, RuleType
from apikeys.tests.factories import client_with, make_key
from tenants.models import Tenant
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db

RULE = {"name": "hot", "type": "health_degraded", "threshold": 20, "for_seconds": 60}


def client(*permissions: str, tenant: Tenant | None = None) -> APIClient:
    return client_with(make_key(tenant, permissions=permissions))


def make_event(tenant: Tenant | None = None, **fields: Any) -> AlertEvent:
    now = timezone.now()
    defaults: dict[str, Any] = {
        "subject": "cluster:1",
        "status": "firing",
        "value": 1.0,
        "message": "m",
        "fired_at": now,
    }
    rule = fields.pop("rule", None) or AlertRule.objects.get(type="health_degraded")
    return AlertEvent.objects.create(rule=rule, tenant=tenant, since=now, **{**defaults, **fields})


def test_the_built_in_rules_exist_after_the_first_migration() -> None:
    rules = client("read").get("/api/alerts").json()
    assert {rule["type"] for rule in rules} == set(RuleType.values)
    assert all(rule["enabled"] for rule in rules)


def test_a_rule_is_made_changed_silenced_and_deleted() -> None:
    api = client("admin")
    made = api.post("/api/alerts", RULE)
    assert made.status_code == 201
    url = f"/api/alerts/{made.json()['id']}"
    assert api.get(url).json() == made.json()
    changed = api.patch(url, {"threshold": 30, "enabled": False}).json()
    assert (changed["threshold"], changed["enabled"], changed["name"]) == (30.0, False, "hot")
    until = (timezone.now() + timedelta(hours=1)).isoformat()
    silenced = api.post(f"{url}/silence", {"until": until, "reason": "rack move"}).json()
    assert silenced["silence_reason"] == "rack move"
    assert silenced["silenced_by"].startswith("key:")
    ended = api.delete(f"{url}/silence").json()
    assert ended["silenced_until"] < silenced["silenced_until"]
    assert ended["silence_reason"] == "rack move"
    assert api.delete(url).status_code == 204
    assert api.get(url).status_code == 404


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"type": "nonsense"}, "#/type"),
        ({"threshold": "high"}, "#/threshold"),
        ({"threshold": "NaN"}, "#/threshold"),
        ({"threshold": "-inf"}, "#/threshold"),
        ({"threshold": True}, "#/threshold"),
        ({"threshold": None}, "#/threshold"),
        ({"channels": [1.0]}, "#/channels"),
        ({"channels": 1}, "#/channels"),
        ({"cluster_id": 1.5}, "#/cluster_id"),
        ({"cluster_id": True}, "#/cluster_id"),
        ({"tenant_id": 1}, "#/tenant_id"),
        ({"severity": "grave"}, "#/severity"),
        ({"for_seconds": -1}, "#/for_seconds"),
        ({"for_seconds": 10**12}, "#/for_seconds"),
        ({"cluster_id": 999}, "#/cluster_id"),
        ({"cluster_id": 10**30}, "#/cluster_id"),
        ({"recovery_threshold": 21}, "#/recovery_threshold"),
        ({"treshold": 3}, "#/treshold"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_made(change: dict[str, Any], pointer: str) -> None:
    before = AlertRule.objects.count()
    answer = client("admin").post("/api/alerts", {**RULE, **change})
    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert AlertRule.objects.count() == before


def test_a_name_twice_is_a_conflict() -> None:
    api = client("admin")
    api.post("/api/alerts", RULE)
    answer = api.post("/api/alerts", RULE)
    assert (answer.status_code, answer["Content-Type"]) == (409, "application/problem+json")


def test_events_have_their_own_limits_and_filters() -> None:
    api = client("read")
    for number in range(3):
        make_event(subject=f"cluster:{number}")
    make_event(subject="cluster:9", status="pending", fired_at=None)
    first = api.get("/api/alerts/events?limit=2")
    assert [event["subject"] for event in first.json()] == ["cluster:2", "cluster:1"]
    assert 'rel="next"' in first["Link"]
    assert len(api.get("/api/alerts/events").json()) == 3
    assert len(api.get("/api/alerts/events?subject=cluster:1").json()) == 1
    assert api.get("/api/alerts/events?acknowledged=true").json() == []
    for limit in ("0", "101", "many", "1.5", ""):
        assert api.get(f"/api/alerts/events?limit={limit}").status_code == 400
    assert api.get("/api/alerts/events?status=pending").status_code == 400
    assert len(api.get("/api/alerts/events?acknowledged=false").json()) == 3


@pytest.mark.parametrize(
    "query", ["events?acknowledged=maybe", "events?acknowledged=2", "events?rule_id=1.5", "?enabled=maybe", "?type=x"]
)
def test_a_filter_that_means_nothing_never_gives_everything(query: str) -> None:
    make_event()
    answer = client("read").get(f"/api/alerts{'' if query[0] == '?' else '/'}{query}")
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")


def test_the_type_and_the_scope_of_a_rule_stay() -> None:
    rule = AlertRule.objects.get(type="quota_breach")
    for change in ({"type": "node_silent"}, {"cluster_id": 1}, {"tenant_id": None}, {"gpu_model": ""}):
        assert client("admin").patch(f"/api/alerts/{rule.pk}", change).status_code == 400


def test_an_acknowledgement_says_nothing_more() -> None:
    event = make_event()
    answer = client("write").post(f"/api/alerts/events/{event.pk}/acknowledge", {"by": "somebody else"})
    assert [error["pointer"] for error in answer.json()["errors"]] == ["#/by"]
    assert not AlertEvent.objects.filter(acknowledged_at__isnull=False).exists()


def test_events_are_ranked_by_what_they_cost_by_the_hour() -> None:
    api = client("read")
    for subject, cost, status in [
        ("a", "2", "firing"),
        ("b", None, "firing"),
        ("c", "10", "firing"),
        ("d", "99", "resolved"),
    ]:
        make_event(subject=subject, cost_per_hour=cost, status=status, currency="USD")
    ranked = api.get("/api/alerts/events?order=cost")
    assert [event["subject"] for event in ranked.json()] == ["c", "a", "b", "d"]
    assert [event["subject"] for event in api.get("/api/alerts/events?order=cost&limit=1").json()] == ["c"]
    assert [event["subject"] for event in api.get("/api/alerts/events?order=newest").json()] == ["d", "c", "b", "a"]
    cursor = re.findall("cursor=([^&>]+)", api.get("/api/alerts/events?limit=1")["Link"])[0]
    for wrong in ("order=price", "order=cost&limit=101", "order=cost&limit=0", f"order=cost&cursor={cursor}"):
        assert api.get(f"/api/alerts/events?{wrong}").status_code == 400, wrong


def test_events_come_fifty_at_a_time_unless_asked_otherwise() -> None:
    rule = AlertRule.objects.get(type="health_degraded")
    now = timezone.now()
    AlertEvent.objects.bulk_create(
        AlertEvent(rule=rule, subject=f"cluster:{n}", status="firing", value=1, since=now, fired_at=now)
        for n in range(101)
    )
    api = client("read")
    assert len(api.get("/api/alerts/events").json()) == 50
    assert len(api.get("/api/alerts/events?order=cost").json()) == 50
    assert len(api.get("/api/alerts/events?limit=100").json()) == 100


def test_a_tenant_sees_and_acknowledges_its_own_events_alone() -> None:
    alice, bob = make_tenant("acme"), make_tenant("bluefin")
    hers, his, fleet = make_event(alice), make_event(bob, subject="b"), make_event(subject="f")
    api = client("read", "write", tenant=alice)
    assert [event["id"] for event in api.get("/api/alerts/events").json()] == [hers.pk]
    assert api.post(f"/api/alerts/events/{hers.pk}/acknowledge").status_code == 200
    for other in (his.pk, fleet.pk, 10**9):
        assert api.post(f"/api/alerts/events/{other}/acknowledge").status_code == 404
    assert AlertEvent.objects.filter(acknowledged_at__isnull=False).get() == hers
    assert api.get("/api/alerts").status_code == 403


@pytest.mark.parametrize("form", ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d", "tomorrow"])
def test_a_silence_ends_at_an_instant_with_its_offset(form: str) -> None:
    rule = AlertRule.objects.get(type="quota_breach")
    until = (timezone.now() + timedelta(days=2)).strftime(form)
    answer = client("write").post(f"/api/alerts/{rule.pk}/silence", {"until": until, "reason": "rack move"})
    assert answer.status_code == 400
    assert [(error["pointer"], error["code"]) for error in answer.json()["errors"]] == [("#/until", "invalid")]
    rule.refresh_from_db()
    assert rule.silenced_until is None
