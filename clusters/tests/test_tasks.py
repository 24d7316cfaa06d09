from datetime import timedelta

import pytest
import time_machine

from clusters import tasks
from clusters.models import Node
from clusters.partitions import DAYS_AHEAD, existing_days
from clusters.rollups import rolled_until
from clusters.tests.factories import NOW, make_gpu, make_node, store_sample
from gpufleet.schedule import BEAT_SCHEDULE

pytestmark = pytest.mark.django_db


def test_the_beat_table_names_these_tasks() -> None:
    scheduled = {entry["task"] for entry in BEAT_SCHEDULE.values()}
    assert {tasks.sweep_silent_nodes.name, tasks.maintain_partitions.name, tasks.roll_up_metrics.name} <= scheduled


def test_the_sweep_reads_the_clock() -> None:
    make_node()
    with time_machine.travel(NOW + timedelta(minutes=5)):
        tasks.sweep_silent_nodes()
    assert Node.objects.get().silent


def test_the_upkeep_reads_the_clock() -> None:
    with time_machine.travel(NOW):
        tasks.maintain_partitions()
    assert NOW.date() + timedelta(days=DAYS_AHEAD) in existing_days()


def test_the_rollup_reads_the_clock() -> None:
    store_sample(make_gpu(), NOW)
    with time_machine.travel(NOW + timedelta(hours=2)):
        tasks.roll_up_metrics()
    assert rolled_until() == NOW + timedelta(hours=1)
