"""Channels: what may be one, and the routes of the API."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from alerts import services
from alerts.models import Channel, Delivery, RuleType
from alerts.services import ChannelHasHistory
from alerts.tests.factories import NOW, SECRET, make_channel, make_rule
from apikeys.tests.factories import client_with, make_admin_key, make_key
from clusters.tests.factories import make_cluster
from tenants.tests.factories import make_tenant

pytestmark = pytest.mark.django_db

HOOK = {"name": "hook", "kind": "webhook", "target": "https://8.8.8.8/alerts"}
CHANNELS = "/api/alerts/channels"
WINDOWS = "/api/alerts/maintenance"
# By which each type's subjects can be told apart.
SCOPES = {
    "utilization_low": {"cluster_id", "tenant_id", "gpu_model"},
    "quota_breach": {"tenant_id"},
    "health_degraded": {"cluster_id"},
    "node_silent": {"cluster_id"},
    "gpu_temperature": {"cluster_id", "gpu_model"},
    "queue_stalled": {"cluster_id", "tenant_id", "gpu_model"},
    "job_overrun": {"cluster_id", "tenant_id"},
    "leakage_rate": {"cluster_id", "gpu_model"},
    "unpriced_gpu": {"gpu_model"},
    "invoice_sync_failed": set(),
    "scheduler_late": set(),
}


def test_a_webhook_is_given_a_secret_that_is_shown_once() -> None:
    api = client_with(make_admin_key())
    made = api.post(CHANNELS, HOOK, headers={"Idempotency-Key": "one"})
    assert made.status_code == 201
    assert made.json()["secret"] == Channel.objects.get().secret
    assert made.json()["secret"].startswith("whsec_")
    assert api.post(CHANNELS, HOOK, headers={"Idempotency-Key": "one"}).json()["secret"] is None
    shown = api.get(f"{CHANNELS}/{made.json()['id']}").json()
    assert "secret" not in shown
    assert (shown["target"], shown["min_severity"], shown["enabled"]) == (HOOK["target"], "warning", True)
    assert api.get(CHANNELS).json() == [shown]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"target": "https://127.0.0.1/"}, "#/target"),
        ({"target": "https://169.254.169.254/latest/meta-data"}, "#/target"),
        ({"target": "https://[::ffff:10.0.0.1]/"}, "#/target"),
        ({"target": "http://8.8.8.8/"}, "#/target"),
        ({"target": "https://no-such-host.invalid/"}, "#/target"),
        ({"secret": "short"}, "#/secret"),
        ({"secret": "whsec_!!!"}, "#/secret"),
        ({"secret": "whsec_c2hvcnQ="}, "#/secret"),
        ({"secret": "whsec_" + "c2VjcmV0" * 11}, "#/secret"),
        ({"kind": "pagerduty"}, "#/secret"),
        ({"kind": "slack", "secret": "x"}, "#/secret"),
        ({"kind": "email", "target": "nobody"}, "#/target"),
        ({"kind": "email", "target": "eve@example.com, mallory@example.com"}, "#/target"),
        ({"kind": "pigeon"}, "#/kind"),
        ({"min_severity": "grave"}, "#/min_severity"),
        ({"cluster_id": 999}, "#/cluster_id"),
        ({"url": "https://8.8.8.8/"}, "#/url"),
    ],
)
def test_a_wrong_channel_is_refused_and_the_field_named(change: dict[str, Any], pointer: str) -> None:
    answer = client_with(make_admin_key()).post(CHANNELS, {**HOOK, **change})
    assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert not Channel.objects.exists()


def test_a_changed_target_is_checked_again() -> None:
    channel = make_channel(target="https://8.8.8.8/")
    api = client_with(make_admin_key())
    url = f"{CHANNELS}/{channel.pk}"
    assert api.patch(url, {"target": "https://127.0.0.1/"}).status_code == 400
    assert api.patch(url, {"target": "https://8.8.4.4/", "min_severity": ""}).status_code == 200
    channel.refresh_from_db()
    assert (channel.target, channel.min_severity, channel.secret) == ("https://8.8.4.4/", "", SECRET)
    assert api.patch(f"{CHANNELS}/999", {"enabled": False}).status_code == 404


def test_names_are_unique() -> None:
    make_channel("hook")
    assert client_with(make_admin_key()).post(CHANNELS, HOOK).status_code == 409


def test_pagerduty_has_its_own_address(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.ALERT_WEBHOOK_ALLOW = ["events.pagerduty.com"]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("8.8.8.8", 443))])
    channel = services.create_channel(name="pager", kind="pagerduty", secret="R0UT1NG", now=NOW)
    assert channel.target == "https://events.pagerduty.com/v2/enqueue"


def test_a_channel_that_was_used_is_disabled_and_not_deleted() -> None:
    used, unused = make_channel("used"), make_channel("unused")
    rule = make_rule(channels=[unused])
    Delivery.objects.create(channel=used, rule=rule, kind="firing", body={}, next_attempt_at=NOW, created_at=NOW)
    services.delete_channel(channel_id=unused.pk)
    with pytest.raises(ChannelHasHistory):
        services.delete_channel(channel_id=used.pk)


def test_a_rule_names_its_channels_and_shows_what_its_silence_costs() -> None:
    api = client_with(make_admin_key())
    first, second = make_channel("first"), make_channel("second")
    rule = {"name": "hot", "type": "gpu_temperature", "threshold": 90, "gpu_model": "H100", "channels": [second.pk]}
    made = api.post("/api/alerts", rule).json()
    assert (made["channels"], made["gpu_model"], made["silence_cost"]) == ([second.pk], "H100", [])
    url = f"/api/alerts/{made['id']}"
    assert api.patch(url, {"channels": [first.pk, second.pk]}).json()["channels"] == [first.pk, second.pk]
    assert api.patch(url, {"channels": [999]}).status_code == 400
    assert api.get(url).json()["channels"] == [first.pk, second.pk]


@pytest.mark.parametrize(
    ("kind", "scope"),
    [(kind, scope) for kind in RuleType.values for scope in ("cluster_id", "tenant_id", "gpu_model")],
)
def test_a_scope_that_the_type_does_not_have_is_refused(kind: str, scope: str) -> None:
    value = {"cluster_id": make_cluster().pk, "tenant_id": make_tenant().pk, "gpu_model": "H100"}[scope]
    answer = client_with(make_admin_key()).post(
        "/api/alerts", {"name": "x", "type": kind, "threshold": 1, scope: value}
    )
    if scope in SCOPES[kind]:
        assert (answer.status_code, answer.json()[scope]) == (201, value)
    else:
        assert answer.status_code == 400
        assert [error["pointer"] for error in answer.json()["errors"]] == [f"#/{scope}"]


def test_maintenance_is_planned_listed_and_ended() -> None:
    api = client_with(make_key(permissions=["read", "write"]))
    now = timezone.now()
    body = {"cluster_id": make_cluster().pk, "reason": "fans", "starts_at": now.isoformat()}
    made = api.post(WINDOWS, {**body, "ends_at": (now + timedelta(hours=2)).isoformat()})
    assert made.status_code == 201
    assert made.json()["created_by"].startswith("key:")
    assert api.get(f"{WINDOWS}?cluster_id={body['cluster_id']}").json() == [made.json()]
    assert api.get(f"{WINDOWS}?node_id=1").json() == []
    ended = api.delete(f"{WINDOWS}/{made.json()['id']}")
    assert ended.status_code == 200
    assert ended.json()["ends_at"] < made.json()["ends_at"]
    assert api.delete(f"{WINDOWS}/{made.json()['id']}").json() == ended.json()
    assert api.delete(f"{WINDOWS}/999").status_code == 404


def test_planned_work_may_be_far_off() -> None:
    body = {"cluster_id": make_cluster().pk, "reason": "the last day"}
    answer = client_with(make_key()).post(
        WINDOWS, {**body, "starts_at": "9999-12-31T00:00:00Z", "ends_at": "9999-12-31T20:00:00Z"}
    )
    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"ends_at": "2026-03-01T12:00:00Z"}, "#/ends_at"),
        ({"cluster_id": None}, "#/cluster_id"),
        ({"node_id": 999}, "#/node_id"),
        ({"cluster_id": 1.5}, "#/cluster_id"),
        ({"starts_at": "9999-12-31T00:00:00Z", "ends_at": "9999-12-30T20:00:00Z"}, "#/ends_at"),
        ({"ends_at": "9999-12-31T00:00:00Z"}, "#/ends_at"),
        ({"starts_at": "tomorrow"}, "#/starts_at"),
    ],
)
def test_wrong_maintenance_is_refused(change: dict[str, Any], pointer: str) -> None:
    now = timezone.now()
    body: dict[str, Any] = {"cluster_id": make_cluster().pk, "reason": "fans", "starts_at": now.isoformat()}
    body["ends_at"] = (now + timedelta(hours=2)).isoformat()
    answer = client_with(make_key()).post(WINDOWS, {**body, **change})
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
