"""Alerts in the console, as staff of different rights see them."""

import pytest
from django.test import Client
from django.utils import timezone

from alerts.models import AlertEvent, AlertRule
from gpufleet.common.tests.factories import staff

pytestmark = pytest.mark.django_db

RULES = "/admin/alerts/alertrule/"
EVENTS = "/admin/alerts/alertevent/"


@pytest.fixture
def event() -> AlertEvent:
    now = timezone.now()
    rule = AlertRule.objects.get(type="quota_breach")
    return AlertEvent.objects.create(
        rule=rule, subject="tenant:1", status="firing", value=1, message="m", since=now, fired_at=now
    )


def run(client: Client, url: str, action: str, *ids: int) -> int:
    return client.post(
        url, {"action": action, "_selected_action": ids, "agreed": "yes", "reason": "why not"}, follow=True
    ).status_code


def test_an_operator_disables_rules_and_their_incidents_resolve(event: AlertEvent) -> None:
    client = staff("view_alertrule", "change_alertrule")
    assert run(client, RULES, "disable", event.rule_id) == 200
    event.refresh_from_db()
    assert event.status == "resolved"
    assert not AlertRule.objects.get(pk=event.rule_id).enabled
    run(client, RULES, "enable", event.rule_id)
    assert AlertRule.objects.get(pk=event.rule_id).enabled


def test_a_viewer_changes_nothing(event: AlertEvent) -> None:
    client = staff("view_alertrule", "view_alertevent")
    run(client, RULES, "disable", event.rule_id)
    run(client, EVENTS, "acknowledge", event.pk)
    event.refresh_from_db()
    assert (event.status, event.acknowledged_at) == ("firing", None)


def test_an_acknowledgement_names_the_person(event: AlertEvent) -> None:
    client = staff("view_alertevent", "change_alertevent")
    assert run(client, EVENTS, "acknowledge", event.pk) == 200
    event.refresh_from_db()
    assert event.acknowledged_by == "user:eve"


def test_a_rule_is_added_and_edited_through_the_services() -> None:
    client = staff("view_alertrule", "add_alertrule", "change_alertrule")
    form = {
        "name": "mine",
        "type": "quota_breach",
        "threshold": 90,
        "for_seconds": 0,
        "severity": "info",
        "enabled": "on",
    }
    assert client.post(f"{RULES}add/", form).status_code == 302
    rule = AlertRule.objects.get(name="mine")
    edited = {**form, "threshold": 80, "recovery_threshold": 70, "type": "utilization_low"}
    assert client.post(f"{RULES}{rule.pk}/change/", edited).status_code == 302
    rule.refresh_from_db()
    assert (rule.threshold, rule.recovery_threshold, rule.type) == (80.0, 70.0, "quota_breach")


@pytest.mark.parametrize(
    ("field", "value"), [("recovery_threshold", 95), ("name", "Tenant at its quota"), ("type", "x")]
)
def test_a_wrong_rule_is_refused_in_the_form(field: str, value: object) -> None:
    client = staff("view_alertrule", "add_alertrule", "change_alertrule")
    form = {"name": "mine", "type": "quota_breach", "threshold": 90, "for_seconds": 0, "severity": "info", field: value}
    answer = client.post(f"{RULES}add/", form)
    assert answer.status_code == 200
    assert field in answer.context["adminform"].form.errors
    assert not AlertRule.objects.filter(name="mine").exists()
