"""The server is away; nothing is lost and nothing doubled."""

import json
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from clusters.models import GPU, MetricSample
from django.utils import timezone

from gpufleet_agent.client import Client
from gpufleet_agent.transport import Answer, Busy, Transport, Unreachable
from tests.fleet import Fleet

NOBODY = "http://127.0.0.1:9"
HERE = Path(__file__).parent


class Agent:
    """``virtual_agent.py``, and what it said."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet, self.folder = fleet, folder
        self.kept: list[str] = []

    def live(self, server: str, start: datetime, end: datetime, *, kill_after: int = 0) -> datetime:
        """From ``start`` to ``end`` of its own time, or until it has kept so many samples more. Returns where it is."""
        command = [sys.executable, "-m", "tests.virtual_agent", server, self.fleet.key, str(self.fleet.cluster.pk)]
        process = subprocess.Popen(
            [*command, str(self.folder), start.isoformat(), end.isoformat()],
            cwd=HERE.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        now, kept = start, 0
        for line in process.stdout:
            if not line.endswith("\n"):  # The kill cut it off.
                break
            word, instant, *_ = line.split()
            if word == "kept":
                self.kept.append(instant)
                kept += 1
                if kill_after and kept >= kill_after:
                    process.kill()
            now = max(now, datetime.fromisoformat(instant))
        process.wait()
        assert process.returncode == (-9 if kill_after else 0)
        return now + timedelta(milliseconds=1)


@pytest.mark.slow
def test_an_hour_without_the_server_and_two_kills_lose_nothing_and_double_nothing(fleet: Fleet, tmp_path: Path) -> None:
    agent = Agent(fleet, tmp_path)
    start = (timezone.now() - timedelta(hours=1, minutes=5)).replace(microsecond=0)
    now = agent.live(fleet.server, start, start + timedelta(minutes=1))
    away_until = now + timedelta(hours=1)
    now = agent.live(NOBODY, now, away_until, kill_after=100)
    now = agent.live(NOBODY, now, away_until, kill_after=150)
    now = agent.live(NOBODY, now, away_until)
    spooled = len(list((tmp_path / "spool").iterdir()))
    assert spooled < 10  # An hour is a few batches, not hundreds.
    agent.live(fleet.server, now, now + timedelta(minutes=2))
    assert len(agent.kept) > 350
    stored = Counter(
        MetricSample.objects.filter(gpu_id__in=GPU.objects.values("pk")).values_list("recorded_at", "gpu_id")
    )
    gpus = set(GPU.objects.values_list("pk", flat=True))
    assert len(gpus) == 4
    known = {(datetime.fromisoformat(at), gpu): 1 for at in agent.kept for gpu in gpus}
    assert set(stored.values()) == {1}
    lines = (line for path in (tmp_path / "spool").glob("*.jsonl") for line in path.read_text().splitlines())
    left = {(datetime.fromisoformat(one["recorded_at"]), one["gpu_id"]) for one in map(json.loads, lines)}
    assert len(left) <= len(gpus)  # The last instant may come after the last sending.
    assert stored.keys() | left >= known.keys()
    # A killed agent may have kept one more on disk than it lived to say.
    assert len(stored.keys() - known.keys()) <= 2 * len(gpus)


class Flaky(Transport):
    """Loses the answers to the first metric batches, or says 429 first."""

    def __init__(self, fleet: Fleet, *failures: Exception, lost: int = 0) -> None:
        super().__init__(fleet.server, fleet.key)
        self.failures, self.lost = list(failures), lost
        self.sent: list[tuple[str, Any]] = []

    def call(self, method: str, path: str, **rest: Any) -> Answer:
        if path.endswith("/metrics"):
            self.sent.append((rest["idempotency_key"], rest["body"]))
            if self.failures:
                raise self.failures.pop(0)
        answer = super().call(method, path, **rest)
        if path.endswith("/metrics") and self.lost:
            self.lost -= 1
            raise Unreachable("the answer was lost")
        return answer


def test_a_batch_whose_answer_was_lost_is_sent_again_under_its_key_and_stored_once(
    fleet: Fleet, tmp_path: Path
) -> None:
    flaky = Flaky(fleet, lost=2)
    now = timezone.now()
    telemetry = fleet.telemetry(tmp_path, client=Client(flaky))
    for second in range(0, 60, 10):
        telemetry.step(now + timedelta(seconds=second - 60), float(second))
    assert len(flaky.sent) >= 3
    assert flaky.sent[0] == flaky.sent[1] == flaky.sent[2]
    rows = MetricSample.objects.filter(gpu_id__in=GPU.objects.values("pk")).values_list("gpu_id", "recorded_at")
    assert rows.count() == len(set(rows)) > 4


def test_it_waits_as_long_as_it_is_told_to(fleet: Fleet, tmp_path: Path) -> None:
    flaky = Flaky(fleet, Busy(429, 30.0))
    now = timezone.now()
    telemetry = fleet.telemetry(tmp_path, client=Client(flaky))
    for second in range(0, 60, 5):
        telemetry.step(now, float(second))
        if second < 35:
            assert len(flaky.sent) <= 1, second
    assert len(flaky.sent) > 1


def test_a_gpu_that_was_retired_costs_its_own_samples_alone(fleet: Fleet, tmp_path: Path) -> None:
    now = timezone.now()
    telemetry = fleet.telemetry(tmp_path)
    telemetry.step(now - timedelta(minutes=3), 0.0)
    lost, kept = GPU.objects.order_by("gpu_index")
    GPU.objects.filter(pk=lost.pk).update(retired_at=now - timedelta(minutes=2))
    telemetry.step(now, 20.0)
    telemetry.step(now, 21.0)
    assert MetricSample.objects.filter(gpu_id=kept.pk, recorded_at__gt=now - timedelta(minutes=1)).count() == 1
    assert telemetry.spool.lost == 1
    assert telemetry.spool.size() == 0


def test_a_key_that_is_revoked_costs_nothing(fleet: Fleet, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    fleet.telemetry(tmp_path).step(now, 0.0)
    key, fleet.key = fleet.key, "gfk_wrong"
    revoked = fleet.telemetry(tmp_path)
    for second in range(0, 100, 10):
        revoked.step(now + timedelta(seconds=second - 100), float(second))
    before = revoked.spool.size()
    assert before > 0
    fleet.key = key
    fleet.telemetry(tmp_path).step(now, 0.0)
    assert not list((tmp_path / "spool").glob("*-*.jsonl"))
