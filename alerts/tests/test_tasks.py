import pytest
from django.utils import timezone

from alerts import tasks
from alerts.models import AlertEvent, AlertRule
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
