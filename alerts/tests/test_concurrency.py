"""What two evaluators, two senders or a person in between may do to each other: nothing."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest
from django.db import connection, connections, transaction

from alerts import services
from alerts.models import AlertEvent, AlertRule, Delivery
from alerts.notifiers import NotDelivered
from alerts.services.outbox import _settle
from alerts.services.writing import write_changes
from alerts.tests.factories import MINUTE, NOW, make_channel, make_rule, statuses
from alerts.tests.receivers import receiver
from clusters.tests.factories import make_gpu, make_node
from gpufleet.common.locks import lock_names_statement
from jobs.models import SchedulerCycle

LATE = {"name": "late", "type": "scheduler_late", "threshold": 60.0}


@pytest.fixture(autouse=True)
def only_our_rules(db: None) -> None:
    AlertRule.objects.all().delete()


@contextmanager
def meanwhile(statement: str) -> Iterator[None]:
    """Another session that has done this, and has not committed yet."""
    other = connections.create_connection("default")
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute(statement)
        yield
        other.commit()
    finally:
        other.close()


def in_background(act: Callable[[], object]) -> threading.Thread:
    def work() -> None:
        try:
            act()
        finally:
            connection.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def make_event(status: str, **fields: object) -> AlertEvent:
    rule = AlertRule.objects.first() or make_rule()
    values = {"subject": "tenant:1", "value": 1.0, "message": "m", "since": NOW, "fired_at": NOW, **fields}
    return AlertEvent.objects.create(rule=rule, status=status, **values)


def test_a_type_that_another_evaluates_is_left_to_it_and_the_others_are_not() -> None:
    SchedulerCycle.objects.create(finished_at=NOW - 10 * MINUTE, duration_ms=1)
    make_rule(**LATE)
    make_gpu(make_node(), state="offline")
    make_rule(name="ill", type="health_degraded", threshold=5.0)
    with meanwhile(lock_names_statement(["alerts.evaluate.scheduler_late"])):
        services.evaluate_rules(now=NOW)
        assert set(AlertEvent.objects.values_list("rule__name", flat=True)) == {"ill"}
    services.evaluate_rules(now=NOW)
    assert set(AlertEvent.objects.values_list("rule__name", flat=True)) == {"ill", "late"}


@pytest.mark.django_db(transaction=True)
def test_nothing_fires_under_a_rule_that_is_being_switched_off() -> None:
    SchedulerCycle.objects.create(finished_at=NOW - 10 * MINUTE, duration_ms=1)
    rule = make_rule(**LATE)
    with meanwhile(f"UPDATE alerts_alertrule SET enabled = false WHERE id = {rule.pk}"):
        evaluation = in_background(lambda: services.evaluate_rules(now=NOW))
        evaluation.join(1)
        assert evaluation.is_alive()
    evaluation.join(30)
    assert statuses() == []


def test_an_incident_that_another_has_opened_stays_his() -> None:
    first = make_event("firing")
    again = AlertEvent(
        rule=first.rule, subject=first.subject, status="firing", value=2.0, message="m", since=NOW, fired_at=NOW
    )
    write_changes(opened=[again], changed=[], dropped=[])
    assert AlertEvent.objects.get().value == 1.0


def test_an_incident_that_has_ended_meanwhile_stays_ended() -> None:
    event = make_event("firing")
    AlertEvent.objects.update(status="resolved", resolved_at=NOW)
    event.value = 9.0
    assert write_changes(opened=[], changed=[(event, "firing")], dropped=[]) == 0
    event.refresh_from_db()
    assert (event.status, event.value) == ("resolved", 1.0)


def test_an_incident_that_has_fired_meanwhile_is_not_dropped() -> None:
    event = make_event("pending", fired_at=None)
    AlertEvent.objects.update(status="firing", fired_at=NOW)
    assert write_changes(opened=[], changed=[], dropped=[event]) == 0
    assert statuses() == ["firing"]


def make_delivery(target: str = "http://127.0.0.1:1/", **fields: object) -> Delivery:
    rule, channel = make_rule(), make_channel(target=target)
    values = {"kind": "firing", "body": {}, "next_attempt_at": NOW, "created_at": NOW, **fields}
    return Delivery.objects.create(channel=channel, rule=rule, **values)


@pytest.mark.django_db(transaction=True)
def test_a_message_that_another_is_claiming_is_neither_waited_for_nor_sent_twice() -> None:
    with receiver() as there:
        message = make_delivery(there.url)
        claimed = f"UPDATE alerts_delivery SET leased_until = 'infinity' WHERE id = {message.pk}"
        with meanwhile(claimed):
            sender = in_background(lambda: services.deliver_due(now=NOW))
            sender.join(20)
            assert not sender.is_alive()
        assert there.received == []


def test_what_another_has_sent_meanwhile_stays_sent() -> None:
    message = make_delivery(attempts=1)
    Delivery.objects.update(status="sent", sent_at=NOW)
    late: Future[None] = Future()
    late.set_exception(NotDelivered("no answer"))
    assert not _settle(message, late, NOW)
    message.refresh_from_db()
    assert (message.status, message.last_error) == ("sent", "")


@pytest.mark.parametrize("status", ["sent", "pending"])
def test_only_dead_letters_are_tried_again(status: str) -> None:
    message = make_delivery(status=status, attempts=3)
    assert services.retry_deliveries(delivery_ids=[message.pk], now=NOW) == 0
    message.refresh_from_db()
    assert (message.status, message.attempts) == (status, 3)


@pytest.mark.django_db(transaction=True)
def test_the_first_of_two_who_acknowledge_at_once_is_noted() -> None:
    event = make_event("firing")

    def acknowledge() -> None:
        with transaction.atomic():
            services.acknowledge_event(event_id=event.pk, actor="second", tenant_id=None, now=NOW)

    first = f"UPDATE alerts_alertevent SET acknowledged_at = now(), acknowledged_by = 'first' WHERE id = {event.pk}"
    with meanwhile(first):
        second = in_background(acknowledge)
        second.join(1)
        assert second.is_alive()
    second.join(30)
    event.refresh_from_db()
    assert event.acknowledged_by == "first"
