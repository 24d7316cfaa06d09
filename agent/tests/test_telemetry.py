"""When an agent speaks, and what it says of GPUs that come and go."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from clusters.models import GPU
from django.utils import timezone

from gpufleet_agent.devices import Device, Reading
from gpufleet_agent.executor import Executor
from gpufleet_agent.runs import Workload
from gpufleet_agent.simulated import SimulatedSource
from gpufleet_agent.telemetry import LONGEST_WAIT_S
from gpufleet_agent.transport import Busy, Unreachable
from tests.fleet import Fleet


class Rack(SimulatedSource):
    """Of which GPUs can be taken."""

    taken = False

    def devices(self) -> list[Device]:
        return [] if self.taken else super().devices()

    def readings(self) -> dict[str, Reading]:
        return {} if self.taken else super().readings()


def health() -> set[tuple[str, str]]:
    return set(GPU.objects.values_list("health", "health_cause"))


def test_a_node_says_that_its_last_gpu_has_vanished_and_that_they_are_back(fleet: Fleet, tmp_path: Path) -> None:
    rack = Rack(2, "node-1")
    telemetry = fleet.telemetry(tmp_path, source=rack)
    telemetry.step(timezone.now(), 0.0)
    rack.taken = True
    telemetry.step(timezone.now(), 20.0)
    assert health() == {("unhealthy", "vanished")}
    rack.taken = False
    telemetry.step(timezone.now(), 40.0)
    assert health() == {("healthy", "")}
    assert GPU.objects.count() == 2


def test_a_node_that_forgot_its_gpus_and_has_none_says_so(fleet: Fleet, tmp_path: Path) -> None:
    fleet.telemetry(tmp_path / "before").step(timezone.now(), 0.0)
    rack = Rack(2, "node-1")
    rack.taken = True
    fleet.telemetry(tmp_path / "after", source=rack).step(timezone.now(), 0.0)
    assert health() == {("unhealthy", "vanished")}


def test_a_part_that_breaks_ends_the_agent_for_systemd_to_start_again(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(fleet.key)
    code = (
        "import sys; from gpufleet_agent import main, simulated\n"
        "simulated.SimulatedSource.readings = lambda self: 1 / 0\n"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    where = ["--server", fleet.server, "--cluster", str(fleet.cluster.pk), "--key-file", str(tmp_path / "key")]
    ended = subprocess.run(
        [sys.executable, "-c", code, "run", *where, "--state", str(tmp_path / "state"), "--simulate", "1"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr


def test_samples_and_heartbeats_are_never_in_step(fleet: Fleet, tmp_path: Path) -> None:
    telemetry = fleet.telemetry(tmp_path, client=fleet.client(server="http://127.0.0.1:9"))
    waits = [telemetry.sample(timezone.now(), 100.0 * turn) for turn in range(50)]
    assert 9.0 <= min(waits) < 9.5 < 10.5 < max(waits) <= 11.0


@pytest.mark.parametrize("part", ["telemetry", "executor"])
def test_a_server_that_is_away_is_asked_less_and_less_and_not_by_all_at_once(
    fleet: Fleet, tmp_path: Path, part: str
) -> None:
    telemetry = fleet.telemetry(tmp_path)
    executor = Executor(fleet.client(), Workload("process"), tmp_path / "runs", grace_s=1, rng=random.Random(3))
    wait = telemetry._backoff if part == "telemetry" else executor._pause
    waits = [wait(Unreachable("away")) for _ in range(12)]
    assert all(before < after for before, after in zip(waits[:3], waits[2:5], strict=True))
    assert LONGEST_WAIT_S / 2 <= min(waits[-5:]) < max(waits[-5:]) <= LONGEST_WAIT_S
    assert len({round(one, 6) for one in waits}) == len(waits)
    asked = wait(Busy(429, 7.0))
    assert 7.0 <= asked <= 8.0
