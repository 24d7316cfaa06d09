"""NVML for real: nvidia-ml-py loads a library that is built here, of eight GPUs that obey the environment."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from clusters.models import GPU, GPUFault, MetricSample
from django.utils import timezone

from gpufleet_agent.devices import Device, Reading
from tests.fleet import Fleet

LIBRARY = Path(__file__).parent / "fake_nvml.c"
GCC = shutil.which("gcc")
# The bindings load the driver's library once a process, so each source is a process of its own. It is asked by lines:
# the environment that the library is to see, and the question.
SOURCE = """
import json, os, sys
from gpufleet_agent.nvml import NvmlSource
source = None
for line in sys.stdin:
    environment, question = json.loads(line)
    os.environ.update(environment)
    source = source or NvmlSource()
    print(json.dumps(getattr(source, question)(), default=vars), flush=True)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if GCC is None:
        pytest.skip("there is no gcc here to build the library")
    folder = tmp_path_factory.mktemp("nvml")
    subprocess.run([GCC, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", LIBRARY], check=True)
    return folder


class FakeNvml:
    """A source in another process. ``gone``, ``lost`` and ``broken`` are GPUs by their number."""

    def __init__(self, library: Path, events: Path) -> None:
        self.gone = self.lost = self.broken = ""
        self.events = events
        self._process = subprocess.Popen(
            [sys.executable, "-c", SOURCE],
            env={**os.environ, "LD_LIBRARY_PATH": str(library)},
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, *events: tuple[int, int]) -> None:
        """GPUs by their number, and their XIDs."""
        with self.events.open("a") as file:
            file.writelines(f"{number} {xid}\n" for number, xid in events)

    def _ask(self, question: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        environment = {"GONE": self.gone, "LOST": self.lost, "BROKEN": self.broken, "EVENTS": str(self.events)}
        print(json.dumps([environment, question]), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def devices(self) -> list[Device]:
        return [Device(**one) for one in self._ask("devices")]

    def readings(self) -> dict[str, Reading]:
        return {uuid: Reading(**figures) for uuid, figures in self._ask("readings").items()}

    def xids(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = self._ask("xids")
        return found

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def nvml(library: Path, tmp_path: Path) -> Iterator[FakeNvml]:
    nvml = FakeNvml(library, tmp_path / "events")
    yield nvml
    nvml.close()


def test_eight_gpus_are_read_in_our_units(nvml: FakeNvml) -> None:
    devices, readings = nvml.devices(), nvml.readings()
    assert [device.index for device in devices] == list(range(8))
    assert devices[3] == Device(3, "GPU-fake-3", "NVIDIA H100 80GB HBM3", 81_920, "00000000:13:00.0")
    assert readings["GPU-fake-3"] == Reading(13.0, 1_024 + 3, 81_920, 43, 303.5, None)
    assert len(readings) == 8


def test_a_gpu_that_fails_a_query_is_read_without_that_figure(nvml: FakeNvml) -> None:
    nvml.broken = "2"
    reading = nvml.readings()["GPU-fake-2"]
    assert reading.temperature_c is None
    assert reading.power_draw_w == 302.5


@pytest.mark.parametrize("how", ["gone", "lost"])
def test_a_gpu_that_disappears_is_out_of_service_and_the_others_stay_who_they_are(
    nvml: FakeNvml, fleet: Fleet, tmp_path: Path, how: str
) -> None:
    telemetry = fleet.telemetry(tmp_path, source=nvml)
    telemetry.step(timezone.now(), 0.0)
    before = dict(GPU.objects.values_list("uuid", "pk"))
    assert len(before) == 8
    setattr(nvml, how, "2")
    telemetry.step(timezone.now(), 20.0)
    after = {gpu.uuid: gpu for gpu in GPU.objects.all()}
    assert {uuid: gpu.pk for uuid, gpu in after.items()} == before
    assert (after["GPU-fake-2"].health, after["GPU-fake-2"].health_cause) == ("unhealthy", "vanished")
    assert {gpu.health for uuid, gpu in after.items() if uuid != "GPU-fake-2"} == {"healthy"}
    setattr(nvml, how, "")
    telemetry.step(timezone.now(), 40.0)
    assert set(GPU.objects.values_list("health", flat=True)) == {"healthy"}


def test_an_error_is_told_once_with_its_gpu_and_a_storm_of_it_too(nvml: FakeNvml) -> None:
    nvml.readings()
    nvml.tell((2, 13), *[(5, 31)] * 3_000, (5, 79))
    told = [nvml.xids() for _ in range(5)]
    assert told[0] == {"GPU-fake-2": [13], "GPU-fake-5": [31]}
    assert told[3] == {"GPU-fake-5": [31, 79]}
    assert told[4] == {}


def test_the_last_word_of_a_gpu_that_falls_off_the_bus_reaches_the_fleet(
    nvml: FakeNvml, fleet: Fleet, tmp_path: Path
) -> None:
    telemetry = fleet.telemetry(tmp_path, source=nvml)
    now = timezone.now() - timedelta(minutes=1)
    telemetry.step(now, 0.0)
    nvml.lost = "6"
    nvml.tell((6, 31), (6, 79), (6, 31))
    telemetry.sample(now + timedelta(seconds=20), 20.0)
    telemetry.speak(now + timedelta(seconds=20), 20.0)
    gpu = GPU.objects.get(uuid="GPU-fake-6")
    assert (gpu.health, gpu.health_cause) == ("unhealthy", "xid")
    assert "79" in gpu.health_reason
    told = MetricSample.objects.filter(gpu_id=gpu.pk, xid__isnull=False).order_by("recorded_at")
    assert list(told.values_list("xid", "temperature_c")) == [(31, None), (79, None)]
    telemetry.step(now + timedelta(seconds=40), 40.0)
    assert told.count() == 2
    assert not GPUFault.objects.exclude(gpu=gpu).exists()


def test_without_a_driver_it_says_so_and_ends(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("gfk_x")
    command = [sys.executable, "-m", "gpufleet_agent.main", "run", "--server", "http://127.0.0.1:9", "--cluster", "1"]
    ended = subprocess.run(
        [*command, "--key-file", str(tmp_path / "key"), "--state", str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "LD_LIBRARY_PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if "NVML does not start" not in ended.stderr:
        pytest.skip("this machine has a driver")
    assert ended.returncode == 2
