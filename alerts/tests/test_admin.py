"""Alerts in the console, as staff of different rights see them."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from alerts.models import AlertEvent, AlertRule, MaintenanceWindow
from clusters.tests.factories import make_cluster
from gpufleet.common.models import AuditEntry
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


def test_disabling_says_what_it_resolves_of_one_rule_and_of_several(event: AlertEvent) -> None:
    client = staff("view_alertrule", "change_alertrule")
    quiet = AlertRule.objects.exclude(pk=event.rule_id)[0].pk

    def asked(*ids: int) -> str:
        return client.post(RULES, {"action": "disable", "_selected_action": ids}).content.decode()

    assert "Disables 1 rule. None of its incidents fires; nobody is told of new ones." in asked(quiet)
    assert "Disables 1 rule. 1 firing incident is resolved; nobody is told of new ones." in asked(event.rule_id)
    assert "Disables 2 rules. 1 firing incident is resolved" in asked(event.rule_id, quiet)


def test_maintenance_that_is_over_has_no_button_to_end_it() -> None:
    client, now = staff("view_maintenancewindow", "add_maintenancewindow"), timezone.now()
    cluster = make_cluster()
    for hours, shown in ((1, True), (-1, False)):
        window = MaintenanceWindow.objects.create(
            cluster=cluster,
            starts_at=now - timedelta(hours=2),
            ends_at=now + timedelta(hours=hours),
            reason="fans",
            created_by="user:eve",
            created_at=now,
        )
        page = client.get(f"/admin/alerts/maintenancewindow/{window.pk}/change/").content.decode()
        assert ("End now" in page) is shown


def test_a_viewer_changes_nothing(event: AlertEvent) -> None:
    client = staff("view_alertrule", "view_alertevent")
    run(client, RULES, "disable", event.rule_id)
    run(client, EVENTS, "acknowledge", event.pk)
    event.refresh_from_db()
    assert (event.status, event.acknowledged_at) == ("firing", None)


def test_a_silence_has_an_author_a_reason_and_an_end_and_shows_what_it_costs(event: AlertEvent) -> None:
    client = staff("view_alertrule", "change_alertrule")
    AlertEvent.objects.update(cost_per_hour=4, currency="USD")
    asked = {"action": "silence", "_selected_action": [event.rule_id], "agreed": "yes", "reason": "fans"}
    for hours in ("169", "0", "nan", ""):
        assert "hours" in client.post(RULES, {**asked, "hours": hours}).context["form"].errors
    assert event.rule.silenced_until is None
    client.post(RULES, {**asked, "hours": "2"})
    rule = AlertRule.objects.get(pk=event.rule_id)
    assert (rule.silenced_by, rule.silence_reason) == ("user:eve", "fans")
    assert rule.silenced_until is not None
    assert timedelta(minutes=119) < rule.silenced_until - timezone.now() < timedelta(minutes=120)
    AlertRule.objects.update(silenced_at=timezone.now() - timedelta(hours=3))
    AlertEvent.objects.update(fired_at=timezone.now() - timedelta(hours=3))
    assert "12.00 USD" in client.get(f"{RULES}{rule.pk}/change/").content.decode()
    run(client, RULES, "end_silence", rule.pk)
    rule.refresh_from_db()
    assert rule.silenced_until < timezone.now()


def test_the_list_of_incidents_is_ranked_by_what_they_cost(event: AlertEvent) -> None:
    for subject, cost in [("a", 2), ("b", 10)]:
        fields = {"subject": subject, "message": f"costs {cost}", "cost_per_hour": cost, "fired_at": event.fired_at}
        AlertEvent.objects.create(rule=event.rule, status="firing", value=1, since=event.since, **fields)
    page = staff("view_alertevent").get(EVENTS).content.decode()
    assert page.index("costs 10") < page.index("costs 2")


@pytest.mark.parametrize("secret", ["target", "secret"])
def test_nobody_guesses_a_channels_secrets_letter_by_letter(secret: str) -> None:
    client = staff("view_channel")
    assert client.get("/admin/alerts/channel/?name__startswith=x").status_code == 200
    assert client.get(f"/admin/alerts/channel/?{secret}__startswith=x").status_code == 400


def test_an_acknowledgement_names_the_person(event: AlertEvent) -> None:
    client = staff("view_alertevent", "change_alertevent")
    assert run(client, EVENTS, "acknowledge", event.pk) == 200
    event.refresh_from_db()
    assert event.acknowledged_by == "user:eve"
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.object_id) == ("user:eve", "acknowledge", event.pk)
    assert entry.before == {"acknowledged_at": None, "acknowledged_by": ""}
    assert entry.after is not None
    assert entry.after["acknowledged_by"] == "user:eve"


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
