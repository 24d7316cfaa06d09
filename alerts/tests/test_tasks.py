import pytest
from django.utils import timezone

from alerts import tasks
from alerts.models import AlertEvent, AlertRule, Delivery
from alerts.tests.factories import make_channel
from clusters.tests.factories import make_cluster, make_gpu, make_node

pytestmark = pytest.mark.django_db


def test_the_beat_task_evaluates_the_rules_now() -> None:
    AlertRule.objects.exclude(type="health_degraded").update(enabled=False)
    AlertRule.objects.update(for_seconds=0)
    gpu = make_gpu(node=make_node(cluster=make_cluster()))
    type(gpu).objects.update(state="offline")
    before = timezone.now()
    tasks.evaluate()
    assert before <= AlertEvent.objects.get().since <= timezone.now()


def test_the_beat_task_sends_what_is_due() -> None:
    rule = AlertRule.objects.all()[0]
    channel = make_channel(target="http://127.0.0.1:1/")
    Delivery.objects.create(
        channel=channel, rule=rule, kind="firing", body={}, next_attempt_at=timezone.now(), created_at=timezone.now()
    )
    tasks.deliver()
    assert Delivery.objects.get().attempts == 1
