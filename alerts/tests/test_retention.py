"""What is long over goes, and nothing else."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from alerts import services
from alerts.models import AlertEvent, AlertRule, Delivery
from alerts.services import retention
from alerts.tasks import prune_history
from alerts.tests.factories import NOW, make_channel, make_rule
from gpufleet.common.models import AuditEntry

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
OLD = NOW - 31 * DAY


@pytest.fixture(autouse=True)
def a_month(settings: Any) -> None:
    settings.ALERT_HISTORY_DAYS = 30


def make_event(*, ended: Any = OLD, **fields: Any) -> AlertEvent:
    rule = fields.pop("rule", None) or AlertRule.objects.filter(name="rule").first() or make_rule()
    status = fields.pop("status", "resolved" if ended else "firing")
    subject = f"tenant:{AlertEvent.objects.count()}"
    values = {"value": 1.0, "message": "m", "since": OLD, "fired_at": OLD, "resolved_at": ended, **fields}
    return AlertEvent.objects.create(rule=rule, subject=subject, status=status, **values)


def make_message(*events: AlertEvent, status: str = "sent", at: Any = OLD) -> Delivery:
    channel = make_channel(f"channel {Delivery.objects.count()}")
    message = Delivery.objects.create(
        channel=channel, rule=events[0].rule, kind="firing", body={}, status=status, next_attempt_at=at, created_at=at
    )
    message.events.set(events)
    return message


def prune() -> tuple[int, int]:
    return services.prune_history(now=NOW)


def left() -> tuple[set[int], set[int]]:
    """The ids of the messages and of the incidents that are still there."""
    messages, events = Delivery.objects.values_list("pk", flat=True), AlertEvent.objects.values_list("pk", flat=True)
    return set(messages), set(events)


@pytest.mark.parametrize("status", ["sent", "dead"])
def test_what_is_long_over_goes_with_its_messages(status: str) -> None:
    make_message(make_event(), status=status)
    make_event()
    assert prune() == (1, 2)
    assert left() == (set(), set())


def test_the_setting_says_how_long(settings: Any) -> None:
    make_event(ended=NOW - 30 * DAY)
    assert prune() == (0, 0)
    services.prune_history(now=NOW + timedelta(seconds=1))
    assert left() == (set(), set())
    settings.ALERT_HISTORY_DAYS = 0
    young, _ = make_event(ended=NOW - 6 * DAY), make_event(ended=NOW - 8 * DAY)
    assert prune() == (0, 1)
    assert left() == (set(), {young.pk})


@pytest.mark.parametrize("status", ["firing", "pending"])
def test_what_is_open_stays_with_every_message_about_it(status: str) -> None:
    event, over = make_event(ended=None, status=status), make_event()
    message = make_message(event, over)
    assert prune() == (0, 0)
    assert left() == ({message.pk}, {event.pk, over.pk})


def test_a_message_that_is_still_to_be_sent_stays_with_its_incident() -> None:
    event = make_event()
    message = make_message(event, status="pending")
    assert prune() == (0, 0)
    assert left() == ({message.pk}, {event.pk})


def test_a_message_of_today_keeps_its_incident() -> None:
    event = make_event()
    message = make_message(event, at=NOW)
    assert prune() == (0, 0)
    assert left() == ({message.pk}, {event.pk})


def test_what_another_hangs_under_stays_until_that_goes() -> None:
    parent = make_event()
    child = make_event(ended=NOW, parent=parent)
    assert prune() == (0, 0)
    AlertEvent.objects.filter(pk=child.pk).update(resolved_at=OLD)
    assert prune() == (0, 2)


def test_what_a_silence_under_way_has_cost_stays() -> None:
    """A silence that is prolonged again and again goes on counting from its beginning."""
    rule = make_rule(name="silent rule")
    before, since = make_event(rule=rule, ended=OLD - 2 * DAY), make_event(rule=rule, ended=OLD)
    AlertRule.objects.filter(pk=rule.pk).update(silenced_at=OLD - DAY, silenced_until=NOW + DAY)
    assert prune() == (0, 1)
    assert left() == (set(), {since.pk})
    assert before.pk != since.pk
    AlertRule.objects.filter(pk=rule.pk).update(silenced_until=NOW)
    assert prune() == (0, 1)


def test_what_the_audit_log_speaks_of_stays() -> None:
    event, other = make_event(), make_event()
    message, another = make_message(event), make_message(other)
    for model, row in [("alerts.alertevent", event), ("alerts.delivery", another)]:
        AuditEntry.objects.create(at=OLD, actor="eve", action="acknowledge", model=model, object_id=row.pk, name="x")
    assert prune() == (1, 0)
    assert left() == ({another.pk}, {event.pk, other.pk})
    assert message.pk not in left()[0]


def test_a_batch_is_bounded_and_so_is_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(7):
        make_event()
    monkeypatch.setattr(retention, "BATCH", 2)
    monkeypatch.setattr(retention, "MOST_BATCHES", 2)
    assert [prune(), prune(), prune()] == [(0, 4), (0, 3), (0, 0)]


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    for _ in range(20):
        make_message(make_event())
    kept = make_event(ended=None)
    counts: list[tuple[int, int]] = []
    barrier = threading.Barrier(2)

    def work() -> None:
        barrier.wait()
        try:
            counts.append(prune())
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    counts.append(prune())  # What both had in hand while the other looked.
    assert [sum(column) for column in zip(*counts, strict=True)] == [20, 20]
    assert left() == (set(), {kept.pk})


def test_the_beat_task_prunes_now() -> None:
    make_event(ended=NOW - 1000 * DAY)
    prune_history()
    assert left() == (set(), set())
