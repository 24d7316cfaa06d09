"""Two evaluators at once, killed with SIGKILL at random: each incident fires once, resolves once, and is told."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter

import pytest
from django.utils import timezone

from alerts.models import AlertEvent, AlertRule, Delivery, EventStatus
from alerts.tests.factories import make_channel, make_rule
from alerts.tests.receivers import Receiver, receiver
from clusters.models import GPU
from clusters.tests.factories import make_gpu, make_node
from gpufleet.common.tests.processes import database_url, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

CLUSTERS = 3
EPISODES = 4
KILLS_AN_EPISODE = 2


class Evaluators:
    """Two processes; whoever is killed is replaced."""

    def __init__(self) -> None:
        self.running = [self._start(), self._start()]
        self.kills = 0

    def kill_one(self, chance: random.Random) -> None:
        place = chance.randrange(2)
        self.running[place].kill()
        self.running[place].wait()
        self.kills += 1
        self.running[place] = self._start()

    def stop(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        surroundings = {**os.environ, "DATABASE_URL": database_url(), "ALERT_WEBHOOK_ALLOW": "127.0.0.1"}
        command = [sys.executable, "-m", "alerts.tests.evaluator_process"]
        return subprocess.Popen(command, env=surroundings, stderr=subprocess.DEVNULL)


def firing() -> int:
    return AlertEvent.objects.filter(status=EventStatus.FIRING).count()


def turn(evaluators: Evaluators, chance: random.Random, state: str, expected: int) -> None:
    """Change the world, kill while it is noticed, and wait until it is."""
    GPU.objects.update(state=state)
    for _ in range(KILLS_AN_EPISODE):
        time.sleep(chance.random() * 0.05)
        evaluators.kill_one(chance)
    wait_until(lambda: firing() == expected, f"{expected} incidents fire")


def settled(there: Receiver) -> bool:
    """Whether everything that happened has been told."""
    untold = AlertEvent.objects.filter(end_told_at=None).exists()
    return not untold and not Delivery.objects.exclude(status="sent").exists() and bool(there.received)


def test_killed_evaluators_fire_once_resolve_once_and_tell_at_least_once() -> None:
    chance = random.Random(7)
    AlertRule.objects.all().delete()
    make_rule(name="broken", type="health_degraded", threshold=1.0)
    for _ in range(CLUSTERS):
        make_gpu(make_node(last_heartbeat_at=timezone.now()))
    with receiver() as there:
        make_channel(target=there.url)
        evaluators = Evaluators()
        try:
            for _ in range(EPISODES):
                turn(evaluators, chance, "offline", CLUSTERS)
                turn(evaluators, chance, "available", 0)
                # What ended within the last hour would be held for flapping, and hide the episodes from each other.
                AlertEvent.objects.filter(status="resolved").update(resolved_at="2026-01-01T00:00:00Z")
            wait_until(lambda: settled(there), "everything is told")
        finally:
            evaluators.stop()
        heard = [json.loads(request.body) for request in there.received]
    assert evaluators.kills == 2 * EPISODES * KILLS_AN_EPISODE
    assert set(Counter(AlertEvent.objects.values_list("subject", flat=True)).values()) == {EPISODES}
    known = set(AlertEvent.objects.values_list("pk", flat=True))
    for kind in ("firing", "resolved"):
        told = {line["id"] for body in heard if body["type"] == f"alert.{kind}" for line in body["data"]["events"]}
        assert told == known
    ids = Counter(request.headers["webhook-id"] for request in there.received)
    assert len(ids) == Delivery.objects.count()
